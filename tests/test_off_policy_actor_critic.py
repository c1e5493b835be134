"""Actor-critics from a replay against their equations, written out one critic and one row at a time."""

import itertools
import math

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch.nn import functional

from a2c_ppo_acktr.interfaces import ACTION_MASK, EnvSpaces
from a2c_ppo_acktr.spaces import UnsupportedSpace
from a2c_ppo_acktr.utils import UsageError
from tests.off_policy import BOX, CONTINUOUS, VECTOR, batch_of, make, one_step_episodes

THREE = spaces.Discrete(3)


def q(critics, k, obs, action):
    """What critic k says of rows, layer by layer."""
    x = obs if action is None else torch.cat([obs, action], 1)
    layers = [m for m in critics.members if hasattr(m, "weight")]
    for number, layer in enumerate(layers):
        x = x @ layer.weight[k] + layer.bias[k]
        x = x.relu() if number + 1 < len(layers) else x
    return x


def assert_loss(agent, batch, expected):
    found = agent.loss(batch).loss
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_ddpg_regresses_on_the_target_networks():
    agent, batch = make("ddpg"), batch_of()
    _move(agent)
    next_action = agent.target_actor(batch.next_obs)
    target = batch.returns + batch.discounts * q(agent.target, 0, batch.next_obs, next_action)[:, 0]
    error = q(agent.critics, 0, batch.obs, batch.actions)[:, 0] - target
    assert_loss(agent, batch, (batch.weights * 0.5 * error**2).mean())
    loss, _ = agent.policy_loss(batch.obs)
    torch.testing.assert_close(loss, -q(agent.critics, 0, batch.obs, agent.actor(batch.obs)).mean())


def test_td3_takes_the_lesser_critic_at_a_noisy_action(monkeypatch):
    agent, batch = make("td3", target_noise=0.7, target_noise_clip=0.6), batch_of()
    _move(agent)
    noise = torch.randn(16, 2)
    monkeypatch.setattr(torch, "randn_like", lambda like: noise)
    next_action = (agent.target_actor(batch.next_obs) + (0.7 * noise).clamp(-0.6, 0.6)).clamp(-1, 1)
    values = [q(agent.target, k, batch.next_obs, next_action)[:, 0] for k in range(2)]
    target = batch.returns + batch.discounts * torch.minimum(*values)
    errors = [q(agent.critics, k, batch.obs, batch.actions)[:, 0] - target for k in range(2)]
    assert_loss(agent, batch, (batch.weights * 0.5 * sum(e**2 for e in errors)).mean())
    torch.testing.assert_close(agent.loss(batch).priorities, torch.maximum(errors[0].abs(), errors[1].abs()))
    loss, _ = agent.policy_loss(batch.obs)
    torch.testing.assert_close(loss, -q(agent.critics, 0, batch.obs, agent.actor(batch.obs)).mean())


@pytest.mark.parametrize("policy_value", ["min", "mean"])
def test_sac_adds_the_entropy_to_the_lesser_critic(monkeypatch, policy_value):
    agent, batch = make("sac", temperature=0.3, policy_value=policy_value), batch_of()
    _move(agent)
    noise = torch.randn(16, 2)
    monkeypatch.setattr(torch, "randn_like", lambda like: noise)

    def draw(obs):
        mean, log_std = agent.actor.head(agent.actor.body(obs)).split(2, 1)
        u = mean + log_std.exp() * noise
        normal = torch.distributions.Normal(mean, log_std.exp())
        return u.tanh(), (normal.log_prob(u) - (1 - u.tanh() ** 2).log()).sum(1)

    alpha = math.exp(agent.log_alpha.item())
    action, log_prob = draw(batch.next_obs)
    values = [q(agent.target, k, batch.next_obs, action)[:, 0] for k in range(2)]
    target = batch.returns + batch.discounts * (torch.minimum(*values) - alpha * log_prob)
    errors = [q(agent.critics, k, batch.obs, batch.actions)[:, 0] - target.detach() for k in range(2)]
    assert_loss(agent, batch, (batch.weights * 0.5 * sum(e**2 for e in errors)).mean())
    action, log_prob = draw(batch.obs)
    values = torch.stack([q(agent.critics, k, batch.obs, action)[:, 0] for k in range(2)])
    value = values.amin(0) if policy_value == "min" else values.mean(0)
    temperature_loss = agent.log_alpha.squeeze() * (-log_prob.detach() - (-2.0)).mean()
    loss, metrics = agent.policy_loss(batch.obs)
    torch.testing.assert_close(metrics["losses/policy_loss"], (alpha * log_prob - value).mean())
    torch.testing.assert_close(loss, (alpha * log_prob - value).mean() + temperature_loss)
    torch.testing.assert_close(metrics["losses/entropy"], -log_prob.mean())


def test_discrete_sac_weighs_every_action_by_its_probability():
    agent, batch = make("sac", THREE, temperature=0.3, target_entropy_ratio=0.6), batch_of(discrete=3)
    _move(agent)
    alpha = math.exp(agent.log_alpha.item())

    def probabilities(obs):
        return agent.actor.head(agent.actor.body(obs)).softmax(1)

    targets, next_probs = [], probabilities(batch.next_obs)
    for row in range(16):
        both = [q(agent.target, k, batch.next_obs[row : row + 1], None)[0] for k in range(2)]
        value = sum(
            p.item() * (min(both[0][a].item(), both[1][a].item()) - alpha * math.log(p.item()))
            for a, p in enumerate(next_probs[row])
        )
        targets.append(float(batch.returns[row]) + float(batch.discounts[row]) * value)
    errors = [
        q(agent.critics, k, batch.obs, None)[torch.arange(16), batch.actions] - torch.tensor(targets) for k in range(2)
    ]
    assert_loss(agent, batch, (batch.weights * 0.5 * sum(e**2 for e in errors)).mean())
    probs = probabilities(batch.obs)
    least = torch.minimum(*(q(agent.critics, k, batch.obs, None) for k in range(2)))
    expected = (probs * (alpha * probs.log() - least)).sum(1).mean()
    _, metrics = agent.policy_loss(batch.obs)
    torch.testing.assert_close(metrics["losses/policy_loss"], expected)
    assert agent.target_entropy == pytest.approx(0.6 * math.log(3))


def test_tqc_regresses_on_what_is_left_of_all_quantiles(monkeypatch):
    agent, batch = make("tqc", num_quantiles=5, num_dropped=2, num_critics=3, temperature=0.3), batch_of()
    _move(agent)
    noise = torch.randn(16, 2)
    monkeypatch.setattr(torch, "randn_like", lambda like: noise)
    alpha = math.exp(agent.log_alpha.item())
    action, log_prob = agent.actor(batch.next_obs).sample()
    total = 0.0
    for row in range(16):
        one = slice(row, row + 1)
        atoms = sorted(float(z) for k in range(3) for z in q(agent.target, k, batch.next_obs[one], action[one])[0])
        assert len(atoms) == 15
        kept = [float(batch.returns[row] + batch.discounts[row] * (z - alpha * log_prob[row])) for z in atoms[:9]]
        for k in range(3):
            estimates = q(agent.critics, k, batch.obs[one], batch.actions[one])[0].tolist()
            for i, target in itertools.product(range(5), kept):
                u, tau = target - estimates[i], (i + 0.5) / 5
                huber = 0.5 * u * u if abs(u) <= 1 else abs(u) - 0.5
                total += float(batch.weights[row]) * abs(tau - (u < 0)) * huber / 9 / 16
    assert_loss(agent, batch, torch.tensor(total))
    everything = torch.cat([q(agent.critics, k, batch.obs, agent.actor(batch.obs).sample()[0]) for k in range(3)], 1)
    _, metrics = agent.policy_loss(batch.obs)
    expected = (alpha * agent.actor(batch.obs).sample()[1] - everything.mean(1)).mean()
    torch.testing.assert_close(metrics["losses/policy_loss"], expected)


def _move(agent):
    """Targets that differ from what they follow."""
    for target, _ in agent.followers:
        target += 0.1 * torch.randn(target.shape)


# what is stepped, and when


@pytest.mark.parametrize("name", ["ddpg", "td3", "sac", "tqc"])
def test_target_networks_begin_equal_and_follow_by_tau(name):
    agent = make(name, tau=0.25, target_update_interval=1, policy_delay=1)
    assert len(agent.followers) == (2 if name in ("ddpg", "td3") else 1)
    before = []
    for target, followed in agent.followers:
        assert torch.equal(target, followed)
        before.append(target.clone())
    storage = one_step_episodes(agent, 2, 20, terminated=True)
    agent.gradient_step(storage)
    for (target, followed), old in zip(agent.followers, before, strict=True):
        assert not torch.equal(followed, old)
        torch.testing.assert_close(target, 0.75 * old + 0.25 * followed)


def test_td3_moves_actor_and_targets_every_second_step_only():
    agent = make("td3")
    storage = one_step_episodes(agent, 2, 20, terminated=True)
    for number in range(1, 5):
        before = [x.clone() for x in (agent.actor_parameters, agent.followers[0][0], agent.critic_parameters)]
        agent.gradient_step(storage)
        actor, target, critic = (
            not torch.equal(old, new)
            for old, new in zip(
                before, (agent.actor_parameters, agent.followers[0][0], agent.critic_parameters), strict=True
            )
        )
        assert (actor, target, critic) == (number % 2 == 0, number % 2 == 0, True)


def test_the_policys_loss_leaves_the_critics_alone():
    agent, batch = make("sac"), batch_of()
    before = agent.critic_parameters.grad.clone()
    agent.improve(batch.obs)
    assert torch.equal(agent.critic_parameters.grad, before)
    assert agent.actor_parameters.grad.abs().sum() > 0


def test_smoothing_noise_differs_by_row_and_dimension_and_is_bounded(monkeypatch):
    agent = make("td3", target_noise=5.0, target_noise_clip=0.3)
    seen = []
    monkeypatch.setattr(
        agent.target, "forward", lambda features, actions: seen.append(actions) or torch.zeros(2, 64, 1)
    )
    batch = batch_of(64)
    agent.next_outputs(batch)
    plain = agent.target_actor(batch.next_obs)
    moved = seen[0] - plain
    assert moved.unique().numel() > 3
    assert not torch.equal(moved[:, 0], moved[:, 1])
    assert moved.abs().max() <= 0.3 + 1e-6
    assert seen[0].abs().max() <= 1.0


@pytest.mark.parametrize("num_envs", [1, 8])
@pytest.mark.parametrize("name", CONTINUOUS)
def test_gradient_steps_go_by_transitions_whatever_the_number_of_environments(name, num_envs):
    agent = make(name, update_to_data=0.5)
    agent.update(one_step_episodes(agent, num_envs, 16, terminated=True))
    assert agent.gradient_steps == 8 * num_envs


# fixed points


@pytest.mark.parametrize(
    "changed",
    [{}, {"n_step": 3}, {"prioritized": True}, {"prioritized": True, "priorities": "per"}],
    ids=["plain", "three steps", "lap", "per"],
)
@pytest.mark.parametrize("name", CONTINUOUS)
@pytest.mark.parametrize("terminated", [True, False])
def test_the_value_of_a_reward_in_every_step_is_1_where_it_ends_and_a_series_where_it_is_cut(name, changed, terminated):
    entropy = {"temperature": 1e-8, "fixed_temperature": True} if name in ("sac", "tqc", "crossq") else {}
    target = {} if name == "crossq" else {"tau": 0.2, "target_update_interval": 1}
    agent = make(name, gamma=0.5, lr=1e-2, **entropy, **target, **changed)
    storage = one_step_episodes(agent, 3, 50, terminated)
    for _ in range(300):
        agent.gradient_step(storage)
    obs, action = torch.zeros(1, 3), torch.zeros(1, 2)
    value = float(agent.td.values(agent.critics(agent.critics.encode(obs), action)).mean())
    assert value == pytest.approx(1.0 if terminated else 2.0, abs=0.15)


# temperature


@pytest.mark.parametrize(("target", "falls"), [(-8.0, True), (8.0, False)])
def test_the_temperature_falls_where_the_policy_is_too_random_and_rises_where_it_is_not(target, falls):
    agent, batch = make("sac", target_entropy=target), batch_of()
    before = float(agent.log_alpha)
    for _ in range(5):
        agent.improve(batch.obs)
    assert (float(agent.log_alpha) < before) == falls
    assert {"log_alpha", "temperature_optimizer"} <= agent.state_dict().keys()


def test_a_fixed_temperature_stays():
    agent, batch = make("sac", temperature=0.2, fixed_temperature=True), batch_of()
    agent.improve(batch.obs)
    assert float(agent.log_alpha.exp()) == pytest.approx(0.2)


# actions


def test_actions_are_stretched_to_the_bounds_once_and_learned_from_within_unit_ones(monkeypatch):
    box = spaces.Box(np.array([0.0, -10.0], np.float32), np.array([4.0, 30.0], np.float32))
    agent = make("sac", box, learning_starts=1)
    monkeypatch.setattr(agent, "choose", lambda features, explore: torch.tensor([[-1.0, 0.5]]))
    agent.env_steps = 5
    action = agent.act(torch.zeros(1, 3), torch.zeros(1, 0), torch.ones(1), {}, True).action
    assert action.tolist() == [[0.0, 20.0]]
    seen = []
    monkeypatch.setattr(agent, "loss", lambda batch: seen.append(batch.actions) or _stop())
    with pytest.raises(StopIteration):
        agent.learn(batch_of(1)._replace(actions=action))
    assert seen[0].tolist() == [[-1.0, 0.5]]


def _stop():
    raise StopIteration


def test_the_first_actions_are_uniform_and_evaluations_are_never_random():
    agent = make("sac", learning_starts=100)
    obs = torch.zeros(4_000, 3)
    actions = agent.act(obs, torch.zeros(4_000, 0), torch.ones(4_000), {}, True).action
    assert actions.abs().max() <= 1.0
    for dimension in actions.T:
        share = torch.histc(dimension, 4, -1, 1) / 4_000
        torch.testing.assert_close(share, torch.full((4,), 0.25), atol=0.04, rtol=0)
    played = agent.act(obs, torch.zeros(4_000, 0), torch.ones(4_000), {}, False).action
    assert played.unique(dim=0).shape[0] == 1


@pytest.mark.parametrize(
    ("space", "says"),
    [
        (spaces.Box(-np.inf, np.inf, (2,), np.float32), "bounds"),
        (spaces.Box(np.array([0.0, 0.0], np.float32), np.array([1.0, 0.0], np.float32)), "bounds"),
        (spaces.Box(-1, 1, (2, 2), np.float32), "one-dimensional"),
        (spaces.MultiDiscrete([2, 3]), "Discrete"),
    ],
)
def test_actions_without_a_range_are_refused_by_name(space, says):
    with pytest.raises(UnsupportedSpace, match=says):
        make("sac", space)


@pytest.mark.parametrize("name", ["ddpg", "td3", "tqc", "crossq"])
def test_only_sac_chooses_among_discrete_actions(name):
    with pytest.raises(UnsupportedSpace, match="sac"):
        make(name, THREE)


def test_masks_are_refused():
    from a2c_ppo_acktr import algo

    where = EnvSpaces(VECTOR, THREE, {ACTION_MASK: spaces.MultiBinary(3)})
    with pytest.raises(UnsupportedSpace, match="mask"):
        algo.make("sac", algo.ALGORITHMS["sac"].Config(), where)


def test_more_critics_in_the_target_than_there_are_is_refused():
    with pytest.raises(UsageError, match="--min-critics 3"):
        make("sac", min_critics=3).config.check(1, 1)


def test_some_critics_of_many_are_drawn_for_the_target():
    agent = make("sac", num_critics=6, min_critics=2)
    outputs = torch.arange(6.0).view(6, 1, 1)
    found = [float(agent.pool(outputs)) for _ in range(400)]
    share = [found.count(float(least)) / 400 for least in range(6)]
    expected = [(5 - least) / 15 for least in range(6)]  # of 15 pairs, those whose lesser one it is
    np.testing.assert_allclose(share, expected, atol=0.08)


def test_a_reset_forgets_everything_but_the_counts():
    agent = make("sac", reset_interval=3)
    storage = one_step_episodes(agent, 2, 20, terminated=True)
    for _ in range(2):
        agent.gradient_step(storage)
    before = agent.critic_parameters.detach().clone()
    agent.gradient_step(storage)
    assert agent.gradient_steps == 3
    assert (agent.critic_parameters - before).abs().max() > 0.05
    assert torch.equal(agent.followers[0][0], agent.critic_parameters)
    state = agent.optimizer.state[agent.critic_parameters]
    assert not state or float(state["step"]) == 0.0
    assert float(agent.log_alpha) == 0.0
    agent.gradient_step(storage)


def test_ornstein_uhlenbeck_noise_is_correlated_and_begins_anew_with_an_episode():
    agent = make("ddpg", noise="ou", exploration_noise=0.2)
    agent.env_steps = 10
    with torch.no_grad():
        agent.actor_parameters.zero_()
    obs, carry, found = torch.zeros(500, 3), agent.initial_carry(500), []
    assert carry.shape == (500, 2)
    for _ in range(60):
        decision = agent.act(obs, carry, torch.ones(500), {}, True)
        carry = decision.carry
        found.append(carry[:, 0])
    xs = torch.stack(found[30:])
    correlation = float((xs[1:] * xs[:-1]).mean() / (xs**2).mean())
    assert correlation == pytest.approx(1 - 0.15, abs=0.03)
    assert float((xs**2).mean().sqrt()) == pytest.approx(0.2 / math.sqrt(1 - 0.85**2), rel=0.1)
    masks = torch.zeros(500)
    assert float(agent.act(obs, 100 * carry, masks, {}, True).carry.abs().max()) < 1.0
    assert torch.equal(agent.act(obs, carry, masks, {}, False).action, torch.zeros(500, 2))


# CrossQ


def test_crossq_normalizes_both_states_together_and_has_no_target_network():
    agent, batch = make("crossq"), batch_of()
    assert agent.followers == []
    assert agent.target is agent.critics
    assert "target" not in agent.state_dict()
    first = agent.critics.members[0]
    outputs, _, _ = agent.judge(batch)
    with torch.no_grad():
        torch.manual_seed(3)
        next_actions, _ = agent.actor(batch.next_obs).sample()
        torch.manual_seed(3)
        seen = []
        handle = first.register_forward_hook(lambda module, args, output: seen.append(args[0]))
        agent.judge(batch)
        handle.remove()
    rows = torch.cat([torch.cat([batch.obs, batch.next_obs]), torch.cat([batch.actions, next_actions])], 1)
    assert torch.equal(seen[0][0], rows)
    assert outputs.shape == (2, 16, 1)


def test_running_statistics_change_in_training_passes_alone():
    agent, batch = make("crossq"), batch_of()
    critics, actor = agent.critics.members[0], agent.actor.head[0]

    def statistics(layer):
        return layer.running_mean.clone(), layer.running_var.clone(), int(layer.passes)

    def changed(layer, before):
        return any(not torch.equal(a, b) for a, b in zip(statistics(layer)[:2], before[:2], strict=True))

    before = statistics(critics), statistics(actor)
    agent.act(batch.obs, torch.zeros(16, 0), torch.ones(16), {}, True)
    assert not changed(critics, before[0])
    assert not changed(actor, before[1])
    agent.loss(batch)
    assert changed(critics, before[0])
    assert not changed(actor, before[1])
    middle = statistics(critics)
    agent.policy_loss(batch.obs)
    assert not changed(critics, middle)
    assert changed(actor, before[1])


def test_one_tqc_critic_without_dropping_is_quantile_regression():
    agent, batch = make("tqc", num_critics=1, num_dropped=0, num_quantiles=7), batch_of()
    outputs, next_outputs, bonus = agent.judge(batch)
    assert next_outputs.shape == (16, 7)
    losses, _ = agent.td.losses(
        outputs[0], next_outputs.flip(1), batch.returns + batch.discounts * bonus, batch.discounts
    )
    torch.manual_seed(5)
    found = agent.loss(batch)
    torch.manual_seed(5)
    outputs, next_outputs, bonus = agent.judge(batch)
    losses, _ = agent.td.losses(outputs[0], next_outputs, batch.returns + batch.discounts * bonus, batch.discounts)
    torch.testing.assert_close(found.loss, (batch.weights * losses).mean())


def test_lap_counts_large_errors_linearly_and_never_samples_small_ones_less():
    agent, batch = make("td3", prioritized=True, target_noise=0.0), batch_of()
    agent.schedule(0, 100)
    assert agent.beta == 0.0
    with torch.no_grad():
        agent.critics.members[-1].bias += 3.0
    outputs, next_outputs, _ = agent.judge(batch)
    targets = batch.returns + batch.discounts * next_outputs[:, 0]
    errors = (outputs[..., 0] - targets).abs()
    found = agent.loss(batch)
    torch.testing.assert_close(found.priorities, errors.amax(0).clamp(min=1.0))
    huber = functional.huber_loss(outputs[..., 0], targets.expand(2, -1), reduction="none")
    torch.testing.assert_close(found.loss, (batch.weights * huber.sum(0)).mean())
    assert BOX.shape == (2,)
