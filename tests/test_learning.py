"""Updates against an independent, slow implementation, and environments that only a correct learner solves."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import distributions as td
from torch import nn

from a2c_ppo_acktr import algo, arrays, returns
from a2c_ppo_acktr.algo import ppo
from a2c_ppo_acktr.envs import EnvConfig, make_vec_envs
from a2c_ppo_acktr.fast.actor_critic import ppo_slopes
from a2c_ppo_acktr.fast.policy import Evaluated
from a2c_ppo_acktr.interfaces import EnvSpaces
from a2c_ppo_acktr.model.policy import Evaluation
from a2c_ppo_acktr.returns import normalize
from a2c_ppo_acktr.seeding import seed_everything
from a2c_ppo_acktr.storage import rollout as storage_module
from evaluate import evaluate


def train(name, env_id, updates, *, num_envs=8, num_steps=16, seed=0, **config):
    """Train on a probe without normalization; returns the algorithm, its environments and the last metrics."""
    seed_everything(seed)
    torch.set_num_threads(1)
    envs = make_vec_envs(EnvConfig(f"tests.probe_envs:{env_id}-v0", normalize_env=False), num_envs, seed=seed)
    algorithm = algo.make(name, algo.ALGORITHMS[name].Config(**config), envs.spaces)
    storage = algorithm.make_storage(num_steps, num_envs)
    collector = algorithm.make_collector(envs, storage)
    for _ in range(updates):
        algorithm.schedule(collector.env_steps, updates * num_steps * num_envs)
        collector.collect()
        metrics = algorithm.update(storage)
        storage.after_update()
    return algorithm, envs, metrics


def value_at(algorithm, *observation):
    obs = torch.tensor([observation], dtype=torch.float32)
    with torch.no_grad():
        return algorithm.policy.get_value(obs, algorithm.initial_carry(1), torch.zeros(1)).item()


SETTINGS = {
    "a2c": {"lr": 3e-3},
    "acktr": {},
    "ppo": {"lr": 3e-3, "num_mini_batch": 4, "use_gae": True},
}
UPDATES = {"a2c": 200, "acktr": 100, "ppo": 80}
EVERY = pytest.mark.parametrize("name", SETTINGS)


@EVERY
def test_value_learns_a_constant_and_reads_its_observation(name):
    algorithm, _, _ = train(name, "ConstantReward", UPDATES[name], **SETTINGS[name])
    assert value_at(algorithm, 0.0) == pytest.approx(1, abs=0.05)
    algorithm, _, _ = train(name, "ObservationReward", UPDATES[name], **SETTINGS[name])
    assert value_at(algorithm, 1.0) == pytest.approx(1, abs=0.1)
    assert value_at(algorithm, -1.0) == pytest.approx(-1, abs=0.1)


@EVERY
def test_value_discounts(name):
    algorithm, _, _ = train(name, "TwoSteps", UPDATES[name], gamma=0.5, **SETTINGS[name])
    assert value_at(algorithm, 1.0) == pytest.approx(1, abs=0.05)
    assert value_at(algorithm, 0.0) == pytest.approx(0.5, abs=0.05)


@EVERY
@pytest.mark.parametrize(
    ("env_id", "least", "updates"),
    [
        ("ActionReward", 0.99, {"a2c": 100, "ppo": 40}),
        ("MatchObservation", 0.99, {"a2c": 150, "ppo": 60}),
        ("MatchBits", 0.95, {"a2c": 250, "ppo": 80}),
        ("MatchChoices", 0.95, {"a2c": 250, "ppo": 80}),
        ("MatchVector", -0.02, {"a2c": 800, "acktr": 400, "ppo": 100}),
        ("MaskedActions", 2.9, {"a2c": 250, "ppo": 80}),
        ("NestedObservation", 0.95, {"a2c": 60, "acktr": 8, "ppo": 10}),
    ],
)
def test_policy_solves_probe(name, env_id, least, updates):
    algorithm, envs, _ = train(name, env_id, updates.get(name, updates["a2c"]), **SETTINGS[name])
    assert evaluate(algorithm, envs, 64)["returns"].mean() >= least


@EVERY
def test_a_time_limit_is_no_end_with_proper_time_limits_and_one_without(name):
    settings = SETTINGS[name] | {"gamma": 0.8} | ({"lr": 1e-2} if name == "a2c" else {})
    with_limits, _, _ = train(name, "EndlessReward", 2 * UPDATES[name], use_proper_time_limits=True, **settings)
    assert value_at(with_limits, 0.0) == pytest.approx(1 / (1 - 0.8), rel=0.05)
    without, _, _ = train(name, "EndlessReward", 2 * UPDATES[name], use_proper_time_limits=False, **settings)
    assert value_at(without, 0.0) < 3.5  # the mean over t of (1 - 0.8^(5 - t)) / 0.2 is 2.3


@pytest.mark.parametrize("name", ["a2c", "ppo"])
def test_memory_task_is_solved_by_the_gru_and_by_no_feed_forward_net(name):
    settings = SETTINGS[name] | ({"num_mini_batch": 2, "lr": 1e-3} if name == "ppo" else {}) | {"num_envs": 16}
    recurrent, envs, _ = train(name, "RememberCue", 200, recurrent_policy=True, **settings)
    assert evaluate(recurrent, envs, 200)["returns"].mean() >= 0.95
    blind, envs, _ = train(name, "RememberCue", 200, **settings)
    assert evaluate(blind, envs, 200)["returns"].mean() <= 0.7


def collected(name, **config):
    """An algorithm with one rollout of CartPole in its storage."""
    seed_everything(1)
    envs = make_vec_envs(EnvConfig("CartPole-v1"), 4, seed=1)
    algorithm = algo.make(name, algo.ALGORITHMS[name].Config(**config), envs.spaces)
    storage = algorithm.make_storage(32, 4)
    algorithm.make_collector(envs, storage).collect()
    return algorithm, storage


def slow_forward(policy, obs):
    base = policy.base
    logits = policy.head.linear(base.actor(obs))
    return td.Categorical(logits=logits), base.value(base.critic(obs)).squeeze(-1)


def test_a2c_update_equals_the_written_out_loss_and_step():
    algorithm, storage = collected("a2c", lr=0.01)
    twin = algo.make("a2c", algorithm.config, algorithm.spaces)
    twin.policy.load_state_dict(algorithm.policy.state_dict())
    metrics = algorithm.update(storage)

    obs, actions = storage.obs[:-1].flatten(0, 1), storage.actions.flatten()
    distribution, values = slow_forward(twin.policy, obs)
    advantages = (storage.returns.flatten() - values).detach()
    policy_loss = -(advantages * distribution.log_prob(actions)).mean()
    value_loss = (storage.returns.flatten() - values).pow(2).mean()
    entropy = distribution.entropy().mean()
    (policy_loss + 0.5 * value_loss - 0.01 * entropy).backward()
    for key, value in {"policy_loss": policy_loss, "value_loss": value_loss, "entropy": entropy}.items():
        assert float(metrics[f"losses/{key}"]) == pytest.approx(value.item(), rel=1e-5)
    norm = torch.stack([p.grad.pow(2).sum() for p in twin.policy.parameters()]).sum().sqrt()
    assert float(metrics["losses/grad_norm"]) == pytest.approx(norm.item(), rel=1e-5)
    for ours, theirs in zip(algorithm.policy.parameters(), twin.policy.parameters(), strict=True):
        grad = theirs.grad * min(1.0, 0.5 / (norm + 1e-6))
        square = 0.01 * grad.pow(2)  # RMSprop's first step: average (1 - alpha) g^2
        torch.testing.assert_close(ours.data, theirs.data - 0.01 * grad / (square.sqrt() + 1e-5), atol=1e-5, rtol=1e-3)


def test_ppo_update_equals_the_written_out_algorithm():
    config = {"lr": 1e-3, "num_mini_batch": 3, "ppo_epoch": 2, "use_gae": True}
    algorithm, storage = collected("ppo", **config)
    twin = algo.make("ppo", algorithm.config, algorithm.spaces)
    twin.policy.load_state_dict(algorithm.policy.state_dict())
    optimizer = torch.optim.Adam(twin.policy.parameters(), lr=1e-3, eps=1e-5, fused=False)
    torch.manual_seed(5)
    metrics = algorithm.update(storage)

    torch.manual_seed(5)
    flat = {k: getattr(storage, k).flatten() for k in ("actions", "values", "log_probs", "returns")}
    obs = storage.obs[:-1].flatten(0, 1)
    raw = flat["returns"] - flat["values"]
    advantages = (raw - raw.mean()) / (raw.std() + 1e-5)
    rows = []
    for _ in range(2):
        for idx in torch.randperm(128).tensor_split(3):
            distribution, values = slow_forward(twin.policy, obs[idx])
            log_ratio = distribution.log_prob(flat["actions"][idx]) - flat["log_probs"][idx]
            ratio = log_ratio.exp()
            surrogate = torch.min(ratio * advantages[idx], ratio.clamp(0.8, 1.2) * advantages[idx])
            old, target = flat["values"][idx], flat["returns"][idx]
            clipped = old + (values - old).clamp(-0.2, 0.2)
            value_loss = 0.5 * torch.max((values - target) ** 2, (clipped - target) ** 2).mean()
            entropy = distribution.entropy().mean()
            loss = -surrogate.mean() + 0.5 * value_loss - 0.01 * entropy
            optimizer.zero_grad()
            loss.backward()
            norm = nn.utils.clip_grad_norm_(twin.policy.parameters(), 0.5)
            optimizer.step()
            outside = ((ratio - 1).abs() > 0.2).float().mean()
            kl = ((ratio - 1) - log_ratio).mean()
            rows.append([value_loss.item(), -surrogate.mean().item(), entropy.item(), kl.item(), outside, norm])
    for ours, theirs in zip(algorithm.policy.parameters(), twin.policy.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-3)
    names = ["value_loss", "policy_loss", "entropy", "approx_kl", "clipfrac", "grad_norm"]
    for name, expected in zip(names, np.mean(rows, axis=0), strict=True):
        assert metrics[f"losses/{name}"].item() == pytest.approx(expected, rel=1e-3, abs=1e-5), name


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("a2c", {"norm_adv": True}),
        ("ppo", {"num_mini_batch": 3, "lr": 1e-2, "use_gae": True, "use_proper_time_limits": True}),
        ("ppo", {"num_mini_batch": 3, "lr": 1e-2, "norm_adv_per_minibatch": True, "target_kl": 0.01}),
        ("ppo", {"num_mini_batch": 3, "lr": 1e-2, "rollback_alpha": 0.3, "returns": "1-step"}),
        ("ppo", {"num_mini_batch": 3, "lr": 1e-2, "rollback_alpha": 0.3, "trust_region_delta": 1e-3}),
    ],
)
def test_the_update_through_torch_as_on_a_gpu_is_that_through_numpy(name, config, monkeypatch):
    outcomes = []
    for library in ("numpy", "torch"):
        algorithm, storage = collected(name, **config)
        if library == "torch":
            plain = algo.make(name, dataclasses.replace(algorithm.config, fast=False), algorithm.spaces)
            plain.load_state_dict(algorithm.state_dict())
            algorithm = plain
            for module in (arrays, returns, storage_module):
                monkeypatch.setattr(module, "arrays", lambda *ts: (torch, [t.detach() for t in ts]), raising=False)
        torch.manual_seed(5)
        metrics = algorithm.update(storage)
        outcomes.append((algorithm.parameters.detach().clone(), {k: float(v) for k, v in metrics.items()}))
        assert isinstance(metrics["losses/entropy"], torch.Tensor) == (library == "torch")
    (parameters, metrics), (others, other_metrics) = outcomes
    torch.testing.assert_close(parameters, others, atol=1e-5, rtol=1e-3)
    assert metrics == pytest.approx(other_metrics, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("clip_value_loss", [True, False])
@pytest.mark.parametrize("per_minibatch", [True, False])
def test_ppos_derivatives_are_those_of_autograd_far_inside_and_outside_the_clip_ranges(clip_value_loss, per_minibatch):
    generator = torch.Generator().manual_seed(0)

    def draw(scale):
        return torch.randn(4096, generator=generator, dtype=torch.float64) * scale

    config = ppo.PPOConfig(clip_value_loss=clip_value_loss, norm_adv_per_minibatch=per_minibatch, value_loss_coef=0.7)
    algorithm = algo.make("ppo", config, EnvSpaces(spaces.Box(-1, 1, (2,)), spaces.Discrete(2), {}))
    old_value, old_log_prob, advantages, entropy = draw(1.0), draw(0.5) - 1.0, draw(2.0), draw(1.0)
    targets = old_value + draw(0.5)
    value = (old_value + draw(0.3)).requires_grad_()
    log_prob = (old_log_prob + draw(0.3)).requires_grad_()
    entropy.requires_grad_()

    scaled = (advantages - advantages.mean()) / (advantages.std() + 1e-5) if per_minibatch else advantages
    ratio = (log_prob - old_log_prob).exp()
    surrogate = torch.min(ratio * scaled, ratio.clamp(0.8, 1.2) * scaled).mean()
    error = (value - targets) ** 2
    if clip_value_loss:
        error = torch.max(error, (old_value + (value - old_value).clamp(-0.2, 0.2) - targets) ** 2)
    (0.7 * 0.5 * error.mean() - surrogate - config.entropy_coef * entropy.mean()).backward()

    none, leaves = torch.zeros(0), (value, log_prob, entropy)
    batch = storage_module.Batch(none, none, none, {}, {}, none, old_value, old_log_prob, targets, advantages)
    loss, metrics = algorithm.loss(Evaluation(*leaves, distribution=None, predictions={}), batch)
    defined = torch.autograd.grad(loss, leaves)
    new = Evaluated(*(leaf.detach().numpy() for leaf in leaves), backward=lambda *slopes: None)
    slopes, found = ppo_slopes(algorithm, new, batch)
    for slope, ours, leaf in zip(slopes, defined, leaves, strict=True):
        torch.testing.assert_close(ours, leaf.grad, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(slope, leaf.grad, rtol=1e-9, atol=1e-12)
    for values in (metrics, found):
        assert float(values["losses/value_loss"]) == pytest.approx(0.5 * error.mean().item())
        assert float(values["losses/policy_loss"]) == pytest.approx(-surrogate.item())
    assert (np.abs(slopes[1]) == 0).mean() > 0.1
    assert not clip_value_loss or (slopes[0] == 0).mean() > 0.1


def test_value_clipping_can_be_switched_off_and_matters():
    results = {}
    for clip in (True, False):
        algorithm, storage = collected("ppo", num_mini_batch=4, lr=0.02, clip_value_loss=clip)
        results[clip] = algorithm.update(storage)["losses/value_loss"].item()
    assert results[True] != results[False]


def gradient_steps(algorithm):
    return next(iter(algorithm.optimizer.state.values()))["step"].item()


def test_target_kl_ends_the_update_early():
    far, storage = collected("ppo", num_mini_batch=4, ppo_epoch=20, lr=0.02)
    far.update(storage)
    near, storage = collected("ppo", num_mini_batch=4, ppo_epoch=20, lr=0.02, target_kl=0.01)
    near.update(storage)
    assert gradient_steps(far) == 80
    assert 1 <= gradient_steps(near) < 10


def test_advantages_are_normalized_and_a_single_one_is_no_nan():
    normalized = normalize(torch.randn(100) * 5 + 3)
    assert normalized.mean().abs() < 1e-5
    assert normalized.std().item() == pytest.approx(1, abs=1e-4)
    assert normalize(torch.tensor([3.0])) == 0
    algorithm, storage = collected("ppo", num_mini_batch=128, ppo_epoch=1, norm_adv_per_minibatch=True)
    assert all(math.isfinite(v) for k, v in algorithm.update(storage).items() if k.startswith("losses/"))


@EVERY
def test_learning_rate_decays_to_zero_and_reaches_the_optimizer(name):
    algorithm, _ = collected(name, lr=0.1, use_linear_lr_decay=True)
    for steps, expected in [(0, 0.1), (250, 0.075), (1000, 0.0), (2000, 0.0)]:
        algorithm.schedule(steps, 1000)
        assert algorithm.optimizer.param_groups[0]["lr"] == pytest.approx(expected)


def test_unknown_network_settings_are_named():
    from a2c_ppo_acktr.utils import UsageError

    config = algo.ALGORITHMS["ppo"].Config(nn_base_kwargs={"hiden_size": 3})
    box = EnvSpaces(spaces.Box(-1, 1, (3,)), spaces.Discrete(2), {})
    with pytest.raises(UsageError, match="hiden_size"):
        algo.make("ppo", config, box)
