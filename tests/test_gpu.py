"""On a GPU: every learner learns there what it learns on the CPU, goes on bit for bit, and does not wait needlessly.

Skipped where there is none.
"""

import os

import numpy as np
import pytest
import torch

import main
from a2c_ppo_acktr import algo, arguments
from a2c_ppo_acktr.envs import EnvConfig, make_vec_envs
from a2c_ppo_acktr.fast import graphs
from a2c_ppo_acktr.seeding import seed_everything
from evaluate import evaluate, load_agent
from tests.test_bc_runs import CARTPOLE as BC
from tests.test_bco_runs import BCO, write_cartpole
from tests.test_gail_runs import LINE as GAIL
from tests.test_gail_runs import record_cartpole
from tests.test_loop import assert_same_state, final_state
from tests.test_q_resume import CARTPOLE as Q_CARTPOLE
from tests.test_q_resume import EXACT as Q_LEARNING
from tests.test_q_resume import interrupt_at, run_in_parts

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read once, when the first matrix is multiplied


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield
    torch.use_deterministic_algorithms(False)


SMALL = "--num-processes 2 --num-steps 16 --save-dir= "
VECTOR, IMAGE = f"--env-name CartPole-v1 {SMALL}", f"--env-name PongNoFrameskip-v4 --vec-env dummy {SMALL}"
NAVIGATION = (
    f"--env-name Navigation-v0 {SMALL} --recurrent-policy --nn-base FlexBase "
    "--nn-base-kwargs num_layers=2 num_shared_layers=1 auxiliary_heads=[(1,-1,'position'),(1,-1,'heading')]"
)
ON_POLICY = [
    f"--algo a2c {VECTOR}",
    f"--algo a2c {VECTOR} --recurrent-policy",
    f"--algo a2c {IMAGE}",
    f"--algo ppo {VECTOR} --num-mini-batch 2",
    f"--algo ppo {VECTOR} --num-mini-batch 2 --recurrent-policy",
    f"--algo ppo --env-name Pendulum-v1 {SMALL} --num-mini-batch 2 --trust-region-delta 0.02",
    f"--algo ppo {IMAGE} --num-mini-batch 2 --bfloat16",
    f"--algo ppo {VECTOR} --num-mini-batch 2 --returns v-trace",
    f"--algo ppo {NAVIGATION} --num-mini-batch 2",
    f"--algo ppo {VECTOR} --num-mini-batch 2 --nn-base tests.test_networks:Waiting",
    f"--algo acktr {VECTOR}",
    f"--algo acktr {IMAGE}",
    f"--algo a2c --gail-spectral-norm {GAIL} --gail-warm-up 8 --subsample 4",
    f"--algo ppo --num-mini-batch 2 --recurrent-policy {GAIL} --gail-warm-up 8 --subsample 4",
]


def record():
    record_cartpole()
    write_cartpole()


def on_the_gpu(line, updates):
    """The command line with as many steps as `updates` take, deterministic kernels and a replay that is saved."""
    argv = f"{line} --torch-threads 1 --cuda-deterministic"
    args = arguments.parse(argv.split())
    return f"{argv} --num-env-steps {max(1, args.num_processes * args.num_steps) * updates}"


RESUMED = [
    *((line, 12) for line in ON_POLICY),
    *((f"--algo {name} {base} {flags} --save-replay", updates) for name, base, flags, updates in Q_LEARNING),
    (BCO.replace("--no-cuda", ""), 4),
    (BC.replace("--no-cuda", "--epochs 12 --patience 12"), 12),
]


@pytest.mark.parametrize(("line", "updates"), RESUMED, ids=[line for line, _ in RESUMED])
def test_resuming_equals_never_having_stopped_bit_for_bit(tmp_path, monkeypatch, line, updates):
    record()
    made = []
    original = main.make_algorithm
    monkeypatch.setattr(main, "make_algorithm", lambda *args: made.append(original(*args)) or made[-1])
    argv = on_the_gpu(line, updates)
    main.execute(arguments.parse([*argv.split(), "--log-dir", "whole"]))
    run_in_parts(argv, updates * 2 // 3, monkeypatch)
    main.execute(arguments.parse(["--resume", "parts"]))
    assert all(parameter.is_cuda for learner in made for parameter in learner.policy.parameters())
    whole, parts = final_state(tmp_path / "whole"), final_state(tmp_path / "parts")
    assert whole["update"] == parts["update"]
    for key in ("algorithm", "collector", "normalizer", "rng", "best"):
        assert_same_state(whole[key], parts[key], key)


CAPTURED = [
    f"--algo a2c {VECTOR}",
    f"--algo a2c {IMAGE} --use-linear-lr-decay",
    f"--algo ppo {VECTOR} --num-mini-batch 3 --use-linear-clip-decay --use-linear-lr-decay",
    f"--algo ppo {VECTOR} --num-mini-batch 2 --policy-lr 1e-3 --target-kl 0.001",
    f"--algo ppo --env-name tests.probe_envs:MaskedActions-v0 {SMALL} --num-mini-batch 2",
    f"--algo ppo {NAVIGATION.replace('--recurrent-policy', '')} --num-mini-batch 2",
    *(f"--algo {name} {base} {flags}" for name, base, flags, _ in Q_LEARNING if name != "r2d1"),
    *(line for line in ON_POLICY if "Pendulum" in line or "bfloat16" in line or "spectral" in line),
]


@pytest.mark.parametrize("line", CAPTURED)
def test_a_run_with_captures_equals_one_without_bit_for_bit(tmp_path, monkeypatch, line):
    record()
    argv, replayed = on_the_gpu(line, 24), []
    original = graphs._Capture.replay
    monkeypatch.setattr(graphs._Capture, "replay", lambda *args: replayed.append(1) or original(*args))
    main.execute(arguments.parse([*argv.split(), "--log-dir", "with"]))
    assert len(replayed) > 50
    monkeypatch.setattr(graphs, "REHEARSALS", 10**9)
    replayed.clear()
    main.execute(arguments.parse([*argv.split(), "--log-dir", "without"]))
    assert not replayed
    states = [final_state(tmp_path / name) for name in ("with", "without")]
    for key in ("algorithm", "collector", "normalizer", "rng", "best"):
        assert_same_state(states[0][key], states[1][key], key)


@pytest.mark.parametrize("line", [ON_POLICY[1], ON_POLICY[10], f"--algo rainbow {Q_CARTPOLE}", ON_POLICY[12]])
@pytest.mark.parametrize(("first", "then"), [("", "--no-cuda"), ("--no-cuda", "--cuda")])
def test_a_checkpoint_is_at_home_on_either_device(tmp_path, monkeypatch, line, first, then):
    record()
    argv = on_the_gpu(line, 12)
    with monkeypatch.context() as context:
        interrupt_at(8, context)
        assert main.main([*argv.split(), *first.split(), "--log-dir", "parts"]) in (0, 130)
    assert main.main(["--resume", "parts", *then.split()]) == 0
    assert final_state(tmp_path / "parts")["update"] == 12
    agent, envs = load_agent(tmp_path / "parts" / "checkpoints" / "latest.pt")
    assert len(evaluate(agent, envs, 2)["returns"]) == 2


def twins(name, env_id, gail=None, num_envs=4, **config):
    """The same learner on both devices, with environments for the first."""
    seed_everything(1)
    envs = make_vec_envs(EnvConfig(env_id, vec_env="dummy"), num_envs, seed=1)
    config = algo.ALGORITHMS[name].Config(**config)
    ours, theirs = (algo.make(name, config, envs.spaces, device, gail) for device in ("cpu", "cuda"))
    theirs.load_state_dict(ours.state_dict())
    return envs, ours, theirs


def moved(value):
    """A copy of what a rollout holds, on the GPU."""
    if isinstance(value, torch.Tensor):
        return value.clone().cuda()
    if isinstance(value, dict):
        return {key: moved(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [moved(entry) for entry in value]
    if isinstance(value, tuple):
        return type(value)(*map(moved, value)) if hasattr(value, "_fields") else tuple(map(moved, value))
    return value


def assert_close_gradients(ours, theirs):
    expected, found = ours.parameters.grad, theirs.parameters.grad.cpu()
    assert expected.abs().max() > 0
    assert (found - expected).abs().max() < 2e-3 * expected.abs().max()


UPDATES = [
    ("a2c", "CartPole-v1", {}),
    ("a2c", "PongNoFrameskip-v4", {}),
    ("a2c", "CartPole-v1", {"recurrent_policy": True}),
    ("ppo", "Pendulum-v1", {"num_mini_batch": 1, "ppo_epoch": 1, "use_proper_time_limits": True}),
    ("ppo", "PongNoFrameskip-v4", {"num_mini_batch": 1, "ppo_epoch": 1, "use_gae": True}),
    ("ppo", "CartPole-v1", {"num_mini_batch": 1, "ppo_epoch": 1, "recurrent_policy": True}),
    ("acktr", "CartPole-v1", {}),
]


@pytest.mark.parametrize(("name", "env_id", "config"), UPDATES)
def test_an_update_has_the_gradients_of_the_cpu(monkeypatch, name, env_id, config):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    envs, ours, theirs = twins(name, env_id, **config)
    storage, copied = (learner.make_storage(32, 4) for learner in (ours, theirs))
    ours.make_collector(envs, storage).collect()
    for field, value in vars(storage).items():
        if "rows" not in field:
            setattr(copied, field, moved(value))
    metrics = [learner.update(filled) for learner, filled in ((ours, storage), (theirs, copied))]
    assert_close_gradients(ours, theirs)
    drawn = {"losses/trust_region_scale"}  # of a Fisher matrix of samples
    for tag, value in metrics[0].items():
        if tag in drawn:
            continue
        assert float(metrics[1][tag]) == pytest.approx(float(value), rel=1e-2, abs=1e-4), tag


GREEDY = [
    ("dqn", "CartPole-v1", {"double": True, "dueling": True, "prioritized": True, "n_step": 3}),
    ("dqn", "PongNoFrameskip-v4", {"hidden_size": [32]}),
    ("c51", "CartPole-v1", {}),
    ("qr_dqn", "CartPole-v1", {}),
    ("r2d1", "CartPole-v1", {"burn_in": 2, "sequence_length": 5, "sequence_interval": 4}),
]


@pytest.mark.parametrize(("name", "env_id", "config"), GREEDY)
def test_a_gradient_step_of_q_learning_has_the_gradients_of_the_cpu(monkeypatch, name, env_id, config):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    envs, ours, theirs = twins(name, env_id, save_replay=True, buffer_size=1000, batch_size=16, **config)
    storage, copied = (learner.make_storage(64, 4) for learner in (ours, theirs))
    ours.make_collector(envs, storage).collect()
    copied.load_state_dict(storage.state_dict())
    for learner, filled in ((ours, storage), (theirs, copied)):
        np.random.seed(0)
        learner.gradient_step(filled)
    assert_close_gradients(ours, theirs)


@pytest.mark.parametrize("line", [ON_POLICY[0], ON_POLICY[3], f"--algo ppo {IMAGE} --num-mini-batch 2"])
def test_an_update_never_waits_for_the_gpu(line):
    args = arguments.parse(line.split())
    envs = make_vec_envs(args.env, args.num_processes, args.seed, gamma=args.gamma)
    learner = main.make_algorithm(args, envs, None)
    storage = learner.make_storage(args.num_steps, args.num_processes)
    collector = learner.make_collector(envs, storage)
    try:
        for mode in ("default", "error"):  # the first update of all prepares kernels
            collector.collect()
            torch.cuda.synchronize()
            torch.cuda.set_sync_debug_mode(mode)
            learner.update(storage)
            torch.cuda.set_sync_debug_mode("default")
            storage.after_update()
    finally:
        torch.cuda.set_sync_debug_mode("default")
        envs.close()
