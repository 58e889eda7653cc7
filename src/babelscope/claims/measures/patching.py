"""What claims about patching residuals between prompts measure; concepts are resampled.

Source a→b about concept c1, target c→d about c2 (`latent.patching`).
"""

from __future__ import annotations

import numpy as np

from babelscope.claims.case import Case
from babelscope.claims.verdict import Part, mean_part, unread
from babelscope.latent.patching import SOURCES, Patched, patch
from babelscope.latent.separation import head_start, matched_gain
from babelscope.latent.trials import asked_tokens, languages_of, trials
from babelscope.latent.words import load_words

LEAST_CONCEPTS = 8
SHUFFLES = 200


def language_first(case: Case) -> list[Part]:
    """Layers by which the language is ahead of the concept at the last position (E1), on pairs of prompts both solved.

    Control: 97.5 % point with the four masses' names of language and concept exchanged by a coin for each concept.
    Twin: exchanged once.
    """
    found, concepts = _patched(case)
    name = "difference of layers"
    if isinstance(found, str):
        return [unread(name, concepts, "concepts", found)]
    start = _by_concept(head_start(found.last[found.solved]), found.concepts[found.solved])
    rng = np.random.default_rng(case.seed)
    null = [(start * rng.choice([-1, 1], len(start))).mean() for _ in range(SHUFFLES)]
    # exchanging the names of b and c1 turns the sign of what a concept shows
    values = start * rng.choice([-1, 1], len(start)) if case.twin == "concepts" else start
    layers = float(found.last.shape[1])
    return [mean_part(name, values, "concepts", 1, float(np.quantile(null, 0.975)), (-layers, layers))]


def mean_helps(case: Case) -> list[Part]:
    """Mass of c1 in d with the mean over language pairs put in (E2), minus that with one pair, and with the mean of as
    many demonstrations of one pair. Control: means of another concept. Twin: the mean is of another concept."""
    found, concepts = _patched(case)
    names = {"against one language": "first alone", "against the mean of one language": "mean of demonstrations"}
    if isinstance(found, str):
        return [unread(name, concepts, "concepts", found) for name in names]
    used = found.solved & ~np.isnan(found.word).any((1, 2))
    by_source = {
        source: _by_concept(found.word[used][:, place], found.concepts[used]) for place, source in enumerate(SOURCES)
    }
    put_in = by_source["other concept" if case.twin == "concepts" else "mean of languages"]
    parts: list[Part] = []
    for name, rival in names.items():
        wrong = matched_gain(by_source["other concept"], by_source[rival])
        draws = np.random.default_rng(case.seed).integers(0, len(wrong), (SHUFFLES, len(wrong)))
        control = float(np.quantile(wrong[draws].mean(1), 0.975))
        gain = matched_gain(put_in, by_source[rival])
        parts.append(mean_part(name, gain, "concepts", 2, control, (-1.0, 1.0)))
    return parts


def _patched(case: Case) -> tuple[Patched | str, int]:
    """What patching gives, or why it cannot be read; and the concepts with both prompts solved."""
    model, words = case.loaded(), load_words(case.corpus)
    first, second, third = (words.languages[place] for place in (1, 2, 0))
    pair = languages_of(words, (first, second), (second, third))
    tokens = asked_tokens(model, words, pair, "none")
    found = patch(model, tokens, pair, trials(words, tokens, pair, case.n, case.seed), seed=case.seed)
    concepts = len(set(found.concepts[found.solved].tolist()))
    if concepts < LEAST_CONCEPTS:
        return f"precondition: {concepts} concepts with both prompts solved, {LEAST_CONCEPTS} are needed", concepts
    return found, concepts


def _by_concept(values: np.ndarray, concepts: np.ndarray) -> np.ndarray:
    return np.stack([values[concepts == one].mean(0) for one in sorted(set(concepts.tolist()))])
