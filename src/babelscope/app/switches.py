"""Regions switched off and on: what the model then writes, in which language, and how its perplexity moves
(regions.md, section 5).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Bool
from torch import Tensor

from babelscope.app.identify import identify
from babelscope.app.session import Session
from babelscope.app.work import NEW_TOKENS_LIMIT, TOKENS_LIMIT, Work, bounded
from babelscope.corpora import Document, TextCollection
from babelscope.errors import InputError
from babelscope.models import Model
from babelscope.models.decoding import Decoding, decode, written_text
from babelscope.regions import deactivate
from babelscope.regions.masks import random_region_by_layer
from babelscope.regions.perplexity import Loss, Windows, cut_windows, score

WINDOW = 128
WINDOWS = 4
"""windows of text per language: enough to see a change, few enough to wait for"""


@dataclass(frozen=True)
class Continuation:
    """What a model writes after a prompt, greedily."""

    text: str
    language: str | None
    """None where it cannot be told"""
    probability: float


@dataclass(frozen=True)
class Switched:
    """The same prompt with all neurons, and with some switched off."""

    before: Continuation
    after: Continuation
    neurons: int


def chosen_mask(session: Session, off: Sequence[str], work: Work) -> Bool[Tensor, "P N"]:
    """The neurons of all regions in `off` together; raises InputError where nothing or too little is chosen."""
    if not off:
        raise InputError("choose at least one region to switch off")
    regions = session.regions(work)
    mask = torch.stack([regions[code] for code in off]).any(0)
    if not bool(mask.any()):
        raise InputError(f"the region of {', '.join(off)} is empty")
    return mask


def switch_off(session: Session, prompt: str, off: Sequence[str], new_tokens: int, work: Work) -> Switched:
    """Continue a prompt greedily with the whole model, and with the regions in `off` deactivated."""
    model = session.need_model()
    prompt = bounded(prompt, "the prompt")
    new_tokens = int(new_tokens)
    if not 1 <= new_tokens <= NEW_TOKENS_LIMIT:
        raise InputError(f"between 1 and {NEW_TOKENS_LIMIT} tokens are written here, not {new_tokens}")
    mask = chosen_mask(session, off, work)
    before = continued(session, model, prompt, new_tokens, "writing with all neurons", work)
    with deactivate(model, mask):
        after = continued(session, model, prompt, new_tokens, "writing without the region", work)
    return Switched(before, after, int(mask.sum()))


def perplexity_change(session: Session, off: Sequence[str], work: Work) -> pd.DataFrame:
    """Perplexity of each language of the parallel text: as it is, without the regions in `off`, and without as many
    neurons drawn at random from the same layers.
    """
    model = session.need_model()
    mask = chosen_mask(session, off, work)
    control = random_region_by_layer(mask.sum(1).tolist(), model.widths, seed=0)
    texts = _windows(session, model)
    conditions = {"off": mask, "random": control}
    known: dict[str, Loss] = session.__dict__.setdefault("_losses", {})
    rows: list[dict[str, object]] = []
    total = sum(window.ids.numel() for window in texts.values()) * 3
    with work.stage("measuring perplexity", total, "tokens") as step:
        for code, windows in texts.items():
            if code not in known:
                known[code] = score(model, windows)
            step(windows.ids.numel())
            row: dict[str, str | float] = {"language": code, "all neurons": known[code].perplexity}
            for name, region in conditions.items():
                with deactivate(model, region):
                    value = score(model, windows, progress=step).perplexity
                row[name] = value
                row[f"{name} %"] = 100 * (value / known[code].perplexity - 1)
            rows.append({**row, "tokens": windows.tokens})
    return pd.DataFrame(rows)


def beginning(session: Session, language: str, place: int) -> str:
    """The first half of a sentence of the parallel text: a prompt to begin with."""
    sentences = session.need_corpus().sentences(language)
    sentence = sentences[place % len(sentences)]
    words = sentence.split(" ")
    if len(words) < 4:  # a script without blanks
        return sentence[: max(2, len(sentence) // 2)]
    return " ".join(words[: max(2, len(words) // 2)])


def _windows(session: Session, model: Model) -> dict[str, Windows]:
    corpus = session.need_corpus()
    found: dict[str, Windows] = {}
    for code in corpus.languages:
        text = TextCollection(
            code, tuple(Document(id, sentence) for id, sentence in corpus.documents(code)), corpus.spec
        )
        length = sum(len(ids) for ids in model.tokenize([document.text for document in text.documents]))
        found[code] = cut_windows(model, text, max(2, min(WINDOW, model.context.window, length)), WINDOWS)
    return found


def continued(session: Session, model: Model, prompt: str, new_tokens: int, title: str, work: Work) -> Continuation:
    """What the model writes after a prompt, greedily; raises InputError for a prompt that is too long."""
    [ids] = model.tokenize([prompt])
    most = min(TOKENS_LIMIT, model.context.window - new_tokens)
    if len(ids) > most:
        raise InputError(f"the prompt has {len(ids)} tokens; at most {most} are taken here")
    with work.stage(title, new_tokens, "tokens") as step:
        [[written]] = decode(model, [ids], Decoding(new_tokens), progress=step)
    text = written_text(model, ids, written.ids)
    guess = identify(text, session.languages)
    return Continuation(text, guess[0] if guess else None, guess[1] if guess else 0.0)
