"""K-FAC from its definition: exact natural gradients, the trust region, and what may go wrong."""

import io
import math

import pytest
import torch
from torch import nn

from a2c_ppo_acktr.optim.curvature import second_moment
from a2c_ppo_acktr.optim.kfac import KFAC, KFACConfig
from tests.fisher import observe_gaussian, observe_softmax

pytestmark = pytest.mark.usefixtures("double_precision")


def config(**changes):
    return KFACConfig(**{"kfac_momentum": 0.0, "kfac_min_eigenvalue": 0.0} | changes)


def flat(tensors):
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


def exact_fisher(model, x, outer):
    """E[J' F J] over the rows of x, F the Fisher matrix of the output: `[P, P]`."""
    total = 0.0
    for row in x:
        output = model(row.unsqueeze(0))[0]
        jacobian = torch.stack([flat(torch.autograd.grad(o, model.parameters(), retain_graph=True)) for o in output])
        total = total + jacobian.T @ outer(output.detach()) @ jacobian
    return total / len(x)


def softmax_fisher(logits):
    p = logits.softmax(-1)
    return p.diag() - torch.outer(p, p)


def step_of(optimizer, model, loss):
    """How far one step moves the parameters, `[P]`."""
    before = flat(model.parameters())
    model.zero_grad()
    loss.backward()
    gradient = flat(p.grad for p in model.parameters())
    optimizer.step()
    return flat(model.parameters()) - before, gradient


@pytest.mark.parametrize("damping", [1e-2, 1.0])
def test_the_direction_is_the_natural_gradient_of_a_linear_gaussian_model(damping):
    model, x, y = nn.Linear(5, 3), torch.randn(40, 5) + 1.0, torch.randn(40, 3)
    optimizer = KFAC(model, lr=0.5, config=config(kfac_damping=damping, kfac_clip=1e9))
    observe_gaussian(optimizer, model, x, 3)
    moved, gradient = step_of(optimizer, model, 0.5 * (model(x) - y).square().sum(-1).mean())
    fisher = exact_fisher(model, x, lambda output: torch.eye(3))
    expected = -0.5 * torch.linalg.solve(fisher + damping * torch.eye(len(fisher)), gradient)
    torch.testing.assert_close(moved, expected, atol=1e-10, rtol=1e-10)
    assert optimizer.scale == 1.0


def test_the_direction_is_the_natural_gradient_in_single_precision_too():
    torch.set_default_dtype(torch.float32)
    model, x, y = nn.Linear(5, 3), torch.randn(40, 5) + 1.0, torch.randn(40, 3)
    optimizer = KFAC(model, lr=0.5, config=config(kfac_clip=1e9))
    observe_gaussian(optimizer, model, x, 3)
    moved, gradient = step_of(optimizer, model, 0.5 * (model(x) - y).square().sum(-1).mean())
    fisher = exact_fisher(model, x, lambda output: torch.eye(3))
    expected = -0.5 * torch.linalg.solve(fisher + 1e-2 * torch.eye(len(fisher)), gradient)
    torch.testing.assert_close(moved, expected, atol=1e-4, rtol=1e-4)


def test_the_direction_is_the_natural_gradient_of_softmax_regression_at_zero_weights():
    model, x, labels = nn.Linear(4, 3), torch.randn(50, 4), torch.randint(3, (50,))
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    optimizer = KFAC(model, lr=0.1, config=config(kfac_clip=1e9))
    observe_softmax(optimizer, model, x, 3)
    fisher = exact_fisher(model, x, softmax_fisher)
    moved, gradient = step_of(optimizer, model, nn.functional.cross_entropy(model(x), labels))
    expected = -0.1 * torch.linalg.solve(fisher + 1e-2 * torch.eye(len(fisher)), gradient)
    torch.testing.assert_close(moved, expected, atol=1e-10, rtol=1e-10)


def kl_of_gaussians(old, new):
    return 0.5 * (new - old).square().sum(-1).mean()


def kl_of_categoricals(old, new):
    old, new = old.log_softmax(-1), new.log_softmax(-1)
    return (old.exp() * (old - new)).sum(-1).mean()


@pytest.mark.parametrize(
    ("observe", "divergence", "zero"),
    [(observe_gaussian, kl_of_gaussians, False), (observe_softmax, kl_of_categoricals, True)],
    ids=["gaussian", "softmax"],
)
@pytest.mark.parametrize("clip", [1e-2, 1e-4])
def test_a_bounded_step_moves_the_distribution_by_half_the_bound(observe, divergence, zero, clip):
    model, x = nn.Linear(5, 3), torch.randn(60, 5)
    if zero:
        for parameter in model.parameters():
            nn.init.zeros_(parameter)
    optimizer = KFAC(model, lr=0.7, config=config(kfac_damping=1e-9, kfac_clip=clip))
    observe(optimizer, model, x, 3)
    old = model(x).detach()
    labels = torch.randint(3, (60,))
    step_of(optimizer, model, nn.functional.cross_entropy(model(x), labels))
    assert optimizer.scale < 1.0
    kl = float(divergence(old, model(x).detach()))
    assert kl == pytest.approx(clip / 2, rel=0.1)
    assert optimizer.predicted_kl == pytest.approx(clip / 2, rel=1e-6)


def test_momentum_and_the_schedule_reach_the_step():
    def first_steps(lr_of_second, momentum):
        torch.manual_seed(1)
        model, x, y = nn.Linear(3, 2), torch.randn(20, 3), torch.randn(20, 2)
        optimizer = KFAC(model, lr=0.4, config=config(kfac_momentum=momentum))
        moves = []
        for lr in (0.4, lr_of_second):
            optimizer.param_groups[0]["lr"] = lr
            observe_gaussian(optimizer, model, x, 2)
            moves.append(step_of(optimizer, model, (model(x) - y).square().sum(-1).mean())[0])
        return moves

    plain, slowed = first_steps(0.4, 0.0), first_steps(0.1, 0.0)
    torch.testing.assert_close(slowed[1], 0.25 * plain[1])
    averaged = first_steps(0.4, 0.75)
    torch.testing.assert_close(averaged[0], 0.25 * plain[0])
    assert first_steps(0.0, 0.0)[1].abs().sum() == 0


def test_averages_decay_and_intervals_hold():
    model = nn.Linear(2, 2)
    optimizer = KFAC(model, config=config(kfac_stat_decay=0.9, kfac_stat_interval=2, kfac_inverse_interval=2))
    batches = [torch.randn(6, 2) for _ in range(3)]
    moments = []
    vectors = []
    for x in batches:
        observe_gaussian(optimizer, model, x, 2)
        moments.append(optimizer.inputs[0].moment.clone())
        step_of(optimizer, model, model(x).sum())
        vectors.append(optimizer.inputs[0].vectors)
    expected = [second_moment(torch.cat([x, torch.ones(6, 1)], 1)) / 6 for x in batches]
    torch.testing.assert_close(moments[0], expected[0])
    torch.testing.assert_close(moments[1], expected[0])  # the second update takes no statistics
    torch.testing.assert_close(moments[2], 0.9 * expected[0] + 0.1 * expected[2])
    assert vectors[0] is vectors[1]
    assert vectors[1] is not vectors[2]


def test_weight_decay_adds_to_gradient_and_damping():
    model, x = nn.Linear(3, 2), torch.randn(20, 3)
    optimizer = KFAC(model, lr=1.0, config=config(kfac_weight_decay=0.5, kfac_damping=0.1, kfac_clip=1e9))
    observe_gaussian(optimizer, model, x, 2)
    before = flat(model.parameters())
    moved, gradient = step_of(optimizer, model, model(x).square().mean())
    fisher = exact_fisher(model, x, lambda output: torch.eye(2))
    expected = -torch.linalg.solve(fisher + 0.6 * torch.eye(len(fisher)), gradient + 0.5 * before)
    torch.testing.assert_close(moved, expected, atol=1e-10, rtol=1e-10)


def test_cholesky_damps_each_factor_by_its_share():
    model, x = nn.Linear(3, 2), torch.randn(20, 3)
    optimizer = KFAC(model, lr=1.0, config=config(kfac_inverse="cholesky", kfac_clip=1e9))
    observe_gaussian(optimizer, model, x, 2)
    a, g = optimizer.inputs[0].moment, optimizer.curvatures[0].outputs.moment
    before, layer = optimizer.layers[0].value().clone(), optimizer.layers[0]
    model.zero_grad()
    model(x).square().mean().backward()
    gradient = layer.gradient().clone()
    optimizer.step()
    pi = math.sqrt((a.trace() / 4) / (g.trace() / 2))
    left, right = g + 0.1 / pi * torch.eye(2), a + 0.1 * pi * torch.eye(4)
    torch.testing.assert_close(before - layer.value(), left.inverse() @ gradient @ right.inverse())


@pytest.mark.parametrize("inverse", ["eigen", "cholesky"])
def test_degenerate_factors_give_finite_steps(inverse):
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)).float()
    with torch.no_grad():
        model[0].weight[0].zero_()
        model[0].bias[0] = -100.0  # a dead unit
    x = torch.full((16, 4), 3.0, dtype=torch.float32)  # constant observations: A has rank 1
    optimizer = KFAC(model, config=KFACConfig(kfac_inverse=inverse))
    for _ in range(25):
        with optimizer.watch():
            output = model(x)
        optimizer.observe((output * torch.randn(16, 2, dtype=torch.float32)).sum(-1))
        step_of(optimizer, model, (output - 1.0).square().mean())
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    assert (model(x) - 1.0).square().mean().item() < 0.5


def test_a_gradient_of_zero_is_a_step_of_zero():
    model, x = nn.Linear(3, 2), torch.randn(8, 3)
    optimizer = KFAC(model)
    observe_gaussian(optimizer, model, x, 2)
    moved, _ = step_of(optimizer, model, 0.0 * model(x).sum())
    assert moved.abs().max() == 0
    assert optimizer.scale == 1.0


@pytest.mark.filterwarnings("ignore:invalid value")
def test_what_is_not_finite_is_left_out_and_counted():
    model, x = nn.Linear(3, 2), torch.randn(8, 3)
    optimizer = KFAC(model, config=config(kfac_inverse_interval=1))
    observe_gaussian(optimizer, model, x, 2)
    step_of(optimizer, model, model(x).sum())
    moment = optimizer.inputs[0].moment.clone()
    observe_gaussian(optimizer, model, x * math.inf, 2)
    assert optimizer.failures > 0
    torch.testing.assert_close(optimizer.inputs[0].moment, moment)
    moved, _ = step_of(optimizer, model, model(x).sum() * math.nan)
    assert moved.abs().max() == 0
    moved, _ = step_of(optimizer, model, model(x).sum())
    assert 0 < moved.abs().max() < math.inf


def test_an_optimizer_continues_bit_for_bit():
    def make():
        torch.manual_seed(5)
        model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2)).float()
        return model, KFAC(model, config=KFACConfig(kfac_inverse_interval=3))

    def train(model, optimizer, steps):
        for seed in steps:
            generator = torch.Generator().manual_seed(seed)
            x, noise = (torch.randn(9, n, generator=generator, dtype=torch.float32) for n in (4, 2))
            with optimizer.watch():
                output = model(x)
            optimizer.observe((output * noise).sum(-1))
            step_of(optimizer, model, (output - 1.0).square().mean())

    model, optimizer = make()
    train(model, optimizer, range(5))
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.load(saved(optimizer.state_dict()), weights_only=True)
    train(model, optimizer, range(5, 12))
    again, continued = make()
    again.load_state_dict(weights)
    continued.load_state_dict(state)
    train(again, continued, range(5, 12))
    assert torch.equal(flat(model.parameters()), flat(again.parameters()))


def saved(state):
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return buffer


def test_watching_leaves_no_hooks_behind():
    model = nn.Linear(2, 2)
    optimizer = KFAC(model)
    observe_gaussian(optimizer, model, torch.randn(4, 2), 2)
    assert not model._forward_hooks
    assert not model._backward_hooks
