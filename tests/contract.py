"""What the contract's tests share: probes by what is special about their spaces, small learners, a training of one."""

import dataclasses

import numpy as np
import torch

from a2c_ppo_acktr import algo
from a2c_ppo_acktr.algo import Algorithm
from a2c_ppo_acktr.algo.gail import GAILConfig
from a2c_ppo_acktr.envs import EnvConfig, make_vec_envs
from a2c_ppo_acktr.experts.demonstrations import ImitationConfig
from a2c_ppo_acktr.run.checkpoint import to_plain
from a2c_ppo_acktr.seeding import get_rng_state, seed_everything, set_rng_state
from a2c_ppo_acktr.spaces import UnsupportedSpace
from tests.imitation import shown_by

PLACES = {
    "discrete actions": "MatchObservation",
    "vectors as actions": "MatchVector",
    "bits as actions": "MatchBits",
    "choices as actions": "MatchChoices",
    "masked actions": "MaskedActions",
    "nested observations": "NestedObservation",
}
ALL_PLACES = PLACES | {"steps that show their actions": "Corridor"}
"""Probes whose best return is known, by what is special about their spaces."""
BEST = {"MatchVector": 0.0, "MaskedActions": 3.0, "Corridor": 4.0}
SMALL = {
    "hidden_size": [16, 16],
    "inverse_hidden_size": [16],
    "batch_size": 16,
    "buffer_size": 2_000,
    "learning_starts": 32,
    "target_update_interval": 4,
    "core_size": 8,
    "burn_in": 1,
    "sequence_length": 3,
    "sequence_interval": 2,
    "num_mini_batch": 2,
    "epochs": 3,
    "epsilon_steps": 400,
    "v_min": -4.0,
    "v_max": 4.0,
    "num_atoms": 21,
    "save_replay": True,
    "nn_base": "FlexBase",
    "nn_base_kwargs": {"encoder_size": 16},
}
"""Settings of a learner that fits these probes, where it has them."""
RATE, RATES = 3e-3, {algo.ALGORITHMS["acktr"]: {"lr": 0.1}}
NUM_ENVS, NUM_STEPS = 4, 8


def settings_of(kind):
    """A Config for the probes."""
    known, ours = vars(kind.Config()), kind in algo.ALGORITHMS.values()
    wanted = SMALL | (RATES.get(kind, {"lr": RATE}) if ours else {})
    return kind.Config(**{name: value for name, value in wanted.items() if name in known and fits(value, known[name])})


def fits(value, default):
    """Whether a setting is of the kind of another learner's default."""
    return default is None or type(value) is type(default)


def build(name, env_spaces, seed=0, **changed):
    """A learner by its name; `gail` is GAIL around A2C."""
    seed_everything(seed)
    kind = algo.find("a2c" if name == "gail" else name)
    config = dataclasses.replace(settings_of(kind), **changed)
    gail = GAILConfig(gail_warm_up=0, gail_hidden_size=32) if name == "gail" else None
    return algo.make("a2c" if name == "gail" else name, config, env_spaces, gail=gail)


def probe(place, num_envs=NUM_ENVS):
    config = EnvConfig(f"tests.probe_envs:{ALL_PLACES[place]}-v0", normalize_env=False)
    return make_vec_envs(config, num_envs, seed=0)


def spaces_of(place):
    envs = probe(place)
    return envs.spaces


def takes(name, place):
    try:
        build(name, spaces_of(place))
    except UnsupportedSpace:
        return False
    return True


def best_actions(place, obs):
    """The actions of the highest reward in a probe, `[N, ...]`, as policies count them."""
    if place == "masked actions":
        return np.asarray(obs).argmax(1)
    if place == "steps that show their actions":
        return np.ones(len(obs), np.int64)
    wanted = (obs["picture"].max((1, 2, 3)) if isinstance(obs, dict) else obs[:, 0]) > 0
    if place == "vectors as actions":
        return 0.5 * obs.astype(np.float32)
    if place == "bits as actions":
        return np.stack([wanted, ~wanted], 1).astype(np.int8)
    if place == "choices as actions":
        return np.stack([1 * wanted, 2 * wanted], 1)
    return wanted.astype(np.int64)


class Training:
    """A learner in a probe, with what main.py's loop has."""

    def __init__(self, name, place, seed=0, **changed):
        self.envs = probe(place)
        self.algorithm = build(name, self.envs.spaces, seed, **changed)
        inner = self.algorithm.config
        if isinstance(inner, ImitationConfig):
            shown = shown_by(probe(place), lambda obs: best_actions(place, obs), 30)
            self.algorithm.imitate(shown, None)
        num_steps = self.algorithm.run_defaults.get("num_steps", NUM_STEPS) and NUM_STEPS
        self.storage = self.algorithm.make_storage(num_steps, NUM_ENVS)
        self.collector = self.algorithm.make_collector(self.envs, self.storage)

    def update(self, times=1, total=100):
        for _ in range(times):
            self.algorithm.schedule(self.collector.env_steps, total * NUM_STEPS * NUM_ENVS)
            self.collector.collect()
            self.metrics = dict(self.algorithm.update(self.storage))
            self.storage.after_update()
        return self.metrics

    def save(self):
        state = {"algorithm": self.algorithm.state_dict(), "collector": self.collector.state_dict()}
        state |= {"storage": self.storage.state_dict(), "rng": get_rng_state()}
        torch.save(to_plain(state), "state.pt")

    def load(self):
        state = torch.load("state.pt", weights_only=True)
        self.algorithm.load_state_dict(state["algorithm"])
        assert self.collector.load_state_dict(state["collector"])
        if self.storage.outlasts_updates:
            assert self.storage.load_state_dict(state["storage"])
        set_rng_state(state["rng"])


def tensors(owner, path="", depth=4, seen=None):
    """Every parameter, buffer and optimizer's tensor that can be reached from a learner, however it is held."""
    seen = set() if seen is None else seen
    if id(owner) in seen or depth == 0:
        return
    seen.add(id(owner))
    if isinstance(owner, torch.nn.Module):
        for name, tensor in [*owner.named_parameters(), *owner.named_buffers()]:
            yield f"{path}.{name}", tensor.detach()
    elif isinstance(owner, torch.nn.Parameter):
        yield path, owner.detach()
    elif isinstance(owner, torch.optim.Optimizer):
        for i, slots in enumerate(owner.state.values()):
            yield from ((f"{path}.{i}.{slot}", x) for slot, x in slots.items() if isinstance(x, torch.Tensor))
    else:
        for name, value in entries_of(owner, depth == 4):
            yield from tensors(value, f"{path}.{name}", depth - 1, seen)


def entries_of(owner, is_learner):
    """What an object holds, where it may hold networks."""
    if isinstance(owner, dict):
        return owner.items()
    if isinstance(owner, list | tuple):
        return enumerate(owner)
    return vars(owner).items() if is_learner or isinstance(owner, Algorithm) else ()
