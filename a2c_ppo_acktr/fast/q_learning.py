"""Q-learning from vectors on the CPU: a minibatch and an action of `QLearning`, written out in NumPy.

What K outputs of an action lose, and the derivatives of that, stand in `SLOPES` by the kind of temporal difference; the
derivatives go back through the network by hand where `fits`, else by autograd.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from a2c_ppo_acktr.arrays import clip_grad_norm
from a2c_ppo_acktr.distributional import categorical_projection
from a2c_ppo_acktr.fast.layers import Activation, activations_of, is_linear, layers_backward, layers_forward
from a2c_ppo_acktr.interfaces import LazyMetric, Tree
from a2c_ppo_acktr.model.encoders import FlatEncoder
from a2c_ppo_acktr.model.layers import MLP
from a2c_ppo_acktr.model.q_network import QNetwork
from a2c_ppo_acktr.storage.replay import Transitions


class _Part(NamedTuple):
    """An `MLP` in NumPy: its parameters and their gradients as views."""

    parameters: list[np.ndarray]
    grads: list[np.ndarray]
    activations: list[Activation]

    @staticmethod
    def of(mlp: MLP | None) -> "_Part":
        leaves = list(mlp.parameters()) if mlp is not None else []
        grads = [leaf.grad.numpy() for leaf in leaves if leaf.grad is not None]
        return _Part([leaf.detach().numpy() for leaf in leaves], grads, activations_of(mlp) if mlp is not None else [])

    def forward(self, x: np.ndarray) -> list[np.ndarray]:
        return layers_forward(x, self.parameters, self.activations)

    def backward(self, outputs: list[np.ndarray], grad: np.ndarray, to_input: bool = True) -> np.ndarray:
        return layers_backward(outputs, self.parameters, self.activations, grad, self.grads, to_input)


class NumpyQNetwork:
    """A `QNetwork` on vectors in NumPy.

    Args:
        network: one that `fits`, flattened (see `arrays.flatten_parameters`).
    """

    def __init__(self, network: QNetwork) -> None:
        self.network = network
        self.torso, self.advantage = _Part.of(network.torso), _Part.of(network.advantage)
        self.value = _Part.of(network.value) if network.value is not None else None

    @staticmethod
    def fits(network: Any) -> bool:
        """Whether a network has the form that is written out here."""
        heads = [network.torso, network.advantage, *([network.value] if network.value is not None else [])]
        return (
            type(network) is QNetwork
            and type(network.encoder) is FlatEncoder
            and all(map(is_linear, heads))
            and next(network.parameters()).device.type == "cpu"
        )

    def forward(self, obs: Tree) -> tuple[np.ndarray, Callable[[np.ndarray], None]]:
        """Outputs `[B, A, K]`, and what sets the gradient given the derivative of a loss by them."""
        network, torso = self.network, self.torso.forward(self.network.encoder(obs).numpy())
        advantage = self.advantage.forward(torso[-1])
        outputs = advantage[-1].reshape(-1, network.num_actions, network.num_outputs)
        value = self.value.forward(torso[-1]) if self.value is not None else []
        if value:
            outputs = value[-1][:, None] + outputs - outputs.mean(1, keepdims=True)

        def backward(grad: np.ndarray) -> None:
            to_advantage = grad - grad.mean(1, keepdims=True) if value else grad
            to_torso = self.advantage.backward(advantage, to_advantage.reshape(len(grad), -1))
            if self.value is not None:
                to_torso += self.value.backward(value, grad.sum(1))
            self.torso.backward(torso, to_torso, to_input=False)

        return outputs, backward


class _Network:
    """Any network for NumPy: outputs, and the way back through their graph."""

    def __init__(self, network: Any, parameters: Tensor) -> None:
        self.network, self.parameters = network, parameters

    def forward(self, obs: Tree) -> tuple[np.ndarray, Callable[[np.ndarray], None]]:
        """See `NumpyQNetwork`."""
        outputs = self.network(obs)

        def backward(grad: np.ndarray) -> None:
            assert self.parameters.grad is not None
            self.parameters.grad.zero_()
            outputs.backward(torch.from_numpy(grad))

        return outputs.detach().numpy(), backward


class TDSlopes(NamedTuple):
    """What a batch loses, all `[B, ...]`."""

    losses: np.ndarray
    slopes: np.ndarray
    """[B, K] derivatives of the losses by the outputs."""
    priorities: np.ndarray
    values: np.ndarray
    """[B] Q of the actions that were taken."""


class NumpyTD(NamedTuple):
    """A temporal difference in NumPy (see `q_learning.TemporalDifference`)."""

    values: Callable[[Any, np.ndarray], np.ndarray]
    """Of the definition and outputs `[..., K]`."""
    slopes: Callable[[Any, np.ndarray, np.ndarray, np.ndarray, np.ndarray], TDSlopes]
    """Of the definition and the arguments of its `losses`."""


def _expected_values(td: Any, outputs: np.ndarray) -> np.ndarray:
    return outputs[..., 0]


def _expected(td: Any, outputs: Any, next_outputs: Any, returns: np.ndarray, discounts: np.ndarray) -> TDSlopes:
    errors = outputs[:, 0] - (returns + discounts * next_outputs[:, 0])
    clipped = errors.clip(-1.0, 1.0)
    losses = clipped * (errors - 0.5 * clipped)  # Huber's: 0.5 e^2 within 1, |e| - 0.5 beyond
    return TDSlopes(losses, clipped[:, None], abs(errors), outputs[:, 0])


def _categorical_values(td: Any, outputs: np.ndarray) -> np.ndarray:
    return _log_softmax(outputs)[1] @ td.support.numpy()


def _categorical(td: Any, outputs: Any, next_outputs: Any, returns: np.ndarray, discounts: np.ndarray) -> TDSlopes:
    support, (log_probs, probs) = td.support.numpy(), _log_softmax(outputs)
    target = categorical_projection(_log_softmax(next_outputs)[1], returns, discounts, support)
    losses = (target * (np.log(target.clip(min=1e-30)) - log_probs)).sum(1)
    return TDSlopes(losses, probs - target, losses.clip(min=0.0), probs @ support)


def _quantile_values(td: Any, outputs: np.ndarray) -> np.ndarray:
    return outputs.mean(-1)


def _quantiles(td: Any, outputs: Any, next_outputs: Any, returns: np.ndarray, discounts: np.ndarray) -> TDSlopes:
    kappa, fractions = td.kappa, td.fractions.numpy()[..., None]
    errors = (returns[:, None] + discounts[:, None] * next_outputs)[:, None, :] - outputs[:, :, None]
    clipped = errors.clip(-kappa, kappa)
    slant = np.where(errors < 0.0, 1.0 - fractions, fractions) / kappa
    losses = (slant * (clipped * (errors - 0.5 * clipped))).mean(2).sum(1)
    return TDSlopes(losses, -(slant * clipped).mean(2), losses, outputs.mean(1))


def _log_softmax(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logarithms of probabilities and probabilities, over the last axis."""
    log_probs = torch.from_numpy(logits).log_softmax(-1)
    return log_probs.numpy(), log_probs.exp().numpy()


TEMPORAL_DIFFERENCES = {
    "a2c_ppo_acktr.algo.dqn.Expected": NumpyTD(_expected_values, _expected),
    "a2c_ppo_acktr.algo.c51.Categorical": NumpyTD(_categorical_values, _categorical),
    "a2c_ppo_acktr.algo.qr_dqn.Quantiles": NumpyTD(_quantile_values, _quantiles),
}
"""By the definition's class."""


def _find(td: Any) -> NumpyTD | None:
    kind = type(td)
    return TEMPORAL_DIFFERENCES.get(f"{kind.__module__}.{kind.__qualname__}")


def gradient(learner: Any) -> Callable[[Transitions], tuple[dict[str, Any], Tensor]] | None:
    """`QLearning.gradient`; None where its temporal difference is of a kind that is unknown here."""
    td, known, parameters = learner.td, _find(learner.td), learner.parameters
    if known is None:
        return None
    by_hand = NumpyQNetwork.fits(learner.policy)
    policy = NumpyQNetwork(learner.policy) if by_hand else _Network(learner.policy, parameters)
    target = NumpyQNetwork(learner.target) if by_hand else _Network(learner.target, parameters)
    config = learner.config

    def look(network: Any, obs: Tree) -> np.ndarray:
        if by_hand:
            return network.forward(obs)[0]
        with torch.no_grad():
            return network.forward(obs)[0]

    def gradient(batch: Transitions) -> tuple[dict[str, Any], Tensor]:
        learner.draw_noise()
        numbers = batch.actions, batch.returns, batch.discounts, batch.weights
        actions, returns, discounts, weights = (tensor.numpy() for tensor in numbers)
        rows = np.arange(len(actions))
        outputs, backward = policy.forward(batch.obs)
        next_outputs = look(target, batch.next_obs)
        judged = look(policy, batch.next_obs) if config.double else next_outputs
        best = known.values(td, judged).argmax(1)
        found = known.slopes(td, outputs[rows, actions], next_outputs[rows, best], returns, discounts)
        to_outputs = np.zeros_like(outputs)
        to_outputs[rows, actions] = found.slopes * (weights / len(weights))[:, None]
        backward(to_outputs)
        return _finish(learner, found, weights)

    return gradient


def iqn_gradient(learner: Any) -> Callable[[Transitions], tuple[dict[str, Any], Tensor]]:
    """`QLearning.gradient` of `IQN.loss`, of which the derivative by the quantiles is written out."""
    config, policy, target, parameters = learner.config, learner.policy, learner.target, learner.parameters

    def gradient(batch: Transitions) -> tuple[dict[str, Any], Tensor]:
        learner.draw_noise()
        numbers = batch.actions, batch.returns, batch.discounts, batch.weights
        actions, returns, discounts, weights = (tensor.numpy() for tensor in numbers)
        rows = np.arange(len(actions))
        fractions, other = (
            torch.rand(len(rows), config.num_fractions),
            torch.rand(len(rows), config.num_target_fractions),
        )
        with torch.no_grad():
            best = (policy if config.double else target)(batch.next_obs).numpy().mean(-1).argmax(1)
            next_quantiles = target.quantiles(batch.next_obs, other).numpy()[rows, best]
        quantiles = policy.quantiles(batch.obs, fractions)
        td = _Fractions(fractions, config.kappa)
        found = _quantiles(td, quantiles.detach().numpy()[rows, actions], next_quantiles, returns, discounts)
        to_quantiles = np.zeros(quantiles.shape, np.float32)
        to_quantiles[rows, actions] = found.slopes * (weights / len(weights))[:, None]
        parameters.grad.zero_()
        quantiles.backward(torch.from_numpy(to_quantiles))
        return _finish(learner, found, weights)

    return gradient


class _Fractions(NamedTuple):
    """What `_quantiles` reads of a `qr_dqn.Quantiles`."""

    fractions: Tensor
    kappa: float


def _finish(learner: Any, found: TDSlopes, weights: np.ndarray) -> tuple[dict[str, Any], Tensor]:
    """Leave out what is frozen, clip the gradient; metrics and priorities."""
    network, parameters = learner.policy, learner.parameters
    if network.frozen is not None:
        parameters.grad[network.frozen] = 0.0
    return {
        "losses/value_loss": LazyMetric((weights * found.losses).mean),
        "losses/td_error": LazyMetric(found.priorities.mean),
        "losses/q_mean": LazyMetric(found.values.mean),
        "losses/q_max": LazyMetric(found.values.max),
        "losses/grad_norm": clip_grad_norm(parameters, learner.config.max_grad_norm),
    }, torch.from_numpy(found.priorities)


def greedy(learner: Any) -> Callable[[Tree, Tensor, Tensor, bool], tuple[Tensor, Tensor]] | None:
    """`QLearning.greedy`; None where the network has another form."""
    td, known = learner.td, _find(learner.td)
    if known is None or not NumpyQNetwork.fits(learner.policy):
        return None
    network = NumpyQNetwork(learner.policy)

    def greedy(obs: Tree, carry: Tensor, masks: Tensor, explore: bool) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(known.values(td, network.forward(obs)[0]).argmax(1)), carry

    return greedy
