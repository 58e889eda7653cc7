"""Counts and numbers of the audit, against numbers made by hand and plain loops; what lies exactly at a border."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from babelscope.corpora import ParallelCorpus, audit, text_faults
from babelscope.corpora.audit import zawgyi_share
from babelscope.corpora.text_faults import BLOCK, OFFSETS, _correlation, damaged_encoding, faults, shifts, untranslated


def in_step(**texts):
    return ParallelCorpus.from_texts(texts)


def holes(tmp_path):
    """Three languages: en lacks line 2, fr lines 3 and 4, zh none; line 6 is empty everywhere."""
    for code, text in {"en": "a\n\nccc\nd\nee\n\n", "fr": "w\nx\n\n \nv\n\n", "zh": "甲\n乙\n丙\n丁\n戊\n\n"}.items():
        (tmp_path / f"{code}.txt").write_text(text, encoding="utf-8")
    return f"lines:{tmp_path}?lone=drop"


def test_ids_that_are_missing_dropped_or_empty_are_counted_by_language(tmp_path):
    report = audit(holes(tmp_path))
    assert report.common == 2  # lines 1 and 5
    rows = {row.code: (row.lines, row.missing, row.dropped, row.empty) for row in report.languages}
    assert rows == {"en": (6, 1, 2, 2), "fr": (6, 2, 1, 3), "zh": (6, 0, 3, 1)}
    assert [row.characters for row in report.languages] == [7 / 4, 1.0, 1.0]
    found = [(f.language, f.id, f.detail) for f in report.findings if f.kind == "missing"]
    assert found == [
        ("en", "2", "present in fr, zh"),
        ("fr", "3", "present in en, zh"),
        ("fr", "4", "present in en, zh"),
    ]


def test_the_ratio_of_lengths_is_the_median_over_common_ids(tmp_path):
    assert math.isclose(audit(holes(tmp_path)).languages[1].ratio, math.sqrt(0.5))  # ids 1 and 5: 1/1 and 1/2
    report = audit(in_step(en=["abcd"] * 3, fr=["ab", "abcd", "abcdabcdabcd"]))
    assert [row.ratio for row in report.languages] == [1.0, 1.0]
    report = audit(in_step(en=["aaaa", "bbbb", "cc"], fr=["ab", "a", "a"]))
    assert math.isclose(report.languages[1].ratio, 0.5)


def test_languages_without_a_common_id_have_no_ratio(tmp_path):
    for code, text in {"en": "a\n\n", "fr": "\nb\n"}.items():
        (tmp_path / f"{code}.txt").write_text(text, encoding="utf-8")
    report = audit(f"lines:{tmp_path}")
    assert [math.isnan(row.ratio) for row in report.languages] == [False, True]
    assert report.common == 0
    assert "no sentence id is in all of en, fr" in report.problems[0]


def test_texts_that_are_not_parallel_are_not_compared(tmp_path):
    line = "the same whole sentence in two languages"
    for name in ("english", "french"):
        (tmp_path / f"{name}.jsonl").write_text(f'{{"id": "a", "text": "{line}"}}\n', encoding="utf-8")
    report = audit(f"xlsum:{tmp_path}")
    assert report.languages[0].ratio == 1.0
    assert math.isnan(report.languages[1].ratio)
    assert (report.findings, report.refusal) == ((), "")


@pytest.mark.parametrize(("count", "said"), [(1, "(2)"), (2, "(2, 3)"), (3, "(2, 3, 4)"), (4, "(2, 3, 4, …)")])
def test_three_ids_are_named_and_more_are_hinted_at(count, said):
    found = audit(in_step(en=["a"] * (count + 1), fr=[f"b{n}" for n in range(count + 1)])).problems
    assert found == [f"en: {count} repeated line{'s' * (count > 1)} {said}"]


def test_a_repeated_line_names_the_first_of_its_kind_and_is_cut_to_sixty_letters():
    texts = ["x" * 60, "y" * 61, "x" * 60, "y" * 61, "x" * 60]
    found = [(f.id, f.detail) for f in audit(in_step(en=texts)).findings]
    assert found == [
        ("3", f"same as 1: {'x' * 60}"), ("4", f"same as 2: {'y' * 59}…"), ("5", f"same as 1: {'x' * 60}"),
    ]  # fmt: skip


def test_a_line_is_foreign_where_another_script_has_more_letters_than_its_own():
    texts = ["кот cats cat", "кот cat", "кот ca", "123", "cat"]
    found = [(f.id, f.detail) for f in audit(in_step(ru=texts)).findings if f.kind == "script"]
    assert found == [("1", "Latn 70%: кот cats cat"), ("5", "Latn 100%: cat")]
    assert audit(in_step(ru=texts)).languages[0].foreign == 2
    japanese = ["漢字かなカナ abcd", "漢かカ abcd"]  # three scripts count together: 6 of 10, 3 of 7
    found = [(f.id, f.detail) for f in audit(in_step(ja=japanese)).findings if f.kind == "script"]
    assert found == [("2", "Latn 57%: 漢かカ abcd")]


@pytest.mark.parametrize(
    ("bad", "said"), [(1, []), (2, ["my: 20% of the lines with U+1031 look like the Zawgyi encoding"])]
)
def test_zawgyi_is_told_from_more_than_a_tenth_of_the_lines(bad, said):
    lines = [f"ေန {n}" if n < bad else f"နေ {n}" for n in range(10)]
    report = audit(in_step(my=lines, en=[f"line {n}" for n in range(10)]))
    assert [one.partition(";")[0] for one in report.problems if "Zawgyi" in one] == said
    assert report.languages[0].zawgyi == bad / 10
    assert math.isnan(report.languages[1].zawgyi)


def test_one_vowel_out_of_order_makes_a_line_suspect_and_lines_without_it_do_not_count():
    assert zawgyi_share(["နေ နေ ေန", "နေ", "မြန်မာ", ""]) == 0.5
    assert zawgyi_share(["ကခေ", "က ေ"]) == 0.5  # the letter just before counts


def test_an_audit_of_some_languages_of_a_corpus():
    corpus = in_step(en=["a", "a"], fr=["b", "c"], zh=["甲", "乙"])
    assert [row.code for row in audit(corpus, "fr").languages] == ["fr"]
    assert [row.code for row in audit(corpus, ["zh", "en"]).languages] == ["zh", "en"]
    assert [row.code for row in audit(corpus).languages] == ["en", "fr", "zh"]
    assert audit(corpus, "fr").problems == ["one language only: nothing could be compared between languages"]
    assert audit(corpus, ["fr", "zh"]).problems == []


# -- texts by themselves -----------------------------------------------------------------------------------------------


def test_what_is_said_of_a_form_and_of_hidden_letters():
    assert list(faults("cafe\u0301")) == [("form", "5 characters, 4 in NFC")]
    assert list(faults("é e\u0301")) == [("form", "4 characters, 3 in NFC (a mixture)")]
    ((kind, detail),) = faults("\x01\x02\x03\x04\x05\x06")
    assert kind == "invisible"
    assert len(detail.split(" ")) == 5  # the first five
    ((kind, detail),) = faults("x <b>bold</b> <i>")
    assert (kind, detail) == ("markup", "<b>")


def test_damage_is_named_by_its_first_piece_that_can_be_read():
    assert damaged_encoding("Â» x Ã© y Ã¨") == "Â» was »"
    assert damaged_encoding("ÃŸ") == "ÃŸ was ß"
    assert damaged_encoding("plain é") == ""
    assert damaged_encoding("a\ufffdÃ©") == "U+FFFD, a character that was lost"
    assert damaged_encoding("â€º€ then Ã©") == "Ã© was é"  # the first is no UTF-8


def test_the_earlier_language_is_named_and_ids_must_agree():
    line, other = "one two three four", "five six seven eight"
    texts = {"en": {"1": line}, "fr": {"1": other, "2": line}, "de": {"2": line, "1": other}}
    assert list(untranslated("fr", texts)) == []
    assert list(untranslated("de", texts)) == [("2", "same as fr"), ("1", "same as fr")]


# -- shifted lines -----------------------------------------------------------------------------------------------------


def test_correlation_is_pearson_s():
    dice = np.random.default_rng(0)
    for _ in range(5):
        one, two = dice.normal(3, 1, (2, 12))
        assert _correlation(list(one), list(two)) == pytest.approx(np.corrcoef(one, two)[0, 1])
    assert _correlation([1.5, 2.5, 4.0], [-3.0, -5.0, -8.0]) == -0.999


def planted(blocks: int, seed: int, noise: float) -> tuple[dict[str, str], dict[str, str]]:
    """Texts of which every second block fits best some lines away."""
    dice = random.Random(seed)
    n = BLOCK * blocks + 2 * OFFSETS
    sizes = [dice.randint(5, 200) for _ in range(n + 20)]
    away = [0 if (i - OFFSETS) // BLOCK % 2 == 0 else (-OFFSETS, 3)[i // BLOCK % 4 == 1] for i in range(n)]
    other = [max(1, round(sizes[10 + i - away[i]] * math.exp(dice.gauss(0, noise)))) for i in range(n)]
    return {str(i): "a" * sizes[10 + i] for i in range(n)}, {str(i): "b" * other[i] for i in range(n)}


def by_definition(first: dict[str, str], other: dict[str, str]) -> list[tuple[str, int, float, float, float]]:
    """Id, best offset other than 0, its correlation, that at 0 and Fisher's z of the difference, for each block."""
    ids = [i for i in first if i in other]
    here, there = (np.log([len(texts[i]) for i in ids]) for texts in (first, other))
    found = []
    at = OFFSETS
    while at + BLOCK + OFFSETS <= len(ids):
        r = {}
        for offset in range(-OFFSETS, OFFSETS + 1):
            fit = np.corrcoef(here[at : at + BLOCK], there[at + offset : at + offset + BLOCK])[0, 1]
            r[offset] = min(0.999, max(-0.999, fit))
        zero = r.pop(0)
        best = max(r, key=lambda offset: r[offset])
        z = (np.arctanh(r[best]) - np.arctanh(zero)) / np.sqrt(2 / (BLOCK - 3))
        found.append((ids[at], best, r[best], zero, z))
        at += BLOCK
    return found


@pytest.mark.parametrize(("blocks", "noise"), [(1, 0.3), (2, 0.3), (4, 0.5)])
def test_shifted_blocks_are_those_of_the_definition(blocks, noise):
    first, other = planted(blocks, 1, noise)
    blocks_of = by_definition(first, other)
    assert len(blocks_of) == blocks
    expected = [
        (i, f"60 lines from here fit {best:+d} lines away (r {r:.2f}, here {zero:.2f})")
        for i, best, r, zero, z in blocks_of
        if z > 4
    ]
    assert list(shifts(first, other)) == expected
    assert len(expected) == blocks // 2
    shorter = dict(list(first.items())[:-1])
    assert len(list(shifts(shorter, other))) == (blocks - 1) // 2


def test_how_far_apart_two_fits_must_be(monkeypatch):
    first, other = planted(2, 1, 0.3)
    z = by_definition(first, other)[1][-1]
    monkeypatch.setattr(text_faults, "APART", z * (1 - 1e-9))
    assert len(list(shifts(first, other))) == 1
    monkeypatch.setattr(text_faults, "APART", z * (1 + 1e-9))
    assert list(shifts(first, other)) == []


def test_lines_that_one_side_lacks_take_no_part_in_a_shift():
    first, other = planted(2, 1, 0.3)
    more = {"x": "c" * 7} | first | {"y": "d" * 9}
    assert list(shifts(more, other)) == list(shifts(first, other))
