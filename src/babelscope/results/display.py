"""How a run shows itself in a notebook: its facts as a small table, every text escaped."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from babelscope.results.reader import Run


def run_html(run: Run) -> str:
    """An HTML table of the run's facts."""
    rows = "".join(
        f'<tr><th style="text-align:left">{escape(name)}</th><td style="text-align:left">{escape(value)}</td></tr>'
        for name, value in facts(run)
    )
    return f"<table><caption>babelscope {escape(run.kind)} run</caption><tbody>{rows}</tbody></table>"


def facts(run: Run) -> Iterator[tuple[str, str]]:
    """Name and value of what a reader wants to know first."""
    corpus: dict[str, Any] = run.manifest.get("corpus") or {}
    yield "Model", run.model_name
    for key in ("lrds", "sads", "sklr", "neurons", "layers", "n", "threshold"):
        if run.summary.get(key) is not None:
            yield key.upper() if len(key) == 4 else key.capitalize(), number(run.summary[key])
    if run.languages:
        yield "Languages", ", ".join(run.languages)
    if corpus.get("spec"):
        yield "Corpus", str(corpus["spec"])
    if run.tables:
        yield "Tables", ", ".join(run.tables)
    yield "Where", run.source


def number(value: Any) -> str:
    """Counts with narrow separators that do not break, measures with four significant digits, anything else as text.

    >>> number(491520), number(0.123456)
    ('491\\u202f520', '0.1235')
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) or (value.is_integer() and abs(value) >= 1000):
        return f"{int(value):,}".replace(",", "\u202f")
    return f"{value:.4g}"
