"""Deactivation, its kinds, and perplexity under it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from babelscope.errors import AlreadyEdited, InputError
from babelscope.models import Site, capture
from babelscope.models.hooks import hook_count
from babelscope.regions import RegionSet, deactivate, deactivation_table, record
from babelscope.regions.alignment_neurons import Removals, alignment_neurons, deactivate_alignment, shares_of_sads
from babelscope.regions.perplexity import cut_windows, loss_change, score, token_losses
from babelscope.regions.similarity import whole_means
from babelscope.regions.treatments import Doses, dose_response, language_means, top_share, treated, treatment
from babelscope.stats import documents_why

from . import reference
from .region_data import corpus, model, texts

IDS = torch.arange(4, 20).reshape(2, 8)


def logits(loaded):
    with torch.no_grad():
        return loaded.hf(IDS).logits


def mask_of(loaded, *places):
    mask = torch.zeros(loaded.layers, loaded.neurons_per_layer, dtype=torch.bool)
    for layer, neuron in places:
        mask[layer, neuron] = True
    return mask


@pytest.mark.parametrize("family", ["bloom", "llama", "gpt2", "opt"])
def test_an_empty_region_leaves_the_logits_identical(family):
    loaded = model(family)
    before = logits(loaded)
    with deactivate(loaded, mask_of(loaded)):
        inside = logits(loaded)
    assert torch.equal(before, inside)


@pytest.mark.parametrize("family", ["bloom", "llama"])
def test_a_whole_layer_leaves_the_bias_or_nothing(family):
    loaded = model(family)
    mask = mask_of(loaded)
    mask[1] = True
    with torch.no_grad(), capture(loaded, [Site("mlp_write", 1)]) as seen, deactivate(loaded, mask):
        loaded.trunk(IDS)
    written = seen[Site("mlp_write", 1)]
    bias = loaded.bias("neurons", 1)
    assert torch.allclose(written, torch.zeros_like(written) if bias is None else bias.expand_as(written), atol=1e-6)
    assert (bias is None) == (family == "llama")


def test_the_model_is_as_before_also_after_an_exception():
    loaded = model("bloom")
    before, hooks, weights = logits(loaded), hook_count(loaded.hf), loaded.weight_hash
    with pytest.raises(ZeroDivisionError), deactivate(loaded, mask_of(loaded, (0, 1))):
        logits(loaded)
        raise ZeroDivisionError
    assert torch.equal(before, logits(loaded))
    assert hook_count(loaded.hf) == hooks
    assert loaded.weight_hash == weights


def test_nested_deactivation_and_wrong_shapes_are_refused():
    loaded = model("bloom")
    mask = mask_of(loaded, (0, 1))
    with deactivate(loaded, mask):
        with pytest.raises(AlreadyEdited), deactivate(loaded, mask):
            pass
        logits(loaded)
    with pytest.raises(InputError, match=r"shape \(2, 3\) does not fit"), deactivate(loaded, torch.zeros(2, 3).bool()):
        pass


def neurons_under(loaded, one):
    with torch.no_grad(), treated(loaded, one), capture(loaded, [Site("mlp_write", 1)]) as seen:
        loaded.trunk(IDS)
    return seen[Site("mlp_write", 1)]


def test_every_kind_sets_the_neurons_to_what_it_says():
    loaded, sentences = model("bloom", torch.float64), corpus(3, 4)
    found = record(loaded, sentences)
    mask = mask_of(loaded, (1, 3), (1, 7))
    with torch.no_grad(), capture(loaded, [Site("neurons", 1), Site("mlp_write", 1)]) as seen:
        loaded.trunk(IDS)
    h, written = seen[Site("neurons", 1)], seen[Site("mlp_write", 1)]
    means = torch.from_numpy(found.means).mean(1).reshape(3, 3, -1)[:, 1]
    wanted = {
        "zero": torch.zeros(2, dtype=torch.float64),
        "mean": means.mean(0)[[3, 7]],
        "mean-others": means[[0, 2]].mean(0)[[3, 7]],
        "scale": 0.25 * h[..., [3, 7]],
    }
    for kind, values in wanted.items():
        changed = h.clone()
        changed[..., [3, 7]] = values
        expected = written + (changed - h) @ loaded.neuron_weight(1)
        got = neurons_under(loaded, treatment(mask, kind, found, "zh", scale=0.25))
        assert torch.allclose(got, expected, atol=1e-7), kind
    assert language_means(found).shape == (3, 3, loaded.neurons_per_layer)


def test_treatments_that_lack_something_say_so():
    mask = torch.ones(1, 2, dtype=torch.bool)
    with pytest.raises(InputError, match="'mean' takes its values from a recording"):
        treatment(mask, "mean")
    with pytest.raises(InputError, match="no treatment 'half'; there are zero, mean, mean-others, scale"):
        treatment(mask, "half")
    loaded = model("bloom")
    with pytest.raises(InputError, match="'xx' is not a language of the recording"):
        treatment(mask, "mean-others", record(loaded, corpus(2, 2)), "xx")


@pytest.mark.parametrize("family", ["bloom", "llama", "gemma2", "cohere", "opt", "gpt2"])
def test_loss_is_the_mean_cross_entropy_of_full_logits(family):
    loaded = model(family)
    windows = cut_windows(loaded, texts(1)["en"], window=16)
    assert windows.ids.shape == (10, 16)
    wanted = reference.mean_loss(loaded, windows.ids)
    found = score(loaded, windows)
    assert found.nll == pytest.approx(wanted, rel=1e-5)
    assert found.perplexity == pytest.approx(math.exp(wanted), rel=1e-4)
    assert found.tokens == windows.tokens == 150
    assert score(loaded, windows, budget=16).nll == pytest.approx(wanted, rel=1e-5)


def test_loss_does_not_depend_on_the_chunk_of_the_vocabulary():
    loaded = model("bloom", torch.float64)
    with torch.no_grad():
        hidden = loaded.trunk(IDS)
    whole = token_losses(loaded, hidden, IDS)
    for chunk in (1, 7, 96):
        assert torch.allclose(token_losses(loaded, hidden, IDS, chunk), whole, rtol=1e-12)


def test_windows_know_their_documents_and_bytes():
    loaded = model("bloom")
    given = texts(1, documents=3, length=10)["en"]
    windows = cut_windows(loaded, given, window=6)
    joined = "\n\n".join(document.text for document in given.documents)
    assert windows.ids.shape == (len(joined) // 6, 6)
    assert windows.document[0].tolist() == [0] * 6
    # a window's first token is not scored, nor are its bytes
    assert windows.byte_count == windows.tokens
    assert int(windows.document.max()) == 2
    with pytest.raises(InputError, match="less than one window of 100; give --window 34 or less"):
        cut_windows(loaded, given, window=100)
    with pytest.raises(InputError, match="scores nothing"):
        cut_windows(loaded, given, window=1)


@pytest.mark.parametrize("special", ["bos", "bos-excluded"])
def test_windows_begin_with_the_token_that_is_asked_for_and_all_of_their_text_is_scored(special):
    loaded = model("bloom")
    given = texts(1, documents=3, length=10)["en"]
    plain, begun = cut_windows(loaded, given, 5), cut_windows(loaded, given, 6, special=special)
    assert begun.ids[:, 0].tolist() == [loaded.tokenizer.bos_token_id] * len(plain.ids)
    assert begun.ids[:, 1:].tolist() == plain.ids.tolist()
    assert begun.document[:, 1:].tolist() == plain.document.tolist()
    assert begun.byte_count == begun.tokens == plain.ids.numel()
    # each window by hand: the losses of all its text behind the token
    with torch.no_grad():
        log_p = loaded.hf(begun.ids).logits[:, :-1].log_softmax(-1).gather(-1, plain.ids[..., None])
    assert score(loaded, begun).nll == pytest.approx(-float(log_p.mean()), rel=1e-5)
    with pytest.raises(InputError, match="less than one window of 100; give --window 35 or less"):
        cut_windows(loaded, given, window=100, special=special)


def test_the_table_has_every_condition_and_empty_regions_change_nothing():
    loaded = model("bloom")
    windows = {code: cut_windows(loaded, text, 16) for code, text in texts(2).items()}
    regions = RegionSet({"en": mask_of(loaded, *((1, k) for k in range(40))), "zh": mask_of(loaded)}, "z-score")
    table = deactivation_table(loaded, windows, regions, controls=2)
    assert {row.deactivated for row in table.rows} == {"base", "en", "zh", "random", "random-layer"}
    assert len(table.rows) == 2 * (1 + 2 + 2 * 2)
    perplexities = table.perplexities()
    assert perplexities["zh"] == perplexities["base"]
    assert perplexities["en"]["en"] != perplexities["base"]["en"]
    for row in table.rows:
        assert row.documents == 4
        # the region of zh is empty, and so is what is drawn like it
        empty = row.deactivated == "zh" or (row.deactivated, row.language) == ("random-layer", "zh")
        known = row.deactivated != "base" and not empty
        assert (row.delta_low < row.delta_nll < row.delta_high) if known else math.isnan(row.delta_low)
        why = "nothing is switched off" if row.deactivated == "base" else "nothing changed"
        assert row.why == (documents_why(4) if known else why)
    assert [one.language for one in table.selectivity] == ["en", "zh"]
    assert all(one.low < one.selectivity < one.high for one in table.selectivity if one.language == "en")


def test_few_documents_have_no_interval():
    loaded = model("bloom")
    windows = cut_windows(loaded, texts(1, documents=2, length=60)["en"], 16)
    base = score(loaded, windows)
    with deactivate(loaded, mask_of(loaded, (1, 3))):
        changed = score(loaded, windows)
    found = loss_change(changed, base)
    assert math.isnan(found.low)
    assert found.why == "fewer than three documents"
    assert loss_change(base, base).why == "nothing changed"


def test_doses_follow_the_ranking_and_are_matched_by_layer():
    loaded = model("bloom")
    windows = {code: cut_windows(loaded, text, 16, limit=2) for code, text in texts(2).items()}
    scores = torch.arange(loaded.neurons).float().reshape(loaded.layers, -1)
    regions = RegionSet({"en": top_share(scores, 0.01, loaded.layout)}, "z-score", scores={"en": scores})
    rows = dose_response(loaded, windows, regions, Doses((0.01, 0.1), ("zero", "scale")))
    assert len(rows) == 2 * 2 * 2 * 2
    assert {row.neurons for row in rows} == {round(0.01 * loaded.neurons), round(0.1 * loaded.neurons)}
    assert {row.region for row in rows} == {"en", "random-layer"}
    base = {code: score(loaded, text) for code, text in windows.items()}
    again = dose_response(loaded, windows, regions, Doses((0.01, 0.1), ("zero", "scale")), base=base)
    assert [row.delta_nll for row in again] == [row.delta_nll for row in rows]
    with pytest.raises(InputError, match="has none"):
        dose_response(loaded, windows, RegionSet(regions.masks, "z-score"), Doses((0.1,)))


def test_alignment_neurons_carry_sads_and_their_loss_is_measured_against_random_ones():
    loaded, sentences = model("bloom"), corpus(3, 6)
    found = record(loaded, sentences)
    assert float(shares_of_sads(found).sum()) == pytest.approx(float(whole_means(found).sads), rel=1e-6)
    assert int(alignment_neurons(found, 0.05).sum()) == round(0.05 * loaded.neurons)
    windows = {"en": cut_windows(loaded, texts(1)["en"], 16, limit=2)}
    rows = deactivate_alignment(
        loaded, sentences, found, windows, Removals((0.05,), 1), tasks={"cloze": lambda: {"en": (0.5, 0.4, 0.6, 7)}},
    )  # fmt: skip
    assert {row.deactivated for row in rows} == {"base", "alignment", "random-layer"}
    assert {row.measure for row in rows} == {"sads", "sads_left", "lrds", "delta_nll", "cloze"}
    assert {row.n for row in rows if row.measure == "cloze"} == {7}
    left = {row.deactivated: row for row in rows if row.measure == "sads_left"}
    kept = found.means * (~alignment_neurons(found, 0.05)).flatten().numpy()
    assert left["alignment"].value == pytest.approx(float(whole_means(replace(found, means=kept)).sads), rel=1e-9)
    assert left["alignment"].low <= left["alignment"].value <= left["alignment"].high
    sads = {row.deactivated: row.value for row in rows if row.measure == "sads"}
    assert sads["base"] == pytest.approx(float(whole_means(found).sads), rel=1e-6)
    assert sads["alignment"] < sads["random-layer"]
    before = score(loaded, windows["en"]).nll
    with deactivate(loaded, alignment_neurons(found, 0.05)):
        after = score(loaded, windows["en"]).nll
    added = {row.deactivated: row for row in rows if row.measure == "delta_nll"}
    assert added["alignment"].value == pytest.approx(after - before, rel=1e-6)
    assert abs(after - before) > 1e-6
