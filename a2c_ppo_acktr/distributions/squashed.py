"""Distributions within [-1, 1]: tanh of a normal variable."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from a2c_ppo_acktr.distributions.continuous import HALF_LOG_2PI

LOG_2 = math.log(2.0)


class TanhGaussian:
    """a = tanh(u), u ~ N(mean, std), independent in every dimension; actions `[..., A]` within [-1, 1].

        log p(a) = sum log N(u) - log(1 - tanh(u)^2)        log(1 - tanh(u)^2) = 2 (log 2 - u - softplus(-2u))

    The second form is exact for every u, where 1 - tanh(u)^2 is 0 in float32 from |u| = 9 on (Haarnoja et al. 2018,
    appendix C, has the first). An action is passed together with its u, which cannot be had back from it.

    Args:
        mean: `[..., A]` of u.
        log_std: `[..., A]` of u.
    """

    def __init__(self, mean: Tensor, log_std: Tensor) -> None:
        self.mean, self.log_std = mean, log_std

    def sample(self) -> tuple[Tensor, Tensor]:
        """Actions `[..., A]` and their log density `[...]`, both with their graph (the reparametrization trick)."""
        noise = torch.randn_like(self.mean)
        u = torch.addcmul(self.mean, self.log_std.exp(), noise)
        return torch.tanh(u), self._log_density(noise, u)

    def log_prob_of(self, u: Tensor) -> Tensor:
        """Log density `[...]` of tanh(u), in the space of actions."""
        return self._log_density((u - self.mean) * (-self.log_std).exp(), u)

    def _log_density(self, z: Tensor, u: Tensor) -> Tensor:
        log_slope = 2.0 * (LOG_2 - u - functional.softplus(-2.0 * u))
        return (-0.5 * z.square() - self.log_std - HALF_LOG_2PI - log_slope).sum(-1)

    def mode(self) -> Tensor:
        """tanh(mean): the median, which evaluations play."""
        return torch.tanh(self.mean)

    def describe(self) -> dict[str, Tensor]:
        """`mean` and `std` of u, each `[..., A]`."""
        return {"mean": self.mean, "std": self.log_std.exp()}
