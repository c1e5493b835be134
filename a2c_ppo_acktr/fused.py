"""Small tanh networks on the CPU through NumPy, on the parameters' own memory.

It is the same float32 mathematics that `torch.nn` would do. Two things make it several times faster at the sizes of
classic control and MuJoCo: NumPy's tanh (vectorized, about a tenth of the time of torch's CPU kernel), and one call
into autograd per network instead of one per operation.
"""

import itertools
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from a2c_ppo_acktr.distributions import HALF_LOG_2PI, CategoricalHead, DiagGaussianHead
from a2c_ppo_acktr.encoders import FlatEncoder
from a2c_ppo_acktr.utils import init_orthogonal


def tanh_layers(x: np.ndarray, parameters: list[np.ndarray]) -> list[np.ndarray]:
    """Outputs of every layer h = tanh(W h + b), starting with `x: [B, I]`; `parameters`: W, b, W, b, ..."""
    outputs = [x]
    for weight, bias in zip(parameters[::2], parameters[1::2], strict=True):
        h = outputs[-1] @ weight.T
        h += bias
        outputs.append(np.tanh(h, out=h))
    return outputs


class _TanhLayers(torch.autograd.Function):
    """`tanh_layers` with its gradient: d tanh(z) / dz = 1 - tanh(z)^2."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *parameters: Tensor) -> Tensor:
        arrays = [parameter.detach().numpy() for parameter in parameters]
        ctx.outputs = tanh_layers(x.detach().numpy(), arrays)
        ctx.weights = arrays[::2]
        return torch.from_numpy(ctx.outputs[-1])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        grads: list[Tensor | None] = []
        grad = grad_outputs[0].numpy()
        for layer in reversed(range(len(ctx.weights))):
            below, out = ctx.outputs[layer], ctx.outputs[layer + 1]
            local = out * out
            np.subtract(1.0, local, out=local)
            local *= grad
            grads += [torch.from_numpy(local.sum(0)), torch.from_numpy(local.T @ below)]
            if layer > 0 or ctx.needs_input_grad[0]:
                grad = local @ ctx.weights[layer]
        grads.append(torch.from_numpy(grad) if ctx.needs_input_grad[0] else None)
        return tuple(reversed(grads))


class TanhMLP(nn.Sequential):
    """Linear and tanh layers of the given sizes, orthogonal with gain sqrt(2)."""

    def __init__(self, *sizes: int) -> None:
        layers: list[nn.Module] = []
        for size_in, size_out in itertools.pairwise(sizes):
            layers += [init_orthogonal(nn.Linear(size_in, size_out)), nn.Tanh()]
        super().__init__(*layers)
        self.leaves = list(self.parameters())  # a walk through the modules would cost as much as a layer

    def forward(self, x: Tensor) -> Tensor:
        """`[..., sizes[0]]` to `[..., sizes[-1]]`."""
        if x.device.type != "cpu" or x.dtype != torch.float32:
            return super().forward(x)
        if x.dim() == 2:
            return _TanhLayers.apply(x, *self.leaves)
        return _TanhLayers.apply(x.reshape(-1, x.shape[-1]), *self.leaves).unflatten(0, x.shape[:-1])


class NumpyActor:
    """The acting path of a feed-forward policy of two `TanhMLP`s, without torch.

    Args:
        policy: one that `fits`; its parameters must keep their memory, as in-place optimizers and `load_state_dict` do.
    """

    def __init__(self, policy: Any) -> None:
        def arrays(module: nn.Module) -> list[np.ndarray]:
            return [parameter.detach().numpy() for parameter in module.parameters()]

        base, head = policy.base, policy.head
        self.actor, self.critic, self.value = arrays(base.actor), arrays(base.critic), arrays(base.value)
        self.gaussian = isinstance(head, DiagGaussianHead)
        self.head = arrays(head.mean if self.gaussian else head.linear)
        self.log_std = head.log_std.detach().numpy() if self.gaussian else np.empty(0)

    @staticmethod
    def fits(policy: Any) -> bool:
        """Whether a policy has the form that is written out here."""
        base = policy.base
        return (
            isinstance(getattr(base, "actor", None), TanhMLP)
            and base.carry_size == 0
            and isinstance(base.encoder, FlatEncoder)
            and base.encoder.num_axes == 1
            and not base.encoder.sizes
            and isinstance(policy.head, CategoricalHead | DiagGaussianHead)
            and base.value.weight.device.type == "cpu"
        )

    def act(self, obs: np.ndarray, deterministic: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Value `[N]`, action `[N, ...]` and its log-probability `[N]` for `obs: [N, I]` float32."""
        weight, bias = self.value
        value = (tanh_layers(obs, self.critic)[-1] @ weight.T + bias)[:, 0]
        weight, bias = self.head
        out = tanh_layers(obs, self.actor)[-1] @ weight.T
        out += bias
        return value, *(self._gaussian(out, deterministic) if self.gaussian else self._categorical(out, deterministic))

    def _categorical(self, logits: np.ndarray, deterministic: bool) -> tuple[np.ndarray, np.ndarray]:
        """As `distributions.Categorical`."""
        logits -= logits.max(-1, keepdims=True)
        masses = np.exp(logits)
        race = masses if deterministic else masses / np.random.standard_exponential(masses.shape)
        action = race.argmax(-1)
        return action, logits[np.arange(len(action)), action] - np.log(masses.sum(-1))

    def _gaussian(self, mean: np.ndarray, deterministic: bool) -> tuple[np.ndarray, np.ndarray]:
        """As `distributions.DiagGaussian`."""
        std, constant = np.exp(self.log_std), self.log_std.sum() + HALF_LOG_2PI * mean.shape[-1]
        if deterministic:
            return mean, np.full(len(mean), -constant, np.float32)
        action = mean + std * np.random.standard_normal(mean.shape).astype(np.float32)
        z = (action - mean) / std
        return action, (-0.5 * (z * z).sum(-1) - constant).astype(np.float32)
