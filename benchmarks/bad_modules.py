"""Modules for `bad_input.py`: what users write by accident."""

MODULES = {
    "raises": "raise RuntimeError('two\\nlines')",
    "asserts": "assert False",
    "syntax": "def f(:",
    "exits": "import sys; sys.exit(0)",
    "exits3": "import sys; sys.exit(3)",
    "recurses": "def f(): f()\nf()",
    "nulls": "x = 1\0",
    "divides": "1 / 0",
    "imports": "import not_there_at_all",
    "circles": "from circles import Thing",
}
NETWORKS = [
    "Raises",
    "Exits",
    "Forward",
    "NoParameters",
    "WrongShape",
    "NoBase",
    "NoSize",
    "TooFew",
    "function",
    "Missing",
]
LEARNERS = [
    "Taken",
    "Help",
    "Nested",
    "Config",
    "NotADataclass",
    "Unknown",
    "NoDefault",
    "Undefined",
    "TooFew",
    "Raises",
    "NoStorage",
    "RunDefaults",
    "ByKind",
    "Kinds",
    "NoConfig",
    "NotALearner",
    "Abstract",
    "Missing",
    "Gail",
]
_NETWORKS = """
import sys, torch
from torch import nn

class Raises(nn.Module):
    def __init__(self, space, *, recurrent=False):
        raise RuntimeError("no\\nluck")

class Exits(nn.Module):
    def __init__(self, space, *, recurrent=False):
        sys.exit(0)

class NoParameters(nn.Module):
    output_size, carry_size = 3, 0
    def __init__(self, space, *, recurrent=False):
        super().__init__()
    def forward(self, obs, carry, masks):
        return obs[..., 0], obs[..., :3], carry

class Forward(nn.Module):
    output_size, carry_size = 3, 0
    def __init__(self, space, *, recurrent=False):
        super().__init__()
        self.body = nn.Linear(4, 3)
    def forward(self, obs, carry, masks):
        return self.body(obs, 1)

class WrongShape(Forward):
    def forward(self, obs, carry, masks):
        return self.body(obs), self.body(obs), carry

class NoSize(Forward):
    output_size = None

class NoBase:
    def __init__(self, space, *, recurrent=False): ...

class TooFew(nn.Module):
    def __init__(self): ...

def function(space, *, recurrent=False):
    return None
"""
_LEARNERS = """
from dataclasses import dataclass
from a2c_ppo_acktr.algo import Algorithm, AlgorithmConfig
from a2c_ppo_acktr.algo.a2c import A2C
from a2c_ppo_acktr.flags import flag

Base = A2C.Config
def learner(config, **more):
    return type("Learner", (A2C,), {"Config": config, **more})

@dataclass
class TakenConfig(Base):
    seed: int = flag(1, "taken")
@dataclass
class HelpConfig(Base):
    help: int = flag(1, "taken")
@dataclass
class NestedConfig(Base):
    env: int = flag(1, "taken")
@dataclass
class ConfigConfig(Base):
    config: int = flag(1, "taken")
@dataclass
class GailConfig(Base):
    gail_lr: float = flag(1.0, "taken")
class PlainConfig(Base):
    rate: float = flag(1.0, "no dataclass")
@dataclass
class UnknownConfig(Base):
    rate: complex = flag(1.0, "no type of a flag")
@dataclass
class UndefinedConfig(Base):
    rate: "Nothing" = flag(1.0, "no type at all")
@dataclass
class NoDefaultConfig(AlgorithmConfig):
    rate: float = flag(1.0, "fine")
NoDefaultConfig.__dataclass_fields__["rate"].default = __import__("dataclasses").MISSING

Taken, Help, Nested, Config, Gail = map(learner, (TakenConfig, HelpConfig, NestedConfig, ConfigConfig, GailConfig))
NotADataclass, Unknown, Undefined = map(learner, (PlainConfig, UnknownConfig, UndefinedConfig))
NoDefault = learner(NoDefaultConfig)
RunDefaults = learner(Base, run_defaults={"num_stepps": 3})
ByKind = learner(Base, defaults_by_kind={"vector": {"nothing": 3}})
Kinds = learner(Base, defaults_by_kind={"vectors": {"lr": 3}})
NoStorage = learner(Base, make_storage=lambda self, num_steps, num_envs: None)
class TooFew(A2C):
    def __init__(self): ...
class Raises(A2C):
    def __init__(self, spaces, config, device):
        raise RuntimeError("no\\nluck")
class NoConfig(A2C):
    Config = dict
class NotALearner: ...
class Abstract(Algorithm):
    Config = AlgorithmConfig
"""


def write(folder):
    """Put them into a folder."""
    for name, text in {**MODULES, "networks": _NETWORKS, "learners": _LEARNERS}.items():
        (folder / f"{name}.py").write_text(text + "\n")
