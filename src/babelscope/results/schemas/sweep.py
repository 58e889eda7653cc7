"""Tables of a sweep. A point: one model, revision and corpus."""

from __future__ import annotations

from dataclasses import dataclass
from math import nan
from typing import ClassVar

from babelscope.results.rows import Row, Tables, read_rows


@dataclass(frozen=True)
class PointRow(Row):
    """One point, as far as every sweep has it; measures by name are read by `points`."""

    TABLE: ClassVar[str] = "points"
    model: str
    key: str
    revision: str = ""
    label: str = ""
    step: float = nan
    """of training; NaN: unknown"""
    parameters: float = nan
    corpus: str = ""
    status: str = "done"
    duplicate_of: str = ""
    """a point with the very same weights"""


@dataclass(frozen=True)
class SweepPoint:
    """One point with its measures: name → value, and name → 95 % interval where there is one."""

    row: PointRow
    values: dict[str, float]
    intervals: dict[str, tuple[float, float]]

    @property
    def region_sizes(self) -> dict[str, float]:
        """Neurons in the region of each language."""
        sizes = {name.removeprefix(_SIZE): value for name, value in self.values.items() if name.startswith(_SIZE)}
        return {code: size for code, size in sizes.items() if size == size}

    def interval(self, name: str) -> tuple[float, float]:
        """The ends of a measure, NaN where there is none."""
        return self.intervals.get(name, (nan, nan))


_SIZE = "region_size_"


def points(run: Tables) -> list[SweepPoint]:
    """The points of a sweep with every column that holds numbers."""
    rows = read_rows(run, PointRow)
    if not rows:
        return []
    frame = run.table(PointRow.TABLE)
    named = {str(name) for name in frame.columns}
    columns: dict[str, list[float]] = {}
    for name in named - {
        "model",
        "key",
        "revision",
        "label",
        "corpus",
        "status",
        "duplicate_of",
        "weight_hash",
        "error",
    }:
        try:
            columns[name] = [nan if value is None else float(value) for value in frame[name].tolist()]
        except (TypeError, ValueError):
            continue
    bounds = {name for name in columns if name.endswith(("_low", "_high"))}
    found: list[SweepPoint] = []
    for place, row in enumerate(rows):
        values = {str(name): columns[name][place] for name in frame.columns if name in columns and name not in bounds}
        ends = {
            name: (columns[f"{name}_low"][place], columns[f"{name}_high"][place])
            for name in values
            if f"{name}_low" in bounds and f"{name}_high" in bounds
        }
        found.append(SweepPoint(row, values, ends))
    return found


@dataclass(frozen=True, kw_only=True)
class Flow(Row):
    """Neurons of one language's region from one checkpoint to the next, by layer.

    Size before = kept + left + lost, size after = kept + born + moved.
    """

    TABLE: ClassVar[str] = "flow"
    language: str
    layer: int = -1
    kept: int
    born: int
    """in no region before"""
    moved: int
    """of another language before"""
    left: int = 0
    """of another language after"""
    lost: int
    """in no region after"""
    model: str = ""
    corpus: str = ""
    from_: str = ""
    """revision"""
    to: str = ""


@dataclass(frozen=True, kw_only=True)
class FlowPair(Row):
    """Neurons of a region of one language before and of another after."""

    TABLE: ClassVar[str] = "flow_pairs"
    language: str
    """before; "": of none"""
    language2: str
    """after; "": of none"""
    neurons: int
    model: str = ""
    corpus: str = ""
    from_: str = ""
    to: str = ""


@dataclass(frozen=True, kw_only=True)
class Depth(Row):
    """Share of a region in one stretch of relative depth."""

    TABLE: ClassVar[str] = "depth"
    label: str
    """of the point"""
    key: str = ""
    language: str
    from_depth: float
    """0: first layer; 1: last"""
    to_depth: float
    share: float


@dataclass(frozen=True, kw_only=True)
class ScaleOverlap(Row):
    """Overlap over relative depth of one language's region in two models."""

    TABLE: ClassVar[str] = "scale_overlap"
    from_: str
    """model"""
    to: str
    language: str
    overlap: float
    others: float
    """mean overlap with the regions of the other languages in the second model: what any region would share"""
    corpus: str = ""


@dataclass(frozen=True, kw_only=True)
class BesidePublished(Row):
    """One published number and ours."""

    TABLE: ClassVar[str] = "published"
    item: str
    """`base_perplexity`, `increase_percent` or `region_size`"""
    language: str
    deactivated: str
    published: float
    ours: float
    difference: float
