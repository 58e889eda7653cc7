"""What a task asks of a model's circuit: the steps of the search, and the names that it gives to what they find.

Only words here: the search itself is in `babelscope.circuits.patching.search`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

Through = Literal["logits", "q", "k", "v", "mlp"]
WRITES = "writes target − foil"


@dataclass(frozen=True)
class Need:
    """A score that a label rests on."""

    score: str
    least: float = float("-inf")
    """the score must reach this, and beat the head's own null"""


@dataclass(frozen=True)
class Label:
    """The role of a head, and the scores that earn it; while one does not, the head is a candidate for the role."""

    role: str
    needs: tuple[Need, ...] = ()
    score: str = WRITES
    """printed beside a label that needs none"""


Choose = Callable[[bool, Callable[[str], float]], Label]
"""(works for the answer, score of the head by name) → its label"""


def fixed(supporting: str, opposing: str = "", *needs: Need) -> Choose:
    """The same label for every head of a step, by whether it works for the answer."""
    return lambda supports, _: Label(supporting if supports else opposing or f"{supporting}, opposing", needs)


@dataclass(frozen=True)
class Step:
    """One question: which senders reach `into` `through` its q, k, v or MLP inputs, at role `at`?"""

    name: str
    through: Through = "logits"
    into: str = ""
    """the earlier step whose supporting nodes receive; empty for the logits"""
    at: str | None = "END"
    mlps: bool = False
    """MLPs are senders too"""
    corruption: str = ""
    """which prompts; empty for the first"""
    knocked_out: str = ""
    """the step whose supporting heads are ablated meanwhile"""
    label: Choose | None = field(default=None, compare=False, repr=False)
    """what its heads are called; None: after the step"""

    def named(self, supports: bool, score: Callable[[str], float]) -> Label:
        """The label of a head that this step found."""
        return self.label(supports, score) if self.label else Label(self.name.replace("_", " "))


@dataclass(frozen=True)
class Dissociation:
    """Two corruptions that take a task apart: a head that one moves much more than the other does one of two things."""

    first: str
    second: str
    """steps, whose effects are held against each other"""
    labels: tuple[Label, Label, Label]
    """of a head that the first moves much more, that the second does, and of one that both move"""
    factor: float = 2.0
    """"much more": by this factor"""

    def named(self, effects: Mapping[str, float]) -> Label | None:
        """The label by a head's effects in the two steps; None where one of them did not run."""
        if self.first not in effects or self.second not in effects:
            return None
        one, other = abs(effects[self.first]), abs(effects[self.second])
        place = 0 if one > self.factor * other else 1 if other > self.factor * one else 2
        return self.labels[place]


ANY = (
    Step("direct", mlps=True),
    Step("queries", "q", "direct", mlps=True, label=fixed("feeds queries")),
    Step("keys", "k", "direct", None, mlps=True, label=fixed("feeds keys")),
    Step("values", "v", "direct", None, mlps=True, label=fixed("feeds values")),
    Step("ffn_inputs", "mlp", "direct", label=fixed("feeds FFNs")),
)
"""any task that names no steps of its own"""
