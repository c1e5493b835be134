"""The flags of environments, which travel as one object from the command line to where each is acted on."""

from dataclasses import dataclass
from typing import Any

from a2c_ppo_acktr.flags import flag


@dataclass
class EnvConfig:
    """Which environments, and what is changed about them."""

    env_name: str = flag("PongNoFrameskip-v4", "any Gymnasium id, module:EnvId, or dm.<domain>.<task>")
    env_kwargs: dict[str, Any] = flag({}, "keyword arguments of the environment, such as gravity=9.8 render_fps=30")
    aux_wrapper_kwargs: dict[str, Any] = flag(
        {},
        "auxiliary targets beside the environment's own: previous_action=True previous_reward=True observation=[0,3] "
        "time_to_end=True (see targets.py)",
    )
    auxiliary_truth_sizes: list[int] | None = flag(
        None,
        "cut a flat info['auxiliary'] into targets auxiliary_0, auxiliary_1, ... of these sizes",
        low=1,
        high=100_000,
    )
    normalize_env: bool = flag(
        True, "normalize rewards, and all numbers in observations but pictures, by running statistics"
    )
    clip_actions: bool | None = flag(
        None, "keep continuous actions within their bounds (default: everywhere but in MuJoCo)"
    )
    rescale_actions: bool = flag(
        False, "spread a policy's -1 to 1 over the bounds of continuous actions, where these are far from -1 to 1"
    )
    channels: str | None = flag(
        None,
        "which axis of pictures has their channels (default: by the shape, as said at the start)",
        choices=("first", "last"),
    )
    time_feature: bool = flag(False, "append the share of the time limit that has passed to vector observations")
    hide_observations: list[int] = flag([], "places of numbers to leave out of vector observations", low=0)
    frame_stack: int | None = flag(None, "images to stack (default: 4 for Atari, 1 elsewhere)", low=1, high=1_000)
    vec_env: str = flag(
        "auto",
        "native batched stepping, a loop in this process, one worker per core, or EnvPool; auto picks one of the first "
        "three and says which",
        choices=("auto", "native", "dummy", "subproc", "envpool"),
    )

    @property
    def plain(self) -> bool:
        """Whether nothing is asked for that is done to environments one by one; `env_kwargs` aside."""
        wrapping = self.auxiliary_truth_sizes, self.time_feature, self.hide_observations
        return not any((*wrapping, self.rescale_actions, self.channels))
