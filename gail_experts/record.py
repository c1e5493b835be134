"""Record demonstrations: `python gail_experts/record.py --checkpoint trained_models/ppo --env-name CartPole-v1`.

Plays an agent with frozen statistics and keeps whole episodes, as many as are asked for, whose return is high enough.
"""

import argparse
import contextlib
import math
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # as a script, the repository is not on the path
from a2c_ppo_acktr import algo, arguments, experts, flags, trust
from a2c_ppo_acktr.acting.collect import Stepper
from a2c_ppo_acktr.acting.record import Scores
from a2c_ppo_acktr.envs import Envs
from a2c_ppo_acktr.experts.files import Trajectory, save
from a2c_ppo_acktr.files import check_writable
from a2c_ppo_acktr.interfaces import Step, StepArrays, Tree
from a2c_ppo_acktr.run import checkpoint
from a2c_ppo_acktr.seeding import seed_everything
from a2c_ppo_acktr.spaces import index, tree_map
from a2c_ppo_acktr.utils import UsageError, printable
from evaluate import exit_code, load_agent

ATTEMPTS = 10
"""Episodes that are played for each one that is wanted, unless --max-attempts says otherwise."""
SETTINGS = ("env_name", "env_kwargs", "time_feature", "hide_observations", "algo")


class Demonstrator(Scores):
    """Assembles trajectories from the steps of N environments.

    Args:
        stepper: what steps the agent, not yet stepped.
        quota: `[N]` episodes to keep of each environment.
    """

    def __init__(self, stepper: Stepper, quota: Sequence[int]) -> None:
        super().__init__(quota)
        self.envs = stepper.envs
        self.obs = self._original(0, tree_map(lambda leaf: leaf.cpu().numpy(), stepper.obs))
        self.rows: list[list[Tree]] = [[] for _ in quota]
        self.seen: list[list[Tree]] = [[] for _ in quota]
        self.trajectories: list[list[Trajectory]] = [[] for _ in quota]

    def _original(self, which: int, obs: Tree) -> Tree:
        """Observations (0), or final ones (1), as the environments gave them; `obs` where nothing changed them."""
        return obs if self.envs.original is None else self.envs.original[which]

    def add(self, step: Step, arrays: StepArrays) -> None:
        """Take one step of all environments."""
        super().add(step, arrays)
        row = step.action.cpu().numpy(), arrays.reward, arrays.terminated, arrays.truncated
        running = [env for env, wanted in enumerate(self.quota) if len(self.trajectories[env]) < wanted]
        for env in running:
            self.seen[env].append(_copy(self.obs, env))
            self.rows[env].append(_copy(row, env))
        if arrays.ended is not None:
            final_obs = self._original(1, arrays.ended.final_obs)
            for k, env in enumerate(arrays.ended.indices):
                if env in running:
                    self.seen[env].append(_copy(final_obs, k))
                    if not math.isnan(arrays.ended.returns[k]):  # where only a life was lost, the episode goes on
                        self._finish(env, float(arrays.ended.returns[k]))
        self.obs = self._original(0, arrays.obs)

    def _finish(self, env: int, episode_return: float) -> None:
        obs, steps = (tree_map(lambda *leaves: np.stack(leaves), *rows[env]) for rows in (self.seen, self.rows))
        actions, rewards, terminated, truncated = steps
        self.trajectories[env].append(Trajectory(obs, actions, rewards, terminated, truncated, episode_return))
        self.seen[env], self.rows[env] = [], []


def _copy(tree: Tree, row: int) -> Tree:
    """One environment's part, so that the others' can be forgotten."""
    return tree_map(np.copy, index(tree, row))


@torch.inference_mode()
def play(algorithm: algo.Algorithm, envs: Envs, num_episodes: int, explore: bool) -> list[Trajectory]:
    """Whole episodes, environment after environment, with quotas as in `evaluate.evaluate`."""
    stepper = Stepper(envs, algorithm)
    book = Demonstrator(stepper, [(num_episodes + i) // envs.num_envs for i in range(envs.num_envs)])
    while not book.complete:
        book.add(*stepper.step(explore))
    return [trajectory for own in book.trajectories for trajectory in own]


def collect(
    algorithm: algo.Algorithm, envs: Envs, num: int, *, threshold: float, attempts: int, explore: bool
) -> tuple[list[Trajectory], int]:
    """Episodes that return at least `threshold`, and how many were played for them.

    Raises:
        UsageError: fewer than `num` of `attempts` episodes do.
    """
    kept: list[Trajectory] = []
    returns: list[float] = []
    while len(kept) < num and len(returns) < attempts:
        wanted = min(max(num - len(kept), envs.num_envs), attempts - len(returns))
        played = play(algorithm, envs, wanted, explore)
        returns += [trajectory.episode_return for trajectory in played]
        kept += [trajectory for trajectory in played if trajectory.episode_return >= threshold]
    if len(kept) < num:
        raise UsageError(
            f"--reward-threshold {threshold:g}: {len(kept)} of {len(returns)} episodes reached it, {num} are wanted; "
            f"their mean return was {np.mean(returns):.2f}, the best {max(returns):.2f}"
        )
    return kept[:num], len(returns)


def make_parser() -> flags.Parser:
    """The flags."""
    parser = flags.Parser(prog="record.py", description=__doc__)
    reader = flags.bounded_int
    parser.add_argument("--checkpoint", default="./trained_models/", help="<save-dir>/<algo>, a run folder or a file")
    parser.add_argument("--env-name", default=None, help="environment (default: the one of the checkpoint)")
    parser.add_argument(
        "--num-trajectories", type=reader("--num-trajectories", 1), default=10, help="episodes to keep (default: 10)"
    )
    parser.add_argument(
        "--reward-threshold", type=read_number, default=-math.inf, metavar="R", help="least return of an episode"
    )
    parser.add_argument(
        "--max-attempts",
        type=reader("--max-attempts", 1),
        default=None,
        help=f"episodes to play at most (default: {ATTEMPTS} for each that is wanted)",
    )
    parser.add_argument("--non-det", action="store_true", default=False, help="sample actions")
    seed, most = reader("--seed", 0, flags.LARGEST_SEED), arguments.MOST_ENVIRONMENTS
    parser.add_argument("--seed", type=seed, default=1, help="of actions and environments (default: 1)")
    parser.add_argument(
        "--num-processes", type=reader("--num-processes", 1, most), default=8, help="environments at once (default: 8)"
    )
    trust.add_flags(parser, plays=True)
    parser.add_argument(
        "--out", default=None, metavar="FILE.npz", help="(default: trajs_<environment>.npz beside this program)"
    )
    return parser


def read_number(text: str) -> float:
    """The value of --reward-threshold."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if math.isnan(number):
        raise UsageError(f"--reward-threshold {text}: expected a number")
    return number


def run(args: argparse.Namespace, command: str) -> str:
    """Record what the flags ask for; the line that says what was written."""
    path = checkpoint.find(args.checkpoint, args.env_name, "--checkpoint")
    settings: dict[str, Any] = checkpoint.load(path, mmap=True)["settings"]
    settings["env_name"] = args.env_name or settings["env_name"]
    own = Path(__file__).parent / f"{experts.file_name(settings['env_name'])}.npz"
    out = check_writable("--out", own if args.out is None else args.out)
    attempts = ATTEMPTS * args.num_trajectories if args.max_attempts is None else args.max_attempts
    if out.suffix != ".npz":
        raise UsageError(f"--out {out}: expected a name that ends in .npz")
    if attempts < args.num_trajectories:
        raise UsageError(f"--max-attempts {attempts}: expected at least --num-trajectories, {args.num_trajectories}")
    if args.out is None and own.exists():
        raise UsageError(f"{own} is there already: --out FILE.npz names another file, or this one to replace it")
    seed_everything(args.seed)
    num_envs = min(args.num_processes, args.num_trajectories)
    algorithm, envs = load_agent(
        path, env_name=args.env_name, num_envs=num_envs, seed=args.seed, trusted=trust.given(args)
    )
    with contextlib.closing(envs):
        kept, played = collect(
            algorithm,
            envs,
            args.num_trajectories,
            threshold=args.reward_threshold,
            attempts=attempts,
            explore=args.non_det,
        )
    meta = {name: settings[name] for name in SETTINGS}
    meta |= {"deterministic": not args.non_det, "seed": args.seed, "command": command}
    verb = "replaced" if out.exists() else "wrote"
    save(out, kept, frame_stack=envs.frame_stack, **meta)
    returns = np.array([trajectory.episode_return for trajectory in kept])
    steps = sum(len(trajectory.rewards) for trajectory in kept)
    return (
        f"kept {len(kept)} of {played} episodes, {steps} steps: return mean {returns.mean():.2f}  "
        f"std {returns.std():.2f}  min {returns.min():.2f}  max {returns.max():.2f}; {verb} {printable(str(out))}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    words = sys.argv[1:] if argv is None else argv
    command = shlex.join(["python", "gail_experts/record.py", *words])
    return exit_code("record.py", lambda: print(run(make_parser().parse_args(words), command)))


if __name__ == "__main__":
    sys.exit(main())
