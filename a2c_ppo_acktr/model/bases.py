"""The bodies of policies: networks from observations to a value and to features for the action head.

A network of your own is named `--nn-base my_module:MyBase` and follows `Base`: it is built as
`MyBase(observation_space, recurrent=..., **nn_base_kwargs)` and called on one step, or on a sequence where it is
recurrent. The call is tried once when the policy is built, and what does not fit is said in one line.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from a2c_ppo_acktr.flags import WIDEST
from a2c_ppo_acktr.interfaces import Tree
from a2c_ppo_acktr.model.encoders import ImageEncoder, make_encoder
from a2c_ppo_acktr.model.layers import TanhMLP
from a2c_ppo_acktr.model.recurrent import GRU
from a2c_ppo_acktr.spaces import concatenate, is_image, to_tensor, tree_map
from a2c_ppo_acktr.utils import UsageError, import_from_here, init_orthogonal, reason


class Layers(NamedTuple):
    """What every layer gave, input side first, each `[..., width]`: auxiliary heads and analyses read them.

    Actor and critic follow the shared layers, so depth d of the actor is `(shared + actor)[d - 1]`.
    """

    shared: tuple[Tensor, ...] = ()
    actor: tuple[Tensor, ...] = ()
    critic: tuple[Tensor, ...] = ()

    def by_depth(self) -> dict[str, Tensor]:
        """Every layer under its side and depth, such as `shared_1` and `actor_2`."""
        begins = {"shared": 1, "actor": 1 + len(self.shared), "critic": 1 + len(self.shared)}
        return {f"{side}_{begins[side] + i}": x for side, xs in self._asdict().items() for i, x in enumerate(xs)}


class BaseOutput(NamedTuple):
    """What a base returns; `[...]` stands for the axes of `masks`."""

    value: Tensor
    """[...]"""
    features: Tensor
    """[..., output_size], for the action head."""
    carry: Tensor
    """[N, carry_size] after the last step."""
    layers: Layers = Layers()
    """Optional: a base that shows no layers takes no auxiliary heads."""


class Base(Protocol):
    """What `Policy` needs of a network: `carry_size` is 0 where there is no recurrent state."""

    output_size: int
    carry_size: int

    def __call__(self, obs: Tree, carry: Tensor, masks: Tensor) -> BaseOutput:
        """Read `obs` (`[N, ...]`, or `[T, N, ...]`), `carry: [N, carry_size]` and `masks: [N]` or `[T, N]`.

        `masks` is 0 on the first step of an episode, where a recurrent state must be taken as zeros. A feed-forward
        base is called on one step only, with any number of rows.
        """


class FlexBase(nn.Module):
    """Tanh layers, the first of them shared by actor and critic; a GRU in front when recurrent, an encoder for images.

    Depths for auxiliary heads are counted from 1; the GRU, which is always shared, is depth 1 where there is one.

    Args:
        space: observation space.
        recurrent: put a GRU in front of the layers.
        hidden_size: width of every layer, or one width per layer; the GRU is as wide as the first.
        num_layers: layers from the input (or the GRU) to each output.
        num_shared_layers: how many of them actor and critic share; -1 is all.
        remove_actor_grads_on_shared: what is shared, GRU and encoder included, learns nothing from the actor.
        encoder_size: features of an image's encoder.
    """

    def __init__(
        self,
        space: spaces.Space,
        *,
        recurrent: bool = False,
        hidden_size: int | Sequence[int] = 64,
        num_layers: int | None = None,
        num_shared_layers: int = 0,
        remove_actor_grads_on_shared: bool = False,
        encoder_size: int = 512,
    ) -> None:
        super().__init__()
        widths = _widths(hidden_size, num_layers)
        _check_sizes(encoder_size=encoder_size)
        if not _is_size(num_shared_layers, -1, len(widths)):
            raise UsageError(f"num_shared_layers={num_shared_layers}: expected -1 (all) to {len(widths)}")
        split = len(widths) if num_shared_layers == -1 else num_shared_layers
        self.remove_actor_grads_on_shared = remove_actor_grads_on_shared
        self.encoder = make_encoder(space, encoder_size)
        gru_size = hidden_size if isinstance(hidden_size, int) else hidden_size[0]
        self.gru = GRU(self.encoder.output_size, gru_size) if recurrent else None
        self.carry_size = self.gru.carry_size if self.gru is not None else 0
        widths = [gru_size if recurrent else self.encoder.output_size, *widths]
        self.output_size = widths[-1]
        self.shared = TanhMLP(*widths[: split + 1])
        self.actor = TanhMLP(*widths[split:])
        self.critic = TanhMLP(*widths[split:])
        self.value = init_orthogonal(nn.Linear(self.output_size, 1))

    def forward(self, obs: Tree, carry: Tensor, masks: Tensor) -> BaseOutput:
        """See `Base`."""
        x, shared = self.encoder(obs), []
        if self.gru is not None:
            x, carry = self.gru(x, carry, masks)
            shared.append(x)
        shared += self.shared.layers(x)
        x = shared[-1] if shared else x
        actor = self.actor.layers(x.detach() if self.remove_actor_grads_on_shared else x)
        critic = self.critic.layers(x)
        features = actor[-1] if actor else x.detach() if self.remove_actor_grads_on_shared else x
        value = self.value(critic[-1] if critic else x).squeeze(-1)
        return BaseOutput(value, features, carry, Layers(tuple(shared), tuple(actor), tuple(critic)))


def _widths(hidden_size: int | Sequence[int], num_layers: int | None) -> list[int]:
    """One width per layer."""
    if isinstance(hidden_size, list | tuple):
        valid, widths = num_layers in (None, len(hidden_size)) and len(hidden_size) > 0, list(hidden_size)
    else:
        valid = num_layers is None or _is_size(num_layers, 0, MOST_LAYERS)
        widths = [hidden_size] * (2 if num_layers is None or not valid else num_layers)
    if not valid or not all(_is_size(width, 1, WIDEST) for width in widths or [hidden_size]):
        raise UsageError(
            f"hidden_size={hidden_size} num_layers={num_layers}: expected one width, or one per layer, of 1 to "
            f"{WIDEST}, and 0 to {MOST_LAYERS} layers"
        )
    return widths


def _is_size(value: Any, low: int, high: int) -> bool:
    """Whether a setting of a network, which may be of any type, is an integer within bounds."""
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _check_sizes(**sizes: Any) -> None:
    """Refuse widths that are none."""
    for name, size in sizes.items():
        if not _is_size(size, 1, WIDEST):
            raise UsageError(f"{name}={size}: expected an integer of 1 to {WIDEST}")


class MLPBase(FlexBase):
    """Upstream's: separate actor and critic, two tanh layers each; a GRU in front of both when recurrent."""

    def __init__(
        self,
        space: spaces.Space,
        *,
        recurrent: bool = False,
        hidden_size: int = 64,
        remove_actor_grads_on_shared: bool = False,
    ) -> None:
        super().__init__(
            space,
            recurrent=recurrent,
            hidden_size=hidden_size,
            remove_actor_grads_on_shared=remove_actor_grads_on_shared,
        )


class CNNBase(nn.Module):
    """One convolutional encoder shared by actor and critic (depth 1); a GRU after it when recurrent (depth 2).

    Args:
        space: image space `[C, H, W]`.
        recurrent: put a GRU of `hidden_size` after the encoder.
        hidden_size: width of the fully connected layer and of the GRU.
        last_filters: filters of the third convolution (Nature: 64, upstream: 32).
        remove_actor_grads_on_shared: encoder and GRU learn nothing from the actor.
    """

    def __init__(
        self,
        space: spaces.Space,
        *,
        recurrent: bool = False,
        hidden_size: int = 512,
        last_filters: int = 32,
        remove_actor_grads_on_shared: bool = False,
    ) -> None:
        super().__init__()
        _check_sizes(hidden_size=hidden_size, last_filters=last_filters)
        self.remove_actor_grads_on_shared = remove_actor_grads_on_shared
        self.encoder = ImageEncoder(space, hidden_size, last_filters)
        self.gru = GRU(hidden_size, hidden_size) if recurrent else None
        self.carry_size = self.gru.carry_size if self.gru is not None else 0
        self.output_size = hidden_size
        self.value = init_orthogonal(nn.Linear(hidden_size, 1), gain=1.0)

    def forward(self, obs: Tree, carry: Tensor, masks: Tensor) -> BaseOutput:
        """See `Base`."""
        x = self.encoder(obs)
        shared: tuple[Tensor, ...] = (x,)
        if self.gru is not None:
            x, carry = self.gru(x, carry, masks)
            shared += (x,)
        features = x.detach() if self.remove_actor_grads_on_shared else x
        return BaseOutput(self.value(x).squeeze(-1), features, carry, Layers(shared))


MOST_LAYERS = 1_000

BASES: dict[str, type[nn.Module]] = {
    "MLPBase": MLPBase,
    "CNNBase": CNNBase,
    "FlexBase": FlexBase,
    "FlexBaseAux": FlexBase,
}


def find_base(name: str | None, space: spaces.Space | None) -> Any:
    """The class that `--nn-base` means; None picks CNNBase for images and MLPBase for everything else.

    Raises:
        UsageError: neither a name in `BASES` nor an importable `module:Class`.
    """
    if name is None:
        return BASES["CNNBase" if space is not None and is_image(space) else "MLPBase"]
    if ":" in name:
        found = import_from_here(name, "--nn-base")
        if not (isinstance(found, type) and issubclass(found, nn.Module)):
            raise UsageError(f"--nn-base {name}: expected a torch.nn.Module's class, not {found!r}")
        return found
    if name not in BASES:
        raise UsageError(f"--nn-base {name}: choose from {', '.join(BASES)}, or name module:Class")
    return BASES[name]


def check_base(base: Any, name: str, space: spaces.Space) -> Layers:
    """Call `base` on random observations; the layers that it shows.

    Raises:
        UsageError: it does not follow `Base`; the message says in what.
    """

    def demand(fits: bool, what: str) -> None:
        if not fits:
            raise UsageError(f"--nn-base {name}: {what} (see a2c_ppo_acktr/model/bases.py)")

    demand(isinstance(base, nn.Module), "expected a torch.nn.Module")
    demand(any(True for _ in base.parameters()), "has no parameters to learn")
    for attribute in ("output_size", "carry_size"):
        demand(isinstance(getattr(base, attribute, None), int), f"expected an integer attribute {attribute}")
    layers = Layers()
    for lead in [(3, 2), (2,)] if base.carry_size > 0 else [(2,)]:
        try:
            with torch.no_grad():
                found = base(sample_observations(space, lead), torch.zeros(2, base.carry_size), torch.ones(lead))
        except (Exception, SystemExit) as error:  # whatever a network of the user's own raises
            raise UsageError(f"--nn-base {name}: its forward: {reason(error)}") from error
        demand(isinstance(found, tuple) and 3 <= len(found) <= 4, "expected BaseOutput(value, features, carry, layers)")
        output = BaseOutput(*found)
        expected = {"value": lead, "features": (*lead, base.output_size), "carry": (2, base.carry_size)}
        for field, shape in expected.items():
            given = getattr(output, field)
            demand(isinstance(given, Tensor), f"{field} is no tensor")
            demand(given.shape == shape, f"{field} is {list(given.shape)} where {list(shape)} is expected")
        layers = output.layers
        for side, tensors in zip(Layers._fields, layers, strict=True):
            demand(all(t.shape[:-1] == lead for t in tensors), f"layers.{side} must begin with the axes of masks")
    return layers


def sample_observations(space: spaces.Space, lead: tuple[int, ...]) -> Tree:
    """Random observations as networks get them, `[*lead, ...]`."""
    rows = [tree_map(lambda leaf: np.asarray(leaf)[None], space.sample()) for _ in range(math.prod(lead))]
    return tree_map(lambda leaf: leaf.reshape(*lead, *leaf.shape[1:]), to_tensor(concatenate(rows)))
