"""`babelscope sweep`: every checkpoint and size of a plan, resumable; `sweep status DIR` and `sweep list` beside it."""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false
# pandas declares what a selection returns as a union that no single frame is; the shapes are checked by tests.

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from babelscope.cli.options import Device, DeviceMap

if TYPE_CHECKING:
    from babelscope.results import Run

STATUS, LIST = "status", "list"


def sweep(
    plan: Annotated[
        str | None, typer.Argument(help="Plan file, preset (see: babelscope sweep list), or the word status.")
    ] = None,
    directory: Annotated[str | None, typer.Argument(help="With status: the sweep's directory or URL.")] = None,
    out: Annotated[str | None, typer.Option(help="Directory or fsspec URL of the sweep.")] = None,
    model: Annotated[list[str] | None, typer.Option(help="Instead of a plan's models: NAME or NAME@REVISION.")] = None,
    revisions: Annotated[str | None, typer.Option(help="Of that model: by commas, all, or a pattern (step*).")] = None,
    corpus: Annotated[list[str] | None, typer.Option(help="Instead of the plan's corpora.")] = None,
    languages: Annotated[str | None, typer.Option(help="Instead of the plan's languages.")] = None,
    samples: Annotated[int | None, typer.Option(help="Parallel sentences.")] = None,
    texts: Annotated[str | None, typer.Option(help="Text for perplexity.")] = None,
    stories: Annotated[str | None, typer.Option(help="Stories for the cloze: pocket: or stories:FOLDER.")] = None,
    circuits: Annotated[str | None, typer.Option(help="Task whose circuits are found at each point.")] = None,
    dtype: Annotated[str | None, typer.Option(help="One number type for all points.")] = None,
    engine: Annotated[str, typer.Option(help="local or ray.")] = "local",
    address: Annotated[str | None, typer.Option(help="Of the Ray cluster; default: one on this machine.")] = None,
    cpus: Annotated[float, typer.Option(help="Processors per point on the cluster.")] = 1.0,
    gpus: Annotated[float, typer.Option(help="GPUs per point on the cluster.")] = 0.0,
    keep_weights: Annotated[str, typer.Option(help="Downloaded weights after use: none, last or all.")] = "all",
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="Stop at the first point that fails.")] = False,
    device: Device = None,
    device_map: DeviceMap = None,
) -> None:
    """Measure many checkpoints or sizes; run it again to go on where it stopped.

    Examples:

      babelscope sweep pocket-checkpoints --out runs/training

      babelscope sweep my-plan.yaml --out runs/mine --engine ray --address auto --gpus 1

      babelscope sweep --model models/mine --revisions "step*" --corpus bible:bibles --out runs/mine

      babelscope sweep status runs/training
    """
    from babelscope.errors import PlanError

    if plan == LIST:
        return _list()
    if plan == STATUS:
        if directory is None:
            raise PlanError("say which sweep: babelscope sweep status DIR")
        return _status(directory)
    if directory is not None:
        raise PlanError(f"unexpected {directory!r}; the directory of a sweep is given with --out")
    if out is None:
        raise PlanError("say where the points go: --out DIR")
    changes = _changes(model, revisions, corpus, languages, samples, texts, stories, circuits, dtype)
    _run(plan, changes, out, _options(engine, address, cpus, gpus, keep_weights, fail_fast, device, device_map))
    return None


def _run(plan: str | None, changes: dict[str, Any], out: str, options: Any) -> None:
    from babelscope.cli.options import quiet
    from babelscope.errors import PlanError
    from babelscope.evolution.live import LiveTable
    from babelscope.evolution.plan import plan_from, read_plan
    from babelscope.evolution.sweep import run_sweep

    if plan is None and "models" not in changes:
        raise PlanError("name a plan file or preset, or give --model")
    quiet()
    asked = read_plan(plan, changes) if plan is not None else plan_from(_nested(changes))
    run = run_sweep(asked, out, options, LiveTable())
    _print(run)
    typer.echo(f"sweep: {out}    page: babelscope report {out}")
    if run.summary.get("points_failed"):
        typer.echo(f"{run.summary['points_failed']} failed: babelscope sweep status {out}", err=True)
        raise typer.Exit(1)


def _options(
    engine: str,
    address: str | None,
    cpus: float,
    gpus: float,
    keep: str,
    fail_fast: bool,
    device: str | None,
    device_map: str | None,
) -> Any:
    from babelscope.errors import InputError
    from babelscope.evolution.attempt import RayOptions, SweepOptions
    from babelscope.evolution.types import Place
    from babelscope.evolution.weights import KEEP

    if engine != "local" and engine != "ray":
        raise InputError(f"--engine {engine!r}: use local or ray")
    if keep not in KEEP:
        raise InputError(f"--keep-weights {keep!r}: use {', '.join(KEEP)}")
    return SweepOptions(
        engine=engine,
        fail_fast=fail_fast,
        keep_weights=keep,
        where=Place(device, device_map),
        ray=RayOptions(address, cpus, gpus),
    )


def _changes(
    model: list[str] | None,
    revisions: str | None,
    corpus: list[str] | None,
    languages: str | None,
    samples: int | None,
    texts: str | None,
    stories: str | None,
    circuits: str | None,
    dtype: str | None,
) -> dict[str, Any]:
    """What the flags change in a plan, by dotted key."""
    from babelscope.errors import PlanError

    changes: dict[str, Any] = {}
    if revisions is not None and (model is None or len(model) != 1):
        raise PlanError("--revisions needs exactly one --model")
    if model:
        changes["models"] = [{"id": model[0], "revisions": _revisions(revisions)}] if revisions else list(model)
        changes.setdefault("measures.regions", {}) if corpus else None
    given: dict[str, Any] = {
        "corpora": corpus, "languages": languages, "dtype": dtype, "measures.regions.samples": samples,
        "measures.perplexity.texts": texts, "measures.story_cloze.stories": stories, "measures.circuits.task": circuits,
    }  # fmt: skip
    return changes | {name: value for name, value in given.items() if value is not None}


def _revisions(text: str) -> str | list[str]:
    if text == "all" or any(letter in text for letter in "*?["):
        return text
    return [part.strip() for part in text.split(",") if part.strip()]


def _nested(changes: dict[str, Any]) -> dict[str, Any]:
    """Dotted keys as a mapping of mappings."""
    found: dict[str, Any] = {}
    for dotted, value in changes.items():
        *path, last = dotted.split(".")
        target = found
        for part in path:
            target = target.setdefault(part, {})
        target[last] = value
    return found


def _print(run: Run) -> None:
    from rich.console import Console
    from rich.table import Table

    points, console = run.table("points"), Console()
    wanted = ["label", "status", "parameters", "lrds", "sads", "sklr", "accuracy_story_cloze", "duplicate_of"]
    names = [name for name in wanted if name in points and points[name].notna().any()]
    table = Table(*names, box=None)
    for row in points[names].to_dict("records"):
        table.add_row(*(_cell(row[name]) for name in names))
    console.print(table)
    if "published" in run.tables:
        console.print(published_table(run))


def published_table(run: Run) -> Any:
    """Ours and the paper's: base perplexity, region size, and the increase in percent by deactivated region."""
    from rich.table import Table

    frame = run.table("published")
    codes = list(dict.fromkeys(frame.language))
    regions = list(dict.fromkeys(frame.deactivated[frame["item"] == "increase_percent"]))
    cells = {
        (row["item"], row["language"], row["deactivated"]): f"{_cell(row['ours'])} / {_cell(row['published'])}"
        for row in frame.to_dict("records")
    }
    table = Table("", "perplexity", "neurons", *regions, title="ours / published (increase of perplexity in percent)")
    for code in codes:
        first = [cells[("base_perplexity", code, "base")], cells[("region_size", code, code)]]
        table.add_row(code, *first, *(cells.get(("increase_percent", code, region), "") for region in regions))
    return table


def _status(directory: str) -> None:
    from rich.console import Console
    from rich.table import Table

    from babelscope.evolution.sweep import status

    rows = status(directory)
    table = Table("point", "corpus", "status", "key", "error", box=None)
    for row in rows:
        table.add_row(*(str(row[name] or "") for name in ("label", "corpus", "status", "key", "error")))
    Console().print(table)
    counts = {name: sum(row["status"] == name for row in rows) for name in ("done", "failed", "waiting")}
    typer.echo(", ".join(f"{count} {name}" for name, count in counts.items() if count))


def _list() -> None:
    from babelscope.evolution.plan import presets, read_plan

    for name in presets():
        typer.echo(f"{name}\n    {read_plan(name).about}")


def _cell(value: Any) -> str:
    if value is None or value != value:
        return "–"
    if not isinstance(value, int | float):
        return str(value)
    return f"{value:,.0f}".replace(",", " ") if abs(value) >= 1000 else f"{value:.4g}"
