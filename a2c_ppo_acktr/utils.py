"""Small tools with one job each: errors for the user, seeding, initialisation, files."""

import contextlib
import ctypes
import math
import os
import platform
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
ModuleT = TypeVar("ModuleT", bound=nn.Module)


class UsageError(Exception):
    """The user asked for something impossible: one line that says what would be accepted, exit code 2."""


def init_orthogonal(module: ModuleT, gain: float = math.sqrt(2)) -> ModuleT:
    """Give `module` orthogonal weights of the given gain and zero biases (Saxe et al. 2014); returns it."""
    for name, parameter in module.named_parameters(recurse=False):
        if "weight" in name:
            nn.init.orthogonal_(parameter, gain)
        elif "bias" in name:
            nn.init.zeros_(parameter)
    return module


def flatten_parameters(module: nn.Module) -> nn.Parameter:
    """Move all parameters of `module`, and their gradients, into one vector each; the modules keep views of it.

    Optimizers, gradient norms and `zero_grad` then cost one operation instead of one per parameter. Kernels of
    convolutions lie in channels-last order, as they do beside channels-last images.
    """
    parameters = list(module.parameters())
    orders = [(0, 2, 3, 1) if parameter.dim() == 4 else tuple(range(parameter.dim())) for parameter in parameters]
    ordered = [parameter.detach().permute(order) for parameter, order in zip(parameters, orders, strict=True)]
    flat = nn.Parameter(torch.cat([values.flatten() for values in ordered]))
    flat.grad = torch.zeros_like(flat)
    sizes = [values.numel() for values in ordered]
    pieces = zip(parameters, orders, ordered, flat.data.split(sizes), flat.grad.split(sizes), strict=True)
    for parameter, order, like, values, grads in pieces:
        back = np.argsort(order).tolist()
        parameter.data = values.view(like.shape).permute(back)
        parameter.grad = grads.view(like.shape).permute(back)
    return flat


def flat_indices(module: nn.Module, names: set[str]) -> Tensor:
    """Where the parameters of these names lie in the vector of `flatten_parameters`."""
    named = list(module.named_parameters())
    chosen = torch.cat([torch.full((parameter.numel(),), name in names) for name, parameter in named])
    return chosen.nonzero().squeeze(1).to(named[0][1].device)


def arrays(*tensors: Tensor | np.ndarray) -> tuple[Any, list[Any]]:
    """What to compute small things with: NumPy and views of the tensors on the CPU, else torch and the tensors.

    What is NumPy's already stays as it is.

    On a few hundred numbers a call of NumPy costs a fifth of one of torch. Operators, reductions, `exp`, `where`,
    `clip`, `minimum`, `maximum` and `full_like` are the same in both.
    """
    if all(isinstance(tensor, np.ndarray) or tensor.device.type == "cpu" for tensor in tensors):
        return np, [tensor if isinstance(tensor, np.ndarray) else tensor.detach().numpy() for tensor in tensors]
    return torch, [torch.as_tensor(tensor).detach() for tensor in tensors]


def count(array: Any) -> Any:
    """0, 1, 2, ... along the first axis of an array as of `arrays`."""
    if isinstance(array, np.ndarray):
        return np.arange(len(array))
    return torch.arange(len(array), device=array.device)


class Later:
    """A number that is computed when it is asked for: of the metrics of an update most are never written."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self.function = function

    def __float__(self) -> float:
        return float(self.function())


def clip_grad_norm(flat: nn.Parameter, max_norm: float) -> Any:
    """Scale the gradient of a flat parameter down to `max_norm`; returns its norm before."""
    assert flat.grad is not None
    xp, (grad,) = arrays(flat.grad)
    norm = xp.sqrt(xp.dot(grad, grad))
    scale = max_norm / (norm + 1e-6)
    grad *= min(scale, 1.0) if xp is np else scale.clip(max=1.0)  # a GPU is not waited for
    return norm


def linear_decay(initial: float, env_steps: int, total: int) -> float:
    """`initial` at the first environment step, 0 from step `total` on."""
    return initial * max(0.0, 1.0 - env_steps / total)


def seed_everything(seed: int, deterministic: bool = False) -> None:
    """Seed every random generator of the process; `deterministic` also forbids nondeterministic CUDA kernels."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
        torch.use_deterministic_algorithms(True)


def pick_device(cuda: bool) -> torch.device:
    """The GPU where there is one and `cuda` allows it, else the CPU."""
    return torch.device("cuda" if cuda and torch.cuda.is_available() else "cpu")


def lacks_bfloat16() -> bool:
    """Whether bfloat16 would be emulated here, more slowly than float32: no GPU, an x86 without its instructions."""
    on_x86 = platform.machine() in ("x86_64", "AMD64")
    return on_x86 and not torch.cuda.is_available() and not torch.cpu._is_avx512_bf16_supported()


def set_threads(num: int) -> None:
    """Use `num` CPU threads in torch, and one in NumPy's linear algebra.

    Torch's idle threads and BLAS's wait in loops, each for the other: on two cores of which another process used one,
    products by two BLAS threads between torch's operations took seven times as long as by one.
    """
    torch.set_num_threads(num)
    threadpool_limits(1, user_api="blas")


def tune_process() -> None:
    """Spare this process two costs that have nothing to do with learning; call it before anything starts threads.

    glibc keeps what is freed for the next tensor. By default it gives the memory of large tensors back to the system,
    and page faults of the next ones take up to half the time of a convolutional network.

    Numbers below 1e-38 count as 0. Where gradients stay 0, at units of ReLU that never fire, Adam's first moment decays
    to such numbers and rounding keeps it there; a step over them takes four times as long.
    """
    torch.set_flush_denormal(True)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(M_MMAP_THRESHOLD, 2**25)  # the largest value that it accepts


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


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write` with a temporary name beside `path`, flush it to disk and rename it: never half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


class Interrupted(Exception):
    """A signal asked the program to end; `signum` says which."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


class StopOnSignals:
    """While entered, Ctrl-C and SIGTERM set `requested`, so that a loop can leave at its next boundary.

    If that does not come within `patience` seconds, or a second signal arrives, `Interrupted` is raised wherever the
    program is.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, patience: float = 3.0) -> None:
        self.patience = patience
        self.requested: int | None = None

    def __enter__(self) -> "StopOnSignals":
        self._previous = {signum: signal.signal(signum, self._request) for signum in self.SIGNALS}
        self._previous[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._give_up)
        return self

    def __exit__(self, *exception: object) -> None:
        self.boundary_reached()
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)

    def boundary_reached(self) -> None:
        """The loop has been left: nothing will be raised any more for the first signal."""
        signal.setitimer(signal.ITIMER_REAL, 0)

    def _request(self, signum: int, frame: object) -> None:
        if self.requested is not None:
            raise Interrupted(signum)
        self.requested = signum
        signal.setitimer(signal.ITIMER_REAL, self.patience)

    def _give_up(self, signum: int, frame: object) -> None:
        raise Interrupted(self.requested or signum)
