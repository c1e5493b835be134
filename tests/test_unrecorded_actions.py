"""Demonstrations without actions, which are enough for who reads none; and archives that hold more than is needed."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

import main
from a2c_ppo_acktr import arguments, experts
from a2c_ppo_acktr.experts import archive, files
from a2c_ppo_acktr.utils import UsageError
from tests.demonstrations import COIN, defect, padded, vectors

SHIPPED = "gail_experts/trajs_cartpole.npz"
FORMS = {
    "missing": lambda actions: None,
    "not a number": lambda actions: np.full(actions.shape, np.nan),
    "empty": lambda actions: np.zeros((len(actions), 0)),
}
READ_NONE = [
    "--algo bco --num-steps 8 --num-processes 2 --epochs 1",
    "--algo a2c --gail --gail-input state --gail-warm-up 0",
    "--algo a2c --gail --gail-input state-next-state --gail-warm-up 0",
]
READ_THEM = ["--algo bc", "--algo a2c --gail"]


def changed(folder, **changes):
    """The shipped file with other arrays; None leaves one out."""
    with np.load(SHIPPED) as found:
        arrays = dict(found)
    arrays |= {name: change(arrays.get(name)) for name, change in changes.items()}
    path = folder / "changed.npz"
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


def first_update(flags, path, folder):
    """The progress of one update on demonstrations of CartPole."""
    run = f"--env-name CartPole-v1 --log-dir {folder / 'run'} --save-dir= --eval-interval 1000 --no-cuda"
    args = arguments.parse([*flags.split(), *run.split(), "--demonstrations", str(path), "--num-trajectories", "2"])
    training = main.train(args)
    try:
        return next(training)
    finally:
        training.close()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("flags", READ_NONE)
def test_who_reads_no_actions_learns_from_demonstrations_that_have_none(flags, form, tmp_path):
    progress = first_update(flags, changed(tmp_path, actions=FORMS[form]), tmp_path)
    assert progress.update == 1


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("flags", READ_THEM)
def test_who_reads_them_says_in_one_line_that_there_are_none(flags, form, tmp_path):
    with pytest.raises(UsageError, match=r"changed\.npz: lacks actions") as caught:
        first_update(flags, changed(tmp_path, actions=FORMS[form]), tmp_path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_an_action_that_alone_is_no_number_is_damage_for_everybody(tmp_path):
    path = changed(tmp_path, actions=lambda actions: np.where(np.arange(len(actions)) == 3, np.nan, actions))
    assert "episode 0: actions not finite" in defect(path)


def test_upstreams_dictionary_may_lack_them_too(tmp_path):
    arrays = padded()
    del arrays["actions"]
    torch.save({name: torch.from_numpy(array) for name, array in arrays.items()}, tmp_path / "u.pt")
    shown = experts.load(tmp_path / "u.pt")
    assert shown.actions.shape == (9, 0)
    with pytest.raises(UsageError, match="lacks actions"):
        shown.check(spaces.Box(-np.inf, np.inf, (2,)), COIN)


def test_they_stay_missing_when_they_are_written_again(tmp_path):
    bare = [one._replace(actions=np.full(len(one.rewards), np.nan)) for one in vectors()]
    files.save(tmp_path / "bare.npz", [*vectors(), *bare])
    assert experts.load(tmp_path / "bare.npz").actions.shape == (18, 0)


def test_of_an_archive_only_what_is_needed_is_read(tmp_path, monkeypatch):
    """FAIL means: an array that nobody asked for, of gigabytes of zeros, was unpacked into memory."""
    read, original = [], np.lib.format.read_array
    path = changed(tmp_path, unused=lambda _: np.zeros(10**6))
    monkeypatch.setattr(np.lib.format, "read_array", lambda file, **k: read.append(file.name) or original(file, **k))
    assert len(experts.load(path)) == 5000
    assert sorted(read) == sorted(f"{name}.npy" for name in ("meta", "obs", *files.KINDS))


@pytest.mark.parametrize("name", ["obs", "rewards", "meta"])
def test_what_would_not_fit_into_memory_is_refused_before_it_is_read(name, tmp_path, monkeypatch):
    path = changed(tmp_path)
    with np.load(path) as found:
        size = {key: array.nbytes for key, array in found.items()}[name]
    monkeypatch.setattr(archive, "available_memory", lambda: size - 1 if name == "meta" else size + 200)
    line = defect(path)
    assert "GB are free" in line
    assert "cannot be read" not in line


def test_a_tensor_that_claims_more_than_its_file_holds_is_refused(tmp_path):
    contents = {name: torch.from_numpy(array) for name, array in padded().items()}
    contents["states"] = torch.zeros(1, 1, 2).expand(3, 10**13, 2)
    torch.save(contents, tmp_path / "wide.pt")
    assert "GB are free" in defect(tmp_path / "wide.pt")


def test_rewards_that_are_no_list_are_said_in_one_line(tmp_path):
    with np.load("gail_experts/trajs_cartpole.npz", allow_pickle=False) as file:
        arrays = {name: file[name] for name in file if name != "actions"}
    np.savez(tmp_path / "bad.npz", **arrays | {"rewards": np.float32(1.0)})
    with pytest.raises(UsageError, match=r"bad\.npz: cannot be read: TypeError"):
        experts.load(tmp_path / "bad.npz")
