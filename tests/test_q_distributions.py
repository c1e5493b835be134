"""C51, QR-DQN, IQN and Rainbow on distributions that are set by hand."""

import numpy as np
import pytest
import torch

from a2c_ppo_acktr import arguments
from a2c_ppo_acktr.algo.iqn import ImplicitNetwork
from a2c_ppo_acktr.distributional import categorical_projection
from tests.q_learning import (
    ONLINE,
    TARGET,
    VECTOR,
    WAYS,
    act,
    learned,
    losses_of,
    make,
    set_table,
    transitions,
    values,
)
from tests.test_distributional import slow_quantile_huber

MODES = [[[0.3, 0.3, 0.4], [1e-12, 0.6, 0.4]]]
"""Probabilities of atoms -10, 0, 10: the first action has the most probable high atom, the second the larger mean."""


def c51(double=False):
    algorithm = make("c51", v_min=-10.0, v_max=10.0, num_atoms=3, double=double, max_grad_norm=1e9)
    set_table(algorithm.policy, np.log(np.array(MODES * 3)))
    set_table(algorithm.target, np.log(np.array(MODES * 3)))
    return algorithm


@WAYS
def test_c51s_value_is_the_mean_of_its_atoms_and_decides_by_it(way):
    algorithm = c51()
    obs = torch.tensor([0, 1, 2])
    np.testing.assert_allclose(values(algorithm, algorithm.policy, obs), [[1.0, 4.0]] * 3, rtol=1e-5)
    assert act(algorithm, obs, explore=False).tolist() == [1, 1, 1]
    found = learned(algorithm, transitions([0], [0], [0.0], [0.5], [1]), way)
    target = np.array([0.0, 0.8, 0.2])  # of the second action: atoms -5, 0, 5
    np.testing.assert_allclose(found.slopes[0], [MODES[0][0] - target, [0, 0, 0]], atol=1e-6)
    divergence = 0.8 * np.log(0.8 / 0.3) + 0.2 * np.log(0.2 / 0.4)
    np.testing.assert_allclose(found.losses, [divergence], rtol=1e-5)
    np.testing.assert_allclose(found.priorities, [divergence], rtol=1e-5)
    np.testing.assert_allclose(found.values, [1.0], rtol=1e-5)


@WAYS
def test_c51s_double_target_is_the_target_networks_distribution_of_the_online_networks_choice(way):
    for double, action in ((False, 1), (True, 0)):
        algorithm = c51(double)
        set_table(algorithm.policy, np.log(np.array([[MODES[0][1], MODES[0][0]]] * 3)))
        found = learned(algorithm, transitions([0], [0], [0.0], [1.0], [1]), way)
        np.testing.assert_allclose(found.slopes[0, 0], np.array(MODES[0][1]) - MODES[0][action], atol=1e-6)


@WAYS
def test_c51_has_nothing_to_learn_from_a_perfect_prediction(way):
    algorithm = c51()
    found = learned(algorithm, transitions([0, 0], [1, 1], [0.0, 0.0], [1.0, 1.0], [1, 2]), way)
    np.testing.assert_allclose(found.losses, [0, 0], atol=1e-6)
    np.testing.assert_allclose(found.slopes, 0, atol=1e-6)


QUANTILES = [[[0.0, 5.0, 5.0], [0.0, 0.0, 30.0]]]
"""The second action has the larger mean, the first the larger median."""


@WAYS
@pytest.mark.parametrize(("double", "following"), [(False, [0.0, 0.0, 30.0]), (True, [0.0, 5.0, 5.0])])
def test_qr_dqn_decides_by_the_mean_of_its_quantiles(double, following, way):
    algorithm = make("qr_dqn", num_quantiles=3, double=double)
    for network in (algorithm.policy, algorithm.target):
        set_table(network, QUANTILES * 3)
    obs = torch.tensor([0, 1])
    np.testing.assert_allclose(values(algorithm, algorithm.policy, obs), [[10 / 3, 10.0]] * 2, rtol=1e-6)
    assert act(algorithm, obs, explore=False).tolist() == [1, 1]
    set_table(algorithm.policy, [QUANTILES[0], [[9.0, 9.0, 9.0], [0.0, 0.0, 0.0]], QUANTILES[0]])
    found = learned(algorithm, transitions([0], [0], [1.0], [0.5], [1]), way)
    targets = 1 + 0.5 * torch.tensor([following])
    expected = slow_quantile_huber(torch.tensor([QUANTILES[0][0]]), targets, torch.tensor([1 / 6, 0.5, 5 / 6]), 1.0)
    np.testing.assert_allclose(found.losses, expected, rtol=1e-5)
    assert (found.slopes[0, 1] == 0).all()


def iqn(**config):
    """IQN whose quantile at tau is the table's number times 1 + cos(pi tau)."""
    algorithm = make("iqn", **config)
    for network, table in ((algorithm.policy, ONLINE), (algorithm.target, TARGET)):
        set_table(network, table)
        network.embedding[0].weight.data.zero_()
        network.embedding[0].weight.data[:, 1] = 1.0
        network.embedding[0].bias.data.fill_(1.0)
    return algorithm


def test_iqns_quantiles_change_with_the_fractions_and_its_values_are_their_even_mean():
    algorithm, obs = iqn(num_acting_fractions=5), torch.tensor([0, 1])
    quantiles = algorithm.policy.quantiles(obs, torch.tensor([[0.0, 0.5, 1.0]] * 2)).detach()
    table = torch.tensor(ONLINE)[:2, :, 0]
    torch.testing.assert_close(quantiles, torch.stack([2 * table, table, 0 * table], 2), atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(values(algorithm, algorithm.policy, obs), table, rtol=1e-5)
    torch.manual_seed(9)
    assert torch.equal(values(algorithm, algorithm.policy, obs), values(algorithm, algorithm.policy, obs))


@pytest.mark.parametrize(("double", "next_value"), [(False, 20.0), (True, 10.0)])
def test_iqn_learns_at_fresh_random_fractions(double, next_value, monkeypatch):
    algorithm, asked = iqn(double=double, num_fractions=3, num_target_fractions=4), {True: [], False: []}
    original = ImplicitNetwork.quantiles

    def quantiles(network, obs, fractions):
        asked[network is algorithm.policy].append(fractions)
        return original(network, obs, fractions)

    monkeypatch.setattr(ImplicitNetwork, "quantiles", quantiles)
    batch = transitions([0, 0], [1, 1], [1.0, 1.0], [0.5, 0.5], [1, 1])
    for _ in range(2):
        losses, found = losses_of(algorithm, batch)
        own, other = asked[True][-1], asked[False][-1]
        targets = 1 + 0.5 * next_value * (1 + (torch.pi * other).cos())
        expected = slow_quantile_huber(2 * (1 + (torch.pi * own).cos()), targets, own, 1.0)
        np.testing.assert_allclose(losses, expected, rtol=1e-4)
        np.testing.assert_allclose(found.priorities.detach(), expected, rtol=1e-4)
    for by, num in ((True, 3), (False, 4)):
        assert [tuple(fractions.shape) for fractions in asked[by]] == [(2, num)] * 2
    drawn = torch.cat([fractions.flatten() for fractions in asked[True] + asked[False]])
    assert len(drawn.unique()) == len(drawn) == 28
    assert ((drawn >= 0) & (drawn < 1)).all()


@pytest.mark.parametrize("name", ["c51", "rainbow"])
def test_atoms_on_grids_hold_returns_of_rewards_that_are_not_clipped(name):
    """Of revisiting_rainbow's MinAtar configurations; +-10 is for the clipped rewards of Atari."""
    args = arguments.parse(f"--algo {name} --env-name MinAtar/SpaceInvaders-v1".split())
    config = args.config
    assert (config.v_min, config.v_max, config.num_atoms) == (-100.0, 100.0, 51)
    assert (config.lr, config.eps) == (1e-4, 3.125e-4)
    support = config.temporal_difference(torch.device("cpu")).support
    next_probs = torch.zeros(1, 51)
    next_probs[0, 25] = 1.0  # nothing follows; 16 shots at 1 each have just hit
    projected = categorical_projection(next_probs, torch.tensor([16.0]), torch.tensor([0.99]), support)
    assert (projected @ support).item() == pytest.approx(16.0, rel=1e-5)


def test_quantiles_and_rates_on_grids_are_those_of_the_source_that_is_named():
    def on_a_grid(name):
        return arguments.parse(f"--algo {name} --env-name MinAtar/Breakout-v1".split()).config

    assert (on_a_grid("dqn").lr, on_a_grid("qr_dqn").lr, on_a_grid("iqn").lr) == (2.5e-4, 1e-4, 1e-4)
    assert on_a_grid("qr_dqn").num_quantiles == 51
    iqn = on_a_grid("iqn")
    assert (iqn.num_fractions, iqn.num_target_fractions, iqn.num_acting_fractions) == (32, 32, 32)


def test_rainbow_has_all_its_parts():
    algorithm = make("rainbow", VECTOR, hidden_size=[8, 8])
    config, storage = algorithm.config, algorithm.make_storage(4, 1)
    assert config.double
    assert algorithm.policy.value is not None
    assert algorithm.policy.noisy_layers
    assert algorithm.td.num_outputs == algorithm.policy.num_outputs == config.num_atoms
    assert storage.n_step == 3
    assert storage.alpha == 0.5
    assert storage.tree is not None
    paper = arguments.parse("--algo rainbow --env-name PongNoFrameskip-v4".split()).config
    assert (paper.num_atoms, paper.v_min, paper.v_max, paper.sigma) == (51, -10.0, 10.0, 0.5)
    assert (paper.lr, paper.eps, paper.n_step, paper.learning_starts) == (6.25e-5, 1.5e-4, 3, 20_000)
    assert (paper.batch_size, paper.priority_alpha, paper.priority_beta, paper.gamma) == (32, 0.5, 0.4, 0.99)
