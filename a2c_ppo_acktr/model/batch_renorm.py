"""Batch renormalization: normalized by the batch in training and by running statistics else, with the same result."""

import torch
from torch import Tensor, nn

MOMENTUM, EPSILON = 0.01, 1e-3
WARM_UP = 100_000
"""Passes in training before the correction begins; until then it is batch normalization."""
R_MAX, D_MAX = 3.0, 5.0


class BatchRenorm(nn.Module):
    """Normalizes `[..., B, W]` over B (Ioffe 2017), with a gain and a shift of each of `[..., W]`.

        training: y = (x - mean_B) / std_B * r + d      r = std_B / std, d = (mean_B - mean) / std, without gradient
        else:     y = (x - mean) / std

    r is kept within [1 / 3, 3] and d within [-5, 5]. Constants are those of CrossQ (Bhatt et al. 2024).

    Args:
        shape: `[..., W]`.
    """

    running_mean: Tensor
    running_var: Tensor
    passes: Tensor

    def __init__(self, *shape: int) -> None:
        super().__init__()
        shape = (*shape[:-1], 1, shape[-1])
        self.gain, self.shift = nn.Parameter(torch.ones(shape)), nn.Parameter(torch.zeros(shape))
        self.register_buffer("running_mean", torch.zeros(shape))
        self.register_buffer("running_var", torch.ones(shape))
        self.register_buffer("passes", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        if not self.training:
            y = (x - self.running_mean) * (self.running_var + EPSILON).rsqrt()
        else:
            var, mean = torch.var_mean(x, -2, correction=0, keepdim=True)
            y = (x - mean) * (var + EPSILON).rsqrt()
            with torch.no_grad():
                r, d = self._correction(mean, var)
                self.running_mean.lerp_(mean, MOMENTUM)
                self.running_var.lerp_(var, MOMENTUM)
                self.passes += 1
            y = torch.addcmul(d, y, r)
        return torch.addcmul(self.shift, y, self.gain)

    def _correction(self, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
        slope = (self.running_var + EPSILON).rsqrt()
        r = ((var + EPSILON).sqrt() * slope).clamp(1.0 / R_MAX, R_MAX)
        d = ((mean - self.running_mean) * slope).clamp(-D_MAX, D_MAX)
        warm = (self.passes >= WARM_UP).to(r.dtype)  # a GPU is not waited for
        return 1.0 + warm * (r - 1.0), warm * d
