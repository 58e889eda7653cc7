"""Text read under saved edits of steering, beside random edits of the same size: the table `edited_text`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from babelscope.evaluation.conditions import conditions_of
from babelscope.models import Model
from babelscope.regions.perplexity import Windows, loss_change, score
from babelscope.results.schemas.regions import EditedText
from babelscope.steering.files import edit_names, load_edit


def edited_text(
    model: Model,
    windows: Mapping[str, Windows],
    files: Sequence[str],
    controls: int = 5,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> list[EditedText]:
    """A row for each file (and random draw) and language: ΔNLL per token with its interval over documents.

    Raises InputError for a file that is no edit, or one of a model of another shape.
    """
    base = {code: score(model, text) for code, text in windows.items()}
    rows: list[EditedText] = []
    for name, file in edit_names(files).items():
        made = conditions_of(model, steered={name: load_edit(file)}, controls=controls, seed=seed)
        for draw, (_, condition) in enumerate(made.items(), -1):
            with condition():
                losses = {code: score(model, text) for code, text in windows.items()}
            for code, loss in losses.items():
                rise = loss_change(loss, base[code])
                rows.append(EditedText(
                    edit=name, condition="edit" if draw < 0 else "random", draw=draw, language=code,
                    nll=loss.nll, delta_nll=rise.value, delta_nll_low=rise.low, delta_nll_high=rise.high,
                    interval=rise.method, why=rise.why, documents=int((loss.counts > 0).sum()), n=loss.tokens,
                ))  # fmt: skip
        if progress:
            progress(1)
    return rows
