"""Environments that play at random, and what a replay must know of them."""

import functools
import io
from types import SimpleNamespace

import numpy as np
import torch
from gymnasium import spaces
from hypothesis import strategies as st

from a2c_ppo_acktr.acting.collect import Stepper
from a2c_ppo_acktr.envs.vec_wrappers import FrameStackEnvs
from a2c_ppo_acktr.interfaces import Decision, EndedArrays, EnvSpaces, StepArrays
from a2c_ppo_acktr.run import checkpoint
from a2c_ppo_acktr.spaces import space_map, tree_map
from a2c_ppo_acktr.storage.replay import Replay

GAMMA = 0.9
IMAGE, PAIR = spaces.Box(0, 255, (1, 3, 3), np.uint8), spaces.Box(0, 255, (2, 1, 3), np.uint8)
VECTOR = spaces.Box(-np.inf, np.inf, (4,), np.float64)
KINDS = {
    "vector": (VECTOR, 1),
    "nested": (spaces.Dict({"picture": IMAGE, "vector": VECTOR, "flags": spaces.MultiBinary(3)}), 1),
    "image": (IMAGE, 1),
    "stack of 4": (IMAGE, 4),
    "stack of 2 with 2 channels": (PAIR, 2),
}
"""Observation space, and how many of them are stacked."""


def stacked(trees):
    return tree_map(lambda *leaves: np.stack(leaves), *trees)


def assert_close(found, expected):
    assert found.shape == expected.shape
    assert (np.abs(np.asarray(found) - expected) < 2e-5).all(), (found, expected)


class Scripted:
    """N environments that end at random. Every episode stays in `episodes[env]`, the last one is running.

    The first three numbers of an observation say which one it is: environment, episode, time, each counted from 1.
    """

    signals, signal_spaces, normalizer, camera, backend, state_kind, frame_stack = {}, {}, None, None, "dummy", "", 1
    original = None
    action_space = spaces.Discrete(1000)

    def __init__(self, num_envs, space, ends, rng):
        self.num_envs, self.observation_space, self.ends, self.rng = num_envs, space, ends, rng
        self.episodes, self.begun = [[] for _ in range(num_envs)], [0] * num_envs

    def get_attr(self, name, indices=None):
        return [None] * self.num_envs

    def observe(self, env):
        episode = self.episodes[env][-1]
        code = env + 1, episode.number, len(episode.seen) + 1

        def leaf(space):
            values = self.rng.integers(0, 2 if isinstance(space, spaces.MultiBinary) else 255, space.shape)
            if isinstance(space, spaces.Box):
                values.reshape(-1)[:3] = code
            return values.astype(space.dtype)

        episode.seen.append(space_map(leaf, self.observation_space))
        return episode.seen[-1]

    def begin(self, env):
        self.begun[env] += 1
        self.episodes[env].append(
            SimpleNamespace(number=self.begun[env], seen=[], actions=[], rewards=[], end="running")
        )
        return self.observe(env)

    def reset(self):
        for episodes in self.episodes:  # what runs is cut; where nothing was done yet, nothing is known of it
            if episodes and episodes[-1].actions:
                episodes[-1].end = "cut"
            elif episodes:
                episodes.pop()
        return stacked([self.begin(env) for env in range(self.num_envs)])

    def step_arrays(self, actions):
        chance = 1.0 if self.ends and self.rng.random() < 0.05 else self.ends  # now and then they end all at once
        rewards = self.rng.integers(-9, 10, self.num_envs).astype(np.float32)
        terminated, truncated = self.rng.random((2, self.num_envs)) < chance / 2
        obs, final = [], []
        for env in range(self.num_envs):
            episode = self.episodes[env][-1]
            episode.actions.append(actions[env])
            episode.rewards.append(rewards[env])
            obs.append(self.observe(env))
            if terminated[env] or truncated[env]:
                episode.end = "terminated" if terminated[env] else "truncated"
                final.append(obs[env])
                obs[env] = self.begin(env)
        (envs,) = (terminated | truncated).nonzero()
        ended = EndedArrays(envs, stacked(final), np.zeros(len(envs)), np.zeros(len(envs))) if final else None
        return StepArrays(stacked(obs), rewards, terminated, truncated, ended, {})


class Game:
    """Random play of scripted environments into a replay, and what must be in it."""

    def __init__(self, seed=0, num_envs=1, n_step=1, kind="vector", ends=0.1, extra=0, alpha=0.0):
        self.rng, self.num_envs, self.n_step = np.random.default_rng(seed), num_envs, n_step
        np.random.seed(seed)
        space, self.stack = KINDS[kind]
        self.envs = self.wrapped = Scripted(num_envs, space, ends, self.rng)
        self.spaces = EnvSpaces(space, self.envs.action_space, {})
        if self.stack > 1:
            self.wrapped = FrameStackEnvs(self.envs, self.stack)
            self.spaces = self.wrapped.spaces
        self.settings = {"n_step": n_step, "gamma": GAMMA, "alpha": alpha, "saved": True}
        self.extra = extra
        self.replay = self.empty()
        self.size = self.replay.slots.size
        self.window = functools.cache(self.window)
        self.begin()

    def empty(self):
        """A replay of this game."""
        capacity = self.num_envs * (self.n_step + self.stack + 2) + self.extra
        return Replay(capacity, self.num_envs, 1, self.spaces, **self.settings)

    def begin(self):
        """Reset the environments. The carry says which observation was read last."""

        def act(obs, carry, masks, signals, explore):
            codes = torch.tensor([self.code(obs, env) for env in range(self.num_envs)], dtype=torch.float32)
            return Decision(torch.from_numpy(self.rng.integers(0, 1000, self.num_envs)), codes, {})

        algorithm = SimpleNamespace(
            device="cpu", act=act, initial_carry=lambda num: torch.zeros(num, 3), observe=lambda carry, step: carry
        )
        self.stepper = Stepper(self.wrapped, algorithm)

    def code(self, obs, row):
        """The first three numbers of the newest image or of a vector."""
        leaf = obs["picture"] if isinstance(obs, dict) else obs
        newest = leaf[row, -(leaf.shape[1] // self.stack) :]
        return tuple(newest.flatten()[:3].int().tolist())

    def step(self, *others):
        """One step of all environments, into other replays too."""
        step, _ = self.stepper.step(explore=True)
        for replay in (self.replay, *others):
            replay.insert(step)

    def windows(self, of_cut=False):
        """Which (environment, episode, time) a window begins at, to its row.

        It has n steps or ends with its episode, and the ring still holds the images that its first observation stacks.

        Args:
            of_cut: whether windows of fewer than n steps end with a cut too.
        """
        found, ends = {}, ("terminated", "truncated", "cut") if of_cut else ("terminated", "truncated")
        for env, episodes in enumerate(self.envs.episodes):
            place, last = 0, sum(len(episode.seen) for episode in episodes) - 1
            for episode in episodes:
                for t in range(len(episode.actions)):
                    whole = t + self.n_step <= len(episode.actions) or episode.end in ends
                    if whole and place + t - (self.stack - 1) > last - self.size:
                        found[env + 1, episode.number, t + 1] = (place + t) % self.size * self.num_envs + env
                place += len(episode.seen)
        return found

    def observation(self, episode, t):
        """As the environments gave it: black images, then those of the episode."""
        if self.stack == 1:
            return episode.seen[t]
        black = [np.zeros_like(episode.seen[0])] * (self.stack - 1)
        return np.concatenate((black + episode.seen[: t + 1])[-self.stack :])

    def window(self, env, number, time):
        """Observation, action, return, discount, next observation."""
        (episode,) = (episode for episode in self.envs.episodes[env - 1] if episode.number == number)
        t, total, weight = time - 1, 0.0, 1.0
        first = t
        while t < len(episode.actions) and t < first + self.n_step:
            total += weight * episode.rewards[t]
            weight *= GAMMA
            t += 1
        if t == len(episode.actions) and episode.end == "terminated":
            weight = 0.0
        return self.observation(episode, first), episode.actions[first], total, weight, self.observation(episode, t)

    def keys(self, batch):
        return [self.code(batch.obs, row) for row in range(len(batch.rows))]

    def check(self, batch, allowed):
        """Compare sampled windows with what happened."""
        keys = self.keys(batch)
        assert not (wrong := set(keys) - set(allowed)), f"{wrong} are no windows of {sorted(allowed)}"
        assert batch.rows.tolist() == [allowed[key] for key in keys]
        assert batch.weights.shape == batch.returns.shape == batch.discounts.shape == (len(keys),)
        expected = zip(*(self.window(*key) for key in keys), strict=True)
        for found, column in zip(batch[:5], expected, strict=True):
            tree_map(assert_close, found, stacked(column))


def games(**fixed):
    strategies = {
        "seed": st.integers(0, 10**6),
        "num_envs": st.integers(1, 4),
        "n_step": st.integers(1, 5),
        "kind": st.sampled_from(sorted(KINDS)),
        "ends": st.sampled_from([0.0, 0.1, 0.4, 0.9]),
        "extra": st.integers(0, 40),
        "alpha": st.sampled_from([0.0, 0.6]),
    }
    return st.builds(Game, **strategies | fixed)


def through_a_file(state):
    file = io.BytesIO()
    torch.save(checkpoint.to_plain(state), file)
    file.seek(0)
    return torch.load(file, weights_only=True)
