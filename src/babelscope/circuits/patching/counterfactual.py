"""Counterfactual prompts with the same answer: what patching does when nothing that matters has changed (section 3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from babelscope.circuits.core.batching import span_of

if TYPE_CHECKING:
    from babelscope.circuits.core.effects import Effects
    from babelscope.tasks import PromptPair

ANSWER_ROLES = ("IO", "S1", "S2", "VERB1", "END")
"""roles whose tokens decide target and foil, and so are kept"""


def same_answer(
    pairs: Sequence[PromptPair],
    keep: Sequence[str] = ANSWER_ROLES,
    seed: int = 0,
    pool: Sequence[PromptPair] = (),
) -> list[PromptPair] | None:
    """The pairs with other corrupted prompts: another pair's clean prompt (same template, order, length and role spans)
    into which this pair's own answer roles are put, so that target and foil stay right.

    Partners come from the pairs themselves and from `pool`. A pair without any is patched with itself. None when fewer
    than half have one.
    """
    groups: dict[object, list[PromptPair]] = {}
    for pair in (*pairs, *pool):
        groups.setdefault(_frame(pair), []).append(pair)
    generator = np.random.default_rng(seed)
    found: list[PromptPair] = []
    changed = 0
    for pair in pairs:
        others = {_transplanted(pair, other, keep) for other in groups[_frame(pair)]}
        others = sorted(other for other in others if other != tuple(pair.clean))
        changed += bool(others)
        twin = others[int(generator.integers(len(others)))] if others else tuple(pair.clean)
        found.append(replace(pair, corrupted=twin, corrupted_text=""))
    return found if 2 * changed >= len(pairs) else None


def of_pairs_with_a_partner(null: Effects, twins: Sequence[PromptPair]) -> Effects:
    """What patching did under `twins`, NaN for a pair that was patched with itself: it says nothing of chance."""
    alone = [tuple(twin.corrupted) == tuple(twin.clean) for twin in twins]
    return replace(null, patched=np.where(alone, np.nan, null.patched)) if any(alone) else null


def _frame(pair: PromptPair) -> object:
    return pair.template, pair.order, len(pair.clean), tuple(sorted(pair.roles.items()))


def _transplanted(pair: PromptPair, other: PromptPair, keep: Sequence[str]) -> tuple[int, ...]:
    ids = list(other.clean)
    for role in keep:
        if role in pair.roles:
            start, end = span_of(pair, role)
            ids[start:end] = pair.clean[start:end]
    return tuple(ids)
