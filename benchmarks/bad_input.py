"""Bad command lines and files, drawn at random: each must end in one line and exit code 2, and leave nothing.

    python benchmarks/bad_input.py --cases 2000 --seed 1
    python benchmarks/bad_input.py --seed 1 --only 17          # what case 17 was, and what it said

Every case runs in a forked process with a folder, a time and a memory limit of its own. Where what was drawn may also
be right, such as another environment for a checkpoint, any exit code is, but no traceback.
"""

import argparse
import collections
import contextlib
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # as a script, the repository is not on the path
import enjoy
import evaluate
import main as trainer
from benchmarks import bad_files
from benchmarks.bad_lines import lines
from gail_experts import record
from write_and_test import experiments

SECONDS, MEMORY = 60, 8 * 2**30
PROGRAMS: dict[str, Callable[[list[str]], int]] = {
    "main.py": trainer.main,
    "evaluate.py": evaluate.main,
    "enjoy.py": enjoy.main,
    "record.py": record.main,
    "experiments.py": experiments.main,
}


class Outcome(NamedTuple):
    """How a case ended."""

    code: int | None
    """None where it had to be killed."""
    out: str
    err: str
    left: list[str]
    """Files that it made."""


def run(program: str, argv: list[str], folder: Path, seconds: float = SECONDS) -> Outcome:
    """Run a program of this project in a forked process, in `folder`."""
    before = _files(folder)
    with tempfile.TemporaryDirectory() as place:
        said = [Path(place) / name for name in ("out", "err")]
        pid = os.fork()
        if pid == 0:
            _become(program, argv, folder, said)
        code = _wait(pid, seconds)
        out, err = (path.read_text(errors="replace") if path.exists() else "" for path in said)
    return Outcome(code, out, err, sorted(_files(folder) - before))


def _become(program: str, argv: list[str], folder: Path, said: list[Path]) -> None:
    """What the child does; it does not return."""
    code = 70
    try:
        os.setsid()
        os.chdir(folder)
        for path, descriptor in zip(said, (1, 2), strict=True):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), descriptor)
        sys.stdout, sys.stderr = (open(d, "w", closefd=False, errors="backslashreplace") for d in (1, 2))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        sys.argv = [program, *argv]
        sys.path[:] = [one for one in sys.path if one] + [str(folder)]
        code = PROGRAMS[program](argv)
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)


def _wait(pid: int, seconds: float) -> int | None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def _files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if "__pycache__" not in path.parts}


def fault(outcome: Outcome, codes: tuple[int, ...], leaves: bool) -> str | None:
    """What is wrong with how a case ended; None where nothing is.

    Args:
        outcome: of the case.
        codes: the exit codes that are right.
        leaves: whether files may be made although it is refused, as by a program that had begun.
    """
    text = outcome.out + outcome.err
    blamed = outcome.code == 1 and "stopped: environment" in outcome.err  # a user's own code, with its traceback
    if outcome.code is None:
        return "no end"
    if "Traceback (most recent call last)" in text and not blamed:
        return "traceback"
    if outcome.code not in codes:
        return f"exit code {outcome.code}"
    if outcome.code == 2 and len(outcome.err.splitlines()) != 1:
        return "not one line"
    if outcome.code == 2 and outcome.left and not leaves:
        return f"left {', '.join(outcome.left[:3])}"
    if any(name.endswith(".tmp") for name in outcome.left):
        return "left a temporary file"
    return None


def draw(seed: int, number: int, folder: Path) -> tuple[str, list[str], tuple[int, ...], bool]:
    """Case `number`: the program, its words, exit codes that are right, and whether it may leave files.

    What it needs is made in `folder`, a copy of the template.
    """
    chance = random.Random(f"{seed}/{number}")
    source = chance.choices((lines, bad_files.files), (3, 2))[0]
    return source(chance, folder)


def cases(seed: int, numbers: range, template: Path) -> Iterator[tuple[int, str, list[str], Outcome, str | None]]:
    """Run cases; number, program, words, outcome and fault of each."""
    for number in numbers:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / "here"
            shutil.copytree(template, folder, symlinks=True)
            program, argv, codes, leaves = draw(seed, number, folder)
            outcome = run(program, argv, folder)
        yield number, program, argv, outcome, fault(outcome, codes, leaves)


def main() -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--start", type=int, default=0, help="number of the first case")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, default=None, help="run one case and print what it said")
    args = parser.parse_args()
    numbers = range(args.start, args.start + args.cases) if args.only is None else range(args.only, args.only + 1)
    faults: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory() as place:
        template = bad_files.make_template(Path(place) / "template", run)
        for number, program, argv, outcome, wrong in cases(args.seed, numbers, template):
            if wrong is not None or args.only is not None:
                print(f"{number}: {wrong}: {program} {argv!a}", flush=True)
                print("\n".join(f"    {line!a}" for line in outcome.err.splitlines()[-3:]), flush=True)
            if wrong is not None:
                faults[wrong.split(" ")[0]] += 1
    print(f"{len(numbers)} cases, {sum(faults.values())} faults {dict(faults)}")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
