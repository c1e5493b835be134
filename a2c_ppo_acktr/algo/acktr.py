"""Actor-critic using Kronecker-factored trust region (Wu et al. 2017): A2C's losses, K-FAC's steps (see `kfac.py`).

The Fisher matrix is that of the joint output distribution: the policy's, and a Gaussian around the value. Statistics
come from fresh samples of both at the observations of each rollout:

    log p = log pi(a) - vf_fisher_coef (V - v)^2,   a ~ pi(. | s),   v ~ N(V, 1)

Auxiliary heads take part with unit Gaussians and categoricals, scaled as their losses are.

Deviations from the paper:
1. Actor and critic share one trust region, as in OpenAI Baselines and upstream, in continuous control too.
2. `vf_fisher_coef` is 1, as there; 1/2 would be the unit Gaussian, so the critic's G is 4 times that one's.
3. The learning rate decays to 0 with `--use-linear-lr-decay` only, as upstream.
4. Gradients are clipped by global norm before they are preconditioned where `--max-grad-norm` is given.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from a2c_ppo_acktr.algo.a2c import A2CLossConfig, a2c_loss
from a2c_ppo_acktr.algo.actor_critic import ActorCritic
from a2c_ppo_acktr.flags import flag
from a2c_ppo_acktr.interfaces import EnvSpaces
from a2c_ppo_acktr.model.bases import sample_observations
from a2c_ppo_acktr.model.policy import Evaluation
from a2c_ppo_acktr.optim.kfac import KFAC, KFACConfig
from a2c_ppo_acktr.returns import explained_variance
from a2c_ppo_acktr.spaces import tree_map
from a2c_ppo_acktr.storage.rollout import Batch, RolloutStorage
from a2c_ppo_acktr.utils import UsageError


@dataclass
class ACKTRConfig(KFACConfig, A2CLossConfig):
    """Flags of ACKTR."""

    lr: float = flag(0.25, "learning rate; a full step without momentum", low=0, high=1e6)
    max_grad_norm: float = flag(math.inf, "bound of the global norm of gradients; upstream has none", low=0)
    kfac_vf_fisher_coef: float = flag(1.0, "weight of the value in the Fisher matrix; 0.5 is a unit Gaussian", low=0)

    def check(self, num_steps: int, num_processes: int) -> None:
        """See `ActorCriticConfig`."""
        super().check(num_steps, num_processes)
        if self.recurrent_policy:
            raise UsageError("--algo acktr has no --recurrent-policy: K-FAC knows no factors for a GRU; a2c and ppo do")

    def without_effect(self) -> dict[str, str]:
        """See `ActorCriticConfig`."""
        rmsprop = dict.fromkeys(("eps", "alpha"), "has no effect on acktr: K-FAC has --kfac-damping instead")
        floor = {} if self.kfac_inverse == "eigen" else {"kfac_min_eigenvalue": "has no effect on Cholesky's inverses"}
        return super().without_effect() | rmsprop | floor


class ACKTR(ActorCritic):
    """See the module's docstring; arguments as in `Algorithm`.

    Raises:
        UsageError: names a layer that K-FAC does not know, or that is not called just once.
    """

    Config = ACKTRConfig
    watches_layers: ClassVar[bool] = True
    is_upstreams: ClassVar[bool] = True
    config: ACKTRConfig
    optimizer: KFAC

    def __init__(self, spaces: EnvSpaces, config: ACKTRConfig, device: torch.device) -> None:
        super().__init__(spaces, config, device)
        self.optimizer = KFAC(self.policy, config.lr, config)
        obs = tree_map(lambda leaf: leaf.to(device), sample_observations(spaces.observation, (2,)))
        with self.optimizer.watch():  # says now what it cannot watch later
            output = self.policy(obs, self.initial_carry(2), torch.ones(2, device=device), {})
            self.policy.auxiliary(output.layers)

    def loss(self, new: Evaluation, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """That of A2C."""
        return a2c_loss(self.config, new, batch)

    def evaluate(self, batch: Batch) -> Evaluation:
        """See `ActorCritic`; K-FAC takes its statistics."""
        with self.optimizer.watch():
            new = super().evaluate(batch)
        if self.optimizer.statistics_due:
            self.optimizer.observe(self.sampled_log_likelihood(new))
        return new

    def update(self, storage: RolloutStorage) -> dict[str, Any]:
        """One step on the rollout."""
        self.prepare(storage)
        metrics = self.gradient(self.loss, storage.whole(recurrent=False))
        self._step()
        return metrics | {
            "losses/predicted_kl": self.optimizer.predicted_kl,
            "losses/trust_region_scale": self.optimizer.scale,
            "losses/kfac_failures": self.optimizer.failures,
            "losses/explained_variance": explained_variance(storage.values, storage.returns),
            "charts/learning_rate": self.optimizer.param_groups[0]["lr"],
        }

    def _step(self) -> None:
        """Move the parameters but for the frozen ones: a layer's direction mixes the gradients of its parameters."""
        frozen = self.policy.frozen
        kept = self.parameters.detach()[frozen] if frozen is not None else None
        self.optimizer.step()
        if kept is not None:
            self.parameters.data[frozen] = kept

    def sampled_log_likelihood(self, new: Evaluation) -> Tensor:
        """Log p `[B]` of outputs drawn from the policy, its value and its auxiliary heads, up to constants."""
        with torch.no_grad():
            action, sampled_value = new.distribution.sample(), new.value + torch.randn_like(new.value)
        log_prob = new.distribution.log_prob(action)
        log_prob = log_prob - self.config.kfac_vf_fisher_coef * (new.value - sampled_value).square()
        return log_prob + self.policy.auxiliary.sampled_log_likelihood(new.predictions, self.config.auxiliary_loss_coef)
