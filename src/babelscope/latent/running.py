"""Running text for the tuned lens: every compared language in equal token shares, documents split 80/10/10."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from babelscope.corpora import TextCollection
from babelscope.errors import InputError
from babelscope.models import Model

Part = Literal["fit", "validation", "test"]
SHARES: dict[Part, float] = {"fit": 0.8, "validation": 0.1, "test": 0.1}


@dataclass(frozen=True)
class Text:
    """Windows of token ids by part and language; every language has the same number of tokens in a part."""

    spec: str
    parts: Mapping[Part, Mapping[str, list[list[int]]]]

    @property
    def languages(self) -> tuple[str, ...]:
        return tuple(self.parts["fit"])

    def all(self, part: Part) -> list[list[int]]:
        """The windows of all languages, in turn."""
        by_language = list(self.parts[part].values())
        return [windows[place] for place in range(len(by_language[0])) for windows in by_language]

    def tokens(self, part: Part) -> int:
        return sum(len(window) for window in self.all(part))


def running_text(
    model: Model,
    texts: Mapping[str, TextCollection],
    spec: str,
    tokens: int | None = None,
    window: int = 128,
    seed: int = 0,
) -> Text:
    """Windows of equal length; documents go to one part each, shares by their tokens, at most `tokens` a language.

    Raises InputError for a language with fewer than three documents or less than a window in a part.
    """
    cut = {code: _split(model, code, collection, window, seed) for code, collection in texts.items()}
    parts: dict[Part, dict[str, list[list[int]]]] = {}
    for part, share in SHARES.items():
        fewest = min(len(found[part]) for found in cut.values())
        if fewest == 0:
            short = next(code for code, found in cut.items() if not found[part])
            raise InputError(
                f"{spec}: {code_text(short)} has no window of {window} tokens for the {part} part; more text"
            )
        wanted = fewest if tokens is None else min(fewest, max(1, round(tokens * share / window)))
        parts[part] = {code: found[part][:wanted] for code, found in cut.items()}
    return Text(spec, parts)


def code_text(code: str) -> str:
    """`the text in fr`."""
    return f"the text in {code}"


def _split(model: Model, code: str, collection: TextCollection, window: int, seed: int) -> dict[Part, list[list[int]]]:
    documents = [document.text for document in collection.documents if document.text.strip()]
    if len(documents) < len(SHARES):
        raise InputError(f"{code_text(code)} has {len(documents)} documents; the tuned lens needs three at least")
    ids = model.tokenize(documents)
    order = list(range(len(ids)))
    random.Random(f"{seed} documents").shuffle(order)
    total = sum(map(len, ids))
    found: dict[Part, list[list[int]]] = {part: [] for part in SHARES}
    joined: dict[Part, list[int]] = {part: [] for part in SHARES}
    for place in order:
        # the part that is furthest below its share gets the next document
        part = max(SHARES, key=lambda one: SHARES[one] - len(joined[one]) / total)
        joined[part] += ids[place]
    for part, row in joined.items():
        found[part] = [row[start : start + window] for start in range(0, len(row) - window + 1, window)]
    return found
