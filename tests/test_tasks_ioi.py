"""IOI prompts with real tokenizers: the rules of section 2, checked on the ids themselves."""

from collections import Counter

import pytest

from babelscope.errors import NoPromptSurvives, TaskError
from babelscope.tasks import Encoder, build, build_paired, census, corruptions, ioi, load_tokenizer
from babelscope.tasks.templates import ioi_lexicon

FOLDERS = {"gpt2": "gpt2", "neox": "gpt-neox-20b", "mistral": "mistral-v1", "cpm": "cpm-1-chinese"}
SURVIVE = [
    ("gpt2", "en", "strict"),
    ("gpt2", "zh", "relaxed"),
    ("neox", "en", "strict"),
    ("neox", "es", "strict"),
    ("mistral", "en", "strict"),
    ("mistral", "zh", "relaxed"),
    ("cpm", "zh", "relaxed"),
    *[("bible", language, "relaxed") for language in ("ar", "en", "es", "fr", "hi", "id", "pt", "vi", "zh")],
]


@pytest.fixture(scope="module")
def encoders(shared_data, shared_models):
    found = {name: Encoder(load_tokenizer(shared_data / "tokenizers" / folder)) for name, folder in FOLDERS.items()}
    return found | {"bible": Encoder(load_tokenizer(shared_models / "bible-bloom" / "final"))}


@pytest.mark.parametrize(("name", "language", "split"), SURVIVE)
def test_the_rules_hold_token_by_token(name, language, split, encoders):
    encoder, lexicon = encoders[name], ioi_lexicon(language)
    prompts = build("ioi", encoder, language, n=24, split=split)
    assert len(prompts) == 24
    for pair in prompts:
        io, subject = lexicon.names[pair.scene["IO"]], lexicon.names[pair.scene["S"]]
        bare = encoder.tokenizer
        whole = bare.encode(pair.clean_text + lexicon.join + io, add_special_tokens=False)
        other = bare.encode(pair.clean_text + lexicon.join + subject, add_special_tokens=False)
        assert tuple(whole) == (*pair.clean, *pair.target)
        assert tuple(other) == (*pair.clean, *pair.foil)
        assert len(pair.target) == len(pair.foil)
        assert (len(pair.target) == 1) == (split == "strict")
        assert pair.target[0] != pair.foil[0]
        assert tuple(bare.encode(pair.corrupted_text, add_special_tokens=False)) == pair.corrupted
        for role, text in (("IO", io), ("S1", subject), ("S2", subject)):
            start, end = pair.roles[role]
            assert end - start == len(pair.target)
            assert encoder.decode(pair.clean[start:end]).strip() == text
        assert pair.roles["S1+1"][0] == pair.roles["S1"][1]
        assert pair.roles["END"] == (len(pair.clean) - 1, len(pair.clean))


@pytest.mark.parametrize("corruption", corruptions("ioi"))
def test_each_corruption_changes_what_it_says(corruption, encoders):
    prompts = build("ioi", encoders["gpt2"], "en", n=32, corruption=corruption)
    for pair in prompts:
        clean, corrupted = (
            {r: ids[pair.roles[r][0]] for r in ("IO", "S1", "S2")} for ids in (pair.clean, pair.corrupted)
        )
        changed = {index for index, (a, b) in enumerate(zip(pair.clean, pair.corrupted)) if a != b}
        assert changed <= {pair.roles[role][0] for role in ("IO", "S1", "S2")}
        words = pair.corrupted_text.replace(",", " ").replace(".", " ").split()
        repeated = [name for name in ioi_lexicon("en").names if words.count(name) == 2]
        if corruption == "pabc":
            assert not repeated
            assert len({*clean.values(), *corrupted.values()}) >= 5
        elif corruption == "flip":
            assert changed == {pair.roles["S2"][0]}
            assert len(repeated) == 1
            assert corrupted["S2"] == pair.target[0]
        elif corruption == "random-s2":
            assert not repeated
            assert changed == {pair.roles["S2"][0]}
        elif corruption == "token-only":
            assert len(repeated) == 1
            assert words.index(repeated[0]) == pair.clean_text.replace(",", " ").replace(".", " ").split().index(
                ioi_lexicon("en").names[pair.scene["S"]]
            )
            assert not {*clean.values()} & {*corrupted.values()}
        else:
            assert corrupted["S2"] == clean["S2"]
            assert pair.roles["S2"][0] not in changed


def test_the_control_repeats_no_name(encoders):
    prompts = build("ioi-control", encoders["gpt2"], "en", n=16)
    for pair in prompts:
        for ids in (pair.clean, pair.corrupted):
            assert len({ids[pair.roles[role][0]] for role in ("IO", "S1", "S2")}) == 3


def test_orders_are_balanced_in_every_template(encoders):
    prompts = build("ioi", encoders["gpt2"], "en", n=96)
    counts = Counter((pair.template, pair.order) for pair in prompts)
    assert all(counts[template, "ABBA"] == counts[template, "BABA"] for template in prompts.templates)
    assert len(prompts.templates) == 16
    for pair in prompts:
        assert (pair.roles["IO"] < pair.roles["S1"]) == (pair.order == "ABBA")


def test_an_item_is_the_same_scene_in_every_language_and_tokenizer(encoders):
    english, chinese = (
        build("ioi", encoders[n], lang, n=60, split="auto") for n, lang in (("gpt2", "en"), ("cpm", "zh"))
    )
    here, there = english.paired_with(chinese)
    assert len(here) >= 20
    for a, b in zip(here, there):
        assert english[a].scene == chinese[b].scene
        assert (english[a].template, english[a].order) == (chinese[b].template, chinese[b].order)


def test_paired_sets_hold_the_same_items_row_by_row(encoders):
    tokenizers = {"en": encoders["gpt2"], "zh": encoders["cpm"]}
    paired = build_paired("ioi", tokenizers, ["en", "zh"], n=20, split="auto", scenes="exact")
    assert paired["en"].items == paired["zh"].items
    assert len(paired["en"]) == 20
    assert [pair.scene for pair in paired["en"]] == [pair.scene for pair in paired["zh"]]
    orders = Counter(pair.order for pair in paired["zh"])
    assert orders["ABBA"] == orders["BABA"]
    with pytest.raises(TaskError, match="no tokenizer for fr; there are some for en, zh"):
        build_paired("ioi", tokenizers, ["en", "fr"])


def test_scenes_depend_on_seed_and_number_only():
    english, hindi = ioi_lexicon("en"), ioi_lexicon("hi")
    assert [ioi.draw(english, i, 3) for i in range(50)] == [ioi.draw(hindi, i, 3) for i in range(50)]
    assert ioi.draw(english, 7, 3) != ioi.draw(english, 7, 4)


def test_held_out_names_and_templates_go_together(encoders):
    lexicon = ioi_lexicon("en")
    kept = build("ioi", encoders["gpt2"], "en", n=24, heldout=True)
    assert all(pair.heldout and pair.template in ("t13", "t14", "t15", "t16") for pair in kept)
    assert all({pair.scene["IO"], pair.scene["S"]} <= lexicon.heldout_names for pair in kept)
    assert lexicon.heldout_names == {*range(16, 20), *range(36, 40)}
    used = build("ioi", encoders["gpt2"], "en", n=48, heldout=False)
    assert not any(pair.heldout or pair.template >= "t13" for pair in used)
    assert not any({pair.scene["IO"], pair.scene["S"]} & lexicon.heldout_names for pair in used)
    both = build("ioi", encoders["gpt2"], "en", n=96)
    assert set(both.where(heldout=False).items) >= set(used.items) & set(range(60))


def test_names_of_a_scene_are_of_one_gender():
    lexicon = ioi_lexicon("ar")
    for item in range(64):
        names = ioi.exact_names(ioi.draw(lexicon, item, 0), 5)
        assert len(set(names)) == 5
        assert len({lexicon.genders[name] for name in names}) == 1


def test_names_that_fail_are_replaced_only_where_too_few_survive(encoders):
    exact = build("ioi", encoders["gpt2"], "en", n=20)
    assert exact.scenes == "exact"
    substituted = build("ioi", encoders["gpt2"], "pt", n=20)
    assert substituted.scenes == "substituted"
    for pair in substituted:
        scene = ioi.draw(ioi_lexicon("pt"), pair.item, 0)
        assert (pair.order, pair.scene["place"], pair.scene["object"]) == (scene.order, scene.place, scene.object)
    with pytest.raises(NoPromptSurvives, match="none with a counterpart in the other order"):
        build("ioi", encoders["gpt2"], "pt", n=20, scenes="exact", limit=400)


def test_a_name_can_be_asked_to_be_the_same_tokens_everywhere(encoders):
    loose = build("ioi", encoders["gpt2"], "en", n=64)
    same = build("ioi", encoders["gpt2"], "en", n=64, same_tokens=True)
    assert {"t04", "t10"} <= set(loose.templates)
    assert not {"t04", "t10"} & set(same.templates)
    for pair in same:
        assert pair.clean[slice(*pair.roles["IO"])] == pair.target
        assert pair.clean[slice(*pair.roles["S1"])] == pair.clean[slice(*pair.roles["S2"])] == pair.foil
    assert build("ioi", encoders["mistral"], "en", n=64, same_tokens=True).templates == tuple(
        f"t{number:02}" for number in range(1, 17)
    )


def test_where_no_prompt_survives_the_census_says_why(encoders):
    with pytest.raises(
        NoPromptSurvives, match=r"no prompt of ioi survives in zh .* strict split: 0 of \d+ .*target_tok"
    ):
        build("ioi", encoders["gpt2"], "zh")
    with pytest.raises(NoPromptSurvives, match="neither in the strict nor in the relaxed split"):
        build("ioi", encoders["cpm"], "hi", split="auto", n=10)


def test_the_census_counts_every_prompt_once(encoders):
    frame = census("ioi", encoders["gpt2"], ["en", "zh"], n=64)
    reasons = frame.drop(columns=["task", "split", "corruption", "language", "template", "stratum", "offered"])
    assert (reasons.sum(axis=1) == frame["offered"]).all()
    assert frame.groupby("language")["offered"].sum().to_dict() == {"en": 64, "zh": 64}
    assert frame[frame.language == "zh"]["survived"].sum() == 0
    assert len(frame[frame.language == "en"]) == 16


def test_languages_answer_to_their_other_codes(encoders):
    assert build("ioi", encoders["cpm"], "zho_Hans", n=4, split="relaxed").language == "zh"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "chess"}, "no task 'chess'; there are ioi, past-tense"),
        ({"corruption": "noise"}, "ioi has no corruption 'noise'; there are pabc, flip"),
        ({"language": "tlh"}, "ioi has no language 'tlh'; there are ar, en"),
        ({"split": "loose"}, "no split 'loose'; there are strict, relaxed, auto"),
        ({"templates": ["t99"]}, "no template 't99' of ioi in en; there are t01"),
        ({"n": 0}, "n must be at least 1"),
        ({"scenes": "other"}, "scenes are auto, exact or substituted"),
        ({"source": "ftp:x"}, "the source 'ftp:x' is not known"),
        ({"task": "ioi:file"}, "ioi reads templates from PATH.toml"),
        ({"task": "ioi:none.toml"}, "no template file at none.toml"),
        ({"task": "random-text:file"}, "random-text reads no file"),
    ],
)
def test_bad_requests_are_answered_in_one_line(arguments, message, encoders):
    arguments = {"task": "ioi", "language": "en", **arguments}
    with pytest.raises(TaskError, match=message) as caught:
        build(arguments.pop("task"), encoders["gpt2"], arguments.pop("language"), **arguments)
    assert "\n" not in str(caught.value)
