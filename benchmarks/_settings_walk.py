"""How far the settings of the regions study travel: a walk along the calls that hand them on, from `study_regions`.

A settings object is a parameter annotated with `RegionsSettings` or one of the groups that it is made of, what `.part`
gives, an attribute `.settings`, and the first parameter of a step's function. Fields that are read end the walk: they
are values.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

START, STUDY = "study_regions", "RegionsSettings"
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Walk:
    """What the walk met."""

    files: tuple[str, ...]
    """in the order in which they are entered"""
    climbs: int
    """calls that hand the settings back to a file that was entered earlier"""
    names: tuple[str, ...]
    """that a settings object goes by"""


def walk(trees: dict[Path, ast.Module], source: Path) -> Walk:
    """Depth first, every function once."""
    kinds = _kinds(trees)
    homes: dict[str, list[tuple[Path, Function]]] = defaultdict(list)
    for path, tree in trees.items():
        for one in ast.walk(tree):
            if isinstance(one, Function) and _parameters(one, kinds):
                homes[one.name].append((path, one))
            if isinstance(one, ast.ClassDef) and _holds(one, kinds):
                homes[one.name] += [(path, inner) for inner in one.body if isinstance(inner, Function)]
    files: list[Path] = []
    names: set[str] = set()
    climbs, seen = 0, set[int]()

    def enter(path: Path, function: Function, before: Path | None) -> None:
        nonlocal climbs
        if id(function) in seen:
            return
        seen.add(id(function))
        if before is not None and path in files and files.index(path) < files.index(before):
            climbs += 1
        if path not in files:
            files.append(path)
        known = set(_parameters(function, kinds)) | set(_steps_own(function)) | set(_assigned(function))
        names.update(known)
        for called in _handed(function, known):
            for place, inner in homes.get(called, []):
                enter(place, inner, path)

    for path, function in homes.get(START, []):
        enter(path, function, None)
    return Walk(tuple(str(path.relative_to(source)) for path in files), climbs, tuple(sorted(names)))


def _kinds(trees: dict[Path, ast.Module]) -> set[str]:
    """The study's settings class and the classes that it inherits from."""
    bases = {
        one.name: [base.id for base in one.bases if isinstance(base, ast.Name)]
        for tree in trees.values()
        for one in ast.walk(tree)
        if isinstance(one, ast.ClassDef)
    }
    found, todo = set[str](), [STUDY]
    while todo:
        name = todo.pop()
        if name in bases and name not in found:
            found.add(name)
            todo += [base for base in bases[name] if base != "Settings"]
    return found


def _parameters(function: Function, kinds: set[str]) -> list[str]:
    every = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    return [one.arg for one in every if one.annotation is not None and kinds & set(_words(one.annotation))]


def _holds(one: ast.ClassDef, kinds: set[str]) -> bool:
    """Whether objects of the class carry settings: a field of theirs, or what they are made of."""
    fields = [line.annotation for line in one.body if isinstance(line, ast.AnnAssign)]
    makers = [line for line in one.body if isinstance(line, Function) and line.name == "__init__"]
    return any(kinds & set(_words(field)) for field in fields) or any(_parameters(maker, kinds) for maker in makers)


def _words(annotation: ast.expr) -> Iterator[str]:
    for one in ast.walk(annotation):
        if isinstance(one, ast.Name):
            yield one.id
        elif isinstance(one, ast.Constant) and isinstance(one.value, str):
            yield from one.value.replace("|", " ").split()


def _assigned(function: Function) -> Iterator[str]:
    """Variables that a settings object is put into."""
    for one in ast.walk(function):
        if isinstance(one, ast.Assign) and _is_settings(one.value, set()):
            yield from (target.id for target in one.targets if isinstance(target, ast.Name))


def _steps_own(function: Function) -> Iterator[str]:
    """First parameters of the functions of steps."""
    for one in ast.walk(function):
        if isinstance(one, ast.Call) and isinstance(one.func, ast.Name) and one.func.id == "Step":
            for given in one.args:
                if isinstance(given, ast.Lambda) and given.args.args:
                    yield given.args.args[0].arg


def _is_settings(value: ast.expr, known: set[str]) -> bool:
    if isinstance(value, ast.Name):
        return value.id in known
    if isinstance(value, ast.Attribute):
        return value.attr == "settings"
    return isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute) and value.func.attr == "part"


def _handed(function: Function, known: set[str]) -> Iterator[str]:
    """Names of the functions and classes that are called with a settings object."""
    for one in ast.walk(function):
        if not isinstance(one, ast.Call):
            continue
        given = [*one.args, *(keyword.value for keyword in one.keywords)]
        if any(_is_settings(value, known) for value in given):
            if isinstance(one.func, ast.Name):
                yield one.func.id
            elif isinstance(one.func, ast.Attribute):
                yield one.func.attr
