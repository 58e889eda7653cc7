"""Equations as MathML, written while the site is built: every browser draws it, and no script or font is fetched."""

from __future__ import annotations

import re
from html import unescape

from latex2mathml.converter import convert

EQUATION = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


def on_page_content(html: str, **_: object) -> str:
    """Replace what pymdownx.arithmatex has marked."""
    return EQUATION.sub(_mathml, html)


def _mathml(found: re.Match[str]) -> str:
    block = found[1] == "div"
    drawn = convert(unescape(found[2]).strip(), display="block" if block else "inline")
    return f'<div style="overflow-x:auto;margin:1em 0">{drawn}</div>' if block else drawn
