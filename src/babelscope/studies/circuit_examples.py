"""A few prompts of a study as tokens with their roles, for readers and for drawings of a circuit over a prompt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from babelscope.models import Model
from babelscope.results.schemas.circuits import ExampleToken
from babelscope.tasks.prompts import PromptPair

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase as Tokenizer

EXAMPLES = 3
"""prompts of each language, of different templates where there are so many"""
_HALF = "\ufffd"


def example_rows(model: Model, language: str, pairs: Sequence[PromptPair]) -> list[ExampleToken]:
    """A row for each token of the first prompts of different templates: its text, and the role that it stands in."""
    return [
        ExampleToken(
            language=language, example=place, position=position, token=text,
            role=next((role for role, (start, end) in pair.roles.items() if start <= position < end), ""),
            answer=model.tokenizer.decode(list(pair.target)), foil=model.tokenizer.decode(list(pair.foil)),
            template=pair.template,
        )
        for place, pair in enumerate(_different(pairs))
        for position, text in enumerate(token_texts(model.tokenizer, pair.clean))
    ]  # fmt: skip


def token_texts(tokenizer: Tokenizer, ids: Sequence[int]) -> list[str]:
    """What each token adds to the text; a letter that several tokens make up stands with the last of them."""
    texts: list[str] = []
    before = ""
    for stop in range(1, len(ids) + 1):
        after = str(tokenizer.decode(list(ids[:stop])))
        whole = not after.endswith(_HALF)
        texts.append(after[len(before) :] if whole else "")
        before = after if whole else before
    return texts


def _different(pairs: Sequence[PromptPair]) -> Iterator[PromptPair]:
    first = {pair.template: pair for pair in reversed(pairs)}
    chosen = [pair for pair in pairs if first[pair.template] is pair]
    yield from [*chosen, *(pair for pair in pairs if first[pair.template] is not pair)][:EXAMPLES]
