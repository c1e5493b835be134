"""Which accelerator stands in for which definition, and whether that is still what it was written for.

`fingerprints.json` holds what every definition looked like when its accelerators were compared with it last.
`python -m a2c_ppo_acktr.fast` writes it anew: after a definition was changed and its accelerator with it.
"""

import functools
import hashlib
import importlib
import inspect
import io
import json
import sys
import textwrap
import tokenize
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from a2c_ppo_acktr.fast import actor_critic, bc, gail, policy, q_learning

PACKAGE = __package__.partition(".")[0]
FINGERPRINTS = Path(__file__).with_name("fingerprints.json")
LAYOUT = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


class Accelerator(NamedTuple):
    """Something faster for one definition."""

    make: Callable[..., Callable[..., Any] | None]
    """From the definition's owner, and what else its learner gives, to a function that gives the same; None where the
    owner has another form."""
    relies_on: tuple[str, ...]
    """Further definitions that it stands in for."""


LAYERS = ("model.layers.MLP.forward", "model.layers.MLP.layers")
"""What `fast.attach` stands in for, as the next ones."""
RECURRENT = ("model.recurrent.GRU.forward", "model.recurrent.GRU._run", "model.recurrent._in_pieces")
_NETWORK = (
    *LAYERS,
    "model.policy.Policy.__init__",
    "model.policy.Policy.forward",
    "model.bases.FlexBase.__init__",
    "model.bases.FlexBase.forward",
    "model.encoders.FlatEncoder.forward",
    *(
        f"distributions.{kind}Head.{name}"
        for kind in ("discrete.Categorical", "continuous.DiagGaussian")
        for name in ("__init__", "forward")
    ),
    *(f"distributions.discrete.Categorical.{name}" for name in ("__init__", "log_prob", "entropy")),
    *(f"distributions.continuous.DiagGaussian.{name}" for name in ("__init__", "log_prob", "entropy")),
)
_ACTING = (
    *_NETWORK,
    *(f"distributions.discrete.Categorical.{name}" for name in ("sample", "mode")),
    *(f"distributions.continuous.DiagGaussian.{name}" for name in ("sample", "mode")),
)
_MINIBATCH = (
    *_NETWORK,
    "model.policy.Policy.evaluate_actions",
    "model.auxiliary.AuxiliaryHeads.losses",
    "algo.actor_critic.ActorCritic.evaluate",
    "algo.actor_critic.ActorCritic.gradient",
    "arrays.set_gradient",
    "distributions.discrete.mask_logits",
    "returns.normalize",
)
_Q_NETWORK = (
    *LAYERS,
    "model.encoders.FlatEncoder.forward",
    *(f"model.q_network.QNetwork.{name}" for name in ("__init__", "forward", "read", "features", "head", "set_noise")),
    *(f"algo.{name}.values" for name in ("dqn.Expected", "c51.Categorical", "qr_dqn.Quantiles")),
)
_TEMPORAL_DIFFERENCE = (
    *_Q_NETWORK,
    "algo.q_learning.QLearning.gradient",
    "arrays.set_gradient",
    *(f"algo.{name}.losses" for name in ("dqn.Expected", "c51.Categorical", "qr_dqn.Quantiles")),
    "distributional.categorical_projection",
    "distributional.quantile_huber_loss",
)

ACCELERATORS: dict[str, Accelerator] = {
    "model.policy.Policy.act": Accelerator(policy.act, _ACTING),
    "model.policy.Policy.get_value": Accelerator(policy.get_value, _NETWORK),
    "algo.a2c.A2C.loss": Accelerator(
        actor_critic.gradient(actor_critic.a2c_slopes), (*_MINIBATCH, "algo.a2c.a2c_loss")
    ),
    "algo.ppo.PPO.loss": Accelerator(
        actor_critic.gradient(actor_critic.ppo_slopes), (*_MINIBATCH, "algo.ppo.PPO.surrogate")
    ),
    "algo.q_learning.QLearning.loss": Accelerator(q_learning.gradient, _TEMPORAL_DIFFERENCE),
    "algo.q_learning.QLearning.greedy": Accelerator(q_learning.greedy, _Q_NETWORK),
    "algo.iqn.IQN.loss": Accelerator(
        q_learning.iqn_gradient,
        (
            "algo.q_learning.QLearning.gradient",
            "algo.qr_dqn.Quantiles.losses",
            "algo.qr_dqn.Quantiles.values",
            "distributional.quantile_huber_loss",
        ),
    ),
    "algo.bc.BC.loss": Accelerator(
        bc.gradient, (*_NETWORK, "model.policy.Policy.evaluate_actions", "algo.bc.BC.gradient")
    ),
    "algo.gail.GAIL.loss": Accelerator(
        gail.gradient,
        (
            "algo.gail.GAIL.gradient",
            "arrays.set_gradient",
            "model.discriminator.Discriminator.__init__",
            "model.discriminator.Discriminator.forward",
            "model.discriminator.Samples.as_floats",
            "model.discriminator.Samples.join",
            "model.discriminator.gradient_penalty",
            "model.discriminator.Samples.blend",
        ),
    ),
}
"""By the name of the method that says what is computed."""


def find(method: Callable[..., Any]) -> tuple[str, Any]:
    """The name of a bound method's function below the package, whoever inherits it, and its owner."""
    function = getattr(method, "__func__", method)
    module, _, _ = function.__module__.partition(".")
    below = function.__module__.removeprefix(f"{PACKAGE}.") if module == PACKAGE else function.__module__
    return f"{below}.{function.__qualname__}", getattr(method, "__self__", None)


def defect(name: str, owner: Any) -> bool:
    """Whether a definition is not what its accelerator was written for; an edited one is said once.

    Args:
        name: of the definition.
        owner: of the definition: a class that overrides another one on which the accelerator relies has its own way.
    """
    names = (name, *ACCELERATORS[name].relies_on)
    if any(_overridden(one, owner) for one in names):
        return True
    return any_edited(names)


def any_edited(names: Iterable[str]) -> bool:
    """Whether one of these definitions was edited where it stands, which is said once."""
    edited = [one for one in names if not is_intact(one)]
    for one in edited:
        _say(one)
    return bool(edited)


def _overridden(name: str, owner: Any) -> bool:
    """Whether the owner, or its class, has another method in the place of one that is its class's by inheritance."""
    definition, method = resolve(name), name.rpartition(".")[2]
    inherits = any(vars(base).get(method) is definition for base in type(owner).__mro__)
    return inherits and getattr(getattr(owner, method), "__func__", None) is not definition


@functools.cache
def _say(name: str) -> None:
    print(f"{name} has been edited: it is computed as it stands, not by fast/ (slower)", file=sys.stderr)


def is_intact(name: str) -> bool:
    """Whether a definition looks as it did; where its source is not there to look at, nobody has edited it."""
    return _is_intact(name, _code(resolve(name)))


@functools.cache
def _is_intact(name: str, code: Any) -> bool:
    try:
        return _fingerprint_of(code) == _fingerprints().get(name)
    except OSError:
        return True


def _code(function: Any) -> Any:
    """What a function runs, not what it says that it wraps."""
    return getattr(function, "__code__", function)


@functools.cache
def _fingerprints() -> dict[str, str]:
    return json.loads(FINGERPRINTS.read_text())


def resolve(name: str) -> Any:
    """The function of that name."""
    parts = name.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        try:
            found: Any = importlib.import_module(".".join((PACKAGE, *parts[:cut])))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            found = getattr(found, part)
        return found
    raise LookupError(name)


def fingerprint(name: str) -> str:
    """Of a definition's source but for comments, docstrings and layout."""
    return _fingerprint_of(_code(resolve(name)))


def _fingerprint_of(code: Any) -> str:
    source = textwrap.dedent(inspect.getsource(code))
    words, statement_begins = [], True
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in LAYOUT:
            statement_begins = statement_begins or token.type in (tokenize.NEWLINE, tokenize.INDENT)
            continue
        if not (token.type == tokenize.STRING and statement_begins):
            words.append(token.string)
        statement_begins = False
    text = "".join(words).replace(",)", ")").replace(",]", "]").replace(",}", "}")
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def definitions() -> list[str]:
    """Every definition that an accelerator stands in for."""
    return sorted(
        {*LAYERS, *RECURRENT} | {one for name, found in ACCELERATORS.items() for one in (name, *found.relies_on)}
    )


def write_fingerprints() -> None:
    """Take every definition as it is now for what its accelerators were written for."""
    FINGERPRINTS.write_text(json.dumps({name: fingerprint(name) for name in definitions()}, indent=1) + "\n")
