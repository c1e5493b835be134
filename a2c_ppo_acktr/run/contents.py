"""What a checkpoint holds, by name and type: what a reader can count on once `checkpoint.load` has read it."""

from typing import Any, NotRequired, TypedDict

from torch import Tensor


class Settings(TypedDict):
    """Of all flags, those that are read before the rest is filled into a `RunConfig`, which checks them."""

    algo: str
    env_name: str
    seed: int
    num_env_steps: int
    num_processes: int
    num_steps: int
    config: dict[str, Any]


class LoggerState(TypedDict):
    """See `Logger.state_dict`."""

    step: int
    progress_rows: int
    monitor_rows: list[int]
    seconds: float
    recent: list[tuple[float, int]]


class RngState(TypedDict):
    """See `seeding.get_rng_state`."""

    python: tuple[int, list[int], float | None]
    numpy: tuple[str, list[int], int, int, float]
    torch: Tensor
    cuda: NotRequired[list[Tensor]]


class StepperState(TypedDict):
    """See `Stepper.state_dict`."""

    envs: Any
    state_kind: NotRequired[str]
    obs: Any
    signals: dict[str, Any]
    carry: Tensor
    masks: Tensor


class CollectorState(TypedDict):
    """See `Collector.state_dict`."""

    env_steps: int
    stepper: StepperState


class Contents(TypedDict):
    """A checkpoint, whole. What the run's objects take in (`dict[str, Any]`) is checked by themselves."""

    settings: Settings
    algorithm: dict[str, Any]
    collector: CollectorState
    normalizer: dict[str, Any] | None
    logger: LoggerState
    rng: RngState
    update: int
    best: float
    evaluated: NotRequired[int]
    tracking: NotRequired[str | None]
    replay: NotRequired[str | None]
