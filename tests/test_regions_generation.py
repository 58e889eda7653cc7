"""Writing under deactivation."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from babelscope.errors import InputError, MissingExtra
from babelscope.regions.generation import (
    Continuation,
    Sampling,
    continue_prompts,
    cut_prompts,
    generations,
    means_of,
    share,
)
from babelscope.regions.identification import Identifier, broken_share, distinct
from babelscope.regions.treatments import Treatment, treated
from babelscope.studies.probes import written_shares

from .region_data import model


def greedy(loaded, prompt, tokens):
    ids = prompt.clone()
    for _ in range(tokens):
        with torch.no_grad():
            row = loaded.hf(ids).logits[:, -1]
        row[:, loaded.tokenizer.eos_token_id] = -torch.inf
        ids = torch.cat([ids, row.argmax(-1, keepdim=True)], dim=1)
    return ids[:, prompt.shape[1] :].tolist()


def mask_of(loaded, count=30):
    mask = torch.zeros(loaded.layers, loaded.neurons_per_layer, dtype=torch.bool)
    mask[1, :count] = True
    return mask


@pytest.mark.parametrize("family", ["bloom", "llama"])
def test_continuations_are_the_likeliest_tokens_with_and_without_a_region(family):
    loaded = model(family)
    prompts = cut_prompts(loaded, ["abcdef", "ab", "fghijk"], length=4, count=5)
    assert prompts.shape == (2, 4)
    assert continue_prompts(loaded, prompts, Sampling(5, batch=1)) == greedy(loaded, prompts, 5)
    with treated(loaded, Treatment(mask_of(loaded))):
        assert continue_prompts(loaded, prompts, Sampling(5)) == greedy(loaded, prompts, 5)


def test_sampled_continuations_repeat_with_the_seed_and_leave_the_global_state():
    loaded = model("bloom")
    prompts = cut_prompts(loaded, ["abcdef"], 4, 1)
    before = torch.get_rng_state()
    one, again = (continue_prompts(loaded, prompts, Sampling(6, temperature=1.0, seed=3)) for _ in range(2))
    assert one == again
    assert torch.equal(before, torch.get_rng_state())
    assert len(one[0]) == 6


def test_prompts_need_longer_texts():
    with pytest.raises(InputError, match="no text has more than 9 tokens"):
        cut_prompts(model("bloom"), ["abc"], 9, 2)


def test_a_prompt_is_never_the_whole_text():
    """Texts of three, four and five tokens: only the last has anything left to continue after four."""
    loaded = model("bloom")
    assert [len(ids) for ids in loaded.tokenize(["abc", "abcd", "fghij"])] == [3, 4, 5]
    assert cut_prompts(loaded, ["abc", "abcd", "fghij"], 4, 5).tolist() == [loaded.tokenize(["fghij"])[0][:4]]
    begun = cut_prompts(loaded, ["abc", "abcd", "fghij"], 4, 5, "bos")
    assert begun.tolist() == [loaded.tokenize(["fghij"], "bos")[0][:5]]


def test_the_table_has_every_prompt_under_every_condition():
    loaded = model("bloom")
    prompts = {code: cut_prompts(loaded, ["abcdef", "ghijkl"], 3, 2) for code in ("en", "zh")}
    empty = Treatment(torch.zeros_like(mask_of(loaded)))
    conditions = [("base", -1, None), ("en", -1, Treatment(mask_of(loaded))), ("zh", -1, empty)]
    told: list[int] = []
    rows = generations(loaded, prompts, conditions, Sampling(4), progress=told.append)
    assert told == [2 * 3, 2 * 3]
    assert len(rows) == 2 * 2 * 3
    base, off = ([row.continuation for row in rows if row.deactivated == name] for name in ("base", "zh"))
    assert base == off
    assert rows[0].prompt == "abc"
    assert all(row.identified in ("en", "zh", "") for row in rows)


def test_languages_are_told_apart():
    identifier = Identifier(["en", "zh", "es", "ar", "xx"])
    assert identifier.unknown == ("xx",)
    assert identifier.identify("the children are playing in the garden") == "en"
    assert identifier.identify("孩子们在花园里玩") == "zh"
    assert identifier.identify("los niños juegan en el jardín de la casa") == "es"
    assert identifier.identify("12 … !!") == ""


def test_what_is_one_language_to_the_identifier_is_not_told_apart_by_the_order_of_the_codes():
    for codes in (["en", "zh", "zh-Hant"], ["zh-Hant", "zh", "en"]):
        identifier = Identifier(codes)
        assert set(identifier.unknown) == {"zh", "zh-Hant"}
        assert identifier.identify("孩子们在花园里玩") == ""
        assert identifier.identify("the children are playing in the garden") == "en"
    assert Identifier(["en", "zh-Hant"]).identify("孩子們在花園裡玩") == "zh-Hant"


def test_of_a_language_that_is_never_identified_there_is_no_share():
    row = Continuation(language="en", deactivated="base", draw=-1, prompt="", continuation="", identified="en",
                       broken_share=0.0, distinct_1=1.0, distinct_2=0.4)  # fmt: skip
    found = written_shares([row, replace(row, language="xx", identified="en")], ("xx",))
    assert (found[0].own_share, found[0].n, found[1].n) == (1.0, 1, 1)
    assert math.isnan(found[1].own_share)


def test_without_the_extra_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(MissingExtra, match=r"babelscope\[lid\]"):
        Identifier(["en"])


def test_broken_text_and_repetition_are_counted():
    assert broken_share("ab\ufffdc") == 0.25
    assert broken_share("abc\ufffd") == 0  # cut off by the length
    assert broken_share("") == 0
    assert broken_share("\ufffd\ufffd") == 1
    assert distinct([1, 2, 1, 2], 2) == pytest.approx(2 / 3)
    assert math.isnan(distinct([1], 2))


def test_shares_have_wilson_intervals():
    found = share([True] * 8 + [False] * 2)
    assert (found.value, found.n) == (0.8, 10)
    assert (found.low, found.high) == (pytest.approx(0.490, abs=1e-3), pytest.approx(0.943, abs=1e-3))
    assert math.isnan(share([]).value)


def test_measures_of_writing_have_intervals_over_continuations():
    def row(broken, varied):
        return Continuation(
            language="en",
            deactivated="base",
            draw=-1,
            prompt="",
            continuation="",
            identified="en",
            broken_share=broken,
            distinct_1=1.0,
            distinct_2=varied,
        )

    found = means_of([row(0.0, 0.2), row(0.0, 0.4), row(0.0, 0.6)])
    assert found["distinct_2"] == pytest.approx(0.4)
    # t(0.975, 2) = 4.3027, deviation 0.2
    assert found["distinct_2_high"] - 0.4 == pytest.approx(4.3027 * 0.2 / 3**0.5, rel=1e-4)
    # all the same: no interval, not one of width 0
    assert found["broken_share"] == 0
    assert math.isnan(found["broken_share_low"])
    assert math.isnan(found["broken_share_high"])
    # two continuations tell next to nothing; a share still lies between 0 and 1
    wide = means_of([row(0.0, 0.2), row(0.0, 0.9)])
    assert (wide["distinct_2_low"], wide["distinct_2_high"]) == (0.0, 1.0)
    assert math.isnan(means_of([row(0.0, 0.2)])["distinct_1_low"])
