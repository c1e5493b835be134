"""tanh of a normal variable: a density that integrates to one, with gradients everywhere."""

import math

import pytest
import torch

from a2c_ppo_acktr.distributions.squashed import TanhGaussian


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.7, 0.3), (-1.5, 2.0)])
def test_the_density_of_actions_integrates_to_one(mean, std):
    edges = torch.linspace(-1, 1, 400_001)
    u = torch.atanh((edges[1:] + edges[:-1]) / 2).unsqueeze(-1)
    distribution = TanhGaussian(torch.full_like(u, mean), torch.full_like(u, math.log(std)))
    mass = distribution.log_prob_of(u).exp().sum() * (2 / 400_000)
    assert float(mass) == pytest.approx(1.0, abs=2e-3)


@pytest.mark.usefixtures("double_precision")
def test_it_is_the_density_of_torchs_transformed_distribution():
    mean, log_std = torch.randn(50, 3), 0.5 * torch.randn(50, 3)
    ours = TanhGaussian(mean, log_std)
    normal = torch.distributions.Normal(mean, log_std.exp())
    theirs = torch.distributions.TransformedDistribution(normal, [torch.distributions.TanhTransform(cache_size=1)])
    torch.manual_seed(0)
    actions, log_probs = ours.sample()
    u = torch.atanh(actions)
    torch.testing.assert_close(log_probs, ours.log_prob_of(u))
    torch.testing.assert_close(log_probs, theirs.log_prob(actions).sum(-1))


@pytest.mark.parametrize("u", [-15.0, -9.0, 0.0, 9.0, 15.0])
def test_the_gradient_is_exact_where_tanh_has_saturated(u):
    point = torch.tensor([u], requires_grad=True)
    TanhGaussian(torch.zeros(1), torch.zeros(1)).log_prob_of(point).backward()
    assert float(point.grad) == pytest.approx(-u + 2.0 * math.tanh(u), rel=1e-4, abs=1e-6)
    assert math.isfinite(float(TanhGaussian(torch.zeros(1), torch.zeros(1)).log_prob_of(point)))


def test_samples_follow_it_and_carry_their_gradient():
    mean, log_std = torch.full((200_000, 1), 0.4, requires_grad=True), torch.full((200_000, 1), -0.7)
    torch.manual_seed(0)
    actions, log_probs = TanhGaussian(mean, log_std).sample()
    assert actions.abs().max() <= 1.0
    grid = torch.linspace(-1 + 1e-6, 1 - 1e-6, 20_001).unsqueeze(-1)
    density = TanhGaussian(torch.full_like(grid, 0.4), torch.full_like(grid, -0.7)).log_prob_of(torch.atanh(grid)).exp()
    expected = float((density * grid[:, 0]).sum() / density.sum())
    assert float(actions.mean()) == pytest.approx(expected, abs=5e-3)
    actions.sum().backward()
    torch.testing.assert_close(mean.grad, 1.0 - actions.detach() ** 2)
    entropy = float(torch.special.entr(density).sum() * (2 / 20_000))
    assert float(-log_probs.mean()) == pytest.approx(entropy, abs=1e-2)


def test_an_evaluation_plays_the_median():
    distribution = TanhGaussian(torch.tensor([[0.3, -2.0]]), torch.zeros(1, 2))
    torch.testing.assert_close(distribution.mode(), torch.tensor([[math.tanh(0.3), math.tanh(-2.0)]]))
    assert distribution.describe()["std"].tolist() == [[1.0, 1.0]]
