"""Deep Q-learning (Mnih et al. 2015), and what has become usual with it.

    loss = huber(R + discount * Q'(s', a*) - Q(s, a))        a* = argmax_a Q'(s', a), with --double argmax_a Q(s', a)

R is the discounted reward of n steps, s' the observation after them, discount gamma^n or 0 where s' is terminal, and Q'
a copy of Q that follows it. Steps are sampled from the latest `--buffer-size` ones.

--double       van Hasselt et al. 2016        --dueling      Wang et al. 2016
--n-step       Sutton 1988; Rainbow, eq. 1    --prioritized  Schaul et al. 2016, proportional
--noisy        Fortunato et al. 2018, factorized noise, which explores instead of epsilon

Deviations from Mnih et al. 2015:
1. Adam, with the rate, epsilon and target network's interval of CleanRL and RL Zoo. Dopamine's epsilon, 1.5e-4, goes
   with layers that begin larger: here gradients on pixels begin at a tenth of it.
2. The last epsilon is .01, and evaluations take the greedy action.
3. The number of gradient steps follows from the number of environment steps (`--update-to-data`), whatever the number
   of environments; the target network's interval counts gradient steps.
4. Gradients are clipped by global norm (Wang et al. 2016); errors by the Huber loss, as there.
5. A time limit is no end: the value of its final observation is bootstrapped.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from a2c_ppo_acktr.algo.base import BFLOAT16, Algorithm
from a2c_ppo_acktr.arrays import arrays, clip_grad_norm, count
from a2c_ppo_acktr.flags import flag
from a2c_ppo_acktr.interfaces import Decision, EnvSpaces, LazyMetric, Tree
from a2c_ppo_acktr.model.encoders import convolve_in_bfloat16
from a2c_ppo_acktr.model.q_network import Losses, QNetwork, num_actions
from a2c_ppo_acktr.optim.adam import Adam
from a2c_ppo_acktr.storage.replay import Replay, Transitions
from a2c_ppo_acktr.utils import UsageError, linear_decay


@dataclass
class DQNConfig:
    """Flags of DQN; the defaults here are for vector observations (RL Zoo's for CartPole)."""

    lr: float = flag(2.3e-3, "learning rate of Adam", low=0)
    eps: float = flag(1e-8, "epsilon of Adam's denominator", low=0)
    use_linear_lr_decay: bool = flag(False, "decay the learning rate to 0 over --num-env-steps")
    gamma: float = flag(0.99, "discount of rewards", low=0, high=1)
    batch_size: int = flag(64, "windows of steps per gradient step", low=1)
    buffer_size: int = flag(100_000, "observations in the replay, of all environments together", low=1)
    learning_starts: int = flag(1_000, "observations in the replay before the first gradient step", low=1)
    update_to_data: float = flag(0.5, "gradient steps per environment step", low=0)
    target_update_interval: int = flag(128, "gradient steps between copies to the target network", low=1)
    tau: float = flag(1.0, "how far a copy moves the target network: 1 is all the way", low=0, high=1)
    epsilon_start: float = flag(1.0, "probability of a random action at the start", low=0, high=1)
    epsilon_end: float = flag(0.04, "probability of a random action in the end", low=0, high=1)
    epsilon_steps: int = flag(8_000, "environment steps from one to the other", low=1)
    n_step: int = flag(1, "steps before the value of the next observation is used", low=1)
    double: bool = flag(False, "choose the next action by the network that learns")
    dueling: bool = flag(False, "one head for the value and one for advantages")
    noisy: bool = flag(False, "explore by noise in the weights instead of epsilon")
    sigma: float = flag(0.5, "initial deviation of noisy weights, times the root of a layer's inputs", low=0)
    noisy_epsilon: float = flag(0.0, "probability of a random action beside that noise", low=0, high=1)
    prioritized: bool = flag(False, "sample in proportion to the last error")
    priority_alpha: float = flag(0.6, "exponent of priorities", low=0)
    priority_beta: float = flag(0.4, "exponent of importance weights at the start; 1 in the end", low=0, high=1)
    hidden_size: list[int] = flag([256, 256], "widths of the fully connected layers", low=1)
    bfloat16: bool = flag(False, BFLOAT16)
    max_grad_norm: float = flag(10.0, "bound of the global norm of gradients", low=0)
    save_replay: bool = flag(False, "save the replay beside checkpoints, so that a resumed run goes on unchanged")

    def check(self, num_steps: int, num_processes: int) -> None:
        """Raise `UsageError` where the settings cannot work together."""
        if num_steps < 1:
            raise UsageError(f"--num-steps {num_steps}: at least 1 step is collected between updates")
        if self.learning_starts > self.buffer_size:
            raise UsageError(f"--learning-starts {self.learning_starts}: more than --buffer-size {self.buffer_size}")

    def without_effect(self) -> dict[str, str]:
        """Fields that the other settings switch off, with the reason."""
        reasons: dict[str, str] = {}
        if not self.prioritized:
            reasons |= dict.fromkeys(("priority_alpha", "priority_beta"), "has no effect without --prioritized")
        if self.noisy:
            names = ("epsilon_start", "epsilon_end", "epsilon_steps")
            reasons |= dict.fromkeys(names, "has no effect with --noisy")
        else:
            reasons |= dict.fromkeys(("sigma", "noisy_epsilon"), "has no effect without --noisy")
        return reasons


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
"""Mnih et al. 2015, without an optimizer."""
PIXELS = ATARI | {"lr": 1e-4, "eps": 1e-8, "target_update_interval": 250}
"""Of CleanRL and RL Zoo."""
GRID = ATARI | {
    "lr": 2.5e-4,
    "eps": 3.125e-4,
    "buffer_size": 100_000,
    "learning_starts": 1_000,
    "target_update_interval": 250,
    "hidden_size": [128],
}
"""Obando-Ceron & Castro 2021 for MinAtar."""


class DQN(Algorithm):
    """See the module's docstring; arguments as in `Algorithm`."""

    Config: ClassVar[type] = DQNConfig
    Network: ClassVar[type[QNetwork]] = QNetwork
    run_defaults: ClassVar[dict[str, Any]] = {
        "num_processes": 1,
        "num_steps": 256,
        "normalize_env": False,
        "eval_interval": 10,  # a greedy policy changes faster than 100 training episodes could tell
    }
    defaults_by_kind: ClassVar[dict[str, dict[str, Any]]] = {"image": PIXELS, "grid": GRID}
    config: Any
    num_outputs = 1
    """Numbers by which the network describes the value of an action."""
    steps_per_sample = 1
    """Environment steps that are learned from per item of a batch."""

    def __init__(self, spaces: EnvSpaces, config: DQNConfig, device: torch.device) -> None:
        super().__init__(spaces, config, device)
        self.policy = self.make_network().to(device)
        self.target = copy.deepcopy(self.policy)
        self.parameters, self.target_parameters = self.policy.flatten(), self.target.flatten()
        self.optimizer = Adam(self.parameters, lr=config.lr, eps=config.eps)
        self.epsilon, self.beta = config.epsilon_start, config.priority_beta
        self.env_steps, self.gradient_steps, self.unlearned_steps = 0, 0, 0.0
        self.last: dict[str, Any] = {}
        self.gradient, self.choose = self.recorded(self._gradient), self.recorded(self._choose)

    def make_network(self) -> nn.Module:
        """What learns; the target network is a copy."""
        settings = {name: getattr(self.config, name) for name in self.Network.settings}
        network = self.Network(self.spaces.observation, num_actions(self.spaces), self.num_outputs, **settings)
        return convolve_in_bfloat16(network) if self.config.bfloat16 else network

    def values(self, network: Any, obs: Tree) -> Any:
        """The expected return of every action, an array `[B, A]`."""
        return network.outputs(obs)[..., 0]

    def loss(self, batch: Transitions) -> Losses:
        """See the module's docstring."""
        xp, (actions, returns, discounts) = arrays(batch.actions, batch.returns, batch.discounts)
        rows = count(actions)
        outputs, backward = self.policy.evaluate(batch.obs)
        values, next_values = outputs[rows, actions, 0], self.values(self.target, batch.next_obs)
        best = (self.values(self.policy, batch.next_obs) if self.config.double else next_values).argmax(1)
        errors = values - (returns + discounts * next_values[rows, best])
        clipped = errors.clip(-1.0, 1.0)
        slopes = xp.zeros_like(outputs)
        slopes[rows, actions, 0] = clipped
        losses = clipped * (errors - 0.5 * clipped)  # Huber's: 0.5 e^2 within 1, |e| - 0.5 beyond
        return Losses(losses, slopes, abs(errors), values, backward)

    def act(self, obs: Tree, carry: Tensor, masks: Tensor, signals: dict[str, Tree], explore: bool) -> Decision:
        """Choose the action of the largest value; `explore` adds noise, or random actions, which need no values."""
        random = self._random_actions(len(masks), explore)
        if self.policy.carry_size == 0 and (random >= 0).all():
            return Decision(torch.as_tensor(random, device=self.device), carry, {})
        greedy, carry = self.choose(obs, carry, masks, explore)
        return Decision(self._mix(greedy, random), carry, {})

    def _choose(self, obs: Tree, carry: Tensor, masks: Tensor, explore: bool) -> tuple[Tensor, Tensor]:
        """The best actions `[N]`, by weights with noise or without, and the next carry."""
        self.policy.set_noise(explore)
        values, carry = self.perceive(obs, carry, masks)
        return torch.as_tensor(values.argmax(1)), carry

    def perceive(self, obs: Tree, carry: Tensor, masks: Tensor) -> tuple[Any, Tensor]:
        """Values `[N, A]`, an array, and the next carry."""
        return self.values(self.policy, obs), carry

    def features(self, obs: Tree, carry: Tensor) -> Tensor:
        """What the head read, `[N, ...]`, given the next carry."""
        return self.policy.features(obs)

    def epsilons(self, num_envs: int) -> Any:
        """The probability of a random action, for all environments or for each, `[N]`."""
        return self.epsilon

    def _random_actions(self, num_envs: int, explore: bool) -> np.ndarray:
        """Actions `[N]` where chance chooses them, else -1."""
        draws = np.full(num_envs, -1)
        if explore:
            (random,) = (np.random.random_sample(num_envs) < self.epsilons(num_envs)).nonzero()
            draws[random] = np.random.random_sample(len(random)) * self.policy.num_actions
        return draws

    def _mix(self, greedy: Tensor, random: np.ndarray) -> Tensor:
        return torch.where((draws := torch.as_tensor(random, device=self.device)) < 0, greedy, draws)

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
        values, carry = self.perceive(obs, carry, masks)
        values = torch.as_tensor(values)
        with torch.no_grad():
            features = self.features(obs, carry)
        greedy = values.argmax(1)
        action = override(self._mix(greedy, self._random_actions(len(greedy), explore)))
        epsilon = torch.as_tensor(self.epsilons(len(action)) if explore else 0.0, device=self.device).reshape(-1, 1)
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

    def schedule(self, env_steps: int, total: int) -> None:
        """Set what depends on progress: learning rate, epsilon, beta."""
        super().schedule(env_steps, total)
        config, self.env_steps = self.config, env_steps
        decayed = linear_decay(config.epsilon_start - config.epsilon_end, env_steps, config.epsilon_steps)
        self.epsilon = config.noisy_epsilon if config.noisy else config.epsilon_end + decayed
        self.beta = 1.0 - linear_decay(1.0 - config.priority_beta, env_steps, total)

    def make_storage(self, num_steps: int, num_envs: int) -> Any:
        """The replay."""
        config = self.config
        return Replay(
            config.buffer_size,
            num_envs,
            num_steps,
            self.spaces,
            device=self.device,
            n_step=config.n_step,
            gamma=config.gamma,
            alpha=config.priority_alpha if config.prioritized else 0.0,
            saved=config.save_replay,
        )

    def update(self, storage: Any) -> dict[str, Any]:
        """As many gradient steps as the new environment steps are worth."""
        config = self.config
        if len(storage) > 0 and (storage.observations >= config.learning_starts or storage.fill == 1.0):
            self.unlearned_steps += storage.new_steps
            steps = int(self.unlearned_steps * config.update_to_data)
            self.unlearned_steps -= steps / config.update_to_data if steps else 0
            for _ in range(steps):
                self.last = self.learn(storage)
        samples = self.gradient_steps * config.batch_size * self.steps_per_sample
        env_steps = self.env_steps + storage.new_steps
        priorities = {"charts/priority_max": storage.max_priority} if config.prioritized else {}
        return (
            self.last
            | priorities
            | {
                "charts/epsilon": LazyMetric(lambda: np.mean(self.epsilons(storage.slots.num_envs))),
                "charts/replay_fill": storage.fill,
                "charts/learning_rate": self.optimizer.param_groups[0]["lr"],
                "charts/gradient_steps": self.gradient_steps,
                "charts/replay_ratio": samples / env_steps,
            }
        )

    def learn(self, storage: Any) -> dict[str, Any]:
        """One gradient step; returns metrics."""
        config = self.config
        batch = storage.sample(config.batch_size, self.beta)
        priorities, metrics = self.gradient(batch._replace(rows=None))
        self.optimizer.step()
        if config.prioritized:
            storage.update_priorities(batch.rows, torch.as_tensor(priorities).cpu().numpy())
        self.gradient_steps += 1
        if self.gradient_steps % config.target_update_interval == 0:
            self.target_parameters.data.lerp_(self.parameters.data, config.tau)
        return metrics

    def _gradient(self, batch: Any) -> tuple[Any, dict[str, Any]]:
        """Set the gradient of a batch's loss, clipped; returns priorities `[B]` and metrics."""
        if self.config.noisy:
            self.policy.draw_noise()
            self.target.draw_noise()
        losses, slopes, priorities, values, backward = self.loss(batch)
        _, (weights,) = arrays(batch.weights)
        assert losses.shape == weights.shape == priorities.shape
        backward(slopes * (weights / len(weights)).reshape(-1, *[1] * (slopes.ndim - 1)))
        if self.policy.frozen is not None:
            self.parameters.grad[self.policy.frozen] = 0.0
        grad_norm = clip_grad_norm(self.parameters, self.config.max_grad_norm)
        return priorities, {
            "losses/value_loss": LazyMetric(lambda: (weights * losses).mean()),
            "losses/td_error": LazyMetric(priorities.mean),
            "losses/q_mean": LazyMetric(values.mean),
            "losses/q_max": LazyMetric(values.max),
            "losses/grad_norm": grad_norm,
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything that learning continues from, but for the replay."""
        own = {name: getattr(self, name) for name in ("epsilon", "beta", "gradient_steps", "unlearned_steps")}
        return super().state_dict() | {"target": self.target.state_dict()} | own

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`."""
        super().load_state_dict(state)
        self.target.load_state_dict(state["target"])
        for name in ("epsilon", "beta", "gradient_steps", "unlearned_steps"):
            setattr(self, name, state[name])
