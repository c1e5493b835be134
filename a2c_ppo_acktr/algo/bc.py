"""Behavioral cloning: the policy of maximum likelihood (Pomerleau 1991).

    loss = -mean log pi(a | s) over the demonstrated steps

One update is one epoch: every step once, in random order, in equal minibatches of `--batch-size` at most. A share of
the demonstrations is held out, whole episodes where there are enough of them, since neighboring steps are almost the
same; learning ends when the loss on them has not fallen for `--patience` epochs, and the parameters with which it was
lowest are the result. No step is taken in the environment.

Observations are normalized by the mean and deviation of those that are learned from, which stand still from then on.
Continuous actions are cloned as the environments take them: within their bounds, but for MuJoCo and
`--no-clip-actions`.

Deviations from the paper:
1. Adam on minibatches, with gradients clipped by global norm, instead of plain gradient descent with momentum.
2. The network gives a distribution, whose deviation is learned by likelihood too, instead of the squared error of a
   smoothed target; evaluations take its mode.

Metrics, of an epoch:
    losses/bc_loss             the loss, over the minibatches as they were learned
    losses/validation_loss     the loss on what is held out, after the update
    losses/accuracy            share of steps where the most probable action is the expert's (discrete actions), or
    losses/mean_squared_error  of the policy's mean (continuous ones); on what is held out, else on all
    losses/entropy, losses/grad_norm    means over minibatches, the norm before clipping
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium.spaces import Box, Space
from torch import Tensor, nn

from a2c_ppo_acktr import fast
from a2c_ppo_acktr.algo.actor_critic import PolicyConfig, make_policy
from a2c_ppo_acktr.algo.base import Algorithm
from a2c_ppo_acktr.arrays import flatten_parameters, set_gradient
from a2c_ppo_acktr.experts.demonstrations import Demonstrations, ImitationConfig
from a2c_ppo_acktr.flags import LONGEST, flag
from a2c_ppo_acktr.interfaces import Decision, EnvSpaces, LazyMetric, Tree
from a2c_ppo_acktr.model.bases import find_base
from a2c_ppo_acktr.normalization import Normalizer
from a2c_ppo_acktr.optim.adam import Adam
from a2c_ppo_acktr.spaces import space_map, to_tensor, torch_dtype, tree_map
from a2c_ppo_acktr.storage.rollout import RolloutStorage
from a2c_ppo_acktr.utils import UsageError

Loss = Callable[[Tensor], tuple[Tensor, dict[str, Tensor]]]
"""Of steps `[B]` int64: a scalar with its graph, and metrics by the last part of their tags."""
FIT_STATE = ("epochs", "waited", "finished", "best", "best_parameters", "last_parameters")
TOLERANCE = 1e-4
"""Nats by which a loss must fall to count as better."""
EVALUATION_BATCH = 512
"""Steps at a time where nothing is learned."""


@dataclass
class BCConfig(PolicyConfig, ImitationConfig):
    """Flags of behavioral cloning."""

    lr: float = flag(1e-3, "learning rate of Adam", low=0, high=1e6)
    eps: float = flag(1e-8, "epsilon of Adam's denominator", low=0)
    batch_size: int = flag(64, "steps per gradient step, at most", low=1, high=LONGEST)
    epochs: int = flag(200, "passes through the demonstrations, at most", low=1)
    validation: float = flag(0.1, "share of the demonstrations that is held out; 0 holds out none", low=0, high=0.9)
    patience: int = flag(10, "epochs without a better loss on what is held out, after which learning ends", low=1)
    max_grad_norm: float = flag(1.0, "bound of the global norm of gradients", low=0, high=math.inf)

    def check(self, num_steps: int, num_processes: int) -> None:
        """Raise `UsageError` where the settings cannot work together."""
        if num_steps != 0:
            raise UsageError(f"--num-steps {num_steps}: bc learns from demonstrations alone, expected 0")
        self.check_network()

    def check_network(self) -> None:
        """Raise `UsageError` for networks that demonstrations cannot train."""
        if self.nn_base_kwargs.get("auxiliary_heads"):
            raise UsageError("--nn-base-kwargs auxiliary_heads: demonstrations have no targets for them")
        find_base(self.nn_base, None)

    def without_effect(self) -> dict[str, str]:
        """Fields that the other settings switch off, with the reason."""
        reasons = {} if self.validation > 0 else {"patience": "has no effect with --validation 0"}
        if self.demonstrations is not None:
            reasons["gail_experts_dir"] = "has no effect with --demonstrations"
        return reasons


class Fit:
    """Maximum likelihood of actions, epoch by epoch, until the loss on what is held out has stopped falling.

    Args:
        parameters: of the network, flat.
        optimizer: moves them.
        config: the other settings.
        loss: the negative log-likelihood, whose metrics are `entropy`.
        gradient: sets the gradient of that loss, clipped; metrics are `loss`, `entropy` and `grad_norm`.
    """

    def __init__(
        self,
        parameters: nn.Parameter,
        optimizer: torch.optim.Optimizer,
        config: "BCConfig",
        loss: Loss,
        gradient: Callable[[Tensor], dict[str, Any]],
    ) -> None:
        self.parameters, self.optimizer, self.config = parameters, optimizer, config
        self.loss, self.gradient = loss, gradient
        self.begin()

    def begin(self) -> None:
        """Go on from the present parameters, for as many epochs as the first time."""
        self.epochs, self.waited, self.finished, self.best = 0, 0, False, math.inf
        self.best_parameters = self.last_parameters = torch.zeros(0)

    def epoch(self, training: Tensor, held_out: Tensor) -> dict[str, Any]:
        """Learn from every step once; `finished` says whether that was the last time.

        Args:
            training: `[S]` int64, the steps to learn from.
            held_out: `[V]` int64, the steps that say when to stop; without them it is after `--epochs`.

        Returns: metrics, by the last part of their tags.
        """
        config, sums = self.config, dict.fromkeys(("loss", "entropy", "grad_norm"), 0.0)
        for rows in torch.randperm(len(training)).tensor_split(math.ceil(len(training) / config.batch_size)):
            found = self.gradient(training[rows])
            self.optimizer.step()
            sums = {name: total + float(found[name]) * len(rows) for name, total in sums.items()}
        metrics: dict[str, Any] = {name: total / len(training) for name, total in sums.items()}
        self.epochs += 1
        if len(held_out) > 0:
            metrics["validation_loss"] = self.compare(held_out)
        self.finished = self.epochs >= config.epochs or self.waited >= config.patience
        if self.finished and len(self.best_parameters) > 0:
            self.last_parameters = self.parameters.detach().clone()
            self.parameters.data.copy_(self.best_parameters)
            metrics["validation_loss"] = self.best
        return metrics

    def fit(self, training: Tensor, held_out: Tensor) -> dict[str, Any]:
        """Epochs until it has finished; the metrics of the last one.

        What it began with counts among the best: else a network that has long been fitted would take the first epoch's
        parameters in every call, and be fitted to its steps more and more.
        """
        self.begin()
        if len(held_out) > 0:
            self.compare(held_out)
        while not self.finished:
            metrics = self.epoch(training, held_out)
        return metrics

    def compare(self, held_out: Tensor) -> float:
        """The loss on what is held out; where it is the lowest so far, the present parameters are the best."""
        loss = mean(lambda rows: self.loss(rows)[0] * len(rows), held_out)
        self.waited += 1
        if loss < self.best - TOLERANCE:
            self.best, self.best_parameters, self.waited = loss, self.parameters.detach().clone(), 0
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Where it stands, but for network and optimizer."""
        return {name: getattr(self, name) for name in FIT_STATE}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`; with more epochs or patience than it had, it goes on from its last epoch."""
        for name, value in state.items():
            setattr(self, name, value.to(self.parameters.device) if isinstance(value, Tensor) else value)
        over = self.epochs >= self.config.epochs or self.waited >= self.config.patience
        if self.finished and not over and len(self.last_parameters) > 0:
            self.parameters.data.copy_(self.last_parameters)
        self.finished = over


class BC(Algorithm):
    """See the module's docstring; arguments as in `Algorithm`.

    Raises:
        UsageError: the network has a recurrent state.
    """

    Config: ClassVar[type] = BCConfig
    run_defaults: ClassVar[dict[str, Any]] = {"num_steps": 0, "num_processes": 1, "eval_interval": 10}
    transient = ("normalizer",)
    config: BCConfig
    actions: Tensor
    """[S, ...] what is cloned in each demonstrated step."""

    def __init__(self, spaces: EnvSpaces, config: BCConfig, device: torch.device) -> None:
        super().__init__(spaces, config, device)
        self.policy = make_policy(spaces, config).to(device)
        if self.policy.carry_size > 0:
            raise UsageError(f"--nn-base {config.nn_base}: has a recurrent state, and steps are cloned one by one")
        self.parameters = flatten_parameters(self.policy)
        self.optimizer = Adam(self.parameters, lr=config.lr, eps=config.eps)
        self.act_on, gradient = self.policy.act, self.gradient
        if config.fast:
            fast.attach(self.policy)
            self.act_on, gradient = fast.accelerated(self.policy.act), fast.accelerated(self.gradient, self.loss)
        self.fit = Fit(self.parameters, self.optimizer, config, self.loss, gradient)
        self.types = space_map(torch_dtype, spaces.observation)

    def loss(self, rows: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """See the module's docstring, over demonstrated steps `[B]`."""
        obs, carry, masks, signals = self.inputs(rows)
        new = self.policy.evaluate_actions(obs, carry, masks, signals, self.actions[rows.to(self.device)])
        assert new.log_prob.shape == rows.shape
        return -new.log_prob.mean(), {"entropy": new.entropy.mean()}

    def gradient(self, rows: Tensor) -> dict[str, Any]:
        """Set the gradient of the loss on demonstrated steps `[B]`, clipped; returns metrics."""
        loss, metrics = self.loss(rows)
        grad_norm = set_gradient(self.parameters, loss, self.config.max_grad_norm, self.policy.frozen)
        return {"loss": loss.detach(), "entropy": metrics["entropy"].detach(), "grad_norm": grad_norm}

    def imitate(self, demonstrations: Demonstrations, normalizer: Normalizer | None) -> None:
        """See `Algorithm`; the normalizer's statistics become those of the demonstrations."""
        self.read_observations(demonstrations, normalizer)
        actions = to_tensor(demonstrations.actions, self.device)
        self.actions = within_bounds(actions, self.spaces.action) if self.spaces.clip_actions else actions

    def read_observations(self, demonstrations: Demonstrations, normalizer: Normalizer | None) -> None:
        """The part of `imitate` that needs no actions."""
        self.demonstrations, self.normalizer = demonstrations, normalizer
        out = hold_out(demonstrations.episodes, self.config.validation, demonstrations.seed)
        self.training, self.held_out = (torch.from_numpy(np.flatnonzero(chosen)) for chosen in (~out, out))
        if normalizer is not None:
            normalizer.learn_from(demonstrations.select(~out).obs)
            normalizer.training = False

    def seen(self, obs: Tree) -> Tree:
        """Observations `[B, ...]` of the demonstrations as the policy sees the environments'."""
        obs = to_tensor(obs if self.normalizer is None else self.normalizer.normalize_obs(obs))
        return tree_map(lambda leaf, dtype: leaf.to(self.device, dtype), obs, self.types)

    def inputs(self, rows: Tensor) -> tuple[Any, ...]:
        """What the policy reads in demonstrated steps `[B]`: observation, carry, masks and signals."""
        obs = self.seen(self.demonstrations.select(rows.numpy()).obs)
        return obs, self.initial_carry(len(rows)), torch.ones(len(rows), device=self.device), {}

    def errors(self, rows: Tensor) -> Tensor:
        """How the policy's best actions differ from those of demonstrated steps `[B]` (see `imitation_error`)."""
        mode = self.act_on(*self.inputs(rows), deterministic=True)[1]
        return imitation_error(self.spaces.action)[1](mode, self.actions[rows.to(self.device)])

    def act(self, obs: Tree, carry: Tensor, masks: Tensor, signals: dict[str, Tree], explore: bool) -> Decision:
        """See `Algorithm`."""
        value, action, log_prob, carry = self.act_on(obs, carry, masks, signals, deterministic=not explore)
        return Decision(action, carry, {"value": value, "log_prob": log_prob})

    def inspect(
        self,
        obs: Tree,
        carry: Tensor,
        masks: Tensor,
        signals: dict[str, Tree],
        explore: bool,
        override: Callable[[Tensor], Tensor],
    ) -> Decision:
        """See `Algorithm`."""
        return Decision(*self.policy.inspect(obs, carry, masks, signals, deterministic=not explore, override=override))

    def make_storage(self, num_steps: int, num_envs: int) -> RolloutStorage:
        """See `Algorithm`; nothing comes into it."""
        return RolloutStorage(num_steps, num_envs, self.spaces, 0, self.device)

    def update(self, storage: Any) -> dict[str, Any]:
        """One epoch."""
        metrics = self.fit.epoch(self.training, self.held_out)
        self.finished = self.fit.finished
        return self.describe(metrics)

    def describe(self, metrics: dict[str, Any]) -> dict[str, Any]:
        """Metrics of the policy's epoch under their tags."""
        rows = self.held_out if len(self.held_out) > 0 else self.training
        return {
            "losses/bc_loss": metrics.pop("loss"),
            **{f"losses/{name}": value for name, value in metrics.items()},
            f"losses/{imitation_error(self.spaces.action)[0]}": LazyMetric(lambda: mean(self.errors, rows)),
            "charts/learning_rate": self.optimizer.param_groups[0]["lr"],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Algorithm`."""
        super().load_state_dict(state)
        self.finished = self.fit.finished


def hold_out(episodes: np.ndarray, share: float, seed: int = 0) -> np.ndarray:
    """Which steps are held out, `[S]` bool: whole episodes, or single steps where the share is of less than one.

    Never more than the share, and never all; the same at every call with one seed, so that a resumed run holds out
    what it held out before.

    Args:
        episodes: `[S]` the episode of each step.
        share: of the episodes, or of the steps.
        seed: of the choice.
    """
    generator, names = np.random.default_rng(seed), np.unique(episodes)
    num = int(share * len(names) + 1e-9)  # .29 of 100 is 29, whatever floats make of it
    if 1 <= num < len(names):
        return np.isin(episodes, generator.permutation(names)[:num])
    num = min(int(share * len(episodes) + 1e-9), len(episodes) - 1)
    return np.isin(np.arange(len(episodes)), generator.permutation(len(episodes))[:num])


def within_bounds(actions: Tensor, space: Space) -> Tensor:
    """Continuous `actions: [B, ...]` moved into a space's bounds; others as they are."""
    if not isinstance(space, Box):
        return actions
    return actions.clamp(*(torch.as_tensor(bound, device=actions.device) for bound in (space.low, space.high)))


@torch.no_grad()
def mean(function: Callable[[Tensor], Any], rows: Tensor) -> float:
    """Mean over rows `[R]` of what `function` gives for B of them, `[B]`; without gradient."""
    return sum(float(function(some).sum()) for some in rows.split(EVALUATION_BATCH)) / len(rows)


def imitation_error(space: Space) -> tuple[str, Callable[[Tensor, Tensor], Tensor]]:
    """How actions `[B, ...]` of a network are compared with others: the measure's name and itself, `[B]`."""
    if isinstance(space, Box):
        return "mean_squared_error", lambda own, wanted: (own - wanted).square().mean(1)
    return "accuracy", lambda own, wanted: (own == wanted).reshape(len(own), -1).all(1).float()
