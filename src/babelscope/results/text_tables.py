"""Tables as text for papers and issues: Markdown and LaTeX, a number and its interval in one cell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from babelscope.wording import number, visible

if TYPE_CHECKING:
    import pandas as pd

_ENDS = (("low", "high"), ("_low", "_high"), (" low", " high"))
_LATEX = {
    "\\": r"\textbackslash{}", **{sign: f"\\{sign}" for sign in "&%$#_{}"}, "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}", "\u202f": r"\,", "–": "--", "−": "$-$",
}  # fmt: skip


def cells(frame: pd.DataFrame) -> dict[str, list[str]]:
    """Every column as text, the columns of an interval's ends behind the number they belong to.

    `low` and `high` belong to the column before them, `x_low` and `x_high` to `x`.

    >>> import pandas as pd
    >>> cells(pd.DataFrame({"language": ["en"], "share": [0.5], "low": [0.4], "high": [0.6]}))
    {'language': ['en'], 'share': ['0.5 (0.4 to 0.6)']}
    """
    owners = interval_columns([str(name) for name in frame.columns])
    ends = {end for pair in owners.values() for end in pair}
    found: dict[str, list[str]] = {}
    for name in map(str, frame.columns):
        if name in ends:
            continue
        said = [visible(number(value)) for value in frame[name]]
        if name in owners:
            low, high = (frame[end] for end in owners[name])
            said = [with_ends(text, *pair) for text, pair in zip(said, zip(low, high, strict=True), strict=True)]
        found[name.replace("_", " ")] = said
    return found


def markdown(columns: dict[str, list[str]], numeric: Sequence[str] = ()) -> str:
    """A table in Markdown; the columns in `numeric` stand on the right.

    >>> print(markdown({"language": ["en"], "n": ["3"]}, ["n"]))
    | language | n |
    |---|--:|
    | en | 3 |
    """
    marks = "|".join("--:" if name in numeric else "---" for name in columns)
    return "\n".join([_markdown_row(columns), f"|{marks}|", *map(_markdown_row, zip(*columns.values(), strict=True))])


def latex(columns: dict[str, list[str]], numeric: Sequence[str] = (), caption: str = "") -> str:
    r"""A LaTeX table with the lines of `booktabs`.

    >>> print(latex({"language": ["en"], "share in %": ["3"]}, ["share in %"]))
    \begin{tabular}{lr}
    \toprule
    language & share in \% \\
    \midrule
    en & 3 \\
    \bottomrule
    \end{tabular}
    """
    marks = "".join("r" if name in numeric else "l" for name in columns)
    rows = [_latex_row(row) for row in zip(*columns.values(), strict=True)]
    body = [rf"\begin{{tabular}}{{{marks}}}", r"\toprule", _latex_row(columns), r"\midrule", *rows, r"\bottomrule"]
    body.append(r"\end{tabular}")
    if caption:
        body = [r"\begin{table}", r"\centering", rf"\caption{{{_escaped(caption)}}}", *body, r"\end{table}"]
    return "\n".join(body)


def numeric_columns(frame: pd.DataFrame) -> list[str]:
    """The names, as `cells` gives them, of columns of numbers."""
    return [str(name).replace("_", " ") for name in frame.columns if frame[name].dtype.kind in "iuf"]


def interval_columns(names: list[str]) -> dict[str, tuple[str, str]]:
    """The column of each number that has an interval → the columns of its ends.

    >>> interval_columns(["n", "share", "low", "high", "loss", "loss_low", "loss_high"])
    {'share': ('low', 'high'), 'loss': ('loss_low', 'loss_high')}
    >>> interval_columns(["own_share", "own_low", "own_high"])
    {'own_share': ('own_low', 'own_high')}
    """
    found: dict[str, tuple[str, str]] = {}
    for place, name in enumerate(names):
        stems = dict.fromkeys((name, name.removesuffix("_share")))  # own_share with own_low and own_high
        pairs = [(stem + low, stem + high) for stem in stems for low, high in _ENDS[1:]]
        if place + 2 < len(names):
            pairs.append(_ENDS[0] if (names[place + 1], names[place + 2]) == _ENDS[0] else ("", ""))
        pair = next((pair for pair in pairs if set(pair) <= set(names)), None)
        if pair is not None:
            found[name] = pair
    return found


def with_ends(text: str, low: object, high: object) -> str:
    """A number, and its interval in brackets where there is one.

    >>> with_ends("0.5", 0.4, 0.6), with_ends("0.5", None, None)
    ('0.5 (0.4 to 0.6)', '0.5')
    """
    ends = (number(low), number(high))
    return text if "–" in ends else f"{text} ({ends[0]} to {ends[1]})"


def _markdown_row(row: Sequence[str] | dict[str, list[str]]) -> str:
    return "| " + " | ".join(cell.replace("\\", "\\\\").replace("|", "\\|") for cell in row) + " |"


def _latex_row(row: Sequence[str] | dict[str, list[str]]) -> str:
    return " & ".join(map(_escaped, row)) + r" \\"


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(sign, sign) for sign in text)
