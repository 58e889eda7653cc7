"""The deactivation table: what switching off each region does to each language (the paper's Tables 1 and 4).

Rows are evaluated languages; conditions are the model as it is, every region, and two kinds of random controls: of the
regions' mean size from the whole model (one set for all languages, as in the paper), and for the text of each language
as many neurons of every layer as that language's own region holds, so that a region is held against its like.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool
from torch import Tensor

from babelscope.models import Model
from babelscope.regions.losses_under import Reading, first_layer, read_texts, resumes
from babelscope.regions.masks import RegionSet, random_region, random_region_by_layer
from babelscope.regions.perplexity import Loss, Windows, increase_percent, perplexity_of
from babelscope.regions.rounds import (
    AT_ONCE,
    NARROW,
    ROUNDS,
    Cell,
    Key,
    by_rounds,
    dealt,
    selectivity_in_rounds,
)
from babelscope.results.schemas.regions import Perplexity, Selectivity

BASE, RANDOM, RANDOM_BY_LAYER = "base", "random", "random-layer"


@dataclass(frozen=True)
class Condition:
    """One set of neurons to switch off."""

    deactivated: str
    """`base`, a language, `random` or `random-layer`"""
    draw: int
    """number of the random draw; −1 where nothing is drawn"""
    mask: Bool[Tensor, "P N"] | None
    """None: nothing is switched off"""
    own: Mapping[str, Bool[Tensor, "P N"]] = field(default_factory=dict[str, Tensor])
    """the set for the text of a language, where it has one of its own"""

    def on(self, language: str) -> Bool[Tensor, "P N"] | None:
        """The set that is switched off on the text of a language."""
        return self.own.get(language, self.mask)


@dataclass(frozen=True)
class DeactivationTable:
    rows: tuple[Perplexity, ...]
    selectivity: tuple[Selectivity, ...]
    fixed: bool = True
    """every set of neurons was read on all text"""
    tokens: int = 0
    """that went through the model"""
    tokens_fixed: int = 0
    """that would have, on all text"""

    @property
    def reading(self) -> dict[str, object]:
        """How it was read: the rule, tokens, and how many sets and draws were read in how many rounds."""
        last = [row for row in self.rows if row.deactivated != BASE and row.neurons]
        drawn = [row for row in last if row.draw >= 0]
        looks = AT_ONCE if self.fixed else ROUNDS
        counts = {
            name: [sum(row.rounds == place for row in rows) for place in range(1, len(looks) + 1)]
            for name, rows in (("regions_by_rounds", [row for row in last if row.draw < 0]), ("draws_by_rounds", drawn))
        }
        return {
            "fixed": self.fixed,
            "shares_of_text": [look.share for look in looks],
            "errors": [look.error for look in looks],
            "narrow": NARROW,
            "tokens": self.tokens,
            "tokens_fixed": self.tokens_fixed,
            **counts,
        }

    def perplexities(self) -> dict[str, dict[str, float]]:
        """Perplexity by condition and evaluated language; the mean over draws for random controls."""
        found: dict[str, dict[str, list[float]]] = {}
        for row in self.rows:
            found.setdefault(row.deactivated, {}).setdefault(row.language, []).append(row.perplexity)
        return {
            condition: {language: sum(values) / len(values) for language, values in by_language.items()}
            for condition, by_language in found.items()
        }

    def _repr_html_(self) -> str:
        from babelscope.notebook import table

        by_condition = self.perplexities()
        headers = ["", "base", *(f"without {name} %" for name in by_condition if name != BASE)]
        rows: list[list[str | float]] = []
        for code, base in by_condition.get(BASE, {}).items():
            others = (values.get(code, float("nan")) for name, values in by_condition.items() if name != BASE)
            rows.append([code, round(base, 2), *(round(100 * (value / base - 1), 1) for value in others)])
        return table("Perplexity, and its increase when neurons are switched off", headers, rows, most=40)


def conditions(regions: RegionSet, controls: int, seed: int) -> Iterator[Condition]:
    """The model as it is, every region, and `controls` draws of each random control.

    A text in a language without a region meets as many neurons of every layer as the mean region holds.
    """
    yield Condition(BASE, -1, None)
    for language, mask in regions.masks.items():
        yield Condition(language, -1, mask)
    widths = regions.layout.widths
    size = round(regions.total / len(regions.masks))
    for draw in range(controls):
        yield Condition(RANDOM, draw, random_region(size, widths, seed + draw))
        yield matched_by_layer(regions, draw, seed)


def matched_by_layer(regions: RegionSet, draw: int, seed: int) -> Condition:
    """One draw of random neurons: for each language as many of every layer as its own region holds."""
    widths = regions.layout.widths
    sizes = {language: mask.sum(1) for language, mask in regions.masks.items()}
    mean = torch.stack([*sizes.values()]).double().mean(0).round().int()
    own = {code: random_region_by_layer(counts.tolist(), widths, seed + draw) for code, counts in sizes.items()}
    return Condition(RANDOM_BY_LAYER, draw, random_region_by_layer(mean.tolist(), widths, seed + draw), own)


def deactivation_table(
    model: Model,
    windows: Mapping[str, Windows],
    regions: RegionSet,
    controls: int = 5,
    seed: int = 0,
    budget: int | None = None,
    progress: Callable[[int], None] | None = None,
    fixed: bool = False,
) -> DeactivationTable:
    """Score every language under every condition, in rounds; `fixed`: each of them on all text.

    Cost: at most (1 + L + 2 · controls) passes over the text; in rounds a set of neurons is read no further in a
    language once its interval is ± a tenth of the effects beside it (`rounds.known`). Passes start at the first layer
    that a set touches. An empty region changes nothing and is reported as such.

    >>> table = deactivation_table(model, windows, regions)            # doctest: +SKIP
    >>> table.perplexities()["zh"]["en"]                               # doctest: +SKIP
    52.1
    """
    looks = AT_ONCE if fixed else ROUNDS
    made = list(conditions(regions, controls, seed))
    masks = {code: {(one.deactivated, one.draw): one.on(code) for one in made} for code in windows}
    sizes = {
        code: {key: 0 if mask is None else int(mask.sum()) for key, mask in own.items()} for code, own in masks.items()
    }
    chosen = {
        code: {key: mask for key, mask in own.items() if mask is not None and sizes[code][key]}
        for code, own in masks.items()
    }
    resumed = any(first_layer(mask) for own in chosen.values() for mask in own.values()) and resumes(model)
    parts = {code: dealt(text, looks, seed) for code, text in windows.items()}
    read = 0

    def told(tokens: int) -> None:
        nonlocal read
        read += tokens
        if progress:
            progress(tokens)

    def score_round(round_: int, keys: Mapping[str, Collection[Key]]) -> dict[str, dict[Key, Loss]]:
        added = {code: own[round_] for code, own in parts.items()}
        if progress:
            # what is read no further is done as well
            progress(sum((len(made) - 1 - len(keys[code])) * part.ids.numel() for code, part in added.items()))
        asked = {code: {key: chosen[code][key] for key in keys[code]} for code in added}
        return read_texts(model, Reading(added, asked, resumed), budget, told)

    found = by_rounds(score_round, sizes, looks)
    rows = [
        _row(code, *key, sizes[code][key], cell, found.base[code])
        for key, by_language in found.cells.items()
        for code, cell in by_language.items()
    ]
    own = [
        _selectivity(code, found.cells[code, -1], fixed)
        for code in regions.languages
        if code in windows and len(windows) > 1
    ]
    whole = sum((1 + len(chosen[code])) * text.ids.numel() for code, text in windows.items())
    return DeactivationTable(tuple(rows), tuple(own), fixed, read, whole)


def _row(language: str, deactivated: str, draw: int, neurons: int, cell: Cell, whole: Loss) -> Perplexity:
    # the change was measured on the text that was read; it is added to the base of all text
    nll = whole.nll + cell.change.value
    increase = increase_percent(cell.change)
    return Perplexity(
        language=language,
        deactivated=deactivated,
        draw=draw,
        neurons=neurons,
        nll=nll,
        tokens=cell.changed.tokens,
        bytes=whole.byte_count,
        bits_per_byte=nll * whole.tokens / math.log(2) / whole.byte_count,
        perplexity=perplexity_of(nll),
        increase_percent=increase.value,
        increase_low=increase.low,
        increase_high=increase.high,
        delta_nll=cell.change.value,
        delta_low=cell.change.low,
        delta_high=cell.change.high,
        interval=cell.change.method,
        why=cell.change.why,
        documents=int((cell.base.counts > 0).sum()),
        rounds=cell.rounds,
    )


def _selectivity(language: str, cells: Mapping[str, Cell], fixed: bool) -> Selectivity:
    own, others = cells[language], {code: cell for code, cell in cells.items() if code != language}
    found = selectivity_in_rounds(own, others, AT_ONCE if fixed else ROUNDS)
    return Selectivity(
        language=language,
        own=own.change.value,
        others=own.change.value - found.value,
        selectivity=found.value,
        low=found.low,
        high=found.high,
        interval=found.method,
        why=found.why,
        documents=int((own.base.counts > 0).sum()),
    )
