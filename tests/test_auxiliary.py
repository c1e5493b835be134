"""Auxiliary tasks: forms of heads, losses, targets from every source on every backend, and learning from them."""

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import main
from a2c_ppo_acktr import algo
from a2c_ppo_acktr.arrays import flatten_parameters, set_gradient
from a2c_ppo_acktr.envs import EnvConfig, make_vec_envs
from a2c_ppo_acktr.envs.vector import EnvironmentCrash
from a2c_ppo_acktr.interfaces import AUXILIARY
from a2c_ppo_acktr.model.auxiliary import Head, head_loss, parse_heads
from a2c_ppo_acktr.returns import log_steps_to_end
from a2c_ppo_acktr.seeding import seed_everything
from a2c_ppo_acktr.utils import UsageError
from tests.policies import build

TARGETS = {"time": spaces.Box(-np.inf, np.inf, (2,)), "hour": spaces.Discrete(4), "last": spaces.Box(-1, 1, (1,))}
CLOCK = "tests.probe_envs:Clock-v0"


@pytest.mark.parametrize(
    ("form", "head"),
    [
        ((-1, 0, 0, 2), Head(-1, 0, False, 2, "time")),
        ((-1, 0, 2), Head(-1, 0, False, 2, "time")),
        ([2, 1, 0, 2, "time", 0.5], Head(2, 1, False, 2, "time", 0.5)),
        ((1, -1, 1, 4, "hour"), Head(1, -1, True, 4, "hour")),
        ((1, -1, spaces.Discrete(4), "hour"), Head(1, -1, True, 4, "hour")),
        ((1, -1, spaces.Box(-1, 1, (2,))), Head(1, -1, False, 2, "time")),
        ((1, -1, "hour"), Head(1, -1, True, 4, "hour")),
        ((1, -1, "next:hour", 3), Head(1, -1, True, 4, "next:hour", 3.0)),
        ((1, 0, 1, 6, "last"), Head(1, 0, True, 6, "last")),
    ],
)
def test_every_form_of_a_head(form, head):
    assert parse_heads([form], TARGETS) == [head]


def test_unnamed_heads_take_the_targets_in_order_and_may_describe_what_follows():
    heads = parse_heads([(-1, 0, 0, 2), (-1, 1, "last"), (-1, 1, 1, 4)], TARGETS, after_action=True)
    assert [head.target for head in heads] == ["next:time", "last", "next:hour"]


@pytest.mark.parametrize(
    ("forms", "message"),
    [
        ([(1, 0)], "expected \\(depth"),
        ([5], "expected \\(depth"),
        ([(0, 0, 0, 2)], "depth is -1"),
        ([(1, 2, 0, 2)], "side is -1, 0 or 1"),
        ([(1, 0, 2, 2)], "type is 0"),
        ([(1, 0, 0, 3)], "regression of size 2"),
        ([(1, 0, 0, 4, "hour")], "classification of size 4"),
        ([(1, 0, "day")], "choose from time, hour, last"),
        ([(1, 0, 0, 2)] * 4, "only 3 targets|regression|classification"),
        ([(1, 0, "time"), (1, 0, "time")], "same layer"),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(forms, message):
    with pytest.raises(UsageError, match=message):
        parse_heads(forms, TARGETS)


def test_regression_loss_by_hand_with_an_unknown_sample():
    prediction = torch.tensor([[1.0, 2.0], [3.0, -1.0], [9.0, 9.0]])
    target = torch.tensor([[0.0, 2.0], [3.0, 1.0], [math.nan, math.nan]])
    loss = head_loss(Head(1, 0, False, 2, "time"), prediction, target)
    assert loss.item() == pytest.approx(0.5 * (1 + 0 + 0 + 4) / 4)


@pytest.mark.parametrize("lead", [(6,), (3, 2)])
def test_classification_loss_is_cross_entropy_on_logits_with_an_unknown_sample(lead):
    logits, labels = torch.randn(*lead, 4, requires_grad=True), torch.tensor([0, 3, -1, 2, 1, 1]).reshape(lead)
    head = Head(1, 0, True, 4, "hour")
    expected = torch.nn.functional.cross_entropy(logits.reshape(6, 4), labels.flatten(), ignore_index=-1)
    torch.testing.assert_close(head_loss(head, logits, labels), expected)
    torch.testing.assert_close(head_loss(head, logits, labels.unsqueeze(-1).float()), expected)
    unknown = head_loss(head, logits, torch.full(lead, -1))
    assert unknown.item() == 0.0
    assert not torch.autograd.grad(unknown, logits)[0].any()


def test_steps_to_the_end_are_known_once_it_has_come():
    ended = torch.tensor([[0, 1], [0, 0], [1, 0], [0, 1], [0, 0]], dtype=torch.bool)
    steps = [[2, 0], [1, 2], [0, 1], [None, 0], [None, None]]
    expected = torch.tensor([[math.nan if s is None else math.log(1 + s) for s in row] for row in steps])
    torch.testing.assert_close(log_steps_to_end(ended), expected, equal_nan=True)


def rollout(vec_env, heads, wrapper=None, sizes=None, env_id=CLOCK, steps=40):
    """A rollout of three environments in a storage."""
    seed_everything(0)
    offered = {"aux_wrapper_kwargs": wrapper or {}, "auxiliary_truth_sizes": sizes}
    envs = make_vec_envs(EnvConfig(env_id, vec_env=vec_env, normalize_env=False, **offered), 3, seed=5)
    config = algo.ALGORITHMS["a2c"].Config(nn_base_kwargs={"auxiliary_heads": heads})
    algorithm = algo.make("a2c", config, envs.spaces)
    storage = algorithm.make_storage(steps, 3)
    algorithm.make_collector(envs, storage).collect()
    storage.compute_returns(algorithm.policy.get_value, kind="n-step", gamma=0.99, use_proper_time_limits=True)
    envs.close()
    return storage


@pytest.mark.parametrize("vec_env", ["dummy", "subproc"])
def test_targets_of_the_environment_belong_to_the_observation_and_next_ones_to_the_one_after_the_action(vec_env):
    storage = rollout(vec_env, [(1, 0, "time"), (1, 1, "hour"), (1, 1, "next:time"), (1, 0, "next:hour")])
    t = storage.obs[:-1, :, 0]
    assert (storage.terminated | storage.truncated).sum() > 10  # so that the successor is often a final observation
    torch.testing.assert_close(storage.targets["time"], torch.stack([t, -t], -1))
    torch.testing.assert_close(storage.targets["next:time"], torch.stack([t + 1, -t - 1], -1))
    assert torch.equal(storage.targets["hour"], t.long() % 4)
    assert torch.equal(storage.targets["next:hour"], (t.long() + 1) % 4)


@pytest.mark.parametrize("vec_env", ["dummy", "subproc"])
def test_targets_of_the_wrapper(vec_env):
    wrapper = {"previous_action": True, "previous_reward": True, "observation": [2, 0], "time_to_end": True}
    names = ["previous_action", "previous_reward", "observation", "time_to_end", "next:previous_action"]
    storage = rollout(vec_env, [(1, 0, name) for name in [*names, "next:previous_reward"]], wrapper)
    targets, first = storage.targets, storage.masks[:-1] == 0.0
    assert first.sum() > 10
    before = torch.cat([torch.full((1, 3), -1), storage.actions[:-1]])
    assert torch.equal(targets["previous_action"], before.masked_fill(first, -1))
    assert torch.equal(targets["next:previous_action"], storage.actions)
    torch.testing.assert_close(targets["next:previous_reward"][..., 0], storage.rewards)
    rewards = torch.cat([torch.zeros(1, 3), storage.rewards[:-1]]).masked_fill(first, math.nan)
    torch.testing.assert_close(targets["previous_reward"][..., 0], rewards, equal_nan=True)
    torch.testing.assert_close(targets["observation"], storage.obs[:-1][..., [2, 0]])
    expected = log_steps_to_end(storage.terminated | storage.truncated)
    torch.testing.assert_close(targets["time_to_end"][..., 0], expected, equal_nan=True)


def test_a_flat_undeclared_array_is_cut_into_targets():
    heads = [(1, 0, "auxiliary_0"), (1, 0, 1, 4, "auxiliary_1"), (1, 1, "next:auxiliary_0")]
    storage = rollout("dummy", heads, sizes=[2, 1], env_id="tests.probe_envs:FlatClock-v0")
    t, first = storage.obs[:-1, :, 0], storage.masks[:-1] == 0.0
    pair = torch.stack([t, -t], -1)
    torch.testing.assert_close(storage.targets["next:auxiliary_0"], pair + torch.tensor([1.0, -1.0]))
    pair[first] = math.nan  # its resets do not say
    torch.testing.assert_close(storage.targets["auxiliary_0"], pair, equal_nan=True)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"aux_wrapper_kwargs": {"weather": True}}, "weather"),
        ({"aux_wrapper_kwargs": {"observation": [3]}}, "entries are 0 to 2"),
        ({"auxiliary_truth_sizes": [2, 1]}, "flat array"),
    ],
)
def test_targets_that_there_are_none_of(kwargs, message):
    with pytest.raises(UsageError, match=message):
        make_vec_envs(EnvConfig(CLOCK, normalize_env=False, **kwargs), 1, seed=0)


def test_a_declared_signal_that_is_missing_is_named():
    with pytest.raises(EnvironmentCrash, match="'auxiliary' but its info lacks it"):
        envs = make_vec_envs(EnvConfig("tests.probe_envs:SilentClock-v0", normalize_env=False), 1, seed=0)
        envs.reset()


@pytest.mark.parametrize("recurrent", [False, True])
def test_the_auxiliary_loss_adds_its_own_gradient(recurrent):
    seed_everything(0)
    heads = [(-1, 0, "time"), (-1, -1, "hour", 2.0)]
    space, targets = spaces.Box(-1, 1, (5,), np.float32), spaces.Dict(list(TARGETS.items()))
    policy = build(
        space, spaces.Discrete(3), targets=targets, recurrent=recurrent, base="FlexBase", num_shared_layers=1, aux=heads
    )
    lead = (4, 6) if recurrent else (24,)
    obs, actions, masks = torch.randn(*lead, 5), torch.randint(0, 3, lead), torch.ones(lead)
    truths = {"time": torch.randn(*lead, 2), "hour": torch.randint(0, 4, lead)}
    carry = torch.zeros(6, policy.carry_size)
    flat = flatten_parameters(policy)

    def gradient(coef):
        new = policy.evaluate_actions(obs, carry, masks, {}, actions)
        loss, metrics = policy.auxiliary.losses(new.predictions, truths, coef)
        own = (new.value + new.log_prob + new.entropy).sum()
        set_gradient(flat, own + loss)
        return flat.grad.clone(), metrics

    (without, _), (both, metrics) = gradient(0.0), gradient(0.3)
    output = policy(obs, carry, masks, {})
    predictions = policy.auxiliary(output.layers)
    time, hour = predictions["time_actor_last"], predictions["hour_shared_last"]
    mse = 0.5 * (time - truths["time"]).square().mean()
    entropy = torch.nn.functional.cross_entropy(hour.reshape(-1, 4), truths["hour"].reshape(-1))
    expected = torch.autograd.grad(0.3 * (mse + 2.0 * entropy), policy.parameters(), allow_unused=True)
    parts = [
        torch.zeros(p.numel()) if g is None else g.flatten() for p, g in zip(policy.parameters(), expected, strict=True)
    ]
    torch.testing.assert_close(both - without, torch.cat(parts), atol=1e-5, rtol=1e-4)
    assert metrics["losses/auxiliary/time_actor_last"].item() == pytest.approx(mse.item(), rel=1e-5)
    assert metrics["losses/auxiliary_loss"].item() == pytest.approx((mse + 2 * entropy).item(), rel=1e-5)


def final_losses(folder):
    """The last value of every scalar."""
    events = EventAccumulator(str(folder)).Reload()
    return {tag: events.Scalars(tag)[-1].value for tag in events.Tags()["scalars"]}


@pytest.mark.parametrize("algorithm", ["a2c", "ppo --num-mini-batch 2"])
@pytest.mark.parametrize(
    "network", ["", "--recurrent-policy", "--recurrent-policy --nn-base FlexBase --nn-base-kwargs"]
)
def test_heads_learn_from_the_command_line(tmp_path, algorithm, network):
    heads = "auxiliary_heads=[(-1,0,'hour'),(-1,1,'next:time',2)]"
    flex = "num_layers=1 num_shared_layers=1" if "FlexBase" in network else ""
    kwargs = f"{network or ''} {'' if 'kwargs' in network else '--nn-base-kwargs'} {flex} {heads}"
    command = (
        f"--algo {algorithm} --env-name {CLOCK} --no-normalize-env --num-env-steps 24000 --num-processes 8 "
        f"--num-steps 20 --lr 3e-3 --log-dir {tmp_path / 'run'} --auxiliary-loss-coef 1 {kwargs}"
    )
    assert main.main(command.split()) == 0
    found = final_losses(tmp_path / "run")
    assert found["losses/auxiliary/hour_actor_last"] < 0.5 * math.log(4)
    assert found["losses/auxiliary/next_time_critic_last"] < 1.0  # 0.5 * variance of t is 2 to begin with
    total = found["losses/auxiliary/hour_actor_last"] + 2 * found["losses/auxiliary/next_time_critic_last"]
    assert found["losses/auxiliary_loss"] == pytest.approx(total, rel=1e-4)


def test_heads_without_targets_say_what_to_do(capsys, tmp_path):
    command = f"--env-name CartPole-v1 --log-dir {tmp_path / 'run'} --nn-base-kwargs auxiliary_heads=[(-1,0,0,2)]"
    assert main.main(command.split()) == 2
    assert "--aux-wrapper-kwargs" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_targets_are_kept_only_where_a_head_learns_from_them():
    assert list(rollout("dummy", [(1, 0, "hour")]).targets) == ["hour"]
    assert AUXILIARY not in rollout("dummy", []).signals
