"""The discriminator's loss, penalty and gradients from their definitions, and what it is shown of a step."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch.nn.functional import binary_cross_entropy_with_logits

from a2c_ppo_acktr.algo.gail import GAIL, GAILConfig
from a2c_ppo_acktr.arrays import flatten_parameters
from a2c_ppo_acktr.fast import gail as fast_gail
from a2c_ppo_acktr.interfaces import EnvSpaces
from a2c_ppo_acktr.model.discriminator import INPUTS, Discriminator, Samples, StepEncoder
from a2c_ppo_acktr.utils import init_orthogonal

IMAGE = spaces.Box(0, 255, (2, 6, 6), np.uint8)
GRID = spaces.Box(0, 1, (3, 5, 5), np.bool_)


class Learner(GAIL):
    """GAIL's loss of a discriminator, without anybody who acts."""

    def __init__(self, discriminator, weight=10.0):
        self.discriminator, self.config = discriminator, GAILConfig(gail_penalty=weight)
        self.device, self.parameters = torch.device("cpu"), flatten_parameters(discriminator)


def both(learner):
    """What sets the gradient: by autograd of the definition, and as it is written out where it is."""
    return learner.gradient, fast_gail.gradient(learner) or learner.gradient


def make(vector_size=3, images=(), scale=1.0):
    torch.manual_seed(0)
    discriminator = Discriminator(vector_size, list(images), hidden_size=7)
    with torch.no_grad():
        for parameter in discriminator.parameters():
            parameter *= scale
    return discriminator, Learner(discriminator)


def batch(seed, size=5, vector_size=3, images=()):
    generator = torch.Generator().manual_seed(seed)
    pictures = [
        torch.randint(0, int(space.high.max()) + 1, (size, *space.shape), generator=generator) for space in images
    ]
    stored = [p.to(torch.bool if s.dtype == np.bool_ else torch.uint8) for p, s in zip(pictures, images, strict=True)]
    return Samples(torch.randn(size, vector_size, generator=generator) + seed, tuple(stored))


def definition(discriminator, expert, policy, mixture, weight):
    """Loss and penalty as the papers write them, one sample after the other."""
    expert_logits = torch.cat([discriminator(expert.rows(torch.tensor([i]))) for i in range(expert.num)])
    policy_logits = torch.cat([discriminator(policy.rows(torch.tensor([i]))) for i in range(policy.num)])
    loss = binary_cross_entropy_with_logits(expert_logits, torch.ones_like(expert_logits))
    loss = loss + binary_cross_entropy_with_logits(policy_logits, torch.zeros_like(policy_logits))
    penalties = []
    for i, share in enumerate(mixture):
        leaves = []
        for ours, theirs in zip((expert.vector, *expert.images), (policy.vector, *policy.images), strict=True):
            whole = 255.0 if ours.dtype == torch.uint8 else 1.0
            mixed = share * ours[i].float() / whole + (1 - share) * theirs[i].float() / whole
            leaves.append(mixed.unsqueeze(0).requires_grad_())
        logit = discriminator(Samples(leaves[0], tuple(leaves[1:])))
        slopes = torch.autograd.grad(logit.sum(), leaves, create_graph=True)
        penalties.append((torch.cat([slope.flatten() for slope in slopes]).norm() - 1) ** 2)
    penalty = torch.stack(penalties).mean()
    gradients = torch.autograd.grad(loss + weight * penalty, list(discriminator.parameters()))
    return loss, penalty, gradients, expert_logits, policy_logits


@pytest.mark.parametrize("images", [(), (IMAGE,), (IMAGE, GRID)], ids=["vector", "image", "two images"])
@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_loss_penalty_and_gradient_are_those_of_the_definition(images, scale):
    discriminator, learner = make(images=images, scale=scale)
    expert, policy = batch(0, images=images), batch(1, images=images)
    mixture = torch.rand(5)
    loss, penalty, gradients, *logits = definition(discriminator, expert, policy, mixture, 10.0)
    for samples, theirs in zip((expert, policy), logits, strict=True):
        assert torch.allclose(discriminator(samples.as_floats()), theirs, rtol=1e-4, atol=1e-5)
    for set_gradient in both(learner):
        found = {tag.removeprefix("gail/"): float(x) for tag, x in set_gradient(expert, policy, mixture).items()}
        assert found["discriminator_loss"] == pytest.approx(loss.item(), rel=1e-5)
        assert found["gradient_penalty"] == pytest.approx(penalty.item(), rel=1e-5)
        assert found["expert_logit"] == pytest.approx(logits[0].mean().item(), rel=1e-4, abs=1e-5)
        assert found["policy_logit"] == pytest.approx(logits[1].mean().item(), rel=1e-4, abs=1e-5)
        assert found["accuracy"] == pytest.approx(((logits[0] > 0).sum() + (logits[1] < 0).sum()).item() / 10)
        largest = max(gradient.abs().max() for gradient in gradients)
        for parameter, gradient in zip(discriminator.parameters(), gradients, strict=True):
            assert (parameter.grad - gradient).abs().max() < 1e-5 * largest


def test_autograd_and_what_is_written_out_agree_and_gradients_do_not_add_up():
    _, learner = make(scale=3.0)
    expert, policy, mixture = batch(0, 64), batch(1, 64), torch.rand(64)
    by_autograd, written_out = both(learner)
    assert written_out != by_autograd
    expected = by_autograd(expert, policy, mixture)
    gradient = learner.parameters.grad.clone()
    for _ in range(2):
        found = written_out(expert, policy, mixture)
        assert (learner.parameters.grad - gradient).abs().max() < 1e-5 * gradient.abs().max()
    assert {tag: float(x) for tag, x in found.items()} == pytest.approx(
        {tag: float(x) for tag, x in expected.items()}, rel=1e-4, abs=1e-6
    )


def test_a_linear_discriminator_by_hand():
    """Layers that do nothing but pass x on: D = w x, |dD/dx| = w, so the penalty is (w - 1)^2."""
    discriminator, learner = make(vector_size=1)
    small, w = 1e-3, 3.0
    with torch.no_grad():
        for parameter in discriminator.parameters():
            parameter.zero_()
        linear = [layer for layer in discriminator.network if hasattr(layer, "weight")]
        linear[0].weight[0, 0], linear[1].weight[0, 0] = small, 1.0  # tanh is the identity near 0
        linear[2].weight[0, 0] = w / small
    expert, policy = Samples(torch.tensor([[1.0], [2.0]])), Samples(torch.tensor([[0.0], [-1.0]]))
    assert np.allclose(discriminator(expert).detach(), [3, 6], rtol=1e-4)
    assert np.allclose(discriminator(policy).detach(), [0, -3], atol=1e-4)
    cross_entropy = (np.log1p(np.exp(-3)) + np.log1p(np.exp(-6))) / 2 + (np.log(2) + np.log1p(np.exp(-3))) / 2
    for set_gradient in both(learner):
        found = set_gradient(expert, policy, torch.tensor([0.0, 1.0]))
        assert float(found["gail/gradient_penalty"]) == pytest.approx(4.0, rel=1e-4)
        assert float(found["gail/discriminator_loss"]) == pytest.approx(cross_entropy, rel=1e-4)
        assert float(found["gail/expert_logit"]) == pytest.approx(4.5, rel=1e-4)
        assert float(found["gail/policy_logit"]) == pytest.approx(-1.5, rel=1e-4)


def test_saturated_logits_and_equal_samples_give_finite_losses_and_gradients():
    discriminator, learner = make()
    flat = learner.parameters
    with torch.no_grad():
        discriminator.network[4].bias += 1e4
    for set_gradient in both(learner):
        assert np.isfinite(float(set_gradient(batch(0), batch(1), torch.rand(5))["gail/discriminator_loss"]))
        assert torch.isfinite(flat.grad).all()
    with torch.no_grad():
        flat.zero_()  # the penalty's norm has no direction at a slope of zero
    for set_gradient in both(learner):
        found = set_gradient(batch(0), batch(0), torch.rand(5))
        assert float(found["gail/gradient_penalty"]) == pytest.approx(1.0)
        assert torch.isfinite(flat.grad).all()


@pytest.mark.parametrize("images", [(), (IMAGE,)], ids=["vector", "image"])
def test_with_spectral_norm_no_logit_changes_faster_than_what_is_shown(images):
    torch.manual_seed(0)
    discriminator = Discriminator(3, list(images), hidden_size=7, spectral=True)
    learner = Learner(discriminator, weight=0.0)
    optimizer = torch.optim.Adam([learner.parameters], lr=3e-2)
    for _ in range(100):
        found = both(learner)[1](batch(0, 16, images=images), batch(1, 16, images=images), torch.rand(16))
        optimizer.step()
    assert float(found["gail/expert_logit"]) > float(found["gail/policy_logit"]) + 0.2
    discriminator.eval()
    for layer in discriminator.network:
        if hasattr(layer, "weight"):
            assert torch.linalg.matrix_norm(layer.weight, 2).item() == pytest.approx(1, abs=0.02)
    if not images:  # a convolution's norm is that of its kernel as a matrix, an estimate of the map's
        ours, theirs = batch(2, 200).vector, batch(3, 200).vector
        change = (discriminator(Samples(ours)) - discriminator(Samples(theirs))).abs()
        assert (change <= 1.05 * (ours - theirs).norm(dim=1)).all()


NESTED = spaces.Dict({"picture": IMAGE, "rest": spaces.Tuple((spaces.Discrete(3, start=1), spaces.MultiBinary(2)))})


def nested(num):
    picture = torch.arange(num).view(-1, 1, 1, 1).expand(num, *IMAGE.shape).to(torch.uint8)
    return {"picture": picture, "rest": (torch.full((num,), 2), torch.ones(num, 2))}


@pytest.mark.parametrize(
    ("inputs", "vector"),
    [
        ("state", [0, 1, 0, 1, 1, 0]),
        ("state-action", [0, 1, 0, 1, 1, 0, 0, 0, 1, 0]),
        ("state-next-state", [0, 1, 0, 1, 1, 0, 1, 0, 1, 1, 0]),
    ],
)
def test_what_is_shown_of_a_step(inputs, vector):
    encode = StepEncoder(EnvSpaces(NESTED, spaces.Discrete(4), {}), inputs)
    samples = encode(nested(3), torch.tensor([3, 3, 3]), nested(3))
    assert samples.vector.tolist() == [vector] * 3
    assert len(samples.images) == len(encode.image_spaces) == (2 if inputs == "state-next-state" else 1)
    assert torch.equal(samples.images[0], nested(3)["picture"])
    assert encode.vector_size == len(vector)
    rows = samples.rows(torch.tensor([2, 0]))
    assert rows.images[0][:, 0, 0, 0].tolist() == [2, 0]


@pytest.mark.parametrize("inputs", INPUTS)
def test_the_absorbing_state_is_a_vector_that_no_step_has(inputs):
    encode = StepEncoder(EnvSpaces(NESTED, spaces.Discrete(4), {}), inputs)
    absorbing = encode.absorbing(2, torch.device("cpu"))
    assert absorbing.vector[:, :-1].abs().sum() == 0
    assert absorbing.vector[:, -1].tolist() == [1, 1]
    joined = encode(nested(3), torch.tensor([0, 1, 2]), nested(3)).join(absorbing)
    assert joined.vector[:, -1].tolist() == [0, 0, 0, 1, 1]
    assert joined.images[0].shape == (5, *IMAGE.shape)
    assert joined.images[0].dtype == torch.uint8


def test_continuous_actions_are_shown_as_the_environment_sees_them():
    space = spaces.Box(-1, np.array([1, 2], np.float32), (2,))
    actions = torch.tensor([[-5.0, 5.0], [0.5, -0.5]])
    for clip, expected in ((True, [[-1, 2], [0.5, -0.5]]), (False, actions.tolist())):
        encode = StepEncoder(EnvSpaces(spaces.Box(-1, 1, (1,)), space, {}, clip_actions=clip), "state-action")
        shown = encode(torch.zeros(2, 1), actions, None).vector
        assert shown[:, 1:3].tolist() == expected


@pytest.mark.parametrize(
    ("space", "actions", "shown"),
    [
        (spaces.Discrete(3), [2, 0], [[0, 0, 1], [1, 0, 0]]),
        (spaces.MultiDiscrete([2, 3]), [[1, 2], [0, 0]], [[0, 1, 0, 0, 1], [1, 0, 1, 0, 0]]),
        (spaces.MultiBinary(2), [[1, 0], [1, 1]], [[1, 0], [1, 1]]),
    ],
)
def test_choices_are_shown_one_hot(space, actions, shown):
    encode = StepEncoder(EnvSpaces(spaces.Box(-1, 1, (1,)), space, {}), "state-action")
    assert encode(torch.zeros(2, 1), torch.tensor(actions), None).vector[:, 1:-1].tolist() == shown


@pytest.mark.parametrize("images", [(), (GRID,)], ids=["vector", "image"])
def test_it_learns_to_tell_two_crowds_apart_and_the_penalty_bounds_its_slope(images):
    torch.manual_seed(0)
    discriminator, learner = make(images=images)
    discriminator.apply(lambda layer: init_orthogonal(layer) if isinstance(layer, torch.nn.Linear) else None)
    optimizer, set_gradient = torch.optim.Adam([learner.parameters], lr=1e-2), both(learner)[1]
    for seed in range(300):
        expert, policy = batch(seed, 32, images=images), batch(seed + 1000, 32, images=images)
        expert = expert._replace(vector=expert.vector - seed + 0.1)
        policy = policy._replace(vector=policy.vector - seed - 1000 - 0.1)
        found = set_gradient(expert, policy, torch.rand(32))
        optimizer.step()
    assert float(found["gail/gradient_penalty"]) < 0.1
    assert float(found["gail/expert_logit"]) > float(found["gail/policy_logit"])
