"""Evaluate: `python evaluate.py --load-dir trained_models/ppo --env-name CartPole-v1 --num-episodes 100`."""

import argparse
import contextlib
import dataclasses
import json
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from a2c_ppo_acktr import algo, arguments, flags
from a2c_ppo_acktr.acting import recording
from a2c_ppo_acktr.acting.collect import Stepper
from a2c_ppo_acktr.acting.record import DataCallback, Forced, Inspected, Recorder, Scores
from a2c_ppo_acktr.envs import make_vec_envs
from a2c_ppo_acktr.envs.vector import EnvironmentCrash, Envs
from a2c_ppo_acktr.envs.video.camera import filming
from a2c_ppo_acktr.files import write_atomically
from a2c_ppo_acktr.interfaces import Step, StepArrays
from a2c_ppo_acktr.process import default_threads, set_threads
from a2c_ppo_acktr.run import checkpoint
from a2c_ppo_acktr.seeding import env_seed, seed_everything
from a2c_ppo_acktr.spaces import UnsupportedSpace, is_image
from a2c_ppo_acktr.utils import UsageError

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
    films: Mapping[int, str | Path] | None = None,
    on_step: Callable[[Step, StepArrays], None] | None = None,
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
        data_callback: called after each step of all environments, to gather further data (see `record.DataCallback`).
        films: video files by the episode's place in the result; for environments made with `render_mode="rgb_array"`.
        on_step: called after each step of all environments.

    Returns:
        `returns` and `lengths`, `[num_episodes]`, raw and of whole episodes, environment after environment. A recording
        also has `finished`, `spans` (environment, steps from, to) and lists of one tree `[L, ...]` per episode: obs and
        obs_normalized `[L + 1, ...]`, actions, action_log_probs, action_probs (mean and std of continuous actions),
        rewards, rnn_hxs (also as hidden_states), dones, masks, values, actor_features, activations by side and depth,
        auxiliary_preds by head, auxiliary_truths by target, data.
    """
    if num_episodes is None and evaluate_steps is None:
        raise UsageError("evaluate: one of num_episodes and evaluate_steps is needed")
    wanted = FOREVER if num_episodes is None else num_episodes
    quota = [(wanted + i) // envs.num_envs for i in range(envs.num_envs)]
    recording = record or with_activations or any(x is not None for x in (actions, evaluate_steps, data_callback))
    agent = Inspected(algorithm, with_activations=with_activations, forced=actions) if recording else algorithm
    callback = DataCallback(data_callback, algorithm, envs) if data_callback is not None else None
    with filming(envs, quota, films or {}):
        stepper = Stepper(envs, agent)
        book = Recorder(stepper, quota, callback) if recording else Scores(quota)
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
) -> tuple[algo.Algorithm, Envs]:
    """The agent of a checkpoint, and environments as it was trained in, with its statistics, frozen.

    Args:
        path: a checkpoint.
        env_name: another environment than the one it was trained in.
        num_envs: N.
        seed: of the environments, whatever seed trained the agent (see `seeding.env_seed`).
        render_mode: as Gymnasium's.

    Raises:
        UsageError: the checkpoint cannot be read, or does not fit the environment.
    """
    contents = checkpoint.load(path)
    args = arguments.from_plain(contents["settings"])
    config = dataclasses.replace(
        args.env,
        env_name=env_name or args.env.env_name,
        normalize_env=args.env.normalize_env and contents["normalizer"] is not None,
        vec_env=args.env.vec_env if render_mode is None else "dummy",
    )
    first = env_seed(seed, "test")
    envs = make_vec_envs(config, num_envs, first, gamma=args.gamma, training=False, render_mode=render_mode)
    set_threads(default_threads(images=is_image(envs.observation_space)))
    try:
        algorithm = algo.make(args.algo, args.config, envs.spaces)
        algorithm.load_state_dict(contents["algorithm"])
        if envs.normalizer is not None and contents["normalizer"] is not None:
            envs.normalizer.load_state_dict(contents["normalizer"])
    except (RuntimeError, ValueError) as error:
        envs.close()
        raise UsageError(f"checkpoint {path} does not fit {config.env_name}: {str(error).splitlines()[0]}") from error
    return algorithm, envs


def make_agent_parser(program: str, description: str | None) -> flags.Parser:
    """The flags of every program that plays a checkpoint."""
    parser = flags.Parser(prog=program, description=description)
    parser.add_argument("--load-dir", default="./trained_models/", help="<save-dir>/<algo>, a run folder or a file")
    parser.add_argument("--env-name", default=None, help="environment (default: the one of the checkpoint)")
    seed = flags.bounded_int("--seed", 0)
    parser.add_argument("--seed", type=seed, default=1, help="of actions and environments (default: 1)")
    parser.add_argument("--non-det", action="store_true", default=False, help="sample actions")
    return parser


def make_parser() -> flags.Parser:
    """The flags."""
    parser, reader = make_agent_parser("evaluate.py", __doc__), flags.bounded_int
    parser.add_argument("--num-episodes", type=reader("--num-episodes", 1), default=100, help="episodes (default: 100)")
    parser.add_argument("--num-processes", type=reader("--num-processes", 1), default=8, help="environments at once")
    parser.add_argument("--record", default=None, metavar="FILE.npz", help="record what it saw, did and computed there")
    parser.add_argument(
        "--with-activations", action="store_true", default=False, help="record every layer's output too"
    )
    parser.add_argument("--action", type=flags.read_value, default=None, help="always take this action instead")
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
    except (UsageError, UnsupportedSpace) as error:
        print(f"{program}: error: {error}", file=sys.stderr)
        return 2
    except (EnvironmentCrash, OSError) as error:
        print(f"{program}: stopped: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return exit_code("evaluate.py", lambda: print(summary(run(make_parser().parse_args(argv)))))


def summary(result: Mapping[str, Any]) -> str:
    """The line for the user."""
    return "mean {mean:.2f}  std {std:.2f}  min {min:.2f}  max {max:.2f}  n {n}".format(**result)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Evaluate the checkpoint that the flags name; the result as plain numbers."""
    path = checkpoint.find(args.load_dir, args.env_name)
    seed_everything(args.seed)
    num_envs = min(args.num_processes, args.num_episodes)
    mode = "rgb_array" if args.video else None
    algorithm, envs = load_agent(path, env_name=args.env_name, num_envs=num_envs, seed=args.seed, render_mode=mode)
    with contextlib.closing(envs):
        played = evaluate(
            algorithm,
            envs,
            args.num_episodes,
            explore=args.non_det,
            record=args.record is not None,
            with_activations=args.with_activations,
            actions=args.action,
            evaluate_steps=args.evaluate_steps,
            films={e: Path(args.video) / f"episode-{e}.mp4" for e in args.video_episodes} if args.video else None,
        )
    if args.record is not None:
        recording.save(args.record, played)
    returns = played["returns"]
    result = {
        "mean": float(returns.mean()),
        "std": float(returns.std()),
        "min": float(returns.min()),
        "max": float(returns.max()),
        "n": len(returns),
        "returns": returns.tolist(),
        "lengths": played["lengths"].tolist(),
    }
    if args.json is not None:
        text = json.dumps({"checkpoint": str(path), "deterministic": not args.non_det, "seed": args.seed} | result)
        write_atomically(Path(args.json), lambda temporary: temporary.write_text(text + "\n"))
    return result


if __name__ == "__main__":
    sys.exit(main())
