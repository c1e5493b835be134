"""A minibatch of behavioral cloning on the CPU, for policies that `FusedPolicy` fits."""

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

from a2c_ppo_acktr.arrays import clip_grad_norm
from a2c_ppo_acktr.fast.policy import FusedPolicy


def gradient(learner: Any) -> Callable[[Tensor], dict[str, Any]] | None:
    """`BC.gradient`; None where the policy has another form."""
    policy, parameters = learner.policy, learner.parameters
    if not FusedPolicy.fits(policy):
        return None
    fused = FusedPolicy(policy)

    def gradient(rows: Tensor) -> dict[str, Any]:
        new = fused.evaluate(learner.inputs(rows)[0], learner.actions[rows])
        nothing = np.zeros_like(new.value)
        new.backward(nothing, np.full_like(new.log_prob, -1.0 / len(rows)), nothing, None)
        if policy.frozen is not None:
            parameters.grad[policy.frozen] = 0.0
        grad_norm = clip_grad_norm(parameters, learner.config.max_grad_norm)
        return {"loss": -new.log_prob.mean(), "entropy": new.entropy.mean(), "grad_norm": grad_norm}

    return gradient
