"""How results show themselves in a notebook: small tables, every text escaped, in the notebook's own colours.

Result classes call these from their `_repr_html_`; nothing here imports any of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from babelscope.wording import number, visible

ROWS = 12
"""rows shown of a long table"""
_CELL = "padding:.15em .6em;border:0;background:none;color:inherit"


def table(caption: str, headers: Sequence[str], rows: Iterable[Sequence[object]], most: int = ROWS) -> str:
    """A table that takes its colours from the page around it, light or dark; no more than `most` rows.

    >>> "&lt;b&gt;" in table("sizes", ["language", "neurons"], [["<b>", 3]])
    True
    """
    listed = [tuple(row) for row in rows]
    head = "".join(f'<th style="{_CELL};text-align:{_side(listed, k)}">{_shown(x)}</th>' for k, x in enumerate(headers))
    body = "".join(
        "<tr>"
        + "".join(f'<td style="{_CELL};text-align:{_side(listed, k)}">{_isolated(x)}</td>' for k, x in enumerate(row))
        + "</tr>"
        for row in listed[:most]
    )
    more = f'<p style="margin:.2em .6em;opacity:.75">and {len(listed) - most} more</p>' if len(listed) > most else ""
    top = f"<thead><tr>{head}</tr></thead>" if headers else ""
    name = (
        f'<caption style="text-align:left;caption-side:top;font-weight:600;color:inherit">{_shown(caption)}</caption>'
    )
    style = "border-collapse:collapse;color:inherit;background:none;font-variant-numeric:tabular-nums"
    return f'<div><table style="{style}">{name}{top}<tbody>{body}</tbody></table>{more}</div>'


def bars(caption: str, values: Mapping[str, float], note: str = "") -> str:
    """Names with their values and a bar each, the longest bar at the largest value."""
    most = max((abs(value) for value in values.values()), default=0) or 1
    rows = "".join(
        f'<tr><th style="{_CELL};text-align:left;font-weight:400">{_isolated(name)}</th>'
        f'<td style="{_CELL};text-align:right">{number(value)}</td><td style="{_CELL};width:14em">'
        f'<div style="height:.7em;width:{100 * abs(value) / most:.1f}%;background:#0072B2"></div></td></tr>'
        for name, value in values.items()
    )
    name = (
        f'<caption style="text-align:left;caption-side:top;font-weight:600;color:inherit">{_shown(caption)}</caption>'
    )
    below = f'<p style="margin:.2em .6em;opacity:.75">{_shown(note)}</p>' if note else ""
    style = "border-collapse:collapse;color:inherit;background:none;font-variant-numeric:tabular-nums"
    return f'<div><table style="{style}">{name}<tbody>{rows}</tbody></table>{below}</div>'


def image(png: bytes, alt: str, width: int) -> str:
    """A picture on white paper, so that it reads on a dark page, too."""
    from base64 import b64encode

    data = b64encode(png).decode("ascii")
    style = "max-width:100%;background:#fff"
    return f'<img alt="{_shown(alt)}" width="{width}" style="{style}" src="data:image/png;base64,{data}">'


def _shown(value: object) -> str:
    # what acts is written out: a name reads as it is stored
    return escape(visible(number(value)), quote=True)


def _isolated(value: object) -> str:
    return f'<bdi dir="auto">{_shown(value)}</bdi>' if isinstance(value, str) else _shown(value)


def _side(rows: Sequence[Sequence[object]], column: int) -> str:
    return "right" if rows and all(isinstance(row[column], int | float) for row in rows) else "left"
