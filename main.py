"""Train: `python main.py --algo ppo --env-name CartPole-v1`. The loop that every algorithm shares."""

import contextlib
import dataclasses
import sys
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, SupportsFloat

from a2c_ppo_acktr import algo, arguments
from a2c_ppo_acktr.acting.collect import Collector
from a2c_ppo_acktr.envs import describe, make_vec_envs, remarks
from a2c_ppo_acktr.envs.families import kind_of_observations
from a2c_ppo_acktr.envs.vector import EnvironmentCrash, Envs
from a2c_ppo_acktr.envs.video.rendering import prepare_rendering
from a2c_ppo_acktr.experts.demonstrations import Demonstrations
from a2c_ppo_acktr.interfaces import Episode
from a2c_ppo_acktr.process import (
    Interrupted,
    StopOnSignals,
    default_threads,
    pick_device,
    set_threads,
    tune_process,
)
from a2c_ppo_acktr.run import checkpoint
from a2c_ppo_acktr.run.clone import clone_parameters
from a2c_ppo_acktr.run.run import Diverged, Run
from a2c_ppo_acktr.seeding import env_seed, preserve_rng, seed_everything
from a2c_ppo_acktr.spaces import UnsupportedSpace
from a2c_ppo_acktr.utils import UsageError
from evaluate import evaluate

EVAL_ENVS = 8
"""Environments that share an evaluation's episodes, where training does not have more."""


class Progress(NamedTuple):
    """Where a training stands after an update."""

    update: int
    env_steps: int
    metrics: Mapping[str, SupportsFloat]
    """Under their TensorBoard tags; an evaluation's are among them. Each becomes a number where one asks for it."""
    episodes: list[Episode]
    """Those that finished meanwhile."""


class Parts(NamedTuple):
    """What a training is made of."""

    args: arguments.RunConfig
    envs: Envs
    algorithm: algo.Algorithm
    storage: Any
    collector: Collector
    run: Run


def train(args: arguments.RunConfig) -> Generator[Progress, None, None]:
    """Train as `args` say, an update at a time; closing the generator saves as an interruption does.

    It touches nothing that the whole process shares but random generators, which it draws from and does not seed: see
    `prepare_process`.
    """
    with build(args) as parts:
        try:
            yield from loop(parts)
        except GeneratorExit:
            parts.run.finish(interrupted=True)
            raise
        parts.run.finish(interrupted=False)


def loop(parts: Parts) -> Iterator[Progress]:
    """The loop of every algorithm."""
    args, envs, algorithm, storage, collector, run = parts
    while not algorithm.finished and collector.env_steps < args.num_env_steps:
        algorithm.schedule(collector.env_steps, args.num_env_steps)
        episodes = collector.collect()
        metrics = algorithm.update(storage)
        storage.after_update()
        run.after_update(episodes, metrics)
        if run.evaluation_due():
            run.record_evaluation(*evaluate_now(args, algorithm, envs))
        yield Progress(run.update, collector.env_steps, run.metrics, episodes)


@contextlib.contextmanager
def build(args: arguments.RunConfig) -> Iterator[Parts]:
    """Build, or load, what the flags describe; close it in the end."""
    resumed = checkpoint.load(args.log.resume) if args.log.resume is not None else None
    if resumed is not None and resumed["normalizer"] is None:
        args = dataclasses.replace(args, env=dataclasses.replace(args.env, normalize_env=False))
    demonstrations = load_demonstrations(args)
    with contextlib.ExitStack() as stack:
        video = args.log.capture_video
        seed = env_seed(args.seed, "training")
        envs = make_vec_envs(args.env, args.num_processes, seed, gamma=args.gamma, capture_video=video)
        stack.callback(envs.close)
        algorithm = make_algorithm(args, envs, demonstrations)
        clone(args, algorithm, envs, resumed)
        storage = algorithm.make_storage(args.num_steps, args.num_processes)
        try:
            collector = algorithm.make_collector(envs, storage)
        except EnvironmentCrash as error:  # in the first reset, before anything exists
            raise UsageError(f"--env-name {args.env.env_name}: {error}") from error
        settings = arguments.to_plain(args)
        run = Run(args.log, settings, algorithm, collector, envs.normalizer, resumed, envs.camera)
        stack.callback(run.close)
        for line in (f"{describe(args.env.env_name, envs)}; {storage.describe()}", *remarks(args.env, envs)):
            run.logger.say(line)
        yield Parts(args, envs, algorithm, storage, collector, run)


def load_demonstrations(args: arguments.RunConfig) -> Demonstrations | None:
    """What to imitate, if anything; before any environment starts."""
    return args.imitation.load(args.env.env_name, args.seed) if args.imitation is not None else None


def make_algorithm(args: arguments.RunConfig, envs: Envs, demonstrations: Demonstrations | None) -> algo.Algorithm:
    """The learner that the flags describe, which has studied what it is to imitate."""
    gail = args.gail_config if args.gail else None
    algorithm = algo.make(args.algo, args.config, envs.spaces, pick_device(args.cuda), gail)
    if demonstrations is not None:
        algorithm.imitate(demonstrations.check(envs.observation_space, envs.action_space), envs.normalizer)
    return algorithm


def clone(args: arguments.RunConfig, algorithm: algo.Algorithm, envs: Envs, resumed: Any) -> None:
    """Start from another run's layers; a resumed run, which has its own by now, only freezes them again."""
    source = args.clone_parameter_experiment
    if source is None:
        return
    try:
        clone_parameters(algorithm, envs.normalizer, source, copy=resumed is None, **args.clone_args)
    except TypeError as error:
        raise UsageError(f"--clone-args {args.clone_args}: {error}") from error


def evaluate_now(args: arguments.RunConfig, algorithm: algo.Algorithm, envs: Envs) -> tuple:
    """Returns and lengths of `eval_episodes` deterministic episodes, without a trace in the training."""
    with preserve_rng():
        num_envs = min(max(args.num_processes, EVAL_ENVS), args.log.eval_episodes)
        seed = env_seed(args.seed, "selection")
        eval_envs = make_vec_envs(args.env, num_envs, seed, gamma=args.gamma, training=False)
        with contextlib.closing(eval_envs):
            if envs.normalizer is not None and eval_envs.normalizer is not None:
                eval_envs.normalizer.load_state_dict(envs.normalizer.state_dict())
            result = evaluate(algorithm, eval_envs, args.log.eval_episodes)
    return result["returns"], result["lengths"]


def execute(args: arguments.RunConfig) -> None:
    """Train to the end as the command line does; `Interrupted` where a signal ended it early."""
    with StopOnSignals() as stop, contextlib.closing(train(args)) as training:
        prepare_process(args)
        for _ in training:
            if stop.requested is not None:
                stop.boundary_reached()
                break
    if stop.requested is not None:
        raise Interrupted(stop.requested)


def prepare_process(args: arguments.RunConfig) -> None:
    """Tune and seed what this whole process shares, before anything is built."""
    tune_process()
    if args.log.capture_video:
        prepare_rendering()  # before anything that draws is imported, as it is for the kind of observations
    threads = args.torch_threads
    if threads is None:
        threads = default_threads(images=kind_of_observations(args.env) != "vector")
    set_threads(threads)
    seed_everything(args.seed, args.cuda_deterministic)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    try:
        execute(arguments.parse(argv))
    except (UsageError, UnsupportedSpace) as error:
        print(f"main.py: error: {error}", file=sys.stderr)
        return 2
    except Interrupted as interrupted:
        return 128 + interrupted.signum
    except (Diverged, EnvironmentCrash, OSError) as error:
        print(f"main.py: stopped: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
