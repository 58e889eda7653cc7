"""What a run says of one neuron: which regions of which methods hold it, and by what effect, interval and p."""

from __future__ import annotations

import math
from collections.abc import Sequence

from babelscope.app.session import Session
from babelscope.wording import between


def held_by(session: Session, layer: int, neuron: int, languages: Sequence[str]) -> list[str]:
    """Of each language, the methods whose region of that language holds the neuron; "–" where none does."""
    sets = session.region_sets()
    found = (
        [name for name, one in sets.items() if code in one.masks and bool(one.masks[code][layer, neuron])]
        for code in languages
    )
    return [", ".join(names) or "–" for names in found]


def evidence(session: Session, layer: int, neuron: int, languages: Sequence[str]) -> dict[str, list[str | float]]:
    """Column → a value for each language: the effect in standard deviations, its 95 % interval, and p-values.

    Empty where the run has none, and without a run.
    """
    run = session.run
    if run is None or run.kind != "regions":
        return {}
    arrays = run.arrays()
    if "d" not in arrays:
        return {}

    def of(name: str) -> list[float]:
        values = arrays[name].sel(layer=layer, neuron=neuron)
        known = {str(code): float(value) for code, value in zip(values["language"].values, values.values)}
        return [known.get(code, math.nan) for code in languages]

    columns: dict[str, list[str | float]] = {"effect": list(of("d"))}
    if {"d_low", "d_high"} <= set(arrays.data_vars):
        columns["95 %"] = list(map(between, of("d_low"), of("d_high")))
    for name in ("p_raised", "p_lowered"):
        if name in arrays:
            columns[name.replace("_", " ")] = list(of(name))
    return columns


def rule(session: Session) -> str:
    """By what rule the main regions hold a neuron, in words."""
    regions = session.known_regions
    if regions is None:
        return ""
    facts = regions.facts
    if regions.method == "contrast" and "effect" in facts:
        rate = f"at a false discovery rate of {100 * float(facts['rate']):.3g} %"
        if facts.get("sign", "raised") != "raised":
            return f"regions by contrast of neurons that are {facts['sign']}, {rate}"
        least = f"{float(facts['effect']):g} standard deviations or more above the other languages"
        return f"the region of a language holds the neurons whose effect lies {least}, {rate}"
    if "threshold" in facts:
        return f"the region of a language holds the neurons with z > {float(facts['threshold']):.3g}"
    return f"regions by {regions.method}"
