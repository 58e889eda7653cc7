"""Limits of the readers and of the audit at the very value from which they hold."""

from __future__ import annotations

import gzip
import json
import math
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from babelscope.corpora import ParallelCorpus, audit, bible, files, load_corpus, packed, table
from babelscope.corpora.audit import zawgyi_share
from babelscope.corpora.bible import _book
from babelscope.corpora.files import listed
from babelscope.corpora.memory import corpus_in_memory
from babelscope.corpora.source import check_text
from babelscope.corpora.spec import parse_spec
from babelscope.corpora.text_faults import BLOCK, OFFSETS, _correlation, shifts, untranslated
from babelscope.errors import CorpusError


@pytest.mark.parametrize(
    ("before", "stray"),
    [
        *((letter, False) for letter in "\u1000\u101c\u102a\u1039\u103b\u103f\u1050\u1075\u108f"),
        *((letter, True) for letter in "\u102b\u1031\u1038\u1040\u104f\u1090\u0fff a"),
        ("", True),
    ],
)
def test_the_vowel_sign_e_stands_behind_consonants_medials_and_shan_letters_alone(before, stray):
    assert zawgyi_share([f"{before}\u1031\u1019"]) == float(stray)


def packed_bytes(data: bytes, how: str) -> bytes:
    import gzip

    return gzip.compress(data) if how == "gz" else pytest.importorskip("zstandard").ZstdCompressor().compress(data)


@pytest.mark.parametrize("how", ["gz", "zst"])
def test_a_packed_file_may_be_as_large_as_the_limit_and_no_byte_larger(tmp_path, monkeypatch, how):
    monkeypatch.setattr(packed, "_ALWAYS", 5000)
    monkeypatch.setattr(packed, "_TIMES", 0)
    name = tmp_path / f"a.txt.{how}"
    fits = bytes(random.Random(1).choices(range(256), k=5000))  # more than one step of what is packed
    assert packed.unpacked(packed_bytes(fits, how), name) == fits
    with pytest.raises(CorpusError, match="unpacks to more than 0 times its size"):
        packed.unpacked(packed_bytes(fits + b"x", how), name)
    with pytest.raises(CorpusError, match="cannot be unpacked"):
        packed.unpacked(packed_bytes(fits, how)[:-9], name)


def test_a_parquet_file_may_unfold_to_its_limit_and_no_further(tmp_path, monkeypatch):
    file = tmp_path / "t.parquet"
    texts = {"en": ["x" * 2000] * 300, "fr": ["y"] * 300}
    pq.write_table(pa.table({code: pa.array(of).dictionary_encode() for code, of in texts.items()}), file)
    limit = 300 * 2001 / file.stat().st_size
    monkeypatch.setattr(table, "_SMALL", 0)
    monkeypatch.setattr(table, "_TIMES", math.ceil(limit))
    assert len(load_corpus(f"table:{file}").ids) == 300
    monkeypatch.setattr(table, "_TIMES", math.floor(limit))
    with pytest.raises(CorpusError, match=f"unfolds to more than {math.floor(limit)} times its size"):
        load_corpus(f"table:{file}")


def lengths(*sizes: int) -> ParallelCorpus:
    """English texts of 100 characters beside French ones of these lengths."""
    texts = {"en": [f"{i:03}" + "a" * 97 for i in range(len(sizes))], "fr": []}
    texts["fr"] = [f"{i:03}" + "b" * (size - 3) for i, size in enumerate(sizes)]
    return ParallelCorpus.from_texts(texts)


def test_the_robust_z_of_a_length_is_log_ratio_over_the_scaled_median_deviation():
    """Log ratios ±ln 1.25 (median deviation), spread 1.4826 · 0.22314 = 0.33083; 5 spreads are a ratio of 5.229."""
    usual = [80] * 6 + [100] * 2 + [125] * 4
    found = audit(lengths(*usual, 523)).tables()["length"]
    assert found["detail"].tolist() == ["523 characters, en 100; robust z +5.0"]
    assert found["id"].tolist() == ["13"]
    assert len(audit(lengths(*usual, 522)).tables().get("length", ())) == 0
    found = audit(lengths(*[80] * 4, *[100] * 2, *[125] * 6, 15)).tables()["length"]
    assert found["detail"].tolist() == ["15 characters, en 100; robust z -5.7"]
    found = audit(lengths(*[100] * 12, 900)).tables()["length"]  # a median of 0: 1 / (1.2533 / 13) mean deviations
    assert found["detail"].tolist() == ["900 characters, en 100; robust z +10.4"]
    assert len(audit(lengths(*[100] * 13)).tables().get("length", ())) == 0  # no spread, no z


@pytest.mark.parametrize("away", [-2, 1, 5])
def test_the_offset_of_shifted_lines_is_named_for_each_block_that_fits_in_whole(away):
    dice = random.Random(3)
    text = [f"{i} " + "word " * dice.randint(3, 60) for i in range(BLOCK + 2 * OFFSETS + 5)]
    for n, blocks in ((BLOCK + 2 * OFFSETS - 1, 0), (BLOCK + 2 * OFFSETS, 1)):
        first = {str(i): text[i] for i in range(n)}
        other = {str(i): text[(i - away) % len(text)] for i in range(n)}
        found = list(shifts(first, other))
        assert [one for one, _ in found] == [str(OFFSETS)] * blocks
        assert all(f"fit {away:+d} lines away (r 1.00" in detail for _, detail in found)


def test_a_list_of_more_than_twenty_names_says_how_many_more():
    names = [f"l{i}" for i in range(20)]
    assert listed(names) == ", ".join(names)
    assert listed([*names, "x", "y"]) == ", ".join(names) + " and 2 more"
    assert listed([]) == "none"


def test_rows_count_from_one_in_messages_and_in_ids(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"en": "a", "fr": "b"}\n{"en": "c", "fr": 5}\n', encoding="utf-8")
    with pytest.raises(CorpusError, match=r"row 2: column 'fr' holds int, not text"):
        load_corpus(f"table:{tmp_path / 't.jsonl'}")
    (tmp_path / "t.jsonl").write_text('{"en": "a", "fr": "b"}\n{"en": "c", "fr": "d"}\n', encoding="utf-8")
    assert load_corpus(f"table:{tmp_path / 't.jsonl'}").ids == ("1", "2")
    rows = [{"en": "a", "fr": "b"}, {"en": "c"}, {"en": "e", "fr": "f"}]
    with pytest.raises(CorpusError, match=r"^memory: row 2 has en; the first has en, fr$"):
        load_corpus(rows)


@pytest.mark.parametrize(("column", "odd"), [("de", "'de'"), ("es", "'es'"), (None, "'fr'")])
def test_shards_of_other_columns_are_refused_by_the_first_that_is_odd(tmp_path, column, odd):
    (tmp_path / "part-0.jsonl").write_text('{"en": "a", "fr": "b"}\n', encoding="utf-8")
    other = {"en": "c"} if column is None else {"en": "c", column: "d"}
    (tmp_path / "part-1.jsonl").write_text(json.dumps(other), encoding="utf-8")
    with pytest.raises(CorpusError, match=rf"are no shards of one table: {odd} is in one only$"):
        load_corpus(f"table:{tmp_path}")


def test_cells_of_which_half_are_sentences_are_still_ids(tmp_path):
    """`id` is taken for ids until more than half of its cells hold a blank."""
    (tmp_path / "t.tsv").write_text("id\ten\tfr\nthe one\ta\tb\ntwo\tc\td\n", encoding="utf-8")
    assert load_corpus(f"table:{tmp_path / 't.tsv'}").ids == ("the one", "two")
    (tmp_path / "t.tsv").write_text("id\ten\tfr\nthe one\ta\tb\nthe two\tc\td\nthree\te\tf\n", encoding="utf-8")
    with pytest.raises(CorpusError, match="Indonesian text or sentence ids"):
        load_corpus(f"table:{tmp_path / 't.tsv'}")


@pytest.mark.parametrize(("value", "number"), [("1", 1), ("999999999", 999_999_999), ("1000000000", None), ("0", None)])
def test_an_option_that_counts_has_nine_digits_at_most(tmp_path, value, number):
    spec = parse_spec(f"lines:{tmp_path}?n={value}")
    if number is None:
        with pytest.raises(CorpusError, match=f"n={value} is not a positive whole number"):
            spec.integer("n")
    else:
        assert spec.integer("n") == number


def test_the_same_text_counts_from_four_words_or_twenty_letters():
    texts = {"1": "a b c d", "2": "a b c", "3": "x" * 20, "4": "x" * 19}
    assert list(untranslated("fr", {"en": texts, "fr": texts})) == [("1", "same as en"), ("3", "same as en")]
    assert list(untranslated("en", {"en": texts, "fr": texts})) == []


def test_columns_that_nobody_reads_are_noted_and_no_others(tmp_path):
    (tmp_path / "t.tsv").write_text("en\tfr\ttopic\na\tb\tc\n", encoding="utf-8")
    found = load_corpus(f"table:{tmp_path / 't.tsv'}").notes
    assert found == ("columns not read, as they are named after no language: topic",)
    (tmp_path / "t.tsv").write_text("en\tfr\na\tb\n", encoding="utf-8")
    assert load_corpus(f"table:{tmp_path / 't.tsv'}").notes == ()


def test_the_book_of_a_verse_is_that_of_an_id_of_the_corpus():
    assert [_book(name) for name in ("b.GEN.1.2", "c.GEN.1.2", "a.GEN.1.2", "b.GEN.1", "b.GEN.1.2.3")] == [
        "GEN", "", "", "", "",
    ]  # fmt: skip


def test_as_many_sentences_of_the_pocket_corpus_as_there_are_and_no_more():
    whole = len(load_corpus("pocket:", ["en", "fr"]).ids)
    assert len(load_corpus(f"pocket:?n={whole}", ["en", "fr"]).ids) == whole
    assert len(load_corpus("pocket:?n=3", ["en", "fr"]).ids) == 3
    with pytest.raises(CorpusError, match=f"n={whole + 1} is more than the {whole} sentences that are kept"):
        load_corpus(f"pocket:?n={whole + 1}", ["en", "fr"])


def test_half_a_surrogate_pair_is_no_text():
    with pytest.raises(CorpusError, match=r"^line 3: character 2 is half a surrogate pair \(U\+D83D\)$"):
        check_text("ab\ud83dc", "line 3")
    assert check_text("ab😀", "line 3") == "ab😀"


def test_two_columns_of_one_language_and_a_language_without_one_are_told():
    with pytest.raises(CorpusError, match="two columns are one language: en, eng_Latn"):
        corpus_in_memory({"en": ["a"], "eng_Latn": ["b"]})
    with pytest.raises(CorpusError, match=r"no column is Chinese \(zh\); columns: en"):
        corpus_in_memory({"en": ["a"]}, ["en", "zh"])
    assert corpus_in_memory({"en": ["a"], "fr": ["b"]}, ["fr"]).languages == ("fr",)


def test_a_notebook_shows_five_sentences():
    shown = ParallelCorpus.from_texts({"en": [f"sentence {n}" for n in range(7)]})._repr_html_()
    assert "sentence 4" in shown
    assert "sentence 5" not in shown


def test_a_folder_that_cannot_be_read_holds_nothing(monkeypatch, tmp_path):
    def refused(_path):
        raise PermissionError

    assert not files._holds(tmp_path, lambda _: True)
    (tmp_path / "a.txt").touch()
    assert files._holds(tmp_path, lambda path: path.suffix == ".txt")
    monkeypatch.setattr("pathlib.Path.iterdir", refused)
    assert not files._holds(tmp_path, lambda _: True)


def test_what_does_not_vary_does_not_correlate():
    assert _correlation([1, 1, 1], [1, 2, 3]) == 0
    assert _correlation([1, 2, 3], [2, 4, 6]) == 0.999
    assert _correlation([1, 2, 3], [1, 3, 2]) == pytest.approx(0.5)
    assert _correlation([1, 2, 3], [3, 1, 2]) == pytest.approx(-0.5)


@pytest.mark.parametrize("size", [1, 1000, 1 << 20])
def test_a_small_file_may_unpack_to_a_thousand_times_its_size(tmp_path, size):
    file = tmp_path / "en.txt.gz"
    text = b"a" * size
    assert packed.unpacked(gzip.compress(text), file) == text


def test_an_id_that_is_not_there_is_told_first():
    corpus = ParallelCorpus.from_texts({"en": list("abcd")})
    with pytest.raises(CorpusError, match=r"no sentence 'x' in the corpus \(2 such ids\)$"):
        corpus.select(["x", corpus.ids[0], "y"])


@pytest.mark.parametrize("fraction", [0, 1, -0.5, 1.5])
def test_a_share_that_leaves_nothing_is_refused(fraction):
    with pytest.raises(CorpusError, match="leaves one part empty"):
        ParallelCorpus.from_texts({"en": list("abcd")}).split(fraction, 0)


def test_columns_that_are_not_read_are_told_and_only_they():
    assert corpus_in_memory({"en": ["a"], "fr": ["b"]}).notes == ()
    (note,) = corpus_in_memory({"en": ["a"], "comment": ["b"]}).notes
    assert note.startswith("columns not read")
    assert "comment" in note


def test_a_table_has_ten_thousand_columns_at_most():
    names = [f"c{n}" for n in range(10_000)]
    assert len(table._unique_columns(names, "f")) == 10_000
    with pytest.raises(CorpusError, match="f has 10001 columns"):
        table._unique_columns([*names, "more"], "f")


def test_lines_of_unicode_burmese_are_not_called_zawgyi():
    burmese = "မြန်မာ နေ ကြေး ပြောင်း"
    assert not any("Zawgyi" in said for said in audit(ParallelCorpus.from_texts({"my": [burmese] * 3})).problems)


def test_a_row_is_counted_from_one(tmp_path):
    file = tmp_path / "long.csv"
    file.write_text("lang,id,text\nen,1,a\nnowhere,1,b\n", encoding="utf-8")
    with pytest.raises(CorpusError, match=r"row 2: lang names no known language \('nowhere'\)"):
        load_corpus(f"table:{file}?language=lang&id=id&text=text")


def test_a_bible_may_name_its_language_at_its_text(tmp_path):
    file = tmp_path / "x.xml"
    file.write_text('<cesDoc><text><body lang="fr"><seg>a</seg></body></text></cesDoc>', encoding="utf-8")
    assert bible._declared(file) == (["fr"], "")
    file.write_text("<cesDoc><text><body><seg>a</seg></body></text></cesDoc>", encoding="utf-8")
    assert bible._declared(file) == ([""], "")
