"""Everything that is fitted once on the fit documents, and the edits made from it (steering.md, section 2).

P layer · N neurons of a layer · D model width
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from babelscope.corpora import ParallelCorpus
from babelscope.errors import InputError
from babelscope.models import Model
from babelscope.models.rows import RowEdit
from babelscope.regions.lape import lape
from babelscope.regions.localisation import key_regions, within_language_scores, within_language_sums
from babelscope.regions.masks import random_region_by_layer
from babelscope.regions.recording import record
from babelscope.regions.treatments import language_means
from babelscope.steering.controls import (
    NEURONS,
    RANDOM,
    RANDOM_COV,
    SHUFFLED,
    random_covariance_unit,
    random_unit,
    shuffled_unit,
    third_unit,
)
from babelscope.steering.directions import METHODS, Direction, Method, direction
from babelscope.steering.edits import arithmetic_changes, direction_edit, region_edit
from babelscope.steering.moments import Moments, collect_tokens
from babelscope.terms import BY_NEURONS, Arithmetic, Edit, Unit, Where

ALL_METHODS = (*METHODS, *BY_NEURONS)
EVERY_LAYER = -1


@dataclass(frozen=True)
class How:
    """What edits of a study have in common."""

    edit: Edit = "add"
    keep: bool = False
    unit: Unit = "gap"
    where: Where = "all"
    first: bool = False
    beta: float = 1.0
    mode: Arithmetic = "additive"
    seed: int = 0


@dataclass(frozen=True)
class Setting:
    """One way of steering one pair."""

    source: str
    target: str
    method: str
    layer: int
    """−1: every block, or, by neurons, wherever they are"""
    alpha: float


@dataclass(frozen=True, eq=False)
class Neurons:
    """Regions of all languages with their mean activations."""

    regions: Mapping[str, Bool[Tensor, "P N"]]
    lape: Mapping[str, Bool[Tensor, "P N"]]
    means: Mapping[str, Float[Tensor, "P N"]]


def fit_neurons(model: Model, corpus: ParallelCorpus, share: float = 0.01) -> Neurons:
    """Regions by z where there are six languages, else by LAPE; LAPE neurons, and mean activations."""
    recording = record(model, corpus, activity=True)
    assert recording.activity is not None
    by_entropy = lape(recording.activity, share)[1]
    regions = by_entropy
    if len(corpus.languages) >= 6:
        regions = key_regions(within_language_scores(within_language_sums(recording)))
    means = language_means(recording)
    codes, layout = recording.languages, recording.layout
    return Neurons(
        {code: layout.by_layer(regions[place], False) for place, code in enumerate(codes)},
        {code: layout.by_layer(by_entropy[place], False) for place, code in enumerate(codes)},
        {code: means[place] for place, code in enumerate(codes)},
    )


@dataclass(eq=False)
class Fitted:
    """States and neurons of the fit documents, and the edits that follow from them."""

    model: Model
    corpus: ParallelCorpus
    """the fit documents alone"""
    moments: Moments
    how: How = field(default_factory=How)
    neurons: Neurons | None = None
    _tokens: dict[tuple[str, int], Tensor] = field(default_factory=dict[tuple[str, int], Tensor])
    _covariance: dict[int, Tensor] = field(default_factory=dict[int, Tensor])

    def tokens(self, code: str, layer: int) -> Float[Tensor, "n D"]:
        """States of single tokens, read once."""
        key = code, layer
        if key not in self._tokens:
            self._tokens[key] = collect_tokens(self.model, self.corpus.texts[code], layer)
        return self._tokens[key]

    def covariance(self, layer: int) -> Float[Tensor, "D D"]:
        """Of the tokens of all languages."""
        if layer not in self._covariance:
            states = torch.cat([self.tokens(code, layer) for code in self.moments.languages]).double()
            self._covariance[layer] = torch.cov(states.T)
        return self._covariance[layer]

    def directions(self, setting: Setting) -> list[Direction]:
        """The direction at the setting's layer, or one for every block."""
        method: Method = setting.method  # pyright: ignore[reportAssignmentType]
        layers = range(self.model.layers) if setting.layer == EVERY_LAYER else [setting.layer]
        return [self._direction(setting, method, layer) for layer in layers]

    def _direction(self, setting: Setting, method: Method, layer: int) -> Direction:
        codes = self.moments.languages if method == "lda" else (setting.target,) if method == "pca" else ()
        tokens = {code: self.tokens(code, layer) for code in codes}
        return direction(self.moments, setting.source, setting.target, layer, method, self.how.beta, tokens)

    def edit(self, setting: Setting) -> RowEdit | None:
        """The setting as an edit; None where it leaves the model as it is."""
        how = self.how
        if setting.method in METHODS:
            return direction_edit(
                self.directions(setting), setting.alpha, how.edit, how.keep, how.unit, how.where, how.first
            )
        return self._by_neurons(setting, None)

    def control(self, setting: Setting, name: str, draw: int) -> RowEdit | None:
        """A control of the same layer, place and size: random, random-cov, shuffled, random-neurons or a language."""
        how = self.how
        if setting.method not in METHODS:
            return self._by_neurons(setting, draw) if name == NEURONS else None
        found = self.directions(setting)
        units = [self._unit(setting, one, name, draw) for one in found]
        return direction_edit(found, setting.alpha, how.edit, how.keep, how.unit, how.where, how.first, units)

    def _unit(self, setting: Setting, one: Direction, name: str, draw: int) -> Tensor:
        width, seed = len(one.unit), self.how.seed
        if name == RANDOM:
            return random_unit(width, seed, draw)
        if name == RANDOM_COV:
            return random_covariance_unit(self.covariance(one.layer), seed, draw)
        if name == SHUFFLED:
            return shuffled_unit(self.moments, setting.source, setting.target, one.layer, seed, draw)
        return third_unit(self.moments, one, name)

    def _by_neurons(self, setting: Setting, draw: int | None) -> RowEdit:
        known, how = self.neurons, self.how
        if known is None:
            raise InputError(f"method {setting.method} needs the neurons of the fit documents")
        means, s, t = known.means[setting.target], setting.source, setting.target
        if setting.method == "arithmetic":
            masks, others = known.lape, [known.means[code] for code in known.means if code != t]
            off, on = masks[s] & ~masks[t], masks[t]
            if draw is not None:
                off, on = self._random(off, 2 * draw + 1), self._random(on, 2 * draw)
            changes = arithmetic_changes(off, on, means, torch.stack(others).mean(0), setting.alpha, how.mode)
            return RowEdit(changes, how.where, how.first)
        mask = known.regions[t] if draw is None else self._random(known.regions[t], draw)
        if setting.method == "scaled":
            return region_edit(mask, None, setting.alpha, how.where, how.first)
        if setting.method == "neurons":
            return region_edit(mask, means, setting.alpha, how.where, how.first)
        raise InputError(f"no method {setting.method!r}; there are {', '.join(ALL_METHODS)}")

    def _random(self, mask: Tensor, draw: int) -> Tensor:
        return random_region_by_layer(mask.sum(1).tolist(), self.model.widths, self.how.seed + draw)
