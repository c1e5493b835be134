"""What was trained: finding runs by name, tables of them, their episodes and metrics, and their agents."""

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from a2c_ppo_acktr import algo, arguments
from a2c_ppo_acktr.envs.vector import Envs
from a2c_ppo_acktr.run import checkpoint, folder
from a2c_ppo_acktr.seeding import seed_everything
from a2c_ppo_acktr.utils import UsageError
from evaluate import load_agent

Places = str | Path | Iterable[str | Path]


def find(places: Places) -> list[Path]:
    """Run folders, in the order of their names.

    Args:
        places: run folders, folders that hold them at any depth (`runs`, a queue), or patterns such as `runs/Nav*`.

    Raises:
        UsageError: there is none.
    """
    several = [places] if isinstance(places, str | Path) else list(places)
    roots = [root for place in several for root in _expand(Path(place).expanduser())]
    found = {config.parent for root in roots for config in root.rglob("config.json") if _is_run(config)}
    if not found:
        raise UsageError(f"{', '.join(map(str, several))}: no run there")
    return sorted(found)


def _expand(place: Path) -> list[Path]:
    if place.exists() or not place.name:
        return [place]
    anchor = Path(place.anchor) if place.is_absolute() else Path()
    return sorted(anchor.glob(str(place.relative_to(anchor) if place.is_absolute() else place)))


def _is_run(config: Path) -> bool:
    return (config.parent / "command.txt").is_file()


def settings(run: Path) -> dict[str, Any]:
    """Every flag of a run, the algorithm's among the others."""
    plain = json.loads((run / "config.json").read_text())["settings"]
    return {**plain, **plain["config"]}


def table(places: Places) -> pd.DataFrame:
    """What was trained: one row per run, with the settings in which the runs differ."""
    runs = find(places)
    all_settings = [_flat(settings(run)) for run in runs]
    always = ("algo", "env_name", "seed")
    hidden = (*always, "config", "log_dir", "resume", "num_env_steps")
    names = dict.fromkeys(name for one in all_settings for name in one if name not in hidden)
    differing = [name for name in names if len({repr(one.get(name)) for one in all_settings}) > 1]
    rows = []
    for run, own in zip(runs, all_settings, strict=True):
        progress, steps = folder.progress(run), own["num_env_steps"]
        rows.append(
            {
                "run": _name(run),
                **{name: own[name] for name in always},
                **{name: own.get(name) for name in differing},
                "steps": int(progress.get("step", 0)),
                "of": steps,
                "return": float(progress.get("charts/episodic_return") or np.nan),
                "finished": int(progress.get("step", 0)) >= steps,
                "folder": run,
            }
        )
    return pd.DataFrame(rows)


def _flat(own: dict[str, Any]) -> dict[str, Any]:
    """Dictionaries among settings taken apart: `nn_base_kwargs.num_layers`."""
    flat: dict[str, Any] = {}
    for name, value in own.items():
        if isinstance(value, dict) and name != "config":
            flat |= {f"{name}.{key}": inner for key, inner in value.items()}
        else:
            flat[name] = value
    return flat


def episodes(run: Path) -> pd.DataFrame:
    """Episodes in the order in which they ended: `step` (of all environments), `return`, `length`, `seconds`, `env`."""
    rows = []
    for path in sorted(run.glob("*.monitor.csv")):
        text = path.read_text()
        complete = text[: text.rfind("\n") + 1].splitlines()  # a row that is being written is left out
        env = int(path.name.split(".")[0])
        rows += [(float(r["r"]), int(r["l"]), float(r["t"]), env) for r in csv.DictReader(complete[1:])]
    frame = pd.DataFrame(rows, columns=["return", "length", "seconds", "env"]).sort_values("seconds", kind="stable")
    frame.insert(0, "step", frame["length"].cumsum())
    return frame.reset_index(drop=True)


def scalars(run: Path, tags: Sequence[str] | None = None) -> pd.DataFrame:
    """TensorBoard's numbers: `step`, `tag`, `value`; of some tags, or of all."""
    events = EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload()
    known = events.Tags()["scalars"]
    if missing := [tag for tag in tags or () if tag not in known]:
        raise UsageError(f"{run}: no {', '.join(missing)}; it has {', '.join(known)}")
    rows = [(event.step, tag, event.value) for tag in tags or known for event in events.Scalars(tag)]
    return pd.DataFrame(rows, columns=["step", "tag", "value"])


def curves(
    runs: Sequence[Path], value: str = "return", *, by: Sequence[str] = (), window: int = 100, points: int = 100
) -> pd.DataFrame:
    """Learning curves on common steps, to compare and average over seeds: `step`, `value`, `run`, `seed`, `group`.

    Args:
        runs: run folders.
        value: `return` or `length` of episodes from the monitor files, or a tag of TensorBoard.
        by: settings that tell groups apart, such as `lr` or `nn_base_kwargs.num_layers`; `group` names their values.
        window: episodes that are averaged.
        points: steps per curve, from the first that all runs reached to the last.
    """
    series = [(run, *_series(run, value, window)) for run in runs]
    if not series or any(len(steps) == 0 for _, steps, _ in series):
        empty = [str(run) for run, steps, _ in series if len(steps) == 0]
        raise UsageError(f"no finished episode yet in {', '.join(empty) or 'no runs'}")
    grid = np.linspace(max(steps[0] for _, steps, _ in series), min(steps[-1] for _, steps, _ in series), points)
    frames = []
    for run, steps, values in series:
        own = _flat(settings(run))
        frame = pd.DataFrame({"step": grid, "value": np.interp(grid, steps, values), "run": _name(run)})
        group = ", ".join(f"{name}={own.get(name)}" for name in by)
        frames.append(frame.assign(seed=own["seed"], group=group, folder=str(run)))
    return pd.concat(frames, ignore_index=True)


def _name(run: Path) -> str:
    """What a run is called: in a queue, which names its folder `run`, by its experiment."""
    return run.parent.name if run.name == "run" else run.name


def _series(run: Path, value: str, window: int) -> tuple[np.ndarray, np.ndarray]:
    if value in ("return", "length"):
        frame = episodes(run)
        return frame["step"].to_numpy(), frame[value].rolling(window, min_periods=1).mean().to_numpy()
    frame = scalars(run, [value])
    return frame["step"].to_numpy(), frame["value"].to_numpy()


def checkpoint_of(place: str | Path, which: str = "latest") -> Path:
    """A checkpoint by name: of a run folder, an experiment of a queue or a pattern, or the file itself.

    Args:
        place: must mean one run.
        which: `latest`, `best`, or the number of an update.

    Raises:
        UsageError: several runs, or none, or no such checkpoint.
    """
    if Path(place).is_file():
        return Path(place)
    runs = find(place)
    if len(runs) > 1:
        raise UsageError(f"{place}: one run is wanted, and there are {', '.join(map(_name, runs))}")
    path = runs[0] / "checkpoints" / f"{which}.pt"
    if not path.is_file():
        there = ", ".join(sorted(other.stem for other in path.parent.glob("*.pt"))) or "none"
        raise UsageError(f"{runs[0]}: no checkpoint {which}; there are {there}")
    return path


def load(
    place: str | Path, which: str = "latest", *, trained: bool = True, seed: int = 1, **kwargs: Any
) -> tuple[algo.Algorithm, Envs]:
    """The agent of a run or checkpoint and environments as it was trained in, frozen.

    Args:
        place: as of `checkpoint_of`.
        which: as of `checkpoint_of`.
        trained: False gives the same networks as they were before training, from another seed, for comparison.
        seed: of everything that follows: environments, actions that are sampled, untrained parameters.
        kwargs: as of `evaluate.load_agent`.
    """
    path = checkpoint_of(place, which)
    algorithm, envs = load_agent(path, seed=seed, **kwargs)
    seed_everything(seed)
    if not trained:
        args = arguments.from_plain(checkpoint.load(path)["settings"])
        algorithm = algo.make(args.algo, args.config, envs.spaces)
    return algorithm, envs
