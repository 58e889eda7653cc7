"""How results show themselves in a notebook: small tables, every text escaped, in the notebook's own colours.

Result classes call these from their `_repr_html_`; nothing here imports any of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

ROWS = 12
"""rows shown of a long table"""
_CELL = "padding:.15em .6em;border:0;background:none;color:inherit"


def table(caption: str, headers: Sequence[str], rows: Iterable[Sequence[Any]], most: int = ROWS) -> str:
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


def number(value: Any) -> str:
    """Whole numbers whole, others with four significant digits; text as it is.

    >>> number(1234), number(0.123456), number("zh")
    ('1234', '0.1235', 'zh')
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else f"{value:.4g}"


def _shown(value: Any) -> str:
    text = number(value)
    # marks that turn the direction of text around are written out: a name reads as it is stored
    return escape("".join(f"[U+{ord(x):04X}]" if _turns(x) else x for x in text), quote=True)


def _isolated(value: Any) -> str:
    return f'<bdi dir="auto">{_shown(value)}</bdi>' if isinstance(value, str) else _shown(value)


def _turns(letter: str) -> bool:
    return "\u202a" <= letter <= "\u202e" or "\u2066" <= letter <= "\u2069" or letter in "\u200e\u200f\u061c"


def _side(rows: Sequence[Sequence[Any]], column: int) -> str:
    return "right" if rows and all(isinstance(row[column], int | float) for row in rows) else "left"
