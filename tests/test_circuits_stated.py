"""Published numbers of circuits against values made by hand: shares, gaps, thresholds, distances, ceilings."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest

from babelscope.circuits.comparison import transfer
from babelscope.circuits.comparison.head_frequency import compare, reliability
from babelscope.circuits.core.faithfulness import completeness, minimality
from babelscope.circuits.core.graph import Wiring
from babelscope.circuits.core.nodes import FINAL, MLP, Head, Receiver
from babelscope.circuits.edges.circuit import greedy_edges
from babelscope.circuits.heads.routes import flow_routes
from babelscope.circuits.patching.search import _distance
from babelscope.models import Model
from babelscope.stats import Interval
from tests.random_pairs import random_pair
from tests.tiny_models import tiny_model, tiny_tokenizer


@dataclass(frozen=True)
class Added:
    """A model whose logit difference is the sum of what its parts are worth."""

    worth: tuple[float, ...]
    pairs: int = 3
    asked: list[np.ndarray] = field(default_factory=list)

    @property
    def whole(self):
        return np.ones(len(self.worth), dtype=bool)

    def differences(self, circuits):
        self.asked.extend(circuits)
        return np.stack([np.full(self.pairs, float(np.dot(mask, self.worth))) for mask in circuits])


def test_a_circuit_that_lacks_a_part_is_incomplete_by_that_part():
    """M = 1 + 2 + 5, C = {1, 2}: whatever is taken out of C, M still has the 5; the gap is 5 / 8."""
    circuit = np.array([True, True, False])
    found = completeness(Added((1.0, 2.0, 5.0)), circuit, draws=6)
    assert found.gap == pytest.approx(5 / 8)
    assert found.whole_without - found.circuit_without == pytest.approx(np.full(6, 5.0))
    assert completeness(Added((1.0, 2.0, 0.0)), circuit, draws=6).gap == 0


def test_a_parts_worth_is_its_minimality():
    space = Added((1.0, 2.0, 5.0))
    parts = {name: np.eye(3, dtype=bool)[place] for place, name in enumerate("abc")}
    assert minimality(space, space.whole, parts) == pytest.approx({"a": 1 / 8, "b": 2 / 8, "c": 5 / 8})


def test_a_share_is_the_foreign_circuits_faithfulness_over_the_own(monkeypatch):
    """aa's circuit does 0.8 of aa, bb's does 0.4 of it: bb's share on aa is one half."""
    rows = crossed(monkeypatch, [[0.8, 0.4], [0.3, 0.6]])  # on aa, on bb: of the circuits of aa, of bb
    shares = {(row.found_in, row.run_on): row.share for row in rows}
    assert shares == pytest.approx({("aa", "aa"): 1, ("bb", "aa"): 0.5, ("aa", "bb"): 0.5, ("bb", "bb"): 1})
    assert {row.why for row in rows} == {""}


@pytest.mark.parametrize("own", [-0.2, 0.0])
def test_of_a_circuit_that_keeps_nothing_there_is_no_share(monkeypatch, own):
    rows = {(row.found_in, row.run_on): row for row in crossed(monkeypatch, [[own, 0.4], [0.3, 0.6]])}
    assert np.isnan([rows["aa", "aa"].share, rows["bb", "aa"].share]).all()
    assert rows["bb", "aa"].why == "no share: its own circuit keeps nothing"
    assert (rows["aa", "bb"].share, rows["aa", "bb"].why) == (0.5, "")


def crossed(monkeypatch, faithfulness):
    """The rows of two circuits whose faithfulness on each language is given."""
    values = iter(faithfulness)

    def scored(*_):
        made = [Interval(value, value - 0.1, value + 0.1) for value in next(values)]
        return SimpleNamespace(intervals=lambda **_: made, defined=True)

    monkeypatch.setattr(transfer, "score_circuits", scored)
    wiring = Wiring(2, 2, 2)
    scores = np.random.default_rng(0).normal(size=wiring.allowed.shape) * wiring.allowed
    circuits = {name: greedy_edges(wiring, scores, 5) for name in ("aa", "bb")}
    return transfer.cross_faithfulness(
        SimpleNamespace(workers=None), circuits, {"aa": [1], "bb": [1]}, transfer.Beside(random=0)
    )


def test_a_part_exactly_at_the_threshold_is_on_no_route():
    model = Model(tiny_model("llama"), tiny_tokenizer(), id="llama")
    pairs = [random_pair(0)]
    strength = flow_routes(model, pairs, (0.001,)).strength[0, -1]  # of the last layer's heads, at the answer
    head = int(strength.argmax())
    at, below = float(strength[head]), float(np.nextafter(np.float32(strength[head]), np.float32(0)))
    assert not flow_routes(model, pairs, (at,)).heads[0, 0, -1, head]
    assert flow_routes(model, pairs, (below,)).heads[0, 0, -1, head]


def test_layers_between_a_sender_and_its_nearest_receiver():
    model = SimpleNamespace(layers=6)
    queries = [Receiver("q", 3, 0), Receiver("q", 5, 1)]
    assert [_distance(model, Head(layer, 0), queries) for layer in (0, 2, 3, 4)] == [2, 0, 1, 0]
    assert [_distance(model, MLP(layer), [FINAL]) for layer in (0, 5)] == [5, 0]


def test_the_ceiling_is_that_of_both_languages():
    """One language that always does the same, one whose prompts say nothing alike: √(1 · r)."""
    rate = np.random.default_rng(0).random((3, 6))
    sure = np.repeat((rate > 0.5)[None], 20, axis=0)
    unsure = np.random.default_rng(1).random((20, 3, 6)) < rate
    assert reliability(sure) == pytest.approx(1)
    own = reliability(unsure)
    assert 0.5 < own < 0.97
    for first, second in ((sure, unsure), (unsure, sure)):
        assert compare(first, second, draws=5).ceiling == pytest.approx(own**0.5)
