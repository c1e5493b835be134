"""Action distributions in closed form, and the heads that produce them from features.

They follow torch.distributions in meaning and do without its validation, broadcasting and lazy properties, which cost
more than the mathematics in the acting path. Leading axes are free (`[N]`, `[B]` or `[T, N]`, written `...`);
`log_prob`, `entropy` and `kl` always return `[...]`, summed over the dimensions of one action.
"""

from typing import Protocol

from gymnasium import spaces
from torch import Tensor, nn

from a2c_ppo_acktr.distributions.continuous import HALF_LOG_2PI, DiagGaussian, DiagGaussianHead
from a2c_ppo_acktr.distributions.discrete import (
    Bernoulli,
    BernoulliHead,
    Categorical,
    CategoricalHead,
    MultiCategorical,
    MultiCategoricalHead,
)
from a2c_ppo_acktr.interfaces import Tree
from a2c_ppo_acktr.spaces import UnsupportedSpace

__all__ = [
    "HALF_LOG_2PI",
    "Bernoulli",
    "BernoulliHead",
    "Categorical",
    "CategoricalHead",
    "DiagGaussian",
    "DiagGaussianHead",
    "Distribution",
    "MultiCategorical",
    "MultiCategoricalHead",
    "make_head",
]


class Distribution(Protocol):
    """What a policy needs of the distribution of one batch of actions."""

    def sample(self) -> Tensor:
        """Draw one action per row."""

    def mode(self) -> Tensor:
        """The most probable action per row."""

    def log_prob(self, actions: Tensor) -> Tensor:
        """Log density or mass of `actions`: `[...]`."""

    def entropy(self) -> Tensor:
        """Entropy in nats: `[...]`."""

    def describe(self) -> Tree:
        """What it consists of: probabilities, or mean and deviation."""

    def kl(self, old: Tree) -> Tensor:
        """KL(old || self) in nats, exact: `[...]`; `old` is described as by `describe`."""


def make_head(action_space: spaces.Space, num_features: int) -> nn.Module:
    """The head that fits `action_space`; `UnsupportedSpace` names what would fit."""
    if isinstance(action_space, spaces.Discrete):
        return CategoricalHead(num_features, int(action_space.n))
    if isinstance(action_space, spaces.MultiDiscrete) and action_space.nvec.ndim == 1:
        return MultiCategoricalHead(num_features, action_space.nvec.tolist())
    if isinstance(action_space, spaces.Box) and len(action_space.shape) == 1:
        return DiagGaussianHead(num_features, action_space.shape[0])
    if isinstance(action_space, spaces.MultiBinary) and len(action_space.shape) == 1:
        return BernoulliHead(num_features, action_space.shape[0])
    raise UnsupportedSpace(
        f"action space {action_space} is not supported; Discrete, flat MultiDiscrete, MultiBinary and Box are"
    )
