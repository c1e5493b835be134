"""Deep Q-learning (Mnih et al. 2015), and what has become usual with it.

    loss = huber(R + discount * Q'(s', a*) - Q(s, a))        a* = argmax_a Q'(s', a), with --double argmax_a Q(s', a)

R is the discounted reward of n steps, s' the observation after them, discount gamma^n or 0 where s' is terminal, and Q'
a copy of Q that follows it. Steps are sampled from the latest `--buffer-size` ones.

--double       van Hasselt et al. 2016        --dueling      Wang et al. 2016
--n-step       Sutton 1988; Rainbow, eq. 1    --prioritized  Schaul et al. 2016, proportional
--noisy        Fortunato et al. 2018, factorized noise, which explores instead of epsilon

Deviations from Mnih et al. 2015:
1. Adam, with the rate, epsilon and target network's interval of CleanRL and RL Zoo. Dopamine's epsilon, 1.5e-4, goes
   with layers that begin larger: here gradients on pixels begin at a tenth of it.
2. The last epsilon is .01, and evaluations take the greedy action.
3. The number of gradient steps follows from the number of environment steps (`--update-to-data`), whatever the number
   of environments; the target network's interval counts gradient steps.
4. Gradients are clipped by global norm (Wang et al. 2016); errors by the Huber loss, as there.
5. A time limit is no end: the value of its final observation is bootstrapped.
6. On pixels learning starts after 20,000 steps (there 50,000), as Rainbow's does. In C51, QR-DQN and IQN the target
   network's interval is 2,500 gradient steps, 10,000 of the environment's; there, 10,000 gradient steps.
7. Dueling heads share their layers' gradient as it comes; Wang et al. 2016 scale it by 1 / sqrt(2).
8. The network on small grids is two 3x3 convolutions of 16 and 32 filters and a layer of 128; that of Obando-Ceron &
   Castro 2021, whose settings they have, is one convolution of 16 filters without such a layer.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from a2c_ppo_acktr.algo.q_learning import ATARI, GRID, QLearning, QLearningConfig


class Expected:
    """One number, the expected return; see `q_learning.TemporalDifference`."""

    num_outputs = 1

    def values(self, outputs: Tensor) -> Tensor:
        """See `TemporalDifference`."""
        return outputs[..., 0]

    def losses(
        self, outputs: Tensor, next_outputs: Tensor, returns: Tensor, discounts: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See the module's docstring; windows are sampled by the size of their errors."""
        targets, values = returns + discounts * next_outputs[:, 0], outputs[:, 0]
        return functional.huber_loss(values, targets, reduction="none"), (values - targets).abs()


@dataclass
class DQNConfig(QLearningConfig):
    """Flags of DQN."""

    def temporal_difference(self, device: torch.device) -> Expected:
        """See `QLearningConfig`."""
        return Expected()


PIXELS = ATARI | {"lr": 1e-4, "eps": 1e-8, "target_update_interval": 250}
"""Of CleanRL and RL Zoo."""


class DQN(QLearning):
    """See the module's docstring; arguments as in `Algorithm`."""

    Config = DQNConfig
    defaults_by_kind: ClassVar[dict[str, dict[str, Any]]] = {"image": PIXELS, "grid": GRID | {"lr": 2.5e-4}}
