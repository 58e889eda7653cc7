"""Figures of a sweep: how alignment and regions grow with training and with size (Fig. 4–7 and 10)."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import xarray as xr

from babelscope.errors import InputError
from babelscope.figures.facts import distinct, frame_of, grouped, in_order, numbers, rows_of
from babelscope.figures.palette import language_place
from babelscope.figures.register import View, figure, has_arrays
from babelscope.figures.spec import NAN, Axis, Bars, Cells, Code, Figure, Line, Panel, Rule
from babelscope.results import Run
from babelscope.results.schemas.sweep import Depth, Flow, SweepPoint, points

MEASURES = ("lrds", "sads", "language_share", "excess_sklr_rarefied", "sklr")


def finished(run: Run) -> list[SweepPoint]:
    """The finished points of a sweep."""
    return [point for point in points(run) if point.row.status == "done"]


def checkpoints(run: Run) -> list[SweepPoint]:
    """Points of a sweep along training, in the order of their steps: those of the model with most steps."""
    along = [point for point in finished(run) if point.row.step == point.row.step]
    along = [point for point in along if point.row.corpus == along[0].row.corpus]
    steps: dict[str, set[float]] = {}
    for point in along:
        steps.setdefault(point.row.model, set()).add(point.row.step)
    model = max(steps, key=lambda name: len(steps[name]), default="")
    return sorted((point for point in along if point.row.model == model), key=lambda point: point.row.step)


def scales(run: Run) -> list[SweepPoint]:
    """The last point of every size of a sweep on its first corpus, smallest first."""
    last: dict[float, SweepPoint] = {}
    sized = [point for point in finished(run) if point.row.parameters == point.row.parameters]
    for point in sorted(sized, key=_step):
        if point.row.corpus == sized[0].row.corpus:
            last[point.row.parameters] = point
    return [last[size] for size in sorted(last)]


def _corpus_words(run: Run) -> str:
    """Which corpus a figure is of, where the sweep has several."""
    corpora = distinct(point.row.corpus for point in finished(run))
    return f" On {corpora[0]}, the first of {len(corpora)} corpora." if len(corpora) > 1 else ""


def _step(point: SweepPoint) -> float:
    return point.row.step if point.row.step == point.row.step else float("inf")


def measures(among: Sequence[SweepPoint]) -> list[str]:
    """Measures that any of the points has: scores of the first screen, then accuracies."""
    known = distinct(name for point in among for name, value in point.values.items() if value == value)
    return [name for name in MEASURES if name in known] + [name for name in known if "accuracy" in name]


def measure_text(name: str) -> str:
    """`lrds` → LRDS, `accuracy_xstorycloze` → accuracy: xstorycloze."""
    if name in {"lrds", "sads", "sklr"}:
        return name.upper()
    if name == "excess_sklr_rarefied":
        return "SKLR beyond chance, rarefied"
    return "accuracy" if name == "accuracy" else name.replace("accuracy_", "accuracy: ").replace("_", " ")


def steps_text(step: float) -> str:
    """A training step, in thousands where nothing is lost or it is long.

    >>> steps_text(512), steps_text(2048), steps_text(8000), steps_text(300000), steps_text(1454000)
    ('512', '2048', '8k', '300k', '1454k')
    """
    return f"{step / 1000:.0f}k" if step >= 100_000 or (step >= 1000 and step % 1000 == 0) else f"{step:g}"


def size_text(parameters: float) -> str:
    """A parameter count as models are named.

    >>> size_text(559_214_592), size_text(7_069_016_064), size_text(176_247_271_424)
    ('559M', '7.1B', '176B')
    """
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if parameters >= 0.9995 * size:
            digits = 2 if unit == "B" and parameters < 9.95 * size else 3
            return f"{parameters / size:.{digits}g}{unit}"
    return f"{parameters:g}"


def steps_axis(steps: Sequence[float]) -> Axis:
    """Training steps, which lie ever further apart: logarithmic, marked at the steps themselves."""
    known = sorted(set(steps))
    return Axis("training step", log=True, ticks=tuple(known), tick_names=tuple(map(steps_text, known)))


def _panel(run: Run, among: Sequence[SweepPoint], x: Sequence[float], axis: Axis, name: str, place: int) -> Panel:
    values = [point.values.get(name, NAN) for point in among]
    ends = [point.interval(name) for point in among]
    same = tuple(place for place, point in enumerate(among) if point.row.duplicate_of)
    line = Line(measure_text(name), x, values, [low for low, _ in ends], [high for _, high in ends], place, hollow=same)
    wanted = ("model", "revision", "step", "parameters", name, f"{name}_low", f"{name}_high", "duplicate_of")
    table = run.table("points")
    keys = [point.row.key for point in among]
    shown = table.loc[table["key"].isin(keys), [column for column in wanted if column in table]]
    return Panel((line,), axis, Axis(measure_text(name)), measure_text(name), data=shown)


def _intervals(among: Sequence[SweepPoint], names: Sequence[str]) -> str:
    without = [measure_text(name) for name in names if not any(name in point.intervals for point in among)]
    told = f" No intervals for {', '.join(without)}: the points have none." if without else ""
    return ("" if len(without) == len(names) else " Bands: 95 % intervals.") + told


def _some(among: list[SweepPoint], what: str) -> list[SweepPoint]:
    if len(among) < 2:
        raise InputError(f"the sweep has fewer than two finished {what}")
    return among


@figure("sweep", "table:points", choose="Measure")
def training_curves(run: Run) -> Figure:
    """Each measure by training step (Fig. 4), a scale of its own each. Hollow: weights of another point."""
    among = _some(checkpoints(run), "checkpoints")
    steps = [point.row.step for point in among]
    names = measures(among)
    panels = [_panel(run, among, steps, steps_axis(steps), name, place) for place, name in enumerate(names)]
    same = sum(bool(point.row.duplicate_of) for point in among)
    told = (
        f" Hollow marks: {same} checkpoint{'s' if same > 1 else ''} with the very weights of another." if same else ""
    )
    caption = (
        f"Each measure over the training of {among[0].row.model}, n = {len(among)} checkpoints, steps "
        f"logarithmic.{told} LRDS falls and SADS rises where languages come to share meaning.{_intervals(among, names)}"
        f"{_corpus_words(run)}"
    )
    return Figure("Over training", caption, tuple(panels), about=among[0].row.model)


@figure("sweep", "table:points", choose="Measure")
def scale_curves(run: Run) -> Figure:
    """Each measure by number of parameters: Fig. 7 and 10."""
    among = _some(scales(run), "model sizes")
    sizes = [point.row.parameters for point in among]
    axis = Axis("parameters", log=True, ticks=tuple(sizes), tick_names=tuple(map(size_text, sizes)))
    names = measures(among)
    panels = [_panel(run, among, sizes, axis, name, place) for place, name in enumerate(names)]
    caption = (
        f"Each measure by number of parameters, the last checkpoint of each of n = {len(among)} sizes (logarithmic "
        f"axis).{_intervals(among, names)}{_corpus_words(run)}"
    )
    return Figure("By model size", caption, tuple(panels))


@figure("sweep", "table:points")
def sizes_over_training(run: Run) -> Figure:
    """Region size of each language over training: Fig. 6."""
    among = _some(checkpoints(run), "checkpoints")
    steps = [point.row.step for point in among]
    languages = in_order(run, (code for point in among for code in point.region_sizes))
    if not languages:
        raise InputError("the sweep states no region sizes")
    lines = tuple(
        Line(Code(code), steps, [point.region_sizes.get(code, NAN) for point in among],
             colour=language_place(run, code))
        for code in languages
    )  # fmt: skip
    rows = [
        {"step": point.row.step, **{code: point.region_sizes.get(code, NAN) for code in languages}} for point in among
    ]
    caption = (
        f"Size of each language's region over training, n = {len(among)} checkpoints, steps logarithmic. Choose "
        f"languages by clicking on the legend. No intervals: a count of one recording a point.{_corpus_words(run)}"
    )
    panel = Panel(lines, steps_axis(steps), Axis("neurons in the region"), data=pd.DataFrame(rows))
    return Figure("Region sizes over training", caption, (panel,), about=among[0].row.model)


@figure("sweep", "table:points")
def layers_over_training(run: Run) -> Figure:
    """Key neurons by layer, one row per checkpoint: Fig. 5."""
    among = _some(checkpoints(run), "checkpoints")
    found = layers_of_points(run, [point.row.key for point in among])
    if found is None:
        raise InputError("the runs of the sweep's points are not beside it, so region sizes by layer are unknown")
    values = numbers(found.sum("language").values)
    names = tuple(steps_text(point.row.step) for point in among)
    data = pd.DataFrame(values, index=list(names), columns=found.layer.values).rename_axis("step").reset_index()
    caption = (
        f"Key neurons in each layer at each of n = {len(among)} checkpoints; training runs downwards, brighter is "
        f"more. No intervals: counts of one recording a point.{_corpus_words(run)}"
    )
    axes = Axis("layer", names=tuple(str(layer) for layer in found.layer.values)), Axis("training step", names=names)
    panel = Panel((Cells(values, "key neurons", low=0.0),), *axes, data=data)
    return Figure("Key neurons by layer", caption, (panel,), about=among[0].row.model)


def layers_of_points(run: Run, keys: Sequence[str]) -> xr.DataArray | None:
    """Region size by `point`, `language` and `layer`: from the sweep itself, or from the runs of its points."""
    if has_arrays(run) and "region_size_layer" in run.arrays():
        return run.arrays().region_size_layer.sel(point=list(keys)).load()
    from babelscope.results import is_run, open_run

    found = [open_run(run.path / key).arrays().region_size_layer.load() for key in keys if is_run(run.path / key)]
    if len(found) != len(keys) or not found:
        return None
    by_key = xr.Dataset(dict(zip(keys, found, strict=True)))  # shallower models have NaN in deeper layers
    return by_key.to_dataarray("point")


@figure("sweep", "table:flow")
def neuron_flow(run: Run) -> Figure:
    """Neurons kept, born, moved from another language and lost, between one checkpoint and the next."""
    every = rows_of(run, Flow)
    # of the series with most steps: those of other models and corpora are other neurons
    ways: dict[tuple[str, str], set[tuple[str, str]]] = {}
    for row in every:
        ways.setdefault((row.model, row.corpus), set()).add((row.from_, row.to))
    model, corpus = max(ways, key=lambda way: len(ways[way]), default=("", ""))
    rows = [row for row in every if (row.model, row.corpus) == (model, corpus)]
    steps = list(grouped(rows, lambda row: (row.from_, row.to)))
    sums = {
        name: [float(sum(getattr(row, name) for row in own)) for _, own in steps]
        for name in ("kept", "moved", "born", "left", "lost")
    }
    marks = [Bars(name, sums[name], colour=place) for place, name in enumerate(("kept", "moved", "born"))]
    below = [name for name in ("left", "lost") if any(sums[name])]
    marks += [Bars(name, [-value for value in sums[name]], colour=3 + place) for place, name in enumerate(below)]
    names = tuple(f"{first}\n→ {last}" for (first, last), _ in steps)
    caption = (
        f"Neurons of the regions from one checkpoint to the next ({len(steps)} steps, all languages): kept by their "
        "language, moved to another, newly born; below the line, those that left for another language and those lost. "
        "No intervals: counts." + (f" Of {model} on {corpus}, one of {len(ways)} series." if len(ways) > 1 else "")
    )
    panel = Panel((*marks, Rule(0.0)), Axis("", names), Axis("neurons"), bars="stack", data=run.table("flow"))
    return Figure("Flow of neurons", caption, (panel,), about=model or run.model_name)


def _labels(run: Run) -> list[View]:
    """The last checkpoint first."""
    return [View(label, {"point": label}) for label in reversed(distinct(row.label for row in rows_of(run, Depth)))]


@figure("sweep", "table:depth", views=_labels, choose="Point")
def depth(run: Run, point: str | None = None) -> Figure:
    """Where in relative depth each language's neurons are, at one point of a sweep."""
    rows = rows_of(run, Depth)
    labels = distinct(row.label for row in rows)
    point = point or labels[-1]
    own = [row for row in rows if row.label == point]
    own = [row for row in own if row.key == own[0].key]  # the same point on another corpus has the same label
    if not own:
        raise InputError(f"the sweep has no point {point!r}; it has: {', '.join(labels)}")
    lines = tuple(
        Line(Code(code), [(row.from_depth + row.to_depth) / 2 for row in its], [row.share for row in its],
             colour=language_place(run, code))
        for code, its in grouped(own, lambda row: row.language)
    )  # fmt: skip
    caption = (
        "Where each language's neurons are, by relative depth, so that models of different sizes compare "
        f"({len(labels)} points). No intervals: counts of one recording a point.{_corpus_words(run)}"
    )
    axes = Axis("relative depth (0: first layer, 1: last)", low=0.0, high=1.0), Axis("share of the region")
    panel = Panel(lines, *axes, data=frame_of(own))
    return Figure("Regions by relative depth", caption, (panel,), about=point)
