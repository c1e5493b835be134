"""Generative adversarial imitation learning (Ho & Ermon 2016) around an actor-critic learner.

    discriminator  min over D of E_expert[-log sigmoid D] + E_policy[-log(1 - sigmoid D)] + penalty E[(|dD/dx| - 1)^2]
    reward         r(D) / std of the running discounted sum of r
                   logit     D = log s - log(1 - s), s = sigmoid(D), of either sign (AIRL, Fu et al. 2018)
                   positive  -log(1 - s), as in the paper: every step more is worth something
                   negative  log s: every step more costs something

The rewards take the place of the environment's in the rollout, and the learner updates itself as ever. All three are
computed from D itself, so that none is infinite where the sigmoid is 1 or 0.

With `--gail-absorbing` an episode that ended in a terminal state goes on for ever in one absorbing state that the
discriminator knows: neither living long nor dying early is worth anything by itself (Kostrikov et al. 2019). Rewards
are counted from the absorbing state's, as r(D) - r(absorbing), with 0 after the end:

    sum_{t < T} gamma^t r_t + gamma^T r(absorbing) / (1 - gamma)
        = sum_{t < T} gamma^t (r_t - r(absorbing)) + r(absorbing) / (1 - gamma)

The last term is the same for all policies, and without it no single reward is a hundred times as large as the others. A
time limit is no terminal state: it is always bootstrapped (section 4.2 there), with `--use-proper-time-limits` or
without, since 0 is what the absorbing state is worth here. Where no episode has ended in a terminal state there is
nothing to count from. Demonstrations that do not tell how episodes ended (upstream's `.pt`) show no absorbing state,
though their expert may have died: an agent that is shown in it would be punished for what the expert did too, so it is
left out on both sides.

Deviations from the paper:
1. The gradient penalty of Gulrajani et al. 2017, weight 10, and the reward `logit`, both upstream's.
2. 100 epochs of the discriminator in each of the first 10 updates, `--gail-epoch` in later ones; the statistics that
   normalize observations are frozen after those 10, since the discriminator's inputs would move with them (upstream).
3. An epoch is as many steps as the smaller of rollout and demonstrations has, drawn anew from each, in equal batches of
   `--gail-batch-size` at most; upstream leaves out what does not fill a batch.
4. The learner is any actor-critic, in place of TRPO.

Metrics are means over the batches of the discriminator's update:
    gail/discriminator_loss, gail/gradient_penalty   what it minimizes, without the penalty's weight
    gail/expert_logit, gail/policy_logit             D
    gail/accuracy           share of steps, half of them the expert's, that D tells apart
    gail/imitation_reward   mean r(D) of the rollout, before the absorbing state's is subtracted and before scaling
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from a2c_ppo_acktr import fast
from a2c_ppo_acktr.algo.base import Algorithm
from a2c_ppo_acktr.algo.wrapper import Wrapper
from a2c_ppo_acktr.arrays import flatten_parameters, set_gradient
from a2c_ppo_acktr.experts.demonstrations import Demonstrations, ImitationConfig
from a2c_ppo_acktr.flags import LONGEST, WIDEST, flag
from a2c_ppo_acktr.model.discriminator import INPUTS, Discriminator, Samples, StepEncoder, gradient_penalty
from a2c_ppo_acktr.normalization import Normalizer, RunningMeanStd
from a2c_ppo_acktr.optim.adam import Adam
from a2c_ppo_acktr.spaces import assign, flatten_lead, index, to_tensor, tree_map
from a2c_ppo_acktr.state import collect_state, restore_state
from a2c_ppo_acktr.storage import RolloutStorage
from a2c_ppo_acktr.utils import UsageError

WARM_UP_EPOCHS = 100
ABSORBING_STEPS = 10
"""How often the discriminator sees the absorbing state for each episode that came to it."""
REWARDS: dict[str, Callable[[Tensor], Tensor]] = {
    "logit": lambda logits: logits,
    "positive": softplus,
    "negative": logsigmoid,
}


@dataclass
class GAILConfig(ImitationConfig):
    """Flags of GAIL; defaults are upstream's."""

    num_trajectories: int | None = flag(4, "demonstrated episodes to learn from, drawn by --seed", low=1)
    subsample: int = flag(20, "keep one in so many steps of each demonstrated episode", low=1)
    gail_batch_size: int = flag(
        128, "the discriminator's batch of the expert's steps, and of the policy's", low=1, high=LONGEST
    )
    gail_epoch: int = flag(5, "epochs of the discriminator per update", low=1)
    gail_warm_up: int = flag(
        10, f"updates with {WARM_UP_EPOCHS} epochs, after which observation statistics are frozen", low=0
    )
    gail_lr: float = flag(1e-3, "learning rate of the discriminator", low=0)
    gail_penalty: float = flag(10.0, "weight of the gradient penalty", low=0)
    gail_spectral_norm: bool = flag(
        False,
        "keep the spectral norm of the discriminator's layers at 1, beside or (--gail-penalty 0) without the penalty",
    )
    gail_hidden_size: int = flag(100, "width of the discriminator's layers", low=1, high=WIDEST)
    gail_input: str = flag("state-action", "what the discriminator is shown of a step", choices=INPUTS)
    gail_reward: str = flag(
        "logit", "logit: of either sign; positive: -log(1 - D), GAIL's own; negative: log D", choices=tuple(REWARDS)
    )
    gail_absorbing: bool = flag(True, "let terminated episodes go on in an absorbing state: no bias to live or die")

    @property
    def reads_actions(self) -> bool:
        """See `ImitationConfig`."""
        return self.gail_input == "state-action"

    def without_effect(self) -> dict[str, str]:
        """Fields that the other settings switch off, with the reason."""
        reasons = {} if self.demonstrations is None else {"gail_experts_dir": "has no effect with --demonstrations"}
        if self.gail_absorbing:
            reasons["use_proper_time_limits"] = "has no effect with --gail-absorbing, which bootstraps at every limit"
        return reasons


class GAIL(Wrapper):
    """See the module's docstring.

    Args:
        learner: an actor-critic that fills a `RolloutStorage`; it acts, and whatever is not here is its own.
        config: GAIL's.
    """

    counters = ("running", "updates", "mortal")
    transient = ("normalizer",)
    config: GAILConfig

    def __init__(self, learner: Algorithm, config: GAILConfig) -> None:
        super().__init__(learner, config)
        self.gamma: float = learner.config.gamma
        self.encode = StepEncoder(learner.spaces, config.gail_input)
        sizes = self.encode.vector_size, self.encode.image_spaces, config.gail_hidden_size
        self.discriminator = Discriminator(*sizes, spectral=config.gail_spectral_norm).to(self.device)
        self.parameters = flatten_parameters(self.discriminator)
        self.optimizer = Adam(self.parameters, lr=config.gail_lr, eps=1e-8)
        self.set_gradient = self.gradient
        if learner.config.fast:
            self.set_gradient = fast.accelerated(self.gradient, self.loss)
        self.absorbing, self.blind_to_ends = config.gail_absorbing, False
        self.return_rms = RunningMeanStd()
        self.running: np.ndarray | None = None
        self.updates = 0
        self.mortal = False
        """Whether an episode, the expert's or the learner's, has ended in a terminal state."""

    def imitate(self, demonstrations: Demonstrations, normalizer: Normalizer | None) -> None:
        """See `Algorithm`."""
        self.normalizer = normalizer
        self.blind_to_ends = self.config.gail_absorbing and not demonstrations.ends_known
        self.absorbing = self.config.gail_absorbing and demonstrations.ends_known
        own = demonstrations.with_next() if self.config.gail_input == "state-next-state" else demonstrations
        self.raw_obs, self.raw_next_obs = own.obs, own.next_obs
        self.expert_actions = to_tensor(own.actions, self.device)
        self.mortal = bool(demonstrations.deaths.any())
        per_step = ABSORBING_STEPS * demonstrations.deaths.sum() / demonstrations.lengths.sum()
        self.num_absorbing = math.ceil(per_step * len(own))
        self.expert: Samples | None = None

    def make_storage(self, num_steps: int, num_envs: int) -> Any:
        """See `Algorithm`: the learner's."""
        storage = self.learner.make_storage(num_steps, num_envs)
        storage.bootstraps_limits = self.absorbing
        return storage

    def remarks(self) -> list[str]:
        """See `Algorithm`: what is slow at first, and what the demonstrations cannot tell."""
        lines, epochs = self.learner.remarks(), self.config.gail_epoch
        if self.updates < self.config.gail_warm_up and epochs < WARM_UP_EPOCHS:
            lines.append(
                f"GAIL: up to update {self.config.gail_warm_up} the discriminator learns for {WARM_UP_EPOCHS} epochs "
                f"instead of {epochs}: these updates are the slow ones (--gail-warm-up)"
            )
        if self.blind_to_ends:
            lines.append("GAIL: no absorbing state, since the demonstrations do not tell how episodes ended")
        return lines

    def update(self, storage: RolloutStorage) -> dict[str, Any]:
        """Train the discriminator, put its rewards in the place of the environment's, and let the learner learn."""
        warm = self.updates < self.config.gail_warm_up
        steps = self.policy_samples(storage)
        metrics = self.train_discriminator(steps, storage, WARM_UP_EPOCHS if warm else self.config.gail_epoch)
        metrics["gail/imitation_reward"] = self.write_rewards(steps, storage)
        self.updates += 1
        self._freeze_statistics()
        return {**self.learner.update(storage), **metrics}

    def _freeze_statistics(self) -> None:
        if self.normalizer is not None and self.updates >= self.config.gail_warm_up:
            self.normalizer.training = False

    def expert_samples(self) -> Samples:
        """The demonstrations as the learner would see them now; kept once the statistics stand still."""
        if self.expert is not None:
            return self.expert
        normalizer = self.normalizer
        normalize = normalizer.normalize_obs if normalizer is not None else lambda obs: obs
        obs, next_obs = (to_tensor(normalize(raw), self.device) for raw in (self.raw_obs, self.raw_next_obs))
        samples = self.encode(obs, self.expert_actions, next_obs)
        if self.absorbing:
            samples = samples.join(self.encode.absorbing(self.num_absorbing, self.device))
        if normalizer is None or not normalizer.training:
            self.expert = samples
        return samples

    def policy_samples(self, storage: RolloutStorage) -> Samples:
        """The rollout's steps, `[T * N]`, with the observations that they truly led to."""
        next_obs = obs = index(storage.obs, slice(0, -1))
        if self.config.gail_input == "state-next-state":
            next_obs = tree_map(torch.clone, index(storage.obs, slice(1, None)))
            for t, ended in storage.ended:
                assign(next_obs, (t, ended.indices), ended.final_obs)
        return self.encode(*flatten_lead((obs, storage.actions, next_obs)))

    def train_discriminator(self, steps: Samples, storage: RolloutStorage, epochs: int) -> dict[str, Any]:
        """Epochs of the discriminator; returns the means of its metrics."""
        expert, policy = self.expert_samples(), steps
        if self.absorbing:
            deaths = int(storage.terminated.sum())
            policy = policy.join(self.encode.absorbing(ABSORBING_STEPS * deaths, self.device))
        count = 0
        sums: dict[str, float] = {}
        for ours, theirs in self._batches(expert.num, policy.num, epochs):
            mixture = torch.rand(len(ours), device=self.device)
            metrics = self.set_gradient(expert.rows(ours), policy.rows(theirs), mixture)
            self.optimizer.step()
            count, sums = count + 1, {tag: sums.get(tag, 0.0) + float(value) for tag, value in metrics.items()}
        return {tag: total / count for tag, total in sums.items()}

    def loss(self, expert: Samples, policy: Samples, mixture: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """What the discriminator minimizes on B steps of each, with the penalty at points between them.

        Args:
            expert: B steps.
            policy: B steps.
            mixture: `[B]`, the expert's share of those points.
        """
        assert expert.vector.shape == policy.vector.shape
        expert, policy = expert.as_floats(), policy.as_floats()
        logits = self.discriminator(expert.join(policy))
        expert_logits, policy_logits = logits[: expert.num], logits[expert.num :]
        loss = softplus(-expert_logits).mean() + softplus(policy_logits).mean()
        penalty = gradient_penalty(self.discriminator, expert.blend(policy, mixture))
        right = (expert_logits > 0).sum() + (policy_logits < 0).sum()
        return loss + self.config.gail_penalty * penalty, {
            "gail/discriminator_loss": loss,
            "gail/gradient_penalty": penalty,
            "gail/expert_logit": expert_logits.mean(),
            "gail/policy_logit": policy_logits.mean(),
            "gail/accuracy": right / (2 * expert.num),
        }

    def gradient(self, expert: Samples, policy: Samples, mixture: Tensor) -> dict[str, Any]:
        """Set the gradient of the loss; returns metrics."""
        loss, metrics = self.loss(expert, policy, mixture)
        set_gradient(self.parameters, loss)
        return {tag: value.detach() for tag, value in metrics.items()}

    def _batches(self, num_expert: int, num_policy: int, epochs: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Indices of the expert's and of the policy's steps, as many of each."""
        num = min(num_expert, num_policy)
        parts = math.ceil(num / self.config.gail_batch_size)
        for _ in range(epochs):
            drawn = (torch.randperm(total, device=self.device)[:num] for total in (num_expert, num_policy))
            yield from zip(*(indices.tensor_split(parts) for indices in drawn), strict=True)

    @torch.no_grad()
    def write_rewards(self, steps: Samples, storage: RolloutStorage) -> float:
        """Write the scaled rewards into the rollout; returns their mean before."""
        reward = REWARDS[self.config.gail_reward]
        rewards = reward(self.discriminator(steps)).view(storage.rewards.shape)
        mean = float(rewards.mean())
        self.mortal |= bool(storage.terminated.any())
        if self.absorbing and self.mortal:
            rewards = rewards - reward(self.discriminator(self.encode.absorbing(1, self.device)))
        begins = storage.masks.cpu().numpy() == 0.0
        running = self.running if self.running is not None else np.zeros(storage.num_envs)
        if len(running) != storage.num_envs:  # of a resumed run that has others
            running = np.zeros(storage.num_envs)
        sums = np.empty(rewards.shape)
        for t, row in enumerate(rewards.cpu().numpy()):
            sums[t] = running = np.where(begins[t], 0.0, self.gamma * running) + row
        self.running = running
        self.return_rms.update(sums.ravel())
        storage.rewards.copy_(rewards / math.sqrt(self.return_rms.var + 1e-8))
        return mean

    def state_dict(self) -> dict[str, Any]:
        """The learner's, so that it can be played without demonstrations, and under `gail` what learning needs."""
        own = collect_state(self, self.counters, (*self.transient, "learner"))
        return self.learner.state_dict() | {"gail": own}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`; `UsageError` where the run learned from rewards."""
        if "gail" not in state:
            raise UsageError("--gail: the run was trained without it, so there is no discriminator to go on with")
        self.learner.load_state_dict(state)
        restore_state(self, state["gail"], self.counters, (*self.transient, "learner"))
        if self.running is not None:
            self.running = np.array(self.running, np.float64)
            assert self.running.ndim == 1, "gail.running: expected a number for each environment"
        self._freeze_statistics()
