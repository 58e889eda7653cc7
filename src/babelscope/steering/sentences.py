"""What a study of steering found, in words, from its tables."""

from __future__ import annotations

import math

import pandas as pd

from babelscope.steering.controls import NEURONS, PROMPTED, RANDOM, STEERED, UNSTEERED

LOOPING = 0.25
"""share of answers in the target that loop, from which a success is called broken"""


def first_sentence(rows: pd.DataFrame, damage: pd.DataFrame, fidelity: pd.DataFrame) -> str:
    """One method on one pair: success with interval and n, its controls, damage and fidelity.

    `rows`: the steered row and the pair's baselines, of the table `steering`. Above p = 0.05 it says that random
    directions do as well.
    """
    steered = rows[rows.condition == STEERED].iloc[0]
    control = NEURONS if NEURONS in rows.columns and not _nan(steered.get(NEURONS)) else RANDOM
    place = "" if steered.layer < 0 else f" at layer {int(steered.layer)}"
    success = f"{_percent(steered.success)} % {_interval(steered.success_low, steered.success_high)}"
    beside = f"unsteered {_of(rows, UNSTEERED)} %, {control} {_percent(steered.get(control))} %"
    text = (
        f"With {steered.method}{place}, α {steered.alpha:g}, {success} of {int(steered.n)} answers to {steered.source} "
        f"prompts are in {steered.target} ({beside}, told to {_of(rows, PROMPTED)} %); {_damage(steered, damage)}, "
        f"{_fidelity(steered, fidelity)}."
    )
    looping = steered.get("looping", math.nan)
    if not _nan(looping) and looping >= LOOPING:
        text += (
            f" {_percent(looping)} % of the answers in {steered.target} say one stretch twice over half of their "
            "length: broken text that only looks like the language."
        )
    p, draws = steered.get("p", math.nan), steered.get("draws", math.nan)
    if _nan(p) or p <= 0.05:
        return text
    random = "neurons" if control == NEURONS else "directions"
    if not _nan(draws) and 1 / (draws + 1) > 0.05:
        # too few draws for any success to pass: that is no finding
        return text + f" {int(draws)} draws of random {random} are too few for p below 0.05; 19 can show it."
    text += f" That is no better than random {random} (p = {p:.2g})."
    return text


def _of(rows: pd.DataFrame, condition: str) -> str:
    found = rows[rows.condition == condition]
    return _percent(found.iloc[0].success) if len(found) else "–"


def _damage(steered: pd.Series, damage: pd.DataFrame) -> str:
    own = _match(damage, steered)
    own = own[(own.role == "target") & (own.condition == STEERED)] if len(own) else own
    if not len(own):
        return f"ΔNLL of {steered.target} text not measured"
    row = own.iloc[0]
    ends = "" if _nan(row.delta_nll_low) else f" [{row.delta_nll_low:.2f} to {row.delta_nll_high:.2f}]"
    return f"ΔNLL of {steered.target} text {row.delta_nll:.2f}{ends} nats"


def _fidelity(steered: pd.Series, fidelity: pd.DataFrame) -> str:
    own = _match(fidelity, steered)
    if not len(own):
        return "fidelity not measured"
    row = own.iloc[0]
    return f"fidelity – ({row.why})" if _nan(row.value) else f"fidelity {row.value:.2f}"


def _match(frame: pd.DataFrame, steered: pd.Series) -> pd.DataFrame:
    if not len(frame):
        return frame
    same = pd.Series(True, index=frame.index)
    for name in ("source", "target", "method", "layer", "alpha"):
        same &= frame[name] == steered[name]
    return frame.loc[same]


def _nan(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _percent(value: object) -> str:
    return "–" if not isinstance(value, float) or math.isnan(value) else f"{100 * value:.0f}"


def _interval(low: float, high: float) -> str:
    return "[–]" if _nan(low) else f"[{100 * low:.0f} to {100 * high:.0f}]"
