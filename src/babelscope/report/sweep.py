"""The sections of a sweep: evolution over checkpoints and sizes, depth, and the table of points."""

from __future__ import annotations

from babelscope.figures.sweep import finished, measures
from babelscope.report.blocks import Block, Section, Table, gather
from babelscope.report.charts import chart, table
from babelscope.results import Run

_SCALE_OVERLAP = table(
    "scale_overlap",
    "Depth profiles of different sizes",
    "How alike two models spread a language's neurons over their depth (1: alike), beside the mean with other "
    "languages.",
)
_PUBLISHED = table("published", "Beside the published numbers", "Every published number, ours, and the difference.")


def sweep_sections(run: Run) -> list[Section]:
    """Training, size, flow, and the table of points: those that the sweep holds."""
    sections = [
        Section(
            "Evolution over training",
            gather(run, chart("training_curves"), chart("sizes_over_training"), chart("layers_over_training"),
                   chart("neuron_flow")),
        ),
        Section("Model sizes", gather(run, chart("scale_curves"))),
        Section("Depth", gather(run, chart("depth"), _SCALE_OVERLAP)),
        Section("Points", gather(run, _PUBLISHED, ("Accuracy", _accuracy), ("Points", _points))),
    ]  # fmt: skip
    return [section for section in sections if section.blocks]


def _accuracy(run: Run) -> Block | None:
    """The last point of a model first; what names a point is said once."""
    if "accuracy" not in run.tables:
        return None
    frame = run.table("accuracy")
    caption = "Accuracy on the story cloze task at every point of the sweep, by language, with 95 % intervals."
    if "step" in frame:
        frame = frame.sort_values("step", ascending=False, kind="stable", na_position="first")
    spoken = [str(name) for name in frame.columns if name not in {"label", "key"}]
    names = [name for name in ("key", "label") if name in frame.columns and "revision" not in frame.columns]
    return Table("accuracy", "Accuracy by point", caption, frame.loc[:, [*names, *spoken]])


def _points(run: Run) -> Block | None:
    if "points" not in run.tables:
        return None
    frame = run.table("points")
    wanted = ["model", "revision", "step", "parameters", "status", "duplicate_of", *measures(finished(run)), "key"]
    caption = f"The {len(frame)} points of the sweep. “duplicate of” names a point with the very same weights."
    shown = [name for name in dict.fromkeys(wanted) if name in frame.columns]
    return Table("points", "Points", caption, frame.loc[:, shown])
