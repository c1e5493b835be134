"""R2D1: what replay sees against what acting saw, the loss against a loop, exploration, and tasks of memory."""

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces

import main
from a2c_ppo_acktr import algo, arguments
from a2c_ppo_acktr.envs import EnvConfig, make_vec_envs
from a2c_ppo_acktr.interfaces import EnvSpaces
from a2c_ppo_acktr.seeding import seed_everything
from a2c_ppo_acktr.storage.sequences import Sequences
from a2c_ppo_acktr.utils import UsageError
from tests.q_learning import losses_of, target_parameters
from tests.test_q_network import by_modules

VECTOR = EnvSpaces(spaces.Box(-1, 1, (3,), np.float32), spaces.Discrete(2), {})
PICTURE = "MinAtar/Breakout-v1"
SMALL = {"hidden_size": [8, 6], "core_size": 5, "burn_in": 3, "sequence_length": 6, "sequence_interval": 4, "n_step": 2}


def make(env_spaces=VECTOR, **config):
    torch.manual_seed(0)
    return algo.make("r2d1", algo.ALGORITHMS["r2d1"].Config(**SMALL | config), env_spaces)


def played(steps, env_id="CartPole-v1", num_envs=3, **config):
    """An algorithm with frozen weights, its replay, and the values `[A]` that it acted by, per environment."""
    seed_everything(1)
    envs = make_vec_envs(EnvConfig(env_id, normalize_env=False), num_envs, seed=1)
    algorithm = make(envs.spaces, epsilon_base=0.9, epsilon_power=0.0, **config)
    storage = algorithm.make_storage(1, num_envs)
    stepper = algorithm.make_collector(envs, storage).stepper
    original, seen, acted_by = algorithm.policy.head, [], [[] for _ in range(num_envs)]

    def head(features):
        outputs = original(features)
        seen.append(algorithm.td.values(outputs))
        return outputs

    algorithm.policy.head = head
    for _ in range(steps):
        step, _ = stepper.step(explore=True)
        storage.insert(step)
        for env in range(num_envs):
            acted_by[env].append(seen[-1][env])
        for env in step.ended.indices.tolist() if step.ended is not None else []:
            acted_by[env].append(None)  # the slot of the final observation
    assert len(seen) == steps
    del algorithm.policy.head
    return algorithm, storage, acted_by


@pytest.mark.parametrize("burn_in", [0, 3])
@pytest.mark.parametrize("core", ["lstm", "gru"])
@pytest.mark.parametrize("env_id", ["CartPole-v1", PICTURE])
def test_after_the_burn_in_replay_gives_the_values_that_were_acted_by(env_id, core, burn_in):
    algorithm, storage, acted_by = played(80, env_id, core=core, burn_in=burn_in)
    batch = storage.sample(40)
    with torch.no_grad():
        values = algorithm.unroll(algorithm.policy, batch)
        forgetful = algorithm.unroll(algorithm.policy, batch._replace(carry=torch.zeros_like(batch.carry)))
    compared = resets = 0
    for row, item in enumerate(batch.rows):
        begin, env = item // 3 * 4, item % 3
        for place in range(algorithm.config.sequence_length):
            expected = acted_by[env][begin + burn_in + place]
            assert batch.acted[place, row] == (expected is not None)
            if expected is not None:
                torch.testing.assert_close(values[row, place], expected, atol=1e-5, rtol=1e-4)
                compared += 1
                resets += int(batch.masks[burn_in + place, row] == 0)
    assert compared > 150
    assert resets > 0
    assert values.shape == (40, 6 + 2, algorithm.policy.num_actions)
    assert (values[:, 0] - forgetful[:, 0]).abs().max() > 1e-4  # the stored carry matters


def rescale(x):
    return math.copysign(math.sqrt(abs(x) + 1) - 1, x) + 1e-3 * x


def unscale(y):
    """By bisection."""
    low, high = -1e4, 1e4
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if rescale(middle) < y else (low, middle)
    return low


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize(("double", "rescaled"), [(True, True), (False, True), (True, False)])
def test_the_loss_is_that_of_a_loop_over_single_steps(double, rescaled, fast):
    algorithm, storage, _ = played(90, double=double, rescale_values=rescaled, max_grad_norm=1e9, fast=fast)
    assert (algorithm.policy.core.kernel is not None) == fast
    target_parameters(algorithm).add_(0.1 * torch.randn_like(algorithm.parameters.data))
    policy, target = by_modules(algorithm.policy), by_modules(algorithm.target)
    batch = storage.sample(12)
    assert not batch.acted.all()
    assert (batch.discounts == 0).any()

    def values(network, row):
        carry, found = batch.carry[row : row + 1], []
        state, previous = carry[:, : network.state_size], carry[:, network.state_size :]
        for t in range(3 + 6 + 2):
            features, state = network.remember(batch.obs[t, row][None], previous, state, batch.masks[t, row][None])
            state = state.detach() if t < 3 else state
            found.append(network.head(features)[0, :, 0])
            action = torch.nn.functional.one_hot(batch.actions[t, row], 2)
            previous = torch.cat([action, batch.rewards[t, row][None]])[None].float()
        return found

    losses, priorities, learned = [], [], []
    for row in range(12):
        own, other = values(policy, row), [v.detach() for v in values(target, row)]
        errors = []
        for place in range(6):
            if not batch.acted[place, row]:
                continue
            end = batch.ends[place, row]
            best = (own if double else other)[end].argmax()
            value, reward = float(other[end][best]), float(batch.returns[place, row])
            goal = reward + float(batch.discounts[place, row]) * (unscale(value) if rescaled else value)
            goal = rescale(goal) if rescaled else goal
            learned.append(own[3 + place][batch.actions[3 + place, row]])
            errors.append(learned[-1] - goal)
        errors = torch.stack(errors)
        losses.append(0.5 * (errors**2).sum() / 6)
        priorities.append(0.9 * errors.abs().max() + 0.1 * errors.abs().mean())
    expected = torch.stack(losses)
    slow = torch.autograd.grad(expected.sum(), list(policy.parameters()))
    of_rows, found = losses_of(algorithm, batch)
    np.testing.assert_allclose(of_rows, expected.detach(), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(found.priorities.detach(), torch.stack(priorities).detach(), rtol=1e-3, atol=1e-4)
    assert len(learned) == batch.acted.sum()
    for tag, value in (("q_mean", torch.stack(learned).mean()), ("q_max", torch.stack(learned).max())):
        assert found.metrics[f"losses/{tag}"].item() == pytest.approx(value.item(), rel=1e-3, abs=1e-5)
    assert (batch.weights == 1).all()
    algorithm.set_gradient(batch)
    for parameter, gradient in zip(algorithm.policy.parameters(), slow, strict=True):
        torch.testing.assert_close(12 * parameter.grad, gradient, atol=1e-4, rtol=1e-3)


def test_sequences_are_weighted_and_their_priorities_given_back():
    algorithm, storage, _ = played(60)
    batch = storage.sample(4)._replace(weights=torch.tensor([1.0, 0.0, 0.0, 0.0]))
    given = []
    storage.sample = lambda size, beta: batch
    storage.update_priorities = lambda rows, priorities: given.append((rows, priorities))
    losses, expected = losses_of(algorithm, batch)
    metrics = algorithm.gradient_step(storage)
    assert float(metrics["losses/value_loss"]) == pytest.approx(losses[0].item() / 4, rel=1e-5)
    np.testing.assert_array_equal(given[0][0], batch.rows)
    np.testing.assert_allclose(given[0][1], expected.priorities.detach(), rtol=1e-6)


def test_what_an_episodes_first_step_is_told_of_the_one_before_is_nothing():
    network = make().policy
    obs, masks = torch.randn(2, 3), torch.tensor([0.0, 1.0])
    one, _ = network.remember(obs, torch.zeros(2, 3), torch.zeros(2, network.state_size), masks)
    other, _ = network.remember(obs, torch.ones(2, 3), torch.ones(2, network.state_size), masks)
    torch.testing.assert_close(one[0], other[0])
    assert (one[1] - other[1]).abs().max() > 1e-3


def test_the_carry_holds_what_was_done_and_what_it_gave():
    algorithm, storage, _ = played(9, num_envs=2, burn_in=0, sequence_length=2, n_step=1)
    carries = storage.carries[2:4, algorithm.policy.state_size :]  # before the fifth observation
    rows = np.array([6, 7])  # of the fourth
    assert carries[:, :2].argmax(1).tolist() == storage.slots.taken(rows).tolist()
    assert carries[:, 2].tolist() == storage.slots.rewards[rows].tolist() == [1.0, 1.0]


def epsilons(algorithm, num_envs):
    return algorithm.exploration.of_each(algorithm.epsilon, num_envs)


def test_every_environment_explores_by_its_own_epsilon():
    algorithm = make(epsilon_base=0.4, epsilon_power=7.0)
    for _ in range(2):  # whatever was scheduled
        np.testing.assert_allclose(epsilons(algorithm, 8), 0.4 ** np.arange(1.0, 9.0))
        np.testing.assert_allclose(epsilons(algorithm, 1), [0.4**4.5])
        algorithm.schedule(500, 1000)
    for noisy_epsilon in (0.0, 0.1):
        noisy = make(noisy=True, noisy_epsilon=noisy_epsilon)
        for num_envs in (2, 3):
            assert epsilons(noisy, num_envs).tolist() == [noisy_epsilon] * num_envs
            noisy.schedule(500, 1000)
    np.random.seed(0)
    obs, num = torch.randn(4, 3), 4000
    carry, masks = algorithm.initial_carry(4), torch.ones(4)
    greedy = algorithm.act(obs, carry, masks, {}, explore=False).action
    others = sum((algorithm.act(obs, carry, masks, {}, explore=True).action != greedy).numpy() for _ in range(num))
    expected = epsilons(algorithm, 4) / 2 * num  # half of the random actions are the greedy one
    assert (np.abs(others - expected) < 4 * np.sqrt(expected) + 1).all()
    found = algorithm.inspect(obs, carry, masks, {}, True, lambda action: action).extras
    np.testing.assert_allclose(found["action_probs"].amin(1), epsilons(algorithm, 4) / 2)
    assert found["actor_features"].shape == (4, 5)


def test_the_replay_ratio_counts_steps_of_sequences():
    algorithm, storage, _ = played(50, num_envs=2, learning_starts=1, update_to_data=0.1, batch_size=4)
    metrics = algorithm.update(storage)
    assert algorithm.gradient_steps == 10
    assert metrics["charts/replay_ratio"] == pytest.approx(10 * 4 * 6 / 100)
    assert float(metrics["charts/epsilon"]) == pytest.approx(0.9)
    assert isinstance(storage.sample(2), Sequences)


def train(flags, monkeypatch, tmp_path):
    """The evaluations' mean return after `main.train`."""
    monkeypatch.chdir(tmp_path)
    results = []
    monkeypatch.setattr(main.Run, "record_evaluation", lambda run, returns, lengths: results.append(np.mean(returns)))
    argv = (
        "--env-name tests.probe_envs:RememberCue-v0 --num-processes 4 --num-steps 16 --num-env-steps 6400 --lr 3e-3 "
        "--eval-interval 100 --eval-episodes 40 --torch-threads 1 --save-dir= --log-dir run --no-cuda "
        "--hidden-size 16 16 --learning-starts 200 --target-update-interval 20"
    )
    main.execute(arguments.parse([*argv.split(), *flags.split()]))
    return results[-1]


@pytest.mark.parametrize("core", ["lstm", "gru"])
def test_a_cue_is_remembered(core, monkeypatch, tmp_path):
    sizes = "--burn-in 2 --sequence-length 6 --sequence-interval 4 --batch-size 16 --core-size 16 --update-to-data 0.1"
    assert train(f"--algo r2d1 --core {core} {sizes}", monkeypatch, tmp_path) == 1.0


def test_without_memory_it_is_not(monkeypatch, tmp_path):
    assert train("--algo dqn --batch-size 16 --update-to-data 0.1", monkeypatch, tmp_path) < 0.8


def test_normalized_rewards_are_refused():
    with pytest.raises(UsageError, match="--normalize-env: r2d1 reads rewards"):
        arguments.parse("--algo r2d1 --env-name CartPole-v1 --normalize-env".split())


def test_atari_has_the_papers_settings():
    args = arguments.parse("--algo r2d1 --env-name PongNoFrameskip-v4".split())
    config = args.config
    assert (config.burn_in, config.sequence_length, config.sequence_interval, config.n_step) == (40, 80, 40, 5)
    assert (config.gamma, config.lr, config.eps, config.core_size) == (0.997, 1e-4, 1e-3, 512)
    assert (config.batch_size, config.priority_alpha, config.priority_beta, config.priority_eta) == (64, 0.9, 0.6, 0.9)


def test_importance_weights_begin_at_the_papers_exponent_and_end_at_one():
    """The paper keeps .6; what differs is in the list of deviations."""
    algorithm = make(priority_beta=0.6)
    found = []
    for env_steps in (0, 500, 1000):
        algorithm.schedule(env_steps, 1000)
        found.append(algorithm.beta)
    assert found == pytest.approx([0.6, 0.8, 1.0])
