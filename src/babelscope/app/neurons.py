"""One neuron at a time: what it does for each language, and the sentences that move it most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from babelscope.app.sentences import languages_of_neuron
from babelscope.app.session import Session
from babelscope.app.work import Work
from babelscope.errors import InputError


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


def strongest(session: Session, language: str, work: Work, top: int = 50) -> pd.DataFrame:
    """The neurons with the largest z in a language, the larger score first among equals."""
    scores = session.scores(work)
    if language not in scores.languages:
        raise InputError(f"no scores for {language!r}; there are some for {', '.join(scores.languages)}")
    session.regions(work)
    row = scores.languages.index(language)
    layout = scores.layout
    z, score = layout.in_a_row(scores.z[row]), layout.in_a_row(scores.score[row])
    # z alone is full of ties at √(L − 1): neurons that one language alone has, however weakly
    order = torch.argsort(score * (z >= z.topk(min(4 * top, len(z))).values.min()), descending=True)[:top]
    rows = pd.DataFrame(
        {
            "layer": (name := layout.name(place))[0],
            "neuron": name[1],
            "z": float(z[place]),
            "score": float(score[place]),
            "region": languages_of_neuron(session, *name),
        }
        for place in order.tolist()
    )
    if session.model is not None and session.corpus is not None:
        recording = session.recording(work)
        means = [recording.values(slice(place, place + 1))[..., 0].mean(1) for place in order.tolist()]
        rows["direction"] = [directions(each, recording.languages, [language])[0] for each in means]
    return rows


def directions(means: Float[Tensor, " L"], languages: Sequence[str], shown: Sequence[str]) -> list[str]:
    """Whether each language holds a neuron above or below the mean of all: raised, lowered, or – where it is unknown.

    >>> directions(torch.tensor([1.0, -4.0]), ("en", "zh"), ("zh", "fr"))
    ['lowered', '–']
    """
    above = dict(zip(languages, (means > means.mean()).tolist()))
    return ["–" if code not in above else "raised" if above[code] else "lowered" for code in shown]


def look_at(session: Session, layer: int, neuron: int, work: Work, top: int = 12) -> Neuron:
    """Scores of one neuron by language, and its top sentences; raises InputError when there is no such neuron."""
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
    if session.model is not None and session.corpus is not None:
        recording = session.recording(work)
        values = recording.values(slice(place, place + 1))[..., 0]
        means = dict(zip(recording.languages, values.mean(1).tolist()))
        table["mean activation"] = [means.get(code, float("nan")) for code in scores.languages]
        table["direction"] = directions(values.mean(1), recording.languages, scores.languages)
        sentences = _top(session, values, recording.languages, recording.ids, top)
    region = languages_of_neuron(session, layer, neuron)
    return Neuron(layer, neuron, region, table, sentences, scores.source)


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
