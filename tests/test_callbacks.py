"""A user's functions along a recording: the fork's `data_callback`, our `state_callback`, and that neither costs it."""

from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from a2c_ppo_acktr.acting import recording
from evaluate import evaluate
from tests.test_record import assert_same, make


class Walk(gym.Env):
    """A walk of 1 to 8 steps; what is seen is where the walker is."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.length = 0, int(self.np_random.integers(1, 9))
        self.walker = SimpleNamespace(place=self.np_random.normal(size=2))
        self.marks = [self.np_random.normal(size=2)]
        return self.walker.place.astype(np.float32), {}

    def step(self, action):
        self.t += 1
        self.walker.place += 1.0 + action  # in place: whoever keeps it has to copy
        return self.walker.place.astype(np.float32), 0.5, self.t == self.length, False, {}


gym.register("WalkAndLook-v0", entry_point=Walk)
WALK = "tests.test_callbacks:WalkAndLook-v0"


def gather(agent, envs, rnn_hxs, obs, action, reward, done, data, stack=False, first=False):
    """Written as the fork's are: rows of the running episode under `ep_...`, which `stack` makes an episode of."""
    for name in ("place", "mark", "ep_place", "ep_mark"):
        data.setdefault(name, [])
    if first:
        data["ep_mark"] = envs.envs[0].marks[-1]
    if stack:
        data["place"].append(np.vstack(data["ep_place"]))
        data["mark"].append(data["ep_mark"])
        data["ep_place"] = []
    elif not done[0]:
        data["ep_place"].append(envs.get_attr("walker")[0].place.copy())
    return data


@pytest.mark.parametrize("vec_env", ["dummy", "subproc"])
@pytest.mark.parametrize("num_envs", [1, 3])
def test_a_callback_of_the_forks_gathers_the_rows_of_every_episode(vec_env, num_envs):
    algorithm, envs = make(WALK, num_envs, vec_env=vec_env)
    result = evaluate(algorithm, envs, 7, explore=True, data_callback=gather)
    marks = result["data"]["mark"]
    envs.close()
    assert isinstance(result["data"], dict)
    assert len(result["data"]["place"]) == len(marks) == 7
    for place, obs in zip(result["data"]["place"], result["obs"], strict=True):
        np.testing.assert_allclose(place, obs[:-1], rtol=1e-6)
    assert len({tuple(mark) for mark in marks}) == 7


def test_the_forks_arguments_in_the_forks_order():
    algorithm, envs = make(WALK, num_envs=1)
    calls = []

    def callback(agent, vec_envs, rnn_hxs, obs, action, reward, done, data, stack=False, first=False):
        assert agent is algorithm
        assert rnn_hxs.cpu().shape == (1, 64)
        calls.append((first, stack, bool(done[0]), obs.cpu().numpy().copy()))
        if first:
            assert action == reward == []
            assert done == [False]
        else:
            assert action.cpu().shape == reward.cpu().shape == (1, 1)
            assert reward.item() == 0.5
            assert done.shape == (1,)
        return len(calls)  # whatever it returns is what it gets next, and what comes out

    result = evaluate(algorithm, envs, 3, data_callback=callback)
    envs.close()
    assert result["data"] == len(calls)
    expected = []
    for e, length in enumerate(result["lengths"]):
        seen = result["obs_normalized"][e]
        expected += [(True, False, False, seen[:1])]
        expected += [(False, False, False, seen[t : t + 1]) for t in range(1, length)]
        expected += [(False, False, True, None), (False, True, True, None)]
    assert [call[:3] for call in calls] == [call[:3] for call in expected]
    for (*_, obs), (*_, wanted) in zip(calls, expected, strict=True):
        if wanted is not None:
            np.testing.assert_array_equal(obs, wanted)
    ends = [i for i, call in enumerate(calls) if call[0]][1:]
    for begins in ends:  # an end shows the observation that the reset gave, as the environment stands
        np.testing.assert_array_equal(calls[begins - 1][3], calls[begins][3])


def test_a_callback_of_eight_arguments_is_called_after_steps_alone():
    algorithm, envs = make(WALK, num_envs=2)

    def callback(agent, vec_envs, rnn_hxs, obs, action, reward, done, data):
        data.setdefault("done", []).append(bool(done[0]))

    result = evaluate(algorithm, envs, 4, data_callback=callback)
    assert result["data"]["done"] == [bool(done) for dones in result["dones"] for done in dones]


def test_an_episode_that_is_cut_off_is_stacked_too():
    algorithm, envs = make(WALK, num_envs=2)
    result = evaluate(algorithm, envs, evaluate_steps=9, data_callback=gather)
    assert not result["finished"].all()
    assert np.isnan(result["returns"][~result["finished"]]).all()
    for e, obs in enumerate(result["obs"]):
        length = result["lengths"][e] + (not result["finished"][e])  # the row that the cut-off episode ends in
        np.testing.assert_allclose(result["data"]["place"][e], obs[:length], rtol=1e-6)


def test_states_belong_to_the_observations_of_their_rows():
    algorithm, envs = make(WALK, num_envs=3)

    def look(vec_envs):
        assert vec_envs is envs
        return {"place": [walker.place for walker in vec_envs.get_attr("walker")], "t": vec_envs.get_attr("t")}

    result = evaluate(algorithm, envs, 8, state_callback=look)
    for states, obs, length in zip(result["states"], result["obs"], result["lengths"], strict=True):
        np.testing.assert_allclose(states["place"], obs[:-1], rtol=1e-6)
        assert states["t"].tolist() == list(range(length))


def test_states_of_unlike_shapes_are_kept_as_objects_and_misfits_are_named():
    algorithm, envs = make(WALK, num_envs=2)

    def look(vec_envs):
        times = vec_envs.get_attr("t")
        pairs = [[walker.place, 0.5] for walker in vec_envs.get_attr("walker")]
        return {"pair": pairs, "growing": [np.zeros(t) for t in times], "t": times, "alone": 3}

    with pytest.warns(RuntimeWarning, match="state_callback look: 'alone' is left out: expected 2 values"):
        result = evaluate(algorithm, envs, 6, state_callback=look)
    assert len(result["obs"]) == 6
    for states, length in zip(result["states"], result["lengths"], strict=True):
        assert list(states) == ["pair", "growing", "t"]
        assert [len(one) for one in states["growing"]] == list(range(length))
        assert [pair[1] for pair in states["pair"]] == [0.5] * length
        assert len({tuple(pair[0]) for pair in states["pair"]}) == length  # not the one array that the walker has
        assert states["t"].tolist() == list(range(length))


@pytest.mark.parametrize("kind", ["data", "state"])
def test_a_callback_that_raises_costs_one_warning_and_nothing_else(kind):
    algorithm, envs = make(WALK, num_envs=1)
    calls = []

    def fail(*arguments, **flags):
        calls.append(None)
        if len(calls) > 4:
            raise KeyError("angle")
        if kind == "state":
            return {"call": [len(calls)]}
        arguments[-1].setdefault("call", []).append(len(calls))

    with pytest.warns(RuntimeWarning) as raised:
        result = evaluate(algorithm, envs, 5, **{f"{kind}_callback": fail})
    assert len(raised) == 1
    text = str(raised[0].message)
    assert text.startswith(f"{kind}_callback fail: KeyError: 'angle' (")
    assert "test_callbacks.py:" in text
    assert len(text.splitlines()) == 1
    assert len(calls) == 5
    assert len(result["obs"]) == len(result["rnn_hxs"]) == 5
    if kind == "data":
        assert result["data"] == {"call": [1, 2, 3, 4]}
    else:
        assert [n for states in result["states"] for n in states.get("call", [])] == [1, 2, 3, 4]


def test_a_file_holds_what_callbacks_gathered(tmp_path):
    algorithm, envs = make(WALK, num_envs=2)

    def callback(agent, vec_envs, rnn_hxs, obs, action, reward, done, data, stack=False, first=False):
        data = gather(agent, vec_envs, rnn_hxs, obs, action, reward, done, data, stack, first)
        data |= {"who": ["a", "b"], "by/name": {"x": np.arange(3)}}
        return data

    result = evaluate(algorithm, envs, 5, data_callback=callback, state_callback=lambda envs: {"t": envs.get_attr("t")})
    recording.save(tmp_path / "run.npz", result)
    loaded = recording.load(tmp_path / "run.npz")
    assert set(loaded) == set(result)
    assert_same(loaded["states"], result["states"])
    assert set(loaded["data"]) == set(result["data"])
    for name in ("place", "mark"):
        assert_same(loaded["data"][name], result["data"][name])
    assert loaded["data"]["who"].tolist() == ["a", "b"] * 2
    assert loaded["data"]["by/name"][0]["x"].tolist() == [0, 1, 2]


def test_what_no_file_can_hold_is_left_out_of_it_by_name(tmp_path):
    algorithm, envs = make(WALK, num_envs=1)
    result = evaluate(
        algorithm,
        envs,
        3,
        data_callback=lambda agent, envs, *rest: {"model": agent, "n": 3, "rows": [np.zeros(2), torch.ones(2)]},
        state_callback=lambda envs: {"walker": envs.get_attr("walker"), "t": envs.get_attr("t")},
    )
    with pytest.warns(RuntimeWarning, match=r"left out, .*: data/model, states/walker$|states/walker, data/model$"):
        recording.save(tmp_path / "run.npz", result)
    loaded = recording.load(tmp_path / "run.npz")
    assert loaded["data"]["n"] == 3
    assert [row.tolist() for row in loaded["data"]["rows"]] == [[0, 0], [1, 1]]
    assert list(loaded["states"][0]) == ["t"]
    assert len(loaded["obs"]) == 3
