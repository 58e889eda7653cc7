"""How large and how plain the source is, at any revision: `python -m benchmarks.house [--rev REV] [--against REV]`.

Lines and files of src, files and functions by size, parameters of public functions, `Any` per 1 000 lines, pyright
switches in files, circles of imports with those inside functions counted, runs of six duplicated lines or more, and how
far the settings of the regions study travel. `--list` names the places: large files, long signatures, copies, the walk.
"""

from __future__ import annotations

import argparse
import ast
import itertools
import re
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks._settings_walk import walk

ROOT = Path(__file__).resolve().parents[1]
WINDOW = 6
"""lines that stand twice before it counts as a copy"""


def measures(source: Path) -> dict[str, float]:
    """The numbers of one tree of Python files."""
    texts = {path: path.read_text(encoding="utf-8") for path in sorted(source.rglob("*.py"))}
    trees = {path: ast.parse(text) for path, text in texts.items()}
    lines = [text.count("\n") for text in texts.values()]
    parameters = [len(_parameters(one)) for tree in trees.values() for one in _public_functions(tree)]
    functions = [_length(one) for tree in trees.values() for one in _functions(tree)]
    anys = sum(_anys(tree) for tree in trees.values())
    walked = walk(trees, source)
    switched = sum(bool(re.search(r"^# pyright: \w+\s*=", text, re.M)) for text in texts.values())
    return {
        "lines of src": sum(lines),
        "files of src": len(lines),
        "median lines of a file": statistics.median(lines),
        "largest file": max(lines),
        "median lines of a function": statistics.median(functions),
        "public functions": len(parameters),
        "median parameters of a public function": statistics.median(parameters),
        "most parameters of a public function": max(parameters),
        "public functions with more than eight parameters": sum(count > 8 for count in parameters),
        "Any per 1 000 lines": 1000 * anys / sum(lines),
        "files with pyright switches": switched,
        "modules in circles of imports": _in_circles(trees, source),
        "pairs of copies of six lines or more": len(_copies(texts)),
        "files that the settings of regions enter": len(walked.files),
        "calls that hand them back up": walked.climbs,
        "names that they go by": len(walked.names),
    }


def places(source: Path) -> Iterator[str]:
    """Where what is counted stands."""
    texts = {path: path.read_text(encoding="utf-8") for path in sorted(source.rglob("*.py"))}
    trees = {path: ast.parse(text) for path, text in texts.items()}
    for path, text in texts.items():
        if text.count("\n") > 400:
            yield f"{path.relative_to(source)}: {text.count(chr(10))} lines"
    for path, tree in trees.items():
        for one in _public_functions(tree):
            if len(_parameters(one)) > 8:
                yield f"{path.relative_to(source)}:{one.lineno}: {one.name} has {len(_parameters(one))} parameters"
    for (first, line), (second, other) in _copies(texts):
        yield f"{first.relative_to(source)}:{line} = {second.relative_to(source)}:{other}"
    walked = walk(trees, source)
    yield f"settings enter {' → '.join(walked.files)}; they are called {', '.join(walked.names)}"


def _functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (one for one in ast.walk(tree) if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef))


def _public_functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Functions of a module and methods of its public classes whose names have no underscore in front."""
    bodies = [tree.body, *(one.body for one in tree.body if isinstance(one, ast.ClassDef) and one.name[0] != "_")]
    for body in bodies:
        for one in body:
            if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef) and not one.name.startswith("_"):
                yield one


def _parameters(one: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    every = [*one.args.posonlyargs, *one.args.args, *one.args.kwonlyargs]
    return [argument.arg for argument in every if argument.arg not in ("self", "cls")]


def _length(one: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return (one.end_lineno or one.lineno) - one.lineno + 1


def _anys(tree: ast.Module) -> int:
    return sum(isinstance(one, ast.Name) and one.id == "Any" for one in ast.walk(tree))


def _in_circles(trees: dict[Path, ast.Module], source: Path) -> int:
    """Modules that can be reached from themselves, imports inside functions counted, those for type checkers not."""
    names = {path: _module(path, source) for path in trees}
    known, edges = set(names.values()), defaultdict[str, set[str]](set)
    for path, tree in trees.items():
        for wanted in _imports(tree):
            found = next((name for name in (wanted, wanted.rpartition(".")[0]) if name in known), None)
            if found and found != names[path]:
                edges[names[path]].add(found)
    return sum(name in _reached(name, edges) for name in known)


def _module(path: Path, source: Path) -> str:
    parts = path.relative_to(source).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(tree: ast.Module) -> Iterator[str]:
    skipped = {
        id(inner)
        for one in ast.walk(tree)
        if isinstance(one, ast.If) and "TYPE_CHECKING" in ast.dump(one.test)
        for part in one.body
        for inner in ast.walk(part)
    }
    for one in ast.walk(tree):
        if id(one) in skipped:
            continue
        if isinstance(one, ast.ImportFrom) and one.module and not one.level:
            yield from (f"{one.module}.{alias.name}" for alias in one.names)
        elif isinstance(one, ast.Import):
            yield from (alias.name for alias in one.names)


def _reached(start: str, edges: dict[str, set[str]]) -> set[str]:
    seen: set[str] = set()
    todo = list(edges.get(start, ()))
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            todo += edges.get(name, ())
    return seen


Place = tuple[Path, int]


def _copies(texts: dict[Path, str]) -> list[tuple[Place, Place]]:
    """Places at which six lines of code in a row (imports, blanks and comments left out) stand a second time."""
    found = defaultdict[tuple[str, ...], list[tuple[Path, int]]](list)
    numbers: dict[Path, list[int]] = {}
    for path, text in texts.items():
        imports = {
            line
            for one in ast.walk(ast.parse(text))
            if isinstance(one, ast.Import | ast.ImportFrom)
            for line in range(one.lineno, (one.end_lineno or one.lineno) + 1)
        }
        code = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if number not in imports]
        code = [(number, line) for number, line in code if len(line) > 3 and not line.startswith(("#", '"""', "@"))]
        numbers[path] = [number for number, _ in code]
        for start in range(len(code) - WINDOW + 1):
            found[tuple(line for _, line in code[start : start + WINDOW])].append((path, start))
    pairs = sorted((a, b) for windows in found.values() for a, b in itertools.pairwise(windows))
    # a copy of ten lines holds five windows of six: those that follow one another are one pair
    following = {((p, i + 1), (q, j + 1)) for (p, i), (q, j) in pairs}
    return [((p, numbers[p][i]), (q, numbers[q][j])) for (p, i), (q, j) in pairs if ((p, i), (q, j)) not in following]


@contextmanager
def source_at(revision: str | None) -> Iterator[Path]:
    """`src` of a git revision in a temporary work tree, or of this one."""
    if revision is None:
        yield ROOT / "src"
        return
    with tempfile.TemporaryDirectory(prefix="house-") as folder:
        tree = Path(folder) / "tree"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--detach", str(tree), revision], check=True, capture_output=True)
        try:
            yield tree / "src"
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True, capture_output=True)


def main(arguments: list[str] | None = None) -> None:
    """Print the numbers of one revision, or of two side by side."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rev", help="git revision; default: the files as they are")
    parser.add_argument("--against", help="an older revision, printed in front")
    parser.add_argument("--list", action="store_true", help="name the places")
    asked = parser.parse_args(arguments)
    if asked.list:
        with source_at(asked.rev) as source:
            print(*places(source), sep="\n")
        return
    columns: dict[str, dict[str, float]] = {}
    for revision in dict.fromkeys([asked.against, asked.rev] if asked.against else [asked.rev]):
        with source_at(revision) as source:
            columns[revision or "now"] = measures(source)
    width = max(map(len, next(iter(columns.values()))))
    print(" " * width, *(f"{name:>12}" for name in columns))
    for name in next(iter(columns.values())):
        print(
            f"{name:<{width}}",
            *(f"{one[name]:>12.4g}" if one[name] % 1 else f"{one[name]:>12.0f}" for one in columns.values()),
        )


if __name__ == "__main__":
    main(sys.argv[1:])
