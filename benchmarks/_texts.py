"""Models and parallel texts for the recording benchmarks: Bible verses, or built-in texts as long as they.

The embedded texts are sentences of the built-in stories, several in a row until they are as long as a verse (8 to 60
tokens), read by the built-in tokenizer; the model is a BLOOM of random weights and of the size of a small real one.
"""

from __future__ import annotations

import itertools
import random

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from babelscope import load_corpus, load_model
from babelscope.corpora import ParallelCorpus
from babelscope.models import Model
from babelscope.pocket.models import path

LANGUAGES = ("en", "zh", "fr", "es", "pt", "ar", "vi", "hi", "id")
SHORTEST, LONGEST = 8, 60
PER_SENTENCE = 14
"""tokens of a built-in sentence, about"""


def verses(model: str, corpus: str, sentences: int, seed: int = 0) -> tuple[Model, ParallelCorpus]:
    """A model and a corpus of the user's own, on the CPU in float32."""
    texts = load_corpus(corpus, list(LANGUAGES)).sample(sentences, seed=seed)
    return load_model(model, device="cpu", dtype="float32"), texts


def embedded(
    sentences: int, width: int = 192, layers: int = 6, words: int = 8192, heads: int = 6
) -> tuple[Model, ParallelCorpus]:
    """A random BLOOM and built-in texts; needs nothing from outside."""
    torch.manual_seed(0)
    config = AutoConfig.for_model("bloom", vocab_size=words, hidden_size=width, n_layer=layers, n_head=heads)
    tokenizer = AutoTokenizer.from_pretrained(path("pocket-bloom-s"))
    return Model(AutoModelForCausalLM.from_config(config), tokenizer, id="random"), joined(sentences)


def joined(sentences: int, seed: int = 0) -> ParallelCorpus:
    """Built-in sentences in rows of one to four, the same rows in every language."""
    corpus = load_corpus("pocket:", list(LANGUAGES))
    draw = random.Random(seed)
    counts = [max(1, round(draw.uniform(SHORTEST, LONGEST) / PER_SENTENCE)) for _ in range(sentences)]
    places = itertools.cycle(range(len(corpus)))
    rows = [list(itertools.islice(places, count)) for count in counts]
    return ParallelCorpus.from_texts(
        {code: [" ".join(corpus.texts[code][place] for place in row) for row in rows] for code in LANGUAGES}
    )
