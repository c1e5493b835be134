"""The flags of a run's folder: what is written there, how often, and where else it goes."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from a2c_ppo_acktr.flags import flag


@dataclass
class LogConfig:
    """What a run tells and keeps."""

    resume: str | None = flag(None, "continue a run folder or checkpoint; without a value the newest run that fits")
    log_dir: str | None = flag(None, "run folder (default: runs/<env>__<algo>__<seed>__<time>); nothing is deleted")
    log_interval: int | None = flag(None, "updates between metric lines (default: lines at least 1 s apart)", low=1)
    save_dir: str = flag("./trained_models/", "folder for <algo>/<env-name>.pt, a copy of the latest checkpoint")
    save_interval: int | None = flag(
        None, "updates between checkpoints (default: 60 s apart, and after updates of more than 3 s)", low=1
    )
    checkpoint_interval: int = flag(0, "updates between numbered checkpoints that are kept; 0 is none", low=0)
    eval_interval: int | None = flag(
        None, "updates between evaluations, the last one at the end (default: none)", low=1
    )
    eval_episodes: int = flag(10, "episodes of an evaluation", low=1)
    eval_max_steps: int = flag(27_000, "steps after which an evaluation cuts an episode; 27000 is Atari's limit", low=1)

    exp_name: str | None = flag(None, "name of the experiment: begins the run folder's name and groups W&B's runs")
    config_file_name: str | None = flag(None, "which queued experiment this is; recorded in config.json and W&B")
    save_subdir: str | None = flag(None, "folder below --save-dir instead of <algo>")
    save_name: str | None = flag(None, "file name below --save-dir, without .pt, instead of <env-name>")
    capture_video: int = flag(0, "film every so many episodes of environment 0 into videos/; 0 is none", low=0)
    track: bool = flag(False, "log to Weights & Biases too, offline where there is no account or connection")
    wandb_project_name: str = flag("a2c-ppo-acktr", "W&B project")
    wandb_entity: str | None = flag(None, "W&B user or team (default: the account's own)")
    upload_video: bool = flag(False, "send films to W&B")


def hyperparameters(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a run but for those of its folder: what it learns, from what and how, dictionaries taken apart.

    Args:
        settings: every flag, as config.json and checkpoints have them.

    Returns:
        the algorithm's among the others, and entries of dictionaries by path, such as `nn_base_kwargs.num_layers`.
    """
    imitation = settings.get("gail_config") if settings.get("gail") else None
    told = {field.name for field in fields(LogConfig)} | {"config", "gail_config"}
    flat: dict[str, Any] = {}
    for name, value in {**settings, **(imitation or {}), **settings["config"]}.items():
        if name in told:
            continue
        flat |= {f"{name}.{key}": inner for key, inner in value.items()} if isinstance(value, dict) else {name: value}
    return flat
