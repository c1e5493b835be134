"""State that is collected from attributes: whole, or refused by name."""

import copy
import functools
import random
from collections import deque, namedtuple
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from a2c_ppo_acktr.arrays import flatten_parameters
from a2c_ppo_acktr.run import checkpoint
from a2c_ppo_acktr.state import collect_state, restore_state

Pair = namedtuple("Pair", "actor critic")


class Owner:
    def __init__(self, **attributes):
        vars(self).update(attributes)


@dataclass
class Record:
    value: Any = None
    more: list = field(default_factory=list)


class Slotted:
    __slots__ = ("network",)

    def __init__(self, network):
        self.network = network


def linear():
    return nn.Linear(2, 2)


def leaf():
    return torch.zeros(3, requires_grad=True)


def disturb(value):
    """Another state in the same object."""
    if isinstance(value, nn.Module):
        for parameter in value.parameters():
            parameter.data.normal_()
    elif isinstance(value, torch.Tensor):
        value.data.normal_()
    elif isinstance(value, torch.Generator):
        torch.rand(3, generator=value)
    elif isinstance(value, np.random.Generator | random.Random):
        value.random()
    elif isinstance(value, dict):
        disturb(list(value.values()))
    else:
        for one in value:
            disturb(one)


KEPT = {
    "module": linear,
    "parameter": lambda: nn.Parameter(torch.zeros(2)),
    "learned tensor that is no parameter": leaf,
    "list of modules": lambda: [linear(), linear()],
    "tuple of modules": lambda: (linear(), linear()),
    "named tuple of modules": lambda: Pair(linear(), linear()),
    "deque of modules": lambda: deque([linear()]),
    "dictionary of lists of modules": lambda: {"a": [linear()], "b": [linear(), leaf()]},
    "torch's generator": torch.Generator,
    "generators of NumPy": lambda: [np.random.default_rng(1), np.random.Generator(np.random.MT19937(2))],
    "generator of Python": lambda: (random.Random(1),),
}


@pytest.mark.parametrize("kind", KEPT)
def test_what_learns_is_kept_wherever_it_lies_among_its_like(tmp_path, kind):
    owner = Owner(thing=KEPT[kind]())
    checkpoint.save(tmp_path / "a.pt", {"state": collect_state(owner)})
    state = checkpoint.read(tmp_path / "a.pt")["state"]
    before = copy.deepcopy(checkpoint.to_plain(state))
    disturb([owner.thing] if not isinstance(owner.thing, list | tuple | deque | dict) else owner.thing)
    assert not same(checkpoint.to_plain(collect_state(owner)), before)
    restore_state(owner, state)
    assert same(checkpoint.to_plain(collect_state(owner)), before)


def same(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


HIDDEN = {
    "object": lambda: Owner(network=linear()),
    "object five deep": lambda: Owner(a=[{"b": (Record(more=[Owner(c=linear())]),)}]),
    "dataclass": lambda: Record(linear()),
    "set": lambda: {linear()},
    "list of numbers too": lambda: [1.0, linear()],
    "slots": lambda: Slotted(linear()),
    "partial": lambda: functools.partial(print, linear()),
    "closure": lambda: (lambda network: lambda: network)(linear()),
    "default of a function": lambda: (lambda network: lambda again=network: again)(linear()),
    "bound method": lambda: linear().forward,
    "learned tensor in an object": lambda: Owner(log_alpha=leaf()),
    "optimizer in an object": lambda: Owner(optimizer=torch.optim.SGD([leaf()], 0.1)),
    "generator in a dataclass": lambda: Record(torch.Generator()),
    "NumPy's generator in an object": lambda: Owner(rng=np.random.default_rng(0)),
}


@pytest.mark.parametrize("kind", HIDDEN)
def test_what_learns_out_of_sight_is_refused_by_its_name(kind):
    with pytest.raises(TypeError, match=r"Owner\.thing: .* cannot be collected"):
        collect_state(Owner(thing=HIDDEN[kind]()))
    collect_state(Owner(thing=HIDDEN[kind]()), transient=["thing"])


def test_what_only_refers_to_what_is_kept_is_left_alone():
    network = linear()
    owner = Owner(network=network, optimizer=torch.optim.SGD(network.parameters(), 0.1))
    owner.forward = functools.partial(network.forward)
    owner.again = lambda: owner.network
    owner.record = Record(network, [owner.optimizer, network.weight, owner])
    assert set(collect_state(owner)) == {"network", "optimizer"}


def test_a_thing_of_two_names_is_kept_once():
    network = linear()
    assert set(collect_state(Owner(one=network, two=network))) == {"one"}


def test_a_vector_of_a_networks_parameters_is_the_networks():
    network = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), linear())
    owner = Owner(flat=flatten_parameters(network), network=network, one=network[0].weight)
    assert set(collect_state(owner)) == {"network"}


def test_a_parameter_of_which_a_network_holds_only_a_part_is_kept():
    whole, network = nn.Parameter(torch.zeros(10)), nn.Linear(2, 2, bias=False)
    network.weight.data = whole.data[:4].view(2, 2)
    assert set(collect_state(Owner(network=network, whole=whole))) == {"network", "whole"}


def test_counters_are_kept_and_other_values_are_not():
    owner = Owner(count=3, table=np.arange(3.0), value=torch.ones(2), rest=5, lr=0.1)
    state = collect_state(owner, ["count", "table", "value"])
    assert set(state) == {"count", "table", "value"}
    other = Owner(count=0, table=np.zeros(3), value=torch.zeros(2))
    restore_state(other, checkpoint.to_plain(state), ["count", "table", "value"])
    assert other.count == 3
    assert np.array_equal(other.table, np.arange(3.0))
    assert torch.equal(other.value, torch.ones(2))


def test_a_list_of_another_length_does_not_fit():
    with pytest.raises(ValueError, match="thing: 2 in the checkpoint, 1 here"):
        restore_state(Owner(thing=[linear()]), collect_state(Owner(thing=[linear(), linear()])))
