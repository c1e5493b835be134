"""Projection onto atoms and quantile regression, against worked numbers and loops."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from a2c_ppo_acktr.algo.qr_dqn import Quantiles
from a2c_ppo_acktr.distributional import categorical_projection, quantile_huber_loss
from a2c_ppo_acktr.fast.q_learning import TEMPORAL_DIFFERENCES

ATOMS = np.array([-1.0, 0.0, 1.0, 2.0])


def slow_projection(probs, returns, discounts, support):
    """Algorithm 1 of Bellemare et al. 2017, atom by atom; an atom that falls on another keeps its mass together."""
    width, projected = (support[-1] - support[0]) / (len(support) - 1), np.zeros(probs.shape)
    for b in range(len(probs)):
        for j, atom in enumerate(support):
            moved = min(max(returns[b] + discounts[b] * atom, support[0]), support[-1])
            place = (moved - support[0]) / width
            lower, upper = math.floor(place), min(math.ceil(place), len(support) - 1)
            if lower >= upper:
                projected[b, upper] += probs[b, j]
            else:
                projected[b, lower] += probs[b, j] * (upper - place)
                projected[b, upper] += probs[b, j] * (place - lower)
    return projected


def project(probs, reward, discount, support=ATOMS):
    return categorical_projection(np.array([probs]), np.array([reward]), np.array([discount]), support)[0]


@pytest.mark.parametrize(
    ("probs", "reward", "discount", "expected"),
    [
        ([0.1, 0.2, 0.3, 0.4], 0.0, 1.0, [0.1, 0.2, 0.3, 0.4]),  # falls on itself
        ([0.1, 0.2, 0.3, 0.4], 1.0, 1.0, [0.0, 0.1, 0.2, 0.7]),  # moves by one atom; the last one is clamped
        ([0.1, 0.2, 0.3, 0.4], -1.0, 1.0, [0.3, 0.3, 0.4, 0.0]),
        ([0.1, 0.2, 0.3, 0.4], 0.0, 0.5, [0.05, 0.4, 0.55, 0.0]),  # at -0.5, 0, 0.5, 1
        ([0.1, 0.2, 0.3, 0.4], 0.25, 0.0, [0.0, 0.75, 0.25, 0.0]),  # terminal
        ([0.1, 0.2, 0.3, 0.4], 1.0, 0.0, [0.0, 0.0, 1.0, 0.0]),
        ([0.1, 0.2, 0.3, 0.4], 50.0, 0.9, [0.0, 0.0, 0.0, 1.0]),
        ([0.1, 0.2, 0.3, 0.4], -50.0, 0.9, [1.0, 0.0, 0.0, 0.0]),
        ([0.0, 0.0, 1.0, 0.0], -0.9, 0.5, [0.4, 0.6, 0.0, 0.0]),  # at -0.4
    ],
)
def test_projection_gives_the_worked_numbers(probs, reward, discount, expected):
    np.testing.assert_allclose(project(probs, reward, discount), expected, atol=1e-12)
    np.testing.assert_allclose(slow_projection(np.array([probs]), [reward], [discount], ATOMS)[0], expected, atol=1e-12)


@pytest.mark.parametrize("atom", range(51))
def test_a_return_on_an_atom_gives_it_all_the_mass_in_float32_too(atom):
    support = torch.linspace(-10, 10, 51)
    probs = torch.full((1, 51), 1 / 51)
    projected = categorical_projection(probs, support[atom : atom + 1], torch.zeros(1), support)[0]
    assert projected[atom].item() == pytest.approx(1, abs=1e-4)
    assert projected.sum().item() == pytest.approx(1, abs=1e-5)


@st.composite
def batches(draw):
    size, atoms = draw(st.integers(1, 4)), draw(st.integers(2, 12))
    low, width = draw(st.floats(-20, 20)), draw(st.floats(0.05, 5))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    probs = rng.dirichlet(np.full(atoms, 0.5), size)
    reach = atoms * width
    returns = draw(st.lists(st.floats(low - reach, low + 2 * reach), min_size=size, max_size=size))
    discounts = draw(st.lists(st.sampled_from([0.0, 0.5, 0.97, 1.0]), min_size=size, max_size=size))
    return probs, np.array(returns), np.array(discounts), low + width * np.arange(atoms)


@given(batches())
@settings(max_examples=200, deadline=None)
def test_projection_equals_the_papers_loop_and_keeps_the_mass(batch):
    projected = categorical_projection(*batch)
    np.testing.assert_allclose(projected, slow_projection(*batch), atol=1e-8)
    np.testing.assert_allclose(projected.sum(1), 1, atol=1e-8)
    assert (projected >= 0).all()


@given(st.integers(0, 2**31), st.floats(-4, 4), st.floats(0, 0.5))
@settings(max_examples=100, deadline=None)
def test_projection_preserves_the_mean_where_nothing_is_clamped(seed, reward, discount):
    support = np.linspace(-9, 9, 13)
    probs = np.random.default_rng(seed).dirichlet(np.ones(13))
    assert project(probs, reward, discount, support) @ support == pytest.approx(reward + discount * (probs @ support))


@given(batches())
@settings(max_examples=20, deadline=None)
def test_projection_of_tensors_is_that_of_arrays(batch):
    tensors = categorical_projection(*map(torch.from_numpy, batch))
    np.testing.assert_allclose(tensors.numpy(), categorical_projection(*batch), atol=1e-12)


def slow_quantile_huber(quantiles, targets, fractions, kappa):
    """Eq. 9 and 10 of Dabney et al. 2018, pair by pair; a tensor `[B]` with its graph."""
    losses = []
    for row, theta in enumerate(quantiles):
        total = torch.zeros((), dtype=quantiles.dtype)
        for i, quantile in enumerate(theta):
            tau = fractions[i] if fractions.dim() == 1 else fractions[row, i]
            for target in targets[row]:
                u = target - quantile
                huber = 0.5 * u**2 if u.abs() <= kappa else kappa * (u.abs() - 0.5 * kappa)
                total = total + (1 - tau if u < 0 else tau) * huber / kappa / len(targets[row])
        losses.append(total)
    return torch.stack(losses)


def by_autograd(quantiles, targets, fractions, kappa=1.0):
    """The losses and their derivatives by the quantiles, arrays."""
    quantiles = quantiles.detach().clone().requires_grad_()
    losses = quantile_huber_loss(quantiles, targets, fractions, kappa)
    (slopes,) = torch.autograd.grad(losses.sum(), quantiles)
    return losses.detach().numpy(), slopes.numpy()


def written_out(quantiles, targets, fractions, kappa=1.0):
    """The same from `fast`."""
    arrays = quantiles.detach().numpy(), targets.numpy(), np.zeros(len(targets)), np.ones(len(targets))
    found = TEMPORAL_DIFFERENCES["a2c_ppo_acktr.algo.qr_dqn.Quantiles"].slopes(Quantiles(fractions, kappa), *arrays)
    return found.losses, found.slopes


WAYS = pytest.mark.parametrize("quantile_loss", [by_autograd, written_out])


def tensor(numbers):
    return torch.tensor(numbers, dtype=torch.float64)


@WAYS
def test_quantile_loss_gives_the_worked_numbers_of_two_quantiles_and_three_targets(quantile_loss):
    losses, slopes = quantile_loss(tensor([[0.0, 2.0]]), tensor([[1.0, -1.0, 4.0]]), tensor([0.25, 0.75]))
    of_first = (0.25 * 0.5 + 0.75 * 0.5 + 0.25 * 3.5) / 3  # errors 1, -1, 4
    of_second = (0.25 * 0.5 + 0.25 * 2.5 + 0.75 * 1.5) / 3  # errors -1, -3, 2
    np.testing.assert_allclose(losses, [of_first + of_second])
    np.testing.assert_allclose(slopes, [[(-0.25 + 0.75 - 0.25) / 3, (0.25 + 0.25 - 0.75) / 3]])


@WAYS
@pytest.mark.parametrize("kappa", [0.1, 1.0, 2.5])
@pytest.mark.parametrize("own_fractions", [False, True])
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 2, 5), (5, 5, 5), (2, 6, 3)])
def test_quantile_loss_and_slopes_equal_those_of_the_triple_loop(shape, own_fractions, kappa, quantile_loss):
    size, num, num_targets = shape
    generator = torch.Generator().manual_seed(sum(shape))
    quantiles = torch.randn(size, num, generator=generator, dtype=torch.float64).requires_grad_()
    targets = 2 * torch.randn(size, num_targets, generator=generator, dtype=torch.float64)
    fractions = torch.rand(*([size] if own_fractions else []), num, generator=generator, dtype=torch.float64)
    expected = slow_quantile_huber(quantiles, targets, fractions, kappa)
    expected.sum().backward()
    losses, slopes = quantile_loss(quantiles, targets, fractions, kappa)
    assert losses.shape == (size,)
    assert slopes.shape == (size, num)
    np.testing.assert_allclose(losses, expected.detach(), rtol=1e-9)
    np.testing.assert_allclose(slopes, quantiles.grad, rtol=1e-9, atol=1e-12)


@WAYS
def test_quantile_loss_compares_all_pairs_and_not_those_of_the_same_index(quantile_loss):
    quantiles, fractions = tensor([[1.0, 2.0, 5.0]]), tensor([1 / 6, 1 / 2, 5 / 6])
    losses, _ = quantile_loss(quantiles, quantiles, fractions)
    permuted, _ = quantile_loss(quantiles, quantiles[:, [2, 0, 1]], fractions)
    assert losses[0] > 0.1
    np.testing.assert_allclose(permuted, losses)


@WAYS
def test_a_quantile_rises_towards_targets_above_it_and_falls_towards_those_below(quantile_loss):
    _, slopes = quantile_loss(tensor([[0.0], [0.0]]), tensor([[3.0], [-3.0]]), tensor([0.9]))
    np.testing.assert_allclose(slopes, [[-0.9], [0.1]], rtol=1e-12)


@WAYS
@pytest.mark.parametrize("tau", [0.05, 0.25, 0.5, 0.9])
def test_the_loss_is_least_at_the_quantile_of_the_targets(tau, quantile_loss):
    targets = np.random.default_rng(0).permutation(np.arange(100.0))[None]
    candidates = np.arange(-0.5, 100)[:, None]
    losses, _ = quantile_loss(tensor(candidates), tensor(targets.repeat(101, 0)), tensor([tau]), kappa=1e-3)
    assert candidates[losses.argmin(), 0] == pytest.approx(100 * tau - 0.5, abs=1)
