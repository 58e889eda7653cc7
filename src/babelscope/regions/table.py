"""The deactivation table: what switching off each region does to each language (the paper's Tables 1 and 4).

Rows are evaluated languages; conditions are the model as it is, every region, and random controls of the regions' mean
size: drawn from the whole model (as in the paper), and drawn with the mean region's neurons per layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from babelscope.models import Model
from babelscope.regions.deactivation import deactivate
from babelscope.regions.masks import RegionSet, random_region, random_region_by_layer
from babelscope.regions.perplexity import Loss, Windows, increase_percent, loss_change, score, selectivity
from babelscope.results.schemas.regions import Perplexity, Selectivity
from babelscope.stats import no_interval

BASE, RANDOM, RANDOM_BY_LAYER = "base", "random", "random-layer"


@dataclass(frozen=True)
class Condition:
    """One set of neurons to switch off."""

    deactivated: str
    """`base`, a language, `random` or `random-layer`"""
    draw: int
    """number of the random draw; −1 where nothing is drawn"""
    mask: Bool[Tensor, "P N"] | None


@dataclass(frozen=True)
class DeactivationTable:
    rows: tuple[Perplexity, ...]
    selectivity: tuple[Selectivity, ...]

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
    """The model as it is, every region that holds a neuron, and `controls` draws of each random control."""
    yield Condition(BASE, -1, None)
    for language, mask in regions.masks.items():
        yield Condition(language, -1, mask)
    widths = regions.layout.widths
    per_layer = torch.stack([mask.sum(1) for mask in regions.masks.values()]).double().mean(0).round().int().tolist()
    size = round(regions.total / len(regions.masks))
    for draw in range(controls):
        yield Condition(RANDOM, draw, random_region(size, widths, seed + draw))
        yield Condition(RANDOM_BY_LAYER, draw, random_region_by_layer(per_layer, widths, seed + draw))


def deactivation_table(
    model: Model,
    windows: Mapping[str, Windows],
    regions: RegionSet,
    controls: int = 5,
    seed: int = 0,
    budget: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> DeactivationTable:
    """Score every language under every condition.

    Cost: (1 + L + 2 · controls) passes over the text. An empty region changes nothing and is reported as such.

    >>> table = deactivation_table(model, windows, regions)            # doctest: +SKIP
    >>> table.perplexities()["zh"]["en"]                               # doctest: +SKIP
    52.1
    """
    losses: dict[tuple[str, int], dict[str, Loss]] = {}
    sizes: dict[tuple[str, int], int] = {}
    for condition in conditions(regions, controls, seed):
        key = (condition.deactivated, condition.draw)
        sizes[key] = 0 if condition.mask is None else int(condition.mask.sum())
        losses[key] = _scores(model, windows, condition.mask, budget, progress)
    base = losses[BASE, -1]
    rows = [
        _row(language, *key, sizes[key], loss, base[language])
        for key, by_language in losses.items()
        for language, loss in by_language.items()
    ]
    chosen = [
        _selectivity(language, losses[language, -1], base)
        for language in regions.languages
        if language in windows and len(windows) > 1
    ]
    return DeactivationTable(tuple(rows), tuple(chosen))


def _scores(
    model: Model,
    windows: Mapping[str, Windows],
    mask: Tensor | None,
    budget: int | None,
    progress: Callable[[int], None] | None,
) -> dict[str, Loss]:
    def all_languages() -> dict[str, Loss]:
        return {language: score(model, text, budget, progress) for language, text in windows.items()}

    if mask is None:
        return all_languages()
    with deactivate(model, mask):
        return all_languages()


def _row(language: str, deactivated: str, draw: int, neurons: int, loss: Loss, base: Loss) -> Perplexity:
    change = no_interval(0.0, "nothing is switched off") if deactivated == BASE else loss_change(loss, base)
    increase = increase_percent(change)
    return Perplexity(
        language=language,
        deactivated=deactivated,
        draw=draw,
        neurons=neurons,
        nll=loss.nll,
        tokens=loss.tokens,
        bytes=loss.byte_count,
        bits_per_byte=loss.bits_per_byte,
        perplexity=loss.perplexity,
        increase_percent=100 * (loss.perplexity / base.perplexity - 1),
        increase_low=increase.low,
        increase_high=increase.high,
        delta_nll=loss.nll - base.nll,
        delta_low=change.low,
        delta_high=change.high,
        interval=change.method,
        why=change.why,
        documents=int((base.counts > 0).sum()),
    )


def _selectivity(language: str, changed: Mapping[str, Loss], base: Mapping[str, Loss]) -> Selectivity:
    others = {other: (changed[other], base[other]) for other in base if other != language}
    found = selectivity(changed[language], base[language], others)
    own = changed[language].nll - base[language].nll
    documents = int((base[language].counts > 0).sum())
    return Selectivity(
        language=language,
        own=own,
        others=own - found.value,
        selectivity=found.value,
        low=found.low,
        high=found.high,
        interval=found.method,
        why=found.why,
        documents=documents,
    )
