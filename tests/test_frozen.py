"""Values do not change once they are made; what collects while a study is at work is named here."""

from __future__ import annotations

import ast
import gc
from pathlib import Path

import babelscope
from babelscope.settings import syntax_tree

CHANGING = {
    "app/page.py": {"Jobs", "Page"},
    "app/session.py": {"Session"},
    "corpora/folders.py": {"LanguageFiles"},
    "evolution/weights.py": {"_Fetch"},
    "latent/judging.py": {"Pair"},
    "models/ray_workers.py": {"_Place"},
    "models/rows.py": {"Flow"},
    "regions/expert_deactivation.py": {"Dropped"},
    "report/blocks.py": {"Chart", "Example", "Nothing", "Problem", "Prompts", "Section", "Table", "Variant"},
    "report/graph.py": {"Node", "Told"},
    "results/values.py": {"Packer"},
    "steering/fitted.py": {"Fitted"},
    "studies/circuits.py": {"Side", "_Collected"},
    "studies/steer_pair.py": {"PairTables"},
    "studies/steps.py": {"Given"},
}


def _changing() -> dict[str, set[str]]:
    source = Path(babelscope.__file__).parent
    found: dict[str, set[str]] = {}
    for file in sorted(source.rglob("*.py")):
        for one in ast.walk(syntax_tree(file.read_text(encoding="utf-8"))):
            if not isinstance(one, ast.ClassDef):
                continue
            for mark in one.decorator_list:
                if "dataclass" in ast.unparse(mark) and "frozen=True" not in ast.unparse(mark):
                    found.setdefault(str(file.relative_to(source)), set()).add(one.name)
    return found


def test_values_are_frozen():
    assert _changing() == CHANGING


def test_a_finalizer_that_parses_does_not_break_the_tree_under_way():
    source = "\n".join(f"class A{i}:\n    def f(self): return [x + {i} for x in (1, 2, 3)]" for i in range(3000))

    def another(phase: str, _: object) -> None:
        (lambda: (lambda: ast.parse("x = 1"))())()

    gc.callbacks.append(another)
    try:
        trees = [syntax_tree(source) for _ in range(3)]
    finally:
        gc.callbacks.remove(another)
    assert [len(tree.body) for tree in trees] == [3000] * 3
    assert gc.isenabled()
