"""Columns and texts in memory: which is read, what each message names, and what a corpus refuses at its borders."""

from __future__ import annotations

import json
import unicodedata

import pytest

from babelscope.corpora import ParallelCorpus, TextCollection, audit, load, load_corpus, long_table
from babelscope.corpora.folders import plainly_named
from babelscope.corpora.long_table import language_files
from babelscope.corpora.memory import corpus_in_memory
from babelscope.corpora.source import Source
from babelscope.errors import CorpusError, InputError


def rows(*them):
    return "\n".join(map(json.dumps, them))


# -- tables ------------------------------------------------------------------------------------------------------------


def table(tmp_path, *lines):
    (tmp_path / "t.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return f"table:{tmp_path / 't.tsv'}"


def test_the_column_id_is_text_where_it_is_said_to_be(tmp_path):
    place = table(tmp_path, "id\ten\tgroup", "k \ta\tg", "l\tb\tg")
    assert load_corpus(place).ids == ("k ", "l")
    assert load_corpus(f"{place}?en=id").sentences("en") == ("k ", "l")
    assert load_corpus(f"{place}?en=id").ids == ("1", "2")
    found = load_corpus(f"{place}?document=id", "en")
    assert (found.ids, found.groups) == (("1", "2"), {"1": "k ", "2": "l"})
    assert load_corpus(place).notes == ("columns not read, as they are named after no language: group",)
    for quiet in (load_corpus(f"{place}?en=en"), load_corpus(place, "en")):
        assert quiet.notes == ()


def test_nested_cells_are_found_by_their_way(tmp_path):
    (tmp_path / "t.jsonl").write_text(rows({"t": {"en": "a", "x": {"fr": "b"}}}), encoding="utf-8")
    place = f"table:{tmp_path / 't.jsonl'}"
    assert load_corpus(f"{place}?en=t.en&fr=t.x.fr").texts == {"en": ("a",), "fr": ("b",)}
    for column, said in (
        ("t", r"row 1: column 't' holds dict, not text; name the way into it, such as t\.en$"),
        ("t.de", r"row 1: there is no 't\.de'; inside stand en, x$"),
        ("t.x", r"column 't\.x' holds dict, not text; name the way into it, such as t\.x\.fr$"),
    ):
        with pytest.raises(CorpusError, match=said):
            load_corpus(f"{place}?en={column}")


def test_labels_are_texts_or_whole_numbers(tmp_path):
    file = tmp_path / "t.jsonl"
    for value, said in ((True, "bool"), (1.5, "float"), (" ", "str"), (None, "NoneType")):
        file.write_text(rows({"en": "a", "k": 0}, {"en": "b", "k": value}), encoding="utf-8")
        with pytest.raises(CorpusError, match=rf"row 2: column 'k' holds no id \({said}\)"):
            load_corpus(f"table:{file}?id=k")
    file.write_text(rows({"en": "a", "k": 0}, {"en": "b", "k": "0 "}), encoding="utf-8")
    assert load_corpus(f"table:{file}?id=k").ids == ("0", "0 ")


def test_long_tables_by_columns_and_alternatives(tmp_path):
    place = table(
        tmp_path, "lang\tscript\tsrc_text\tpage\tline\tlevel",
        "eng\tLatn\ta\tp\t1\tx", "zho\tHans\tb\tp\t1\tx", "eng\tLatn\tc\tp\t2\ty", "zho\tHans\td\tp\t2\tz",
    )  # fmt: skip
    long = f"{place}?language=lang+script"
    found = load_corpus(f"{long}&id=page+line&document=page")
    assert (found.languages, found.ids) == (("en", "zh"), ("p/1", "p/2"))
    assert found.groups == {"p/1": "p", "p/2": "p"}
    assert load_corpus(f"{long}&text=no|src_text").sentences("zh") == ("b", "d")
    assert load_corpus(long).ids == ("1", "2")
    assert load_corpus(f"{long}&only=level:x&id=nothing|line").ids == ("1",)
    assert load_corpus(f"{long}&only=level:y+z&id=line").sentences("en") == ("c",)
    for option, said in (
        ("only=level", "only=level is not of the form COLUMN:VALUE"),
        ("only=level:", "only=level: is not of the form"),
        ("only=level:q", "no row has 'q' in level; there are x, y, z"),
        ("only=depth:q", "has no column 'depth'; it has lang, script"),
        ("text=no|nor", "has no column 'no' or 'nor'; it has .*; say text=COLUMN"),
        ("id=no", "has no column 'no'; it has .*; say id=COLUMN"),
        ("document=no", "has no column 'no'; it has"),
    ):
        with pytest.raises(CorpusError, match=said):
            load_corpus(f"{long}&{option}")
    with pytest.raises(CorpusError, match=r"say where the language is, with language=COLUMN, or \{language\} in the"):
        load_corpus(f"{place}?text=src_text")
    (tmp_path / "t.jsonl").write_text(rows({"l": "eng", "text": "a"}, *({"l": "fra", "text": t} for t in ("b", 5))))
    with pytest.raises(CorpusError, match=r"t\.jsonl in fr, row 2: column 'text' holds int"):
        load_corpus(f"table:{tmp_path / 't.jsonl'}?language=l")


def test_the_file_of_each_language_by_a_path(tmp_path):
    folder = tmp_path / "[a]*?"
    for name in ("eng/x.eng.tsv", "fra/x.fra.tsv.gz", "deu/x.eng.tsv", "ita/x.ita.tsv.bak", "no1/x.no1.tsv"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    (tmp_path / "a").mkdir()
    pattern = f"{folder}/{{language}}/x.{{language}}.tsv"
    found = language_files(pattern, "")
    assert {code: path.name for code, path in found.items()} == {"en": "x.eng.tsv", "fr": "x.fra.tsv.gz"}
    (folder / "fra/x.fra.tsv.zst").touch()
    for where, said in (("spec", "^spec"), ("", "^.*x")):
        with pytest.raises(CorpusError, match=rf"{said}.*: x\.fra\.tsv\.gz and x\.fra\.tsv\.zst are both fr; name one"):
            language_files(pattern, where)
        with pytest.raises(CorpusError, match=r"no file fits .*/none\{language\} with a language in the place of"):
            language_files(f"{tmp_path}/none{{language}}", where)


def test_which_specs_ask_for_a_long_table():
    from babelscope.corpora.spec import parse_spec

    long = (
        "table:x?language=l",
        "table:x?text=t",
        "table:x?only=a:b",
        "hub:x?config={language}",
        "table:{language}.tsv",
    )
    assert all(long_table.is_long(parse_spec(spec)) for spec in long)
    assert not any(
        long_table.is_long(parse_spec(spec)) for spec in ("table:x", "table:x?id=k&document=d", "hub:x?config=c")
    )


# -- in memory, and the two calls --------------------------------------------------------------------------------------


class Frame(dict):
    @property
    def columns(self):
        return list(self)


class DataSet:
    column_names = ("en", "fr")

    def __getitem__(self, name):
        return [f"{name} 1", f"{name} 2"]


def test_everything_that_holds_columns():
    for texts in (DataSet(), {"en": ["en 1", "en 2"], "fr": ("fr 1", "fr 2")}):
        assert corpus_in_memory(texts).texts == {"en": ("en 1", "en 2"), "fr": ("fr 1", "fr 2")}
    found = corpus_in_memory([{"id": 7, "en": "a", "fr": "b"}, {"fr": "d", "en": "c", "id": 8}])
    assert (found.ids, found.sentences("fr")) == (("7", "8"), ("b", "d"))
    with pytest.raises(CorpusError, match=r"^memory: no column is Chinese \(zh\); columns: en$"):
        corpus_in_memory({"en": ["a"]}, ["zh", "fr"])  # the first that is missing
    assert corpus_in_memory({"ids": ["p"], "sentence_id": ["q"], "en": ["a"]}).ids == ("p",)
    assert corpus_in_memory({"fr": ["b"], "en": ["a"], "deu": ["c"]}, ["de", "en"]).languages == ("de", "en")


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        ({}, "^memory: no column names a language; columns: none$"),
        ({"key": ["a"]}, "no column names a language; columns: key$"),
        ({"en": "a"}, "'en' holds str, not a list of sentences"),
        ([{"en": "a"}, {"en": "a", "fr": "b"}], "row 2 has en, fr; the first has en$"),
    ],
)
def test_what_is_no_corpus_in_memory(texts, said):
    with pytest.raises(InputError, match=said):
        corpus_in_memory(texts)


@pytest.mark.wrong_kind
@pytest.mark.parametrize(
    ("texts", "said"),
    [
        ({"en": 5}, "'en' holds int, not a list"),
        ({"en": ["a", 5]}, "entry 2 of 'en' is int, not a sentence"),
        ({"train": DataSet(), "test": DataSet()}, r"a dictionary of splits; give one of them, such as data\['train'\]"),
        ([{"en": "a"}, ["b"]], "row 2 is list, not a dictionary"),
        ([["b"]], "row 1 is list, not a dictionary"),
        (5, "a dictionary of lists, a data frame or rows, not int"),
    ],
)
def test_what_is_not_even_of_the_kind_of_a_corpus(texts, said):
    with pytest.raises(InputError, match=said):
        corpus_in_memory(texts)


def test_names_that_are_plainly_languages():
    names = ("en", "eng", "key", "key_Telu", "qaa", "qtz", "qua", "label")
    assert [plainly_named(name, None) for name in names] == ["en", "en", None, "key-Telu", "qaa", "qtz", None, None]
    assert plainly_named("key", ["key"]) == "key"
    assert plainly_named("key", ["en"]) is None


def test_a_file_that_is_left_out_is_told_with_its_language_where_it_has_one(tmp_path):
    for name in ("en", "key", "notes1"):
        (tmp_path / f"{name}.txt").write_text("a")
    assert load_corpus(f"lines:{tmp_path}").notes == (
        "key.txt was left out; if it is Kupia, ask for the language key by name",
        "notes1.txt is not named after a language and was left out",
    )


def test_unicode_forms_in_memory():
    other = unicodedata.normalize("NFD", "mèo")
    corpus = ParallelCorpus.from_texts({"en": ["a", "b"], "vi": [other, "x"], "fr": [other, other]})
    formed = corpus.normalised("nfc")
    assert formed.texts == {"en": ("a", "b"), "vi": ("mèo", "x"), "fr": ("mèo", "mèo")}
    assert formed.notes == ("texts changed to Unicode form NFC: 1 in vi, 2 in fr",)
    assert formed.normalised("nfc") is formed
    assert corpus.restrict(["en"]).normalised("nfkd").notes == ()


def test_samples_and_shares_at_their_borders():
    corpus = ParallelCorpus.from_texts({"en": list("abcd")})
    assert [len(corpus.sample(n, 0)) for n in (1, 4)] == [1, 4]
    assert [[len(part) for part in corpus.split(share, 0)] for share in (0.25, 0.5, 0.75)] == [[1, 3], [2, 2], [3, 1]]
    for share in (0.1, 0.9):
        with pytest.raises(CorpusError, match=f"a share of {share} of 4 sentences leaves one part empty"):
            corpus.split(share, 0)


def test_seeds_of_the_pocket_corpus_have_eighteen_digits_at_most():
    assert len(load_corpus("pocket:heldout?n=2&seed=1", "en")) == 2
    with pytest.raises(CorpusError, match=f"keeps no draw heldout with seed {'9' * 18}"):
        load_corpus(f"pocket:heldout?seed={'9' * 18}", "en")
    for seed in ("9" * 19, "²", "-1", "1.0"):
        with pytest.raises(CorpusError, match=f"seed={seed} is not a whole number"):
            load_corpus(f"pocket:heldout?seed={seed}", "en")


@pytest.mark.wrong_kind
def test_a_path_without_a_reader(tmp_path):
    (tmp_path / "en.txt").touch()
    with pytest.raises(
        CorpusError, match=rf"write the reader before the path, such as lines:{tmp_path} \(readers: bible"
    ):
        load_corpus(tmp_path)


def test_specs_of_readers_that_are_none(monkeypatch):
    with pytest.raises(CorpusError, match=r"xlsum$"):
        load_corpus("tsv:")
    with pytest.raises(CorpusError, match=r"xlsum$"):
        load_corpus("tsw:x")
    rows_of = {**load._READERS, "odd": load.Reader("odd", lambda spec, languages: 5, "", "")}
    monkeypatch.setattr(load, "READERS", load.Rows("readers", lambda row: isinstance(row, load.Reader), rows_of))
    with pytest.raises(Exception, match=r"it gives int, not Source"):
        load.load_source("odd:x")


def test_what_values_are_where_nothing_is_said():
    texts = TextCollection("en", (), "x")
    assert (texts.notes, texts.parallel, texts.characters, len(texts)) == ((), False, 0, 0)
    source = Source({})
    assert (source.documents, source.notes, source.may_stand_alone("b.MAT.1.1")) == ({}, (), False)
    corpus = ParallelCorpus.from_texts({"en": ["a"]})
    assert (corpus.groups, corpus.dropped, corpus.notes, corpus.spec) == ({}, {}, (), "memory")
    reader = load.Reader("x", lambda spec, languages: source, "", "")
    assert (reader.options, reader.languages_as_options, reader.parallel) == ((), "", True)
    assert [name for name, one in load.READERS.items() if not one.parallel] == ["xlsum"]
    assert audit(corpus).refusal == ""


def test_rows_that_are_numbered_in_each_language_have_no_documents_in_common(tmp_path):
    """Row 1 is of document p in English and of q in Chinese: one of the two was told of both."""
    place = table(tmp_path, "lang\ttext\tpage\tname", "en\ta\tp\tp1", "zh\tb\tq\tq1", "zh\tc\tp\tp1")
    long = f"{place}?language=lang&document=page"
    with pytest.raises(CorpusError, match=r"'1' is of document 'q' here, of 'p' in another language; give id=COLUMN"):
        load.load_texts(long)
    found = load.load_texts(f"{long}&id=name")
    assert [one.id for one in found["zh"].documents] == ["q", "p"]


def test_a_file_that_is_called_like_a_pattern_is_itself(tmp_path):
    for name, text in (("data[1].tsv", "right"), ("data1.tsv", "wrong")):
        (tmp_path / name).write_text(f"en\n{text}\n", encoding="utf-8")
    assert load_corpus(f"table:{tmp_path}/data[1].tsv").sentences("en") == ("right",)
    (tmp_path / "data[1].tsv").unlink()
    assert load_corpus(f"table:{tmp_path}/data[1].tsv").sentences("en") == ("wrong",)


def test_lines_that_are_counted_are_not_put_beside_sentences_that_are_named(tmp_path):
    """Names from 0 on and lines from 1 on: every line would stand beside the next one's translation."""
    for code in ("eng_Latn", "fra_Latn"):
        text = rows(*({"id": number, "text": f"{code} {number}"} for number in range(3)))
        (tmp_path / f"{code}.jsonl").write_text(text, encoding="utf-8")
    for code in ("deu_Latn", "spa_Latn"):
        (tmp_path / f"{code}.dev").write_text("".join(f"{code} {number}\n" for number in range(3)), encoding="utf-8")
    with pytest.raises(CorpusError, match=r"names its sentences and .* counts them: read files of one kind"):
        load_corpus(f"flores:{tmp_path}")
    assert load_corpus(f"flores:{tmp_path}", "en,fr").ids == ("0", "1", "2")
    assert load_corpus(f"flores:{tmp_path}", "de,es").ids == ("1", "2", "3")
