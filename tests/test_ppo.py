"""Options of PPO: hand-worked losses, what they leave alone, and that each learns."""

import pytest

from a2c_ppo_acktr import algo
from a2c_ppo_acktr.algo.ppo import PPOConfig
from a2c_ppo_acktr.envs import make_vec_envs
from a2c_ppo_acktr.utils import seed_everything


def collected(num_envs=4, num_steps=32, env_id="CartPole-v1", **config):
    """An algorithm with one rollout in its storage."""
    seed_everything(1)
    envs = make_vec_envs(env_id, num_envs, seed=1)
    algorithm = algo.make("ppo", PPOConfig(**config), envs.spaces)
    storage = algorithm.make_storage(num_steps, num_envs)
    algorithm.make_collector(envs, storage).collect()
    return algorithm, storage


# the clip range


@pytest.mark.parametrize(("steps", "expected"), [(0, 0.2), (250, 0.15), (1000, 0.0), (2000, 0.0)])
def test_the_clip_range_decays_to_zero_and_is_shown(steps, expected):
    algorithm, storage = collected(num_mini_batch=2, use_linear_clip_decay=True)
    algorithm.schedule(steps, 1000)
    assert algorithm.update(storage)["charts/clip_range"] == pytest.approx(expected)


def test_the_clip_range_stays_where_it_does_not_decay():
    algorithm, storage = collected(num_mini_batch=2, clip_param=0.3)
    algorithm.schedule(999, 1000)
    assert algorithm.clip_range == 0.3
    assert "charts/clip_range" not in algorithm.update(storage)


def test_a_decayed_clip_range_clips_policy_and_value():
    metrics = {}
    for steps in (0, 999):
        algorithm, storage = collected(num_mini_batch=2, lr=1e-2, use_linear_clip_decay=True)
        algorithm.schedule(steps, 1000)
        metrics[steps] = algorithm.update(storage)
    assert metrics[999]["losses/clipfrac"] > metrics[0]["losses/clipfrac"] + 0.2
    assert metrics[999]["losses/value_loss"] > metrics[0]["losses/value_loss"]
