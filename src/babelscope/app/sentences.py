"""Typed sentences: how alike the model finds them, and the neurons that make them so (regions.md, sections 2 to 4).

S sentence · D neurons of the whole model
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from babelscope.app.session import Session
from babelscope.app.work import SENTENCES_LIMIT, TEXT_LIMIT, Work, bounded
from babelscope.corpora import ParallelCorpus
from babelscope.errors import InputError
from babelscope.regions.localisation import WithinLanguageSums, within_language_scores
from babelscope.regions.recording import record
from babelscope.regions.similarity import gram


@dataclass(frozen=True)
class Comparison:
    """What the model makes of some sentences."""

    sentences: tuple[str, ...]
    similarity: Float[Tensor, "S S"]
    """cosine of the mean activations (eq. 7)"""
    by_layer: Float[Tensor, " P"]
    """mean similarity of two different sentences in each layer"""
    own: pd.DataFrame
    """the neurons that carry most of each sentence's vector"""
    shared: pd.DataFrame
    """the neurons that make the sentences alike"""


def sentences_of(text: str) -> tuple[str, ...]:
    """The lines of a text field; raises InputError when there are too few, too many, or too long ones."""
    text = bounded(text, "the list of sentences", TEXT_LIMIT * SENTENCES_LIMIT)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) < 2:
        raise InputError("type at least two sentences, one on each line")
    if len(lines) > SENTENCES_LIMIT:
        raise InputError(f"there are {len(lines)} sentences; at most {SENTENCES_LIMIT} are compared here")
    return tuple(bounded(line, f"sentence {place}") for place, line in enumerate(lines, start=1))


def compare(session: Session, text: str, layer: int | None, work: Work, top: int = 8) -> Comparison:
    """Similarity of the lines of `text`, over the whole model or one layer, with the neurons behind it.

    Raises InputError for unusable text, NonFinite where an activation is not a number.
    """
    model, lines = session.need_model(), sentences_of(text)
    if layer is not None and not 0 <= layer < model.layers:
        raise InputError(f"there is no layer {layer}: the model has layers 0 to {model.layers - 1}")
    # each sentence as a language of its own, so that the usual recording does the work
    corpus = ParallelCorpus.from_texts({str(place): [line] for place, line in enumerate(lines, start=1)})
    with work.stage("reading the sentences", len(lines), "sentences") as step:
        recording = record(model, corpus, progress=step)
    x = torch.cat([part for _, part in recording.unit_chunks()], dim=-1)[:, 0]
    if layer is not None and layer not in model.neuron_layers:
        raise InputError(f"layer {layer} has no neurons")
    grams = {one: gram(recording, one)[:, 0, :, 0] for one in model.neuron_layers}
    apart = ~torch.eye(len(lines), dtype=torch.bool)
    contributions = within_language_scores(WithinLanguageSums(x.sum(0)[None], x.square().sum(0)[None], len(lines)))[0]
    return Comparison(
        lines,
        gram(recording)[:, 0, :, 0] if layer is None else grams[layer],
        torch.tensor([float(grams[one][apart].mean()) if one in grams else math.nan for one in range(model.layers)]),
        _own(session, x, recording.values()[:, 0], top),
        _shared(session, contributions, top),
    )


def languages_of_neuron(session: Session, layer: int, neuron: int) -> str:
    """The languages whose region holds a neuron, as far as regions are known."""
    regions = session.known_regions
    if regions is None:
        return ""
    return " ".join(code for code, mask in regions.masks.items() if bool(mask[layer, neuron]))


def _own(session: Session, x: Tensor, values: Tensor, top: int) -> pd.DataFrame:
    layout = session.need_model().layout
    shares, places = x.square().topk(top, dim=-1)
    rows = [
        {
            "sentence": row + 1,
            "layer": (name := layout.name(place))[0],
            "neuron": name[1],
            "mean activation": float(values[row, place]),
            "share": share,
            "region": languages_of_neuron(session, *name),
        }
        for row in range(len(x))
        for share, place in zip(shares[row].tolist(), places[row].tolist())
    ]
    return pd.DataFrame(rows)


def _shared(session: Session, contributions: Tensor, top: int) -> pd.DataFrame:
    layout = session.need_model().layout
    best = contributions.topk(top)
    rows = [
        {
            "layer": (name := layout.name(place))[0],
            "neuron": name[1],
            "adds to similarity": value,
            "region": languages_of_neuron(session, *name),
        }
        for value, place in zip(best.values.tolist(), best.indices.tolist())
    ]
    return pd.DataFrame(rows)
