"""The package's task data: nine languages, aligned by index, in a shape that the engine can use."""

import pytest

from babelscope.errors import TaskError
from babelscope.tasks import ioi
from babelscope.tasks.templates import available, ioi_lexicon, parse_ioi, parse_tense, render, tense_lexicon
from babelscope.tasks.tense import concept

LANGUAGES = ("ar", "en", "es", "fr", "hi", "id", "pt", "vi", "zh")


def test_nine_languages_come_with_both_tasks():
    assert available("ioi") == LANGUAGES
    assert available("tense") == LANGUAGES
    assert available("juggling") == ()


@pytest.mark.parametrize("language", LANGUAGES)
def test_ioi_data_are_aligned_and_complete(language):
    lexicon = ioi_lexicon(language)
    assert lexicon.language == language
    assert (len(lexicon.names), len(lexicon.places), len(lexicon.objects)) == (40, 12, 12)
    assert len(set(lexicon.names)) == 40
    assert len(set(lexicon.places)) == len(set(lexicon.objects)) == 12
    assert [template.id for template in lexicon.templates] == [f"t{number:02}" for number in range(1, 17)]
    assert lexicon.join == ("" if language == "zh" else " ")


@pytest.mark.parametrize("language", LANGUAGES)
def test_in_every_ioi_template_two_names_come_before_the_repeated_one(language):
    lexicon = ioi_lexicon(language)
    for template in range(len(lexicon.templates)):
        spans = ioi.sentence(lexicon, template, (0, 1, 1), 0, 0).spans
        assert spans["A"] < spans["B"] < spans["S"]
        assert not lexicon.templates[template].text.endswith(" ")


@pytest.mark.parametrize("language", LANGUAGES)
def test_tense_data_are_complete(language):
    lexicon = tense_lexicon(language)
    assert lexicon.language == language
    assert len({len(words) for words in lexicon.times.values()}) == 1, "time words are aligned"
    assert not set(lexicon.times["past"]) & {*lexicon.times["future"], *lexicon.times["present"]}
    kinds = {template.kind for template in lexicon.templates}
    assert kinds <= {"inflection", "imperfect", "copy", "aspect", "particle"}
    assert {verb.stratum for verb in lexicon.verbs} <= {"regular", "irregular", "syncretic", "none"}
    assert len({concept(verb) for verb in lexicon.verbs}) == len(lexicon.verbs)
    for verb in lexicon.verbs:
        if verb.stratum == "syncretic":
            assert verb.forms["past_form"] == verb.base
        if "inflection" in kinds and verb.stratum in ("regular", "irregular"):
            assert verb.forms["past_form"] != verb.base, verb.id


def test_english_and_chinese_have_the_strata_of_the_specification():
    english = [verb.stratum for verb in tense_lexicon("en").verbs]
    assert english.count("irregular") >= 25
    assert english.count("syncretic") >= 8
    assert len(english) >= 60
    assert {template.kind for template in tense_lexicon("zh").templates} == {"copy", "aspect"}


def test_render_says_where_every_slot_and_what_follows_it_stands():
    rendered = render("{past}, I {base}. {base}!", {"past": "Yesterday", "base": "sang"})
    assert rendered.text == "Yesterday, I sang. sang!"
    pieces = {slot: rendered.text[start:end] for slot, (start, end) in rendered.spans.items()}
    assert pieces == {"past": "Yesterday", "past+": "I", "base": "sang", "base+": "", "base#2": "sang", "base#2+": ""}


IOI = """
language = "xx"
names = ["a", "b"]
places = ["p"]
objects = ["o"]
[[template]]
id = "t01"
text = "%s"
"""


@pytest.mark.parametrize(
    ("read", "text", "message"),
    [
        (parse_ioi, "names = [", "is not TOML"),
        (parse_ioi, "names = []", "names must be a list of texts"),
        (parse_ioi, IOI % "{A} and {B} went", r"template t01: the slot \{S\} is missing"),
        (parse_ioi, IOI % "{A} {B} {S} {price}", r"has the slot \{price\}; slots are A, B, S, object, place"),
        (parse_ioi, IOI % "{A} {B} {S} {", "template '{A} {B} {S} {'"),
        (parse_ioi, 'genders = ["f"]' + IOI % "{A} {B} {S}", "1 genders for 2 names"),
        (parse_tense, "language = 'xx'", r"\[times\] needs present, past and future"),
        (parse_tense, "times = {present=['n'], past=['p'], future=['f']}", r"every \[\[verb\]\] needs"),
    ],
)
def test_broken_data_are_named(read, text, message):
    with pytest.raises(TaskError, match=message):
        read(text)
