"""Networks: policies and what they are built of, Q-networks, the discriminator."""

from a2c_ppo_acktr.model.policy import Policy, PolicyOutput

__all__ = ["Policy", "PolicyOutput"]
