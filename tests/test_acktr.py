"""ACKTR: what its Fisher matrix is sampled from, and what it shares with A2C."""

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces

import main
from a2c_ppo_acktr import algo
from a2c_ppo_acktr.envs import EnvConfig, make_vec_envs
from a2c_ppo_acktr.interfaces import AUXILIARY, EnvSpaces
from a2c_ppo_acktr.run import checkpoint
from a2c_ppo_acktr.seeding import seed_everything

OBSERVATION = spaces.Box(-1, 1, (3,))


def make(action, signals=None, **config):
    seed_everything(0)
    agent = algo.make("acktr", algo.ALGORITHMS["acktr"].Config(**config), EnvSpaces(OBSERVATION, action, signals or {}))
    with torch.no_grad():
        for parameter in agent.policy.head.parameters():
            parameter.normal_(std=0.5)
    return agent


def statistics(agent, samples=100_000):
    """The G of every layer by name, at one observation."""
    obs = torch.tensor([[0.3, -0.8, 0.5]]).expand(samples, 3).contiguous()
    with agent.optimizer.watch():
        actions = torch.zeros(samples, *agent.spaces.action.shape)  # whichever: others are drawn
        actions = actions if agent.spaces.action.dtype == np.float32 else actions.long()
        new = agent.policy.evaluate_actions(obs, torch.zeros(0), torch.ones(samples), {}, actions)
    agent.optimizer.observe(agent.sampled_log_likelihood(new))
    layers = zip(agent.optimizer.layers, agent.optimizer.curvatures, strict=True)
    return {layer.name: curvature.outputs.moment for layer, curvature in layers}, new.distribution


def assert_near(moment, expected):
    torch.testing.assert_close(moment, expected, atol=0.02 * expected.abs().max().item(), rtol=0)


def test_the_fisher_matrix_of_a_categorical_head():
    found, distribution = statistics(make(spaces.Discrete(3)))
    p = distribution.describe()[0].detach()
    assert_near(found["head.linear"], p.diag() - torch.outer(p, p))


def test_the_fisher_matrix_of_a_multi_categorical_head():
    found, distribution = statistics(make(spaces.MultiDiscrete([2, 3])))
    blocks = distribution.describe()[0].detach()
    expected = torch.block_diag(*(p.diag() - torch.outer(p, p) for p in (blocks[0, :2], blocks[1])))
    assert_near(found["head.linear"], expected)


def test_the_fisher_matrix_of_a_bernoulli_head():
    found, distribution = statistics(make(spaces.MultiBinary(3)))
    p = distribution.describe()[0].detach()
    assert_near(found["head.linear"], (p * (1 - p)).diag())


def test_the_fisher_matrix_of_a_gaussian_head():
    found, distribution = statistics(make(spaces.Box(-1, 1, (2,))))
    variance = distribution.describe()["std"][0].detach().square()
    assert_near(found["head.mean"], (1 / variance).diag())
    assert_near(found["head.log_std"], 2.0 * torch.eye(2))


@pytest.mark.parametrize(("coef", "expected"), [(1.0, 4.0), (0.5, 1.0)])
def test_the_fisher_matrix_of_the_value(coef, expected):
    found, _ = statistics(make(spaces.Discrete(2), kfac_vf_fisher_coef=coef))
    assert_near(found["base.value"], torch.tensor([[expected]]))


def test_the_fisher_matrices_of_auxiliary_heads_weigh_as_their_losses():
    targets = spaces.Dict({"place": spaces.Box(-1, 1, (2,)), "room": spaces.Discrete(3)})
    agent = make(
        spaces.Discrete(2),
        {AUXILIARY: targets},
        nn_base="FlexBase",
        nn_base_kwargs={"num_shared_layers": 1, "auxiliary_heads": [(1, -1, "place", 2.0), (1, -1, "room")]},
        auxiliary_loss_coef=0.25,
    )
    found, _ = statistics(agent)
    assert_near(found["auxiliary.linears.0"], 0.5 * torch.eye(2))
    observed = agent.policy(torch.tensor([[0.3, -0.8, 0.5]]), torch.zeros(0), torch.ones(1), {})
    p = agent.policy.auxiliary(observed.layers)[agent.policy.auxiliary.heads[1].label].softmax(-1)[0].detach()
    assert_near(found["auxiliary.linears.1"], 0.25 * (p.diag() - torch.outer(p, p)))


def collected(name, env_id="CartPole-v1", **config):
    """An algorithm with one rollout in its storage."""
    seed_everything(1)
    envs = make_vec_envs(EnvConfig(env_id), 4, seed=1)
    agent = algo.make(name, algo.ALGORITHMS[name].Config(**config), envs.spaces)
    storage = agent.make_storage(16, 4)
    agent.make_collector(envs, storage).collect()
    return agent, storage


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
def test_losses_and_gradients_are_a2cs(env_id):
    gradients, metrics = [], []
    for name in ("a2c", "acktr"):
        agent, storage = collected(name, env_id, max_grad_norm=math.inf)
        metrics.append(agent.update(storage))
        gradients.append(agent.parameters.grad.clone())
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-5, rtol=1e-4)
    for tag in ("value_loss", "policy_loss", "entropy", "grad_norm"):
        assert metrics[1][f"losses/{tag}"] == pytest.approx(metrics[0][f"losses/{tag}"], rel=1e-3), tag


def test_actor_and_critic_share_the_statistics_of_observations():
    agent, storage = collected("acktr")
    agent.update(storage)
    names = [layer.name for layer in agent.optimizer.layers]
    numbers = dict(zip(names, agent.optimizer.input_of, strict=True))
    assert numbers["base.actor.0"] == numbers["base.critic.0"]
    assert len(set(numbers.values())) == len(names) - 1
    batch = storage.obs[:-1].reshape(-1, 4)
    rows = torch.cat([batch, torch.ones(len(batch), 1)], 1)
    torch.testing.assert_close(agent.optimizer.inputs[numbers["base.actor.0"]].moment, rows.T @ rows / len(rows))


def test_a_bound_of_the_gradient_is_honoured():
    free, storage = collected("acktr", kfac_clip=1e9)
    before = free.parameters.detach().clone()
    norm = float(free.update(storage)["losses/grad_norm"])
    bounded, storage = collected("acktr", kfac_clip=1e9, max_grad_norm=norm / 4)
    bounded.update(storage)
    torch.testing.assert_close(4 * (bounded.parameters - before), free.parameters - before, atol=1e-5, rtol=1e-3)


def test_frozen_parameters_stay_even_within_a_layer():
    agent, storage = collected("acktr")
    agent.policy.freeze({"base.actor.0.bias", "base.value.weight"})
    before = {name: p.detach().clone() for name, p in agent.policy.named_parameters()}
    agent.update(storage)
    same = {name for name, p in agent.policy.named_parameters() if torch.equal(p, before[name])}
    assert same == {"base.actor.0.bias", "base.value.weight"}


NETWORKS = [
    "--env-name CartPole-v1",
    "--env-name Pendulum-v1 --nn-base FlexBase --nn-base-kwargs num_shared_layers=1 num_layers=3",
    "--env-name CartPole-v1 --nn-base FlexBase --nn-base-kwargs num_shared_layers=-1 --remove-actor-grads-on-shared",
    "--env-name MinAtar/Breakout-v1 --num-processes 8 --num-steps 40 --kfac-inverse cholesky",
    "--env-name MinAtar/Breakout-v1 --num-processes 8 --num-steps 40 --kfac-fast-cnn",
    "--env-name Navigation-v0 --nn-base FlexBase --nn-base-kwargs num_shared_layers=1 "
    "auxiliary_heads=[(1,-1,'position')]",
    "--env-name CartPole-v1 --time-feature --kfac-stat-interval 2 --kfac-inverse-interval 3 --kfac-weight-decay 1e-4",
]


@pytest.mark.parametrize("line", NETWORKS)
def test_every_network_trains_and_resumes(line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main.main([*f"--algo acktr --num-env-steps 320 --log-dir run --log-interval 1 {line}".split()]) == 0
    assert main.main("--resume run --num-env-steps 640".split()) == 0
    assert "predicted_kl" in capsys.readouterr().out
    state = checkpoint.load(tmp_path / "run" / "checkpoints" / "latest.pt")["algorithm"]
    assert state["optimizer"]["failures"] == 0
    assert all(torch.isfinite(tensor).all() for tensor in state["policy"].values())


OWN = """
from torch import nn
from a2c_ppo_acktr.model.bases import BaseOutput

class Normed(nn.Module):
    output_size, carry_size = 4, 0

    def __init__(self, space, recurrent=False):
        super().__init__()
        self.norm, self.value = nn.LayerNorm(4), nn.Linear(4, 1)

    def forward(self, obs, carry, masks):
        x = self.norm(obs)
        return BaseOutput(self.value(x).squeeze(-1), x, carry)

class Tied(Normed):
    def __init__(self, space, recurrent=False):
        super().__init__(space)
        self.norm = nn.Linear(4, 4)

    def forward(self, obs, carry, masks):
        return super().forward(self.norm(obs), carry, masks)
"""


@pytest.mark.parametrize(
    ("network", "message"), [("Normed", "base.norm is a LayerNorm"), ("Tied", "base.norm is called more than once")]
)
def test_what_has_no_factors_is_refused_before_training(network, message, tmp_path, monkeypatch, capsys):
    (tmp_path / "own_network_of_acktr.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    assert main.main(f"--algo acktr --env-name CartPole-v1 --nn-base own_network_of_acktr:{network}".split()) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_the_time_feature_is_the_share_of_the_limit_that_has_passed():
    envs = make_vec_envs(EnvConfig("CartPole-v1", normalize_env=False, time_feature=True), 2, seed=0)
    assert envs.observation_space.shape == (5,)
    obs = envs.reset()
    assert obs[:, 4].tolist() == [0.0, 0.0]
    for t in range(1, 4):
        obs = envs.step_arrays(np.zeros(2, np.int64)).obs
        np.testing.assert_allclose(obs[:, 4], t / 500)
