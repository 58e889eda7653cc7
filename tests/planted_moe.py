"""A mixture of experts written by hand, whose routing by language is known because we put it there.

Every token is a language and a meaning. Layer 0 sends language l to expert l and to a common expert; layer 1 chooses by
meaning alone; layer 2 by the word, at random. Attention and experts write nothing, so that layers do not mix.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from babelscope.corpora import ParallelCorpus
from babelscope.models import Model

LANGUAGES = ("en", "zh", "fr", "es", "pt", "ar")
MEANINGS, EXPERTS, UNITS, WIDTH, NOISE = 8, 8, 12, 32, 18
COMMON, UNUSED = 6, 7
"""experts of layer 0 that all languages share, and that none uses"""
BY_LANGUAGE, BY_MEANING, BY_WORD = 0, 1, 2
"""layers"""


def words() -> list[str]:
    return [f"{code}{meaning}" for code in LANGUAGES for meaning in range(MEANINGS)]


@lru_cache(1)
def tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3}
    for word in words():
        vocabulary[word] = len(vocabulary)
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


@lru_cache(1)
def planted() -> Model:
    config = AutoConfig.for_model(
        "mixtral", vocab_size=4 + len(words()), hidden_size=WIDTH, intermediate_size=UNITS, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, num_local_experts=EXPERTS, num_experts_per_tok=2,
        max_position_embeddings=64, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    torch.manual_seed(0)
    hf = AutoModelForCausalLM.from_config(config).eval()
    generator = torch.Generator().manual_seed(1)
    languages, meanings = slice(0, len(LANGUAGES)), slice(len(LANGUAGES), len(LANGUAGES) + MEANINGS)
    with torch.no_grad():
        embedding = hf.get_input_embeddings().weight
        embedding.zero_()
        for place in range(len(words())):
            row = embedding[4 + place]
            row[place // MEANINGS] = row[len(LANGUAGES) + place % MEANINGS] = 1.0
            row[-NOISE:] = torch.nn.functional.normalize(torch.randn(NOISE, generator=generator), dim=0)
        for number, layer in enumerate(hf.model.layers):
            layer.self_attn.o_proj.weight.zero_()
            experts, router = layer.mlp.experts, layer.mlp.gate.weight
            experts.gate_up_proj.copy_(torch.randn(experts.gate_up_proj.shape, generator=generator))
            # what experts write would carry a trace of language on
            experts.down_proj.zero_()
            router.zero_()
            if number == BY_LANGUAGE:
                router[: len(LANGUAGES), languages] = 2 * torch.eye(len(LANGUAGES))
                router[COMMON, languages] = 1.5
            else:
                # nothing behind layer 0 reads the language
                experts.gate_up_proj[..., languages] = 0
                # … nor anything but a meaning, so that translations are alike
                experts.gate_up_proj[..., -NOISE:] = 0
            if number == BY_MEANING:
                router[:, meanings] = 2 * torch.eye(MEANINGS) + torch.eye(MEANINGS).roll(1, 0)
            if number == BY_WORD:
                router[:, -NOISE:] = torch.randn(EXPERTS, NOISE, generator=generator)
    return Model(hf, tokenizer(), id="planted-mixture")


def corpus(sentences: int = 24, seed: int = 0, mixed: bool = False) -> ParallelCorpus:
    """Parallel sentences of 4 to 12 words; `mixed`: the languages of each sentence's translations in a random order."""
    generator = np.random.default_rng(seed)
    texts: dict[str, list[str]] = {code: [] for code in LANGUAGES}
    for _ in range(sentences):
        meanings = generator.integers(0, MEANINGS, size=int(generator.integers(4, 13)))
        order = generator.permutation(len(LANGUAGES)) if mixed else np.arange(len(LANGUAGES))
        for code, place in zip(LANGUAGES, order):
            texts[code].append(" ".join(f"{LANGUAGES[place]}{meaning}" for meaning in meanings))
    return ParallelCorpus.from_texts(texts)
