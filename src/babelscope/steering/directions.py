"""Directions from one language to another, layer by layer (steering.md, section 2).

    diffmean  d = m_t − m_s                                (CLaS-Bench; CAA, Rimsky et al. 2024)
    centred   d = (m_t − m̄) − β (m_s − m̄)                  (ReCoVeR)
    rest      d = m_t − mean of all other languages        (2605.23036)
    lda       d = S⁻¹ (m_t − m_rest)                       (CLaS-Bench; S here by Ledoit and Wolf)
    pca       the first components of t's centred tokens   (CLaS-Bench)

P layer · D model width · n token · K component
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from babelscope.errors import InputError
from babelscope.steering.moments import Moments
from babelscope.terms import DIRECTIONS
from babelscope.terms import Direction as Method

METHODS = DIRECTIONS
COMPONENTS = 20


@dataclass(frozen=True, eq=False)
class Direction:
    """A unit vector at one layer, with the units that strengths are given in."""

    source: str
    target: str
    layer: int
    method: str
    unit: Float[Tensor, " D"]
    """u = d/‖d‖, float64"""
    gap: float
    """g = ‖m_t − m_s‖ at this layer, whatever the method"""
    at_source: float
    """p_s = m_s · u"""
    at_target: float
    """p_t = m_t · u"""
    norm: float
    """mean length of a token's state at this layer"""
    basis: Float[Tensor, "K D"] | None = None
    """pca: the components, in rows"""


def direction(
    moments: Moments,
    source: str,
    target: str,
    layer: int,
    method: Method = "diffmean",
    beta: float = 1.0,
    tokens: Mapping[str, Float[Tensor, "n D"]] | None = None,
) -> Direction:
    """The direction of a method; `tokens`: states of single tokens, for lda of all languages, for pca of the target.

    Raises InputError for an unknown method or layer, for tokens that are missing, and where the direction is zero.

    >>> direction(moments, "en", "fr", layer=3).gap                    # doctest: +SKIP
    """
    if not 0 <= layer < moments.layers:
        raise InputError(f"no layer {layer}: states are known at layers 0 to {moments.layers - 1}")
    if source == target:
        raise InputError(f"a direction leads from one language to another, not from {source} to itself")
    m_s, m_t = moments.mean(source)[layer], moments.mean(target)[layer]
    basis: Tensor | None = None
    if method == "diffmean":
        d = m_t - m_s
    elif method == "centred":
        middle = moments.means()[:, layer].mean(0)
        d = (m_t - middle) - beta * (m_s - middle)
    elif method == "rest":
        d = rest_direction(moments, target)[layer]
    elif method == "lda":
        d = _lda(_needed(tokens, moments.languages, method), target)
    elif method == "pca":
        basis = components(_needed(tokens, (target,), method)[target])
        d = basis[0] * torch.sign(basis[0] @ (m_t - m_s))
    else:
        raise InputError(f"no method {method!r}; there are {', '.join(METHODS)}")
    length = float(d.norm())
    if not length > 1e-12 * float(m_t.norm().clamp_min(1e-300)):
        raise InputError(f"{method} {source}:{target} at layer {layer}: the direction is zero")
    unit = d / length
    return Direction(
        source, target, layer, method, unit, float((m_t - m_s).norm()), float(m_s @ unit), float(m_t @ unit),
        float(moments.norms[layer]), basis,
    )  # fmt: skip


def rest_direction(moments: Moments, target: str) -> Float[Tensor, "E D"]:
    """m_t minus the mean over all that is not in t, in every layer."""
    place = moments.index(target)
    others = [row for row in range(len(moments.languages)) if row != place]
    if not others:
        raise InputError("a direction against the rest needs a second language")
    rest = moments.sums[others].sum((0, 1)) / moments.counts[others].sum()
    return moments.mean(target) - rest


def _needed(tokens: Mapping[str, Tensor] | None, languages: tuple[str, ...], method: str) -> Mapping[str, Tensor]:
    missing = [code for code in languages if code not in (tokens or {})]
    if tokens is None or missing:
        raise InputError(f"{method} needs the states of single tokens of {', '.join(missing)}")
    return tokens


def _lda(tokens: Mapping[str, Tensor], target: str) -> Float[Tensor, " D"]:
    own = tokens[target].double()
    rest = torch.cat([states.double() for code, states in tokens.items() if code != target])
    within = torch.cat([own - own.mean(0), rest - rest.mean(0)])
    return torch.linalg.solve(ledoit_wolf(within), own.mean(0) - rest.mean(0))


def ledoit_wolf(centred: Float[Tensor, "n D"]) -> Float[Tensor, "D D"]:
    """Covariance shrunk towards a multiple of the identity, as much as minimises the expected error (2004, eq. 14)."""
    n, width = centred.shape
    sample = centred.T @ centred / n
    scale = float(sample.trace()) / width
    target = scale * torch.eye(width, dtype=centred.dtype)
    spread = float((sample - target).square().sum())
    if spread == 0:
        return target
    noise = (float(centred.square().sum(1).square().sum()) / n - float(sample.square().sum())) / n
    shrinkage = min(max(noise / spread, 0.0), 1.0)
    return shrinkage * target + (1 - shrinkage) * sample


def components(states: Float[Tensor, "n D"], count: int = COMPONENTS) -> Float[Tensor, "K D"]:
    """The first principal components of centred states, in rows."""
    centred = states.double() - states.double().mean(0)
    values, vectors = torch.linalg.eigh(centred.T @ centred)
    return vectors[:, values.argsort(descending=True)[: min(count, len(values))]].T.contiguous()


# -- which layer ---------------------------------------------------------------------------------------------------


def dominance(moments: Moments) -> Float[Tensor, " E"]:
    """M = λ₁/Σλ of the correlation of the languages' unit `rest` directions; negative eigenvalues count as 0.

    The intersection rule of 2605.23036 takes the layer where M is nearest to its separability 1 − M.
    """
    if len(moments.languages) < 4:
        raise InputError(f"the intersection rule needs four languages; there are {len(moments.languages)}")
    directions = torch.stack([rest_direction(moments, code) for code in moments.languages])
    found: list[float] = []
    for layer in range(moments.layers):
        units = directions[:, layer] / directions[:, layer].norm(dim=1, keepdim=True)
        values = torch.linalg.eigvalsh(torch.corrcoef(units)).clamp_min(0)
        found.append(float(values[-1] / values.sum()))
    return torch.tensor(found, dtype=torch.float64)


def intersection_layer(moments: Moments) -> int:
    """The layer of least |M − (1 − M)|, the last left out."""
    return int((2 * dominance(moments)[:-1] - 1).abs().argmin())


def separation(moments: Moments, source: str, target: str, method: Method = "diffmean") -> Float[Tensor, " E"]:
    """(p_t − p_s)/sd of documents along u, with u fitted on the other half of the documents, both ways."""
    if len(moments.documents) < 4:
        raise InputError(f"the separation rule needs four documents; there are {len(moments.documents)}")
    halves = moments.documents[::2], moments.documents[1::2]
    found = torch.zeros(moments.layers, dtype=torch.float64)
    for fitted, other in (halves, halves[::-1]):
        held = moments.only(other)
        s, t = held.document_means(source), held.document_means(target)
        for layer in range(moments.layers):
            unit = direction(moments.only(fitted), source, target, layer, method).unit
            a, b = s[:, layer] @ unit, t[:, layer] @ unit
            spread = ((a.var(correction=1) + b.var(correction=1)) / 2).sqrt()
            found[layer] += (b.mean() - a.mean()) / spread / 2
    return found


def separation_layer(moments: Moments, source: str, target: str, method: Method = "diffmean") -> int:
    """The layer of greatest separation; the one before the final norm, where an edit biases logits, is left out."""
    return int(separation(moments, source, target, method)[:-1].argmax())
