"""Languages by every spelling that corpora use, and scripts by character."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from babelscope.errors import InputError
from babelscope.languages import language, parse_languages, script_of, scripts_written


@pytest.mark.parametrize(
    ("spelling", "code", "script"),
    [
        ("en", "en", "Latn"),
        ("eng", "en", "Latn"),
        ("eng_Latn", "en", "Latn"),
        ("English", "en", "Latn"),
        ("zh-CN", "zh", "Hans"),
        ("zho", "zh", "Hans"),
        ("cmn", "zh", "Hans"),
        ("zho_Hant", "zh-Hant", "Hant"),
        ("zh-TW", "zh-Hant", "Hant"),
        ("yue_Hant", "yue", "Hant"),
        ("arb_Arab", "ar", "Arab"),
        ("ary", "ary", "Arab"),
        ("por-BR", "pt-BR", "Latn"),
        ("srp-Latn", "sr-Latn", "Latn"),
        ("kor_Hang", "ko", "Kore"),
        ("jpn_Jpan", "ja", "Jpan"),
        ("ind", "id", "Latn"),
        ("iw", "he", "Hebr"),
        ("baq", "eu", "Latn"),
        ("hin", "hi", "Deva"),
    ],
)
def test_every_spelling_gives_one_code_and_script(spelling, code, script):
    found = language(spelling)
    assert (found.code, found.script) == (code, script)
    assert language(found.code) == language(found.code)
    assert language(found.tag).code == code, "the tag stands for the same language"


def test_what_a_language_knows():
    arabic = language("ar")
    assert (arabic.name, arabic.family, arabic.direction) == ("Arabic", "Afro-Asiatic", "rtl")
    assert language("zh-Hant").name == "Chinese (Traditional)"


@pytest.mark.parametrize(
    ("wrong", "hint"), [("Engglish", r"en \(English\)"), ("Swahilli", r"sw \(Swahili\)"), ("xx", "did you mean")]
)
def test_an_unknown_language_names_near_matches(wrong, hint):
    with pytest.raises(InputError, match=f"unknown language '{wrong}'.*{hint}"):
        language(wrong)


@pytest.mark.parametrize("nothing", ["", "und", "mul", "not a language!", "a" * 1000])
def test_nonsense_is_refused(nothing):
    with pytest.raises(InputError, match="unknown language"):
        language(nothing)


def test_lists():
    assert parse_languages(" en, zho_Hans,French ") == ["en", "zh", "fr"]
    assert parse_languages(["pt-BR", "pt"]) == ["pt-BR", "pt"]
    with pytest.raises(InputError, match="no language is named"):
        parse_languages(" , ")
    with pytest.raises(InputError, match=r"zh is named twice \(zh and cmn\)"):
        parse_languages("zh,en,cmn")


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("Aùp-ra-ham", "Latn"),
        ("كِتَابُ", "Arab"),
        ("अब्राहम की", "Deva"),
        ("大卫的子孙", "Hani"),
        ("ﾊﾛｰ", "Kana"),
        ("ＡＢＣ", "Latn"),
        ("ᏣᎳᎩ", "Cher"),
    ],
)
def test_script_of_one_script(text, script):
    assert script_of(text) == {script: 1.0}


def test_script_of_mixtures_and_of_nothing():
    assert script_of("ab где") == pytest.approx({"Cyrl": 0.6, "Latn": 0.4})
    assert script_of("123 … 🙂") == {}
    assert scripts_written("Jpan") == ("Hani", "Hira", "Kana")
    assert scripts_written("Deva") == ("Deva",)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=12) | st.from_regex(r"[a-z]{2,3}([-_][A-Za-z]{2,4}){0,2}", fullmatch=True))
def test_any_text_is_a_language_or_an_input_error(text):
    try:
        found = language(text)
    except InputError:
        return
    assert language(found.code).code == found.code, "codes are stable"


@settings(max_examples=100, deadline=None)
@given(st.text())
def test_shares_of_scripts_sum_to_one(text):
    shares = script_of(text)
    assert not shares or sum(shares.values()) == pytest.approx(1)
