"""The rows of the results table: what is run, and the published figure beside it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One claim about learning."""

    name: str
    flags: str
    """Command line of main.py, without steps and seed."""
    steps: int
    published: str
    """The figures as their source gives them."""
    reference: float | None
    """The one number to compare the mean with; None where none is published."""
    source: str
    seeds: tuple[int, ...] = (1, 2, 3)
    metric: str = "training"
    """`training`: mean return of the last 100 training episodes. `evaluation`: of 100 episodes after training, the most
    probable action, normalizers frozen. `best`: the same of the checkpoint that did best in evaluations meanwhile."""
    threads: int = 1
    """Of one process; a campaign on two cores then wants `--jobs 1`."""
    stale: str = ""
    """What has changed since its results were made though its command has not; empty once it has been run anew."""

    def command(self, seed: int) -> str:
        """What makes this result, from the repository's root."""
        return f"python main.py {self.flags} --num-env-steps {self.steps} --seed {seed} --torch-threads {self.threads}"


UPSTREAM_V5 = "upstream's trainer ported to Gymnasium, v5 environments, training return"

_PONG = "--algo ppo --env-name PongNoFrameskip-v4 --preset atari --nn-base-kwargs last_filters=64"
"""Nature's network, as the rows of the speed table."""


def _pong(name: str, flags: str) -> "Row":
    return Row(
        name,
        f"{_PONG} {flags}",
        steps=1_000_000,
        seeds=(1,),
        published="20.4 +- 0.2 at 10M",
        reference=20.4,
        source="CleanRL, 3 seeds, training return; no figure at 1M is published",
    )


_SHORT_ROLLOUTS = "--num-processes 16 --num-steps 5 --entropy-coef 0 --use-gae --use-proper-time-limits"
"""The preset mujoco of ACKTR, for A2C too."""

_NAVIGATION = (
    "--algo ppo --env-name Navigation-v0 --use-gae --use-proper-time-limits --no-normalize-env --num-processes 16 "
    "--num-steps 128 --num-mini-batch 4 --lr 1e-3 --use-linear-lr-decay --nn-base FlexBase"
)


def _navigation(name: str, flags: str) -> "Row":
    return Row(
        name,
        f"{_NAVIGATION} {flags}",
        steps=300_000,
        published="none: our own task",
        reference=None,
        source="return is 1 - length / 200 where the platform is reached, -1 where it is not",
    )


_EXPERTS = {
    "cheetah": 5865.2,
    "hopper": 3641.8,
    "minatar": 13.4,
    "cartpole": 500.0,
    "mountaincar": -99.9,
    "poor cartpole": 136.7,
    "poor hopper": 330.6,
}
"""Mean returns of the demonstrations in gail_experts."""


_SPLIT = "what is held out is drawn by the seed, and kept out of the statistics"


def _imitation(
    name: str, expert: str, flags: str, steps: int, seeds: tuple[int, ...] = (1, 2, 3), stale: str = ""
) -> "Row":
    """Imitation of one of our own experts; its demonstrations' mean return is what to compare with."""
    return Row(
        name,
        flags,
        steps=steps,
        seeds=seeds,
        published=f"our expert: {_EXPERTS[expert]:g}",
        reference=_EXPERTS[expert],
        source="of the expert: GAIL 96 % at 10M and BC 92 to 96 % (`imitation`), BC and BCO 500 and -100 (IL-Datasets)",
        metric="evaluation",
        stale=stale,
    )


_GAIL_CARTPOLE = "--algo ppo --env-name CartPole-v1 --preset classic --normalize-env --gail"
_GAIL_HOPPER, _GAIL_CHEETAH = (
    f"--algo ppo --env-name {env}-v5 --preset mujoco --gail" for env in ("Hopper", "HalfCheetah")
)
_GAIL_MINATAR = (
    "--algo ppo --env-name MinAtar/Breakout-v1 --preset atari --lr 1e-3 --gail --num-trajectories 50 --subsample 1 "
    "--gail-warm-up 1 --gail-epoch 1 --entropy-coef 0.03"
)
_POOR = "--demonstrations gail_experts/trajs_{}_poor.npz"
_IMITATION = [
    _imitation("gail-cartpole", "cartpole", _GAIL_CARTPOLE, 200_000),
    _imitation("gail-cartpole-blind", "cartpole", f"{_GAIL_CARTPOLE} --gail-lr 0", 200_000),
    _imitation("gail-cartpole-poor", "poor cartpole", f"{_GAIL_CARTPOLE} {_POOR.format('cartpole')}", 200_000),
    _imitation("gail-hopper", "hopper", f"{_GAIL_HOPPER} --subsample 1", 2_000_000),
    _imitation("gail-hopper-subsampled", "hopper", _GAIL_HOPPER, 2_000_000),
    _imitation("gail-hopper-blind", "hopper", f"{_GAIL_HOPPER} --gail-lr 0", 500_000, (1,)),
    _imitation("gail-hopper-poor", "poor hopper", f"{_GAIL_HOPPER} {_POOR.format('hopper')}", 500_000, (1,)),
    _imitation("gail-cheetah", "cheetah", _GAIL_CHEETAH, 2_000_000),
    _imitation("gail-cheetah-blind", "cheetah", f"{_GAIL_CHEETAH} --gail-lr 0", 500_000, (1,)),
    _imitation("gail-cheetah-10M", "cheetah", _GAIL_CHEETAH, 10_000_000, (1,)),
    _imitation("gail-minatar", "minatar", _GAIL_MINATAR, 500_000, (1, 2, 3, 4, 5)),
    *(
        _imitation(
            f"bc-cheetah-{num}",
            "cheetah",
            f"--algo bc --env-name HalfCheetah-v5 --num-trajectories {num}",
            1,
        )
        for num in (1, 4, 11, 25)
    ),
    _imitation("bc-minatar", "minatar", "--algo bc --env-name MinAtar/Breakout-v1", 1),
    _imitation("bc-cartpole", "cartpole", "--algo bc --env-name CartPole-v1", 1),
    _imitation("bco-cartpole", "cartpole", "--algo bco --env-name CartPole-v1", 10_000),
    _imitation(
        "bco-mountaincar", "mountaincar", "--algo bco --env-name MountainCar-v0 --validation 0 --epochs 50", 6_000
    ),
    _imitation(
        "bco-cheetah",
        "cheetah",
        "--algo bco --env-name HalfCheetah-v5 --num-steps 2000 --epochs 40 --buffer-size 100000",
        80_000,
        stale=_SPLIT,
    ),
]

_ROWS = [
    Row(
        "ppo-reacher-limits",
        "--algo ppo --env-name Reacher-v5 --preset mujoco",
        steps=1_000_000,
        published="-4.56 (-5.06, -4.84, -3.78)",
        reference=-4.56,
        source=UPSTREAM_V5,
    ),
    Row(
        "ppo-reacher-no-limits",
        "--algo ppo --env-name Reacher-v5 --use-gae --num-steps 2048 --num-processes 1 --lr 3e-4 --entropy-coef 0 "
        "--value-loss-coef 0.5 --ppo-epoch 10 --num-mini-batch 32 --gamma 0.99 --gae-lambda 0.95 "
        "--use-linear-lr-decay",
        steps=1_000_000,
        published="-6.24 (-5.4, -7.07)",
        reference=-6.24,
        source=UPSTREAM_V5,
    ),
    Row(
        "ppo-cheetah",
        "--algo ppo --env-name HalfCheetah-v5 --preset mujoco",
        steps=1_000_000,
        seeds=(1, 2, 3, 4, 5, 6, 7),  # two modes of learning: three seeds say little of their mean
        published="2512 (4178, 1796, 1562)",
        reference=2512.0,
        source=UPSTREAM_V5,
    ),
    Row(
        "ppo-cheetah-clipped",
        "--algo ppo --env-name HalfCheetah-v5 --preset mujoco --clip-actions",
        steps=1_000_000,
        published="2512 (unclipped: 4178, 1796, 1562)",
        reference=2512.0,
        source=UPSTREAM_V5,
    ),
    Row(
        "a2c-cartpole",
        "--algo a2c --env-name CartPole-v1 --preset classic",
        steps=500_000,
        published="500",
        reference=500.0,
        source="RL Zoo, evaluation",
        metric="evaluation",
    ),
    Row(
        "ppo-cartpole",
        "--algo ppo --env-name CartPole-v1 --preset classic",  # the first command of the README
        steps=100_000,
        seeds=tuple(range(1, 11)),
        published="500",
        reference=500.0,
        source="RL Zoo, evaluation",
        metric="evaluation",
    ),
    Row(
        "ppo-cheetah-300k",
        "--algo ppo --env-name HalfCheetah-v5 --preset mujoco --clip-actions",  # as the code before always did
        steps=300_000,
        published="none at 300k",
        reference=None,
        source="for the curves before and after the work on speed",
    ),
    Row(
        "acktr-cartpole",
        "--algo acktr --env-name CartPole-v1 --preset classic",
        steps=1_000_000,
        published="487.6",
        reference=487.6,
        source="Stable-Baselines 2's RL Zoo, one run, evaluation",
        metric="evaluation",
    ),
    Row(
        "acktr-cheetah-bullet",
        "--algo acktr --env-name HalfCheetahBulletEnv-v0 --preset pybullet",
        steps=2_000_000,
        seeds=(1, 2),
        published="2535",
        reference=2535.0,
        source="Stable-Baselines 2's RL Zoo, one run, evaluation",
        metric="evaluation",
    ),
    Row(
        "acktr-cheetah",
        f"--algo acktr --env-name HalfCheetah-v5 {_SHORT_ROLLOUTS}",
        steps=1_000_000,
        published="none; A2C beside it",
        reference=None,
        source="row a2c-cheetah, the same settings",
    ),
    Row(
        "a2c-cheetah",
        f"--algo a2c --env-name HalfCheetah-v5 {_SHORT_ROLLOUTS}",
        steps=1_000_000,
        published="none; ACKTR beside it",
        reference=None,
        source="row acktr-cheetah, the same settings",
    ),
    Row(
        "acktr-pong",
        "--algo acktr --env-name PongNoFrameskip-v4 --preset atari",
        steps=1_000_000,
        seeds=(1,),
        published="19.2 at 5M",
        reference=19.2,
        source="Stable-Baselines 2's RL Zoo, one run, evaluation; no figure at 1M is published",
    ),
    *(
        Row(
            f"{algo}-cartpole",
            f"--algo {algo} --env-name CartPole-v1",
            steps=50_000,
            published="500 (DQN)",
            reference=500.0,
            source="RL Zoo, evaluation",
            metric="best",
        )
        for algo in ("dqn", "c51", "qr_dqn", "iqn", "rainbow")
    ),
    *(
        Row(
            f"{algo}-mountaincar",
            f"--algo {algo} --env-name MountainCar-v0 --preset mountain-car",
            steps=120_000,
            published="-100.8 (DQN)",
            reference=-100.8,
            source="RL Zoo, evaluation",
            metric="best",
        )
        for algo in ("dqn", "qr_dqn", "iqn")
    ),
    *(
        Row(
            f"{algo}-cartpole-hidden",
            f"--algo {algo} --env-name CartPole-v1 --hide-observations 1 3",
            steps=100_000,
            published="none; R2D1 and DQN beside each other",
            reference=None,
            source="velocities hidden",
            metric="best",
        )
        for algo in ("r2d1", "dqn")
    ),
    *(
        Row(
            f"{algo}-cue",
            f"--algo {algo} --env-name tests.probe_envs:RememberLong-v0",
            steps=30_000,
            published="none; R2D1 and DQN beside each other",
            reference=None,
            source="a cue, ten blank observations, reward 1 for what the cue named; 0.5 without memory",
            metric="best",
        )
        for algo in ("r2d1", "dqn")
    ),
    *(
        Row(
            f"{algo}-minatar-breakout",
            f"--algo {algo} --env-name MinAtar/Breakout-v1",
            steps=500_000,
            seeds=(1, 2, 3, 4, 5),
            published="none at 500k; DQN and Rainbow beside each other",
            reference=None,
            source="the environment was chosen beforehand",
            stale=stale,
        )
        for algo, stale in (("dqn", ""), ("rainbow", "atoms to 100 and a rate of 1e-4, formerly 10 and 2.5e-4"))
    ),
    Row(
        "dqn-pong",
        "--algo dqn --env-name PongNoFrameskip-v4",
        steps=1_000_000,
        seeds=(1,),
        published="20.25 at 10M",
        reference=20.25,
        source="CleanRL, 3 seeds, training return; Dopamine's DQN with sticky actions 8.0 at 2.5M",
        threads=2,
    ),
    *_IMITATION,
    _navigation(
        "navigation-heads",
        "--recurrent-policy --nn-base-kwargs num_layers=2 num_shared_layers=1 "
        "\"auxiliary_heads=[(1,-1,'position'),(1,-1,'heading')]\"",
    ),
    _navigation("navigation-gru", "--recurrent-policy --nn-base-kwargs num_layers=2 num_shared_layers=1"),
    _navigation("navigation-feed-forward", "--nn-base-kwargs num_layers=2 num_shared_layers=1"),
    _pong("ppo-pong", "--vec-env native"),
    _pong("ppo-pong-bfloat16", "--vec-env native --bfloat16"),
    _pong("ppo-pong-chain", "--vec-env dummy"),
    _pong("ppo-pong-chain-bfloat16", "--vec-env dummy --bfloat16"),
]
ROWS = {row.name: row for row in _ROWS}
