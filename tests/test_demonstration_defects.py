"""Files of demonstrations with defects: one line that names the file and the defect, and no code that runs."""

import contextlib
import json
import os
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from a2c_ppo_acktr import experts
from a2c_ppo_acktr.experts.files import from_padded, save
from a2c_ppo_acktr.utils import UsageError
from tests.demonstrations import defect, padded, trajectory, vectors


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "some.npz"
    save(path, vectors())
    return path


def write_pt(path, arrays):
    torch.save({name: torch.from_numpy(array) for name, array in arrays.items()}, path)
    return path


class Trap:
    """Makes a directory where it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_file_that_is_not_there_or_of_another_kind_is_named(tmp_path):
    assert "no such file" in defect(tmp_path / "none.npz")
    (tmp_path / "some.h5").touch()
    assert "expected a file .npz or .pt, or minari:<dataset-id>" in defect(tmp_path / "some.h5")


@pytest.mark.parametrize("suffix", [".npz", ".pt"])
def test_a_file_cut_short_anywhere_is_refused(tmp_path, file, suffix):
    whole = (file if suffix == ".npz" else write_pt(tmp_path / "w.pt", padded())).read_bytes()
    cut = tmp_path / f"cut{suffix}"
    for size in [*range(0, len(whole), 61), len(whole) - 1]:
        cut.write_bytes(whole[:size])
        assert suffix == ".pt" or "cut short, or not a .npz" in defect(cut)
        defect(cut)


@pytest.mark.parametrize("suffix", [".npz", ".pt"])
def test_garbage_is_refused(tmp_path_factory, suffix):
    path = tmp_path_factory.mktemp("garbage") / f"g{suffix}"

    @given(st.binary(max_size=300), st.sampled_from([b"", b"PK\x03\x04", b"\x93NUMPY\x01\x00", b"\x80\x02"]))
    @settings(max_examples=150, deadline=None)
    def check(garbage, start):
        path.write_bytes(start + garbage)
        defect(path)

    check()


@pytest.mark.parametrize("suffix", [".npz", ".pt"])
def test_changed_bytes_give_one_line_or_do_not_matter(tmp_path_factory, suffix):
    folder = tmp_path_factory.mktemp("changed")
    path = folder / f"c{suffix}"
    if suffix == ".npz":
        save(path, vectors())
    else:
        write_pt(path, padded())
    whole = path.read_bytes()

    @given(st.lists(st.tuples(st.integers(0, len(whole) - 1), st.integers(0, 255)), min_size=1, max_size=4))
    @settings(max_examples=250, deadline=None)
    def check(changes):
        damaged = bytearray(whole)
        for place, value in changes:
            damaged[place] = value
        path.write_bytes(damaged)
        with contextlib.suppress(UsageError):
            demos = experts.load(path)
            assert len(demos.obs) == len(demos.next_obs) == len(demos)

    check()


@pytest.mark.parametrize("name", ["obs", "actions", "meta"])
def test_pickled_objects_in_an_npz_are_refused_and_not_run(tmp_path, file, name):
    with np.load(file) as found:
        arrays = dict(found)
    trap = np.empty(9, object)
    trap[:] = Trap(tmp_path / "sprung")
    np.savez(file, **{**arrays, name: trap})
    assert "allow_pickle=False" in defect(file)
    assert not (tmp_path / "sprung").exists()
    function, arguments = trap[0].__reduce__()
    function(*arguments)  # what loading it would have run
    assert (tmp_path / "sprung").exists()


@pytest.mark.parametrize("suffix", [".npz", ".pt"])
@pytest.mark.parametrize("writer", ["pickle", "torch"])
def test_pickles_by_other_names_are_refused_and_not_run(tmp_path, suffix, writer):
    path, trap = tmp_path / f"p{suffix}", Trap(tmp_path / "sprung")
    if writer == "pickle":
        path.write_bytes(pickle.dumps({"states": trap}))
    else:
        torch.save({**padded(), "states": trap}, path)
    defect(path)
    assert not (tmp_path / "sprung").exists()


def longer(array):
    return np.concatenate([array, array[-1:]])


def with_nan(array):
    return np.where(np.arange(len(array)) == 4, np.nan, array.T).T


def with_head(**changes):
    return lambda meta: np.array(json.dumps({**json.loads(str(meta)), **changes}))


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("obs", longer, "expected 12 observations"),
        ("obs", lambda x: x[0], "expected 12 observations"),
        ("obs", lambda x: np.float32(1), "expected 12 observations"),
        ("obs", with_nan, "episode 1: obs not finite"),
        ("obs", lambda x: x.astype(np.float64) * 1e60, "obs not finite"),
        ("obs", lambda x: x.astype(str), "expected 4 rows of numbers"),
        ("obs", lambda x: x.astype(complex), "expected 4 rows of numbers"),
        ("actions", longer, "lengths sum to 9"),
        ("actions", lambda x: np.where(np.arange(9) == 3, np.inf, x), "episode 1: actions not finite"),
        ("actions", lambda x: x.astype(str), "actions [9] of type <U"),
        ("rewards", with_nan, "episode 2: rewards not finite"),
        ("rewards", lambda x: x[:, None], "rewards [9, 1]"),
        ("rewards", lambda x: x[:4], "lengths sum to 9"),
        ("terminated", lambda x: x.astype(float), "terminated [9] of type float64"),
        ("terminated", lambda x: ~x, "expected 15 observations"),
        ("terminated", lambda x: np.zeros_like(x), "expected 9 observations"),
        ("truncated", lambda x: x[:-1], "lengths sum to 9"),
        ("lengths", longer, "4 lengths"),
        ("lengths", lambda x: x + 1, "lengths sum to 12"),
        ("lengths", lambda x: x * 2**61, "lengths"),
        ("lengths", lambda x: np.array([3, 0, 6]), "all positive"),
        ("lengths", lambda x: np.array([-1, 5, 5]), "all positive"),
        ("lengths", lambda x: x.astype(float), "lengths [3] of type float64"),
        ("lengths", lambda x: x[:0], "0 lengths"),
        ("lengths", lambda x: np.array([2, 2, 5]), "episode 0: its last step is no end"),
        ("returns", lambda x: x[:-1], "2 returns"),
        ("returns", lambda x: x * np.nan, "all finite"),
        ("meta", lambda x: np.array("{"), "cannot be read: JSONDecodeError"),
        ("meta", lambda x: np.array("[" * 5000), "cannot be read: RecursionError"),
        ("meta", lambda x: np.array("[]"), "cannot be read: TypeError"),
        ("meta", lambda x: np.arange(3), "cannot be read"),
        ("meta", with_head(format="other"), "of format ('other', 1), this program reads"),
        ("meta", with_head(version=2), "this program reads"),
        ("meta", with_head(obs="pictures"), "KeyError: 'pictures'"),
        ("meta", with_head(obs={}), "observations {}"),
        ("meta", with_head(obs=["obs", "lengths"]), "obs/1 [3]: expected 12 observations"),
        ("meta", with_head(frame_stack=4), "frame_stack 4"),
        ("meta", with_head(frame_stack="4"), "frame_stack 4"),
        ("meta", with_head(frame_stack=0), "frame_stack 0"),
        ("meta", with_head(final_obs="no"), "final_obs no"),
    ],
)
def test_arrays_that_do_not_agree_are_named(file, name, change, says):
    with np.load(file) as found:
        arrays = dict(found)
    np.savez_compressed(file, **{**arrays, name: change(arrays[name])})
    assert says in defect(file)


@pytest.mark.parametrize("name", ["meta", "lengths", "returns", "rewards", "terminated", "truncated", "obs"])
def test_a_missing_array_is_named(file, name):
    with np.load(file) as found:
        np.savez(file, **{key: array for key, array in found.items() if key != name})
    assert name in defect(file)


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("states", lambda x: x[:, :, 0], "expected states and actions [E, T, ...]"),
        ("states", lambda x: x[:2], "found states [2, 5, 2]"),
        ("states", with_nan, "episode 0: obs not finite"),
        ("states", lambda x: x.astype(complex), "complex128"),
        ("actions", lambda x: x[:, :4], "actions [3, 4, 1]"),
        ("rewards", lambda x: x[0], "rewards [5]"),
        ("rewards", lambda x: x * np.inf, "rewards not finite"),
        ("lengths", lambda x: x + 1, "expected whole numbers from 1 to 5"),
        ("lengths", lambda x: x * 0, "expected whole numbers from 1 to 5"),
        ("lengths", lambda x: x * 0 + 1.5, "expected whole numbers from 1 to 5"),
        ("lengths", lambda x: x * np.nan, "expected whole numbers from 1 to 5"),
        ("lengths", lambda x: x[:, None], "lengths [3, 1]"),
    ],
)
def test_upstreams_arrays_that_do_not_agree_are_named(tmp_path, name, change, says):
    arrays = padded()
    if change is with_nan:
        arrays["states"][0, 1] = np.nan
    else:
        arrays[name] = change(arrays[name])
    assert says in defect(write_pt(tmp_path / "u.pt", arrays))


def test_other_contents_of_a_pt_file_are_named(tmp_path):
    path = tmp_path / "u.pt"
    for contents, says in [
        ([1, 2], "lacks states, rewards, lengths"),
        ({"states": torch.zeros(1)}, "lacks rewards, lengths"),
        ({**dict.fromkeys(padded(), torch.zeros(1)), "states": 3}, "cannot be read: AttributeError"),
        (dict.fromkeys(padded(), torch.zeros(1)), "expected states and actions"),
    ]:
        torch.save(contents, path)
        assert says in defect(path)


def test_what_could_not_be_read_back_is_not_written(tmp_path):
    good = trajectory(0, 3)
    for bad, says in [
        (good._replace(rewards=good.rewards[:2]), "expected 2 rows"),
        (good._replace(obs=good.obs[:3]), "expected 4 rows"),
        (good._replace(terminated=np.zeros(3, bool)), "its last step is no end"),
        (good._replace(actions=np.array([0, np.nan, 0])), "actions not finite"),
    ]:
        with pytest.raises(UsageError, match=says):
            save(tmp_path / "x.npz", [good, bad])
    assert not list(tmp_path.iterdir())


def test_padding_is_never_looked_at():
    trajectories = from_padded("x", padded())
    assert [np.isfinite(t.obs).all() and np.isfinite(t.rewards).all() for t in trajectories] == [True] * 3
