"""The rollout of an on-policy learner: T steps of N environments, `[T, N]` throughout."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from a2c_ppo_acktr.arrays import arrays
from a2c_ppo_acktr.interfaces import AUXILIARY, NEXT, TIME_TO_END, Ended, EnvSpaces, Step, Tree
from a2c_ppo_acktr.returns import estimate_returns, log_steps_to_end
from a2c_ppo_acktr.spaces import assign, concatenate, flatten_lead, index, select, tree_map, zeros

ValueFunction = Callable[[Tree, Tensor, Tensor], Tensor]
"""V(obs, carry, masks): `[B]`."""


class Batch(NamedTuple):
    """Samples of a rollout: `[B]`, or `[T, n]` of whole environments for recurrent policies."""

    obs: Tree
    carry: Tensor
    """`[n, H]` before the first step of each sequence; not indexed for feed-forward batches."""
    masks: Tensor
    signals: dict[str, Tree]
    targets: dict[str, Tensor]
    """Of the auxiliary heads."""
    actions: Tensor
    values: Tensor
    log_probs: Tensor
    returns: Tensor
    advantages: Tensor
    old_policy: Tree = {}
    """The action distributions that acted, as they `describe` themselves, where a learner has put them there."""


class DeviceRows:
    """Rows of a tensor that lives on a device, assigned from arrays and tensors alike."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    def __setitem__(self, t: int, value: Any) -> None:
        self.tensor[t] = torch.as_tensor(value)


def row_writer(tensor: Tensor) -> Any:
    """What rows are assigned to: on the CPU a NumPy view of the tensor, whose assignments cost a tenth of torch's."""
    return tensor.numpy() if tensor.device.type == "cpu" else DeviceRows(tensor)


def _target(name: str, step: Step) -> Tensor:
    """An auxiliary target of a step, `[N, ...]`: it came with the observation or, after `next:`, with its successor."""
    if not name.startswith(NEXT):
        return step.signals[AUXILIARY][name]
    name = name.removeprefix(NEXT)
    target = torch.as_tensor(step.next_signals[AUXILIARY][name])
    if step.ended is not None:
        final = step.ended.final_signals[AUXILIARY][name]
        target = target.to(final).index_copy(0, step.ended.indices, final)
    return target


class RolloutStorage:
    """A preallocated rollout, filled step by step and read in minibatches.

    Args:
        num_steps: T.
        num_envs: N.
        spaces: of the environments; observations are stored once, `[T + 1, N]`, pixels as uint8.
        carry_size: H, the size of the recurrent state, kept for the first step only.
        device: where everything lives.
        targets: auxiliary targets to keep, by name (see `auxiliary.Head`).
    """

    outlasts_updates = False

    def __init__(
        self,
        num_steps: int,
        num_envs: int,
        spaces: EnvSpaces,
        carry_size: int,
        device: torch.device | str = "cpu",
        targets: Sequence[str] = (),
    ) -> None:
        def per_step(dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.zeros(num_steps, num_envs, dtype=dtype, device=device)

        self.num_steps, self.num_envs = num_steps, num_envs
        self.obs = zeros(spaces.observation, (num_steps + 1, num_envs), device)
        self.masks = torch.ones(num_steps + 1, num_envs, device=device)
        self.carry = torch.zeros(num_envs, carry_size, device=device)
        self.next_carry = self.carry
        lead = num_steps, num_envs
        self.signals = {k: zeros(s, lead, device) for k, s in spaces.signals.items() if k != AUXILIARY}
        offered: Any = spaces.signals.get(AUXILIARY)
        self.targets = {name: zeros(offered[name.removeprefix(NEXT)], lead, device) for name in targets}
        self.actions = zeros(spaces.action, (num_steps, num_envs), device)
        self.rewards, self.values, self.log_probs = per_step(), per_step(), per_step()
        self.terminated, self.truncated = per_step(torch.bool), per_step(torch.bool)
        self.returns, self.advantages = per_step(), per_step()
        self.old_policy: Tree = {}
        self.bootstraps_limits = False
        """Whether a time limit is bootstrapped whatever a learner asks for."""
        self.ended: list[tuple[int, Ended]] = []
        self.t = 0
        stepwise = ("masks", "actions", "values", "log_probs", "rewards", "terminated", "truncated")
        self.rows = {name: row_writer(getattr(self, name)) for name in stepwise}
        self.signal_rows, self.obs_rows = tree_map(row_writer, self.signals), tree_map(row_writer, self.obs)

    def insert(self, step: Step) -> None:
        """Append one step; its extras must hold `value` and `log_prob`, each `[N]`."""
        t, rows = self.t, self.rows
        if t == 0:
            assign(self.obs_rows, 0, step.obs)
            self.carry.copy_(step.carry)
        assign(self.obs_rows, t + 1, step.next_obs)
        assign(self.signal_rows, t, step.signals)
        for name, target in self.targets.items():
            target[t] = _target(name, step)
        rows["masks"][t] = step.masks
        rows["actions"][t] = step.action
        rows["values"][t] = step.extras["value"]
        rows["log_probs"][t] = step.extras["log_prob"]
        rows["rewards"][t] = step.reward
        rows["terminated"][t] = step.terminated
        rows["truncated"][t] = step.truncated
        if step.ended is not None:
            self.ended.append((t, step.ended))
        self.next_carry = step.next_carry
        self.t = t + 1

    def state_dict(self) -> None:
        """Nothing: between updates it is empty."""

    def describe(self) -> str:
        """What a user should know of its size."""
        return f"{self.num_steps} x {self.num_envs} steps per update"

    def after_update(self) -> None:
        """Forget the rollout."""
        self.ended.clear()
        self.t = 0

    def compute_returns(
        self,
        get_value: ValueFunction,
        *,
        kind: str,
        gamma: float,
        use_proper_time_limits: bool,
        gae_lambda: float = 0.95,
        learner: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        """Fill `returns`, which values learn to predict, and `advantages`.

        The values of the last observation and of all final observations are one call of `get_value`.

        Args:
            get_value: V.
            kind: one of `returns.RETURNS`.
            gamma: discount.
            use_proper_time_limits: bootstrap a truncated step from the value of its own final observation; without
                it a time limit counts as a terminal state.
            gae_lambda: lambda of generalized advantage estimation.
            learner: values and log-probabilities `[T, N]` by a policy that is no longer the one that acted; v-trace
                corrects for the difference.
        """
        assert self.t == self.num_steps, f"the rollout holds {self.t} of {self.num_steps} steps"
        use_proper_time_limits |= self.bootstraps_limits
        values_now, log_probs_now = learner or (self.values, self.log_probs)
        tensors = self.rewards, values_now, log_probs_now, self.log_probs, self.terminated, self.truncated
        xp, (rewards, values, log_probs, old_log_probs, terminated, truncated) = arrays(*tensors)
        next_values = self._next_values(get_value, values, use_proper_time_limits)
        discounts, continues = xp.full_like(values, gamma), xp.ones_like(values)
        continues[terminated | truncated] = 0.0
        discounts[terminated if use_proper_time_limits else terminated | truncated] = 0.0
        ratios = xp.exp(log_probs - old_log_probs)
        returns, advantages = estimate_returns(
            kind, rewards, discounts, values, next_values, continues, gae_lambda=gae_lambda, ratios=ratios
        )
        self.returns, self.advantages = torch.as_tensor(returns), torch.as_tensor(advantages)
        if TIME_TO_END in self.targets:
            self.targets[TIME_TO_END] = log_steps_to_end(self.terminated | self.truncated).unsqueeze(-1)

    def _next_values(self, get_value: ValueFunction, values: Any, use_proper_time_limits: bool) -> Any:
        """V(true successor), `[T, N]`; without proper time limits anything where an episode ended, for it counts 0.

        Args:
            get_value: V.
            values: V of what each step began from; an array as of `arrays.arrays`.
            use_proper_time_limits: see `compute_returns`.
        """
        xp, _ = arrays(self.values)
        next_values = xp.empty_like(values)
        next_values[:-1] = values[1:]
        last_obs, masks = index(self.obs, -1), (~(self.terminated[-1] | self.truncated[-1])).float()
        if use_proper_time_limits and self.ended:
            rows = [ended for _, ended in self.ended]
            found = get_value(
                concatenate([last_obs, *(row.final_obs for row in rows)]),
                torch.cat([self.next_carry, *(row.carry for row in rows)]),
                torch.cat([masks, masks.new_ones(sum(len(row.indices) for row in rows))]),
            )
            next_values[-1] = found[: self.num_envs]
            times = torch.cat([torch.full_like(row.indices, t) for t, row in self.ended])
            next_values[times, torch.cat([row.indices for row in rows])] = found[self.num_envs :]
        else:
            next_values[-1] = get_value(last_obs, self.next_carry, masks)
        return next_values

    def whole(self, recurrent: bool) -> Batch:
        """The rollout as one batch: `[T * N]`, or `[T, N]` for recurrent policies."""
        batch = Batch(
            index(self.obs, slice(0, -1)),
            self.carry,
            self.masks[:-1],
            self.signals,
            self.targets,
            self.actions,
            self.values,
            self.log_probs,
            self.returns,
            self.advantages,
            self.old_policy,
        )
        if recurrent:
            return batch
        flat = {name: flatten_lead(field) for name, field in batch._asdict().items() if name != "carry"}
        return Batch(carry=batch.carry, **flat)

    def minibatches(self, num_mini_batch: int, recurrent: bool) -> Iterator[Batch]:
        """Every sample once in random order, in `num_mini_batch` parts that differ by one sample at most.

        Feed-forward parts are of single steps, recurrent ones of whole environments, so that a sequence keeps its time
        order and starts from its stored carry.
        """
        batch = self.whole(recurrent)
        count = self.num_envs if recurrent else self.num_steps * self.num_envs
        assert 1 <= num_mini_batch <= count, f"{num_mini_batch} minibatches of {count} samples"
        for chosen in torch.randperm(count, device=self.masks.device).tensor_split(num_mini_batch):
            carry = batch.carry[chosen] if recurrent else batch.carry
            fields = {name: field for name, field in batch._asdict().items() if name != "carry"}
            yield Batch(carry=carry, **select(fields, 1 if recurrent else 0, chosen))
