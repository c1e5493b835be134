"""Behavioral cloning: a worked example, what is held out, when it ends, every space, resuming, flags."""

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from a2c_ppo_acktr import algo, arrays, experts
from a2c_ppo_acktr.algo import bc
from a2c_ppo_acktr.algo.bc import BCConfig
from a2c_ppo_acktr.envs import EnvConfig, make_vec_envs
from a2c_ppo_acktr.experts.files import Trajectory, save
from a2c_ppo_acktr.interfaces import EnvSpaces
from a2c_ppo_acktr.seeding import seed_everything
from a2c_ppo_acktr.spaces import tree_map
from evaluate import evaluate
from tests.demonstrations import COIN, LINE, vectors

LINEAR = {"nn_base": "FlexBase", "nn_base_kwargs": {"num_layers": 0}}
"""Logits, or the mean, are W s + b."""


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def saved(trajectories, env_spaces=None, **kwargs):
    """The trajectories, as read from a file that is left behind."""
    save("shown.npz", trajectories, **kwargs)
    demonstrations = experts.load("shown.npz")
    return demonstrations.check(env_spaces.observation, env_spaces.action) if env_spaces else demonstrations


def one_step_episodes(obs, actions):
    """Demonstrations of as many episodes as there are steps; `obs` is an array or a tree of them."""
    last = np.ones(1, bool)
    rows = [tree_map(lambda leaf, i=i: np.stack([leaf[i]] * 2), obs) for i in range(len(actions))]
    return [Trajectory(o, actions[i : i + 1], np.zeros(1), last, ~last, 0.0) for i, o in enumerate(rows)]


def study(env_spaces, trajectories, normalizer=None, name="bc", **config):
    seed_everything(0)
    agent = algo.make(name, algo.ALGORITHMS[name].Config(**config), env_spaces)
    agent.imitate(saved(trajectories, env_spaces), normalizer)
    return agent


def zero(agent):
    for parameter in agent.policy.parameters():
        parameter.data.zero_()


def test_loss_and_gradient_of_a_categorical_policy_are_those_worked_by_hand():
    env_spaces = EnvSpaces(LINE, COIN, {})
    shown = one_step_episodes(np.array([[1.0], [2.0], [3.0]]), np.array([0, 1, 1]))
    agent = study(env_spaces, shown, validation=0.0, lr=0.1, max_grad_norm=100.0, **LINEAR)
    zero(agent)
    metrics = agent.update(None)
    # d loss / d logit_k = p_k - [a = k], p = 1/2:  W_0: (-1 + 2 + 3) / 2 / 3,  b_0: (-1 + 1 + 1) / 2 / 3
    linear = agent.policy.head.linear
    torch.testing.assert_close(linear.weight.grad, torch.tensor([[2 / 3], [-2 / 3]]))
    torch.testing.assert_close(linear.bias.grad, torch.tensor([1 / 6, -1 / 6]))
    torch.testing.assert_close(linear.weight.data, torch.tensor([[-0.1], [0.1]]))  # Adam's first step is lr long
    assert metrics["losses/bc_loss"] == pytest.approx(math.log(2))
    assert metrics["losses/entropy"] == pytest.approx(math.log(2))
    assert metrics["losses/grad_norm"] == pytest.approx(math.sqrt(2 * (2 / 3) ** 2 + 2 * (1 / 6) ** 2))
    assert float(metrics["losses/accuracy"]) == pytest.approx(2 / 3)
    assert metrics["charts/learning_rate"] == 0.1
    assert "losses/validation_loss" not in metrics


@pytest.mark.parametrize(("clip", "action"), [(True, 1.0), (False, 3.0)])
def test_loss_and_gradient_of_a_gaussian_policy_are_those_worked_by_hand(clip, action):
    env_spaces = EnvSpaces(LINE, spaces.Box(-1, 1, (1,), np.float32), {}, clip_actions=clip)
    shown = one_step_episodes(np.array([[2.0]]), np.array([[3.0]]))
    agent = study(env_spaces, shown, validation=0.0, lr=0.0, max_grad_norm=1e6, **LINEAR)
    zero(agent)
    metrics = agent.update(None)
    head = agent.policy.head
    assert metrics["losses/bc_loss"] == pytest.approx(0.5 * action**2 + 0.5 * math.log(2 * math.pi))
    assert head.mean.weight.grad.item() == pytest.approx(-2 * action)
    assert head.mean.bias.grad.item() == pytest.approx(-action)
    assert head.log_std.grad.item() == pytest.approx(1 - action**2)
    assert float(metrics["losses/mean_squared_error"]) == pytest.approx(action**2)


@pytest.mark.parametrize("size", [1, 5, 8, 9, 39])
def test_an_epoch_learns_from_every_step_once_in_a_new_order_and_in_equal_batches(size):
    flat = torch.nn.Parameter(torch.zeros(1))
    flat.grad = torch.zeros(1)
    seen = []

    def gradient(rows):
        seen.append(rows.tolist())
        return {"loss": 0.0, "entropy": 0.0, "grad_norm": 0.0}

    fit = bc.Fit(flat, torch.optim.SGD([flat], 1e-3), BCConfig(batch_size=8), None, gradient)
    steps = torch.arange(100, 100 + size)
    orders = []
    for _ in range(2):
        fit.epoch(steps, steps[:0])
        sizes = [len(batch) for batch in seen]
        orders.append([row for batch in seen for row in batch])
        assert max(sizes) <= 8
        assert max(sizes) - min(sizes) <= 1
        assert len(sizes) == math.ceil(size / 8)
        assert sorted(orders[-1]) == steps.tolist()
        seen.clear()
    assert size < 5 or orders[0] != orders[1]


@given(st.lists(st.integers(1, 6), min_size=1, max_size=25), st.sampled_from([0.0, 0.1, 0.25, 0.9]))
@settings(max_examples=50, deadline=None)
def test_no_episode_is_split_where_there_are_enough_and_something_is_always_learned_from(lengths, share):
    episodes = np.repeat(np.arange(len(lengths)), lengths)
    held_out = bc.hold_out(episodes, share)
    assert held_out.dtype == bool
    assert not held_out.all()
    wanted = int(share * len(lengths) + 1e-9)
    if 1 <= wanted < len(lengths):
        assert len(set(episodes[held_out])) == wanted
        assert not set(episodes[held_out]) & set(episodes[~held_out])
    else:
        assert held_out.sum() == min(int(share * len(episodes) + 1e-9), len(episodes) - 1)
    assert (held_out == bc.hold_out(episodes, share)).all()


@pytest.mark.parametrize(("num", "episodes"), [(9, 0), (10, 1), (14, 1), (15, 1), (19, 1), (20, 2), (25, 2), (30, 3)])
def test_of_a_tenth_whole_episodes_are_held_out_from_ten_on_and_never_more_than_a_tenth(num, episodes):
    names = np.repeat(np.arange(num), 10)
    held_out = bc.hold_out(names, 0.1)
    split = set(names[held_out]) & set(names[~held_out])
    assert len(set(names[held_out]) - split) == episodes
    assert bool(split) == (episodes == 0)
    assert held_out.sum() <= 0.1 * len(names)


def test_seeds_hold_out_other_episodes():
    names = np.repeat(np.arange(50), 3)
    assert len({tuple(bc.hold_out(names, 0.1, seed)) for seed in range(5)}) == 5


def test_episodes_are_held_out_by_the_agent_too():
    agent = study(EnvSpaces(LINE, COIN, {}), vectors([3] * 20))
    episodes = agent.demonstrations.episodes
    assert len(set(episodes[agent.held_out])) == 2
    assert not set(episodes[agent.held_out]) & set(episodes[agent.training])
    assert sorted([*agent.held_out.tolist(), *agent.training.tolist()]) == list(range(60))


def contradicted():
    """An agent whose loss on what is held out rises from its second epoch on."""
    agent = study(EnvSpaces(LINE, COIN, {}), vectors([2] * 20), patience=3, lr=0.1)
    agent.actions[agent.training] = 1
    agent.actions[agent.held_out] = 0
    return agent


def test_learning_ends_when_patience_does_with_the_parameters_of_the_lowest_loss():
    agent = contradicted()
    history, losses = [], []
    while not agent.finished:
        losses.append(agent.update(None)["losses/validation_loss"])
        history.append(agent.fit.parameters.detach().clone())
    assert len(losses) == 4
    assert losses[:3] == sorted(losses[:3])
    assert losses[3] == losses[0]
    assert torch.equal(history[-1], history[0])
    assert not torch.equal(history[2], history[0])
    recomputed = bc.mean(lambda rows: agent.loss(rows)[0] * len(rows), agent.held_out)
    assert recomputed == pytest.approx(losses[0])


@pytest.mark.parametrize("validation", [0.0, 0.1])
def test_learning_ends_after_the_last_epoch(validation):
    agent = study(EnvSpaces(LINE, COIN, {}), vectors([2] * 20), epochs=3, validation=validation, patience=9)
    for epoch in range(3):
        assert not agent.finished
        agent.update(None)
        assert agent.fit.epochs == epoch + 1
    assert agent.finished


def test_the_normalizer_takes_in_once_what_is_learned_from_and_then_stands_still():
    envs = make_vec_envs(EnvConfig("CartPole-v1"), 2, seed=0)
    obs = np.random.default_rng(0).normal([1, -2, 3, 0], [1, 2, 3, 4], (50, 4))
    shown = one_step_episodes(obs, np.arange(50) % 2)
    agent = study(envs.spaces, shown, envs.normalizer)
    statistics = envs.normalizer.obs_rms
    assert len(agent.held_out) == 5
    learned = obs[agent.training.numpy()]
    np.testing.assert_allclose(statistics.mean, learned.mean(0), rtol=1e-4)
    np.testing.assert_allclose(statistics.var, learned.var(0), rtol=1e-4)
    before = statistics.mean.copy()
    envs.reset()
    for _ in range(30):
        envs.step_arrays(np.zeros(2, np.int64))
    assert (statistics.mean == before).all()
    read = agent.inputs(agent.training)[0]
    torch.testing.assert_close(read.mean(0), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(read.std(0, correction=0), torch.ones(4), atol=1e-4, rtol=0)


def test_stacked_images_are_read_as_the_environment_stacks_them():
    env_spaces = EnvSpaces(spaces.Box(0, 255, (2, 8, 8), np.uint8), COIN, {}, frame_stack=2)

    def pictures(clock):
        return np.broadcast_to(np.abs(clock)[:, None, None, None], (len(clock), 1, 8, 8)).astype(np.uint8)

    seed_everything(0)
    agent = algo.make("bc", BCConfig(validation=0.4), env_spaces)
    demonstrations = saved(vectors([3, 2], make=pictures), env_spaces, frame_stack=2)
    agent.imitate(demonstrations, None)
    obs = agent.inputs(torch.arange(5))[0]
    assert obs.dtype == torch.uint8
    assert obs[:, :, 0, 0].tolist() == [[0, 0], [0, 1], [1, 2], [0, 100], [100, 101]]
    metrics = agent.update(None)
    assert math.isfinite(metrics["losses/validation_loss"])
    assert 0 <= float(metrics["losses/accuracy"]) <= 1


def test_numbers_are_read_in_the_type_of_the_environment():
    whole = [step._replace(obs=step.obs.astype(np.int32)) for step in vectors()]
    agent = study(EnvSpaces(LINE, COIN, {}), whole)
    assert agent.inputs(torch.arange(3))[0].dtype == torch.float32
    assert math.isfinite(agent.update(None)["losses/bc_loss"])


def test_the_update_through_torch_as_on_a_gpu_is_that_through_numpy(monkeypatch):
    outcomes = []
    for library in ("numpy", "torch"):
        agent = study(EnvSpaces(LINE, COIN, {}), vectors([3] * 20), lr=0.1, fast=library == "numpy")
        if library == "torch":
            monkeypatch.setattr(arrays, "arrays", lambda *tensors: (torch, [t.detach() for t in tensors]))
        metrics = agent.update(None)
        outcomes.append((agent.fit.parameters.detach().clone(), {tag: float(value) for tag, value in metrics.items()}))
    (parameters, metrics), (others, other_metrics) = outcomes
    torch.testing.assert_close(parameters, others, atol=1e-5, rtol=1e-3)
    assert metrics == pytest.approx(other_metrics, rel=1e-3, abs=1e-5)


CUES = np.where(np.arange(60) % 2 == 0, 1.0, -1.0)[:, None].astype(np.float32)
DARK = (CUES[:, 0] < 0).astype(np.int64)
PICTURES = {
    "picture": np.where(CUES > 0, 255, 0).astype(np.uint8)[:, :, None, None] * np.ones((1, 1, 8, 8), np.uint8),
    "pair": (np.ones(60, np.int64), np.tile(np.array([0, 1], np.int8), (60, 1))),
}
WORST = [
    ("MatchObservation", CUES, DARK, 0.0),
    ("MatchVector", CUES, -0.5 * CUES, -0.9),
    ("MatchBits", CUES, np.stack([DARK, 1 - DARK], 1), 0.0),
    ("MatchChoices", CUES, np.stack([DARK, 2 * DARK], 1), 0.0),
    ("NestedObservation", PICTURES, DARK, 0.0),
]


@pytest.mark.parametrize(("env_id", "obs", "actions", "most"), WORST, ids=[row[0] for row in WORST])
def test_the_worst_behavior_is_cloned_in_every_space(env_id, obs, actions, most):
    """The demonstrations do the opposite of what is rewarded, so that no reward can have been learned from."""
    envs = make_vec_envs(EnvConfig(f"tests.probe_envs:{env_id}-v0", normalize_env=False), 8, seed=0)
    epochs = 4 if env_id == "NestedObservation" else 30
    agent = study(envs.spaces, one_step_episodes(obs, actions), lr=1e-2, batch_size=8, epochs=epochs)
    while not agent.finished:
        metrics = agent.update(None)
        assert all(math.isfinite(float(value)) for value in metrics.values())
    assert evaluate(agent, envs, 16)["returns"].mean() <= most


def test_demonstrations_without_noise_do_not_break_the_likelihood():
    """The deviation of a Gaussian that fits exactly falls for ever; means and losses must survive that."""
    env_spaces = EnvSpaces(LINE, spaces.Box(-1, 1, (2,), np.float32), {})
    actions = np.concatenate([0.5 * CUES, np.full_like(CUES, 0.3)], 1)
    agent = study(env_spaces, one_step_episodes(CUES, actions), lr=1e-2, batch_size=8, epochs=60, patience=60)
    while not agent.finished:
        metrics = agent.update(None)
        assert all(math.isfinite(float(value)) for value in metrics.values())
    assert float(metrics["losses/mean_squared_error"]) < 1e-3
    assert metrics["losses/validation_loss"] < -4
