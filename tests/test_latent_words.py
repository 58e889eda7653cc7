"""Word lists, prompts, token sets and the census of latent language."""

from __future__ import annotations

import json

import numpy as np
import pytest

from babelscope import load_model
from babelscope.corpora import ParallelCorpus
from babelscope.errors import InputError
from babelscope.latent.census import REASONS, apart, census, keep, refuse_empty
from babelscope.latent.frequencies import counts_by_item, read_counts
from babelscope.latent.prompts import Prompt, sentence_prompts, word_prompts
from babelscope.latent.tokens import TokenSets, WordTokens, token_sets
from babelscope.latent.words import GAP, Concept, WordList, load_words


@pytest.fixture(scope="module")
def bloom():
    return load_model("pocket:pocket-bloom-s")


def test_the_built_in_list_has_a_hundred_concepts_in_nine_languages():
    words = load_words()
    assert len(words) >= 100
    assert not words.doubles
    assert set(words.languages) == {"en", "zh", "fr", "es", "pt", "ar", "vi", "hi", "id"}
    for concept in words.concepts:
        assert set(concept.words) == set(words.languages), concept.id
        assert concept.kind
        assert all(text.count(GAP) == 1 for text in concept.definitions.values())


def test_the_pocket_lexicon_gives_singular_nouns():
    words = load_words("pocket", ["fr", "zh"])
    assert {concept.kind for concept in words.concepts} == {"animal", "object", "food", "drink", "place"}
    assert next(c for c in words.concepts if c.id == "cat").words["fr"] == ("chat",)


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl"])
def test_a_table_of_ones_own(tmp_path, ending):
    rows = [
        {
            "id": "1",
            "en": "cat|kitty",
            "fr": "chat",
            "ind": "kucing",
            "kind": "animal",
            "definition_en": "A ___ meows.",
        },
        {"id": "2", "en": "cafe\N{COMBINING ACUTE ACCENT}", "fr": "", "ind": "kopi", "kind": "", "definition_en": ""},
    ]
    path = tmp_path / f"words.{ending}"
    if ending == "jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    else:
        mark = "," if ending == "csv" else "\t"
        path.write_text("\n".join([mark.join(rows[0]), *(mark.join(row.values()) for row in rows)]), encoding="utf-8")
    words = load_words(str(path))
    assert words.languages == ("en", "fr", "id")
    assert words.concepts[0].words == {"en": ("cat", "kitty"), "fr": ("chat",), "id": ("kucing",)}
    assert words.concepts[0].definitions == {"en": "A ___ meows."}
    assert words.concepts[1].words == {"en": ("caf\N{LATIN SMALL LETTER E WITH ACUTE}",), "id": ("kopi",)}


def test_indonesian_may_be_called_id_when_the_first_column_is_taken(tmp_path):
    path = tmp_path / "w.csv"
    path.write_text("id,en,id\nc1,cat,kucing\n", encoding="utf-8")
    assert load_words(str(path)).concepts[0].words == {"en": ("cat",), "id": ("kucing",)}


def test_concepts_with_one_string_in_a_used_language_are_left_out(tmp_path):
    path = tmp_path / "w.csv"
    path.write_text("id,en,fr\n1,river,fleuve\n2,stream,fleuve\n3,cat,chat\n", encoding="utf-8")
    assert load_words(str(path)).doubles == ("1", "2")
    assert load_words(str(path), ["en"]).doubles == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("en,fr\na,b\n", "first column"),
        ("id,en\n1,a,b\n", "3 cells"),
        ("id,en\n1,a\n1,b\n", "occurs twice"),
        ("id,nolanguageatall\n1,a\n", "no language"),
        ("id,en,definition_en\n1,a,no gap\n", "no gap"),
        ("id,en\n,a\n", "needs an `id`"),
    ],
)
def test_a_faulty_table_is_refused_with_its_line(tmp_path, text, message):
    path = tmp_path / "w.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        load_words(str(path))


@pytest.mark.parametrize("spec", ["nowhere.csv", "concepts.toml"])
def test_a_list_that_is_not_there(spec):
    with pytest.raises(InputError, match="there is no word list"):
        load_words(spec)


def test_languages_without_words_are_named():
    with pytest.raises(InputError, match="no words in sw"):
        load_words("concepts", ["en", "sw"])


# -- prompts -----------------------------------------------------------------------------------------------------------


def test_a_translation_prompt_is_open_behind_its_quote():
    words = load_words("planted")
    prompt = word_prompts(words, "translation", "fr", "zh")[3]
    lines = prompt.text.split("\n")
    assert len(lines) == 5
    assert lines[-1] == 'Français: "fr03" - 中文: "'
    assert all(line.startswith('Français: "fr') and line.endswith('"') for line in lines[:4])
    assert 3 not in prompt.demonstrations


def test_demonstrations_are_the_same_ids_in_every_language():
    words = load_words("concepts")
    shown = [
        [p.demonstrations for p in word_prompts(words, "translation", a, b)] for a, b in (("fr", "zh"), ("en", "hi"))
    ]
    assert shown[0] == shown[1]


def test_a_cloze_needs_definitions():
    words = load_words("concepts")
    prompt = word_prompts(words, "cloze", "fr", "fr")[0]
    assert prompt.text.endswith('Réponse: "')
    assert prompt.text.count(GAP) == 3
    with pytest.raises(InputError, match="no concept with definitions in zh"):
        word_prompts(words, "cloze", "zh", "zh")


def test_too_few_demonstrations_are_refused():
    small = WordList("small", ("en", "fr"), load_words("concepts").concepts[:3])
    with pytest.raises(InputError, match="4 demonstrations need"):
        word_prompts(small, "translation", "en", "fr")


def test_a_sentence_ends_before_the_whole_word():
    words = WordList("w", ("en", "fr"), (Concept("cat", {"en": ("cat",), "fr": ("chat",)}),))
    texts = {
        "en": ["A cat sleeps.", "The cat eats.", "Cat!", "No pets."],
        "fr": ["Un chaton dort.", "Le chat mange.", "chat !", "Un chat dort."],
    }
    found = sentence_prompts(words, ParallelCorpus.from_texts(texts), "en", "fr")
    # chaton is another word; nothing stands before the third; the fourth has no cat in English
    assert [(p.text, p.gap) for p in found] == [("The cat eats.\nLe", " ")]


def test_marks_belong_to_hindi_words():
    words = WordList("w", ("en", "hi"), (Concept("c", {"en": ("hand",), "hi": ("हाथ",)}),))
    texts = {"en": ["a hand", "a hand"], "hi": ["यह हाथी है", "यह हाथ है"]}
    found = sentence_prompts(words, ParallelCorpus.from_texts(texts), "en", "hi")
    assert [p.text for p in found] == ["a hand\nयह"]


# -- tokens ------------------------------------------------------------------------------------------------------------


def test_first_tokens_with_and_without_blank_and_behind_the_prompt(bloom):
    words = WordList("w", ("fr",), (Concept("cat", {"fr": ("chat", "minou")}),))
    found = token_sets(bloom, words, [Prompt(0, 'Français: "')], ["fr"]).sets["fr"][0]
    firsts = {bloom.tokenize([text])[0][0] for text in ("chat", " chat", "minou", " minou")}
    behind = {
        bloom.tokenize([f'Français: "{word}'])[0][len(bloom.tokenize(['Français: "'])[0])] for word in ("chat", "minou")
    }
    assert found.tokens == firsts | behind


def test_a_word_that_runs_into_the_prompt_cannot_be_read(bloom):
    words = WordList("w", ("en",), (Concept("c", {"en": ("at",)}),))
    ends = Prompt(0, "c")  # with the word, one token where two were
    whole, alone = bloom.tokenize(["cat"])[0], bloom.tokenize(["c"])[0]
    found = token_sets(bloom, words, [ends], ["en"]).sets["en"][0]
    assert found.merges == (whole[: len(alone)] != alone)


def test_prefixes_hold_the_first_tokens_and_the_first_byte_of_chinese(bloom):
    words = WordList("w", ("zh", "en"), (Concept("c", {"zh": ("猫",), "en": ("cat",)}),))
    prefixes = token_sets(bloom, words, [Prompt(0, '中文: "')], ["zh", "en"], "prefixes").sets
    assert (
        bloom.tokenizer.convert_tokens_to_ids("ç") in prefixes["zh"][0].tokens
    )  # byte 0xE7, as byte-level BPE writes it
    assert prefixes["zh"][0].partial
    spelt = {bloom.tokenizer.decode([token]).strip() for token in prefixes["en"][0].tokens}
    assert spelt <= {"c", "ca", "cat"}
    assert "c" in spelt


def test_no_white_space_special_or_unknown_token(bloom):
    words = load_words("pocket")
    prompts = word_prompts(words, "translation", "en", "fr")[:20]
    found = token_sets(bloom, words, prompts, list(words.languages))
    tokens = {token for code in words.languages for own in found.of(code) for token in own}
    assert not tokens & set(bloom.tokenizer.all_special_ids)
    assert all(bloom.tokenizer.decode([token]).strip() for token in tokens)


# -- census ------------------------------------------------------------------------------------------------------------


def sets(**by_language) -> TokenSets:
    made = {code: tuple(WordTokens(frozenset(own)) for own in found) for code, found in by_language.items()}
    n = len(next(iter(made.values())))
    return TokenSets(tuple(range(n)), made, tuple(frozenset({99}) for _ in range(n)))


def named(n: int, **words) -> WordList:
    concepts = tuple(Concept(str(i), {code: (own[i],) for code, own in words.items()}) for i in range(n))
    return WordList("named", tuple(words), concepts)


def test_every_reason_for_dropping():
    tokens = sets(
        fr=[{1}, {2}, {3}, {4}, {5}, {6}],
        zh=[{11}, {12}, {13}, {14}, {15}, {16}],
        en=[set(), {12}, {23}, {4}, {99}, {26}],
    )
    words = named(6, fr="abcdef", zh=["q", "r", "Cat", "s", "t", "u"], en=["v", "w", "cat", "x", "y", "z"])
    kept = keep(words, tokens, "fr", "zh", "en")
    assert kept.kept.tolist() == [False] * 5 + [True]
    assert kept.dropped == {REASONS[i]: 1 for i in (0, 2, 3, 4, 5)}


def test_the_source_as_candidate_may_hold_its_own_tokens():
    tokens = sets(fr=[{1}, {2}], zh=[{11}, {12}], en=[{21}, {22}])
    assert keep(named(2, fr="ab", zh="cd", en="ef"), tokens, "fr", "zh", "fr").kept.all()


def test_others_must_share_no_token_either_way():
    tokens = sets(fr=[{1}, {2}, {3}], zh=[{11}, {12}, {13}], en=[{21}, {22}, {13, 23}])
    words = named(3, fr="abc", zh="def", en="ghi")
    # concept 2's English token 13 is its own Chinese one: dropped. Without that, it may not be compared where it meets
    assert keep(words, tokens, "fr", "zh", "en").kept.tolist() == [True, True, False]
    tokens = sets(fr=[{1}, {2}, {3}], zh=[{11}, {12}, {13}], en=[{21}, {22}, {11, 23}])
    comparable = keep(words, tokens, "fr", "zh", "en").comparable
    assert comparable.tolist() == [[False, True, False], [True, False, True], [False, True, False]]
    assert np.array_equal(comparable, comparable.T)


def test_rivals_are_compared_where_their_tokens_differ():
    tokens = sets(en=[{1}, {2}], es=[{1, 5}, {3}])
    assert apart(tokens, "en", "es").tolist() == [False, True]


def test_an_empty_census_is_refused_with_its_numbers():
    tokens = sets(fr=[{1}, {2}], zh=[{11}, {12}], en=[set(), set()])
    words = named(2, fr="ab", zh="cd", en="ef")
    rows = census(words, tokens, "fr", "zh", [keep(words, tokens, "fr", "zh", "en")])
    with pytest.raises(InputError, match=r"no concept can be compared.*offered 2.*no word or token 2"):
        refuse_empty(rows)


def test_counts_by_language_and_word_add_up_alternatives(tmp_path, bloom):
    words = WordList("mine", ("en", "fr"), (
        Concept("cat", {"en": ("cat", "Puss"), "fr": ("chat",)}), Concept("dog", {"en": ("dog",), "fr": ("chien",)}),
    ))  # fmt: skip
    file = tmp_path / "counts.tsv"
    file.write_text("language\tword\tcount\nen\tCat\t5\neng\tpuss\t2\nen\tdog\t1\n", encoding="utf-8")
    tokens = token_sets(bloom, words, [Prompt(0, "a", ""), Prompt(1, "b", "")], ["en", "fr"])
    assert counts_by_item(words, tokens, read_counts(file)) == {"en": [7.0, 1.0]}
    for text, says in (
        ("a\tb\n1\t2\n", "expected the columns language, word, count"),
        ("language\tword\tcount\nen\tcat\tmany\n", "line 2"),
        ("language\tword\tcount\nen\tcat\t-1\n", "line 2: a count of -1"),
        ("language\tword\tcount\nxx-nothing\tcat\t1\n", "line 2"),
    ):
        file.write_text(text, encoding="utf-8")
        with pytest.raises(InputError, match=says):
            read_counts(file)
