"""What was trained: finding runs by name, tables of them, their episodes and metrics, and their agents."""

import csv
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from a2c_ppo_acktr import algo, arguments
from a2c_ppo_acktr.envs.vector import Envs
from a2c_ppo_acktr.run import checkpoint, folder
from a2c_ppo_acktr.run.config import hyperparameters
from a2c_ppo_acktr.seeding import seed_everything
from a2c_ppo_acktr.utils import UsageError
from evaluate import load_agent

Places = str | Path | Iterable[str | Path]

EPISODIC = ("return", "length")
STEPS, EPOCHS = "environment steps", "epochs"
COLUMNS = ("step", "unit", "value", "run", "seed", "env_name", "group", "folder")
NOT_COMPARED = ("seed", "preset", "torch_threads", "cuda", "cuda_deterministic", "vec_env", "fast")
"""Settings that say how a run is computed, or are only names of others."""


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
    """Every flag of a run, the algorithm's among the others.

    Raises:
        UsageError: its config.json is damaged.
    """
    path = run / "config.json"
    try:
        plain = json.loads(path.read_text())["settings"]
        return {**plain, **plain["config"]}
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path}: damaged, or not of a run") from error


def table(places: Places) -> pd.DataFrame:
    """What was trained: one row per run, with the settings in which the runs differ."""
    runs = find(places)
    all_settings = [settings(run) for run in runs]
    differing = _differing(
        [hyperparameters(own) for own in all_settings], {"algo", "env_name", "seed", "num_env_steps"}
    )
    rows = []
    for run, own in zip(runs, all_settings, strict=True):
        progress, flat = folder.progress(run), hyperparameters(own)
        step = int(progress.get("step", 0))
        of = own["num_env_steps"] if _unit(own) == STEPS else own["config"].get("epochs", np.nan)
        rows.append(
            {
                "run": _name(run),
                **{name: own[name] for name in ("algo", "env_name", "seed")},
                **{name: flat.get(name) for name in differing},
                "steps": step,
                "of": of,
                "unit": _unit(own),
                "return": float(progress.get("charts/episodic_return") or np.nan),
                "finished": step >= of or _has_ended_itself(run, own),
                "folder": run,
            }
        )
    return pd.DataFrame(rows)


def _unit(own: Mapping[str, Any]) -> str:
    """What a run's steps count: where it takes none in its environments, passes through its demonstrations."""
    return STEPS if own["num_steps"] > 0 else EPOCHS


def _has_ended_itself(run: Path, own: Mapping[str, Any]) -> bool:
    """Whether behavioral cloning ended before its last epoch, as --patience has it."""
    path = folder.latest_checkpoint(run)
    if own["algo"] != "bc" or not path.is_file():
        return False
    return bool(checkpoint.load(path, mmap=True)["algorithm"]["fit"]["finished"])


def _differing(several: Sequence[Mapping[str, Any]], hidden: Collection[str]) -> list[str]:
    """Settings that are not the same in all runs."""
    names = dict.fromkeys(name for one in several for name in one if name not in hidden)
    return [name for name in names if len({repr(one.get(name)) for one in several}) > 1]


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
    runs: Sequence[Path],
    value: str = "return",
    *,
    by: Sequence[str] | None = None,
    window: int = 100,
    points: int = 100,
) -> pd.DataFrame:
    """Learning curves, to compare and average over seeds; runs that have no such values yet are named in a line.

    Runs of one environment and group stand on common steps, each up to its own end: where one ends early, fewer are
    left. A group is what has equal settings but for the seed, named by the learner and the settings in which it differs
    from others of that learner and environment.

    Args:
        runs: run folders.
        value: `return` or `length` of episodes from the monitor files, or a tag of TensorBoard.
        by: settings that tell groups apart instead, such as `lr` or `nn_base_kwargs.num_layers`; what else differs
            within a group is averaged over, and its name says so.
        window: episodes that are averaged.
        points: steps per curve, besides the ends of its runs.

    Returns:
        `step`, `unit` of the steps, `value`, `run`, `seed`, `env_name`, `group`, `folder`.
    """
    series = {run: _series(run, value, window) for run in runs}
    empty = [run for run, (steps, _) in series.items() if len(steps) == 0]
    if empty:
        tags = "" if value in EPISODIC else f"; there is {', '.join(scalars(empty[0])['tag'].unique()) or 'nothing'}"
        print(f"no {value} yet in {', '.join(map(_name, empty))}{tags}")
    own = {run: settings(run) for run in runs if run not in empty}
    names = _groups(own, by)
    members: dict[tuple[str, str, str], list[Path]] = {}
    for run in own:
        members.setdefault((own[run]["env_name"], _unit(own[run]), names[run]), []).append(run)
    frames = []
    for (env_name, unit, group), together in members.items():
        begin = min(max(series[run][0][0] for run in together), min(series[run][0][-1] for run in together))
        ends = [series[run][0][-1] for run in together]
        grid = np.unique([*np.linspace(begin, max(ends), points), *ends])
        for run in together:
            steps, values = series[run]
            reached = grid[(grid >= steps[0]) & (grid <= steps[-1])]
            frame = pd.DataFrame({"step": reached, "unit": unit, "value": np.interp(reached, steps, values)})
            about = {"run": _name(run), "seed": own[run]["seed"], "env_name": env_name, "group": group}
            frames.append(frame.assign(**about, folder=str(run)))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=COLUMNS)


def _groups(own: Mapping[Path, dict[str, Any]], by: Sequence[str] | None) -> dict[Path, str]:
    """What the group of each run is called."""
    compared = {run: _compared(one) for run, one in own.items()}
    alike: dict[tuple[str, ...], list[Path]] = {}
    for run, one in own.items():
        chosen = () if by is None else tuple(f"{name}={hyperparameters(one).get(name)}" for name in by)
        alike.setdefault((one["env_name"], *(chosen or [checkpoint.learner_name(one)])), []).append(run)
    found = {}
    for (_, *parts), together in alike.items():
        differing = _differing([compared[run] for run in together], set(by or ()))
        for run in together:
            if by is None:
                named = (f"{name}={compared[run][name]}" for name in differing if name in compared[run])
                found[run] = ", ".join([*parts, *named])
            else:
                found[run] = ", ".join(parts) + (f" (over {', '.join(differing)})" if differing else "")
    return found


def _compared(own: dict[str, Any]) -> dict[str, Any]:
    """The settings on which learning depends, but for the seed: where something decays, the steps in all among them."""
    flat = hyperparameters(own)
    decays = any(flat.get(name) for name in ("use_linear_lr_decay", "use_linear_clip_decay"))
    return {name: v for name, v in flat.items() if name not in NOT_COMPARED and (decays or name != "num_env_steps")}


def _name(run: Path) -> str:
    """What a run is called: in a queue, which names its folder `run`, by its experiment."""
    return run.parent.name if run.name == "run" else run.name


def _series(run: Path, value: str, window: int) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values, from the first to where the run stands; of equal length, 0 where there are none."""
    if value not in EPISODIC:
        frame = scalars(run)
        frame = frame[frame["tag"] == value]
        return frame["step"].to_numpy(), frame["value"].to_numpy()
    frame = episodes(run)
    steps, values = frame["step"].to_numpy(), frame[value].rolling(window, min_periods=1).mean().to_numpy()
    now = int(folder.progress(run).get("step", 0))
    if len(steps) > 0 and now > steps[-1]:  # the episodes that run have no value yet; the mean stands
        steps, values = np.append(steps, now), np.append(values, values[-1])
    return steps, values


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
