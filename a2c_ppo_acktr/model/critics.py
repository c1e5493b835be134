"""Critics of actions: K networks from an observation and an action to what it is worth."""

from collections.abc import Sequence
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor, nn

from a2c_ppo_acktr.interfaces import Tree
from a2c_ppo_acktr.model.encoders import make_encoder
from a2c_ppo_acktr.model.ensemble import EnsembleMLP


class Critics(nn.Module):
    """K critics behind one encoder.

    Args:
        space: observation space; images are `[C, H, W]`.
        action_size: A, of an action that is read beside the observation; 0 where all actions are valued at once.
        num: K.
        num_outputs: M, numbers that describe what an action is worth, or of actions where all are valued at once.
        hidden_size: widths of the layers.
        settings: of `EnsembleMLP`.
    """

    def __init__(
        self,
        space: spaces.Space,
        action_size: int,
        *,
        num: int,
        num_outputs: int,
        hidden_size: Sequence[int],
        **settings: Any,
    ) -> None:
        super().__init__()
        self.encoder = make_encoder(space)
        self.num, self.num_outputs = num, num_outputs
        sizes = [self.encoder.output_size + action_size, *hidden_size, num_outputs]
        self.members = EnsembleMLP(num, sizes, **settings)

    def encode(self, obs: Tree) -> Tensor:
        """Features `[B, F]`, which the actor reads too."""
        return self.encoder(obs)

    def forward(self, features: Tensor, actions: Tensor | None = None) -> Tensor:
        """`[K, B, M]` of features `[B, F]` and actions `[B, A]` within [-1, 1]."""
        return self.members(features if actions is None else torch.cat([features, actions], -1))
