"""Distributions of choices and coins, and the heads that give them."""

import math

import torch
from torch import Tensor, nn

from a2c_ppo_acktr.utils import init_orthogonal


class Categorical:
    """One of A actions. `logits: [..., A]` unnormalized; actions `[...]` int64."""

    def __init__(self, logits: Tensor) -> None:
        self.log_probs = logits.log_softmax(-1)

    def sample(self) -> Tensor:
        """Exponential race: argmax of p_a / e_a with e_a ~ Exp(1) is a with probability p_a."""
        return (self.log_probs.exp() / torch.empty_like(self.log_probs).exponential_()).argmax(-1)

    def mode(self) -> Tensor:
        """The most probable action."""
        return self.log_probs.argmax(-1)

    def log_prob(self, actions: Tensor) -> Tensor:
        """Log mass of `actions: [...]`."""
        return self.log_probs.gather(-1, actions.unsqueeze(-1)).squeeze(-1)

    def entropy(self) -> Tensor:
        """-sum p log p; an action of probability 0 (logit -inf) contributes 0."""
        return -(self.log_probs.exp() * self.log_probs.clamp(min=torch.finfo(self.log_probs.dtype).min)).sum(-1)

    def describe(self) -> Tensor:
        """Probabilities `[..., A]`."""
        return self.log_probs.exp()

    def kl(self, old: Tensor) -> Tensor:
        """Sum of p_old (log p_old - log p); an action that `old` never takes contributes 0."""
        return torch.where(old > 0, old * (old.log() - self.log_probs), 0.0).sum(-1)


class MultiCategorical:
    """K independent categoricals. `logits: [..., sum(sizes)]`, block after block; actions `[..., K]` int64.

    Args:
        logits: unnormalized log masses.
        columns: `[K, max(sizes)]` int64, the logit that each padded cell reads.
        padding: `[K, max(sizes)]` bool, the cells beyond a block's end, which get probability 0. Padding lets K
            categoricals cost as much as one.
    """

    def __init__(self, logits: Tensor, columns: Tensor, padding: Tensor) -> None:
        self.blocks = Categorical(logits[..., columns].masked_fill(padding, -math.inf))

    def sample(self) -> Tensor:
        """One action per block."""
        return self.blocks.sample()

    def mode(self) -> Tensor:
        """The most probable action of each block."""
        return self.blocks.mode()

    def log_prob(self, actions: Tensor) -> Tensor:
        """Log mass of `actions: [..., K]`, summed over blocks."""
        return self.blocks.log_prob(actions).sum(-1)

    def entropy(self) -> Tensor:
        """Sum of the blocks' entropies."""
        return self.blocks.entropy().sum(-1)

    def describe(self) -> Tensor:
        """Probabilities `[..., K, A]`, A the size of the largest block; 0 beyond a smaller one's."""
        return self.blocks.describe()

    def kl(self, old: Tensor) -> Tensor:
        """Sum of the blocks' divergences."""
        return self.blocks.kl(old).sum(-1)


class Bernoulli:
    """K independent coins. `logits: [..., K]`; actions `[..., K]` of 0 and 1."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits

    def sample(self) -> Tensor:
        """Toss each coin."""
        return (torch.rand_like(self.logits) < self.logits.sigmoid()).to(torch.int8)

    def mode(self) -> Tensor:
        """1 where it is the more probable side."""
        return (self.logits > 0).to(torch.int8)

    def log_prob(self, actions: Tensor) -> Tensor:
        """Sum of log sigmoid(logit) for 1 and log sigmoid(-logit) for 0, stable in both tails."""
        return (actions * self.logits - nn.functional.softplus(self.logits)).sum(-1)

    def entropy(self) -> Tensor:
        """softplus(l) - l sigmoid(l), summed over coins."""
        return (nn.functional.softplus(self.logits) - self.logits * self.logits.sigmoid()).sum(-1)

    def describe(self) -> Tensor:
        """Probabilities of 1, `[..., K]`."""
        return self.logits.sigmoid()

    def kl(self, old: Tensor) -> Tensor:
        """Sum of p log p + (1 - p) log(1 - p) - p l + softplus(l) over coins, p being the old probability of 1."""
        negative_entropy = torch.xlogy(old, old) + torch.xlogy(1.0 - old, 1.0 - old)
        return (negative_entropy - old * self.logits + nn.functional.softplus(self.logits)).sum(-1)


def mask_logits(logits: Tensor, action_mask: Tensor | None) -> Tensor:
    """Give invalid actions probability 0 at acting and at learning alike."""
    return logits if action_mask is None else logits.masked_fill(action_mask == 0, -math.inf)


class CategoricalHead(nn.Module):
    """Features `[..., F]` to `Categorical`; small initial logits make the first policy nearly uniform."""

    def __init__(self, num_features: int, num_actions: int) -> None:
        super().__init__()
        self.linear = init_orthogonal(nn.Linear(num_features, num_actions), gain=0.01)

    def forward(self, features: Tensor, action_mask: Tensor | None = None) -> Categorical:
        """The distribution at each row; `action_mask: [..., A]` is 0 where an action is invalid."""
        return Categorical(mask_logits(self.linear(features), action_mask))


class MultiCategoricalHead(nn.Module):
    """Features `[..., F]` to `MultiCategorical` with blocks of the given sizes."""

    columns: Tensor
    padding: Tensor

    def __init__(self, num_features: int, sizes: list[int]) -> None:
        super().__init__()
        self.linear = init_orthogonal(nn.Linear(num_features, sum(sizes)), gain=0.01)
        size = torch.tensor(sizes).unsqueeze(1)
        cell = torch.arange(max(sizes))
        self.register_buffer("padding", cell >= size, persistent=False)
        self.register_buffer("columns", (size.cumsum(0) - size) + cell.minimum(size - 1), persistent=False)

    def forward(self, features: Tensor, action_mask: Tensor | None = None) -> MultiCategorical:
        """The distribution at each row; `action_mask: [..., sum(sizes)]` is 0 where a choice is invalid."""
        return MultiCategorical(mask_logits(self.linear(features), action_mask), self.columns, self.padding)


class BernoulliHead(nn.Module):
    """Features `[..., F]` to `Bernoulli`."""

    def __init__(self, num_features: int, num_actions: int) -> None:
        super().__init__()
        self.linear = init_orthogonal(nn.Linear(num_features, num_actions), gain=1.0)

    def forward(self, features: Tensor) -> Bernoulli:
        """The distribution at each row."""
        return Bernoulli(self.linear(features))
