"""A minibatch of GAIL's discriminator on vectors, on the CPU, with its gradient written out in NumPy.

The gradient penalty is a derivative of a derivative, which autograd takes several times as long to follow.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from a2c_ppo_acktr.model.discriminator import SMALLEST_NORM, Discriminator, Samples


def gradient(learner: Any) -> Callable[[Samples, Samples, Tensor], dict[str, Any]] | None:
    """`GAIL.gradient`; None where the discriminator also reads images, is spectrally normalized or not on the CPU."""
    discriminator, weight = learner.discriminator, learner.config.gail_penalty
    plain = type(discriminator) is Discriminator and not discriminator.spectral and not len(discriminator.encoders)
    if not plain or learner.device.type != "cpu":
        return None
    parameters = [parameter.detach().numpy() for parameter in discriminator.parameters()]
    grads = [parameter.grad.numpy() for parameter in discriminator.parameters()]

    def gradient(expert: Samples, policy: Samples, mixture: Tensor) -> dict[str, Any]:
        ours, theirs, share = expert.vector.numpy(), policy.vector.numpy(), mixture.unsqueeze(1).numpy()
        return _gradient(parameters, grads, ours, theirs, share, weight)

    return gradient


def _gradient(
    parameters: Sequence[np.ndarray],
    grads: Sequence[np.ndarray],
    expert: np.ndarray,
    policy: np.ndarray,
    mixture: np.ndarray,
    penalty_weight: float,
) -> dict[str, Any]:
    """Of vectors `[B, I]`, with `mixture: [B, 1]`.

    With s = 1 - h^2, the derivative of the tanh layers, dD/dx = (s1 (s2 w3 W2)) W1 is a network in its own right,
    whose gradient is taken layer by layer, and through s once more down the layers that gave it.
    """
    batch = len(expert)
    w1, b1, w2, b2, w3, b3 = parameters
    g1, gb1, g2, gb2, g3, gb3 = grads
    between = mixture * expert + (1.0 - mixture) * policy
    x = np.concatenate([expert, policy, between])
    h1 = np.tanh(x @ w1.T + b1)
    h2 = np.tanh(h1 @ w2.T + b2)
    logits = (h2[: 2 * batch] @ w3.T + b3)[:, 0]
    expert_logits, policy_logits = logits[:batch], logits[batch:]

    s1, s2 = 1.0 - h1 * h1, 1.0 - h2 * h2
    u2 = s2[2 * batch :] * w3
    v1 = u2 @ w2
    u1 = s1[2 * batch :] * v1
    slope = u1 @ w1
    norm = np.sqrt((slope * slope).sum(1, keepdims=True) + SMALLEST_NORM**2)
    to_slope = (2.0 * penalty_weight / batch) * (1.0 - 1.0 / norm) * slope

    to_u1 = to_slope @ w1.T
    to_v1 = to_u1 * s1[2 * batch :]
    to_u2 = to_v1 @ w2.T
    to_logits = np.concatenate([-_sigmoid(-expert_logits), _sigmoid(policy_logits)])[:, None] / batch
    to_h2 = np.concatenate([to_logits * w3, to_u2 * w3 * (-2.0 * h2[2 * batch :])])
    to_a2 = to_h2 * s2
    to_h1 = to_a2 @ w2
    to_h1[2 * batch :] -= 2.0 * h1[2 * batch :] * to_u1 * v1
    to_a1 = to_h1 * s1

    np.matmul(to_logits.T, h2[: 2 * batch], out=g3)
    g3 += (to_u2 * s2[2 * batch :]).sum(0)
    gb3[:] = to_logits.sum()
    np.matmul(to_a2.T, h1, out=g2)
    g2 += u2.T @ to_v1
    np.sum(to_a2, 0, out=gb2)
    np.matmul(to_a1.T, x, out=g1)
    g1 += u1.T @ to_slope
    np.sum(to_a1, 0, out=gb1)
    right = (expert_logits > 0).sum() + (policy_logits < 0).sum()
    return {
        "gail/discriminator_loss": np.logaddexp(0.0, -expert_logits).mean() + np.logaddexp(0.0, policy_logits).mean(),
        "gail/gradient_penalty": ((norm - 1.0) ** 2).mean(),
        "gail/expert_logit": expert_logits.mean(),
        "gail/policy_logit": policy_logits.mean(),
        "gail/accuracy": right / (2 * batch),
    }


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * np.tanh(0.5 * x) + 0.5
