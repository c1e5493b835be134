"""Networks that give a value, or K numbers that describe one, for every action."""

import functools
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn import functional

from a2c_ppo_acktr.arrays import flat_indices
from a2c_ppo_acktr.interfaces import ACTION_MASK, EnvSpaces, Tree
from a2c_ppo_acktr.model.encoders import ImageEncoder, make_encoder
from a2c_ppo_acktr.model.layers import MLP
from a2c_ppo_acktr.model.recurrent import GRU, LSTM
from a2c_ppo_acktr.spaces import UnsupportedSpace, is_image

NATURE_FILTERS = 64


def num_actions(env_spaces: EnvSpaces) -> int:
    """A.

    Raises:
        UnsupportedSpace: actions are not one choice, or not all of them are always valid.
    """
    space = env_spaces.action
    if not isinstance(space, spaces.Discrete):
        raise UnsupportedSpace(f"action space {space}: Q-learning chooses among Discrete actions")
    if ACTION_MASK in env_spaces.signals:
        raise UnsupportedSpace("Q-learning here takes no action masks; a2c and ppo do")
    return int(space.n)


class NoisyLinear(nn.Module):
    """A linear layer whose weights are means plus learned deviations times noise (Fortunato et al. 2018, section 3).

        y = (mu_w + sigma_w * e_out e_in') x + mu_b + sigma_b * e_out        e = f(N(0, 1)), f(x) = sign(x) sqrt(|x|)

    It is computed as mu_w x + e_out * (sigma_w (e_in * x)), without the matrix of noise. All rows of a batch share the
    noise, which `draw` renews; `mute` leaves the means alone.

    Args:
        size_in: of the input.
        size_out: of the output.
        sigma: deviations begin at sigma / sqrt(size_in).
    """

    def __init__(self, size_in: int, size_out: int, sigma: float = 0.5) -> None:
        super().__init__()
        bound = 1.0 / math.sqrt(size_in)
        self.weight = nn.Parameter(torch.empty(size_out, size_in).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(size_out).uniform_(-bound, bound))
        self.sigma_weight = nn.Parameter(torch.full((size_out, size_in), sigma * bound))
        self.sigma_bias = nn.Parameter(torch.full((size_out,), sigma * bound))
        self.noise: tuple[Tensor, Tensor] | None = None

    def draw(self) -> None:
        """Take new noise."""
        size_out, size_in = self.weight.shape
        noise = torch.randn(size_in + size_out, device=self.weight.device)
        noise = noise.sign() * noise.abs().sqrt()
        self.noise = noise[:size_in], noise[size_in:]

    def mute(self) -> None:
        """Use the means alone, as an evaluation does."""
        self.noise = None

    def forward(self, x: Tensor) -> Tensor:
        """`[..., size_in]` to `[..., size_out]`."""
        y = functional.linear(x, self.weight, self.bias)
        if self.noise is None:
            return y
        e_in, e_out = self.noise
        return y + e_out * functional.linear(e_in * x, self.sigma_weight, self.sigma_bias)


class QNetwork(nn.Module):
    """Encoder, ReLU layers, and a head with one hidden layer; the encoder of images is that of Mnih et al. 2015.

    Weights begin as those of `torch.nn`, which are those of the Lua Torch that DQN was written in.

    Args:
        space: observation space.
        num_actions: A.
        num_outputs: K numbers per action.
        hidden_size: widths of the layers, the last of which is the head's.
        dueling: value and advantages by two heads (Wang et al. 2016, eq. 9).
        noisy: all fully connected layers are `NoisyLinear`.
        sigma: see `NoisyLinear`.
        head_input: size of what the head reads, where it is not the layers' output.
    """

    carry_size = 0
    settings: ClassVar[tuple[str, ...]] = ("hidden_size", "dueling", "noisy", "sigma")
    """Arguments that are flags."""

    def __init__(
        self,
        space: spaces.Space,
        num_actions: int,
        num_outputs: int,
        *,
        hidden_size: Sequence[int],
        dueling: bool,
        noisy: bool,
        sigma: float,
        head_input: int | None = None,
    ) -> None:
        super().__init__()
        self.num_actions, self.num_outputs = num_actions, num_outputs
        self.encoder = ImageEncoder(space, None, NATURE_FILTERS) if is_image(space) else make_encoder(space)
        for module in self.encoder.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.reset_parameters()
        make_layer = functools.partial(NoisyLinear, sigma=sigma) if noisy else nn.Linear
        widths = [self.encoder.output_size, *hidden_size[:-1]]
        self.torso_size: int = widths[-1]
        self.feature_size: int = self.torso_size if head_input is None else head_input
        self.torso = MLP(*widths, activation=nn.ReLU, make_layer=make_layer)

        def head(size: int) -> MLP:
            sizes = self.feature_size, hidden_size[-1], size
            return MLP(*sizes, activation=nn.ReLU, last=nn.Identity, make_layer=make_layer)

        self.advantage = head(num_actions * num_outputs)
        self.value = head(num_outputs) if dueling else None
        self.noisy_layers = [module for module in self.modules() if isinstance(module, NoisyLinear)]
        self.frozen: Tensor | None = None

    def freeze(self, names: set[str]) -> None:
        """Keep parameters as they are: learners set their gradients to zero, which does not move Adam."""
        self.frozen = flat_indices(self, names)

    def draw_noise(self) -> None:
        """Take new noise in every noisy layer."""
        for layer in self.noisy_layers:
            layer.draw()

    def mute(self) -> None:
        """Leave noise out."""
        for layer in self.noisy_layers:
            layer.mute()

    def set_noise(self, explore: bool) -> None:
        """New noise to explore with, or none."""
        if explore:
            self.draw_noise()
        else:
            self.mute()

    def features(self, obs: Tree) -> Tensor:
        """What the layers make of observations: `[..., W]`."""
        return self.torso(self.encoder(obs))

    def read(self, obs: Tree, carry: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Read one step of N environments: what the head reads, `[N, feature_size]`, and the next carry."""
        return self.features(obs), carry

    def head(self, features: Tensor) -> Tensor:
        """`[..., A, K]`, with two heads V + A - mean over actions of A."""
        outputs = self.advantage(features).unflatten(-1, (self.num_actions, self.num_outputs))
        if self.value is None:
            return outputs
        return self.value(features).unsqueeze(-2) + outputs - outputs.mean(-2, keepdim=True)

    def forward(self, obs: Tree) -> Tensor:
        """`[..., A, K]` for observations `[..., *shape]`."""
        return self.head(self.features(obs))


class RecurrentQNetwork(QNetwork):
    """A `QNetwork` whose head reads a recurrent core (Kapturowski et al. 2019, section 2.3).

    The core reads the layers' output, the previous action (one-hot) and the previous reward. The carry is `[N, H]`: the
    core's state, then those two, which whoever steps the environments fills in.

    Args:
        args: as of `QNetwork`.
        core: `lstm` or `gru`.
        core_size: of its state.
        kwargs: as of `QNetwork`.
    """

    settings = (*QNetwork.settings, "core", "core_size")

    def __init__(self, *args: Any, core: str, core_size: int, **kwargs: Any) -> None:
        super().__init__(*args, head_input=core_size, **kwargs)
        self.core = CORES[core](self.torso_size + self.num_actions + 1, core_size)
        self.state_size = self.core.carry_size
        self.carry_size = self.state_size + self.num_actions + 1

    def read(self, obs: Tree, carry: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """See `QNetwork`."""
        state, previous = carry[:, : self.state_size], carry[:, self.state_size :]
        features, state = self.remember(obs, previous, state, masks)
        return features, torch.cat([state, previous], -1)

    def remember(self, obs: Tree, previous: Tensor, state: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Read one step, `[N, ...]`, or a sequence, `[T, N, ...]`.

        Args:
            obs: observations.
            previous: `[..., A + 1]` actions and rewards of the step before; an episode's first step is told of none.
            state: `[N, state_size]`, before the first step.
            masks: 0 on the first step of an episode.

        Returns:
            What the head reads, `[..., core_size]`, and the last state, `[N, state_size]`.
        """
        return self.core(torch.cat([self.features(obs), previous * masks.unsqueeze(-1)], -1), state, masks)


CORES: dict[str, type[LSTM] | type[GRU]] = {"lstm": LSTM, "gru": GRU}
