"""The audit finds what was planted, says so, and shows it on the command line."""

import math

import pytest

from babelscope.corpora import ParallelCorpus, audit, load_corpus
from babelscope.corpora.audit import zawgyi_share
from babelscope.corpora.text_faults import FAULTS
from tests.command import command


@pytest.fixture
def folder(tmp_path):
    """Forty sentences in three languages with one of each kind of trouble."""
    lines = {
        code: [f"{word} " * (3 + i % 7) for i in range(40)]
        for code, word in [("en", "word"), ("ru", "слово"), ("zh", "词语")]
    }
    for code, of_code in lines.items():
        lines[code] = [f"{line}{i}" for i, line in enumerate(of_code)]
    lines["ru"][4] = ("never translated " * 3)[: len(lines["ru"][4])]
    lines["zh"][9] = ""
    lines["zh"][10] = lines["zh"][3]
    lines["ru"][20] = "длинно " * 200
    folder = tmp_path / "corpus"
    folder.mkdir()
    for code, of_code in lines.items():
        (folder / f"{code}.txt").write_text("\n".join(of_code), encoding="utf-8")
    return folder


def test_what_was_planted_is_found(folder):
    report = audit(f"lines:{folder}", "en,ru,zh")
    assert {(f.kind, f.language, f.id) for f in report.findings} == {
        ("script", "ru", "5"),
        ("empty", "zh", "10"),
        ("missing", "zh", "10"),
        ("duplicate", "zh", "11"),
        ("length", "ru", "21"),
    }
    assert report.common == 39
    english, _russian, chinese = report.languages
    assert (english.lines, english.missing, english.dropped, english.ratio) == (40, 0, 1, 1.0)
    assert (chinese.missing, chinese.empty, chinese.duplicates, chinese.dropped) == (1, 1, 1, 0)
    assert report.problems == [
        "ru: 1 line of unusual length (21)",
        "ru: 1 line not mostly in Cyrl (5)",
        "zh: 1 id missing (10)",
        "zh: 1 empty line (10)",
        "zh: 1 repeated line (11)",
    ]


def test_tables(folder):
    tables = audit(f"lines:{folder}").tables()
    assert list(tables) == ["languages", "missing", "empty", "duplicate", "length", "script", *FAULTS]
    assert list(tables["languages"]["code"]) == ["en", "ru", "zh"]
    assert tables["missing"].to_dict("records") == [{"language": "zh", "id": "10", "detail": "present in en, ru"}]


def test_a_clean_corpus_has_no_problems():
    texts = {"en": ["a cat", "two dogs"], "ja": ["猫です", "二匹の犬"], "ko": ["고양이", "개 두 마리"]}
    report = audit(ParallelCorpus.from_texts(texts))
    assert report.problems == []
    assert all(frame.empty for name, frame in report.tables().items() if name != "languages")


def test_a_corpus_that_cannot_be_loaded_is_still_audited(tmp_path):
    (tmp_path / "en.txt").write_text("a\nb\n")
    (tmp_path / "fr.txt").write_text("a\n\n")
    assert "id '2' of en is in no other language" in audit(f"lines:{tmp_path}").problems[0]


def test_texts_that_are_not_parallel_have_no_missing_ids(tmp_path):
    (tmp_path / "english.jsonl").write_text('{"id": "a", "text": "one"}\n')
    (tmp_path / "french.jsonl").write_text('{"id": "b", "text": "deux"}\n')
    assert audit(f"xlsum:{tmp_path}").problems == []


def test_languages_of_our_own_making_have_no_script_to_check():
    assert audit(ParallelCorpus.from_texts({"l-one": ["a"], "l-two": ["б"]})).problems == []


def test_zawgyi():
    unicode_order, zawgyi_order = "မြန်မာ နေ ကြေး ပြောင်း", "ေန ေျပာင္း"
    assert zawgyi_share([unicode_order]) == 0
    assert zawgyi_share([zawgyi_order, unicode_order]) == 0.5
    assert zawgyi_share(["no Burmese"]) == 0
    report = audit(ParallelCorpus.from_texts({"my": [zawgyi_order]}))
    assert report.problems[1:] == [
        "my: 100% of the lines with U+1031 look like the Zawgyi encoding; convert to Unicode"
    ]


def run(*arguments):
    return command("corpus", *arguments)


def test_the_command_shows_and_writes(folder, tmp_path):
    result = run("audit", f"lines:{folder}", "--languages", "en,ru,zh", "--out", tmp_path / "new" / "findings")
    assert result.exit_code == 0, result.output
    assert "39 ids with text in all languages" in result.output
    assert "- zh: 1 empty line (10)" in result.output
    assert all(word in result.output for word in ("missing", "twice", "ratio", "script", "ru  "))
    written = (tmp_path / "new" / "findings" / "script.csv").read_text()
    assert written.startswith("language,id,detail\nru,5,Latn 100%: never translated")


def test_the_command_never_overwrites(folder, tmp_path):
    result = run("audit", f"lines:{folder}", "--out", tmp_path)
    assert result.exit_code == 2
    assert "exists already" in result.stderr


def test_every_reader_is_listed_with_an_example():
    from babelscope.corpora import READERS

    result = run("list")
    assert result.exit_code == 0
    for reader in READERS.values():
        assert reader.example in result.output
        assert reader.example.startswith(f"{reader.name}:")


def test_the_share_of_a_script_is_its_own():
    """Five Latin letters of eleven, four Greek, two Cyrillic: 45 % are Latin, not all that is not Cyrillic."""
    report = audit(ParallelCorpus.from_texts({"en": ["one"], "ru": ["abcde αβγδ да"]}))
    assert report.tables()["script"]["detail"].tolist() == ["Latn 45%: abcde αβγδ да"]


def test_a_line_that_is_too_long_is_seen_where_most_lines_are_equally_long():
    """The median deviation is 0 where more than half of the ratios are one; nothing was ever unusual then."""
    lines = [f"a sentence {n:02}" for n in range(20)]
    other = [*lines[:15], *(line + "!" for line in lines[15:19]), lines[19] * 9]
    report = audit(ParallelCorpus.from_texts({"en": lines, "nl": other}))
    assert report.tables()["length"]["id"].tolist() == ["20"]


def test_nothing_is_dropped_of_texts_that_are_never_aligned(tmp_path):
    (tmp_path / "english.jsonl").write_text('{"id": "a", "text": "one"}\n{"id": "b", "text": "two"}\n')
    (tmp_path / "french.jsonl").write_text('{"id": "a", "text": "un"}\n{"id": "c", "text": " "}\n')
    report = audit(f"xlsum:{tmp_path}")
    assert [(row.code, row.lines, row.dropped, row.empty) for row in report.languages] == [
        ("en", 2, 0, 0),
        ("fr", 2, 0, 1),
    ]
    assert (report.common, report.parallel) == (0, False)
    assert "not parallel" in command("corpus", "audit", f"xlsum:{tmp_path}").output


def test_a_language_without_a_text_has_no_mean_length(tmp_path):
    (tmp_path / "t.csv").write_text("en,fr\none, \ntwo,\n")
    assert math.isnan(audit(f"table:{tmp_path}/t.csv").languages[1].characters)
    assert "nan" not in command("corpus", "audit", f"table:{tmp_path}/t.csv").output


def test_a_file_that_was_copied_under_another_name_is_told(tmp_path):
    """Nothing said that Spanish is English; a name that is alike in both is no copy."""
    lines = ["Berlin", "one cat", "two cats", "three cats"]
    for code, own in (
        ("en", lines),
        ("es", [*lines[:3], "tres gatos"]),
        ("fr", ["Berlin", "un chat", "deux", "trois"]),
    ):
        (tmp_path / f"{code}.txt").write_text("\n".join(own) + "\n", encoding="utf-8")
    assert load_corpus(f"lines:{tmp_path}").notes == ("3 of 4 sentences are the same in en and es",)
    assert load_corpus(f"lines:{tmp_path}", "en,fr").notes == ()
