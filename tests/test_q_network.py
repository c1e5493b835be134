"""Networks of Q-learning: dueling heads, noise, images, and layers written out in NumPy."""

import copy
import math

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.dqn.policies import CnnPolicy
from torch import nn

from a2c_ppo_acktr import fast
from a2c_ppo_acktr.algo.iqn import ImplicitNetwork
from a2c_ppo_acktr.arrays import flatten_parameters
from a2c_ppo_acktr.fast.q_learning import NumpyQNetwork, _Network
from a2c_ppo_acktr.model.layers import MLP
from a2c_ppo_acktr.model.q_network import NoisyLinear, QNetwork

VECTOR = spaces.Box(-1, 1, (3,), np.float32)
SCREEN = spaces.Box(0, 255, (4, 84, 84), np.uint8)
NESTED = spaces.Dict({"picture": spaces.Box(0, 255, (2, 7, 7), np.uint8), "cue": spaces.Discrete(3), "pair": VECTOR})


def make(space=VECTOR, actions=3, outputs=2, kind=QNetwork, hidden=(8, 6), dueling=False, noisy=False, sigma=0.5):
    torch.manual_seed(0)
    return kind(space, actions, outputs, hidden_size=list(hidden), dueling=dueling, noisy=noisy, sigma=sigma)


def observations(space, num=5):
    space.seed(0)
    samples = [space.sample() for _ in range(num)]
    if isinstance(space, spaces.Dict):
        return {key: torch.as_tensor(np.stack([sample[key] for sample in samples])) for key in space}
    return torch.as_tensor(np.stack(samples))


def by_modules(network):
    """A twin that calls its layers one by one."""
    twin = copy.deepcopy(network)
    for mlp in (module for module in twin.modules() if isinstance(module, MLP)):
        mlp.kernel = None
    return twin


def as_learned(network):
    """The network as it is learned from on the CPU: flattened, and written out where it fits."""
    flat = flatten_parameters(network)
    fast.attach_q_networks(network)
    return NumpyQNetwork(network) if NumpyQNetwork.fits(network) else _Network(network, flat)


def gradients(network):
    return torch.cat([parameter.grad.flatten() for parameter in network.parameters()])


def assert_same_gradients(network, twin):
    for name, parameter in twin.named_parameters():
        torch.testing.assert_close(network.get_parameter(name).grad, parameter.grad, atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("space", [VECTOR, SCREEN])
def test_flat_parameters_are_the_networks_own_and_not_counted_twice(space):
    network = make(space)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    flat = flatten_parameters(network)
    assert network.state_dict().keys() == before.keys()
    assert sum(parameter.numel() for parameter in network.parameters()) == flat.numel()
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    flat.data.zero_()
    assert all((value == 0).all() for value in network.state_dict().values())


def test_frozen_parameters_are_found_in_the_flat_vector():
    network = make()
    flat = flatten_parameters(network)
    network.freeze({"torso.0.weight"})
    flat.data[network.frozen] = 7.0
    assert (network.torso[0].weight == 7).all()
    assert (flat.data == 7).sum() == network.torso[0].weight.numel()


def assert_evaluates_as_autograd(network, obs, written_out):
    twin, learned = by_modules(network), as_learned(network)
    assert isinstance(learned, NumpyQNetwork) == written_out
    expected = twin(obs)
    slope = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    expected.backward(slope)
    for _ in range(2):  # the second time must not add to the first
        outputs, backward = learned.forward(obs)
        backward(slope.numpy())
        np.testing.assert_allclose(outputs, expected.detach(), atol=1e-6)
        assert_same_gradients(network, twin)
    network.zero_grad(set_to_none=False)
    outputs = network(obs)  # by autograd, through what `fast` attached
    outputs.backward(slope)
    torch.testing.assert_close(outputs, expected, atol=1e-6, rtol=0)
    assert_same_gradients(network, twin)


@pytest.mark.parametrize("dueling", [False, True])
@pytest.mark.parametrize("noisy", [False, True])
@pytest.mark.parametrize("hidden", [(6,), (8, 6), (8, 7, 6)])
@pytest.mark.parametrize("outputs", [1, 4])
def test_outputs_and_gradients_are_those_of_torch_modules(dueling, noisy, hidden, outputs):
    network = make(outputs=outputs, hidden=hidden, dueling=dueling, noisy=noisy)
    network.draw_noise()
    assert_evaluates_as_autograd(network, observations(VECTOR), written_out=not noisy)


@pytest.mark.parametrize("space", [NESTED, spaces.Box(0, 255, (2, 10, 10), np.uint8), spaces.Discrete(4)])
def test_other_observations_learn_through_the_same_calls(space):
    network = make(space, hidden=(8,), dueling=True)
    assert_evaluates_as_autograd(network, observations(space), written_out=isinstance(space, spaces.Discrete))


def test_every_part_of_a_nested_observation_counts():
    network, obs = make(NESTED), observations(NESTED)
    learned = as_learned(network)
    before, _ = learned.forward(obs)
    assert before.shape == (5, 3, 2)
    for key, leaf in obs.items():
        changed, _ = learned.forward(obs | {key: leaf.roll(1, 0)})
        assert np.abs(changed - before).max() > 1e-4, key


def with_heads(advantages, values):
    """A dueling network whose heads say the same of every observation."""
    network = make(actions=len(advantages), outputs=len(values), dueling=True)
    for head, says in ((network.advantage, advantages), (network.value, values)):
        head[-2].weight.data.zero_()
        head[-2].bias.data.copy_(torch.as_tensor(says).flatten())
    return network


@pytest.mark.parametrize("flat", [False, True])
def test_dueling_is_value_plus_advantage_minus_the_mean_over_actions(flat):
    network = with_heads([[1.0, 2.0], [3.0, 4.0], [8.0, 9.0]], [10.0, 20.0])
    expected = torch.tensor([[7.0, 17.0], [9.0, 19.0], [14.0, 24.0]]).expand(5, 3, 2)
    if flat:
        outputs, _ = as_learned(network).forward(observations(VECTOR))
        np.testing.assert_allclose(outputs, expected, rtol=1e-6)
    torch.testing.assert_close(network(observations(VECTOR)), expected)


@pytest.mark.parametrize("written_out", [False, True])
def test_the_gradient_of_one_action_reaches_all_advantages_and_the_value(written_out):
    network = with_heads([[0.0], [0.0], [0.0]], [0.0])
    slope = np.zeros((5, 3, 1), np.float32)
    slope[1, 0, 0] = 3.0
    if written_out:
        _, backward = as_learned(network).forward(observations(VECTOR))
        backward(slope)
    else:
        network(observations(VECTOR)).backward(torch.from_numpy(slope))
    torch.testing.assert_close(network.advantage[-2].bias.grad, torch.tensor([2.0, -1.0, -1.0]))
    torch.testing.assert_close(network.value[-2].bias.grad, torch.tensor([3.0]))


@pytest.mark.parametrize("written_out", [False, True])
@pytest.mark.parametrize("x_learns", [False, True])
@pytest.mark.parametrize("lead", [(5,), (2, 3)])
@pytest.mark.parametrize("sizes", [(4, 3), (4, 7, 6, 3)])
def test_relu_layers_written_out_are_those_of_torch(sizes, lead, x_learns, written_out):
    torch.manual_seed(0)
    mlp = MLP(*sizes, activation=nn.ReLU, last=nn.Identity)
    if written_out:
        fast.attach(mlp)
    assert (mlp.kernel is not None) == written_out
    modules = [copy.deepcopy(module) for module in mlp]
    twin = nn.Sequential(*(nn.ReLU() if isinstance(module, nn.ReLU) else module for module in modules))
    assert sum(isinstance(module, nn.ReLU) for module in twin) == len(sizes) - 2
    x = torch.randn(*lead, 4, requires_grad=x_learns)
    other = x.detach().clone().requires_grad_(x_learns)
    mlp(x).pow(2).sum().backward()
    twin(other).pow(2).sum().backward()
    torch.testing.assert_close(mlp(x), twin(other))
    torch.testing.assert_close(gradients(mlp), gradients(twin))
    assert x_learns == (x.grad is not None)
    if x_learns:
        torch.testing.assert_close(x.grad, other.grad)


def test_layers_of_one_size_are_none_and_change_nothing():
    x, mlp = torch.randn(2, 4), MLP(4, activation=nn.ReLU)
    assert torch.equal(mlp(x), x)
    fast.attach(nn.Sequential(nn.Linear(1, 1), mlp))
    assert torch.equal(mlp(x), x)


def explicit(layer, x):
    e_in, e_out = layer.noise
    weight = layer.weight + layer.sigma_weight * torch.outer(e_out, e_in)
    return x @ weight.T + layer.bias + layer.sigma_bias * e_out


def test_a_noisy_layer_is_the_linear_layer_of_its_noisy_weights():
    layer, x = NoisyLinear(6, 4), torch.randn(3, 6)
    layer.sigma_weight.data.uniform_()
    layer.sigma_bias.data.uniform_()
    layer.draw()
    torch.testing.assert_close(layer(x), explicit(layer, x))
    layer(x).pow(2).sum().backward()
    ours = gradients(layer)
    layer.zero_grad()
    explicit(layer, x).pow(2).sum().backward()
    torch.testing.assert_close(ours, gradients(layer), atol=1e-5, rtol=1e-4)


def test_a_muted_layer_uses_the_means_and_draws_differ():
    layer, x = NoisyLinear(6, 4), torch.randn(3, 6)
    means = x @ layer.weight.T + layer.bias
    torch.testing.assert_close(layer(x), means)
    layer.draw()
    first = layer(x)
    assert not torch.allclose(first, means)
    torch.testing.assert_close(layer(x), first)
    layer.draw()
    assert not torch.allclose(layer(x), first)
    layer.mute()
    torch.testing.assert_close(layer(x), means)


def test_noise_is_the_signed_root_of_normal_numbers():
    torch.manual_seed(0)
    layer = NoisyLinear(200_000, 1)
    layer.draw()
    noise = layer.noise[0]
    assert noise.shape == (200_000,)
    assert noise.mean().abs() < 0.01
    assert noise.pow(2).mean().item() == pytest.approx(math.sqrt(2 / math.pi), abs=0.01)  # E |x|
    assert noise.pow(4).mean().item() == pytest.approx(1, abs=0.03)  # E x^2


@pytest.mark.parametrize("sigma", [0.1, 0.5])
def test_noisy_layers_begin_as_fortunato_et_al_have_them(sigma):
    layer = NoisyLinear(100, 50, sigma=sigma)
    for deviations in (layer.sigma_weight, layer.sigma_bias):
        torch.testing.assert_close(deviations.data, torch.full_like(deviations, sigma / 10))
    assert 0.09 < layer.weight.abs().max() <= 0.1
    assert 0.09 < layer.bias.abs().max() <= 0.1


@pytest.mark.parametrize("kind", [QNetwork, ImplicitNetwork])
def test_a_noisy_network_draws_and_mutes_all_its_layers(kind):
    network = make(noisy=True, dueling=True, sigma=0.3, kind=kind)
    layers = [module for module in network.modules() if isinstance(module, NoisyLinear)]
    assert len(layers) == 5  # one before the heads, two in each
    assert not any(isinstance(module, nn.Linear) for part in (network.torso, network.advantage) for module in part)
    network.draw_noise()
    assert all(layer.noise is not None for layer in layers)
    assert all(
        layer.sigma_weight[0, 0].item() == pytest.approx(0.3 / math.sqrt(layer.weight.shape[1])) for layer in layers
    )
    network.mute()
    assert all(layer.noise is None for layer in layers)


def test_a_noisy_network_is_usable_before_it_is_flattened():
    network, obs = make(noisy=True), observations(VECTOR)
    network.draw_noise()
    torch.testing.assert_close(network(obs), by_modules(network)(obs))


@pytest.mark.parametrize("shape", [(4, 84, 84), (2, 10, 10)])
def test_bytes_of_images_are_divided_by_255(shape):
    space = spaces.Box(0, 255, shape, np.uint8)
    network = make(space, outputs=1)
    pictures = observations(space, 2)
    learned = as_learned(network)
    outputs, of_floats, of_halves = (
        learned.forward(given)[0] for given in (pictures, pictures.float() / 255, pictures // 2)
    )
    np.testing.assert_allclose(outputs, of_floats, atol=1e-6)
    assert np.abs(outputs - of_halves).max() > 1e-4


def test_the_network_of_screens_has_as_many_parameters_as_stable_baselines3s():
    ours = make(SCREEN, actions=4, outputs=1, hidden=(512,))
    theirs = CnnPolicy(SCREEN, spaces.Discrete(4), lambda _: 1e-4).q_net
    sizes = [sum(parameter.numel() for parameter in network.parameters()) for network in (ours, theirs)]
    assert sizes == [1_686_180, 1_686_180]


def test_layers_begin_as_those_of_torch():
    network = make(SCREEN, actions=4, outputs=1, hidden=(512,))
    layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(layers) == 5
    for layer in layers:
        bound = 1 / math.sqrt(layer.weight[0].numel())
        assert layer.weight.abs().max() <= bound + 1e-6
        assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
        assert 0 < layer.bias.abs().max() <= bound


@pytest.mark.parametrize("space", [VECTOR, NESTED])
def test_implicit_quantiles_and_their_gradients_are_those_of_torch_modules(space):
    network, obs = make(space, outputs=1, kind=ImplicitNetwork, dueling=True), observations(space)
    twin, fractions = by_modules(network), torch.rand(5, 7)
    as_learned(network)
    assert (network.embedding.kernel is not None) == (space is VECTOR)
    outputs = network.quantiles(obs, fractions)
    assert outputs.shape == (5, 3, 7)
    expected = twin.quantiles(obs, fractions)
    slope = torch.randn(5, 3, 7)
    expected.backward(slope)
    outputs.backward(slope)
    np.testing.assert_allclose(outputs.detach(), expected.detach(), atol=1e-6)
    assert_same_gradients(network, twin)


def test_implicit_quantiles_are_the_papers_product_of_features_and_cosines():
    network, obs, tau = make(outputs=1, kind=ImplicitNetwork), observations(VECTOR), 0.3
    cosines = torch.tensor([math.cos(math.pi * i * tau) for i in range(64)])
    linear = network.embedding[0]
    embedded = (linear.weight @ cosines + linear.bias).relu()
    expected = QNetwork.head(network, network.features(obs) * embedded)[..., 0]
    for fractions in (torch.full((5, 1), tau), torch.tensor([[0.9, tau]] * 5)):
        torch.testing.assert_close(network.quantiles(obs, fractions)[..., -1], expected, atol=1e-5, rtol=1e-4)


def test_without_fractions_implicit_quantiles_are_those_at_even_ones():
    network, obs = make(outputs=4, kind=ImplicitNetwork), observations(VECTOR)
    fractions = torch.tensor([[0.125, 0.375, 0.625, 0.875]] * 5)
    torch.testing.assert_close(network(obs), network.quantiles(obs, fractions))
