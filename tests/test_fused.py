"""The written-out policy against torch's layers, distributions and autograd."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from a2c_ppo_acktr import arrays, fast
from a2c_ppo_acktr.fast.actor_critic import evaluate
from a2c_ppo_acktr.fast.policy import FusedPolicy
from a2c_ppo_acktr.model.layers import TanhMLP
from a2c_ppo_acktr.seeding import seed_everything
from a2c_ppo_acktr.storage import Batch
from tests.policies import build

BOX = spaces.Box(-1, 1, (5,), np.float32)
ACTIONS = {"discrete": spaces.Discrete(3), "continuous": spaces.Box(-1, 1, (2,), np.float32)}
BOTH = pytest.mark.parametrize("kind", ACTIONS)


def make(kind, scale=3.0):
    """A policy whose outputs are far from uniform, and arguments for it."""
    seed_everything(0)
    policy = build(BOX, ACTIONS[kind])
    with torch.no_grad():
        policy.head.load_state_dict({k: torch.randn_like(v) for k, v in policy.head.state_dict().items()})
    actions = torch.randint(0, 3, (64,)) if kind == "discrete" else torch.randn(64, 2) * scale
    return policy, torch.randn(64, 5), actions


def through_torch(policy, obs, actions):
    value, distribution, *_ = policy(obs, torch.zeros(0), torch.ones(len(obs)), {})
    return value, distribution.log_prob(actions), distribution.entropy()


def by_autograd(policy, obs, actions):
    """What `fast.actor_critic` does with policies that are not written out."""
    flat = arrays.flatten_parameters(policy)
    none, ones = torch.zeros(0), torch.ones(len(obs))
    batch = Batch(obs, none, ones, {}, {}, actions, none, none, none, none)
    return flat, lambda: evaluate(policy, flat, batch)


def by_hand(policy, obs, actions):
    """The policy written out, its parameters flat."""
    flat = arrays.flatten_parameters(policy)
    fused = FusedPolicy(policy)
    return flat, lambda: fused.evaluate(obs, actions)


@pytest.mark.parametrize("way", [by_hand, by_autograd])
@BOTH
def test_values_log_probabilities_entropies_and_all_gradients_are_those_of_torch(kind, way):
    policy, obs, actions = make(kind)
    plain = policy.double()
    plain.base.encoder = torch.nn.Identity()  # which would round the observations
    expected = through_torch(plain, obs.double(), actions.double() if kind == "continuous" else actions)
    weights = [torch.randn(64, dtype=torch.float64) for _ in range(3)]
    plain.zero_grad()
    sum((w * e).sum() for w, e in zip(weights, expected, strict=True)).backward()
    grads = [parameter.grad.clone() for parameter in plain.parameters()]

    policy = make(kind)[0]
    assert FusedPolicy.fits(policy)
    flat, evaluated = way(policy, obs, actions)
    for _ in range(2):  # a second gradient replaces the first
        found = evaluated()
        for a, b in zip(found[:3], expected, strict=True):
            torch.testing.assert_close(torch.from_numpy(a).double(), b, atol=1e-4, rtol=1e-4)
        found.backward(*(w.float().numpy() for w in weights), None)
        for parameter, grad in zip(policy.parameters(), grads, strict=True):
            torch.testing.assert_close(parameter.grad.double(), grad, atol=2e-3, rtol=2e-3)
        assert torch.equal(flat.grad, torch.cat([parameter.grad.flatten() for parameter in policy.parameters()]))


@BOTH
def test_an_output_that_the_loss_does_not_use_has_no_gradient(kind):
    policy, obs, actions = make(kind)
    _, evaluated = by_hand(policy, obs, actions)
    ones, zeros = np.ones(64, np.float32), np.zeros(64, np.float32)
    evaluated().backward(ones, zeros, zeros, None)
    assert policy.base.critic[0].weight.grad.abs().sum() > 0
    assert policy.base.actor[0].weight.grad.abs().sum() == 0


@BOTH
def test_actions_are_drawn_from_the_policys_distribution(kind):
    policy, obs, _ = make(kind)
    arrays.flatten_parameters(policy)
    one = obs[:1].expand(100_000, 5).contiguous()
    value, action, log_prob, _ = fast.accelerated(policy.act)(one, torch.zeros(0), torch.ones(len(one)), {})
    with torch.no_grad():
        _, distribution, *_ = policy(obs[:1], torch.zeros(0), torch.ones(1), {})
        expected = through_torch(policy, one[:1000], action[:1000])
    torch.testing.assert_close(value[:1000], expected[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(log_prob[:1000], expected[1], atol=1e-4, rtol=1e-4)
    if kind == "discrete":
        frequencies = action.bincount(minlength=3) / len(action)
        torch.testing.assert_close(frequencies, distribution.log_probs[0].exp(), atol=6e-3, rtol=0)
    else:
        torch.testing.assert_close(action.mean(0), distribution.mean[0], atol=5e-2, rtol=0)
        torch.testing.assert_close(action.std(0), distribution.log_std[0].exp(), atol=5e-2, rtol=0)


@BOTH
def test_deterministic_actions_are_the_mode(kind):
    policy, obs, _ = make(kind)
    arrays.flatten_parameters(policy)
    act = fast.accelerated(policy.act)
    _, action, log_prob, _ = act(obs, torch.zeros(0), torch.ones(64), {}, deterministic=True)
    with torch.no_grad():
        _, distribution, *_ = policy(obs, torch.zeros(0), torch.ones(64), {})
    torch.testing.assert_close(action, distribution.mode(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(log_prob, distribution.log_prob(action), atol=1e-4, rtol=1e-4)


def test_it_follows_the_parameters_through_steps_and_loading():
    policy, obs, actions = make("continuous")
    flat, evaluated = by_hand(policy, obs, actions)
    get_value = fast.accelerated(policy.get_value)

    def values():
        found, evaluation = get_value(obs, torch.zeros(0), torch.ones(64)), evaluated()
        torch.testing.assert_close(torch.from_numpy(evaluation.value), found, atol=1e-6, rtol=1e-6)
        evaluation.backward(np.ones(64, np.float32), *[np.zeros(64, np.float32)] * 2, None)
        return found

    before = values()
    other = build(BOX, ACTIONS["continuous"])
    policy.load_state_dict(other.state_dict())
    loaded = values()
    torch.testing.assert_close(loaded, through_torch(other, obs, actions)[0], atol=1e-5, rtol=1e-4)
    torch.optim.SGD([flat], 0.01).step()
    after = values()
    torch.testing.assert_close(after, through_torch(policy, obs, actions)[0], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(before, loaded)
    assert not torch.allclose(loaded, after)


def test_other_policies_take_torchs_path():
    assert FusedPolicy.fits(build(BOX, ACTIONS["discrete"]))
    for policy in (
        build(BOX, spaces.MultiBinary(3)),
        build(BOX, ACTIONS["discrete"], recurrent=True),
        build(spaces.Discrete(4), ACTIONS["discrete"]),
        build(spaces.MultiDiscrete([2, 3]), ACTIONS["discrete"]),
        build(spaces.MultiBinary(5), ACTIONS["discrete"]),
        build(spaces.Box(0, 9, (5,), np.int64), ACTIONS["continuous"]),
        build(spaces.Box(0, 255, (5,), np.uint8), ACTIONS["continuous"]),
        build(spaces.Box(0, 255, (1, 8, 8), np.uint8), ACTIONS["discrete"]),
    ):
        arrays.flatten_parameters(policy)
        assert not FusedPolicy.fits(policy)
        assert fast.accelerated(policy.act) == policy.act
        assert fast.accelerated(policy.get_value) == policy.get_value


@pytest.mark.parametrize(
    "space", [spaces.MultiBinary(5), spaces.Box(0, 9, (5,), np.int64), spaces.Box(0, 255, (5,), np.uint8)], ids=str
)
def test_vectors_of_whole_numbers_act_and_learn(space):
    policy = build(space, ACTIONS["discrete"])
    fast.attach(policy)
    obs = torch.from_numpy(np.stack([space.sample() for _ in range(4)]))
    value, action, log_prob, _ = fast.accelerated(policy.act)(obs, torch.zeros(0), torch.ones(4), {})
    assert value.dtype == log_prob.dtype == torch.float32
    _, evaluated = by_autograd(policy, obs, action)
    evaluated().backward(*[np.ones(4, np.float32)] * 3, None)
    assert all(torch.isfinite(parameter.grad).all() for parameter in policy.parameters())


def test_layers_of_any_depth_and_shape_give_torchs_gradients_to_input_and_parameters():
    torch.manual_seed(0)
    mlp, x = TanhMLP(3, 8, 6, 4), torch.randn(5, 7, 3, requires_grad=True)
    weights = torch.randn(5, 7, 4)
    slow = mlp(x)
    expected = torch.autograd.grad((slow * weights).sum(), [x, *mlp.parameters()])
    fast.attach(mlp)
    assert mlp.kernel is not None
    quick = mlp(x)
    torch.testing.assert_close(quick, slow, atol=1e-5, rtol=1e-5)
    for a, b in zip(torch.autograd.grad((quick * weights).sum(), [x, *mlp.parameters()]), expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
