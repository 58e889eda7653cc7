"""How often a model finds the right one of several answers likelier than the others, whole or changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from babelscope.errors import InputError
from babelscope.evaluation.cloze import BASE, MEAN
from babelscope.evaluation.questions import Question
from babelscope.evaluation.scoring import continuation_scores, mean_accuracy, wilson
from babelscope.models import Model


def evaluate_questions(
    model: Model,
    questions: Mapping[str, Sequence[Question]],
    task: str,
    conditions: Mapping[str, Callable[[], AbstractContextManager[Any]]] | None = None,
    progress: Callable[[int], None] | None = None,
) -> pd.DataFrame:
    """Accuracy by language with Wilson's interval, beside the share that blind choice gives; a tie counts as wrong.

    The right answer is the one of the greatest summed log-likelihood; `normalised` is the share by log-likelihood per
    letter, which long answers do not lose by. A row a language, `mean` over languages with questions resampled, for the
    whole model and under each condition. Raises InputError without questions.

    >>> evaluate_questions(model, load_questions("klar:klar", ["en"]), "klar")           # doctest: +SKIP
    """
    if not questions or not all(questions.values()):
        raise InputError("there are no questions to evaluate on")
    made: dict[str, Callable[[], AbstractContextManager[Any]]] = {BASE: nullcontext, **(conditions or {})}
    rows: list[dict[str, Any]] = []
    for name, condition in made.items():
        right: dict[str, dict[str, bool]] = {}
        with condition():
            for code, asked in questions.items():
                scores = continuation_scores(model, [(one.prompt, one.choices) for one in asked], progress)
                won = [_wins(own, one.label) for own, one in zip(scores, asked)]
                letters = [
                    _wins(own / np.array([len(choice) for choice in one.choices]), one.label)
                    for own, one in zip(scores, asked)
                ]
                right[code] = {one.id: hit for one, hit in zip(asked, won)}
                rows.append({
                    "task": task, "language": code, "condition": name, **asdict(wilson(sum(won), len(won))),
                    "normalised": float(np.mean(letters)),
                    "blind": float(np.mean([1 / len(one.choices) for one in asked])),
                })  # fmt: skip
        blind = float(np.mean([row["blind"] for row in rows if row["condition"] == name]))
        rows.append({
            "task": task, "language": MEAN, "condition": name, **asdict(mean_accuracy(right)),
            "normalised": float(np.mean([row["normalised"] for row in rows if row["condition"] == name])),
            "blind": blind,
        })  # fmt: skip
    return pd.DataFrame(rows)


def _wins(scores: np.ndarray, label: int) -> bool:
    return bool((np.delete(scores, label) < scores[label]).all())
