"""Networks that act: the actor-critic policy and its bases."""

from typing import Any, Protocol

import torch
from gymnasium import spaces
from torch import Tensor, nn

from a2c_ppo_acktr.distributions import Distribution, make_head
from a2c_ppo_acktr.encoders import ImageEncoder, make_encoder
from a2c_ppo_acktr.fused import FusedPolicy, TanhMLP
from a2c_ppo_acktr.interfaces import Evaluation, Tree
from a2c_ppo_acktr.recurrent import GRU
from a2c_ppo_acktr.spaces import is_image
from a2c_ppo_acktr.utils import arrays, flatten_parameters, init_orthogonal


class Base(Protocol):
    """What `Policy` needs of a network: `carry_size` is 0 where there is no recurrent state."""

    output_size: int
    carry_size: int

    def __call__(self, obs: Tree, carry: Tensor, masks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Read `obs` (`[N, ...]`, or `[T, N, ...]`), `carry: [N, H]` and `masks: [N]` or `[T, N]`.

        Returns the value `[...]`, the actor's features `[..., output_size]` and the next carry `[N, H]`.
        """


class MLPBase(nn.Module):
    """Separate actor and critic, two tanh layers each; a GRU in front of both when recurrent.

    Args:
        space: observation space.
        recurrent: put a GRU of `hidden_size` in front.
        hidden_size: width of every layer.
    """

    def __init__(self, space: spaces.Space, *, recurrent: bool = False, hidden_size: int = 64) -> None:
        super().__init__()
        self.encoder = make_encoder(space)
        self.gru = GRU(self.encoder.output_size, hidden_size) if recurrent else None
        input_size = self.gru.output_size if self.gru is not None else self.encoder.output_size
        self.carry_size = self.gru.carry_size if self.gru is not None else 0
        self.output_size = hidden_size
        self.actor = TanhMLP(input_size, hidden_size, hidden_size)
        self.critic = TanhMLP(input_size, hidden_size, hidden_size)
        self.value = init_orthogonal(nn.Linear(hidden_size, 1))

    def forward(self, obs: Tree, carry: Tensor, masks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See `Base`."""
        x = self.encoder(obs)
        if self.gru is not None:
            x, carry = self.gru(x, carry, masks)
        return self.value(self.critic(x)).squeeze(-1), self.actor(x), carry


class CNNBase(nn.Module):
    """One convolutional encoder shared by actor and critic; a GRU after it when recurrent.

    Args:
        space: image space `[C, H, W]`.
        recurrent: put a GRU of `hidden_size` after the encoder.
        hidden_size: width of the fully connected layer and of the GRU.
        last_filters: filters of the third convolution (Nature: 64, upstream: 32).
    """

    def __init__(
        self, space: spaces.Space, *, recurrent: bool = False, hidden_size: int = 512, last_filters: int = 32
    ) -> None:
        super().__init__()
        self.encoder = ImageEncoder(space, hidden_size, last_filters)
        self.gru = GRU(hidden_size, hidden_size) if recurrent else None
        self.carry_size = self.gru.carry_size if self.gru is not None else 0
        self.output_size = hidden_size
        self.value = init_orthogonal(nn.Linear(hidden_size, 1), gain=1.0)

    def forward(self, obs: Tree, carry: Tensor, masks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See `Base`."""
        x = self.encoder(obs)
        if self.gru is not None:
            x, carry = self.gru(x, carry, masks)
        return self.value(x).squeeze(-1), x, carry


BASES: dict[str, type[nn.Module]] = {"MLPBase": MLPBase, "CNNBase": CNNBase}


class Policy(nn.Module):
    """Actor and critic: a base that reads observations and a head for the action space.

    Args:
        observation_space: images are `[C, H, W]`.
        action_space: Discrete, MultiDiscrete, MultiBinary or one-dimensional Box.
        base: name in `BASES`; None picks CNNBase for images and MLPBase for everything else.
        base_kwargs: keyword arguments of the base.
        recurrent: whether the base carries a recurrent state.
        bfloat16: compute the encoders of images in bfloat16.
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        *,
        base: str | None = None,
        base_kwargs: dict[str, Any] | None = None,
        recurrent: bool = False,
        bfloat16: bool = False,
    ) -> None:
        super().__init__()
        if base is None:
            base = "CNNBase" if is_image(observation_space) else "MLPBase"
        base_class: Any = BASES[base]
        self.base = base_class(observation_space, recurrent=recurrent, **(base_kwargs or {}))
        self.head = make_head(action_space, self.base.output_size)
        self.image_encoders = [module for module in self.modules() if isinstance(module, ImageEncoder)]
        for encoder in self.image_encoders:
            encoder.use_bfloat16 = bfloat16
        self.fused: FusedPolicy | None = None

    @property
    def carry_size(self) -> int:
        """H, the size of one environment's recurrent state; 0 for feed-forward policies."""
        return self.base.carry_size

    def flatten(self) -> nn.Parameter:
        """All parameters as one vector (see `flatten_parameters`); small networks on the CPU are then run written out.

        Call it once, on the device where the policy stays.
        """
        flat = flatten_parameters(self)
        assert flat.grad is not None
        self.flat_grad = flat.grad
        self.fused = FusedPolicy(self, flat) if FusedPolicy.fits(self) else None
        return flat

    def forward(
        self, obs: Tree, carry: Tensor, masks: Tensor, signals: dict[str, Tensor]
    ) -> tuple[Tensor, Distribution, Tensor]:
        """Value `[...]`, distribution of actions and next carry `[N, H]`; shapes as in `Base`."""
        value, features, carry = self.base(obs, carry, masks)
        if "action_mask" in signals:
            return value, self.head(features, signals["action_mask"]), carry
        return value, self.head(features), carry

    def act(
        self, obs: Tree, carry: Tensor, masks: Tensor, signals: dict[str, Tensor], *, deterministic: bool = False
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Choose actions: value `[N]`, action `[N, ...]`, its log-probability `[N]`, next carry `[N, H]`.

        Actions carry no gradient.
        """
        if self.fused is not None and not signals:
            return *self.fused.act(obs, deterministic), carry
        value, distribution, carry = self(obs, carry, masks, signals)
        action = distribution.mode() if deterministic else distribution.sample()
        return value, action, distribution.log_prob(action), carry

    def get_value(self, obs: Tree, carry: Tensor, masks: Tensor) -> Tensor:
        """V(obs): `[N]`, without gradient."""
        if self.fused is not None:
            return self.fused.value(obs)
        with torch.no_grad():
            return self.base(obs, carry, masks)[0]

    def evaluate_actions(
        self, obs: Tree, carry: Tensor, masks: Tensor, signals: dict[str, Tensor], actions: Tensor
    ) -> Evaluation:
        """Value, log-probability of `actions` and entropy, each `[...]` like `masks`; needs `flatten` before."""
        if self.fused is not None and not signals:
            return self.fused.evaluate(obs, actions)
        value, distribution, _ = self(obs, carry, masks, signals)
        outputs = value, distribution.log_prob(actions), distribution.entropy()

        def backward(*grads: Any) -> None:
            self.flat_grad.zero_()
            torch.autograd.backward(outputs, [torch.as_tensor(grad) for grad in grads])

        _, (value, log_prob, entropy) = arrays(*outputs)
        return Evaluation(value, log_prob, entropy, backward)
