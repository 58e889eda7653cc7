"""Published numbers of regions against values made by hand: signs, controls, boundaries and intervals."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from babelscope.evolution.differences import compare_headlines
from babelscope.regions.alignment import alignment
from babelscope.regions.contrast import ContrastSettings, contrast
from babelscope.regions.deactivation import deactivate
from babelscope.regions.lape import lape
from babelscope.regions.masks import RegionSet
from babelscope.regions.methods import localise
from babelscope.regions.perplexity import (
    Loss,
    Windows,
    cut_windows,
    increase_percent,
    loss_change,
    score,
    selectivity,
    token_bytes,
)
from babelscope.regions.recording import Span, record
from babelscope.regions.stability import bootstrap_regions, split_half_regions
from babelscope.regions.table import conditions, deactivation_table

from .region_data import corpus, model, noise, recording, texts


def loss(*documents: float, tokens: int = 10, names: tuple[str, ...] = ()) -> Loss:
    return Loss(torch.tensor(documents, dtype=torch.float64), torch.full((len(documents),), tokens), 100, names)


def test_a_loss_that_doubles_perplexity_raises_it_by_a_hundred_percent():
    base, changed = loss(10, 20, 30), loss(10 + 10 * math.log(2), 20 + 10 * math.log(2), 30 + 10 * math.log(2))
    assert increase_percent(loss_change(changed, base)).value == pytest.approx(100)
    assert increase_percent(loss_change(base, changed)).value == pytest.approx(-50)


def test_a_region_that_hurts_raises_the_tables_increase():
    loaded = model("bloom")
    windows = {"en": Windows("en", torch.arange(40).reshape(4, 10) % 20 + 3, torch.zeros(4, 10).long(), 36)}
    mask = torch.ones(loaded.layers, loaded.neurons_per_layer, dtype=torch.bool)
    rows = deactivation_table(loaded, windows, RegionSet({"en": mask}, "all"), controls=0).rows
    base, changed = (next(row for row in rows if row.deactivated == name) for name in ("base", "en"))
    assert changed.increase_percent == pytest.approx(100 * (changed.perplexity - base.perplexity) / base.perplexity)
    assert base.increase_percent == 0


def test_selectivity_is_own_minus_the_mean_of_the_others():
    base = loss(0, 0, 0, 0)
    own, one, other = loss(38, 40, 42, 40), loss(9, 10, 11, 10), loss(19, 20, 21, 20)  # 4, 1 and 2 nats a token
    found = selectivity(own, base, {"zh": (one, base), "fr": (other, base)})
    assert found.value == pytest.approx(4 - 1.5)
    assert found.method == "Welch t"
    assert found.low < 2.5 < found.high


def test_parallel_documents_are_compared_one_by_one():
    names = ("a", "b", "c", "d")
    base = loss(0, 0, 0, 0, names=names)
    own, other = loss(10, 20, 30, 40, names=names), loss(0, 10, 20, 31, names=names)
    found = selectivity(own, base, {"zh": (other, base)})
    # per token 1, 1, 1, 0.9: mean 0.975, standard error 0.025, t(3; 0.975) = 3.182
    assert found.value == pytest.approx(0.975)
    assert found.high - found.value == pytest.approx(3.182 * 0.025, rel=1e-3)
    assert found.method == "t over parallel documents"


def test_random_controls_differ_from_draw_to_draw():
    masks = {"en": torch.zeros(3, 40, dtype=torch.bool)}
    masks["en"][1, :20] = True
    drawn = [one.mask for one in conditions(RegionSet(masks, "some"), 4, 0) if one.deactivated == "random"]
    assert len({tuple(mask.flatten().tolist()) for mask in drawn}) == 4
    assert all(int(mask.sum()) == 20 for mask in drawn)


def test_a_text_meets_random_neurons_like_its_own_languages_region():
    masks = {"en": torch.zeros(3, 40, dtype=torch.bool), "zh": torch.zeros(3, 40, dtype=torch.bool)}
    masks["en"][1, :20], masks["zh"][0, :2], masks["zh"][2, :6] = True, True, True
    drawn = [one for one in conditions(RegionSet(masks, "some"), 3, 0) if one.deactivated == "random-layer"]
    assert [one.draw for one in drawn] == [0, 1, 2]
    for one in drawn:
        assert one.on("en").sum(1).tolist() == [0, 20, 0]
        assert one.on("zh").sum(1).tolist() == [2, 0, 6]
        # no region of its own: the mean one, 1, 10 and 3 neurons
        assert one.on("fr").sum(1).tolist() == [1, 10, 3]
    assert len({tuple(one.on("en").flatten().tolist()) for one in drawn}) == 3
    # of any layer: 14 neurons, the same for every text
    [first, *_] = [one for one in conditions(RegionSet(masks, "some"), 3, 0) if one.deactivated == "random"]
    assert first.on("en") is first.on("zh")
    assert int(first.on("en").sum()) == 14


def test_the_table_reads_each_text_under_its_own_random_neurons():
    loaded = model("bloom")
    windows = {code: cut_windows(loaded, text, 16) for code, text in texts(2).items()}
    masks = {code: torch.zeros(loaded.layers, loaded.neurons_per_layer, dtype=torch.bool) for code in windows}
    masks["en"][1, :30], masks["zh"][0, :3] = True, True
    regions = RegionSet(masks, "some")
    [control] = [one for one in conditions(regions, 1, 7) if one.deactivated == "random-layer"]
    rows = deactivation_table(loaded, windows, regions, controls=1, seed=7, fixed=True).rows
    for code, neurons in (("en", 30), ("zh", 3)):
        [row] = [one for one in rows if (one.deactivated, one.language) == ("random-layer", code)]
        assert row.neurons == neurons
        base = score(loaded, windows[code])
        with deactivate(loaded, control.on(code)):
            assert row.delta_nll == pytest.approx(loss_change(score(loaded, windows[code]), base).value, rel=1e-4)


def test_a_token_belongs_to_the_document_it_stands_in():
    loaded = model("bloom")
    ids = torch.tensor([[5, 6, 7, 8, 9, 10]])
    found = score(loaded, Windows("en", ids, torch.tensor([[0, 0, 0, 1, 1, 1]]), 5))
    with torch.no_grad():
        logits = loaded.hf(ids).logits[0].double().log_softmax(-1)
    each = [-float(logits[place, ids[0, place + 1]]) for place in range(5)]
    assert found.counts.tolist() == [2, 3]
    assert found.by_document.tolist() == pytest.approx([sum(each[:2]), sum(each[2:])], rel=1e-4)


def test_a_silent_neuron_is_not_active():
    loaded = model("opt")  # ReLU: most activations are exactly 0
    activity = record(loaded, corpus(2, 3), activity=True).activity
    assert activity is not None
    assert 0.2 < float(activity.mean()) < 0.8


def test_lape_scores_the_neuron_of_one_language_highest_by_hand():
    p = torch.full((2, 40), 0.2)
    p[:, 0] = torch.tensor([0.9, 0.1])
    scores, members = lape(p, share=1 / 40, quantile=0.9)
    entropy = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1))
    assert scores[:, 0].tolist() == pytest.approx([0.9 * (math.log(2) - entropy), 0.1 * (math.log(2) - entropy)])
    assert members.nonzero().tolist() == [[0, 0]]


def test_mean_difference_asks_for_an_effect():
    normal = torch.randn(3, 60, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    normal[0, :, 0] += 3
    normal[0, :, 1] += 1
    rec = recording(normal)
    assert localise(rec, "mean-difference").masks["en"].flatten().tolist()[:2] == [True, True]
    assert localise(rec, "mean-difference", effect=2.0).masks["en"].flatten().tolist()[:2] == [True, False]


def test_eta_squared_takes_raised_neurons_alone():
    normal = 0.1 * torch.randn(3, 20, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    normal[0, :, 0] -= 5  # lowered in the first: raised in neither of the others more than in the other, by much
    found = localise(recording(normal), "eta-squared", share=0.1)
    assert not found.masks["en"].any()
    assert sum(found.sizes.values()) == 1


def test_a_neuron_that_never_changes_is_in_no_region():
    constant = torch.full((3, 20, 10), 2.0, dtype=torch.float64)
    constant[1, :, 4] += torch.linspace(1, 2, 20, dtype=torch.float64)
    found = localise(recording(constant), "eta-squared", share=1.0)
    assert {code: mask.flatten().nonzero().flatten().tolist() for code, mask in found.masks.items()} == {
        "en": [], "zh": [4], "fr": [],
    }  # fmt: skip


def test_chance_is_what_random_regions_share():
    """The stated chance of every two regions against the mean Jaccard index of random ones of the same sizes."""
    generator = np.random.default_rng(0)
    for seed, split in ((0, False), (1, True)):
        found = (
            split_half_regions(noise(9, 12, 60, seed), 2, 0.0)
            if split
            else bootstrap_regions(noise(9, 12, 60, seed), 2, 0.0)
        )
        summed = found.shared + found.either
        for row, column in ((0, 0), (1, 4), (1, 8)):
            drawn = int(found.sizes[row, column])
            if split:  # sizes are of both halves together: of every way to part them one is the true one
                wanted = [_mean_jaccard(generator, one, drawn - one, 60) for one in range(drawn + 1)]
                assert min(abs(value - float(found.chance[row, column])) for value in wanted) < 0.02
            else:
                whole = int(summed[row, column]) - drawn
                assert float(found.chance[row, column]) == pytest.approx(
                    _mean_jaccard(generator, whole, drawn, 60), abs=0.02
                )


def _mean_jaccard(generator: np.random.Generator, one: int, other: int, neurons: int) -> float:
    shared = generator.hypergeometric(one, neurons - one, other, 4000) if one and other else np.zeros(1)
    return float((shared / np.maximum(one + other - shared, 1)).mean())


def test_alignment_intervals_cover():
    inside = 0
    for seed in range(100):
        generator = torch.Generator().manual_seed(seed)
        meaning = torch.randn(30, 40, generator=generator, dtype=torch.float64)
        v = 0.7 * meaning + torch.randn(2, 30, 40, generator=generator, dtype=torch.float64)
        found = alignment(recording(v), ["anc"])[0]
        inside += bool(found.low[0, 0, 1] <= 0.49 / 1.49 <= found.high[0, 0, 1])
    assert 85 <= inside <= 99


def test_bytes_of_tokens_share_a_letter():
    text = "日本 a"
    offsets = np.array([[0, 1], [0, 1], [1, 2], [3, 4]])
    assert token_bytes(text, offsets).tolist() == [1.5, 1.5, 3.0, 2.0]


def test_intervals_overlap_only_where_both_ends_say_so():
    def run(low: float, high: float, n: int = 100) -> SimpleNamespace:
        summary = {"lrds": (low + high) / 2, "excess_sklr": 10.0, "n": n, "intervals": {"lrds": [low, high]}}
        return SimpleNamespace(summary=summary)

    for pair, overlap in (((0, 1), True), ((0.5, 2), True), ((1.5, 2), False), ((-2, -1), False)):
        rows = compare_headlines(run(0, 1), run(*pair)).set_index("measure")
        assert rows.overlap["lrds"] is overlap
    rows = compare_headlines(run(0, 1), run(0, 1, n=400)).set_index("measure")
    assert math.isnan(rows.difference["excess_sklr"])
    assert rows.why["excess_sklr"] == "grows with the corpus: n = 100 against n = 400"
    assert rows.difference["lrds"] == 0


def test_the_first_token_and_the_longest_texts_leave_the_mean():
    loaded, texts = model("llama", torch.float64), corpus(2, 6)
    whole = record(loaded, texts)
    kept = record(loaded, texts, span=Span(first="drop"))
    assert len(kept.ids) + kept.too_short == 6
    assert all(int(count) >= 1 for count in kept.tokens.flatten())
    short = record(loaded, texts, span=Span(tokens="shortest"))
    assert torch.equal(short.tokens[0], short.tokens[1])
    assert torch.equal(short.tokens[0], whole.tokens.amin(0))


def test_contrast_against_chosen_languages():
    normal = torch.randn(3, 60, 20, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    normal[:2, :, 0] += 3
    found = contrast(recording(normal), ContrastSettings(against=("fr",)))
    assert found.raised[:2, 0].tolist() == [True, True]
    assert found.d[2].isnan().all()
