"""The words and texts that a study of latent language reads before anything is measured."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace

from babelscope.corpora import ParallelCorpus, TextCollection, load_corpus, load_texts
from babelscope.errors import InputError
from babelscope.latent.words import WordList, load_words
from babelscope.studies.latent_settings import LatentSettings


def chosen_words(settings: LatentSettings) -> WordList:
    """The word list with at most `n` concepts; InputError when a language that is asked for or in lacks words."""
    words = load_words(settings.words, settings.languages, settings.kinds)
    absent = sorted({code for pair in settings.pairs for code in pair} - set(words.languages))
    absent += sorted(set(settings.candidates or ()) - set(words.languages))
    if absent:
        raise InputError(
            f"no words in {', '.join(absent)}: the languages are {', '.join(words.languages)}; --from and --to (and "
            "--candidates) must be among them"
        )
    if len(words) <= settings.n:
        return words
    drawn = sorted(random.Random(f"{settings.seed} words").sample(range(len(words)), settings.n))
    return replace(words, concepts=tuple(words.concepts[place] for place in drawn))


def read_texts(
    settings: LatentSettings,
    words: WordList,
    corpus: ParallelCorpus | None = None,
    texts: Mapping[str, TextCollection] | None = None,
) -> tuple[ParallelCorpus | None, Mapping[str, TextCollection] | None]:
    """The parallel text and the running text that the settings ask for, unless they are given."""
    wanted = words.languages if "align" in settings.parts else tuple({code for pair in settings.pairs for code in pair})
    if corpus is None and settings.parallel:
        corpus = load_corpus(settings.parallel, [code for code in words.languages if code in wanted])
    if corpus is not None and settings.normalise:
        corpus = corpus.normalised(settings.normalise)
    if texts is None and settings.text and "tuned" in settings.lens:
        texts = load_texts(settings.text, words.languages)
    return corpus, texts
