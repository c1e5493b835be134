"""The training as a generator: for whoever wants to look between updates, in a notebook or on a thread."""

import threading
import types
from pathlib import Path

import pytest

import main
from a2c_ppo_acktr import arguments
from a2c_ppo_acktr.algo import A2C
from a2c_ppo_acktr.envs import EnvConfig, families
from a2c_ppo_acktr.run import checkpoint
from a2c_ppo_acktr.seeding import seed_everything
from a2c_ppo_acktr.signals import Interrupted, StopOnSignals
from tests.test_loop import assert_same_state, final_state

LINE = "--env-name CartPole-v1 --num-processes 3 --num-steps 16 --torch-threads 1 --save-dir="


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def training(updates, *flags):
    """A seeded training that nobody has begun."""
    args = arguments.parse([*LINE.split(), "--num-env-steps", str(48 * updates), "--log-dir", "run", *flags])
    seed_everything(args.seed)
    return main.train(args)


def state_of(folder):
    return {key: final_state(Path(folder))[key] for key in ("algorithm", "collector", "normalizer", "rng", "update")}


def test_it_yields_once_per_update_and_says_where_it_stands():
    steps = list(training(40, "--eval-interval", "40", "--eval-episodes", "2"))
    assert [step.update for step in steps] == list(range(1, 41))
    assert [step.env_steps for step in steps] == list(range(48, 48 * 41, 48))
    assert {"losses/value_loss", "losses/policy_loss"} <= steps[0].metrics.keys()
    assert ["eval/return_mean" in step.metrics for step in steps] == [False] * 39 + [True]
    written = sum(len(path.read_text().splitlines()) - 2 for path in Path("run").glob("*.monitor.csv"))
    assert sum(len(step.episodes) for step in steps) == written > 0


def test_nothing_is_made_before_the_first_update_is_asked_for():
    training(3).close()
    assert not Path("run").exists()


def test_it_is_the_training_of_the_command_line():
    for _ in training(6):
        pass
    main.execute(arguments.parse([*LINE.split(), "--num-env-steps", "288", "--log-dir", "program"]))
    assert_same_state(state_of("run"), state_of("program"))


def test_it_runs_on_a_thread():
    seen = []
    thread = threading.Thread(target=lambda: seen.extend(training(6, "--eval-interval", "3", "--eval-episodes", "1")))
    thread.start()
    thread.join()
    assert len(seen) == 6
    assert final_state(Path("run"))["update"] == 6


@pytest.mark.parametrize("leave", [lambda updates: updates.close(), lambda updates: None], ids=["closed", "dropped"])
def test_leaving_it_early_saves_and_resuming_continues_bit_for_bit(leave, capsys):
    for _ in training(9, "--log-dir", "whole"):
        pass
    updates = training(9)
    for step in updates:
        if step.update == 4:
            break
    leave(updates)
    del updates
    assert final_state(Path("run"))["update"] == 4
    assert "continue with" in capsys.readouterr().out
    main.execute(arguments.parse(["--resume", "run"]))
    assert_same_state(state_of("whole"), state_of("run"))


def test_an_exception_of_the_learner_saves_nothing(monkeypatch, capsys):
    update, calls = A2C.update, []

    def broken(learner, storage):
        calls.append(storage)
        if len(calls) == 3:
            raise ArithmeticError("of the third update")
        return update(learner, storage)

    monkeypatch.setattr(A2C, "update", broken)
    with pytest.raises(ArithmeticError, match="of the third update"):
        list(training(9))
    assert final_state(Path("run"))["update"] == 0
    assert "environment steps" not in capsys.readouterr().out


def test_a_signal_before_the_last_update_is_over_counts_as_an_interruption(monkeypatch, capsys):
    """The consumer decides between updates; here at the last one."""

    class Requested(StopOnSignals):
        def __enter__(self):
            self.requested = 2
            return super().__enter__()

    monkeypatch.setattr(main, "StopOnSignals", Requested)
    with pytest.raises(Interrupted):
        main.execute(arguments.parse([*LINE.split(), "--num-env-steps", "48", "--log-dir", "run"]))
    assert "continue with" in capsys.readouterr().out
    assert final_state(Path("run"))["update"] == 1


def test_settings_are_kept_flat_so_that_runs_of_earlier_versions_continue():
    list(training(2, "--time-feature", "--save-interval", "7"))
    settings = checkpoint.load("run/checkpoints/latest.pt")["settings"]
    assert (settings["env_name"], settings["time_feature"], settings["save_interval"]) == ("CartPole-v1", True, 7)
    nested = {name for name, value in settings.items() if isinstance(value, dict)}
    assert nested == {"config", "gail_config", "env_kwargs", "aux_wrapper_kwargs", "clone_args"}
    del settings["hide_observations"]  # as a version did that had no such flag
    args = arguments.from_plain(settings | {"forgotten": 1})
    assert args.env == EnvConfig("CartPole-v1", time_feature=True)
    assert args.log.save_interval == 7


def test_environments_scale_rewards_by_the_algorithms_discount_or_by_upstreams():
    assert arguments.parse("--env-name CartPole-v1 --gamma 0.9".split()).gamma == 0.9
    args = arguments.parse("--env-name CartPole-v1".split())
    args.config = types.SimpleNamespace(lr=1e-3)  # as of behavioral cloning, which reads no rewards
    assert args.gamma == 0.99


@pytest.mark.parametrize("algorithm", ["a2c", "dqn"])
def test_no_environment_is_built_twice_to_learn_its_kind_of_observations(monkeypatch, algorithm):
    built, make_env = [], families.make_env
    monkeypatch.setattr(families, "make_env", lambda config: built.append(config) or make_env(config))
    monkeypatch.setattr(families, "_KINDS", {})
    line = f"--algo {algorithm} --env-name CartPole-v1 --num-steps 4 --num-env-steps 64 --save-dir="
    main.execute(arguments.parse(line.split()))
    assert len(built) == 1
