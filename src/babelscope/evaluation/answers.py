"""How often a model finds the right one of several answers likelier than the others, whole or changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import pandas as pd

from babelscope.errors import InputError
from babelscope.evaluation.cloze import BASE, MEAN
from babelscope.evaluation.questions import Question
from babelscope.evaluation.scoring import by_item, continuation_scores, mean_accuracy, wilson
from babelscope.models import Model
from babelscope.results.rows import rows_frame
from babelscope.results.schemas.evaluation import Questioned


def evaluate_questions(
    model: Model,
    questions: Mapping[str, Sequence[Question]],
    task: str,
    conditions: Mapping[str, Callable[[], AbstractContextManager[object]]] | None = None,
    progress: Callable[[int], None] | None = None,
) -> pd.DataFrame:
    """Accuracy by language with Wilson's interval, beside the share that blind choice gives; a tie counts as wrong.

    The right answer is the one of the greatest summed log-likelihood; `normalised` is the share by log-likelihood per
    letter, which long answers do not lose by. A row a language, `mean` over languages with questions as units, for the
    whole model and under each condition. Raises InputError without questions.

    >>> evaluate_questions(model, load_questions("klar:klar", ["en"]), "klar")           # doctest: +SKIP
    """
    if not questions or not all(questions.values()):
        raise InputError("there are no questions to evaluate on")
    made: dict[str, Callable[[], AbstractContextManager[object]]] = {BASE: nullcontext, **(conditions or {})}
    rows: list[Questioned] = []
    for name, condition in made.items():
        right: dict[str, dict[str, bool]] = {}
        own: list[Questioned] = []
        with condition():
            for code, asked in questions.items():
                scores = continuation_scores(model, [(one.prompt, one.choices) for one in asked], progress)
                won = [_wins(each, one.label) for each, one in zip(scores, asked)]
                letters = [
                    _wins(each / np.array([len(choice.lstrip()) for choice in one.choices]), one.label)
                    for each, one in zip(scores, asked)
                ]
                right[code] = by_item((one.id for one in asked), won)
                own.append(Questioned(
                    task=task, language=code, condition=name, share=wilson(sum(won), len(won)),
                    normalised=float(np.mean(letters)),
                    blind=float(np.mean([1 / len(one.choices) for one in asked])),
                ))  # fmt: skip
        rows += [*own, Questioned(
            task=task, language=MEAN, condition=name, share=mean_accuracy(right),
            normalised=float(np.mean([row.normalised for row in own])),
            blind=float(np.mean([row.blind for row in own])),
        )]  # fmt: skip
    return rows_frame(Questioned, rows)


def _wins(scores: np.ndarray, label: int) -> bool:
    return bool((np.delete(scores, label) < scores[label]).all())
