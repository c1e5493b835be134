"""Encoders, bases and spaces: shapes, scaling, initialisation."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from a2c_ppo_acktr.algo.actor_critic import ActorCriticConfig, make_policy
from a2c_ppo_acktr.arrays import flatten_parameters
from a2c_ppo_acktr.fast.graphs import can_be_captured
from a2c_ppo_acktr.interfaces import EnvSpaces
from a2c_ppo_acktr.model import encoders
from a2c_ppo_acktr.model.bases import FlexBase
from a2c_ppo_acktr.model.encoders import FlatEncoder, ImageEncoder, make_encoder
from a2c_ppo_acktr.normalization import RunningMeanStd
from a2c_ppo_acktr.spaces import UnsupportedSpace, to_tensor, torch_dtype, zeros
from a2c_ppo_acktr.utils import UsageError
from tests.policies import build


def image_space(*shape, dtype=np.uint8):
    return spaces.Box(0, 255 if dtype == np.uint8 else 1, shape, dtype)


@pytest.mark.parametrize(
    "shape", [(4, 84, 84), (3, 36, 36), (3, 35, 64), (4, 10, 10), (3, 7, 7), (1, 96, 40), (2, 210, 160)]
)
@pytest.mark.parametrize("recurrent", [False, True])
def test_policy_reads_any_image_size(shape, recurrent):
    policy = build(image_space(*shape), spaces.Discrete(3), recurrent=recurrent, hidden_size=32)
    obs, carry = torch.randint(0, 255, (2, *shape), dtype=torch.uint8), torch.zeros(2, policy.carry_size)
    value, action, log_prob, next_carry = policy.act(obs, carry, torch.ones(2), {})
    assert value.shape == action.shape == log_prob.shape == (2,)
    assert next_carry.shape == carry.shape


class Waiting(FlexBase):
    """A network that asks a GPU for a number and waits for it."""

    def forward(self, obs, carry, masks):
        self.largest = float(obs.max())
        return super().forward(obs, carry, masks)


@pytest.mark.parametrize(
    ("base", "recurrent", "capturable"),
    [
        (None, False, True),
        ("FlexBase", False, True),
        (None, True, False),
        ("tests.test_networks:Waiting", False, False),
    ],
)
def test_only_feed_forward_networks_of_ours_are_captured_on_a_gpu(base, recurrent, capturable):
    space = spaces.Box(-1, 1, (4,))
    assert can_be_captured(build(space, spaces.Discrete(2), recurrent=recurrent, base=base)) == capturable


def test_only_bytes_are_divided_by_255():
    torch.manual_seed(0)
    encoder = ImageEncoder(image_space(1, 8, 8))
    picture = torch.randint(0, 2, (3, 1, 8, 8))
    same = encoder((picture * 255).to(torch.uint8))
    torch.testing.assert_close(encoder(picture.bool()), same)
    torch.testing.assert_close(encoder(picture.float()), same)


def num_parameters(policy):
    return sum(parameter.numel() for parameter in policy.parameters())


def test_default_networks_are_upstreams():
    mlp = build(spaces.Box(-1, 1, (4,)), spaces.Box(-1, 1, (2,)))
    assert num_parameters(mlp) == 2 * (4 * 64 + 64 + 64 * 64 + 64) + 65 + 2 * 65 + 2
    cnn = build(image_space(4, 84, 84), spaces.Discrete(6))
    convolutions = (4 * 64 * 32 + 32) + (32 * 16 * 64 + 64) + (64 * 9 * 32 + 32)
    assert num_parameters(cnn) == convolutions + 32 * 49 * 512 + 512 + 513 + 513 * 6
    nature = build(image_space(4, 84, 84), spaces.Discrete(6), last_filters=64)
    assert num_parameters(nature) == 1_687_719  # Stable-Baselines3's ActorCriticCnnPolicy with six actions


def test_initialisation_is_orthogonal_with_the_stated_gains():
    policy = build(spaces.Box(-1, 1, (4,)), spaces.Box(-1, 1, (2,)))

    def gain(linear):
        return linear.weight.svd().S

    torch.testing.assert_close(gain(policy.base.actor[2]), torch.full((64,), 2**0.5))
    torch.testing.assert_close(gain(policy.base.value), torch.full((1,), 2**0.5))
    torch.testing.assert_close(gain(policy.head.mean), torch.ones(2))
    assert not policy.head.log_std.any()
    discrete = build(image_space(4, 84, 84), spaces.Discrete(6))
    torch.testing.assert_close(gain(discrete.head.linear), torch.full((6,), 0.01))
    torch.testing.assert_close(gain(discrete.base.value), torch.ones(1))
    assert all(not p.any() for n, p in policy.named_parameters() if n.endswith("bias"))


def test_choices_become_one_hot():
    assert FlatEncoder(spaces.Discrete(3, start=1))(torch.tensor([1, 3])).tolist() == [[1, 0, 0], [0, 0, 1]]
    multi = FlatEncoder(spaces.MultiDiscrete([2, 3]))
    assert multi(torch.tensor([[1, 2]])).tolist() == [[0, 1, 0, 0, 1]]
    assert multi.output_size == 5


def test_nested_spaces_concatenate():
    space = spaces.Dict({"a": spaces.Discrete(3), "b": spaces.Tuple((spaces.Box(0, 1, (2, 2)), image_space(1, 8, 8)))})
    encoder = make_encoder(space, hidden_size=16)
    assert encoder.output_size == 3 + 4 + 16
    assert encoder(zeros(space, (5, 2))).shape == (5, 2, 23)


def test_spaces_without_a_network_say_what_is_supported():
    with pytest.raises(UnsupportedSpace, match="Box"):
        make_encoder(spaces.Text(5))


@pytest.mark.parametrize(
    ("space", "dtype"),
    [
        (spaces.Box(0, 1, (2,), np.float64), torch.float32),
        (spaces.Box(0, 255, (1, 2, 2), np.uint8), torch.uint8),
        (spaces.Box(0, 1, (1, 2, 2), bool), torch.bool),
        (spaces.Box(0, 9, (2,), np.int32), torch.int64),
        (spaces.Discrete(3), torch.int64),
        (spaces.MultiBinary(3), torch.int8),
    ],
)
def test_stored_and_converted_types_agree(space, dtype):
    assert torch_dtype(space) == zeros(space, (1,)).dtype == dtype
    assert to_tensor(np.stack([space.sample()])).dtype == dtype


@settings(deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 99))
def test_running_moments_equal_those_of_all_samples_however_they_are_split(sizes, seed):
    rng = np.random.default_rng(seed)
    batches = [rng.normal(3, 5, (size, 2)) for size in sizes]
    one, merged = RunningMeanStd((2,), epsilon=0.0), RunningMeanStd((2,), epsilon=0.0)
    for batch in batches:
        one.update(batch)
        part = RunningMeanStd((2,), epsilon=0.0)
        part.update(batch)
        merged.merge(part.mean, part.var, part.count)
    everything = np.concatenate(batches)
    for stats in (one, merged):
        np.testing.assert_allclose(stats.mean, everything.mean(0), atol=1e-9)
        np.testing.assert_allclose(stats.var, everything.var(0), atol=1e-9)


def test_bfloat16_rounds_the_convolutions_and_nothing_else():
    image, choice = spaces.Box(0, 255, (4, 84, 84), np.uint8), spaces.Discrete(3)
    exact, rounded = build(image, choice), build(image, choice, bfloat16=True)
    rounded.load_state_dict(exact.state_dict())
    obs = torch.randint(0, 255, (5, 4, 84, 84), dtype=torch.uint8)
    arguments = obs, torch.zeros(0), torch.ones(5), {}
    (value, *_), (other_value, other_head, *_) = exact(*arguments), rounded(*arguments)
    assert other_value.dtype == other_head.log_probs.dtype == torch.float32
    assert 0 < (value - other_value).abs().max() < 0.03 * value.abs().max()
    flatten_parameters(rounded)
    new = rounded.evaluate_actions(*arguments, torch.zeros(5, dtype=torch.long))
    (new.value + new.log_prob + new.entropy).sum().backward()
    assert all(parameter.grad.dtype == torch.float32 and parameter.grad.any() for parameter in rounded.parameters())


def test_bfloat16_without_images_is_refused():
    config = ActorCriticConfig(bfloat16=True)
    with pytest.raises(UsageError, match="none here"):
        make_policy(EnvSpaces(spaces.Box(-1, 1, (3,)), spaces.Discrete(2), {}), config)
    assert make_policy(EnvSpaces(spaces.Box(0, 255, (1, 8, 8), np.uint8), spaces.Discrete(2), {}), config)


def test_flattened_kernels_lie_channels_last_and_keep_their_values():
    policy = build(spaces.Box(0, 255, (4, 84, 84), np.uint8), spaces.Discrete(3))
    before = [parameter.detach().clone() for parameter in policy.parameters()]
    flatten_parameters(policy)
    for parameter, values in zip(policy.parameters(), before, strict=True):
        assert torch.equal(parameter, values)
        if parameter.dim() == 4:
            assert parameter.is_contiguous(memory_format=torch.channels_last)
            assert parameter.grad.is_contiguous(memory_format=torch.channels_last)


def test_a_whole_map_layer_is_the_same_either_way(monkeypatch):
    torch.manual_seed(0)
    layer = encoders.WholeMap(3, 7, (4, 5))
    maps = torch.randn(6, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    found = []
    for convolve in (True, False):
        monkeypatch.setattr(encoders, "CONVOLVE_WHOLE_MAPS", convolve)
        layer.zero_grad()
        output = layer(maps)
        output.square().sum().backward()
        found.append((output.detach(), layer.weight.grad.clone(), layer.bias.grad.clone()))
    for convolved, multiplied in zip(*found, strict=True):
        assert convolved.shape == multiplied.shape
        assert torch.allclose(convolved, multiplied, rtol=1e-5, atol=1e-5)
