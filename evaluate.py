"""Evaluate: `python evaluate.py --load-dir trained_models/ppo --env-name CartPole-v1 --num-episodes 100`."""

import argparse
import contextlib
import dataclasses
import json
import os
import re
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from a2c_ppo_acktr import algo, arguments, flags, trust
from a2c_ppo_acktr.acting import recording
from a2c_ppo_acktr.acting.callbacks import DataCallback, StateCallback
from a2c_ppo_acktr.acting.collect import Stepper
from a2c_ppo_acktr.acting.record import Forced, Inspected, Recorder, Scores, check_forced
from a2c_ppo_acktr.envs import make_vec_envs
from a2c_ppo_acktr.envs.vector import EnvironmentCrash, Envs
from a2c_ppo_acktr.envs.video.camera import filming
from a2c_ppo_acktr.files import check_writable, write_named
from a2c_ppo_acktr.interfaces import Step, StepArrays
from a2c_ppo_acktr.process import default_threads, set_threads
from a2c_ppo_acktr.run import checkpoint
from a2c_ppo_acktr.seeding import env_seed, seed_everything
from a2c_ppo_acktr.spaces import UnsupportedSpace, is_image
from a2c_ppo_acktr.utils import UsageError, printable

FOREVER = 10**9


@torch.inference_mode()
def evaluate(
    algorithm: algo.Algorithm,
    envs: Envs,
    num_episodes: int | None = None,
    *,
    explore: bool = False,
    record: bool = False,
    with_activations: bool = False,
    actions: Forced = None,
    evaluate_steps: int | None = None,
    data_callback: Callable[..., Any] | None = None,
    state_callback: Callable[[Envs], Mapping[str, Any]] | None = None,
    films: Mapping[int, str | Path] | None = None,
    on_step: Callable[[Step, StepArrays], None] | None = None,
    max_steps: int | None = None,
) -> dict[str, Any]:
    """Play with a frozen agent: its scores, or a recording of all that it saw, did and computed.

    Every environment plays a quota of episodes fixed beforehand. Taking the first to finish would favour short ones.

    Args:
        algorithm: the agent.
        envs: N environments made with `training=False`; they are reset.
        num_episodes: episodes in all; `num_episodes / N` in each environment, the remainder spread over the last ones.
            None where only `evaluate_steps` ends it.
        explore: sample actions instead of taking the most probable.
        record: record; implied by each of the following.
        with_activations: record every layer's output too.
        actions: actions that are taken whatever the agent wants (see `record.Inspected`).
        evaluate_steps: stop after so many steps in each environment; episodes that run then are kept as unfinished.
        data_callback: gathers `data` along every episode, called as the research fork's (see `callbacks.DataCallback`).
        state_callback: gives `states` of the environments before every step, `{name: N values}` of `envs`
            (see `callbacks.StateCallback`).
        films: video files by the episode's place in the result; for environments made with `render_mode="rgb_array"`.
        on_step: called after each step of all environments.
        max_steps: without a recording, cut an episode after so many steps (see `record.Scores`); None cuts none.

    Returns:
        `returns` and `lengths`, `[num_episodes]`, raw and of whole episodes, environment after environment; `cut`, the
        places of those that `max_steps` cut, whose rewards are summed as the environments gave them. A recording
        also has `finished` (where it is False the return is NaN), `spans` (environment, steps from, to), what the
        data_callback returned last as `data`, and lists of one tree `[L, ...]` per episode: obs and
        obs_normalized `[L + 1, ...]`, actions, action_log_probs, action_probs (mean and std of continuous actions),
        rewards, rnn_hxs (also as hidden_states), dones, masks, values, actor_features, activations by side and depth,
        auxiliary_preds by head, auxiliary_truths by target, signals by name (such as action_mask), states by name.
    """
    if num_episodes is None and evaluate_steps is None:
        raise UsageError("evaluate: one of num_episodes and evaluate_steps is needed")
    wanted = FOREVER if num_episodes is None else num_episodes
    quota = [(wanted + i) // envs.num_envs for i in range(envs.num_envs)]
    asked = (actions, evaluate_steps, data_callback, state_callback)
    recording = record or with_activations or any(x is not None for x in asked)
    agent = Inspected(algorithm, with_activations=with_activations, forced=actions) if recording else algorithm
    data = DataCallback(data_callback, algorithm, envs) if data_callback is not None else None
    states = StateCallback(state_callback, envs) if state_callback is not None else None
    with filming(envs, quota, films or {}):
        stepper = Stepper(envs, agent)
        book = Recorder(stepper, quota, data, states) if recording else Scores(quota, max_steps)
        while not book.complete and book.steps != evaluate_steps:
            step, arrays = stepper.step(explore)
            book.add(step, arrays)
            if on_step is not None:
                on_step(step, arrays)
    return book.result()


def load_agent(
    path: Path,
    *,
    env_name: str | None = None,
    num_envs: int = 1,
    seed: int = 1,
    render_mode: str | None = None,
    vec_env: str | None = None,
    trusted: trust.Trust = False,
) -> tuple[algo.Algorithm, Envs]:
    """The agent of a checkpoint, and environments as it was trained in, with its statistics, frozen.

    Args:
        path: a checkpoint.
        env_name: another environment than the one it was trained in.
        num_envs: N.
        seed: of the environments, whatever seed trained the agent (see `seeding.env_seed`).
        render_mode: as Gymnasium's.
        vec_env: another backend than the one it was trained with, such as `dummy`, whose environments have attributes.
        trusted: modules that the checkpoint names and that may be imported, which runs them: True is all.

    Raises:
        UsageError: the checkpoint cannot be read, does not fit the environment, or names a module that is not trusted.
    """
    contents = checkpoint.load(path)
    trust.demand(contents["settings"], path, trusted, replaced=("env_name",) if env_name else ())
    args = arguments.from_plain(contents["settings"])
    config = dataclasses.replace(
        args.env,
        env_name=env_name or args.env.env_name,
        normalize_env=args.env.normalize_env and contents["normalizer"] is not None,
        vec_env=vec_env or (args.env.vec_env if render_mode is None else "dummy"),
    )
    first = env_seed(seed, "test")
    envs = make_vec_envs(config, num_envs, first, gamma=args.gamma, training=False, render_mode=render_mode)
    set_threads(default_threads(images=is_image(envs.observation_space)))
    try:
        algorithm = algo.make(args.algo, args.config, envs.spaces)
        algorithm.load_state_dict(contents["algorithm"])
        if envs.normalizer is not None and contents["normalizer"] is not None:
            envs.normalizer.load_state_dict(contents["normalizer"])
    except BaseException as error:
        envs.close()
        if isinstance(error, UsageError) or not isinstance(error, Exception):
            raise
        said = f"it has no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        why = re.sub(r"^Error\(s\) in loading state_dict for \w+: ", "", said)
        raise UsageError(f"checkpoint {path} does not fit {config.env_name}: {why}") from error
    return algorithm, envs


def make_agent_parser(program: str, description: str | None) -> flags.Parser:
    """The flags of every program that plays a checkpoint."""
    parser = flags.Parser(prog=program, description=description)
    parser.add_argument("--load-dir", default="./trained_models/", help="<save-dir>/<algo>, a run folder or a file")
    parser.add_argument("--env-name", default=None, help="environment (default: the one of the checkpoint)")
    seed = flags.bounded_int("--seed", 0, flags.LARGEST_SEED)
    parser.add_argument("--seed", type=seed, default=1, help="of actions and environments (default: 1)")
    parser.add_argument("--non-det", action="store_true", default=False, help="sample actions")
    trust.add_flags(parser, plays=True)
    return parser


def make_parser() -> flags.Parser:
    """The flags."""
    parser, reader = make_agent_parser("evaluate.py", __doc__), flags.bounded_int
    parser.add_argument("--num-episodes", type=reader("--num-episodes", 1), default=100, help="episodes (default: 100)")
    parser.add_argument(
        "--num-processes",
        type=reader("--num-processes", 1, arguments.MOST_ENVIRONMENTS),
        default=8,
        help="environments at once (default: 8)",
    )
    parser.add_argument("--record", default=None, metavar="FILE.npz", help="record what it saw, did and computed there")
    parser.add_argument(
        "--with-activations", action="store_true", default=False, help="record every layer's output too"
    )
    parser.add_argument(
        "--action",
        type=flags.read_value,
        default=None,
        help="always take this action instead: a choice counted from 0, whatever the environment calls it, or a list",
    )
    parser.add_argument(
        "--evaluate-steps", type=reader("--evaluate-steps", 1), default=None, help="stop after so many steps"
    )
    parser.add_argument("--video", default=None, metavar="FOLDER", help="films of the chosen episodes")
    parser.add_argument(
        "--video-episodes",
        type=reader("--video-episodes", 0),
        nargs="+",
        default=[0],
        help="counted from 0 (default: 0)",
    )
    parser.add_argument("--json", default=None, metavar="FILE", help="write the result there")
    return parser


def exit_code(program: str, play: Callable[[], Any]) -> int:
    """What a program that plays a checkpoint ends with: 0, or one line for the user and what shells expect."""
    try:
        play()
        sys.stdout.flush()  # here, where a reader that has gone is found out
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing is left to say at the exit
        return 1
    except (UsageError, UnsupportedSpace) as error:
        print(f"{program}: error: {error}", file=sys.stderr)
        return 2
    except (EnvironmentCrash, OSError) as error:
        print(f"{program}: stopped: {printable(str(error), lines=True)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return exit_code("evaluate.py", lambda: print(summary(run(make_parser().parse_args(argv)))))


def summary(result: Mapping[str, Any]) -> str:
    """The line for the user; `n` counts whole episodes."""
    if result["n"] == 0:
        return "no episode ended: there is no return yet"
    return "mean {mean:.2f}  std {std:.2f}  min {min:.2f}  max {max:.2f}  n {n}".format(**result)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Evaluate the checkpoint that the flags name; the result as plain numbers."""
    path = checkpoint.find(args.load_dir, args.env_name)
    record, target, films = (
        None if text is None else check_writable(flag, text, folder=flag == "--video")
        for flag, text in (("--record", args.record), ("--json", args.json), ("--video", args.video))
    )
    if record is not None and record.suffix != ".npz":
        raise UsageError(f"--record {args.record}: expected a name that ends in .npz")
    seed_everything(args.seed)
    num_envs = min(args.num_processes, args.num_episodes)
    mode = "rgb_array" if films is not None else None
    algorithm, envs = load_agent(
        path,
        env_name=args.env_name,
        num_envs=num_envs,
        seed=args.seed,
        render_mode=mode,
        trusted=trust.given(args),
    )
    with contextlib.closing(envs):
        if args.action is not None:
            check_forced("--action", args.action, envs.action_space)
        played = evaluate(
            algorithm,
            envs,
            args.num_episodes,
            explore=args.non_det,
            record=record is not None,
            with_activations=args.with_activations,
            actions=args.action,
            evaluate_steps=args.evaluate_steps,
            films={e: films / f"episode-{e}.mp4" for e in args.video_episodes} if films is not None else None,
        )
    if record is not None:
        recording.save(record, played)
    whole = ~np.isnan(played["returns"])  # --evaluate-steps may cut the last ones
    returns = played["returns"][whole]
    result = {
        **{name: float(getattr(returns, name)()) if len(returns) else None for name in ("mean", "std", "min", "max")},
        "n": len(returns),
        "returns": returns.tolist(),
        "lengths": played["lengths"][whole].tolist(),
    }
    if target is not None:
        text = json.dumps({"checkpoint": str(path), "deterministic": not args.non_det, "seed": args.seed} | result)
        write_named(target, lambda temporary: temporary.write_text(text + "\n"))
    return result


if __name__ == "__main__":
    sys.exit(main())
