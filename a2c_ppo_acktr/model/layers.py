"""Fully connected layers."""

import itertools
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from a2c_ppo_acktr.utils import init_orthogonal


class MLP(nn.Sequential):
    """Linear layers of the given sizes, each with its activation; one size is no layer.

    Args:
        sizes: of the input and of every layer's output.
        activation: module of every layer.
        last: of the last layer, where it differs.
        make_layer: builds a layer from the sizes of its input and output.
    """

    kernel: Callable[[Tensor], list[Tensor] | None] | None = None
    """Computes what `layers` does, or declines, where an accelerator has been put here (see `fast.attach`)."""

    def __init__(
        self,
        *sizes: int,
        activation: type[nn.Module],
        last: type[nn.Module] | None = None,
        make_layer: Callable[[int, int], nn.Module] = nn.Linear,
    ) -> None:
        layers = [make_layer(*pair) for pair in itertools.pairwise(sizes)]
        kinds = [activation] * len(layers)
        if last is not None and layers:
            kinds[-1] = last
        super().__init__(*(m for layer, kind in zip(layers, kinds, strict=True) for m in (layer, kind())))

    def forward(self, x: Tensor) -> Tensor:
        """`[..., sizes[0]]` to `[..., sizes[-1]]`."""
        return self.layers(x)[-1] if len(self) else x

    def layers(self, x: Tensor) -> list[Tensor]:
        """The output of every layer, `[..., sizes[1]]` to `[..., sizes[-1]]`."""
        known = self.kernel(x) if self.kernel is not None and len(self) else None
        if known is not None:
            return known
        outputs: Any = itertools.accumulate(self, lambda h, module: module(h), initial=x)
        return list(outputs)[2::2]


class TanhMLP(MLP):
    """Linear and tanh layers, orthogonal with gain sqrt(2)."""

    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes, activation=nn.Tanh, make_layer=lambda i, o: init_orthogonal(nn.Linear(i, o)))
