"""Distributions of vectors, and the heads that give them."""

import math

import torch
from torch import Tensor, nn

from a2c_ppo_acktr.utils import init_orthogonal

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


class DiagGaussian:
    """Independent normals. `mean: [..., A]`, `log_std: [A]` or `[..., A]`; actions `[..., A]`."""

    def __init__(self, mean: Tensor, log_std: Tensor) -> None:
        self.mean, self.log_std = mean, log_std

    def sample(self) -> Tensor:
        """Mean + std * N(0, 1)."""
        return torch.addcmul(self.mean, self.log_std.exp(), torch.randn_like(self.mean))

    def mode(self) -> Tensor:
        """The mean."""
        return self.mean

    def log_prob(self, actions: Tensor) -> Tensor:
        """-z^2 / 2 - log std - log(2 pi) / 2, summed over the dimensions of an action."""
        z = (actions - self.mean) * (-self.log_std).exp()
        return (-0.5 * z.square() - self.log_std - HALF_LOG_2PI).sum(-1)

    def entropy(self) -> Tensor:
        """sum(1/2 + log(2 pi) / 2 + log std)."""
        return (0.5 + HALF_LOG_2PI + self.log_std).sum(-1).expand(self.mean.shape[:-1])

    def describe(self) -> dict[str, Tensor]:
        """`mean` and `std`, each `[..., K]`."""
        return {"mean": self.mean, "std": self.log_std.exp().expand(self.mean.shape)}

    def kl(self, old: dict[str, Tensor]) -> Tensor:
        """Sum of log(std / std_old) + (std_old^2 + (mean_old - mean)^2) / (2 std^2) - 1/2."""
        ratio, z = old["std"] * (-self.log_std).exp(), (old["mean"] - self.mean) * (-self.log_std).exp()
        return (0.5 * (ratio.square() + z.square() - 1.0) - ratio.log()).sum(-1)


class DiagGaussianHead(nn.Module):
    """Features `[..., F]` to `DiagGaussian` whose log standard deviation is a parameter of its own, at first 0."""

    def __init__(self, num_features: int, num_actions: int) -> None:
        super().__init__()
        self.mean = init_orthogonal(nn.Linear(num_features, num_actions), gain=1.0)
        self.log_std = nn.Parameter(torch.zeros(num_actions))

    def forward(self, features: Tensor) -> DiagGaussian:
        """The distribution at each row."""
        mean = self.mean(features)
        return DiagGaussian(mean, self.log_std.expand_as(mean))
