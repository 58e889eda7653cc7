"""Alignment by id, sampling, splitting, hashing: what holds for every parallel corpus."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from babelscope.corpora import ParallelCorpus, TextCollection, load_corpus, load_texts
from babelscope.corpora.source import Source, align, collect
from babelscope.corpora.spec import parse_spec
from babelscope.corpora.texts import Document
from babelscope.errors import CorpusError


def corpus_of(n=20):
    return ParallelCorpus.from_texts({code: [f"{code} {i}" for i in range(n)] for code in ("en", "fr", "zh")})


def test_a_corpus_from_memory():
    corpus = corpus_of(3)
    assert (len(corpus), corpus.languages, corpus.ids, corpus.spec) == (
        3,
        ("en", "fr", "zh"),
        ("1", "2", "3"),
        "memory",
    )
    assert corpus.sentences("fr") == ("fr 0", "fr 1", "fr 2")
    with pytest.raises(dataclasses.FrozenInstanceError):
        corpus.spec = "other"


@pytest.mark.parametrize(
    ("texts", "ids", "message"),
    [
        ({}, None, "at least one language"),
        ({"en": []}, None, "at least one sentence"),
        ({"en": ["a"], "fr": ["b", "c"]}, None, "en has 1 sentences and fr has 2"),
        ({"en": ["a", "b"]}, ["x"], "2 sentences, but there are 1 ids"),
        ({"en": ["a", "b"]}, ["x", "x"], "'x' occurs twice"),
        ({"en": ["a", " "]}, None, "sentence '2' is empty in en"),
    ],
)
def test_a_corpus_that_is_none(texts, ids, message):
    with pytest.raises(CorpusError, match=message):
        ParallelCorpus.from_texts(texts, ids)


def test_the_hash_is_of_the_content():
    corpus = corpus_of()
    again = dataclasses.replace(corpus, spec="elsewhere", groups={"1": "a"})
    assert len(corpus.hash) == 64
    assert again.hash == corpus.hash == corpus.restrict(["zh", "en", "fr"]).hash
    changed = dict(corpus.texts) | {"fr": ("other", *corpus.texts["fr"][1:])}
    others = [corpus.restrict(["en", "fr"]), corpus.select(corpus.ids[:-1]), corpus.select(corpus.ids[::-1])]
    others.append(dataclasses.replace(corpus, texts=changed))
    assert len({corpus.hash, *(other.hash for other in others)}) == 5


def test_the_hash_tells_where_one_text_ends():
    assert ParallelCorpus.from_texts({"en": ["ab", "c"]}).hash != ParallelCorpus.from_texts({"en": ["a", "bc"]}).hash


def test_the_hash_and_the_sample_are_the_same_everywhere():
    """Written down, so that a change of python, of numpy or of ours is seen: published numbers hang on both."""
    corpus = corpus_of()
    assert corpus.hash == "483ab5a7d0784fb29422d8ee39bdd30dfc93efba03d8ca8c02fb9e3bfcfda00b"
    assert corpus.sample(4, seed=0).ids == ("13", "14", "17", "20")


def test_samples_are_aligned_ordered_nested_and_seeded():
    corpus = corpus_of(100)
    small, large = corpus.sample(10, seed=3), corpus.sample(30, seed=3)
    assert set(small.ids) < set(large.ids)
    assert list(large.ids) == sorted(large.ids, key=int)
    for code in corpus.languages:
        assert large.sentences(code) == tuple(f"{code} {int(i) - 1}" for i in large.ids)
    assert corpus.sample(10, seed=4).ids != small.ids
    assert corpus.sample(100, seed=0).ids == corpus.ids


def test_a_sample_cannot_exceed_the_corpus():
    with pytest.raises(CorpusError, match="21 sentences are asked for, but only 20"):
        corpus_of(20).sample(21, seed=0)
    with pytest.raises(CorpusError, match="at least one"):
        corpus_of(20).sample(0, seed=0)


@settings(max_examples=30, deadline=None)
@given(n=st.integers(2, 60), fraction=st.floats(0.01, 0.99), seed=st.integers(0, 5))
def test_a_split_loses_nothing(n, fraction, seed):
    corpus = corpus_of(n)
    if not 0 < round(fraction * n) < n:
        with pytest.raises(CorpusError, match="leaves one part empty"):
            corpus.split(fraction, seed)
        return
    one, two = corpus.split(fraction, seed)
    assert len(one) == round(fraction * n)
    assert not set(one.ids) & set(two.ids)
    assert set(one.ids) | set(two.ids) == set(corpus.ids)


@pytest.mark.parametrize("fraction", [0, 1, -0.5, 1.5, float("nan")])
def test_a_split_into_nothing_is_refused(fraction):
    with pytest.raises(CorpusError, match="leaves one part empty"):
        corpus_of().split(fraction, 0)


def test_selecting_by_id():
    corpus = corpus_of()
    assert corpus.select(["7", "3"]).sentences("zh") == ("zh 6", "zh 2")
    with pytest.raises(CorpusError, match=r"no sentence '99' in the corpus \(1 such"):
        corpus.select(["7", "99"])
    with pytest.raises(CorpusError, match="'7' occurs twice"):
        corpus.select(["7", "7"])


def test_restricting_to_languages_that_are_there():
    assert corpus_of().restrict(["zh", "en"]).languages == ("zh", "en")
    for call in (lambda: corpus_of().restrict(["de"]), lambda: corpus_of().sentences("de")):
        with pytest.raises(CorpusError, match="de is not there; it has en, fr, zh"):
            call()


def test_documents_group_sentences_in_order():
    corpus = dataclasses.replace(corpus_of(4), groups={"1": "a", "2": "a", "4": "b"})
    assert corpus.documents("en") == [("a", "en 0 en 1"), ("3", "en 2"), ("b", "en 3")]
    assert corpus.select(["4", "1"]).documents("en") == [("b", "en 3"), ("a", "en 0")]


def aligned(texts, option="", **more):
    return align(Source(texts, **more), parse_spec(f"lines:x{option}"))


def test_ids_that_some_language_lacks_are_dropped_and_counted():
    corpus = aligned(
        {"en": {"1": "a", "2": "b", "3": "c"}, "fr": {"3": "z", "1": "x"}, "zh": {"1": "p", "2": " ", "3": "r"}},
        "?lone=drop",
    )
    assert corpus.ids == ("1", "3")
    assert corpus.sentences("fr") == ("x", "z")
    assert corpus.dropped == {"en": 1, "fr": 0, "zh": 0}


def test_an_id_in_one_language_only_is_an_error_unless_allowed():
    texts = {"en": {"1": "a", "2": "b"}, "fr": {"1": "x"}, "zh": {"1": "p"}}
    with pytest.raises(CorpusError, match=r"id '2' of en is in no other language \(1 such ids\).*\?lone=drop"):
        aligned(texts)
    assert aligned(texts, "?lone=drop").ids == ("1",)
    assert aligned(texts, may_stand_alone=lambda i: i == "2").ids == ("1",)
    with pytest.raises(CorpusError, match="in no other language"):
        aligned(texts, "?lone=error", may_stand_alone=lambda i: True)


def test_nothing_common_and_nothing_at_all():
    with pytest.raises(CorpusError, match=r"no sentence id is in all of en, fr \(first ids: en: '1'; fr: '2'\)"):
        aligned({"en": {"1": "a"}, "fr": {"2": "b"}})
    with pytest.raises(CorpusError, match="fr holds no text at all"):
        aligned({"en": {"1": "a"}, "fr": {"1": " "}})


def test_texts_keep_what_alignment_drops():
    source = Source({"en": {"1": "a", "2": "b", "3": " "}, "fr": {"1": "x"}}, documents={"1": "d", "2": "d"})
    texts = collect(source, parse_spec("lines:x"))
    assert texts["en"].documents == (Document("d", "a b"),)
    assert (len(texts["fr"]), texts["fr"].characters) == (1, 1)
    assert texts["en"].hash != TextCollection("fr", texts["en"].documents, "lines:x").hash
    assert len(collect(Source({"en": {"1": "a", "2": "b"}}), parse_spec("lines:x?limit=1"))["en"]) == 1
    with pytest.raises(CorpusError, match="en holds no text"):
        collect(Source({"en": {"1": ""}}), parse_spec("lines:x"))


def test_specs():
    spec = parse_spec("table:a/b c.tsv?en=col%26umn&id=k")
    assert (spec.reader, spec.place, spec.options) == ("table", "a/b c.tsv", {"en": "col&umn", "id": "k"})


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("somewhere", "is not a corpus spec"),
        ("babel:x", "no reader 'babel'; readers: bible, ntrex, flores, lines, table, hub, pocket, xlsum"),
        ("lines:", "no path is given"),
        ("lines:no/such/folder", "no/such/folder does not exist"),
        ("lines:x?a", "'a' is not of the form name=value"),
        ("lines:x?en=a&en=b", "en is given twice"),
        ("lines:x?eng=a&en=b", "en is given twice"),
        ("lines:x?limit=2", "unknown option 'limit'"),
        ("lines:x?english=a", "unknown option 'english'"),
        ("lines:x?sizes=3", "unknown option 'sizes'; lines takes lone and languages"),
        ("pocket:?sizes=3", "unknown option 'sizes'; pocket takes lone, n, seed"),
        ("pocket:elsewhere", "no part 'elsewhere'"),
        ("pocket:?n=-1", "n=-1 is not a positive whole number"),
        ("xlsum:x", "not parallel"),
    ],
)
def test_specs_that_are_none(spec, message):
    with pytest.raises(CorpusError, match=message):
        load_corpus(spec)


def test_limits_are_positive(tmp_path):
    (tmp_path / "en.txt").write_text("a\n")
    for limit in ("0", "x", "-1", "1.5", "²"):
        with pytest.raises(CorpusError, match=f"limit={limit} is not a positive whole number"):
            load_texts(f"lines:{tmp_path}?limit={limit}")


def test_documents_are_running_prose_as_each_script_writes_it():
    texts = {code: ["a", "b"] for code in ("en", "zh", "ja", "th", "no-such-language")}
    corpus = dataclasses.replace(ParallelCorpus.from_texts(texts), groups={"1": "d", "2": "d"})
    joined = {code: corpus.documents(code)[0][1] for code in corpus.languages}
    assert joined == {"en": "a b", "zh": "ab", "ja": "ab", "th": "a b", "no-such-language": "a b"}
