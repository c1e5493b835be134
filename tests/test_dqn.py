"""DQN and its descendants: targets on tables of Q, gradients against loops, when they learn and how they explore."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from a2c_ppo_acktr.algo.iqn import ImplicitNetwork
from tests.q_learning import (
    EVERY,
    ONLINE,
    TARGET,
    VECTOR,
    WAYS,
    a_step,
    act,
    collecting,
    learned,
    make,
    set_table,
    target_parameters,
    transitions,
    values,
)
from tests.test_distributional import slow_projection, slow_quantile_huber
from tests.test_q_network import by_modules


@WAYS
@pytest.mark.parametrize(("double", "next_value"), [(False, 20.0), (True, 10.0)])
def test_the_target_is_the_target_networks_value_of_the_action_that_the_chooser_prefers(double, next_value, way):
    algorithm = make("dqn", double=double)
    set_table(algorithm.policy, ONLINE)
    set_table(algorithm.target, TARGET)
    batch = transitions([0, 0, 0], [1, 1, 0], [1.0, 1.0, 1.5], [0.5, 0.0, 0.0], [1, 1, 1])
    found = learned(algorithm, batch, way)
    error = 1 + 0.5 * next_value - 2
    assert found.losses.shape == found.priorities.shape == found.values.shape == (3,)
    np.testing.assert_allclose(found.losses, [error - 0.5, 0.5, 0.5 * 0.5**2], rtol=1e-6)  # Huber's
    np.testing.assert_allclose(found.priorities, [error, 1.0, 0.5], rtol=1e-6)
    np.testing.assert_allclose(found.values, [2.0, 2.0, 1.0])
    np.testing.assert_allclose(found.slopes[..., 0], [[0, -1], [0, 1], [-0.5, 0]], rtol=1e-6)


@pytest.mark.parametrize(
    ("n_step", "end", "of_0", "of_1"),
    [
        (1, "terminated", 1 + 0.5 * 20, 2.0),
        (1, "truncated", 1 + 0.5 * 20, 2 + 0.5 * 4),
        (2, "terminated", 1 + 0.5 * 2, 2.0),
        (2, "truncated", 1 + 0.5 * 2 + 0.25 * 4, 2 + 0.5 * 4),
        (5, "terminated", 1 + 0.5 * 2, 2.0),
        (5, "truncated", 1 + 0.5 * 2 + 0.25 * 4, 2 + 0.5 * 4),
    ],
)
def test_n_steps_are_discounted_and_only_a_terminal_state_is_worth_nothing(n_step, end, of_0, of_1):
    algorithm = make("dqn", n_step=n_step, gamma=0.5)
    set_table(algorithm.policy, np.zeros((3, 2, 1)))
    set_table(algorithm.target, TARGET)
    storage = algorithm.make_storage(1, 1)
    for step in (a_step(0, 1.0, 1), a_step(1, 2.0, 2, end)):
        storage.insert(step)
    batch = storage.sample(64)
    assert set(batch.obs.tolist()) == {0, 1}
    for errors in (algorithm.loss(batch).priorities.detach(), algorithm.set_gradient(batch)[1]):
        # values are 0: the targets
        np.testing.assert_allclose(errors, np.where(batch.obs == 0, of_0, of_1), rtol=1e-6)


def random_batch(size=6, dtype=torch.float32):
    generator = torch.Generator().manual_seed(3)
    obs, next_obs = (torch.rand(size, 4, generator=generator, dtype=dtype) for _ in range(2))
    actions, weights = torch.arange(size) % 3, torch.linspace(0.1, 1.0, size)
    returns, discounts = torch.linspace(-2, 2, size), 0.9 * (torch.arange(size) % 4 > 0)
    return transitions(obs, actions, returns, discounts, next_obs, weights)


def of_batch(batch, log=None):
    """A storage that gives the same batch for ever, and writes new priorities to `log`."""
    log = [] if log is None else log
    return SimpleNamespace(sample=lambda size, beta: batch, update_priorities=lambda *given: log.append(given))


def slow_losses(algorithm, name, policy, batch, fractions):
    """Every window's loss by itself, from the papers; tensors with their graph.

    `fractions` are those that IQN's networks were asked for: by the policy, by its target.
    """
    double = algorithm.config.double
    losses = []
    for b, (action, reward, discount) in enumerate(zip(batch.actions, batch.returns, batch.discounts, strict=True)):
        obs, next_obs = batch.obs[b : b + 1], batch.next_obs[b : b + 1]
        chooser = policy if double else algorithm.target
        best = int(values(algorithm, chooser, next_obs)[0].argmax())
        if name == "iqn":
            quantiles = policy.quantiles(obs, fractions[0][b : b + 1])[:, action]
            following = algorithm.target.quantiles(next_obs, fractions[1][b : b + 1])[:, best].detach()
            targets = reward + discount * following
            losses.append(slow_quantile_huber(quantiles, targets, fractions[0][b], algorithm.config.kappa)[0])
            continue
        outputs, following = policy(obs)[0, action], algorithm.target(next_obs)[0, best].detach()
        if name == "dqn":
            losses.append(torch.nn.functional.huber_loss(outputs[0], reward + discount * following[0]))
        elif name == "qr_dqn":
            count = len(outputs)
            targets, taus = reward + discount * following[None], (torch.arange(count) + 0.5) / count
            losses.append(slow_quantile_huber(outputs[None], targets, taus, algorithm.config.kappa)[0])
        else:
            probs = following.softmax(0)[None].double().numpy()
            support = np.linspace(algorithm.config.v_min, algorithm.config.v_max, algorithm.config.num_atoms)
            target = torch.as_tensor(slow_projection(probs, [reward.item()], [discount.item()], support)[0])
            losses.append(torch.nn.functional.kl_div(outputs.log_softmax(0), target.float(), reduction="sum"))
    return torch.stack(losses)


@pytest.mark.parametrize("fast", [True, False])
@EVERY
@pytest.mark.parametrize(("double", "dueling"), [(False, True), (True, False)])
def test_the_gradient_of_learning_is_that_of_a_loop_over_weighted_windows(name, double, dueling, fast, monkeypatch):
    extra = {"v_min": -3.0, "v_max": 3.0, "num_atoms": 7} if name in ("c51", "rainbow") else {}
    extra |= {"num_fractions": 3, "num_target_fractions": 5} if name == "iqn" else {}
    extra |= {"double": double, "dueling": dueling, "fast": fast}
    algorithm = make(name, VECTOR, hidden_size=[8, 8], prioritized=True, max_grad_norm=1e9, **extra)
    assert (algorithm.set_gradient != algorithm.gradient) == fast
    target_parameters(algorithm).add_(0.3 * torch.randn_like(algorithm.parameters.data))
    batch, asked = random_batch(), {}
    original = ImplicitNetwork.quantiles

    def quantiles(network, obs, fractions):
        asked.setdefault(network is algorithm.policy, fractions)
        return original(network, obs, fractions)

    monkeypatch.setattr(ImplicitNetwork, "quantiles", quantiles)

    before = {key: value.clone() for key, value in algorithm.policy.state_dict().items()}
    priorities = []
    replay = SimpleNamespace(sample=lambda *sizes: batch, update_priorities=lambda *new: priorities.append(new))
    metrics = algorithm.gradient_step(replay)
    gradient = {key: p.grad.clone() for key, p in algorithm.policy.named_parameters()}
    algorithm.policy.load_state_dict(before)
    twin = by_modules(algorithm.make_network())
    twin.load_state_dict({key: before[key] for key in twin.state_dict()})
    for layer, own in zip(twin.noisy_layers, algorithm.policy.noisy_layers, strict=True):
        layer.noise = own.noise
    fractions = (asked[True], asked[False]) if name == "iqn" else ()
    losses = slow_losses(algorithm, {"rainbow": "c51"}.get(name, name), twin, batch, fractions)
    total = sum(weight * loss for weight, loss in zip(batch.weights, losses, strict=True)) / len(losses)
    total.backward()
    for key, parameter in twin.named_parameters():
        torch.testing.assert_close(gradient[key], parameter.grad, atol=1e-5, rtol=1e-3)
    assert float(metrics["losses/value_loss"]) == pytest.approx(total.item(), rel=1e-4)
    ((rows, new),) = priorities
    np.testing.assert_array_equal(rows, batch.rows)
    if name != "dqn":
        np.testing.assert_allclose(new, losses.detach(), rtol=1e-3, atol=1e-5)


def test_priorities_are_the_absolute_errors_of_this_batch_and_only_where_they_count():
    for prioritized in (False, True):
        algorithm, log = make("dqn", prioritized=prioritized), []
        set_table(algorithm.policy, ONLINE)
        set_table(algorithm.target, TARGET)
        batch = transitions([0, 0], [1, 0], [7.0, -3.0], [0.0, 0.0], [1, 1], [0.1, 1.0])
        algorithm.gradient_step(of_batch(batch, log))
        assert len(log) == prioritized
    np.testing.assert_allclose(log[0][1], [5.0, 4.0], rtol=1e-6)


@pytest.mark.parametrize("interval", [1, 4])
@EVERY
def test_the_target_network_is_copied_exactly_every_interval(name, interval):
    algorithm, batch = make(name, VECTOR, target_update_interval=interval), random_batch()
    copied = algorithm.parameters.data.clone()
    torch.testing.assert_close(target_parameters(algorithm), copied)
    for step in range(1, 10):
        algorithm.gradient_step(of_batch(batch))
        if step % interval == 0:
            copied = algorithm.parameters.data.clone()
        assert torch.equal(target_parameters(algorithm), copied)
        assert torch.equal(algorithm.parameters.data, copied) == (step % interval == 0)
        for key, value in algorithm.target.state_dict().items():  # what is copied is what the network reads
            assert torch.equal(value, algorithm.policy.state_dict()[key]) or step % interval


def test_the_target_network_follows_by_tau():
    algorithm, batch = make("dqn", VECTOR, target_update_interval=2, tau=0.25, lr=0.1), random_batch()
    before = target_parameters(algorithm).clone()
    for _ in range(2):
        algorithm.gradient_step(of_batch(batch))
    expected = 0.75 * before + 0.25 * algorithm.parameters.data
    torch.testing.assert_close(target_parameters(algorithm), expected)


@pytest.mark.parametrize(
    ("num_steps", "num_envs", "ratio", "updates", "expected"),
    [
        (4, 1, 0.25, 10, 10),
        (1, 1, 0.25, 10, 2),
        (1, 3, 0.5, 5, 7),
        (3, 2, 0.5, 5, 15),
        (5, 1, 2.0, 4, 40),
        (4, 8, 1 / 32, 5, 5),
        (1, 2, 0.75, 10, 15),
        (7, 3, 0.375, 10, 78),
        (3, 1, 0.0, 4, 0),
    ],
)
def test_gradient_steps_follow_environment_steps(num_steps, num_envs, ratio, updates, expected):
    algorithm, storage, collector = collecting(
        "dqn", num_steps, num_envs, update_to_data=ratio, learning_starts=1, batch_size=2
    )
    counts = [0]
    for _ in range(updates):
        collector.collect()
        algorithm.update(storage)
        storage.after_update()
        counts.append(algorithm.gradient_steps)
    assert counts[-1] == expected
    assert np.ptp(np.diff(counts)) <= 1


@EVERY
def test_nothing_is_learned_before_learning_starts(name):
    algorithm, storage, collector = collecting(name, 4, 2, learning_starts=30, batch_size=4)
    before, learned = algorithm.parameters.data.clone(), []
    for _ in range(8):
        collector.collect()
        metrics = algorithm.update(storage)
        storage.after_update()
        learned.append(not torch.equal(before, algorithm.parameters.data))
        assert learned[-1] == (storage.observations >= 30) == ("losses/value_loss" in metrics)
    assert learned[2:6:3] == [False, True]


def test_a_buffer_that_is_full_has_enough_to_learn_from():
    """--learning-starts may be as large as --buffer-size, although some of its observations begin no window."""
    algorithm, storage, collector = collecting("dqn", 4, 1, buffer_size=40, learning_starts=40, batch_size=4)
    for _ in range(20):
        collector.collect()
        algorithm.update(storage)
        storage.after_update()
    assert algorithm.gradient_steps > 0


def test_epsilon_and_beta_go_by_environment_steps():
    settings = {"epsilon_start": 0.9, "epsilon_end": 0.1, "epsilon_steps": 200, "priority_beta": 0.4}
    algorithm, noisy = make("dqn", **settings), make("dqn", noisy=True, **settings)
    both = make("dqn", noisy=True, noisy_epsilon=0.2, **settings)
    for env_steps, epsilon, beta in [(0, 0.9, 0.4), (50, 0.7, 0.43), (200, 0.1, 0.52), (1000, 0.1, 1.0)]:
        algorithm.schedule(env_steps, 1000)
        noisy.schedule(env_steps, 1000)
        both.schedule(env_steps, 1000)
        assert algorithm.epsilon == pytest.approx(epsilon)
        assert algorithm.beta == pytest.approx(beta)
        assert noisy.epsilon == 0
        assert both.epsilon == 0.2


def test_the_learning_rate_decays_where_it_is_asked_to():
    algorithm = make("dqn", lr=0.1, use_linear_lr_decay=True)
    algorithm.schedule(250, 1000)
    assert algorithm.optimizer.param_groups[0]["lr"] == pytest.approx(0.075)


@EVERY
def test_the_greedy_action_is_never_random_nor_noisy(name):
    algorithm = make(name, VECTOR, hidden_size=[16, 16], epsilon_start=1.0, noisy=True, sigma=2.0)
    obs = torch.rand(500, 4)
    algorithm.schedule(0, 1000)
    algorithm.epsilon = 1.0
    means = by_modules(algorithm.make_network())
    means.load_state_dict({key: algorithm.policy.state_dict()[key] for key in means.state_dict()})
    greedy = values(algorithm, means, obs).argmax(1)
    for _ in range(3):
        act(algorithm, obs, explore=True)
        assert torch.equal(act(algorithm, obs, explore=False), greedy)


def test_exploration_is_random_with_probability_epsilon():
    algorithm = make("dqn")
    set_table(algorithm.policy, ONLINE)
    obs = torch.zeros(20_000, dtype=torch.int64)
    np.random.seed(0)
    for epsilon in (0.0, 0.3, 1.0):
        algorithm.epsilon = epsilon
        actions = act(algorithm, obs, explore=True)
        assert actions.shape == (20_000,)
        assert actions.dtype == torch.int64
        assert actions.float().mean().item() == pytest.approx(1 - epsilon / 2, abs=0.02)
        assert act(algorithm, obs, explore=False).all()


def test_noise_explores_and_is_drawn_anew_for_every_step_and_gradient_step():
    algorithm, seen = make("rainbow", VECTOR, hidden_size=[16, 16], sigma=5.0), []
    algorithm.schedule(0, 1000)
    obs, batch = torch.rand(200, 4), random_batch()
    assert not torch.equal(act(algorithm, obs, explore=True), act(algorithm, obs, explore=True))
    act(algorithm, obs, explore=False)

    def look(*given):
        seen.extend(network.advantage[0].noise[0].clone() for network in (algorithm.policy, algorithm.target))

    for _ in range(2):
        algorithm.gradient_step(SimpleNamespace(sample=lambda size, beta: batch, update_priorities=look))
    assert len({tuple(noise.tolist()) for noise in seen}) == 4


@EVERY
def test_inspection_tells_the_values_and_the_probabilities_of_exploration(name):
    algorithm = make(name, VECTOR, noisy=False)
    algorithm.epsilon, obs = 0.3, torch.rand(5, 4)
    for explore, likely, rare in ((True, 0.8, 0.1), (False, 1.0, 0.0)):
        arguments = (obs, algorithm.initial_carry(5), torch.ones(5), {}, explore)
        decision = algorithm.inspect(*arguments, override=lambda action: torch.zeros_like(action))
        found = decision.extras
        assert (decision.action == 0).all()
        np.testing.assert_allclose(found["q_values"], values(algorithm, algorithm.policy, obs), rtol=1e-6)
        torch.testing.assert_close(found["values"], found["q_values"].max(1).values)
        expected = torch.full((5, 3), rare).scatter(1, found["q_values"].argmax(1, keepdim=True), likely)
        torch.testing.assert_close(found["action_probs"], expected)
        torch.testing.assert_close(found["action_log_probs"], expected[:, 0].log())
