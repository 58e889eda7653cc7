"""The deactivation table in rounds: what ends a reading, what its intervals allow for, and passes that start late."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from babelscope.models.hooks import hook_count
from babelscope.regions import RegionSet, deactivate, deactivation_table
from babelscope.regions import losses_under as losses_module
from babelscope.regions.losses_under import first_layer, losses_under, resumes
from babelscope.regions.perplexity import Loss, cut_windows, loss_change, score, selectivity
from babelscope.regions.rounds import (
    AT_ONCE,
    BASE,
    ROUNDS,
    Cell,
    by_rounds,
    dealt,
    first_ending,
    joined,
    known,
    selectivity_in_rounds,
    selectivity_of_ends,
)
from babelscope.results.display import facts
from babelscope.stats import Interval, no_interval, ratio_t

from .region_data import model, texts


def loss(per_document, tokens=10):
    total = torch.tensor(per_document, dtype=torch.float64) * tokens
    return Loss(total, torch.full((len(per_document),), tokens), 100)


def cell(low, high, documents=6):
    nothing = loss([0.0] * documents)
    return Cell(nothing, nothing, Interval((low + high) / 2, low, high), 1, 0.99)


def test_what_the_looks_may_err_adds_up_to_five_per_cent_and_they_end_with_all_text():
    assert sum(look.error for look in ROUNDS) == pytest.approx(0.05)
    assert ROUNDS[-1].share == 1
    assert [(look.share, look.error) for look in AT_ONCE] == [(1.0, 0.05)]


def test_a_set_is_known_when_its_interval_is_a_tenth_of_every_effect_beside_it_to_either_side():
    cells = {
        ("en", -1): {"en": cell(1.0, 1.5), "zh": cell(-0.04, 0.06)},
        ("zh", -1): {"en": cell(0.0, 0.16), "zh": cell(-0.9, -0.6)},
        ("random", 0): {"en": cell(0.0, 0.2), "zh": cell(0.0, 0.2)},
        ("random", 1): {"en": cell(0.0, 0.18, documents=4), "zh": cell(0.0, 0.118)},
    }
    # effects: en at least 1.0, zh at least 0.6
    assert known(cells) == {
        (("en", -1), "zh"),
        (("random", 0), "en"),
        (("random", 1), "zh"),
    }


def test_nothing_is_known_beside_an_effect_that_may_be_none_and_without_an_interval():
    cells = {
        ("en", -1): {"en": cell(-0.1, 5.0), "zh": cell(0.0, 1e-9)},
        ("zh", -1): {"en": cell(0.0, 1e-9), "zh": cell(math.nan, math.nan)},
        ("random", 0): {"en": cell(0.0, 1e-9), "zh": cell(0.0, 1e-9), "fr": cell(0.0, 1e-9)},
    }
    assert known(cells) == set()


def test_reading_goes_on_only_where_it_decides_and_intervals_are_those_of_the_look():
    gain = torch.tensor([0.7, 1.3] * 12, dtype=torch.float64)
    spread = torch.linspace(-0.01, 0.01, 24, dtype=torch.float64)
    counts, asked = torch.full((24,), 10), []
    ends = [0, 6, 12, 24]
    truth = {("en", -1): gain, ("random", 0): spread}

    def read(round_, open_sets):
        [(code, keys)] = open_sets.items()
        asked.append((code, round_, tuple(keys)))
        rows = slice(ends[round_], ends[round_ + 1])
        own = torch.zeros(24, dtype=torch.long)
        own[rows] = counts[rows]
        return {code: {key: Loss(own.double() * (0 if key == BASE else truth[key]), own, 9) for key in (BASE, *keys)}}

    found = by_rounds(read, {"en": {BASE: 0, ("en", -1): 3, ("random", 0): 3, ("zh", -1): 0}})
    assert asked == [("en", 0, (("en", -1), ("random", 0))), ("en", 1, (("en", -1),)), ("en", 2, (("en", -1),))]
    own, drawn, empty = (found.cells[key]["en"] for key in (("en", -1), ("random", 0), ("zh", -1)))
    assert (own.rounds, drawn.rounds, empty.rounds) == (3, 1, 3)
    assert own.change == ratio_t((gain * 10).numpy(), counts.numpy(), level=0.97)
    assert drawn.change == ratio_t((spread[:6] * 10).numpy(), counts[:6].numpy(), level=0.99)
    assert empty.change == no_interval(0.0, "nothing changed")
    assert found.base["en"].tokens == own.base.tokens == 240
    assert drawn.base.tokens == drawn.changed.tokens == 60


def test_two_parts_of_a_text_add_up():
    whole = joined(loss([1.0, 2.0]), loss([3.0, 4.0, 5.0]))
    assert whole.by_document.tolist() == [40.0, 60.0, 50.0]
    assert whole.counts.tolist() == [20, 20, 10]
    assert joined(None, whole) is whole


def test_windows_are_dealt_once_each_and_short_texts_leave_rounds_empty():
    windows = cut_windows(model("bloom"), texts(1)["en"], 16)
    parts = dealt(windows, ROUNDS, seed=1)
    assert [len(part.ids) for part in parts] == [3, 2, 5]
    rows = sorted(row for part in parts for row in part.ids.tolist())
    assert rows == sorted(windows.ids.tolist())
    assert [part.ids.tolist() for part in dealt(windows, AT_ONCE, 1)] == [windows.ids.tolist()]
    assert parts[0].ids.tolist() != dealt(windows, ROUNDS, seed=2)[0].ids.tolist()
    few = cut_windows(model("bloom"), texts(1)["en"], 16, limit=1)
    assert [len(part.ids) for part in dealt(few, ROUNDS, 0)] == [1, 0, 0]


def test_reading_may_end_at_the_first_look_with_five_documents():
    given = texts(1, documents=20, length=20)["en"]
    windows = cut_windows(model("bloom"), given, 8)
    assert first_ending(windows, 0) == 0.25
    assert first_ending(cut_windows(model("bloom"), texts(1, documents=4)["en"], 8), 0) == 1.0


def test_selectivity_adds_ends_and_says_why_there_are_none():
    own, other = Interval(1.0, 0.8, 1.3, "bootstrap t"), Interval(0.1, 0.0, 0.2, "bootstrap t")
    found = selectivity_of_ends(own, [other, no_interval(0.0, "nothing changed")])
    assert (found.value, found.low, found.high) == pytest.approx((0.95, 0.7, 1.3))
    assert (found.method, found.why) == ("bootstrap t, ends added", "")
    none = selectivity_of_ends(own, [no_interval(0.2, "fewer than three documents")])
    assert math.isnan(none.low)
    assert none.why == "fewer than three documents"


def test_selectivity_is_paired_at_the_last_looks_level_where_everything_was_read_and_of_ends_elsewhere():
    base = loss([1.0] * 6)
    own, other = loss([1.5, 1.9, 1.6, 2.2, 1.4, 1.8]), loss([1.1, 1.5, 1.2, 1.8, 1.0, 1.4])

    def read(changed, rounds, level):
        return Cell(changed, base, loss_change(changed, base, level=level), rounds, level)

    whole = selectivity_in_rounds(read(own, 3, 0.97), {"m": read(other, 3, 0.95)})
    assert whole == selectivity(own, base, {"m": (other, base)}, 0.97)
    first, second = read(own, 3, 0.97), read(other, 2, 0.99)
    apart = selectivity_in_rounds(first, {"m": second})
    assert apart == selectivity_of_ends(first.change, [second.change])
    # the same documents move together in both, so pairs know more than ends
    assert whole.high - whole.low < apart.high - apart.low


def late(loaded, *layers):
    mask = torch.zeros(loaded.layers, loaded.neurons_per_layer, dtype=torch.bool)
    for layer in layers:
        mask[layer, ::2] = True
    return mask


@pytest.mark.parametrize("family", ["bloom", "llama", "gpt2", "gemma2", "opt"])
def test_passes_from_the_first_touched_layer_give_the_losses_of_whole_ones(family):
    loaded = model(family)
    windows = cut_windows(loaded, texts(1)["en"], 16)
    last = loaded.layers - 1
    masks = {("late", -1): late(loaded, last), ("whole", -1): late(loaded, 0, last)}
    assert [first_layer(mask) for mask in masks.values()] == [last, 0]
    assert resumes(loaded)
    before = hook_count(loaded.hf)
    found = losses_under(loaded, windows, masks, resumed=True, budget=64)
    assert hook_count(loaded.hf) == before
    assert found[BASE].nll == pytest.approx(score(loaded, windows).nll, rel=1e-6)
    for key, mask in masks.items():
        with deactivate(loaded, mask):
            wanted = score(loaded, windows)
        assert found[key].by_document.tolist() == pytest.approx(wanted.by_document.tolist(), rel=1e-6)
        assert found[key].nll != found[BASE].nll


def test_layers_below_a_set_are_not_computed_again(monkeypatch):
    loaded, computed = model("bloom"), []
    windows = cut_windows(loaded, texts(1)["en"], 16)
    masks = {("late", -1): late(loaded, loaded.layers - 1), ("whole", -1): late(loaded, 0)}
    losses_under(loaded, windows, masks, resumed=True)
    # the gate asks a model anew that a hook was put on, with passes of its own
    monkeypatch.setattr(losses_module, "require", lambda *_: None)
    handle = loaded.blocks[0].mlp.register_forward_hook(lambda *_: computed.append(1))
    losses_under(loaded, windows, masks, resumed=True, budget=64)
    handle.remove()
    # three batches: as it is, and with the set that touches the first layer
    assert len(computed) == 2 * 3


def test_a_model_whose_passes_cannot_start_in_the_middle_is_read_from_the_beginning(monkeypatch):
    loaded = model("bloom")
    real = losses_module.resume

    def off(owner, layer, hidden):
        return real(owner, layer, hidden * 1.5)

    monkeypatch.setattr(losses_module, "resume", off)
    assert not resumes(loaded)


def test_the_table_by_rounds_is_the_fixed_one_where_nothing_is_known_early():
    loaded = model("bloom")
    windows = {code: cut_windows(loaded, text, 16) for code, text in texts(2).items()}
    regions = RegionSet({"en": late(loaded, 1), "zh": late(loaded)}, "z-score")
    told = []
    rounds = deactivation_table(loaded, windows, regions, controls=2, progress=told.append)
    fixed = deactivation_table(loaded, windows, regions, controls=2, fixed=True)
    for ours, theirs in zip(rounds.rows, fixed.rows):
        assert (ours.deactivated, ours.draw, ours.language) == (theirs.deactivated, theirs.draw, theirs.language)
        assert ours.delta_nll == pytest.approx(theirs.delta_nll, rel=1e-4, abs=1e-7)
        assert ours.tokens == theirs.tokens
        assert ours.perplexity == pytest.approx(theirs.perplexity, rel=1e-6)
        # four documents can end nothing, so that earlier looks spend nothing
        assert ours.delta_low == pytest.approx(theirs.delta_low, rel=1e-3, abs=1e-6, nan_ok=True)
    en, zh = (text.ids.numel() for text in windows.values())
    size = en + zh
    # the empty region of zh is read nowhere, and in zh nothing of its size is
    assert rounds.tokens == fixed.tokens == rounds.tokens_fixed == (1 + 1 + 2 * 2) * en + (1 + 1 + 2) * zh
    # the empty region is counted as done
    assert sum(told) == (1 + 2 + 2 * 2) * size
    assert fixed.reading["regions_by_rounds"] == [2]
    assert rounds.reading["draws_by_rounds"] == [0, 0, 6]


def test_rounds_save_tokens_where_a_region_is_strong_and_rows_stay_comparable():
    loaded = model("bloom")
    windows = {code: cut_windows(loaded, text, 8) for code, text in texts(2, documents=24, length=40).items()}
    regions = RegionSet({code: late(loaded, 1) for code in windows}, "z-score")
    found = deactivation_table(loaded, windows, regions, controls=1)
    for row in found.rows:
        base = next(one for one in found.rows if (one.deactivated, one.language) == ("base", row.language))
        assert row.perplexity == pytest.approx(base.perplexity * math.exp(row.delta_nll), rel=1e-9)
        assert row.increase_percent == pytest.approx(100 * math.expm1(row.delta_nll), rel=1e-9)
        assert row.bytes == base.bytes
        assert row.tokens == base.tokens or row.rounds < 3


def test_a_run_says_how_much_text_it_read():
    reading = {
        "fixed": False, "tokens": 10, "tokens_fixed": 40, "regions_by_rounds": [1, 0, 1], "draws_by_rounds": [3, 1, 0]
    }  # fmt: skip
    run = SimpleNamespace(
        source="r", manifest={}, kind="regions", model_name="m", languages=["en"], tables=[],
        summary={"deactivation": reading},
    )  # fmt: skip
    told = dict(facts(run))["Read"]
    assert told.startswith("10 of 40 tokens under deactivation; in 1, 2, 3 rounds: regions 1, 0, 1, random draws 3")
    reading["fixed"] = True
    assert dict(facts(run))["Read"] == "10 of 40 tokens under deactivation"


def test_an_interval_of_another_level_is_wider():
    base, changed = loss([1.0] * 8), loss([1.1, 1.5, 1.2, 1.9, 1.3, 1.0, 1.4, 1.6])
    usual, wide = loss_change(changed, base), loss_change(changed, base, level=0.99)
    assert wide.low < usual.low < usual.value < usual.high < wide.high


def test_an_empty_region_changes_nothing_and_the_model_as_it_is_has_nothing_off():
    """Whatever the name of the language: `ar` comes before `base`, `zh` behind it."""
    sets = {"en": {BASE: 0, ("ar", -1): 0, ("zh", -1): 0}}
    found = by_rounds(lambda _round, _keys: {"en": {BASE: loss([1.0, 2.0, 3.0])}}, sets, AT_ONCE)
    why = {key[0]: found.cells[key]["en"].change.why for key in sets["en"]}
    assert why == {"base": "nothing is switched off", "ar": "nothing changed", "zh": "nothing changed"}
