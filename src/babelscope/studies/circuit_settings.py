"""What a study of circuits asks for, and the presets of the paper."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from babelscope.errors import InputError


@dataclass(frozen=True)
class CircuitsSettings:
    """Settings of `study_circuits`; every one is recorded with the run."""

    task: str = "ioi"
    languages: tuple[str, ...] = ("en", "zh")
    n: int = 100
    """prompt pairs per language (fewer where fewer survive the census)"""
    seed: int = 0
    split: str = "strict"
    corruption: str | None = None
    """of the main sweeps; default: the task's first"""
    stratum: Mapping[str, str] = field(default_factory=dict[str, str])
    """language → stratum that is patched (past tense); default: the one with most prompts, never a mixture"""
    heldout: bool | None = None
    rule: str = "significance"
    """how heads are selected: significance or deviation (section 3)"""
    sigmas: float = 2.0
    q: float = 0.05
    null: bool = True
    """compare with same-answer counterfactuals"""
    mlps: str = "recomputed"
    """between sender and receiver: recomputed or frozen"""
    ablation: str = "mean"
    """zero, mean or resample"""
    draws: int = 20
    """matched random head sets"""
    windows: tuple[int, ...] = (1, 3, 5)
    """widths of FFN windows that are removed"""
    repeats: tuple[int, ...] = (10, 25, 50)
    """T of repeated random tokens"""
    top: int = 10
    """promoted tokens listed per head"""
    permutations: int = 1000
    against_language: str | None = None
    """of the other model whose heads are matched with this one's; default: the last of `languages`"""
    twins: int = 20
    """random-weights models of the null of that matching"""
    edges: bool = True
    """routes, edges by fast attribution and circuits as masks as well (sections 5 to 7)"""
    edge_share: float | None = None
    """edges of each language's circuit, as a share of all; default: the fewest that are faithful (0.8)"""

    def __post_init__(self) -> None:
        if not self.languages:
            raise InputError("name at least one language")
        if self.rule not in ("significance", "deviation"):
            raise InputError(f"no selection rule {self.rule!r}; there are significance and deviation")
        if self.mlps not in ("recomputed", "frozen"):
            raise InputError(f"MLPs between sender and receiver are recomputed or frozen, not {self.mlps!r}")
        if self.ablation not in ("zero", "mean", "resample"):
            raise InputError(f"a study ablates by zero, mean or resample, not {self.ablation!r}")
        if self.edge_share is not None and not 0 < self.edge_share <= 1:
            raise InputError(f"a circuit's share of the edges lies in (0, 1], got {self.edge_share:g}")
        even = [width for width in self.windows if width < 1 or width % 2 == 0]
        if even:
            raise InputError(f"an FFN window is centred on a layer, so its width is odd: got {even[0]}")


@dataclass(frozen=True)
class Preset:
    """A study of the paper: which model, which settings."""

    model: str
    settings: Mapping[str, Any]
    summary: str


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "ioi-bloom": Preset(
            "bigscience/bloom-560m",
            {"task": "ioi", "languages": ("en", "zh")},
            "one model, one process, two languages (E1–E4)",
        ),
        "ioi-gpt2": Preset("gpt2", {"task": "ioi", "languages": ("en",)}, "IOI in a model of English alone (E5)"),
        "ioi-cpm": Preset(
            "mymusise/CPM-Generate-distill",
            {"task": "ioi", "languages": ("zh",), "split": "auto"},
            "IOI in a model of Chinese alone (E5)",
        ),
        "tense-qwen": Preset(
            "Qwen/Qwen2-0.5B-Instruct",
            {"task": "past-tense", "languages": ("en", "zh")},
            "a process that the two languages mark differently (E6–E11)",
        ),
        "ioi-pocket": Preset(
            "pocket:pocket-bloom-m", {"task": "ioi", "languages": ("en", "zh")}, "the first, on the built-in model"
        ),
        "tense-pocket": Preset(
            "pocket:pocket-bloom-m", {"task": "past-tense", "languages": ("en", "zh")}, "the second, on it"
        ),
    }
)


def preset(name: str) -> Preset:
    """A preset by name; raises InputError with those that exist."""
    if name not in PRESETS:
        raise InputError(f"no preset {name!r}; there are {', '.join(PRESETS)}")
    return PRESETS[name]
