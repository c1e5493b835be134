"""One measurement in a process of its own: `python -m benchmarks.measure CELL WHO`. The last line is the result, JSON.

WHO is `project`, `peer`, `bound` (the project's environments with random actions and nothing else) or `profile` (the
project with a clock around each part of a step). Started by `throughput.py`, which sets the number of threads.
"""

import argparse
import contextlib
import dataclasses
import importlib
import io
import json
import resource
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_atari_env, make_vec_env
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack, VecNormalize
from torch.optim.optimizer import register_optimizer_step_post_hook

import main as project
from a2c_ppo_acktr import algo, arguments, envs
from a2c_ppo_acktr.algo.wrapper import Wrapper
from a2c_ppo_acktr.envs import families
from a2c_ppo_acktr.optim.adam import Adam
from a2c_ppo_acktr.process import set_threads
from a2c_ppo_acktr.storage import RolloutStorage
from benchmarks.cells import CELLS, FOREVER, Cell

WARMUP_UPDATES = 2
BOUND_ACTIONS = 256


class Stopwatch:
    """Environment steps per second between two update boundaries, after the warm-up.

    Args:
        seconds: shortest time to measure.
        warmup_steps: environment steps before timing, beside `WARMUP_UPDATES` updates.
    """

    def __init__(self, seconds: float, warmup_steps: int = 0) -> None:
        self.seconds, self.warmup_steps = seconds, warmup_steps
        self.begun: tuple[float, int] | None = None
        self.rate = float("nan")
        self.elapsed = 0.0
        self.optimizer_steps, self.counts = 0, deque([0], maxlen=WARMUP_UPDATES + 1)
        self.hook = register_optimizer_step_post_hook(self._count)

    def _count(self, *_: Any) -> None:
        self.optimizer_steps += 1

    def count(self, optimizer: Any) -> None:
        """Count the steps that torch's hooks do not see."""
        if isinstance(optimizer, Adam):
            step = optimizer.step
            optimizer.step = lambda: self._count(step())  # type: ignore[assignment]  # of this instance alone

    @property
    def gradient_steps(self) -> float:
        """Gradient steps per update, counted over the last updates of the warm-up."""
        return (self.counts[-1] - self.counts[0]) / (len(self.counts) - 1)

    def boundary(self, updates: int, env_steps: int) -> bool:
        """Call after each update; True once the measurement is complete."""
        now = time.perf_counter()
        if self.begun is None:
            self.counts.append(self.optimizer_steps)
            if updates >= WARMUP_UPDATES and env_steps >= self.warmup_steps:
                self.hook.remove()
                self.begun = (time.perf_counter(), env_steps)
            return False
        self.elapsed = now - self.begun[0]
        if self.elapsed < self.seconds:
            return False
        self.rate = (env_steps - self.begun[1]) / self.elapsed
        return True


def parse(cell: Cell, options: argparse.Namespace, log_dir: str) -> arguments.RunConfig:
    """The project's settings for a cell, through its command line."""
    common = ["--seed", str(options.seed), "--torch-threads", str(options.threads), "--num-env-steps", str(FOREVER)]
    if options.num_envs is not None:
        common += ["--num-processes", str(options.num_envs)]
    place = ["--log-dir", log_dir] if log_dir else []
    args = arguments.parse([*cell.flags.split(), *common, *place, "--save-dir", ""])
    args.cuda = options.device == "cuda"
    if args.log.eval_interval is not None:
        args.log.eval_interval = FOREVER  # the peer evaluates nothing
    return args


@contextlib.contextmanager
def build(cell: Cell, options: argparse.Namespace) -> Iterator[project.Parts]:
    """The project's parts, its files in a temporary folder and its console lines unseen."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        args = parse(cell, options, folder)
        project.prepare_process(args)
        yield stack.enter_context(project.build(args))


def train(parts: project.Parts, finished: Callable[[int, int], bool]) -> None:
    """Train until `finished(updates, env_steps)`."""
    for progress in project.loop(parts):
        if finished(progress.update, progress.env_steps):
            return


def result(watch: Stopwatch, network: torch.nn.Module | None) -> dict[str, Any]:
    """What a measurement reports: speed, and what must be equal on both sides."""
    parameters = sum(p.numel() for p in network.parameters()) if network is not None else 0
    return {
        "steps_per_second": watch.rate,
        "seconds": watch.elapsed,
        "parameters": parameters,
        "gradient_steps": watch.gradient_steps,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def measure_project(cell: Cell, options: argparse.Namespace) -> dict[str, Any]:
    """The project, end to end."""
    with build(cell, options) as parts:
        watch = Stopwatch(options.seconds, cell.warmup_steps)
        learner = parts.algorithm.learner if isinstance(parts.algorithm, Wrapper) else parts.algorithm
        watch.count(learner.optimizer)
        train(parts, watch.boundary)
        return result(watch, networks(parts.algorithm))


def networks(algorithm: algo.Algorithm) -> torch.nn.ModuleList:
    """All that an algorithm holds, target networks included."""
    return torch.nn.ModuleList(algorithm.networks().values())


class PeerCallback(BaseCallback):
    """Times SB3's `learn` from the beginning of one rollout to that of a later one, and stops it."""

    def __init__(self, watch: Stopwatch) -> None:
        super().__init__()
        self.watch, self.updates, self.finished = watch, -1, False

    def _on_rollout_start(self) -> None:
        self.updates += 1
        self.finished = self.watch.boundary(self.updates, self.num_timesteps)

    def _on_step(self) -> bool:
        return not self.finished


def make_peer_envs(cell: Cell, args: arguments.RunConfig) -> VecEnv:
    """The peer's environments: its own wrappers, the project's environment, number and normalization."""
    env_id = families.resolve(args.env.env_name)
    if cell.atari:
        return VecFrameStack(make_atari_env(env_id, args.num_processes, args.seed, **cell.peer_env), n_stack=4)
    vec_env = make_vec_env(env_id, args.num_processes, args.seed, **cell.peer_env)
    return VecNormalize(vec_env, gamma=args.gamma) if args.env.normalize_env else vec_env


def measure_peer(cell: Cell, options: argparse.Namespace) -> dict[str, Any]:
    """The peer, through its own `learn`."""
    peer, args = cell.peer, parse(cell, options, log_dir="")
    algorithm = getattr(importlib.import_module(peer.module), peer.algorithm)
    with contextlib.closing(make_peer_envs(cell, args)) as vec_env:
        model = algorithm(peer.policy, vec_env, seed=args.seed, device=options.device, **peer.settings)
        watch = Stopwatch(options.seconds, cell.warmup_steps)
        model.learn(FOREVER, callback=PeerCallback(watch))
        return result(watch, model.policy)


def measure_bound(cell: Cell, options: argparse.Namespace) -> dict[str, Any]:
    """The project's environments with random actions: no learning, no normalization."""
    args = parse(cell, options, log_dir="")
    config = dataclasses.replace(args.env, normalize_env=False)
    with contextlib.closing(envs.make_vec_envs(config, args.num_processes, args.seed)) as environments:
        space, num = environments.action_space, environments.num_envs
        space.seed(args.seed)
        batches = [np.stack([space.sample() for _ in range(num)]) for _ in range(BOUND_ACTIONS)]
        environments.reset()
        watch, updates = Stopwatch(options.seconds), 0
        while not watch.boundary(updates, updates * BOUND_ACTIONS * num):
            for actions in batches:
                environments.step_arrays(actions)
            updates += 1
        return result(watch, None)


class Profile:
    """Exclusive time of wrapped calls: what a call spends inside another wrapped call counts for the inner one."""

    def __init__(self) -> None:
        self.inner: list[float] = []
        self.clear()

    def clear(self) -> None:
        """Forget what was measured."""
        self.seconds: dict[str, float] = {}
        self.calls: dict[str, int] = {}

    def wrap(self, owner: Any, method: str, name: str) -> None:
        """Time `owner.method` under `name`."""
        function = getattr(owner, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            self.inner.append(0.0)
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                elapsed = time.perf_counter() - start
                self.seconds[name] = self.seconds.get(name, 0.0) + elapsed - self.inner.pop()
                self.calls[name] = self.calls.get(name, 0) + 1
                if self.inner:
                    self.inner[-1] += elapsed

        setattr(owner, method, timed)


def measure_profile(cell: Cell, options: argparse.Namespace) -> dict[str, Any]:
    """Where the project's time goes: seconds and calls of each part; `rest` is everything outside them."""
    with build(cell, options) as parts:
        profile, watch = Profile(), Stopwatch(options.seconds, cell.warmup_steps)
        profile.wrap(parts.algorithm, "act", "act")
        profile.wrap(parts.envs, "step_arrays", "env step")
        profile.wrap(parts.storage, "insert", "insert")
        if isinstance(parts.storage, RolloutStorage):
            profile.wrap(parts.storage, "compute_returns", "returns")
        else:
            profile.wrap(parts.storage, "sample", "sample")
        profile.wrap(parts.algorithm, "update", "update")
        profile.wrap(parts.run, "after_update", "log")
        if isinstance(parts.algorithm, algo.GAIL):
            profile.wrap(parts.algorithm, "train_discriminator", "discriminator")
            profile.wrap(parts.algorithm, "write_rewards", "rewards")
            profile.wrap(parts.algorithm.learner, "act", "act")
            profile.wrap(parts.algorithm.learner, "update", "the learner's update")
        if isinstance(parts.algorithm, algo.ACKTR):
            profile.wrap(parts.algorithm.optimizer, "observe", "covariances")
            profile.wrap(parts.algorithm.optimizer, "output_gradients", "Fisher backward")
            profile.wrap(parts.algorithm.optimizer, "invert", "inverse")
            profile.wrap(parts.algorithm.optimizer, "step", "precondition and step")

        def finished(updates: int, env_steps: int) -> bool:
            warming_up = watch.begun is None
            complete = watch.boundary(updates, env_steps)
            if warming_up:
                profile.clear()
            return complete

        train(parts, finished)
        rest = watch.elapsed - sum(profile.seconds.values())
        return result(watch, networks(parts.algorithm)) | {
            "num_envs": parts.envs.num_envs,
            "parts": profile.seconds | {"rest": rest},
            "calls": profile.calls,
        }


MEASUREMENTS = {
    "project": measure_project,
    "peer": measure_peer,
    "bound": measure_bound,
    "profile": measure_profile,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("cell", choices=CELLS)
    parser.add_argument("who", choices=MEASUREMENTS)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--num-envs", type=int, default=None, help="environments (default: the cell's)")
    options = parser.parse_args()
    set_threads(options.threads)
    print(json.dumps(MEASUREMENTS[options.who](CELLS[options.cell], options)))


if __name__ == "__main__":
    main()
