"""A claim file: YAML with fixed keys, read strictly; every packaged claim is one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args

from babelscope.claims.verdict import Aggregate, Answer, Rule
from babelscope.errors import InputError, PlanError
from babelscope.evolution.located import Located, read_yaml

SURE = ("text", "caption", "abstract", "artefact", "code", "secondary", "spec", "memory")
"""how surely a reported value is known"""
COMPARED = ("text", "artefact", "code")
"""those that may stand beside ours; the others are printed with their word and enter no comparison"""
TWINS = (
    "labels", "ids", "facts", "heads", "concepts", "order", "languages", "features", "weights", "classes", "families",
    "models", "planted"
)  # fmt: skip
"""what is destroyed (or, for claims of no effect, planted) in a twin"""

RUN = ("corpus", "texts", "stories", "languages", "n", "tokens", "window")
"""keys of `run`"""

UNFIXED = "to be fixed at the first run"
"""expected verdict of a claim that has not been run yet"""

_KEYS = {
    "id": str, "paper": dict, "claim": str, "models": list, "data": list, "measure": dict, "reported": list,
    "controls_missing": list, "verdict": dict, "needs": list, "cost": dict, "run": dict, "pocket": dict, "twin": dict,
}  # fmt: skip
_OPTIONAL = ("needs", "cost", "reported", "run")


@dataclass(frozen=True)
class Claim:
    """One published claim."""

    id: str
    title: str
    arxiv: str
    claim: str
    """one sentence that could turn out false"""
    measure: str
    """a name of `claims.measures.MEASURES`"""
    unit: str
    rules: Mapping[str, Rule]
    """rule of each part; `*` for all others"""
    least_effect: Mapping[str, float]
    """least effect of each part; `*` for all others"""
    aggregate: Aggregate
    scope: str
    needs: tuple[str, ...]
    """features that must exist first; not empty: listed, not run"""
    model: str
    """of the quick run"""
    data: str
    expected: str
    """verdict of the quick run that is known beforehand"""
    basis: str
    twin: str
    """what the twin destroys"""
    twin_expected: str
    """`does not hold`, but where the same n could not tell: then the claim itself cannot be decided either"""
    run: Mapping[str, Any]
    """of the paper's own size: corpus, texts, stories, languages, n, tokens a language, window"""
    reported: tuple[Mapping[str, Any], ...]
    controls_missing: tuple[str, ...]
    raw: Mapping[str, Any]

    @property
    def hash(self) -> str:
        """SHA-256 of the file's content: a changed least effect is another claim."""
        return hashlib.sha256(json.dumps(self.raw, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]

    def rule(self, part: str) -> Rule:
        """Rule of a part."""
        return self.rules.get(part) or self.rules["*"]

    def effect(self, part: str) -> float:
        """Least effect of a part."""
        return self.least_effect.get(part) or self.least_effect["*"]


@cache
def packaged_claims() -> Mapping[str, Claim]:
    """The claims of the package by id, in alphabetical order.

    >>> packaged_claims()["zeng-same-meaning"].expected
    'holds'
    """
    folder = files("babelscope.claims") / "data"
    found = sorted((file for file in folder.iterdir() if file.name.endswith(".yaml")), key=lambda file: file.name)
    claims = [parse_claim(file.read_text(encoding="utf-8"), file.name) for file in found]
    return {claim.id: claim for claim in claims}


def load_claim(name: str) -> Claim:
    """A packaged claim by id, or a claim file. Raises InputError, or PlanError with file and line."""
    known = packaged_claims()
    if name in known:
        return known[name]
    path = Path(name)
    if path.suffix not in {".yaml", ".yml"}:
        raise InputError(
            f"there is no claim {name!r}; babelscope replicate list shows the claims, or give a .yaml file"
        )
    try:
        return parse_claim(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {getattr(error, 'strerror', None) or 'not UTF-8 text'}") from None


def parse_claim(text: str, name: str) -> Claim:
    """A claim from YAML text; unknown or missing keys and wrong types are a PlanError with the line."""
    document = read_yaml(text, name)
    data = document.data
    if not isinstance(data, dict):
        document.fail((), "a claim is a mapping of keys")
    document.only(data, (), list(_KEYS))
    for key, kind in _KEYS.items():
        if key not in data and key not in _OPTIONAL:
            document.fail((), f"the key {key} is missing")
        if key in data and not isinstance(data[key], kind):
            document.fail((key,), f"{key} is a {_WORDS[kind]}, not {type(data[key]).__name__}")
    verdict, measure, pocket, twin = (data[key] for key in ("verdict", "measure", "pocket", "twin"))
    _needs(document, "paper", data["paper"], ("title", "arxiv"), ("authors", "venue"))
    _needs(document, "measure", measure, ("name", "unit"), ("of", "settings"))
    _needs(document, "verdict", verdict, ("rule", "least_effect", "aggregate"),
           ("parts", "bar", "scope", "precondition", "note"))  # fmt: skip
    _needs(document, "pocket", pocket, ("expected", "basis"), ("model", "data", "note"))
    _needs(document, "twin", twin, ("kind", "expected"), ("how", "measured"))
    _one_of(document, ("twin", "kind"), twin["kind"], TWINS)
    _one_of(document, ("twin", "expected"), twin["expected"], get_args(Answer))
    _needs(document, "run", data.get("run") or {}, (), RUN)
    _one_of(document, ("pocket", "expected"), pocket["expected"], (*get_args(Answer), UNFIXED))
    _one_of(document, ("verdict", "aggregate"), verdict["aggregate"], get_args(Aggregate))
    for place, value in enumerate(data.get("reported") or []):
        _needs(document, "reported", value, ("what", "value", "sure"), ("unit", "where"), (place,))
        _one_of(document, ("reported", place, "sure"), value["sure"], SURE)
    rules, effects = _rules(document, verdict["rule"]), _effects(document, verdict["least_effect"])
    lacking = [part for part in effects if part != "*" and part not in rules and "*" not in rules]
    if lacking or not effects or not rules:
        document.fail(("verdict", "rule"), f"no rule for {', '.join(lacking)}" if lacking else "a part has none")
    return Claim(
        id=data["id"],
        title=str(data["paper"]["title"]),
        arxiv=str(data["paper"]["arxiv"]),
        claim=data["claim"],
        measure=str(measure["name"]),
        unit=str(measure["unit"]),
        rules=rules,
        least_effect=effects,
        aggregate=verdict["aggregate"],
        scope=str(verdict.get("scope") or "on this run"),
        needs=tuple(map(str, data.get("needs") or [])),
        model=str(pocket.get("model") or ""),
        data=str(pocket.get("data") or ""),
        expected=pocket["expected"],
        basis=str(pocket["basis"]),
        twin=twin["kind"],
        twin_expected=twin["expected"],
        run=data.get("run") or {},
        reported=tuple(data.get("reported") or []),
        controls_missing=tuple(map(str, data["controls_missing"])),
        raw=data,
    )


_WORDS = {str: "text", dict: "mapping", list: "list"}


def _needs(
    document: Located,
    key: str,
    given: Any,
    needed: tuple[str, ...],
    optional: tuple[str, ...],
    place: tuple[str | int, ...] = (),
) -> None:
    where = (key, *place)
    if not isinstance(given, dict):
        document.fail(where, f"a mapping with {', '.join(needed)}")
    document.only(given, where, [*needed, *optional])
    for name in needed:
        if name not in given:
            document.fail(where, f"the key {name} is missing")


def _one_of(document: Located, place: tuple[str | int, ...], value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        document.fail(place, f"{value!r} is none of {', '.join(allowed)}")


def _rules(document: Located, given: Any) -> dict[str, Rule]:
    rules = given if isinstance(given, dict) else {"*": given}
    for part, rule in rules.items():
        _one_of(document, ("verdict", "rule"), rule, get_args(Rule))
        if not isinstance(part, str):
            document.fail(("verdict", "rule"), f"{part!r} is no name of a part")
    return dict(rules)


def _effects(document: Located, given: Any) -> dict[str, float]:
    effects = given if isinstance(given, dict) else {"*": given}
    for part, value in effects.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            document.fail(("verdict", "least_effect"), f"{value!r} ({part}) is no number above 0")
    return {str(part): float(value) for part, value in effects.items()}


__all__ = ["COMPARED", "SURE", "TWINS", "Claim", "PlanError", "load_claim", "packaged_claims", "parse_claim"]
