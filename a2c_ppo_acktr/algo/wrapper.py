"""An algorithm around another one, which goes on acting and learns from what the outer one gives it."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from a2c_ppo_acktr.acting.collect import Collector
from a2c_ppo_acktr.algo.base import Algorithm
from a2c_ppo_acktr.interfaces import Decision, Environments, Step, Tree


class Wrapper(Algorithm):
    """Acts, collects and keeps steps as its learner does.

    Its state is the learner's, so that a checkpoint can be played by the learner alone, and beside it its own.

    Args:
        learner: what acts.
        config: of the wrapper.
    """

    def __init__(self, learner: Algorithm, config: Any) -> None:
        super().__init__(learner.spaces, config, learner.device)
        self.learner = learner

    @property
    def policy(self) -> Any:
        """What acts."""
        return self.learner.policy  # type: ignore[attr-defined]  # of those that have one

    def act(self, obs: Tree, carry: Tensor, masks: Tensor, signals: dict[str, Tree], explore: bool) -> Decision:
        """See `Algorithm`."""
        return self.learner.act(obs, carry, masks, signals, explore)

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
        return self.learner.inspect(obs, carry, masks, signals, explore, override)

    def initial_carry(self, num_envs: int) -> Tensor:
        """See `Algorithm`."""
        return self.learner.initial_carry(num_envs)

    def observe(self, carry: Tensor, step: Step) -> Tensor:
        """See `Algorithm`."""
        return self.learner.observe(carry, step)

    def schedule(self, env_steps: int, total: int) -> None:
        """See `Algorithm`."""
        self.learner.schedule(env_steps, total)

    def make_storage(self, num_steps: int, num_envs: int) -> Any:
        """See `Algorithm`."""
        return self.learner.make_storage(num_steps, num_envs)

    def make_collector(self, envs: Environments, storage: Any) -> Collector:
        """See `Algorithm`."""
        return self.learner.make_collector(envs, storage)

    def remarks(self) -> list[str]:
        """See `Algorithm`."""
        return self.learner.remarks()

    def networks(self) -> dict[str, nn.Module]:
        """See `Algorithm`: the learner's and its own."""
        return self.learner.networks() | super().networks()

    def state_dict(self) -> dict[str, Any]:
        """See `Algorithm`."""
        own = super().state_dict()
        return own.pop("learner") | own

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Algorithm`."""
        super().load_state_dict({"learner": state, **state})
