"""Start a policy from layers of another run's checkpoint, and keep them as they are if asked."""

from collections.abc import Sequence
from typing import Any

import torch

from a2c_ppo_acktr.run import checkpoint
from a2c_ppo_acktr.utils import UsageError


def clone_parameters(
    algorithm: Any,
    envs_normalizer: Any,
    source: str,
    *,
    copy: bool = True,
    layers: Sequence[str] | str = ("base",),
    freeze: bool = False,
    normalizer: bool = True,
) -> list[str]:
    """Copy parameters whose names begin with one of `layers` from a checkpoint's policy of the same shapes.

    Args:
        algorithm: the learner; its `policy` is changed in place.
        envs_normalizer: statistics of the environments' observations, or None.
        source: checkpoint or run folder.
        copy: False where a resumed run holds the parameters already, and only freezing is to be repeated.
        layers: names or beginnings of names, such as `base.gru`, `base.shared.0`, `head`, `auxiliary`.
        freeze: never train what was copied.
        normalizer: also start from the other run's statistics of observations, which its layers have learned to read.

    Returns:
        The names of the parameters.

    Raises:
        UsageError: no parameter has such a name, or the other run's does not fit.
    """
    given = f"--clone-parameter-experiment {source}"
    prefixes = (layers,) if isinstance(layers, str) else tuple(layers)
    own = dict(algorithm.policy.named_parameters())
    chosen = {name for name in own if any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)}
    if unmatched := [p for p in prefixes if not any(name == p or name.startswith(f"{p}.") for name in own)]:
        raise UsageError(f"--clone-args layers={','.join(unmatched)}: the policy has {', '.join(_stems(own))}")
    if copy:
        contents = checkpoint.load(checkpoint.find(source, None, "--clone-parameter-experiment"))
        theirs = contents["algorithm"]["policy"]
        for name in chosen:
            if name not in theirs or theirs[name].shape != own[name].shape:
                shape = list(theirs[name].shape) if name in theirs else "nothing"
                raise UsageError(f"{given}: {name} is {list(own[name].shape)} here and {shape} there")
        with torch.no_grad():
            for name in chosen:
                own[name].copy_(theirs[name])
        if normalizer and envs_normalizer is not None and contents["normalizer"] is not None:
            envs_normalizer.load_state_dict(contents["normalizer"])
    if freeze:
        algorithm.policy.freeze(chosen)
    return sorted(chosen)


def _stems(names: Any) -> list[str]:
    """Names of modules, two levels deep."""
    return list(dict.fromkeys(".".join(name.split(".")[:2]) for name in names))
