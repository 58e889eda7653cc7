"""What a patching sweep found: each sender's effect on the logit difference, prompt by prompt.

S sender · P pair · L layer · H head
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from babelscope.circuits.core.cache import Direction
from babelscope.circuits.core.nodes import MLP, Head, Mixer, Sender
from babelscope.circuits.core.statistics import unit_of
from babelscope.errors import NonFinite
from babelscope.stats import mean_ends

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Screening:
    """How the heads of a sweep were chosen, where not every one was patched."""

    asked: int
    """heads that might have been patched"""
    kept: int
    """by the screen"""
    sampled: tuple[Sender, ...]
    """of the others, at random; each stands for as many of those as were left out"""

    @property
    def left(self) -> int:
        """Heads that nobody patched."""
        return self.asked - self.kept - len(self.sampled)


@dataclass(frozen=True)
class Effects:
    """Logit differences before and after patching each sender (section 3)."""

    senders: tuple[Sender, ...]
    patched: Float[Array, "S P"]
    clean: Float[Array, " P"]
    corrupted: Float[Array, " P"]
    direction: Direction = "noising"
    divergence: Float[Array, "S P"] | None = None
    """KL(unpatched ‖ patched) at END in nats, when it was asked for"""
    settings: dict[str, object] = field(default_factory=dict[str, object])
    """every choice that determined the numbers"""
    unit: Float[Array, " P"] | None = None
    """logit differences whose mean the effects are shares of, where that is not the run's own (after a knock-out)"""
    screening: Screening | None = None
    """None: every sender was patched"""

    @property
    def base(self) -> Float[Array, " P"]:
        """Logit differences of the run that was patched into."""
        return self.clean if self.direction == "noising" else self.corrupted

    @property
    def differences(self) -> Float[Array, "S P"]:
        """LD patched − LD unpatched, per pair."""
        return self.patched - self.base

    @property
    def effect(self) -> Float[Array, " S"]:
        """(mean LD_D − mean LD_base) / scale; scale is the mean clean LD, or in denoising mean clean − mean corrupted.

        Raises NonFinite when the scale is zero, which says that the model does not do the task at all.
        """
        return self.differences.mean(1) / _nonzero(self._scale, self._why)

    @property
    def recovery(self) -> Float[Array, " S"]:
        """Where the patched mean stands between the corrupted (0) and the clean run (1)."""
        span = _nonzero(self.clean - self.corrupted, "clean and corrupted runs score the same")
        return (self.patched - self.corrupted).mean(1) / span

    def interval(self, draws: int = 1000, seed: int = 0) -> tuple[Float[Array, " S"], Float[Array, " S"]]:
        """Ends of the 95 % bootstrap-t interval of `effect`, a ratio of means, by each pair's part in it."""
        return mean_ends(self.parts(), draws, seed)

    def parts(self) -> Float[Array, "S P"]:
        """Each pair's part in the effect, linearised: their mean is the effect, their spread its error."""
        effect, scale = self.effect[:, None], self._scale
        return effect + (self.differences - effect * scale) / scale.mean()

    @property
    def mean(self) -> float:
        """Mean effect of all senders; where some were sampled, each stands for those that were left out."""
        return float(np.average(self.effect, weights=self._standing))

    @property
    def deviation(self) -> float:
        """Standard deviation of the effects of all senders, estimated likewise."""
        return float(np.average((self.effect - self.mean) ** 2, weights=self._standing) ** 0.5)

    @property
    def _standing(self) -> Float[Array, " S"]:
        """How many senders each one stands for."""
        standing = np.ones(len(self.senders))
        if self.screening is not None and self.screening.sampled:
            sampled = set(self.screening.sampled)
            each = 1 + self.screening.left / len(sampled)
            standing[[place for place, node in enumerate(self.senders) if node in sampled]] = each
        return standing

    def only(self, senders: Collection[Sender]) -> Effects:
        """The same sweep of some of its senders alone, in the sweep's order."""
        places = [place for place, node in enumerate(self.senders) if node in senders]
        kl = None if self.divergence is None else self.divergence[places]
        chosen = tuple(self.senders[place] for place in places)
        return replace(self, senders=chosen, patched=self.patched[places], divergence=kl)

    @property
    def layers(self) -> int:
        """Blocks of the model that was patched."""
        return self._size("layers")

    def _size(self, name: str) -> int:
        size = self.settings[name]
        assert isinstance(size, int)
        return size

    def heads(self, values: Float[Array, " S"] | None = None) -> Float[Array, "L H"]:
        """Values (the effects, unless given) of the heads as a layer × head matrix; NaN where a head was no sender."""
        values = self.effect if values is None else values
        found = {node: value for node, value in zip(self.senders, values) if isinstance(node, Head)}
        shape = self.layers, self._size("heads")
        matrix = np.full(shape, np.nan)
        for node, value in found.items():
            matrix[node.layer, node.head] = value
        return matrix

    def mlps(self, values: Float[Array, " S"] | None = None) -> Float[Array, " L"]:
        """Values of the MLPs by layer; NaN where an MLP was no sender."""
        values = self.effect if values is None else values
        vector = np.full(self.layers, np.nan)
        for node, value in zip(self.senders, values):
            if isinstance(node, MLP):
                vector[node.layer] = value
        return vector

    def mixers(self, values: Float[Array, " S"] | None = None) -> Float[Array, " L"]:
        """Values of the linear mixers by layer; NaN where one was no sender."""
        values = self.effect if values is None else values
        vector = np.full(self.layers, np.nan)
        for node, value in zip(self.senders, values):
            if isinstance(node, Mixer):
                vector[node.layer] = value
        return vector

    def of(self, sender: Sender) -> float:
        """Effect of one sender."""
        return float(self.effect[self.senders.index(sender)])

    @property
    def _scale(self) -> Float[Array, " P"]:
        if self.unit is not None:
            return self.unit
        return self.clean if self.direction == "noising" else self.clean - self.corrupted

    @property
    def _why(self) -> str:
        if self.direction == "noising":
            return "the mean logit difference of the clean prompts is zero"
        return "clean and corrupted runs score the same"


def _nonzero(values: Float[Array, " P"], why: str) -> float:
    value = unit_of(values)
    if value == 0 or not np.isfinite(value):
        raise NonFinite(f"effects are relative, and {why}")
    return value
