"""What actor-critic learners from a replay share: K critics, an actor that climbs them, and how both are stepped.

    loss of the critics = mean of weight * sum over k of losses(Z_k(s, a), Z', R + discount * bonus, discount)

Z_k are the numbers by which critic k describes the return of an action, Z' what is known of the next one's, with what
the learner adds to it (`bonus`: SAC's entropy). R is the discounted reward of n steps, s' the observation after them,
discount gamma^n or 0 where s' is terminal: a time limit is no end. Actions lie within [-1, 1] in here, wherever the
environment's bounds are, and so do their densities.

With --prioritized, steps are sampled by their largest error. The loss then has to fit (Fujimoto et al. 2020):
`--priorities lap` is max(|error|, 1)^alpha and the Huber loss, without importance weights; per is Schaul et al. 2016's.
"""

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from a2c_ppo_acktr.algo.off_policy import OffPolicy, OffPolicyConfig
from a2c_ppo_acktr.algo.q_learning import TDLoss, TemporalDifference, td_metrics
from a2c_ppo_acktr.arrays import flatten_parameters, set_gradient
from a2c_ppo_acktr.flags import LONGEST, WIDEST, flag
from a2c_ppo_acktr.interfaces import Decision, EnvSpaces, Tree
from a2c_ppo_acktr.model.critics import Critics
from a2c_ppo_acktr.model.unit_actions import UnitActions
from a2c_ppo_acktr.optim.adam import Adam
from a2c_ppo_acktr.storage.replay import Transitions
from a2c_ppo_acktr.utils import UsageError, linear_decay


class Squared:
    """One number, the expected return; see `q_learning.TemporalDifference`.

    Args:
        huber: errors beyond 1 count linearly, and no step is sampled less often than one whose error is 1.
    """

    num_outputs = 1

    def __init__(self, huber: bool) -> None:
        self.huber = huber

    def values(self, outputs: Tensor) -> Tensor:
        """See `TemporalDifference`."""
        return outputs[..., 0]

    def losses(
        self, outputs: Tensor, next_outputs: Tensor, returns: Tensor, discounts: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Half the square of the error, or Huber's."""
        targets, values = returns + discounts * next_outputs[:, 0], outputs[:, 0]
        errors = (values - targets).abs()
        if self.huber:
            return functional.huber_loss(values, targets, reduction="none"), errors.clamp(min=1.0)
        return 0.5 * errors.square(), errors


@dataclass
class OffPolicyActorCriticConfig(OffPolicyConfig):
    """Flags of every actor-critic from a replay."""

    lr: float = flag(3e-4, "learning rate of Adam for the critics, and for all else by default", low=0, high=1e6)
    actor_lr: float | None = flag(None, "learning rate of the actor (default: --lr)", low=0, high=1e6)
    eps: float = flag(1e-8, "epsilon of Adam's denominator", low=0)
    batch_size: int = flag(256, "windows of steps per gradient step", low=1, high=LONGEST)
    buffer_size: int = flag(1_000_000, "observations in the replay, of all environments together", low=1)
    learning_starts: int = flag(
        10_000, "steps of random actions, and observations in the replay, before the first gradient step", low=1
    )
    update_to_data: float = flag(1.0, "gradient steps per environment step, of all environments together", low=0)
    target_update_interval: int = flag(1, "gradient steps between moves of the target networks", low=1)
    tau: float = flag(0.005, "how far the target networks move: 1 is all the way", low=0, high=1)
    priorities: str = flag(
        "lap", "what --prioritized samples by, and the loss that goes with it", choices=("lap", "per")
    )
    priority_alpha: float = flag(0.4, "exponent of priorities (per: 0.6 is usual)", low=0)
    hidden_size: list[int] = flag([256, 256], "widths of the layers of actor and critics", low=1, high=WIDEST)
    num_critics: int = flag(2, "critics", low=1, high=1_000)
    min_critics: int | None = flag(
        None, "critics, drawn anew, whose least value is the target (default: all of them)", low=1
    )
    policy_delay: int = flag(1, "gradient steps of the critics per step of the actor", low=1)
    critic_dropout: float = flag(0.0, "share of the critics' units that are left out in training", low=0, high=0.99)
    critic_layer_norm: bool = flag(False, "normalize the critics' layers")
    reset_interval: int = flag(0, "gradient steps after which all networks begin anew; 0 is never", low=0)
    max_grad_norm: float = flag(math.inf, "bound of the norm of gradients of actor and critics", low=0, high=math.inf)

    def check(self, num_steps: int, num_processes: int) -> None:
        """See `AlgorithmConfig`."""
        super().check(num_steps, num_processes)
        if self.min_critics is not None and self.min_critics > self.num_critics:
            raise UsageError(f"--min-critics {self.min_critics}: more than --num-critics {self.num_critics}")

    def without_effect(self) -> dict[str, str]:
        """See `AlgorithmConfig`."""
        reasons = super().without_effect()
        if not self.prioritized:
            reasons["priorities"] = "has no effect without --prioritized"
        elif self.priorities == "lap":
            reasons["priority_beta"] = "has no effect without --priorities per"
        return reasons

    def temporal_difference(self, device: torch.device) -> TemporalDifference:
        """What the critics' outputs mean."""
        return Squared(huber=self.prioritized and self.priorities == "lap")


class OffPolicyActorCritic(OffPolicy):
    """See the module's docstring; arguments as in `Algorithm`.

    A subclass says how its actor chooses, what it knows of the next action's value, and what the actor loses.
    """

    run_defaults: ClassVar[dict[str, Any]] = {
        "num_processes": 1,
        "num_steps": 1,
        "normalize_env": False,
        "eval_interval": 5_000,
    }
    config: OffPolicyActorCriticConfig

    def __init__(self, spaces: EnvSpaces, config: OffPolicyActorCriticConfig, device: torch.device) -> None:
        super().__init__(spaces, config, device)
        self.actions = self.actions_of(spaces)
        self.discrete = self.actions.num_choices > 0
        self.td = config.temporal_difference(device)
        self.critics = self.make_critics().to(device)
        self.actor: Any = self.make_actor(self.critics.encoder.output_size).to(device)
        self.critic_parameters, self.actor_parameters = map(flatten_parameters, (self.critics, self.actor))
        self.target = self.make_target()
        actor_lr = config.lr if config.actor_lr is None else config.actor_lr
        self.optimizer = Adam(self.critic_parameters, lr=config.lr, eps=config.eps)
        self.actor_optimizer = Adam(self.actor_parameters, lr=actor_lr, eps=config.eps)
        self.rates = {self.optimizer: config.lr, self.actor_optimizer: actor_lr}
        self.actor_metrics: dict[str, Any] = {}

    def actions_of(self, spaces: EnvSpaces) -> UnitActions:
        """Its actions; a deterministic actor's are a Box's."""
        return UnitActions(spaces, self.device).continuous(type(self).__name__)

    def make_critics(self, **settings: Any) -> Critics:
        """The critics, with further settings of `EnsembleMLP`."""
        config, actions = self.config, self.actions
        return Critics(
            self.spaces.observation,
            actions.size,
            num=config.num_critics,
            num_outputs=actions.num_choices or self.td.num_outputs,
            hidden_size=config.hidden_size,
            dropout=config.critic_dropout,
            layer_norm=config.critic_layer_norm,
            **settings,
        )

    def make_target(self) -> Critics:
        """What values the next action."""
        return self.follow(self.critics, self.critic_parameters)

    @abstractmethod
    def make_actor(self, num_features: int) -> nn.Module:
        """From features `[B, F]`, those of the critics' encoder."""

    @abstractmethod
    def choose(self, features: Tensor, explore: bool) -> Tensor:
        """Actions `[N, A]` within [-1, 1], or `[N]`; `explore` as in training."""

    @abstractmethod
    def next_outputs(self, batch: Transitions) -> tuple[Tensor, Tensor | float]:
        """What is known of the next action: outputs `[B, M]`, and `[B]` what is added to its value."""

    @abstractmethod
    def policy_loss(self, features: Tensor) -> tuple[Tensor, dict[str, Any]]:
        """A scalar with its graph and metrics, of features `[B, F]` without one."""

    def loss(self, batch: Transitions) -> TDLoss:
        """Of the critics: see the module's docstring."""
        outputs, next_outputs, bonus = self.judge(batch)
        num, returns = len(outputs), batch.returns + batch.discounts * bonus
        losses, errors = self.td.losses(
            outputs.flatten(0, 1), next_outputs.repeat(num, 1), returns.repeat(num), batch.discounts.repeat(num)
        )
        loss = (batch.weights * losses.unflatten(0, (num, -1)).sum(0)).mean()
        priorities = errors.unflatten(0, (num, -1)).amax(0)
        return TDLoss(loss, td_metrics(loss, priorities, self.td.values(outputs)), priorities)

    def judge(self, batch: Transitions) -> tuple[Tensor, Tensor, Tensor | float]:
        """Outputs `[K, B, M]` of what was done with their graph, and what is known of the next action."""
        with torch.no_grad():
            next_outputs, bonus = self.next_outputs(batch)
        return self.outputs_of(self.critics.encode(batch.obs), batch.actions), next_outputs, bonus

    def outputs_of(self, features: Tensor, actions: Tensor) -> Tensor:
        """`[K, B, M]` of actions as they are in here."""
        if not self.discrete:
            return self.critics(features, actions)
        return self.critics(features).gather(-1, actions.expand(self.critics.num, -1).unsqueeze(-1))

    def pool(self, outputs: Tensor) -> Tensor:
        """What K critics know of the next action, `[B, M]` of `[K, B, M]`: the least, of all or of some that are drawn.

        Fujimoto et al. 2018; Chen et al. 2021.
        """
        some = self.config.min_critics
        if some is not None and some < len(outputs):
            outputs = outputs[torch.randperm(len(outputs), device=outputs.device)[:some]]
        return outputs.amin(0)

    def learn(self, batch: Transitions) -> tuple[dict[str, Any], Tensor]:
        """See `OffPolicy`: a step of the critics, and every so often one of the actor."""
        batch = batch._replace(actions=self.actions.within_unit(batch.actions))
        found = self.loss(batch)
        grad_norm = set_gradient(self.critic_parameters, found.loss, self.config.max_grad_norm)
        self.optimizer.step()
        if (self.gradient_steps + 1) % self.config.policy_delay == 0:
            with torch.no_grad():
                features = self.critics.encode(batch.obs)
            self.actor_metrics = self.improve(features)
        metrics = {tag: value.detach() for tag, value in found.metrics.items()}
        return metrics | {"losses/grad_norm": grad_norm} | self.actor_metrics, found.priorities.detach()

    def improve(self, features: Tensor) -> dict[str, Any]:
        """A step of the actor."""
        loss, metrics = self.policy_loss(features)
        set_gradient(self.actor_parameters, loss, self.config.max_grad_norm, inputs=self.moved_by_policy_loss())
        self.actor_optimizer.step()
        return {tag: value.detach() for tag, value in metrics.items()}

    def moved_by_policy_loss(self) -> list[nn.Parameter]:
        """What it is differentiated by."""
        return list(self.actor.parameters())

    def gradient_step(self, storage: Any) -> dict[str, Any]:
        """See `OffPolicy`."""
        metrics = super().gradient_step(storage)
        if self.config.reset_interval and self.gradient_steps % self.config.reset_interval == 0:
            self.begin_anew()
        return metrics

    def begin_anew(self) -> None:
        """Forget all but the replay (Nikishin et al. 2022)."""
        fresh = type(self)(self.spaces, self.config, self.device).state_dict()
        self.load_state_dict(fresh | {name: getattr(self, name) for name in self.counters})

    def schedule(self, env_steps: int, total: int) -> None:
        """See `OffPolicy`."""
        super().schedule(env_steps, total)
        if self.config.priorities == "lap":
            self.beta = 0.0
        for optimizer, rate in self.rates.items():
            rate = linear_decay(rate, env_steps, total) if self.config.use_linear_lr_decay else rate
            for group in optimizer.param_groups:
                group["lr"] = rate

    @torch.no_grad()
    def act(self, obs: Tree, carry: Tensor, masks: Tensor, signals: dict[str, Tree], explore: bool) -> Decision:
        """See `Algorithm`; the first steps of a training are random."""
        if explore and self.env_steps < self.config.learning_starts:
            actions = self.actions.random(len(masks))
        else:
            actions = self.choose(self.critics.encode(obs), explore)
        return Decision(self.actions.stretched(actions), carry, {})

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
        """See `Algorithm.inspect`; `values` are the least critic's, `q_values: [N, K]` those of each."""
        features = self.critics.encode(obs)
        action = override(self.actions.stretched(self.choose(features, explore)))
        taken = self.actions.within_unit(action)
        outputs = self.outputs_of(features, taken)
        q_values = self.td.values(outputs).T
        layers = self.actor.layers(features)
        probs, log_probs = self.actor.describe(features, taken)
        found = {
            "values": q_values.amin(1),
            "q_values": q_values,
            "action_log_probs": log_probs,
            "action_probs": probs,
            "actor_features": layers[-1],
            "activations": {f"actor_{depth}": x for depth, x in enumerate(layers, 1)},
            "auxiliary_preds": {},
        }
        return Decision(action, carry, found)
