"""What K-FAC knows of a network: its layers as matrices, and the two factors of each layer's Fisher matrix.

B samples, D columns of a layer's matrix (inputs, then 1 for the bias), O rows (outputs).
"""

import contextlib
import math
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from a2c_ppo_acktr.arrays import arrays
from a2c_ppo_acktr.distributions import DiagGaussianHead
from a2c_ppo_acktr.model.encoders import WholeMap
from a2c_ppo_acktr.utils import UsageError

CHUNK = 2**22
"""Numbers in one piece of a convolution's patches, 16 MiB: few rows make a poor product, many miss the caches."""


def second_moment(rows: Any, bias: bool = False) -> Any:
    """Sum of a a' over rows a, `[D, D]` of `[n, I]`; with a 1 appended to each where there is a `bias`.

    `rows` and the result are arrays as of `arrays.arrays`: NumPy's BLAS does half the work of a general product.
    """
    inner = rows.T @ rows
    if not bias:
        return inner
    xp = np if isinstance(rows, np.ndarray) else torch
    ones = xp.ones_like(rows[:, :1])
    sums = ones.T @ rows
    top = xp.concatenate([inner, sums.T], 1)
    return xp.concatenate([top, xp.concatenate([sums, ones.T @ ones], 1)])


class LinearLayer:
    """An `nn.Linear`; it may be applied to several locations per sample."""

    def __init__(self, name: str, module: nn.Linear) -> None:
        self.name, self.module, self.bias = name, module, module.bias is not None
        self.input_kind: tuple[Any, ...] = ("linear", self.bias)

    def output(self, output: Any) -> Tensor:
        """What of the module's output to differentiate by."""
        return output

    def input_moment(self, x: Tensor, batch: int) -> Tensor:
        """A `[D, D]` of the inputs `[B, ..., I]`."""
        _, (rows,) = arrays(x.to(self.module.weight.dtype).reshape(-1, x.shape[-1]))
        return torch.as_tensor(second_moment(rows, self.bias)) / batch

    def output_moment(self, grad: Tensor) -> Tensor:
        """G `[O, O]` of each sample's own gradient `[B, ..., O]`."""
        _, (rows,) = arrays(grad.to(self.module.weight.dtype).reshape(-1, grad.shape[-1]))
        return torch.as_tensor(second_moment(rows)) / len(rows)

    def gradient(self) -> Tensor:
        """`[O, D]`."""
        weight, bias = self.module.weight.grad, self.module.bias.grad if self.bias else None
        assert weight is not None
        return weight if bias is None else torch.cat([weight, bias.unsqueeze(1)], 1)

    def value(self) -> Tensor:
        """The layer's matrix, `[O, D]`."""
        weight = self.module.weight.detach()
        return torch.cat([weight, self.module.bias.detach().unsqueeze(1)], 1) if self.bias else weight

    def subtract(self, change: Tensor) -> None:
        """Move the parameters by `-change: [O, D]`."""
        inputs = self.module.in_features
        self.module.weight.data -= change[:, :inputs]
        if self.bias:
            self.module.bias.data -= change[:, inputs]


class ConvLayer:
    """An `nn.Conv2d`; columns in the order (kernel row, kernel column, channel), which is that of channels-last memory.

    `fast` counts all locations of a sample as one, with the mean of the inputs and the sum of the gradients.
    """

    def __init__(self, name: str, module: nn.Conv2d, fast: bool = False) -> None:
        self.name, self.module, self.bias, self.fast = name, module, module.bias is not None, fast
        odd = isinstance(module.padding, str) or module.padding_mode != "zeros"
        if odd or module.groups != 1 or set(module.dilation) != {1}:
            raise UsageError(
                f"K-FAC: {name}: a convolution with groups, dilation or padding other than zeros by number"
            )
        self.padding = tuple(int(pad) for pad in module.padding)
        self.input_kind: tuple[Any, ...] = ("conv", self.bias, module.kernel_size, module.stride, self.padding)

    def output(self, output: Any) -> Tensor:
        """See `LinearLayer`."""
        return output

    def patches(self, images: Tensor) -> Any:
        """What the kernel sees at each of L locations: an array `[b, L, kernel area * C]` of `[b, C, H, W]`."""
        (down, right), (step_down, step_right) = self.module.kernel_size, self.module.stride
        pad_down, pad_right = self.padding
        padded = nn.functional.pad(images, (pad_right, pad_right, pad_down, pad_down)).permute(0, 2, 3, 1)
        windows = padded.unfold(1, down, step_down).unfold(2, right, step_right)  # [b, h, w, C, down, right]
        _, (ordered,) = arrays(windows.permute(0, 1, 2, 4, 5, 3))
        return ordered.reshape(len(images), -1, down * right * images.shape[1])

    def input_moment(self, x: Tensor, batch: int) -> Tensor:
        """A `[D, D]` of the images `[B, C, H, W]`, a few at a time, on the CPU by torch's number of threads."""
        sizes = zip(x.shape[-2:], self.padding, self.module.kernel_size, self.module.stride, strict=True)
        locations = math.prod((size + 2 * pad - kernel) // stride + 1 for size, pad, kernel, stride in sizes)
        images = max(1, CHUNK // (locations * self.module.weight[0].numel()))
        with ThreadPoolExecutor(torch.get_num_threads() if x.device.type == "cpu" else 1) as pool:
            first, *others = pool.map(self._moment, x.to(self.module.weight.dtype).split(images))
        return torch.as_tensor(sum(others, start=first)) / batch

    def _moment(self, images: Tensor) -> Any:
        patches = self.patches(images)
        rows = patches.mean(1) if self.fast else patches.reshape(-1, patches.shape[-1])
        return second_moment(rows, self.bias)

    def output_moment(self, grad: Tensor) -> Tensor:
        """G `[O, O]` of each sample's own gradient `[B, O, H, W]`."""
        grad = grad.to(self.module.weight.dtype)
        rows = grad.sum((2, 3)) if self.fast else grad.permute(0, 2, 3, 1).reshape(-1, grad.shape[1])
        return torch.as_tensor(second_moment(arrays(rows)[1][0])) / len(rows)

    def gradient(self) -> Tensor:
        """`[O, D]`."""
        weight, bias = self.module.weight.grad, self.module.bias.grad if self.module.bias is not None else None
        assert weight is not None
        rows = weight.permute(0, 2, 3, 1).flatten(1)
        return rows if bias is None else torch.cat([rows, bias.unsqueeze(1)], 1)

    def value(self) -> Tensor:
        """See `LinearLayer`."""
        rows = self.module.weight.detach().permute(0, 2, 3, 1).flatten(1)
        bias = self.module.bias
        return rows if bias is None else torch.cat([rows, bias.detach().unsqueeze(1)], 1)

    def subtract(self, change: Tensor) -> None:
        """See `LinearLayer`."""
        kernel = self.module.weight.data.permute(0, 2, 3, 1)
        kernel -= change[:, : kernel[0].numel()].view_as(kernel)
        if self.module.bias is not None:
            self.module.bias.data -= change[:, -1]


class LogStdLayer:
    """The log standard deviation of a Gaussian head, a column `[A, 1]` that is added to every row."""

    def __init__(self, name: str, module: DiagGaussianHead) -> None:
        self.name, self.module = f"{name}.log_std", module
        self.input_kind: tuple[Any, ...] = ("one",)

    def output(self, output: Any) -> Tensor:
        """See `LinearLayer`."""
        return output.log_std

    def input_moment(self, x: Tensor, batch: int) -> Tensor:
        """Its input is 1."""
        return torch.ones(1, 1, device=x.device)

    def output_moment(self, grad: Tensor) -> Tensor:
        """G `[A, A]` of each sample's own gradient `[B, A]`."""
        _, (rows,) = arrays(grad.reshape(-1, grad.shape[-1]))
        return torch.as_tensor(second_moment(rows)) / len(rows)

    def gradient(self) -> Tensor:
        """`[A, 1]`."""
        assert self.module.log_std.grad is not None
        return self.module.log_std.grad.unsqueeze(1)

    def value(self) -> Tensor:
        """See `LinearLayer`."""
        return self.module.log_std.detach().unsqueeze(1)

    def subtract(self, change: Tensor) -> None:
        """See `LinearLayer`."""
        self.module.log_std.data -= change[:, 0]


Layer = LinearLayer | ConvLayer | LogStdLayer


def find_layers(model: nn.Module, fast_cnn: bool = False) -> list[Layer]:
    """Every module that owns parameters, as a layer.

    Raises:
        UsageError: names one of a type without factors.
    """
    layers: list[Layer] = []
    for name, module in model.named_modules():
        if type(module) is nn.Linear:
            layers.append(LinearLayer(name, module))
        elif type(module) in (nn.Conv2d, WholeMap):
            layers.append(ConvLayer(name, module, fast_cnn))
        elif type(module) is DiagGaussianHead:
            layers.append(LogStdLayer(name, module))
        elif list(module.parameters(recurse=False)):
            raise UsageError(f"K-FAC: {name} is a {type(module).__name__}; it knows Linear, Conv2d and Gaussian heads")
    return layers


class Factor:
    """The running average of a second moment `[D, D]`, and its eigenvectors."""

    def __init__(self) -> None:
        self.moment: Tensor | None = None
        self.values: Tensor | None = None
        self.vectors: Tensor | None = None

    def average(self, moment: Tensor, decay: float) -> bool:
        """Take in a new moment; one that is not finite is left out. Returns whether it was taken."""
        if not math.isfinite(moment.sum()):
            return False
        self.moment = moment if self.moment is None else self.moment.mul_(decay).add_(moment, alpha=1.0 - decay)
        return True

    def decompose(self, floor: float, device: torch.device) -> bool:
        """Find eigenvectors; eigenvalues up to `floor` count as 0. Returns success; without, the old ones stay."""
        if self.moment is None:
            return False
        for dtype in (self.moment.dtype, torch.float64):  # the second for what does not converge in the first
            with contextlib.suppress(torch.linalg.LinAlgError):
                values, vectors = torch.linalg.eigh(self.moment.to(device, dtype))
                self.values = torch.where(values > floor, values, 0.0).to(self.moment)
                self.vectors = vectors.to(self.moment)
                return True
        return False

    def state_dict(self) -> dict[str, Tensor | None]:
        """As plain tensors."""
        return {"moment": self.moment, "values": self.values, "vectors": self.vectors}

    def load_state_dict(self, state: dict[str, Tensor | None], size: int, device: torch.device) -> None:
        """Inverse of `state_dict`, of a factor `[size, size]`; `ValueError` where it is of another one."""
        self.moment, self.vectors = (checked(state[name], (size, size), device) for name in ("moment", "vectors"))
        self.values = checked(state["values"], (size,), device)


def checked(tensor: Tensor | None, shape: tuple[int, ...], device: torch.device) -> Tensor | None:
    """A tensor of a checkpoint, moved to `device`; `ValueError` where it is not of `shape` and of finite numbers."""
    if tensor is None:
        return None
    if tensor.shape != shape or not tensor.dtype.is_floating_point or not tensor.isfinite().all():
        raise ValueError(f"curvature of shape {list(tensor.shape)}, expected {list(shape)}")
    return tensor.to(device)


def damped_inverses(inputs: Tensor, outputs: Tensor, damping: float) -> tuple[Tensor, Tensor] | None:
    """(A + pi sqrt(damping) I)^-1 and (G + sqrt(damping) / pi I)^-1 by Cholesky (Martens & Grosse 2015, section 6.3).

    pi^2 is the ratio of the factors' mean eigenvalues. The damping of a matrix that is not positive definite is raised
    tenfold up to six times; None where that does not help.
    """
    means = [float(moment.diagonal().mean()) for moment in (inputs, outputs)]
    pi = math.sqrt(means[0] / means[1]) if min(means) > 0.0 else 1.0
    inverses = []
    for moment, share in ((inputs, pi), (outputs, 1.0 / pi)):
        for power in range(7):
            shift = share * math.sqrt(damping) * 10.0**power
            lower, info = torch.linalg.cholesky_ex(moment + shift * torch.eye(len(moment)).to(moment))
            if int(info) == 0:
                inverses.append(torch.cholesky_inverse(lower))
                break
        else:
            return None
    return inverses[0], inverses[1]


def faster_device(size: int, device: torch.device) -> torch.device:
    """Where eigenvectors of a matrix of `size` are found faster: on a GPU or, which often wins, on its host.

    Without measuring it is the host where results have to repeat (--cuda-deterministic).
    """
    host = torch.device("cpu")
    if device.type == "cpu" or torch.are_deterministic_algorithms_enabled():
        return host
    seconds = {}
    sample = torch.randn(size, size, generator=torch.Generator().manual_seed(0)).to(device)  # not of the run's numbers
    matrix = second_moment(sample) / size
    for candidate in (device, host):
        for _ in range(2):  # the first pays for libraries that are loaded
            torch.cuda.synchronize(device)
            begin = time.perf_counter()
            torch.linalg.eigh(matrix.to(candidate))[1].to(device)
            torch.cuda.synchronize(device)
            seconds[candidate] = time.perf_counter() - begin
    return min(seconds, key=lambda candidate: seconds[candidate])
