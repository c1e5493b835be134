"""Recordings: what belongs to which row, whole episodes from many environments, callbacks, forced actions, files."""

import cv2
import numpy as np
import pytest
import torch

import main
from a2c_ppo_acktr import algo
from a2c_ppo_acktr.acting import recording
from a2c_ppo_acktr.envs import EnvConfig, make_vec_envs
from a2c_ppo_acktr.seeding import seed_everything
from a2c_ppo_acktr.utils import UsageError
from evaluate import evaluate, load_agent
from evaluate import main as evaluate_main
from tests.probe_envs import Clock

CLOCK = "tests.probe_envs:Clock-v0"
HEADS = [(-1, -1, "hour"), (-1, 1, "next:time"), (1, 0, "time_to_end")]


def make(env_id=CLOCK, num_envs=3, recurrent=True, normalize=True, vec_env="dummy", heads=(), wrapper=None):
    seed_everything(0)
    env_config = EnvConfig(env_id, vec_env=vec_env, normalize_env=normalize, aux_wrapper_kwargs=wrapper or {})
    envs = make_vec_envs(env_config, num_envs, seed=5, training=False)
    config = algo.ALGORITHMS["ppo"].Config(
        recurrent_policy=recurrent, nn_base_kwargs={"auxiliary_heads": list(heads)} if heads else {}
    )
    return algo.make("ppo", config, envs.spaces), envs


@pytest.mark.parametrize("vec_env", ["dummy", "subproc"])
def test_every_row_of_every_episode_is_what_the_environment_and_the_network_say(vec_env):
    algorithm, envs = make(heads=HEADS, wrapper={"time_to_end": True}, vec_env=vec_env)
    envs.normalizer.obs_rms.mean[:] = 1.0
    result = evaluate(algorithm, envs, 11, explore=True, with_activations=True)
    mean, std = envs.normalizer.obs_rms.mean, np.sqrt(envs.normalizer.obs_rms.var + 1e-8)
    envs.close()
    policy = algorithm.policy
    assert len(result["returns"]) == len(result["obs"]) == 11
    assert [env for env, _, _ in result["spans"]] == [0] * 3 + [1] * 4 + [2] * 4
    for e, length in enumerate(result["lengths"]):
        obs, seen = result["obs"][e], result["obs_normalized"][e]
        assert obs.shape == seen.shape == (length + 1, 3)
        assert obs[:, 0].tolist() == list(range(length + 1))
        np.testing.assert_allclose(seen, (obs - mean) / std, atol=1e-4)
        np.testing.assert_allclose(result["rewards"][e], np.arange(1, length + 1) / 10, rtol=1e-6)
        assert result["returns"][e] == pytest.approx(result["rewards"][e].sum(), rel=1e-4)
        assert result["dones"][e].tolist() == [False] * (length - 1) + [True]
        assert result["masks"][e].tolist() == [0.0] + [1.0] * (length - 1)
        assert result["finished"][e]

        # The network, run over the episode from zeros, gives the same.
        carry = torch.zeros(1, policy.carry_size)
        with torch.no_grad():
            whole = policy(torch.from_numpy(seen[:-1, None]), carry, torch.ones(int(length), 1), {})
        log_prob = whole.distribution.log_prob(torch.from_numpy(result["actions"][e][:, None]))
        expected = {
            "values": whole.value,
            "action_probs": whole.distribution.log_probs.exp(),
            "action_log_probs": log_prob,
            "actor_features": whole.features,
            "rnn_hxs": whole.layers.shared[0],
        }
        for name, tensor in expected.items():
            np.testing.assert_allclose(result[name][e], tensor[:, 0].detach(), atol=1e-5, err_msg=name)
        activations = result["activations"][e]
        assert list(activations) == ["shared_1", "actor_2", "actor_3", "critic_2", "critic_3"]
        np.testing.assert_allclose(activations["shared_1"], result["rnn_hxs"][e], atol=1e-6)
        np.testing.assert_allclose(activations["actor_3"], result["actor_features"][e], atol=1e-6)

        t, truths, predictions = np.arange(length), result["auxiliary_truths"][e], result["auxiliary_preds"][e]
        assert truths["hour"].tolist() == (t % 4).tolist()
        assert truths["next:hour"].tolist() == ((t + 1) % 4).tolist()
        np.testing.assert_array_equal(truths["next:time"], np.stack([t + 1, -t - 1], 1))
        np.testing.assert_allclose(truths["time_to_end"][:, 0], np.log(length - t), rtol=1e-6)
        assert list(predictions) == ["hour_shared_last", "next_time_critic_last", "time_to_end_actor_1"]
        np.testing.assert_allclose(predictions["hour_shared_last"].sum(-1), 1.0, rtol=1e-5)
    assert result["hidden_states"] is result["rnn_hxs"]


def test_a_recording_scores_as_an_evaluation_without_one_does():
    algorithm, envs = make(recurrent=False)
    plain = evaluate(algorithm, envs, 8)
    algorithm, envs = make(recurrent=False)
    recorded = evaluate(algorithm, envs, 8, record=True)
    for name in ("returns", "lengths"):
        np.testing.assert_array_equal(plain[name], recorded[name])
    assert "activations" not in recorded


def test_pixels_are_recorded_as_the_newest_picture_and_as_the_stack_that_was_read():
    algorithm, envs = make("PongNoFrameskip-v4", num_envs=1, recurrent=False)
    result = evaluate(algorithm, envs, evaluate_steps=6)
    obs, seen = result["obs"][0], result["obs_normalized"][0]
    assert obs.shape == (7, 1, 84, 84)
    assert seen.shape == (7, 4, 84, 84)
    for t in range(7):
        for k in range(4):
            expected = obs[t - 3 + k, 0] if t - 3 + k >= 0 else np.zeros((84, 84))
            np.testing.assert_array_equal(seen[t, k], expected)


@pytest.mark.parametrize(
    ("forced", "expected"),
    [(1, [1] * 8), ([0, 1, 1], [0, 1, 1]), (lambda t: t % 2 if t < 4 else None, [0, 1, 0, 1])],
    ids=["constant", "array", "function"],
)
def test_forced_actions_are_taken_in_every_episode_and_the_agent_goes_on_after_them(forced, expected):
    algorithm, envs = make()
    result = evaluate(algorithm, envs, 12, actions=forced, explore=True)
    free = []
    for actions, probs, log_probs in zip(
        result["actions"], result["action_probs"], result["action_log_probs"], strict=True
    ):
        n = len(expected)
        assert actions[:n].tolist() == expected[: len(actions)]
        free += actions[n:].tolist()
        taken = np.take_along_axis(probs, actions[:, None], 1)[:, 0]
        np.testing.assert_allclose(np.exp(log_probs), taken, rtol=1e-5)
    assert forced == 1 or set(free) == {0, 1}


def test_forced_actions_of_continuous_environments():
    algorithm, envs = make("Pendulum-v1", num_envs=2)
    result = evaluate(algorithm, envs, evaluate_steps=5, actions=np.array([0.5]))
    assert all((actions == 0.5).all() for actions in result["actions"])
    assert result["action_probs"][0]["mean"].shape == result["action_probs"][0]["std"].shape == (5, 1)
    with pytest.raises(UsageError, match="expected \\[1\\]"):
        evaluate(algorithm, envs, evaluate_steps=5, actions=np.zeros((4, 2)))


def test_a_number_of_steps_keeps_running_episodes_as_unfinished():
    algorithm, envs = make(wrapper={"time_to_end": True}, heads=[(-1, 0, "time_to_end")])
    result = evaluate(algorithm, envs, evaluate_steps=10)
    assert result["lengths"].sum() == 30
    assert len(result["finished"]) > result["finished"].sum() > 0
    for e, (env, start, stop) in enumerate(result["spans"]):
        assert result["finished"][e] or stop == 10
        assert np.isnan(result["returns"][e]) == (not result["finished"][e])  # what was to come is unknown
        assert result["obs"][e][:, 0].tolist() == list(range(stop - start + 1))
        unknown = np.isnan(result["auxiliary_truths"][e]["time_to_end"])
        assert unknown.all() if not result["finished"][e] else not unknown.any()
        assert env in (0, 1, 2)


def assert_same(a, b):
    if isinstance(a, dict):
        assert list(a) == list(b)
        for name in a:
            assert_same(a[name], b[name])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    else:
        np.testing.assert_array_equal(a, b)
        assert np.asarray(a).dtype == np.asarray(b).dtype


@pytest.mark.parametrize("normalize", [False, True])
def test_a_file_holds_the_same_recording(tmp_path, normalize):
    algorithm, envs = make(heads=HEADS[:2], normalize=normalize)

    result = evaluate(algorithm, envs, 5, with_activations=True)
    recording.save(tmp_path / "deep" / "run.npz", result)
    loaded = recording.load(tmp_path / "deep" / "run.npz")
    assert set(loaded) == set(result)
    for name in result:
        assert_same(result[name], loaded[name])
    assert loaded["hidden_states"] is loaded["rnn_hxs"]
    assert (loaded["obs_normalized"] is loaded["obs"]) == (not normalize)


def test_a_recording_of_nested_observations(tmp_path):
    algorithm, envs = make("tests.probe_envs:NestedObservation-v0", normalize=False, recurrent=False)
    result = evaluate(algorithm, envs, 4, record=True)
    recording.save(tmp_path / "run.npz", result)
    loaded = recording.load(tmp_path / "run.npz")
    assert_same(result["obs"], loaded["obs"])
    assert isinstance(loaded["obs"][0]["pair"], tuple)


def test_what_is_no_recording_is_refused(tmp_path):
    (tmp_path / "torn.npz").write_bytes(b"PK\x03\x04")
    np.savez(tmp_path / "other.npz", lengths=np.zeros(3))
    for name in ("torn.npz", "other.npz", "nothing.npz"):
        with pytest.raises(UsageError, match="cannot be read"):
            recording.load(tmp_path / name)


def test_the_command_line_records(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    heads = "auxiliary_heads=[(-1,-1,'hour')]"
    train = f"--algo ppo --env-name {CLOCK} --num-processes 4 --num-mini-batch 2 --num-env-steps 400 --log-dir run"
    assert main.main([*train.split(), "--recurrent-policy", "--nn-base-kwargs", heads]) == 0
    command = "--load-dir run --num-episodes 6 --record out.npz --with-activations --action 1"
    assert evaluate_main(command.split()) == 0
    loaded = recording.load("out.npz")
    assert len(loaded["obs"]) == 6
    assert all((actions == 1).all() for actions in loaded["actions"])
    assert loaded["activations"][0]["shared_1"].shape == (loaded["lengths"][0], 64)
    algorithm, envs = load_agent(tmp_path / "run" / "checkpoints" / "latest.pt", num_envs=2)
    envs.close()
    assert algorithm.policy.auxiliary.targets == ["hour"]
    assert isinstance(Clock().signal_spaces, dict)


def test_films_of_chosen_episodes_show_those_episodes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main.main("--env-name CartPole-v1 --num-processes 2 --num-env-steps 100 --log-dir run".split()) == 0
    command = "--load-dir run --num-episodes 5 --num-processes 2 --non-det --record out.npz --video films"
    assert evaluate_main([*command.split(), "--video-episodes", "1", "4"]) == 0
    loaded = recording.load("out.npz")
    assert sorted(path.name for path in (tmp_path / "films").iterdir()) == ["episode-1.mp4", "episode-4.mp4"]
    for episode in (1, 4):
        film = cv2.VideoCapture(f"films/episode-{episode}.mp4")
        assert film.get(cv2.CAP_PROP_FRAME_COUNT) == loaded["lengths"][episode] + 1
    capsys.readouterr()
    assert evaluate_main([*command.split(), "--video-episodes", "5"]) == 2
    assert "the episodes are 0 to 4" in capsys.readouterr().err
