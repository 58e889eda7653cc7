"""Prompts in a model's own chat template: one turn of the user, then the model's; nothing else unless it is given."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from babelscope.errors import InputError
from babelscope.models.model import Model, SpecialTokens
from babelscope.terms import Chat

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase as Tokenizer

DATE = "26 Jul 2024"
"""every template's today, so that a prompt is the same tomorrow"""
THOUGHT = "</think>"


@dataclass(frozen=True)
class Prompted:
    """Prompts as token ids, and what a run records of how they were made."""

    ids: list[list[int]]
    template: str
    """sha256 of the chat template; "" where none was used"""
    first: str
    """the first prompt as the model reads it"""


def prompt_ids(
    model: Model, texts: Sequence[str], chat: Chat = "auto", system: str | None = None, special: SpecialTokens = "none"
) -> Prompted:
    """Token ids of prompts, in the chat template where there is one (`auto`), always (`on`), or as plain text (`off`).

    Raises InputError for `on` without a template, and for a role or message that the template refuses.

    >>> prompt_ids(model, ["Where is the station?"], "off").ids         # doctest: +SKIP
    """
    template: str | None = _template(model.tokenizer)
    if chat == "on" and template is None:
        raise InputError(f"the tokenizer of {model.id} has no chat template; use --chat off")
    if chat == "off" or template is None:
        if system is not None:
            raise InputError("a system prompt needs a chat template")
        ids = model.tokenize(texts, special)
        return Prompted(ids, "", str(model.tokenizer.decode(ids[0])) if ids else "")
    rendered = [_rendered(model, text, system, template) for text in texts]
    # the template writes the beginning of sequence itself: the tokenizer must not add a second
    found: list[list[int]] = model.tokenizer(rendered, add_special_tokens=False)["input_ids"] if rendered else []
    for place, ids in enumerate(found):
        model.check_ids(ids, f"prompt {place}")
    return Prompted(found, hashlib.sha256(template.encode()).hexdigest(), rendered[0] if rendered else "")


def _template(tokenizer: Tokenizer) -> str | None:
    found = getattr(tokenizer, "chat_template", None)
    # of several (of tools, of retrieval) the one that transformers takes where nothing else is asked for
    found = found.get("default") if isinstance(found, dict) else found
    return found if isinstance(found, str) else None


def _rendered(model: Model, text: str, system: str | None, template: str) -> str:
    messages = [] if system is None else [{"role": "system", "content": system}]
    try:
        return _apply(model.tokenizer, [*messages, {"role": "user", "content": text}], template, True)
    except Exception as error:
        raise InputError(f"the chat template of {model.id} refuses these messages: {error}") from error


def _apply(tokenizer: Tokenizer, messages: Sequence[dict[str, str]], template: str, prompt: bool) -> str:
    # a macro of this name stands before the clock that transformers gives to templates
    dated = "{%- macro strftime_now(format) -%}" + DATE + "{%- endmacro -%}" + template
    return str(
        tokenizer.apply_chat_template(
            list(messages),
            chat_template=dated,
            tokenize=False,
            add_generation_prompt=prompt,
            date_string=DATE,
            enable_thinking=False,
        )
    )


def end_of_turn(tokenizer: Tokenizer) -> int | None:
    """The special token that a chat template writes after an answer; None where it writes none."""
    template = _template(tokenizer)
    if template is None:
        return None
    mark = "babelscope"
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": mark}]
    try:
        after = _apply(tokenizer, turns, template, False).rpartition(mark)[2]
    except Exception:  # a template that takes no answers says nothing about their end
        return None
    ids: list[int] = tokenizer(after.lstrip(), add_special_tokens=False)["input_ids"] if after.strip() else []
    added = {int(one) for one in getattr(tokenizer, "added_tokens_decoder", {})} | set(tokenizer.all_special_ids)
    return ids[0] if ids and ids[0] in added else None


def measured_part(text: str) -> str:
    """An answer without the thoughts before it.

    >>> measured_part("<think>Hm.</think> Bonjour")
    'Bonjour'
    """
    return text.rpartition(THOUGHT)[2].strip() if THOUGHT in text else text
