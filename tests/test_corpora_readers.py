"""Each reader on small files in its format: what it gives, and one clear line for each way to be bad."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from babelscope.corpora import load_corpus, load_texts
from babelscope.errors import BabelscopeError, CorpusError


def write(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def bible(verses, code="en", name="English", extra=""):
    segments = "".join(f'<seg id="{i}" type="verse">\n\t\t{text}\n\t</seg>' for i, text in verses.items())
    header = f'<cesHeader><language id="{code}" iso639="{code}">\n {name}\n</language></cesHeader>'
    return f'<?xml version="1.0"?>{extra}<cesDoc>{header}<text><body lang="{code}">{segments}</body></text></cesDoc>'


VERSES = {"b.MAT.1.1": "One.", "b.MAT.1.2": "Two.", "b.MAR.1.1": "Three &amp; four."}
VERSETS = {"b.MAT.1.1": "Un.", "b.MAR.1.1": "Trois\n\t\tet quatre."}


def two_bibles(folder, **changes):
    files = {"English-NT.xml": bible(VERSES), "French-NT.xml": bible(VERSETS, "fr", "French")}
    return write(folder, files | {name.replace("_", "-") + ".xml": content for name, content in changes.items()})


def test_bible(tmp_path):
    corpus = load_corpus(f"bible:{two_bibles(tmp_path)}", ["fr", "English"])
    assert corpus.languages == ("fr", "en")
    assert corpus.ids == ("b.MAT.1.1", "b.MAR.1.1")
    assert corpus.sentences("en") == ("One.", "Three & four.")
    assert corpus.sentences("fr") == ("Un.", "Trois et quatre.")
    assert corpus.dropped == {"fr": 0, "en": 1}
    assert [name for name, _ in corpus.documents("en")] == ["b.MAT.1", "b.MAR.1"]


def test_bible_books_and_documents(tmp_path):
    two_bibles(tmp_path)
    assert load_corpus(f"bible:{tmp_path}?books=mar").ids == ("b.MAR.1.1",)
    assert load_corpus(f"bible:{tmp_path}?exclude=MAR").ids == ("b.MAT.1.1",)
    assert [d.id for d in load_texts(f"bible:{tmp_path}?documents=book")["en"].documents] == ["b.MAT", "b.MAR"]
    assert load_texts(f"bible:{tmp_path}", ["en"])["en"].documents[0].text == "One. Two."
    for option, message in [
        ("books=ZZZ", "no book 'ZZZ'; there are MAT, MAR"),
        ("exclude=MAT,MAR", "every book is left out"),
        ("documents=verse", "documents=verse is not one of chapter, book"),
    ]:
        with pytest.raises(CorpusError, match=message):
            load_corpus(f"bible:{tmp_path}?{option}")


def test_bible_files_whose_language_is_in_doubt(tmp_path):
    write(
        tmp_path,
        {
            "English.xml": bible(VERSES),
            "English-WEB.xml": bible(VERSES),
            "Swahili-NT.xml": bible(VERSETS, "ss", "Swahili"),
        },
    )
    with pytest.raises(
        CorpusError, match=r"2 files hold en \(English-WEB.xml, English.xml\); choose one with \?en=English-WEB"
    ):
        load_corpus(f"bible:{tmp_path}")
    corpus = load_corpus(f"bible:{tmp_path}?en=English.xml")
    assert corpus.languages == ("en", "sw")
    assert "declares ss but is named Swahili" in corpus.notes[0]
    assert load_corpus(f"bible:{tmp_path}?en=English.xml&ss=Swahili-NT.xml").languages == ("en", "ss")
    with pytest.raises(CorpusError, match=r"holds no file 'None.xml'"):
        load_corpus(f"bible:{tmp_path}?en=None.xml")
    assert load_corpus(f"bible:{tmp_path / 'English.xml'}").languages == ("en",)


BOMB = '<!DOCTYPE a [<!ENTITY x "ha"><!ENTITY y "&x;&x;&x;&x;&x;&x;">]>'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "French-NT.xml is empty"),
        (b" \n", "French-NT.xml is empty"),
        (b"\x89PNG\r\n\0\0\0", r"binary file.*NUL at byte 6"),
        (b"<a>\n\xff</a>", r"not valid UTF-8: byte 4 \(0xff\), line 2"),
        ("<a/>".encode("utf-16"), "UTF-16"),
        (bible({"b.MAT.1.1": "&y;"}, "fr", "French", BOMB), "defines XML entities; such files are refused"),
        (
            bible(VERSETS, "fr", "French", '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/hosts">]>'),
            "defines XML entities",
        ),
        ("<a><b></a>", "not well-formed XML: mismatched tag"),
        ("<cesDoc/>", "holds no verses"),
        ('<a><seg type="verse">x</seg></a>', "a <seg> has no id"),
        ('<a><seg id="1">x</seg><seg id="1">y</seg></a>', "the id '1' occurs twice"),
        (bible({"b.PSA.1.1": "Ps."}, "fr", "French"), "no sentence id is in all of en, fr"),
        (bible(VERSETS | {"b.QQQ.1.1": "?"}, "fr", "French"), "id 'b.QQQ.1.1' of fr is in no other language"),
        (b'<?xml version="1.0" encoding="klingon"?><a/>', "not well-formed XML"),
    ],
)
def test_bad_bibles(tmp_path, content, message):
    two_bibles(tmp_path, French_NT=content)
    with pytest.raises(CorpusError, match=message) as caught:
        load_corpus(f"bible:{tmp_path}", "en,fr")
    assert str(caught.value).isprintable()


def test_a_verse_number_of_one_tradition_is_dropped_not_refused(tmp_path):
    two_bibles(tmp_path, French_NT=bible(VERSETS | {"b.ROM.14.24": "x"}, "fr", "French"))
    assert load_corpus(f"bible:{tmp_path}").dropped == {"en": 1, "fr": 1}
    with pytest.raises(CorpusError, match="in no other language"):
        load_corpus(f"bible:{tmp_path}?lone=error")


def test_a_bomb_in_another_language_does_not_matter_until_it_is_asked_for(tmp_path):
    two_bibles(tmp_path, German_NT=bible(VERSES, "de", "German", BOMB))
    assert load_corpus(f"bible:{tmp_path}", "en,fr").languages == ("en", "fr")
    with pytest.raises(CorpusError, match=r"German-NT.xml defines XML entities"):
        load_corpus(f"bible:{tmp_path}")


def test_latin_1_bibles_say_so_and_are_read(tmp_path):
    xml = bible({"b.MAT.1.1": "Été."}, "fr", "French").replace('"1.0"', '"1.0" encoding="iso-8859-1"').encode("latin-1")
    assert load_corpus(f"bible:{write(tmp_path, {'French.xml': xml})}").sentences("fr") == ("Été.",)


def test_missing_languages_and_folders(tmp_path):
    two_bibles(tmp_path / "inner")
    with pytest.raises(CorpusError, match="no text in de, ru; available: en, fr"):
        load_corpus(f"bible:{tmp_path / 'inner'}", "en,de,ru")
    with pytest.raises(CorpusError, match=r"no XML files in .*; there are some in inner"):
        load_corpus(f"bible:{tmp_path}")
    with pytest.raises(BabelscopeError, match="unknown language 'qzz'"):
        load_corpus(f"bible:{tmp_path / 'inner'}", "en,qzz")


def test_ntrex(tmp_path):
    files = {"newstest2019-src.eng.txt": "\ufeffA\r\nB\u2028b\r\n C \r\n", "newstest2019-ref.zho-CN.txt": "甲\n乙\n丙"}
    write(tmp_path, files | {"DOCUMENT_IDS.tsv": "x\nx\ny\n", "README.md": "hello"})
    corpus = load_corpus(f"ntrex:{tmp_path}")
    assert corpus.languages == ("zh", "en")
    assert corpus.sentences("en") == ("A", "B\u2028b", " C "), "only \\n and \\r\\n end a line; nothing is trimmed"
    assert corpus.documents("zh") == [("x", "甲乙"), ("y", "丙")]
    assert [d.id for d in load_texts(f"ntrex:{tmp_path}?limit=1", "en")["en"].documents] == ["x"]


def test_bad_ntrex(tmp_path):
    with pytest.raises(CorpusError, match=r"no newstest2019-ref.<code>.txt in"):
        load_corpus(f"ntrex:{tmp_path}")
    write(tmp_path, {"newstest2019-src.eng.txt": "a\nb\n", "newstest2019-ref.fra.txt": "a\n"})
    with pytest.raises(CorpusError, match=r"ref.fra.txt has 1 lines and .*src.eng.txt has 2"):
        load_corpus(f"ntrex:{tmp_path}")
    write(tmp_path, {"DOCUMENT_IDS.tsv": "x\n"})
    with pytest.raises(CorpusError, match=r"DOCUMENT_IDS.tsv has 1 lines, but the sentences are 2"):
        load_corpus(f"ntrex:{tmp_path}", "en")


def test_lines(tmp_path):
    write(
        tmp_path,
        {"en.txt": "a\nb\n\nd\n", "fr.txt": "w\nx\n\nz\n", "zho_Hans.txt": "甲\n\n\n丁", "how this was made.txt": "!"},
    )
    corpus = load_corpus(f"lines:{tmp_path}")
    assert (corpus.languages, corpus.ids) == (("en", "fr", "zh"), ("1", "4"))
    assert corpus.dropped == {"en": 1, "fr": 1, "zh": 0}
    assert "how this was made.txt" in corpus.notes[0]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "no <language>.txt files in"),
        ({"en.txt": "a\nb", "fr.txt": "c"}, r"en.txt has 2 lines and .*fr.txt has 1"),
        ({"en.txt": "a\n\n", "fr.txt": "c\nd\n"}, "id '2' of fr is in no other language"),
        ({"en.txt": "a", "fr.txt": b"\xff"}, "fr.txt is not valid UTF-8: byte 0"),
        ({"en.txt": "a", "fr.txt": b"\0\1"}, "fr.txt is a binary file"),
        ({"en.txt": "a\nb", "fr.txt": b"c\rd\r"}, "fr.txt: its lines end in carriage returns alone"),
        ({"en.txt": "a", "eng.txt": "b"}, "2 files hold en"),
        ({"12.txt": "a"}, "named after a language"),
    ],
)
def test_bad_lines(tmp_path, files, message):
    with pytest.raises(CorpusError, match=message):
        load_corpus(f"lines:{write(tmp_path, files)}")


def test_a_file_where_a_folder_is_expected(tmp_path):
    write(tmp_path, {"en.txt": "a"})
    with pytest.raises(CorpusError, match="is a file where a folder is expected"):
        load_corpus(f"lines:{tmp_path / 'en.txt'}")
    with pytest.raises(CorpusError, match=r"no reader 'tsv'.*; write table:mine.tsv$"):
        load_corpus("tsv:mine.tsv")
    with pytest.raises(CorpusError, match="no tables in"):  # a folder is read as the shards of one table
        load_corpus(f"table:{tmp_path}?format=csv")


ROWS = [("k1", "A, a", "甲"), ("k2", 'B "b"', "乙")]


def table_files():
    jsonl = "\n".join(json.dumps({"key": k, "English": e, "zh": z}) for k, e, z in ROWS)
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({name: list(column) for name, column in zip(("key", "English", "zh"), zip(*ROWS))}), sink)
    return {
        "t.tsv": 'key\tEnglish\tzh\nk1\tA, a\t甲\r\nk2\tB "b"\t乙\n',
        "t.csv": 'key,English,zh\nk1,"A, a",甲\nk2,"B ""b""",乙\n\n',
        "t.jsonl": jsonl + "\n\n",
        "t.parquet": sink.getvalue().to_pybytes(),
    }


@pytest.mark.parametrize("name", ["t.tsv", "t.csv", "t.jsonl", "t.parquet"])
def test_tables_in_every_format(tmp_path, name):
    write(tmp_path, table_files())
    for query in ("id=key", "id=key&en=English&zho=zh"):
        corpus = load_corpus(f"table:{tmp_path / name}?{query}")
        assert corpus.ids == ("k1", "k2")
        assert corpus.texts == {"en": ("A, a", 'B "b"'), "zh": ("甲", "乙")}
    assert load_corpus(f"table:{tmp_path / name}?en=English").ids == ("1", "2")
    assert load_corpus(f"table:{tmp_path / name}?document=key", "zh").documents("zh") == [("k1", "甲"), ("k2", "乙")]


def test_the_column_id_is_indonesian_or_a_key(tmp_path):
    write(tmp_path, {"keys.tsv": "id\ten\n7\ta\n", "texts.tsv": "id\ten\nsatu kucing\ta cat\ndua anjing\ttwo dogs\n"})
    assert load_corpus(f"table:{tmp_path / 'keys.tsv'}").ids == ("7",)
    with pytest.raises(CorpusError, match=r"Indonesian text or sentence ids\? Say \?ind=id or \?id=id"):
        load_corpus(f"table:{tmp_path / 'texts.tsv'}")
    assert load_corpus(f"table:{tmp_path / 'texts.tsv'}?ind=id&en=en").languages == ("id", "en")


def test_words_that_are_also_codes_of_small_languages_count_only_when_asked_for(tmp_path):
    path = write(tmp_path, {"t.tsv": "key\tlabel\ten\tach\n1\tx\ta\tb\n"}) / "t.tsv"
    assert load_corpus(f"table:{path}").languages == ("en",)
    assert load_corpus(f"table:{path}", "ach,en").languages == ("ach", "en")


def test_nested_columns(tmp_path):
    write(
        tmp_path,
        {"t.jsonl": '{"translation": {"en": "a", "fr": "b"}, "n": 5}\n{"translation": {"en": "c", "fr": "d"}, "n": 6}'},
    )
    corpus = load_corpus(f"table:{tmp_path / 't.jsonl'}?en=translation.en&fr=translation.fr&id=n")
    assert (corpus.ids, corpus.texts["fr"]) == (("5", "6"), ("b", "d"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.tsv", "en\tfr\na\n", "line 2: 1 fields, but the header has 2 columns"),
        ("t.csv", "en,fr\na,b,c\n", "line 2: 3 fields, but the header has 2 columns"),
        ("t.csv", 'en,fr\n"a\n', "broken CSV"),
        ("t.tsv", "en\ten\na\tb\n", "column 'en' occurs twice"),
        ("t.tsv", "en\teng\na\tb\n", "columns 'en' and 'eng' are both en"),
        ("t.tsv", "en\tfr\n", "has no rows"),
        ("t.tsv", "one\t2\nx\ty\n", "no column is named after a language"),
        ("t.tsv", "id\ten\n1\ta\n1\tb\n", "the id '1' occurs twice"),
        ("t.tsv", "id\ten\n\ta\n", "row 1: column 'id' holds no id"),
        ("t.tsv", "en\tfr\n\t\n", "en holds no text"),
        ("t.jsonl", "{", "line 1 is not JSON"),
        ("t.jsonl", "[" * 5000, "line 1 is nested"),
        ("t.jsonl", '{"en": "a"}\n[1]', "line 2: list where an object"),
        ("t.jsonl", '{"en": 5}', "column 'en' holds int, not text"),
        ("t.jsonl", '{"en": "\\ud800"}', "half a surrogate pair"),
        ("t.jsonl", '{"\\ud800": "a"}', "half a surrogate pair"),
        ("t.jsonl", '{"en": ' + "1" * 5000 + "}", "line 1 is not JSON"),
        ("t.parquet", b"PAR1 not really", "not a readable Parquet file"),
        ("t.txt", "en\na\n", "cannot tell the format"),
    ],
)
def test_bad_tables(tmp_path, name, content, message):
    with pytest.raises(CorpusError, match=message):
        load_corpus(f"table:{write(tmp_path, {name: content}) / name}")


def test_columns_that_are_not_there(tmp_path):
    write(tmp_path, table_files())
    with pytest.raises(CorpusError, match="no column 'German'; it has key, English, zh"):
        load_corpus(f"table:{tmp_path / 't.tsv'}?de=German")
    with pytest.raises(CorpusError, match="no text in de; available: en, zh"):
        load_corpus(f"table:{tmp_path / 't.tsv'}", "en,de")
    with pytest.raises(CorpusError, match="format=xls is not one of csv, json, jsonl, parquet, tsv"):
        load_corpus(f"table:{tmp_path / 't.tsv'}?format=xls")


@pytest.mark.parametrize(
    "names",
    [("dev/{}.dev", "devtest/{}.devtest"), ("dev/dev.{}", "devtest/devtest.{}"), ("dev/{}.jsonl", "devtest/{}.jsonl")],
)
def test_flores_layouts(tmp_path, names):
    for name, split in zip(names, ("d", "t")):
        for code, language in (("eng_Latn", "en"), ("zho_Hans", "zh"), ("zho_Hant", "zh-Hant")):
            rows = [{"id": i, "text": f"{language} {split}{i}", "url": "u"} for i in (1, 2)]
            lines = map(json.dumps, rows) if name.endswith("jsonl") else (row["text"] for row in rows)
            write(tmp_path, {name.format(code): "\n".join(lines)})
    corpus = load_corpus(f"flores:{tmp_path}", "en,zh")
    assert (corpus.ids, corpus.sentences("zh")) == (("1", "2"), ("zh t1", "zh t2"))
    assert load_corpus(f"flores:{tmp_path}?split=dev").texts["zh-Hant"] == ("zh-Hant d1", "zh-Hant d2")
    assert load_corpus(f"flores:{tmp_path / 'dev'}").languages == ("en", "zh", "zh-Hant")
    with pytest.raises(CorpusError, match="split=test is not one of devtest, dev"):
        load_corpus(f"flores:{tmp_path}?split=test")
    assert len(corpus.documents("en")) == (1 if names[0].endswith("jsonl") else 2)


def test_flores_plus_in_one_file(tmp_path):
    rows = [{"id": 1, "text": code, "iso_639_3": code, "iso_15924": "Latn"} for code in ("eng", "fra")]
    write(tmp_path, {"all.jsonl": "\n".join(map(json.dumps, rows)), "bad.jsonl": '{"text": "x"}', "odd.txt": "x"})
    assert load_corpus(f"flores:{tmp_path / 'all.jsonl'}").texts == {"en": ("eng",), "fr": ("fra",)}
    with pytest.raises(CorpusError, match="row 1: iso_639_3 and iso_15924 name no known language"):
        load_corpus(f"flores:{tmp_path / 'bad.jsonl'}")
    with pytest.raises(CorpusError, match="neither a folder nor"):
        load_corpus(f"flores:{tmp_path / 'odd.txt'}")


def test_bad_flores(tmp_path):
    with pytest.raises(CorpusError, match="no FLORES files"):
        load_corpus(f"flores:{tmp_path}")
    write(tmp_path, {"eng_Latn.dev": "a\nb", "fra_Latn.dev": "a"})
    with pytest.raises(CorpusError, match="has 2 lines and"):
        load_corpus(f"flores:{tmp_path}")
    write(tmp_path / "x", {"eng_Latn.jsonl": '{"id": 1, "txt": "a"}'})
    with pytest.raises(CorpusError, match="no column 'text'; it has id, txt"):
        load_corpus(f"flores:{tmp_path / 'x'}")


def article(i, text):
    return json.dumps({"id": i, "url": "", "title": "", "summary": "", "text": text})


def test_xlsum(tmp_path):
    write(
        tmp_path,
        {
            "english_val.jsonl": "\n".join(article(f"v{i}", f"en {i}") for i in range(5)),
            "english_train.jsonl": article("t", "train"),
            "chinese_simplified.jsonl": article("c", "中"),
            "serbian_latin_val.jsonl": article("s", "sr") + "\n" + article("s", "sr again"),
            "french_test.jsonl": article("f", "fr"),
        },
    )
    texts = load_texts(f"xlsum:{tmp_path}?limit=3")
    assert {code: [d.id for d in found.documents] for code, found in texts.items()} == {
        "en": ["v0", "v1", "v2"],
        "sr-Latn": ["s", "s#2"],
        "zh": ["c"],
    }
    assert "the id 's' occurs twice" in texts["sr-Latn"].notes[0]
    assert load_texts(f"xlsum:{tmp_path}?split=test", "fr")["fr"].documents[0].text == "fr"
    with pytest.raises(CorpusError, match="no text in fr; available: en, sr-Latn, zh"):
        load_texts(f"xlsum:{tmp_path}", "en,fr")
    write(tmp_path, {"french_val.jsonl": '{"id": "x", "summary": "y"}'})
    with pytest.raises(CorpusError, match=r"row 1: no field 'text' \(it has id, summary\)"):
        load_texts(f"xlsum:{tmp_path}", "fr")
    with pytest.raises(CorpusError, match="no file of the split test"):
        load_texts(f"xlsum:{write(tmp_path / 'y', {'french_val.jsonl': article('x', 'y')})}?split=test")
