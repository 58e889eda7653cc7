"""Circuits: what a wiring says of itself, means of sampled senders, defaults of what is drawn."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from babelscope.circuits.comparison.head_frequency import reliability
from babelscope.circuits.core.graph import Wiring
from babelscope.circuits.heads import roles
from babelscope.models import Model

from .tiny_models import tiny_model, tiny_tokenizer


def test_the_wiring_of_a_usual_model_is_its_sizes_alone():
    """The kinds of blocks are named only where a block is no attention and MLP."""
    model = Model(tiny_model("llama"), tiny_tokenizer(), id="llama")
    wiring = Wiring.of(model)
    assert wiring == Wiring(model.layers, model.heads, model.kv_heads, model.family.parallel)
    assert wiring.kinds == ()
    assert Wiring.of(Model(tiny_model("bloom"), tiny_tokenizer(), id="bloom")).kinds == ()


def test_reliability_is_the_mean_over_fifty_splits():
    used = np.random.default_rng(2).random((20, 2, 4)) < 0.4
    assert reliability(used) == reliability(used, splits=50)
    assert reliability(used) != pytest.approx(reliability(used, splits=49), abs=1e-9)


def test_attention_to_a_role_is_spread_over_its_tokens_and_the_rest_over_the_others(monkeypatch):
    """Of 9 positions that the query sees, 2 are the role's: 0.5 / 2 a token of it, 0.5 / 7 a token of the others."""
    asked: list[tuple[np.ndarray, np.ndarray, int]] = []
    monkeypatch.setattr(roles, "span_of", lambda pair, role: {"S": (3 + pair, 5 + pair), "END": (8, 9)}[role])
    monkeypatch.setattr(roles.Null, "of", lambda *given: (asked.append(given), SimpleNamespace())[1])
    roles._attention_null([0, 1, 0], "S", np.full((1, 1, 3), 0.5))
    on_role, beside, positions = asked[0]
    assert on_role[0, 0].tolist() == [0.25] * 3
    assert beside[0, 0] == pytest.approx([0.5 / 7] * 3)
    assert positions == 2
