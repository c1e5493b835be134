"""The discriminator of adversarial imitation: one logit for what an agent or an expert did, high for the expert.

Linear, tanh, Linear, tanh, Linear (upstream's) over a vector that describes a step, beside the features of its images
where there are any; with upstream's gradient penalty (Gulrajani et al. 2017). On vectors the loss and its gradient are
written out in NumPy on the CPU: the penalty is a derivative of a derivative, which autograd takes several times as long
to follow.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

from a2c_ppo_acktr.arrays import flatten_parameters
from a2c_ppo_acktr.interfaces import EnvSpaces, Tree
from a2c_ppo_acktr.model.encoders import FlatEncoder, ImageEncoder
from a2c_ppo_acktr.spaces import is_image, leaf_shape, select, space_map, torch_dtype, tree_map

INPUTS = ("state-action", "state", "state-next-state")
"""What a discriminator can be shown of a step."""
SMALLEST_NORM = 1e-8
"""Keeps the direction of a gradient that is zero finite."""


class Samples(NamedTuple):
    """What is shown of S steps."""

    vector: Tensor
    """[S, I] everything but images."""
    images: tuple[Tensor, ...] = ()
    """Each [S, C, H, W], as they are stored."""

    @property
    def num(self) -> int:
        """S."""
        return len(self.vector)

    def rows(self, indices: Tensor) -> "Samples":
        """Some of the steps."""
        return Samples(self.vector[indices], tuple(select(image, 0, indices) for image in self.images))

    def join(self, other: "Samples") -> "Samples":
        """These steps and the others."""
        pairs = zip(self.images, other.images, strict=True)
        return Samples(torch.cat([self.vector, other.vector]), tuple(torch.cat(pair) for pair in pairs))


class StepEncoder:
    """Makes `Samples`; has no parameters.

    Args:
        env_spaces: of the environments; continuous actions are clipped where the environments clip them.
        inputs: one of `INPUTS`.
    """

    def __init__(self, env_spaces: EnvSpaces, inputs: str) -> None:
        self.observation_space, self.inputs = env_spaces.observation, inputs
        self.action_space = space_map(_counted_from_zero, env_spaces.action)
        self.bounds: tuple[Tensor, Tensor] | None = None
        if env_spaces.clip_actions and isinstance(self.action_space, spaces.Box):
            self.bounds = torch.as_tensor(self.action_space.low), torch.as_tensor(self.action_space.high)
        parts: list[spaces.Space] = []
        space_map(parts.append, self.observation_space)
        shown = parts * (2 if inputs == "state-next-state" else 1)
        shown += [self.action_space] if inputs == "state-action" else []
        self.image_spaces = [space for space in shown if is_image(space)]
        self.vector_size = 1 + sum(FlatEncoder(space).output_size for space in shown if not is_image(space))

    def __call__(self, obs: Tree, actions: Tensor, next_obs: Tree) -> Samples:
        """Steps `[S, ...]`; what the input does not show is not read."""
        vectors, images = self._parts(self.observation_space, obs)
        if self.inputs == "state-next-state":
            more_vectors, more_images = self._parts(self.observation_space, next_obs)
            vectors, images = vectors + more_vectors, images + more_images
        elif self.inputs == "state-action":
            clipped = actions if self.bounds is None else actions.clamp(*(b.to(actions.device) for b in self.bounds))
            vectors += self._parts(self.action_space, clipped)[0]
        some = (vectors or images)[0]
        vectors.append(torch.zeros(len(some), 1, device=some.device))  # no absorbing state
        return Samples(torch.cat(vectors, 1), tuple(images))

    def absorbing(self, num: int, device: torch.device) -> Samples:
        """The state after an episode's end, `num` times: zeros, but for the number that marks it."""
        vector = torch.zeros(num, self.vector_size, device=device)
        vector[:, -1] = 1.0
        shapes = [(space, leaf_shape(space)) for space in self.image_spaces]
        images = [torch.zeros(num, *shape, dtype=torch_dtype(space), device=device) for space, shape in shapes]
        return Samples(vector, tuple(images))

    @staticmethod
    def _parts(space: spaces.Space, tree: Tree) -> tuple[list[Tensor], list[Tensor]]:
        """Flat vectors, and images."""
        vectors: list[Tensor] = []
        images: list[Tensor] = []

        def sort(leaf_space: spaces.Space, leaf: Tensor) -> None:
            if is_image(leaf_space):
                images.append(leaf)
            else:
                vectors.append(FlatEncoder(leaf_space)(leaf))

        tree_map(sort, space_map(lambda leaf_space: leaf_space, space), tree)
        return vectors, images


class DiscriminatorLoss(NamedTuple):
    """Of a batch; arrays as of `arrays.arrays`."""

    loss: Any
    """Mean binary cross entropy of the expert's half plus that of the policy's."""
    penalty: Any
    """Mean of (|dD/dx| - 1)^2 between the two, without its weight."""
    expert_logits: Any
    """[B]"""
    policy_logits: Any
    """[B]"""


class Discriminator(nn.Module):
    """See the module's docstring.

    Args:
        vector_size: I.
        image_spaces: of the images.
        hidden_size: width of the two hidden layers.
        spectral: keep every layer's spectral norm at 1 (Miyato et al. 2018), so that no logit changes faster than x.
    """

    def __init__(
        self, vector_size: int, image_spaces: list[spaces.Space], hidden_size: int = 100, spectral: bool = False
    ) -> None:
        super().__init__()
        self.spectral = spectral
        self.encoders = nn.ModuleList(ImageEncoder(space, hidden_size) for space in image_spaces)
        self.network = nn.Sequential(
            nn.Linear(vector_size + hidden_size * len(image_spaces), hidden_size),
            nn.Tanh(),
            nn.Linear(hidden_size, hidden_size),
            nn.Tanh(),
            nn.Linear(hidden_size, 1),
        )
        if spectral:
            for module in list(self.modules()):
                if isinstance(module, nn.Linear | nn.Conv2d):
                    spectral_norm(module)

    def flatten(self) -> nn.Parameter:
        """All parameters as one vector (see `flatten_parameters`); call it once, before learning."""
        flat = flatten_parameters(self)
        assert flat.grad is not None
        self.flat_grad = flat.grad
        return flat

    def forward(self, samples: Samples) -> Tensor:
        """Logits `[B]`."""
        features = [encoder(image) for encoder, image in zip(self.encoders, samples.images, strict=True)]
        return self.network(torch.cat([samples.vector, *features], 1)).squeeze(-1)

    def learn(self, expert: Samples, policy: Samples, mixture: Tensor, penalty_weight: float) -> DiscriminatorLoss:
        """Set the flat gradient to that of loss + penalty_weight * penalty.

        Args:
            expert: B steps.
            policy: B steps.
            mixture: `[B]`, the expert's share of the points at which the penalty is taken.
            penalty_weight: of the penalty.
        """
        assert expert.vector.shape == policy.vector.shape
        if self.spectral or len(self.encoders) or self.flat_grad.device.type != "cpu":
            return self.learn_by_autograd(expert, policy, mixture, penalty_weight)
        ours, theirs, share = expert.vector.numpy(), policy.vector.numpy(), mixture.unsqueeze(1).numpy()
        return self._learn_written_out(ours, theirs, share, penalty_weight)

    def learn_by_autograd(
        self, expert: Samples, policy: Samples, mixture: Tensor, penalty_weight: float
    ) -> DiscriminatorLoss:
        """See `learn`."""
        expert, policy = _as_floats(expert), _as_floats(policy)
        logits = self(expert.join(policy))
        expert_logits, policy_logits = logits[: expert.num], logits[expert.num :]
        loss = functional.softplus(-expert_logits).mean() + functional.softplus(policy_logits).mean()

        def blend(ours: Tensor, theirs: Tensor) -> Tensor:
            share = mixture.view(-1, *[1] * (ours.dim() - 1))
            return (share * ours + (1.0 - share) * theirs).requires_grad_()

        vector = blend(expert.vector, policy.vector)
        images = tuple(blend(*pair) for pair in zip(expert.images, policy.images, strict=True))
        between = Samples(vector, images)
        slopes = torch.autograd.grad(self(between).sum(), (vector, *images), create_graph=True)
        squared = torch.stack([slope.square().flatten(1).sum(1) for slope in slopes]).sum(0)
        penalty = ((squared + SMALLEST_NORM**2).sqrt() - 1.0).square().mean()
        self.flat_grad.zero_()
        (loss + penalty_weight * penalty).backward()
        return DiscriminatorLoss(loss.detach(), penalty.detach(), expert_logits.detach(), policy_logits.detach())

    def _learn_written_out(
        self, expert: np.ndarray, policy: np.ndarray, mixture: np.ndarray, penalty_weight: float
    ) -> DiscriminatorLoss:
        """`learn` on vectors `[B, I]`, with `mixture: [B, 1]`.

        With s = 1 - h^2, the derivative of the tanh layers, dD/dx = (s1 (s2 w3 W2)) W1 is a network in its own right,
        whose gradient is taken layer by layer, and through s once more down the layers that gave it.
        """
        batch = len(expert)
        w1, b1, w2, b2, w3, b3 = (parameter.detach().numpy() for parameter in self.parameters())
        gradients: Any = (parameter.grad for parameter in self.parameters())
        g1, gb1, g2, gb2, g3, gb3 = (gradient.numpy() for gradient in gradients)
        between = mixture * expert + (1.0 - mixture) * policy
        x = np.concatenate([expert, policy, between])
        h1 = np.tanh(x @ w1.T + b1)
        h2 = np.tanh(h1 @ w2.T + b2)
        logits = (h2[: 2 * batch] @ w3.T + b3)[:, 0]
        expert_logits, policy_logits = logits[:batch], logits[batch:]

        s1, s2 = 1.0 - h1 * h1, 1.0 - h2 * h2
        u2 = s2[2 * batch :] * w3
        v1 = u2 @ w2
        u1 = s1[2 * batch :] * v1
        slope = u1 @ w1
        norm = np.sqrt((slope * slope).sum(1, keepdims=True) + SMALLEST_NORM**2)
        to_slope = (2.0 * penalty_weight / batch) * (1.0 - 1.0 / norm) * slope

        to_u1 = to_slope @ w1.T
        to_v1 = to_u1 * s1[2 * batch :]
        to_u2 = to_v1 @ w2.T
        to_logits = np.concatenate([-_sigmoid(-expert_logits), _sigmoid(policy_logits)])[:, None] / batch
        to_h2 = np.concatenate([to_logits * w3, to_u2 * w3 * (-2.0 * h2[2 * batch :])])
        to_a2 = to_h2 * s2
        to_h1 = to_a2 @ w2
        to_h1[2 * batch :] -= 2.0 * h1[2 * batch :] * to_u1 * v1
        to_a1 = to_h1 * s1

        np.matmul(to_logits.T, h2[: 2 * batch], out=g3)
        g3 += (to_u2 * s2[2 * batch :]).sum(0)
        gb3[:] = to_logits.sum()
        np.matmul(to_a2.T, h1, out=g2)
        g2 += u2.T @ to_v1
        np.sum(to_a2, 0, out=gb2)
        np.matmul(to_a1.T, x, out=g1)
        g1 += u1.T @ to_slope
        np.sum(to_a1, 0, out=gb1)
        loss = np.logaddexp(0.0, -expert_logits).mean() + np.logaddexp(0.0, policy_logits).mean()
        return DiscriminatorLoss(loss, ((norm - 1.0) ** 2).mean(), expert_logits, policy_logits)


def _counted_from_zero(space: spaces.Space) -> spaces.Space:
    """As learners count choices, whatever the environment calls the first one."""
    if isinstance(space, spaces.Discrete):
        return spaces.Discrete(int(space.n))
    return spaces.MultiDiscrete(space.nvec) if isinstance(space, spaces.MultiDiscrete) else space


def _as_floats(samples: Samples) -> Samples:
    """Images between which one can interpolate: bytes as shares of 255, as `ImageEncoder` reads them."""
    images = (image.float() / 255.0 if image.dtype == torch.uint8 else image.float() for image in samples.images)
    return samples._replace(images=tuple(images))


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * np.tanh(0.5 * x) + 0.5
