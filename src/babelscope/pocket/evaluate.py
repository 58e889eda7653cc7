"""What the pocket family has learned, on texts that it never saw: plain `transformers`, every figure with interval.

Rows of the tables are dictionaries, so that they print and serialise as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from babelscope.pocket.heldout import Example, examples
from babelscope.pocket.models import LANGUAGES, MAIN, MODELS, PocketModel, get, path
from babelscope.pocket.scoring import Scorer, accuracy, crossed, perplexity

Row = dict[str, Any]
Report = Callable[[str], None]

PERPLEXITY_KINDS = ("sentence", "combination", "question", "story")
CHOICES = {
    "ioi": "IOI, new names and new templates",
    "ioi_names": "IOI, new names in the training's templates",
    "ioi_templates": "IOI, the training's names in new templates",
    "ioi_seen": "IOI, new scenes with the training's names and templates",
    "tense": "tense, seen verbs in unseen pairs of template and verb",
    "tense_verbs": "tense, verbs that no tense pair of training has",
}
MARKS = ("了", "đã", "sudah")
"""words that say that something is past, where verbs do not change"""
CHECKPOINT_LANGUAGES, CHECKPOINT_KINDS = ("en", "zh"), ("ioi", "ioi_seen", "tense")
"""two-way choices of the checkpoints before the last; their story cloze has all nine languages"""


@dataclass(frozen=True, slots=True)
class Size:
    """How many items of each kind to score."""

    documents: int = 60
    """of each held-out kind, for perplexity"""
    choices: int = 150
    stories: int = 100


def evaluate(names: Sequence[str] = tuple(MODELS), size: Size | None = None, report: Report = print) -> dict[str, Any]:
    """Perplexity, two-way choices and cross-lingual story cloze of models of the family.

    Returns rows under `perplexity`, `choices` and `cloze`, and `settings`. Raises ModelError for an unknown model.
    """
    size = size or Size()
    found: dict[str, Any] = {"settings": asdict(size), "perplexity": [], "choices": [], "cloze": []}
    for model in map(get, names):
        for revision in model.revisions:
            report(f"{model.name}@{revision}")
            scorer = Scorer(path(model.name, revision))
            where: Row = {"model": model.name, "revision": revision, "parameters": scorer.parameters}
            final = revision == MAIN
            found["choices"] += [where | row for row in choices(scorer, model, size, everything=final)]
            if "en" in model.shares and len(model.shares) > 1:
                found["cloze"] += [where | row for row in cloze(scorer, tuple(model.shares), size)]
            if final:
                found["perplexity"] += [where | row for row in perplexities(scorer, model, size)]
    return found


def perplexities(scorer: Scorer, model: PocketModel, size: Size) -> Iterator[Row]:
    """Perplexity of the held-out texts by language."""
    for language in model.shares:
        texts = _texts(language, size.documents)
        yield {"language": language} | asdict(perplexity(scorer.token_losses(scorer.rows(texts)), texts))


def choices(scorer: Scorer, model: PocketModel, size: Size, everything: bool = True) -> Iterator[Row]:
    """Share of items in which the right continuation is likelier than the wrong one."""
    languages = [language for language in model.shares if everything or language in CHECKPOINT_LANGUAGES]
    for kind in CHOICES if everything else CHECKPOINT_KINDS:
        for language in languages:
            # A verb that is the same in the past (put, cut) offers no choice.
            scored = [e for e in _examples(language, kind, size.choices) if e.target != e.foil]
            if not scored:
                continue
            right = scorer.continuations([(e.prompt, e.join + e.target) for e in scored])
            wrong = scorer.continuations([(e.prompt, e.join + e.foil) for e in scored])
            for group, chosen in _groups(scored, kind):
                measured = accuracy((right > wrong)[chosen])
                margin = float((right - wrong)[chosen].mean())
                row: Row = {"kind": kind, "language": language, "group": group}
                yield row | asdict(measured) | {"log_odds": margin}


def cloze(scorer: Scorer, languages: Sequence[str], size: Size) -> Iterator[Row]:
    """Share of stories whose right ending in English is likelier than the wrong one, story by language.

    The row `others` is the mean over the eight languages that are not English, a story being one observation in all.
    """
    others: dict[str, dict[str, bool]] = {}
    for language in languages:
        told = _examples(language, "story_english", size.stories)
        right = scorer.continuations([(e.prompt, e.join + e.target) for e in told])
        wrong = scorer.continuations([(e.prompt, e.join + e.foil) for e in told])
        won = (right > wrong).tolist()
        if language != "en":
            others[language] = dict(zip((e.meaning_id for e in told), won))
        yield {"language": language} | asdict(accuracy(won))
    yield {"language": "others"} | asdict(crossed(others))


def _groups(scored: Sequence[Example], kind: str) -> Iterator[tuple[str, NDArray[np.int64]]]:
    """All items; apart, the templates of the IOI task; in the tense task the kinds of verb, or the mark asked for."""
    yield "all", np.arange(len(scored))
    if kind.startswith("ioi"):
        groups = [e.stratum for e in scored]
    else:
        names = [e.target if e.target in MARKS else e.stratum for e in scored]
        groups = [name if name in (*MARKS, "regular", "irregular") else "other" for name in names]
    for group in sorted(set(groups)) if len(set(groups)) > 1 else ():
        yield group, np.array([index for index, name in enumerate(groups) if name == group])


def _examples(language: str, kind: str, n: int) -> list[Example]:
    """n held-out examples, or as many as there are."""
    return list(examples(language, kind)[:n])


@cache
def _texts(language: str, n: int) -> tuple[str, ...]:
    return tuple(e.text for kind in PERPLEXITY_KINDS for e in _examples(language, kind, n))


def checked_languages(rows: Iterable[Row]) -> list[str]:
    """Languages of some rows in the family's order, pooled ones last."""
    present = {row["language"] for row in rows}
    return [language for language in (*LANGUAGES, "others") if language in present]
