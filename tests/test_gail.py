"""GAIL: the faults of earlier implementations, rewards from their definition, agents that imitate whatever they see."""

import math

import numpy as np
import pytest
import torch

from a2c_ppo_acktr import experts
from a2c_ppo_acktr.algo import gail
from a2c_ppo_acktr.envs import EnvConfig, make_vec_envs
from a2c_ppo_acktr.experts.files import Trajectory, read, save
from a2c_ppo_acktr.run import checkpoint
from a2c_ppo_acktr.seeding import seed_everything
from evaluate import evaluate
from tests.imitation import LEARNERS, probe, rollout, shown_by, train, wrap
from tests.test_loop import assert_same_state


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def right(obs):
    """What MatchObservation rewards."""
    return (obs[:, 0] > 0).astype(np.int64)


def opposite(obs):
    """What MatchObservation does not reward."""
    return 1 - right(obs)


SMALL = {"gail_warm_up": 0, "gail_epoch": 3, "gail_lr": 1e-2, "gail_absorbing": False}


@pytest.mark.parametrize(("expert_acts", "low", "high"), [(right, 0.95, 1.0), (opposite, 0.0, 0.05)])
@pytest.mark.parametrize("name", LEARNERS)
def test_a_good_expert_makes_a_good_agent_and_a_bad_one_a_bad_agent(name, expert_acts, low, high):
    """Rewards that are always there, or the environment's own, would teach the same in both cases."""
    envs = probe("MatchObservation")
    agent = wrap(name, envs, shown_by(envs, expert_acts, 20), **SMALL)
    train(agent, envs, 60)
    assert low <= evaluate(agent, envs, 64)["returns"].mean() <= high


SPACES = [
    ("MatchVector", lambda obs: -0.5 * obs, -0.6),
    ("MatchBits", lambda obs: np.stack([obs[:, 0] < 0, obs[:, 0] > 0], 1).astype(np.int8), 0.1),
    ("MatchChoices", lambda obs: np.stack([obs[:, 0] < 0, 2 * (obs[:, 0] < 0)], 1).astype(np.int64), 0.1),
]


@pytest.mark.parametrize(("env_id", "choose", "most"), SPACES, ids=[row[0] for row in SPACES])
def test_the_worst_behaviour_is_imitated_in_every_space(env_id, choose, most):
    """`choose` does the opposite of what the environment rewards; at random the return would be higher."""
    envs = probe(env_id)
    learner = {"entropy_coef": 0.0} if env_id == "MatchVector" else {}
    agent = wrap("ppo", envs, shown_by(envs, choose, 20), learner=learner, **SMALL)
    train(agent, envs, {"MatchBits": 40}.get(env_id, 80))
    assert evaluate(agent, envs, 64)["returns"].mean() <= most


def test_images_in_nested_observations_are_learned_from():
    """The expert always takes action 1, whatever it sees."""
    envs = probe("NestedObservation")
    demonstrations = shown_by(envs, lambda obs: np.ones(8, np.int64), 20)
    learner = {"lr": 1e-3, "entropy_coef": 0.0}
    agent = wrap("ppo", envs, demonstrations, learner=learner, **SMALL | {"gail_lr": 1e-3, "gail_epoch": 20})
    before = rollout(agent, envs).actions.float().mean()
    train(agent, envs, 6)
    after = rollout(agent, envs).actions.float().mean()
    assert before < 0.7
    assert after > 0.85


def test_a_recurrent_policy_imitates():
    envs = probe("MatchObservation")
    agent = wrap("ppo", envs, shown_by(envs, opposite, 20), learner={"recurrent_policy": True}, **SMALL)
    train(agent, envs, 50)
    assert evaluate(agent, envs, 64)["returns"].mean() <= 0.05


def test_states_alone_are_imitated_where_they_show_what_was_done():
    envs = probe("Corridor")
    shown = shown_by(envs, lambda obs: np.zeros(8, np.int64), 30)  # always to the left
    for inputs, most in (("state", -2), ("state-next-state", -4)):  # where the last action leads is no state of a step
        agent = wrap("ppo", envs, shown, gail_input=inputs, **SMALL)
        train(agent, envs, 40)
        assert evaluate(agent, envs, 16)["returns"].mean() <= most


@pytest.mark.parametrize("reward", gail.REWARDS)
@pytest.mark.parametrize("bias", [-1e4, 1e4])
def test_rewards_are_finite_where_the_sigmoid_is_saturated(reward, bias):
    envs = probe("MatchObservation")
    agent = wrap("a2c", envs, shown_by(envs, opposite, 20), gail_reward=reward, gail_lr=0.0, **{"gail_warm_up": 0})
    with torch.no_grad():
        agent.discriminator.network[4].bias += bias
    storage = rollout(agent, envs)
    metrics = agent.update(storage)
    assert torch.isfinite(storage.rewards).all()
    assert all(math.isfinite(float(metrics[tag])) for tag in metrics if tag.startswith("gail/"))


@pytest.mark.parametrize(
    ("num_expert", "num_policy", "batch_size", "sizes"),
    [
        (7, 100, 128, [7]),
        (1000, 5, 128, [5]),
        (300, 1000, 128, [100, 100, 100]),
        (1, 1, 1, [1]),
        (129, 129, 128, [65, 64]),
    ],
)
def test_batches_of_any_sizes(num_expert, num_policy, batch_size, sizes):
    """Upstream divided by zero where the rollout was smaller than the batch, and failed where the expert's was."""
    envs = probe("MatchObservation")
    agent = wrap("a2c", envs, shown_by(envs, opposite, 4), gail_batch_size=batch_size)
    batches = list(agent._batches(num_expert, num_policy, 2))
    assert [len(ours) for ours, _ in batches] == [len(theirs) for _, theirs in batches] == sizes * 2
    for which, num in ((0, num_expert), (1, num_policy)):
        for epoch in (batches[: len(sizes)], batches[len(sizes) :]):
            drawn = torch.cat([batch[which] for batch in epoch])
            assert len(set(drawn.tolist())) == sum(sizes)
            assert drawn.max() < num


def test_every_demonstrated_step_is_used(monkeypatch):
    envs = probe("MatchObservation")
    demonstrations = shown_by(envs, opposite, 40)
    agent = wrap("a2c", envs, demonstrations, gail_batch_size=16, **SMALL | {"gail_epoch": 40})
    seen = []
    learn = agent.set_gradient
    samples = agent.expert_samples()
    samples.vector[:, 0] = torch.arange(samples.num)  # which step it is
    agent.expert = samples
    monkeypatch.setattr(
        agent, "set_gradient", lambda e, *rest: (seen.extend(e.vector[:, 0].tolist()), learn(e, *rest))[1]
    )
    train(agent, envs, 1, num_steps=8)
    assert set(seen) == set(range(samples.num))
    assert len(demonstrations) == 320


def slow_rewards(logits, terminated, truncated, gamma, form, absorbing):
    """Scaled rewards of consecutive rollouts `[T, N]`, as the module's docstring defines them, step by step."""
    forms = {
        "logit": lambda x: x,
        "positive": lambda x: -math.log(1 - 1 / (1 + math.exp(-x))),
        "negative": lambda x: math.log(1 / (1 + math.exp(-x))),
    }
    sums, running = [], np.zeros(logits[0].shape[1])
    for rollout_logits, t_end, cut, alone in zip(logits, terminated, truncated, absorbing, strict=True):
        rewards = np.vectorize(forms[form])(rollout_logits) - forms[form](alone)
        for t in range(len(rewards)):
            for env in range(rewards.shape[1]):
                running[env] = gamma * running[env] + rewards[t, env]
                sums.append(running[env])
                if t_end[t, env] or cut[t, env]:
                    running[env] = 0.0
        scale = math.sqrt(np.var(sums) + 1e-8)
        yield rewards / scale


@pytest.mark.parametrize("form", gail.REWARDS)
def test_rewards_are_scaled_and_counted_from_the_absorbing_state(form):
    envs = probe("Counter", num_envs=4)
    agent = wrap(
        "a2c", envs, shown_by(envs, lambda obs: np.ones(4, np.int64), 60), gail_reward=form, learner={"gamma": 0.9}
    )
    agent.return_rms.count = 0.0  # no prior, as in the definition
    logits, terminated, truncated, absorbing, found = [], [], [], [], []
    storage = agent.make_storage(12, 4)
    collector = agent.make_collector(envs, storage)
    for _ in range(3):
        collector.collect()
        agent.update(storage)
        with torch.no_grad():
            logits.append(agent.discriminator(agent.policy_samples(storage)).view(12, 4).double().numpy())
            absorbing.append(agent.discriminator(agent.encode.absorbing(1, torch.device("cpu"))).item())
        terminated.append(storage.terminated.numpy().copy())
        truncated.append((storage.truncated & ~storage.terminated).numpy().copy())
        found.append(storage.rewards.numpy().copy())
        storage.after_update()
    assert any(ends.any() for ends in truncated)
    expected = slow_rewards(logits, terminated, truncated, 0.9, form, absorbing)
    for ours, theirs in zip(found, expected, strict=True):
        assert np.allclose(ours, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("form", gail.REWARDS)
def test_an_episode_is_worth_what_it_gives_when_the_absorbing_state_goes_on_for_ever(form):
    """The discounted sum of endless rewards, but for a constant that no policy can change."""
    envs, gamma = probe("Counter", num_envs=4), 0.9
    shown = shown_by(envs, lambda obs: np.ones(4, np.int64), 60)
    agent = wrap("a2c", envs, shown, gail_reward=form, learner={"gamma": gamma})
    storage = rollout(agent, envs, 40)
    agent.update(storage)
    reward, scale = gail.REWARDS[form], math.sqrt(agent.return_rms.var + 1e-8)
    with torch.no_grad():
        plain = reward(agent.discriminator(agent.policy_samples(storage))).view(40, 4)
        absorbing = reward(agent.discriminator(agent.encode.absorbing(1, torch.device("cpu")))).item()
    constant = absorbing / (1 - gamma) / scale
    deaths = storage.terminated.nonzero().tolist()
    assert len({t for t, _ in deaths}) > 2
    for t, env in deaths:
        endless = [*plain[: t + 1, env].tolist(), *[absorbing] * 3000]
        assert sum(gamma**k * r for k, r in enumerate(endless)) / scale == pytest.approx(
            sum(gamma**k * r for k, r in enumerate(storage.rewards[: t + 1, env].tolist())) + constant, abs=1e-4
        )


def test_the_absorbing_state_counts_from_the_first_death_on():
    """Before, the discriminator has never been shown it, and what it says of it is chance."""
    envs = probe("EndlessReward", num_envs=4)
    agent = wrap("a2c", envs, shown_by(envs, lambda obs: np.ones(4, np.int64), 60))
    storage = rollout(agent, envs)
    for died, counts in ((False, False), (True, True), (False, True)):
        storage.terminated[3, 2] = died
        agent.update(storage)
        absorbing = agent.discriminator(agent.encode.absorbing(1, torch.device("cpu"))).item()
        logits = agent.discriminator(agent.policy_samples(storage)).view(16, 4) - counts * absorbing
        scale = math.sqrt(agent.return_rms.var + 1e-8)
        assert torch.allclose(storage.rewards, logits / scale, rtol=1e-4, atol=1e-5)


def test_deaths_alone_are_shown_as_absorbing_as_often_as_they_happen(monkeypatch):
    envs = probe("Counter", num_envs=4)
    demonstrations = shown_by(envs, lambda obs: np.ones(4, np.int64), 60, subsample=3)
    agent = wrap("a2c", envs, demonstrations, gail_batch_size=1000, gail_warm_up=0)
    deaths = sum(int(t.terminated.sum()) for t in read("shown.npz")[0])
    steps = sum(len(t.rewards) for t in read("shown.npz")[0])
    expected = gail.ABSORBING_STEPS * deaths / steps * len(demonstrations)
    assert expected <= int(agent.expert_samples().vector[:, -1].sum()) < expected + 1
    storage = rollout(agent, envs, 40)
    seen, batches = [], agent._batches
    monkeypatch.setattr(agent, "_batches", lambda *sizes: seen.append(sizes[1]) or batches(*sizes))
    agent.update(storage)
    deaths = int(storage.terminated.sum())
    assert 0 < deaths < int((storage.terminated | storage.truncated).sum())
    assert seen == [160 + gail.ABSORBING_STEPS * deaths]


def test_without_absorbing_states_an_end_has_no_reward_of_its_own():
    envs = probe("Counter", num_envs=4)
    demonstrations = shown_by(envs, lambda obs: np.ones(4, np.int64), 60)
    agent = wrap("a2c", envs, demonstrations, gail_absorbing=False)
    assert agent.expert_samples().num == len(demonstrations)
    storage = rollout(agent, envs)
    agent.update(storage)
    logits = agent.discriminator(agent.policy_samples(storage)).view(16, 4)
    scale = math.sqrt(agent.return_rms.var + 1e-8)
    assert torch.allclose(storage.rewards, logits / scale, rtol=1e-4)


def test_the_next_state_is_the_one_that_was_reached_never_a_reset():
    envs = probe("Counter", num_envs=4)
    demonstrations = shown_by(envs, lambda obs: np.ones(4, np.int64), 60)
    agent = wrap("a2c", envs, demonstrations, gail_input="state-next-state")
    samples = agent.policy_samples(rollout(agent, envs, 40)).vector
    assert torch.equal(samples[:, 2], samples[:, 0] + 1)  # time goes on
    assert torch.equal(samples[:, 3], samples[:, 1])  # in the same episode
    shown = agent.expert_samples().vector
    real = shown[shown[:, -1] == 0]
    assert torch.equal(real[:, 2], real[:, 0] + 1)


def test_demonstrations_without_final_observations_lose_their_last_steps_where_these_matter():
    envs = probe("Counter", num_envs=4)
    trajectory = Trajectory(
        np.arange(8.0).reshape(4, 2), np.zeros(3, int), np.zeros(3), np.zeros(3, bool), np.array([0, 0, 1], bool), 0.0
    )
    save("upstream.npz", [trajectory], final_obs=False)
    demonstrations = experts.load("upstream.npz").check(envs.observation_space, envs.action_space)
    for inputs, num in (("state-action", 3), ("state-next-state", 2)):
        assert wrap("a2c", envs, demonstrations, gail_input=inputs).expert_samples().num == num


def test_demonstrations_are_normalized_by_the_runs_statistics_which_freeze_after_the_warm_up():
    envs = make_vec_envs(EnvConfig("tests.probe_envs:Counter-v0"), 4, seed=0)
    plain = probe("Counter", num_envs=4)
    demonstrations = shown_by(plain, lambda obs: np.ones(4, np.int64), 60)
    agent = wrap("a2c", envs, demonstrations, envs.normalizer, gail_warm_up=2, gail_absorbing=False)
    storage = agent.make_storage(8, 4)
    collector = agent.make_collector(envs, storage)
    means = []
    for update in range(4):
        collector.collect()
        expected = torch.as_tensor(envs.normalizer.normalize_obs(demonstrations.obs))
        assert torch.equal(agent.expert_samples().vector[:, :2], expected)
        agent.update(storage)
        storage.after_update()
        means.append(envs.normalizer.obs_rms.mean.tolist())
        assert envs.normalizer.training == (update < 1)
    assert means[0] != means[1]
    assert means[1] == means[2] == means[3]


def test_the_discriminator_learns_longer_in_the_warm_up(monkeypatch):
    envs = probe("MatchObservation")
    agent = wrap("a2c", envs, shown_by(envs, opposite, 20), gail_warm_up=2, gail_epoch=3)
    epochs = []
    batches = agent._batches
    monkeypatch.setattr(agent, "_batches", lambda *sizes: epochs.append(sizes[2]) or batches(*sizes))
    train(agent, envs, 4)
    assert epochs == [100, 100, 3, 3]


def test_the_environments_reward_is_not_learned_from():
    envs = probe("MatchObservation")
    demonstrations = shown_by(envs, opposite, 20)
    agents = [wrap("a2c", envs, demonstrations, **SMALL) for _ in range(2)]
    states = []
    for agent, factor in zip(agents, (1.0, -50.0), strict=True):
        seed_everything(3)
        envs.seed(3)
        storage = rollout(agent, envs)
        storage.rewards *= factor
        agent.update(storage)
        states.append(agent.state_dict())
    assert_same_state(*map(checkpoint.to_plain, states))
