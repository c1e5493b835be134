"""Analyses of recordings: what hidden states and activations represent, and what auxiliary losses do to gradients.

A recording is what `evaluate` returns. Its arrays are named by path: `rnn_hxs`, `activations/shared_1`,
`auxiliary_truths/position`. Rows of all episodes are put one after another, `[R, ...]`.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import r2_score
from sklearn.model_selection import GroupShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from a2c_ppo_acktr.arrays import set_gradient
from a2c_ppo_acktr.interfaces import AUXILIARY, Step
from a2c_ppo_acktr.model.auxiliary import head_loss
from a2c_ppo_acktr.spaces import to_tensor, tree_map
from a2c_ppo_acktr.utils import UsageError

PENALTIES = np.logspace(-3, 5, 9)
FEWEST_VISITS = 3


def rows(result: dict[str, Any], name: str) -> np.ndarray:
    """All episodes' rows of an array, `[R, ...]`; a final observation, which no step follows, is left out."""
    first, *path = name.split("/")
    if first not in result:
        raise UsageError(f"{first}: not in this recording, which has {', '.join(result)}")
    parts = []
    for tree, length in zip(result[first], result["lengths"], strict=True):
        for key in path:
            if key not in tree:
                raise UsageError(f"{name}: there is {', '.join(tree) or 'nothing'} in {first}")
            tree = tree[key]
        parts.append(tree[:length])
    return np.concatenate(parts)


def episode_of_rows(result: dict[str, Any]) -> np.ndarray:
    """`[R]` the episode of each row."""
    return np.repeat(np.arange(len(result["lengths"])), result["lengths"])


def step_of_rows(result: dict[str, Any]) -> np.ndarray:
    """`[R]` the step within its episode of each row."""
    return np.concatenate([np.arange(length) for length in result["lengths"]])


@torch.inference_mode()
def replay(algorithm: Any, result: dict[str, Any]) -> dict[str, Any]:
    """What another network makes of the very observations and actions of a recording: a recording of its own.

    Comparing an agent with an untrained one on each one's own paths would compare the paths too.

    Raises:
        UsageError: the agent reads signals, such as an action mask, that the recording does not have.
    """
    found, needed = dict(result), algorithm.spaces.signals.keys() - {AUXILIARY}
    if missing := needed - (result["signals"][0].keys() if "signals" in result else set()):
        raise UsageError(f"signals: this recording has no {', '.join(sorted(missing))}, which the agent reads")
    episodes = []
    for e, length in enumerate(result["lengths"]):
        carry, rows_of_episode = algorithm.initial_carry(1), []
        for t in range(length):
            step = _step(result, e, t, carry)
            chosen = step.action
            decision = algorithm.inspect(
                step.obs, carry, step.masks, step.signals, False, lambda _, chosen=chosen: chosen
            )
            carry = algorithm.observe(decision.carry, step._replace(extras=decision.extras, next_carry=decision.carry))
            rows_of_episode.append(tree_map(lambda leaf: leaf[0].numpy(), {**decision.extras, "rnn_hxs": carry}))
        episodes.append(tree_map(lambda *leaves: np.stack(leaves), *rows_of_episode))
    found |= {name: [episode[name] for episode in episodes] for name in episodes[0]}
    return found | {"hidden_states": found["rnn_hxs"]}


def _step(result: dict[str, Any], episode: int, t: int, carry: torch.Tensor) -> Step:
    """Step t of a recorded episode as the agent that made it saw it; the carry is the replaying one's own."""

    def row(name: str, at: int = t) -> Any:
        return tree_map(lambda leaf: leaf[at : at + 1], result[name][episode])

    done = np.asarray(row("dones"), bool)
    return Step(
        obs=to_tensor(row("obs_normalized")),
        carry=carry,
        masks=torch.as_tensor(row("masks")),
        signals=to_tensor(row("signals")) if "signals" in result else {},
        action=torch.as_tensor(row("actions")),
        extras={},
        reward=row("rewards"),
        terminated=done,
        truncated=np.zeros_like(done),
        next_obs=row("obs_normalized", t + 1),
        next_carry=carry,
        next_signals={},
        ended=None,
    )


class Projection(NamedTuple):
    """Principal components."""

    coordinates: np.ndarray
    """[R, C]"""
    explained: np.ndarray
    """[C] shares of the variance."""
    model: PCA


def pca(result: dict[str, Any], name: str = "rnn_hxs", components: int = 3) -> Projection:
    """Principal components of an array's rows, centred and not scaled."""
    model = PCA(components)
    coordinates = model.fit_transform(rows(result, name).reshape(len(episode_of_rows(result)), -1))
    return Projection(coordinates, model.explained_variance_ratio_, model)


class Probe(NamedTuple):
    """How well a linear model reads a target from activity, on episodes that it was not fitted to."""

    score: float
    """R² (mean over dimensions), or the share of classes that are right."""
    scores: np.ndarray
    """R² of each dimension; of classes the one score."""
    baseline: float
    """What is had without activity: 0, or the share of the commonest class."""
    truths: np.ndarray
    """[R_test, ...]"""
    predictions: np.ndarray
    """[R_test, ...]"""
    model: Any


def probe(
    result: dict[str, Any],
    name: str,
    target: str | np.ndarray,
    *,
    first_step: int = 0,
    test_share: float = 0.3,
    seed: int = 0,
) -> Probe:
    """Fit a linear read-out of `target` from `name` on some episodes and score it on the others.

    Whole episodes are held out, since neighbouring steps are so alike that a probe could remember them. Features are
    standardized; ridge regression chooses its penalty within the training episodes; whole numbers are classes, read by
    logistic regression. Rows whose target is unknown (NaN, negative classes) are left out.

    Args:
        result: a recording.
        name: of the activity.
        target: name of the truth, or `[R, ...]` itself.
        first_step: of each episode from which on rows count.
        test_share: of the episodes.
        seed: of the choice of episodes.

    Raises:
        UsageError: rows of one episode only, classes in several columns, or one class only to learn from.
    """
    features = rows(result, name).reshape(len(episode_of_rows(result)), -1).astype(np.float64)
    truths = rows(result, target) if isinstance(target, str) else np.asarray(target)
    label = target if isinstance(target, str) else "the target"  # an array's repr takes several lines
    classes = truths.dtype.kind in "iub"
    truths = truths.reshape(len(truths), -1)
    if classes and truths.shape[1] > 1:
        raise UsageError(
            f"{label}: classes in {truths.shape[1]} columns; a probe takes one column of whole numbers, or real numbers"
        )
    known = (truths >= 0).all(1) if classes else ~np.isnan(truths).any(1)
    known &= step_of_rows(result) >= first_step
    features, truths, groups = features[known], truths[known], episode_of_rows(result)[known]
    if len(np.unique(groups)) < 2:
        raise UsageError(f"a probe needs rows of at least two episodes; {label} is known in {len(np.unique(groups))}")
    (train, test), *_ = GroupShuffleSplit(1, test_size=test_share, random_state=seed).split(features, groups=groups)
    if classes:
        if len(np.unique(truths[train])) < 2:
            raise UsageError(f"{label}: one class only in the training episodes; a probe needs two or more")
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
        model.fit(features[train], truths[train, 0])
        predictions, wanted = model.predict(features[test]), truths[test, 0]
        _, counts = np.unique(truths[train, 0], return_counts=True)
        commonest = np.unique(truths[train, 0])[counts.argmax()]
        score = float((predictions == wanted).mean())
        return Probe(score, np.array([score]), float((wanted == commonest).mean()), wanted, predictions, model)
    model = make_pipeline(StandardScaler(), RidgeCV(PENALTIES))
    model.fit(features[train], truths[train])
    predictions = model.predict(features[test]).reshape(len(test), -1)
    scores = np.atleast_1d(r2_score(truths[test], predictions, multioutput="raw_values"))
    return Probe(float(scores.mean()), scores, 0.0, truths[test], predictions, model)


def probe_table(
    recordings: dict[str, dict[str, Any]], names: Sequence[str], targets: Sequence[str], **kwargs: Any
) -> pd.DataFrame:
    """Scores of every probe: one row per agent, activity and target; `kwargs` as of `probe`."""
    found = []
    for agent, result in recordings.items():
        for name in names:
            for target in targets:
                one = probe(result, name, target, **kwargs)
                found.append(
                    {"agent": agent, "activity": name, "target": target, "score": one.score, "baseline": one.baseline}
                )
    return pd.DataFrame(found)


def activation_map(
    result: dict[str, Any],
    name: str,
    unit: int,
    *,
    position: str = "auxiliary_truths/position",
    bins: int = 15,
    extent: tuple[float, float] = (-1.0, 1.0),
) -> np.ma.MaskedArray:
    """Mean activation of a unit at each place: `[bins (y), bins (x)]`, masked where the agent hardly went."""
    visits, sums, _ = _binned(rows(result, position), rows(result, name)[:, unit], bins, extent)
    return np.ma.masked_array(sums / np.maximum(visits, 1), mask=visits < FEWEST_VISITS)


def _binned(
    places: np.ndarray, activity: np.ndarray, bins: int, extent: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Visits, sums of the activity and sums of its square at each place, each `[bins (y), bins (x)]`."""
    grid: dict[str, Any] = {"bins": bins, "range": [extent, extent]}
    powers = (activity.astype(np.float64) ** power for power in range(3))
    visits, sums, squares = (np.histogram2d(places[:, 1], places[:, 0], weights=p, **grid)[0] for p in powers)
    return visits, sums, squares


def spatial_information(
    result: dict[str, Any],
    name: str,
    *,
    position: str = "auxiliary_truths/position",
    bins: int = 15,
    extent: tuple[float, float] = (-1.0, 1.0),
) -> np.ndarray:
    """`[units]` share of each unit's variance that its activation map explains, over the rows at places on the map.

    It is the variance of the map's means, each counted as often as its place was visited, over that of the activity:
    0 to 1, and 0 for a unit that never changes. `position`, `bins` and `extent` are those of `activation_map`.
    """
    activity = rows(result, name)
    places = rows(result, position)
    activity = activity - activity.mean(0)  # sums of squares of small changes of large numbers would cancel
    found = np.zeros(activity.shape[1])
    for unit in range(activity.shape[1]):
        visits, sums, squares = (x.ravel() for x in _binned(places, activity[:, unit], bins, extent))
        often = visits >= FEWEST_VISITS
        visits, sums, squares = visits[often], sums[often], squares[often]
        mean = sums.sum() / max(visits.sum(), 1)
        total = (squares - mean * sums).sum()
        between = (sums * (sums / visits - mean)).sum()
        found[unit] = np.clip(between / total, 0.0, 1.0) if total > 1e-12 * squares.sum() else 0.0
    return found


def gradient_cosines(algorithm: Any, envs: Any, num_steps: int = 128) -> pd.DataFrame:
    """Whether auxiliary losses pull the layers where the learner's own loss pulls them, on a new rollout.

    Args:
        algorithm: an actor-critic with auxiliary heads; its parameters stay as they are.
        envs: the environments; they are reset.
        num_steps: in each environment.

    Returns:
        One row per head and group of parameters: `cosine` of the two gradients, and `ratio` of their norms
        (auxiliary by own, without the loss's weights). Groups that a head does not reach are left out.
    """
    policy = algorithm.policy
    storage = algorithm.make_storage(num_steps, envs.num_envs)
    algorithm.make_collector(envs, storage).collect()
    algorithm.prepare(storage)
    batch = storage.whole(recurrent=policy.carry_size > 0)

    def gradient(head: Any) -> torch.Tensor:
        new = algorithm.evaluate(batch)
        if head is None:
            loss, _ = algorithm.loss(new, batch)
        else:
            loss = head_loss(head, new.predictions[head.label], batch.targets[head.target])
        set_gradient(algorithm.parameters, loss)
        return algorithm.parameters.grad.clone()

    own = gradient(None)
    found = []
    for head in policy.auxiliary.heads:
        auxiliary = gradient(head)
        for group, where in _groups(policy).items():
            a, b = own[where], auxiliary[where]
            if a.norm() > 0 and b.norm() > 0:
                cosine = torch.nn.functional.cosine_similarity(a, b, dim=0)
                found.append(
                    {"head": head.label, "group": group, "cosine": float(cosine), "ratio": float(b.norm() / a.norm())}
                )
    return pd.DataFrame(found)


def _groups(policy: Any) -> dict[str, torch.Tensor]:
    """Indices into the flat parameters of each module of the base, and of the action head."""
    groups: dict[str, list[torch.Tensor]] = {}
    start = 0
    for name, parameter in policy.named_parameters():
        parts = name.split(".")
        group = ".".join(parts[:2]) if parts[0] == "base" else parts[0]
        groups.setdefault(group, []).append(torch.arange(start, start + parameter.numel()))
        start += parameter.numel()
    return {group: torch.cat(indices) for group, indices in groups.items()}
