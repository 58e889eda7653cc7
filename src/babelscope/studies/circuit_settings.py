"""What a study of circuits asks for, and the presets of the paper."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import ClassVar, Literal

from babelscope.errors import InputError
from babelscope.languages import parse_languages
from babelscope.settings import Settings, Use
from babelscope.terms import SLOPES, Ablation, Between, Construction, Counted, Half, Matching, Rule, Slope, Split


@dataclass(frozen=True, kw_only=True)
class Prompted(Settings):
    """Prompts: of which task, in which languages."""

    task: str = "ioi"
    """one of ioi, past-tense, minimal-pairs:FILE, ioi:FILE.toml, … (see: babelscope tasks list)"""
    languages: tuple[str, ...] = ("en", "zh")
    """codes, by commas"""
    n: int = 100
    """prompt pairs per language (fewer where fewer survive the census)"""
    seed: int = 0
    """of prompts, bootstrap and random sets"""
    split: Split = "strict"
    """one-token names and targets; more than that; strict where that is enough"""
    corruption: str | None = None
    """of the main sweeps [those that the task's search needs]"""
    stratum: Mapping[str, str] = field(default_factory=dict[str, str])
    """past tense, which stratum to patch, such as en=irregular,zh=copy [the one with most prompts, never a mixture]"""
    heldout: bool | None = None
    """held-out prompts alone, or the others alone [all]"""

    def check(self) -> None:
        """Raises InputError for no language, or one that there is not."""
        self._put(languages=tuple(parse_languages(self.languages)))
        if self.n < 1:
            raise InputError(f"--n {self.n}: at least one pair of prompts")


@dataclass(frozen=True, kw_only=True)
class Searched(Settings):
    """Search: which heads act, and on what."""

    rule: Rule = "significance"
    """how heads are selected (section 3)"""
    sigmas: float = 2.0
    """least effect, in deviations over all heads"""
    q: float = 0.05
    """false discovery rate of the selection"""
    null: bool = True
    """compare with same-answer counterfactuals"""
    mlps: Between = "recomputed"
    """MLPs between sender and receiver"""

    def check(self) -> None:
        """Raises InputError for what no selection is made by."""
        if self.sigmas < 0:
            raise InputError(f"--sigmas {self.sigmas:g}: deviations, 0 or more")
        if not 0 < self.q < 1:
            raise InputError(f"--q {self.q:g}: a false discovery rate lies between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class Screened(Settings):
    """Screen: which heads are patched one by one; the others are estimated not to matter."""

    exact: bool = False
    """patch every head, also those that a cheap screen passes over (models of fewer than 64 heads always are)"""
    screen_sample: float = 0.1
    """of the heads that the screen passes over, patched all the same: they bound what it missed"""

    def check(self) -> None:
        """Raises InputError for a share that is none."""
        if not 0 < self.screen_sample <= 1:
            raise InputError(f"--screen-sample {self.screen_sample:g}: a share of heads lies in (0, 1]")


@dataclass(frozen=True, kw_only=True)
class Mixed(Settings):
    """Mixtures: whether each routed expert is patched by itself, beside heads and feed-forward blocks."""

    experts: Literal["none", "frozen", "free"] = "none"
    """patch experts: with tokens and weights of the unpatched run (frozen), or those of the other run (free)"""


@dataclass(frozen=True, kw_only=True)
class ScreenedSearch(Searched, Screened):
    """What the search depends on."""


@dataclass(frozen=True, kw_only=True)
class MixedSearch(Searched, Mixed):
    """What the choice of experts depends on."""


@dataclass(frozen=True, kw_only=True)
class Ablated(Settings):
    """Ablation: what goes without the heads that were found."""

    ablation: Ablation = "mean"
    """zero, mean (per template, order, position) or resample"""
    draws: int = 20
    """random head sets beside the circuit"""
    windows: tuple[int, ...] = (1, 3, 5)
    """widths of FFN windows that are removed, odd"""

    def check(self) -> None:
        """Raises InputError for windows that have no centre."""
        even = [width for width in self.windows if width < 1 or width % 2 == 0]
        if even:
            raise InputError(f"an FFN window is centred on a layer, so its width is odd: got {even[0]}")


@dataclass(frozen=True, kw_only=True)
class Described(Settings):
    """Roles: what each head does."""

    repeats: tuple[int, ...] = (10, 25, 50)
    """lengths T of random tokens said twice"""
    top: int = 10
    """promoted tokens listed per head"""
    permutations: int = 1000
    """draws of permuted heads for correlations between languages"""

    def check(self) -> None:
        """Raises InputError for numbers that count nothing."""
        if any(length < 1 for length in self.repeats):
            raise InputError("--repeats: lengths are counted from 1")


@dataclass(frozen=True, kw_only=True)
class Edged(Settings):
    """Edges: routes, edges by fast attribution, and circuits as masks (sections 5 to 7)."""

    edges: bool = True
    """also routes, edges and circuits as masks"""
    edge_share: float | None = None
    """of all edges in a language's circuit [the fewest that are faithful to 0.8]"""
    counted: Counted = "native"
    """edges into keys and values: by the model's key/value heads, or by query-heads as the MIB benchmark counts them"""
    construction: Construction = "greedy"
    """circuits grow from the logits upwards, or hold the strongest edges anywhere (top, as in MIB); both are pruned"""
    slopes: tuple[Slope, ...] = ("ld",)
    """what edges are attributed by, by commas: ld, loss, kl; the first ranks circuits, all stand in table agreement"""
    half: Half = "test"
    """prompts of CPR and CMD: those not used for ranking, or the very same (ranking: in-sample)"""

    def check(self) -> None:
        """Raises InputError for a share that is none."""
        if self.edge_share is not None and not 0 < self.edge_share <= 1:
            raise InputError(f"a circuit's share of the edges lies in (0, 1], got {self.edge_share:g}")
        if not self.slopes:
            raise InputError(f"--slopes {','.join(self.slopes)}: there are {', '.join(SLOPES)}")


@dataclass(frozen=True, kw_only=True)
class Matched(Settings):
    """Another model: whose heads are matched by role with this one's."""

    against_language: str | None = None
    """of the other model [the last language]"""
    matching: Matching = "shuffle"
    """null of the matching: role scores shuffled over the heads, or models with random weights (twins)"""
    twins: int = 200
    """draws of that null"""

    def check(self) -> None:
        """Raises InputError for a null of no draws."""
        if self.twins < 1:
            raise InputError(f"--twins {self.twins}: a null has at least one draw")


@dataclass(frozen=True, kw_only=True)
class CircuitsSettings(Matched, Edged, Described, Ablated, Mixed, ScreenedSearch, Prompted):
    """Settings of `study_circuits`; every one is recorded with the run."""

    ONLY: ClassVar[Mapping[str, Use]] = {
        **{
            name: (lambda own: own.edges, "edges (--no-edges was given)")
            for name in ("edge_share", "counted", "construction", "half")
        },
        "stratum": (lambda own: own.task.startswith("past-tense"), "--task past-tense"),
    }


@dataclass(frozen=True)
class Preset:
    """A study of the paper: which model, which settings."""

    model: str
    settings: Mapping[str, object]
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
