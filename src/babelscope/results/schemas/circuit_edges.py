"""Tables of a circuits run about circuits of edges, and about two languages' circuits beside each other."""

from __future__ import annotations

from dataclasses import dataclass
from math import nan
from typing import ClassVar

from babelscope.results.rows import Part, Row
from babelscope.results.schemas.circuits import CrossRow


@dataclass(frozen=True, kw_only=True)
class CrossEdges(CrossRow):
    """A circuit of edges."""

    TABLE: ClassVar[str] = "cross_edges"
    random_edges: float = nan
    """edges of the random circuits, mean"""
    relabelled: float = nan
    """mean of the circuit with its heads renamed inside their layers"""
    control: float = nan
    """the control task's circuit, cut to the same number of edges"""
    share: float = nan
    """of the faithfulness of the own circuit of the language that it is run on"""
    edges: float = nan
    why: str = ""
    prompts: float = nan
    model: str = ""


@dataclass(frozen=True, kw_only=True)
class NodeClass(Row):
    """A node of either of two languages' circuits."""

    TABLE: ClassVar[str] = "classification"
    language: str
    language2: str
    node: str
    class_: str
    """shared, repurposed, or of one language only"""
    model: str = ""


@dataclass(frozen=True, kw_only=True)
class Agreed(Row):
    """How far two methods score the same heads or edges alike; in a row of recall the second is the truth."""

    TABLE: ClassVar[str] = "agreement"
    language: str = ""
    what: str = "heads"
    method: str
    method2: str
    spearman: float
    """of absolute scores"""
    pearson: float = nan
    top_k_recall: float
    """share of the k strongest by `method2` that are among the k strongest by `method`"""
    k: float = nan
    n: float = nan
    """compared"""
    model: str = ""


@dataclass(frozen=True, kw_only=True)
class Correlated(Row):
    """How far two languages' heads have the same effects."""

    TABLE: ClassVar[str] = "overlap"
    language: str
    language2: str
    measure: str
    value: float
    null: float = nan
    """mean of the null"""
    p: float = nan


@dataclass(frozen=True, kw_only=True)
class Overlap(Correlated):
    """How far two languages' circuits are the same."""

    low: float = nan
    high: float = nan
    ceiling: float = nan
    """correlation of halves of the same language"""
    control: float = nan
    """correlation with the control task"""
    why: str = ""
    model: str = ""


@dataclass(frozen=True, kw_only=True)
class Faithful(Part):
    """Faithfulness at one budget, and the area under the whole curve."""

    faithfulness: float
    low: float = nan
    high: float = nan
    value: float = nan
    """area"""
    value_low: float = nan
    value_high: float = nan
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class EdgeCurve(Row):
    """Faithfulness of the strongest edges of one language's ranking, by how many are kept."""

    TABLE: ClassVar[str] = "edge_curve"
    language: str
    area: str
    """`cpr` ranks by signed scores, `cmd` by absolute ones"""
    ranked_by: str = ""
    construction: str = ""
    edges_counted: str = ""
    half: str = ""
    """`test`: prompts that did not rank; `ranking`: the very same"""
    prompts: float = nan
    budget: float
    """edges kept, as a share of all"""
    edges: int
    found: Faithful
    model: str = ""


@dataclass(frozen=True, kw_only=True)
class NodeCurve(Row):
    """The same of circuits of heads and MLPs, ranked by attribution patching."""

    TABLE: ClassVar[str] = "node_curve"
    language: str
    area: str
    ranked_by: str
    half: str
    prompts: int
    budget: float
    nodes: int
    found: Faithful
    model: str = ""
