"""The tables of a study of latent language: rows of numbers with their ends, a reason where there is none.

L layers + 1 · n concept
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import nan
from typing import TypedDict

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from babelscope.latent.census import CensusRow, census
from babelscope.latent.excess import handover
from babelscope.latent.inference import Band, mean_interval, simultaneous
from babelscope.latent.judging import Pair, Rules
from babelscope.latent.patching import MASSES, SOURCES, Patched
from babelscope.latent.separation import Separation
from babelscope.latent.tuned import TunedLens
from babelscope.latent.verdict import Evidence, Verdict
from babelscope.regions.residual import PooledResidual, anisotropy, residual_alignment
from babelscope.results.rows import rows_frame
from babelscope.results.schemas.latent import (
    Control,
    Curve,
    Entropy,
    LatentVerdict,
    Patch,
    ResidualAlignment,
    TunedScore,
)
from babelscope.stats import Interval

Mask = NDArray[np.bool_]
Found = Mapping[str, tuple[Evidence, Verdict]]
FLAT = "the same in every concept, or under 3 concepts"


def census_rows(pair: Pair) -> list[CensusRow]:
    """A row a language; nothing needs to have been read."""
    return census(pair.words, pair.tokens, pair.source, pair.target, list(pair.kept.values()))


def census_frame(pair: Pair) -> pd.DataFrame:
    """The same as a table."""
    return rows_frame(CensusRow, census_rows(pair))


def curves_frame(pair: Pair, lens: str, scopes: Mapping[str, Mask], rules: Rules) -> pd.DataFrame:
    """Mass, row, column and excess with simultaneous ends over the inner layers, by language and layer."""
    rows: list[Curve] = []
    for code, own in pair.excess.items():
        for scope, chosen in scopes.items():
            usable = chosen & own.compared
            inner = simultaneous(own.value[1:-1, usable], rules.draws, rules.seed)
            band = _with_ends(inner, own.value[:, usable])
            rows += [
                Curve(
                    **_key(pair, lens), language=code, scope=scope, layer=layer, mass=_mean(own.mass[layer, usable]),
                    row=_mean(own.row[layer, usable]), col=_mean(own.col[layer, usable]), excess=band.value[layer],
                    excess_low=band.low[layer], excess_high=band.high[layer], concepts=int(usable.sum()),
                    why=_why(band, layer, len(own.mass)),
                )
                for layer in range(len(own.mass))
            ]  # fmt: skip
    return rows_frame(Curve, rows)


def _why(band: Band, layer: int, layers: int) -> str:
    if layer in (0, layers - 1):
        return "first and last layer: outside the simultaneous band"
    return "" if np.isfinite(band.low[layer]) else FLAT


def _with_ends(inner: Band, values: NDArray[np.float64]) -> Band:
    edge = np.array([nan])
    mean = values.mean(1) if values.shape[1] else np.full(len(values), nan)
    return Band(mean, np.concatenate([edge, inner.low, edge]), np.concatenate([edge, inner.high, edge]))


class _Key(TypedDict):
    lens: str
    source: str
    target: str


def _key(pair: Pair, lens: str) -> _Key:
    return {"lens": lens, "source": pair.source, "target": pair.target}


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean()) if values.size else nan


def entropy_frame(pair: Pair, lens: str) -> pd.DataFrame:
    """Mean entropy over concepts by layer, bits, with a simultaneous band; none lies below 0."""
    band = simultaneous(pair.readings.entropy)
    return rows_frame(Entropy, (
        Entropy(**_key(pair, lens), layer=layer, entropy=value, entropy_low=max(low, 0.0), entropy_high=high)
        for layer, (value, low, high) in enumerate(zip(band.value, band.low, band.high))
    ))  # fmt: skip


def verdicts_frame(pair: Pair, lens: str, found: Mapping[str, Found]) -> pd.DataFrame:
    """A row a candidate and scope: outcome, what it rests on, and why."""
    rows: list[LatentVerdict] = []
    for scope, verdicts in found.items():
        for code, (evidence, verdict) in verdicts.items():
            low, high = evidence.accuracy.interval
            inner = evidence.inner.value
            ahead = handover(evidence.curve, evidence.target)
            rows.append(
                LatentVerdict(
                    **_key(pair, lens), language=code, scope=scope, outcome=verdict.outcome, why=verdict.why,
                    solved=evidence.accuracy.solved, asked=evidence.accuracy.asked, accuracy_low=low,
                    accuracy_high=high, concepts=evidence.concepts, strength=evidence.strength.value,
                    strength_low=evidence.strength.low, strength_high=evidence.strength.high, p=evidence.p,
                    peak_layer=int(np.argmax(inner)) + 1 if np.isfinite(inner).all() else nan,
                    handover_layer=nan if ahead is None else ahead,
                )
            )  # fmt: skip
    return rows_frame(LatentVerdict, rows)


def controls_frame(pair: Pair, lens: str, found: Mapping[str, Found], rules: Rules) -> pd.DataFrame:
    """Strength A_k of each candidate as it is and under every control."""
    rows: list[Control] = []
    for scope, verdicts in found.items():
        for code, (evidence, _) in verdicts.items():
            overlap = pair.overlap(code, pair.solved if scope == "solved" else np.ones_like(pair.solved))
            less = mean_interval(pair.excess[code].strength()[overlap.less_similar], rules.draws, rules.seed)
            no_matched = (
                "" if np.isfinite(evidence.matched) else "not drawn: A is not above 0, or no draws were asked for"
            )
            controls: list[tuple[str, Interval]] = [
                ("none", evidence.strength),
                ("words of like frequency", evidence.frequency),
                ("without source's and target's directions", evidence.geometry),
                ("rows of matched spectrum, 95 % quantile", Interval(evidence.matched, nan, nan, why=no_matched)),
                ("less similar half of the words", less),
                ("Spearman with likeness of the words", Interval(overlap.spearman, nan, nan, why=overlap.why)),
                *((f"minus {other}", ends) for other, ends in evidence.against.items()),
            ]
            rows += [
                Control(**_key(pair, lens), language=code, scope=scope, control=name, **_ends(ends))
                for name, ends in controls
            ]
    return rows_frame(Control, rows)


class _Ends(TypedDict):
    value: float
    value_low: float
    value_high: float
    why: str


def _ends(interval: Interval) -> _Ends:
    return {"value": interval.value, "value_low": interval.low, "value_high": interval.high, "why": interval.why}


def tuned_frame(lens: TunedLens) -> pd.DataFrame:
    """How near the lens and the plain one come to the model's next word, by language and layer."""
    return rows_frame(TunedScore, lens.scores)


def patch_frame(found: Patched, verdict: Separation) -> pd.DataFrame:
    """E1 by layer and mass, E2 by layer and source, recoveries; over the trials with both prompts solved, else all.

    Means are over concepts, as trials of one concept are not independent; `pairs` are those that have a number.
    """
    use = found.solved if verdict.decidable else np.ones(len(found.solved), bool)
    scope = "solved" if verdict.decidable else "all"
    (a, b), (c, d) = found.languages.source, found.languages.target

    def row(experiment: str, what: str, layer: float, patched: str, share: Interval, pairs: int) -> Patch:
        return Patch(
            from_=f"{a}→{b}", into=f"{c}→{d}", scope=scope, pairs=pairs, experiment=experiment, what=what,
            layer=layer, patched=patched, **_ends(share),
        )  # fmt: skip

    def mean(experiment: str, what: str, layer: float, patched: str, values: NDArray[np.float64]) -> Patch:
        known = use & ~np.isnan(values)
        share = mean_interval(_by_concept(values[known], found.concepts[known]))
        return row(experiment, what, layer, patched, share, int(known.sum()))

    rows: list[Patch] = []
    for place, mass in enumerate(MASSES):
        rows.append(mean("E1", mass, nan, "nothing", found.unpatched[:, place]))
        for layer in range(found.last.shape[1]):
            rows.append(mean("E1", mass, layer + 1, "last", found.last[:, layer, place]))
    rows.append(mean("E2", "c1 in d", nan, "asked for c1", found.ceiling))
    for place, source in enumerate(SOURCES):
        for layer in range(found.word.shape[2]):
            rows.append(mean("E2", "c1 in d", layer, source, found.word[:, place, layer]))
    rows += [row("E2", "recovery", nan, one.source, one.share, verdict.pairs) for one in verdict.recoveries]
    return rows_frame(Patch, rows)


def _by_concept(values: NDArray[np.float64], concepts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean over the trials of each concept."""
    return np.array([values[concepts == one].mean() for one in np.unique(concepts)])


def alignment_frame(pooled: PooledResidual, seed: int) -> pd.DataFrame:
    """Every metric on pooled residuals by pair of languages and layer, what shuffled sentences give, and anisotropy."""
    rows: list[ResidualAlignment] = []
    for pooling, recording in pooled.recordings.items():
        rows += [
            ResidualAlignment(pooling=pooling, treatment="plain", metric="cosine of any two", layer=layer, value=value)
            for layer, value in enumerate(anisotropy(recording))
        ]
        for one in residual_alignment(recording, seed):
            found = one.alignment
            rows += [
                ResidualAlignment(
                    pooling=pooling, treatment=one.treatment, metric=found.metric, layer=layer,
                    value=float(found.values[layer, second, first]), language=recording.languages[second], other=code,
                    value_low=float(found.low[layer, second, first]),
                    value_high=float(found.high[layer, second, first]),
                    shuffled=float(one.shuffled[layer, second, first]),
                )
                for first, code in enumerate(recording.languages)
                for second in range(first)
                for layer in range(recording.layers)
            ]  # fmt: skip
    return rows_frame(ResidualAlignment, rows)


def joined(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Tables of several pairs and lenses below each other."""
    return pd.concat([frame for frame in frames if len(frame)], ignore_index=True) if frames else pd.DataFrame()
