"""Write `docs/claims.md`: every published claim on the pocket family, from runs of `babelscope replicate`.

babelscope replicate all --quick --seeds 3 --out runs/claims
python docs/make_claims.py runs/claims [COMMIT]     # seeds may also lie in folders of their own: runs/claims/s0/CLAIM

COMMIT is that of the code that measured; without one, that of the working tree.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict
from datetime import UTC, datetime
from math import isfinite
from pathlib import Path
from typing import Any

from babelscope.claims import packaged_claims

PAGE = Path(__file__).with_name("claims.md")
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"


def found(folder: Path) -> dict[str, dict[int, dict[str, Any]]]:
    """Facts by claim and seed, of the claim files as they are now."""
    facts: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
    for path in sorted(folder.rglob("verdict.json")):
        one = json.loads(path.read_text(encoding="utf-8"))
        claim = packaged_claims().get(one["claim"])
        if claim is not None and not claim.needs:
            facts[one["claim"]][one["case"]["seed"]] = one
    return facts


def number(value: float) -> str:
    return "–" if not isfinite(value) else f"{value:.3g}".replace("-", "−")


def ours(facts: dict[str, Any]) -> str:
    """Up to three parts with intervals, then how many more there are."""
    told = [
        f"{part['name']} {number(part['estimate'])} ({number(part['low'])} to {number(part['high'])})"
        if isfinite(part["low"])
        else f"{part['name']} –: {part['reason']}"
        for part in facts["parts"]
    ]
    rest = f"; {len(told) - 3} more" if len(told) > 3 else ""
    return "; ".join(told[:3]) + rest


def bars(facts: dict[str, Any]) -> str:
    """What the intervals have to pass: the larger of least effect and control."""
    values: list[float] = []
    for part in facts["parts"]:
        sign = -1 if part["rule"] == "less" else 1
        if part["rule"] == "not less":
            values.append(-part["least_effect"])
            continue
        values.append(sign * max(part["least_effect"], sign * part["control"] if part["rule"] != "equal" else 0))
    low, high = min(values), max(values)
    return number(low) if low == high else f"{number(low)} to {number(high)}"


def theirs(facts: dict[str, Any]) -> str:
    """The first value that may be compared: read in the text, counted in the authors' files, or in their code."""
    known = [
        one for one in facts["reported"] if one["sure"] in ("text", "artefact", "code") and one["value"] is not None
    ]
    if not known:
        return "no number that was read in the paper"
    first, more = known[0], f" (+{len(known) - 1})" if len(known) > 1 else ""
    value = first["value"]
    if isinstance(value, dict):
        value = ", ".join(f"{name} {one}" for name, one in value.items())
    elif isinstance(value, list):
        value = " to ".join(map(str, value)) if len(value) == 2 else ", ".join(map(str, value))
    return f"{first['what']}: {value} {first.get('unit') or ''}".strip() + more


def verdicts(seeds: dict[int, dict[str, Any]]) -> tuple[str, str]:
    """Verdict and twin over the seeds."""

    def counted(answers: list[str]) -> str:
        kinds = sorted(set(answers), key=answers.count, reverse=True)
        return kinds[0] if len(kinds) == 1 else ", ".join(f"{kind} ({answers.count(kind)})" for kind in kinds)

    every = [seeds[seed] for seed in sorted(seeds)]
    return (
        counted([one["verdict"]["answer"] for one in every]),
        counted([one["twin"]["verdict"]["answer"] for one in every]),
    )


SEEDS = {
    "2410.11718": "Zeng et al., Converging to a Lingua Franca",
    "2410.09223": "Zhang et al., The Same but Different",
}
"""the two papers that this package began with"""
DISTANCES = {
    "quick": "quick run on the pocket family: no replication",
    "other model": "another model than the paper's: no replication",
    "near": "the paper's model",
}


def seeds_said(facts: dict[str, dict[int, dict[str, Any]]]) -> list[str]:
    """What the two papers claim, each with what holds here, its scope and how far the run is from theirs."""
    lines: list[str] = []
    for arxiv, title in SEEDS.items():
        lines += ["", f"## {title} ({arxiv})", "", "| they claim | here | scope | distance |", "|---|---|---|---|"]
        for claim in packaged_claims().values():
            if claim.arxiv != arxiv:
                continue
            seeds = facts.get(claim.id)
            if not seeds:
                here = f"not tried: waits for {'; '.join(claim.needs)}" if claim.needs else "not run for this page"
                lines.append(f"| {claim.claim} | {here} | – | – |")
                continue
            one = seeds[min(seeds)]
            models = ", ".join(name.removeprefix("pocket:") for name in one["case"]["models"])
            verdict, _ = verdicts(seeds)
            because = one["verdict"]["reason"].split(" (")[0]  # the parts' own reasons stand on the claim's page
            reason = f" ({because})" if because else ""
            scope = f"{one['scope']}: {models}"
            lines.append(f"| {claim.claim} | **{verdict}**{reason} | {scope} | {DISTANCES[one['distance']]} |")
    return [line.replace("\n", " ") for line in lines]


def measured(folder: Path, commit: str) -> str:
    """When, and with which code."""
    days = sorted(
        {f"{datetime.fromtimestamp(path.stat().st_mtime, UTC):%-d %B %Y}" for path in folder.rglob("verdict.json")}
    )
    return f"Measured on {', '.join(days)}, with the code of {commit}."


def every_run(facts: dict[str, dict[int, dict[str, Any]]]) -> list[str]:
    """A row a claim, a column a seed: verdict, twin, wall and processor seconds of both together."""
    seeds = sorted({seed for runs in facts.values() for seed in runs})
    lines = ["", "## Every run: verdict; twin; wall, processor time", ""]
    lines += [
        f"| claim | expected | {' | '.join(f'seed {seed}' for seed in seeds)} |",
        "|---|---|" + "---|" * len(seeds),
    ]
    for name, runs in facts.items():
        cells: list[str] = []
        for seed in seeds:
            one = runs.get(seed)
            if one is None:
                cells.append("–")
                continue
            wall, processor = (sum(side[kind] for side in one["cost"].values()) for kind in ("wall_s", "processor_s"))
            twin = one["twin"]["verdict"]["answer"]
            cells.append(f"{one['verdict']['answer']}; {twin}; {wall:.0f} s, {processor:.0f} s")
        claim = packaged_claims()[name]
        lines.append(f"| {name} | {claim.expected}; {claim.twin_expected} | {' | '.join(cells)} |")
    return lines


def changed_later() -> list[str]:
    """What stands in the files on sizes and least effects that were changed after a run."""
    notes = {claim.id: str(claim.raw["verdict"].get("note") or "") for claim in packaged_claims().values()}
    lines = ["", "## What was changed after runs were seen", ""]
    return [*lines, *(f"- {name}: {note}." for name, note in notes.items() if "after runs were seen" in note)]


def table(folder: Path, commit: str) -> str:
    facts = found(folder)
    head = "| claim | theirs | ours (seed 0) | to pass | verdict | twin | seeds | wall, processor |"
    lines = [head, "|---|---|---|---|---|---|---|---|"]
    for claim in packaged_claims().values():
        seeds = facts.get(claim.id)
        if not seeds:
            continue
        first = seeds[min(seeds)]
        verdict, twin = verdicts(seeds)
        cost = first["cost"].values()
        wall, processor = (sum(side[kind] for side in cost) for kind in ("wall_s", "processor_s"))
        cells = (
            f"**{claim.id}**: {claim.claim} ({claim.arxiv})", theirs(first), ours(first), bars(first), verdict, twin,
            str(len(seeds)), f"{wall:.0f} s, {processor:.0f} s",
        )  # fmt: skip
        lines.append("| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |")
    missing = [one.id for one in packaged_claims().values() if not one.needs and one.id not in facts]
    runs = [(packaged_claims()[name], one) for name, seeds in facts.items() for one in seeds.values()]
    as_said = sum(one["verdict"]["answer"] == claim.expected for claim, one in runs)
    failed = sum(one["twin"]["verdict"]["answer"] == "does not hold" for _, one in runs)
    held = sum(one["twin"]["verdict"]["answer"] == "holds" for _, one in runs)
    lines += ["", measured(folder, commit), f"{as_said} of {len(runs)} runs came out as the claim's file expects."]
    lines += [f"Of their twins {failed} do not hold, {len(runs) - failed - held} cannot be decided, {held} hold."]
    longest = max(sum(side["wall_s"] for side in one["cost"].values()) for _, one in runs)
    slow = max(sum(side["processor_s"] for side in one["cost"].values()) for _, one in runs)
    lines += [f"No run, claim and twin together, took more than {slow:.0f} s of processor time on one core."]
    lines += [f"Wall times are those of two cores that several people shared: up to {longest:.0f} s."]
    if missing:
        lines.append(f"Not run for this page: {', '.join(missing)}.")
    lines += seeds_said(facts)
    lines += every_run(dict(sorted(facts.items())))
    lines += changed_later()
    lines += ["", "## What the others wait for", "", "| claim | waits for |", "|---|---|"]
    lines += [f"| {one.id}: {one.claim} | {'; '.join(one.needs)} |" for one in packaged_claims().values() if one.needs]
    return "\n".join(lines)


def main() -> None:
    text = PAGE.read_text(encoding="utf-8")
    start, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    head = ["git", "rev-parse", "--short", "HEAD"]
    commit = (
        sys.argv[2] if len(sys.argv) > 2 else subprocess.run(head, check=True, capture_output=True, text=True).stdout
    )
    PAGE.write_text(f"{text[:start]}\n{table(Path(sys.argv[1]), commit.strip())}\n{text[end:]}", encoding="utf-8")


if __name__ == "__main__":
    main()
