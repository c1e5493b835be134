"""Ten updates on fixed rollouts give the parameters that they gave before any work on speed.

`python -m tests.test_snapshot` rewrites the snapshot; that is a change of what is learned and belongs in the changelog.
Rollouts are drawn from a NumPy generator, not acted, so that only updating is pinned: the acting path has its own test
against the policy's distribution. Faster kernels round differently, which ten updates amplify to about 1e-5.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces

from a2c_ppo_acktr import algo
from a2c_ppo_acktr.interfaces import Ended, EnvSpaces, Step
from a2c_ppo_acktr.seeding import seed_everything

SNAPSHOT = Path(__file__).parent / "snapshot.json"
VECTOR, PIXELS = spaces.Box(-np.inf, np.inf, (5,), np.float32), spaces.Box(0, 255, (4, 36, 36), np.uint8)
DISCRETE, CONTINUOUS = spaces.Discrete(3), spaces.Box(-1, 1, (2,), np.float32)
CASES = {
    "a2c vector": ("a2c", VECTOR, DISCRETE, {}),
    "a2c vector gaussian limits": ("a2c", VECTOR, CONTINUOUS, {"use_proper_time_limits": True}),
    "a2c recurrent": ("a2c", VECTOR, DISCRETE, {"recurrent_policy": True}),
    "ppo vector": ("ppo", VECTOR, DISCRETE, {"num_mini_batch": 4, "use_gae": True}),
    "ppo gaussian limits": (
        "ppo",
        VECTOR,
        CONTINUOUS,
        {"num_mini_batch": 5, "use_gae": True, "use_proper_time_limits": True},
    ),
    "ppo recurrent": ("ppo", VECTOR, DISCRETE, {"num_mini_batch": 2, "recurrent_policy": True}),
    "ppo pixels": ("ppo", PIXELS, DISCRETE, {"num_mini_batch": 2, "ppo_epoch": 1}),
}


def fill(storage, algorithm, rng, steps, num):
    """Insert a random rollout whose log-probabilities are near those of the policy."""

    def observations(count):
        space = algorithm.spaces.observation
        pixels = space.dtype == np.uint8
        drawn = rng.integers(0, 255, (count, *space.shape)) if pixels else rng.normal(size=(count, *space.shape))
        return torch.from_numpy(drawn.astype(space.dtype))

    obs, masks = observations(num), torch.zeros(num)
    carry = algorithm.initial_carry(num)
    for _ in range(steps):
        terminated = rng.random(num) < 0.1
        truncated = (rng.random(num) < 0.1) & ~terminated
        (indices,) = (terminated | truncated).nonzero()
        discrete = isinstance(algorithm.spaces.action, spaces.Discrete)
        action = rng.integers(0, 3, num) if discrete else rng.normal(size=(num, 2)).astype(np.float32)
        next_obs = observations(num)
        next_carry = torch.tanh(torch.from_numpy(rng.normal(size=tuple(carry.shape)).astype(np.float32)))
        ended = Ended(torch.from_numpy(indices), observations(len(indices)), next_carry[indices], {})
        extras = {
            "value": torch.from_numpy(rng.normal(size=num).astype(np.float32)),
            "log_prob": torch.from_numpy(rng.normal(-1.1 if discrete else -2.8, 0.1, num).astype(np.float32)),
        }
        storage.insert(
            Step(
                obs=obs,
                carry=carry,
                masks=masks,
                signals={},
                action=torch.from_numpy(action),
                extras=extras,
                reward=torch.from_numpy(rng.normal(size=num).astype(np.float32)),
                terminated=torch.from_numpy(terminated),
                truncated=torch.from_numpy(truncated),
                next_obs=next_obs,
                next_carry=next_carry,
                next_signals={},
                ended=ended if len(indices) else None,
            )
        )
        obs, carry, masks = next_obs, next_carry, torch.from_numpy(1.0 - (terminated | truncated)).float()


def parameters_after_ten_updates(name):
    """Sum and norm of every parameter, in the order of the state dict."""
    algorithm_name, observation, action, config = CASES[name]
    seed_everything(0)
    rng = np.random.default_rng(0)
    spaces_ = EnvSpaces(observation, action, {})
    algorithm = algo.make(algorithm_name, algo.ALGORITHMS[algorithm_name].Config(**config), spaces_)
    storage = algorithm.make_storage(6, 4)
    for _ in range(10):
        fill(storage, algorithm, rng, 6, 4)
        algorithm.update(storage)
        storage.after_update()
    return {k: [v.double().sum().item(), v.double().norm().item()] for k, v in algorithm.policy.state_dict().items()}


@pytest.mark.parametrize("name", CASES)
def test_ten_updates_are_what_they_were(name):
    expected = json.loads(SNAPSHOT.read_text())[name]
    found = parameters_after_ten_updates(name)
    assert found.keys() == expected.keys()
    for key, pair in expected.items():
        np.testing.assert_allclose(found[key], pair, rtol=1e-4, atol=2e-3, err_msg=key)


if __name__ == "__main__":
    SNAPSHOT.write_text(json.dumps({name: parameters_after_ten_updates(name) for name in CASES}, indent=1) + "\n")
