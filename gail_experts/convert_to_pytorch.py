"""Convert upstream's h5 demonstrations: `python gail_experts/convert_to_pytorch.py --h5-file trajs_halfcheetah.h5`.

The file holds obs_B_T_Do, a_B_T_Da, r_B_T and len_B, padded to T. It becomes this project's `.npz`; with `--pt-file` it
becomes upstream's dictionary of tensors instead.
"""

import argparse
import importlib
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # as a script, the repository is not on the path
from a2c_ppo_acktr import flags
from a2c_ppo_acktr.experts.files import UPSTREAM, checked, fail, from_padded, save
from a2c_ppo_acktr.files import write_named
from a2c_ppo_acktr.utils import UsageError

KEYS = ("obs_B_T_Do", "a_B_T_Da", "r_B_T", "len_B")


def read_h5(path: str) -> dict[str, np.ndarray]:
    """The arrays of an h5 file under upstream's names.

    Raises:
        UsageError: h5py is not installed, or the file is missing, damaged or of another kind.
    """
    try:
        h5py = importlib.import_module("h5py")
    except ImportError as error:
        raise UsageError(
            f"--h5-file {path} needs the imitation extra ({error}): pip install -e '.[imitation]'"
        ) from error
    if not Path(path).is_file():
        fail(path, "no such file")
    try:
        with h5py.File(path, "r") as file:
            missing = [key for key in KEYS if not isinstance(file.get(key), h5py.Dataset)]
            arrays = {} if missing else {name: file[key][()] for name, key in zip(UPSTREAM, KEYS, strict=True)}
    except Exception as error:  # damage makes h5py raise whatever it leads to
        fail(path, f"cannot be read: {str(error).splitlines()[0]}")
    if missing:
        fail(path, f"lacks {', '.join(missing)}")
    return {name: np.asarray(array) for name, array in arrays.items()}


def make_parser() -> flags.Parser:
    """The flags."""
    parser = flags.Parser(prog="convert_to_pytorch.py", description=__doc__)
    parser.add_argument("--h5-file", default="trajs_halfcheetah.h5", help="(default: trajs_halfcheetah.h5)")
    parser.add_argument("--out", default=None, metavar="FILE.npz", help="(default: beside the h5 file)")
    parser.add_argument("--pt-file", default=None, metavar="FILE.pt", help="write upstream's dictionary there instead")
    parser.add_argument("--env-name", default=None, help="environment, to be noted in the npz")
    return parser


def run(args: argparse.Namespace, command: str) -> str:
    """Convert what the flags name; the line that says what was written."""
    for flag, value, suffix in (("--out", args.out, ".npz"), ("--pt-file", args.pt_file, ".pt")):
        if value is not None and Path(value).suffix != suffix:
            raise UsageError(f"{flag} {value}: expected a name that ends in {suffix}")
    arrays = read_h5(args.h5_file)
    trajectories = [checked(args.h5_file, i, one) for i, one in enumerate(from_padded(args.h5_file, arrays))]
    returns = [trajectory.episode_return for trajectory in trajectories]
    if args.pt_file is not None:
        out = Path(args.pt_file)
        tensors = {name: torch.from_numpy(arrays[name]).float() for name in UPSTREAM[:-1]}
        tensors["lengths"] = torch.from_numpy(arrays["lengths"]).long()
        write_named(out, lambda temporary: torch.save(tensors, temporary))
    else:
        out = Path(args.out or Path(args.h5_file).with_suffix(".npz"))
        save(out, trajectories, env_name=args.env_name, command=command, final_obs=False)
    return f"{len(returns)} episodes, mean return {np.mean(returns):.2f}: wrote {out}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    words = sys.argv[1:] if argv is None else argv
    try:
        command = shlex.join(["python", "gail_experts/convert_to_pytorch.py", *words])
        print(run(make_parser().parse_args(words), command))
    except UsageError as error:
        print(f"convert_to_pytorch.py: error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"convert_to_pytorch.py: stopped: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
