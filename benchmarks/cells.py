"""The cells of the speed table: what is measured, against which peer, and what is asked of it.

Both sides do the same mathematics in float32 (but for the bfloat16 cells): equal networks, batch sizes and numbers of
gradient steps; a constant learning rate; advantages normalized per minibatch and an unclipped value function in PPO
(Stable-Baselines3's way); truncated episodes bootstrapped; DQN's chance of a random action, which needs no network, the
same at every step. What stays different:

1. Stable-Baselines3's A2C has `gae_lambda` 1, which is the n-step return that the project computes.
2. Its PPO value loss carries no factor 1/2; the project's does. A constant in the loss, no work.
3. The project also writes its files (monitor CSVs, metric lines, TensorBoard); the peer writes none.
4. Its environments are in this process (`DummyVecEnv`, its default).
5. ACKTR, which nobody maintains, is measured beside A2C with the same rollouts, which has less to compute; GAIL beside
   its learner, PPO, which has no discriminator to train.
6. Its DQN with `optimize_memory_usage` keeps stacks of 4 images once per step, the project single images.
7. Neither side evaluates. `main.py` with a cell's flags does: Q-learning on vectors every ten updates.
8. ALE's own vector environment, which the project steps Pong by, has a thread pool of its own, as many threads as there
   are cores up to one for each game, also where `threads` is 1, and for the bound; the peer steps game by game.
9. The project tells glibc to keep freed memory and OpenMP's idle threads to give way sooner, as `main.py` does; the
   peer runs as its users run it.
"""

from dataclasses import dataclass, field
from typing import Any

FOREVER = 10**9
"""Environment steps that both sides are told to train for; a measurement ends sooner."""


@dataclass(frozen=True)
class Peer:
    """A model of Stable-Baselines3, or of a package with the same interface."""

    algorithm: str
    policy: str
    settings: dict[str, Any]
    module: str = "stable_baselines3"


@dataclass(frozen=True)
class Cell:
    """One line of the speed table."""

    name: str
    flags: str
    """Command line of the project. Environment, number of environments and normalization also hold for the peer."""
    peer: Peer
    goal: float = 0.0
    """Ratio to the peer that is asked for, 0 for none; 90 % of the environment-only bound is enough."""
    atari: bool = False
    """The peer's environments are made by `make_atari_env` and `VecFrameStack`."""
    warmup_steps: int = 0
    """Environment steps before timing, beside the two updates; for learners that collect before they learn."""
    peer_env: dict[str, Any] = field(default_factory=dict)
    """Further keyword arguments of the peer's `make_vec_env`, such as a wrapper."""
    unequal: str = ""
    """How the networks differ, where they do."""


_PPO = "--algo ppo --use-gae --norm-adv-per-minibatch --no-clip-value-loss --use-proper-time-limits"
_A2C = "--algo a2c --num-processes 16 --num-steps 5 --lr 7e-4 --entropy-coef 0.01 --use-proper-time-limits"
_ACKTR = "--algo acktr --num-processes 32 --num-steps 20 --max-grad-norm 0.5 --use-proper-time-limits"
_PONG = "--env-name PongNoFrameskip-v4 --nn-base-kwargs last_filters=64"

_SB3_A2C = {"n_steps": 5, "learning_rate": 7e-4, "ent_coef": 0.01, "vf_coef": 0.5, "max_grad_norm": 0.5}
"""RMSprop with alpha .99 and epsilon 1e-5 and `gae_lambda` 1 are its defaults."""


def _sb3_ppo(**settings: Any) -> dict[str, Any]:
    """Adam with epsilon 1e-5 is its policies' default."""
    return {"vf_coef": 0.5, "max_grad_norm": 0.5, "gamma": 0.99, "gae_lambda": 0.95} | settings


def _sb3_dqn(epsilon_steps: int, epsilon_end: float, **settings: Any) -> dict[str, Any]:
    """One gradient step per `train_freq` steps; Adam with epsilon 1e-8 is its policies' default."""
    exploration = {"exploration_fraction": epsilon_steps / FOREVER, "exploration_final_eps": epsilon_end}
    return {"gradient_steps": 1, "gamma": 0.99, "max_grad_norm": 10} | exploration | settings


_CARTPOLE = (
    f"{_PPO} --env-name CartPole-v1 --num-processes 8 --num-steps 128 --num-mini-batch 4 --ppo-epoch 4 --lr 3e-4 "
    "--clip-param 0.2 --entropy-coef 0.01 --no-normalize-env"
)
_SB3_CARTPOLE = _sb3_ppo(n_steps=128, batch_size=256, n_epochs=4, learning_rate=3e-4, clip_range=0.2, ent_coef=0.01)
_CHEETAH = (
    f"{_PPO} --env-name HalfCheetah-v5 --num-processes 1 --num-steps 2048 --num-mini-batch 32 --ppo-epoch 10 "
    "--lr 3e-4 --clip-param 0.2 --entropy-coef 0"
)
_SB3_CHEETAH = _sb3_ppo(n_steps=2048, batch_size=64, n_epochs=10, learning_rate=3e-4, clip_range=0.2, ent_coef=0.0)
_PPO_PONG = (
    f"{_PPO} {_PONG} --num-processes 8 --num-steps 128 --num-mini-batch 4 --ppo-epoch 4 --lr 2.5e-4 "
    "--clip-param 0.1 --entropy-coef 0.01"
)
_SB3_PONG = _sb3_ppo(n_steps=128, batch_size=256, n_epochs=4, learning_rate=2.5e-4, clip_range=0.1, ent_coef=0.01)
_LSTM = {"lstm_hidden_size": 64}
_DQN_PONG = (
    "--algo dqn --env-name PongNoFrameskip-v4 --buffer-size 100_000 --learning-starts 1000 "
    "--target-update-interval 2500"
)
_SB3_DQN_PONG = _sb3_dqn(
    250_000,
    0.01,
    batch_size=32,
    train_freq=4,
    learning_starts=1000,
    target_update_interval=10_000,
    learning_rate=1e-4,
    buffer_size=100_000,
    optimize_memory_usage=True,
    replay_buffer_kwargs={"handle_timeout_termination": False},
)

_CELLS = [
    Cell("ppo-cartpole", _CARTPOLE, Peer("PPO", "MlpPolicy", _SB3_CARTPOLE), goal=3.0),
    Cell("a2c-cartpole", f"{_A2C} --env-name CartPole-v1 --no-normalize-env", Peer("A2C", "MlpPolicy", _SB3_A2C), 3.0),
    Cell(
        "acktr-cartpole",
        f"{_ACKTR} --env-name CartPole-v1 --no-normalize-env",
        Peer("A2C", "MlpPolicy", _SB3_A2C | {"n_steps": 20}),
    ),
    Cell(
        "ppo-gru-cartpole",
        f"{_CARTPOLE} --recurrent-policy",
        Peer("RecurrentPPO", "MlpLstmPolicy", _SB3_CARTPOLE | {"policy_kwargs": _LSTM}, "sb3_contrib"),
        goal=5.0,
        unequal="one GRU of 64 against two LSTMs of 64, one of the actor and one of the critic",
    ),
    Cell(
        "ppo-gru-cartpole-shared",
        f"{_CARTPOLE} --recurrent-policy",
        Peer(
            "RecurrentPPO",
            "MlpLstmPolicy",
            _SB3_CARTPOLE | {"policy_kwargs": _LSTM | {"shared_lstm": True, "enable_critic_lstm": False}},
            "sb3_contrib",
        ),
        goal=5.0,
        unequal="one GRU of 64 against one LSTM of 64",
    ),
    Cell("ppo-cheetah", _CHEETAH, Peer("PPO", "MlpPolicy", _SB3_CHEETAH), goal=3.0),
    Cell("gail-cheetah", f"{_CHEETAH} --gail --gail-warm-up 0", Peer("PPO", "MlpPolicy", _SB3_CHEETAH)),
    Cell("ppo-pong", _PPO_PONG, Peer("PPO", "CnnPolicy", _SB3_PONG), goal=2.0, atari=True),
    Cell("ppo-pong-bfloat16", f"{_PPO_PONG} --bfloat16", Peer("PPO", "CnnPolicy", _SB3_PONG), goal=3.0, atari=True),
    Cell("a2c-pong", f"{_A2C} {_PONG}", Peer("A2C", "CnnPolicy", _SB3_A2C), goal=2.0, atari=True),
    Cell(
        "dqn-cartpole",
        "--algo dqn --env-name CartPole-v1 --num-processes 1 --num-steps 1 --update-to-data 1 --batch-size 64 "
        "--hidden-size 64 64 --learning-starts 1000 --target-update-interval 500 --lr 2.3e-3",
        Peer(
            "DQN",
            "MlpPolicy",
            _sb3_dqn(
                8_000,
                0.04,
                batch_size=64,
                train_freq=1,
                learning_starts=1000,
                target_update_interval=500,
                learning_rate=2.3e-3,
                buffer_size=100_000,
            ),
        ),
        goal=3.0,
        warmup_steps=1500,
    ),
    Cell("dqn-pong", _DQN_PONG, Peer("DQN", "CnnPolicy", _SB3_DQN_PONG), goal=2.0, atari=True, warmup_steps=1500),
    Cell(
        "dqn-pong-bfloat16",
        f"{_DQN_PONG} --bfloat16",
        Peer("DQN", "CnnPolicy", _SB3_DQN_PONG),
        atari=True,
        warmup_steps=1500,
    ),
    Cell("acktr-pong", f"{_ACKTR} {_PONG}", Peer("A2C", "CnnPolicy", _SB3_A2C | {"n_steps": 20}), atari=True),
]
CELLS = {cell.name: cell for cell in _CELLS}
