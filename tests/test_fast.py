"""Accelerators against the definitions that they stand in for, and what happens where a definition was changed."""

import copy
import dataclasses
import json

import numpy as np
import pytest
import torch
from gymnasium import spaces

from a2c_ppo_acktr import algo, fast
from a2c_ppo_acktr.algo.gail import GAILConfig
from a2c_ppo_acktr.fast import registry
from a2c_ppo_acktr.interfaces import ACTION_MASK, AUXILIARY, EnvSpaces
from a2c_ppo_acktr.model.layers import MLP
from a2c_ppo_acktr.seeding import seed_everything
from a2c_ppo_acktr.storage import Batch
from a2c_ppo_acktr.storage.replay import Transitions
from tests.demonstrations import COIN, LINE, vectors
from tests.test_bc import study
from tests.test_snapshot import fill

VECTOR = spaces.Box(-np.inf, np.inf, (5,), np.float32)
DISCRETE, CONTINUOUS = spaces.Discrete(3), spaces.Box(-1, 1, (2,), np.float32)
TARGETS = spaces.Dict({"place": spaces.Box(-1, 1, (2,))})
AUX = {"nn_base": "FlexBase", "nn_base_kwargs": {"num_shared_layers": 1, "auxiliary_heads": [(1, -1, "place", 2.0)]}}


def make(name, action=DISCRETE, signals=None, seed=0, **config):
    seed_everything(seed)
    return algo.make(name, algo.ALGORITHMS[name].Config(**config), EnvSpaces(VECTOR, action, signals or {}))


def random_batch(algorithm, recurrent, generator):
    """A batch far from the policy that judges it: `[12]`, or `[4, 3]` for recurrent policies."""
    lead, action = (4, 3) if recurrent else (12,), algorithm.spaces.action

    def draw(*shape, scale=1.0):
        return torch.randn(*shape, generator=generator) * scale

    discrete = isinstance(action, spaces.Discrete)
    actions = torch.randint(0, 3, lead, generator=generator) if discrete else draw(*lead, 2)
    masks = (torch.rand(lead, generator=generator) > 0.2).float()
    signals = {ACTION_MASK: torch.ones(*lead, 3)} if ACTION_MASK in algorithm.spaces.signals else {}
    carry = draw(3, algorithm.policy.carry_size)
    targets = {"place": draw(*lead, 2)} if algorithm.policy.auxiliary.heads else {}
    obs, values, log_probs = draw(*lead, 5), draw(*lead), draw(*lead, scale=0.3) - 1.0
    with torch.no_grad():
        for parameter in algorithm.policy.head.parameters():
            parameter *= 20.0  # or it would be the same policy everywhere
        old_policy = algorithm.policy(obs + draw(*lead, 5), carry, masks, signals).distribution.describe()
    rest = targets, actions, values, log_probs, values + draw(*lead), draw(*lead), old_policy
    return Batch(obs, carry, masks, signals, *rest)


def assert_same_gradient(quick, plain, parameters, arguments):
    """Both functions set the same gradient and tell the same metrics, twice."""
    assert quick is not plain
    for given in arguments:
        torch.manual_seed(1)
        expected = plain(*given)
        gradient = parameters.grad.clone()
        assert gradient.abs().max() > 0
        parameters.grad.fill_(7.0)
        torch.manual_seed(1)
        found = quick(*given)
        assert (parameters.grad - gradient).abs().max() < 2e-5 * max(1.0, gradient.abs().max().item())
        if isinstance(found, tuple):
            torch.testing.assert_close(found[1], expected[1], atol=1e-5, rtol=1e-4)
            found, expected = found[0], expected[0]
        assert {tag: float(x) for tag, x in found.items()} == pytest.approx(
            {tag: float(x) for tag, x in expected.items()}, rel=1e-4, abs=1e-5
        )


MASKED = {ACTION_MASK: spaces.MultiBinary(3)}
POLICIES = {
    "discrete": {},
    "continuous": {"action": CONTINUOUS},
    "shared layers": {"nn_base": "FlexBase", "nn_base_kwargs": {"num_shared_layers": 1}},
    "recurrent": {"recurrent_policy": True},
    "masked": {"signals": MASKED},
    "auxiliary": {"signals": {AUXILIARY: TARGETS}, **AUX},
}
LOSSES = {
    "algo.a2c.A2C.loss": ("a2c", [{}, {"norm_adv": True, "value_loss_coef": 0.7}]),
    "algo.ppo.PPO.loss": (
        "ppo",
        [
            {},
            {"clip_value_loss": False, "norm_adv_per_minibatch": True},
            {"rollback_alpha": 0.3, "clip_param": 0.05},
            {"trust_region_delta": 0.1},
            {"trust_region_delta": 0.1, "rollback_alpha": 0.3},
        ],
    ),
}
TD = {
    "dqn": [{}, {"double": True, "dueling": True}, {"noisy": True}],
    "c51": [{"num_atoms": 11, "v_min": -3.0, "v_max": 3.0}, {"double": True}],
    "qr_dqn": [{}, {"kappa": 0.3, "dueling": True}],
    "iqn": [{}, {"kappa": 0.3, "double": True, "num_fractions": 5}],
    "rainbow": [{"num_atoms": 11}],
}


@pytest.mark.parametrize("part", [None, "policy", "value"])
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("definition", LOSSES)
def test_the_gradient_of_an_actor_critic_is_that_of_its_definition(definition, policy, part):
    name, configs = LOSSES[definition]
    for config in configs:
        algorithm = make(name, **POLICIES[policy], **config, max_grad_norm=100.0)
        assert registry.find(algorithm.loss)[0] == definition
        generator = torch.Generator().manual_seed(0)
        batches = [(random_batch(algorithm, policy == "recurrent", generator),) for _ in range(2)]

        def plain(batch, algorithm=algorithm):
            return algorithm.gradient(algorithm.loss, batch, part)

        quick = algorithm.gradient_of(algorithm.loss, part)
        assert quick.__module__.endswith("fast.actor_critic")
        assert_same_gradient(quick, plain, algorithm.parameters, batches)


@pytest.mark.parametrize("name", TD)
def test_the_gradient_of_a_temporal_difference_is_that_of_its_definition(name):
    generator = torch.Generator().manual_seed(0)
    size = 16
    for config in TD[name]:
        algorithm = make(name, hidden_size=[9, 8], max_grad_norm=100.0, **config)
        algorithm.target.load_state_dict(make(name, hidden_size=[9, 8], seed=5, **config).policy.state_dict())
        batches = [
            (
                Transitions(
                    torch.randn(size, 5, generator=generator),
                    torch.randint(0, 3, (size,), generator=generator),
                    torch.randn(size, generator=generator) * 2,
                    0.9 * (torch.rand(size, generator=generator) > 0.2).float(),
                    torch.randn(size, 5, generator=generator),
                    torch.rand(size, generator=generator),
                    None,
                ),
            )
            for _ in range(2)
        ]
        assert algorithm.set_gradient.__module__.endswith("fast.q_learning")
        assert_same_gradient(algorithm.set_gradient, algorithm.gradient, algorithm.parameters, batches)
        obs = torch.randn(64, 5, generator=generator)
        given = obs, algorithm.initial_carry(64), torch.ones(64), False
        assert torch.equal(algorithm.choose(*given)[0], algorithm.greedy(*given)[0])


@pytest.mark.parametrize("action", [COIN, spaces.Box(-1, 1, (1,), np.float32)], ids=str)
def test_the_gradient_of_cloning_is_that_of_its_definition(action, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    agent = study(EnvSpaces(LINE, COIN, {}), vectors([3] * 20), max_grad_norm=100.0)
    if action is not COIN:
        agent = algo.make("bc", agent.config, EnvSpaces(LINE, action, {}))
        agent.imitate(study(EnvSpaces(LINE, COIN, {}), vectors([3] * 20)).demonstrations, None)
        agent.actions = torch.randn(60, 1)
    rows = [(torch.randint(0, 60, (n,)),) for n in (1, 17)]
    assert agent.fit.gradient.__module__.endswith("fast.bc")
    assert_same_gradient(agent.fit.gradient, agent.gradient, agent.parameters, rows)


def test_every_accelerator_is_compared_with_its_definition():
    acting = {"model.policy.Policy.act", "model.policy.Policy.get_value"}  # tests/test_fused.py, by their distributions
    here = {
        *LOSSES,
        "algo.iqn.IQN.loss",
        "algo.q_learning.QLearning.loss",
        "algo.q_learning.QLearning.greedy",
        "algo.bc.BC.loss",
    }
    assert {*registry.ACCELERATORS} == acting | here | {"algo.gail.GAIL.loss"}  # tests/test_discriminator.py


@pytest.mark.parametrize("name", registry.definitions())
def test_a_definition_is_what_its_accelerators_were_compared_with(name):
    kept = json.loads(registry.FINGERPRINTS.read_text())
    assert kept.get(name) == registry.fingerprint(name), (
        f"{name} was changed: change what stands in for it in fast/, then `python -m a2c_ppo_acktr.fast`"
    )


# without


FAMILIES = {
    "a2c": ("a2c", {}, {}),
    "a2c gaussian": ("a2c", {"action": CONTINUOUS}, {}),
    "a2c recurrent": ("a2c", {}, {"recurrent_policy": True}),
    "acktr": ("acktr", {}, {}),
    "ppo": ("ppo", {}, {"num_mini_batch": 4, "use_gae": True}),
    "ppo two optimizers": ("ppo", {}, {"num_mini_batch": 4, "policy_lr": 1e-3}),
    "ppo recurrent": ("ppo", {}, {"num_mini_batch": 2, "recurrent_policy": True}),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_ten_updates_without_accelerators_give_the_same_parameters(family):
    name, where, config = FAMILIES[family]
    found = []
    for quick in (True, False):
        algorithm = make(name, **where, fast=quick, **config)
        rng, storage = np.random.default_rng(0), algorithm.make_storage(6, 4)
        for _ in range(10):
            fill(storage, algorithm, rng, 6, 4)
            torch.manual_seed(0)
            algorithm.update(storage)
            storage.after_update()
        found.append(algorithm.parameters.detach().clone())
        assert any(module.kernel is not None for module in algorithm.policy.modules() if isinstance(module, MLP)) == (
            quick and name != "acktr"
        )
    start = make(name, **where, **config).parameters
    assert (found[0] - start).abs().max() > 1e-3
    torch.testing.assert_close(*found, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("name", ["dqn", "c51", "qr_dqn", "iqn", "rainbow", "r2d1"])
def test_ten_gradient_steps_without_accelerators_give_the_same_parameters(name):
    small = {"burn_in": 2, "sequence_length": 5, "sequence_interval": 4, "core_size": 8} if name == "r2d1" else {}
    config = {"hidden_size": [16, 16], "buffer_size": 300, "learning_starts": 50, "batch_size": 8, "lr": 1e-3, **small}
    found = []
    for quick in (True, False):
        algorithm = make(name, fast=quick, **config)
        storage, rng = algorithm.make_storage(30, 4), np.random.default_rng(0)
        fill(storage, algorithm, rng, 30, 4)
        for _ in range(10):
            np.random.seed(0)
            torch.manual_seed(0)
            algorithm.gradient_step(storage)
        found.append(algorithm.parameters.detach().clone())
    assert (found[0] - make(name, **config).parameters).abs().max() > 1e-3
    torch.testing.assert_close(*found, atol=2e-4, rtol=1e-3)


def test_attached_layers_are_copied_with_their_network():
    network = make("dqn", hidden_size=[4, 4]).policy
    fast.attach(network)
    twin, obs = copy.deepcopy(network), torch.randn(3, 5)
    before = twin(obs)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    torch.testing.assert_close(twin(obs), before)
    assert network(obs).abs().max() == 0


def test_the_flag_reaches_the_learner_within_gail():
    config = dataclasses.replace(algo.ALGORITHMS["a2c"].Config(), fast=False)
    agent = algo.make("a2c", config, EnvSpaces(VECTOR, DISCRETE, {}), gail=GAILConfig())
    assert agent.set_gradient == agent.gradient
    assert not hasattr(agent.learner.act_on, "fused")
    assert agent.learner.act_on == agent.learner.policy.act
