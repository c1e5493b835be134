"""Observation to features: one encoder per kind of observation space, composed for Dict and Tuple."""

import math
from pathlib import Path

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from a2c_ppo_acktr.interfaces import Tree
from a2c_ppo_acktr.spaces import UnsupportedSpace, is_image, kind_of, leaf_shape, torch_dtype
from a2c_ppo_acktr.utils import ModuleT, UsageError, init_orthogonal

BFLOAT16 = "compute the convolutions of images in bfloat16: faster, with 3 digits instead of 7"


class FlatEncoder(nn.Module):
    """Vectors, numbers and choices as one float vector; no parameters.

    Box and MultiBinary are flattened, Discrete and MultiDiscrete become one-hot.
    """

    def __init__(self, space: spaces.Space) -> None:
        super().__init__()
        self.num_axes, self.dtype = len(leaf_shape(space)), torch_dtype(space)
        self.sizes: list[int] = []
        self.starts: list[int] = []
        if isinstance(space, spaces.Discrete):
            self.sizes, self.starts = [int(space.n)], [int(space.start)]
        elif isinstance(space, spaces.MultiDiscrete):
            self.sizes, self.starts = space.nvec.ravel().tolist(), space.start.ravel().tolist()
        self.output_size = sum(self.sizes) if self.sizes else int(np.prod(leaf_shape(space)))

    def forward(self, obs: Tensor) -> Tensor:
        """`[..., *shape]` to `[..., output_size]`."""
        if self.num_axes == 0:
            obs = obs.unsqueeze(-1)
        elif self.num_axes > 1:
            obs = obs.flatten(-self.num_axes)
        if self.sizes:
            columns = [
                nn.functional.one_hot(obs[..., i].long() - start, size)
                for i, (size, start) in enumerate(zip(self.sizes, self.starts, strict=True))
            ]
            obs = torch.cat(columns, -1)
        return obs if obs.dtype == torch.float32 else obs.float()


def _is_amd() -> bool:
    description = Path("/proc/cpuinfo")
    return description.exists() and "AuthenticAMD" in description.read_text()


CONVOLVE_WHOLE_MAPS = torch.backends.cpu.get_cpu_capability().startswith("AVX512") and _is_amd()
"""Where a convolution over a whole map was measured to be faster than the same matrix product, forth and back: on an
AMD CPU with AVX-512. On an Intel one the layer took 1.1 to 3.5 times as long, on an AMD one with AVX2 alone the encoder
up to six times."""


class WholeMap(nn.Conv2d):
    """A layer that is fully connected to a map, with the parameters of a convolution by a kernel of the map's size."""

    def forward(self, maps: Tensor) -> Tensor:
        """`[B, C, H, W]` to `[B, F, 1, 1]`."""
        if CONVOLVE_WHOLE_MAPS or maps.is_cuda:
            return super().forward(maps)
        flat, weight = (tensor.permute(0, 2, 3, 1).flatten(1) for tensor in (maps, self.weight))
        return nn.functional.linear(flat, weight, self.bias)[..., None, None]


class ImageEncoder(nn.Module):
    """Images `[..., C, H, W]` to `[..., output_size]`: convolutions, then one fully connected layer, all ReLU.

    From 36 pixels on, the network of Mnih et al. 2015 (32 8x8/4, 64 4x4/2) with upstream's last layer of 32 filters;
    below, a 3x3 network that keeps the resolution of small grids (MinAtar, MiniGrid). uint8 is divided by 255, boolean
    planes and floats are read as they are.

    Args:
        space: Box `[C, H, W]`.
        hidden_size: width of the fully connected layer; None leaves it out.
        last_filters: filters of the third convolution of the large network (Nature: 64, upstream: 32).
    """

    def __init__(self, space: spaces.Space, hidden_size: int | None = 512, last_filters: int = 32) -> None:
        super().__init__()
        if not is_image(space):
            raise UnsupportedSpace(f"a network for images (CNNBase) cannot read {space}")
        channels, height, width = leaf_shape(space)
        relu_gain = math.sqrt(2)
        if kind_of(space) == "image":
            layers = [(32, 8, 4, 0), (64, 4, 2, 0), (last_filters, 3, 1, 0)]
        else:
            layers = [(16, 3, 1, 1), (32, 3, 1, 1)]
        modules: list[nn.Module] = []
        for filters, kernel, stride, padding in layers:
            convolution = nn.Conv2d(channels, filters, kernel, stride, padding)
            modules += [init_orthogonal(convolution, relu_gain), nn.ReLU(inplace=True)]
            channels = filters
            height, width = ((size + 2 * padding - kernel) // stride + 1 for size in (height, width))
        self.output_size = channels * height * width
        if hidden_size is not None:
            fully_connected = init_orthogonal(WholeMap(channels, hidden_size, (height, width)), relu_gain)
            modules += [fully_connected, nn.ReLU()]  # not in place: what a matrix product gives is a view here
            self.output_size = hidden_size
        self.network = nn.Sequential(*modules)
        self.use_bfloat16 = False

    def forward(self, obs: Tensor) -> Tensor:
        """Any number of leading axes is folded into the batch of the convolutions and unfolded again.

        Channels-last memory makes convolutions about 1.5 times as fast on CPUs; it is made of bytes, not of floats.
        With `use_bfloat16` set, layers round their inputs, weights and outputs to it; the features are float32 again.
        """
        lead = obs.shape[:-3]
        images = obs.reshape(-1, *obs.shape[-3:]).contiguous(memory_format=torch.channels_last)
        scaled = images.float().div_(255.0) if images.dtype == torch.uint8 else images.float()
        with torch.autocast(scaled.device.type, torch.bfloat16, enabled=self.use_bfloat16):
            features = self.network(scaled).permute(0, 2, 3, 1).flatten(1)  # in the order of the memory
        return features.float().unflatten(0, lead)


class CompositeEncoder(nn.Module):
    """Dict and Tuple observations: the concatenated features of one encoder per entry."""

    def __init__(self, space: spaces.Dict | spaces.Tuple, hidden_size: int = 512) -> None:
        super().__init__()
        self.keys: list[str] | range
        if isinstance(space, spaces.Dict):
            self.keys, parts = list(space.spaces), list(space.spaces.values())
        else:
            self.keys, parts = range(len(space.spaces)), list(space.spaces)
        encoders = [make_encoder(part, hidden_size) for part in parts]
        self.encoders = nn.ModuleList(encoders)
        self.output_size: int = sum(encoder.output_size for encoder in encoders)

    def forward(self, obs: Tree) -> Tensor:
        """Concatenate the entries' features: `[..., output_size]`."""
        return torch.cat([encoder(obs[key]) for key, encoder in zip(self.keys, self.encoders, strict=True)], -1)


Encoder = FlatEncoder | ImageEncoder | CompositeEncoder


def make_encoder(space: spaces.Space, hidden_size: int = 512) -> Encoder:
    """The encoder that fits `space`, with attribute `output_size`; `UnsupportedSpace` where there is none."""
    if isinstance(space, spaces.Dict | spaces.Tuple):
        return CompositeEncoder(space, hidden_size)
    if is_image(space):
        return ImageEncoder(space, hidden_size)
    if isinstance(space, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        return FlatEncoder(space)
    raise UnsupportedSpace(f"observation space {space} is not supported; Box, Discrete, MultiDiscrete, MultiBinary are")


def convolve_in_bfloat16(network: ModuleT) -> ModuleT:
    """The network, in which every `ImageEncoder` rounds to bfloat16.

    Raises:
        UsageError: it has none.
    """
    encoders = [module for module in network.modules() if isinstance(module, ImageEncoder)]
    if not encoders:
        raise UsageError("--bfloat16 is for the convolutions of images, and there are none here")
    for encoder in encoders:
        encoder.use_bfloat16 = True
    return network
