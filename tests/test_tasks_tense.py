"""Past-tense prompts: strata, both corruptions, verb copy and aspect in Chinese, UniMorph verbs."""

import pytest

from babelscope.errors import TaskError
from babelscope.tasks import (
    Encoder,
    build,
    build_paired,
    census,
    corruptions,
    fill_foils,
    load_tokenizer,
    unimorph_verbs,
)
from babelscope.tasks.templates import tense_lexicon


@pytest.fixture(scope="module")
def gpt2(shared_data):
    return Encoder(load_tokenizer(shared_data / "tokenizers" / "gpt2"))


@pytest.fixture(scope="module")
def bible(shared_models):
    return Encoder(load_tokenizer(shared_models / "bible-bloom" / "final"))


def shown(encoder, ids):
    return encoder.decode(ids).strip()


def test_english_strata_in_the_strict_split(gpt2):
    prompts = build("past-tense", gpt2, "en", n=60)
    assert prompts.strata == ("irregular", "regular-one-token", "syncretic")
    assert {stratum: len(prompts.where(stratum=stratum)) for stratum in prompts.strata} == dict.fromkeys(
        prompts.strata, 20
    )
    past = {verb.forms["past_form"].split()[0]: verb for verb in tense_lexicon("en").verbs}
    for pair in prompts:
        assert len(pair.target) == len(pair.foil) == 1
        verb = past[shown(gpt2, pair.target)]
        assert shown(gpt2, pair.clean[slice(*pair.roles["VERB1"])]) == verb.base
        if pair.stratum != "syncretic":
            assert shown(gpt2, pair.foil) == verb.base.split()[0]
        else:
            assert shown(gpt2, pair.foil) != shown(gpt2, pair.target)
        assert shown(gpt2, pair.clean[slice(*pair.roles["SUBJ2"])]) in ("I", "we", "you", "they", "she", "he")


def test_tense_flip_changes_the_second_time_word_only(gpt2):
    times = tense_lexicon("en").times
    for pair in build("past-tense", gpt2, "en", n=40):
        changed = {index for index, (a, b) in enumerate(zip(pair.clean, pair.corrupted)) if a != b}
        start, end = pair.roles["TIME2"]
        assert changed
        assert changed <= set(range(start, end))
        assert shown(gpt2, pair.clean[start:end]) in times["past"]
        assert shown(gpt2, pair.corrupted[start:end]) in (*times["future"], *times["present"])


def test_verb_swap_changes_the_verb_and_nothing_else(gpt2):
    for pair in build("past-tense", gpt2, "en", n=40, corruption="verb-swap"):
        changed = {index for index, (a, b) in enumerate(zip(pair.clean, pair.corrupted)) if a != b}
        verbs = {index for role in ("VERB1", "VERB2") if role in pair.roles for index in range(*pair.roles[role])}
        assert changed
        assert changed <= verbs


def test_a_multi_token_past_form_is_decided_after_what_it_shares_with_the_base(bible):
    prompts = build("past-tense", bible, "en", n=30, split="relaxed", stratum="regular-multi-token")
    assert prompts.strata == ("regular-multi-token",)
    shared = [pair for pair in prompts if not pair.clean_text.endswith(("I", "we", "you", "they"))]
    assert shared
    for pair in prompts:
        assert pair.target[0] != pair.foil[0]
        assert tuple(bible.tokenizer.encode(pair.clean_text, add_special_tokens=False)) == pair.clean
    unextended = build("past-tense", bible, "en", n=30, split="relaxed", stratum="regular", extend=False)
    assert all(pair.clean_text.endswith(("I", "we", "you", "they")) for pair in unextended)


def test_chinese_copies_the_verb_and_marks_aspect(bible):
    copy = build("past-tense", bible, "zh", n=12, stratum="copy")
    for pair in copy:
        assert pair.clean[slice(*pair.roles["VERB1"])] == pair.target
        assert pair.foil not in (pair.target, pair.clean[slice(*pair.roles["VERB1"])])
    aspect = build("past-tense", bible, "zh", n=12, stratum="aspect")
    assert {shown(bible, pair.target) for pair in aspect} == {"了"}
    assert {shown(bible, pair.foil) for pair in aspect} == {"。"}


def test_the_foil_of_aspect_can_come_from_the_future_twin(bible):
    aspect = build("past-tense", bible, "zh", n=6, stratum="aspect", templates=["d2"])
    seen = []

    def choose(corrupted):
        seen.append(corrupted)
        return 5 if len(seen) > 1 else aspect[0].target[0]

    filled = fill_foils(aspect, choose)
    assert seen == [pair.corrupted for pair in aspect]
    assert filled.items == aspect.items[1:], "where the model itself says 了 there is nothing to compare"
    assert {pair.foil for pair in filled} == {(5,)}
    with pytest.raises(TaskError, match="target and foil are the same"):
        fill_foils(aspect, lambda _: aspect[0].target, drop_equal=False)
    with pytest.raises(TaskError, match="every foil"):
        fill_foils(aspect, lambda _: aspect[0].target)


@pytest.mark.parametrize("language", ["ar", "en", "es", "fr", "hi", "id", "pt", "vi", "zh"])
@pytest.mark.parametrize("corruption", corruptions("past-tense"))
def test_every_language_has_prompts(language, corruption, bible):
    prompts = build("past-tense", bible, language, n=8, split="auto", corruption=corruption)
    assert len(prompts) == 8
    assert {"TIME2", "END"} <= set(prompts.roles)


def test_items_pair_languages_by_verb_and_time(gpt2, bible):
    paired = build_paired("past-tense", {"en": gpt2, "es": bible}, ["en", "es"], n=10, split="auto", limit=400)
    assert paired["en"].items == paired["es"].items
    assert [pair.scene for pair in paired["en"]] == [pair.scene for pair in paired["es"]]


def test_every_verb_comes_once_before_any_comes_twice(gpt2):
    irregular = build("past-tense", gpt2, "en", n=25, stratum="irregular", templates=["d1"])
    assert len({pair.scene["verb"] for pair in irregular}) == 25


def test_held_out_verbs_are_other_verbs(gpt2):
    kept = build("past-tense", gpt2, "en", n=12, heldout=True)
    used = build("past-tense", gpt2, "en", n=30, heldout=False)
    assert kept.where(heldout=True).items == kept.items
    assert not {pair.scene["verb"] for pair in kept} & {pair.scene["verb"] for pair in used}


def test_verbs_of_a_unimorph_table(gpt2, shared_data):
    table = shared_data / "unimorph" / "eng_tense_pairs.derived.tsv"
    prompts = build("past-tense", gpt2, "en", n=12, verbs=f"unimorph:{table}", stratum="irregular", limit=4000)
    forms = {(verb.forms["past_form"], verb.base) for verb in unimorph_verbs(table) if verb.stratum == "irregular"}
    assert len(prompts) == 12
    assert {(shown(gpt2, pair.target), shown(gpt2, pair.foil)) for pair in prompts} <= forms


def test_plain_unimorph_triples(tmp_path):
    table = tmp_path / "eng"
    rows = ["walk\twalked\tV;PST", "walk\twalking\tV;V.PTCP;PRS", "put\tput\tV;PST", "go\twent\tV;PST"]
    rows += [
        "cry\tcried\tV;PST",
        "stop\tstopped\tV;PST",
        "love\tloved\tV;PST",
        "hang\thung\tV;PST",
        "hang\thanged\tV;PST",
    ]
    table.write_text("\n".join(rows), encoding="utf-8")
    strata = {verb.base: verb.stratum for verb in unimorph_verbs(table)}
    regular = dict.fromkeys(("walk", "cry", "stop", "love"), "regular")
    assert strata == {**regular, "put": "syncretic", "go": "irregular"}


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "is empty"), ("walk\twalked", "lemma, form, tag"), ("a\tb\tN;SG", "no form tagged V;PST")],
)
def test_broken_unimorph_tables_are_named(text, message, tmp_path):
    (tmp_path / "t").write_text(text)
    with pytest.raises(TaskError, match=message):
        unimorph_verbs(tmp_path / "t")
    with pytest.raises(TaskError, match="no UniMorph table"):
        unimorph_verbs(tmp_path / "absent")


def test_the_census_is_by_stratum(gpt2):
    frame = census("past-tense", gpt2, ["en"], n=40)
    assert set(frame["stratum"]) == {"irregular", "regular", "syncretic"}
    assert frame.groupby("stratum")["offered"].sum().eq(40).all()


def test_bad_requests(gpt2):
    for options, message in (
        ({"stratum": "weak"}, "no stratum 'weak' in en; there are irregular, regular, syncretic"),
        ({"templates": ["d99"]}, "no template 'd99'"),
        ({"verbs": "list"}, "past-tense reads unimorph:TABLE"),
    ):
        with pytest.raises(TaskError, match=message):
            build("past-tense", gpt2, "en", **options)
