"""Who may import whom, by rooms: folders of the package, and the modules beside them, which are the ground floor."""

import ast
from pathlib import Path

PACKAGE = Path("a2c_ppo_acktr")
COMMAND_LINE = {"arguments", "presets"}
ALLOWED = {
    "ground": set(),
    "distributions": set(),
    "model": {"distributions"},
    "optim": {"distributions", "model"},
    "storage": set(),
    "experts": set(),
    "fast": {"distributions", "model", "storage"},
    "acting": set(),
    "algo": {"distributions", "model", "optim", "storage", "experts", "fast", "acting"},
    "envs": set(),
    "run": set(),
    "jobs": set(),
    "arguments": {"algo", "envs", "experts", "run", "presets"},
    "presets": set(),
}
"""What a room may import beside itself and the ground floor."""


def room(parts):
    """The room of a module, given the parts of its name below the package."""
    if not parts or not parts[0]:
        return "ground"  # the package's own version
    if (PACKAGE / parts[0]).is_dir() or parts[0] in COMMAND_LINE:
        return parts[0]
    return "ground"


def imports(path):
    """Modules of the package that a file imports, by the parts of their names."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE.name:
            parts = node.module.split(".")[1:]
            for alias in node.names:
                whole = [*parts, alias.name]
                is_module = (PACKAGE.joinpath(*whole)).is_dir() or PACKAGE.joinpath(*whole).with_suffix(".py").exists()
                yield tuple(whole if is_module else parts)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == PACKAGE.name:
                    yield tuple(alias.name.split(".")[1:])


def modules():
    """Every file of the package with the parts of its name."""
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path, tuple(part for part in path.relative_to(PACKAGE).with_suffix("").parts if part != "__init__")


def test_every_room_imports_only_from_below():
    for path, name in modules():
        own = room(name)
        beyond = {room(parts) for parts in imports(path)} - ALLOWED[own] - {own, "ground"}
        assert not beyond, f"{path} imports {beyond}"


def test_modules_import_each_other_in_no_circle():
    names = {name: path for path, name in modules()}
    below = {name: {parts for parts in imports(path) if parts in names} - {name, ()} for name, path in names.items()}
    done = set()
    while below:
        free = [name for name, needed in below.items() if needed <= done]
        assert free, f"a circle among {sorted('.'.join(name) for name in below)}"
        done |= set(free)
        below = {name: needed for name, needed in below.items() if name not in done}


def test_an_algorithm_imports_at_most_one_sibling_beside_its_familys_base():
    bases = {"base", "actor_critic", "off_policy", "off_policy_actor_critic", "q_learning", "sac", "wrapper"}
    for path in (PACKAGE / "algo").glob("*.py"):
        if path.stem in bases | {"__init__"}:
            continue
        siblings = {parts[1] for parts in imports(path) if parts[:1] == ("algo",)} - bases
        assert len(siblings) <= 1, f"{path} imports {siblings}"


def test_the_package_imports_none_of_the_programs_around_it():
    around = {"main", "evaluate", "enjoy", "write_and_test", "benchmarks", "tests"}
    for path, _ in modules():
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not around & {name.split(".")[0] for name in names}, path


def test_files_stay_short_enough_to_read():
    places = [*PACKAGE.rglob("*.py"), *Path().glob("*.py"), *Path("write_and_test").glob("*.py")]
    places += Path("gail_experts").glob("*.py")
    assert not {str(path): n for path in places if (n := len(path.read_text().splitlines())) > 330}


def test_nothing_runs_at_import_of_an_algorithm():
    kinds = (ast.Expr, ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign, ast.ClassDef, ast.FunctionDef, ast.If)
    for path in (PACKAGE / "algo").glob("*.py"):
        assert all(isinstance(node, kinds) for node in ast.parse(path.read_text()).body), path
