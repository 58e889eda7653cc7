"""Neurons that fire at one position, kept out of the norm: else every other neuron follows the number of tokens.

The mean of such a neuron over T tokens goes with 1/T, so that the slope of log v² on log T is −2. Where it carries much
of ‖v‖², a language whose sentences have more tokens has a smaller norm, and all other neurons score higher there.

    b_k = slope of log v_k² on log T, sentences centred per language, pooled
    f_k = the least, over languages, of the share of Σ_i v_k² that the first token carries
    K = all; repeat: share_k = mean over l, i of v_k² / Σ_{j in K} v_j²
             take out every k with share_k > max(sink_share, 3/D), and b_k + 1.645 se < −1,
             or f_k > 1/2 and f_k (T̄ − 1) > 5 (1 − f_k) in every language; until none
    x = v_K / ‖v_K‖

The slope must lie below −1 for certain: of a neuron that one language alone uses, in few sentences, it is noise. A sink
that also fires a little elsewhere has no such slope, so where it fires is looked at too: at the first token more than
everywhere else together, and more than five times as much as at another token, whatever the language. A neuron that one
language uses for its first words is none.

L language · n sentence · D neuron · P layer · N neurons of a layer
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from babelscope.errors import InputError
from babelscope.regions.recording import Recording
from babelscope.results.rows import Row
from babelscope.terms import Norm

SINK_SHARE = 0.005
"""of ‖v‖², above which a neuron whose slope is that of a sink leaves the norm"""
SHARE_ALONE = 0.05
"""above which it leaves where sentences are too alike in length to know its slope"""
LEAST_SPREAD = 0.1
"""of log T within languages, below which no slope is known"""
MOST_OUT = 0.05
"""of all neurons"""
CERTAIN = 1.645
"""standard errors between a sink's slope and −1"""
AT_FIRST, TIMES = 0.5, 5.0
"""of a neuron's v², and of what another token carries, above which the first token makes a sink, in every language"""
KEPT = "layer, kept"
COUPLED = 0.2
"""|β| above which numbers are called length-coupled"""


@dataclass(frozen=True)
class Sink(Row):
    """One neuron left out of a norm."""

    TABLE: ClassVar[str] = "sinks"
    scope: str
    """`model`, `layer` for the numbers by layer, or `layer, kept` where so many follow length that none leaves"""
    layer: int
    neuron: int
    share: float
    """of ‖v_K‖² when it was taken out, mean over sentences"""
    slope: float
    """b_k; NaN where the lengths of sentences are too alike"""
    first: float = float("nan")
    """f_k; NaN where the first token was not recorded by itself"""


def normalised(
    recording: Recording, norm: Norm = "robust", sink_share: float = SINK_SHARE
) -> tuple[Recording, list[Sink]]:
    """The recording under a norm, and the sinks that were left out of it; without any it is as under `paper`.

    Raises InputError where more than a twentieth of the model's neurons would have to leave, for an unknown norm, and
    for a `sink_share` that is no share. In a layer where so many would, none leaves, and the list says so.

    >>> recording, sinks = normalised(recording)                      # doctest: +SKIP
    >>> sinks[0].neuron, round(sinks[0].slope, 1)                     # doctest: +SKIP
    (0, -2.0)
    """
    if norm not in ("robust", "paper", "none"):
        raise InputError(f"no norm {norm!r}; there are robust, paper and none")
    if not 0 < sink_share < 1:
        raise InputError(f"a sink share of {sink_share:g} is not between 0 and 1")
    if norm != "robust":
        return replace(recording, norm=norm, out=None, layers_out=None), []
    raw = replace(recording, norm="paper", out=None, layers_out=None)
    layout = raw.layout
    whole = _search(_Slice(raw, [*raw.chunks()], 0), sink_share, "the model")
    rows = [Sink("model", *layout.name(k), *facts) for k, *facts in whole]
    out = _mask(raw.neurons, (k for k, *_ in whole))
    layers_out = torch.zeros(raw.layers, layout.widest, dtype=torch.bool)
    for layer in layout.with_neurons:
        columns, width = layout.columns(layer), layout.widths[layer]
        found = _search(_Slice(raw, [columns], columns.start), sink_share, None)
        few = len(found) <= MOST_OUT * width
        if few:
            layers_out[layer, :width] = _mask(width, (k for k, *_ in found))
        rows += [Sink("layer" if few else KEPT, layer, k, *facts) for k, *facts in found]
    return replace(
        raw,
        norm="robust",
        out=out if bool(out.any()) else None,
        layers_out=layers_out if bool(layers_out.any()) else None,
    ), rows


def length_coupling(recording: Recording) -> float:
    """β, the pooled slope of log ‖v_K‖ on log T within languages; NaN where sentences are too alike in length.

    With T words of independent noise it is about −0.1 on models without a sink; beyond ±0.2 scores follow length.
    """
    if not slopes_known(recording):
        return float("nan")
    norms = replace(recording, norm="paper").norms()
    return float(pooled_slope(norms.log()[..., None], recording.tokens)[0])


def slopes_known(recording: Recording) -> bool:
    """Whether sentences of one language differ enough in length."""
    return bool(_centred_lengths(recording.tokens).square().mean().sqrt() >= LEAST_SPREAD)


def pooled_slope(y: Float[Tensor, "L n C"], tokens: Tensor) -> tuple[Float[Tensor, " C"], Float[Tensor, " C"]]:
    """Slope of y on log T and its standard error, centred within each language; what is not finite is left out."""
    known = torch.isfinite(y)
    weight = known.double()
    count = weight.sum(1, keepdim=True).clamp(min=1)
    t = tokens.double().log()[..., None].expand_as(y)
    t = (t - (t * weight).sum(1, keepdim=True) / count) * weight
    y = torch.where(known, y, 0.0)
    y = (y - y.sum(1, keepdim=True) / count) * weight
    spread = t.square().sum((0, 1))
    slope = (t * y).sum((0, 1)) / spread
    freedom = (weight.sum((0, 1)) - (weight.sum(1) > 0).sum(0) - 1).clamp(min=1)
    return slope, ((y - slope * t).square().sum((0, 1)) / freedom / spread).sqrt()


def _centred_lengths(tokens: Tensor) -> Float[Tensor, "L n"]:
    lengths = tokens.double().log()
    return lengths - lengths.mean(1, keepdim=True)


@dataclass(frozen=True)
class _Slice:
    """Some columns of a recording, read block by block."""

    recording: Recording
    blocks: list[slice]
    start: int

    @property
    def size(self) -> int:
        return self.blocks[-1].stop - self.start

    def each(self, work: Callable[[slice, Float[Tensor, "L n C"]], None]) -> None:
        for block in self.blocks:
            columns = slice(block.start - self.start, block.stop - self.start)
            work(columns, self.recording.stored(block).double())


def _search(part: _Slice, sink_share: float, where: str | None) -> list[tuple[int, float, float, float]]:
    """(place in the slice, share, slope, first token's part) of every neuron taken out."""
    found: list[tuple[int, float, float, float]] = []
    out = torch.zeros(part.size, dtype=torch.bool)
    known = slopes_known(part.recording)
    least, alone = max(sink_share, 3 / part.size), max(SHARE_ALONE, 3 / part.size)
    while True:
        shares = _shares(part, out)
        more: list[tuple[int, float, float, float]] = []
        for k in ((shares > least) & ~out).nonzero()[:, 0].tolist():
            slope, error = _slope(part, k) if known else (float("nan"), 0.0)
            first, fires_first = _at_first(part.recording, part.start + k)
            follows_length = slope + CERTAIN * error < -1 if known else float(shares[k]) > alone
            if follows_length or fires_first:
                more.append((k, float(shares[k]), slope, first))
        if not more or len(found) > MOST_OUT * part.size:
            return found
        found += more
        out[[k for k, *_ in more]] = True
        if where and len(found) > MOST_OUT * part.size:
            raise InputError(
                f"{where}: {len(found)} of {part.size} neurons follow sentence length, or fire at the first token, as "
                f"sinks do, more than {MOST_OUT:.0%}; take --norm paper, or --first drop"
            )


def _shares(part: _Slice, out: Bool[Tensor, " C"]) -> Float[Tensor, " C"]:
    squares = torch.zeros(part.recording.tokens.shape, dtype=torch.float64)

    def add(columns: slice, v: Tensor) -> None:
        nonlocal squares
        squares = squares + v.masked_fill(out[columns], 0).square().sum(-1)

    part.each(add)
    shares: list[Tensor] = []
    # a sentence that is silent beside its sinks has no shares
    whole = torch.where(squares > 0, squares, torch.inf)[..., None]
    part.each(lambda _, v: shares.append((v.square() / whole).mean((0, 1))))
    return torch.cat(shares)


def _slope(part: _Slice, k: int) -> tuple[float, float]:
    v = part.recording.stored(slice(part.start + k, part.start + k + 1)).double()
    slope, error = pooled_slope(v.square().log(), part.recording.tokens)
    return float(slope), float(error)


def _at_first(recording: Recording, neuron: int) -> tuple[float, bool]:
    """The least share of a neuron's v² that the first token carries in any language, and whether it makes a sink."""
    if recording.first_part is None:
        return float("nan"), False
    part = recording.first_part[:, neuron].double()
    others = recording.tokens.double().mean(1) - 1
    fires = (part > AT_FIRST) & (part * others > TIMES * (1 - part))
    return float(part.min()), bool(fires.all())


def _mask(size: int, places: Iterable[int]) -> Bool[Tensor, " C"]:
    mask = torch.zeros(size, dtype=torch.bool)
    mask[list(places)] = True
    return mask
