"""Auxiliary heads: predictions from a policy's inner layers, trained beside it.

    loss = sum over heads of weight * L
    L    = 1/2 mean (prediction - target)^2     regression (type 0)
           mean -log softmax(logits)[target]    classification (type 1)

A head is `(depth, side, type, size)` with two optional entries, the name of its target and its weight:

    depth  which layer it reads, from 1; -1 is the last
    side   0 the actor's layers, 1 the critic's, -1 the shared ones
    type   0 regression, 1 classification
    size   numbers to predict, or classes to tell apart
    target a name; without one, the k-th such head takes the environment's k-th target
    weight default 1

A target describes the observation that was read, `next:<name>` the one after the action (of an episode's last action:
the final observation). `(depth, side, size)` and `(depth, side, space)` are short for a regression of that size and for
what the space asks for, `(depth, side, name)` for what that target's space asks for. Samples whose target is unknown
(NaN, or a negative class) are left out of the mean.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from gymnasium import spaces
from torch import Tensor, nn

from a2c_ppo_acktr.interfaces import NEXT, TIME_TO_END
from a2c_ppo_acktr.model.bases import Layers
from a2c_ppo_acktr.utils import UsageError, init_orthogonal

SIDES = {-1: "shared", 0: "actor", 1: "critic"}


class Head(NamedTuple):
    """One auxiliary task."""

    depth: int
    side: int
    classes: bool
    size: int
    target: str
    """With `next:` in front where it describes the observation after the action."""
    weight: float = 1.0

    @property
    def label(self) -> str:
        """What it is called in logs and results."""
        layer = "last" if self.depth == -1 else self.depth
        return f"{self.target.replace(NEXT, 'next_')}_{SIDES[self.side]}_{layer}"


def needs(space: spaces.Space) -> tuple[bool, int]:
    """Whether a target's space is of classes, and the size of the head that predicts it."""
    if isinstance(space, spaces.Discrete) and space.start == 0:
        return True, int(space.n)
    if isinstance(space, spaces.Box) and len(space.shape) == 1:
        return False, space.shape[0]
    raise UsageError(f"auxiliary target of {space}: expected Discrete, counted from 0, or a flat Box")


def parse_heads(given: Sequence[Any], targets: dict[str, spaces.Space], after_action: bool = False) -> list[Head]:
    """Heads in the forms of the module's docstring.

    Args:
        given: one sequence per head.
        targets: spaces of the targets that the environments offer, in order.
        after_action: whether targets taken by position describe the observation after the action.

    Raises:
        UsageError: what does not fit, and what would.
    """
    if not isinstance(given, list | tuple):
        raise UsageError(f"auxiliary_heads={given}: expected a list of (depth, side, type, size[, target[, weight]])")
    heads, unnamed = [], 0
    for form in given:
        if not isinstance(form, list | tuple) or not 3 <= len(form) <= 6:
            raise UsageError(f"auxiliary head {form}: expected (depth, side, type, size[, target[, weight]])")
        depth, side, *rest = form
        if side not in SIDES or not isinstance(depth, int) or (depth < 1 and depth != -1):
            raise UsageError(f"auxiliary head {form}: depth is -1 or at least 1, side is -1, 0 or 1")
        named = next((i for i, part in enumerate(rest) if isinstance(part, str)), len(rest))
        kind, (name, weight) = rest[:named], (*rest[named:], 1.0)[:2] if named < len(rest) else (None, 1.0)
        if name is None:
            if unnamed >= len(targets):
                raise UsageError(f"auxiliary head {form}: there are only {len(targets)} targets: {_names(targets)}")
            name = (NEXT if after_action else "") + list(targets)[unnamed]
            unnamed += 1
        space = targets.get(name.removeprefix(NEXT))
        if space is None or name == NEXT + TIME_TO_END:
            raise UsageError(f"auxiliary head {form}: unknown target {name}: choose from {_names(targets)}")
        classes, size = _kind(form, kind) if kind else needs(space)
        _check_fit(form, (classes, size), needs(space))
        heads.append(Head(depth, side, classes, size, name, float(weight)))
    if len({head.label for head in heads}) < len(heads):
        raise UsageError(f"auxiliary heads {list(given)}: two heads read the same layer for the same target")
    return heads


def _names(targets: dict[str, spaces.Space]) -> str:
    return ", ".join(targets) or "none (the environment offers none; see --aux-wrapper-kwargs)"


def _kind(form: Any, kind: list[Any]) -> tuple[bool, int]:
    """(classes, size) of `type, size`, of a size, or of a space."""
    if len(kind) == 1 and isinstance(kind[0], spaces.Space):
        return needs(kind[0])
    number, size = (0, *kind) if len(kind) == 1 else kind[:2]
    if number not in (0, 1) or not isinstance(size, int) or size < 1:
        raise UsageError(f"auxiliary head {form}: type is 0 (regression) or 1 (classification), size at least 1")
    return number == 1, size


def _check_fit(form: Any, asked: tuple[bool, int], needed: tuple[bool, int]) -> None:
    """A classification may also read the number of a class from a Box of one entry."""
    if asked != needed and not (asked[0] and needed == (False, 1)):
        kind = "a classification of" if needed[0] else "a regression of"
        raise UsageError(f"auxiliary head {form}: the target is {kind} size {needed[1]}")


class AuxiliaryHeads(nn.Module):
    """One linear layer per head.

    Args:
        heads: what to predict from where.
        layers: what the base shows for some observation: their widths count.
    """

    def __init__(self, heads: Sequence[Head], layers: Layers) -> None:
        super().__init__()
        self.heads = tuple(heads)
        widths = [self._pick(head, layers).shape[-1] for head in heads]
        self.linears = nn.ModuleList(
            init_orthogonal(nn.Linear(width, head.size), gain=1.0) for head, width in zip(heads, widths, strict=True)
        )

    @staticmethod
    def _pick(head: Head, layers: Layers) -> Tensor:
        path = layers.shared if head.side == -1 else layers.shared + layers[1 + head.side]
        if not path or head.depth > len(path):
            raise UsageError(
                f"auxiliary head {tuple(head)}: the network has {len(path)} {SIDES[head.side]} layers to read from"
            )
        return path[head.depth - 1 if head.depth > 0 else -1]

    @property
    def targets(self) -> list[str]:
        """The targets that are learned from, each once."""
        return list(dict.fromkeys(head.target for head in self.heads))

    def forward(self, layers: Layers) -> dict[str, Tensor]:
        """Predictions `[..., size]` by label: numbers, or logits of classes."""
        pairs = zip(self.heads, self.linears, strict=True)
        return {head.label: linear(self._pick(head, layers)) for head, linear in pairs}

    def describe(self, layers: Layers) -> dict[str, Tensor]:
        """Predictions by label: numbers, or probabilities of classes."""
        given = zip(self.heads, self(layers).items(), strict=True)
        return {label: x.softmax(-1) if head.classes else x for head, (label, x) in given}

    def losses(
        self, predictions: dict[str, Tensor], targets: dict[str, Tensor], coef: float
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """`coef` times the weighted sum of losses, with its graph (None without heads), and detached metrics.

        Args:
            predictions: as `forward` gives them.
            targets: `[..., size]`, of classes `[...]` or `[..., 1]`, by name.
            coef: weight of the whole beside the losses of actor and critic.
        """
        if not self.heads:
            return None, {}
        losses = {head.label: head_loss(head, predictions[head.label], targets[head.target]) for head in self.heads}
        total = torch.stack([head.weight * losses[head.label] for head in self.heads]).sum()
        metrics = {f"losses/auxiliary/{label}": loss.detach() for label, loss in losses.items()}
        return coef * total, {"losses/auxiliary_loss": total.detach(), **metrics}

    def sampled_log_likelihood(self, predictions: dict[str, Tensor], coef: float) -> Tensor | float:
        """Log p `[...]` of targets drawn from the predictions, with its graph; 0 without heads.

        Scaled so that its Fisher matrix is that of `losses`, to which a unit Gaussian or a categorical counts
        `coef` times the head's weight.
        """
        total: Tensor | float = 0.0
        for head in self.heads:
            x = predictions[head.label]
            if head.classes:
                log_probs = x.log_softmax(-1)
                race = log_probs.detach().exp() / torch.empty_like(x).exponential_()
                log_p = log_probs.gather(-1, race.argmax(-1, keepdim=True)).squeeze(-1)
            else:
                log_p = -0.5 * (x - (x + torch.randn_like(x)).detach()).square().sum(-1)
            total = total + math.sqrt(coef * abs(head.weight)) * log_p
        return total


def head_loss(head: Head, prediction: Tensor, target: Tensor) -> Tensor:
    """L of the module's docstring, over the samples whose target is known; 0 where none is."""
    if head.classes:
        logits, labels = prediction.flatten(0, -2), target.reshape(-1).nan_to_num(nan=-1.0).long()
        known = labels >= 0
        log_probs = logits.log_softmax(-1).gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)
        return -(log_probs * known).sum() / known.sum().clamp(min=1)
    assert prediction.shape == target.shape, (prediction.shape, target.shape)
    known = ~target.isnan()
    error = torch.where(known, prediction - target.nan_to_num(), 0.0)
    return 0.5 * error.square().sum() / known.sum().clamp(min=1)
