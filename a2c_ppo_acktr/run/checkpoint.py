"""The files of a run, and checkpoints: one versioned dictionary of tensors and plain values, written atomically.

    runs/<env>__<algo>__<seed>__<time>/
        config.json  command.txt  progress.csv  <rank>.monitor.csv  events.out.tfevents.*
        checkpoints/latest.pt  best.pt  <update>.pt  replay-<update>.pt (latest.pt's, with --save-replay)
    <save-dir>/<algo>/<env>.pt      a copy of the latest run's latest.pt

No class is pickled, so loading never runs code. The file is a zip archive whose comment is the SHA-256 of all that is
before it, so that no byte changes unnoticed.
"""

import contextlib
import glob
import hashlib
import os
import pickle
import shutil
import time
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from a2c_ppo_acktr.files import write_atomically
from a2c_ppo_acktr.plain import misfit, to_plain
from a2c_ppo_acktr.run.config import LogConfig
from a2c_ppo_acktr.run.contents import Contents
from a2c_ppo_acktr.run.folder import latest_checkpoint
from a2c_ppo_acktr.utils import UsageError, printable

FORMAT = "a2c_ppo_acktr.checkpoint"
VERSION = 1
SEAL = b"sha256:"
SEAL_BYTES = len(SEAL) + 2 * hashlib.sha256().digest_size
ARCHIVE_END = b"PK\x05\x06"
"""How the last 22 bytes of a zip archive without a comment begin; the last two are the comment's length."""


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


def save(path: Path, contents: dict[str, Any]) -> None:
    """Write `contents` so that `path` holds either the old checkpoint or the new one, whole, at every moment."""
    plain = to_plain({"format": FORMAT, "version": VERSION, "torch": torch.__version__.split("+")[0], **contents})

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:  # given a name, torch says RuntimeError of a full disk
            torch.save(plain, file)
        _seal(temporary)

    write_atomically(path, write)


def _seal(path: Path) -> None:
    """Make the checksum of a zip archive its comment."""
    with path.open("rb+") as file:
        file.seek(-2, os.SEEK_END)
        file.write(SEAL_BYTES.to_bytes(2, "little"))
        file.flush()
        file.write(SEAL + _digest(path, file.tell()))


def _digest(path: Path, length: int) -> bytes:
    """SHA-256 of a file's first bytes, in hexadecimal."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while length > 0 and (block := file.read(min(length, 2**20))):
            found.update(block)
            length -= len(block)
    return found.hexdigest().encode()


def _is_whole(path: Path) -> bool:
    """Whether every byte is as it was written; in files of earlier versions, which have no checksum, of every part."""
    length = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, length - SEAL_BYTES))
        end = file.read()
    if end.startswith(SEAL):
        return _digest(path, length - SEAL_BYTES) == end[len(SEAL) :]
    if not (end[-22:].startswith(ARCHIVE_END) and end.endswith(b"\0\0")):
        return False
    with zipfile.ZipFile(path) as archive:
        return archive.testzip() is None


def copy(source: Path, target: Path) -> None:
    """Copy a checkpoint, atomically."""
    write_atomically(target, lambda temporary: shutil.copyfile(source, temporary))


def save_replay(folder: Path, update: int, state: dict[str, Any]) -> str:
    """Write a replay beside the checkpoints that will name it; returns its name."""
    name = f"replay-{update}.pt"
    save(folder / name, state)
    return name


def load_replay(path: Path, storage: Any) -> bool:
    """Let a storage take in its replay, if that was made with the same flags; whether it was.

    Raises:
        UsageError: damaged.
    """
    contents = read(path, "cpu", mmap=True)
    with taking_in(f"{path}: damaged"):
        return storage.load_state_dict(contents)


def drop_replays(folder: Path, keep: str | None) -> None:
    """Remove the replays of earlier checkpoints, which have been replaced."""
    for path in folder.glob("replay-*.pt"):
        if path.name != keep:
            path.unlink()


def load(path: str | Path, device: torch.device | str = "cpu", *, mmap: bool = False) -> dict[str, Any]:
    """Read a checkpoint; with `mmap` its tensors are read from the file where they are used.

    Raises:
        UsageError: missing, damaged, of another format, version or contents, or a pickle that would run code.
    """
    contents = read(Path(path), device, mmap)
    if wrong := misfit(contents, Contents, ""):
        raise UsageError(f"checkpoint {path}: damaged ({wrong})")
    return contents


def read(path: Path, device: torch.device | str = "cpu", mmap: bool = False) -> dict[str, Any]:
    """Any file that `save` wrote, as `load` does, whatever it holds."""
    if not path.is_file():
        raise UsageError(f"checkpoint {path}: no such file")
    try:
        if not zipfile.is_zipfile(path):
            raise UsageError(f"checkpoint {path}: cut short, or not a checkpoint")
        if not _is_whole(path):
            raise UsageError(f"checkpoint {path}: damaged (its checksum is of other bytes)")
        contents = torch.load(path, map_location=device, weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        raise UsageError(f"checkpoint {path}: refused, since loading it would run code") from error
    except (zipfile.BadZipFile, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise UsageError(f"checkpoint {path}: damaged ({_reason(error)})") from error
    if not isinstance(contents, dict) or str(contents.get("format")) != FORMAT:
        raise UsageError(f"checkpoint {path}: of another format; expected one that main.py wrote")
    if not isinstance(contents.get("version"), int) or contents["version"] != VERSION:
        raise UsageError(f"checkpoint {path}: format version {contents.get('version')}, this program reads {VERSION}")
    return contents


@contextlib.contextmanager
def taking_in(what: str) -> Iterator[None]:
    """While objects take in their states: what those make of contents that are not theirs is one line about `what`.

    Raises:
        UsageError: whatever was raised, in its own words.
    """
    try:
        yield
    except UsageError:
        raise
    except Exception as error:  # contents of a file can be wrong in every way
        raise UsageError(f"{what}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """One line; torch tells what does not fit in the lines after the first."""
    if isinstance(error, KeyError):
        return f"it has no {error}"
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[min(1, len(lines) - 1)].strip()


def find(load_dir: str | Path, env_name: str | None, flag: str = "--load-dir") -> Path:
    """The checkpoint that a user means, by `flag`, with a file, a run folder, or upstream's folder and an environment.

    Raises:
        UsageError: there is none.
    """
    place = Path(os.path.expanduser(load_dir))  # as it is where there is no such user
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
    pattern = f"{glob.escape(prefix)}*/checkpoints/latest.pt"
    found = sorted(Path("runs").glob(pattern), key=lambda path: path.stat().st_mtime)
    if not found:
        raise UsageError(f"--resume: no run folder runs/{prefix}* with a checkpoint; name one")
    return found[-1]


def run_folder_of(path: str | Path) -> Path | None:
    """The run folder that a checkpoint lies in; None for a copy elsewhere."""
    folder = Path(os.path.abspath(path)).parent  # a link is not followed: its run is another one
    return folder.parent if folder.name == "checkpoints" and (folder.parent / "config.json").is_file() else None


def continued_folder(log: LogConfig) -> Path | None:
    """The run folder that a resumed run goes on in: its own, unless --log-dir wants another."""
    folder = run_folder_of(log.resume) if log.resume is not None else None
    if folder is None or log.log_dir is None:
        return folder
    return folder if Path(log.log_dir).expanduser().resolve() == folder.resolve() else None


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise UsageError(f"checkpoint {path}: no such file")
    return path
