"""What actor-critic learners share: a `Policy`, rollouts of its own actions, and the gradient of a loss on them."""

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from a2c_ppo_acktr import fast
from a2c_ppo_acktr.algo.base import Algorithm, AlgorithmConfig
from a2c_ppo_acktr.arrays import flatten_parameters, set_gradient
from a2c_ppo_acktr.flags import flag
from a2c_ppo_acktr.interfaces import AUXILIARY, Decision, EnvSpaces, Tree
from a2c_ppo_acktr.model.auxiliary import parse_heads
from a2c_ppo_acktr.model.bases import BASES, find_base
from a2c_ppo_acktr.model.encoders import BFLOAT16, convolve_in_bfloat16
from a2c_ppo_acktr.model.policy import Evaluation, Policy
from a2c_ppo_acktr.returns import RETURNS
from a2c_ppo_acktr.spaces import UnsupportedSpace
from a2c_ppo_acktr.storage.rollout import Batch, RolloutStorage
from a2c_ppo_acktr.utils import UsageError, linear_decay, reason

Loss = Callable[[Evaluation, Batch], tuple[Tensor, dict[str, Any]]]
"""A scalar with its graph, and metrics."""


@dataclasses.dataclass
class PolicyConfig(AlgorithmConfig):
    """Flags of every learner with a `Policy`; what is no flag here is one where a learner has a use for it."""

    nn_base: str | None = flag(
        None,
        f"network: {', '.join(BASES)}, or module:Class of your own (default: CNNBase for images, MLPBase otherwise)",
    )
    nn_base_kwargs: dict[str, Any] = flag(
        {}, "settings of the network, such as num_layers=3 'auxiliary_heads=[(-1,-1,0,2)]' (see bases.py, auxiliary.py)"
    )
    bfloat16: bool = flag(False, BFLOAT16)
    recurrent_policy: bool = False
    use_new_aux: bool = False
    remove_actor_grads_on_shared: bool = False


@dataclasses.dataclass
class ActorCriticConfig(PolicyConfig):
    """Flags of every actor-critic learner; names and defaults are upstream's."""

    lr: float = flag(7e-4, "learning rate", low=0, high=1e6)
    eps: float = flag(1e-5, "epsilon of the optimizer's denominator", low=0)
    alpha: float = flag(0.99, "smoothing constant of RMSprop", low=0, high=1)
    gamma: float = flag(0.99, "discount of rewards", low=0, high=1)
    use_gae: bool = flag(False, "the same as --returns gae")
    returns: str | None = flag(
        None,
        "what values learn and advantages are made from (default: n-step, or gae with --use-gae)",
        choices=RETURNS,
    )
    gae_lambda: float = flag(0.95, "lambda of generalized advantage estimation", low=0, high=1)
    entropy_coef: float = flag(0.01, "weight of the entropy bonus")
    value_loss_coef: float = flag(0.5, "weight of the value loss", low=0)
    max_grad_norm: float = flag(0.5, "bound of the global norm of gradients", low=0, high=math.inf)
    use_proper_time_limits: bool = flag(
        False, "bootstrap from the final observation where a time limit cut an episode; without it a limit is an end"
    )
    use_linear_lr_decay: bool = flag(False, "decay the learning rate to 0 over --num-env-steps")
    recurrent_policy: bool = flag(False, "give the policy a GRU")
    auxiliary_loss_coef: float = flag(0.3, "weight of the auxiliary heads' loss", low=0)
    use_new_aux: bool = flag(False, "auxiliary targets without a name describe the observation after the action")
    remove_actor_grads_on_shared: bool = flag(False, "shared layers learn nothing from the actor")

    def check(self, num_steps: int, num_processes: int) -> None:
        """See `AlgorithmConfig`."""
        if num_steps < 1:
            raise UsageError(f"--num-steps {num_steps}: an on-policy learner needs at least 1 step per update")
        if self.use_gae and self.return_kind != "gae":
            raise UsageError(f"--use-gae is --returns gae, so it does not go with --returns {self.returns}")
        find_base(self.nn_base, None)

    @property
    def return_kind(self) -> str:
        """One of `returns.RETURNS`."""
        return self.returns or ("gae" if self.use_gae else "n-step")

    def return_settings(self) -> dict[str, Any]:
        """What `RolloutStorage.compute_returns` wants to know."""
        return {
            "kind": self.return_kind,
            "gamma": self.gamma,
            "gae_lambda": self.gae_lambda,
            "use_proper_time_limits": self.use_proper_time_limits,
        }

    def without_effect(self) -> dict[str, str]:
        """See `AlgorithmConfig`."""
        reasons = {} if self.return_kind == "gae" else {"gae_lambda": "has no effect without --returns gae"}
        if not self.nn_base_kwargs.get("auxiliary_heads"):
            without = "has no effect without auxiliary_heads in --nn-base-kwargs"
            reasons |= dict.fromkeys(("auxiliary_loss_coef", "use_new_aux"), without)
        return reasons


def make_policy(spaces: EnvSpaces, config: PolicyConfig) -> Policy:
    """The policy that the flags describe.

    Raises:
        UsageError: names what the base, its heads or the environments do not know or fit.
    """
    kwargs = dict(config.nn_base_kwargs)
    offered: Any = spaces.signals.get(AUXILIARY)
    heads = parse_heads(kwargs.pop("auxiliary_heads", ()), dict(offered.spaces) if offered else {}, config.use_new_aux)
    if config.remove_actor_grads_on_shared:
        kwargs["remove_actor_grads_on_shared"] = True
    base_class = find_base(config.nn_base, spaces.observation)
    policy = Policy(
        spaces.observation,
        spaces.action,
        _make_base(base_class, spaces.observation, config, kwargs),
        heads=heads,
        base_name=config.nn_base,
    )
    return convolve_in_bfloat16(policy) if config.bfloat16 else policy


def _make_base(base_class: Any, space: Any, config: PolicyConfig, kwargs: dict[str, Any]) -> Any:
    """The network, or one line that says which flag it cannot be built by."""
    at_fault = f"--nn-base {config.nn_base}" if config.nn_base is not None else "--recurrent-policy"
    if config.nn_base_kwargs:
        at_fault = f"--nn-base-kwargs {config.nn_base_kwargs}: {base_class.__name__}"
    try:
        inspect.signature(base_class).bind(space, recurrent=config.recurrent_policy, **kwargs)
    except (TypeError, ValueError) as error:  # arguments that it does not take, or a class that does not say which
        raise UsageError(f"{at_fault}: {error}") from error
    try:
        return base_class(space, recurrent=config.recurrent_policy, **kwargs)
    except (UsageError, UnsupportedSpace):
        raise
    except (Exception, SystemExit) as error:  # whatever a network of the user's own raises, or memory that is not there
        raise UsageError(f"{at_fault}: its constructor: {reason(error)}") from error


class ActorCritic(Algorithm):
    """A learner on what its own policy did.

    A subclass has an `update` and a loss, a method from `Evaluation` and `Batch` to a scalar and metrics, which it
    differentiates by `gradient_of`. Arguments are those of `Algorithm`.
    """

    takes_gail: ClassVar[bool] = True
    watches_layers: ClassVar[bool] = False
    """Whether the optimizer has to see every layer called as a module."""
    config: ActorCriticConfig
    optimizer: torch.optim.Optimizer

    def __init__(self, spaces: EnvSpaces, config: ActorCriticConfig, device: torch.device) -> None:
        super().__init__(spaces, config, device)
        self.policy = make_policy(spaces, config).to(device)
        self.parameters: nn.Parameter = flatten_parameters(self.policy)
        self.act_on, self.value_of = self.policy.act, self.policy.get_value
        if config.fast and not self.watches_layers:
            fast.attach(self.policy)
        if config.fast:
            self.act_on, self.value_of = fast.accelerated(self.policy.act), fast.accelerated(self.policy.get_value)

    def act(self, obs: Tree, carry: Tensor, masks: Tensor, signals: dict[str, Tree], explore: bool) -> Decision:
        """See `Algorithm`; `explore` samples, else the most probable action is taken."""
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

    def initial_carry(self, num_envs: int) -> Tensor:
        """See `Algorithm`: the recurrent state."""
        return torch.zeros(num_envs, self.policy.carry_size, device=self.device)

    def schedule(self, env_steps: int, total: int) -> None:
        """See `Algorithm`: the learning rate."""
        if self.config.use_linear_lr_decay:
            for group in self.optimizer.param_groups:
                group["lr"] = linear_decay(self.config.lr, env_steps, total)

    def make_storage(self, num_steps: int, num_envs: int) -> RolloutStorage:
        """See `Algorithm`."""
        targets = self.policy.auxiliary.targets
        return RolloutStorage(num_steps, num_envs, self.spaces, self.policy.carry_size, self.device, targets)

    def prepare(self, storage: RolloutStorage) -> None:
        """Compute what the loss reads beside what was collected: returns and advantages."""
        storage.compute_returns(self.value_of, **self.config.return_settings())

    def evaluate(self, batch: Batch) -> Evaluation:
        """What the policy says of a batch now."""
        return self.policy.evaluate_actions(batch.obs, batch.carry, batch.masks, batch.signals, batch.actions)

    def gradient(self, loss: Loss, batch: Batch, part: str | None = None) -> dict[str, Any]:
        """Set the gradient of `loss` on a batch, clipped; returns metrics.

        Args:
            loss: a method of this learner.
            batch: what it is of.
            part: only what the loss says of the `policy`, with its entropy and the auxiliary heads, or of the `value`.
        """
        new = self.evaluate(batch)
        if part == "value":
            new = new._replace(log_prob=new.log_prob.detach(), entropy=new.entropy.detach())
        elif part == "policy":
            new = new._replace(value=new.value.detach())
        total, metrics = loss(new, batch)
        if part != "value":
            coef = self.config.auxiliary_loss_coef
            extra, more = self.policy.auxiliary.losses(new.predictions, batch.targets, coef)
            total, metrics = total if extra is None else total + extra, metrics | more
        grad_norm = set_gradient(self.parameters, total, self.config.max_grad_norm, self.policy.frozen)
        return {tag: value.detach() for tag, value in metrics.items()} | {"losses/grad_norm": grad_norm}

    def gradient_of(self, loss: Loss, part: str | None = None) -> Callable[[Batch], dict[str, Any]]:
        """`gradient` for one loss, or a part of it; or what is known to compute the same faster."""
        plain = functools.partial(self.gradient, loss, part=part)
        return fast.accelerated(plain, loss, part=part) if self.config.fast else plain
