"""Mutation testing by cosmic-ray's operators: `python -m tests.mutation [--each N] [--seed S] [FOLDER or MODULE …]`.

Mutants are drawn at random from every place at which an operator changes the code of a package (annotations and
docstrings aside); each is written into a copy of the source and run against the tests that import its module, and, if
those let it live, with `--deep` against all tests of its package. Some survivors change nothing that could be seen.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import random
import re
import sys
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

from tests.mutants import ROOT, passes

SOURCE = ROOT / "src" / "babelscope"
PACKAGES = {
    "regions": "test_regions_*.py test_experts_*.py",
    "circuits": "test_circuits*.py",
    "models": "test_models*.py test_decoding.py test_experts*.py",
    "results": "test_results.py test_steps.py test_faults_resume.py test_show.py",
    "evolution": "test_evolution_*.py test_regions_stated.py",
    "corpora": "test_corpora*.py test_strict_readers.py",
}
"""package → its tests"""


def mutants(source: str) -> Iterator[tuple[str, int]]:
    """Every operator and the number of the place at which it changes something that runs."""
    nodes = list(ast_nodes(get_ast(source)))
    for name in sorted(operator_names()):
        operator = get_operator(name)()
        places = sum(1 for node in nodes for _ in operator.mutation_positions(node))
        yield from ((name, place) for place in range(places))


@cache
def _meaning(source: str) -> str:
    """The code without annotations and docstrings."""
    tree = ast.parse(source)
    for one in ast.walk(tree):
        if isinstance(one, ast.AnnAssign | ast.arg):
            one.annotation = ast.Constant(None)
        elif isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef):
            one.returns = None
        if isinstance(getattr(one, "body", None), list):
            one.body = [
                line for line in one.body if not (isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant))
            ]
    return ast.dump(tree)


def drawn(files: list[Path], count: int, seed: int) -> Iterator[tuple[Path, str, str]]:
    """`count` mutants, each place of each file as likely as any other: file, operator, changed source."""
    everything = [(file, *one) for file in files for one in mutants(file.read_text(encoding="utf-8"))]
    random.Random(seed).shuffle(everything)
    for file, name, place in everything:
        if not count:
            return
        source = file.read_text(encoding="utf-8")
        changed = mutate_code(source, get_operator(name)(), place)
        try:
            if changed is None or _meaning(changed) == _meaning(source):
                continue
        except SyntaxError:
            continue
        count -= 1
        yield file, name.removeprefix("core/"), changed


def nearest(file: Path) -> list[Path]:
    """Tests that import the module by its path."""
    module = ".".join(("babelscope", *file.relative_to(SOURCE).with_suffix("").parts))
    parent, _, last = module.rpartition(".")
    says = re.compile(rf"{re.escape(module)}\b|from {re.escape(parent)} import [^\n]*\b{last}\b")
    return [test for test in sorted((ROOT / "tests").glob("test_*.py")) if says.search(test.read_text("utf-8"))]


@cache
def _sound(tests: tuple[Path, ...]) -> bool:
    return passes("py.typed", "", tests)


def main(arguments: list[str] | None = None) -> int:
    """A line for each survivor, and a line for each package."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="*", default=list(PACKAGES), help="packages or modules, such as regions/lape.py")
    parser.add_argument("--each", type=int, default=10, help="mutants drawn from each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--deep", action="store_true", help="all tests of the package against those that live")
    asked = parser.parse_args(arguments)
    print(f"{'':<28}{'run':>5}{'killed':>8}{'lived':>7}{'share':>7}{'minutes':>9}")
    for what in asked.what:
        package = what.partition("/")[0]
        files = [SOURCE / what] if what.endswith(".py") else sorted((SOURCE / what).rglob("*.py"))
        everything = sorted({test for glob in PACKAGES[package].split() for test in (ROOT / "tests").glob(glob)})
        begun, killed, lived = time.monotonic(), 0, list[str]()
        for file, operator, changed in drawn(files, asked.each, asked.seed):
            near = nearest(file) or everything
            if not _sound(tuple(near)):
                raise SystemExit(f"the tests do not pass as things are: {', '.join(test.name for test in near)}")
            name = str(file.relative_to(SOURCE))
            alive = passes(name, changed, near) and not (
                asked.deep and near != everything and not passes(name, changed, everything)
            )
            killed += not alive
            if alive:
                lived.append(f"  {name}, {operator}:{_line(file, changed)}")
        share = f"{killed / (killed + len(lived)):7.0%}" if killed + len(lived) else f"{'–':>7}"
        spent = (time.monotonic() - begun) / 60
        print(f"{what:<28}{killed + len(lived):>5}{killed:>8}{len(lived):>7}{share}{spent:>9.1f}", flush=True)
        print(*lived, sep="\n", end="\n" if lived else "", flush=True)
    return 0


def _line(file: Path, changed: str) -> str:
    before = file.read_text(encoding="utf-8").splitlines()
    lines = difflib.unified_diff(before, changed.splitlines(), lineterm="", n=0)
    return "".join(f"\n    {line}" for line in lines if line[0] in "+-" and not line.startswith(("---", "+++")))


if __name__ == "__main__":
    sys.exit(main())
