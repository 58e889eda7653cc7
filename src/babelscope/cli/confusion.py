"""`babelscope confusion`: how often a model, or answers in a file, leave the language that was asked for."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from babelscope.cli.command import verb, verb_app
from babelscope.cli.options import Loading, Place
from babelscope.studies.confusion_settings import ConfusionSettings

app = verb_app("confusion")
What = Annotated[str, Parameter(help="Hub name, model folder, pocket:NAME, or a CSV file of answers.")]


@app.default
@verb
def confusion(model: What, *, settings: ConfusionSettings, loading: Loading, place: Place) -> None:
    """Count how often answers leave the language that was asked for, by line and by word.

    A CSV file of answers has the columns model, completion, task, source, language.

    For example:

      babelscope confusion pocket:pocket-bloom-m --languages en,fr,ar \\
          --tokens 24 --fixed --out runs/confusion

      babelscope confusion answers.csv --rule lcb --words words --out runs/lcb
    """
    from dataclasses import fields
    from pathlib import Path

    from babelscope.cli.options import load, refuse_existing
    from babelscope.settings import refuse_idle
    from babelscope.steering.benchmark import read_answers
    from babelscope.studies.confusion import judge_of, prompts_of, study_answers, study_confusion
    from babelscope.studies.progress import shown

    refuse_existing(place.out, place.overwrite)
    if model.endswith(".csv"):
        judged = ("rule", "words", "identifier")
        idle = {
            one.name: (lambda _: False, "a model that answers") for one in fields(settings) if one.name not in judged
        }
        refuse_idle(settings, idle)
        refuse_idle(loading, {one.name: (lambda _: False, "a model that is loaded") for one in fields(loading)})
        answers = read_answers(Path(model))
        run = study_answers(answers, settings, place.out, place.overwrite)
    else:
        judge_of(settings, ())
        prompts_of(settings)  # what there is nothing to ask in is refused before a model is loaded
        run = study_confusion(load(model, loading), settings, place.out, place.overwrite, progress=shown)
    for sentence in run.manifest["summary"]["sentences"]:
        print(sentence)
    print(f"run: {place.out}    tables: babelscope show {place.out}")
