"""One thread per test process, so that several run side by side; no window is ever opened."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

from a2c_ppo_acktr.envs.video.rendering import prepare_rendering

prepare_rendering()  # before any test imports what draws


def pytest_addoption(parser):
    """Which learner `tests/test_contract.py` looks at."""
    parser.addoption("--algo", default=None, metavar="module:Class", help="hold a learner of your own to the contract")


@pytest.fixture(autouse=True)
def _settings_of_the_process():
    """Not those that `tune_process` of an earlier test left: Hypothesis draws subnormal numbers."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(False)


@pytest.fixture
def double_precision():
    """New tensors are float64, and the same ones in every run."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)
