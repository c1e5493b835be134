"""Analyses: planted codes are found, episodes are held out, maps and tables by hand, gradients against autograd."""

import shlex

import numpy as np
import pytest
import torch

import main
from a2c_ppo_acktr import algo, arguments
from a2c_ppo_acktr.envs import EnvConfig, make_vec_envs
from a2c_ppo_acktr.returns import normalize
from a2c_ppo_acktr.seeding import seed_everything
from a2c_ppo_acktr.utils import UsageError
from evaluate import evaluate
from write_and_test import analysis, runs

RUN = (
    "--algo {algo} --env-name Navigation-v0 --recurrent-policy --use-gae --num-processes 4 --num-steps 32 "
    "--num-env-steps 512 --env-kwargs max_steps=20 --no-normalize-env --log-interval 1 --save-dir= --torch-threads 1 "
    "--nn-base FlexBase --nn-base-kwargs num_layers=2 num_shared_layers=1 "
    "\"auxiliary_heads=[(1,-1,'position'),(2,0,'facing_wall')]\""
)


def recording(episodes=40, length=30, units=12, noise=0.05, seed=0):
    """Hidden states that hold a random walk's position linearly, and its quadrant."""
    rng = np.random.default_rng(seed)
    code = rng.normal(size=(2, units))
    positions = [np.cumsum(rng.normal(0, 0.15, (length, 2)), 0).astype(np.float32) for _ in range(episodes)]
    hidden = [p @ code + rng.normal(0, noise, (length, units)) for p in positions]
    quadrants = [(p[:, 0] > 0) * 2 + (p[:, 1] > 0) for p in positions]
    truths = [{"position": p, "quadrant": q} for p, q in zip(positions, quadrants, strict=True)]
    return {
        "lengths": np.full(episodes, length),
        "rnn_hxs": hidden,
        "obs": [np.zeros((length + 1, 3)) for _ in positions],
        "auxiliary_truths": truths,
    }


def test_rows_of_all_episodes_leave_the_final_observation_out():
    result = recording(episodes=3, length=5)
    assert analysis.rows(result, "obs").shape == (15, 3)
    assert analysis.rows(result, "auxiliary_truths/position").shape == (15, 2)
    assert analysis.episode_of_rows(result).tolist() == [0] * 5 + [1] * 5 + [2] * 5
    assert analysis.step_of_rows(result).tolist() == list(range(5)) * 3
    with pytest.raises(UsageError, match="position, quadrant"):
        analysis.rows(result, "auxiliary_truths/speed")
    with pytest.raises(UsageError, match="which has lengths, rnn_hxs"):
        analysis.rows(result, "values")


def test_probes_find_planted_codes():
    result = recording()
    position = analysis.probe(result, "rnn_hxs", "auxiliary_truths/position")
    assert position.score > 0.99
    assert position.scores.shape == (2,)
    quadrant = analysis.probe(result, "rnn_hxs", "auxiliary_truths/quadrant")
    assert quadrant.score > 0.9 > quadrant.baseline + 0.2


def test_probes_hold_whole_episodes_out():
    """States that name the episode and nothing else, and a target that is constant in it, teach nothing of others."""
    rng = np.random.default_rng(1)
    result = recording()
    names = rng.normal(size=(40, 60))
    result["rnn_hxs"] = [np.tile(name, (30, 1)) + rng.normal(0, 0.01, (30, 60)) for name in names]
    constant = np.repeat(rng.normal(size=40), 30)[:, None]
    assert analysis.probe(result, "rnn_hxs", constant).score < 0.2
    shuffled = dict(result)
    one_by_one = np.concatenate(result["rnn_hxs"])[:, None]
    shuffled |= {"rnn_hxs": list(one_by_one), "lengths": np.ones(1200, int)}
    assert analysis.probe(shuffled, "rnn_hxs", constant).score > 0.9  # what leaking episodes would give


def test_unknown_targets_and_early_steps_are_left_out():
    result = recording(noise=0.0)
    for episode in result["auxiliary_truths"]:
        episode["position"][:3] = np.nan
        episode["quadrant"][:3] = -1
    found = analysis.probe(result, "rnn_hxs", "auxiliary_truths/position", first_step=10)
    assert len(found.truths) == 12 * 20
    assert found.score > 0.99
    assert set(analysis.probe(result, "rnn_hxs", "auxiliary_truths/quadrant").truths) <= {0, 1, 2, 3}
    with pytest.raises(UsageError, match="two episodes"):
        analysis.probe(result, "rnn_hxs", np.full((1200, 1), np.nan))


def test_principal_components_are_those_of_the_covariance():
    result = recording(noise=0.3)
    found = analysis.pca(result, components=4)
    centred = np.concatenate(result["rnn_hxs"])
    centred = centred - centred.mean(0)
    variances = np.linalg.svd(centred, compute_uv=False) ** 2
    np.testing.assert_allclose(found.explained, variances[:4] / variances.sum(), rtol=1e-6)
    np.testing.assert_allclose(found.coordinates.var(0) * len(centred), variances[:4], rtol=1e-6)


def test_an_activation_map_by_hand():
    positions = np.array([[-0.5, -0.5]] * 3 + [[0.5, -0.5]] * 4 + [[0.5, 0.5]] * 2, np.float32)
    activity = np.array([1, 2, 3, 4, 4, 4, 8, 9, 9], np.float32)[:, None]
    result = {"lengths": np.array([9]), "rnn_hxs": [activity], "auxiliary_truths": [{"position": positions}]}
    found = analysis.activation_map(result, "rnn_hxs", 0, bins=2)
    assert found[0].tolist() == [2.0, 5.0]  # y below 0: west, east
    assert found.mask[1].all()  # too few visits
    share = analysis.spatial_information(result, "rnn_hxs", bins=2)
    between, within = 3 * (2 - 26 / 7) ** 2 + 4 * (5 - 26 / 7) ** 2, 2 + 12
    assert share[0] == pytest.approx(between / (between + within))


def test_the_share_that_places_explain_is_between_none_and_all():
    result = recording(noise=3.0)
    constant = np.full((len(result["rnn_hxs"]), len(result["rnn_hxs"][0]), 1), 0.1, np.float32)
    result["rnn_hxs"] = [np.concatenate([h, c], 1) for h, c in zip(result["rnn_hxs"], constant, strict=True)]
    for bins in (2, 5, 40):
        share = analysis.spatial_information(result, "rnn_hxs", bins=bins)
        assert ((share >= 0) & (share <= 1)).all()
        assert share[-1] == 0
    result = recording(noise=3.0)
    share = analysis.spatial_information(result, "rnn_hxs", bins=5)
    result["rnn_hxs"] = [h * 1e-9 for h in result["rnn_hxs"]]
    assert analysis.spatial_information(result, "rnn_hxs", bins=5) == pytest.approx(share)
    result["rnn_hxs"] = [np.sign(truth["position"]) for truth in result["auxiliary_truths"]]
    assert analysis.spatial_information(result, "rnn_hxs", bins=2) == pytest.approx([1, 1])


@pytest.mark.parametrize(
    ("target", "message"),
    [(np.ones((1200, 2), np.int64), "classes in 2 columns"), (np.ones(1200, np.int64), "one class only")],
)
def test_classes_that_no_probe_can_tell_apart_are_refused(target, message):
    with pytest.raises(UsageError, match=message) as raised:
        analysis.probe(recording(), "rnn_hxs", target)
    assert len(str(raised.value).splitlines()) == 1


@pytest.fixture(scope="module", params=["a2c", "ppo --num-mini-batch 2"])
def trained(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "one"
    assert main.main([*shlex.split(RUN.format(algo=request.param)), "--log-dir", str(folder)]) == 0
    return folder


def test_cosines_are_those_of_autograd_and_nothing_is_trained(trained):
    agent, envs = runs.load(trained, num_envs=3)
    before = [parameter.clone() for parameter in agent.policy.parameters()]
    torch.manual_seed(3)
    table = analysis.gradient_cosines(agent, envs, num_steps=16)
    assert all(torch.equal(a, b) for a, b in zip(before, agent.policy.parameters(), strict=True))
    groups = set(zip(table["head"], table["group"], strict=True))
    assert groups == {
        ("position_shared_1", "base.gru"),
        ("facing_wall_actor_2", "base.gru"),
        ("facing_wall_actor_2", "base.shared"),
    }

    agent, envs = runs.load(trained, num_envs=3)
    torch.manual_seed(3)
    storage = agent.make_storage(16, 3)
    agent.make_collector(envs, storage).collect()
    batch = storage.whole(recurrent=True)
    output = agent.policy(batch.obs, batch.carry, batch.masks, batch.signals)
    loss = (
        0.5 * (agent.policy.auxiliary(output.layers)["position_shared_1"] - batch.targets["position"]).square().mean()
    )
    names = [name for name, _ in agent.policy.named_parameters() if name.startswith("base.gru")]
    auxiliary = torch.autograd.grad(loss, [agent.policy.get_parameter(name) for name in names])
    new = agent.policy.evaluate_actions(batch.obs, batch.carry, batch.masks, batch.signals, batch.actions)
    config = agent.config
    storage.compute_returns(agent.policy.get_value, kind="gae", gamma=config.gamma, use_proper_time_limits=False)
    if not getattr(config, "norm_adv_per_minibatch", True):
        storage.advantages = normalize(storage.advantages)
    own_loss, _ = agent.loss(new, storage.whole(recurrent=True))
    own = torch.autograd.grad(own_loss, [agent.policy.get_parameter(name) for name in names])
    own = torch.cat([gradient.flatten() for gradient in own])
    expected = torch.nn.functional.cosine_similarity(own, torch.cat([g.flatten() for g in auxiliary]), dim=0)
    row = table[(table["head"] == "position_shared_1") & (table["group"] == "base.gru")]
    assert row["cosine"].item() == pytest.approx(expected.item(), abs=1e-4)


def test_a_replay_by_the_same_agent_is_the_recording_and_by_another_is_not(trained):
    agent, envs = runs.load(trained, num_envs=2)
    result = evaluate(agent, envs, 5, explore=True, with_activations=True)
    same = analysis.replay(agent, result)
    for name in ("rnn_hxs", "values", "action_log_probs"):
        for a, b in zip(result[name], same[name], strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)
    stranger, _ = runs.load(trained, trained=False)
    other = analysis.replay(stranger, result)
    assert not np.allclose(other["rnn_hxs"][0], result["rnn_hxs"][0], atol=0.05)
    assert other["obs"] is result["obs"]


REPLAYED = {
    "previous action and reward in the carry": "--algo r2d1 --env-name CartPole-v1 --core-size 8 --hidden-size 8 8",
    "masks": "--algo ppo --env-name tests.probe_envs:MaskedActions-v0 --num-mini-batch 1",
    "neither": "--algo dqn --env-name CartPole-v1 --hidden-size 8",
}


@pytest.mark.parametrize("flags", REPLAYED.values(), ids=REPLAYED)
def test_a_replay_has_whatever_the_agent_read(flags):
    """FAIL means: a second stepping loop lacks a step of the first."""
    args = arguments.parse([*flags.split(), "--no-cuda", "--no-normalize-env"])
    seed_everything(1)
    envs = make_vec_envs(args.env, 2, 1, training=False)
    agent = algo.make(args.algo, args.config, envs.spaces)
    result = evaluate(agent, envs, 4, explore=True, with_activations=True)
    same = analysis.replay(agent, result)
    names = {"rnn_hxs", "values", "action_probs", "q_values"} & result.keys()
    assert len(names) >= 3
    for name in names - ({"action_probs"} if args.algo != "ppo" else set()):  # of an epsilon, which no replay draws by
        for a, b in zip(result[name], same[name], strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)


def test_a_replay_without_the_masks_that_it_needs_is_refused():
    envs = make_vec_envs(EnvConfig("tests.probe_envs:MaskedActions-v0", normalize_env=False), 2, 1)
    agent = algo.make("ppo", algo.ALGORITHMS["ppo"].Config(), envs.spaces)
    result = evaluate(agent, envs, 2, with_activations=True)
    del result["signals"]
    with pytest.raises(UsageError, match="signals: this recording has no action_mask"):
        analysis.replay(agent, result)


def test_runs_are_found_listed_and_read(trained):
    root = trained.parent
    assert runs.find(root) == runs.find(trained) == runs.find(str(root / "o*")) == [trained]
    with pytest.raises(UsageError, match="no run there"):
        runs.find(root / "nothing")
    latest = trained / "checkpoints" / "latest.pt"
    assert runs.checkpoint_of(root / "o*") == runs.checkpoint_of(trained) == runs.checkpoint_of(latest) == latest
    with pytest.raises(UsageError, match="no checkpoint 7; there are"):
        runs.checkpoint_of(trained, "7")
    table = runs.table(root)
    assert table["steps"].tolist() == [512]
    assert table["finished"].tolist() == [True]
    frame = runs.episodes(trained)
    assert (frame["step"] == frame["length"].cumsum()).all()
    scalars = runs.scalars(trained)
    assert "losses/auxiliary/position_shared_1" in set(scalars["tag"])
    curves = runs.curves([trained], "losses/entropy", by=["seed", "nn_base_kwargs.num_layers"], points=7)
    assert len(curves) == 7
    assert set(curves["group"]) == {"seed=1, nn_base_kwargs.num_layers=2"}
    with pytest.raises(UsageError, match="it has charts"):
        runs.scalars(trained, ["losses/nothing"])
