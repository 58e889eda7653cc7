"""What is odd about a corpus, counted and shown: missing ids, empty and repeated lines, lengths, scripts, encodings."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from babelscope.corpora.load import READERS, load_source
from babelscope.corpora.parallel import ParallelCorpus
from babelscope.corpora.source import Source, align
from babelscope.corpora.spec import Spec
from babelscope.corpora.text_faults import FAULTS, faults, shifts, untranslated
from babelscope.errors import CorpusError, InputError
from babelscope.languages import language, script_of, scripts_written

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Audit", "Finding", "LanguageAudit", "audit", "zawgyi_share"]

OUTLIER = 5.0
"""robust z of the log length ratio beyond which a line is shown"""
OF_MEDIAN, OF_MEAN = 1.4826, 1.2533
"""standard deviations of a normal sample in median and in mean absolute deviations"""


@dataclass(frozen=True)
class Finding:
    """One line that deserves a look."""

    kind: str
    """missing, empty, duplicate, length, script, or one of `FAULTS`"""
    language: str
    id: str
    detail: str


@dataclass(frozen=True)
class LanguageAudit:
    """Counts of one language."""

    code: str
    lines: int
    """ids of this language, empty ones included"""
    missing: int
    """ids that another language has and this one lacks or leaves empty"""
    dropped: int
    """its own texts that alignment leaves out, because another language lacks their id; 0 where nothing is aligned"""
    empty: int
    duplicates: int
    """second and later occurrences of the same text"""
    characters: float
    """mean per text; NaN without texts"""
    ratio: float
    """median of its length over the first language's; NaN without common ids"""
    outliers: int
    foreign: int
    """lines mostly in a script that is not the language's"""
    faults: int
    """findings of `text_faults`: Unicode form, invisible characters, encoding, markup, untranslated, shifted"""
    zawgyi: float
    """share of Burmese lines with the vowel sign E that look like Zawgyi, not Unicode; NaN for other languages"""


@dataclass(frozen=True)
class Audit:
    """The outcome: one row per language, and every finding."""

    spec: str
    common: int
    """ids with text in all languages; 0 where texts are not parallel"""
    languages: tuple[LanguageAudit, ...]
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    """what the reader decided"""
    refusal: str = ""
    """why the corpus cannot be loaded as it is, if it cannot"""
    parallel: bool = True
    """whether texts of one id say the same in all languages"""

    @property
    def problems(self) -> list[str]:
        """One sentence per kind of trouble and language, with the first examples; empty when all is well."""
        said = [*([self.refusal] if self.refusal else []), *self.notes]
        if len(self.languages) == 1:
            said.append("one language only: nothing could be compared between languages")
        for row in self.languages:
            for kind, count, what in (
                ("missing", row.missing, "ids missing"),
                ("empty", row.empty, "empty lines"),
                ("duplicate", row.duplicates, "repeated lines"),
                ("length", row.outliers, "lines of unusual length"),
                ("script", row.foreign, f"lines not mostly in {_script(row.code)}"),
                *((kind, self._count(kind, row.code), what) for kind, what in FAULTS.items()),
            ):
                if count:
                    ids = [
                        finding.id for finding in self.findings if (finding.kind, finding.language) == (kind, row.code)
                    ]
                    named = what if count > 1 else re.sub(r"\b(line|id|text)s\b", r"\1", what, count=1)
                    said.append(f"{row.code}: {count} {named} ({', '.join(ids[:3])}{', …' if len(ids) > 3 else ''})")
            if row.zawgyi > 0.1:
                said.append(
                    f"{row.code}: {row.zawgyi:.0%} of the lines with U+1031 look like the Zawgyi encoding; convert to "
                    "Unicode"
                )
        return said

    def _count(self, kind: str, code: str) -> int:
        return sum((finding.kind, finding.language) == (kind, code) for finding in self.findings)

    def tables(self) -> dict[str, pd.DataFrame]:
        """`languages` with a row per language, and one frame per kind of finding (columns language, id, detail)."""
        import pandas as pd

        frames = {"languages": pd.DataFrame([vars(row) for row in self.languages])}
        for kind in ("missing", "empty", "duplicate", "length", "script", *FAULTS):
            rows = [(f.language, f.id, f.detail) for f in self.findings if f.kind == kind]
            frames[kind] = pd.DataFrame(rows, columns=["language", "id", "detail"])
        return frames


def audit(corpus: str | ParallelCorpus, languages: Sequence[str] | str | None = None) -> Audit:
    """Look for trouble in a corpus, given as a spec (before alignment) or as a corpus (after it).

    Length outliers: robust z (median, 1.4826 MAD) of log(characters / characters in the first language) beyond 5; where
    more than half of the lines have one ratio, the mean deviation stands for the MAD (Iglewicz and Hoaglin 1993).
    Raises CorpusError when the corpus cannot be read at all.

    >>> report = audit(ParallelCorpus.from_texts({"en": ["a cat", "a cat"], "ru": ["кот", "cat"]}))
    >>> report.problems
    ['en: 1 repeated line (2)', 'ru: 1 line not mostly in Cyrl (2)']
    """
    if isinstance(corpus, ParallelCorpus):
        chosen = (
            corpus if languages is None else corpus.restrict([languages] if isinstance(languages, str) else languages)
        )
        notes = corpus.notes
        source = Source({code: dict(zip(chosen.ids, chosen.sentences(code))) for code in chosen.languages})
        name, refusal, parallel = corpus.spec, "", True
    else:
        source, spec = load_source(corpus, languages)
        notes = source.notes
        parallel = READERS[spec.reader].parallel
        name, refusal = spec.text, _refusal(source, spec) if parallel else ""
    present = {code: {i: text for i, text in texts.items() if text.strip()} for code, texts in source.texts.items()}
    union = list(dict.fromkeys(i for texts in present.values() for i in texts))
    common = {i for i in union if all(i in texts for texts in present.values())} if parallel else set[str]()
    first = next(iter(present), "")
    findings: list[Finding] = []
    rows: list[LanguageAudit] = []
    for code, texts in present.items():
        own = [
            *(_missing(code, texts, union, present) if parallel else ()),
            *_empty(code, source.texts[code]),
            *_duplicates(code, texts),
            *_foreign(code, texts),
            *(Finding(kind, code, i, detail) for i, text in texts.items() for kind, detail in faults(text)),
        ]
        if parallel:
            own += [Finding("untranslated", code, i, detail) for i, detail in untranslated(code, present)]
        if parallel and code != first:
            own += [Finding("shifted", code, i, detail) for i, detail in shifts(present[first], texts)]
        ratio, outliers = (
            (1.0, [])
            if code == first
            else (math.nan, [])
            if not parallel
            else _lengths(code, texts, first, present[first])
        )
        own += outliers
        rows.append(_row(code, source.texts[code], texts, len(texts) - len(common) if parallel else 0, ratio, own))
        findings += own
    return Audit(name, len(common), tuple(rows), tuple(findings), notes, refusal, parallel)


def _refusal(source: Source, spec: Spec) -> str:
    try:
        align(source, spec)
    except CorpusError as error:
        return str(error)
    return ""


def _row(
    code: str, raw: Mapping[str, str], texts: Mapping[str, str], dropped: int, ratio: float, own: list[Finding]
) -> LanguageAudit:
    def count(kind: str) -> int:
        return sum(finding.kind == kind for finding in own)

    return LanguageAudit(
        code=code,
        lines=len(raw),
        missing=count("missing"),
        dropped=dropped,
        empty=count("empty"),
        duplicates=count("duplicate"),
        characters=sum(map(len, texts.values())) / len(texts) if texts else math.nan,
        ratio=ratio,
        outliers=count("length"),
        foreign=count("script"),
        faults=sum(map(count, FAULTS)),
        zawgyi=zawgyi_share(texts.values()) if code == "my" else math.nan,
    )


def _missing(
    code: str, texts: Mapping[str, str], union: Sequence[str], present: Mapping[str, Mapping[str, str]]
) -> list[Finding]:
    return [
        Finding("missing", code, i, "present in " + ", ".join(other for other in present if i in present[other]))
        for i in union
        if i not in texts
    ]


def _empty(code: str, raw: Mapping[str, str]) -> list[Finding]:
    return [Finding("empty", code, i, "") for i, text in raw.items() if not text.strip()]


def _duplicates(code: str, texts: Mapping[str, str]) -> list[Finding]:
    first_with: dict[str, str] = {}
    found: list[Finding] = []
    for i, text in texts.items():
        if text in first_with:
            found.append(Finding("duplicate", code, i, f"same as {first_with[text]}: {_clip(text)}"))
        else:
            first_with[text] = i
    return found


def _lengths(
    code: str, texts: Mapping[str, str], first: str, reference: Mapping[str, str]
) -> tuple[float, list[Finding]]:
    logs = {i: math.log(len(text) / len(reference[i])) for i, text in texts.items() if i in reference}
    if not logs:
        return math.nan, []
    middle = statistics.median(logs.values())
    apart = [abs(value - middle) for value in logs.values()]
    spread = OF_MEDIAN * statistics.median(apart) or OF_MEAN * statistics.fmean(apart)
    found = [
        Finding(
            "length",
            code,
            i,
            f"{len(texts[i])} characters, {first} {len(reference[i])}; robust z {(log - middle) / spread:+.1f}",
        )
        for i, log in logs.items()
        if spread > 0 and abs(log - middle) > OUTLIER * spread
    ]
    return math.exp(middle), found


def _foreign(code: str, texts: Mapping[str, str]) -> list[Finding]:
    try:
        expected = scripts_written(language(code).script)
    except InputError:  # a corpus made in memory may call its languages anything
        return []
    found: list[Finding] = []
    for i, text in texts.items():
        shares = script_of(text)
        share = sum(shares.get(script, 0.0) for script in expected)
        if shares and share < max((v for script, v in shares.items() if script not in expected), default=0.0):
            script, most = next(iter(shares.items()))
            found.append(Finding("script", code, i, f"{script} {most:.0%}: {_clip(text)}"))
    return found


def zawgyi_share(texts: Iterable[str]) -> float:
    """Share of the lines with the vowel sign E (U+1031) where one stands before its consonant, as Zawgyi writes it."""
    suspects = lines = 0
    for text in texts:
        if "\u1031" in text:
            lines += 1
            suspects += any(_stray_vowel(text, i) for i, character in enumerate(text) if character == "\u1031")
    return suspects / lines if lines else 0.0


def _stray_vowel(text: str, at: int) -> bool:
    """In Unicode order U+1031 follows a consonant, a medial, or a stacked or Shan consonant."""
    before = text[at - 1] if at else " "
    return not ("\u1000" <= before <= "\u102a" or "\u1039" <= before <= "\u103f" or "\u1050" <= before <= "\u108f")


def _script(code: str) -> str:
    try:
        return language(code).script
    except InputError:
        return "its script"


def _clip(text: str) -> str:
    return text if len(text) <= 60 else text[:59] + "…"
