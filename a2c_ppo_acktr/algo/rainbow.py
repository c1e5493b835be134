"""Rainbow (Hessel et al. 2018): C51 with everything that `dqn.py` offers.

Double Q-learning, dueling heads, prioritized replay, 3-step returns, a distribution of returns, noisy weights. The loss
is that of `c51.py`; priorities are its divergence.

Deviations from the paper:
1. Those of `c51.py`.
2. A target network is copied after gradient steps, 2,000 of which are the paper's 32,000 frames.
3. On small grids one action in a hundred is random beside the noise, as in Obando-Ceron & Castro 2021: noise that has
   been learned away explores no more. Theirs is without noise, dueling heads and double Q-learning.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from a2c_ppo_acktr.algo.c51 import C51, C51Config
from a2c_ppo_acktr.algo.q_learning import QLearning
from a2c_ppo_acktr.flags import flag


@dataclass
class RainbowConfig(C51Config):
    """Flags of Rainbow; each part can be switched off, as in the paper's ablations. For vectors `sigma` is our own."""

    lr: float = flag(2.3e-3, "learning rate of Adam", low=0, high=1e6)
    n_step: int = flag(3, "steps before the value of the next observation is used", low=1, high=100_000)
    double: bool = flag(True, "choose the next action by the network that learns")
    dueling: bool = flag(True, "one head for the value and one for advantages")
    noisy: bool = flag(True, "explore by noise in the weights instead of epsilon")
    sigma: float = flag(0.1, "initial deviation of noisy weights, times the root of a layer's inputs", low=0)
    prioritized: bool = flag(True, "sample in proportion to the last loss")
    priority_alpha: float = flag(0.5, "exponent of priorities", low=0)


class Rainbow(QLearning):
    """See the module's docstring; arguments as in `Algorithm`."""

    Config = RainbowConfig
    defaults_by_kind: ClassVar[dict[str, dict[str, Any]]] = {
        "image": C51.defaults_by_kind["image"]
        | {"lr": 6.25e-5, "eps": 1.5e-4, "sigma": 0.5, "target_update_interval": 2_000},
        "grid": C51.defaults_by_kind["grid"] | {"sigma": 0.5, "noisy_epsilon": 0.01},
    }
