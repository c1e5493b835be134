"""BCO: actions that are inferred, never read; true successors; iterations; resuming; flags."""

import dataclasses
import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from a2c_ppo_acktr import algo, experts
from a2c_ppo_acktr.algo.bco import BCOConfig, InverseModel
from a2c_ppo_acktr.envs import EnvConfig, make_vec_envs
from a2c_ppo_acktr.experts.files import Trajectory, save
from a2c_ppo_acktr.interfaces import EnvSpaces
from a2c_ppo_acktr.seeding import seed_everything
from a2c_ppo_acktr.utils import UsageError
from evaluate import evaluate
from tests.demonstrations import COIN, LINE, padded, trajectory
from tests.probe_envs import ProbeEnv
from tests.test_loop import assert_same_state


class Walk(ProbeEnv):
    """A place in the plane that the action moves; reward is the move to the right. Episodes end at random."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space: spaces.Space = spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        gym.Env.reset(self, seed=seed)
        self.place = self.np_random.uniform(-1, 1, 2)
        return self.observe(), {}

    def observe(self):
        return self.place.astype(np.float32)

    @staticmethod
    def move(actions):
        """The change of place, `[B, 2]`, by actions `[B]`."""
        return 0.1 * np.stack([actions - 1.0, np.zeros(len(actions))], 1)

    def step(self, action):
        change = self.move(np.asarray(action)[None])[0]
        self.place = self.place + change
        terminated, truncated = self.np_random.random(2) < 0.1
        return self.observe(), float(change[0]), bool(terminated), bool(truncated), {}

    def get_state(self):
        return {"place": self.place.tolist()}

    def set_state(self, state):
        self.place = np.array(state["place"])


class WalkByVector(Walk):
    action_space = spaces.Box(-1, 1, (2,), np.float32)

    @staticmethod
    def move(actions):
        return 0.1 * np.clip(actions, -1, 1)


class WalkByChoices(Walk):
    action_space = spaces.MultiDiscrete([2, 3])

    @staticmethod
    def move(actions):
        return 0.1 * (actions - np.array([0.5, 1.0]))


class WalkByBits(Walk):
    action_space = spaces.MultiBinary(2)

    @staticmethod
    def move(actions):
        return 0.1 * (actions - 0.5)


WALKS = {cls.__name__: cls for cls in (Walk, WalkByVector, WalkByChoices, WalkByBits)}
for name, cls in WALKS.items():
    gym.register(f"{name}-v0", entry_point=cls)
LEFT = {
    "Walk": np.array(0),
    "WalkByVector": np.array([-0.8, 0.5], np.float32),
    "WalkByChoices": np.array([0, 2]),
    "WalkByBits": np.array([0, 1]),
}
"""Actions that lead away from the reward."""


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def walks(name, choose, episodes=20, length=8):
    """Demonstrations of `choose(generator) -> action` from random places."""
    generator, trajectories = np.random.default_rng(0), []
    for _ in range(episodes):
        actions = np.stack([choose(generator) for _ in range(length)])
        places = generator.uniform(-1, 1, 2) + np.concatenate([np.zeros((1, 2)), WALKS[name].move(actions).cumsum(0)])
        ended = np.arange(length) == length - 1
        trajectories.append(
            Trajectory(places.astype(np.float32), actions, np.zeros(length), ended, ~ended & False, 0.0)
        )
    save("shown.npz", trajectories)


def make(name, change=lambda demonstrations: demonstrations, normalize=True, **config):
    """An agent that has read `shown.npz`, its environments, storage and collector."""
    seed_everything(0)
    envs = make_vec_envs(EnvConfig(f"tests.test_bco:{name}-v0", normalize_env=normalize), 4, seed=0)
    agent = algo.make("bco", BCOConfig(**config), envs.spaces)
    shown = experts.load("shown.npz").check(envs.observation_space, envs.action_space)
    agent.imitate(change(shown), envs.normalizer)
    storage = agent.make_storage(100, 4)
    return agent, envs, storage, agent.make_collector(envs, storage)


def iterate(agent, storage, collector, updates=1):
    for _ in range(updates):
        agent.schedule(collector.env_steps, 10**6)
        collector.collect()
        metrics = agent.update(storage)
        storage.after_update()
    return metrics


FAST = {"epochs": 40, "patience": 4, "inverse_lr": 1e-2, "lr": 1e-2}


@pytest.mark.parametrize("name", WALKS)
def test_the_model_learns_the_dynamics_and_its_actions_are_the_true_ones(name):
    space = WALKS[name].action_space
    space.seed(0)
    walks(name, lambda generator: space.sample())
    agent, _, storage, collector = make(name, **FAST)
    metrics = iterate(agent, storage, collector)
    true = agent.cloning.demonstrations.actions
    if name == "WalkByVector":
        np.testing.assert_allclose(agent.cloning.actions, true, atol=0.1)
        assert float(metrics["losses/inverse_mean_squared_error"]) < 0.01
    else:
        assert (agent.cloning.actions.numpy() == true).all()
        assert float(metrics["losses/inverse_accuracy"]) == 1.0
    assert len(np.unique(true, axis=0)) > 2


@pytest.mark.parametrize("name", WALKS)
def test_the_worst_behavior_is_imitated_from_observations(name):
    walks(name, lambda generator: LEFT[name])
    agent, envs, storage, collector = make(name, **FAST, alpha=0)
    iterate(agent, storage, collector)
    assert agent.finished
    obs = torch.from_numpy(envs.reset())
    action = agent.act(obs, agent.initial_carry(4), torch.zeros(4), {}, explore=False).action
    np.testing.assert_allclose(action, np.broadcast_to(LEFT[name], action.shape), atol=0.1)
    assert evaluate(agent, envs, 8)["returns"].mean() < 0


@pytest.mark.parametrize("name", ["Walk", "WalkByVector"])
def test_the_demonstrations_actions_are_never_read(name):
    walks(name, lambda generator: LEFT[name])

    def poison(demonstrations):
        return dataclasses.replace(demonstrations, actions=np.full(len(demonstrations), math.nan))

    states = []
    for change in (lambda demonstrations: demonstrations, poison):
        agent, _, storage, collector = make(name, change, epochs=2)
        iterate(agent, storage, collector, 2)
        states.append(agent.state_dict())
    assert_same_state(*states)


@pytest.mark.parametrize("name", WALKS)
def test_a_step_leads_to_its_true_successor_whether_or_not_its_episode_ended(name):
    walks(name, lambda generator: LEFT[name])
    agent, _, storage, collector = make(name, normalize=False)
    for _ in range(3):
        collector.collect()
    rows = np.flatnonzero(storage.valid)
    obs, next_obs, actions = agent.transitions(torch.from_numpy(rows))
    assert len(rows) == 3 * 100 * 4
    assert storage.slots.ended[rows].sum() > 100
    np.testing.assert_allclose(next_obs - obs, WALKS[name].move(actions.numpy()), atol=1e-6)
    assert not isinstance(WALKS[name].action_space, spaces.Box) or actions.abs().max() == 1


def test_pairs_of_demonstrated_observations_are_of_one_episode_and_known(tmp_path):
    save("shown.npz", [trajectory(0, 3), trajectory(1, 2)])
    torch.save({name: torch.as_tensor(array) for name, array in padded((3, 1, 2), discrete=True).items()}, "up.pt")
    cases = [
        ("shown.npz", LINE, [0, 1, 2, 100, 101], [1, 2, -3, 101, -102]),
        ("up.pt", spaces.Box(-np.inf, np.inf, (2,)), [0, 1, 200], [1, 2, 201]),
    ]
    for source, space, before, after in cases:
        env_spaces = EnvSpaces(space, COIN, {})
        agent = algo.make("bco", BCOConfig(), env_spaces)
        agent.imitate(experts.load(source).check(space, COIN), None)
        assert agent.cloning.demonstrations.obs[:, 0].tolist() == before
        assert agent.cloning.demonstrations.next_obs[:, 0].tolist() == after
        assert sorted([*agent.cloning.training.tolist(), *agent.cloning.held_out.tolist()]) == list(range(len(before)))


def test_demonstrations_without_any_pair_are_refused():
    torch.save({name: torch.as_tensor(array) for name, array in padded((1, 1), discrete=True).items()}, "up.pt")
    space = spaces.Box(-np.inf, np.inf, (2,))
    agent = algo.make("bco", BCOConfig(), EnvSpaces(space, COIN, {}))
    with pytest.raises(UsageError, match=r"up\.pt.*next observation"):
        agent.imitate(experts.load("up.pt").check(space, COIN), None)


def test_changes_are_scaled_over_the_demonstrations_and_what_never_changes_is_not():
    model = InverseModel(EnvSpaces(spaces.Box(-1, 1, (3,), np.float32), COIN, {}), [8])
    obs = torch.randn(100, 3)
    change = torch.randn(100, 3) * torch.tensor([1e-3, 5.0, 0.0]) + torch.tensor([1.0, 0.0, 2.0])
    model.calibrate(obs, obs + change)
    seen = []
    model.layers.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    model(obs, obs + change)
    torch.testing.assert_close(seen[0][:, :3], obs)
    torch.testing.assert_close(seen[0][:, 3:].mean(0), torch.zeros(3), atol=1e-3, rtol=0)
    torch.testing.assert_close(seen[0][:, 3:5].std(0, correction=0), torch.ones(2), atol=1e-3, rtol=0)
    assert seen[0][:, 5].abs().max() < 1e-5


def test_images_are_read_as_they_are_stacked():
    """Pictures that get brighter or darker, 4x4 and stacked twice: the change says what was done."""
    env_spaces = EnvSpaces(spaces.Box(0, 255, (2, 4, 4), np.uint8), COIN, {}, frame_stack=2)
    trajectories, generator = [], np.random.default_rng(0)
    for _ in range(20):
        actions = generator.integers(0, 2, 6)
        light = 120 + np.concatenate([[0], (20 * (2 * actions - 1)).cumsum()])
        ended = np.arange(6) == 5
        pictures = np.broadcast_to(light[:, None, None, None], (7, 1, 4, 4)).astype(np.uint8)
        trajectories.append(Trajectory(pictures, actions, np.zeros(6), ended, ~ended & False, 0.0))
    save("shown.npz", trajectories, frame_stack=2)
    seed_everything(0)
    agent = algo.make("bco", BCOConfig(epochs=12), env_spaces)
    shown = experts.load("shown.npz").check(env_spaces.observation, COIN)
    agent.imitate(shown, None)
    known, true = agent.cloning.demonstrations, torch.from_numpy(shown.actions)
    obs, next_obs = agent.cloning.seen(known.obs), agent.cloning.seen(known.next_obs)
    assert torch.equal(obs[1:, 1][~shown.terminated[:-1]], next_obs[:-1, 1][~shown.terminated[:-1]])
    agent.transitions = lambda rows: (obs[rows], next_obs[rows], true[rows])
    rows = torch.arange(len(true))
    while not agent.inverse_fit.finished:
        agent.inverse_fit.epoch(rows, rows[:0])
    assert (agent.infer() == true).float().mean() > 0.95


def test_a_policy_that_has_been_learned_gets_no_worse():
    """Each fit counts what it began with: else the first epoch's parameters would always take its place."""
    walks("Walk", lambda generator: generator.integers(0, 3))  # chance, so that there is nothing to be learned
    agent, _, storage, collector = make("Walk", epochs=40, patience=2, lr=0.1, inverse_lr=1e-2)
    losses, actions = [], []
    for _ in range(4):
        losses.append(iterate(agent, storage, collector)["losses/validation_loss"])
        actions.append(agent.cloning.actions)
    assert all(torch.equal(some, actions[0]) for some in actions)
    assert losses == sorted(losses, reverse=True)


def test_alpha_is_the_interaction_of_later_updates_relative_to_the_first():
    walks("Walk", lambda generator: LEFT["Walk"])
    agent, _, storage, collector = make("Walk", epochs=1, alpha=0.25)
    steps = []
    for _ in range(3):
        before = collector.env_steps
        iterate(agent, storage, collector)
        steps.append(collector.env_steps - before)
    assert steps == [400, 100, 100]
    assert not agent.finished
    assert storage.valid.sum() == 600


def test_what_is_held_out_of_the_agents_own_steps_stays_held_out():
    walks("Walk", lambda generator: LEFT["Walk"])
    agent, _, storage, collector = make("Walk", epochs=1, validation=0.2)
    seen, original = [], agent.inverse_fit.epoch
    agent.inverse_fit.epoch = lambda *rows: seen.append(rows) or original(*rows)
    iterate(agent, storage, collector, 2)
    (first, first_out), (second, second_out) = [[set(rows.tolist()) for rows in pair] for pair in seen]
    assert first < second
    assert first_out < second_out
    assert not second & second_out
    assert len(second_out) == pytest.approx(0.2 * storage.valid.sum(), rel=0.3)


def test_the_latest_steps_alone_are_learned_from():
    walks("Walk", lambda generator: LEFT["Walk"])
    agent, _, storage, collector = make("Walk", epochs=1, buffer_size=200)
    iterate(agent, storage, collector, 2)
    assert 100 < storage.valid.sum() < 200
