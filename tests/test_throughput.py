"""The speed table: ratios, verdicts, and that both sides do the same work."""

import argparse

import pytest
import stable_baselines3
import torch

from a2c_ppo_acktr import arguments
from benchmarks import measure, throughput
from benchmarks.cells import CELLS, FOREVER


def make_measurement(who, rate, *, threads=1, kind="run", parameters=10, other_cores=0.0):
    return throughput.Measurement("ppo-cartpole", who, kind, 0, threads, rate, 10.0, parameters, 16.0, 100, other_cores)


def test_the_ratio_is_of_medians():
    summary = throughput.summarize([1.0, 30.0, 32.0], [10.0, 9.0, 100.0], [1000.0], goal=3.0)
    assert (summary.project, summary.peer, summary.ratio, summary.met) == (30.0, 10.0, 3.0, True)


@pytest.mark.parametrize(("ours", "met"), [(26.9, False), (27.0, True)])
def test_ninety_percent_of_the_bound_is_enough(ours, met):
    assert throughput.summarize([ours], [10.0], [30.0], goal=3.0).met is met


def test_a_disturbed_measurement_gives_no_verdict():
    calm, disturbed = make_measurement("peer", 1.0), make_measurement("peer", 1.0, other_cores=1.0)
    assert throughput.verdict([calm], met=True) == "yes"
    assert throughput.verdict([calm, disturbed], met=True) == "disturbed"


def test_unequal_networks_are_reported():
    equal = [make_measurement("project", 1.0), make_measurement("peer", 1.0)]
    assert throughput.check_equal_work(equal) == []
    assert "parameters" in throughput.check_equal_work([*equal, make_measurement("peer", 1.0, parameters=11)])[0]


def test_cells_measured_earlier_keep_their_rows(tmp_path):
    rows = [make_measurement(who, rate) for who, rate in (("project", 30.0), ("peer", 10.0), ("bound", 100.0))]
    summary = throughput.summarize([30.0], [10.0], [100.0], goal=3.0)
    for name in ("a2c-cartpole", "ppo-cartpole", "ppo-cartpole"):
        named = [row._replace(cell=name) for row in rows]
        throughput.write_csv(tmp_path / "t.csv", throughput.to_csv_rows(named, summary, CELLS[name]))
    lines = (tmp_path / "t.csv").read_text().splitlines()
    assert len(lines) == 1 + 2 * 6
    assert sum("median" in line and ",yes," in line for line in lines) == 2


SMALL_MEMORY = {"buffer_size": 100, "optimize_memory_usage": False, "replay_buffer_kwargs": {}}


@pytest.mark.parametrize("cell", CELLS.values(), ids=lambda cell: cell.name)
def test_project_and_peer_have_the_same_settings(cell):
    args = arguments.parse(cell.flags.split())
    ours, theirs = args.config, cell.peer.settings
    if args.algo == "dqn":
        assert args.num_steps * args.num_processes == theirs["train_freq"]
        assert args.num_steps * args.num_processes * ours.update_to_data == theirs["gradient_steps"]
        assert ours.target_update_interval == ours.update_to_data * theirs["target_update_interval"]
        assert (ours.lr, ours.max_grad_norm) == (theirs["learning_rate"], theirs["max_grad_norm"])
        for name in ("batch_size", "buffer_size", "learning_starts", "gamma"):
            assert getattr(ours, name) == theirs[name]
        assert not args.env.normalize_env
        model = stable_baselines3.DQN("MlpPolicy", "CartPole-v1", **theirs | SMALL_MEMORY)
        for steps in (0, 2_488, 8_000, 100_000, 10**6):
            peers = model.exploration_schedule(1.0 - steps / FOREVER)
            assert ours.exploration().epsilon(steps) == pytest.approx(peers, abs=1e-6)
        return
    assert args.num_steps == theirs["n_steps"]
    assert args.algo == "acktr" or ours.lr == theirs["learning_rate"]  # a natural gradient has a scale of its own
    assert not ours.use_linear_lr_decay
    for name, peers in (("entropy_coef", "ent_coef"), ("value_loss_coef", "vf_coef"), ("max_grad_norm",) * 2):
        assert getattr(ours, name) == theirs[peers]
    assert args.env.normalize_env == (args.env.env_name != "CartPole-v1")
    if args.algo == "ppo":
        assert args.num_steps * args.num_processes == theirs["batch_size"] * ours.num_mini_batch
        assert ours.ppo_epoch == theirs["n_epochs"]
        assert ours.clip_param == theirs["clip_range"]
        assert (ours.gamma, ours.gae_lambda) == (theirs["gamma"], theirs["gae_lambda"])


def test_the_stopwatch_counts_steps_between_boundaries_after_two_updates(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(measure.time, "perf_counter", lambda: now[0])
    watch = measure.Stopwatch(seconds=10.0)
    boundaries = [(0, 0, 0.0), (1, 100, 50.0), (2, 200, 51.0), (3, 300, 56.0), (4, 400, 63.0)]
    answers = []
    for updates, env_steps, at in boundaries:
        now[0] = at
        answers.append(watch.boundary(updates, env_steps))
    assert answers == [False, False, False, False, True]
    assert watch.rate == pytest.approx(200 / 12)


def test_a_profile_counts_nested_time_for_the_inner_call_alone(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(measure.time, "perf_counter", lambda: now[0])

    class Learner:
        def returns(self):
            now[0] += 1.0

        def update(self):
            now[0] += 2.0
            self.returns()
            self.returns()

    learner, profile = Learner(), measure.Profile()
    profile.wrap(learner, "returns", "returns")
    profile.wrap(learner, "update", "update")
    learner.update()
    assert profile.seconds == {"returns": 2.0, "update": 2.0}
    assert profile.calls == {"returns": 2, "update": 1}


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", ["a2c-cartpole", "ppo-cartpole", "dqn-cartpole"])
def test_project_and_peer_have_equal_networks_and_gradient_steps(name):
    options = argparse.Namespace(seconds=0.01, threads=1, seed=1, device="cpu", num_envs=None)
    ours, theirs = measure.measure_project(CELLS[name], options), measure.measure_peer(CELLS[name], options)
    for quantity in ("parameters", "gradient_steps"):
        assert ours[quantity] == theirs[quantity] > 0
    assert ours["steps_per_second"] > 0
    assert measure.measure_bound(CELLS[name], options)["steps_per_second"] > 0
    parts = measure.measure_profile(CELLS[name], options)["parts"]
    of_kind = {"sample"} if name == "dqn-cartpole" else {"returns"}
    assert set(parts) == {"act", "env step", "insert", "update", "log", "rest"} | of_kind
