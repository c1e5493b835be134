"""K-FAC: the natural gradient with Kronecker-factored curvature (Martens & Grosse 2015, Grosse & Martens 2016).

A layer s = W a, its bias a column of W that meets an appended 1, has the Fisher matrix A (x) G, approximately:

    A = E[sum over locations of a a']        G = E[mean over locations of g g']        g = d log p(y) / d s

with y drawn from the model's own output distribution. A linear layer has one location, a convolution many; the log
standard deviation of a Gaussian, which is added to every row, has A = 1. A and G are running averages.

    V  = Q_G [(Q_G' grad Q_A) / (d_G d_A' + damping)] Q_A'      from the eigenvectors Q and eigenvalues d of A and G
    nu = min(1, sqrt(kl_clip / (lr^2 sum over layers of V . grad)))
    velocity = momentum velocity + nu V        W = W - lr_t (1 - momentum) velocity

lr nu V is the full step: nu keeps twice its KL divergence in the quadratic model, lr^2 nu^2 V' F V, within `kl_clip`.
lr is the initial learning rate and lr_t the scheduled one, so that a decay shortens the step under the bound too.

    optimizer = KFAC(model)
    with optimizer.watch():
        output = model(x)
    optimizer.observe(log_likelihood)  # [B], of samples from the output distribution
    loss.backward()
    optimizer.step()

Deviations from upstream's optimizer:
1. The bias is a column of its layer's matrix, as in the paper; upstream gives it a factor of its own.
2. Layers that read the same input, such as the first ones of actor and critic, share A and its eigenvectors.
3. What is not finite is left out, and eigenvectors that cannot be found leave the old ones in use.
4. Gradients by layer outputs come from one `autograd.grad` up to their edges in the graph, not from backward hooks: the
   gradients of weights, which the statistics do not need, are never computed, and in-place activations do no harm.
"""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypedDict

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from a2c_ppo_acktr.flags import flag
from a2c_ppo_acktr.optim.curvature import Factor, checked, damped_inverses, faster_device, find_layers
from a2c_ppo_acktr.plain import misfit
from a2c_ppo_acktr.utils import UsageError


@dataclass
class KFACConfig:
    """Flags of the optimizer; names of the symbols above, defaults of upstream."""

    kfac_momentum: float = flag(0.9, "momentum; the step is --lr times 1 minus this", low=0, high=1)
    kfac_stat_decay: float = flag(0.99, "decay of the running averages of the factors", low=0, high=1)
    kfac_clip: float = flag(0.001, "trust region: twice the KL divergence that a full step may have", low=0, high=1e6)
    kfac_damping: float = flag(0.01, "added to the eigenvalues of the Fisher matrix", low=0, high=1e6)
    kfac_weight_decay: float = flag(0.0, "weight of an L2 penalty; also added to the damping", low=0, high=1e6)
    kfac_stat_interval: int = flag(1, "updates between statistics of the factors", low=1)
    kfac_inverse_interval: int = flag(10, "updates between inverses of the factors", low=1)
    kfac_inverse: str = flag(
        "eigen", "eigenvectors, or Cholesky with damping of each factor", choices=("eigen", "cholesky")
    )
    kfac_fast_cnn: bool = flag(False, "count all locations of a convolution as one: much cheaper, less exact")
    kfac_min_eigenvalue: float = flag(1e-6, "eigenvalues of a factor up to this count as 0", low=0)


@dataclass
class _Curvature:
    """What is known of one layer."""

    outputs: Factor
    inverses: tuple[Tensor, Tensor] | None = None
    velocity: Tensor | None = None


class KFACState(TypedDict):
    """See `KFAC.state_dict`."""

    steps: int
    failures: int
    input_of: list[int]
    inputs: list[dict[str, Tensor | None]]
    outputs: list[dict[str, Tensor | None]]
    inverses: list[tuple[Tensor, Tensor] | None]
    velocities: list[Tensor | None]


class KFAC(torch.optim.Optimizer):
    """See the module's docstring.

    Args:
        model: Linear and Conv2d layers and Gaussian heads, each called once per forward pass.
        lr: initial learning rate; that of the step is `param_groups[0]["lr"]`.
        config: everything else.

    Raises:
        UsageError: names a layer of another type.
    """

    def __init__(self, model: nn.Module, lr: float = 0.25, config: KFACConfig | None = None) -> None:
        super().__init__(model.parameters(), {"lr": lr})
        self.config, self.initial_lr = config or KFACConfig(), lr
        self.layers = find_layers(model, self.config.kfac_fast_cnn)
        self.curvatures = [_Curvature(Factor()) for _ in self.layers]
        self.inputs: list[Factor] = []
        self.input_of: list[int] = []
        """Which of `inputs` each layer has; known after the first `watch`."""
        self.steps = self.failures = 0
        self.scale = self.predicted_kl = 0.0
        self.watched: list[tuple[Tensor, GradientEdge] | None] = []
        self.inverse_device: torch.device | None = None

    @property
    def statistics_due(self) -> bool:
        """Whether this update's `observe` does anything."""
        return self.steps % self.config.kfac_stat_interval == 0

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """Remember what each layer reads, and where its output is in the graph, during one forward pass."""
        self.watched = [None] * len(self.layers)
        handles = [layer.module.register_forward_hook(self._remember(i)) for i, layer in enumerate(self.layers)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
        silent = [layer.name for layer, seen in zip(self.layers, self.watched, strict=True) if seen is None]
        if silent:
            raise UsageError(f"K-FAC: {', '.join(silent)}: its parameters are used without calling it as a layer")
        found = self._shared_inputs()
        if not self.input_of:
            self.input_of = found
            self.inputs = [Factor() for _ in range(max(found) + 1)]
        assert found == self.input_of, "layers share other inputs than before"

    def _remember(self, i: int) -> Any:
        layer = self.layers[i]

        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if self.watched[i] is not None:
                raise UsageError(f"K-FAC: {layer.name} is called more than once in a forward pass")
            self.watched[i] = args[0].detach(), get_gradient_edge(layer.output(output))

        return hook

    def _shared_inputs(self) -> list[int]:
        """For each layer the number of its input; layers that read the same memory in the same way share one."""
        numbers: dict[Any, int] = {}
        keys = []
        for layer, seen in zip(self.layers, self.watched, strict=True):
            assert seen is not None
            where = seen[0].data_ptr(), seen[0].shape, seen[0].stride()
            keys.append(layer.input_kind if layer.input_kind == ("one",) else (where, layer.input_kind))
        return [numbers.setdefault(key, len(numbers)) for key in keys]

    def observe(self, log_likelihood: Tensor) -> None:
        """Take the statistics of a watched pass into the running averages.

        Args:
            log_likelihood: `[B]`, with its graph, which is kept.
        """
        if not self.statistics_due:
            return
        decay, batch, fresh = self.config.kfac_stat_decay, len(log_likelihood), set(range(len(self.inputs)))
        inputs = [seen[0] for seen in self.watched if seen is not None]
        grads = self.output_gradients(log_likelihood)
        for layer, curvature, number, x, grad in zip(
            self.layers, self.curvatures, self.input_of, inputs, grads, strict=True
        ):
            if number in fresh:
                fresh.remove(number)
                self.failures += not self.inputs[number].average(layer.input_moment(x, batch), decay)
            self.failures += not curvature.outputs.average(layer.output_moment(grad), decay)
        self.watched = []

    def output_gradients(self, log_likelihood: Tensor) -> tuple[Tensor, ...]:
        """Each sample's gradient by each watched layer's output."""
        edges = [seen[1] for seen in self.watched if seen is not None]
        return torch.autograd.grad(log_likelihood.sum(), edges, retain_graph=True, materialize_grads=True)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Move the parameters along the natural gradient within the trust region; there is no use for a closure."""
        config, lr = self.config, self.param_groups[0]["lr"]
        if self.steps % config.kfac_inverse_interval == 0:
            self.invert()
        damping = config.kfac_damping + config.kfac_weight_decay
        directions, product = [], torch.zeros(())
        for layer, curvature, number in zip(self.layers, self.curvatures, self.input_of, strict=True):
            gradient = layer.gradient()
            if config.kfac_weight_decay > 0.0:
                gradient = gradient.add(layer.value(), alpha=config.kfac_weight_decay)
            direction = self._precondition(gradient, self.inputs[number], curvature, damping)
            directions.append(direction)
            product = product + (direction * gradient).sum()
        self._bound(float(product), lr)
        for layer, curvature, direction in zip(self.layers, self.curvatures, directions, strict=True):
            if curvature.velocity is None:
                curvature.velocity = torch.zeros_like(direction)
            if self.scale > 0.0:
                curvature.velocity.mul_(config.kfac_momentum).add_(direction, alpha=self.scale)
                layer.subtract(lr * (1.0 - config.kfac_momentum) * curvature.velocity)
        self.steps += 1

    def _bound(self, product: float, lr: float) -> None:
        """Set nu, here `scale`: 1 for a step of no length, 0, which is no step, where the numbers are not finite."""
        squared = self.initial_lr**2 * product
        if not math.isfinite(squared):
            self.scale, self.failures = 0.0, self.failures + 1
        else:
            self.scale = min(1.0, math.sqrt(self.config.kfac_clip / squared)) if squared > 0.0 else 1.0
        self.predicted_kl = 0.5 * (self.scale * lr) ** 2 * product if self.scale > 0.0 else 0.0

    def invert(self) -> None:
        """Find eigenvectors or inverses of the factors as they are now."""
        config, eigen = self.config, self.config.kfac_inverse == "eigen"
        if eigen:
            for factor in [*self.inputs, *(curvature.outputs for curvature in self.curvatures)]:
                self.failures += not factor.decompose(config.kfac_min_eigenvalue, self._device())
            return
        for curvature, number in zip(self.curvatures, self.input_of, strict=True):
            inputs, outputs = self.inputs[number].moment, curvature.outputs.moment
            found = None
            if inputs is not None and outputs is not None:
                found = damped_inverses(inputs, outputs, config.kfac_damping + config.kfac_weight_decay)
            curvature.inverses = found or curvature.inverses
            self.failures += found is None

    def _device(self) -> torch.device:
        if self.inverse_device is None:
            factors = [*self.inputs, *(curvature.outputs for curvature in self.curvatures)]
            moments = [factor.moment for factor in factors if factor.moment is not None]
            largest = max(moments, key=len)
            self.inverse_device = faster_device(len(largest), largest.device)
        return self.inverse_device

    def _precondition(self, gradient: Tensor, inputs: Factor, curvature: _Curvature, damping: float) -> Tensor:
        """The natural gradient `[O, D]`; the gradient itself while there is no inverse."""
        if curvature.inverses is not None:
            return curvature.inverses[1] @ gradient @ curvature.inverses[0]
        outputs = curvature.outputs
        if inputs.vectors is None or inputs.values is None or outputs.vectors is None or outputs.values is None:
            return gradient
        inner = outputs.vectors.T @ gradient @ inputs.vectors
        inner /= torch.outer(outputs.values, inputs.values) + damping
        return outputs.vectors @ inner @ inputs.vectors.T

    def state_dict(self) -> dict[str, Any]:
        """Statistics, inverses and steps; learning rates are for whoever builds it to say."""
        return {
            "steps": self.steps,
            "failures": self.failures,
            "input_of": self.input_of,
            "inputs": [factor.state_dict() for factor in self.inputs],
            "outputs": [curvature.outputs.state_dict() for curvature in self.curvatures],
            "inverses": [curvature.inverses for curvature in self.curvatures],
            "velocities": [curvature.velocity for curvature in self.curvatures],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`; `ValueError` where it is of other layers."""
        if wrong := misfit(state, KFACState, ""):
            raise ValueError(wrong)
        if self.input_of and state["input_of"] != self.input_of:
            raise ValueError(f"input_of is {state['input_of']}, expected {self.input_of}")
        device = self.param_groups[0]["params"][0].device
        self.steps, self.failures, self.input_of = state["steps"], state["failures"], state["input_of"]
        self.inputs = [Factor() for _ in range(max(self.input_of, default=-1) + 1)]
        layers = zip(self.layers, self.curvatures, self.input_of, strict=True)
        stored = zip(state["outputs"], state["inverses"], state["velocities"], strict=True)
        for (layer, curvature, number), (outputs, inverses, velocity) in zip(layers, stored, strict=True):
            rows, columns = layer.value().shape
            self.inputs[number].load_state_dict(state["inputs"][number], columns, device)
            curvature.outputs.load_state_dict(outputs, rows, device)
            curvature.velocity = checked(velocity, (rows, columns), device)
            curvature.inverses = None
            if inverses is not None:
                first, second = (checked(one, (n, n), device) for one, n in zip(inverses, (columns, rows), strict=True))
                assert first is not None
                assert second is not None
                curvature.inverses = first, second
