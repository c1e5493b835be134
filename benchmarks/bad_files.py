"""Bad files for `bad_input.py`: damaged checkpoints, progress, queues and demonstrations."""

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import bad_modules
from benchmarks.bad_lines import ANY, REFUSED, SMALL, Case

LATEST = "run/checkpoints/latest.pt"
PLAYERS = [
    ("main.py", ["--resume", "run", "--num-env-steps", "96"]),
    ("evaluate.py", ["--load-dir", "run", "--num-episodes", "1"]),
    ("enjoy.py", ["--load-dir", "run", "--video", "film.mp4"]),
    ("record.py", ["--checkpoint", "run", "--num-trajectories", "1", "--out", "new.npz"]),
]
WRONG: list[Any] = [None, "x", -1, 1.5, [], {}, float("nan"), torch.zeros(3), 10**30, [None], "a\0b", True]
LINES = ["", "5", "[]", "null", "{}", "{", '{"event": "end"}', '{"event": 5}', "[" * 100_000, "\xff\xfe", "a,b,c"]


def make_template(folder: Path, run: Callable[..., Any]) -> Path:
    """A folder with a run, its demonstrations, a queue and bad modules; `run` runs a program in it."""
    folder.mkdir()
    bad_modules.write(folder)
    for program, words in [
        ("main.py", ["--algo", "a2c", *SMALL, "--save-dir", "", "--log-dir", "run"]),
        ("record.py", ["--checkpoint", "run", "--num-trajectories", "2", "--out", "shown.npz"]),
        ("experiments.py", ["add", "queue", "--algo", "a2c", *SMALL, "--vary", "seed=1,2"]),
    ]:
        ended = run(program, words, folder)
        assert ended.code == 0, ended.err
    (folder / "loop").symlink_to("loop")
    (folder / "dangling").symlink_to("nothing")
    return folder


def files(chance: random.Random, folder: Path) -> Case:
    """A bad file, and a program that reads it."""
    return chance.choice([bytes_of_checkpoint, contents, contents, contents, rows, queue, queue, demonstrations])(
        chance, folder
    )


def bytes_of_checkpoint(chance: random.Random, folder: Path) -> Case:
    """A checkpoint cut short, with flipped bits, or something else."""
    path, program = folder / LATEST, chance.choice(PLAYERS)
    _damage(chance, path)
    return program[0], list(program[1]), REFUSED, False


def _damage(chance: random.Random, path: Path) -> None:
    data = bytearray(path.read_bytes())
    kind = chance.randrange(5)
    if kind == 0:
        data = data[: chance.randrange(len(data))]
    elif kind == 1:
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    elif kind == 2:
        data = bytearray(chance.randbytes(chance.randrange(1000)))
    elif kind == 3:
        data = bytearray(b"\x80\x04cos\nsystem\n(S'touch pwned'\ntR.")
    else:
        at = chance.randrange(len(data))
        data[at : at + 50] = bytes(50)
    path.write_bytes(bytes(data))


def contents(chance: random.Random, folder: Path) -> Case:
    """A whole file, one thing in which is missing or wrong, or perhaps right for the program that reads it."""
    path, program = folder / LATEST, chance.choice(PLAYERS)
    state = torch.load(path, weights_only=True)
    place, depth = state, chance.randrange(4)
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = chance.choice(keys)
        if depth == 0 or not isinstance(place[key], dict | list) or not place[key]:
            break
        place, depth = place[key], depth - 1
    if chance.random() < 0.4:
        del place[key]
    else:
        place[key] = chance.choice(WRONG)
    _save(path, state)
    return program[0], list(program[1]), ANY, True


def _save(path: Path, state: Any) -> None:
    """With the checksum that such a file would have."""
    from a2c_ppo_acktr.run import checkpoint

    checkpoint.save(path, state)


def rows(chance: random.Random, folder: Path) -> Case:
    """Lines in a run's CSV files that are none."""
    path = folder / "run" / chance.choice(["progress.csv", "0.monitor.csv", "command.txt", "config.json"])
    data = path.read_bytes().splitlines(keepends=True)
    data[chance.randrange(len(data))] = chance.choice(LINES).encode("latin-1") + b"\n"
    path.write_bytes(b"".join(data))
    return "main.py", ["--resume", "run", "--num-env-steps", "96"], ANY, True


def queue(chance: random.Random, folder: Path) -> Case:
    """A file of a queue that nobody would write."""
    place = folder / "queue"
    (file, _), own = sorted(place.glob("*.json")), sorted(place.glob("*.json"))[0].with_suffix("")
    own = file.with_name(file.name.removesuffix(".json"))
    (own / "run" / "checkpoints").mkdir(parents=True, exist_ok=True)
    line = chance.choice(LINES).encode("latin-1")
    kind = chance.randrange(6)
    if kind == 0:
        file.write_bytes(line)
        return "experiments.py", ["status", "queue"], REFUSED, False
    if kind == 1:
        settings = json.loads(file.read_text())
        settings[chance.choice(list(settings))] = chance.choice([None, "x", [], {}, float("inf"), -1.5])
        file.write_text(json.dumps(settings))
        return "experiments.py", ["status", "queue"], ANY, False
    if kind == 2:
        (own / "journal.jsonl").write_bytes(b'{"event": "start"}\n' + line + b"\n")
    elif kind == 3:
        step = chance.choice(["abc", "1.5", "nan", "", "1e400", "99999"])
        (own / "run" / "progress.csv").write_bytes(f"step,seconds\n{step},x\n".encode() + line)
    elif kind == 4:
        (own / "run" / "progress.csv").write_text("step\n9999999\n")
        state = torch.load(folder / LATEST, weights_only=True)
        del state[chance.choice(["logger", "settings", "algorithm"])]
        _save(own / "run" / "checkpoints" / "latest.pt", state)
    else:
        chance.choice([own / "lock", own / "journal.jsonl", place / "b.json"]).mkdir()
    return "experiments.py", ["status", "queue"], ANY, False


def demonstrations(chance: random.Random, folder: Path) -> Case:
    """Demonstrations that are damaged, or of something else."""
    path = folder / "shown.npz"
    if chance.random() < 0.4:
        _damage(chance, path)
        codes = ANY  # a zip's own checksums do not cover all of it
    else:
        with np.load(path) as file:
            arrays = dict(file)
        name = chance.choice(list(arrays))
        wrong = [
            np.array("x"),
            np.zeros(0),
            np.full(3, np.nan),
            np.array(-1),
            np.zeros((2, 2, 2)),
            arrays["lengths"] * 10**6,
        ]
        if chance.random() < 0.3:
            del arrays[name]
        else:
            arrays[name] = chance.choice(wrong)
        np.savez(path, **arrays)
        codes = REFUSED
    os.utime(path)
    words = ["--algo", "bc", *SMALL, "--save-dir", "", "--epochs", "1", "--demonstrations", "shown.npz"]
    return "main.py", words, codes, codes == ANY
