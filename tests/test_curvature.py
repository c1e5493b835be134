"""The factors of the Fisher matrix from their definition, and networks that have none."""

import itertools
import math

import pytest
import torch
from torch import nn

from a2c_ppo_acktr.optim.curvature import ConvLayer, Factor, damped_inverses, second_moment
from a2c_ppo_acktr.optim.kfac import KFAC
from a2c_ppo_acktr.utils import UsageError
from tests.fisher import observe_gaussian, observe_softmax

pytestmark = pytest.mark.usefixtures("double_precision")


def brute_force_factors(layer, x, grads):
    """A and G of one layer by loops over samples and locations, from its input and each sample's output gradient."""
    batch, module = len(x), layer
    if isinstance(module, nn.Linear):
        rows = torch.cat([x, torch.ones(batch, 1)], 1)
        return sum(torch.outer(a, a) for a in rows) / batch, sum(torch.outer(g, g) for g in grads) / batch
    height, width = grads.shape[-2:]
    padded = nn.functional.pad(x, (module.padding[1],) * 2 + (module.padding[0],) * 2)
    inputs = outputs = 0.0
    for b, i, j in itertools.product(range(batch), range(height), range(width)):
        top, left = i * module.stride[0], j * module.stride[1]
        patch = padded[b, :, top : top + module.kernel_size[0], left : left + module.kernel_size[1]]
        a = torch.cat([patch.permute(1, 2, 0).flatten(), torch.ones(1)])
        inputs = inputs + torch.outer(a, a) / batch
        outputs = outputs + torch.outer(grads[b, :, i, j], grads[b, :, i, j]) / (batch * height * width)
    return inputs, outputs


class Network(nn.Module):
    """Remembers inputs and outputs of its layers, for the loops."""

    def __init__(self, *modules):
        super().__init__()
        self.body = nn.Sequential(*modules)
        self.seen = []

    def forward(self, x):
        self.seen = []
        for module in self.body:
            known = isinstance(module, nn.Linear | nn.Conv2d)
            read, x = x, module(x)
            if known:
                x.retain_grad()
                self.seen.append((module, read.detach().clone(), x))
        return x


NETWORKS = {
    "softmax regression": ([nn.Linear(6, 3)], (6,)),
    "two layers": ([nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)], (6,)),
    "convolutions": (
        [nn.Conv2d(2, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 5, (2, 3)), nn.ReLU(), nn.Flatten(), nn.Linear(20, 3)],
        (2, 6, 7),
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_factors_equal_those_of_loops_over_samples_and_locations(name):
    modules, shape = NETWORKS[name]
    model, x = Network(*modules).double(), torch.randn(7, *shape)
    optimizer = KFAC(model)
    with optimizer.watch():
        output = model(x)
    log_likelihood = output.log_softmax(-1)[torch.arange(7), torch.randint(3, (7,))]
    optimizer.observe(log_likelihood)
    for _, _, written in model.seen:
        written.grad = None  # what the statistics left
    log_likelihood.sum().backward()
    assert len(optimizer.layers) == len(model.seen)
    for (module, read, written), layer, number, curvature in zip(
        model.seen, optimizer.layers, optimizer.input_of, optimizer.curvatures, strict=True
    ):
        inputs, outputs = brute_force_factors(module, read, written.grad)
        torch.testing.assert_close(optimizer.inputs[number].moment, inputs)
        torch.testing.assert_close(curvature.outputs.moment, outputs)
        kernel = module.weight.grad.flatten(1) if module.weight.dim() == 2 else module.weight.grad.permute(0, 2, 3, 1)
        torch.testing.assert_close(layer.gradient(), torch.cat([kernel.flatten(1), module.bias.grad.unsqueeze(1)], 1))


def test_in_place_activations_change_nothing():
    found = []
    for in_place in (False, True):
        torch.manual_seed(3)
        model = nn.Sequential(
            nn.Conv2d(2, 4, 3), nn.ReLU(in_place), nn.Conv2d(4, 4, 2), nn.ReLU(in_place), nn.Flatten(), nn.Linear(16, 2)
        )
        optimizer = KFAC(model)
        observe_softmax(optimizer, model, torch.randn(5, 2, 5, 5), 2)
        found.append([curvature.outputs.moment for curvature in optimizer.curvatures])
    torch.testing.assert_close(*found)


def test_pieces_of_a_batch_of_images_add_up(monkeypatch):
    layer, images = ConvLayer("c", nn.Conv2d(3, 4, 3, 2, 1)), torch.randn(9, 3, 8, 8)
    whole = layer.input_moment(images, 9)
    monkeypatch.setattr("a2c_ppo_acktr.optim.curvature.CHUNK", 1)
    torch.testing.assert_close(layer.input_moment(images, 9), whole)


def test_fast_convolutions_take_mean_inputs_and_summed_gradients():
    module, images, grad = nn.Conv2d(2, 3, 2), torch.randn(6, 2, 4, 4), torch.randn(6, 3, 3, 3)
    layer = ConvLayer("c", module, fast=True)
    rows = torch.cat([torch.as_tensor(layer.patches(images)).mean(1), torch.ones(6, 1)], 1)
    torch.testing.assert_close(layer.input_moment(images, 6), rows.T @ rows / 6)
    summed = grad.sum((2, 3))
    torch.testing.assert_close(layer.output_moment(grad), summed.T @ summed / 6)


def test_the_second_moment_is_the_same_for_arrays_and_tensors():
    for dtype in (torch.float32, torch.float64):
        rows = torch.randn(30, 7, dtype=dtype)[::2]
        with_ones = torch.cat([rows, torch.ones(15, 1, dtype=dtype)], 1)
        for kind in (rows, rows.numpy()):
            torch.testing.assert_close(torch.as_tensor(second_moment(kind)), rows.T @ rows)
            torch.testing.assert_close(torch.as_tensor(second_moment(kind, bias=True)), with_ones.T @ with_ones)


def test_layers_that_read_the_same_input_share_its_factor():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.actor, self.critic, self.last = nn.Linear(4, 3), nn.Linear(4, 2), nn.Linear(2, 1)
            self.without_bias = nn.Linear(4, 4, bias=False)

        def forward(self, x):
            return torch.cat([self.actor(x), self.last(self.critic(x))], -1) + self.without_bias(x)

    model = Two()
    optimizer = KFAC(model)
    observe_gaussian(optimizer, model, torch.randn(10, 4), 4)
    assert optimizer.input_of == [0, 0, 1, 2]
    assert [len(factor.moment) for factor in optimizer.inputs] == [5, 3, 4]


def test_cholesky_raises_the_damping_of_what_is_not_positive_definite():
    indefinite = torch.diag(torch.tensor([1.0, -0.5]))
    inverses = damped_inverses(torch.eye(2), indefinite, 1e-2)
    assert inverses is not None
    assert all(torch.isfinite(inverse).all() for inverse in inverses)
    assert damped_inverses(torch.eye(2), torch.full((2, 2), math.nan), 1e-2) is None


def test_eigenvectors_that_cannot_be_found_leave_the_old_ones(monkeypatch):
    factor = Factor()
    assert not factor.decompose(1e-6, torch.device("cpu"))
    factor.average(torch.diag(torch.tensor([2.0, 1e-7])), 0.9)
    assert factor.decompose(1e-6, torch.device("cpu"))
    assert factor.values.tolist() == [0.0, 2.0]
    old = factor.vectors

    def fail(matrix):
        raise torch.linalg.LinAlgError("did not converge")

    monkeypatch.setattr(torch.linalg, "eigh", fail)
    assert not factor.decompose(1e-6, torch.device("cpu"))
    assert factor.vectors is old


class Unused(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x):
        return nn.functional.linear(self.first(x), self.second.weight)


class Twice(Unused):
    def forward(self, x):
        return self.second(self.first(self.first(x)))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)), "1 is a LayerNorm"),
        (nn.GRUCell(2, 2), "GRUCell"),
        (nn.Conv2d(2, 2, 1, groups=2), "groups"),
        (nn.Conv2d(2, 2, 3, padding="same"), "padding"),
    ],
)
def test_what_has_no_factors_is_refused(model, message):
    with pytest.raises(UsageError, match=message):
        KFAC(model)


@pytest.mark.parametrize(("model", "message"), [(Unused(), "second"), (Twice(), "first is called more than once")])
def test_layers_that_are_not_called_once_are_refused(model, message):
    optimizer = KFAC(model.double())
    with pytest.raises(UsageError, match=message), optimizer.watch():
        model(torch.randn(3, 2))
