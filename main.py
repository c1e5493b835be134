"""Train: `python main.py --algo ppo --env-name CartPole-v1`. The loop that every algorithm shares."""

import contextlib
import sys
from collections.abc import Sequence
from typing import Any

from a2c_ppo_acktr import algo, arguments
from a2c_ppo_acktr.envs import describe, make_vec_envs
from a2c_ppo_acktr.envs.vector import EnvironmentCrash, Envs
from a2c_ppo_acktr.experts.demonstrations import Demonstrations
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
from a2c_ppo_acktr.seeding import preserve_rng, seed_everything
from a2c_ppo_acktr.spaces import UnsupportedSpace, is_image
from a2c_ppo_acktr.utils import UsageError
from evaluate import evaluate

EVAL_ENVS = 8
"""Environments that share an evaluation's episodes, where training does not have more."""


def train(args: arguments.RunConfig) -> None:
    """Train as `args` say; `Interrupted` where a signal ended it early."""
    resumed = checkpoint.load(args.log.resume) if args.log.resume is not None else None
    demonstrations = load_demonstrations(args)
    seed_everything(args.seed, args.cuda_deterministic)
    tune_process()
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(StopOnSignals())
        video = args.log.capture_video
        envs = make_vec_envs(args.env, args.num_processes, args.seed, gamma=args.gamma, capture_video=video)
        stack.callback(envs.close)
        set_threads(args.torch_threads or default_threads(is_image(envs.observation_space)))
        algorithm = make_algorithm(args, envs, demonstrations)
        clone(args, algorithm, envs, resumed)
        storage = algorithm.make_storage(args.num_steps, args.num_processes)
        collector = algorithm.make_collector(envs, storage)
        settings = arguments.to_plain(args)
        run = Run(args.log, settings, algorithm, collector, envs.normalizer, resumed, envs.camera)
        stack.callback(run.close)
        run.logger.say(f"{describe(args.env.env_name, envs)}; {storage.describe()}")

        while not algorithm.finished and collector.env_steps < args.num_env_steps and stop.requested is None:
            algorithm.schedule(collector.env_steps, args.num_env_steps)
            episodes = collector.collect()
            metrics = algorithm.update(storage)
            storage.after_update()
            run.after_update(episodes, metrics)
            if run.evaluation_due():
                run.record_evaluation(*evaluate_now(args, algorithm, envs))

        stop.boundary_reached()
        run.finish(interrupted=stop.requested is not None)
        if stop.requested is not None:
            raise Interrupted(stop.requested)


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
        seed = args.seed + args.num_processes
        eval_envs = make_vec_envs(args.env, num_envs, seed, gamma=args.gamma, training=False)
        with contextlib.closing(eval_envs):
            if envs.normalizer is not None and eval_envs.normalizer is not None:
                eval_envs.normalizer.load_state_dict(envs.normalizer.state_dict())
            result = evaluate(algorithm, eval_envs, args.log.eval_episodes)
    return result["returns"], result["lengths"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    try:
        train(arguments.parse(argv))
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
