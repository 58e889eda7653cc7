"""Encoders, and the encoder side of encoder–decoders: models that read a text from both sides.

Their neurons can be recorded and switched off. They have no next word, hence no perplexity and no circuits. What a
tokenizer puts around a text ([CLS] … [SEP]) is fed, as it was in training, and left out of every mean.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from babelscope.errors import InputError, NonFinite, UnsupportedModel

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers import PreTrainedTokenizerBase as Tokenizer

    from babelscope.models.model import Model
    from babelscope.terms import SpecialTokens


def is_encoder(hf: PreTrainedModel) -> bool:
    """Whether a Hugging Face model is measured as an encoder: a masked language model, or an encoder–decoder."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    if getattr(hf.config, "is_encoder_decoder", False):
        return True
    name = type(hf).__name__
    masked = {one for entry in MODEL_FOR_MASKED_LM_MAPPING_NAMES.values() for one in _names(entry)}
    causal = {one for entry in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values() for one in _names(entry)}
    return name in masked - causal


def _names(entry: str | tuple[str, ...]) -> tuple[str, ...]:
    return (entry,) if isinstance(entry, str) else entry


def refuse_next_word(encoder: bool, name: str) -> None:
    """Raises UnsupportedModel where the next word of an encoder is asked for."""
    if encoder:
        raise UnsupportedModel(
            f"{name} is an encoder: it has no next word, hence no perplexity, no generation and no circuits; "
            "its neurons can be recorded (regions, similarity, alignment)"
        )


@contextmanager
def saturation_refused(model: Model) -> Generator[None]:
    """Inside, float16 states that a block of an encoder cut off at the largest number there is raise NonFinite.

    Encoders of transformers (BART, NLLB, T5) put that number in the place of infinity, and go on.
    """
    blocks = model.blocks if model.encoder and model.dtype == torch.float16 else ()
    most = torch.finfo(torch.float16).max - 1000

    def look(_module: object, _inputs: object, output: Tensor | tuple[Tensor, ...]) -> None:
        value = output[0] if isinstance(output, tuple) else output
        if value.dtype == torch.float16 and bool((value.abs() >= most).any()):
            raise NonFinite(f"states of {model.id} pass the largest number of float16: load it with dtype='float32'")

    handles = [block.register_forward_hook(look) for block in blocks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def with_own_tokens(tokenizer: Tokenizer, texts: Sequence[str], name: str) -> list[list[int]]:
    """Token ids of each text with what the model's tokenizer puts around it.

    Raises InputError where that depends on the language of the text, or is found within it.
    """
    if getattr(tokenizer, "src_lang", None) is not None:
        raise InputError(
            f"the tokenizer of {name} puts the code of a language beside each text, which it cannot know here: add "
            "--special none"
        )
    encoded: list[list[int]] = tokenizer(list(texts), add_special_tokens=True)["input_ids"]
    bare: list[list[int]] = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    before, after = own_tokens(tokenizer)
    for place, (whole, ids) in enumerate(zip(encoded, bare)):
        if whole[before : len(whole) - after] != ids:
            raise InputError(f"the tokenizer of {name} puts special tokens within text {place}: add --special none")
    return encoded


def own_tokens(tokenizer: Tokenizer) -> tuple[int, int]:
    """How many special tokens a tokenizer puts in front of a text, and behind it."""
    bare: list[int] = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole: list[int] = tokenizer("a", add_special_tokens=True)["input_ids"]
    more = len(whole) - len(bare)
    before = next((start for start in range(more + 1) if whole[start : start + len(bare)] == bare), 0)
    return before, more - before


def first_tokens(tokenizer: Tokenizer, special: SpecialTokens, encoder: bool, name: str) -> list[int]:
    """What stands before a text: the beginning-of-sequence token where it is asked for, or what the tokenizer of a
    causal model puts there (`own`).

    Raises InputError where the tokenizer has no such token, or puts several there.
    """
    if special == "own" and not encoder:
        before, _ = own_tokens(tokenizer)
        if before > 1:
            raise InputError(f"the tokenizer of {name} puts {before} tokens before a text: use bos or none")
        return tokenizer("a", add_special_tokens=True)["input_ids"][:before]
    if special not in ("bos", "bos-excluded"):
        return []
    first: int | None = tokenizer.bos_token_id  # pyright: ignore[reportAssignmentType]
    if first is None:
        raise InputError(f"special tokens {special!r}: the tokenizer of {name} has no beginning-of-sequence token")
    return [first]
