"""Where a definition is overridden, edited, replaced or watched, it counts, and no accelerator stands in for it."""

import functools

import pytest
import torch

from a2c_ppo_acktr.algo.ppo import PPO
from a2c_ppo_acktr.distributions.discrete import Categorical
from a2c_ppo_acktr.fast import registry
from a2c_ppo_acktr.interfaces import EnvSpaces
from a2c_ppo_acktr.model.layers import MLP
from a2c_ppo_acktr.model.recurrent import GRU
from a2c_ppo_acktr.seeding import seed_everything
from tests.test_fast import DISCRETE, VECTOR, make, random_batch


class Scaled(PPO):
    """A loss of a user's own."""

    def loss(self, new, batch):
        loss, metrics = super().loss(new, batch)
        return 3.0 * loss, metrics


class OtherSurrogate(PPO):
    """A part of the loss of a user's own."""

    def surrogate(self, ratio, advantages, new, batch):
        return ratio * advantages, ratio > 2


class Namesake(PPO):
    """Another surrogate under its base's name."""

    def surrogate(self, ratio, advantages, new, batch):
        return ratio * advantages, ratio > 9


Namesake.__name__ = Namesake.__qualname__ = "PPO"


class OnInstance(PPO):
    """Another surrogate of one learner."""

    def __init__(self, *args):
        self.surrogate = lambda ratio, advantages, new, batch: (ratio * advantages, ratio > 9)
        super().__init__(*args)


class Relu(PPO):
    """Another activation, put into the network before it is asked whether it can be written out."""

    def gradient_of(self, loss, part=None):
        self.policy.base.actor[1] = torch.nn.ReLU()
        self.policy.base.actor.kernel = None
        return super().gradient_of(loss, part)


class OtherEvaluation(PPO):
    """The same losses of something else."""

    def evaluate(self, batch):
        new = super().evaluate(batch)
        return new._replace(value=2.0 * new.value)


@pytest.mark.parametrize("kind", [Scaled, OtherSurrogate, Namesake, OnInstance, Relu, OtherEvaluation])
def test_what_a_subclass_overrides_counts_without_its_knowing_of_accelerators(kind):
    seed_everything(0)
    algorithm = kind(EnvSpaces(VECTOR, DISCRETE, {}), PPO.Config(num_mini_batch=2), torch.device("cpu"))
    torch.testing.assert_close(*gradients_of_a_batch(algorithm), atol=1e-6, rtol=1e-5)


def test_a_subclass_that_changes_something_else_stays_fast():
    class Other(PPO):
        def schedule(self, env_steps, total):
            super().schedule(env_steps, total)

    algorithm = Other(EnvSpaces(VECTOR, DISCRETE, {}), PPO.Config(num_mini_batch=2), torch.device("cpu"))
    assert algorithm.passes[0].set_gradient.__module__.endswith("fast.actor_critic")


@pytest.mark.parametrize("name", ["algo.ppo.PPO.surrogate", "distributions.discrete.Categorical.entropy"])
def test_what_was_edited_where_it_stands_counts_and_is_said_once(name, monkeypatch, capsys):
    kept = registry._fingerprints() | {name: "another"}
    monkeypatch.setattr(registry, "_fingerprints", lambda: kept)
    registry._is_intact.cache_clear()
    registry._say.cache_clear()
    try:
        algorithms = [make("ppo", num_mini_batch=2) for _ in range(2)]
    finally:
        registry._is_intact.cache_clear()
    for algorithm in algorithms:
        assert isinstance(algorithm.passes[0].set_gradient, functools.partial)
        assert algorithm.passes[0].set_gradient.func == algorithm.gradient
    assert capsys.readouterr().err.count(f"{name} has been edited") == 1


@pytest.mark.parametrize(("name", "kind"), [("MLP.layers", MLP), ("GRU.forward", GRU)])
def test_layers_that_were_edited_are_computed_as_they_stand(name, kind, monkeypatch, capsys):
    kept = registry._fingerprints() | {f"model.{'layers' if kind is MLP else 'recurrent'}.{name}": "another"}
    monkeypatch.setattr(registry, "_fingerprints", lambda: kept)
    registry._is_intact.cache_clear()
    registry._say.cache_clear()
    try:
        policy = make("ppo", num_mini_batch=2, recurrent_policy=True).policy
    finally:
        registry._is_intact.cache_clear()
    assert all(module.kernel is None for module in policy.modules() if isinstance(module, kind))
    assert f"{name} has been edited" in capsys.readouterr().err


def test_comments_docstrings_and_layout_are_no_edits(monkeypatch):
    def written(source):
        monkeypatch.setattr(registry.inspect, "getsource", lambda function: source)
        return registry.fingerprint("algo.ppo.PPO.loss")

    plain = written("    def f(x, y):\n        return g(x, y)\n")
    body = "        # why\n        return g(\n            x,\n            y,\n        )\n"
    assert plain == written(f'    def f(x, y):\n        """Says."""\n{body}')
    assert plain != written("    def f(x, y):\n        return g(y, x)\n")
    assert written('    def f():\n        return g("a")\n') != written('    def f():\n        return g("b")\n')


def gradients_of_a_batch(algorithm):
    """As the learner computes it, and by autograd of its loss."""
    batch = random_batch(algorithm, False, torch.Generator().manual_seed(0))
    algorithm.passes[0].set_gradient(batch)
    found = algorithm.parameters.grad.clone()
    algorithm.gradient(algorithm.loss, batch)
    return found, algorithm.parameters.grad


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize(("owner", "name"), [(Categorical, "entropy"), (PPO, "surrogate"), (PPO, "loss")])
def test_what_was_replaced_in_its_class_counts_from_the_next_learner_on(owner, name, wrapped, monkeypatch):
    config = {"num_mini_batch": 2, "entropy_coef": 1.0, "max_grad_norm": 1e9}
    before, _ = gradients_of_a_batch(make("ppo", **config))
    original = getattr(owner, name)

    def other(*args):
        found = original(*args)
        return (3.0 * found[0], *found[1:]) if isinstance(found, tuple) else 3.0 * found

    monkeypatch.setattr(owner, name, functools.wraps(original)(other) if wrapped else other)
    found, plain = gradients_of_a_batch(make("ppo", **config))
    torch.testing.assert_close(found, plain, atol=1e-6, rtol=1e-5)
    assert (found - before).abs().max() > 1e-4


@pytest.mark.parametrize("register", ["register_forward_hook", "register_forward_pre_hook"])
@pytest.mark.parametrize("place", ["base", "base.actor.0", "head"])
def test_a_hook_on_a_module_is_called_in_acting_and_learning(place, register):
    algorithm, calls = make("ppo", num_mini_batch=2), []
    batch = random_batch(algorithm, False, torch.Generator().manual_seed(0))
    hook = getattr(algorithm.policy.get_submodule(place), register)(lambda *args: calls.append(place))
    obs, masks = torch.randn(3, 5), torch.ones(3)
    algorithm.act(obs, algorithm.initial_carry(3), masks, {}, True)
    assert len(calls) == 1
    algorithm.passes[0].set_gradient(batch)
    assert len(calls) == 2
    hook.remove()
    algorithm.act(obs, algorithm.initial_carry(3), masks, {}, True)
    assert len(calls) == 2
