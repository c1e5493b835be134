"""R2D1: recurrent Q-learning from replayed sequences (Kapturowski et al. 2019, R2D2, on one machine).

    loss = 1/2 sum_t (Q_t(a_t) - h(R_t + discount_t h^-1(Q'_{t+m}(a*))))^2 / L        a* = argmax_a Q_{t+m}(a)

over L steps of a sequence. Both networks begin with the carry that the first observation was read with, and first read
a few steps, the burn-in, that are not learned from. h makes values grow like a root. The recurrent core also reads the
previous action and reward. A sequence is sampled by eta max_t |error_t| + (1 - eta) mean_t |error_t|.

Environment i of N explores with epsilon^(1 + power i / (N - 1)) (Horgan et al. 2018); a single one with i = N / 2.

Deviations from the paper:
1. One process: environments are stepped by the network that learns.
2. Sequences run on through the ends of episodes, where states are set to zero.
3. New sequences get the highest priority so far instead of one that the actor would compute.
4. The exponent of importance weights rises from `--priority-beta` (.6, the paper's) to 1; there it stays.
5. The replay holds a million observations on pixels (there 4 million), and gradients are clipped at 80, as in rlpyt.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from a2c_ppo_acktr.algo.dqn import Expected
from a2c_ppo_acktr.algo.q_learning import ATARI, GRID, Exploration, QLearning, QLearningConfig, TDLoss, td_metrics
from a2c_ppo_acktr.flags import LONGEST, WIDEST, flag
from a2c_ppo_acktr.interfaces import EnvSpaces, Step
from a2c_ppo_acktr.model.q_network import CORES, QNetwork, RecurrentQNetwork
from a2c_ppo_acktr.returns import rescale_value, unscale_value
from a2c_ppo_acktr.spaces import tree_map
from a2c_ppo_acktr.storage.sequences import SequenceReplay, Sequences


class Ladder:
    """A fixed epsilon for each environment, from high to low (see the module's docstring); an `Exploration`."""

    def __init__(self, base: float, power: float) -> None:
        self.base, self.power = base, power

    def epsilon(self, env_steps: int) -> float:
        """See `Exploration`: that of the first environment."""
        return self.base

    def of_each(self, epsilon: float, num_envs: int) -> np.ndarray:
        """See `Exploration`."""
        place = np.linspace(0.0, 1.0, num_envs) if num_envs > 1 else np.array([0.5])
        return self.base ** (1.0 + self.power * place)


@dataclass
class R2D1Config(QLearningConfig):
    """Flags of R2D1; the defaults here, our own, are for vector observations."""

    lr: float = flag(1e-3, "learning rate of Adam", low=0, high=1e6)
    core: str = flag("gru", "recurrent core; the gru is three times as fast on CPUs", choices=tuple(CORES))
    core_size: int = flag(64, "size of its state", low=1, high=WIDEST)
    hidden_size: list[int] = flag(
        [64, 64], "widths of the layers before the core and, last, of the head", low=1, high=WIDEST
    )
    burn_in: int = flag(10, "steps of a sequence that only warm up the state", low=0, high=100_000)
    sequence_length: int = flag(20, "steps of a sequence that are learned from", low=1, high=100_000)
    sequence_interval: int = flag(10, "steps between the beginnings of sequences", low=1, high=100_000)
    batch_size: int = flag(32, "sequences per gradient step", low=1, high=LONGEST)
    update_to_data: float = flag(0.1, "gradient steps per environment step", low=0)
    target_update_interval: int = flag(200, "gradient steps between copies to the target network", low=1)
    n_step: int = flag(3, "steps before the value of the next observation is used", low=1, high=100_000)
    double: bool = flag(True, "choose the next action by the network that learns")
    dueling: bool = flag(True, "one head for the value and one for advantages")
    prioritized: bool = flag(True, "sample in proportion to the last errors")
    priority_eta: float = flag(0.9, "share of the largest error in a sequence's priority", low=0, high=1)
    rescale_values: bool = flag(True, "learn h(Q), which grows like a root")
    epsilon_base: float = flag(0.4, "probability of a random action in the first environment", low=0, high=1)
    epsilon_power: float = flag(7.0, "how much lower it is in the last one, as an exponent", low=0)

    def without_effect(self) -> dict[str, str]:
        """See `AlgorithmConfig`."""
        reasons = super().without_effect()
        reasons |= dict.fromkeys(("epsilon_start", "epsilon_end", "epsilon_steps"), "has no effect on r2d1")
        if self.noisy:
            reasons |= dict.fromkeys(("epsilon_base", "epsilon_power"), "has no effect with --noisy")
        if not self.prioritized:
            reasons["priority_eta"] = "has no effect without --prioritized"
        return reasons

    def temporal_difference(self, device: torch.device) -> Expected:
        """See `QLearningConfig`."""
        return Expected()

    def exploration(self) -> Exploration:
        """See `QLearningConfig`."""
        return super().exploration() if self.noisy else Ladder(self.epsilon_base, self.epsilon_power)


SMALL = {
    "lr": 2.5e-4,
    "num_processes": 16,
    "num_steps": 20,
    "core_size": 128,
    "update_to_data": 0.0125,
}
"""Our own, beside `GRID`."""


class R2D1(QLearning):
    """See the module's docstring; arguments as in `Algorithm`."""

    Config = R2D1Config
    Network: ClassVar[type[QNetwork]] = RecurrentQNetwork
    reads_rewards = True
    config: R2D1Config
    run_defaults: ClassVar[dict[str, Any]] = QLearning.run_defaults | {"num_processes": 8, "num_steps": 40}
    defaults_by_kind: ClassVar[dict[str, dict[str, Any]]] = {
        "image": ATARI
        | {
            "num_processes": 16,
            "num_steps": 40,
            "lr": 1e-4,
            "eps": 1e-3,
            "gamma": 0.997,
            "core": "lstm",
            "core_size": 512,
            "hidden_size": [512, 512],
            "burn_in": 40,
            "sequence_length": 80,
            "sequence_interval": 40,
            "n_step": 5,
            "batch_size": 64,
            "update_to_data": 1 / (64 * 80),
            "priority_alpha": 0.9,
            "priority_beta": 0.6,
            "max_grad_norm": 80.0,
        },
        "grid": GRID | SMALL | {"hidden_size": [128, 128], "batch_size": 32},
    }

    def __init__(self, spaces: EnvSpaces, config: R2D1Config, device: torch.device) -> None:
        self.steps_per_sample = config.sequence_length
        super().__init__(spaces, config, device)

    def loss(self, batch: Sequences) -> TDLoss:  # type: ignore[override]  # its replay is of sequences
        """See the module's docstring; slots in which nothing was done have no error."""
        config, columns = self.config, torch.arange(self.config.sequence_length, device=self.device)
        rows = torch.arange(batch.carry.shape[0], device=self.device)[:, None]
        learned = batch.actions[config.burn_in :][: config.sequence_length]
        fields = learned, batch.acted, batch.returns, batch.discounts, batch.ends - config.burn_in
        actions, acted, returns, discounts, ends = (field.transpose(0, 1) for field in fields)
        outputs = self.unroll(self.policy, batch)
        with torch.no_grad():
            next_outputs = self.unroll(self.target, batch)
            best = (outputs if config.double else next_outputs).argmax(-1)[rows, ends]
            next_values = next_outputs[rows, ends, best]
            if config.rescale_values:
                targets = rescale_value(returns + discounts * unscale_value(next_values))
            else:
                targets = returns + discounts * next_values
        values = outputs[rows, columns, actions]
        errors = (values - targets) * acted
        loss = (batch.weights * 0.5 * errors.square().mean(1)).mean()
        sizes, eta = errors.abs(), config.priority_eta
        priorities = eta * sizes.amax(1) + (1.0 - eta) * sizes.sum(1) / acted.sum(1).clamp(min=1)
        return TDLoss(loss, td_metrics(loss, priorities, values[acted]), priorities)

    def unroll(self, network: Any, batch: Sequences) -> Tensor:
        """Values `[B, L + n, A]` of all slots after the burn-in, which leaves no gradient."""
        burn_in = self.config.burn_in
        state, before = self._split(batch.carry)
        previous = torch.cat([before.unsqueeze(0), self._previous(batch.actions[:-1], batch.rewards[:-1])])
        early, late = slice(burn_in), slice(burn_in, None)

        def read(part: slice) -> tuple[Tensor, Tensor]:
            obs = tree_map(lambda leaf: leaf[part], batch.obs)
            return network.remember(obs, previous[part], state, batch.masks[part])

        if burn_in:
            with torch.no_grad():
                _, state = read(early)
        features, _ = read(late)
        return network.head(features).squeeze(-1).transpose(0, 1)

    def observe(self, carry: Tensor, step: Step) -> Tensor:
        """The carry with what was done and what it gave."""
        state, _ = self._split(carry)
        rewards = torch.as_tensor(step.reward, dtype=torch.float32, device=self.device)
        return torch.cat([state, self._previous(step.action, rewards)], -1)

    def _split(self, carry: Tensor) -> tuple[Tensor, Tensor]:
        """The core's state, and the previous action and reward."""
        return carry[:, : self.policy.state_size], carry[:, self.policy.state_size :]

    def _previous(self, actions: Tensor, rewards: Tensor) -> Tensor:
        """`[..., A + 1]`."""
        return torch.cat([functional.one_hot(actions, self.policy.num_actions), rewards.unsqueeze(-1)], -1)

    def make_storage(self, num_steps: int, num_envs: int) -> Any:
        """The replay of sequences."""
        config = self.config
        return SequenceReplay(
            config.buffer_size,
            num_envs,
            num_steps,
            self.spaces,
            carry_size=self.policy.carry_size,
            burn_in=config.burn_in,
            length=config.sequence_length,
            interval=config.sequence_interval,
            device=self.device,
            **config.replay_settings(),
        )
