"""Which sentences of a steering run tell of an effect: where random edits of the same size do not reach the success."""

from __future__ import annotations

from collections.abc import Sequence

from babelscope.findings.sentence import Kind
from babelscope.results import Run

LEVEL = 0.05


def steering_kinds(run: Run, sentences: int) -> Sequence[Kind]:
    """The kind of each sentence, which stand in the order of pairs and methods of the table `steering`.

    Undecided: no random draws, or too few for p to reach 0.05; or sentences that are not those of the table.
    """
    undecided = _undecided(sentences)
    if "steering" not in run.tables:
        return undecided
    table = run.table("steering")
    if not {"condition", "p", "draws"} <= set(table):
        return undecided
    first = table.loc[table["condition"] == "steered"].drop_duplicates(["source", "target", "method"])
    kinds: list[Kind] = [_kind(float(p), float(draws)) for p, draws in zip(first["p"], first["draws"])]
    return kinds if len(kinds) == sentences else undecided


def _undecided(sentences: int) -> Sequence[Kind]:
    kind: Kind = "undecided"
    return [kind for _ in range(sentences)]


def _kind(p: float, draws: float) -> Kind:
    if p != p or 1 / (draws + 1) > LEVEL:
        return "undecided"
    return "effect" if p <= LEVEL else "none"
