"""The replay against lists of whole episodes: what is sampled is what happened, and nothing else is."""

import functools
import io
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from a2c_ppo_acktr import checkpoint
from a2c_ppo_acktr import replay as replay_module
from a2c_ppo_acktr.collect import Stepper
from a2c_ppo_acktr.interfaces import Decision, EndedArrays, EnvSpaces, StepArrays
from a2c_ppo_acktr.replay import Replay, available_memory, check_memory
from a2c_ppo_acktr.slots import row_bytes
from a2c_ppo_acktr.spaces import space_map, tree_map
from a2c_ppo_acktr.utils import UsageError
from a2c_ppo_acktr.vec_wrappers import FrameStackEnvs

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
    assert (np.abs(found.numpy() - expected) < 2e-5).all(), (found, expected)


class Scripted:
    """N environments that end at random. Every episode stays in `episodes[env]`, the last one is running.

    The first three numbers of an observation say which one it is: environment, episode, time, each counted from 1.
    """

    signals, signal_spaces, normalizer, camera, backend, state_kind, frame_stack = {}, {}, None, None, "dummy", "", 1
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
        capacity = num_envs * (n_step + self.stack + 2) + extra
        self.size = capacity // num_envs
        settings = {"n_step": n_step, "gamma": GAMMA, "alpha": alpha, "saved": True}
        self.empty = lambda: Replay(capacity, num_envs, 1, self.spaces, **settings)
        self.replay = self.empty()
        self.window = functools.cache(self.window)
        self.begin()

    def begin(self):
        """Reset the environments."""

        def act(obs, carry, masks, signals, explore):
            return Decision(torch.from_numpy(self.rng.integers(0, 1000, self.num_envs)), carry, {})

        algorithm = SimpleNamespace(
            device="cpu", act=act, initial_carry=lambda num: torch.zeros(num, 0), observe=lambda carry, step: carry
        )
        self.stepper = Stepper(self.wrapped, algorithm)

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
        obs = batch.obs["picture"] if isinstance(batch.obs, dict) else batch.obs
        newest = obs[:, -(obs.shape[1] // self.stack) :]
        return list(map(tuple, newest.flatten(1)[:, :3].int().tolist()))

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


@settings(deadline=None, max_examples=50)
@given(games())
def test_every_sampled_window_is_one_that_happened_and_every_one_is_sampled(game):
    for _ in range(60):
        game.step()
        windows = game.windows()
        assert len(game.replay) == len(windows)
        if windows:
            game.check(game.replay.sample(32), windows)
    everything = game.replay.sample(40 * len(windows))
    assert set(game.keys(everything)) == set(windows)


@settings(deadline=None, max_examples=30)
@given(games(alpha=st.sampled_from([0.3, 1.0]), kind=st.sampled_from(["vector", "stack of 4"])), st.floats(0, 1))
def test_weights_are_priorities_to_alpha_and_importances_undo_them(game, beta):
    replay, priorities, largest, recent = game.replay, {}, 1.0, []
    for _ in range(40):
        game.step()
        windows = game.windows()
        priorities = {key: priorities.get(key, largest) for key in windows}  # new ones get the largest
        expected = np.zeros(len(replay.tree.leaves))
        for key, row in windows.items():
            expected[row] = priorities[key] ** replay.alpha
        np.testing.assert_allclose(replay.tree.leaves, expected, rtol=1e-9)
        if not windows:
            continue
        batch = replay.sample(8, beta)
        chances = expected[batch.rows] / expected.sum()
        importances = (len(windows) * chances) ** -beta
        np.testing.assert_allclose(batch.weights, importances / importances.max(), rtol=1e-5)
        recent.append(batch.rows)
        owners = {row: key for key, row in windows.items()}
        for rows in (batch.rows, recent[game.rng.integers(len(recent))]):  # of the latter some are overwritten
            given_back = game.rng.random(8) * game.rng.choice([0.0, 1.0, 3.0])
            replay.update_priorities(rows, given_back)
            for row, priority in zip(rows, given_back, strict=True):
                largest = max(largest, priority + 1e-6)
                if row in owners:
                    priorities[owners[row]] = priority + 1e-6


def test_windows_are_sampled_in_proportion_to_priority_to_alpha():
    game = Game(n_step=2, ends=0.0, extra=12, alpha=0.5)
    for _ in range(12):
        game.step()
    rows = np.array(sorted(game.windows().values()))
    game.replay.update_priorities(rows, np.arange(len(rows)) ** 2.0)
    drawn = np.concatenate([game.replay.sample(7).rows for _ in range(3000)])
    counts = np.array([(drawn == row).sum() for row in rows])
    expected = len(drawn) * np.arange(len(rows)) / np.arange(len(rows)).sum()
    assert len(rows) == 11
    assert (np.abs(counts - expected) < 5 * np.sqrt(expected) + 20 * (expected == 0)).all()


def test_priorities_of_overwritten_windows_and_of_final_observations_stay_zero():
    game = Game(n_step=1, ends=0.9, extra=4, alpha=0.6)
    for _ in range(20):
        game.step()
    every = np.arange(game.size)
    valid = np.isin(every, list(game.windows().values()))
    game.replay.update_priorities(every, np.full(game.size, 3.0))
    assert 0 < valid.sum() < game.size - 1
    assert (game.replay.tree.leaves[every[~valid]] == 0).all()
    np.testing.assert_allclose(game.replay.tree.leaves[every[valid]], 3.000001**0.6)


def test_priorities_of_another_shape_are_refused():
    game = Game(alpha=0.6)
    game.step()
    with pytest.raises(AssertionError):
        game.replay.update_priorities(np.zeros(3, np.int64), np.ones((3, 1)))


def test_uniform_windows_weigh_one():
    game = Game(num_envs=2)
    game.step()
    assert game.replay.sample(5, beta=0.7).weights.tolist() == [1.0] * 5


def assert_same_samples(one, other, seed):
    batches = []
    for replay in (one, other):
        np.random.seed(seed)
        batches.append(replay.sample(16, 0.5))
    for a, b in zip(*batches, strict=True):
        tree_map(np.testing.assert_array_equal, a, b)
    return batches[0]


@settings(deadline=None, max_examples=30)
@given(games(), st.integers(0, 40))
def test_a_loaded_replay_samples_the_same_now_and_after_the_same_steps(game, steps):
    for step in range(steps):
        game.step()
        if game.replay.tree is not None and len(game.replay):
            game.replay.update_priorities(game.replay.sample(4).rows, game.rng.random(4) * step)
    loaded = game.empty()
    assert loaded.load_state_dict(through_a_file(game.replay.state_dict()))
    for more in range(30):
        assert len(loaded) == len(game.replay) == len(game.windows())
        assert loaded.fill == game.replay.fill
        if len(loaded):
            batch = assert_same_samples(game.replay, loaded, more)
            if loaded.tree is not None:
                priorities = game.rng.random(16) * more
                for replay in (game.replay, loaded):
                    replay.update_priorities(batch.rows, priorities)
        game.step(loaded)


def resume_anew(game):
    """Load into an empty replay while the environments begin new episodes."""
    state = through_a_file(game.replay.state_dict())
    game.replay = game.empty()
    assert game.replay.load_state_dict(state)
    game.begin()


@settings(deadline=None, max_examples=40)
@given(games(), st.lists(st.integers(0, 25), min_size=1, max_size=3))
def test_where_a_resumed_run_begins_anew_episodes_are_cut_and_bootstrapped(game, runs):
    """Windows of fewer than n steps before the cut may be kept or not."""
    for steps in (*runs, 0):
        for _ in range(steps):
            game.step()
        resume_anew(game)
        for _ in range(8):
            game.step()
            least, most = game.windows(), game.windows(of_cut=True)
            assert len(least) <= len(game.replay) <= len(most)
            if len(game.replay):
                game.check(game.replay.sample(32), most)
        if least:
            assert set(game.keys(game.replay.sample(40 * len(most)))) >= set(least)


@pytest.mark.parametrize("n_step", [1, 2, 3])
def test_the_first_step_after_a_cut_is_no_window_before_it_has_n_steps(n_step):
    """The ring is full: where the new episode begins an old window lay."""
    game = Game(n_step=n_step, ends=0.0)
    for _ in range(3 * game.size):
        game.step()
    resume_anew(game)
    game.step()
    new = game.envs.begun[0]
    sampled = game.replay.sample(500)
    assert ((1, new, 1) in game.keys(sampled)) == (n_step == 1)
    assert len(game.replay) == len({tuple(key) for key in game.keys(sampled)})
    game.check(sampled, game.windows(of_cut=True))


def test_the_window_that_ends_with_a_cut_is_worth_its_next_observation():
    game = Game(n_step=2, ends=0.0, extra=20, kind="stack of 4")
    for _ in range(5):
        game.step()
    resume_anew(game)
    for _ in range(5):
        game.step()
    batch = game.replay.sample(200)
    last = game.keys(batch).index((1, 1, 4))  # the steps at times 4 and 5, then the cut
    assert batch.discounts[last].item() == pytest.approx(GAMMA**2)
    np.testing.assert_array_equal(batch.next_obs[last], game.observation(game.envs.episodes[0][0], 5))
    first = game.keys(batch).index((1, 2, 1))
    assert (batch.obs[first, :3] == 0).all()


@pytest.mark.parametrize("other", [{"n_step": 1, "extra": 2}, {"num_envs": 1}, {"extra": 2}, {"alpha": 0.5}])
def test_contents_of_another_layout_are_not_loaded(other):
    game, another = Game(num_envs=2, n_step=2), Game(**{"num_envs": 2, "n_step": 2} | other)
    for _ in range(5):
        game.step()
    assert not another.replay.load_state_dict(game.replay.state_dict())
    assert len(another.replay) == 0
    another.step()
    another.step()
    assert len(another.replay) == len(another.windows()) > 0


def test_what_is_not_to_be_saved_has_no_state():
    assert Replay(40, 1, 1, EnvSpaces(VECTOR, spaces.Discrete(2), {})).state_dict() is None


def test_actions_of_several_numbers_come_back():
    action = spaces.Box(-1, 1, (2,), np.float32)
    game = Game(n_step=3, extra=9, ends=0.0)
    game.replay = Replay(20, 1, 1, game.spaces._replace(action=action), n_step=3)
    actions = []
    for _ in range(12):
        step, _ = game.stepper.step(explore=True)
        actions.append(torch.randn(1, 2))
        game.replay.insert(step._replace(action=actions[-1]))
    batch = game.replay.sample(50)
    times = [time - 1 for _, _, time in game.keys(batch)]
    assert torch.equal(batch.actions, torch.cat(actions)[times])


def test_new_steps_count_all_environments_since_the_last_update():
    game = Game(num_envs=3)
    for _ in range(4):
        game.step()
    assert game.replay.new_steps == 12
    game.replay.after_update()
    game.step()
    assert game.replay.new_steps == 3


def test_fill_grows_to_one():
    game = Game(n_step=5, ends=0.0)  # 8 slots
    fills = []
    for _ in range(9):
        game.step()
        fills.append(game.replay.fill)
    assert fills == [2 / 8, 3 / 8, 4 / 8, 5 / 8, 6 / 8, 7 / 8, 1, 1, 1]


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_an_empty_replay_is_not_sampled(alpha):
    with pytest.raises(AssertionError, match="empty"):
        Game(alpha=alpha).replay.sample(1)


def test_a_replay_smaller_than_a_window_is_refused():
    env_spaces = EnvSpaces(VECTOR, spaces.Discrete(2), {})
    Replay(2 * (3 + 1 + 2), 2, 1, env_spaces, n_step=3)
    with pytest.raises(UsageError, match="--buffer-size 11: expected at least 12"):
        Replay(11, 2, 1, env_spaces, n_step=3)


ATARI = EnvSpaces(spaces.Box(0, 255, (4, 84, 84), np.uint8), spaces.Discrete(6), {}, 4)


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_a_million_atari_steps_fit_into_7_and_a_half_gigabytes(alpha):
    replay = Replay(1000, 1, 1, ATARI, alpha=alpha)
    assert row_bytes(ATARI) <= replay.row_bytes < 7500
    assert replay.describe() == "replay: 1,000 observations, 0.0071 GB when full"


@pytest.mark.parametrize(("env_spaces", "alpha"), [(ATARI, 0.0), (EnvSpaces(VECTOR, spaces.Discrete(2), {}), 0.5)])
def test_no_more_is_allocated_than_is_said(env_spaces, alpha):
    replay = Replay(20_000, 1, 1, env_spaces, alpha=alpha)
    slots = replay.slots
    arrays = [slots.obs_views, slots.action_views, slots.rewards, slots.terminated, slots.ended, slots.first]
    arrays += [slots.acted, replay.valid, *(replay.tree.levels if replay.tree is not None else [])]
    used = sum(array.nbytes for array in arrays)
    assert 0.9 * 20_000 * replay.row_bytes < used <= 20_000 * replay.row_bytes


def test_what_does_not_fit_is_refused_with_what_would(monkeypatch):
    monkeypatch.setattr(replay_module, "available_memory", lambda: 5_000_000_000)
    check_memory(5_000_000, 1000)
    with pytest.raises(UsageError, match=r"--buffer-size 5000001: needs 5\.0 GB and 5\.0 GB .* at most 5000000 fit"):
        check_memory(5_000_001, 1000)
    with pytest.raises(UsageError, match=r"--buffer-size 1000000: needs 7\.1 GB and 5\.0 GB are free; at most 70"):
        Replay(1_000_000, 1, 1, ATARI)


@pytest.mark.parametrize(
    ("limit", "free"), [(None, 9000), ("max\n", 9000), ("5000\n", 2000), ("11000\n", 8000), ("99000\n", 9000)]
)
def test_available_memory_is_the_containers_where_that_is_less(monkeypatch, tmp_path, limit, free):
    monkeypatch.setattr(replay_module, "CGROUP", tmp_path)
    monkeypatch.setattr(replay_module.psutil, "virtual_memory", lambda: SimpleNamespace(available=9000))
    if limit is not None:
        (tmp_path / "memory.max").write_text(limit)
        (tmp_path / "memory.current").write_text("3000\n")
    assert available_memory() == free


def test_memory_that_only_holds_files_is_free(monkeypatch, tmp_path):
    monkeypatch.setattr(replay_module, "CGROUP", tmp_path)
    monkeypatch.setattr(replay_module.psutil, "virtual_memory", lambda: SimpleNamespace(available=9000))
    (tmp_path / "memory.max").write_text("5000\n")
    (tmp_path / "memory.current").write_text("4000\n")
    (tmp_path / "memory.stat").write_text("anon 1500\ninactive_file 2500\n")
    assert available_memory() == 5000 - (4000 - 2500)
    (tmp_path / "memory.current").write_text("9000\n")
    assert available_memory() == 0
