"""`babelscope evaluate`: what a model can do, whole and with a region switched off."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from cyclopts import Parameter

from babelscope.cli.command import verb, verb_app
from babelscope.cli.options import Loading, ModelName
from babelscope.errors import InputError
from babelscope.settings import Settings, Use

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from babelscope.evaluation import ClozeStory
    from babelscope.evaluation.conditions import Condition
    from babelscope.models import Model

OURS = "story-cloze"

app = verb_app("evaluate")


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings(Settings):
    """What is evaluated."""

    tasks: tuple[str, ...] = (OURS,)
    """story-cloze; NAME:PATH of belebele, xcopa, xstorycloze, klar, bmlama, mkqa; lm-evaluation-harness tasks"""
    stories: str = "pocket:"
    """pocket:, stories:FOLDER or hub:DATASET, for story-cloze"""
    languages: tuple[str, ...] = ()
    """of the stories, by commas [all]"""
    deactivate: list[str] | None = None
    """region to switch off: REGIONFILE:LANGUAGE, or RUN:LANGUAGE; may be given again and again"""
    amplify: list[str] | None = None
    """region whose activations are multiplied: REGIONFILE:LANGUAGE, or RUN:LANGUAGE; may be given again and again"""
    factor: float = 2.0
    """what amplified regions are multiplied by"""
    steer: list[str] | None = None
    """file of a steering edit, such as runs/steer/edits/en-fr-diffmean.safetensors; may be given again and again"""
    controls: int = 0
    """random neurons or directions beside each condition, as many draws"""
    harness: bool = False
    """run story-cloze through lm-evaluation-harness too (babelscope[eval])"""
    shots: int | None = None
    """examples in the prompt of harness tasks"""
    limit: int | None = None
    """items per harness task"""

    ONLY: ClassVar[Mapping[str, Use]] = {
        **{name: (lambda own: OURS in own.tasks, f"--tasks {OURS}") for name in ("stories", "harness")},
        "languages": (lambda own: OURS in own.tasks or bool(own.questions()), f"--tasks {OURS} or questions in files"),
        "factor": (lambda own: bool(own.amplify), "--amplify"),
        "controls": (
            lambda own: bool(own.deactivate or own.amplify or own.steer),
            "--deactivate, --amplify or --steer",
        ),
        **{
            name: (lambda own: own.harness or bool(own.harness_tasks()), "a task of the harness")
            for name in ("shots", "limit")
        },
    }

    def check(self) -> None:
        """Raises InputError where nothing is left to evaluate."""
        if not self.tasks:
            raise InputError("--tasks: name at least one task")
        kinds = [name.partition(":")[0] for name in self.questions()]
        if len(set(kinds)) < len(kinds):
            raise InputError("--tasks: one file of each set of questions at a time")
        if self.limit == 0:
            raise InputError("--limit 0: at least one item")

    def questions(self) -> list[str]:
        """Tasks that are sets of questions in files."""
        return [name for name in self.tasks if ":" in name]

    def harness_tasks(self) -> list[str]:
        """Tasks of lm-evaluation-harness."""
        return [name for name in self.tasks if name != OURS and ":" not in name]


@app.default
@verb
def evaluate(
    model: ModelName,
    *,
    settings: EvaluationSettings,
    out: Annotated[Path | None, Parameter(help="Directory of a run with the tables.")] = None,
    overwrite: Annotated[bool, Parameter(help="Replace an existing run.")] = False,
    loading: Loading,
) -> None:
    """Accuracy on the cross-lingual story cloze and on any lm-evaluation-harness task, with intervals.

    For example:

      babelscope evaluate pocket:pocket-bloom-m

      babelscope evaluate bigscience/bloom-560m --stories stories:XStoryCloze \\
          --deactivate runs/bloom:zh

      babelscope evaluate bigscience/bloom-560m \\
          --tasks klar:klar,belebele:belebele/{language}.jsonl \\
          --languages en,zh

      babelscope evaluate bigscience/bloom-560m --tasks xnli_fr --limit 200
    """
    from babelscope.cli.options import load, refuse_existing
    from babelscope.evaluation import evaluate_cloze, evaluate_questions, load_questions, load_stories
    from babelscope.evaluation.conditions import conditions_of
    from babelscope.steering.files import edit_names, load_edit

    if out is not None:
        refuse_existing(out, overwrite)
    languages = ",".join(settings.languages) or None
    stories = load_stories(settings.stories, languages) if OURS in settings.tasks else {}
    masks, amplified = _regions(settings.deactivate), _regions(settings.amplify)
    steered = {name: load_edit(file) for name, file in edit_names(settings.steer or []).items()}
    _refuse_other_depth(model, loading.revision, [*masks.items(), *amplified.items()])
    loaded = load(model, loading)
    conditions = conditions_of(loaded, masks, amplified, settings.factor, steered, settings.controls)
    found: dict[str, pd.DataFrame] = {}
    if stories:
        found["cloze"] = evaluate_cloze(loaded, stories, conditions=conditions)
    for name in settings.questions():
        asked = load_questions(name, languages)
        found[name.partition(":")[0]] = evaluate_questions(loaded, asked, name.partition(":")[0], conditions)
    if settings.harness or settings.harness_tasks():
        found["harness"] = _harness(loaded, settings, stories if settings.harness else {}, conditions)
    _print(found)
    if out is not None:
        _save(out, overwrite, loaded, found, asdict(settings))
        print(f"run: {out}")


def _regions(given: list[str] | None) -> dict[str, Tensor]:
    """Masks by language; by file and language where one language is given twice."""
    found = [(text, *_region(text)) for text in given or []]
    codes = [code for _, code, _ in found]
    return {code if codes.count(code) == 1 else text: mask for text, code, mask in found}


def _region(text: str) -> tuple[str, Tensor]:
    """Name and mask of `FILE:LANGUAGE`; a run stands for its region file."""
    from babelscope.evolution.flow import region_file
    from babelscope.regions.masks import load_regions
    from babelscope.results import is_run, open_run
    from babelscope.results.hub import fetched

    place, colon, code = text.rpartition(":")
    if not colon or not place or not code or code.startswith("//"):
        raise InputError(f"--deactivate {text!r}: write REGIONFILE:LANGUAGE, such as runs/bloom:zh")
    with fetched(place) as file:
        if is_run(file):
            found = region_file(open_run(file))
            if found is None:
                raise InputError(f"the run {place} has no region file")
            file = found
        return code, load_regions(file)[code]


def _refuse_other_depth(model: str, revision: str | None, regions: Sequence[tuple[str, Tensor]]) -> None:
    """Raises InputError for a region of a model with another number of layers, before the weights are read."""
    from babelscope.models.loading import stored_layers

    layers = stored_layers(model, revision) if regions else None
    for name, mask in regions:
        if layers is not None and len(mask) != layers:
            raise InputError(f"the region of {name} is one of {len(mask)} layers, {model} has {layers}")


def _harness(
    model: Model,
    settings: EvaluationSettings,
    stories: Mapping[str, list[ClozeStory]],
    conditions: Mapping[str, Condition],
) -> pd.DataFrame:
    import pandas as pd

    from babelscope.evaluation import run_harness

    tasks = settings.harness_tasks()
    frames: list[pd.DataFrame] = []
    for name, made in {"base": nullcontext, **conditions}.items():
        with made():
            frame = run_harness(model, tasks, stories, settings.shots, settings.limit)
        frame.insert(2, "condition", name)
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def _print(found: Mapping[str, pd.DataFrame]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from babelscope.wording import number, visible

    for name, frame in found.items():
        table = Table(*map(str, frame.columns), title=name, title_justify="left", box=None)
        for row in frame.itertuples(index=False):
            table.add_row(*(number(value) if isinstance(value, float) else escape(visible(value)) for value in row))
        Console().print(table)


def _save(
    out: Path, overwrite: bool, model: Model, found: Mapping[str, pd.DataFrame], asked: dict[str, object]
) -> None:
    from babelscope.results import RunWriter
    from babelscope.results.schemas.evaluation import MEANS

    with RunWriter(out, kind="evaluation", overwrite=overwrite) as run:
        for name, frame in found.items():
            run.table(name, frame)
        summary: dict[str, object] = {"model": model.id}
        if "cloze" in found:
            base = found["cloze"][found["cloze"].condition == "base"]
            summary["story_cloze"] = base.set_index("language").accuracy.to_dict()
        codes = [str(code) for frame in found.values() if "language" in frame for code in frame.language]
        languages = [code for code in dict.fromkeys(codes) if code not in MEANS]
        run.manifest.update(
            asked=asked, languages=languages, model=model.facts(), tokenizer_hash=model.tokenizer_hash, summary=summary
        )
