"""The tree of sums against running sums."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from a2c_ppo_acktr.storage import priorities
from a2c_ppo_acktr.storage.priorities import SumTree


@pytest.fixture(scope="module", autouse=True)
def _small_tops():
    """Trees of a few hundred items have three levels."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(priorities, "TOP", 16)
        yield


def assert_same_trees(tree, other):
    for level, others in zip(tree.levels, other.levels, strict=True):
        np.testing.assert_array_equal(level, others)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 700), st.floats(0, 1))
def test_items_are_found_where_the_running_sum_passes_the_mass(seed, size, zeros):
    """Weights are whole numbers, whose sums are exact."""
    rng = np.random.default_rng(seed)
    tree, weights = SumTree(size), np.zeros(size)
    assert len(tree.levels) == 1 + (size > 16) + (size > 256)
    for _ in range(20):
        indices = rng.integers(0, size, rng.integers(1, 20))
        new = rng.integers(1, 100, len(indices)) * (rng.random(len(indices)) >= zeros).astype(float)
        tree.set(indices, new)
        for item, weight in zip(indices, new, strict=True):  # of equal ones the last counts
            weights[item] = weight
        np.testing.assert_array_equal(tree.leaves[:size], weights)
        total = weights.sum()
        assert tree.total == total
        if total > 0:
            borders = np.concatenate([[0.0], weights.cumsum()])
            mass = np.concatenate([borders, np.nextafter(borders, 0.0), borders + 0.5, rng.random(50) * total])
            mass = mass[mass < total]
            found = tree.find(mass)
            np.testing.assert_array_equal(found, weights.cumsum().searchsorted(mass, side="right"))
            assert (weights[found] > 0).all()


WEIGHTS = st.one_of(st.just(0.0), st.floats(0, 1e12), st.floats(0, 1e-12), st.sampled_from([5e-324, 0.1, 0.3, 1e16]))


@settings(deadline=None, max_examples=100)
@given(st.lists(WEIGHTS, min_size=1, max_size=60), st.integers(1, 5), st.integers(0, 10**6))
def test_items_without_weight_are_never_found_whatever_rounding_does(some, spread, seed):
    rng = np.random.default_rng(seed)
    weights = np.zeros(spread * len(some))
    weights[::spread] = some
    tree = SumTree(len(weights))
    tree.load(weights)
    total = tree.total
    if total == 0:
        return
    running = weights.cumsum()
    mass = np.concatenate([[0.0, np.nextafter(total, 0.0)], running, np.nextafter(running, 0), rng.random(50) * total])
    mass = mass[mass < total]
    found = tree.find(mass)
    assert (weights[found] > 0).all()
    assert (running[found] >= mass - 1e-12 * total).all()
    assert (running[found] - weights[found] <= mass + 1e-12 * total).all()


def test_a_mass_at_the_border_of_a_group_never_finds_an_item_without_weight():
    """Sums of a group differ in their last bits by the order of summation; its first item has no weight here."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        weights = rng.random(600)
        weights[::16] = 0.0
        tree = SumTree(600)
        tree.load(weights)
        borders = weights.cumsum()[15::16]
        mass = np.concatenate([borders * (1 + bits * 2.0**-53) for bits in range(-9, 10)])
        found = tree.find(mass[mass < tree.total])
        assert (weights[found] > 0).all()


def test_totals_never_drift():
    rng = np.random.default_rng(0)
    tree = SumTree(600)
    for _ in range(3000):
        tree.set(rng.integers(0, 600, 30), rng.random(30) * 10.0 ** rng.integers(-9, 9))
    tree.set(np.arange(0, 600, 2), 0.0)
    fresh = SumTree(600)
    fresh.set(np.arange(600), tree.leaves[:600].copy())
    assert_same_trees(tree, fresh)
    tree.set(np.arange(600), 0.0)
    assert tree.total == 0


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 700), st.integers(0, 10**6), st.data())
def test_load_equals_set(size, seed, data):
    rng = np.random.default_rng(seed)
    loaded, other = SumTree(size), SumTree(size)
    for tree in (loaded, other):
        tree.set(np.arange(size), np.arange(size) / 7)
    weights = rng.random(data.draw(st.integers(0, size)))
    loaded.load(weights)
    other.set(np.arange(len(weights)), weights)
    assert_same_trees(loaded, other)


def test_one_item_is_drawn_from_each_equal_part_of_the_total():
    np.random.seed(0)
    tree = SumTree(300)
    tree.set(np.arange(300), 2.0)
    np.testing.assert_array_equal(tree.sample(300), np.arange(300))
    assert {tuple(tree.sample(1)) for _ in range(50)} != {(0,)}


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.integers(1, 500), st.integers(1, 2000))
def test_items_are_drawn_as_often_as_they_weigh(seed, size, num):
    """Drawn from equal parts, which an item's share covers all but two of."""
    np.random.seed(seed)
    rng = np.random.default_rng(seed)
    weights = rng.random(size) ** 3 * (rng.random(size) < 0.7)
    weights[rng.integers(size)] = 1.0
    tree = SumTree(size)
    tree.load(weights)
    counts = np.bincount(tree.sample(num), minlength=size)
    assert counts.sum() == num
    assert (np.abs(counts - num * weights / weights.sum()) < 2 + 1e-6).all()
    assert (counts[weights == 0] == 0).all()


def test_a_large_tree_finds_what_running_sums_find(monkeypatch):
    monkeypatch.setattr(priorities, "TOP", 2**12)
    rng = np.random.default_rng(0)
    weights = rng.integers(0, 5, 100_003).astype(float)
    tree = SumTree(len(weights))
    tree.load(weights)
    mass = np.concatenate([rng.integers(0, int(weights.sum()), 5000), rng.random(5000) * weights.sum()])
    np.testing.assert_array_equal(tree.find(mass), weights.cumsum().searchsorted(mass, side="right"))
