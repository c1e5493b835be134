"""What learners of action values share: epsilon-greedy or noisy actions, and one loss of temporal differences.

    loss = mean of weight * losses(Z(s, a), Z'(s', a*), R, discount)    a* = argmax_a Q'(s', a), with --double Q(s', a)

Z are the K numbers by which a network describes the return of an action, and Q what they say of its mean; Z' is a copy
that follows Z. R is the discounted reward of n steps, s' the observation after them, discount gamma^n or 0 where s' is
terminal. What K numbers mean and what is lost by them is said by a `TemporalDifference`, which each algorithm has.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from a2c_ppo_acktr import fast
from a2c_ppo_acktr.algo.off_policy import OffPolicy, OffPolicyConfig
from a2c_ppo_acktr.arrays import flatten_parameters, set_gradient
from a2c_ppo_acktr.flags import WIDEST, flag
from a2c_ppo_acktr.interfaces import Decision, EnvSpaces, LazyMetric, Tree
from a2c_ppo_acktr.model.encoders import BFLOAT16, convolve_in_bfloat16
from a2c_ppo_acktr.model.q_network import QNetwork, num_actions
from a2c_ppo_acktr.optim.adam import Adam
from a2c_ppo_acktr.storage.replay import Transitions
from a2c_ppo_acktr.utils import linear_decay


class TemporalDifference(Protocol):
    """How K outputs of a network describe the return of an action, and what they lose by the next ones."""

    num_outputs: int
    """K"""

    def values(self, outputs: Tensor) -> Tensor:
        """Q `[...]` of outputs `[..., K]`."""

    def losses(
        self, outputs: Tensor, next_outputs: Tensor, returns: Tensor, discounts: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Losses `[B]` with their graph, and `[B]` what the windows are sampled by from now on.

        Args:
            outputs: `[B, K]` of the actions that were taken.
            next_outputs: `[B, K]` of the best actions n steps later, without graph.
            returns: `[B]` the rewards in between, discounted.
            discounts: `[B]` what the next value is worth.
        """


class Exploration(Protocol):
    """How probable random actions are."""

    def epsilon(self, env_steps: int) -> float:
        """After so many steps of all environments."""

    def of_each(self, epsilon: float, num_envs: int) -> np.ndarray:
        """`[N]`, given `epsilon` as it is."""


class Annealed:
    """Epsilon falls linearly from `start` to `end` in `steps` environment steps, the same in all environments."""

    def __init__(self, start: float, end: float, steps: int) -> None:
        self.start, self.end, self.steps = start, end, steps

    def epsilon(self, env_steps: int) -> float:
        """See `Exploration`."""
        return self.end + linear_decay(self.start - self.end, env_steps, self.steps)

    def of_each(self, epsilon: float, num_envs: int) -> np.ndarray:
        """See `Exploration`."""
        return np.full(num_envs, epsilon)


class TDLoss(NamedTuple):
    """What a batch gave."""

    loss: Tensor
    """A scalar with its graph."""
    metrics: dict[str, Any]
    priorities: Tensor
    """[B] what its items are sampled by from now on."""


@dataclass
class QLearningConfig(OffPolicyConfig, ABC):
    """Flags of all learners of action values; the defaults here are for vector observations (RL Zoo's for CartPole)."""

    lr: float = flag(2.3e-3, "learning rate of Adam", low=0, high=1e6)
    eps: float = flag(1e-8, "epsilon of Adam's denominator", low=0)
    epsilon_start: float = flag(1.0, "probability of a random action at the start", low=0, high=1)
    epsilon_end: float = flag(0.04, "probability of a random action in the end", low=0, high=1)
    epsilon_steps: int = flag(8_000, "environment steps from one to the other", low=1)
    double: bool = flag(False, "choose the next action by the network that learns")
    dueling: bool = flag(False, "one head for the value and one for advantages")
    noisy: bool = flag(False, "explore by noise in the weights instead of epsilon")
    sigma: float = flag(0.5, "initial deviation of noisy weights, times the root of a layer's inputs", low=0)
    noisy_epsilon: float = flag(0.0, "probability of a random action beside that noise", low=0, high=1)
    hidden_size: list[int] = flag([256, 256], "widths of the fully connected layers", low=1, high=WIDEST)
    bfloat16: bool = flag(False, BFLOAT16)
    max_grad_norm: float = flag(10.0, "bound of the global norm of gradients", low=0, high=math.inf)

    def without_effect(self) -> dict[str, str]:
        """See `AlgorithmConfig`."""
        reasons = super().without_effect()
        if self.noisy:
            names = ("epsilon_start", "epsilon_end", "epsilon_steps")
            return reasons | dict.fromkeys(names, "has no effect with --noisy")
        return reasons | dict.fromkeys(("sigma", "noisy_epsilon"), "has no effect without --noisy")

    @abstractmethod
    def temporal_difference(self, device: torch.device) -> TemporalDifference:
        """What the network's outputs mean."""

    def exploration(self) -> Exploration:
        """How probable random actions are."""
        if self.noisy:
            return Annealed(self.noisy_epsilon, self.noisy_epsilon, 1)
        return Annealed(self.epsilon_start, self.epsilon_end, self.epsilon_steps)


ATARI = {
    "num_steps": 4,
    "eval_interval": None,
    "batch_size": 32,
    "buffer_size": 1_000_000,
    "learning_starts": 20_000,
    "update_to_data": 0.25,
    "target_update_interval": 2_500,
    "epsilon_end": 0.01,
    "epsilon_steps": 250_000,
    "hidden_size": [512],
}
"""Mnih et al. 2015, without an optimizer; what differs from there is in the deviations of `dqn.py`."""
GRID = ATARI | {
    "lr": 1e-4,
    "eps": 3.125e-4,
    "buffer_size": 100_000,
    "learning_starts": 1_000,
    "target_update_interval": 250,
    "hidden_size": [128],
}
"""Obando-Ceron & Castro 2021 for MinAtar: what all of their agents have, and the rate of all but DQN."""


class QLearning(OffPolicy):
    """See the module's docstring; arguments as in `Algorithm`."""

    Network: ClassVar[type[QNetwork]] = QNetwork
    run_defaults: ClassVar[dict[str, Any]] = {
        "num_processes": 1,
        "num_steps": 256,
        "normalize_env": False,
        "eval_interval": 10,  # a greedy policy changes faster than 100 training episodes could tell
    }
    counters = (*OffPolicy.counters, "epsilon")
    config: QLearningConfig

    def __init__(self, spaces: EnvSpaces, config: QLearningConfig, device: torch.device) -> None:
        super().__init__(spaces, config, device)
        self.td, self.exploration = config.temporal_difference(device), config.exploration()
        self.epsilon = config.noisy_epsilon if config.noisy else config.epsilon_start
        self.policy: Any = self.make_network().to(device)
        self.parameters = flatten_parameters(self.policy)
        self.target: Any = self.follow(self.policy, self.parameters)
        self.optimizer = Adam(self.parameters, lr=config.lr, eps=config.eps)
        self.set_gradient, self.choose = self.gradient, self.greedy
        if config.fast:
            fast.attach_q_networks(self.policy, self.target)
            self.set_gradient = fast.accelerated(self.gradient, self.loss)
            self.choose = fast.accelerated(self.greedy)

    def make_network(self) -> nn.Module:
        """What learns; the target network is a copy."""
        settings = {name: getattr(self.config, name) for name in self.Network.settings}
        network = self.Network(self.spaces.observation, num_actions(self.spaces), self.td.num_outputs, **settings)
        return convolve_in_bfloat16(network) if self.config.bfloat16 else network

    def loss(self, batch: Transitions) -> TDLoss:
        """See the module's docstring."""
        td, rows = self.td, torch.arange(len(batch.actions), device=self.device)
        with torch.no_grad():
            next_outputs = self.target(batch.next_obs)
            judged = self.policy(batch.next_obs) if self.config.double else next_outputs
            next_outputs = next_outputs[rows, td.values(judged).argmax(1)]
        outputs = self.policy(batch.obs)[rows, batch.actions]
        losses, priorities = td.losses(outputs, next_outputs, batch.returns, batch.discounts)
        assert losses.shape == priorities.shape == batch.weights.shape
        loss = (batch.weights * losses).mean()
        return TDLoss(loss, td_metrics(loss, priorities, td.values(outputs)), priorities)

    def gradient(self, batch: Any) -> tuple[dict[str, Any], Tensor]:
        """Set the gradient of a batch's loss, clipped; returns metrics and priorities `[B]`."""
        self.draw_noise()
        found = self.loss(batch)
        grad_norm = set_gradient(self.parameters, found.loss, self.config.max_grad_norm, self.policy.frozen)
        metrics = {tag: value.detach() for tag, value in found.metrics.items()}
        return metrics | {"losses/grad_norm": grad_norm}, found.priorities.detach()

    def draw_noise(self) -> None:
        """Take new noise for a gradient step."""
        if self.config.noisy:
            self.policy.draw_noise()
            self.target.draw_noise()

    def learn(self, batch: Any) -> tuple[dict[str, Any], Tensor]:
        """See `OffPolicy`."""
        metrics, priorities = self.set_gradient(batch._replace(rows=None))
        self.optimizer.step()
        return metrics, priorities

    def act(self, obs: Tree, carry: Tensor, masks: Tensor, signals: dict[str, Tree], explore: bool) -> Decision:
        """Choose the action of the largest value; `explore` adds noise, or random actions, which need no values."""
        random = self._random_actions(len(masks), explore)
        if self.policy.carry_size == 0 and (random >= 0).all():
            return Decision(torch.as_tensor(random, device=self.device), carry, {})
        greedy, carry = self.choose(obs, carry, masks, explore)
        return Decision(self._mix(greedy, random), carry, {})

    @torch.no_grad()
    def greedy(self, obs: Tree, carry: Tensor, masks: Tensor, explore: bool) -> tuple[Tensor, Tensor]:
        """The best actions `[N]`, by weights with noise or without, and the next carry."""
        self.policy.set_noise(explore)
        features, carry = self.policy.read(obs, carry, masks)
        return self.td.values(self.policy.head(features)).argmax(1), carry

    def _random_actions(self, num_envs: int, explore: bool) -> np.ndarray:
        """Actions `[N]` where chance chooses them, else -1."""
        draws = np.full(num_envs, -1)
        if explore:
            probabilities = self.exploration.of_each(self.epsilon, num_envs)
            (random,) = (np.random.random_sample(num_envs) < probabilities).nonzero()
            draws[random] = np.random.random_sample(len(random)) * self.policy.num_actions
        return draws

    def _mix(self, greedy: Tensor, random: np.ndarray) -> Tensor:
        draws = torch.as_tensor(random, device=self.device)
        return torch.where(draws < 0, greedy, draws)

    @torch.no_grad()
    def inspect(
        self,
        obs: Tree,
        carry: Tensor,
        masks: Tensor,
        signals: dict[str, Tree],
        explore: bool,
        override: Callable[[Tensor], Tensor],
    ) -> Decision:
        """See `Algorithm.inspect`; `values` are those of the best actions, `q_values` of all."""
        self.policy.set_noise(explore)
        features, carry = self.policy.read(obs, carry, masks)
        values = self.td.values(self.policy.head(features))
        greedy = values.argmax(1)
        action = override(self._mix(greedy, self._random_actions(len(greedy), explore)))
        random = self.exploration.of_each(self.epsilon, len(action)) if explore else np.zeros(len(action))
        epsilon = torch.as_tensor(random, dtype=values.dtype, device=self.device).unsqueeze(1)
        probs = functional.one_hot(greedy, values.shape[1]) * (1.0 - epsilon) + epsilon / values.shape[1]
        found = {
            "values": values.max(1).values,
            "q_values": values,
            "action_log_probs": probs.gather(1, action.unsqueeze(1)).squeeze(1).log(),
            "action_probs": probs,
            "actor_features": features,
            "activations": {"features": features},
            "auxiliary_preds": {},
        }
        return Decision(action, carry, found)

    def initial_carry(self, num_envs: int) -> Tensor:
        """See `Algorithm`."""
        return torch.zeros(num_envs, self.policy.carry_size, device=self.device)

    def schedule(self, env_steps: int, total: int) -> None:
        """See `Algorithm`: what `OffPolicy` sets, and epsilon."""
        super().schedule(env_steps, total)
        self.epsilon = self.exploration.epsilon(env_steps)

    def update(self, storage: Any) -> dict[str, Any]:
        """See `OffPolicy`."""
        num_envs = storage.slots.num_envs
        mean_epsilon = LazyMetric(lambda: np.mean(self.exploration.of_each(self.epsilon, num_envs)))
        return super().update(storage) | {"charts/epsilon": mean_epsilon}


def td_metrics(loss: Any, priorities: Any, values: Any) -> dict[str, Any]:
    """Of a batch: its loss, and what is known of its items, `[B]`."""
    return {
        "losses/value_loss": loss,
        "losses/td_error": priorities.mean(),
        "losses/q_mean": values.mean(),
        "losses/q_max": values.max(),
    }
