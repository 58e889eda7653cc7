"""One neuron at a time: what it does for each language, and the sentences that move it most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from babelscope.app.evidence import evidence, held_by
from babelscope.app.heads import words_of
from babelscope.app.sentences import languages_of_neuron
from babelscope.app.session import Session
from babelscope.app.work import TOKENS_LIMIT, Work, bounded
from babelscope.errors import InputError
from babelscope.models import Model, Site, capture
from babelscope.tasks import Encoder

EACH = 2
"""sentences of each language that are shown token by token"""


@dataclass(frozen=True)
class Passage:
    """A text with what a neuron gives out at each of its tokens."""

    language: str
    """empty for what was typed"""
    words: tuple[str, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class Neuron:
    """One neuron's card."""

    layer: int
    neuron: int
    region: str
    by_language: pd.DataFrame
    """score (eq. 11), z, and mean activation where parallel text is at hand, with whether it lies above the mean of all
    languages: a score is a product, and blind to that"""
    sentences: pd.DataFrame | None
    """the sentences with the largest mean activation; None without parallel text"""
    source: str
    measure: tuple[str, list[float]]
    """what neurons are ranked by, and this one's value in each language"""
    passages: tuple[Passage, ...] = ()
    """token by token: what was typed, then the sentences of each language that move it most"""


def strongest(session: Session, language: str, work: Work, top: int = 50) -> pd.DataFrame:
    """The neurons with the largest effect in a language; by z, the larger score first among equals, where the run has
    no effects.
    """
    scores = session.scores(work)
    if language not in scores.languages:
        raise InputError(f"no scores for {language!r}; there are some for {', '.join(scores.languages)}")
    session.regions(work)
    row = scores.languages.index(language)
    layout = scores.layout
    name, measure = scores.ranking
    z, score = layout.in_a_row(scores.z[row]), layout.in_a_row(scores.score[row])
    ranked = layout.in_a_row(measure[row]).nan_to_num(-torch.inf)
    if name == "z":
        # z alone is full of ties at √(L − 1): neurons that one language alone has, however weakly
        ranked = score * (ranked >= ranked.topk(min(4 * top, len(ranked))).values.min())
    order = torch.argsort(ranked, descending=True)[:top]
    columns = {"effect": ranked} if name == "effect" else {}
    rows = pd.DataFrame(
        {
            "layer": (where := layout.name(place))[0],
            "neuron": where[1],
            **{title: float(column[place]) for title, column in columns.items()},
            "z": float(z[place]),
            "score": float(score[place]),
            "region": languages_of_neuron(session, *where),
        }
        for place in order.tolist()
    )
    if session.model is not None and session.corpus is not None:
        recording = session.recording(work)
        means = [recording.values(slice(place, place + 1))[..., 0].mean(1) for place in order.tolist()]
        rows["direction"] = [directions(each, recording.languages, [language])[0] for each in means]
    return rows


def directions(means: Float[Tensor, " L"], languages: Sequence[str], shown: Sequence[str]) -> list[str]:
    """Whether each language holds a neuron above or below the mean of all: raised, lowered, or – where it does neither
    or is unknown.

    >>> directions(torch.tensor([1.0, -4.0, -1.5]), ("en", "zh", "es"), ("zh", "es", "fr"))
    ['lowered', '–', '–']
    """
    apart = (means - means.mean()).tolist()
    least = 1e-6 * float(means.abs().max())  # what is left of equal means is rounding
    above = {code: value > 0 for code, value in zip(languages, apart) if abs(value) > least}
    return ["–" if code not in above else "raised" if above[code] else "lowered" for code in shown]


def look_at(session: Session, layer: int, neuron: int, work: Work, typed: str = "", top: int = 12) -> Neuron:
    """Scores and evidence of one neuron by language, its top sentences, and its activation over tokens, of the text
    that was typed as well; raises InputError when there is no such neuron.
    """
    scores = session.scores(work)
    place = scores.layout.place(layer, neuron)
    session.regions(work)
    table = pd.DataFrame(
        {
            "language": scores.languages,
            "score": scores.score[:, layer, neuron].tolist(),
            "z": scores.z[:, layer, neuron].tolist(),
        }
    )
    sentences = None
    table.insert(1, "held by", held_by(session, layer, neuron, scores.languages))
    for name, column in evidence(session, layer, neuron, scores.languages).items():
        table[name] = column
    passages: tuple[Passage, ...] = ()
    if session.model is not None and session.corpus is not None:
        recording = session.recording(work)
        values = recording.values(slice(place, place + 1))[..., 0]
        means = dict(zip(recording.languages, values.mean(1).tolist()))
        table["mean activation"] = [means.get(code, float("nan")) for code in scores.languages]
        table["direction"] = directions(values.mean(1), recording.languages, scores.languages)
        sentences = _top(session, values, recording.languages, recording.ids, top)
        passages = _passages(session, layer, neuron, values, recording.languages, typed, work)
    region = languages_of_neuron(session, layer, neuron)
    name, ranking = scores.ranking
    measure = (name, ranking[:, layer, neuron].tolist())
    return Neuron(layer, neuron, region, table, sentences, scores.source, measure, passages)


def over_tokens(model: Model, layer: int, neuron: int, text: str) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """The tokens of a text with what a neuron gives out at each."""
    encoder = Encoder(model.tokenizer)
    ids = [*encoder.prefix, *encoder.encode(text).ids][:TOKENS_LIMIT]
    with torch.inference_mode(), capture(model, [Site("neurons", layer)]) as seen:
        model.trunk(torch.tensor([ids], device=model.device))
    values = seen[Site("neurons", layer)][0, :, neuron].float().tolist()
    return words_of(encoder, text, ids)[: len(ids)], tuple(values)


def _passages(
    session: Session,
    layer: int,
    neuron: int,
    values: torch.Tensor,
    languages: tuple[str, ...],
    typed: str,
    work: Work,
) -> tuple[Passage, ...]:
    """The typed text, then the sentences of each language that move the neuron most, token by token."""
    model, corpus = session.need_model(), session.need_corpus()
    order = values.argsort(1, descending=True)[:, :EACH].tolist()
    texts = [(code, corpus.texts[code][at]) for code, row in zip(languages, order) for at in row]
    if typed.strip():
        texts.insert(0, ("", bounded(typed, "the text")))
    passages: list[Passage] = []
    with work.stage("reading it token by token", len(texts), "sentences") as step:
        for code, text in texts:
            words, each = over_tokens(model, layer, neuron, text)
            passages.append(Passage(code, words, each))
            step(1)
    return tuple(passages)


def _top(
    session: Session, values: torch.Tensor, languages: tuple[str, ...], ids: tuple[str, ...], top: int
) -> pd.DataFrame:
    corpus = session.need_corpus()
    best = values.flatten().topk(min(top, values.numel()))
    rows = [
        {
            "mean activation": value,
            "language": languages[place // len(ids)],
            "text": corpus.texts[languages[place // len(ids)]][place % len(ids)],
            "id": ids[place % len(ids)],
        }
        for value, place in zip(best.values.tolist(), best.indices.tolist())
    ]
    return pd.DataFrame(rows)
