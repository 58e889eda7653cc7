"""The page of promises names tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "promises.md"
NAMED = sorted(
    set(re.findall(r"`((?:pocket_factory/)?tests/[\w/]+\.py)(?:::(\w+))?`", PAGE.read_text(encoding="utf-8")))
)


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_a_named_test_exists(file, name):
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    found = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    assert not name or name in found


def test_every_promise_has_a_test():
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    promises = [row for row in rows if not row.startswith(("| promise", "| target"))]
    unnamed = [
        row
        for row in promises
        if not re.search(r"`(tests/|pocket_factory/tests/|\.ci/|make )", row) and "inputs" not in row
    ]
    assert len(NAMED) > 40
    assert not [row for row in unnamed if not re.match(r"\| `", row)]


def test_the_paths_of_make_and_ci_exist():
    text = PAGE.read_text(encoding="utf-8")
    targets = (ROOT / "Makefile").read_text(encoding="utf-8")
    for name in set(re.findall(r"`make ([\w-]+)`", text)):
        assert f"\n{name}:" in targets, name
    if not (ROOT / ".ci").is_dir():
        pytest.skip("the scripts of continuous integration are not in the sdist")
    for name in set(re.findall(r"`(\.ci/\w+)`", text)):
        assert (ROOT / name).is_file(), name
