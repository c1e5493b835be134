"""Recordings give what their functions give: on a GPU, or with a tape of torch's operations in a CUDA graph's place."""

import contextlib
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from a2c_ppo_acktr.fast.graphs import REHEARSALS, captured

GPU = torch.device("cuda")


class Tape(TorchDispatchMode):
    """Keeps operations with the memory that they read, and repeats them into the memory that they wrote."""

    def __init__(self):
        super().__init__()
        self.operations = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.operations.append((function, args, kwargs or {}, result))
        return result

    @torch.no_grad()
    def replay(self):
        for function, args, kwargs, result in self.operations:
            again = function(*args, **kwargs)
            if isinstance(result, torch.Tensor) and result.data_ptr() != again.data_ptr():
                result.copy_(again)


@contextlib.contextmanager
def taping(tape):
    with torch.random.fork_rng(devices=[]), tape:
        yield


@pytest.fixture
def device(monkeypatch):
    if torch.cuda.is_available():
        return GPU
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Tape)
    monkeypatch.setattr(torch.cuda, "graph", taping)
    return torch.device("cpu")


class Result(NamedTuple):
    total: Any
    noisy: Any


def test_a_recording_gives_what_its_function_gives(device):
    weight, calls = torch.randn(4, 4, device=device), []

    def function(tree, scale, *, noise):
        calls.append(scale)
        x = tree["x"].float() @ weight * scale + tree["pair"].total - tree["pair"].noisy[0]
        return Result(x.sum(), x + torch.rand_like(x) if noise else x)

    play, draw, given = captured(function, GPU), np.random.default_rng(0), []
    for i in range(200):
        size, scale, noise = draw.choice([3, 5]), float(draw.choice([1.0, 2.0])), bool(draw.integers(2))
        dtype = [torch.float32, torch.int64][draw.integers(2)]
        pair = Result(torch.randn(4, device=device), (torch.randn(4, device=device), None))
        tree = {"x": (5 * torch.randn(size, 4, device=device)).to(dtype), "pair": pair}
        given.append((tree["x"], tree["x"].clone()))
        weight.mul_(1.01)
        results = []
        for run in (play, function):
            torch.manual_seed(i)
            results.append((*run(tree, scale, noise=noise), torch.rand(2, device=device)))
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(*results, strict=True))
    assert all(torch.equal(x, before) for x, before in given)
    assert len(calls) == 200 + 16 * (REHEARSALS + 1)


def test_a_recording_sets_the_gradients_that_its_function_sets(device):
    layer = torch.nn.Linear(4, 2).to(device)
    for parameter in layer.parameters():
        parameter.grad = torch.zeros_like(parameter)

    def function(x):
        for parameter in layer.parameters():
            parameter.grad.zero_()
        loss = layer(x).square().mean()
        loss.backward()
        return loss.detach()

    play = captured(function, GPU)
    for _ in range(2 * REHEARSALS):
        x, found = torch.randn(3, 4, device=device), []
        for run in (play, function):
            loss = run(x)
            found.append([loss.clone(), *(parameter.grad.clone() for parameter in layer.parameters())])
        for ours, theirs in zip(*found, strict=True):
            torch.testing.assert_close(ours, theirs)
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.sub_(0.1 * parameter.grad)


def test_on_the_cpu_a_function_stays_what_it_is():
    assert captured(max, torch.device("cpu")) is max
