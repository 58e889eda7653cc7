"""Random text: tokens of a language without meaning, for controls and for repeated sequences (section 4).

N prompt · T token
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from babelscope.errors import TaskError
from babelscope.tasks.encoding import Encoder
from babelscope.tasks.prompts import PromptPair
from babelscope.tasks.templates import available, ioi_lexicon, tense_lexicon

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase as Tokenizer


def language_tokens(tokenizer: Tokenizer | Encoder, language: str, texts: list[str] | None = None) -> NDArray[np.int64]:
    """The language's token subset: ids that occur in `texts`, by default in the package's prompts of that language.

    Special tokens are left out. Raises TaskError for a language without data when no texts are given.
    """
    encoder = tokenizer if isinstance(tokenizer, Encoder) else Encoder(tokenizer)
    special = {int(i) for i in getattr(encoder.tokenizer, "all_special_ids", ())}
    ids = {i for text in texts or _texts(language) for i in encoder.encode(text).ids}
    return np.array(sorted(ids - special), dtype=np.int64)


def repeated_tokens(
    tokenizer: Tokenizer | Encoder,
    language: str,
    *,
    length: int = 25,
    n: int = 50,
    seed: int = 0,
    texts: list[str] | None = None,
) -> NDArray[np.int64]:
    """Random tokens of a language, said twice: [N, leading special tokens + 2 · length], each half without repetition
    as far as the subset reaches. Duplicate-token, induction and previous-token heads show on these (section 4).
    """
    encoder = tokenizer if isinstance(tokenizer, Encoder) else Encoder(tokenizer)
    tokens = language_tokens(encoder, language, texts)
    generator = np.random.default_rng((seed, zlib.crc32(language.encode()), length))
    half = np.stack([generator.choice(tokens, length, replace=length > len(tokens)) for _ in range(n)])
    prefix = np.tile(np.array(encoder.prefix, dtype=np.int64), (n, 1))
    return np.concatenate([prefix, half, half], axis=1)


def random_pairs(encoder: Encoder, language: str, n: int, seed: int, length: int = 20) -> list[PromptPair]:
    """Prompts of random tokens, another as the corrupted one, and two random tokens as target and foil."""
    tokens = language_tokens(encoder, language)
    if len(tokens) < 2:
        raise TaskError(f"this tokenizer knows fewer than two tokens of {language}")
    pairs: list[PromptPair] = []
    for item in range(n):
        generator = np.random.default_rng((seed, zlib.crc32(language.encode()), item))
        clean, corrupted = (encoder.prefix + _ids(generator.choice(tokens, length)) for _ in range(2))
        target, foil = _ids(generator.choice(tokens, 2, replace=False))
        end = len(clean)
        pairs.append(
            PromptPair(
                item=item,
                language=language,
                template="random",
                order="",
                stratum="",
                split="strict",
                clean=clean,
                corrupted=corrupted,
                clean_text=encoder.decode(clean),
                corrupted_text=encoder.decode(corrupted),
                target=(target,),
                foil=(foil,),
                roles={"END": (end - 1, end)},
            )
        )
    return pairs


def _ids(values: NDArray[np.int64]) -> tuple[int, ...]:
    return tuple(int(value) for value in values)


def _texts(language: str) -> list[str]:
    texts: list[str] = []
    if language in available("tense"):
        tense = tense_lexicon(language)
        texts += [tense.join + form for verb in tense.verbs for key, form in verb.forms.items() if key != "id"]
    if language in available("ioi") or not texts:
        ioi = ioi_lexicon(language)
        texts += [ioi.join + word for word in (*ioi.names, *ioi.places, *ioi.objects)]
        texts += [part for template in ioi.templates for part in _literals(template.text)]
    return texts


def _literals(pattern: str) -> list[str]:
    from string import Formatter

    return [literal for literal, _, _, _ in Formatter().parse(pattern) if literal.strip()]
