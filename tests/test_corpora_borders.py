"""Files, packed ones, specs and tables at the borders of what is read: the last that is, and the first that is not."""

from __future__ import annotations

import gzip
import random
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from babelscope.corpora import packed, table
from babelscope.corpora.files import decode, files_in, first_line, listed, read_bytes, shown, split_lines
from babelscope.corpora.packed import matching, plain_path, unpacked
from babelscope.corpora.spec import Spec, fitting_reader, parse_spec, with_form
from babelscope.corpora.table import parse_table
from babelscope.errors import CorpusError, MissingExtra

# -- packed files ------------------------------------------------------------------------------------------------------


def noise(size: int) -> bytes:
    return random.Random(size).randbytes(size)


@pytest.mark.parametrize("sizes", [(100, 10_000, 7), (5000, 5000), (1, 1, 1), (4000, 60, 40, 9000), (0, 3)])
def test_a_file_of_several_packed_parts_is_all_of_them(sizes):
    zstandard = pytest.importorskip("zstandard")
    whole = b"".join(map(noise, sizes))
    frames = b"".join(zstandard.ZstdCompressor().compress(noise(size)) for size in sizes)
    for ending in ("zst", "zstd", "ZST"):
        assert unpacked(frames, Path(f"a.{ending}")) == whole
    assert unpacked(b"".join(gzip.compress(noise(size)) for size in sizes), Path("a.gz")) == whole
    with pytest.raises(CorpusError, match=r"a\.zst cannot be unpacked"):
        unpacked(frames + b"and more", Path("a.zst"))
    with pytest.raises(CorpusError, match=r"a\.zst cannot be unpacked"):
        unpacked(frames[:-1], Path("a.zst"))


def test_a_packed_file_of_nothing_ends_in_the_middle():
    pytest.importorskip("zstandard")
    with pytest.raises(CorpusError, match=r"^a\.zst cannot be unpacked: it ends in the middle$"):
        unpacked(b"", Path("a.zst"))


@pytest.mark.parametrize("parts", [1, 3])
def test_the_limit_holds_over_all_parts(monkeypatch, parts):
    compress = pytest.importorskip("zstandard").ZstdCompressor().compress
    content = b"".join(compress(noise(3000)) for _ in range(parts))
    monkeypatch.setattr(packed, "_TIMES", 0)
    monkeypatch.setattr(packed, "_ALWAYS", 3000 * parts)
    assert unpacked(content, Path("a.zst")) == noise(3000) * parts
    monkeypatch.setattr(packed, "_ALWAYS", 3000 * parts - 1)
    with pytest.raises(CorpusError, match=r"unpacks to more than 0 times"):
        unpacked(content, Path("a.zst"))


def test_a_large_file_may_unpack_to_so_many_times_its_size(monkeypatch):
    text = b"ab" * 5000
    content = gzip.compress(text)
    monkeypatch.setattr(packed, "_ALWAYS", 0)
    monkeypatch.setattr(packed, "_TIMES", -(-len(text) // len(content)))
    assert unpacked(content, Path("a.gz")) == text
    monkeypatch.setattr(packed, "_TIMES", packed._TIMES - 1)
    with pytest.raises(CorpusError, match=f"more than {packed._TIMES} times its size; unpack it yourself"):
        unpacked(content, Path("a.gz"))


def test_the_limits_of_the_documentation():
    assert (packed._ALWAYS, packed._TIMES) == (67_108_864, 300)
    assert (table._SMALL, table._TIMES, table._ROWS, table._COLUMNS) == (67_108_864, 300, 100_000, 10_000)


def test_zstandard_is_an_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(MissingExtra, match=r"reading \.zst files.*babelscope\[zstd\]"):
        unpacked(b"x", Path("a.zst"))


def test_names_of_packed_files():
    names = ["a.txt.gz", "a.txt.ZST", "a.txt.zstd", "a.txt", "a.gz.txt"]
    assert [plain_path(Path(name)).name for name in names] == ["a.txt", "a.txt", "a.txt", "a.txt", "a.gz.txt"]


def test_patterns_name_files_in_order(tmp_path):
    for name in ("b1.x", "a2.x", "a1.x"):
        (tmp_path / name).touch()
    (tmp_path / "a3.x").mkdir()
    assert [path.name for path in matching(f"{tmp_path}/*.x")] == ["a1.x", "a2.x", "b1.x"]
    assert [path.name for path in matching(f"{tmp_path}/[b]1.x")] == ["b1.x"]
    assert matching(f"{tmp_path}/a1.x") == []


# -- plain files -------------------------------------------------------------------------------------------------------


def refuse(error):
    def call(*_):
        raise error

    return call


def test_what_cannot_be_read_says_why(tmp_path, monkeypatch):
    with pytest.raises(CorpusError, match=r"is a folder where a file is expected$"):
        read_bytes(tmp_path)
    with pytest.raises(CorpusError, match=r"^cannot read .*: No such file or directory$"):
        read_bytes(tmp_path / "none")
    for error, said in ((PermissionError(13, "Permission denied"), "Permission denied"), (OSError("odd"), "odd")):
        monkeypatch.setattr(Path, "iterdir", refuse(error))
        with pytest.raises(CorpusError, match=rf"^cannot list {tmp_path}: {said}$"):
            files_in(tmp_path, lambda _: True, "files")
        monkeypatch.setattr(Path, "read_bytes", refuse(error))
        with pytest.raises(CorpusError, match=rf"^cannot read x: {said}$"):
            read_bytes(Path("x"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\xfe\xff\0a", "is UTF-16"),
        (b"\xff\xfea\0", "is UTF-16"),
        (b"ab\0c\0", r"NUL at byte 2\)"),
        (b"\0\0", r"NUL at byte 0\)"),
        (b"ab\ncd\n\xe9f\n", r"byte 6 \(0xe9\), line 3; save"),
        (b"\xe9\n\n", r"byte 0 \(0xe9\), line 1; save"),
    ],
)
def test_the_place_of_what_is_no_text(content, said):
    with pytest.raises(CorpusError, match=f"^x .*{said}"):
        decode(content, "x")


def test_lines_and_the_last_of_them():
    cases = {"": [], "a": ["a"], "a\n": ["a"], "a\n\n": ["a", ""], "a\r\n\r\nb\r": ["a", "", "b"], "\n": [""]}
    assert {text: split_lines(text) for text in cases} == cases
    assert decode("\ufeffa\ufeff".encode(), "x") == "a\ufeff"


def test_what_is_shown_of_a_value_or_a_name():
    assert shown("a" * 58) == f"'{'a' * 58}'"
    assert shown("a" * 59) == f"'{'a' * 58}…"
    assert shown("a\x1bé") == r"'a\x1b\xe9'"
    assert shown("é") == "'é'"
    assert shown(5) == "5"
    assert listed(["a" * 59]) == "a" * 59
    assert listed(["a" * 60]) == f"'{'a' * 58}…"
    assert listed(["a\x1b", 5]) == r"'a\x1b', 5"
    names = [str(n) for n in range(45)]
    assert listed(names) == ", ".join(names[:20]) + " and 25 more"
    assert listed(names[:21]) == ", ".join(names[:20]) + " and 1 more"


def test_the_first_line_of_an_error_or_its_name():
    assert first_line(ValueError(" one\ntwo")) == "one"
    assert first_line(KeyError()) == "KeyError"


def test_files_that_are_not_there_and_where_they_are(tmp_path):
    def wanted(path):
        return path.suffix == ".xml"

    with pytest.raises(CorpusError, match=rf"^no XML files in {tmp_path}; check the path$"):
        files_in(tmp_path, wanted, "XML files")
    (tmp_path / "en.txt").touch()
    (tmp_path / ".b.xml").touch()  # hidden: of no interest
    with pytest.raises(CorpusError, match=rf"; its files look like lines:{tmp_path}$"):
        files_in(tmp_path, wanted, "XML files")
    for name in ("two", "one", "none"):
        (tmp_path / name).mkdir()
    (tmp_path / "one" / "a.xml").touch()
    (tmp_path / "two" / "b.xml").touch()
    (tmp_path / "c.xml").mkdir()
    with pytest.raises(CorpusError, match=r"; there are some in one, two$"):
        files_in(tmp_path, wanted, "XML files")
    for name in ("z.xml", "a.xml"):
        (tmp_path / name).touch()
    assert [path.name for path in files_in(tmp_path, wanted, "XML files")] == ["a.xml", "z.xml"]


# -- specs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "reader"),
    [
        (["en.txt", "fr.txt", "a.xml"], "lines"),
        (["a.xml", "b.xml", "en.txt"], "bible"),
        (["newstest2019-ref.fra.txt"], "ntrex"),
        (["eng_Latn.devtest"], "flores"),
        (["x.dev", "y.dev.gz", "z.csv"], "flores"),
        (["t.tsv.gz"], "table"),
        (["dev/", "en.txt"], "flores"),
        (["devtest/", "en.txt"], "flores"),
        (["dev/", "en.txt", "fr.txt"], "lines"),
    ],
)
def test_the_reader_that_fits_most_files_of_a_folder(tmp_path, files, reader):
    for name in files:
        (tmp_path / name).mkdir() if name.endswith("/") else (tmp_path / name).touch()
    assert fitting_reader(f" {tmp_path} ") == f"{reader}:{tmp_path}"


def test_where_no_reader_fits_an_example_stands(tmp_path):
    (tmp_path / "README.md").touch()
    for place in (str(tmp_path), str(tmp_path / "none"), "a\0b"):
        assert fitting_reader(place) == "lines:my-folder"


def test_places_that_cannot_be():
    for place, said in (("a\0b", "a path cannot hold a NUL"), ("a" * 300, "cannot look at"), ("", "write lines:PATH")):
        with pytest.raises(CorpusError, match=said):
            _ = Spec("lines:x", "lines", place).path


def test_letters_written_by_their_number(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parse_spec("lines:what%3F").place == "what?"
    (tmp_path / "what%3F").touch()
    assert parse_spec("lines:what%3F").place == "what%3F"
    assert parse_spec("lines:a%00b").place == "a%00b"
    assert parse_spec(" lines: x ?a%26b=c%3Dd ").options == {"a&b": "c=d"}
    assert parse_spec("lines:" + "%41" * 2000).place in ("A" * 2000, "%41" * 2000)


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("a", r"option 'a' is not of the form name=value \(a \? in a file's name is written %3F\)$"),
        ("a=", r"option 'a=' is not of the form name=value$"),
        ("=b", r"option '=b' is not of the form name=value$"),
        ("a=1&", r"option '' is not"),
        ("a=1&a=2", r"option a is given twice$"),
    ],
)
def test_options_have_a_name_and_a_value(query, said):
    with pytest.raises(CorpusError, match=said):
        parse_spec(f"lines:x?{query}")
    for character in "\x00\x1f\u2028\u2029\ud800":
        with pytest.raises(CorpusError, match=r"holds characters that are no text"):
            parse_spec(f"lines:x{character}")


def test_lists_in_options_and_codes_of_languages():
    assert parse_spec("bible:x?books= MAT,,MAR , ").items("books") == ("MAT", "MAR")
    assert parse_spec("bible:x").items("books") == ()
    spec = parse_spec("lines:x?en=a&zho_Hant=b&lone=drop")
    assert spec.by_language(("lone",)) == {"en": "a", "zh-Hant": "b"}
    with pytest.raises(CorpusError, match=r"unknown option 'lone'; lines takes limit, n and languages"):
        spec.by_language(("n", "limit"))
    with pytest.raises(CorpusError, match=r"language en is given twice, last as eng=b"):
        parse_spec("lines:x?en=a&eng=b").by_language(())


def test_one_unicode_form_is_asked_for():
    assert with_form("lines:x", "nfd") == "lines:x?normalise=nfd"
    assert with_form("lines:x?lone=drop&normalise=nfd", "nfd") == "lines:x?lone=drop&normalise=nfd"
    assert with_form("memory", "nfc") == "memory"
    with pytest.raises(CorpusError, match=r"it asks for normalise=nfc, and --normalise for nfd: keep one"):
        with_form("lines:x?normalise=nfc", "nfd")


# -- tables ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "text", "said"),
    [
        ("tsv", "\n\n", "^x is empty$"),
        ("tsv", "a\tb\n1\t2\n\n3\t4\n", "line 3: 1 fields, but the header has 2 columns"),
        ("csv", 'a,b\n"1\n2",3\n4\n', "line 4: 1 fields, but the header has 2 columns"),
        ("csv", "a,b\n\n1,2\n", "line 2: 1 fields, but the header has 2 columns"),
        ("csv", 'a,b\n1,2\n"x"y,3\n', "line 3: broken CSV"),
        ("tsv", "a\tb\n1\t2\t3\n", "line 2: 3 fields"),
        ("jsonl", '{"a": 1}\n\n[2]\n', "line 3: list where an object"),
        ("jsonl", "\n\n", "x has no rows"),
        ("json", "[1]", "an array of objects is expected"),
        ("json", '[{"a": 1}, 2]', "an array of objects is expected"),
        ("json", '{"data": [{"a": 1}], "n": 1}', "an array of objects is expected"),
        ("json", '{"data": 5}', "an array of objects is expected"),
        ("json", "{}", "an array of objects is expected"),
        ("json", "[]", "x has no rows"),
    ],
)
def test_tables_that_are_none(kind, text, said):
    with pytest.raises(CorpusError, match=said):
        parse_table(text.encode(), kind, "x")


def test_tables_keep_rows_columns_and_blank_fields():
    found = parse_table(b'a,b\n"1, ""x""",\n,2\n\n\n', "csv", "x")
    assert (found.columns, found.rows) == (("a", "b"), [{"a": '1, "x"', "b": ""}, {"a": "", "b": "2"}])
    found = parse_table(b'a\tb\n"1\t2"\n\n', "tsv", "x")
    assert found.rows == [{"a": '"1', "b": '2"'}]
    assert parse_table(b'a\tb\n"1\t2"\t3\n', "tsv-quoted", "x").rows == [{"a": "1\t2", "b": "3"}]
    assert parse_table(b"a\n1\n", "tsv", "x").rows == [{"a": "1"}]
    for kind, text in (("jsonl", b'{"b": 1}\n{"a": 2, "b": 3}'), ("json", b'{"all": [{"b": 1}, {"a": 2, "b": 3}]}')):
        assert parse_table(text, kind, "x").columns == ("b", "a")


def parquet(rows: int, pad: int) -> bytes:
    sink = pa.BufferOutputStream()
    columns = pa.table({"en": pa.array(["x" * pad] * rows).dictionary_encode()})
    pq.write_table(columns, sink, store_schema=False, compression="none", write_statistics=False)
    return sink.getvalue().to_pybytes()


def test_a_parquet_file_may_hold_twenty_rows_a_byte_where_there_are_many(monkeypatch):
    monkeypatch.setattr(table, "_ROWS", 0)
    rows = 20_000
    content = parquet(rows, 500 + rows // 20 - len(parquet(rows, 500)))
    assert len(content) * 20 == rows
    assert len(parse_table(content, "parquet", "x").rows) == rows
    more = parquet(rows + 1, 500 + rows // 20 - len(parquet(rows + 1, 500)))
    with pytest.raises(CorpusError, match=rf"^x states 20001 rows in {len(more)} bytes; is that right\?$"):
        parse_table(more, "parquet", "x")
    monkeypatch.setattr(table, "_ROWS", rows + 1)
    assert len(parse_table(more, "parquet", "x").rows) == rows + 1
