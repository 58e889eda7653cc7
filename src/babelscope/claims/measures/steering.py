"""What claims about steering measure: answers in the target's language, by runs of `babelscope steer`.

Documents are the unit, pairs of languages averaged within each: all pairs are asked about the same documents. Settings
are chosen on others. Claim and twin read the same answers.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pandas as pd

from babelscope.claims.case import Case, named_model
from babelscope.claims.verdict import Part, mean_part
from babelscope.corpora import load_corpus
from babelscope.results.scratch import Scratch
from babelscope.studies.steer import study_steering
from babelscope.studies.steer_settings import SteerSettings

PAIRS = ("en:es", "fr:pt", "es:en", "zh:en", "en:fr")
"""of the quick run"""
DRAWS = 4


@lru_cache(2)
def _answers(model: str, corpus: str, n: int, seed: int) -> pd.DataFrame:
    """Answers of replacement by means and of arithmetic on LAPE's neurons, with random neurons beside."""
    settings = SteerSettings(
        corpus=corpus, pairs=PAIRS, method=("neurons", "arithmetic"), alpha=(1.0, 2.0), lape_share=0.05, limit=1.0,
        choose_prompts=6, report_prompts=n, controls=DRAWS, third=0, tokens=16, fixed=True, seed=seed,
    )  # fmt: skip
    with Scratch("claim") as folder:
        run = study_steering(named_model(model), settings, folder / "run", corpus=load_corpus(corpus))
        return run.table("answers")


def arithmetic_gain(case: Case) -> list[Part]:
    """Arithmetic minus replacement by means: share of answers' lines in the target's language, and distinct bigrams.

    An answer too short to be told is left out. Control of the first: random neurons under arithmetic minus replacement,
    the largest of the draws. Twin: each pair's answers are asked for the
    language of the next pair, as neurons of a permuted language would have to give it.
    """
    answers = _answers(case.models[0], case.corpus, case.n, case.seed)
    targets = list(dict.fromkeys(answers.target))
    asked = dict(zip(targets, targets[1:] + targets[:1])) if case.twin else dict(zip(targets, targets))
    success = [
        float(np.mean([code == asked[target] for code in lines.split()])) if lines.split() else float("nan")
        for lines, target in zip(answers.identified.fillna(""), answers.target)
    ]
    answers = answers.assign(hit=success)
    # one setting a method and pair: the first that was reported
    first = answers[answers.condition == "steered"].groupby(["source", "target", "method"]).alpha.transform("first")
    steered = answers.loc[answers.condition == "steered"]
    steered = steered.loc[steered.alpha == first]
    parts: list[Part] = []
    for name, column in (("language", "hit"), ("quality not worse", "distinct_2")):
        control = _control(answers, steered) if column == "hit" else 0.0
        parts.append(mean_part(name, _paired(steered, column), "documents", 2, control, (-1.0, 1.0)))
    return parts


def _paired(steered: pd.DataFrame, column: str) -> np.ndarray:
    by_document = steered.pivot_table(column, ["source", "target", "document"], "method", "mean")
    both = by_document.dropna()
    gain = both.assign(gain=both["arithmetic"] - both["neurons"]).groupby("document")["gain"].mean()
    return np.asarray(gain, dtype=float)


def _control(answers: pd.DataFrame, steered: pd.DataFrame) -> float:
    """Greatest of the draws of random neurons (arithmetic) minus replacement: a 97.5 % point needs forty."""
    random = answers[(answers.condition == "random-neurons") & (answers.method == "arithmetic")]
    replaced = float(steered[steered.method == "neurons"].hit.mean())
    drawn = random.groupby("draw").hit.mean().to_numpy(dtype=float) - replaced
    return float(drawn.max()) if len(drawn) else float("nan")
