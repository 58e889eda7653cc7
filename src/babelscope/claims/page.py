"""One page for one or several claims: verdicts first, then each part's interval against its bar, the twin's below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from math import isfinite
from typing import Any

import jinja2

LEFT, WIDTH = 150, 560
"""pixels before the scale begins, and of the whole drawing"""


def claim_page(facts: Sequence[Mapping[str, Any]]) -> str:
    """A self-contained HTML page of finished replications (the content of their `verdict.json`)."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    text = files("babelscope.claims").joinpath("page.html").read_text(encoding="utf-8")
    return environment.from_string(text).render(claims=[{**one, "bars": _bars(one)} for one in facts])


def _bars(facts: Mapping[str, Any]) -> list[dict[str, object]]:
    twins = {part["name"]: part for part in facts["twin"]["parts"]}
    return [_bar(part, twins.get(part["name"])) for part in facts["parts"]]


def _bar(part: Mapping[str, Any], twin: Mapping[str, Any] | None) -> dict[str, Any]:
    """Positions of a part and its twin on one scale, with 0 and the bar that the interval has to pass."""
    sign = -1 if part["rule"] == "less" else 1
    bar = sign * max(part["least_effect"], sign * part["control"])
    if part["rule"] in ("not less", "equal"):  # which look at no control
        bar = -part["least_effect"] if part["rule"] == "not less" or part["estimate"] < 0 else part["least_effect"]
    drawn = [one for one in (part, twin) if one is not None]
    values = [0.0, bar, *(one[end] for one in drawn for end in ("low", "high", "estimate"))]
    finite = [value for value in values if isfinite(value)]
    low, room = min(finite), (max(finite) - min(finite)) or 1.0

    def place(value: float) -> float | None:
        return round(LEFT + (value - low) / room * (WIDTH - LEFT - 20), 1) if isfinite(value) else None

    rows = [
        {"name": name, "y": 12 + 18 * row, **{end: place(one[end]) for end in ("low", "high", "estimate")}}
        for row, (name, one) in enumerate(zip((part["name"], "twin"), drawn))
    ]
    said = f"{part['name']}: {_ends(part)} against a bar of {bar:.4g}"
    return {
        "zero": place(0.0),
        "bar": place(bar),
        "rows": rows,
        "said": said + (f"; twin {_ends(twin)}" if twin else ""),
        "part": part,
    }


def _ends(part: Mapping[str, Any]) -> str:
    known = isfinite(part["low"]) and isfinite(part["high"])
    return f"{part['estimate']:.4g} ({part['low']:.4g} to {part['high']:.4g})" if known else f"{part['estimate']:.4g}"
