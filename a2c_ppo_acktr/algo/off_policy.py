"""What learners from a replay share: its flags, the clock of gradient steps, target networks, metrics of the replay."""

import copy
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from a2c_ppo_acktr.algo.base import Algorithm, AlgorithmConfig
from a2c_ppo_acktr.arrays import flatten_parameters
from a2c_ppo_acktr.flags import LONGEST, flag
from a2c_ppo_acktr.interfaces import EnvSpaces
from a2c_ppo_acktr.storage.replay import Replay
from a2c_ppo_acktr.utils import UsageError, linear_decay

Network = TypeVar("Network", bound=nn.Module)


@dataclass
class OffPolicyConfig(AlgorithmConfig):
    """Flags of every learner from a replay."""

    lr: float = flag(1e-3, "learning rate of Adam", low=0, high=1e6)
    use_linear_lr_decay: bool = flag(False, "decay the learning rate to 0 over --num-env-steps")
    gamma: float = flag(0.99, "discount of rewards", low=0, high=1)
    batch_size: int = flag(64, "windows of steps per gradient step", low=1, high=LONGEST)
    buffer_size: int = flag(100_000, "observations in the replay, of all environments together", low=1)
    learning_starts: int = flag(1_000, "observations in the replay before the first gradient step", low=1)
    update_to_data: float = flag(0.5, "gradient steps per environment step", low=0)
    target_update_interval: int = flag(128, "gradient steps between copies to the target network", low=1)
    tau: float = flag(1.0, "how far a copy moves the target network: 1 is all the way", low=0, high=1)
    n_step: int = flag(1, "steps before the value of the next observation is used", low=1, high=100_000)
    prioritized: bool = flag(False, "sample in proportion to the last error")
    priority_alpha: float = flag(0.6, "exponent of priorities", low=0)
    priority_beta: float = flag(0.4, "exponent of importance weights at the start; 1 in the end", low=0, high=1)
    save_replay: bool = flag(False, "save the replay beside checkpoints, so that a resumed run goes on unchanged")

    def check(self, num_steps: int, num_processes: int) -> None:
        """See `AlgorithmConfig`."""
        if num_steps < 1:
            raise UsageError(f"--num-steps {num_steps}: at least 1 step is collected between updates")
        if self.learning_starts > self.buffer_size:
            raise UsageError(f"--learning-starts {self.learning_starts}: more than --buffer-size {self.buffer_size}")

    def without_effect(self) -> dict[str, str]:
        """See `AlgorithmConfig`."""
        names = ("priority_alpha", "priority_beta")
        return {} if self.prioritized else dict.fromkeys(names, "has no effect without --prioritized")

    def replay_settings(self) -> dict[str, Any]:
        """What every kind of replay wants to know."""
        return {
            "n_step": self.n_step,
            "gamma": self.gamma,
            "alpha": self.priority_alpha if self.prioritized else 0.0,
            "saved": self.save_replay,
        }


class OffPolicy(Algorithm):
    """A learner from the replay of what was done.

    A subclass acts, and has a gradient step on one batch, `learn`. Arguments are those of `Algorithm`.
    """

    config: OffPolicyConfig
    optimizer: torch.optim.Optimizer
    counters: ClassVar[tuple[str, ...]] = ("beta", "gradient_steps", "unlearned_steps")
    steps_per_sample = 1
    """Environment steps that are learned from per item of a batch."""

    def __init__(self, spaces: EnvSpaces, config: OffPolicyConfig, device: torch.device) -> None:
        super().__init__(spaces, config, device)
        self.beta = config.priority_beta
        self.env_steps, self.gradient_steps, self.unlearned_steps = 0, 0, 0.0
        self.last: dict[str, Any] = {}
        self.followers: list[tuple[Tensor, Tensor]] = []

    @abstractmethod
    def learn(self, batch: Any) -> tuple[dict[str, Any], Tensor | None]:
        """One gradient step on a batch of the replay.

        Returns:
            Metrics, and `[B]` what the batch is sampled by from now on, where it is sampled by that.
        """

    def follow(self, network: Network, parameters: nn.Parameter) -> Network:
        """A target network: a copy that follows `network`, whose flat `parameters` are given."""
        target = copy.deepcopy(network)
        self.followers.append((flatten_parameters(target).data, parameters.data))
        return target

    def schedule(self, env_steps: int, total: int) -> None:
        """See `Algorithm`: the learning rate, and the exponent of importance weights."""
        self.env_steps = env_steps
        if self.config.use_linear_lr_decay:
            for group in self.optimizer.param_groups:
                group["lr"] = linear_decay(self.config.lr, env_steps, total)
        self.beta = 1.0 - linear_decay(1.0 - self.config.priority_beta, env_steps, total)

    def make_storage(self, num_steps: int, num_envs: int) -> Any:
        """See `Algorithm`: the replay."""
        settings = self.config.replay_settings()
        return Replay(self.config.buffer_size, num_envs, num_steps, self.spaces, device=self.device, **settings)

    def update(self, storage: Any) -> dict[str, Any]:
        """As many gradient steps as the new environment steps are worth."""
        config = self.config
        if len(storage) > 0 and (storage.observations >= config.learning_starts or storage.fill == 1.0):
            self.unlearned_steps += storage.new_steps
            steps = int(self.unlearned_steps * config.update_to_data)
            self.unlearned_steps -= steps / config.update_to_data if steps else 0
            for _ in range(steps):
                self.last = self.gradient_step(storage)
        samples = self.gradient_steps * config.batch_size * self.steps_per_sample
        env_steps = self.env_steps + storage.new_steps
        priorities = {"charts/priority_max": storage.max_priority} if config.prioritized else {}
        return (
            self.last
            | priorities
            | {
                "charts/replay_fill": storage.fill,
                "charts/learning_rate": self.optimizer.param_groups[0]["lr"],
                "charts/gradient_steps": self.gradient_steps,
                "charts/replay_ratio": samples / env_steps,
            }
        )

    def gradient_step(self, storage: Any) -> dict[str, Any]:
        """Sample, learn, and let the target networks follow; returns metrics."""
        config = self.config
        batch = storage.sample(config.batch_size, self.beta)
        metrics, priorities = self.learn(batch)
        if config.prioritized:
            assert priorities is not None
            storage.update_priorities(batch.rows, priorities.cpu().numpy())
        self.gradient_steps += 1
        if self.gradient_steps % config.target_update_interval == 0:
            for target, followed in self.followers:
                target.lerp_(followed, config.tau)
        return metrics
