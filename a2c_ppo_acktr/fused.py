"""Small tanh networks on the CPU through NumPy, on the parameters' own memory.

It is the same float32 mathematics that `torch.nn` and autograd would do. Two things make it several times faster at the
sizes of classic control and MuJoCo: NumPy's tanh (vectorized, a tenth of the time of torch's CPU kernel), and one node
of the autograd graph for a network, or for a whole policy, instead of one per operation.
"""

import itertools
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from a2c_ppo_acktr.distributions import HALF_LOG_2PI, CategoricalHead, DiagGaussianHead
from a2c_ppo_acktr.encoders import FlatEncoder
from a2c_ppo_acktr.utils import init_orthogonal


def tanh_forward(x: np.ndarray, parameters: list[np.ndarray]) -> list[np.ndarray]:
    """Outputs of every layer h = tanh(W h + b), starting with `x: [B, I]`; `parameters`: W, b, W, b, ..."""
    outputs = [x]
    for weight, bias in zip(parameters[::2], parameters[1::2], strict=True):
        h = outputs[-1] @ weight.T
        h += bias
        outputs.append(np.tanh(h, out=h))
    return outputs


def tanh_backward(
    outputs: list[np.ndarray], parameters: list[np.ndarray], grad: np.ndarray, to_input: bool = False
) -> tuple[list[np.ndarray], np.ndarray]:
    """Gradients of the parameters, and of the input where `to_input`, given that of the last output, `[B, O]`."""
    grads: list[np.ndarray] = []
    for layer in reversed(range(len(outputs) - 1)):
        local = outputs[layer + 1] * outputs[layer + 1]
        np.subtract(1.0, local, out=local)  # d tanh(z) / dz = 1 - tanh(z)^2
        local *= grad
        grads += [local.sum(0), local.T @ outputs[layer]]
        if layer > 0 or to_input:
            grad = local @ parameters[2 * layer]
    return grads[::-1], grad


class _TanhLayers(torch.autograd.Function):
    """`tanh_forward` for autograd."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *parameters: Tensor) -> Tensor:
        ctx.parameters = [parameter.detach().numpy() for parameter in parameters]
        ctx.outputs = tanh_forward(x.detach().numpy(), ctx.parameters)
        return torch.from_numpy(ctx.outputs[-1])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        to_input = ctx.needs_input_grad[0]
        grads, grad = tanh_backward(ctx.outputs, ctx.parameters, grad_outputs[0].numpy(), to_input)
        return torch.from_numpy(grad) if to_input else None, *map(torch.from_numpy, grads)


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


class FusedPolicy:
    """A feed-forward policy of two `TanhMLP`s with a categorical or Gaussian head, written out.

    Args:
        policy: one that `fits`; its parameters must keep their memory, as in-place optimizers and `load_state_dict` do.
    """

    def __init__(self, policy: Any) -> None:
        base, head = policy.base, policy.head
        self.gaussian = isinstance(head, DiagGaussianHead)
        output = head.mean if self.gaussian else head.linear
        groups = [base.actor.leaves, base.critic.leaves, list(base.value.parameters()), list(output.parameters())]
        groups.append([head.log_std] if self.gaussian else [])
        self.parameters: list[nn.Parameter] = [parameter for group in groups for parameter in group]
        arrays = [[parameter.detach().numpy() for parameter in group] for group in groups]
        self.actor, self.critic, self.value, self.output, (*self.log_std,) = arrays

    @staticmethod
    def fits(policy: Any) -> bool:
        """Whether a policy has the form that is written out here."""
        base = policy.base
        return (
            isinstance(getattr(base, "actor", None), TanhMLP)
            and base.carry_size == 0
            and isinstance(base.encoder, FlatEncoder)
            and base.encoder.num_axes == 1
            and base.encoder.dtype == torch.float32
            and isinstance(policy.head, CategoricalHead | DiagGaussianHead)
            and base.value.weight.device.type == "cpu"
        )

    def forward(self, obs: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray, np.ndarray]:
        """Layers of actor and critic, value `[B]`, and logits or mean `[B, A]`."""
        actor, critic = tanh_forward(obs, self.actor), tanh_forward(obs, self.critic)
        value = critic[-1] @ self.value[0].T
        value += self.value[1]
        output = actor[-1] @ self.output[0].T
        output += self.output[1]
        return actor, critic, value[:, 0], output

    def act(self, obs: Tensor, deterministic: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Value `[N]`, action `[N, ...]` and its log-probability `[N]` for `obs: [N, I]` float32; draws from NumPy."""
        _, _, value, output = self.forward(obs.numpy())
        if self.gaussian:
            noise = np.zeros_like(output) if deterministic else np.random.standard_normal(output.shape)
            action = output + np.exp(self.log_std[0]) * noise.astype(np.float32)
            log_prob = self._gaussian(output, action)[1]
        else:
            log_probs = _log_softmax(output)
            # Exponential race: argmax of p_a / e_a with e_a ~ Exp(1) is a with probability p_a.
            race = log_probs if deterministic else np.exp(log_probs) / np.random.standard_exponential(output.shape)
            action = race.argmax(-1)
            log_prob = log_probs[np.arange(len(action)), action]
        return torch.from_numpy(value), torch.from_numpy(action), torch.from_numpy(log_prob)

    def evaluate(self, obs: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Value, log-probability of `actions` and entropy, each `[B]`, for autograd."""
        return _Evaluate.apply(self, obs, actions, *self.parameters)

    def _gaussian(self, mean: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Deviations z `[B, A]` and log densities `[B]`."""
        z = (actions - mean) * np.exp(-self.log_std[0])
        return z, -0.5 * (z * z).sum(-1) - (self.log_std[0].sum() + np.float32(HALF_LOG_2PI * mean.shape[-1]))


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    logits = logits - logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


class _Evaluate(torch.autograd.Function):
    """`FusedPolicy.evaluate`.

    d log p_a / d logits = onehot(a) - p          d H / d logits = -p (log p + H)
    d log p / d mean = z / std                    d log p / d log std = z^2 - 1        d H / d log std = 1
    """

    @staticmethod
    def forward(ctx: Any, policy: FusedPolicy, obs: Tensor, actions: Tensor, *parameters: Tensor) -> Any:
        ctx.policy, ctx.actions = policy, actions.numpy()
        ctx.actor, ctx.critic, value, output = policy.forward(obs.numpy())
        if policy.gaussian:
            ctx.z, log_prob = policy._gaussian(output, ctx.actions)
            log_std = policy.log_std[0]
            entropy = np.full(len(value), log_std.sum() + (0.5 + HALF_LOG_2PI) * len(log_std), np.float32)
        else:
            ctx.log_probs = _log_softmax(output)
            ctx.probs = np.exp(ctx.log_probs)
            log_prob = ctx.log_probs[np.arange(len(value)), ctx.actions]
            ctx.entropy = entropy = -(ctx.probs * ctx.log_probs).sum(-1)
        return torch.from_numpy(value), torch.from_numpy(log_prob), torch.from_numpy(entropy)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        policy: FusedPolicy = ctx.policy
        to_value, to_log_prob, to_entropy = (grad.numpy()[:, None] for grad in grad_outputs)
        log_std_grads = []
        if policy.gaussian:
            to_output = to_log_prob * ctx.z * np.exp(-policy.log_std[0])
            log_std_grads = [(to_log_prob * (ctx.z * ctx.z - 1.0)).sum(0) + to_entropy.sum()]
        else:
            to_output = ctx.probs * -(to_log_prob + to_entropy * (ctx.log_probs + ctx.entropy[:, None]))
            to_output[np.arange(len(to_output)), ctx.actions] += to_log_prob[:, 0]
        actor_grads, _ = tanh_backward(ctx.actor, policy.actor, to_output @ policy.output[0])
        critic_grads, _ = tanh_backward(ctx.critic, policy.critic, to_value @ policy.value[0])
        value_grads = [to_value.T @ ctx.critic[-1], to_value.sum(0)]
        output_grads = [to_output.T @ ctx.actor[-1], to_output.sum(0)]
        grads = [*actor_grads, *critic_grads, *value_grads, *output_grads, *log_std_grads]
        return None, None, None, *map(torch.from_numpy, grads)
