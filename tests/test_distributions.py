"""Distributions against torch.distributions, Monte Carlo, and quadrature."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import distributions as td

from a2c_ppo_acktr.distributions import (
    Bernoulli,
    Categorical,
    DiagGaussian,
    MultiCategorical,
    MultiCategoricalHead,
    make_head,
)
from a2c_ppo_acktr.spaces import UnsupportedSpace

SIZES = [3, 2, 4]


def multi(logits):
    head = MultiCategoricalHead(1, SIZES)
    return MultiCategorical(logits, head.columns, head.padding)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def pairs():
    logits, mean, log_std = torch.randn(6, 9), torch.randn(6, 4), torch.randn(4) * 0.3
    gaussian = td.Independent(td.Normal(mean, log_std.exp().expand_as(mean)), 1)
    yield Categorical(logits), td.Categorical(logits=logits)
    yield DiagGaussian(mean, log_std), gaussian
    yield Bernoulli(logits), td.Independent(td.Bernoulli(logits=logits), 1)


@pytest.mark.parametrize(("ours", "theirs"), pairs(), ids=lambda d: type(d).__name__)
def test_log_prob_and_entropy_equal_torch_distributions(ours, theirs):
    actions = theirs.sample()
    torch.testing.assert_close(ours.log_prob(actions), theirs.log_prob(actions))
    torch.testing.assert_close(ours.entropy(), theirs.entropy())
    assert ours.log_prob(actions).shape == ours.entropy().shape == (6,)


def test_multi_categorical_equals_independent_categoricals():
    logits = torch.randn(5, sum(SIZES))
    parts = [td.Categorical(logits=part) for part in logits.split(SIZES, -1)]
    actions = torch.stack([part.sample() for part in parts], -1)
    torch.testing.assert_close(
        multi(logits).log_prob(actions), sum(p.log_prob(actions[:, k]) for k, p in enumerate(parts))
    )
    torch.testing.assert_close(multi(logits).entropy(), sum(p.entropy() for p in parts))
    assert (multi(logits).mode() == torch.stack([p.logits.argmax(-1) for p in parts], -1)).all()
    sampled = torch.stack([multi(logits).sample() for _ in range(200)])
    assert (sampled < torch.tensor(SIZES)).all()
    assert (sampled.amax((0, 1)) == torch.tensor(SIZES) - 1).all()


@pytest.mark.parametrize(("old", "new"), [*zip(pairs(), pairs(), strict=True)], ids=lambda pair: type(pair[0]).__name__)
def test_divergence_equals_torch_distributions(old, new):
    (ours_old, theirs_old), (ours, theirs) = old, new
    expected = td.kl_divergence(theirs_old, theirs)
    assert (expected > 0.05).all()
    torch.testing.assert_close(ours.kl(ours_old.describe()), expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(ours.kl(ours.describe()), torch.zeros(6), atol=1e-6, rtol=0)


def test_divergence_of_multi_categoricals_is_the_sum_over_blocks():
    old, new = torch.randn(5, sum(SIZES)), torch.randn(5, sum(SIZES))
    parts = [
        (td.Categorical(logits=p), td.Categorical(logits=q))
        for p, q in zip(*(x.split(SIZES, -1) for x in (old, new)), strict=True)
    ]
    expected = sum(td.kl_divergence(p, q) for p, q in parts)
    torch.testing.assert_close(multi(new).kl(multi(old).describe()), expected)


def test_divergence_equals_its_monte_carlo_estimate():
    old_logits, logits = torch.randn(9), torch.randn(9)
    gaussian = lambda x: DiagGaussian(x, 0.3 * x)  # noqa: E731
    for make in (Categorical, multi, Bernoulli, gaussian):
        old, new = make(old_logits.expand(200_000, 9)), make(logits.expand(200_000, 9))
        actions = old.sample()
        estimate = (old.log_prob(actions) - new.log_prob(actions)).mean()
        torch.testing.assert_close(new.kl(old.describe())[0], estimate, rtol=2e-2, atol=0)


def test_divergence_from_impossible_actions_is_nothing_and_to_them_infinite():
    some, all_ = Categorical(torch.tensor([0.0, -torch.inf, 0.0])), Categorical(torch.zeros(3))
    assert all_.kl(some.describe()).item() == pytest.approx(np.log(3 / 2))
    assert some.kl(some.describe()) == 0
    assert some.kl(all_.describe()) == torch.inf
    assert all_.kl(torch.tensor([0.0, 1.0, 0.0])).item() == pytest.approx(np.log(3))
    assert Bernoulli(torch.zeros(2)).kl(torch.tensor([0.0, 1.0])).item() == pytest.approx(2 * np.log(2))


def test_masked_actions_leave_the_divergence_finite():
    for space, mask in [(spaces.Discrete(4), [1, 0, 1, 0]), (spaces.MultiDiscrete([2, 3]), [1, 1, 0, 1, 0])]:
        old, new = make_head(space, 8), make_head(space, 8)
        features, mask = torch.randn(5, 8), torch.tensor(mask).expand(5, -1)
        divergence = new(features, mask).kl(old(features, mask).describe())
        assert torch.isfinite(divergence).all()
        assert (divergence > 0).all()


def test_samples_have_the_stated_probabilities():
    num = 200_000
    logits = torch.tensor([0.3, -1.0, 2.0])
    drawn = Categorical(logits.expand(num, 3)).sample().bincount(minlength=3) / num
    torch.testing.assert_close(drawn, logits.softmax(-1), atol=4e-3, rtol=0)
    coins = Bernoulli(logits.expand(num, 3)).sample().float().mean(0)
    torch.testing.assert_close(coins, logits.sigmoid(), atol=4e-3, rtol=0)
    normal = DiagGaussian(logits.expand(num, 3), torch.tensor([0.0, -1.0, 0.5])).sample()
    torch.testing.assert_close(normal.mean(0), logits, atol=2e-2, rtol=0)
    torch.testing.assert_close(normal.std(0), torch.tensor([0.0, -1.0, 0.5]).exp(), atol=2e-2, rtol=0)


def test_densities_integrate_to_one():
    grid = torch.linspace(-12, 12, 20001, dtype=torch.float64)
    gaussian = DiagGaussian(torch.full((20001, 1), 0.7, dtype=torch.float64), torch.tensor([0.4], dtype=torch.float64))
    assert torch.trapezoid(gaussian.log_prob(grid.unsqueeze(1)).exp(), grid).item() == pytest.approx(1, abs=1e-9)
    bits = torch.tensor([[a, b, c] for a in (0, 1) for b in (0, 1) for c in (0, 1)])
    assert Bernoulli(torch.randn(3).expand(8, 3)).log_prob(bits).exp().sum().item() == pytest.approx(1, abs=1e-6)


def test_entropy_equals_its_monte_carlo_estimate():
    logits = torch.randn(9)
    for make in (Categorical, multi, Bernoulli, lambda x: DiagGaussian(x, torch.full((9,), -0.3))):
        distribution = make(logits.expand(100_000, 9))
        estimate = -distribution.log_prob(distribution.sample()).mean()
        torch.testing.assert_close(distribution.entropy()[0], estimate, atol=2e-2, rtol=0)


def test_extreme_logits_stay_finite():
    logits = torch.tensor([[-1e4, 1e4, 0.0]], requires_grad=True)
    for distribution in (Categorical(logits), Bernoulli(logits)):
        (distribution.entropy().sum() + distribution.log_prob(distribution.mode()).sum()).backward()
    assert torch.isfinite(logits.grad).all()


def test_masked_actions_have_no_probability_and_no_nan_gradient():
    head = make_head(spaces.Discrete(4), 8)
    features, mask = torch.randn(5, 8), torch.tensor([1, 0, 1, 0]).expand(5, 4)
    distribution = head(features, mask)
    assert (torch.stack([distribution.sample() for _ in range(100)]) % 2 == 0).all()
    (distribution.entropy() + distribution.log_prob(torch.full((5,), 2))).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in head.parameters())
    torch.testing.assert_close(distribution.log_probs.exp().sum(-1), torch.ones(5))


@pytest.mark.parametrize(
    ("space", "shape"),
    [
        (spaces.Discrete(4), ()),
        (spaces.Box(-1, 1, (3,)), (3,)),
        (spaces.MultiBinary(5), (5,)),
        (spaces.MultiDiscrete([2, 3]), (2,)),
    ],
)
def test_heads_work_on_any_leading_axes(space, shape):
    head = make_head(space, 16)
    for lead in [(7,), (3, 7)]:
        distribution = head(torch.randn(*lead, 16))
        for actions in (distribution.sample(), distribution.mode()):
            assert actions.shape == (*lead, *shape)
            assert distribution.log_prob(actions).shape == lead
        assert distribution.entropy().shape == distribution.kl(distribution.describe()).shape == lead


def test_first_policy_is_nearly_uniform():
    probabilities = make_head(spaces.Discrete(3), 64)(torch.randn(100, 64)).log_probs.exp()
    assert (probabilities - 1 / 3).abs().max() < 0.02


def test_unsupported_action_space_says_what_is_supported():
    with pytest.raises(UnsupportedSpace, match="Discrete"):
        make_head(spaces.Box(np.zeros((2, 2)), np.ones((2, 2))), 4)
