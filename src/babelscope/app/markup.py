"""Coloured tables as HTML, in which every piece of text is escaped: the only HTML that the explorer makes."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from babelscope.wording import decimals

_TEMPLATE_SIGNS = {ord(sign): f"&#{ord(sign)};" for sign in "{}$`\\"}
"""The page's HTML component reads its content as a template; as numbers, these signs are text to it, too."""


_PIECES = re.compile("\\s+|[\u3040-\u30ff\u3400-\u9fff]|[^\\s\u3040-\u30ff\u3400-\u9fff]+")
"""Words with blanks between them, and single signs of scripts without"""


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
    # the caption stands outside the table, which would make it as narrow as itself
    return (
        f'<figure class="bs-heat {kind}"><figcaption>{shown(caption)}</figcaption>'
        f'<div class="bs-scroll" tabindex="0" role="group" aria-label="{shown(caption)}"><table>'
        f"<thead><tr><td></td>{head}</tr></thead><tbody>{body}</tbody></table></div></figure>"
    )


def differing(before: str, after: str) -> tuple[str, str]:
    """Two texts as HTML, with what differs marked.

    >>> differing("we go home", "we stay home")
    ('<bdi dir="auto">we </bdi><mark><bdi dir="auto">go</bdi></mark><bdi dir="auto"> home</bdi>', \
'<bdi dir="auto">we </bdi><mark><bdi dir="auto">stay</bdi></mark><bdi dir="auto"> home</bdi>')
    """
    pieces = [_PIECES.findall(text) for text in (before, after)]
    sides: tuple[list[str], list[str]] = ([], [])
    for kind, a, b, c, d in SequenceMatcher(None, *pieces, autojunk=False).get_opcodes():
        for side, part in zip(sides, (pieces[0][a:b], pieces[1][c:d]), strict=True):
            if part:
                told = words("".join(part))
                side.append(told if kind == "equal" else f"<mark>{told}</mark>")
    return "".join(sides[0]), "".join(sides[1])


def side_by_side(titles: Sequence[str], texts: Sequence[str], notes: Sequence[str]) -> str:
    """Two texts beside each other, differences marked; a title above each, a note below."""
    cards = "".join(
        f'<section class="bs-side"><h3>{shown(title)}</h3><p>{text}</p><p class="bs-note">{words(note)}</p></section>'
        for title, text, note in zip(titles, differing(*texts), notes, strict=True)
    )
    return f'<div class="bs-sides">{cards}</div>'


def token_text(words_: Sequence[str], values: Sequence[float], most: float) -> str:
    """A text whose tokens are tinted by a number each; the number is said under the pointer.

    >>> token_text(["a", " b"], [0.0, 2.0], 2.0)
    '<p class="bs-tokens" dir="auto"><span class="above" style="--tint:0%" title="0.00">a</span>\
<span class="above" style="--tint:100%" title="2.00"> b</span></p>'
    """
    spans = "".join(
        f'<span class="{"below" if value < 0 else "above"}" style="--tint:{round(100 * min(1.0, abs(value) / most))}%" '
        f'title="{decimals(value, 2)}">{shown(word)}</span>'
        for word, value in zip(words_, values)
    )
    return f'<p class="bs-tokens" dir="auto">{spans}</p>'


def _cell(value: float, share: float, digits: int, quiet: float | None, name: str) -> str:
    if math.isnan(value):
        return "<td></td>"
    tint = round(100 * min(1.0, abs(share)))
    text = "" if quiet is not None and abs(value) < quiet else decimals(value, digits)
    side = "below" if share < 0 else "above"
    title = f' title="{shown(name)}"' if name else ""
    return f'<td class="{side}" style="--tint:{tint}%"{title}>{text}</td>'


def findings_list(sentences: Sequence[str]) -> str:
    """What a run found, one sentence on each line; nothing where there is none."""
    if not sentences:
        return ""
    return f'<ul class="bs-findings">{"".join(f"<li>{words(one)}</li>" for one in sentences)}</ul>'


def facts_table(facts: Sequence[tuple[str, str]], caption: str) -> str:
    """Names and values, one pair on each line."""
    body = "".join(f'<tr><th scope="row">{shown(name)}</th><td>{words(value)}</td></tr>' for name, value in facts)
    table = f'<table class="bs-facts"><caption>{shown(caption)}</caption><tbody>{body}</tbody></table>'
    return f'<div class="bs-scroll">{table}</div>'


_FIRST = ("Model", "Size", "Run: Where", "Parallel text")


def facts_line(facts: Sequence[tuple[str, str]]) -> str:
    """What is open in one line, for the top of the page."""
    told = " · ".join(f"{shown(name.removeprefix('Run: '))}: {words(value)}" for name, value in facts if name in _FIRST)
    return f'<p class="bs-open">{told}</p>'


STYLE = """
.bs-scroll {overflow-x: auto; max-width: 100%; padding-bottom: .4rem}
.bs-heat {margin: 0}
.bs-heat table, .bs-facts {border-collapse: separate; border-spacing: 1px; font-variant-numeric: tabular-nums;
  font-size: .875rem; width: auto; color: var(--body-text-color)}
.bs-heat figcaption, .bs-facts caption {text-align: start; opacity: .8; padding: .3rem 0; font-size: .875rem;
  max-width: 60rem; white-space: normal; color: var(--body-text-color)}
.bs-heat th, .bs-facts th {font-weight: 500; text-align: start; padding: .15rem .5rem; vertical-align: bottom;
  border: 0; color: var(--body-text-color)}
.bs-heat tbody th {max-width: 28rem; min-width: 4.5rem; white-space: normal; word-break: normal;
  overflow-wrap: break-word; vertical-align: middle}
.bs-facts th, .bs-facts td {vertical-align: top}
@media (max-width: 600px) {.bs-heat tbody th {max-width: 9rem; padding-inline-start: 0}}
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
.bs-open {margin: 0; font-size: .9rem; overflow-wrap: anywhere; color: var(--body-text-color)}
.bs-sides {display: flex; flex-wrap: wrap; gap: 1rem}
.bs-side {flex: 1 1 18rem; border: 1px solid color-mix(in srgb, currentColor 25%, transparent); border-radius: 6px;
  padding: .6rem .8rem; min-width: 0; overflow-wrap: anywhere; color: var(--body-text-color)}
.bs-side h3 {font-size: .9rem; margin: 0 0 .3rem}
.bs-side p {margin: 0 0 .3rem; white-space: pre-wrap}
.bs-side .bs-note {font-size: .8rem; opacity: .8}
.bs-side mark {background: color-mix(in srgb, #d9a72b 45%, transparent); color: inherit; border-radius: 2px}
.bs-tokens {margin: .1rem 0 .5rem; line-height: 1.7; white-space: pre-wrap; overflow-wrap: anywhere;
  color: var(--body-text-color)}
.bs-tokens span {border-radius: 2px; padding: .1em 0}
.bs-tokens .above {background: color-mix(in srgb, #3b82c4 calc(var(--tint) * .62), transparent)}
.bs-tokens .below {background: color-mix(in srgb, #d9822b calc(var(--tint) * .62), transparent)}
.bs-passages h4 {font-size: .875rem; font-weight: 500; margin: .5rem 0 .1rem; color: var(--body-text-color)}
.bs-facts td {padding: .15rem .5rem; border: 0; overflow-wrap: anywhere; max-width: 60rem}
button.bs-button {white-space: nowrap; flex: 0 0 auto !important; width: auto !important; padding-inline: 1rem}
.bs-plain textarea, .bs-plain input {unicode-bidi: plaintext}
.bs-plain th, .bs-plain th * {word-break: normal !important; overflow-wrap: normal !important;
  hyphens: none !important}
.bs-findings {margin: 0 0 .6rem; padding-inline-start: 1.2rem; max-width: 60rem; list-style: disc;
  color: var(--body-text-color)}
.bs-findings li {margin: 0 0 .4rem}
.overflow-menu > button::after {content: " more"; font-size: .875rem}
.bs-plain table {font-family: var(--font); font-variant-numeric: tabular-nums}
.bs-plain table td, .bs-plain table td * {unicode-bidi: plaintext; font-family: var(--font) !important}
.min_value, .max_value {color: var(--body-text-color) !important}
"""
"""For the page: tints are mixed into its own background, so that light and dark both read well."""
