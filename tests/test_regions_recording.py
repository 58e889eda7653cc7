"""Recording: every family, any padding and batch, in float64 equal to one sentence at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from babelscope.corpora import ParallelCorpus
from babelscope.errors import CorpusError, InputError, NonFinite
from babelscope.models import Site, capture, edit
from babelscope.regions import record, standard_scores, whole_means, within_language_scores, within_language_sums
from babelscope.regions.recording import Recording

from . import reference
from .region_data import corpus, model, recording
from .tiny_models import FAMILIES

FLOAT32_INSIDE = {"bloom": 1e-5, "gemma2": 2e-4}
"""Relative tolerance of the families whose attention takes its soft-max in float32 whatever the model's own type (both
run transformers' eager attention): how that sum is rounded depends on the padding and on the processor's kernel."""


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "xglm"])
def test_every_score_equals_brute_force_on_every_family(family):
    loaded, texts = model(family, torch.float64), corpus(6, 4)
    near = FLOAT32_INSIDE.get(family, 1e-9)
    found = record(loaded, texts, budget=40)
    x = reference.sentence_vectors(loaded, texts)
    got = torch.cat([part for _, part in found.unit_chunks(50)], dim=-1)
    assert torch.allclose(got, x, rtol=near, atol=near * 1e-4)
    # the formulas, on the very same vectors: nothing of the model's rounding is in these
    assert_formulas_equal_the_loops(found, got)


def assert_formulas_equal_the_loops(found, x):
    whole = whole_means(found)
    parts = [float(one) for one in (whole.same_language, whole.same_sentence, whole.neither)]
    assert parts == pytest.approx(reference.pair_loop_means(x), rel=1e-9)
    scores = within_language_scores(within_language_sums(found))
    wanted = reference.pair_loop_scores(x)
    assert torch.allclose(scores, wanted, rtol=1e-9, atol=1e-9 * float(wanted.abs().max()))
    z, loop = standard_scores(scores), reference.loop_z(wanted)
    # a neuron whose scores differ by less than rounding has no z to compare
    usable = wanted.std(0) > 1e-6 * wanted.abs().amax(0)
    assert usable.double().mean() > 0.9
    assert torch.allclose(z[:, usable], loop[:, usable], rtol=1e-9, atol=1e-9)


def test_xglm_which_runs_in_float32_at_most_is_close():
    loaded, texts = model("xglm"), corpus(3, 4)
    found = torch.cat([part for _, part in record(loaded, texts, budget=40).unit_chunks(50)], dim=-1)
    assert torch.allclose(found, reference.sentence_vectors(loaded, texts), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("family", ["bloom", "llama", "gpt2", "falcon-7b", "opt", "gemma2"])
def test_padding_and_batches_change_nothing(family):
    loaded, texts = model(family), corpus(3, 6)
    alone, together = record(loaded, texts, budget=1), record(loaded, texts, budget=10_000)
    assert np.allclose(alone.means, together.means, rtol=2e-5, atol=1e-6)
    assert torch.equal(alone.tokens, together.tokens)
    assert alone.first_position_share == pytest.approx(together.first_position_share, rel=1e-4)


def test_tokens_are_counted_and_the_mean_is_over_them():
    loaded, texts = model("bloom"), corpus(2, 3)
    found = record(loaded, texts)
    assert found.tokens.tolist() == [[len(text) for text in texts.texts[code]] for code in texts.languages]
    assert found.neurons == loaded.neurons
    ids = torch.tensor(loaded.tokenize([texts.texts["zh"][1]]))
    with torch.no_grad(), capture(loaded, [Site("neurons", 2)]) as seen:
        loaded.trunk(ids)
    wanted = seen[Site("neurons", 2)][0].mean(0)
    assert torch.allclose(found.layer(2)[1, 1], wanted, atol=1e-6)


def test_special_tokens_are_pooled_or_left_out():
    loaded, texts = model("llama", torch.float64), corpus(2, 3)
    counts = {special: record(loaded, texts, special).tokens for special in ("none", "bos", "bos-excluded")}
    assert torch.equal(counts["bos"], counts["none"] + 1)
    assert torch.equal(counts["bos-excluded"], counts["none"])
    ids = torch.tensor(loaded.tokenize([texts.texts["en"][0]], "bos"))
    with torch.no_grad(), capture(loaded, [Site("neurons", 0)]) as seen:
        loaded.trunk(ids)
    h = seen[Site("neurons", 0)][0]
    for special, wanted in (("bos", h.mean(0)), ("bos-excluded", h[1:].mean(0))):
        assert torch.allclose(record(loaded, texts, special).layer(0)[0, 0], wanted, rtol=1e-9)


def test_activity_is_the_share_of_tokens_above_zero():
    loaded, texts = model("bloom"), corpus(2, 4)
    found = record(loaded, texts, activity=True, budget=30)
    assert record(loaded, texts).activity is None
    counts, total = torch.zeros(loaded.neurons), 0
    for text in texts.texts["zh"]:
        ids = torch.tensor(loaded.tokenize([text]))
        with torch.no_grad(), capture(loaded, [Site("neurons", layer) for layer in range(3)]) as seen:
            loaded.trunk(ids)
        counts += torch.cat([(seen[Site("neurons", layer)][0] > 0).sum(0) for layer in range(3)])
        total += ids.shape[1]
    assert torch.allclose(found.activity[1], counts / total)


def test_means_may_lie_in_a_file(tmp_path):
    loaded, texts = model("bloom"), corpus(2, 3)
    stored = record(loaded, texts, store=tmp_path / "means.npy")
    assert isinstance(stored.means, np.memmap)
    assert np.array_equal(stored.means, record(loaded, texts).means)
    assert np.array_equal(np.load(tmp_path / "means.npy", mmap_mode="r"), stored.means)


def test_shares_of_the_largest_neurons_and_of_the_first_token():
    v = torch.tensor([[[3.0, 4.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]]], dtype=torch.float64)
    assert recording(v).top_share(1) == pytest.approx((16 / 25 + 1 / 4) / 2)
    loaded = model("bloom")
    one = ParallelCorpus.from_texts({"en": ["a"], "zh": ["b"]})
    assert record(loaded, one).first_position_share == pytest.approx(1, rel=1e-5)


def test_what_cannot_be_recorded_names_language_sentence_and_layer():
    loaded, texts = model("bloom"), corpus(2, 3)
    with pytest.raises(NonFinite, match="NaN or infinite: language en, sentence 1, layer 1"):
        with edit(loaded, {Site("neurons", 1): lambda h: h * torch.nan}):
            record(loaded, texts, budget=10_000)
    with pytest.raises(NonFinite, match="all activations are zero: language en, sentence 1"):
        with edit(loaded, {Site("neurons", layer): torch.zeros_like for layer in range(3)}):
            record(loaded, texts, budget=10_000)
    with pytest.raises(CorpusError, match=r"sentence .* is empty in zh"):
        record(loaded, ParallelCorpus.from_texts({"en": ["a"], "zh": [" "]}))
    with pytest.raises(InputError, match="no beginning-of-sequence token"):
        _without_beginning(loaded, texts)


def _without_beginning(loaded, texts):
    before = loaded.tokenizer.bos_token
    loaded.tokenizer.bos_token = None
    try:
        record(loaded, texts, "bos")
    finally:
        loaded.tokenizer.bos_token = before


def test_chunks_cover_the_neurons():
    found = Recording(("en",), ("1",), 1, np.zeros((1, 1, 10)), torch.ones(1, 1, dtype=torch.long), 0.0)
    assert [(part.start, part.stop) for part in found.chunks(4)] == [(0, 4), (4, 8), (8, 10)]


def test_a_pass_stops_behind_the_last_neurons_only_where_nobody_watches(monkeypatch):
    loaded, texts = model("bloom"), corpus(2, 3)
    calls: list[str] = []
    plain = record(loaded, texts)
    final = loaded.norm("final")
    assert final is not None
    own = type(final).forward

    def seen(module, *given):
        calls.extend(["final"] if module is final else [])
        return own(module, *given)

    seen.__module__ = type(final).__module__  # a forward of somebody else would be let through to the end
    monkeypatch.setattr(type(final), "forward", seen)
    alone = record(loaded, texts)
    assert calls == []
    # an edit behind the last neurons changes nothing that is read, but it must see its pass
    with edit(loaded, {Site("mlp_write", loaded.layers - 1): lambda h: h}) as fired:
        watched = record(loaded, texts)
    assert calls
    assert all(fired.values())
    assert np.array_equal(plain.means, alone.means)
    assert np.array_equal(plain.means, watched.means)
