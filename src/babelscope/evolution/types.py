"""What a sweep is made of: revisions of models, where their weights are, and points that are measured."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from babelscope.evolution.measures import Measure


@dataclass(frozen=True)
class Revision:
    """One checkpoint: a branch, tag or commit on the hub, a subfolder of a local model, or a pocket revision."""

    name: str | None
    step: int | None = None


@dataclass(frozen=True)
class PlannedModel:
    """One model and the revisions of it that are to be measured."""

    id: str
    revisions: tuple[Revision, ...] = (Revision(None),)
    """empty: all that there are"""
    pattern: str = "*"
    """of the names of subfolders or branches, where there is no list"""
    count: int | None = None
    """so many of them, spread evenly over the logarithm of the training step; None: every one"""


@dataclass(frozen=True)
class Source:
    """One revision of one model."""

    kind: Literal["folder", "hub"]
    model: str
    """as the plan names it, shortened for folders"""
    revision: str | None
    place: str
    """path of the folder, or repository on the hub"""
    identity: str
    """commit on the hub, or hash of the content of the folder's files"""
    patterns: tuple[str, ...] = ()
    """files to download"""
    step: int | None = None
    """training step, where the built-in family knows it"""


@dataclass(frozen=True)
class Work:
    """What is measured at a point, and how the model is loaded for it."""

    dtype: str = "float32"
    attention: str | None = None
    trust_remote_code: bool = False
    measures: tuple[Measure[Any], ...] = ()
    """one after another; regions, where they are asked for, come first"""


@dataclass(frozen=True)
class Place:
    """Where models run. Not part of any key."""

    device: str | None = None
    device_map: str | None = None


@dataclass(frozen=True)
class Point:
    """One revision of one model on one corpus."""

    key: str
    model: str
    revision: str | None
    step: int | None
    corpus: str | None
    source: Source | None
    """None when the model cannot be found; `problem` says why"""
    work: Work
    problem: str = ""

    @property
    def label(self) -> str:
        """How people call it.

        >>> Point("0", "pocket:pocket-bloom-m", "step16", 16, None, None, Work()).label
        'pocket-bloom-m@step16'
        """
        name = self.model.removeprefix("pocket:")
        return f"{name}@{self.revision}" if self.revision else name

    def facts(self) -> dict[str, object]:
        """What sweep.json says of it."""
        return {
            "key": self.key, "label": self.label, "model": self.model, "revision": self.revision, "step": self.step,
            "corpus": self.corpus, "source": self.source and asdict(self.source), "problem": self.problem,
        }  # fmt: skip
