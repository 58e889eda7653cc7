"""What the pocket family has learned, on texts that it never saw: plain `transformers`, every figure with interval.

Rows of the tables are dictionaries, so that they print and serialise as they are.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from itertools import islice
from typing import Any

import numpy as np

from babelscope.errors import CorpusError
from babelscope.pocket.baselines import CountModels
from babelscope.pocket.corpus import Example, heldout, iter_documents
from babelscope.pocket.curriculum import MIX
from babelscope.pocket.models import LANGUAGES, MAIN, MODELS, PocketModel, get, path
from babelscope.pocket.scenes import draw_giving, giving
from babelscope.pocket.scenes import names as giving_names
from babelscope.pocket.scoring import Scorer, accuracy, perplexity

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
    fitted: int = 4000
    """training documents of each language that the count models are fitted on"""


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
    """Per-language perplexity of the held-out texts, beside a unigram and a bigram model of that language alone."""
    for language in model.shares:
        texts = _texts(language, size.documents)
        rows = scorer.rows(texts)
        counts = CountModels(scorer.rows(_training_texts(language, size.fitted)), scorer.words)
        losses = {
            "model": scorer.token_losses(rows),
            "unigram": [counts.unigram_losses(row) for row in rows],
            "bigram": [counts.bigram_losses(row) for row in rows],
        }
        for predictor, values in losses.items():
            yield {"language": language, "predictor": predictor} | asdict(perplexity(values, texts))


def choices(scorer: Scorer, model: PocketModel, size: Size, everything: bool = True) -> Iterator[Row]:
    """Share of items in which the right continuation is likelier than the wrong one."""
    languages = [language for language in model.shares if everything or language in CHECKPOINT_LANGUAGES]
    for kind in CHOICES if everything else CHECKPOINT_KINDS:
        for language in languages:
            # A verb that is the same in the past (put, cut) offers no choice.
            examples = [e for e in _examples(language, kind, size.choices) if e.target != e.foil]
            if not examples:
                continue
            right = scorer.continuations([(e.prompt, e.join + e.target) for e in examples])
            wrong = scorer.continuations([(e.prompt, e.join + e.foil) for e in examples])
            for group, chosen in _groups(examples, kind):
                measured = accuracy((right > wrong)[chosen])
                margin = float((right - wrong)[chosen].mean())
                row: Row = {"kind": kind, "language": language, "group": group}
                yield row | asdict(measured) | {"log_odds": margin}


def cloze(scorer: Scorer, languages: Sequence[str], size: Size) -> Iterator[Row]:
    """Share of stories whose right ending in English is likelier than the wrong one, story by language.

    The row `others` pools the eight languages that are not English.
    """
    pooled: list[bool] = []
    for language in languages:
        examples = _examples(language, "story_english", size.stories)
        right = scorer.continuations([(e.prompt, e.join + e.target) for e in examples])
        wrong = scorer.continuations([(e.prompt, e.join + e.foil) for e in examples])
        won = (right > wrong).tolist()
        pooled += won if language != "en" else []
        yield {"language": language} | asdict(accuracy(won))
    yield {"language": "others"} | asdict(accuracy(pooled))


def _groups(examples: Sequence[Example], kind: str) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    """All items; apart, the templates of the IOI task; in the tense task the kinds of verb, or the mark asked for."""
    yield "all", np.arange(len(examples))
    if kind.startswith("ioi"):
        groups = [e.stratum for e in examples]
    else:
        names = [e.target if e.target in MARKS else e.stratum for e in examples]
        groups = [name if name in (*MARKS, "regular", "irregular") else "other" for name in names]
    for group in sorted(set(groups)) if len(set(groups)) > 1 else ():
        yield group, np.array([index for index, name in enumerate(groups) if name == group])


@cache
def _examples(language: str, kind: str, n: int) -> tuple[Example, ...]:
    """n held-out examples, or as many as there are."""
    if kind in ("ioi_names", "ioi_templates"):
        return tuple(_halfway(language, kind == "ioi_names", n))
    while n:
        try:
            return tuple(heldout(language, kind, n))
        except CorpusError:
            n = n * 2 // 3
    return ()


def _halfway(language: str, new_names: bool, n: int) -> Iterator[Example]:
    """Giving scenes of which either the names or the templates are held out, to see which of them is the harder."""
    generator = random.Random(f"halfway {new_names}")
    for _ in range(n):
        a, b = generator.sample(giving_names(new_names), 2)
        item = draw_giving(generator, "heldout", new=not new_names, pair=(a, b))
        said = giving(item, language)
        yield Example(
            item.meaning_id, "ioi", language, said.whole, said.text, said.target, said.foil, said.join, item.frame
        )


@cache
def _texts(language: str, n: int) -> tuple[str, ...]:
    return tuple(e.text for kind in PERPLEXITY_KINDS for e in _examples(language, kind, n))


@cache
def _training_texts(language: str, n: int) -> tuple[str, ...]:
    return tuple(document.text for document in islice(iter_documents({language: 1.0}, mix=MIX), n))


def checked_languages(rows: Iterable[Row]) -> list[str]:
    """Languages of some rows in the family's order, pooled ones last."""
    present = {row["language"] for row in rows}
    return [language for language in (*LANGUAGES, "others") if language in present]
