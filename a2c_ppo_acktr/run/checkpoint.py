"""The files of a run, and checkpoints: one versioned dictionary of tensors and plain values, written atomically.

    runs/<env>__<algo>__<seed>__<time>/
        config.json  command.txt  progress.csv  <rank>.monitor.csv  events.out.tfevents.*
        checkpoints/latest.pt  best.pt  <update>.pt  replay-<update>.pt (latest.pt's, with --save-replay)
    <save-dir>/<algo>/<env>.pt      a copy of the latest run's latest.pt

No class is pickled, so loading never runs code.
"""

import os
import pickle
import shutil
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from a2c_ppo_acktr.files import write_atomically
from a2c_ppo_acktr.run.folder import latest_checkpoint
from a2c_ppo_acktr.utils import UsageError, printable

FORMAT = "a2c_ppo_acktr.checkpoint"
VERSION = 1


def file_name(env_name: str) -> str:
    """An environment's id as part of a path."""
    return printable(env_name).replace("/", "-").replace(":", "-")


def learner_name(settings: Mapping[str, Any]) -> str:
    """The algorithm, as part of a path; imitation around it has names of its own."""
    algo = file_name(settings["algo"])
    return f"gail-{algo}" if settings.get("gail") else algo


def upstream_path(save_dir: str | Path, algo: str, env_name: str) -> Path:
    """Where upstream's `enjoy.py` looks."""
    return Path(save_dir) / algo / f"{file_name(env_name)}.pt"


def copy_name(settings: Mapping[str, Any]) -> tuple[str, str]:
    """Folder and name of a run's copy below --save-dir."""
    return settings["save_subdir"] or learner_name(settings), settings["save_name"] or settings["env_name"]


def run_name(settings: Mapping[str, Any]) -> str:
    """How the names of the folders of such runs begin; the time follows."""
    names = (settings.get("exp_name"), settings["env_name"], learner_name(settings), str(settings["seed"]))
    return "".join(f"{file_name(name)}__" for name in names if name)


def new_run_folder(settings: Mapping[str, Any]) -> Path:
    """Create the folder of a new run; one that already holds a run gets a sibling, with one line."""
    log_dir = settings["log_dir"]
    if log_dir is None:
        wanted = Path("runs") / f"{run_name(settings)}{time.strftime('%Y%m%d-%H%M%S')}"
    else:
        wanted = Path(log_dir).expanduser()
        if wanted.name in ("", ".."):  # a name of its own, which a sibling's can extend
            wanted = Path(os.path.abspath(wanted))
    folder, number = wanted, 1
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=log_dir is not None)
            (folder / "config.json").open("x").close()  # whoever creates it owns the folder
            break
        except FileExistsError:
            if not folder.is_dir():
                raise UsageError(f"--log-dir {folder}: is a file, or a link that leads nowhere") from None
            number += 1
            folder = wanted.with_name(f"{wanted.name}-{number}")
    if log_dir is not None and folder != wanted:
        print(printable(f"{wanted} already holds a run: writing to {folder}"), flush=True)
    return folder


def to_plain(value: Any) -> Any:
    """Arrays to tensors and NumPy scalars to Python's, so that `weights_only` loading accepts the whole."""
    if isinstance(value, dict):
        return {key: to_plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(to_plain(one) for one in value)
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    return value.item() if isinstance(value, np.generic) else value


def save(path: Path, contents: dict[str, Any]) -> None:
    """Write `contents` so that `path` holds either the old checkpoint or the new one, whole, at every moment."""
    plain = to_plain({"format": FORMAT, "version": VERSION, "torch": torch.__version__.split("+")[0], **contents})
    write_atomically(path, lambda temporary: torch.save(plain, temporary))


def copy(source: Path, target: Path) -> None:
    """Copy a checkpoint, atomically."""
    write_atomically(target, lambda temporary: shutil.copyfile(source, temporary))


def save_replay(folder: Path, update: int, state: dict[str, Any]) -> str:
    """Write a replay beside the checkpoints that will name it; returns its name."""
    name = f"replay-{update}.pt"
    save(folder / name, state)
    return name


def drop_replays(folder: Path, keep: str) -> None:
    """Remove the replays of earlier checkpoints, which have been replaced."""
    for path in folder.glob("replay-*.pt"):
        if path.name != keep:
            path.unlink()


def load(path: str | Path, device: torch.device | str = "cpu", *, mmap: bool = False) -> dict[str, Any]:
    """Read a checkpoint; with `mmap` its tensors are read from the file where they are used.

    Raises:
        UsageError: missing, cut short, of another format or version, or a pickle that would run code.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"checkpoint {path}: no such file")
    if not zipfile.is_zipfile(path):
        raise UsageError(f"checkpoint {path}: cut short, or not a checkpoint")
    try:
        contents = torch.load(path, map_location=device, weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        raise UsageError(f"checkpoint {path}: refused, since loading it would run code") from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise UsageError(f"checkpoint {path}: damaged ({str(error).splitlines()[0]})") from error
    if not isinstance(contents, dict) or contents.get("format") != FORMAT:
        raise UsageError(f"checkpoint {path}: of another format; expected one that main.py wrote")
    if contents["version"] != VERSION:
        raise UsageError(f"checkpoint {path}: format version {contents['version']}, this program reads {VERSION}")
    return contents


def find(load_dir: str | Path, env_name: str | None, flag: str = "--load-dir") -> Path:
    """The checkpoint that a user means, by `flag`, with a file, a run folder, or upstream's folder and an environment.

    Raises:
        UsageError: there is none.
    """
    place = Path(load_dir).expanduser()
    if place.is_file():
        return place
    if (place / "checkpoints").is_dir():
        return _existing(latest_checkpoint(place))
    if env_name is not None:
        path = place / f"{file_name(env_name)}.pt"
        if path.is_file():
            return path
    held = ", ".join(sorted(path.stem for path in place.glob("*.pt"))) if place.is_dir() else ""
    wanted = f"no checkpoint of {env_name}" if env_name else "--env-name is needed to choose a checkpoint"
    raise UsageError(f"{flag} {place}: " + (f"{wanted}; it holds {held}" if held else "no checkpoint there"))


def find_resumable(resume: str, wanted: dict[str, str]) -> Path:
    """The checkpoint that `--resume` means; an empty value is --log-dir's run or the newest run of the same name."""
    if resume:
        return find(resume, wanted["env_name"], "--resume")
    if "log_dir" in wanted:
        return find(wanted["log_dir"], None, "--resume")
    prefix = run_name(wanted)
    found = sorted(Path("runs").glob(f"{prefix}*/checkpoints/latest.pt"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise UsageError(f"--resume: no run folder runs/{prefix}* with a checkpoint; name one")
    return found[-1]


def run_folder_of(path: str | Path) -> Path | None:
    """The run folder that a checkpoint lies in; None for a copy elsewhere."""
    folder = Path(os.path.abspath(path)).parent  # a link is not followed: its run is another one
    return folder.parent if folder.name == "checkpoints" and (folder.parent / "config.json").is_file() else None


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise UsageError(f"checkpoint {path}: no such file")
    return path
