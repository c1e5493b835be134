"""Settings of experiments: cross products, command lines, names, and what a queue takes in."""

import os
import signal

import numpy as np
import pytest

from a2c_ppo_acktr import arguments
from a2c_ppo_acktr.jobs import launcher
from a2c_ppo_acktr.utils import UsageError
from tests.queues import CARTPOLE, FORK, make_queue
from write_and_test.experiments import Queue, product
from write_and_test.settings import LONGEST_NAME, names, to_flags, to_plain, validate


def test_a_product_has_every_combination_and_its_last_key_varies_fastest():
    found = product({"algo": "ppo", "lr": 1.0}, {"lr": [1e-3, 3e-4], "seed": range(1, 3)})
    assert found == [{"algo": "ppo", "lr": lr, "seed": seed} for lr in (1e-3, 3e-4) for seed in (1, 2)]
    assert product({"algo": "ppo"}, {}) == [{"algo": "ppo"}]


def test_a_product_varies_one_entry_of_a_dictionary():
    base = {"env_kwargs": {"sutton_barto_reward": True}}
    found = product(base, {"env_kwargs.gravity": [5, 9.8], "nn_base_kwargs.hidden_size": [32]})
    assert [one["env_kwargs"] for one in found] == [{"sutton_barto_reward": True, "gravity": g} for g in (5, 9.8)]
    assert found[0]["nn_base_kwargs"] == {"hidden_size": 32}
    assert base == {"env_kwargs": {"sutton_barto_reward": True}}


@pytest.mark.parametrize("values", [3, "abc", {"a": 1}, []])
def test_a_product_wants_lists(values):
    with pytest.raises(UsageError, match="lr: expected a list of values"):
        product(CARTPOLE, {"lr": values})


@pytest.mark.parametrize(
    "settings",
    [
        {"lr": 1e-3, "entropy_coef": -1e-05, "num_env_steps": 1e6},
        {"use_gae": True, "normalize_env": False, "cuda_deterministic": False},
        {"env_kwargs": {"gravity": 9.8, "name": "1", "sizes": [1, "True", None], "on": True, "text": "a b=c"}},
        {"env_name": "module:My/Env-v0", "save_dir": "", "env_kwargs": {}},
        {"nn_base_kwargs": {"auxiliary_heads": [[-1, 0, "hour"], [1, -1, "next:time", 0.5]], "more": {"a": 1}}},
        {"auxiliary_truth_sizes": [2, 1]},
        {"lr": np.float32(0.5), "num_steps": np.int64(7)},
    ],
    ids=lambda settings: ",".join(settings),
)
def test_the_command_line_says_what_the_settings_say(settings):
    args = arguments.parse(to_flags(to_plain({"algo": "ppo", **settings})))
    read = {**arguments.to_plain(args), **vars(args.config)}
    assert {key: read[key] for key in settings} == settings


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"lr": "abc"}, "--lr abc: expected a number"),
        ({"lrr": 1}, "--lrr=1: unknown flag for ppo; did you mean --lr?"),
        ({"num_processes": 0}, "--num-processes 0: expected at least 1"),
        ({"algo": "none"}, "--algo none: unknown"),
        ({"lr": [1, 2]}, r"lr: \[1, 2\] is a list"),
        ({"lr": b"1"}, "lr: b'1' is not a number"),
        ({"log_dir": "here"}, "log_dir: the queue gives"),
        ({"resume": "run"}, "resume: the queue gives"),
        ({"help": True}, "help: is not a setting"),
        ({"lr": False}, "lr: False would be read as"),
        ({"preset": "classic", "use_gae": False}, "use_gae: False would be read as True"),
    ],
    ids=str,
)
def test_a_bad_setting_is_one_line_that_names_it_and_nothing_is_added(tmp_path, bad, message):
    queue = Queue(tmp_path / "queue")
    with pytest.raises(UsageError, match=f"^{message}") as caught:
        queue.add([CARTPOLE, {**CARTPOLE, **bad}])
    assert "\n" not in str(caught.value)
    assert not queue.folder.exists()


# the queue


def test_names_say_environment_algorithm_what_varies_and_the_seed(tmp_path):
    queue = Queue(tmp_path / "queue")
    base = {"env_name": "CartPole-v1", "gamma": 0.9}
    found = queue.add(product(base, {"algo": ["a2c", "ppo"], "env_kwargs.sutton_barto_reward": [True, False]}))
    assert found == [
        f"CartPole-v1__{algo}__env_kwargs.sutton_barto_reward={on}__seed=1"
        for algo in ("a2c", "ppo")
        for on in (True, False)
    ]
    own = {**CARTPOLE, "env_name": "my.module:Env/X-v0"}
    assert names([own], [validate(own)], "../a b") == ["a-b__my.module-Env-X-v0__ppo__seed=1"]
    assert sorted(path.name for path in queue.folder.glob("*.json")) == sorted(
        f"{experiment.name}.json" for experiment in queue.experiments()
    )


def test_long_names_are_cut_and_stay_unique(tmp_path):
    long = product(CARTPOLE, {"config_file_name": ["x" * 300 + end for end in "ab"]})
    found = Queue(tmp_path / "queue").add(long)
    assert len(set(found)) == 2
    assert max(map(len, found)) == LONGEST_NAME


def test_adding_the_same_again_changes_nothing_under_whatever_name(tmp_path):
    queue = make_queue(tmp_path, runs=2)
    before = {path: path.stat().st_mtime_ns for path in queue.folder.glob("*.json")}
    again = queue.add(product(CARTPOLE, {"seed": [1, 2]}), name="other")
    assert again == [experiment.name for experiment in queue.experiments()]
    assert {path: path.stat().st_mtime_ns for path in queue.folder.glob("*.json")} == before
    assert len(queue.add(product(CARTPOLE, {"gamma": [0.9], "seed": [3, 4]}))) == 2
    assert [experiment.settings["seed"] for experiment in queue.experiments()] == [1, 2, 3, 4]


def test_a_different_experiment_of_the_same_name_is_refused_and_nothing_is_added(tmp_path):
    queue = make_queue(tmp_path)
    with pytest.raises(UsageError, match=r"CartPole-v1__ppo__seed=1: .* another experiment .* differ in gamma"):
        queue.add([{**CARTPOLE, "gamma": 0.9, "seed": 2}, {**CARTPOLE, "gamma": 0.9, "seed": 1}])
    assert [experiment.settings for experiment in queue.experiments()] == [{**CARTPOLE, "seed": 1}]
    assert queue.add({**CARTPOLE, "gamma": 0.9, "seed": 1}, name="low") == ["low__CartPole-v1__ppo__seed=1"]


def test_an_addition_that_is_killed_at_any_file_leaves_whole_ones_and_can_be_repeated(tmp_path, monkeypatch):
    queue, settings = Queue(tmp_path / "queue"), product(CARTPOLE, {"seed": range(1, 5)})
    flushed = []

    def die_at_the_third(descriptor):
        flushed.append(descriptor)
        if len(flushed) == 3:
            os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", die_at_the_third)  # everything is written, nothing is renamed
        process = FORK.Process(target=queue.add, args=(settings,))
        process.start()
        process.join()
    assert process.exitcode == -signal.SIGKILL
    assert [experiment.settings["seed"] for experiment in queue.experiments()] == [1, 2]
    assert len(queue.add(settings)) == 4
    assert [experiment.settings["seed"] for experiment in queue.experiments()] == [1, 2, 3, 4]


def test_additions_wait_for_one_another(tmp_path):
    queue, held, release = make_queue(tmp_path), FORK.Event(), FORK.Event()

    def hold():
        with launcher.take_lock(queue.folder / ".lock"):
            held.set()
            release.wait(30)

    holder, adder = FORK.Process(target=hold), FORK.Process(target=queue.add, args=({**CARTPOLE, "seed": 2},))
    holder.start()
    held.wait(30)
    adder.start()
    adder.join(0.5)
    assert len(queue.experiments()) == 1
    release.set()
    adder.join(30)
    assert len(queue.experiments()) == 2
    holder.join()


def test_a_file_that_is_no_experiment_is_named(tmp_path):
    queue = make_queue(tmp_path)
    (queue.folder / "stray.json").write_text('{"settings"')
    with pytest.raises(UsageError, match=r"stray.json: not an experiment"):
        queue.status()


# running
