"""Watch a checkpoint: `python enjoy.py --load-dir trained_models/a2c --env-name "PongNoFrameskip-v4"`.

Opens a window; without a display, `--video FILE` writes the same pictures to a file. Every episode's return is printed
when it ends.
"""

import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from a2c_ppo_acktr import arguments, checkpoint
from a2c_ppo_acktr.collect import finished_episodes
from a2c_ppo_acktr.interfaces import Step, StepArrays
from a2c_ppo_acktr.spaces import UnsupportedSpace
from a2c_ppo_acktr.utils import UsageError, seed_everything
from a2c_ppo_acktr.vec_env import EnvironmentCrash
from evaluate import evaluate, load_agent

FOREVER = 10**9
DEFAULT_FPS = 30


class Film:
    """RGB pictures `[H, W, 3]` written to a video file as they come; its kind goes by the file's ending.

    The newest picture is held back, since after an episode's end it is the first of an episode that is not played.
    """

    def __init__(self, path: Path, fps: float) -> None:
        self.path, self.fps, self.count = path, fps, 0
        self.temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
        self.held: np.ndarray | None = None
        self.writer: Any = None

    def add(self, frame: np.ndarray) -> None:
        """Take the next picture; sides are cut to even lengths, as video codecs want."""
        if self.held is not None:
            if self.writer is None:
                from moviepy.video.io.ffmpeg_writer import FFMPEG_VideoWriter

                self.path.parent.mkdir(parents=True, exist_ok=True)
                height, width = self.held.shape[:2]
                self.writer = FFMPEG_VideoWriter(str(self.temporary), (width, height), self.fps)
            self.writer.write_frame(self.held)
            self.count += 1
        self.held = np.ascontiguousarray(frame[: frame.shape[0] // 2 * 2, : frame.shape[1] // 2 * 2])

    def close(self) -> None:
        """Finish the file."""
        if self.writer is not None:
            self.writer.close()
            os.replace(self.temporary, self.path)
            print(f"wrote {self.path}: {self.count} pictures")


def enjoy(args: Any) -> None:
    """Play the checkpoint that the flags name."""
    path = checkpoint.find(args.load_dir, args.env_name)
    if (
        args.video is None
        and sys.platform == "linux"
        and not os.environ.get("DISPLAY", os.environ.get("WAYLAND_DISPLAY"))
    ):
        raise UsageError("there is no display for a window: use --video FILE")
    seed_everything(args.seed)
    render_mode = "human" if args.video is None else "rgb_array"
    algorithm, envs = load_agent(path, env_name=args.env_name, seed=args.seed, render_mode=render_mode)
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
        if args.video is not None:
            film = Film(Path(args.video), envs.get_attr("metadata")[0].get("render_fps", DEFAULT_FPS))
            stack.callback(film.close)
            envs.set_attr("on_frame", film.add)
        num_episodes = args.num_episodes or (1 if args.video is not None else FOREVER)
        with contextlib.suppress(KeyboardInterrupt):
            evaluate(algorithm, envs, num_episodes, explore=args.non_det, on_step=on_step)


def make_parser() -> arguments.Parser:
    """The flags."""
    parser = arguments.Parser(prog="enjoy.py", description=__doc__)
    reader = arguments.bounded_int
    parser.add_argument("--load-dir", default="./trained_models/", help="<save-dir>/<algo>, a run folder or a file")
    parser.add_argument("--env-name", default=None, help="environment (default: the one of the checkpoint)")
    parser.add_argument("--seed", type=reader("--seed", 0), default=1, help="of actions and environment (default: 1)")
    parser.add_argument("--non-det", action="store_true", default=False, help="sample actions")
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
    try:
        enjoy(make_parser().parse_args(argv))
    except (UsageError, UnsupportedSpace) as error:
        print(f"enjoy.py: error: {error}", file=sys.stderr)
        return 2
    except (EnvironmentCrash, OSError) as error:
        print(f"enjoy.py: stopped: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
