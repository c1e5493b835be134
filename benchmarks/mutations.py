"""How much of a change the tests notice: `python -m benchmarks.mutations`.

Lines of the package are drawn by a seed and broken one at a time: an operator, a comparison, a constant, a sign, two
arguments, a statement. The tests that run each line are asked whether they notice. First

    python -m benchmarks.mutations map      which test runs which lines, and how long it takes (the whole suite, once)

then `run`, as often as it takes: mutants that have a row in `benchmarks/mutations.csv` are not tried again. What
survives is read by a person: a mutant that changes nothing that anybody could see gets the reason in the column
`equivalent`, all others a test.
"""

import argparse
import ast
import csv
import random
import subprocess
import sys
import threading
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from coverage import CoverageData

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "benchmarks" / "work" / "mutations"
RESULTS = ROOT / "benchmarks" / "mutations.csv"
PROGRAMS = ("main.py", "enjoy.py", "evaluate.py")
SOURCES = ("a2c_ppo_acktr", "main", "enjoy", "evaluate")
LEFT_OUT = ("test_a_definition_is_what_its_accelerators_were_compared_with", "tests/test_layers.py")
"""These notice that a file was changed, not that it is wrong."""

OPERATORS: dict[type, type] = {
    **{ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult},
    **{ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.And: ast.Or},
    **{ast.Or: ast.And, ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq},
    **{ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In},
}


@dataclass
class Mutant:
    """One broken line, and what became of it."""

    path: str
    line: int
    kind: str
    before: str
    after: str
    outcome: str = ""
    """noticed, hangs, survives, or untested: no test runs the line."""
    by: str = ""
    tests: int = 0
    equivalent: str = ""


Span = tuple[int, int, int, int]
Site = tuple[Span, int, Mutant]
"""Where the source is replaced (lines from 1, columns from 0), the first line of its statement, and by what."""


def sites(path: str, source: str) -> Iterator[Site]:
    """Every way in which a file can be broken, in the order of the source."""
    for statement in _statements(ast.parse(source)):
        if _can_be_dropped(statement):
            yield _site(path, statement, statement, "statement", "pass")
        for node in _expressions(statement):
            for kind, broken in _broken(node):
                yield _site(path, statement, node, kind, f"({broken})")


def _site(path: str, statement: ast.stmt, node: ast.AST, kind: str, after: str) -> Site:
    assert isinstance(node, ast.stmt | ast.expr)
    assert node.end_lineno is not None
    assert node.end_col_offset is not None
    span = (node.lineno, node.col_offset, node.end_lineno, node.end_col_offset)
    return span, statement.lineno, Mutant(path, node.lineno, kind, ast.unparse(node), after)


def _statements(tree: ast.AST) -> Iterator[ast.stmt]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.stmt))


def _can_be_dropped(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Expr):
        return isinstance(statement.value, ast.Call)
    if isinstance(statement, ast.Assign):
        return all(isinstance(target, ast.Attribute | ast.Subscript) for target in statement.targets)
    return isinstance(statement, ast.AugAssign)


def _expressions(node: ast.AST) -> Iterator[ast.expr]:
    """Within a statement, but not in the statements in it, its annotations and its texts."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "msg", "type_comment"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.stmt | ast.JoinedStr | ast.Raise) or not isinstance(child, ast.AST):
                continue
            if isinstance(child, ast.expr):
                yield child
            yield from _expressions(child)


def _broken(node: ast.expr) -> Iterator[tuple[str, str]]:
    """The ways to break one expression: kind, and source."""
    if isinstance(node, ast.BinOp | ast.BoolOp) and type(node.op) in OPERATORS:
        yield "operator", _with(node, op=OPERATORS[type(node.op)]())
    elif isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in OPERATORS:
        yield "comparison", _with(node, ops=[OPERATORS[type(node.ops[0])]()])
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float):
        value = node.value
        changed = not value if isinstance(value, bool) else value + 1 if isinstance(value, int) else 2 * value or 1.0
        yield "constant", repr(changed)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.Not):
        yield "sign", ast.unparse(node.operand)
    elif isinstance(node, ast.Call) and len(node.args) > 1 and not any(isinstance(a, ast.Starred) for a in node.args):
        first, second, *rest = node.args
        if ast.unparse(first) != ast.unparse(second) and ast.unparse(node.func) not in ("isinstance", "flag"):
            yield "arguments", _with(node, args=[second, first, *rest])


def _with(node: ast.expr, **changed: object) -> str:
    return ast.unparse(type(node)(**{**dict(ast.iter_fields(node)), **changed}))


def broken_source(source: str, span: Span, after: str) -> str:
    """`source` with the text of `span` replaced."""
    lines = source.encode().splitlines(keepends=True)  # columns count bytes
    first, begin, last, end = span
    head, tail = lines[first - 1][:begin], lines[last - 1][end:]
    return b"".join([*lines[: first - 1], head + after.encode() + tail, *lines[last:]]).decode()


def draw(num: int, seed: int) -> list[Site]:
    """`num` lines of the package, each broken in one of its ways."""
    by_line: dict[tuple[str, int], list[Site]] = defaultdict(list)
    for path in [*sorted((ROOT / "a2c_ppo_acktr").rglob("*.py")), *(ROOT / name for name in PROGRAMS)]:
        name = str(path.relative_to(ROOT))
        for site in sites(name, path.read_text()):
            by_line[name, site[2].line].append(site)
    rng = random.Random(seed)
    return [rng.choice(by_line[line]) for line in rng.sample(sorted(by_line), min(num, len(by_line)))]


class Map:
    """Which tests run a line, the quickest first."""

    def __init__(self) -> None:
        self.data = CoverageData(str(WORK / "coverage"))
        self.data.read()
        self.seconds: dict[str, float] = {}
        for case in ElementTree.parse(WORK / "tests.xml").iter("testcase"):
            file = case.attrib["classname"].replace(".", "/")
            self.seconds[f"{file}.py::{case.attrib['name']}"] = float(case.attrib["time"])

    def tests_of(self, site: Site) -> list[str]:
        """Those that run the statement, or anything of the file where it runs at import."""
        (first, _, last, _), statement, mutant = site
        contexts = self.data.contexts_by_lineno(str(ROOT / mutant.path))
        found = {one for line in range(statement, max(first, last) + 1) for one in contexts.get(line, ())}
        if "" in found or not found:
            found = {one for some in contexts.values() for one in some}
        tests = {one.partition("|")[0] for one in found} & self.seconds.keys()
        return sorted((one for one in tests if not any(name in one for name in LEFT_OUT)), key=self.seconds.__getitem__)


def make_map() -> None:
    """Run the suite once, noting which test runs which lines."""
    WORK.mkdir(parents=True, exist_ok=True)
    settings = WORK / "coveragerc"
    settings.write_text(f"[run]\ndata_file = {WORK / 'coverage'}\n")
    options = [f"--cov-config={settings}", "--cov-context=test", "--cov-report=", f"--junitxml={WORK / 'tests.xml'}"]
    sources = [f"--cov={name}" for name in SOURCES]
    subprocess.run([sys.executable, "-m", "pytest", "-n", "2", *options, *sources], cwd=ROOT, check=True)


def try_out(site: Site, tests: list[str], tree: Path, seconds: float) -> Mutant:
    """Break the line in a copy of the repository, and run the tests until one fails."""
    span, _, mutant = site
    mutant.tests = len(tests)
    if not tests:
        mutant.outcome = "untested"
        return mutant
    file = tree / mutant.path
    whole = file.read_text()
    names = tree.parent / f"{tree.name}.txt"
    names.write_text("\n".join(tests))
    command = [sys.executable, "-m", "pytest", "-x", "--tb=no", "-p", "no:xdist", "-p", "no:randomly", f"@{names}"]
    try:
        file.write_text(broken_source(whole, span, mutant.after))
        done = subprocess.run(command, cwd=tree, capture_output=True, text=True, timeout=3 * seconds + 120)
        failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
        mutant.outcome = "survives" if done.returncode == 0 else "noticed"
        mutant.by = failed[0].split(" ", 1)[1].partition(" - ")[0] if failed else ""
    except subprocess.TimeoutExpired:
        mutant.outcome = "hangs"
    finally:
        file.write_text(whole)
    return mutant


def run(num: int, seed: int, processes: int) -> None:
    """Try the drawn mutants that have no row yet."""
    done = {(one.path, one.line, one.after) for one in read()}
    waiting = [site for site in draw(num, seed) if (site[2].path, site[2].line, site[2].after) not in done]
    known, lock = Map(), threading.Lock()

    def work(tree: Path) -> None:
        if not tree.exists():
            subprocess.run(["git", "clone", "-q", str(ROOT), str(tree)], check=True)
        while True:
            with lock:
                if not waiting:
                    return
                site = waiting.pop(0)
                tests = known.tests_of(site)
            mutant = try_out(site, tests, tree, sum(known.seconds[test] for test in tests))
            with lock:
                write([*read(), mutant])
                print(f"{mutant.path}:{mutant.line} {mutant.outcome} ({mutant.before} -> {mutant.after})", flush=True)

    _in_threads(work, [WORK / f"tree-{number}" for number in range(processes)])


def _in_threads(work: Callable[[Path], None], trees: list[Path]) -> None:
    threads = [threading.Thread(target=work, args=(tree,)) for tree in trees]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def read() -> list[Mutant]:
    """The rows that there are."""
    if not RESULTS.is_file():
        return []
    with RESULTS.open(newline="") as file:
        return [Mutant(**{**row, "line": int(row["line"]), "tests": int(row["tests"])}) for row in csv.DictReader(file)]


def write(mutants: list[Mutant]) -> None:
    """Replace the rows."""
    with RESULTS.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Mutant)])
        writer.writeheader()
        writer.writerows(asdict(one) for one in sorted(mutants, key=lambda one: (one.path, one.line, one.after)))


def report(mutants: list[Mutant]) -> str:
    """The share that is noticed of those that change behaviour, and what was not."""
    counted = [one for one in mutants if not one.equivalent]
    noticed = [one for one in counted if one.outcome in ("noticed", "hangs")]
    lines = [
        f"{one.path}:{one.line} {one.outcome}: {one.before} -> {one.after}" for one in counted if one not in noticed
    ]
    share = f"{len(noticed)} of {len(counted)} noticed ({len(noticed) / max(1, len(counted)):.1%})"
    return "\n".join([*lines, f"{share}; {len(mutants) - len(counted)} change nothing that can be seen"])


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("map", "run", "report"), nargs="?", default="report")
    parser.add_argument("--num", type=int, default=150, help="lines")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    if args.what == "map":
        make_map()
    elif args.what == "run":
        run(args.num, args.seed, args.processes)
    print(report(read()))


if __name__ == "__main__":
    main()
