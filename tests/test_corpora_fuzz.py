"""Whatever bytes a file holds, a reader gives a corpus or one clear line; nothing else ever comes out."""

import json
import tempfile
import unicodedata
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from babelscope.corpora import ParallelCorpus, audit, load_corpus, load_texts
from babelscope.corpora.bible import parse_bible
from babelscope.corpora.spec import parse_spec
from babelscope.corpora.table import parse_table
from babelscope.errors import BabelscopeError

few = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])

PIECES = """
<a>|</a>|<seg id="b.MAT.1.1" type="verse">|<seg>|</seg>|text|&amp;|&x;|<![CDATA[|]]>|<!--
|<!DOCTYPE a [<!ENTITY x 'y'>]>|<?xml version="1.0" encoding="utf-16"?>|<language id="fr">|</language>|\0|é
"""
xml_bits = st.lists(st.sampled_from(PIECES.strip().split("|")), max_size=12).map("".join)
cell = st.text(max_size=6)
tables = st.lists(st.lists(cell, min_size=1, max_size=4), max_size=5)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.just("\ud800"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["en", "fr", "id", "text", "x"]), inner, max_size=4)
    ),
    max_leaves=8,
)
contents = (
    st.binary(max_size=60)
    | st.text(max_size=60).map(str.encode)
    | xml_bits.map(str.encode)
    | tables.map(lambda rows: "\n".join("\t".join(row) for row in rows).encode())
    | tables.map(lambda rows: "\r\n".join(",".join(row) for row in rows).encode())
    | st.lists(json_values, max_size=4).map(lambda rows: "\n".join(map(json.dumps, rows)).encode())
)

NAMES = {
    "bible": ("English.xml", "French-NT.xml", "odd.xml"),
    "ntrex": ("newstest2019-src.eng.txt", "newstest2019-ref.fra.txt", "DOCUMENT_IDS.tsv"),
    "flores": ("eng_Latn.dev", "fra_Latn.dev", "zho_Hans.jsonl", "hin_Deva.parquet"),
    "lines": ("en.txt", "fr.txt", "anything.txt"),
    "xlsum": ("english_val.jsonl", "french.jsonl"),
}


def tried(call):
    """The outcome, or None after an error made on purpose whose message can be shown on one line."""
    message, outcome = "", None
    try:
        outcome = call()
    except BabelscopeError as error:
        message = str(error)
    assert not any(unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"} for character in message), ascii(message)
    return outcome


def holds(corpus):
    """What is true of every corpus that a reader gives."""
    assert len(corpus) == len(set(corpus.ids)) > 0
    for code in corpus.languages:
        assert len(corpus.sentences(code)) == len(corpus)
        assert all(text.strip() for text in corpus.sentences(code))
        assert corpus.dropped[code] >= 0
    assert len(corpus.hash) == 64


@pytest.mark.parametrize("reader", list(NAMES))
@few
@given(data=st.data())
def test_any_files(reader, data):
    with tempfile.TemporaryDirectory() as folder:
        for name in NAMES[reader]:
            content = data.draw(st.none() | contents)
            if content is not None:
                (Path(folder) / name).write_bytes(content)
        spec, languages = f"{reader}:{folder}", data.draw(st.sampled_from([None, ["en", "fr"]]))
        corpus = tried(lambda: load_corpus(spec, languages))
        if corpus is not None:
            holds(corpus)
        tried(lambda: load_texts(spec, languages))
        tried(lambda: audit(spec, languages).problems)


@pytest.mark.parametrize("suffix", ["tsv", "csv", "jsonl", "parquet"])
@few
@given(content=contents, query=st.sampled_from(["", "?en=en", "?en=x.en&id=id", "?ind=id&document=x"]))
@example(b'{"en": 1e999}', "").via("infinity")
@example(b"en,fr\r\n" + b'"' * 7, "").via("quotes")
def test_any_table(suffix, content, query):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"t.{suffix}"
        path.write_bytes(content)
        corpus = tried(lambda: load_corpus(f"table:{path}{query}"))
        if corpus is not None:
            holds(corpus)


@few
@given(xml_bits.map(str.encode) | st.binary(max_size=40))
@example(b"<a>" * 20000 + b"</a>" * 20000).via("depth")
def test_any_xml(content):
    tried(lambda: parse_bible(content, "memory"))


@few
@given(st.text(max_size=40) | st.text(max_size=20).map("lines:x?".__add__))
def test_any_spec(text):
    tried(lambda: parse_spec(text))
    if not text.startswith(("hub:", "pocket:")):
        tried(lambda: load_corpus(text))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.text("abc é\u2028\x85🙂", min_size=1, max_size=8), st.text("где", min_size=1, max_size=8)),
        min_size=1,
        max_size=6,
    ).filter(lambda rows: all(a.strip() for a, _ in rows))
)
def test_what_is_written_is_what_is_read(rows):
    """Lines, TSV and JSONL of the same sentences give one corpus, character for character."""
    wanted = ParallelCorpus.from_texts({"en": [a for a, _ in rows], "ru": [b for _, b in rows]})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for code in wanted.languages:
            (folder / f"{code}.txt").write_bytes("\r\n".join(wanted.texts[code]).encode())
        (folder / "t.tsv").write_bytes(("en\tru\n" + "".join(f"{a}\t{b}\n" for a, b in rows)).encode())
        (folder / "t.jsonl").write_text("\n".join(json.dumps({"en": a, "ru": b}) for a, b in rows))
        for spec in (f"lines:{folder}", f"table:{folder / 't.tsv'}", f"table:{folder / 't.jsonl'}"):
            assert load_corpus(spec).hash == wanted.hash


@few
@given(tables)
def test_csv_survives_its_own_quoting(rows):
    import csv
    import io

    width = max(map(len, rows), default=1)
    wanted = [[f"{cell}." for cell in row] + ["."] * (width - len(row)) for row in rows if row]
    if not wanted or any("\0" in cell for row in wanted for cell in row):
        return
    out = io.StringIO(newline="")
    csv.writer(out).writerows([[f"c{i}" for i in range(width)], *wanted])
    table = parse_table(out.getvalue().encode(), "csv", "memory")
    assert [[row[f"c{i}"] for i in range(width)] for row in table.rows] == wanted
