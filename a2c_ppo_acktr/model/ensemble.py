"""K networks of one shape computed together: every layer is one batched matrix product."""

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from a2c_ppo_acktr.model.batch_renorm import BatchRenorm


class EnsembleLinear(nn.Module):
    """K linear layers, `[K, B, I]` to `[K, B, O]`; each begins as `nn.Linear` does.

    Args:
        num: K.
        size_in: I.
        size_out: O.
    """

    def __init__(self, num: int, size_in: int, size_out: int) -> None:
        super().__init__()
        bound = 1.0 / math.sqrt(size_in)
        self.weight = nn.Parameter(torch.empty(num, size_in, size_out).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(num, 1, size_out).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return torch.baddbmm(self.bias, x, self.weight)


class EnsembleLayerNorm(nn.Module):
    """K layer normalizations (Ba et al. 2016) of `[K, B, W]`, each with its gain and shift."""

    def __init__(self, num: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.gain = nn.Parameter(torch.ones(num, 1, width))
        self.shift = nn.Parameter(torch.zeros(num, 1, width))

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return torch.addcmul(self.shift, functional.layer_norm(x, (self.width,)), self.gain)


class EnsembleMLP(nn.Sequential):
    """K networks of ReLU layers and a linear one: `[B, I]`, or `[K, B, I]`, to `[K, B, O]`.

    Args:
        num: K.
        sizes: of the input and of every layer's output.
        dropout: share of the hidden units that are left out in training (Hiraoka et al. 2022: after each layer, before
            its normalization).
        layer_norm: normalize before each ReLU.
        batch_renorm: `BatchRenorm` before each layer.
    """

    def __init__(
        self,
        num: int,
        sizes: Sequence[int],
        *,
        dropout: float = 0.0,
        layer_norm: bool = False,
        batch_renorm: bool = False,
    ) -> None:
        modules: list[nn.Module] = []
        pairs = list(itertools.pairwise(sizes))
        for size_in, size_out in pairs[:-1]:
            modules += [BatchRenorm(num, size_in)] * batch_renorm
            modules.append(EnsembleLinear(num, size_in, size_out))
            if dropout > 0.0:
                modules.append(nn.Dropout(dropout))
            if layer_norm:
                modules.append(EnsembleLayerNorm(num, size_out))
            modules.append(nn.ReLU())
        modules += [BatchRenorm(num, pairs[-1][0])] * batch_renorm
        super().__init__(*modules, EnsembleLinear(num, *pairs[-1]))
        self.num = num

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return super().forward(x.expand(self.num, -1, -1) if x.dim() == 2 else x)
