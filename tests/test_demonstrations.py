"""Demonstrations: round trips, what belongs to which step, subsampling, formats, and files with defects."""

import importlib
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from a2c_ppo_acktr import experts
from a2c_ppo_acktr.envs import EnvConfig, make_vec_envs
from a2c_ppo_acktr.experts.files import save
from a2c_ppo_acktr.spaces import tree_map
from a2c_ppo_acktr.utils import UsageError
from tests.demonstrations import COIN, LINE, defect, padded, trajectory, vectors


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "some.npz"
    save(path, vectors(), env_name="Clock-v0")
    return path


def test_every_step_sees_its_own_episode_and_the_last_one_leads_to_the_final_observation(file):
    demos = experts.load(file)
    assert demos.obs.dtype == np.float32
    assert demos.obs[:, 0].tolist() == [0, 1, 2, 100, 200, 201, 202, 203, 204]
    assert demos.next_obs[:, 0].tolist() == [1, 2, -3, -101, 201, 202, 203, 204, -205]
    assert demos.episodes.tolist() == [0] * 3 + [1] + [2] * 5
    assert demos.lengths.tolist() == [3, 1, 5]
    assert demos.returns.tolist() == [4.5, 0.5, 12.5]
    assert demos.rewards.tolist() == [0.5, 1.5, 2.5, 0.5, 0.5, 1.5, 2.5, 3.5, 4.5]
    assert np.flatnonzero(demos.terminated).tolist() == [2, 3, 8]
    assert not demos.truncated.any()
    assert demos.has_next.all()
    assert demos.meta["env_name"] == "Clock-v0"


def test_terminated_and_truncated_are_kept_apart(tmp_path):
    save(tmp_path / "t.npz", [trajectory(0, 3, limit=True), trajectory(1, 2)])
    demos = experts.load(tmp_path / "t.npz")
    assert np.flatnonzero(demos.truncated).tolist() == [2]
    assert np.flatnonzero(demos.terminated).tolist() == [4]


def nested(clock):
    vector, cell = np.stack([clock, -clock], 1), (np.abs(clock) % 5).astype(np.int64)
    return {"a/b": vector, "inner": ({"x": cell}, np.ones((len(clock), 1, 3, 3), np.uint8)), "empty%": cell > 2}


NESTED = spaces.Dict(
    {
        "a/b": spaces.Box(-np.inf, np.inf, (2,)),
        "inner": spaces.Tuple((spaces.Dict(x=spaces.Discrete(5)), spaces.Box(0, 255, (1, 3, 3), np.uint8))),
        "empty%": spaces.Box(0, 1, (), np.bool_),
    }
)


def test_nested_observations_come_back_in_their_structure_names_and_types(tmp_path):
    written = vectors(make=nested)
    save(tmp_path / "n.npz", written)
    demos = experts.load(tmp_path / "n.npz").check(NESTED, COIN)
    expected = tree_map(lambda *leaves: np.concatenate([leaf[:-1] for leaf in leaves]), *(t.obs for t in written))
    tree_map(np.testing.assert_array_equal, demos.obs, expected)
    assert demos.next_obs["a/b"][3].tolist() == [-101, 101]
    assert demos.obs["inner"][1].dtype == np.uint8
    assert demos.obs["empty%"].dtype == np.bool_


def test_names_with_slashes_are_not_mistaken_for_nested_ones(tmp_path):
    save(tmp_path / "n.npz", vectors(make=lambda clock: {"a/b": clock, "a": {"b": -clock}}))
    demos = experts.load(tmp_path / "n.npz")
    assert demos.obs["a/b"].tolist() == [0, 1, 2, 100, 200, 201, 202, 203, 204]
    np.testing.assert_array_equal(demos.obs["a"]["b"], -demos.obs["a/b"])


def test_stacks_are_rebuilt_from_single_images_and_begin_anew_with_each_episode_and_life(tmp_path):
    def images(clock):
        return np.abs(clock).astype(np.uint8)[:, None, None, None] * np.ones((1, 1, 4, 4), np.uint8)

    written = [trajectory(0, 4, lives=(1,), make=images), trajectory(1, 2, make=images)]
    save(tmp_path / "i.npz", written, frame_stack=3)
    demos = experts.load(tmp_path / "i.npz").check(spaces.Box(0, 255, (3, 4, 4), np.uint8), COIN)
    assert demos.obs.shape == (6, 3, 4, 4)
    assert demos.obs.dtype == np.uint8
    stacks = [[0, 0, 0], [0, 0, 1], [0, 0, 2], [0, 2, 3], [0, 0, 100], [0, 100, 101]]
    assert demos.obs[..., 0, 0].tolist() == stacks
    stacks = [[0, 0, 1], [0, 1, 2], [0, 2, 3], [2, 3, 4], [0, 100, 101], [100, 101, 102]]
    assert demos.next_obs[..., 0, 0].tolist() == stacks
    assert len(demos.lengths) == 2
    with pytest.raises(UsageError, match=r"shape \[3, 4, 4\]"):
        demos.check(spaces.Box(0, 255, (1, 4, 4), np.uint8), COIN)


def test_a_stack_may_be_taller_than_the_whole_file(tmp_path):
    images = trajectory(0, 1, make=lambda clock: np.full((2, 1, 4, 4), 9, np.uint8))
    save(tmp_path / "i.npz", [images], frame_stack=6)
    demos = experts.load(tmp_path / "i.npz")
    assert demos.obs[0, :, 0, 0].tolist() == [0] * 5 + [9]
    assert demos.next_obs[0, :, 0, 0].tolist() == [0] * 4 + [9] * 2


@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=6), subsample=st.integers(1, 15), seed=st.integers(0, 9)
)
@settings(max_examples=60, deadline=None)
def test_subsampling_keeps_every_kth_step_of_every_episode_whatever_its_length(
    tmp_path_factory, lengths, subsample, seed
):
    path = tmp_path_factory.mktemp("demos") / "d.npz"
    save(path, vectors(lengths))
    first = experts.load(path, subsample=subsample)
    assert first.obs[:, 0].tolist() == [100 * e + t for e, n in enumerate(lengths) for t in range(0, n, subsample)]
    demos = experts.load(path, subsample=subsample, generator=np.random.default_rng(seed))
    assert demos.lengths.tolist() == lengths
    for e, length in enumerate(lengths):
        steps = (demos.obs[demos.episodes == e, 0] - 100 * e).tolist()
        assert 0 <= steps[0] < min(subsample, length)
        assert steps == list(range(int(steps[0]), length, subsample))
    final = demos.terminated
    np.testing.assert_array_equal(np.abs(demos.next_obs), demos.obs + 1)
    np.testing.assert_array_equal(demos.next_obs[final] < 0, True)


def test_trajectories_are_the_first_ones_or_chosen_at_random_without_replacement(file):
    assert experts.load(file, 2).obs[:, 0].tolist() == [0, 1, 2, 100]
    chosen = set()
    for seed in range(30):
        demos = experts.load(file, 2, generator=np.random.default_rng(seed))
        assert demos.lengths.sum() == len(demos)
        chosen.add(tuple(demos.lengths.tolist()))
    assert chosen == {(3, 1), (3, 5), (1, 5)}
    assert "holds 3 episodes, 4 were asked for" in defect(file, num_trajectories=4)


@pytest.mark.parametrize("batch_size", [1, 4, 9, 100])
def test_an_epoch_has_every_step_once_in_an_order_of_its_own_also_where_a_batch_is_larger(file, batch_size):
    demos, generator, orders = experts.load(file), np.random.default_rng(0), []
    for _ in range(2):
        batches = list(demos.batches(batch_size, generator))
        assert [len(batch) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
        orders.append(np.concatenate([batch.obs[:, 0] for batch in batches]).tolist())
        for batch in batches:
            np.testing.assert_array_equal(np.abs(batch.next_obs), batch.obs + 1)
            np.testing.assert_array_equal(batch.obs[:, 0] % 100 + 0.5, batch.rewards)
    assert sorted(orders[0]) == sorted(orders[1]) == demos.obs[:, 0].tolist()
    assert orders[0] != orders[1]


def test_upstreams_dictionary_is_read_without_its_padding_and_without_claims_about_its_ends(tmp_path):
    torch.save({name: torch.from_numpy(array) for name, array in padded().items()}, tmp_path / "u.pt")
    demos = experts.load(tmp_path / "u.pt").check(spaces.Box(-np.inf, np.inf, (2,)), spaces.Box(-1, 1, (1,)))
    assert demos.obs.tolist() == [[c, -c] for c in [0, 1, 2, 100, 200, 201, 202, 203, 204]]
    np.testing.assert_allclose(demos.actions[:, 0], demos.obs[:, 0] / 1000)
    assert demos.returns.tolist() == [3, 1, 5]
    assert np.flatnonzero(~demos.has_next).tolist() == np.flatnonzero(demos.truncated).tolist() == [2, 3, 8]
    assert not demos.terminated.any()
    np.testing.assert_array_equal(demos.next_obs[~demos.has_next], demos.obs[~demos.has_next])
    with_next = demos.with_next()
    assert len(with_next) == 6
    np.testing.assert_array_equal(with_next.next_obs[:, 0], with_next.obs[:, 0] + 1)


def test_upstreams_discrete_actions_become_integers(tmp_path):
    arrays = padded(discrete=True)
    torch.save({name: torch.from_numpy(array) for name, array in arrays.items()}, tmp_path / "u.pt")
    demos = experts.load(tmp_path / "u.pt").check(spaces.Box(-np.inf, np.inf, (2,)), COIN)
    assert demos.actions.shape == (9,)
    assert demos.actions.dtype == np.int64


def test_fractions_are_no_choices(tmp_path):
    save(tmp_path / "f.npz", vectors(actions=np.array([0.5])[[0] * 3], lengths=[3]))
    with pytest.raises(UsageError, match="actions that are fractions"):
        experts.load(tmp_path / "f.npz").check(LINE, COIN)


class RecordedPicture(gym.Env):
    """Images with their channels last, and two choices counted from 5."""

    observation_space = spaces.Box(0, 255, (8, 8, 3), np.uint8)
    action_space = spaces.Discrete(2, start=5)


@pytest.mark.filterwarnings("ignore:.*is set to None:UserWarning")
def test_minari_data_sets_are_read_channels_first_counted_from_zero_and_ended_where_they_stop(monkeypatch, tmp_path):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    minari = importlib.import_module("minari")
    gym.register("RecordedPicture-v0", entry_point="tests.test_demonstrations:RecordedPicture")
    ends, pictures = [False] * 3, np.stack([np.full((8, 8, 3), t, np.uint8) for t in range(4)])
    episode = minari.data_collector.EpisodeBuffer(0, 0, None, pictures, np.array([5, 6, 5]), [1.0] * 3, ends, ends)
    who = {"algorithm_name": "hand", "author": "hand", "author_email": "hand", "code_permalink": "hand"}
    minari.create_dataset_from_buffers("clock/expert-v0", [episode], env=gym.make("RecordedPicture-v0"), **who)
    demos = experts.load("minari:clock/expert-v0").check(spaces.Box(0, 255, (3, 8, 8), np.uint8), COIN)
    assert demos.obs[:, 0, 0, 0].tolist() == [0, 1, 2]
    assert demos.next_obs[:, 0, 0, 0].tolist() == [1, 2, 3]
    assert demos.actions.tolist() == [0, 1, 0]
    assert demos.truncated.tolist() == [False, False, True]
    assert demos.meta["env_name"] == "RecordedPicture-v0"
    assert "minari download other-v0" in defect("minari:other-v0")


def test_minari_where_it_is_not_installed_is_named_with_the_way_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "minari", None)
    assert "pip install -e '.[imitation]'" in defect("minari:clock/expert-v0")


def test_an_environments_demonstrations_are_found_by_upstreams_name(tmp_path):
    assert experts.file_name("HalfCheetah-v2") == "trajs_halfcheetah"
    assert experts.file_name("MinAtar/Breakout-v1") == "trajs_minatar-breakout"
    assert experts.file_name("MiniGrid-Empty-5x5-v0") != experts.file_name("MiniGrid-Empty-8x8-v0")
    with pytest.raises(UsageError, match=r"neither trajs_hopper\.npz nor trajs_hopper\.pt"):
        experts.find(tmp_path, "Hopper-v5")
    for suffix in (".pt", ".npz"):  # this project's format is preferred
        (tmp_path / f"trajs_hopper{suffix}").touch()
        assert experts.find(tmp_path, "Hopper-v5").suffix == suffix


@pytest.mark.parametrize(
    ("observation_space", "action_space", "says"),
    [
        (spaces.Box(-1, 1, (2,)), COIN, r"observations of shape \[1\]"),
        (spaces.Box(0, 255, (1,), np.uint8), COIN, "type float32"),
        (spaces.Dict(a=LINE), COIN, "observations that are a ndarray"),
        (LINE, spaces.Box(-1, 1, (1,)), r"actions of shape \[\]"),
        (LINE, spaces.MultiBinary(1), r"actions of shape \[\]"),
        (LINE, spaces.Discrete(1), "actions from 0 to 1"),
    ],
)
def test_what_does_not_fit_the_environment_is_named(file, observation_space, action_space, says):
    with pytest.raises(UsageError, match=says) as caught:
        experts.load(file).check(observation_space, action_space)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    ("space", "says"),
    [
        (LINE, "observations that are a dict"),
        (spaces.Dict({**NESTED.spaces, "more": LINE}), "with the parts a/b, inner, empty%"),
        (spaces.Dict({**NESTED.spaces, "inner": LINE}), "observations/inner that are a tuple"),
        (spaces.Dict({**NESTED.spaces, "inner": spaces.Tuple((LINE, LINE))}), "observations/inner/0 that are a dict"),
        (
            spaces.Dict(
                {**NESTED.spaces, "inner": spaces.Tuple((spaces.Dict(x=spaces.Discrete(3)), NESTED["inner"][1]))}
            ),
            "observations/inner/0/x from 0 to 4",
        ),
    ],
)
def test_nested_observations_that_do_not_fit_are_named_by_their_part(tmp_path, space, says):
    save(tmp_path / "n.npz", vectors(make=nested))
    with pytest.raises(UsageError, match=says):
        experts.load(tmp_path / "n.npz").check(space, COIN)


FOLDER = Path(__file__).resolve().parent.parent / "gail_experts"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.npz")), ids=lambda path: path.stem)
def test_shipped_files_fit_their_environments_and_are_as_the_readme_says(path):
    demos = experts.load(path)
    envs = make_vec_envs(EnvConfig(demos.meta["env_name"]), 1, seed=0, gamma=0.99)
    try:
        demos.check(envs.observation_space, envs.action_space)
    finally:
        envs.close()
    sums = np.bincount(demos.episodes, demos.rewards)
    np.testing.assert_allclose(sums, demos.returns, rtol=1e-5)
    (row,) = (line for line in (FOLDER / "README.md").read_text().splitlines() if line.startswith(f"| `{path.name}`"))
    _, _, episodes, figures, _, recorded, _ = (cell.strip(" `") for cell in row.split("|"))
    mean, std = map(float, figures.split(" ± "))
    assert int(episodes) == len(demos.returns)
    assert (mean, std) == pytest.approx(
        (demos.returns.mean(), demos.returns.std()), abs=0.501 if mean > 1000 else 0.0501
    )
    assert demos.meta["command"] == f"python gail_experts/record.py {recorded}"
