"""A run that goes on from a checkpoint: what differs from before, what does not fit, what begins anew."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from a2c_ppo_acktr.run import checkpoint
from a2c_ppo_acktr.run.config import hyperparameters


def changed(now: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that are other ones than before, but for those of the folder, by the names of `hyperparameters`.

    What a version before did not know is not changed.
    """
    old = hyperparameters(before)
    return {
        name: value
        for name, value in hyperparameters(now).items()
        if (name not in old and "." in name) or old.get(name, value) != value
    }


def misfit(now: Mapping[str, Any], before: Mapping[str, Any]) -> str:
    """What a state that cannot be taken in does not fit: the flags that were changed, if any were."""
    found = {name: value for name, value in changed(now, before).items() if name != "num_env_steps"}
    flags = " ".join(_as_flag(name, value) for name, value in found.items())
    return f"does not fit {flags}" if flags else "damaged, or of another version"


def changes(now: Mapping[str, Any], before: Mapping[str, Any]) -> list[str]:
    """Lines about changed settings whose effect is not what their name says alone."""
    found, lines = changed(now, before), []
    if "seed" in found:
        lines.append(f"--seed {now['seed']}, before {before['seed']}: random states begin anew")
    if "num_env_steps" in found and now["config"].get("use_linear_lr_decay"):
        steps = f"--num-env-steps {now['num_env_steps']}, before {before['num_env_steps']}"
        lines.append(f"{steps}: the learning rate decays over all of them, and is another one now")
    return lines


def anew(resumed: bool, reason: str | None) -> str:
    """The line about environments whose states cannot be restored, or will not be."""
    why = f" ({reason})" if reason is not None else ""
    if resumed:
        return f"the environments' states cannot be restored: every running episode begins anew{why}"
    return f"the environments' states cannot be saved: a resumed run will begin new episodes{why}"


def load_replay(folder: Path, name: str | None, storage: Any) -> str | None:
    """Let a storage take in the replay beside a checkpoint; its name, or None where it begins empty, with one line."""
    path = folder / Path(name or "none").name
    if name is None:
        why = "this checkpoint has none (latest.pt does, with --save-replay)"
    elif not path.is_file():
        why = f"{path} is gone"
    elif checkpoint.load_replay(path, storage):
        return name
    else:
        why = f"{path} was made with other flags"
    print(f"the replay begins empty: {why}", flush=True)
    return None


def _as_flag(name: str, value: Any) -> str:
    """As on a command line."""
    name, _, entry = name.partition(".")
    flag = name.replace("_", "-")
    if entry:
        return f"--{flag} {entry}={value}"
    if isinstance(value, bool):
        return f"--{flag}" if value else f"--no-{flag}"
    return " ".join([f"--{flag}", *map(str, value if isinstance(value, list) else [value])])
