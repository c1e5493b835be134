"""Adam of small vectors against torch's and against the definition."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from a2c_ppo_acktr.optim.adam import LARGEST, Adam
from a2c_ppo_acktr.process import tune_process


def make(size=50, kind=Adam, **settings):
    torch.manual_seed(0)
    flat = nn.Parameter(torch.randn(size))
    flat.grad = torch.zeros(size)
    arguments = {"lr": 0.01, "eps": 1e-5} | settings
    return flat, kind(flat, **arguments) if kind is Adam else kind([flat], **arguments)


def step(flat, optimizer, gradient):
    flat.grad.copy_(gradient)
    optimizer.step()


def gradients(size, num=30):
    scales = torch.logspace(-6, 3, num)
    return [scale * torch.randn(size) for scale in scales]


@pytest.mark.parametrize("size", [1, 50, LARGEST, LARGEST + 1])
def test_steps_are_torchs(size):
    (own, optimizer), (other, torchs) = make(size), make(size, torch.optim.Adam)
    assert optimizer.small == (size <= LARGEST)
    for number, gradient in enumerate(gradients(size)):
        for flat, one in ((own, optimizer), (other, torchs)):
            one.param_groups[0]["lr"] = 0.01 / (1 + number)
            step(flat, one, gradient)
        torch.testing.assert_close(own.data, other.data, atol=1e-6, rtol=1e-5)


def test_a_step_by_hand():
    flat = nn.Parameter(torch.tensor([1.0]))
    flat.grad = torch.zeros(1)
    optimizer = Adam(flat, lr=0.1, eps=0.5)
    step(flat, optimizer, torch.tensor([2.0]))  # m = .2, v = .004: corrected 2 and 4
    assert flat.item() == pytest.approx(1 - 0.1 * 2 / (2 + 0.5))
    step(flat, optimizer, torch.tensor([-1.0]))
    m, v = (0.9 * 0.2 - 0.1) / (1 - 0.9**2), (0.999 * 0.004 + 0.001) / (1 - 0.999**2)
    assert flat.item() == pytest.approx(1 - 0.08 - 0.1 * m / (v**0.5 + 0.5), rel=1e-6)


@pytest.mark.parametrize(("first", "then"), [(Adam, Adam), (torch.optim.Adam, Adam), (Adam, torch.optim.Adam)])
def test_the_state_is_saved_and_is_torchs(first, then):
    (flat, optimizer), (other, loaded) = make(kind=first), make(kind=then)
    for gradient in gradients(50, 5):
        step(flat, optimizer, gradient)
    other.data.copy_(flat.data)
    loaded.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for gradient in gradients(50, 5):
        step(flat, optimizer, gradient)
        step(other, loaded, gradient)
    np.testing.assert_allclose(other.detach(), flat.detach(), rtol=1e-6, atol=0 if first is then else 1e-7)
    if first is then:
        assert torch.equal(other, flat)


@pytest.mark.parametrize("size", [50, LARGEST + 1])
def test_a_moment_whose_gradient_stays_zero_does_not_end_among_slow_numbers(size):
    tune_process()
    flat, optimizer = make(size)
    step(flat, optimizer, torch.ones(size))
    for _ in range(1000):
        step(flat, optimizer, torch.zeros(size))
    moment = optimizer.state[flat]["exp_avg"].abs()
    torch.set_flush_denormal(False)  # which would hide what is looked for
    assert not ((moment > 0.0) & (moment < 2.0**-126)).any()
