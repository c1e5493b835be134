"""Running mean and variance, and the normalizer of observations and rewards that is built on it."""

from typing import Any

import numpy as np
from gymnasium import spaces

from a2c_ppo_acktr.interfaces import Tree
from a2c_ppo_acktr.spaces import change_leaves, is_image, leaf_shape, space_map, tree_map


class RunningMeanStd:
    """Mean and variance of a stream, merged batch by batch (Chan et al. 1979, parallel variance).

    Args:
        shape: shape of one sample.
        epsilon: weight of the prior (mean 0, variance 1) that keeps the first divisions finite.
        anchored: where the first batch is more than the prior's deviation from 0, the prior's mean is the batch's. Far
            from there it would look like variance: of mean 1e5 and deviation 1, it shows 3 after 100,000 samples.
    """

    def __init__(self, shape: tuple[int, ...] = (), epsilon: float = 1e-4, *, anchored: bool = False) -> None:
        self.mean = np.zeros(shape, np.float64)
        self.var = np.ones(shape, np.float64)
        self.count = self.epsilon = epsilon
        self.anchored = anchored

    def update(self, batch: np.ndarray) -> None:
        """Take in `batch: [B, *shape]`, in sums of deviations from the mean so far."""
        if self.anchored and self.count <= self.epsilon:
            first = batch.mean(0, dtype=np.float64)
            self.mean = np.where(np.abs(first) > 1.0, first, self.mean)
        deviations, total = batch - self.mean, self.count + len(batch)
        first, second = np.add.reduce(deviations), np.add.reduce(deviations * deviations)
        shift = first / total
        self.var = (self.var * self.count + second - first * shift) / total
        self.mean = self.mean + shift
        self.count = total

    def merge(self, mean: np.ndarray, var: np.ndarray, count: float) -> None:
        """Take in the moments of another stream, as data-parallel workers do."""
        total = self.count + count
        delta = mean - self.mean
        self.var = (self.var * self.count + var * count + delta**2 * (self.count * count / total)) / total
        self.mean = self.mean + delta * (count / total)
        self.count = total

    def state_dict(self) -> dict[str, Any]:
        """Plain values: mean, var and count."""
        return {"mean": self.mean, "var": self.var, "count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`; tensors and arrays are both accepted.

        Raises:
            ValueError: they are of samples of another shape, or no statistics.
        """
        mean, var, count = (np.array(state[name], np.float64) for name in ("mean", "var", "count"))
        if mean.shape != self.mean.shape or var.shape != self.var.shape:
            raise ValueError(f"statistics of shape {list(mean.shape)}, expected {list(self.mean.shape)}")
        if not (np.isfinite(mean).all() and np.isfinite(var).all() and (var >= 0).all() and 0 < count < np.inf):
            raise ValueError(f"no statistics: mean {mean}, variance {var}, count {count}")
        self.mean, self.var, self.count = mean, var, float(count)


class Normalizer:
    """Observations to mean 0 and variance 1, rewards to unit variance of the discounted return (as OpenAI Baselines).

    Of nested observations every leaf by itself; what `is_normalized` denies stays as it is. The one difference to
    Baselines is where the statistics of observations begin: see `RunningMeanStd.anchored`.

    Args:
        space: of one observation.
        num_envs: N, the environments whose discounted returns are followed.
        gamma: discount of the return whose deviation scales rewards.
        clip: bound of normalized observations and rewards.
        epsilon: added to variances before the square root.
    """

    def __init__(
        self, space: spaces.Space, num_envs: int, gamma: float, *, clip: float = 10.0, epsilon: float = 1e-8
    ) -> None:
        self.gamma, self.clip, self.epsilon = gamma, clip, epsilon
        self.obs_rms: Tree = space_map(
            lambda leaf: RunningMeanStd(leaf_shape(leaf), anchored=True) if is_normalized(leaf) else None, space
        )
        self.return_rms = RunningMeanStd()
        self.returns = np.zeros(num_envs, np.float64)
        self.training = True

    def learn_from(self, obs: Tree) -> None:
        """Take `obs: [B, *shape]` into the statistics."""
        tree_map(lambda rms, leaf: rms and rms.update(leaf), self.obs_rms, obs)

    def normalize_obs(self, obs: Tree) -> Tree:
        """`obs: [..., *shape]` in the environment's units to float32, clipped."""
        return tree_map(self._normalize, self.obs_rms, obs)

    def _normalize(self, rms: RunningMeanStd | None, obs: np.ndarray) -> np.ndarray:
        if rms is None:
            return obs
        scaled = (obs - rms.mean) / np.sqrt(rms.var + self.epsilon)
        return np.minimum(np.maximum(scaled, -self.clip), self.clip).astype(np.float32)  # half the time of np.clip

    def observe(self, obs: Tree) -> Tree:
        """Take `obs: [N, *shape]` into the statistics (while training) and return it normalized."""
        if self.training:
            self.learn_from(obs)
        return self.normalize_obs(obs)

    def normalize_reward(self, reward: np.ndarray, ended: np.ndarray) -> np.ndarray:
        """Scale `reward: [N]` by the deviation of the running discounted return; `ended: [N]` restarts it."""
        if self.training:
            self.returns = self.returns * self.gamma + reward
            self.return_rms.update(self.returns)
            self.returns[ended] = 0.0
        return self.scale_reward(reward)

    def scale_reward(self, reward: np.ndarray) -> np.ndarray:
        """`reward: [...]` by the present deviation, clipped."""
        scaled = reward / np.sqrt(self.return_rms.var + self.epsilon)
        return np.minimum(np.maximum(scaled, -self.clip), self.clip)

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run or an evaluation needs."""
        obs = tree_map(lambda rms: rms and rms.state_dict(), self.obs_rms)
        return {"obs": obs, "return": self.return_rms.state_dict(), "returns": self.returns}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`; running returns restart where the number of environments differs."""
        tree_map(lambda rms, leaf: rms and rms.load_state_dict(leaf), self.obs_rms, state["obs"])
        self.return_rms.load_state_dict(state["return"])
        returns = np.array(state["returns"], np.float64)
        self.returns = returns if len(returns) == len(self.returns) else np.zeros_like(self.returns)


def is_normalized(space: spaces.Space) -> bool:
    """Whether a leaf is of numbers that statistics make sense of: any Box but pictures."""
    return isinstance(space, spaces.Box) and not is_image(space)


def normalized_space(space: spaces.Space) -> spaces.Space:
    """The space of normalized observations."""

    def leaf(of: spaces.Space) -> spaces.Space:
        return spaces.Box(-np.inf, np.inf, leaf_shape(of), np.float32) if is_normalized(of) else of

    return change_leaves(leaf, space)
