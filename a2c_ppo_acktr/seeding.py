"""The random generators of the process: seeds, and states as plain values."""

import contextlib
import os
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

PURPOSES = ("training", "selection", "test", "continuation")
"""What environments are for: to learn from, to choose a checkpoint by, to measure by, to go on with after a resume
where the states of the former ones cannot be read."""
MOST_ENVS = 4096
"""Seeds of a run for each purpose."""


def env_seed(run_seed: int, purpose: str, index: int = 0) -> int:
    """The seed of environment `index` of a run: no other environment, purpose or run shares it.

    That holds for run seeds up to 131,071 and `MOST_ENVS` environments of a purpose. Seeds follow each other, so that
    of N environments the first one's is enough. They fit the 31 bits that emulators take.

    Args:
        run_seed: the run's.
        purpose: one of `PURPOSES`.
        index: of the environment.
    """
    block = run_seed * len(PURPOSES) + PURPOSES.index(purpose)
    return (block * MOST_ENVS + index % MOST_ENVS) % 2**31


def seed_everything(seed: int, deterministic: bool = False) -> None:
    """Seed every random generator of the process; `deterministic` also forbids nondeterministic CUDA kernels."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
        torch.use_deterministic_algorithms(True)


def onward(seed: int, env_steps: int) -> int:
    """The seed of environments that begin anew after so many steps of a run: no start is played a second time."""
    return int(np.random.SeedSequence([seed, env_steps]).generate_state(1)[0]) // 2 if env_steps > 0 else seed


def get_rng_state() -> dict[str, Any]:
    """The state of every generator that `seed_everything` seeds, as plain values and tensors."""
    name, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    version, internal, gauss_next = random.getstate()
    state: dict[str, Any] = {
        "python": [version, list(internal), gauss_next],
        "numpy": [name, np.asarray(keys).tolist(), position, has_gauss, gauss],
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_rng_state(state: dict[str, Any]) -> None:
    """Inverse of `get_rng_state`. CUDA generators are left alone where their number has changed."""
    version, internal, gauss_next = state["python"]
    random.setstate((version, tuple(internal), gauss_next))
    name, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, gauss))
    torch.set_rng_state(state["torch"].cpu())
    if torch.cuda.is_available() and len(state.get("cuda", ())) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([s.cpu() for s in state["cuda"]])


@contextlib.contextmanager
def preserve_rng() -> Iterator[None]:
    """Leave the random generators as they were, so that an evaluation does not change what is learned."""
    state = get_rng_state()
    try:
        yield
    finally:
        set_rng_state(state)
