"""Scores that set the activations of one language against those of the rest, neuron by neuron.

They read the stored means as they are (not normalised), in chunks of neurons.

L language · n sentence · D neuron · C neurons of a chunk
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from babelscope.regions.recording import Recording

_CHUNK = 2048


def average_precision(recording: Recording) -> Float[Tensor, "L D"]:
    """Average precision of each neuron as a detector of each language's sentences among all (Kojima et al. 2024).

    Equal activations share the precision at the end of their group, so the order of sentences cannot matter. A neuron
    that tells nothing has about 1/L.
    """
    return torch.cat([_precision(recording.values(block)) for block in recording.chunks(_CHUNK)], dim=1)


def _precision(v: Float[Tensor, "L n C"]) -> Float[Tensor, "L C"]:
    languages, sentences, width = v.shape
    items = languages * sentences
    ordered = v.reshape(items, width).sort(dim=0, descending=True)
    owner = ordered.indices // sentences
    place = torch.arange(items)[:, None].expand(items, width)
    last = torch.ones(items, width, dtype=torch.bool)
    last[:-1] = ordered.values[:-1] != ordered.values[1:]
    # each item's place is that of the last of its equals: a running minimum from the end
    end = torch.where(last, place, items).flip(0).cummin(0).values.flip(0)
    scores: list[Tensor] = []
    for language in range(languages):
        hit = owner == language
        precision = hit.double().cumsum(0).gather(0, end) / (end + 1)
        scores.append((precision * hit).sum(0) / sentences)
    return torch.stack(scores)


def eta_squared(recording: Recording) -> Float[Tensor, "L D"]:
    """Each language's part of the share of variance that lies between languages, negative where it is below the mean.

    η² is the sum of absolute values over languages; 0 for a neuron that does not vary.
    """
    parts: list[Tensor] = []
    for block in recording.chunks(_CHUNK):
        v = recording.values(block).double()
        mean = v.mean((0, 1))
        difference = v.mean(1) - mean
        whole = (v - mean).square().sum((0, 1))
        own = v.shape[1] * difference.square() * difference.sign()
        parts.append(torch.where(whole > 1e-24 * v.square().sum((0, 1)), own / whole, 0.0))
    return torch.cat(parts, dim=1)


def welch(recording: Recording) -> tuple[Float[Tensor, "L D"], Float[Tensor, "L D"], Float[Tensor, "L D"]]:
    """t, one-sided p-value and standardised difference of each language against all the others together.

    Welch's test, of a higher mean, without the assumption of equal variances; the difference is in units of the root
    mean of both variances. A neuron without variance has t = 0, p = 1.
    """
    from scipy.stats import t as student

    ts: list[Tensor] = []
    ps: list[Tensor] = []
    effects: list[Tensor] = []
    for block in recording.chunks(_CHUNK):
        v = recording.values(block).double()
        languages, sentences = v.shape[:2]
        rest = sentences * (languages - 1)
        total, squares = v.sum(1), v.square().sum(1)
        mean, others = total / sentences, (total.sum(0) - total) / rest
        own = (squares / sentences - mean.square()).clamp(min=0) * sentences / (sentences - 1)
        away = ((squares.sum(0) - squares) / rest - others.square()).clamp(min=0) * rest / (rest - 1)
        error = own / sentences + away / rest
        usable = error > 1e-24 * (squares.sum(0) / (sentences * languages))
        t = torch.where(usable, (mean - others) / error.sqrt(), 0.0)
        freedom = error.square() / ((own / sentences).square() / (sentences - 1) + (away / rest).square() / (rest - 1))
        p = torch.from_numpy(np.asarray(student.sf(t.numpy(), freedom.nan_to_num(1.0).numpy())))
        ts.append(t)
        ps.append(torch.where(usable, p, 1.0))
        effects.append(torch.where(usable, (mean - others) / ((own + away) / 2).sqrt(), 0.0))
    return torch.cat(ts, 1), torch.cat(ps, 1), torch.cat(effects, 1)
