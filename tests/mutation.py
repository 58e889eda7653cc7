"""Mutation testing by cosmic-ray's operators: `python -m tests.mutation [--each N] [--seed S] [PACKAGE or MODULE …]`.

Mutants are drawn at random from every place at which an operator changes the code of a package (annotations and
docstrings aside); each is written into a copy of the source and run against the tests that run its line: the quick ones
first. Those that change nothing that could be seen are named, with the reason, in
`tests/equivalents.py`; the share is of the others, with Wilson's interval.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import os
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

from babelscope.settings import syntax_tree
from tests.covering import SOURCE, Covering, covering
from tests.equivalents import reason
from tests.in_place import Collected, with_tests
from tests.mutants import ROOT, passes

PACKAGES = {
    "regions": "regions_* experts_* statistics_spec relevance notebook frozen",
    "circuits": "circuits* extending notebook frozen",
    "models": "models* decoding experts experts_blocks encoders uneven_layers allocator residual_site relatives* "
    "frozen",
    "results": "results* hub steps show scratch sealed figures* findings relatives* faults_resume faults_names "
    "faults_places notebook frozen",
    "evolution": "evolution_* plans security latent_models faults_moments notebook frozen",
    "corpora": "corpora* strict_readers languages published_formats door notebook python frozen",
}
"""package → its tests"""

QUICK = 15.0
"""seconds of tests that are tried before the rest"""


@dataclass(frozen=True)
class Drawn:
    """One change of one file."""

    file: Path
    operator: str
    changed: str

    @property
    def name(self) -> str:
        return str(self.file.relative_to(SOURCE))

    def places(self) -> list[int]:
        """The lines that are changed, counted in the source as it is."""
        pairs = difflib.SequenceMatcher(None, *self._texts(), autojunk=False).get_opcodes()
        return [pair[1] + 1 for pair in pairs if pair[0] != "equal"]

    def lines(self) -> tuple[str, str]:
        """What stands there and what the mutant says, stripped."""
        before, after = self._texts()
        pairs = difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes()
        changed = [pair for pair in pairs if pair[0] != "equal"]
        old = " ".join(line.strip() for _, begin, end, _, _ in changed for line in before[begin:end])
        return old, " ".join(line.strip() for *_, begin, end in changed for line in after[begin:end])

    def _texts(self) -> tuple[list[str], list[str]]:
        return self.file.read_text(encoding="utf-8").splitlines(), self.changed.splitlines()


def mutants(source: str) -> Iterator[tuple[str, int]]:
    """Every operator and the number of the place at which it changes something that runs."""
    nodes = list(ast_nodes(get_ast(source)))
    for name in sorted(operator_names()):
        if get_operator(name).arguments():
            continue  # puts one given variable in the place of another
        operator = get_operator(name)()
        places = sum(1 for node in nodes for _ in operator.mutation_positions(node))
        yield from ((name, place) for place in range(places))


@cache
def _meaning(source: str) -> str:
    """The code without annotations and docstrings."""
    tree = syntax_tree(source)
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


def drawn(files: list[Path], count: int, seed: int) -> Iterator[Drawn]:
    """`count` mutants, each place of each file as likely as any other."""
    everything = [(file, *one) for file in files for one in mutants(file.read_text(encoding="utf-8"))]
    random.Random(seed).shuffle(everything)
    for file, name, place in everything:
        if not count:
            return
        source = file.read_text(encoding="utf-8")
        try:
            changed = mutate_code(source, get_operator(name)(), place)
            if changed is None or _meaning(changed) == _meaning(source):
                continue
        except (SyntaxError, AttributeError):  # AttributeError: the operator knows no `except (module.Error, …)`
            continue
        count -= 1
        yield Drawn(file, name.removeprefix("core/"), changed)


def lives(one: Drawn, known: Covering, collected: Collected) -> tuple[bool, int]:
    """Whether every test that runs the changed lines passes, and how many such tests there are."""
    tests = list(dict.fromkeys(test for line in one.places() for test in known.of(one.file, line)))
    quick, spent = list[str](), 0.0
    for test in tests:
        spent += known.seconds[test]
        if quick and spent > QUICK:
            break
        quick.append(test)
    source = one.file.read_text(encoding="utf-8")
    for part in filter(None, (quick, tests[len(quick) :])):
        seconds = sum(known.seconds[test] for test in part)
        try:
            alive = collected.passes(one.name, source, one.changed, one.places()[0], sorted(part), 60 + 5 * seconds)
        except LookupError:
            alive = passes(one.name, one.changed, sorted(part), each=300 + 10 * seconds)
        if not alive:
            return False, len(tests)
    return True, len(tests)


def main(arguments: list[str] | None = None) -> int:
    """A line for each survivor, and a line for each package."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="*", default=list(PACKAGES), help="packages or modules, such as regions/lape.py")
    parser.add_argument("--each", type=int, default=10, help="mutants drawn from each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--covering", type=Path, help="folder that keeps which tests run a line, however old")
    parser.add_argument("--only", default="", help="only mutants whose line, as it is, holds this text")
    asked = parser.parse_args(arguments)
    os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1")  # a mutant that asks the hub would wait for long
    import torch
    import transformers  # noqa: F401  imported once, for every fork

    torch.set_num_threads(1)
    head = ("", "drawn", "equivalent", "killed", "lived", "share, 95 % interval", "minutes")
    print("{:<28}{:>6}{:>11}{:>7}{:>6}{:>24}{:>8}".format(*head), flush=True)
    for what in asked.what:
        package = what.partition("/")[0]
        globs = [f"test_{glob}.py" for glob in PACKAGES[package].split()]
        tests = sorted({test for glob in globs for test in (ROOT / "tests").glob(glob)})
        known = covering(tests, asked.covering and asked.covering / f"{package}.json")
        with_tests(tests, partial(_try, what, asked, known))
    return 0


def _try(what: str, asked: argparse.Namespace, known: Covering, collected: Collected) -> None:
    begun, same, killed, lived = time.monotonic(), 0, 0, list[str]()
    files = [SOURCE / what] if what.endswith(".py") else sorted((SOURCE / what).rglob("*.py"))
    for one in drawn(files, asked.each, asked.seed):
        old, new = one.lines()
        if asked.only not in old:
            continue
        if reason(one.name, old, new):
            same += 1
            continue
        alive, count = lives(one, known, collected)
        killed += not alive
        print(f"{same + killed + len(lived) + alive} of {asked.each}", file=sys.stderr, flush=True)
        if alive:
            lived.append(f"  {one.name}:{one.places()[0]}, {one.operator}, {count} tests\n    -{old}\n    +{new}")
            print(lived[-1], file=sys.stderr, flush=True)
    spent = (time.monotonic() - begun) / 60
    print(f"{what:<28}{same + killed + len(lived):>6}{same:>11}{killed:>7}{len(lived):>6}", end="")
    print(f"{_share(killed, killed + len(lived)):>24}{spent:>8.1f}", *lived, sep="\n", flush=True)


def _share(killed: int, of: int) -> str:
    from babelscope.stats import wilson

    found = wilson(killed, of)
    return f"{found.value:.0%} [{found.low:.0%}, {found.high:.0%}]" if of else "–"


if __name__ == "__main__":
    sys.exit(main())
