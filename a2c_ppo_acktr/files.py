"""Files that are whole at every moment and lie where they seem to, and folders that one process at a time writes to."""

import contextlib
import fcntl
import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from a2c_ppo_acktr.utils import UsageError

OPEN = {"/dev/stdout": 1, "/dev/stderr": 2}
"""Files that are open already: opened anew they would be written from the beginning."""
LONGEST_NAME = 200
"""Bytes of a file's name, so that one in front of it and behind it still fits, as of a temporary file."""

TEMPORARY = re.compile(r"\..+\.\d+\.tmp")


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write` with a temporary name beside `path`, flush it to disk and rename it: never half a file.

    A link that stands there is replaced, not followed.

    Raises:
        OSError: it names `path`, which is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.unlink(missing_ok=True)
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        write(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_named(path: Path, write: Callable[[Path], object]) -> None:
    """`write_atomically` where a user said to: where a link leads, and to the end of a device or pipe that is there."""
    opened = OPEN.get(os.path.abspath(path))
    if opened is not None or (path.exists() and not path.is_file()):
        with tempfile.TemporaryDirectory() as place:
            write(written := Path(place) / "written")
            with open(path if opened is None else os.dup(opened), "ab", buffering=0) as target:
                target.write(written.read_bytes())
    else:
        write_atomically(path.resolve(), write)


def open_to_append(path: Path) -> IO[str]:
    """A text file of a run to add lines to, made where there is none.

    Raises:
        UsageError: what stands there is a link, or has a second name: the lines would end up elsewhere.
    """
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK
        file = os.fdopen(os.open(path, flags, 0o666), "a", encoding="utf-8", errors="surrogateescape", newline="")
    except OSError:
        if path.is_symlink() or (path.exists() and not path.is_file()):
            refuse_link(path)
        raise
    found = os.fstat(file.fileno())
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
        file.close()
        refuse_link(path)
    return file


def refuse_link(path: Path) -> None:
    """Say that something leads elsewhere."""
    raise UsageError(f"{path}: a link, or no plain file: nothing is written through one")


def check_no_links(folder: Path, within: tuple[str, ...] = ()) -> None:
    """Refuse a folder that would have a run written elsewhere.

    Args:
        folder: what it holds must be plain files and folders; there need be none.
        within: names of folders in it of which the same holds.

    Raises:
        UsageError: it names what leads elsewhere.
    """
    if not folder.is_dir():
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if not (entry.is_file(follow_symlinks=False) or entry.is_dir(follow_symlinks=False)):
                refuse_link(Path(entry.path))
    for name in within:
        check_no_links(folder / name)


def check_writable(flag: str, text: str | Path, *, folder: bool = False) -> Path:
    """Where a user wants a file or folder, if it can be written there; nothing is made.

    Raises:
        UsageError: it cannot; the line begins with the flag.
    """
    if not str(text):
        raise UsageError(f"{flag} '': expected a {'folder' if folder else 'file'}")
    try:
        path = Path(text).expanduser()
        whole = Path(os.path.abspath(path))
        if long := [part for part in whole.parts if len(os.fsencode(part)) > LONGEST_NAME]:
            raise UsageError(f"{flag} {long[0][:20]}...: expected a name of at most {LONGEST_NAME} bytes")
        if path.is_dir() and not folder:
            raise UsageError(f"{flag} {text}: is a folder")
        if path.exists() and not path.is_dir() and folder:
            raise UsageError(f"{flag} {text}: is a file")
        there = whole if os.path.lexists(whole) else next(p for p in whole.parents if os.path.lexists(p))
        if there != whole and not there.is_dir():
            raise UsageError(f"{flag} {text}: {there} is no folder")
        if there == whole and path.is_symlink() and not path.exists():
            raise UsageError(f"{flag} {text}: is a link that leads nowhere")
        if there.is_dir() or there.is_file():
            tempfile.TemporaryFile(dir=there if there.is_dir() else there.parent).close()  # it has no name
        elif not os.access(there, os.W_OK):
            raise UsageError(f"{flag} {text}: cannot be written")
    except (RuntimeError, ValueError, OSError) as error:  # no such user, a null character, a loop of links
        said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UsageError(f"{flag} {text}: cannot be written: {said}") from error
    return path


def drop_temporaries(folder: Path) -> None:
    """Remove what writers that were killed have left in a folder that is claimed."""
    for path in folder.glob(".*.tmp"):
        if TEMPORARY.fullmatch(path.name):
            path.unlink()


@contextlib.contextmanager
def claim(folder: Path) -> Iterator[None]:
    """Hold a folder, so that no other process claims it meanwhile; however this one ends, it is free again.

    File systems without locks are not guarded.

    Raises:
        BlockingIOError: another process holds it.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if not _lock(handle):
            raise BlockingIOError(f"{folder} is held by another process")
        yield
    finally:
        os.close(handle)


def _lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True
