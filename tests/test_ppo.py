"""Options of PPO: hand-worked losses, what they leave alone, and that each learns."""

import copy
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gymnasium import spaces

from a2c_ppo_acktr import algo
from a2c_ppo_acktr.algo.ppo import PPOConfig
from a2c_ppo_acktr.envs import EnvConfig, make_vec_envs
from a2c_ppo_acktr.interfaces import EnvSpaces
from a2c_ppo_acktr.model.policy import Evaluation
from a2c_ppo_acktr.seeding import seed_everything
from a2c_ppo_acktr.spaces import tree_map
from a2c_ppo_acktr.storage import Batch
from a2c_ppo_acktr.utils import UsageError


def collected(num_envs=4, num_steps=32, env_id="CartPole-v1", **config):
    """An algorithm with one rollout in its storage."""
    seed_everything(1)
    envs = make_vec_envs(EnvConfig(env_id), num_envs, seed=1)
    algorithm = algo.make("ppo", PPOConfig(**config), envs.spaces)
    storage = algorithm.make_storage(num_steps, num_envs)
    algorithm.make_collector(envs, storage).collect()
    return algorithm, storage


# the clip range


@pytest.mark.parametrize(("steps", "expected"), [(0, 0.2), (250, 0.15), (1000, 0.0), (2000, 0.0)])
def test_the_clip_range_decays_to_zero_and_is_shown(steps, expected):
    algorithm, storage = collected(num_mini_batch=2, use_linear_clip_decay=True)
    algorithm.schedule(steps, 1000)
    assert algorithm.update(storage)["charts/clip_range"] == pytest.approx(expected)


def test_the_clip_range_stays_where_it_does_not_decay():
    algorithm, storage = collected(num_mini_batch=2, clip_param=0.3)
    algorithm.schedule(999, 1000)
    assert algorithm.clip_range == 0.3
    assert "charts/clip_range" not in algorithm.update(storage)


def test_a_decayed_clip_range_clips_policy_and_value():
    metrics = {}
    for steps in (0, 999):
        algorithm, storage = collected(num_mini_batch=2, lr=1e-2, use_linear_clip_decay=True)
        algorithm.schedule(steps, 1000)
        metrics[steps] = algorithm.update(storage)
    assert metrics[999]["losses/clipfrac"] > metrics[0]["losses/clipfrac"] + 0.2
    assert metrics[999]["losses/value_loss"] > metrics[0]["losses/value_loss"]


def test_a_decayed_clip_range_clips_the_value_too():
    algorithm, storage = collected()
    batch = storage.whole(recurrent=False)
    rows = len(batch.values)
    value = (batch.values + 0.1).requires_grad_()  # a tenth nearer to returns that lie far above
    batch = batch._replace(returns=batch.values + 10.0, advantages=torch.zeros(rows))
    new = Evaluation(value, batch.log_probs, torch.zeros(rows), None, {})
    slopes = {}
    for clip_range in (0.2, 0.05):
        algorithm.clip_range = clip_range
        (slopes[clip_range],) = torch.autograd.grad(algorithm.loss(new, batch)[0], value)
    assert (slopes[0.2] < 0).all()
    assert (slopes[0.05] == 0).all()


# rollback and trust region


def policy_loss(log_ratio, advantages, kl, **config):
    """Loss and its derivative by log pi, of samples in float64 whose states have moved by `kl`."""
    algorithm = algo.make(
        "ppo", PPOConfig(entropy_coef=0, **config), EnvSpaces(spaces.Box(-1, 1, (2,)), spaces.Discrete(2), {})
    )
    none, zeros, log_prob = torch.zeros(0), torch.zeros_like(log_ratio), log_ratio.detach().requires_grad_()
    new = Evaluation(zeros, log_prob, zeros, SimpleNamespace(kl=lambda old: kl), {})
    batch = Batch(none, none, none, {}, {}, none, zeros, zeros, zeros, advantages)
    loss, metrics = algorithm.loss(new, batch)
    (slope,) = torch.autograd.grad(loss, log_prob)
    return {tag: value.item() for tag, value in metrics.items()}, slope


RB, TR = {"rollback_alpha": 0.3}, {"trust_region_delta": 0.1}
HAND_WORKED = [
    # config, ratio, advantage, KL, gain, slope by log pi = ratio * slope by ratio
    (RB, 1.1, 2, 9, 1.1 * 2, 1.1 * 2),
    (RB, 1.5, 2, 9, (-0.3 * 1.5 + 1.3 * 1.2) * 2, 1.5 * -0.3 * 2),
    (RB, 0.5, 2, 9, 0.5 * 2, 0.5 * 2),
    (RB, 1.5, -2, 9, 1.5 * -2, 1.5 * -2),
    (RB, 0.5, -2, 9, (-0.3 * 0.5 + 1.3 * 0.8) * -2, 0.5 * -0.3 * -2),
    (TR, 1.5, 2, 0.05, 1.5 * 2, 1.5 * 2),
    (TR, 1.5, 2, 0.2, 2, 0),
    (TR, 0.5, 2, 0.2, 0.5 * 2, 0.5 * 2),
    (TR, 1.5, -2, 0.2, 1.5 * -2, 1.5 * -2),
    (TR, 0.5, -2, 0.2, -2, 0),
    (RB | TR, 1.5, 2, 0.05, 1.5 * 2, 1.5 * 2),
    (RB | TR, 1.5, 2, 0.2, 1.5 * 2, 1.5 * -0.3 * 2),
    (RB | TR, 0.5, 2, 0.2, 0.5 * 2, 0.5 * 2),
    (RB | TR, 1.5, -2, 0.2, 1.5 * -2, 1.5 * -2),
    (RB | TR, 0.5, -2, 0.2, 0.5 * -2, 0.5 * -0.3 * -2),
]


@pytest.mark.parametrize(("config", "ratio", "advantage", "kl", "gain", "slope"), HAND_WORKED)
def test_hand_worked_losses_and_slopes(config, ratio, advantage, kl, gain, slope):
    tensors = (torch.tensor([float(x)], dtype=torch.float64) for x in (math.log(ratio), advantage, kl))
    metrics, derivative = policy_loss(*tensors, **config)
    assert metrics["losses/policy_loss"] == pytest.approx(-gain)
    assert derivative.item() == pytest.approx(-slope)
    outside = kl >= 0.1 if "trust_region_delta" in config else abs(ratio - 1) > 0.2
    assert metrics["losses/clipfrac"] == outside


def rollback_by_definition(r, adv, kl):
    """min(r A, F(r) A) with Wang et al.'s F of PPO-RB."""
    f = torch.where(r <= 0.8, -0.3 * r + 1.3 * 0.8, torch.where(r >= 1.2, -0.3 * r + 1.3 * 1.2, r))
    return torch.min(r * adv, f * adv)


def trust_region_by_definition(r, adv, kl):
    """min(r A, F(r) A) with Wang et al.'s F of TR-PPO."""
    return torch.min(r * adv, torch.where(kl >= 0.1, 1.0, r) * adv)


def both_by_definition(r, adv, kl):
    """Wang et al.'s TR-PPO-RB, lifted by a constant so that nothing jumps."""
    return torch.where((kl >= 0.1) & (r * adv > adv), (-0.3 * r + 1.3 * r.detach()) * adv, r * adv)


@pytest.mark.parametrize(
    ("config", "definition"),
    [(RB, rollback_by_definition), (TR, trust_region_by_definition), (RB | TR, both_by_definition)],
)
def test_surrogates_have_the_values_and_slopes_of_their_definitions(config, definition):
    generator = torch.Generator().manual_seed(0)
    log_ratio, advantages, kl = torch.randn(3, 4096, generator=generator, dtype=torch.float64) * 0.3
    log_ratio.requires_grad_()
    loss = -definition(log_ratio.exp(), advantages, kl.abs()).mean()
    loss.backward()
    metrics, derivative = policy_loss(log_ratio, advantages, kl.abs(), **config)
    assert metrics["losses/policy_loss"] == pytest.approx(loss.item())
    np.testing.assert_allclose(derivative, log_ratio.grad, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("env_id", ["MatchObservation", "MatchBits", "MatchChoices", "MatchVector", "MaskedActions"])
def test_a_policy_that_stays_never_leaves_its_trust_region(env_id, recurrent):
    algorithm, storage = collected(
        env_id=f"tests.probe_envs:{env_id}-v0",
        lr=0.0,
        num_mini_batch=2,
        trust_region_delta=1e-4,
        recurrent_policy=recurrent,
    )
    for parameter in algorithm.policy.head.parameters():
        parameter.data *= 50.0  # or the policy would be the same in all states, and mixing them up unseen
    assert algorithm.update(storage)["losses/clipfrac"] == 0
    storage.old_policy = tree_map(lambda leaf: leaf.flip(0), storage.old_policy)
    batch = storage.whole(recurrent)
    inputs = batch.obs, batch.carry, batch.masks, batch.signals, batch.actions
    mixed_up = algorithm.policy.evaluate_actions(*inputs).distribution.kl(batch.old_policy)
    assert (mixed_up > 1e-4).float().mean() > 0.2


def test_the_trust_region_is_around_the_policy_that_acted():
    algorithm, storage = collected(lr=1e-2, num_mini_batch=1, ppo_epoch=5, trust_region_delta=1e-3)
    before = algorithm.policy(storage.obs[:-1], storage.carry, storage.masks[:-1], {}).distribution.describe()
    outside = algorithm.update(storage)["losses/clipfrac"]
    torch.testing.assert_close(storage.old_policy, before)
    assert 0 < outside <= 0.8  # the first of the five passes begins in the middle of the region


# optimizers of their own


def moved(algorithm, storage):
    """Which parameters an update moved, by name."""
    before = {name: p.detach().clone() for name, p in algorithm.policy.named_parameters()}
    metrics = algorithm.update(storage)
    return {name for name, p in algorithm.policy.named_parameters() if not torch.equal(p, before[name])}, metrics


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop"])
@pytest.mark.parametrize("env_id", ["CartPole-v1", "tests.probe_envs:NestedObservation-v0"])
def test_each_optimizer_moves_its_own_part(env_id, optimizer):
    actor = {"base.actor", "head"}
    for rates, parts in (((1e-3, 0.0), actor), ((0.0, 1e-3), {"base.critic", "base.value"})):
        algorithm, storage = collected(
            env_id=env_id, num_mini_batch=2, policy_lr=rates[0], value_lr=rates[1], optimizer=optimizer
        )
        names, _ = moved(algorithm, storage)
        names = {name for name in names if "encoder" not in name}  # which both read
        assert {".".join(name.split(".")[: 1 if name.startswith("head") else 2]) for name in names} == parts


def test_epochs_count_and_only_the_policys_end_early(monkeypatch):
    algorithm, storage = collected(num_mini_batch=2, policy_epochs=3, value_epochs=5, lr=1e-3)
    steps = {True: 0, False: 0}

    def count():
        for part in algorithm.passes:

            def step(part=part, original=part.optimizer.step):
                steps[part.part == "policy"] += 1
                original()

            monkeypatch.setattr(part.optimizer, "step", step)

    count()
    algorithm.update(storage)
    assert steps == {True: 6, False: 10}
    algorithm, storage = collected(num_mini_batch=2, policy_epochs=50, value_epochs=5, lr=1e-2, target_kl=1e-3)
    steps = {True: 0, False: 0}
    count()
    algorithm.update(storage)
    assert steps[True] < 100
    assert steps[False] == 10


def test_both_learning_rates_decay():
    algorithm, _ = collected(policy_lr=1e-2, use_linear_lr_decay=True, lr=1e-3)
    algorithm.schedule(250, 1000)
    rates = [part.optimizer.param_groups[0]["lr"] for part in algorithm.passes]
    assert rates == pytest.approx([7.5e-3, 7.5e-4])


def test_a_run_keeps_its_number_of_optimizers():
    joint, separate = collected(num_mini_batch=2)[0], collected(num_mini_batch=2, value_epochs=2)[0]
    for one, other in ((joint, separate), (separate, joint)):
        with pytest.raises(UsageError, match="--policy-lr"):
            one.load_state_dict(other.state_dict())


def test_both_optimizers_continue_from_a_checkpoint():
    config = {"num_mini_batch": 2, "policy_lr": 1e-2, "value_epochs": 2, "ppo_epoch": 1}
    algorithm, storage = collected(**config)
    algorithm.update(storage)
    other, _ = collected(**config)
    other.load_state_dict(copy.deepcopy(algorithm.state_dict()))
    for learner in (algorithm, other):
        seed_everything(3)
        learner.update(storage)
    assert torch.equal(algorithm.parameters, other.parameters)


# v-trace


@pytest.mark.parametrize("recurrent", [False, True])
def test_v_trace_follows_the_policy_from_pass_to_pass(recurrent):
    targets = {}
    for name, config in {
        "n-step": {"returns": "n-step", "ppo_epoch": 1},
        "first pass": {"returns": "v-trace", "ppo_epoch": 1},
        "policy that stays": {"returns": "v-trace", "ppo_epoch": 3, "lr": 0.0},
        "policy that moves": {"returns": "v-trace", "ppo_epoch": 3, "lr": 1e-2},
    }.items():
        algorithm, storage = collected(
            num_mini_batch=2, recurrent_policy=recurrent, use_proper_time_limits=True, **config
        )
        algorithm.update(storage)
        targets[name] = storage.returns.clone()
    torch.testing.assert_close(targets["first pass"], targets["n-step"], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(targets["policy that stays"], targets["n-step"], atol=1e-4, rtol=1e-4)
    assert (targets["policy that moves"] - targets["n-step"]).abs().max() > 0.05


VARIANTS = {
    "rollback": {"rollback_alpha": 0.3},
    "trust region": {"trust_region_delta": 0.025},
    "trust region with rollback": {"trust_region_delta": 0.03, "rollback_alpha": 0.05},
    "clip decay": {"use_linear_clip_decay": True},
    "separate optimizers": {"policy_lr": 3e-3, "value_lr": 1e-2, "value_epochs": 8},
    "1-step": {"returns": "1-step"},
    "n-step": {"returns": "n-step"},
    "v-trace": {"returns": "v-trace"},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_learns_to_balance(variant):
    seed_everything(2)
    torch.set_num_threads(1)
    envs = make_vec_envs(EnvConfig("CartPole-v1", normalize_env=False), 8, seed=2)
    settings = {"lr": 3e-3, "num_mini_batch": 4, "ppo_epoch": 10, "gamma": 0.98, "entropy_coef": 0.0}
    settings |= {"returns": "gae", "gae_lambda": 0.9} | VARIANTS[variant]
    algorithm = algo.make("ppo", PPOConfig(**settings), envs.spaces)
    storage = algorithm.make_storage(64, 8)
    collector = algorithm.make_collector(envs, storage)
    lengths = []
    for _ in range(60):
        algorithm.schedule(collector.env_steps, 60 * 512)
        lengths += [episode.length for episode in collector.collect()]
        algorithm.update(storage)
        storage.after_update()
    assert np.mean(lengths[-20:]) > (100 if variant == "1-step" else 150)  # 1-step targets learn more slowly
