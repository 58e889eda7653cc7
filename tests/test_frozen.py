"""Values do not change once they are made; what collects while a study is at work is named here."""

from __future__ import annotations

import ast
from pathlib import Path

import babelscope

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
        for one in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(one, ast.ClassDef):
                continue
            for mark in one.decorator_list:
                if "dataclass" in ast.unparse(mark) and "frozen=True" not in ast.unparse(mark):
                    found.setdefault(str(file.relative_to(source)), set()).add(one.name)
    return found


def test_values_are_frozen():
    assert _changing() == CHANGING
