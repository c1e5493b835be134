"""What `algo.base.Algorithm` promises, over every algorithm and every space that it takes.

`python -m pytest tests/test_contract.py --algo my_module:MyAlgorithm` holds a learner of your own to the same.
"""

import copy
import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces

from a2c_ppo_acktr import algo
from a2c_ppo_acktr.algo import Algorithm
from a2c_ppo_acktr.algo.gail import GAILConfig
from a2c_ppo_acktr.algo.wrapper import Wrapper
from a2c_ppo_acktr.envs import EnvConfig, make_vec_envs
from a2c_ppo_acktr.experts.demonstrations import ImitationConfig
from a2c_ppo_acktr.interfaces import EnvSpaces
from a2c_ppo_acktr.run.checkpoint import to_plain
from a2c_ppo_acktr.seeding import get_rng_state, seed_everything, set_rng_state
from a2c_ppo_acktr.spaces import UnsupportedSpace
from a2c_ppo_acktr.utils import UsageError
from evaluate import evaluate
from tests.imitation import shown_by
from tests.test_loop import assert_same_state

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


def pytest_generate_tests(metafunc):
    """Every algorithm, or the one that `--algo` names, with every place that it takes."""
    own = metafunc.config.getoption("--algo")
    names = [own] if own else [*algo.ALGORITHMS, "gail"]
    if {"name", "place"} <= set(metafunc.fixturenames):
        pairs = [(name, place) for name in names for place in PLACES if takes(name, place)]
        metafunc.parametrize(("name", "place"), pairs, ids=[f"{name}-{place}" for name, place in pairs])
    elif "name" in metafunc.fixturenames:
        metafunc.parametrize("name", names)


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


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


def one_line(error):
    assert "\n" not in str(error)
    assert str(error)


def test_a_space_is_taken_or_refused_in_one_line(name):
    taken = 0
    for place in PLACES:
        try:
            build(name, spaces_of(place))
            taken += 1
        except UnsupportedSpace as error:
            one_line(error)
    assert taken > 0


def test_a_text_as_observation_is_refused_in_one_line(name):
    with pytest.raises(UnsupportedSpace) as caught:
        build(name, EnvSpaces(spaces.Text(5), spaces.Discrete(2), {}))
    one_line(caught.value)


def test_the_same_seed_gives_the_same_weights_and_another_one_others(name, place):
    same = [to_plain(build(name, spaces_of(place), seed).state_dict()) for seed in (0, 0, 1)]
    assert_same_state(same[0], same[1])
    with pytest.raises(AssertionError):
        assert_same_state(same[0], same[2])


def test_its_state_is_plain_whole_and_enough_to_go_on_as_if_nothing_had_happened(name, place):
    whole = Training(name, place)
    whole.update(4)
    whole.save()
    whole.update(3)
    resumed = Training(name, place, seed=7)
    resumed.update(2)  # nothing of what it was before may stay
    resumed.load()
    resumed.update(3)
    assert_same_state(to_plain(whole.algorithm.state_dict()), to_plain(resumed.algorithm.state_dict()))
    assert {tag: float(x) for tag, x in whole.metrics.items()} == pytest.approx(
        {tag: float(x) for tag, x in resumed.metrics.items()}, rel=0, abs=0, nan_ok=True
    )


def test_every_module_optimizer_and_parameter_is_in_its_state(name, place):
    """Numbers that learning has changed are all there: a twin that loads the state has them too."""
    training, twin = Training(name, place), Training(name, place, seed=7)
    training.update(6)
    training.save()
    twin.load()
    for (ours, mine), (theirs, other) in zip(tensors(training.algorithm), tensors(twin.algorithm), strict=True):
        assert ours == theirs
        assert torch.equal(mine, other), ours


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


def test_acting_changes_nothing_that_it_is_given(name, place):
    training = Training(name, place)
    training.update(2)
    stepper = training.collector.stepper
    given = stepper.obs, stepper.carry, stepper.masks, stepper.signals
    before = copy.deepcopy(given)
    for explore in (True, False):
        with torch.inference_mode():
            training.algorithm.act(*given, explore)
        assert_same_state(given, before)


def test_playing_without_exploration_repeats_itself_and_leaves_no_trace(name, place):
    training = Training(name, place)
    training.update(2)
    before = copy.deepcopy(to_plain(training.algorithm.state_dict()))
    first, second = (evaluate(training.algorithm, probe(place), 12)["returns"] for _ in range(2))
    assert np.array_equal(first, second)
    assert_same_state(to_plain(training.algorithm.state_dict()), before)


def test_it_can_be_recorded_or_says_in_one_line_that_it_cannot(name, place):
    training = Training(name, place)
    training.update(2)
    try:
        played = evaluate(training.algorithm, probe(place), 5, record=True, with_activations=True)
    except UsageError as error:
        one_line(error)
        return
    assert len(played["actions"]) == len(played["values"]) == len(played["rnn_hxs"]) == 5
    for actions, values, probs in zip(played["actions"], played["values"], played["action_log_probs"], strict=True):
        assert len(actions) == len(values) == len(probs) > 0
        assert np.isfinite(values).all()


def test_a_recording_tells_what_acting_does(name, place):
    training = Training(name, place)
    training.update(2)
    played = evaluate(training.algorithm, probe(place), 8)
    try:
        recorded = evaluate(training.algorithm, probe(place), 8, record=True)
    except UsageError:
        return
    np.testing.assert_allclose(recorded["returns"], played["returns"], atol=1e-4)


TAGS = set(re.findall(r"`([a-z]+/[^`]+)`", Path(__file__).parents[1].joinpath("README.md").read_text()))


def test_every_metric_is_a_number_and_explained_in_the_readme(name, place, request):
    training = Training(name, place)
    for tag, value in (training.update() | training.update(3)).items():
        assert tag.startswith(("losses/", "charts/", "gail/"))
        assert np.isscalar(float(value))
        if request.config.getoption("--algo") is None:
            assert tag in TAGS, f"{tag} is not in the README's table of metrics"


UPDATES = 400


def test_it_solves_what_only_a_correct_learner_solves(name):
    place = "discrete actions" if takes(name, "discrete actions") else "vectors as actions"
    if name == "bco":
        place = "steps that show their actions"
    training, best = Training(name, place), BEST.get(ALL_PLACES[place], 1.0)
    for _ in range(UPDATES // 10):
        training.update(10, total=UPDATES)
        if evaluate(training.algorithm, probe(place), 64)["returns"].mean() >= best - 0.05:
            return
    pytest.fail(f"{name} has not solved {ALL_PLACES[place]} after {UPDATES} updates")


def test_its_flags_are_explained_and_its_defaults_are_its_own(name):
    kind = algo.find("a2c" if name == "gail" else name)
    for field in dataclasses.fields(kind.Config):
        assert not field.metadata or field.metadata["help"], field.name
    assert isinstance(kind.Config(), algo.AlgorithmConfig)


def test_a_wrapper_is_played_by_its_learner_alone():
    training = Training("gail", "discrete actions")
    training.update(3)
    assert isinstance(training.algorithm, Wrapper)
    alone = build("a2c", training.envs.spaces, seed=3)
    alone.load_state_dict(training.algorithm.state_dict())
    ours, theirs = (evaluate(x, probe("discrete actions"), 8)["returns"] for x in (training.algorithm, alone))
    assert np.array_equal(ours, theirs)
