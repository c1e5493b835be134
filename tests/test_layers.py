"""Who may import whom, read off the import statements."""

import ast
from pathlib import Path

PACKAGE = "a2c_ppo_acktr"
BOTTOM = {"interfaces", "utils", "flags", "spaces", "normalization", "returns", "distributional", "graphs"}
NETWORKS = {"encoders", "recurrent", "distributions"}
MEMORY = {"storage", "slots", "replay", "sequences", "priorities"}
LEARNING = (
    BOTTOM
    | NETWORKS
    | MEMORY
    | {"mlp", "adam", "expert", "discriminator", "fused", "bases", "auxiliary", "model", "q_network", "kfac"}
)
STEPPING = {"vec_env", "vec_wrappers", "subproc", "native", "joint", "arena", "navigation"}
ENVIRONMENTS = STEPPING | {"wrappers", "targets", "env_state", "families", "envs"}

ALLOWED = {
    **dict.fromkeys(BOTTOM, BOTTOM),
    **dict.fromkeys(NETWORKS, BOTTOM),
    "mlp": BOTTOM,
    "adam": set(),
    "fused": BOTTOM | NETWORKS | {"mlp"},
    "bases": BOTTOM | NETWORKS | {"mlp"},
    "auxiliary": BOTTOM | {"bases"},
    "model": BOTTOM | NETWORKS | {"fused", "bases", "auxiliary"},
    "q_network": BOTTOM | NETWORKS | {"mlp"},
    **dict.fromkeys(MEMORY, BOTTOM | MEMORY),
    "trajectories": BOTTOM,
    "expert": BOTTOM | {"trajectories"},
    "discriminator": BOTTOM | {"encoders"},
    "curvature": BOTTOM | {"distributions", "encoders"},
    "kfac": BOTTOM | {"curvature"},
    **dict.fromkeys(ENVIRONMENTS, BOTTOM | ENVIRONMENTS | {"rendering", "video"}),
    "rendering": set(),
    "video": {"utils"},
    "collect": BOTTOM | {"storage"},
    "record": BOTTOM | {"collect"},
    "recording": BOTTOM | {"record"},
    "checkpoint": {"utils"},
    "clone": {"checkpoint", "utils"},
    "logger": {"utils"},
    "launcher": {"utils"},
    "waiter": set(),
    "presets": set(),
    "arguments": {"algo", "expert", "presets", "checkpoint", "families", "utils", "flags"},
    "histograms": set(),
    "tracking": {"histograms"},
    "run": {"", "checkpoint", "logger", "utils", "interfaces", "histograms", "tracking"},
    "": set(),
}


def imports(path):
    """Modules of the package that a file imports when it runs; imports for type checkers do not count."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            node.body = []
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE:
            parts = node.module.split(".")[1:]
            for alias in node.names:
                is_module = (Path(PACKAGE, *parts) / f"{alias.name}.py").exists() or Path(
                    PACKAGE, *parts, alias.name
                ).is_dir()
                found.add(".".join([*parts, alias.name] if is_module else parts))
        elif isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[2] for alias in node.names if alias.name.split(".")[0] == PACKAGE}
    return found


def module_name(path):
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").rstrip(".")


def test_every_module_imports_only_from_below():
    for path in Path(PACKAGE).glob("*.py"):
        name = module_name(path)
        beyond = {module.split(".")[0] for module in imports(path)} - ALLOWED[name]
        assert not beyond, f"{name} imports {beyond}"


def test_an_algorithm_imports_no_environments_logs_arguments_or_files_and_at_most_one_sibling():
    siblings = {path.stem for path in Path(PACKAGE, "algo").glob("*.py")} - {"__init__", "base"}
    for name in siblings:
        found = imports(Path(PACKAGE, "algo", f"{name}.py"))
        algos = {module for module in found if module.startswith("algo.")}
        assert {module for module in found if not module.startswith("algo")} <= LEARNING
        assert len(algos - {"algo.base"}) <= 1
    assert imports(Path(PACKAGE, "algo", "base.py")) <= LEARNING | {"collect"}


def test_the_package_imports_none_of_the_programs_around_it():
    around = {"main", "evaluate", "enjoy", "write_and_test", "benchmarks", "tests"}
    for path in Path(PACKAGE).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not around & {name.split(".")[0] for name in names}, path


def test_files_stay_short_enough_to_read():
    long = {
        str(p): n
        for p in [
            *Path(PACKAGE).rglob("*.py"),
            *Path(".").glob("*.py"),
            *Path("write_and_test").glob("*.py"),
            *Path("gail_experts").glob("*.py"),
        ]
        if (n := len(p.read_text().splitlines())) > 330
    }
    assert not long


def test_nothing_runs_at_import_of_an_algorithm():
    for path in Path(PACKAGE, "algo").glob("*.py"):
        kinds = (ast.Expr, ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign, ast.ClassDef, ast.FunctionDef, ast.If)
        assert all(isinstance(node, kinds) for node in ast.parse(path.read_text()).body), path
