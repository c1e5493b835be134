"""Installs the package `a2c_ppo_acktr`; `main.py`, `enjoy.py` and `evaluate.py` run from a checkout."""

from setuptools import find_packages, setup

EXTRAS = {
    "atari": ["ale-py>=0.11", "opencv-python-headless>=4.9"],
    "mujoco": ["mujoco>=3.2,<4", "imageio>=2.14"],
    "pybullet": ["pybullet>=3.2.6", "pybullet_envs_gymnasium>=0.6"],
    "dm_control": ["dm-control>=1.0.28", "shimmy>=2.0", "mujoco>=3.2,<4"],
    "box2d": ["box2d>=2.3.10", "pygame-ce>=2.5"],
    "minigrid": ["minigrid>=3.0"],
    "minatar": ["minatar>=1.0.15"],
    "envpool": ["envpool>=1.0"],
    "video": ["imageio-ffmpeg>=0.6", "pygame-ce>=2.5"],
    "wandb": ["wandb>=0.31"],
    "imitation": ["h5py>=3.10", "minari>=0.5"],
    "analysis": [
        "ipykernel>=6",
        "jupyterlab>=4",
        "matplotlib>=3.8",
        "pandas>=2.2",
        "scikit-learn>=1.4",
        "seaborn>=0.13",
    ],
}

setup(
    name="a2c-ppo-acktr",
    version="0.1.0",
    description="A command-line reinforcement-learning trainer: one loop, one file per algorithm",
    license="MIT",
    python_requires=">=3.11",
    packages=find_packages(include=["a2c_ppo_acktr", "a2c_ppo_acktr.*"]),
    install_requires=[
        "torch>=2.11",
        "gymnasium>=1.1",
        "numpy>=1.26",
        "stable-baselines3>=2.5",
        "tensorboard>=2.16",
        "rich>=13",
        "threadpoolctl>=3.3",
        "psutil>=5.9",
        "opencv-python-headless>=4.9",
    ],
    extras_require={
        **EXTRAS,
        "dev": ["pytest>=8", "pytest-xdist>=3", "hypothesis>=6.100", "ruff>=0.8", "mypy>=1.13"],
        "all": sorted({requirement for extra in EXTRAS.values() for requirement in extra}),
    },
)
