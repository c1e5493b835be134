"""What every algorithm is: tensors in, tensors out; and what the actor-critic ones share."""

import dataclasses
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, SupportsFloat

import torch
from torch import Tensor, nn

from a2c_ppo_acktr.acting.collect import Collector
from a2c_ppo_acktr.experts.demonstrations import Demonstrations
from a2c_ppo_acktr.fast.graphs import recorded
from a2c_ppo_acktr.flags import flag
from a2c_ppo_acktr.interfaces import AUXILIARY, Decision, Environments, EnvSpaces, Step, Tree
from a2c_ppo_acktr.model import Policy
from a2c_ppo_acktr.model.auxiliary import parse_heads
from a2c_ppo_acktr.model.bases import BASES, find_base
from a2c_ppo_acktr.model.encoders import convolve_in_bfloat16
from a2c_ppo_acktr.normalization import Normalizer
from a2c_ppo_acktr.optim.adam import Adam
from a2c_ppo_acktr.returns import RETURNS
from a2c_ppo_acktr.storage import RolloutStorage
from a2c_ppo_acktr.utils import UsageError, linear_decay

BFLOAT16 = "compute the convolutions of images in bfloat16: faster, with 3 digits instead of 7"


@dataclasses.dataclass
class PolicyConfig:
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

    lr: float = flag(7e-4, "learning rate", low=0)
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
    max_grad_norm: float = flag(0.5, "bound of the global norm of gradients", low=0)
    use_proper_time_limits: bool = flag(
        False, "bootstrap from the final observation where a time limit cut an episode; without it a limit is an end"
    )
    use_linear_lr_decay: bool = flag(False, "decay the learning rate to 0 over --num-env-steps")
    recurrent_policy: bool = flag(False, "give the policy a GRU")
    auxiliary_loss_coef: float = flag(0.3, "weight of the auxiliary heads' loss", low=0)
    use_new_aux: bool = flag(False, "auxiliary targets without a name describe the observation after the action")
    remove_actor_grads_on_shared: bool = flag(False, "shared layers learn nothing from the actor")

    def check(self, num_steps: int, num_processes: int) -> None:
        """Raise `UsageError` where the settings cannot work together with the size of a rollout."""
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
        """Fields that the other settings switch off, with the reason."""
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
    try:
        inspect.signature(base_class).bind(spaces.observation, recurrent=config.recurrent_policy, **kwargs)
    except TypeError as error:
        raise UsageError(f"--nn-base-kwargs {config.nn_base_kwargs}: {base_class.__name__}: {error}") from error
    policy = Policy(
        spaces.observation,
        spaces.action,
        base_class(spaces.observation, recurrent=config.recurrent_policy, **kwargs),
        heads=heads,
        base_name=config.nn_base,
    )
    return convolve_in_bfloat16(policy) if config.bfloat16 else policy


def make_optimizer(name: str, flat: nn.Parameter, *, lr: float, eps: float, alpha: float) -> torch.optim.Optimizer:
    """`adam` or `rmsprop` over flat parameters (see `arrays.flatten_parameters`)."""
    if name == "adam":
        return Adam(flat, lr=lr, eps=eps)
    return torch.optim.RMSprop([flat], lr=lr, eps=eps, alpha=alpha, foreach=False)


class Algorithm(ABC):
    """A learner. It sees spaces, a config and tensors; never environments, arguments, logs or files.

    The defaults here are those of an actor-critic with a `Policy` and one optimizer.

    Args:
        spaces: of the environments.
        config: an instance of the class's own `Config`.
        device: where networks and storage live.
    """

    Config: ClassVar[type]
    """Dataclass of the algorithm's hyper-parameters: the only place where they are named and explained."""
    run_defaults: ClassVar[dict[str, Any]] = {}
    """Defaults of run flags (num_steps, num_processes, ...) that differ from upstream's."""
    defaults_by_kind: ClassVar[dict[str, dict[str, Any]]] = {}
    """Defaults of any flags that depend on observations: by `spaces.kind_of`."""
    reads_rewards: ClassVar[bool] = False
    """Whether the carry holds rewards, which must then be the same in training and evaluation: not normalized."""

    policy: Any
    optimizer: torch.optim.Optimizer

    def __init__(self, spaces: EnvSpaces, config: Any, device: torch.device) -> None:
        self.spaces, self.config, self.device = spaces, config, device
        self.finished = False

    def study(self, demonstrations: Demonstrations, normalizer: Normalizer | None) -> None:
        """Take in what to imitate, before learning; for those whose flags are an `ImitationConfig`.

        Args:
            demonstrations: fit the spaces, with observations before normalization.
            normalizer: of the run's observations, or None.
        """
        raise TypeError(f"{type(self).__name__} learns from rewards alone")

    def recorded(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function` as of `graphs.recorded`, or as it is where the policy is not recordable."""
        return recorded(function, self.device) if self.policy.recordable else function

    @abstractmethod
    def update(self, storage: Any) -> Mapping[str, SupportsFloat]:
        """Learn from what was collected; returns metrics under their TensorBoard tags."""

    def prepare(self, storage: RolloutStorage) -> None:
        """Compute what the loss reads beside what was collected: returns and advantages."""
        storage.compute_returns(self.policy.get_value, **self.config.return_settings())

    def initial_carry(self, num_envs: int) -> Tensor:
        """The carry of environments that begin: `[N, H]` zeros."""
        return torch.zeros(num_envs, self.policy.carry_size, device=self.device)

    def act(self, obs: Tree, carry: Tensor, masks: Tensor, signals: dict[str, Tree], explore: bool) -> Decision:
        """Choose actions for `obs: [N, ...]`; `explore` samples, else the most probable action is taken."""
        value, action, log_prob, carry = self.policy.act(obs, carry, masks, signals, deterministic=not explore)
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
        """`act`, for analysis: `extras` hold all that the networks computed, by the names of `evaluate`'s result.

        `override` gets the chosen actions and gives those that are taken.
        """
        found = self.policy.inspect(obs, carry, masks, signals, deterministic=not explore, override=override)
        return Decision(*found)

    def observe(self, carry: Tensor, step: Step) -> Tensor:
        """The carry after the environments answered."""
        return carry

    def schedule(self, env_steps: int, total: int) -> None:
        """Set what depends on progress: the learning rate."""
        if self.config.use_linear_lr_decay:
            for group in self.optimizer.param_groups:
                group["lr"] = linear_decay(self.config.lr, env_steps, total)

    def make_storage(self, num_steps: int, num_envs: int) -> RolloutStorage:
        """What the collector fills and `update` reads."""
        targets = self.policy.auxiliary.targets
        return RolloutStorage(num_steps, num_envs, self.spaces, self.policy.carry_size, self.device, targets)

    def make_collector(self, envs: Environments, storage: RolloutStorage) -> Collector:
        """What steps the environments."""
        return Collector(envs, self, storage)

    def state_dict(self) -> dict[str, Any]:
        """Everything that learning continues from."""
        return {"policy": self.policy.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self.policy.load_state_dict(state["policy"])
        self.optimizer.load_state_dict(state["optimizer"])
