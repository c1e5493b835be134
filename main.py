"""Train: `python main.py --algo ppo --env-name CartPole-v1`. The loop that every algorithm shares."""

import contextlib
import dataclasses
import math
import sys
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, SupportsFloat

from a2c_ppo_acktr import signals

if __name__ == "__main__":
    signals.end_at_once()  # what follows takes seconds, in which a signal would end in a traceback

import numpy as np

from a2c_ppo_acktr import algo, arguments
from a2c_ppo_acktr.acting.collect import Collector
from a2c_ppo_acktr.envs import describe, make_vec_envs, remarks
from a2c_ppo_acktr.envs.families import kind_of_observations, resolve
from a2c_ppo_acktr.envs.vector import EnvironmentCrash, Envs
from a2c_ppo_acktr.envs.video.rendering import prepare_rendering
from a2c_ppo_acktr.experts.demonstrations import Demonstrations
from a2c_ppo_acktr.interfaces import Episode, Step, StepArrays
from a2c_ppo_acktr.process import default_threads, pick_device, set_threads, tune_process
from a2c_ppo_acktr.run import checkpoint
from a2c_ppo_acktr.run.clone import clone_parameters
from a2c_ppo_acktr.run.folder import claim
from a2c_ppo_acktr.run.logger import quiet_writers
from a2c_ppo_acktr.run.run import Run
from a2c_ppo_acktr.seeding import env_seed, onward, preserve_rng, seed_everything
from a2c_ppo_acktr.signals import Interrupted, StopOnSignals, ctrl_c_waits
from a2c_ppo_acktr.spaces import UnsupportedSpace
from a2c_ppo_acktr.utils import Diverged, UsageError, printable
from evaluate import evaluate

EVAL_ENVS = 8
"""Environments that share an evaluation's episodes, where training does not have more."""
EVAL_SECONDS = 5.0
"""After which an evaluation says that it runs."""


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
    """Train as `args` say, an update at a time; closing the generator, or Ctrl-C in it, saves as an interruption does.

    It touches nothing that the whole process shares but random generators, which it draws from and does not seed (see
    `prepare_process`), and how Ctrl-C is handled, within an update where it is Python's own way.
    """
    with build(args) as parts, ctrl_c_waits() as ctrl_c:
        try:
            for progress in loop(parts):
                ctrl_c.boundary(True)
                yield progress
                ctrl_c.boundary(False)
        except (GeneratorExit, KeyboardInterrupt, Interrupted):
            parts.run.finish(interrupted=True)
            raise
        except EnvironmentCrash:
            parts.run.rescue()
            raise
        except SystemExit as left:
            parts.run.rescue()
            raise EnvironmentCrash(f"{args.env.env_name}, or what it uses, called sys.exit({left.code})") from left
        parts.run.finish(interrupted=False)


def loop(parts: Parts) -> Iterator[Progress]:
    """The loop of every algorithm."""
    args, envs, algorithm, _, collector, run = parts
    if run.evaluation_due():  # a resumed run was stopped in it
        run.record_evaluation(*evaluate_now(args, algorithm, envs, run))
    while not algorithm.finished and collector.env_steps < args.num_env_steps:
        run.begin_update()
        algorithm.schedule(collector.env_steps, args.num_env_steps)
        episodes = collector.collect()
        learn(parts, episodes)
        if run.evaluation_due():
            run.record_evaluation(*evaluate_now(args, algorithm, envs, run))
        run.save_due()
        yield Progress(run.update, collector.env_steps, run.metrics, episodes)


@np.errstate(all="ignore")  # what stops being a number is `Run`'s to say, once and by its name
def learn(parts: Parts, episodes: list[Episode]) -> None:
    """Update the algorithm by what was collected, and take down what came of it."""
    metrics = parts.algorithm.update(parts.storage)
    parts.storage.after_update()
    parts.run.after_update(episodes, metrics)


@contextlib.contextmanager
def build(args: arguments.RunConfig) -> Iterator[Parts]:
    """Build, or load, what the flags describe; close it in the end."""
    demonstrations = load_demonstrations(args)
    with contextlib.ExitStack() as stack:
        if (folder := checkpoint.continued_folder(args.log)) is not None:
            stack.enter_context(claim(folder))  # before it is read: nobody else goes on with it
        resumed = checkpoint.load(args.log.resume) if args.log.resume is not None else None
        as_before = resumed is None or continues(args, resumed)
        if resumed is not None and resumed["normalizer"] is None:
            args = dataclasses.replace(args, env=dataclasses.replace(args.env, normalize_env=False))
        steps = resumed["collector"]["env_steps"] if resumed is not None else 0
        seed, video = env_seed(onward(args.seed, steps), "training"), args.log.capture_video
        with no_exit(f"--env-name {args.env.env_name}"):
            envs = make_vec_envs(args.env, args.num_processes, seed, gamma=args.gamma, capture_video=video)
        stack.callback(envs.close)
        with no_exit(f"--algo {args.algo}, or its network,"):
            algorithm = make_algorithm(args, envs, demonstrations)
        clone(args, algorithm, envs, resumed)
        storage = algo.make_storage(algorithm, args.num_steps, args.num_processes)
        try:
            with no_exit(f"--env-name {args.env.env_name}"):
                collector = algorithm.make_collector(envs, storage)
        except EnvironmentCrash as error:  # in the first reset, before anything exists
            raise UsageError(f"--env-name {args.env.env_name}: {error}") from error
        settings = arguments.to_plain(args)
        run = Run(args.log, settings, algorithm, collector, envs.normalizer, resumed, envs.camera, as_before=as_before)
        stack.callback(run.close)
        told = [*remarks(args.env, envs), *algorithm.remarks()]
        for line in (f"{describe(args.env.env_name, envs)}; {storage.describe()}", *told):
            run.logger.say(line)
        yield Parts(args, envs, algorithm, storage, collector, run)


@contextlib.contextmanager
def no_exit(what: str) -> Iterator[None]:
    """Code of the user's own may not end the program in silence."""
    try:
        yield
    except SystemExit as left:
        raise UsageError(f"{what} called sys.exit({left.code})") from left


def continues(args: arguments.RunConfig, resumed: dict[str, Any]) -> bool:
    """Whether environments and random states go on where the run left them: it was of the same ones and this seed."""
    before = arguments.from_plain(resumed["settings"])
    same = dataclasses.replace(before.env, vec_env=args.env.vec_env) == args.env
    return same and before.seed == args.seed


def load_demonstrations(args: arguments.RunConfig) -> Demonstrations | None:
    """What to imitate, if anything; before any environment starts."""
    if args.imitation is None:
        return None
    name = args.env.env_name
    found = args.imitation.load(name, args.seed)
    if other := found.recorded_elsewhere({name, resolve(name)}, args.env.env_kwargs):
        print(f"warning: demonstrations {found.source}: recorded in {other}, not in this {name}", file=sys.stderr)
    return found


def make_algorithm(args: arguments.RunConfig, envs: Envs, demonstrations: Demonstrations | None) -> algo.Algorithm:
    """The learner that the flags describe, which has studied what it is to imitate."""
    gail = args.gail_config if args.gail else None
    algorithm = algo.make(args.algo, args.config, envs.spaces, pick_device(args.cuda), gail)
    if demonstrations is not None and args.imitation is not None:
        action_space = envs.action_space if args.imitation.reads_actions else None
        algorithm.imitate(demonstrations.check(envs.observation_space, action_space), envs.normalizer)
    try:
        algorithm.state_dict()
    except TypeError as error:
        raise UsageError(f"--algo {args.algo}: {error}") from error
    return algorithm


def clone(args: arguments.RunConfig, algorithm: algo.Algorithm, envs: Envs, resumed: Any) -> None:
    """Start from another run's layers; a resumed run, which has its own by now, only freezes them again."""
    source = args.clone_parameter_experiment
    if source is None:
        return
    if resumed is not None and resumed["settings"].get("clone_parameter_experiment") != source:
        raise UsageError(f"--clone-parameter-experiment {source}: a run begins with it; a resumed one has its layers")
    try:
        clone_parameters(algorithm, envs.normalizer, source, copy=resumed is None, **args.clone_args)
    except TypeError as error:
        raise UsageError(f"--clone-args {args.clone_args}: {error}") from error


def evaluate_now(args: arguments.RunConfig, algorithm: algo.Algorithm, envs: Envs, run: Run) -> tuple:
    """Returns and lengths of `eval_episodes` deterministic episodes, without a trace in the training."""
    with preserve_rng():
        num_envs = min(max(args.num_processes, EVAL_ENVS), args.log.eval_episodes)
        seed = env_seed(args.seed, "selection")
        eval_envs = make_vec_envs(args.env, num_envs, seed, gamma=args.gamma, training=False)
        with contextlib.closing(eval_envs):
            if envs.normalizer is not None and eval_envs.normalizer is not None:
                eval_envs.normalizer.load_state_dict(envs.normalizer.state_dict())
            limit, say = args.log.eval_max_steps, SlowEvaluation(run.logger.say, args.log.eval_episodes)
            result = evaluate(algorithm, eval_envs, args.log.eval_episodes, max_steps=limit, on_step=say)
    if len(result["cut"]) > 0:
        text = f"evaluation: episode {result['cut'][0]} cut after {limit} steps without an end (--eval-max-steps)"
        run.logger.say_once("cut", text)
    return result["returns"], result["lengths"]


class SlowEvaluation:
    """Says that an evaluation runs, once it has taken some seconds; called after each of its steps."""

    def __init__(self, say: Callable[[str], None], num_episodes: int) -> None:
        self.say, self.num_episodes, self.steps = say, num_episodes, 0
        self.told_at = time.monotonic() + EVAL_SECONDS

    def __call__(self, step: Step, arrays: StepArrays) -> None:
        """Count a step of all environments."""
        self.steps += 1
        if time.monotonic() > self.told_at:
            self.told_at = math.inf
            self.say(f" Evaluating {self.num_episodes} episodes: {self.steps} steps so far in each environment")


def execute(args: arguments.RunConfig) -> None:
    """Train to the end as the command line does; `Interrupted` where a signal ended it early."""
    with StopOnSignals() as stop, contextlib.closing(train(args)) as training:
        with no_exit(f"--env-name {args.env.env_name}"):
            prepare_process(args)
        try:
            for _ in training:
                if stop.requested is not None:
                    stop.boundary_reached()
                    break
        except EnvironmentCrash:
            if stop.requested is None:
                raise  # else the signal reached what the environment had started, too
    if stop.requested is not None:
        raise Interrupted(stop.requested)


def prepare_process(args: arguments.RunConfig) -> None:
    """Tune and seed what this whole process shares, before anything is built."""
    tune_process()
    # What diverges is told once, by `Diverged`, and not by each operation on it.
    warnings.filterwarnings("ignore", category=RuntimeWarning, module=r"a2c_ppo_acktr\.")
    quiet_writers()
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
        execute(read_flags(argv))
    except (UsageError, UnsupportedSpace) as error:
        print(f"main.py: error: {error}", file=sys.stderr)
        return 2
    except Interrupted as interrupted:
        return 128 + interrupted.signum
    except (Diverged, EnvironmentCrash, OSError) as error:
        print(f"main.py: stopped: {printable(str(error), lines=True)}", file=sys.stderr)
        return 1
    return 0


def read_flags(argv: Sequence[str] | None) -> arguments.RunConfig:
    """The command line's; only --help ends the program here."""
    try:
        return arguments.parse(argv)
    except SystemExit as left:
        if {"-h", "--help"} & set(sys.argv if argv is None else argv):
            raise
        raise UsageError(f"an environment, or a module that a flag names, called sys.exit({left.code})") from left


if __name__ == "__main__":
    sys.exit(main())
