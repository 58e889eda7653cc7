"""What the audit finds in texts by themselves and beside each other; and what it does not report."""

from __future__ import annotations

import random
import unicodedata

import pytest

from babelscope.corpora import ParallelCorpus, audit
from babelscope.corpora.text_faults import BLOCK, damaged_encoding, faults, shifts


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("The cat sat.", []),
        ("Ça va, garçon ? « Oui » – l’été… naïve co-op AT&T 3 < 4 [1]", []),
        ("می‌خواهم بروم", []),
        ("क्‍ष है 👩‍👧", []),
        ("tiếng Việt", []),
        (unicodedata.normalize("NFD", "tiếng Việt"), ["form"]),
        ("a\u200bb", ["invisible"]),
        ("\ufeffa", ["invisible"]),
        ("a\u202eb", ["invisible"]),
        ("a\x07b", ["invisible"]),
        ("cafÃ©", ["encoding"]),
        ("it’s".encode().decode("cp1252"), ["encoding"]),
        ("a \ufffd b", ["encoding"]),
        ("ÇÃO GARÇON ÂME", []),
        ("<i>x</i>", ["markup"]),
        ("a &amp; b", ["markup"]),
        ("{{stub}}", ["markup"]),
    ],
)  # fmt: skip
def test_bug_b9_texts_by_themselves(text, kinds):
    assert [kind for kind, _ in faults(text)] == kinds


def test_damage_says_what_it_was():
    assert damaged_encoding("Ãœber") == "Ãœ was Ü"


def sentences(n: int, seed: int) -> tuple[list[str], list[str]]:
    dice = random.Random(seed)
    lengths = [dice.randint(3, 40) for _ in range(n)]
    one = [" ".join(["word"] * length) + f" {i}" for i, length in enumerate(lengths)]
    two = [
        " ".join(["mots"] * max(1, round(length * dice.uniform(0.8, 1.3)))) + f" {i}."
        for i, length in enumerate(lengths)
    ]
    return one, two


def test_bug_b9_lines_shifted_against_each_other_are_found_where_they_begin():
    one, two = sentences(6 * BLOCK, seed=1)
    whole, late = dict(enumerate(two)), dict(enumerate([*two[:150], *two[151:], "x"]))
    first = {str(i): text for i, text in enumerate(one)}
    assert list(shifts(first, {str(i): text for i, text in whole.items()})) == []
    found = list(shifts(first, {str(i): text for i, text in late.items()}))
    assert len(found) >= 2
    assert all(int(i) >= 150 - BLOCK and "fit -1 lines away" in detail for i, detail in found)


def test_bug_b9_untranslated_lines_and_one_language():
    line = "This whole sentence was never translated."
    report = audit(ParallelCorpus.from_texts({"en": [line, "a"], "fr": [line, "a"]}))
    assert "fr: 1 text equal to those in another language (1)" in report.problems
    assert report.languages[1].faults == 1
    assert len(report.tables()["untranslated"]) == 1
    assert "one language only" in audit(ParallelCorpus.from_texts({"en": ["a cat"]})).problems[0]
