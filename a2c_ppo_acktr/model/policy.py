"""Networks that act: the actor-critic policy."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from gymnasium import spaces
from torch import Tensor, nn

from a2c_ppo_acktr.arrays import arrays, flat_indices, flatten_parameters
from a2c_ppo_acktr.distributions import Distribution, make_head
from a2c_ppo_acktr.fast.fused import FusedPolicy
from a2c_ppo_acktr.fast.graphs import recorded
from a2c_ppo_acktr.interfaces import ACTION_MASK, Evaluation, Tree
from a2c_ppo_acktr.model.auxiliary import AuxiliaryHeads, Head
from a2c_ppo_acktr.model.bases import BaseOutput, CNNBase, FlexBase, Layers, MLPBase, check_base


class PolicyOutput(NamedTuple):
    """All that a policy makes of observations; `[...]` stands for the axes of `masks`."""

    value: Tensor
    """[...]"""
    distribution: Distribution
    """Of actions."""
    carry: Tensor
    """[N, carry_size]"""
    features: Tensor
    """[..., F], what the action head reads."""
    layers: Layers


class Policy(nn.Module):
    """Actor and critic: a base that reads observations and a head for the action space.

    Args:
        observation_space: images are `[C, H, W]`.
        action_space: Discrete, MultiDiscrete, MultiBinary or one-dimensional Box.
        base: the body, built for `observation_space`.
        heads: auxiliary tasks.
        base_name: what the user calls the base.
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        base: Any,
        *,
        heads: Sequence[Head] = (),
        base_name: str | None = None,
    ) -> None:
        super().__init__()
        layers = check_base(base, base_name or type(base).__name__, observation_space)
        self.base = base
        self.head = make_head(action_space, self.base.output_size)
        self.auxiliary = AuxiliaryHeads(heads, layers)
        self.fused: FusedPolicy | None = None
        self.frozen: Tensor | None = None

    @property
    def carry_size(self) -> int:
        """H, the size of one environment's recurrent state; 0 for feed-forward policies."""
        return self.base.carry_size

    @property
    def recordable(self) -> bool:
        """Whether a GPU may play it back (see `graphs`).

        Not with a carry, which outlasts the next call, nor with a base of the user's own, which may wait for the GPU.
        """
        return self.carry_size == 0 and type(self.base) in (FlexBase, MLPBase, CNNBase)

    def flatten(self) -> nn.Parameter:
        """All parameters as one vector (see `flatten_parameters`).

        Call it once, on the device where the policy stays: on the CPU small networks are then run written out, on a GPU
        acting is recorded.
        """
        flat = flatten_parameters(self)
        assert flat.grad is not None
        self.flat_grad = flat.grad
        known = type(self.base) in (FlexBase, MLPBase)
        self.fused = FusedPolicy(self, flat) if known and FusedPolicy.fits(self) else None
        if flat.is_cuda and self.recordable:
            self.act = recorded(self.act, flat.device)  # type: ignore[method-assign]  # of this instance alone
        return flat

    def freeze(self, names: set[str]) -> None:
        """Keep parameters as they are; needs `flatten` before.

        Their gradients become zero, which moves neither Adam nor RMSprop.
        """
        self.frozen = flat_indices(self, names)

    def forward(self, obs: Tree, carry: Tensor, masks: Tensor, signals: dict[str, Tree]) -> PolicyOutput:
        """Read observations; shapes as in `bases.Base`."""
        value, features, carry, layers = BaseOutput(*self.base(obs, carry, masks))
        distribution = self.head(features, signals[ACTION_MASK]) if ACTION_MASK in signals else self.head(features)
        return PolicyOutput(value, distribution, carry, features, layers)

    def act(
        self, obs: Tree, carry: Tensor, masks: Tensor, signals: dict[str, Tree], *, deterministic: bool = False
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Choose actions: value `[N]`, action `[N, ...]`, its log-probability `[N]`, next carry `[N, H]`.

        Actions carry no gradient.
        """
        if self.fused is not None and ACTION_MASK not in signals:
            return *self.fused.act(obs, deterministic), carry
        output = self(obs, carry, masks, signals)
        action = output.distribution.mode() if deterministic else output.distribution.sample()
        return output.value, action, output.distribution.log_prob(action), output.carry

    def inspect(
        self,
        obs: Tree,
        carry: Tensor,
        masks: Tensor,
        signals: dict[str, Tree],
        *,
        deterministic: bool,
        override: Callable[[Tensor], Tensor],
    ) -> tuple[Tensor, Tensor, dict[str, Tree]]:
        """`act`, for analysis: action, next carry, and all that was computed by the names of `evaluate`'s result.

        `override` gets the chosen actions and gives those that are taken.
        """
        output = self(obs, carry, masks, signals)
        distribution = output.distribution
        action = override(distribution.mode() if deterministic else distribution.sample())
        found = {
            "values": output.value,
            "action_log_probs": distribution.log_prob(action),
            "action_probs": distribution.describe(),
            "actor_features": output.features,
            "activations": output.layers.by_depth(),
            "auxiliary_preds": self.auxiliary.describe(output.layers),
        }
        return action, output.carry, found

    def get_value(self, obs: Tree, carry: Tensor, masks: Tensor) -> Tensor:
        """V(obs): `[N]`, without gradient."""
        if self.fused is not None:
            return self.fused.value(obs)
        with torch.no_grad():
            return self.base(obs, carry, masks)[0]

    def evaluate_actions(
        self,
        obs: Tree,
        carry: Tensor,
        masks: Tensor,
        signals: dict[str, Tree],
        actions: Tensor,
        *,
        with_graph: bool = False,
    ) -> Evaluation:
        """Value, log-probability of `actions` and entropy, each `[...]` like `masks`; needs `flatten` before.

        `with_graph` gives the distribution and everything else that was computed, with its graph, as `output`.
        """
        written_out = self.fused is not None and ACTION_MASK not in signals and not self.auxiliary.heads
        if written_out and not with_graph:
            assert self.fused is not None
            evaluation = self.fused.evaluate(obs, actions)
        else:
            evaluation = self._evaluate(self(obs, carry, masks, signals), actions)
        if (frozen := self.frozen) is None:
            return evaluation

        def backward(*grads: Any) -> None:
            evaluation.backward(*grads)
            self.flat_grad[frozen] = 0.0

        return evaluation._replace(backward=backward)

    def _evaluate(self, output: PolicyOutput, actions: Tensor) -> Evaluation:
        outputs = output.value, output.distribution.log_prob(actions), output.distribution.entropy()

        def backward(to_value: Any, to_log_prob: Any, to_entropy: Any, auxiliary_loss: Tensor | None) -> None:
            self.flat_grad.zero_()
            grads = [torch.as_tensor(grad) for grad in (to_value, to_log_prob, to_entropy)]
            if auxiliary_loss is None:
                torch.autograd.backward(outputs, grads)
            else:
                torch.autograd.backward((*outputs, auxiliary_loss), [*grads, torch.ones_like(auxiliary_loss)])

        _, (value, log_prob, entropy) = arrays(*outputs)
        return Evaluation(value, log_prob, entropy, backward, self.auxiliary(output.layers), output)
