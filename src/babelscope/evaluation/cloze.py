"""Cross-lingual story cloze on a model, whole or with a region switched off (Zeng et al. 2024, section 4.6)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import pandas as pd
from jaxtyping import Bool
from torch import Tensor

from babelscope.errors import InputError
from babelscope.evaluation.items import ClozeStory, cloze_items
from babelscope.evaluation.scoring import by_item, choice_scores, mean_accuracy, wilson
from babelscope.models import Model
from babelscope.regions.deactivation import deactivate
from babelscope.results.rows import rows_frame
from babelscope.results.schemas.evaluation import Cloze

TASK = "story_cloze"
BASE = "base"
MEAN, OTHERS = "mean", "others"
"""rows over all languages, and over all but English: only there must the model cross from one language to another"""


def evaluate_cloze(
    model: Model,
    stories: Mapping[str, Sequence[ClozeStory]],
    deactivated: Mapping[str, Bool[Tensor, "P N"]] | None = None,
    progress: Callable[[int], None] | None = None,
    conditions: Mapping[str, Callable[[], AbstractContextManager[object]]] | None = None,
) -> pd.DataFrame:
    """Share of stories whose right English ending is the likelier one, per language, with 95 % intervals.

    The paper's protocol: no example, summed log-likelihood, no length normalisation; a tie counts as wrong. One row per
    language (Wilson interval), `mean` over languages and `others` without English (stories as units), for the whole
    model (`base`), for each of the `deactivated` regions and under each further condition. Raises InputError without
    stories.

    >>> evaluate_cloze(model, load_stories("pocket:?n=50", ["en", "fr"]))          # doctest: +SKIP
    """
    if not stories or not all(stories.values()):
        raise InputError("there are no stories to evaluate on")
    frames = [_rows(model, stories, BASE, nullcontext(), progress)]
    frames += [
        _rows(model, stories, name, deactivate(model, mask), progress) for name, mask in (deactivated or {}).items()
    ]
    frames += [_rows(model, stories, name, made(), progress) for name, made in (conditions or {}).items()]
    return pd.concat(frames, ignore_index=True)


def _rows(
    model: Model,
    stories: Mapping[str, Sequence[ClozeStory]],
    condition: str,
    changed: AbstractContextManager[object],
    progress: Callable[[int], None] | None,
) -> pd.DataFrame:
    right: dict[str, dict[str, bool]] = {}
    rows: list[Cloze] = []
    with changed:
        for code, told in stories.items():
            scores = choice_scores(model, cloze_items(told), progress)
            labels = np.array([story.label for story in told])
            every = np.arange(len(told))
            margin = scores[every, labels] - scores[every, 1 - labels]
            right[code] = by_item((story.id for story in told), (margin > 0).tolist())
            share = wilson(int((margin > 0).sum()), len(told))
            rows.append(Cloze(task=TASK, language=code, condition=condition, share=share, margin=float(margin.mean())))
    for name, chosen in ((MEAN, right), (OTHERS, {code: it for code, it in right.items() if code != "en"})):
        if chosen:
            margin = float(np.mean([row.margin for row in rows if row.language in chosen]))
            share = mean_accuracy(chosen)
            rows.append(Cloze(task=TASK, language=name, condition=condition, share=share, margin=margin))
    return rows_frame(Cloze, rows)
