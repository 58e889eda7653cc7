"""Prompts that ask a model for one word, by task (section 1): translation, repetition, cloze, sentence.

translation   Français: "fleur" - 中文: "花"        demonstrations, then the line of the concept, open after its quote
repetition    the same with one language
cloze         a definition with a gap, the word for "answer", an open quote
sentence      a source sentence, a new line, its translation up to the word
"""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from babelscope.corpora import ParallelCorpus
from babelscope.errors import InputError
from babelscope.languages import language, own_name
from babelscope.latent.words import WordList

Task = Literal["translation", "repetition", "cloze", "sentence"]
DEMONSTRATIONS = {"translation": 4, "repetition": 4, "cloze": 2, "sentence": 0}
ANSWER = {
    "en": "Answer",
    "zh": "答案",
    "fr": "Réponse",
    "es": "Respuesta",
    "pt": "Resposta",
    "ar": "الجواب",
    "vi": "Đáp án",
    "hi": "उत्तर",
    "id": "Jawaban",
}
"""the word that a cloze puts before the open quote"""
WITHOUT_BLANKS = ("Hans", "Hant", "Hani", "Jpan", "Thai", "Laoo", "Khmr", "Mymr")


@dataclass(frozen=True)
class Prompt:
    """A text whose next word is wanted."""

    concept: int
    """index in the word list"""
    text: str
    gap: str = ""
    """what stands between the text and the word: nothing after a quote, a blank inside a sentence"""
    demonstrations: tuple[int, ...] = ()


def word_prompts(
    words: WordList,
    task: Literal["translation", "repetition", "cloze"],
    source: str,
    target: str,
    draws: int = 1,
    demonstrations: int | None = None,
    seed: int = 0,
) -> list[Prompt]:
    """Prompts of every concept that has what the task needs, `draws` choices of demonstrations each.

    Demonstrations of a concept and draw are the same ids whatever the languages, taken from concepts with a word in
    every language of the list. Raises InputError where too few are left, and for a cloze without definitions.
    """
    _check(words, source, target)
    count = DEMONSTRATIONS[task] if demonstrations is None else demonstrations
    asked = list(_able(words, task, source, target))
    if not asked:
        needed = f"definitions in {target}" if task == "cloze" else f"words in {source} and {target}"
        raise InputError(f"the word list {words.name} has no concept with {needed}: the task {task} cannot be asked")
    usable = [
        index
        for index in (asked if task == "cloze" else range(len(words)))
        if all(words.concepts[index].words.get(code) for code in words.languages)
    ]
    prompts: list[Prompt] = []
    for index in asked:
        for draw in range(draws):
            others = [other for other in usable if other != index]
            if len(others) < count:
                raise InputError(
                    f"{count} demonstrations need as many other concepts with a word in {', '.join(words.languages)}; "
                    f"the word list {words.name} has {len(others)}"
                )
            shown = tuple(random.Random(f"{seed} {words.concepts[index].id} {draw}").sample(others, count))
            prompts.append(Prompt(index, prompt_text(words, task, source, target, index, shown), "", shown))
    return prompts


def prompt_text(words: WordList, task: str, source: str, target: str, concept: int, shown: Sequence[int]) -> str:
    """The demonstrations' lines and the open one."""
    if task == "cloze":
        lines = [f'{_cloze(words, target, other)}{_word(words, other, target)}"' for other in shown]
        return "\n".join([*lines, _cloze(words, target, concept)])
    lines = [f'{query(words, source, target, other)}{_word(words, other, target)}"' for other in shown]
    return "\n".join([*lines, query(words, source, target, concept)])


def query(words: WordList, source: str, target: str, concept: int) -> str:
    """The open line `A: "w" - B: "`."""
    return f'{own_name(source)}: "{_word(words, concept, source)}" - {own_name(target)}: "'


def _cloze(words: WordList, target: str, concept: int) -> str:
    return f'{words.concepts[concept].definitions[target]} {ANSWER[target]}: "'


def _word(words: WordList, concept: int, code: str) -> str:
    return words.concepts[concept].words[code][0]


def _check(words: WordList, source: str, target: str) -> None:
    for code in (source, target):
        if code not in words.languages:
            raise InputError(f"no words in {code}: the word list {words.name} is used in {', '.join(words.languages)}")


def _able(words: WordList, task: str, source: str, target: str) -> Iterator[int]:
    for index, concept in enumerate(words.concepts):
        if not concept.words.get(target) or not concept.words.get(source):
            continue
        if task != "cloze" or (concept.definitions.get(target) and target in ANSWER):
            yield index


def sentence_prompts(
    words: WordList, corpus: ParallelCorpus, source: str, target: str, draws: int = 4, seed: int = 0
) -> list[Prompt]:
    """Prompts made of parallel sentences in which the source has the concept's word and the target too.

    The prompt ends before the first occurrence of the target's word, which must have something of its sentence before
    it. Raises InputError when no sentence of the corpus serves.
    """
    _check(words, source, target)
    absent = [code for code in (source, target) if code not in corpus.languages]
    if absent:
        raise InputError(f"the corpus {corpus.spec} has no {', '.join(absent)}; it has {', '.join(corpus.languages)}")
    gap = "" if language(target).script in WITHOUT_BLANKS else " "
    order = list(range(len(corpus)))
    random.Random(f"{seed} sentences").shuffle(order)
    found: dict[int, list[Prompt]] = {}
    for place in order:
        given, answer = corpus.texts[source][place], corpus.texts[target][place]
        for index, concept in enumerate(words.concepts):
            if len(found.get(index, ())) >= draws or _find(given, concept.words.get(source, ()), source) < 0:
                continue
            hit = _find(answer, concept.words.get(target, ()), target)
            if hit < 0:
                continue
            before = answer[:hit]
            if before.strip() and before.endswith(gap) and not before.endswith(gap + " "):
                text = f"{given}\n{before.removesuffix(gap) if gap else before}"
                found.setdefault(index, []).append(Prompt(index, text, gap))
    if not found:
        raise InputError(f"no sentence of {corpus.spec} has a word of {words.name} in both {source} and {target}")
    return [prompt for index in sorted(found) for prompt in found[index]]


def said_in(text: str, alternatives: Sequence[str], code: str) -> bool:
    """Whether one of the words stands in a text, as a whole word in scripts with blanks.

    >>> said_in("The cats sleep.", ("cat",), "en"), said_in("A cat sleeps.", ("cat",), "en")
    (False, True)
    """
    return _find(text, alternatives, code) >= 0


def _find(text: str, alternatives: Sequence[str], code: str) -> int:
    """Where the first of the words stands as a whole word, in scripts without blanks as a string; −1: nowhere."""
    whole = language(code).script not in WITHOUT_BLANKS
    places: list[int] = []
    for word in alternatives:
        start = text.find(word)
        while start >= 0 and whole and not _stands_alone(text, start, start + len(word)):
            start = text.find(word, start + 1)
        places += [start] if start >= 0 else []
    return min(places, default=-1)


def _stands_alone(text: str, start: int, end: int) -> bool:
    around = [text[place] for place in (start - 1, end) if 0 <= place < len(text)]
    return not any(unicodedata.category(letter)[0] in "LMN" for letter in around)
