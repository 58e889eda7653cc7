"""A circuit over the tokens of an example prompt: where each head acts, what it looks at, and what it does there."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import isfinite

import pandas as pd

from babelscope.errors import InputError, RunError
from babelscope.figures.facts import array, chosen, distinct, in_order, own_rows
from babelscope.figures.heads import task_text
from babelscope.figures.register import View, figure, has_arrays
from babelscope.figures.spec import Arrow, Axis, Boxes, Figure, Key, Panel
from babelscope.languages import english_name
from babelscope.results import Run
from babelscope.results.schemas.circuits import ExampleToken, Role
from babelscope.wording import decimals

_TOKENS = -1.0
"""height of the row of tokens, below layer 0"""
_APART = 0.085
"""between heads of one layer at one token, as a share of the width"""
LEAST_ATTENTION = 0.1
"""mean attention from which an arrow is drawn"""


@dataclass(frozen=True)
class ActingHead:
    """A head with the roles of the prompt that it acts at and looks at."""

    layer: int
    head: int
    role: str
    """what it does"""
    effect: float
    at: str
    looks_at: str
    attention: float
    """mean over prompts, from the role it acts at to the one it looks at"""

    @property
    def name(self) -> str:
        """`4.0`."""
        return f"{self.layer}.{self.head}"


def role_colour(place: int) -> int:
    """Colours of roles are taken from the end of the palette, those of languages from its beginning."""
    return -1 - place


def acting_heads(run: Run, code: str, there: list[str]) -> list[ActingHead]:
    """The heads with a role in one language, each once, at the role of the prompt where the search found it.

    Where the search names none, at the role from which the head's attention is strongest. `there`: the prompt's roles.
    """
    attention = array(run, "attention_role", "language", "role", "role2", "layer", "head").sel(language=code)
    known = [str(role) for role in attention.role.values]
    stated = dict(_stated_places(run, code))
    found: list[ActingHead] = []
    for row in own_rows(run, Role):
        if row.language != code or any((one.layer, one.head) == (row.layer, row.head) for one in found):
            continue
        own = attention.sel(layer=row.layer, head=row.head).to_pandas()
        own = own.loc[[role for role in known if role in there], [role for role in known if role in there]]
        at = stated.get(row.step, "")
        if at not in own.index:
            at = str(own.max(axis=1).idxmax())
        looks_at = str(own.loc[at].idxmax())
        weight = float(own.loc[at, looks_at])
        found.append(ActingHead(row.layer, row.head, row.role, row.effect, at, looks_at, weight))
    return found


def _stated_places(run: Run, code: str) -> Iterator[tuple[str, str]]:
    """Step of the search → the role at which it patched."""
    try:
        stated: object = json.loads(run.file(f"circuits/{code}.json").read_text(encoding="utf-8"))
    except (RunError, OSError, ValueError):
        return
    for step in (stated.get("steps") or []) if isinstance(stated, Mapping) else []:
        yield str(step.get("name")), str(step.get("at"))


def example(run: Run, code: str, place: int = 0) -> list[ExampleToken]:
    """The tokens of one example prompt of a language, in order."""
    rows = [row for row in own_rows(run, ExampleToken) if row.language == code and row.example == place]
    return sorted(rows, key=lambda row: row.position)


def _languages(run: Run) -> list[View]:
    codes = in_order(run, (row.language for row in own_rows(run, Role)))
    return [View(english_name(code), {"language": code}) for code in codes]


@figure("circuits", "table:examples", "table:roles", "attention_role", views=_languages, choose="Language")
def circuit_tokens(run: Run, language: str | None = None) -> Figure:
    """The circuit over the tokens of an example prompt: heads above the token at which they act, at their layer.

    Arrows come from the token that a head looks at most, as wide as the attention.
    """
    codes = in_order(run, (row.language for row in own_rows(run, Role)))
    if not codes:
        raise InputError(f"no head of {run.model_name} has a role")
    code = chosen(language, codes, "language")
    tokens = example(run, code)
    if not tokens or not has_arrays(run):
        raise InputError(f"the run holds no example prompt in {code}")
    # a role of several tokens stands at its last, where a model has read all of it
    places = {row.role: row.position for row in tokens if row.role}
    heads = acting_heads(run, code, list(places))
    if not heads:
        raise InputError(f"no head has a role in {code}")
    what = distinct(head.role for head in heads)
    roles = distinct(row.role for row in tokens if row.role)
    at = dict(_spread(heads, places, len(tokens)))
    arrows = tuple(
        Arrow((float(places[head.looks_at]), _TOKENS), at[head.name], 0.6 + 3.4 * head.attention,
              role_colour(what.index(head.role)), "solid")
        for head in heads
        if head.attention >= LEAST_ATTENTION
    )  # fmt: skip
    boxes = Boxes(
        [at[head.name][0] for head in heads], [at[head.name][1] for head in heads],
        tuple(f"{head.name}\n{decimals(head.effect)}" if isfinite(head.effect) else head.name for head in heads),
        tuple(role_colour(what.index(head.role)) for head in heads),
    )  # fmt: skip
    marks = Boxes([float(places[role]) for role in roles], [_TOKENS for _ in roles], tuple(roles), (None,) * len(roles))
    keys = tuple(Key(role.replace("_", " "), role_colour(place), dot=True) for place, role in enumerate(what))
    top = max(head.layer for head in heads) + 0.8
    names = tuple(row.token.strip() or "·" for row in tokens)
    layers = tuple(float(layer) for layer in range(int(top) + 1))
    axes = (
        Axis("", names=names),
        Axis("layer", low=_TOKENS - 0.5, high=top, ticks=(_TOKENS, *layers),
             tick_names=("prompt", *(f"{layer:g}" for layer in layers))),
    )  # fmt: skip
    data = pd.DataFrame([vars(head) for head in heads])
    caption = (
        f"The heads with a role ({task_text(run)}) over an example prompt, each above the token at which it acts, at "
        f"its layer; right answer “{tokens[0].answer.strip()}”, foil “{tokens[0].foil.strip()}”. In a box: layer.head, "
        "and the change of the logit difference when it is patched, relative to the clean run (negative: it works for "
        "the answer). An arrow comes from the token that the head looks at most, as wide as its attention, mean over "
        f"prompts; none below {LEAST_ATTENTION:g}. Effects and attention are means over all prompts, their intervals "
        "stand in the table of roles."
    )
    height = 170 + 62 * (int(top) + 2)
    panel = Panel((*arrows, boxes, marks, *keys), *axes, data=data)
    return Figure("The circuit over a prompt", caption, (panel,), about=f"{run.model_name}, {english_name(code)}",
                  height=height, min_width=90 + 46 * len(tokens))  # fmt: skip


def _spread(
    heads: list[ActingHead], places: Mapping[str, int], tokens: int
) -> Iterator[tuple[str, tuple[float, float]]]:
    """Where each head's box stands; several of one layer at one token stand beside each other, the last above it."""
    for head in heads:
        beside = [one.name for one in heads if (one.layer, one.at) == (head.layer, head.at)]
        aside = (len(beside) - 1 - beside.index(head.name)) * _APART * tokens
        yield head.name, (places[head.at] - aside, float(head.layer))
