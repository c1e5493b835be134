"""The script that breaks lines to see whether the tests notice."""

import ast

import pytest

from benchmarks import mutations
from benchmarks.mutations import Mutant, broken_source, sites

SOURCE = '''"""A module."""

LIMIT: int = 3


def f(x: int, y=-2.0):
    """Says 1 + 1."""
    total = 0.5 * (x + y)
    total += 1
    if not x <= y and total is not None:
        g(x, y, key=True)
    return f"{x + y} of {LIMIT}"
'''
BROKEN = {
    ("constant", "LIMIT: int = (4)"),
    ("constant", "def f(x: int, y=-(4.0)):"),
    ("sign", "def f(x: int, y=(2.0)):"),
    ("operator", "    total = (0.5 / (x + y))"),
    ("operator", "    total = 0.5 * ((x - y))"),
    ("constant", "    total = (1.0) * (x + y)"),
    ("statement", "    pass"),
    ("constant", "    total += (2)"),
    ("operator", "    if (not x <= y or total is not None):"),
    ("sign", "    if (x <= y) and total is not None:"),
    ("comparison", "    if not (x < y) and total is not None:"),
    ("comparison", "    if not x <= y and (total is None):"),
    ("statement", "        pass"),
    ("arguments", "        (g(y, x, key=True))"),
    ("constant", "        g(x, y, key=(False))"),
}


def test_every_way_to_break_a_line_is_found_and_none_in_texts_and_annotations():
    found = set()
    for span, _, mutant in sites("m.py", SOURCE):
        broken = broken_source(SOURCE, span, mutant.after)
        ast.parse(broken)
        changed = [new for old, new in zip(SOURCE.splitlines(), broken.splitlines(), strict=True) if old != new]
        assert len(changed) == 1
        found.add((mutant.kind, changed[0]))
    assert found == BROKEN


def test_what_spans_lines_and_letters_beyond_ascii_is_replaced_where_it_stands():
    source = 'name = "\u00e9" + (\n    1 +\n    2\n)\n'
    (span, statement, mutant), *_ = [site for site in sites("m.py", source) if site[2].before == "1 + 2"]
    assert statement == 1
    assert broken_source(source, span, mutant.after) == 'name = "\u00e9" + (\n    (1 - 2)\n)\n'


def test_the_same_seed_draws_the_same_lines_each_once():
    first, again, other = (mutations.draw(40, seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert len({(mutant.path, mutant.line) for _, _, mutant in first}) == 40


def test_only_what_changes_behaviour_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(mutations, "RESULTS", tmp_path / "mutations.csv")
    rows = [Mutant("a.py", 1, "sign", "-1", "(1)", outcome) for outcome in ("noticed", "hangs", "survives", "untested")]
    mutations.write([*rows, Mutant("a.py", 2, "sign", "-1", "(1)", "survives", equivalent="squared next")])
    report = mutations.report(mutations.read())
    assert report.splitlines()[-1] == "2 of 4 noticed (50.0%); 1 change nothing that can be seen"
    assert report.count("a.py:1") == 2


@pytest.mark.parametrize(("after", "outcome"), [("(a + b)", "survives"), ("(a - b)", "noticed")])
def test_a_mutant_is_tried_by_the_tests_of_its_line_and_taken_back(tmp_path, after, outcome):
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "m.py").write_text("def add(a, b):\n    return b + a\n")
    (tree / "test_m.py").write_text("import m\n\n\ndef test_sum():\n    assert m.add(2, 1) == 3\n")
    site = (2, 11, 2, 16), 2, Mutant("m.py", 2, "operator", "b + a", after)
    found = mutations.try_out(site, ["test_m.py::test_sum"], tree, 1.0)
    assert (found.outcome, found.tests) == (outcome, 1)
    assert found.by == ("test_m.py::test_sum" if outcome == "noticed" else "")
    assert (tree / "m.py").read_text() == "def add(a, b):\n    return b + a\n"
