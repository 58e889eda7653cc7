"""A recording token by token: what is pooled under each span, what the first token carries, and contrasts of it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats as scipy_stats

from babelscope.corpora import ParallelCorpus
from babelscope.models import Site, capture
from babelscope.regions.contrast import ContrastSettings, contrast
from babelscope.regions.identification import broken_share, distinct
from babelscope.regions.nulls import label_null, permutations, reached, sentence_null
from babelscope.regions.perplexity import Loss, Windows
from babelscope.regions.recording import Span, record
from babelscope.regions.rounds import Look, dealt, first_ending, joined
from babelscope.regions.similarity import gram

from .region_data import corpus, model, noise, recording


def tokens_of(loaded, text, special):
    """h of every neuron at every token of a sentence, [T, D]."""
    sites = [Site("neurons", layer) for layer in range(loaded.layers)]
    with torch.no_grad(), capture(loaded, sites) as seen:
        loaded.trunk(torch.tensor(loaded.tokenize([text], special)))
    return torch.cat([seen[site][0] for site in sites], dim=-1)


SPANS = (Span(), Span(first="drop"), Span(tokens="shortest"))


@pytest.mark.parametrize("special", ["none", "bos", "bos-excluded"])
@pytest.mark.parametrize("span", SPANS)
def test_a_recording_is_the_plain_means_of_the_tokens_it_spans(special, span):
    loaded, sentences = model("llama", torch.float64), corpus(3, 6)
    found = record(loaded, sentences, special, activity=True, budget=24, span=span)
    begin = int(special == "bos-excluded") + int(span.first == "drop")
    all_h = {
        code: [tokens_of(loaded, text, special)[begin:] for text in sentences.texts[code]]
        for code in sentences.languages
    }
    kept = [place for place in range(6) if all(len(own[place]) > 0 for own in all_h.values())]
    if span.tokens == "shortest":
        shortest = [min(len(own[place]) for own in all_h.values()) for place in range(6)]
        all_h = {code: [h[:most] for h, most in zip(own, shortest)] for code, own in all_h.items()}
    assert (found.ids, found.too_short) == (tuple(sentences.ids[place] for place in kept), 6 - len(kept))
    carried = []
    for row, own in enumerate(all_h.values()):
        h = [own[place] for place in kept]
        means = torch.stack([one.mean(0) for one in h])
        assert torch.allclose(torch.as_tensor(found.means[row]), means, rtol=1e-9, atol=1e-12)
        assert found.tokens[row].tolist() == [len(one) for one in h]
        first = torch.stack([mean * one[0] / len(one) for mean, one in zip(means, h)])
        share = first.sum(0) / means.square().sum(0)
        assert torch.allclose(found.first_part[row].double(), share, rtol=1e-3, atol=1e-4)
        carried += (first.sum(1) / means.square().sum(1)).tolist()
        active = sum((one > 0).double().sum(0) for one in h) / sum(map(len, h))
        assert torch.allclose(found.activity[row].double(), active, atol=1e-6)
    assert found.first_position_share == pytest.approx(sum(carried) / len(carried), rel=1e-6)


@pytest.mark.parametrize("family", ["llama", "bloom"])
def test_the_stream_is_recorded_in_the_place_of_neurons(family):
    loaded, sentences = model(family, torch.float64), corpus(2, 3)
    found = record(loaded, sentences, activity=True, span=Span(site="residual"))
    sites = [Site("residual", layer) for layer in range(loaded.layers + 1)]
    assert (found.layers, found.neurons) == (loaded.layers + 1, (loaded.layers + 1) * loaded.width)
    for row, code in enumerate(sentences.languages):
        for column, text in enumerate(sentences.texts[code]):
            with torch.no_grad(), capture(loaded, sites) as seen:
                loaded.trunk(torch.tensor(loaded.tokenize([text])))
            for layer, site in enumerate(sites):
                assert torch.allclose(found.layer(layer)[row, column], seen[site][0].mean(0), rtol=1e-6, atol=1e-9)


def test_a_sentence_of_two_tokens_keeps_one():
    sentences = ParallelCorpus.from_texts({"en": ["ab", "abc", "a"], "zh": ["cde", "cd", "cde"]})
    found = record(model(), sentences, span=Span(first="drop"))
    assert (found.tokens.tolist(), found.too_short, len(found.ids)) == ([[1, 2], [2, 1]], 1, 2)


def test_documents_of_the_corpus_are_kept():
    grouped = replace(corpus(2, 3), groups={"0": "x", "1": "x"})
    assert record(model(), grouped).documents == tuple(grouped.groups.get(id, id) for id in grouped.ids)
    assert record(model(), corpus(2, 3)).documents == ()


@pytest.mark.parametrize("documents", [6, 7])
def test_a_contrast_of_two_languages_is_a_paired_t_test(documents):
    v = torch.randn(2, documents, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rec = replace(recording(v), norm="none")
    found = contrast(rec, ContrastSettings(effect=0.0))
    for place, (own, other) in enumerate((v, v.flip(0))):
        up = scipy_stats.ttest_rel(own.numpy(), other.numpy(), alternative="greater").pvalue
        down = scipy_stats.ttest_rel(own.numpy(), other.numpy(), alternative="less").pvalue
        assert np.allclose(found.p_raised[place], up)
        assert np.allclose(found.p_lowered[place], down)
        gap = own - other
        s = ((own.var(0) + other.var(0)) / 2).sqrt()
        d, error = gap.mean(0) / s, gap.std(0) / documents**0.5
        assert torch.allclose(found.d[place], d)
        half = ((error / s).square() + d.square() / (2 * 2 * documents)).sqrt()
        half *= scipy_stats.t.ppf(0.975, documents - 1)
        assert torch.allclose(found.d_low[place], d - half)
        assert torch.allclose(found.d_high[place], d + half)
    strict = contrast(rec, ContrastSettings(effect=0.5))
    gap = v[0] - v[1]
    s, error = ((v[0].var(0) + v[1].var(0)) / 2).sqrt(), gap.std(0) / documents**0.5
    assert np.allclose(strict.p_raised[0], scipy_stats.t.sf((gap.mean(0) - 0.5 * s) / error, documents - 1))
    assert np.allclose(strict.p_lowered[0], scipy_stats.t.cdf((gap.mean(0) + 0.5 * s) / error, documents - 1))


def test_contrasts_of_documents_of_several_sentences_leave_out_whole_documents():
    v = torch.randn(3, 12, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    names = [0, 0, 0, 1, 1, 2, 3, 3, 4, 4, 5, 5]
    rec = replace(recording(v), norm="none", documents=tuple(map(str, names)))
    found = contrast(rec, ContrastSettings(effect=0.0))
    assert found.documents == 6
    for language in range(3):
        c = v[language] - (v.sum(0) - v[language]) / 2
        left = torch.stack([c[[n != name for n in names]].mean(0) for name in range(6)])
        error = (5 / 6 * (left - left.mean(0)).square().sum(0)).sqrt()
        wanted = scipy_stats.t.sf((c.mean(0) / error).numpy(), 5)
        assert np.allclose(found.p_raised[language], wanted)


def test_a_text_is_dealt_by_the_shares_of_the_looks():
    ids = torch.arange(70).reshape(10, 7)
    text = Windows("en", ids, torch.arange(10)[:, None].expand(10, 7), 60)
    looks = (Look(0.25, 0.01), Look(0.5, 0.01), Look(1.0, 0.03))
    parts = dealt(text, looks, 3)
    assert [len(part.ids) for part in parts] == [3, 2, 5]
    assert sorted(int(part.ids[row, 0]) // 7 for part in parts for row in range(len(part.ids))) == list(range(10))
    assert all(part.ids[:, 0].tolist() == sorted(part.ids[:, 0].tolist()) for part in parts)
    assert all(torch.equal(part.document[:, 0], part.ids[:, 0] // 7) for part in parts)
    assert torch.equal(dealt(text, looks[2:], 3)[0].ids, ids)
    # three documents by a quarter, five by a half
    assert first_ending(text, 3) == 0.5
    assert first_ending(replace(text, document=text.document // 3), 3) == 1.0
    assert (
        first_ending(replace(text, ids=ids.repeat(2, 1), document=torch.arange(20)[:, None].expand(20, 7)), 0) == 0.25
    )


def test_parts_of_several_lengths_are_joined():
    one = Loss(torch.tensor([1.0, 2]).double(), torch.tensor([3, 4]), 9, ("a", "b", "c"))
    more = Loss(torch.tensor([0.5, 0, 4]).double(), torch.tensor([1, 0, 2]), 9)
    for found in (joined(one, more), joined(more, one)):
        assert found.by_document.tolist() == [1.5, 2, 4]
        assert found.counts.tolist() == [4, 4, 2]
    assert joined(one, more).names == ("a", "b", "c")
    assert joined(None, more) is more


def test_permutations_are_of_documents_and_every_label_is_given_once():
    owners = torch.tensor([0, 0, 1, 2, 2])
    found = permutations(30, 5, 4, 1, owners)
    assert (found.sort(-1).values == torch.arange(4)).all()
    assert torch.equal(found[:, 0], found[:, 1])
    assert torch.equal(found[:, 3], found[:, 4])
    assert not torch.equal(found[:, 1], found[:, 2])
    assert (reached(2.0, torch.tensor([1.0, 2, 3])), reached(9.0, torch.tensor([1.0]))) == (0.75, 0.5)


def test_shuffles_of_labels_keep_b_and_those_of_sentences_keep_a():
    rec = noise(3, 5, 12, mean=0.8)
    s = gram(rec)
    labels, ids = label_null(s, 12, 1), sentence_null(s, 12, 1)
    assert float(labels.same_sentence.std()) == pytest.approx(0, abs=1e-12)
    assert float(ids.same_language.std()) == pytest.approx(0, abs=1e-12)
    pairs = [(a, b) for a in range(3) for b in range(3) if a != b]
    own = sum(float(s[a, i, a, j]) for a in range(3) for i in range(5) for j in range(5) if i != j) / (3 * 5 * 4)
    same = sum(float(s[a, i, b, i]) for a, b in pairs for i in range(5)) / (6 * 5)
    assert float(labels.same_sentence[0]) == pytest.approx(same)
    assert float(ids.same_language[0]) == pytest.approx(own)
    # all pairs of all three kinds add up to what the map holds
    for one in (labels, ids):
        total = 3 * 5 * 4 * one.same_language + 6 * 5 * one.same_sentence + 6 * 5 * 4 * one.neither
        assert torch.allclose(total, (s.sum() - 15).expand(12))
    assert len(label_null(s, 3, 1, ("a", "a", "b", "b", "b")).neither) == 3


def test_how_a_text_repeats_itself_and_breaks():
    assert distinct([1, 1, 1, 2], 1) == 0.5
    assert distinct([1, 1, 1, 2], 2) == pytest.approx(2 / 3)
    assert distinct([1, 2, 3], 3) == 1
    assert math.isnan(distinct([1, 2], 3))
    assert broken_share("a\ufffdb\ufffd\ufffd") == pytest.approx(1 / 3)
    assert broken_share("\ufffda") == 0.5
