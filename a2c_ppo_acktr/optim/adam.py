"""Adam (Kingma & Ba 2015) without what a step costs beside its arithmetic."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

LARGEST = 2**15
"""Parameters up to which NumPy's passes over the vector cost less than torch's bookkeeping."""


class Adam(torch.optim.Adam):
    """torch's Adam for one flat parameter, with the same state; a small one on the CPU is stepped in NumPy.

    m += (1 - beta1) (g - m);  v += (1 - beta2) (g^2 - v);  p -= lr / (1 - beta1^t) m / (sqrt(v / (1 - beta2^t)) + eps)

    Args:
        flat: the parameter, with its gradient (see `arrays.flatten_parameters`).
        lr: learning rate.
        eps: epsilon.
        betas: of the two moments.
        weight_decay: times the parameters, is added to the gradient.
    """

    def __init__(
        self,
        flat: nn.Parameter,
        *,
        lr: float,
        eps: float,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__([flat], lr=lr, eps=eps, betas=betas, weight_decay=weight_decay, fused=True)
        self.small = flat.device.type == "cpu" and flat.numel() <= LARGEST and weight_decay == 0.0
        zeros = {name: torch.zeros_like(flat.data) for name in ("exp_avg", "exp_avg_sq")}
        self.state[flat] = {"step": torch.tensor(0.0, device=flat.device)} | zeros
        if self.small:
            self.scratch = np.empty(flat.numel(), np.float32)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step; `closure` is torch's, and for large parameters alone."""
        if not self.small:
            return super().step(closure)
        (group,) = self.param_groups
        (flat,) = group["params"]
        state, a = self.state[flat], self.scratch
        p, g, m, v, steps = (
            tensor.detach().numpy()
            for tensor in (flat, flat.grad, state["exp_avg"], state["exp_avg_sq"], state["step"])
        )
        beta1, beta2 = group["betas"]
        steps += 1.0
        t = float(steps)
        np.subtract(g, m, out=a)
        a *= 1.0 - beta1
        m += a
        np.multiply(g, g, out=a)
        a -= v
        a *= 1.0 - beta2
        v += a
        np.sqrt(v, out=a)
        a /= (1.0 - beta2**t) ** 0.5
        a += group["eps"]
        np.divide(m, a, out=a)
        a *= group["lr"] / (1.0 - beta1**t)
        p -= a
        return None

    step.hooked = True  # type: ignore[attr-defined]  # else torch wraps it in a profiler's record, as costly as the step
