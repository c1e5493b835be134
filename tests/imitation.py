"""What tests of imitation share: probes, demonstrations of any behaviour, learners that imitate them."""

import numpy as np

from a2c_ppo_acktr import algo, experts
from a2c_ppo_acktr.algo.gail import GAILConfig
from a2c_ppo_acktr.envs import EnvConfig, make_vec_envs
from a2c_ppo_acktr.experts.files import Trajectory, save
from a2c_ppo_acktr.seeding import seed_everything
from a2c_ppo_acktr.spaces import tree_map

LEARNERS = {
    "a2c": {"lr": 3e-3, "entropy_coef": 0.1},
    "acktr": {"lr": 0.05, "entropy_coef": 0.1},
    "ppo": {"lr": 3e-3, "num_mini_batch": 4, "use_gae": True, "entropy_coef": 0.1},
}
"""Policies that stay random enough for the discriminator to see what they should not do."""


def probe(env_id, num_envs=8, **kwargs):
    return make_vec_envs(EnvConfig(f"tests.probe_envs:{env_id}-v0", normalize_env=False, **kwargs), num_envs, seed=0)


def shown_by(envs, choose, num_steps, subsample=1):
    """Demonstrations of `choose(obs) -> actions [N, ...]` in probes, as read from a file."""
    obs, steps = envs.reset(), [[] for _ in range(envs.num_envs)]
    trajectories = []
    for _ in range(num_steps):
        actions = np.asarray(choose(obs))
        step = envs.step_arrays(actions)
        for env in range(envs.num_envs):
            steps[env].append([tree_map(lambda leaf, e=env: leaf[e], obs), actions[env]])
        if step.ended is not None:
            for k, env in enumerate(step.ended.indices):
                seen = [row[0] for row in steps[env]] + [tree_map(lambda leaf, i=k: leaf[i], step.ended.final_obs)]
                stacked = tree_map(lambda *leaves: np.stack(leaves), *seen)
                length = len(steps[env])
                terminated = np.zeros(length, bool)
                terminated[-1] = step.terminated[env]
                truncated = np.zeros(length, bool)
                truncated[-1] = not step.terminated[env]
                taken = np.stack([row[1] for row in steps[env]])
                trajectories.append(Trajectory(stacked, taken, np.zeros(length), terminated, truncated, 0.0))
                steps[env] = []
        obs = step.obs
    save("shown.npz", trajectories)
    return experts.load("shown.npz", subsample=subsample).check(envs.observation_space, envs.action_space)


def wrap(name, envs, demonstrations, normalizer=None, learner=None, **config):
    seed_everything(0)
    settings = GAILConfig(**config)
    own = algo.ALGORITHMS[name].Config(use_linear_lr_decay=True, **(LEARNERS[name] | (learner or {})))
    algorithm = algo.make(name, own, envs.spaces, gail=settings)
    algorithm.imitate(demonstrations, normalizer)
    return algorithm


def train(algorithm, envs, updates, num_steps=16):
    storage = algorithm.make_storage(num_steps, envs.num_envs)
    collector = algorithm.make_collector(envs, storage)
    for update in range(updates):
        algorithm.schedule(update, updates)
        collector.collect()
        metrics = algorithm.update(storage)
        storage.after_update()
    return metrics


def rollout(algorithm, envs, num_steps=16):
    storage = algorithm.make_storage(num_steps, envs.num_envs)
    algorithm.make_collector(envs, storage).collect()
    return storage
