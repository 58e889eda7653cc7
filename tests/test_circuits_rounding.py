"""Means of logit differences of which nothing but rounding is left are no unit, and equal numbers do not correlate."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from babelscope.circuits.core.effects import Effects
from babelscope.circuits.core.faithfulness import completeness, minimality
from babelscope.circuits.core.nodes import Head
from babelscope.circuits.core.statistics import unit_of
from babelscope.circuits.heads.copy_scores import token_copying
from babelscope.circuits.heads.roles import attention_projection
from babelscope.circuits.patching.selection import growth
from babelscope.errors import NonFinite
from babelscope.models import Model
from babelscope.studies.circuit_tables import _relative
from tests.tiny_models import tiny_model, tiny_tokenizer

MIRRORED = np.array([0.1, 0.2, -0.3])
"""pairs whose logit differences cancel, but for 9e-18"""
HEAD = Head(0, 0)


def effects(clean: np.ndarray, corrupted: np.ndarray) -> Effects:
    patched = np.array([[0.5, 0.1, 0.2]])
    return Effects((HEAD,), patched, clean, corrupted, settings={"layers": 1, "heads": 1})


class Space:
    """The logit difference of a pair grows with the size of the circuit."""

    def __init__(self, pairs: np.ndarray) -> None:
        self.pairs, self.whole = pairs, np.ones(3, dtype=bool)

    def differences(self, circuits):
        return np.array([self.pairs * (mask.sum() + 0.1) for mask in circuits])


@pytest.mark.parametrize(("values", "unit"), [(MIRRORED, 0.0), (MIRRORED + 1e-9, 1e-9), (np.array([np.nan, 1]), 0.0)])
def test_a_unit_is_a_mean_that_is_more_than_rounding(values, unit):
    assert unit_of(values) == pytest.approx(unit, rel=1e-6, abs=0)


def test_effects_are_shares_of_nothing_where_logit_differences_cancel():
    assert MIRRORED.mean() != 0
    with pytest.raises(NonFinite, match="mean logit difference of the clean prompts is zero"):
        _ = effects(MIRRORED, np.ones(3)).effect
    with pytest.raises(NonFinite, match="clean and corrupted runs score the same"):
        _ = effects(MIRRORED, np.zeros(3)).recovery
    assert effects(np.ones(3), np.zeros(3)).effect == pytest.approx([0.8 / 3 - 1])


def test_what_a_circuit_lacks_is_no_share_where_logit_differences_cancel():
    circuit, part = np.array([True, True, False]), np.array([True, False, False])
    assert np.isnan(completeness(Space(MIRRORED), circuit).gap)
    assert np.isnan(minimality(Space(MIRRORED), circuit, {"a": part})["a"])
    assert minimality(Space(np.ones(3)), circuit, {"a": part})["a"] == pytest.approx(1 / 3.1)


def test_growth_and_change_are_no_shares_where_logit_differences_cancel():
    one = effects(MIRRORED, np.zeros(3))
    assert np.isnan(growth(one, one, []).before).all()
    assert np.isnan(_relative(np.stack([MIRRORED, np.ones(3)]), 1, [0, 1, 2])).all()


@pytest.mark.parametrize("prompts", [2, 3, 7, 10])
def test_attention_that_is_the_same_on_every_prompt_goes_with_nothing(prompts):
    same, moved = np.full((1, 1, prompts), 0.1), np.arange(1.0 * prompts).reshape(1, 1, -1)
    assert np.isnan([attention_projection(same, 7 * same), attention_projection(same, moved)]).all()
    assert attention_projection(moved, 2 * moved).item() == pytest.approx(1)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_a_silent_head_copies_no_word(family):
    """Its output projection is zero, as before training or after pruning; gemma caps its logits."""
    hf = tiny_model(family)
    projection = hf.model.layers[1].self_attn.o_proj.weight
    with torch.no_grad():
        projection[:, : projection.shape[1] // 4] = 0
    found = token_copying(Model(hf, tiny_tokenizer(), "silent"), torch.arange(5, 25))
    assert (found.copy[1, 0], found.negative[1, 0]) == (0, 0)
    assert (found.copy[1, 1:] < 1).all()
    assert 0 < found.copy.mean() < 0.5
