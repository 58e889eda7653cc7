"""Coloured tables as HTML, in which every piece of text is escaped: the only HTML that the explorer makes."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

from babelscope.wording import decimals

_TEMPLATE_SIGNS = {ord(sign): f"&#{ord(sign)};" for sign in "{}$`\\"}
"""The page's HTML component reads its content as a template; as numbers, these signs are text to it, too."""


def shown(value: object) -> str:
    """Any text as HTML that shows exactly that text.

    >>> shown("<b>${x}")
    '&lt;b&gt;&#36;&#123;x&#125;'
    """
    return html.escape(str(value), quote=True).translate(_TEMPLATE_SIGNS)


def words(value: object) -> str:
    """User text set apart from its surroundings: its own direction, and no bidirectional marks that leak out."""
    return f'<bdi dir="auto">{shown(value)}</bdi>'


@dataclass(frozen=True)
class Tint:
    """How the cells of a matrix are coloured and numbered."""

    low: float
    high: float
    """values of the palest and the fullest cell; below zero in another hue"""
    digits: int = 2
    quiet: float | None = None
    """cells below it are tinted but not numbered"""


def heat_table(
    values: Sequence[Sequence[float]],
    rows: Sequence[str],
    columns: Sequence[str],
    caption: str,
    tint: Tint,
    upright: bool = True,
    names: Sequence[Sequence[str]] | None = None,
) -> str:
    """A matrix as a table of tinted cells.

    `names` are what a cell says under the pointer; an empty caption, row or column is allowed. NaN leaves a cell empty.
    """
    low, high = tint.low, tint.high
    spread = max(abs(low), abs(high)) if low < 0 else high - low
    base = 0.0 if low < 0 else low
    kind = "upright" if upright else "turned"
    head = "".join(f'<th scope="col">{words(column)}</th>' for column in columns)
    body = "".join(
        f'<tr><th scope="row">{words(name)}</th>'
        + "".join(
            _cell(value, (value - base) / (spread or 1), tint.digits, tint.quiet, names[row][column] if names else "")
            for column, value in enumerate(line)
        )
        + "</tr>"
        for row, (name, line) in enumerate(zip(rows, values))
    )
    return (
        f'<div class="bs-scroll" tabindex="0" role="group" aria-label="{shown(caption)}"><table class="bs-heat {kind}">'
        f"<caption>{shown(caption)}</caption><thead><tr><td></td>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _cell(value: float, share: float, digits: int, quiet: float | None, name: str) -> str:
    if math.isnan(value):
        return "<td></td>"
    tint = round(100 * min(1.0, abs(share)))
    text = "" if quiet is not None and abs(value) < quiet else decimals(value, digits)
    side = "below" if share < 0 else "above"
    title = f' title="{shown(name)}"' if name else ""
    return f'<td class="{side}" style="--tint:{tint}%"{title}>{text}</td>'


def facts_table(facts: Sequence[tuple[str, str]], caption: str) -> str:
    """Names and values, one pair on each line."""
    body = "".join(f'<tr><th scope="row">{shown(name)}</th><td>{words(value)}</td></tr>' for name, value in facts)
    table = f'<table class="bs-facts"><caption>{shown(caption)}</caption><tbody>{body}</tbody></table>'
    return f'<div class="bs-scroll">{table}</div>'


STYLE = """
.bs-scroll {overflow-x: auto; max-width: 100%; padding-bottom: .4rem}
.bs-heat, .bs-facts {border-collapse: separate; border-spacing: 1px; font-variant-numeric: tabular-nums;
  font-size: .875rem; width: auto; color: var(--body-text-color)}
.bs-heat caption, .bs-facts caption {text-align: start; opacity: .8; padding: .3rem 0;
  max-width: 60rem; white-space: normal}
.bs-heat th, .bs-facts th {font-weight: 500; text-align: start; padding: .15rem .5rem; vertical-align: bottom;
  border: 0; color: var(--body-text-color)}
.bs-heat tbody th {max-width: 28rem; white-space: normal; overflow-wrap: anywhere; vertical-align: middle}
.bs-heat td {min-width: 3.1em; height: 1.9em; text-align: center; padding: .1rem .25rem; border: 0; border-radius: 2px;
  color: var(--body-text-color)}
.bs-heat thead td {min-width: 0}
.bs-heat.upright thead th {text-align: center}
.bs-heat.turned td {min-width: 2em; height: 1.7em; font-size: .75rem; padding: 0}
.bs-heat.turned thead th {writing-mode: vertical-rl; padding: .3rem 0; text-align: end; max-height: 9rem;
  line-height: 2em}
.bs-heat.turned thead td {border: 0}
.bs-heat td.above {background: color-mix(in srgb, #3b82c4 calc(var(--tint) * .62), transparent)}
.bs-heat td.below {background: color-mix(in srgb, #d9822b calc(var(--tint) * .62), transparent)}
.bs-facts td {padding: .15rem .5rem; border: 0; overflow-wrap: anywhere; max-width: 60rem}
button.bs-button {white-space: nowrap; flex: 0 0 auto !important; width: auto !important; padding-inline: 1rem}
.bs-plain textarea, .bs-plain input {unicode-bidi: plaintext}
.bs-plain table {font-family: var(--font); font-variant-numeric: tabular-nums}
.bs-plain table td, .bs-plain table td * {unicode-bidi: plaintext; font-family: var(--font) !important}
.min_value, .max_value {color: var(--body-text-color) !important}
"""
"""For the page: tints are mixed into its own background, so that light and dark both read well."""
