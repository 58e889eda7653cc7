"""Pairs of prompts for patching (section 3): a source a→b about one concept, a target c→d about another.

c1 the source's concept · c2 the target's · c3 a third one for the control
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from babelscope.errors import InputError
from babelscope.languages import own_name
from babelscope.latent.prompts import Prompt, prompt_text, query
from babelscope.latent.tokens import TokenSets, token_sets
from babelscope.latent.words import WordList
from babelscope.models import Model
from babelscope.models.model import SpecialTokens

DEMONSTRATIONS = 5
MOST_PAIRS = 4
"""language pairs, demonstration draws or concepts that are averaged"""


@dataclass(frozen=True)
class Languages:
    """Source a→b, target c→d, and the language pairs that sources are averaged over, the first being (a, b)."""

    source: tuple[str, str]
    target: tuple[str, str]
    averaged: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Trial:
    """One pair of prompts with everything that its controls read."""

    concepts: tuple[int, int, int]
    """c1, c2, c3 as places among the asked concepts"""
    source: str
    """a→b asked for c1, open quote"""
    target: str
    """c→d asked for c2"""
    asked: str
    """c→d asked for c1: the ceiling"""
    word: str
    """the target up to the end of c2's word"""
    sources: tuple[str, ...]
    """prompts of c1 that end with its word, one a language pair"""
    demonstrations: tuple[str, ...]
    """the same with (a, b) only, one a draw of demonstrations"""
    others: tuple[str, ...]
    """(a, b), of c1 and further concepts"""
    third: tuple[str, ...]
    """as `sources`, of c3"""


def languages_of(words: WordList, source: tuple[str, str], target: tuple[str, str] | None = None) -> Languages:
    """The target's languages, where not given: two of the list with c ≠ a and d ≠ b, unused ones first.

    Sources are averaged over language pairs whose first language is not c. Raises InputError where there are too few.
    """
    a, b = source
    if target is None:
        fresh = sorted(words.languages, key=lambda code: code in source)
        choices = [(c, d) for c in fresh for d in fresh if c != a and d != b and c != d]
        if not choices:
            raise InputError(f"patching needs a second language pair beside {a} to {b}; the word list has too few")
        target = min(choices, key=lambda pair: sum(code in source for code in pair))
    c, d = target
    absent = [code for code in (*source, *target) if code not in words.languages]
    if absent or d == b or c == d or a == b:
        raise InputError(
            f"patching from {a} to {b} into {c} to {d}: four words are told apart, so the languages asked for must "
            f"differ, and all be among {', '.join(words.languages)}"
        )
    averaged = [source]
    for first in words.languages:
        if first in (a, c) or len(averaged) == MOST_PAIRS:
            continue
        second = next(code for code in (b, *words.languages) if code != first)
        averaged.append((first, second))
    return Languages(source, target, tuple(averaged))


def asked_tokens(model: Model, words: WordList, pair: Languages, special: SpecialTokens) -> TokenSets:
    """T of the concepts that have a word in every used language, behind an open quote in d."""
    used = {*pair.source, *pair.target, *(code for both in pair.averaged for code in both)}
    c, d = pair.target
    prompts = [
        Prompt(index, query(words, c, d, index))
        for index, concept in enumerate(words.concepts)
        if all(concept.words.get(code) for code in used)
    ]
    if len(prompts) < DEMONSTRATIONS + 3:
        raise InputError(
            f"patching needs {DEMONSTRATIONS + 3} concepts with words in {', '.join(sorted(used))}; "
            f"the word list {words.name} has {len(prompts)}"
        )
    return token_sets(model, words, prompts, sorted({pair.source[1], d}), "first", special)


def trials(
    words: WordList,
    tokens: TokenSets,
    pair: Languages,
    count: int = 200,
    seed: int = 0,
    demonstrations: int = DEMONSTRATIONS,
) -> list[Trial]:
    """`count` pairs whose four sets T(c1,b), T(c1,d), T(c2,b), T(c2,d) are disjoint; drawn again where they meet.

    c1 goes through the concepts in turn. Raises InputError when no pair can be drawn.
    """
    generator = random.Random(f"{seed} trials")
    order = list(range(len(tokens.concepts)))
    generator.shuffle(order)
    found: list[Trial] = []
    misses = 0
    while len(found) < count and misses < 20 * len(order):
        c1 = order[(len(found) + misses) % len(order)]
        c2, c3 = generator.sample([place for place in order if place != c1], 2)
        if _disjoint(tokens, pair, c1, c2) and _disjoint(tokens, pair, c1, c3):
            found.append(_trial(words, tokens, pair, (c1, c2, c3), f"{seed} {len(found)}", demonstrations))
        else:
            misses += 1
    if not found:
        raise InputError("patching: the tokens of no two concepts are disjoint in both target languages")
    return found


def _disjoint(tokens: TokenSets, pair: Languages, one: int, other: int) -> bool:
    sets = [tokens.of(code)[place] for place in (one, other) for code in (pair.source[1], pair.target[1])]
    return all(sets) and len(frozenset[int]().union(*sets)) == sum(map(len, sets))


def _trial(
    words: WordList, tokens: TokenSets, pair: Languages, places: tuple[int, int, int], seed: str, demonstrations: int
) -> Trial:
    c1, c2, c3 = (tokens.concepts[place] for place in places)
    usable = [index for index in tokens.concepts if index not in (c1, c2, c3)]

    def shown(draw: object) -> list[int]:
        return random.Random(f"{seed} {draw}").sample(usable, demonstrations)

    def up_to_word(languages: tuple[str, str], concept: int, draw: object) -> str:
        whole = prompt_text(words, "translation", *languages, concept, shown(draw))
        return end_at_word(words, whole, *languages, concept)

    a, b = pair.source
    c, d = pair.target
    target = prompt_text(words, "translation", c, d, c2, shown("target"))
    m = len(pair.averaged)
    further = random.Random(f"{seed} concepts").sample(usable, m - 1) if m > 1 else []
    return Trial(
        places,
        prompt_text(words, "translation", a, b, c1, shown("source")),
        target,
        prompt_text(words, "translation", c, d, c1, shown("target")),
        end_at_word(words, target, c, d, c2),
        tuple(up_to_word(languages, c1, "source") for languages in pair.averaged),
        tuple(up_to_word(pair.source, c1, "source" if draw == 0 else draw) for draw in range(m)),
        tuple(up_to_word(pair.source, concept, "source") for concept in (c1, *further)),
        tuple(up_to_word(languages, c3, "source") for languages in pair.averaged),
    )


def end_at_word(words: WordList, prompt: str, first: str, second: str, concept: int) -> str:
    """A translation prompt cut behind the asked word, before its closing quote."""
    line = query(words, first, second, concept)
    word = words.concepts[concept].words[first][0]
    kept = f'{own_name(first)}: "{word}'
    return prompt[: len(prompt) - len(line)] + kept
