"""More numbers of regions by hand: sinks by layer, routed tokens, parts of recordings, losses, tables, bootstraps."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from babelscope.corpora.texts import Document, TextCollection
from babelscope.errors import InputError
from babelscope.regions.nulls import permutations
from babelscope.regions.perplexity import (
    Loss,
    _document_changes,
    cut_windows,
    increase_percent,
    perplexity_of,
    selectivity,
    token_bytes,
    token_losses,
)
from babelscope.regions.recording import Recording
from babelscope.regions.routed import Routing
from babelscope.regions.routed_lape import routed_activity, routed_lape, routed_means, routed_tokens
from babelscope.regions.routing import evenness, pooled_distance
from babelscope.regions.routing_nulls import RoutingNull, routing_null
from babelscope.regions.sinks import _at_first, length_coupling, normalised
from babelscope.regions.treatments import language_means
from babelscope.stats import Interval

from .region_data import model, noise, recording


def numbers(values):
    return torch.as_tensor(values).double().flatten().tolist()


def close(found, wanted):
    return numbers(found) == pytest.approx(numbers(wanted), nan_ok=True)


# -- sinks -------------------------------------------------------------------------------------------------------------


def sunk(places: list[int], neurons: int, layers: int = 1) -> Recording:
    """Noise, and neurons that fire at one token alone: their mean goes with 1 / T."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(5, 60, (3, 40), generator=generator)
    v = torch.randn(3, 40, neurons, generator=generator, dtype=torch.float64)
    v[..., places] = 300.0 / tokens[..., None].double()
    return replace(recording(v, layers=layers), tokens=tokens)


def test_more_sinks_than_a_twentieth_are_refused():
    with pytest.raises(InputError, match=r"the model: 3 of 40 neurons .* more than 5%"):
        normalised(sunk([1, 5, 9], 40))
    found, rows = normalised(sunk([1, 5], 40))
    assert found.out is not None
    assert found.out.nonzero().flatten().tolist() == [1, 5]
    assert {(row.scope, row.layer, row.neuron) for row in rows} == {
        (scope, 0, neuron) for scope in ("model", "layer") for neuron in (1, 5)
    }
    assert all(row.slope == pytest.approx(-2) for row in rows)


def test_a_layer_of_many_sinks_keeps_them_and_says_so():
    """Six sinks of a hundred neurons in the second layer, one in the first: of all 200 few enough to leave."""
    found, rows = normalised(sunk([3, *range(110, 116)], 200, layers=2))
    assert found.layers_out is not None
    assert found.layers_out.nonzero().tolist() == [[0, 3]]
    told = {
        scope: sorted((row.layer, row.neuron) for row in rows if row.scope == scope) for scope in ("model", "layer")
    }
    assert told["model"] == [(0, 3), *((1, place) for place in range(10, 16))]
    assert told["layer"] == [(0, 3)]
    assert sorted((row.layer, row.neuron) for row in rows if row.scope == "layer, kept") == [
        (1, place) for place in range(10, 16)
    ]
    assert float(found.layer(0)[..., 3].abs().max()) == 0
    assert float(found.layer(1)[..., 10].abs().min()) > 0


def test_sentences_of_one_length_lose_what_carries_a_twentieth_of_the_norm():
    v = torch.ones(2, 6, 100, dtype=torch.float64)
    v[..., 7] = (0.06 / 0.94 * 99) ** 0.5
    alike = torch.full((2, 6), 10)
    found, rows = normalised(replace(recording(v), tokens=alike))
    assert found.out is not None
    assert found.out.nonzero().flatten().tolist() == [7]
    assert [(row.share, math.isnan(row.slope)) for row in rows] == [(pytest.approx(0.06), True)] * 2
    v[..., 7] = (0.04 / 0.96 * 99) ** 0.5
    assert normalised(replace(recording(v), tokens=alike))[1] == []
    assert math.isnan(length_coupling(replace(recording(v), tokens=alike)))
    assert length_coupling(sunk([0], 2)) == pytest.approx(-1, abs=0.1)


def test_where_a_neuron_fires_first():
    """Eleven tokens on average: the first carries f, another (1 − f) / 10: five times as much if f · 10 > 5 (1 − f)."""
    rec = replace(recording(torch.ones(2, 3, 3).double()), tokens=torch.tensor([[10, 11, 12]] * 2))
    assert _at_first(rec, 0)[1] is False
    part = torch.tensor([[0.51, 0.9, 0.5], [0.7, 0.4, 0.9]])
    found = [_at_first(replace(rec, first_part=part), neuron) for neuron in range(3)]
    assert [one[0] for one in found] == pytest.approx([0.51, 0.4, 0.5])
    assert [one[1] for one in found] == [True, False, False]
    short = replace(rec, tokens=torch.tensor([[4, 5, 6]] * 2))
    # four others: 0.51 · 4 < 5 · 0.49, and 0.56 · 4 > 5 · 0.44
    assert not _at_first(replace(short, first_part=part), 0)[1]
    assert _at_first(replace(short, first_part=part.clamp(0.56)), 0)[1]


# -- routing -----------------------------------------------------------------------------------------------------------


def routed() -> Recording:
    """Two layers: four dense neurons, then two experts of two neurons and one neuron beside them."""
    choices = torch.tensor([[[[0.5, 0.5]], [[1.0, 0.0]]], [[[0.25, 0.75]], [[0.0, 1.0]]]])
    tokens = torch.tensor([[4, 6], [8, 2]])
    routing = Routing(
        ("en", "zh"), ("0", "1"), (1,), choices, choices, tokens, (2,), (2,), (2,), 1, (), "softmax", True
    )
    v = torch.arange(36.0, dtype=torch.float64).reshape(2, 2, 9)
    return replace(
        recording(v), layers=2, widths=(4, 5), tokens=tokens, routing=routing, activity=torch.full((2, 9), 0.25)
    )


def test_routed_tokens_means_and_activity_by_hand():
    """en: 2 + 6 tokens of expert 0 and 2 of expert 1, of ten; zh: 2 and 6 + 2."""
    rec = routed()
    reach = [[10.0] * 4 + [8, 8, 2, 2, 10], [10.0] * 4 + [2, 2, 8, 8, 10]]
    assert routed_tokens(rec).tolist() == reach
    means = torch.as_tensor(rec.means)
    for row, weights in enumerate(((0.4, 0.6), (0.8, 0.2))):
        whole = means[row, 0] * weights[0] + means[row, 1] * weights[1]
        assert close(routed_means(rec)[row], whole * 10 / torch.tensor(reach[row]))
    shares, known = routed_activity(rec, 2)
    assert known.all()
    assert close(shares, 0.25 * 10 / torch.tensor(reach))
    shares, known = routed_activity(rec, 3)
    assert known.tolist() == [True] * 4 + [False] * 4 + [True]
    assert shares[:, 4:8].tolist() == [[0] * 4] * 2
    scores, members = routed_lape(rec, 0.5, 0.5, least=11)
    assert not scores.any()
    assert not members.any()
    assert close(rec.routing.language_choices(), [[[0.8, 0.2]], [[0.2, 0.8]]])


def test_routing_of_hashed_layers_is_no_part_of_anything():
    one = torch.tensor([0.9, 0.1, 0.0]), torch.tensor([0.5, 0.5, 0.0])
    p = torch.stack([torch.stack([q, q, q]) for q in one])[:, :, None].expand(2, 3, 2, 3)
    routing = Routing(("en", "zh"), ("0", "1", "2"), (0, 3), p, p, torch.full((2, 3), 5), (2, 2), (1, 1), (2, 2), 1,
                      (0,), "softmax", True)  # fmt: skip
    assert routing.measured == [1]
    found = pooled_distance(routing.language_probabilities(), routing, 1)
    middle = -(0.7 * math.log(0.7) + 0.3 * math.log(0.3))
    own = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1))
    assert close(found, [[math.nan, math.nan], [middle - (own + math.log(2)) / 2, math.nan]])
    assert close(evenness(routing), [[own / math.log(2)] * 2, [1, 1]])
    null = routing_null(routing, "en", draws=60)
    assert null.p[:, 0].isnan().all()
    assert null.p[:, 1, 2].isnan().all()
    assert null.p[:, 1, :2].isfinite().all()
    assert len(null.pooled) == len(null.specialised) == len(null.exclusive) == 60
    # en has expert 0 more than zh by 0.4, as in the draws that keep all labels or turn all: p is the plain share
    gaps = _gaps(60)
    assert float(null.p[0, 1, 0]) == pytest.approx((1 + sum(abs(gap) > 0.99 for gap in gaps)) / 122)


def _gaps(draws: int) -> list[float]:
    # 1 where all three sentences keep their label, −1 where all are turned
    return [float((1 - 2 * one[:, 0].double()).mean()) for one in permutations(draws, 3, 2, 0)]


def test_specialised_and_exclusive_experts_are_counted_by_layer_in_each_draw():
    generator = torch.Generator().manual_seed(0)
    tokens = torch.tensor([[5, 9, 4], [7, 3, 6]])
    f = (4 * torch.randn(2, 3, 2, 3, generator=generator)).softmax(-1)
    routing = Routing(
        ("en", "zh"), ("0", "1", "2"), (0, 1), f, f, tokens, (3, 3), (1, 1), (3, 3), 1, (), "softmax", True
    )
    null = routing_null(routing, "zh", draws=12, seed=2)
    counts = []
    for draw in permutations(12, 3, 2, 2):
        own = []
        for label in range(2):
            places = [(int(draw[sentence, label]), sentence) for sentence in range(3)]
            weights = torch.tensor([float(tokens[place]) for place in places])
            rows = torch.stack([f[place] for place in places])
            own.append((rows * weights[:, None, None]).sum(0) / weights.sum())
        en, zh = own
        shares = torch.stack([en, zh]) / (en + zh)
        counts.append(((en - zh > 0.3).sum(1).tolist(), (shares >= 0.4).any(0).sum(1).tolist()))
    assert null.specialised.tolist() == [one for one, _ in counts]
    assert null.exclusive.tolist() == [one for _, one in counts]
    assert len({tuple(one) for one, _ in counts}) > 1


def test_experts_are_chosen_among_those_that_are_known():
    p = torch.full((2, 2, 5), 0.5)
    p[0, 1, :2], p[1, 0] = torch.tensor([0.001, 0.002]), torch.nan
    counts = torch.zeros(60, 2, dtype=torch.long)
    null = RoutingNull(torch.zeros(60, 2, 2), None, counts, counts, p)
    assert null.chosen().nonzero().tolist() == [[0, 1, 0], [0, 1, 1]]
    assert null.chosen(0.0001).sum() == 0


# -- recordings --------------------------------------------------------------------------------------------------------


def test_parts_of_a_recording_by_hand():
    v = torch.tensor([[[3.0, 4, 0], [1, 2, 2]], [[0, 6, 8], [2, 0, 0]]], dtype=torch.float64)
    rec = replace(recording(v), documents=("a", "a"), out=torch.tensor([False, True, False]))
    assert close(replace(rec, out=None).norms(), [[5, 3], [10, 2]])
    assert close(rec.norms(), [[3, 5**0.5], [8, 2]])
    assert replace(rec, norm="none").norms().tolist() == [[1, 1], [1, 1]]
    assert rec.values(slice(1, 3)).tolist() == [[[0, 0], [0, 2]], [[0, 8], [0, 0]]]
    assert (rec.kept().tolist(), rec.document_count) == ([True, False, True], 1)
    assert replace(rec, documents=()).document_count == 2
    # the largest two of each sentence: 1, 8/9, 1, 1 of ‖v‖²; sinks are counted in
    assert rec.top_share(2) == pytest.approx((1 + 8 / 9 + 1 + 1) / 4)
    assert rec.top_share(1) == pytest.approx((16 / 25 + 4 / 9 + 64 / 100 + 1) / 4)
    assert rec.top_share() == pytest.approx(1)
    part = rec.subset([1])
    assert (part.ids, part.documents, part.means.tolist()) == (("1",), ("a",), [[[1, 2, 2]], [[2, 0, 0]]])
    assert part.tokens.tolist() == rec.tokens[:, 1:].tolist()


def test_blocks_are_as_wide_as_the_cache_holds():
    assert [block.stop for block in noise(2, 3, 10).chunks(4)] == [4, 8, 10]
    wide = noise(1, 1, 40000)
    assert [block.start for block in wide.chunks()] == [0, 16384, 32768]
    wide = replace(wide, tokens=torch.ones(64, 64, dtype=torch.long))  # 2 ** 19 / 4096 = 128, which is less than 256
    assert next(wide.chunks()) == slice(0, 256)
    wide = replace(wide, tokens=torch.ones(8, 64, dtype=torch.long))
    assert next(wide.chunks()) == slice(0, 1024)


def test_memory_that_may_only_be_read_is_copied():
    rec = noise(2, 3, 8)
    rec.means.flags.writeable = False
    stored = rec.stored(slice(0, 8))
    stored += 1
    assert rec.means[0, 0, 0] == pytest.approx(float(stored[0, 0, 0]) - 1)
    means = language_means(replace(rec, layers=2))
    assert means.shape == (2, 2, 4)
    assert float(means[1, 1, 2]) == pytest.approx(rec.means[1, :, 6].mean(), rel=1e-6)


# -- losses ------------------------------------------------------------------------------------------------------------


def test_bits_and_perplexity_of_a_loss():
    loss = Loss(torch.tensor([3.0, 5.0]), torch.tensor([3, 1]), 16)
    assert (loss.tokens, loss.nll, loss.perplexity) == (4, 2, pytest.approx(math.e**2))
    assert loss.bits_per_byte == pytest.approx(8 / math.log(2) / 16)
    assert (perplexity_of(701.0), perplexity_of(1.0)) == (math.exp(700), math.e)
    found = increase_percent(Interval(math.log(2), -math.log(2), math.inf, "t", "few"))
    assert (found.value, found.low, found.method, found.why) == (pytest.approx(100), pytest.approx(-50), "t", "few")
    assert found.high == pytest.approx(100 * math.expm1(700))


def test_letters_have_as_many_bytes_as_utf_8_gives_them():
    text = "\x7f\x80\u07ff\u0800\uffff\U00010000"
    offsets = np.array([[place, place + 1] for place in range(6)])
    assert token_bytes(text, offsets).tolist() == [1, 2, 2, 3, 3, 4]
    assert token_bytes(text, offsets).sum() == len(text.encode())
    # the blank is of the token behind it; two tokens that name one letter have half of it each
    assert token_bytes("a 日b", np.array([[0, 1], [2, 3], [2, 3], [3, 4]])).tolist() == [1, 2.5, 1.5, 1]
    # so is one at the beginning
    assert token_bytes("  ab", np.array([[2, 3], [3, 4]])).tolist() == [3, 1]


def test_changes_by_document_leave_out_what_was_not_read():
    base = Loss(torch.tensor([1.0, 0, 2.0]), torch.tensor([2, 0, 3]), 9, ("a", "b", "c"))
    changed = replace(base, by_document=torch.tensor([2.0, 0, 5.0]))
    found = _document_changes(changed, base)
    assert list(found) == ["a", "c"]
    assert list(_document_changes(replace(changed, names=()), replace(base, names=()))) == ["0", "2"]
    # parts of the mean per token, 4 of 5 tokens' nats: each about its mean
    assert sum(found.values()) / 2 == pytest.approx(4 / 5)


def test_selectivity_of_documents_that_only_two_texts_share():
    """Three documents in common are paired, two are not."""

    def text(change, names):
        zeros = torch.zeros(len(names), dtype=torch.float64)
        base = Loss(zeros, torch.full((len(names),), 10), 100, names)
        return replace(base, by_document=torch.tensor(change, dtype=torch.float64)), base

    own, base = text([10, 20, 30, 40], ("a", "b", "c", "d"))
    paired = selectivity(own, base, {"zh": text([1, 2, 4, 9], ("a", "b", "c", "x"))})
    assert paired.method.endswith("over parallel documents")
    apart = selectivity(own, base, {"zh": text([1, 2, 4, 9], ("a", "b", "y", "x"))})
    assert "parallel" not in apart.method
    assert paired.value == apart.value == pytest.approx(2.5 - 0.4)


def test_a_tokenizer_without_offsets_has_windows_for_documents():
    loaded = model()

    class Slow:
        is_fast, eos_token, seen = False, "|", []

        def __call__(self, text, **options):
            self.seen.append((text, options["return_offsets_mapping"]))
            return {"input_ids": [3 + place for place in range(len(text))]}

        def decode(self, ids):
            return "é" * len(ids)

    slow = Slow()
    checks = dict.fromkeys(("check_length", "check_ids"), lambda *_: None)
    stub = SimpleNamespace(tokenizer=slow, id="slow", first_tokens=lambda special: [9] * (special == "bos"), **checks)
    given = TextCollection("en", (Document("a", "abcd"), Document("b", "efgh")), "memory")
    found = cut_windows(stub, given, 4, joint="end-of-text")  # type: ignore[arg-type]
    assert slow.seen == [("abcd|efgh", False)]
    assert found.ids.tolist() == [[3, 4, 5, 6], [7, 8, 9, 10]]
    assert found.document.tolist() == [[0] * 4, [1] * 4]
    # three scored tokens a window, of two bytes each
    assert (found.byte_count, found.tokens, found.names) == (12, 6, ())
    assert len(cut_windows(stub, given, 4, limit=1).ids) == 1  # type: ignore[arg-type]
    begun = cut_windows(stub, given, 4, joint="end-of-text", special="bos")  # type: ignore[arg-type]
    assert begun.ids.tolist() == [[9, 3, 4, 5], [9, 6, 7, 8], [9, 9, 10, 11]]
    assert (begun.byte_count, begun.tokens, begun.document[2].tolist()) == (18, 9, [2] * 4)
    slow.eos_token = ""
    with pytest.raises(InputError, match="has no end-of-text token; join documents by blank-line"):
        cut_windows(stub, given, 4, joint="end-of-text")  # type: ignore[arg-type]
    assert cut_windows(loaded, given, 5).byte_count == 8


def test_words_that_are_finished_together_are_not_read_in_chunks():
    weight = torch.randn(7, 4, generator=torch.Generator().manual_seed(0))
    stub = SimpleNamespace(
        encoder=False, id="m", scales=SimpleNamespace(logits=None), logits=lambda hidden: hidden @ weight.T
    )
    hidden = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1))
    targets = torch.tensor([[0, 6, 3], [2, 2, 1]])
    found = token_losses(stub, hidden, targets)  # type: ignore[arg-type]
    for place in ((0, 0), (0, 1), (1, 2)):
        logits = [float(hidden[place] @ row) for row in weight]
        wanted = math.log(sum(math.exp(one) for one in logits)) - logits[int(targets[place])]
        assert float(found[place]) == pytest.approx(wanted, rel=1e-5)
