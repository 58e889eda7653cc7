"""What a study of steering found, in words, from its tables."""

from __future__ import annotations

import math

import pandas as pd

from babelscope.languages import english_name
from babelscope.steering.controls import NEURONS, PROMPTED, RANDOM, STEERED, UNSTEERED
from babelscope.wording import decimals

LOOPING = 0.25
"""share of answers in the target that loop, from which a success is called broken"""


def first_sentence(rows: pd.DataFrame, damage: pd.DataFrame, fidelity: pd.DataFrame) -> str:
    """One method on one pair: success with interval and n, its controls, damage and fidelity.

    `rows`: the steered row and the pair's baselines, of the table `steering`. Above p = 0.05 it says that random
    directions do as well; where no answer is long enough to tell its language, that nothing can be said.
    """
    steered = rows[rows.condition == STEERED].iloc[0]
    control = NEURONS if NEURONS in rows.columns and not _nan(steered.get(NEURONS)) else RANDOM
    random = "neurons" if control == NEURONS else "directions"
    source, target = english_name(str(steered.source)), english_name(str(steered.target))
    place = "" if steered.layer < 0 else f" at layer {int(steered.layer)}"
    how = f"{steered.method}{place}, strength α = {steered.alpha:g}"
    price = f"{_damage(steered, damage, target)}, {_fidelity(steered, fidelity)}."
    if _nan(steered.success):
        return (
            f"Whether steering ({how}) makes the model answer {source} prompts in {target} cannot be said: none of "
            f"{int(steered.n)} answers is long enough to tell its language. {price}"
        )
    short = 0 if _nan(steered.get("skipped")) else round(steered.n * steered.skipped)
    told = f" ({short} more are too short to tell)" if short else ""
    text = (
        f"Steered ({how}), {_percent(steered.success)} %{_interval(steered.success_low, steered.success_high)} of "
        f"{int(steered.n) - short} answers to {source} prompts are in {target}{told}; "
        f"{_of(rows, UNSTEERED, 'unsteered')}, with "
        f"random {random} of the same size {_percent(steered.get(control))} %, "
        f"{_of(rows, PROMPTED, 'told in words')}. {price}"
    )
    looping = steered.get("looping", math.nan)
    if not _nan(looping) and looping >= LOOPING:
        text += (
            f" {_percent(looping)} % of the answers in {target} say one stretch twice over half of their "
            "length: broken text that only looks like the language."
        )
    p, draws = steered.get("p", math.nan), steered.get("draws", math.nan)
    if _nan(p) or p <= 0.05:
        return text
    if not _nan(draws) and 1 / (draws + 1) > 0.05:
        # too few draws for any success to pass: that is no finding
        return text + f" {int(draws)} draws of random {random} are too few for p below 0.05; 19 can show it."
    text += f" That is no better than random {random} (p = {p:.2g})."
    return text


def _of(rows: pd.DataFrame, condition: str, name: str) -> str:
    found = rows[rows.condition == condition]
    if not len(found):
        return f"{name} not measured"
    return f"{name} {_percent(found.iloc[0].success)} %" if not _nan(found.iloc[0].success) else f"{name} not known"


def _damage(steered: pd.Series, damage: pd.DataFrame, target: str) -> str:
    own = _match(damage, steered)
    own = own[(own.role == "target") & (own.condition == STEERED)] if len(own) else own
    if not len(own):
        return f"The damage to {target} text was not measured"
    row = own.iloc[0]
    ends = "" if _nan(row.delta_nll_low) else f" ({decimals(row.delta_nll_low)} to {decimals(row.delta_nll_high)})"
    return f"It adds {decimals(row.delta_nll)}{ends} nats a token to the loss on {target} text"


def _fidelity(steered: pd.Series, fidelity: pd.DataFrame) -> str:
    own = _match(fidelity, steered)
    if not len(own):
        return "whether answers keep to the prompt (fidelity) was not measured"
    row = own.iloc[0]
    known = f"fidelity {decimals(row.value)} (what is left of the unsteered answer's content; 1: as in a translation)"
    return f"fidelity is unknown ({row.why})" if _nan(row.value) else known


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
    return "" if _nan(low) else f" ({100 * low:.0f} to {100 * high:.0f})"
