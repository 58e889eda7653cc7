"""Small corpora and recordings for the tests of regions."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

from babelscope.corpora import ParallelCorpus
from babelscope.corpora.texts import Document, TextCollection
from babelscope.models import Model
from babelscope.regions import Recording

from .tiny_models import tiny_model, tiny_tokenizer

LANGUAGES = ("en", "zh", "fr", "es", "pt", "ar", "hi", "id", "vi")
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def corpus(languages: int = 6, sentences: int = 5, seed: int = 0) -> ParallelCorpus:
    """Sentences of random letters, of every length, each language with letters of its own."""
    generator = np.random.default_rng(seed)
    texts = {
        code: [
            "".join(generator.choice(list(LETTERS[2 * place :]), size=int(generator.integers(1, 14))))
            for _ in range(sentences)
        ]
        for place, code in enumerate(LANGUAGES[:languages])
    }
    return ParallelCorpus.from_texts(texts)


def texts(languages: int = 6, documents: int = 4, length: int = 40, seed: int = 0) -> dict[str, TextCollection]:
    """Documents of random letters."""
    generator = np.random.default_rng(seed)
    return {
        code: TextCollection(
            code,
            tuple(
                Document(str(place), "".join(generator.choice(list(LETTERS), size=length)))
                for place in range(documents)
            ),
            "memory",
        )
        for code in LANGUAGES[:languages]
    }


@lru_cache(32)
def model(family: str = "bloom", dtype: torch.dtype = torch.float32) -> Model:
    return Model(tiny_model(family, dtype), tiny_tokenizer(), id=f"tiny-{family}")


def recording(v: torch.Tensor, layers: int = 1, activity: torch.Tensor | None = None) -> Recording:
    """A recording of given mean activations [L, n, D]."""
    languages, sentences, _ = v.shape
    return Recording(
        LANGUAGES[:languages],
        tuple(str(place) for place in range(sentences)),
        layers,
        v.numpy(),
        torch.randint(1, 9, (languages, sentences), generator=torch.Generator().manual_seed(0)),
        0.1,
        activity,
    )


def noise(languages: int = 6, sentences: int = 8, neurons: int = 40, seed: int = 0, mean: float = 0.5) -> Recording:
    """A recording in which nothing depends on language or meaning."""
    generator = torch.Generator().manual_seed(seed)
    return recording(torch.randn(languages, sentences, neurons, generator=generator, dtype=torch.float64) + mean)


def planted(
    effect: float, per_language: int = 10, languages: int = 9, sentences: int = 40, neurons: int = 1000, seed: int = 0
) -> tuple[Recording, torch.Tensor]:
    """Noise around each neuron's own level, and neurons raised in one language by `effect` standard deviations.

    Returns the recording (with activity) and which neurons are planted, [L, D].
    """
    generator = torch.Generator().manual_seed(seed)
    level = torch.randn(neurons, generator=generator, dtype=torch.float64).abs() + 1
    v = torch.randn(languages, sentences, neurons, generator=generator, dtype=torch.float64)
    truth = torch.zeros(languages, neurons, dtype=torch.bool)
    order = torch.randperm(neurons, generator=generator)
    for place in range(languages):
        chosen = order[place * per_language : (place + 1) * per_language]
        truth[place, chosen] = True
        v[place][:, chosen] += effect
    # a token fires where noise of one standard deviation passes 1.5, twenty tokens to a sentence
    active = torch.special.ndtr(torch.where(truth, effect - 1.5, -1.5).double())
    tokens = torch.full_like(active, 20.0 * sentences)
    activity = torch.binomial(tokens, active, generator=generator) / tokens
    return recording(v + level, activity=activity), truth
