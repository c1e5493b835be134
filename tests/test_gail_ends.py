"""What an end is worth to GAIL: of an episode that died, of one that a time limit cut, of one that nobody knows of."""

import numpy as np
import pytest
import torch

from a2c_ppo_acktr import arguments, experts
from a2c_ppo_acktr.algo.gail import WARM_UP_EPOCHS
from a2c_ppo_acktr.envs import EnvConfig, make_vec_envs
from a2c_ppo_acktr.experts.files import read
from tests.imitation import rollout, wrap

EXPERT = "gail_experts/trajs_cartpole.npz"


def cut_early(num_envs=4):
    """CartPoles that are cut after seven steps, too early to fall over."""
    config = EnvConfig("CartPole-v1", normalize_env=False, env_kwargs={"max_episode_steps": 7})
    return make_vec_envs(config, num_envs, seed=0)


def without_ends(path):
    """The expert's file as upstream would have written it."""
    trajectories, _ = read(EXPERT)
    most = max(len(one.rewards) for one in trajectories)

    def padded(arrays):
        rows = [np.concatenate([row, np.zeros((most - len(row), *row.shape[1:]))]) for row in arrays]
        return torch.from_numpy(np.stack(rows)).float()

    contents = {
        "states": padded([one.obs[: len(one.rewards)] for one in trajectories]),
        "actions": padded([one.actions[:, None] for one in trajectories]),
        "rewards": padded([one.rewards for one in trajectories]),
        "lengths": torch.tensor([len(one.rewards) for one in trajectories]),
    }
    torch.save(contents, path)
    return path


@pytest.mark.parametrize(
    ("absorbing", "proper", "bootstrapped"), [(True, False, True), (True, True, True), (False, False, False)]
)
def test_a_time_limit_is_worth_the_value_of_its_final_observation_where_an_end_is_worth_0(
    absorbing, proper, bootstrapped
):
    """FAIL means: the step that a limit cut returned its reward alone, as if the agent had died in it."""
    envs = cut_early()
    shown = experts.load(EXPERT, 2).check(envs.observation_space, envs.action_space)
    learner = {"use_proper_time_limits": proper, "gamma": 0.9}
    agent = wrap("a2c", envs, shown, learner=learner, gail_warm_up=0, gail_absorbing=absorbing)
    agent.mortal = True
    storage = rollout(agent, envs, 10)
    (t, ended), *_ = storage.ended
    env, before = int(ended.indices[0]), agent.learner.policy.get_value(ended.final_obs[:1], ended.carry[:1], None)
    assert (bool(storage.truncated[t, env]), bool(storage.terminated[t, env])) == (True, False)
    agent.update(storage)
    expected = storage.rewards[t, env] + (0.9 * before.item() if bootstrapped else 0.0)
    assert storage.returns[t, env].item() == pytest.approx(expected.item(), rel=1e-5)
    assert abs(before.item()) > 1e-3


def test_a_flag_for_time_limits_beside_absorbing_states_is_said_to_do_nothing(capsys):
    command = "--algo ppo --env-name CartPole-v1 --gail --use-proper-time-limits"
    arguments.parse(command.split())
    assert "--use-proper-time-limits has no effect with --gail-absorbing" in capsys.readouterr().err
    arguments.parse([*command.split(), "--no-gail-absorbing"])
    assert capsys.readouterr().err == ""


def test_an_expert_of_unknown_ends_makes_nobody_pay_for_dying(tmp_path):
    """FAIL means: the agent alone is shown in the absorbing state, so that the discriminator knows it by its deaths."""
    envs = make_vec_envs(EnvConfig("CartPole-v1", normalize_env=False), 4, seed=0)
    shown = experts.load(without_ends(tmp_path / "expert.pt"), 2)
    agent = wrap("a2c", envs, shown.check(envs.observation_space, envs.action_space), gail_warm_up=0)
    assert agent.remarks() == ["GAIL: no absorbing state, since the demonstrations do not tell how episodes ended"]
    storage = rollout(agent, envs, 60)
    assert storage.terminated.any()
    asked = []
    marks = agent.encode.absorbing
    agent.encode.absorbing = lambda *args: asked.append(args) or marks(*args)
    agent.update(storage)
    assert asked == []
    assert not agent.make_storage(5, 4).bootstraps_limits
    assert float(agent.expert_samples().vector[:, -1].sum()) == 0.0


def test_a_slow_warm_up_is_announced_until_it_is_over():
    envs = cut_early()
    shown = experts.load(EXPERT, 2).check(envs.observation_space, envs.action_space)
    agent = wrap("ppo", envs, shown, gail_warm_up=2, gail_epoch=3)
    (line,) = agent.remarks()
    assert f"up to update 2 the discriminator learns for {WARM_UP_EPOCHS} epochs instead of 3" in line
    agent.updates = 2
    assert agent.remarks() == []
