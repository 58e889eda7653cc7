"""The tables of a study of latent language: rows of numbers with their ends, a reason where there is none.

L layers + 1 · n concept
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from math import nan
from typing import Any

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
from babelscope.stats import Interval

Mask = NDArray[np.bool_]
Found = Mapping[str, tuple[Evidence, Verdict]]
FLAT = "the same in every concept, or under 3 concepts"


def census_rows(pair: Pair) -> list[CensusRow]:
    """A row a language; nothing needs to have been read."""
    return census(pair.words, pair.tokens, pair.source, pair.target, list(pair.kept.values()))


def census_frame(pair: Pair) -> pd.DataFrame:
    """The same as a table."""
    return pd.DataFrame([asdict(row) for row in census_rows(pair)])


def curves_frame(pair: Pair, lens: str, scopes: Mapping[str, Mask], rules: Rules) -> pd.DataFrame:
    """Mass, row, column and excess with simultaneous ends over the inner layers, by language and layer."""
    rows: list[dict[str, Any]] = []
    for code, own in pair.excess.items():
        for scope, chosen in scopes.items():
            usable = chosen & own.compared
            inner = simultaneous(own.value[1:-1, usable], rules.draws, rules.seed)
            band = _with_ends(inner, own.value[:, usable])
            for layer in range(len(own.mass)):
                ends = {"excess": band.value[layer], "excess_low": band.low[layer], "excess_high": band.high[layer]}
                rows.append(
                    {
                        **_key(pair, lens, code, scope),
                        "layer": layer,
                        **{name: _mean(getattr(own, name)[layer, usable]) for name in ("mass", "row", "col")},
                        **ends,
                        "concepts": int(usable.sum()),
                        "why": _why(band, layer, len(own.mass)),
                    }
                )
    return pd.DataFrame(rows)


def _why(band: Band, layer: int, layers: int) -> str:
    if layer in (0, layers - 1):
        return "first and last layer: outside the simultaneous band"
    return "" if np.isfinite(band.low[layer]) else FLAT


def _with_ends(inner: Band, values: NDArray[np.float64]) -> Band:
    edge = np.array([nan])
    mean = values.mean(1) if values.shape[1] else np.full(len(values), nan)
    return Band(mean, np.concatenate([edge, inner.low, edge]), np.concatenate([edge, inner.high, edge]))


def _key(pair: Pair, lens: str, code: str, scope: str) -> dict[str, str]:
    return {"lens": lens, "source": pair.source, "target": pair.target, "language": code, "scope": scope}


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean()) if values.size else nan


def entropy_frame(pair: Pair, lens: str) -> pd.DataFrame:
    """Mean entropy over concepts by layer, bits, with a simultaneous band; none lies below 0."""
    band = simultaneous(pair.readings.entropy)
    key = {"lens": lens, "source": pair.source, "target": pair.target}
    return pd.DataFrame(
        [
            {**key, "layer": layer, "entropy": value, "entropy_low": max(low, 0.0), "entropy_high": high}
            for layer, (value, low, high) in enumerate(zip(band.value, band.low, band.high))
        ]
    )


def verdicts_frame(pair: Pair, lens: str, found: Mapping[str, Found]) -> pd.DataFrame:
    """A row a candidate and scope: outcome, what it rests on, and why."""
    rows: list[dict[str, Any]] = []
    for scope, verdicts in found.items():
        for code, (evidence, verdict) in verdicts.items():
            low, high = evidence.accuracy.interval
            inner = evidence.inner.value
            rows.append(
                {
                    **_key(pair, lens, code, scope),
                    "outcome": verdict.outcome,
                    "why": verdict.why,
                    "solved": evidence.accuracy.solved,
                    "asked": evidence.accuracy.asked,
                    "accuracy_low": low,
                    "accuracy_high": high,
                    "concepts": evidence.concepts,
                    **_ends("strength", evidence.strength),
                    "p": evidence.p,
                    "peak_layer": int(np.argmax(inner)) + 1 if np.isfinite(inner).all() else None,
                    "handover_layer": handover(evidence.curve, evidence.target),
                }
            )
    return pd.DataFrame(rows)


def _ends(name: str, interval: Interval) -> dict[str, float]:
    return {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}


def controls_frame(pair: Pair, lens: str, found: Mapping[str, Found], rules: Rules) -> pd.DataFrame:
    """Strength A_k of each candidate as it is and under every control."""
    rows: list[dict[str, Any]] = []
    for scope, verdicts in found.items():
        for code, (evidence, _) in verdicts.items():
            overlap = pair.overlap(code)
            half = overlap.less_similar & (pair.solved if scope == "solved" else True)
            less = mean_interval(pair.excess[code].strength()[half], rules.draws, rules.seed)
            no_matched = (
                "" if np.isfinite(evidence.matched) else "not drawn: A is not above 0, or no draws were asked for"
            )
            controls: list[tuple[str, float, float, float, str]] = [
                ("none", *_three(evidence.strength)),
                ("words of like frequency", *_three(evidence.frequency)),
                ("without source's and target's directions", *_three(evidence.geometry)),
                ("rows of matched spectrum, 95 % quantile", evidence.matched, nan, nan, no_matched),
                ("less similar half of the words", *_three(less)),
                ("Spearman with likeness of the words", overlap.spearman, nan, nan, overlap.why),
            ]
            controls += [(f"minus {other}", *_three(ends)) for other, ends in evidence.against.items()]
            for name, value, low, high, why in controls:
                ends = {"value": value, "value_low": low, "value_high": high, "why": why}
                rows.append({**_key(pair, lens, code, scope), "control": name, **ends})
    return pd.DataFrame(rows)


def _three(interval: Interval) -> tuple[float, float, float, str]:
    return interval.value, interval.low, interval.high, interval.why


def tuned_frame(lens: TunedLens) -> pd.DataFrame:
    """How near the lens and the plain one come to the model's next word, by language and layer."""
    return pd.DataFrame([asdict(score) for score in lens.scores])


def patch_frame(found: Patched, verdict: Separation) -> pd.DataFrame:
    """E1 by layer and mass, E2 by layer and source, recoveries; over the trials with both prompts solved, else all."""
    use = found.solved if verdict.decidable else np.ones(len(found.solved), bool)
    scope = "solved" if verdict.decidable else "all"
    (a, b), (c, d) = found.languages.source, found.languages.target
    key = {"from": f"{a}→{b}", "into": f"{c}→{d}", "scope": scope, "pairs": int(use.sum())}
    rows: list[dict[str, Any]] = []
    for place, mass in enumerate(MASSES):
        unpatched = mean_interval(found.unpatched[use, place])
        rows.append({**key, "experiment": "E1", "what": mass, "layer": None, "patched": "nothing", **_said(unpatched)})
        for layer in range(found.last.shape[1]):
            value = mean_interval(found.last[use, layer, place])
            rows.append(
                {**key, "experiment": "E1", "what": mass, "layer": layer + 1, "patched": "last", **_said(value)}
            )
    ceiling = mean_interval(found.ceiling[use])
    rows.append(
        {**key, "experiment": "E2", "what": "c1 in d", "layer": None, "patched": "asked for c1", **_said(ceiling)}
    )
    for place, source in enumerate(SOURCES):
        for layer in range(found.word.shape[2]):
            value = mean_interval(found.word[use, place, layer])
            rows.append(
                {**key, "experiment": "E2", "what": "c1 in d", "layer": layer, "patched": source, **_said(value)}
            )
    for recovery in verdict.recoveries:
        share = _said(recovery.share)
        rows.append({**key, "experiment": "E2", "what": "recovery", "layer": None, "patched": recovery.source, **share})
    return pd.DataFrame(rows)


def _said(interval: Interval) -> dict[str, Any]:
    return {**_ends("value", interval), "why": interval.why}


def alignment_frame(pooled: PooledResidual, seed: int) -> pd.DataFrame:
    """Every metric on pooled residuals by pair of languages and layer, what shuffled sentences give, and anisotropy."""
    rows: list[dict[str, Any]] = []
    for pooling, recording in pooled.recordings.items():
        rows += [
            {"pooling": pooling, "treatment": "plain", "metric": "cosine of any two", "layer": layer, "value": value}
            for layer, value in enumerate(anisotropy(recording))
        ]
        for one in residual_alignment(recording, seed):
            found = one.alignment
            for first, code in enumerate(recording.languages):
                for second in range(first):
                    for layer in range(recording.layers):
                        rows.append(
                            {
                                "pooling": pooling,
                                "treatment": one.treatment,
                                "metric": found.metric,
                                "language": recording.languages[second],
                                "other": code,
                                "layer": layer,
                                "value": float(found.values[layer, second, first]),
                                "value_low": float(found.low[layer, second, first]),
                                "value_high": float(found.high[layer, second, first]),
                                "shuffled": float(one.shuffled[layer, second, first]),
                            }
                        )
    return pd.DataFrame(rows)


def joined(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Tables of several pairs and lenses below each other."""
    return pd.concat([frame for frame in frames if len(frame)], ignore_index=True) if frames else pd.DataFrame()
