"""Published settings, so that a row of the results table is one flag: `--preset NAME`, by algorithm."""

Q_LEARNING = {
    # Stable-Baselines3's RL Zoo, DQN on MountainCar-v0
    "mountain-car": "--lr 4e-3 --batch-size 128 --buffer-size 10_000 --learning-starts 1_000 --gamma 0.98 "
    "--target-update-interval 300 --num-steps 16 --eval-interval 160 --update-to-data 0.5 --epsilon-steps 24_000 "
    "--epsilon-end 0.07",
}

ZOO_DETERMINISTIC = "--lr 1e-3 --hidden-size 400 300 --learning-starts 10_000"
TWENTY_UPDATES = "--update-to-data 20 --policy-delay 20 --learning-starts 5_000"
MAXIMUM_ENTROPY = {
    # Stable-Baselines3's RL Zoo: Pendulum-v1, LunarLanderContinuous-v3, BipedalWalker-v3 without gSDE, MuJoCo
    "pendulum": "--lr 1e-3 --learning-starts 100",
    "lunar-lander": "--lr 7.3e-4 --use-linear-lr-decay --tau 0.01 --hidden-size 400 300",
    "bipedal-walker": "--lr 7.3e-4 --gamma 0.98 --tau 0.02 --buffer-size 300_000 --num-steps 64 --eval-interval 160 "
    "--hidden-size 400 300",
    "mujoco": "",
}

PRESETS: dict[str, dict[str, str]] = {
    "a2c": {
        # Stable-Baselines3's RL Zoo, CartPole-v1
        "classic": "--num-processes 8 --num-steps 5 --entropy-coef 0 --no-normalize-env",
    },
    "acktr": {
        # Stable-Baselines 2's RL Zoo, CartPole-v1; its value loss has a factor 1/2, as the next one's
        "classic": "--num-processes 8 --num-steps 20 --entropy-coef 0 --value-loss-coef 0.125 --use-linear-lr-decay "
        "--no-normalize-env",
        # Stable-Baselines 2's RL Zoo, HalfCheetahBulletEnv-v0; advantages are normalized by its ACKTR itself
        "pybullet": "--num-processes 1 --num-steps 128 --entropy-coef 0 --lr 0.0217 --gamma 0.98 "
        "--value-loss-coef 0.473 --max-grad-norm 0.5 --norm-adv --time-feature",
        # our own: upstream's ran on Atari only
        "mujoco": "--num-processes 16 --num-steps 5 --entropy-coef 0 --use-gae --use-proper-time-limits",
        # upstream's README
        "atari": "--num-processes 32 --num-steps 20",
    },
    "ppo": {
        # Stable-Baselines3's RL Zoo, CartPole-v1; the value loss and time limits stay as in `algo/ppo.py`
        "classic": "--num-processes 8 --num-steps 32 --num-mini-batch 1 --ppo-epoch 20 --lr 1e-3 --gamma 0.98 "
        "--use-gae --gae-lambda 0.8 --entropy-coef 0 --use-linear-lr-decay --use-linear-clip-decay --no-normalize-env",
        # upstream's README
        "mujoco": "--use-gae --num-steps 2048 --num-processes 1 --lr 3e-4 --entropy-coef 0 --value-loss-coef 0.5 "
        "--ppo-epoch 10 --num-mini-batch 32 --gamma 0.99 --gae-lambda 0.95 --use-linear-lr-decay "
        "--use-proper-time-limits",
        # upstream's README
        "atari": "--use-gae --lr 2.5e-4 --clip-param 0.1 --value-loss-coef 0.5 --num-processes 8 --num-steps 128 "
        "--num-mini-batch 4 --use-linear-lr-decay --entropy-coef 0.01",
        # our own, for Navigation-v0 with a GRU or without; 300k steps are enough
        "navigation": "--use-gae --use-proper-time-limits --no-normalize-env --num-processes 16 --num-steps 128 "
        "--num-mini-batch 4 --lr 1e-3 --use-linear-lr-decay",
    },
    "ddpg": {
        # Stable-Baselines3's RL Zoo, Pendulum-v1
        "pendulum": f"--gamma 0.98 {ZOO_DETERMINISTIC} --buffer-size 200_000",
        # the same, MuJoCo
        "mujoco": ZOO_DETERMINISTIC,
        # Lillicrap et al. 2016, but for what `algo/ddpg.py` lists
        "paper": "--lr 1e-3 --actor-lr 1e-4 --tau 0.001 --batch-size 64 --hidden-size 400 300 "
        "--critic-weight-decay 0.01 --noise ou --exploration-noise 0.2 --learning-starts 1_000",
    },
    "td3": {
        # Stable-Baselines3's RL Zoo, Pendulum-v1
        "pendulum": f"--gamma 0.98 {ZOO_DETERMINISTIC} --buffer-size 200_000",
        # the same, MuJoCo
        "mujoco": ZOO_DETERMINISTIC,
        # the same, PyBullet
        "pybullet": "--lr 7e-4 --gamma 0.98 --buffer-size 200_000 --learning-starts 10_000 --hidden-size 400 300",
        # Fujimoto et al. 2018
        "paper": "--lr 1e-3 --hidden-size 400 300 --batch-size 100 --learning-starts 10_000",
    },
    "sac": MAXIMUM_ENTROPY
    | {
        # Chen et al. 2021, REDQ
        "redq": f"--num-critics 10 --min-critics 2 --policy-value mean {TWENTY_UPDATES}",
        # Hiraoka et al. 2022, DroQ, with the dropout of SBX
        "droq": f"--critic-dropout 0.01 --critic-layer-norm {TWENTY_UPDATES}",
    },
    "tqc": MAXIMUM_ENTROPY,
    "crossq": {
        # Stable-Baselines3's RL Zoo, Pendulum-v1
        "pendulum": "--policy-delay 2 --learning-starts 100",
    },
    **{algo: Q_LEARNING for algo in ("dqn", "c51", "qr_dqn", "iqn", "rainbow")},
}
