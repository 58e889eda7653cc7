"""Run a claim and its twin, and write what came out: `verdict.json`, the parts as a table, and a page."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, cast

import pandas as pd

from babelscope._version import __version__
from babelscope.claims.case import Case
from babelscope.claims.claim import COMPARED, Claim
from babelscope.claims.measures import MEASURES, measured
from babelscope.claims.page import claim_page
from babelscope.claims.verdict import Part, Verdict, aggregate, judge, with_twin
from babelscope.errors import InputError, RunError
from babelscope.json_text import read_json
from babelscope.results.csv_cells import write_csv
from babelscope.results.whole import whole_file, whole_folder

SUM = "sha256"
"""of all the rest of verdict.json, which is read again"""


@dataclass(frozen=True)
class Side:
    """A claim or its twin, measured and judged."""

    parts: tuple[Part, ...]
    verdicts: Mapping[str, Verdict]
    verdict: Verdict
    wall_s: float
    processor_s: float


@dataclass(frozen=True)
class Replication:
    """What a claim came to."""

    claim: Claim
    case: Case
    original: Side
    twin: Side
    distance: str
    """near, other model or quick; only near (the paper's model, data named by the user) is called a replication"""

    @property
    def verdict(self) -> Verdict:
        """The verdict that may be shown: withheld where the twin holds."""
        return with_twin(self.original.verdict, self.twin.verdict)

    def facts(self) -> dict[str, Any]:
        """Everything as JSON holds it; reported values that were not read in the paper enter no comparison."""
        return {
            "claim": self.claim.id,
            "sentence": self.claim.claim,
            "paper": {"title": self.claim.title, "arxiv": self.claim.arxiv},
            "claim_hash": self.claim.hash,
            "verdict": asdict(self.verdict),
            "scope": self.claim.scope,
            "distance": self.distance,
            "measure": self.claim.measure,
            "unit": self.claim.unit,
            "case": asdict(self.case),
            "parts": _rows(self.claim, self.original),
            "twin": {
                "kind": self.claim.twin,
                "verdict": asdict(self.twin.verdict),
                "parts": _rows(self.claim, self.twin),
            },
            "reported": [
                {**value, "compared": value["sure"] in COMPARED and self.distance != "quick"}
                for value in self.claim.reported
            ],
            "controls_missing": list(self.claim.controls_missing),
            "cost": {name: _cost(side) for name, side in (("original", self.original), ("twin", self.twin))},
            "babelscope": __version__,
        }


def quick_case(claim: Claim, seed: int = 0) -> Case:
    """The quick run of a claim on the built-in models. Raises InputError for one that waits for something."""
    if claim.needs:
        raise InputError(f"{claim.id} cannot be run: it waits for {'; '.join(claim.needs)}")
    if claim.measure not in MEASURES:
        raise InputError(f"there is no measure {claim.measure!r}; measures: {', '.join(MEASURES)}")
    return MEASURES[claim.measure].case(seed)


def replicate(
    claim: Claim, case: Case, distance: str = "quick", progress: Callable[[str], None] = lambda line: None
) -> Replication:
    """Measure and judge a claim and its twin: same model, n, least effect, interval and seed.

    Raises InputError for a claim that cannot be run.
    """
    if claim.needs:
        raise InputError(f"{claim.id} cannot be run: it waits for {'; '.join(claim.needs)}")
    progress(f"{claim.id}: {claim.claim}")
    original = _side(claim, replace(case, twin=""))
    progress(f"{claim.id}: {original.verdict.answer}; its twin ({claim.twin} destroyed)")
    return Replication(claim, case, original, _side(claim, replace(case, twin=claim.twin)), distance)


def power(claim: Claim, case: Case) -> list[str]:
    """Lines on what a claim's twin can tell at the planned n: its half width by part beside the least effect.

    Raises InputError where a part's least effect lies below its half width, though the file says that the twin can be
    told from a true claim.
    """
    side = _side(claim, replace(case, twin=claim.twin))
    lines: list[str] = []
    weak: list[str] = []
    for part in side.parts:
        half, effect = (part.high - part.low) / 2, claim.effect(part.name)
        lines.append(
            f"{part.name}: least effect {effect:g}, twin {part.estimate:.3g} ± {half:.2g} (n = {part.n} {part.unit}): "
            f"{side.verdicts[part.name].answer}"
        )
        if not half <= effect:
            weak.append(f"{part.name} {effect:g}, half width {half:.2g}")
    if not weak:
        return lines
    small = f"least effects below the twin's half width at n = {case.n}: {'; '.join(weak)}"
    if claim.twin_expected == "does not hold":
        raise InputError(f"{claim.id}: {small}: raise n or the least effect")
    return [*lines, f"the file says so (twin: {claim.twin_expected}): {small}"]


def finished(claim: Claim, case: Case, out: Path) -> dict[str, Any] | None:
    """The facts of a replication that lies there already, of the same claim file, case and version; else None.

    Raises RunError for one that is damaged.
    """
    facts = _before(case, out)
    return facts if facts is not None and facts["claim_hash"] == claim.hash else None


def judged_again(claim: Claim, case: Case, out: Path, distance: str = "quick") -> Replication | None:
    """What lies there, measured alike for another version of the claim file, judged by this one; else None.

    A changed least effect, rule or expectation asks for no new numbers. Raises RunError for one that is damaged.
    """
    facts = _before(case, out)
    if facts is None or facts["claim"] != claim.id or facts["measure"] != claim.measure:
        return None
    if facts["twin"]["kind"] != claim.twin or facts["distance"] != distance:
        return None
    sides = {name: _parts(rows) for name, rows in (("original", facts["parts"]), ("twin", facts["twin"]["parts"]))}
    original, twin = (_judged(claim, parts, **facts["cost"][name]) for name, parts in sides.items())
    return Replication(claim, case, original, twin, distance)


def _before(case: Case, out: Path) -> dict[str, Any] | None:
    path = out / "verdict.json"
    if not path.is_file():
        return None
    facts: Any = read_json(path, "", RunError, non_finite=True)
    if not isinstance(facts, dict) or facts.pop(SUM, None) != _sum(cast("dict[str, Any]", facts)):
        raise RunError(f"{path} is damaged: it is not what was written; remove {out}, or give another --out")
    asked = json.loads(json.dumps(asdict(case)))
    same = facts.get("case") == asked and facts.get("babelscope") == __version__
    return cast("dict[str, Any]", facts) if same else None


def _parts(rows: Sequence[Mapping[str, Any]]) -> tuple[Part, ...]:
    return tuple(Part(**{field.name: row[field.name] for field in fields(Part)}) for row in rows)


def write_replication(found: Replication, out: Path) -> Path:
    """`verdict.json`, `parts.csv` and `index.html` in a new folder, or in the place of an older verdict on the claim.

    Raises InputError where something else is there, RunError where it cannot be made.
    """
    facts = found.facts()
    with whole_folder(out, replace=_older(found.claim, out)) as partial:
        text = json.dumps({**facts, SUM: _sum(facts)}, indent=1, ensure_ascii=False, allow_nan=True)
        (partial / "verdict.json").write_text(text + "\n", encoding="utf-8")
        rows = [{"side": "claim", **row} for row in facts["parts"]]
        rows += [{"side": "twin", **row} for row in facts["twin"]["parts"]]
        write_csv(pd.DataFrame(rows), partial / "parts.csv")
        (partial / "index.html").write_text(claim_page([facts]), encoding="utf-8")
    return out


def _older(claim: Claim, out: Path) -> bool:
    """Whether a verdict on this claim lies there: of another version of its file or this package, or another case."""
    path = out / "verdict.json"
    if not path.is_file():
        return False
    facts: Any = read_json(path, "", RunError, non_finite=True)
    return isinstance(facts, dict) and cast("dict[str, Any]", facts).get("claim") == claim.id


def write_page(facts: Sequence[Mapping[str, Any]], out: Path) -> Path:
    """One page of several replications, a table first. Raises InputError where it cannot be written."""
    with whole_file(out) as partial:
        partial.write_text(claim_page(facts), encoding="utf-8")
    return out


def _sum(facts: Mapping[str, Any]) -> str:
    """Hash of the facts as they are read again, in which tuples are lists and keys are texts."""
    return hashlib.sha256(json.dumps(json.loads(json.dumps(facts)), sort_keys=True).encode()).hexdigest()


def _side(claim: Claim, case: Case) -> Side:
    wall, processor = time.perf_counter(), time.process_time()
    parts = tuple(measured(claim.measure, case))
    return _judged(claim, parts, time.perf_counter() - wall, time.process_time() - processor)


def _judged(claim: Claim, parts: Sequence[Part], wall_s: float, processor_s: float) -> Side:
    names = {part.name for part in parts}
    for named in (claim.rules, claim.least_effect):
        for name in named:
            if name not in {*names, "*"}:
                raise InputError(f"{claim.id}: verdict names the part {name!r}; there are {', '.join(sorted(names))}")
    verdicts = {part.name: judge(part, claim.rule(part.name), claim.effect(part.name)) for part in parts}
    return Side(tuple(parts), verdicts, aggregate(verdicts, claim.aggregate), wall_s, processor_s)


def _rows(claim: Claim, side: Side) -> list[dict[str, Any]]:
    return [
        {
            **asdict(part),
            "rule": claim.rule(part.name),
            "least_effect": claim.effect(part.name),
            "verdict": side.verdicts[part.name].answer,
            "reason": side.verdicts[part.name].reason,
        }
        for part in side.parts
    ]


def _cost(side: Side) -> dict[str, float]:
    return {"wall_s": round(side.wall_s, 1), "processor_s": round(side.processor_s, 1)}
