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
from a2c_ppo_acktr.algo.wrapper import Wrapper
from a2c_ppo_acktr.interfaces import EnvSpaces
from a2c_ppo_acktr.run.checkpoint import to_plain
from a2c_ppo_acktr.spaces import UnsupportedSpace
from a2c_ppo_acktr.utils import UsageError
from evaluate import evaluate
from tests.contract import ALL_PLACES, BEST, PLACES, Training, build, probe, spaces_of, takes, tensors
from tests.test_loop import assert_same_state


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
