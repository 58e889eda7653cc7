"""`babelscope sweep`: every checkpoint and size of a plan, resumable; `sweep status DIR` and `sweep list` beside it."""

from __future__ import annotations

from dataclasses import dataclass
from math import nan
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from babelscope.cli.command import verb, verb_app
from babelscope.cli.options import OnRay, Planned, note
from babelscope.errors import PlanError
from babelscope.settings import Settings

if TYPE_CHECKING:
    from rich.table import Table

    from babelscope.evolution.attempt import SweepOptions
    from babelscope.evolution.plan import Plan
    from babelscope.results import Run

app = verb_app("sweep")


@dataclass(frozen=True, kw_only=True)
class Changes(Settings):
    """In the place of the plan's."""

    model: list[str] | None = None
    """NAME or NAME@REVISION; may be given again and again"""
    revisions: str | None = None
    """of that model: by commas, all, or a pattern (step*)"""
    corpus: list[str] | None = None
    """parallel text; may be given again and again"""
    languages: str | None = None
    """codes, by commas"""
    samples: int | None = None
    """parallel sentences"""
    texts: str | None = None
    """text for perplexity"""
    stories: str | None = None
    """stories for the cloze: pocket: or stories:FOLDER"""
    circuits: str | None = None
    """task whose circuits are found at each point"""
    latent: str | None = None
    """word list with which each point is asked for its latent languages, such as concepts"""
    dtype: str | None = None
    """one number type for all points"""

    def check(self) -> None:
        """Raises PlanError for revisions of no model or of several, and for too few sentences."""
        if self.samples is not None and self.samples < 2:
            raise PlanError(f"--samples {self.samples}: at least two sentences are needed")
        if self.revisions is not None and len(self.model or ()) != 1:
            raise PlanError("--revisions needs exactly one --model")


@dataclass(frozen=True, kw_only=True)
class Engine(OnRay):
    """Where it is computed."""

    keep_weights: Literal["none", "last", "all"] = "all"
    """downloaded weights after use"""
    fail_fast: bool = False
    """stop at the first point that fails"""
    mend: bool = False
    """compute finished points again that are damaged"""
    device: str | None = None
    """such as cuda, mps or cpu [the best there is]"""
    device_map: str | None = None
    """auto spreads a model over devices (needs babelscope[big])"""


@app.default
@verb
def sweep(
    file: Annotated[str | None, Parameter(help="Plan file, or preset (see: babelscope sweep list).")] = None,
    *,
    out: Annotated[str | None, Parameter(help="Directory or fsspec URL of the sweep.")] = None,
    changes: Changes,
    engine: Engine,
    planned: Planned,
) -> None:
    """Measure many checkpoints or sizes; run it again to go on where it stopped.

    For example:

      babelscope sweep pocket-checkpoints --out runs/training

      babelscope sweep my-plan.yaml --out runs/mine --engine ray --gpus 1

      babelscope sweep --model models/mine --revisions "step*" \\
          --corpus bible:bibles --out runs/mine

      babelscope sweep status runs/training
    """
    if planned.plan:
        _plan(file, _changes(changes, file), _options(engine))
        return
    if out is None:
        raise PlanError("say where the points go: --out DIR")
    _run(file, _changes(changes, file), out, _options(engine))


def _plan(plan: str | None, changes: dict[str, object], options: SweepOptions) -> None:
    from babelscope.evolution.sweep_plan import plan_sweep

    print(plan_sweep(_asked(plan, changes), options.where).table())


def _asked(plan: str | None, changes: dict[str, object]) -> Plan:
    from babelscope.cli.options import quiet
    from babelscope.evolution.plan import plan_from, read_plan

    if plan is None and "models" not in changes:
        raise PlanError("name a plan file or preset, or give --model")
    quiet()
    return read_plan(plan, changes) if plan is not None else plan_from(_nested(changes))


def _run(plan: str | None, changes: dict[str, object], out: str, options: SweepOptions) -> None:
    from babelscope.evolution.live import LiveTable
    from babelscope.evolution.sweep import run_sweep

    asked = _asked(plan, changes)
    run = run_sweep(asked, out, options, LiveTable())
    _print(run)
    print(f"sweep: {out}    page: babelscope report {out}")
    if run.summary.get("points_failed"):
        note(f"{run.summary['points_failed']} failed: babelscope sweep status {out}")
        raise SystemExit(1)


def _options(asked: Engine) -> SweepOptions:
    from babelscope.evolution.attempt import RayOptions, SweepOptions
    from babelscope.evolution.types import Place

    return SweepOptions(
        engine=asked.engine,
        fail_fast=asked.fail_fast,
        mend=asked.mend,
        keep_weights=asked.keep_weights,
        where=Place(asked.device, asked.device_map),
        ray=RayOptions(asked.address, asked.cpus, asked.gpus),
    )


def _changes(asked: Changes, plan: str | None) -> dict[str, object]:
    """What the flags change in a plan, by dotted key; without one they say all that is measured."""
    changes: dict[str, object] = {}
    if asked.model:
        one = {"id": asked.model[0], "revisions": _revisions(asked.revisions)} if asked.revisions else None
        changes["models"] = [one] if one else list(asked.model)
        if asked.corpus and plan is None:
            changes["measures.regions"] = {}
    given: dict[str, object] = {
        "corpora": asked.corpus, "languages": asked.languages, "dtype": asked.dtype,
        "measures.regions.samples": asked.samples, "measures.perplexity.texts": asked.texts,
        "measures.story_cloze.stories": asked.stories, "measures.circuits.task": asked.circuits,
        "measures.latent.words": asked.latent,
    }  # fmt: skip
    return changes | {name: value for name, value in given.items() if value is not None}


def _revisions(text: str) -> str | list[str]:
    if text == "all" or any(letter in text for letter in "*?["):
        return text
    return [part.strip() for part in text.split(",") if part.strip()]


def _nested(changes: dict[str, object]) -> dict[str, object]:
    """Dotted keys as a mapping of mappings."""
    found: dict[str, object] = {}
    for dotted, value in changes.items():
        *path, last = dotted.split(".")
        target = found
        for part in path:
            inner = target.setdefault(part, {})
            assert isinstance(inner, dict)
            target = inner
        target[last] = value
    return found


def _print(run: Run) -> None:
    from rich.console import Console
    from rich.table import Table

    from babelscope.results.schemas.sweep import points

    found, console = points(run), Console()
    measures = [name for name in ("lrds", "sads", "sklr", "accuracy_story_cloze")
                if any(point.values.get(name, nan) == point.values.get(name, nan) for point in found)]  # fmt: skip
    doubled = any(point.row.duplicate_of for point in found)
    names = ["label", "status", "parameters", *measures, *(["duplicate_of"] if doubled else [])]
    table = Table(*names, box=None)
    for point in found:
        values = [point.row.parameters, *(point.values[name] for name in measures)]
        told = [point.row.label, point.row.status, *values, *([point.row.duplicate_of] if doubled else [])]
        table.add_row(*map(_cell, told))
    console.print(table)
    if "published" in run.tables:
        console.print(published_table(run))


def published_table(run: Run) -> Table:
    """Ours and the paper's: base perplexity, region size, and the increase in percent by deactivated region."""
    from rich.table import Table

    from babelscope.results.rows import read_rows
    from babelscope.results.schemas.sweep import BesidePublished

    rows = read_rows(run, BesidePublished)
    codes = list(dict.fromkeys(row.language for row in rows))
    regions = list(dict.fromkeys(row.deactivated for row in rows if row.item == "increase_percent"))
    cells = {(row.item, row.language, row.deactivated): f"{_cell(row.ours)} / {_cell(row.published)}" for row in rows}
    table = Table("", "perplexity", "neurons", *regions, title="ours / published (increase of perplexity in percent)")
    for code in codes:
        first = [cells[("base_perplexity", code, "base")], cells[("region_size", code, code)]]
        table.add_row(code, *first, *(cells.get(("increase_percent", code, region), "") for region in regions))
    return table


@app.command(name="status")
@verb
def status_of(directory: Annotated[str, Parameter(help="Directory or URL of a sweep.")]) -> None:
    """Say which points are done, failed or waiting.

    For example:

      babelscope sweep status runs/training
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from babelscope.evolution.sweep import status
    from babelscope.wording import visible

    rows = status(directory)
    table = Table("point", "corpus", "status", "key", "error", box=None)
    for row in rows:
        cells = (visible(row.get(name) or "") for name in ("label", "corpus", "status", "key", "error"))
        table.add_row(*(Text(cell) for cell in cells))
    Console().print(table)
    counts = {name: sum(row["status"] == name for row in rows) for name in ("done", "failed", "damaged", "waiting")}
    print(", ".join(f"{count} {name}" for name, count in counts.items() if count))


@app.command(name="list")
@verb
def list_presets() -> None:
    """List the plans that come with the package.

    For example:

      babelscope sweep list
    """
    from babelscope.evolution.plan import presets, read_plan

    for name in presets():
        print(f"{name}\n    {read_plan(name).about}")


def _cell(value: object) -> str:
    from rich.markup import escape

    from babelscope.wording import number, visible

    return escape(visible(number(value)))
