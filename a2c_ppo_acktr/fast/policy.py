"""A small policy on the CPU without autograd: acting, values, and the way from derivatives back to the parameters.

The gradient is written into the parameters' `grad`, with one call for the same layer of actor and critic.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from a2c_ppo_acktr.arrays import flat_vectors
from a2c_ppo_acktr.distributions import HALF_LOG_2PI, CategoricalHead, DiagGaussianHead
from a2c_ppo_acktr.fast.layers import TANH, layers_backward, layers_forward
from a2c_ppo_acktr.interfaces import ACTION_MASK, Tree
from a2c_ppo_acktr.model.bases import FlexBase, MLPBase
from a2c_ppo_acktr.model.encoders import FlatEncoder
from a2c_ppo_acktr.model.policy import Policy


class Evaluated(NamedTuple):
    """What a policy says of actions that were taken, in NumPy, and the way back."""

    value: np.ndarray
    """[B], or [T, n] for recurrent policies, as all that follows."""
    log_prob: np.ndarray
    entropy: np.ndarray
    backward: Callable[[np.ndarray, np.ndarray, np.ndarray, Tensor | None], None]
    """Given the derivatives of a loss by the three, and the auxiliary loss with its graph where there is one, set the
    gradient of the policy's parameters."""
    predictions: dict[str, Tensor] = {}
    """Of the auxiliary heads, by label, with their graph."""
    distribution: Any = None
    """Of `Policy.evaluate_actions`, where that was asked."""


class _Views(NamedTuple):
    """The parameters of a policy that `FusedPolicy.fits`, or their gradients, as views of one flat vector."""

    towers: list[np.ndarray]
    """Actor and critic have the same sizes and follow each other, so the same layer of both is one array `[2, ...]`."""
    value_weight: np.ndarray
    value_bias: np.ndarray
    log_std: list[np.ndarray]
    """Of a Gaussian head; empty for a categorical one."""
    weight: np.ndarray
    bias: np.ndarray

    @staticmethod
    def of(flat: np.ndarray, policy: Any) -> "_Views":
        """Cut `flat`, which is in the order of `policy.parameters()`."""
        modules = (policy.base, policy.head)  # auxiliary heads follow them
        shapes = [tuple(parameter.shape) for module in modules for parameter in module.parameters()]
        tower = shapes[: len(list(policy.base.actor.parameters()))]
        size = sum(map(math.prod, tower))
        towers = _cut(flat[: 2 * size].reshape(2, size), tower)
        rest = flat[2 * size : sum(map(math.prod, shapes))]
        value_weight, value_bias, *log_std, weight, bias = _cut(rest, shapes[2 * len(tower) :])
        return _Views(towers, value_weight[0], value_bias, log_std, weight, bias)


def _cut(vectors: np.ndarray, shapes: Sequence[tuple[int, ...]]) -> list[np.ndarray]:
    """Views of consecutive pieces of the last axis of `vectors: [..., P]`, each `[..., *shape]`."""
    ends = np.cumsum([math.prod(shape) for shape in shapes])
    pieces = np.split(vectors, ends[:-1], axis=-1)
    return [piece.reshape(*vectors.shape[:-1], *shape) for piece, shape in zip(pieces, shapes, strict=True)]


class FusedPolicy:
    """A feed-forward policy of two `TanhMLP`s with a categorical or Gaussian head, written out.

    Logits and means are `[A, B]` in here: reductions over a few actions are several times faster along columns.

    Args:
        policy: one that `fits`, flattened (see `arrays.flatten_parameters`); its parameters must keep their memory, as
            in-place optimizers and `load_state_dict` let them.
    """

    def __init__(self, policy: Policy) -> None:
        self.gaussian = isinstance(policy.head, DiagGaussianHead)
        self.views, self.grads = (_Views.of(tensor.numpy(), policy) for tensor in flat_vectors(policy))
        self.critic = [parameter[1] for parameter in self.views.towers]
        self.activations = [TANH] * (len(self.critic) // 2)

    @staticmethod
    def fits(policy: Policy) -> bool:
        """Whether a policy has the form that is written out here."""
        base = policy.base
        return (
            type(policy) is Policy
            and type(base) in (FlexBase, MLPBase)
            and base.carry_size == 0
            and not len(base.shared)
            and len(base.actor) > 0
            and all(type(module) is nn.Tanh for tower in (base.actor, base.critic) for module in list(tower)[1::2])
            and [p.shape for p in base.actor.parameters()] == [p.shape for p in base.critic.parameters()]
            and type(base.encoder) is FlatEncoder
            and base.encoder.num_axes == 1
            and base.encoder.dtype == torch.float32
            and type(policy.head) in (CategoricalHead, DiagGaussianHead)
            and base.value.weight.device.type == "cpu"
        )

    def forward(self, obs: np.ndarray) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
        """Layers of actor and critic `[2, B, H]`, value `[B]`, and logits or mean `[A, B]`."""
        layers, views = layers_forward(obs, self.views.towers, self.activations), self.views
        actor, critic = layers[-1]
        value = critic @ views.value_weight
        value += views.value_bias
        output = views.weight @ actor.T
        output += views.bias[:, None]
        return layers, value, output

    def value(self, obs: Tensor) -> Tensor:
        """Value `[N]` of `obs: [N, I]` float32, without gradient."""
        value = layers_forward(obs.numpy(), self.critic, self.activations)[-1] @ self.views.value_weight
        value += self.views.value_bias
        return torch.from_numpy(value)

    def act(self, obs: Tensor, deterministic: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Value `[N]`, action `[N, ...]` and its log-probability `[N]` for `obs: [N, I]` float32; draws from NumPy."""
        _, value, output = self.forward(obs.numpy())
        if self.gaussian:
            noise = np.zeros_like(output.T) if deterministic else np.random.standard_normal(output.T.shape)
            action = output.T + np.exp(self.views.log_std[0]) * noise.astype(np.float32)
            log_prob = self._gaussian(output, action)[1]
        else:
            log_probs = _log_softmax(output)
            # Exponential race: argmax of p_a / e_a with e_a ~ Exp(1) is a with probability p_a.
            race = log_probs if deterministic else np.exp(log_probs) / np.random.standard_exponential(output.T.shape).T
            action = race.argmax(0)
            log_prob = log_probs[action, np.arange(len(action))]
        return torch.from_numpy(value), torch.from_numpy(action), torch.from_numpy(log_prob)

    def evaluate(self, obs: Tensor, actions: Tensor) -> Evaluated:
        """Value, log-probability of `actions` and entropy, each `[B]`.

        d log p_a / d logits = onehot(a) - p          d H / d logits = -p (log p + H)
        d log p / d mean = z / std                    d log p / d log std = z^2 - 1        d H / d log std = 1
        """
        chosen, views, grads = actions.numpy(), self.views, self.grads
        layers, value, output = self.forward(obs.numpy())
        rows = np.arange(len(value))
        if self.gaussian:
            (log_std,) = views.log_std
            z, log_prob = self._gaussian(output, chosen)
            entropy = np.full(len(value), log_std.sum() + (0.5 + HALF_LOG_2PI) * len(log_std), np.float32)
        else:
            log_probs = _log_softmax(output)
            probs = np.exp(log_probs)
            log_prob = log_probs[chosen, rows]
            entropy = -(probs * log_probs).sum(0)

        def backward(to_value: np.ndarray, to_log_prob: np.ndarray, to_entropy: np.ndarray, auxiliary: Any) -> None:
            assert auxiliary is None, "auxiliary heads are trained by autograd"
            if self.gaussian:
                to_output = to_log_prob * z * np.exp(-log_std)[:, None]
                grads.log_std[0][:] = (to_log_prob * (z * z - 1.0)).sum(1) + to_entropy.sum()
            else:
                to_output = probs * -(to_log_prob + to_entropy * (log_probs + entropy))
                to_output[chosen, rows] += to_log_prob
            actor, critic = layers[-1]
            np.matmul(to_output, actor, out=grads.weight)
            np.sum(to_output, 1, out=grads.bias)
            np.matmul(to_value, critic, out=grads.value_weight)
            grads.value_bias[0] = to_value.sum()
            to_towers = np.empty_like(layers[-1])
            np.matmul(to_output.T, views.weight, out=to_towers[0])
            np.multiply(to_value[:, None], views.value_weight, out=to_towers[1])
            layers_backward(layers, views.towers, self.activations, to_towers, grads.towers)

        return Evaluated(value, log_prob, entropy, backward)

    def _gaussian(self, mean: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Deviations z `[A, B]` and log densities `[B]` of `actions: [B, A]`."""
        (log_std,) = self.views.log_std
        z = (actions.T - mean) * np.exp(-log_std)[:, None]
        return z, -0.5 * (z * z).sum(0) - (log_std.sum() + np.float32(HALF_LOG_2PI * len(log_std)))


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    logits = logits - logits.max(0)
    return logits - np.log(np.exp(logits).sum(0))


def act(policy: Policy) -> Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]] | None:
    """`Policy.act` in NumPy, which then also draws the actions; None where the policy has another form."""
    if not FusedPolicy.fits(policy):
        return None
    fused = FusedPolicy(policy)

    def act(
        obs: Tree, carry: Tensor, masks: Tensor, signals: dict[str, Tree], *, deterministic: bool = False
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        if ACTION_MASK in signals:
            return policy.act(obs, carry, masks, signals, deterministic=deterministic)
        return *fused.act(obs, deterministic), carry

    return act


def get_value(policy: Policy) -> Callable[[Tree, Tensor, Tensor], Tensor] | None:
    """`Policy.get_value` in NumPy; None where the policy has another form."""
    if not FusedPolicy.fits(policy):
        return None
    fused = FusedPolicy(policy)
    return lambda obs, carry, masks: fused.value(obs)
