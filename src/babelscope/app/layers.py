"""Which language a prompt passes through: what the lens reads off every layer (latent.md, section 1).

L layers + 1 · K language
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd
import torch

from babelscope.app.session import Session
from babelscope.app.work import TOKENS_LIMIT, Work, bounded
from babelscope.errors import InputError
from babelscope.latent.lens import chunk_logits, normed, states
from babelscope.latent.prompts import Prompt, prompt_text
from babelscope.latent.tokens import token_sets
from babelscope.latent.words import WordList, load_words

SHOWN = 2
"""translations that stand before the question"""
TOP = 5
"""tokens that are shown for a layer"""


@dataclass(frozen=True)
class Question:
    """A word to be translated, as a prompt."""

    text: str
    concept: str


@dataclass(frozen=True)
class Layers:
    """What each layer would answer, last layer last."""

    top: pd.DataFrame
    """layer, then the likeliest tokens with their probability in percent"""
    by_language: Mapping[str, list[float]]
    """language → probability of the word in that language, by layer; empty for a prompt without a known word"""


def question(session: Session, source: str, target: str, place: int) -> Question:
    """The prompt that asks for the word of one concept; raises InputError for languages without words."""
    if source == target:
        raise InputError("choose two languages: one to translate from, another to translate to")
    words = _words(session)
    able = [at for at, one in enumerate(words.concepts) if {source, target} <= set(one.words)]
    if len(able) <= SHOWN:
        raise InputError(f"the list of words has too few in {source} and {target}; it has {', '.join(words.languages)}")
    asked = able[place % len(able)]
    shown = [able[(place + step) % len(able)] for step in range(1, SHOWN + 1)]
    return Question(prompt_text(words, "translation", source, target, asked, shown), words.concepts[asked].id)


def read_layers(session: Session, prompt: str, concept: str, work: Work) -> Layers:
    """The likeliest tokens after a prompt in every layer, and the probability of a concept's word by language.

    The concept counts only while the prompt is the question that was asked with it. Raises InputError for a prompt
    that is empty or too long.
    """
    model, prompt = session.need_model(), bounded(prompt, "the prompt")
    [ids] = model.tokenize([prompt])
    most = min(TOKENS_LIMIT, model.context.window)
    if not 1 <= len(ids) <= most:
        raise InputError(f"the prompt has {len(ids)} tokens; between 1 and {most} are taken here")
    with work.stage("reading every layer", model.layers + 1, "layers") as step, torch.inference_mode():
        kept = states(model, [prompt])[:, 0]
        rows: list[dict[str, object]] = []
        chances: list[torch.Tensor] = []
        for layer, state in enumerate(kept):  # one layer at a time: a vocabulary is long
            # the state after the last block is what the final norm reads; earlier ones are read as if they were
            chance = chunk_logits(model, normed(model, state[None]), slice(None))[0].float().softmax(-1)
            best = chance.topk(min(TOP, len(chance)))
            said = [
                f"\u2068{seen(model.tokenizer.decode([token]))}\u2069 {100 * value:.0f} %"  # isolated: it may be Arabic
                for token, value in zip(best.indices.tolist(), best.values.tolist(), strict=True)
            ]
            rows.append({"layer": str(layer), **{f"{rank}.": text for rank, text in enumerate(said, start=1)}})
            chances.append(chance.cpu())
            step(1)
    return Layers(pd.DataFrame(rows), _by_language(session, prompt, concept, chances))


def _by_language(session: Session, prompt: str, concept: str, chances: list[torch.Tensor]) -> dict[str, list[float]]:
    words = _words(session)
    index = next((at for at, one in enumerate(words.concepts) if one.id == concept), None)
    if index is None:
        return {}
    codes = [code for code in words.languages if words.concepts[index].words.get(code)]
    sets = token_sets(session.need_model(), words, [Prompt(index, prompt)], codes)
    found: dict[str, list[float]] = {}
    for code in codes:
        tokens = sorted(sets.of(code)[0])
        found[code] = [float(chance[tokens].sum()) for chance in chances] if tokens else []
    return {code: values for code, values in found.items() if values}


def languages(session: Session) -> list[str]:
    """Languages that words can be asked in: those of the list that the session knows, or all of the list."""
    words = load_words()
    known = [code for code in words.languages if code in session.languages]
    return known if len(known) > 1 else list(words.languages)


def _words(session: Session) -> WordList:
    return load_words(languages=languages(session))


def seen(token: str) -> str:
    """A token with its leading blank shown, so that "Simon" and " Simon" can be told apart.

    >>> seen(" Simon"), seen("Simon"), seen("")
    ('␣Simon', 'Simon', '∅')
    """
    rest = token.lstrip(" ")
    return "␣" * (len(token) - len(rest)) + rest or "∅"
