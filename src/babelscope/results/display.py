"""How a run shows itself in a notebook: its facts as a small table, every text escaped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from babelscope.notebook import table
from babelscope.wording import number

if TYPE_CHECKING:
    import pandas as pd


@runtime_checkable
class Shown(Protocol):
    """What a run says of itself."""

    source: str
    manifest: Mapping[str, Any]

    @property
    def kind(self) -> str: ...
    @property
    def model_name(self) -> str: ...
    @property
    def summary(self) -> dict[str, Any]: ...
    @property
    def languages(self) -> list[str]: ...
    @property
    def tables(self) -> list[str]: ...
    def table(self, name: str) -> pd.DataFrame: ...


_NAMES = {"n": "Sentences", "threshold": "Threshold of z"}


def run_html(run: Shown) -> str:
    """An HTML table of the run's facts."""
    told = table(f"babelscope {run.kind} run", [], facts(run), most=40)
    return told + (_points(run) if run.kind == "sweep" and "points" in run.tables else "")


def _points(run: Shown) -> str:
    """The points of a sweep."""
    points = run.table("points")
    wanted = ["model", "revision", "status", "parameters", "step", "lrds", "sads", "sklr"]
    names = [name for name in wanted if name in points]
    rows = [["–" if value is None or value != value else value for value in row] for row in points[names].to_numpy()]
    return table(f"{len(points)} points", names, rows)


def facts(run: Shown) -> Iterator[tuple[str, str]]:
    """Name and value of what a reader wants to know first."""
    corpus: dict[str, Any] = run.manifest.get("corpus") or {}
    yield "Model", run.model_name
    for key in ("lrds", "sads", "sklr", "neurons", "layers", "n", "threshold"):
        if key == "threshold" and run.summary.get("method", "z-score") != "z-score":
            continue  # on z, which no region of this run comes from
        if run.summary.get(key) is not None:
            shown = number(run.summary[key]) + _interval((run.summary.get("intervals") or {}).get(key))
            yield _NAMES.get(key, key.upper() if len(key) == 4 else key.capitalize()), shown
            if key == "sklr" and run.summary.get("excess_sklr") is not None:
                excess = number(run.summary["excess_sklr"])
                excess += _interval((run.summary.get("intervals") or {}).get("excess_sklr"))
                yield "Excess", f"{excess} of SKLR above permuted labels, at {run.summary.get('at', 'unknown n')}"
    if run.languages:
        yield "Languages", ", ".join(run.languages)
    if corpus.get("spec"):
        yield "Corpus", str(corpus["spec"])
    if run.summary.get("deactivation"):
        yield "Read", _read(run.summary["deactivation"])
    if run.tables:
        yield "Tables", ", ".join(run.tables)
    yield "Where", run.source


def _read(told: Mapping[str, Any]) -> str:
    """How much text the table of deactivation was measured on.

    >>> _read({"fixed": False, "tokens": 30, "tokens_fixed": 90, "regions_by_rounds": [2, 0, 2],
    ...        "draws_by_rounds": [4, 0, 0]})
    '30 of 90 tokens under deactivation; in 1, 2, 3 rounds: regions 2, 0, 2, random draws 4, 0, 0 (in each language)'
    """
    tokens = f"{number(told['tokens'])} of {number(told['tokens_fixed'])} tokens under deactivation"
    if told["fixed"]:
        return tokens
    counts = [", ".join(map(str, told[name])) for name in ("regions_by_rounds", "draws_by_rounds")]
    rounds = ", ".join(str(place + 1) for place in range(len(told["regions_by_rounds"])))
    return f"{tokens}; in {rounds} rounds: regions {counts[0]}, random draws {counts[1]} (in each language)"


def _interval(ends: object) -> str:
    """95 % interval behind a number, where there is one."""
    if not isinstance(ends, list | tuple) or len(ends) != 2 or None in ends:
        return ""
    return f" ({number(ends[0])} to {number(ends[1])})"
