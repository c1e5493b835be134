"""Watch a checkpoint: `python enjoy.py --load-dir trained_models/a2c --env-name "PongNoFrameskip-v4"`.

Opens a window; without a display, `--video FILE` writes the same pictures to a file. Every episode's return is printed
when it ends.
"""

import contextlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from a2c_ppo_acktr import flags, trust
from a2c_ppo_acktr.acting.collect import finished_episodes
from a2c_ppo_acktr.envs.video.camera import DEFAULT_FPS, Film
from a2c_ppo_acktr.envs.video.rendering import has_display
from a2c_ppo_acktr.files import check_writable
from a2c_ppo_acktr.interfaces import Step, StepArrays
from a2c_ppo_acktr.run import checkpoint
from a2c_ppo_acktr.seeding import seed_everything
from a2c_ppo_acktr.utils import UsageError, printable
from evaluate import FOREVER, evaluate, exit_code, load_agent, make_agent_parser


def filming(film: Film, num_episodes: int) -> Callable[[Callable[[], np.ndarray], bool, bool], None]:
    """A camera that puts the first `num_episodes` episodes into one film."""
    left = num_episodes

    def see(render: Callable[[], np.ndarray], first: bool, last: bool) -> None:
        nonlocal left
        if left:
            film.add(render())
        left -= last and left > 0

    return see


def finish(film: Film) -> None:
    """Close a film and say where it is."""
    film.close()
    print(printable(f"wrote {film.path}: {film.count} pictures"))


def enjoy(args: Any) -> None:
    """Play the checkpoint that the flags name."""
    path = checkpoint.find(args.load_dir, args.env_name)
    target = None if args.video is None else check_writable("--video", args.video)
    if target is None and not has_display():
        raise UsageError("there is no display for a window: use --video FILE")
    seed_everything(args.seed)
    render_mode = "human" if target is None else "rgb_array"
    algorithm, envs = load_agent(
        path, env_name=args.env_name, seed=args.seed, render_mode=render_mode, trusted=trust.given(args)
    )
    steps = played = 0

    def on_step(step: Step, arrays: StepArrays) -> None:
        nonlocal steps, played
        steps += 1
        for episode in finished_episodes(arrays):
            played += 1
            print(f"episode {played}: return {episode.episode_return:g}, length {episode.length}", flush=True)
        if args.log_interval and steps % args.log_interval == 0:
            print(f"step {steps}", flush=True)

    with contextlib.ExitStack() as stack:
        stack.callback(envs.close)
        num_episodes = args.num_episodes or (1 if target is not None else FOREVER)
        if target is not None:
            film = Film(target, envs.get_attr("metadata")[0].get("render_fps") or DEFAULT_FPS)
            stack.callback(finish, film)
            envs.set_attr("camera", filming(film, num_episodes))
        with contextlib.suppress(KeyboardInterrupt):
            evaluate(algorithm, envs, num_episodes, explore=args.non_det, on_step=on_step)


def make_parser() -> flags.Parser:
    """The flags."""
    parser, reader = make_agent_parser("enjoy.py", __doc__), flags.bounded_int
    parser.add_argument("--log-interval", type=reader("--log-interval", 1), default=None, help="steps between lines")
    parser.add_argument(
        "--num-episodes",
        type=reader("--num-episodes", 1),
        default=None,
        help="episodes (default: until stopped; 1 with --video)",
    )
    parser.add_argument("--video", default=None, metavar="FILE", help="write a film instead of opening a window")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return exit_code("enjoy.py", lambda: enjoy(make_parser().parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
