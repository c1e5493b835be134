"""What was collected: the rollout of a learner on its own policy, and the replay of all others."""

from a2c_ppo_acktr.storage.rollout import Batch, RolloutStorage

__all__ = ["Batch", "RolloutStorage"]
