"""The discriminator of adversarial imitation: one logit for what an agent or an expert did, high for the expert.

Linear, tanh, Linear, tanh, Linear (upstream's) over a vector that describes a step, beside the features of its images
where there are any; with upstream's gradient penalty.
"""

from typing import NamedTuple

import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

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

    def as_floats(self) -> "Samples":
        """Images between which one can interpolate: bytes as shares of 255, as `ImageEncoder` reads them."""
        images = (image.float() / 255.0 if image.dtype == torch.uint8 else image.float() for image in self.images)
        return self._replace(images=tuple(images))

    def blend(self, other: "Samples", share: Tensor) -> "Samples":
        """Points between these steps and as many others, of which these have a share `[S]`."""

        def between(ours: Tensor, theirs: Tensor) -> Tensor:
            own = share.view(-1, *[1] * (ours.dim() - 1))
            return own * ours + (1.0 - own) * theirs

        pairs = zip(self.images, other.images, strict=True)
        return Samples(between(self.vector, other.vector), tuple(between(*pair) for pair in pairs))


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


class Discriminator(nn.Module):
    """See the module's docstring.

    Args:
        vector_size: I.
        image_spaces: of the images.
        hidden_size: width of the two hidden layers.
        spectral: keep every layer's spectral norm at 1 (Miyato et al. 2018), so that no logit changes faster than x. Of
            a convolution that is the norm of its kernel as a matrix, as there, which bounds no slope: a pixel is read
            at up to k x k places, so of images logits can change faster.
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

    def forward(self, samples: Samples) -> Tensor:
        """Logits `[B]`."""
        features = [encoder(image) for encoder, image in zip(self.encoders, samples.images, strict=True)]
        return self.network(torch.cat([samples.vector, *features], 1)).squeeze(-1)


def gradient_penalty(discriminator: Discriminator, between: Samples) -> Tensor:
    """Mean of (|dD/dx| - 1)^2 at `between`, with its graph (Gulrajani et al. 2017, eq. 3)."""
    x = between.vector, *between.images
    for part in x:
        part.requires_grad_()
    slopes = torch.autograd.grad(discriminator(between).sum(), x, create_graph=True)
    squared = torch.stack([slope.square().flatten(1).sum(1) for slope in slopes]).sum(0)
    return ((squared + SMALLEST_NORM**2).sqrt() - 1.0).square().mean()


def _counted_from_zero(space: spaces.Space) -> spaces.Space:
    """As learners count choices, whatever the environment calls the first one."""
    if isinstance(space, spaces.Discrete):
        return spaces.Discrete(int(space.n))
    return spaces.MultiDiscrete(space.nvec) if isinstance(space, spaces.MultiDiscrete) else space
