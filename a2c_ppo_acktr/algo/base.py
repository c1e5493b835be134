"""What an algorithm is: tensors in, tensors out. The contract that `tests/test_contract.py` holds every one to."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, SupportsFloat

import torch
from torch import Tensor, nn

from a2c_ppo_acktr.acting.collect import Collector
from a2c_ppo_acktr.experts.demonstrations import Demonstrations
from a2c_ppo_acktr.flags import flag
from a2c_ppo_acktr.interfaces import Decision, Environments, EnvSpaces, Step, Tree
from a2c_ppo_acktr.normalization import Normalizer
from a2c_ppo_acktr.state import collect_state, restore_state
from a2c_ppo_acktr.utils import UsageError


@dataclasses.dataclass
class AlgorithmConfig:
    """Flags of every algorithm; those of each are a subclass, whose fields are made with `flag`."""

    fast: bool = flag(True, "compute losses and networks by what fast/ knows of them; without it in plain torch")

    def check(self, num_steps: int, num_processes: int) -> None:
        """Raise `UsageError` where the settings cannot work together, or not with the size of a rollout."""

    def without_effect(self) -> dict[str, str]:
        """Fields that the other settings switch off, with the reason."""
        return {}


class Algorithm(ABC):
    """A learner. It sees spaces, a config and tensors; never environments, arguments, logs or files.

    Args:
        spaces: of the environments.
        config: an instance of the class's own `Config`.
        device: where networks and storage live.

    Raises:
        UnsupportedSpace: it cannot read these observations or choose such actions.
    """

    Config: ClassVar[type[AlgorithmConfig]]
    """Dataclass of the algorithm's hyper-parameters: the only place where they are named and explained."""
    run_defaults: ClassVar[dict[str, Any]] = {}
    """Defaults of run flags (num_steps, num_processes, ...) that differ from upstream's."""
    defaults_by_kind: ClassVar[dict[str, dict[str, Any]]] = {}
    """Defaults of any flags that depend on observations: by `spaces.kind_of`."""
    counters: ClassVar[tuple[str, ...]] = ()
    """Attributes of plain values that belong to the state; modules, optimizers and parameters do by themselves."""
    transient: ClassVar[tuple[str, ...]] = ()
    """Attributes that do not, though they have a state: others save them, or they begin anew."""
    reads_rewards: ClassVar[bool] = False
    """Whether the carry holds rewards, which must then be the same in training and evaluation: not normalized."""
    takes_gail: ClassVar[bool] = False
    """Whether `--gail` goes around it: it learns from a `RolloutStorage`, whose rewards may be replaced."""
    is_upstreams: ClassVar[bool] = False
    """Whether it is one of upstream's, so that every flag of its command lines is accepted."""

    def __init__(self, spaces: EnvSpaces, config: Any, device: torch.device) -> None:
        self.spaces, self.config, self.device = spaces, config, device
        self._names: frozenset[str] | None = None
        self.finished = False
        """Nothing is left to learn."""

    @abstractmethod
    def act(self, obs: Tree, carry: Tensor, masks: Tensor, signals: dict[str, Tree], explore: bool) -> Decision:
        """Choose actions for `obs: [N, ...]`; `explore` samples, else the best known action is taken."""

    @abstractmethod
    def update(self, storage: Any) -> Mapping[str, SupportsFloat]:
        """Learn from what was collected; returns metrics under their TensorBoard tags."""

    @abstractmethod
    def make_storage(self, num_steps: int, num_envs: int) -> Any:
        """What the collector fills and `update` reads."""

    def make_collector(self, envs: Environments, storage: Any) -> Collector:
        """What steps the environments."""
        return Collector(envs, self, storage)

    def initial_carry(self, num_envs: int) -> Tensor:
        """The carry of environments that begin: `[N, H]` zeros, H = 0 where nothing is carried."""
        return torch.zeros(num_envs, 0, device=self.device)

    def observe(self, carry: Tensor, step: Step) -> Tensor:
        """The carry after the environments answered."""
        return carry

    def schedule(self, env_steps: int, total: int) -> None:  # noqa: B027  # nothing has to depend on it
        """Set what depends on progress, such as the learning rate."""

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
        raise UsageError(f"{type(self).__name__} tells nothing of its inside: define `inspect` to record it")

    def imitate(self, demonstrations: Demonstrations, normalizer: Normalizer | None) -> None:
        """Take in what to imitate, before learning; for those whose flags are an `ImitationConfig`.

        Args:
            demonstrations: fit the spaces, with observations before normalization.
            normalizer: of the run's observations, or None.
        """
        raise UsageError(f"{type(self).__name__} learns from rewards alone")

    def remarks(self) -> list[str]:
        """Lines for the console that a user should have read before the first update."""
        return []

    def networks(self) -> dict[str, nn.Module]:
        """Every network by its attribute's name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, nn.Module)}

    def state_dict(self) -> dict[str, Any]:
        """All that learning continues from, collected from the attributes (see `state.collect_state`).

        Raises:
            TypeError: something cannot be collected.
            UsageError: something was not there at the first call, so that a resumed run would not take it in.
        """
        state = collect_state(self, self.counters, self.transient)
        self._names = self._names if self._names is not None else frozenset(state)
        for name in state.keys() - self._names:
            raise UsageError(f"{type(self).__name__}.{name} did not exist at the start: make it in the constructor")
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`."""
        restore_state(self, state, self.counters, self.transient)
