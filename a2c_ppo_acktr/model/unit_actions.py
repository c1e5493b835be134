"""Actions within [-1, 1], wherever the environment's bounds are."""

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from a2c_ppo_acktr.interfaces import ACTION_MASK, EnvSpaces
from a2c_ppo_acktr.spaces import UnsupportedSpace


class UnitActions:
    """Between actions as environments take them and as learners have them; Discrete ones are the same to both.

    Args:
        env_spaces: of the environments.
        device: of the tensors.

    Raises:
        UnsupportedSpace: actions are neither Discrete nor a flat Box with bounds, or are masked.
    """

    def __init__(self, env_spaces: EnvSpaces, device: torch.device | str) -> None:
        space = env_spaces.action
        if ACTION_MASK in env_spaces.signals:
            raise UnsupportedSpace("an actor-critic from a replay takes no action masks; a2c and ppo do")
        self.device = device
        self.num_choices = int(space.n) if isinstance(space, spaces.Discrete) else 0
        """A of Discrete actions, else 0."""
        self.size = 0
        """A of a Box, else 0."""
        if self.num_choices:
            return
        if not (isinstance(space, spaces.Box) and len(space.shape) == 1):
            raise UnsupportedSpace(f"action space {space}: Discrete and one-dimensional Box are supported")
        if not (np.isfinite(space.low).all() and np.isfinite(space.high).all() and (space.low < space.high).all()):
            raise UnsupportedSpace(f"action space {space}: has no bounds to which [-1, 1] could be stretched")
        low, high = (torch.as_tensor(x, dtype=torch.float32, device=device) for x in (space.low, space.high))
        self.center, self.half_range, self.size = (high + low) / 2, (high - low) / 2, len(low)

    def continuous(self, who: str) -> "UnitActions":
        """These, unless they are Discrete.

        Raises:
            UnsupportedSpace: they are.
        """
        if self.num_choices:
            raise UnsupportedSpace(f"Discrete({self.num_choices}) actions: {who} moves in a Box; sac chooses, too")
        return self

    def stretched(self, actions: Tensor) -> Tensor:
        """As environments take them."""
        return actions if self.num_choices else self.center + self.half_range * actions

    def within_unit(self, actions: Tensor) -> Tensor:
        """Inverse of `stretched`."""
        return actions if self.num_choices else (actions - self.center) / self.half_range

    def random(self, num: int) -> Tensor:
        """Uniform ones, `[num]` or `[num, A]`."""
        if self.num_choices:
            return torch.randint(self.num_choices, (num,), device=self.device)
        return torch.empty(num, self.size, device=self.device).uniform_(-1.0, 1.0)
