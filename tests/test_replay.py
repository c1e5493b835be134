"""The replay against lists of whole episodes: what is sampled is what happened, and nothing else is."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from a2c_ppo_acktr import memory
from a2c_ppo_acktr.interfaces import EnvSpaces
from a2c_ppo_acktr.memory import available_memory
from a2c_ppo_acktr.storage import replay as replay_module
from a2c_ppo_acktr.storage.replay import Replay, check_memory
from a2c_ppo_acktr.storage.slots import row_bytes
from a2c_ppo_acktr.utils import UsageError
from tests.scripted import VECTOR, Game, games


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
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: SimpleNamespace(available=9000))
    if limit is not None:
        (tmp_path / "memory.max").write_text(limit)
        (tmp_path / "memory.current").write_text("3000\n")
    assert available_memory() == free


def test_a_container_of_the_older_kind_has_a_limit_too(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: SimpleNamespace(available=9000))
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.usage_in_bytes").write_text("3000\n")
    for limit, free in ((9223372036854771712, 9000), (5000, 2000)):
        (tmp_path / "memory" / "memory.limit_in_bytes").write_text(f"{limit}\n")
        assert available_memory() == free


def test_memory_that_only_holds_files_is_free(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: SimpleNamespace(available=9000))
    (tmp_path / "memory.max").write_text("5000\n")
    (tmp_path / "memory.current").write_text("4000\n")
    (tmp_path / "memory.stat").write_text("anon 1500\ninactive_file 2500\n")
    assert available_memory() == 5000 - (4000 - 2500)
    (tmp_path / "memory.current").write_text("9000\n")
    assert available_memory() == 0


def test_a_limit_of_the_process_itself_is_asked_for_too(monkeypatch, tmp_path):
    """As `ulimit -v` sets it: what is left of it is less than the machine has."""
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    process = SimpleNamespace(memory_info=lambda: SimpleNamespace(vms=2000))
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: SimpleNamespace(available=9000))
    monkeypatch.setattr(memory.psutil, "Process", lambda: process)
    monkeypatch.setattr(memory.resource, "getrlimit", lambda _: (5000, 6000))
    assert available_memory() == 3000
