"""Learning a distribution of returns: pure functions on batches `[B, ...]`."""

from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

Array = TypeVar("Array", Tensor, np.ndarray)


def categorical_projection(probs: Array, returns: Array, discounts: Array, support: Array) -> Array:
    """Project the distribution of R + discount z back onto the atoms z (Bellemare et al. 2017, eq. 7 and algorithm 1).

    An atom's mass goes to its two neighbours in proportion to nearness, all of it to the one that it falls on.

    Args:
        probs: `[B, K]` of the next state's atoms.
        returns: `[B]`.
        discounts: `[B]`, 0 where the next state is terminal.
        support: `[K]` atoms, evenly spaced.

    Returns:
        `[B, K]` probabilities.
    """
    assert probs.shape == (len(returns), len(support))
    assert returns.shape == discounts.shape
    low, high, width = support[0], support[-1], support[1] - support[0]
    moved = (returns[:, None] + discounts[:, None] * support).clip(low, high)
    # The triangle of height 1 and base two widths at each atom: 1 - |distance| / width, where positive.
    share = (1.0 - abs(moved[:, None] - support[:, None]) / width).clip(min=0.0)
    return (share @ probs[..., None])[..., 0]


def quantile_huber_loss(quantiles: Tensor, targets: Tensor, fractions: Tensor, kappa: float = 1.0) -> Tensor:
    """Every quantile against every target: sum over quantiles of the mean over targets (Dabney et al. 2018, eq. 10).

        rho(u) = |tau - (u < 0)| huber(u) / kappa        u = target - quantile

    Args:
        quantiles: `[B, M]` estimates.
        targets: `[B, L]`.
        fractions: `[B, M]` or `[M]`, the tau of each estimate.
        kappa: where the loss turns from square to linear.

    Returns:
        The losses `[B]`.
    """
    assert quantiles.ndim == targets.ndim == 2
    assert len(quantiles) == len(targets)
    errors = targets[:, None, :] - quantiles[:, :, None]
    clipped = errors.clamp(-kappa, kappa)
    huber = clipped * (errors - 0.5 * clipped)  # 0.5 u^2 within kappa, kappa (|u| - 0.5 kappa) beyond
    slant = torch.where(errors < 0.0, 1.0 - fractions[..., None], fractions[..., None]) / kappa
    return (slant * huber).mean(2).sum(1)
