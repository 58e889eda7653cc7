"""Sentences on a circuits run: whether the model does the task, and how far one language's circuit does another's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from babelscope.findings.sentence import Estimate, Finding, count, named
from babelscope.results import Run
from babelscope.wording import decimals, short_name

NAN = float("nan")
CHANCE = 0.5
"""accuracy of a coin between target and foil"""
FEWEST_SETS = 19
"""random sets below which to lie above all of them is no rarer than one in twenty"""
FEW_PROMPTS = 20
"""below which a search overlooks more than it finds (`benchmarks/circuit_calls.py`)"""


@dataclass(frozen=True)
class Behaviour:
    """How often the model prefers the target to the foil in one language (and stratum)."""

    language: str
    stratum: str
    accuracy: Estimate
    n: int


@dataclass(frozen=True)
class Transfer:
    """How much of the task is left when everything but one language's circuit is ablated, in another language."""

    found_in: str
    run_on: str
    faithfulness: Estimate
    random: float
    """mean faithfulness of as many random heads"""
    random_high: float
    """upper end of the random sets' 95 %"""
    heads: int
    sets: int = 20
    """random sets that there are: a layer with few other heads allows few"""
    model: str = ""
    """where the run has a second model"""


def circuit_findings(run: Run) -> list[Finding]:
    """All sentences that a circuits run gives, a set for each model that it holds."""
    task = str(run.manifest.get("task") or "task")
    found = [behaviour(rows, task, model) for model, rows in _behaviour(run)]
    transfers = list(_transfers(run))
    return [
        *found,
        *shared(transfers),
        *own(transfers),
        *power(patched_prompts(run)),
        *_alone(run),
        *_verbs(run),
        *screen(run),
    ]


def behaviour(rows: Sequence[Behaviour], task: str, model: str = "") -> Finding:
    """Whether the model does the task at all: without that, no circuit means anything; `model`: one of two."""
    who = model or "The model"
    figure = "behaviour"
    if not rows:
        return Finding(
            "not measured", f"Whether {model or 'the model'} does the task ({task}) was not measured.", figure
        )
    told = "; ".join(
        f"{named([row.language])}{f', {row.stratum}' if row.stratum else ''} {decimals(100 * row.accuracy.value, 0)} % "
        f"({decimals(100 * row.accuracy.low, 0)} to {decimals(100 * row.accuracy.high, 0)}; n = {row.n})"
        for row in rows
    )
    failing = [row for row in rows if not row.accuracy.low > CHANCE]
    if not failing:
        return Finding("effect", f"{who} does the task ({task}) better than chance everywhere: {told}.", figure)
    if len(failing) == len(rows):
        return Finding("none", f"{who} does not do the task ({task}) better than chance: {told}.", figure)
    return Finding("undecided", f"{who} does the task ({task}) better than chance in part only: {told}.", figure)


def shared(rows: Sequence[Transfer]) -> Iterator[Finding]:
    """A sentence for each ordered pair of languages: does the circuit of one do the task in the other?

    An effect: the interval of the faithfulness lies above the random sets' upper end, and there are enough of them.
    None: it lies below.
    """
    for row in rows:
        if row.found_in == row.run_on:
            continue
        own_rows = [one for one in rows if one.found_in == one.run_on == row.run_on and one.model == row.model]
        beside = (
            f"; its own circuit, on the prompts that chose it, {_percent(own_rows[0].faithfulness)}" if own_rows else ""
        )
        said = (
            f"{_percent(row.faithfulness)} of the task in {named([row.run_on])}{beside}; as many random heads "
            f"{decimals(100 * row.random, 0)} %{_few_sets(row)}"
        )
        yield _against_random(
            row,
            f"The {named([row.found_in])} circuit ({count(row.heads, 'head')}) keeps {said}.",
            f"The {named([row.found_in])} circuit does no more than random heads in {named([row.run_on])}: {said}.",
        )


def own(rows: Sequence[Transfer]) -> Iterator[Finding]:
    """Circuits that are no better than random heads in their own language: nothing else can be read from them."""
    for row in rows:
        if row.found_in == row.run_on and row.heads and row.faithfulness.low <= row.random_high:
            said = f"{_percent(row.faithfulness)}, random heads up to {decimals(100 * row.random_high, 0)} %"
            where = f"{named([row.found_in])} circuit is not better than random heads in its own language"
            text = f"The {where}, even on the prompts that chose it: {said}."
            yield Finding("undecided", text, "cross-language")


def power(prompts: Mapping[str, int]) -> Iterator[Finding]:
    """What a search of few prompts cannot say; `prompts`: how many were patched, by language."""
    few = {code: count for code, count in prompts.items() if count < FEW_PROMPTS}
    if few:
        told = ", ".join(f"{named([code])} {count}" for code, count in few.items())
        text = (
            f"Few prompts were patched ({told}): of simulated heads that do two fifths of a task, a search of ten "
            "prompts finds about one in five, of twenty three in five. A head that is not listed may act all the same."
        )
        yield Finding("undecided", text, "head-heatmap")


def alone(prompts: Mapping[str, tuple[int, int]]) -> Iterator[Finding]:
    """Prompts whose mean for ablation is taken over themselves, of how many, by language: told from one in ten on."""
    told = [f"{named([code])} {single} of {count}" for code, (single, count) in prompts.items() if 10 * single >= count]
    if told:
        text = (
            f"Some prompts are the only ones of their template, order and length ({', '.join(told)}): mean ablation "
            "puts their own corrupted prompt in place of a mean there. More prompts (--n) leave fewer of them."
        )
        yield Finding("undecided", text, "ablation-bars")


def same_verb(prompts: Mapping[str, tuple[int, int]]) -> Iterator[Finding]:
    """Verbs, and prompts, by language: where verbs come again, their prompts are not independent."""
    told = [
        f"{named([code])} {count(verbs, 'verb')} in {prompts} prompts"
        for code, (verbs, prompts) in prompts.items()
        if verbs < prompts
    ]
    if told:
        text = (
            f"Prompts are taken as independent, also those of one verb ({', '.join(told)}): where verbs differ, "
            "intervals are too narrow and p-values too small."
        )
        yield Finding("undecided", text, "behaviour")


def _verbs(run: Run) -> Iterator[Finding]:
    counts = patched_prompts(run)
    return same_verb({code: (verbs, counts.get(code, 0)) for code, verbs in run.manifest.get("verbs", {}).items()})


def _alone(run: Run) -> Iterator[Finding]:
    counts = patched_prompts(run)
    return alone({code: (single, counts.get(code, 0)) for code, single in run.manifest.get("alone", {}).items()})


def patched_prompts(run: Run) -> dict[str, int]:
    """Prompts of the patched stratum, by language; empty where the run does not say."""
    items = run.manifest.get("corpus", {}).get("items", {})
    return {code: len(next(iter(parts.values()))) for code, parts in items.items() if isinstance(parts, dict) and parts}


def _few_sets(row: Transfer) -> str:
    return f" ({count(row.sets, 'set')}; {FEWEST_SETS} or more could decide)" if row.sets < FEWEST_SETS else ""


def screen(run: Run) -> Iterator[Finding]:
    """What the screen of heads may have missed in the search, all steps together."""
    if "screen" not in run.tables:
        return
    rows = [row for row in _records(run.table("screen")) if str(row["sweep"]).startswith("search")]
    if not rows:
        return
    worst = max(rows, key=lambda row: int(row["missed_at_most"]))
    seen = sum(int(row["sampled_passed"]) for row in rows)
    sampled = sum(int(row["sampled"]) for row in rows)
    text = (
        f"Heads were screened before they were patched: {seen} of {sampled} sampled among those passed over would have "
        f"been selected; in no step were more than {int(worst['missed_at_most'])} of the {int(worst['left'])} heads "
        "that nobody patched (95 % for a step). --exact patches all."
    )
    yield Finding("none" if not seen else "undecided", text, "heads")


def _against_random(row: Transfer, above: str, below: str) -> Finding:
    if not row.heads:
        return Finding("none", f"No head was selected in {named([row.found_in])}: there is no circuit.", "head-heatmap")
    if not row.faithfulness.known or row.random_high != row.random_high:
        return Finding("undecided", above, "cross-language")
    if row.faithfulness.low > row.random_high:
        return Finding("effect" if row.sets >= FEWEST_SETS else "undecided", above, "cross-language")
    return Finding("none" if row.faithfulness.high <= row.random_high else "undecided", below, "cross-language")


def _percent(estimate: Estimate) -> str:
    ends = f" ({decimals(100 * estimate.low, 0)} to {decimals(100 * estimate.high, 0)})" if estimate.known else ""
    return f"{decimals(100 * estimate.value, 0)} %{ends}"


def _behaviour(run: Run) -> Iterator[tuple[str, list[Behaviour]]]:
    """The rows of each model; its name where there are two."""
    table = run.table("behaviour") if "behaviour" in run.tables else None
    if table is None:
        yield "", []
        return
    groups = table.groupby("model", sort=False) if "model" in table else [("", table)]
    several = "model" in table and len(set(table["model"].tolist())) > 1
    for model, rows in groups:
        yield (
            short_name(str(model)) if several else "",
            [
                Behaviour(
                    str(row["language"]),
                    str(row.get("stratum") or ""),
                    Estimate(float(row["accuracy"]), float(row.get("low", NAN)), float(row.get("high", NAN))),
                    int(row.get("n", 0)),
                )
                for row in _records(rows)
            ],
        )


def _transfers(run: Run) -> Iterator[Transfer]:
    if "cross_faithfulness" not in run.tables:
        return
    for row in _records(run.table("cross_faithfulness")):
        estimate = Estimate(float(row["faithfulness"]), float(row.get("low", NAN)), float(row.get("high", NAN)))
        random, high = float(row.get("random", NAN)), float(row.get("random_high", NAN))
        where = str(row["found_in"]), str(row["run_on"])
        sets = int(row.get("random_sets", FEWEST_SETS))
        yield Transfer(*where, estimate, random, high, int(row.get("heads", 1)), sets, str(row.get("model") or ""))


def _records(table: Any) -> list[dict[str, Any]]:
    return table.to_dict("records")
