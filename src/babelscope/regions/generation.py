"""What a model writes with and without its regions (the paper's Tables 2 and 3), and in which language it writes.

Prompts of one language are cut to one length in tokens, so that a batch needs no padding.

B prompt · T position
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from babelscope.errors import InputError
from babelscope.models import Model
from babelscope.models.decoding import Decoding, Written, decode
from babelscope.regions.identification import Identifier, broken_share, distinct
from babelscope.regions.treatments import Treatment, row_edit
from babelscope.results.schemas.regions import Continuation
from babelscope.stats import bootstrap_mean, wilson
from babelscope.terms import SpecialTokens

BASE = "base"


@dataclass(frozen=True)
class Sampling:
    """How continuations are made."""

    tokens: int = 32
    """new tokens; the end of text is not allowed before"""
    temperature: float | None = None
    """None: the likeliest token each time"""
    seed: int = 0
    batch: int = 128
    """texts at a time, all conditions counted"""


def cut_prompts(
    model: Model, texts: Sequence[str], length: int, count: int, special: SpecialTokens = "none"
) -> Int[Tensor, "B T"]:
    """The first `length` tokens of the first `count` texts that have more than that, behind the special tokens.

    Raises InputError when there is none.
    """
    first = model.first_tokens(special)
    rows = [[*first, *ids[:length]] for ids in model.tokenize(texts) if len(ids) > length][:count]
    if not rows:
        raise InputError(f"no text has more than {length} tokens to take a prompt of that length from")
    return torch.tensor(rows)


def continue_prompts(model: Model, prompts: Int[Tensor, "B T"], sampling: Sampling | None = None) -> list[list[int]]:
    """Token ids of the continuations, under whatever the model is inside of.

    >>> continue_prompts(model, cut_prompts(model, texts, 8, 4))       # doctest: +SKIP
    """
    [written] = decode(model, prompts.tolist(), _decoding(sampling))
    return [list(one.ids) for one in written]


def generations(
    model: Model,
    prompts: Mapping[str, Int[Tensor, "B T"]],
    conditions: Sequence[tuple[str, int, Treatment | None]],
    sampling: Sampling | None = None,
    languages: Sequence[str] | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[Continuation]:
    """Continuations of every language's prompts under every condition (name, draw, treatment), identified and measured.

    All conditions of a language are decoded as rows of the same batches. Raises MissingExtra without py3langid.

    >>> off = Treatment(regions["zh"])                                # doctest: +SKIP
    >>> generations(model, prompts, [("base", -1, None), ("zh", -1, off)])          # doctest: +SKIP
    """
    identifier = Identifier(languages or list(prompts))
    edits = [None if chosen is None else row_edit(chosen) for _, _, chosen in conditions]
    written: dict[str, list[list[Written]]] = {}
    for language, ids in prompts.items():
        written[language] = decode(model, ids.tolist(), _decoding(sampling), edits)
        if progress:
            progress(len(ids) * len(conditions))
    return [
        _row(model, identifier, language, name, draw, prompt, list(new.ids))
        for place, (name, draw, _) in enumerate(conditions)
        for language, ids in prompts.items()
        for prompt, new in zip(ids.tolist(), written[language][place])
    ]


def _decoding(sampling: Sampling | None) -> Decoding:
    chosen = sampling or Sampling()
    return Decoding(chosen.tokens, chosen.temperature, seed=chosen.seed, fixed=True, batch=chosen.batch)


def _row(
    model: Model, identifier: Identifier, language: str, name: str, draw: int, prompt: list[int], new: list[int]
) -> Continuation:
    text = str(model.tokenizer.decode(new, skip_special_tokens=True))
    return Continuation(
        language=language,
        deactivated=name,
        draw=draw,
        prompt=str(model.tokenizer.decode(prompt, skip_special_tokens=True)),
        continuation=text,
        identified=identifier.identify(text),
        broken_share=broken_share(text),
        distinct_1=distinct(new, 1),
        distinct_2=distinct(new, 2),
    )


@dataclass(frozen=True)
class Share:
    """A share of continuations with its 95 % Wilson interval."""

    value: float
    low: float
    high: float
    n: int


def share(hits: Sequence[bool]) -> Share:
    """Share of successes; NaN of none.

    >>> round(share([True, True, False, True]).value, 2)
    0.75
    """
    found = wilson(sum(hits), len(hits))
    return Share(found.value, found.low, found.high, len(hits))


MEASURES = ("broken_share", "distinct_1", "distinct_2")


def means_of(rows: Sequence[Continuation]) -> dict[str, float]:
    """Mean of broken UTF-8 and of distinct n-grams over continuations, each with its 95 % interval (`bootstrap_mean`).

    Shares lie in [0, 1], and so do the ends; NaN ends of fewer than two continuations, or where all have the same.

    >>> from dataclasses import replace
    >>> row = Continuation(
    ...     language="en", deactivated="base", draw=-1, prompt="", continuation="", identified="en",
    ...     broken_share=0.0, distinct_1=1.0, distinct_2=0.4,
    ... )
    >>> rows = [row, replace(row, distinct_2=0.6)]
    >>> round(means_of(rows)["distinct_2"], 2)
    0.5
    """
    found: dict[str, float] = {}
    for name in MEASURES:
        one = bootstrap_mean([getattr(row, name) for row in rows])
        low, high = np.clip([one.low, one.high], 0.0, 1.0).tolist()
        found |= {name: one.value, f"{name}_low": low, f"{name}_high": high}
    return found
