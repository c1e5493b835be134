"""Policies as the flags build them."""

from a2c_ppo_acktr.algo.actor_critic import ActorCriticConfig, make_policy
from a2c_ppo_acktr.interfaces import AUXILIARY, EnvSpaces


def build(observation, action, *, targets=None, recurrent=False, bfloat16=False, base=None, aux=None, **base_kwargs):
    """A policy for two spaces, and the spaces of auxiliary targets where there are heads."""
    signals = {AUXILIARY: targets} if targets is not None else {}
    config = ActorCriticConfig(
        recurrent_policy=recurrent,
        nn_base=base,
        bfloat16=bfloat16,
        nn_base_kwargs=base_kwargs if aux is None else {**base_kwargs, "auxiliary_heads": aux},
    )
    return make_policy(EnvSpaces(observation, action, signals), config)
