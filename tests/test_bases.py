"""FlexBase in every shape, networks of the user's own, and layers cloned from another run."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

import evaluate
import main
from a2c_ppo_acktr.run import checkpoint
from a2c_ppo_acktr.seeding import seed_everything
from a2c_ppo_acktr.utils import UsageError
from tests.policies import build

BOX, IMAGE, CHOICE = spaces.Box(-1, 1, (5,), np.float32), spaces.Box(0, 255, (3, 36, 48), np.uint8), spaces.Discrete(3)


@pytest.mark.parametrize("space", [BOX, IMAGE], ids=["vector", "image"])
@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("shared", [0, 1, 3, -1])
def test_flexbase_has_the_layers_that_were_asked_for(space, recurrent, shared):
    policy = build(
        space, CHOICE, recurrent=recurrent, base="FlexBase", num_layers=3, num_shared_layers=shared, hidden_size=16
    )
    split = 3 if shared == -1 else shared
    lead = (4, 2) if recurrent else (2,)
    obs = torch.as_tensor(np.stack([space.sample() for _ in range(int(np.prod(lead)))])).reshape(*lead, *space.shape)
    output = policy(obs, torch.zeros(2, policy.carry_size), torch.ones(lead), {})
    assert [len(side) for side in output.layers] == [split + recurrent, 3 - split, 3 - split]
    assert all(layer.shape == (*lead, 16) for side in output.layers for layer in side)
    assert output.carry.shape == (2, 16 if recurrent else 0)
    last = output.layers.actor[-1] if split < 3 else output.layers.shared[-1]
    assert torch.equal(output.features, last)
    if recurrent:
        assert torch.equal(output.layers.shared[0][-1], output.carry)
    critic = [name for name, _ in policy.named_parameters() if name.startswith("base.critic")]
    assert len(critic) == 2 * (3 - split)


def test_the_layers_are_those_of_a_plain_stack():
    policy = build(BOX, CHOICE, base="FlexBase", hidden_size=[8, 6, 4], num_shared_layers=1)
    x = torch.randn(7, 5)
    with torch.no_grad():
        output = policy(x, torch.zeros(7, 0), torch.ones(7), {})
        base, expected = policy.base, [x]
        for linear in (base.shared[0], base.actor[0], base.actor[2]):
            expected.append(torch.tanh(linear(expected[-1])))
    for found, layer in zip((*output.layers.shared, *output.layers.actor), expected[1:], strict=True):
        torch.testing.assert_close(found, layer)
    assert [layer.shape[-1] for layer in output.layers.critic] == [6, 4]


def test_gradients_reach_a_head_that_reads_an_inner_layer():
    seed_everything(0)
    targets = spaces.Dict({"a": spaces.Box(-1, 1, (2,))})
    policy = build(BOX, CHOICE, base="FlexBase", num_layers=3, aux=[(2, 0, "a")], targets=targets)
    output = policy(torch.randn(9, 5), torch.zeros(9, 0), torch.ones(9), {})
    (policy.auxiliary(output.layers)["a_actor_2"].square().sum()).backward()
    reached = {name for name, p in policy.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert reached == {f"base.actor.{i}.{kind}" for i in (0, 2) for kind in ("weight", "bias")} | {
        "auxiliary.linears.0.weight",
        "auxiliary.linears.0.bias",
    }


@pytest.mark.parametrize("base", ["FlexBase", "MLPBase", "CNNBase"])
def test_actor_gradients_can_be_kept_off_what_is_shared(base):
    space = IMAGE if base == "CNNBase" else BOX
    kwargs = {"num_shared_layers": 1} if base == "FlexBase" else {}
    policy = build(space, CHOICE, base=base, recurrent=True, remove_actor_grads_on_shared=True, **kwargs)
    obs = torch.as_tensor(np.stack([space.sample() for _ in range(6)])).reshape(3, 2, *space.shape)
    output = policy(obs, torch.zeros(2, policy.carry_size), torch.ones(3, 2), {})
    shared = [p for name, p in policy.named_parameters() if name.split(".")[1] in ("gru", "encoder", "shared")]
    loss = output.distribution.log_prob(torch.zeros(3, 2, dtype=torch.long)).sum()
    assert all(g is None for g in torch.autograd.grad(loss, shared, allow_unused=True, retain_graph=True))
    assert all(g is not None for g in torch.autograd.grad(output.value.sum(), shared))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"num_shared_layers": 4}, "-1 \\(all\\) to 2"),
        ({"num_layers": -2}, "expected one width"),
        ({"hidden_size": [8, 8], "num_layers": 3}, "expected one width"),
        ({"hidden_sise": 3}, "hidden_sise"),
    ],
)
def test_settings_that_make_no_network(kwargs, message):
    with pytest.raises(UsageError, match=message):
        build(BOX, CHOICE, base="FlexBase", **kwargs)


OWN = """
import torch
from torch import nn
from a2c_ppo_acktr.model.bases import BaseOutput, Layers

class Wide(nn.Module):
    carry_size = 0
    def __init__(self, space, *, recurrent=False, width=8):
        super().__init__()
        assert not recurrent
        self.output_size = width
        self.body, self.value = nn.Linear(space.shape[0], width), nn.Linear(width, 1)
    def forward(self, obs, carry, masks):
        x = torch.relu(self.body(obs))
        return BaseOutput(self.value(x).squeeze(-1), x, carry, Layers(shared=(x,)))

class Integrator(Wide):
    def __init__(self, space, *, recurrent=True):
        super().__init__(space)
        self.carry_size = self.output_size
    def forward(self, obs, carry, masks):
        sequence = masks.dim() == 2
        outputs = []
        for x, mask in zip(obs if sequence else [obs], masks if sequence else [masks]):
            carry = carry * mask.unsqueeze(-1) + self.body(x)
            outputs.append(carry)
        x = torch.tanh(torch.stack(outputs) if sequence else outputs[0])
        return self.value(x).squeeze(-1), x, carry

class ForgetsToSqueeze(Wide):
    def forward(self, obs, carry, masks):
        x = self.body(obs)
        return BaseOutput(self.value(x), x, carry)

class NoSize(Wide):
    def __init__(self, space, *, recurrent=False):
        super().__init__(space)
        self.output_size = None

class NoModule:
    def __init__(self, space, *, recurrent=False):
        self.output_size, self.carry_size = 3, 0
"""


@pytest.fixture
def own_networks(tmp_path, monkeypatch):
    (tmp_path / "own_networks.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("algorithm", ["a2c", "ppo --num-mini-batch 2"])
@pytest.mark.parametrize("network", ["Wide --nn-base-kwargs width=12", "Integrator --recurrent-policy"])
def test_a_network_of_ones_own_trains_and_is_evaluated(own_networks, algorithm, network, capsys):
    argv = f"--algo {algorithm} --env-name CartPole-v1 --num-processes 4 --num-env-steps 2000 --log-dir run"
    assert main.main([*argv.split(), "--nn-base", *f"own_networks:{network}".split()]) == 0
    capsys.readouterr()
    assert evaluate.main("--load-dir run --num-episodes 3 --trust".split()) == 0
    assert "mean" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own_networks:ForgetsToSqueeze", "value is [2, 1] where [2] is expected"),
        ("own_networks:NoSize", "integer attribute output_size"),
        ("own_networks:NoModule", "expected a torch.nn.Module"),
        ("own_networks:Missing", "has no attribute"),
        ("not_there:Missing", "No module named"),
        ("Transformer", "choose from MLPBase, CNNBase, FlexBase"),
    ],
)
def test_what_a_network_lacks_is_said_in_one_line(own_networks, capsys, name, message):
    assert main.main(f"--env-name CartPole-v1 --log-dir run --nn-base {name}".split()) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (own_networks / "run").exists()


RUN = "--algo ppo --env-name Pendulum-v1 --num-processes 2 --num-steps 64 --num-mini-batch 2 --recurrent-policy"


def parameters(folder):
    return checkpoint.load(folder / "checkpoints" / "latest.pt")["algorithm"]["policy"]


def test_layers_of_another_run_are_cloned_and_frozen_through_a_resume(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main.main(f"{RUN} --num-env-steps 1024 --log-dir source --seed 7".split()) == 0
    clone = "--clone-parameter-experiment source --clone-args layers=[base.gru,head.mean] freeze=True"
    assert main.main(f"{RUN} --num-env-steps 1024 --log-dir copy --seed 8 {clone}".split()) == 0
    (tmp_path / "source").rename(tmp_path / "gone")
    assert main.main("--resume copy --num-env-steps 2048".split()) == 0
    source, copy = parameters(tmp_path / "gone"), parameters(tmp_path / "copy")
    for name in source:
        assert torch.equal(source[name], copy[name]) == name.startswith(("base.gru", "head.mean")), name


def test_without_freezing_cloned_layers_go_on_learning_from_where_they_were(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main.main(f"{RUN} --num-env-steps 1024 --log-dir source --seed 7".split()) == 0
    clone = "--clone-parameter-experiment source/checkpoints/latest.pt --lr 1e-6"
    assert main.main(f"{RUN} --num-env-steps 128 --log-dir copy --seed 8 {clone}".split()) == 0
    source, copy = parameters(tmp_path / "source"), parameters(tmp_path / "copy")
    for name in (name for name in source if name.startswith("base.")):
        torch.testing.assert_close(source[name], copy[name], atol=1e-4, rtol=1e-3)
        assert not torch.equal(source[name], copy[name])
    assert not torch.allclose(source["head.mean.weight"], copy["head.mean.weight"], atol=1e-2)


@pytest.mark.parametrize(
    ("clone", "message"),
    [
        ("--clone-parameter-experiment nowhere", "nowhere"),
        ("--clone-parameter-experiment source --clone-args layers=[base.grue]", "base.grue: the policy has base.gru"),
        ("--clone-parameter-experiment source --nn-base-kwargs hidden_size=32", "here and"),
        ("--clone-parameter-experiment source --clone-args layer=base", "unexpected keyword argument 'layer'"),
    ],
)
def test_what_cannot_be_cloned(tmp_path, monkeypatch, capsys, clone, message):
    monkeypatch.chdir(tmp_path)
    assert main.main(f"{RUN} --num-env-steps 128 --log-dir source".split()) == 0
    assert main.main(f"{RUN} --num-env-steps 128 --log-dir copy {clone}".split()) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "copy").exists()
