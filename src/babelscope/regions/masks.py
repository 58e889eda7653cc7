"""Region sets: one boolean mask of neurons per language, with where it came from, in one file format.

The file is safetensors: a uint8 tensor `mask/<language>` [layer, neuron] per language, optionally `score/<language>`,
and JSON under the metadata key `babelscope`, which names the `widths` of layers that are not alike. Nothing in it can
run code.

P layer · N neurons of the widest layer
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from babelscope.errors import InputError
from babelscope.json_text import parse_json
from babelscope.models.neuron_layout import NeuronLayout
from babelscope.results.sealed import read_sealed, save_sealed
from babelscope.wording import first_line

if TYPE_CHECKING:
    from pandas import DataFrame

FORMAT, KEY = 1, "babelscope"


@dataclass(frozen=True, repr=False)
class RegionSet:
    """Regions of one model by one method."""

    masks: Mapping[str, Bool[Tensor, "P N"]]
    method: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    """model id and weight hash, site, languages, threshold, corpus hash, software version, …"""
    scores: Mapping[str, Float[Tensor, "P N"]] = field(default_factory=dict)
    """NaN where a layer has no such neuron"""
    widths: tuple[int, ...] = ()
    """neurons of each layer; empty: as many as the masks are wide"""

    @property
    def layout(self) -> NeuronLayout:
        """How many neurons each layer has."""
        if self.widths:
            return NeuronLayout(self.widths)
        layers, width = next(iter(self.masks.values())).shape
        return NeuronLayout((int(width),) * int(layers))

    @property
    def languages(self) -> tuple[str, ...]:
        return tuple(self.masks)

    @property
    def sizes(self) -> dict[str, int]:
        return {language: int(mask.sum()) for language, mask in self.masks.items()}

    @property
    def total(self) -> int:
        """SKLR: the sizes added up."""
        return sum(self.sizes.values())

    def __getitem__(self, language: str) -> Bool[Tensor, "P N"]:
        if language not in self.masks:
            raise InputError(f"no region for {language!r}; there are {', '.join(self.masks)}")
        return self.masks[language]

    def by_layer(self) -> dict[str, list[int]]:
        """Neurons of each region in each layer."""
        return {language: mask.sum(1).tolist() for language, mask in self.masks.items()}

    def to_frame(self, language: str | None = None) -> DataFrame:
        """A row per neuron of a region: language, layer, neuron, and its score where the method gave one.

        Raises InputError for a language without a region.

        >>> mask = torch.tensor([[True, False], [False, True]])
        >>> RegionSet({"en": mask}, "by hand").to_frame()[["layer", "neuron"]].values.tolist()
        [[0, 0], [1, 1]]
        """
        import pandas as pd

        rows: list[tuple[str, int, int, float]] = []
        for code in self.languages if language is None else (language,):
            score = self.scores.get(code)
            for layer, neuron in self[code].nonzero().tolist():
                rows.append((code, layer, neuron, float("nan") if score is None else float(score[layer, neuron])))
        return pd.DataFrame(rows, columns=["language", "layer", "neuron", "score"])

    def __repr__(self) -> str:
        sizes = ", ".join(f"{code} {size:,}" for code, size in self.sizes.items())
        return f"<RegionSet by {self.method}: {sizes} neurons>"

    def _repr_html_(self) -> str:
        from babelscope.notebook import bars

        neurons = self.layout.neurons if self.masks else 0
        return bars(f"Regions, {self.method}", self.sizes, f"{self.total} of {neurons} neurons are in some region")


def from_matrix(
    regions: Bool[Tensor, "L D"],
    languages: tuple[str, ...],
    layout: NeuronLayout,
    scores: Float[Tensor, "L D"] | None = None,
    **rest: Any,
) -> RegionSet:
    """A region set from the [language, neuron] matrix of a localisation method, and from its scores.

    >>> from_matrix(torch.eye(2, 6).bool(), ("en", "zh"), NeuronLayout((1, 3, 2)), method="z-score").by_layer()
    {'en': [1, 0, 0], 'zh': [0, 1, 0]}
    """
    masks = dict(zip(languages, layout.by_layer(regions, False)))
    by_language = {} if scores is None else dict(zip(languages, layout.by_layer(scores.float(), torch.nan)))
    return RegionSet(masks, scores=by_language, widths=() if layout.alike else layout.widths, **rest)


def save_regions(regions: RegionSet, path: Path | str) -> None:
    """Write a region set as safetensors with JSON metadata, whole or not at all; raises InputError."""
    tensors = {f"mask/{code}": mask.to(torch.uint8).contiguous() for code, mask in regions.masks.items()}
    tensors |= {f"score/{code}": score.float().contiguous() for code, score in regions.scores.items()}
    facts = {"format": FORMAT, "method": regions.method, "languages": list(regions.languages), **regions.facts}
    if regions.widths:
        facts["widths"] = list(regions.widths)
    save_sealed(tensors, path, KEY, json.dumps(facts, ensure_ascii=False, sort_keys=True))


def load_regions(path: Path | str) -> RegionSet:
    """Read a region set, of a file or of a run (its main ones, with scores); raises InputError for what is not one."""
    from safetensors import SafetensorError

    if Path(path).is_dir():
        return _of_run(Path(path))
    try:
        text, tensors = read_sealed(path, KEY)
        facts = parse_json(text, f"{path}: its metadata")
        if facts.pop("format") != FORMAT:
            raise InputError(f"{path}: a newer format than this version of babelscope reads")
        method, languages, widths = facts.pop("method"), facts.pop("languages"), facts.pop("widths", [])
        masks = {code: _mask(path, code, tensors[f"mask/{code}"]) for code in languages}
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except InputError:
        raise
    except (SafetensorError, KeyError, ValueError, TypeError, OSError, AttributeError, RuntimeError) as error:
        told = f"it has no {error.args[0]!r}" if isinstance(error, KeyError) else first_line(error)
        raise InputError(f"{path} is not a region file of babelscope: {told}") from error
    shapes = {tuple(mask.shape) for mask in masks.values()}
    if len(shapes) != 1 or any(len(shape) != 2 for shape in shapes):
        raise InputError(f"{path}: the masks do not have one shape [layer, neuron]")
    if not isinstance(languages, list) or not isinstance(method, str) or len(masks) != len(languages):
        raise InputError(f"{path}: its languages are named twice, or are no list")
    scores = {code: tensors[f"score/{code}"] for code in languages if f"score/{code}" in tensors}
    for code, score in scores.items():
        if tuple(score.shape) not in shapes or not score.is_floating_point():
            raise InputError(f"{path}: the scores of {code} do not have the shape of its mask")
    return RegionSet(masks, method, facts, scores, read_widths(str(path), widths, masks))


def _of_run(folder: Path) -> RegionSet:
    """The regions that the pages of a run speak of, with their scores, which a run keeps in its arrays."""
    from babelscope.results import is_run, open_run

    if not is_run(folder):
        raise InputError(f"{folder} is no run: give a run directory or a region file (runs/…/regions/….safetensors)")
    run = open_run(folder)
    method = str(run.summary.get("method", "z-score"))
    if f"regions/{method}.safetensors" not in run.files():
        raise InputError(f"{folder}: a run of {run.kind} holds no regions; give a run of babelscope regions")
    found, arrays = load_regions(run.file(f"regions/{method}.safetensors")), run.arrays()
    name = {"contrast": "d", "z-score": "z"}.get(method, "")
    if name not in arrays:
        return found
    values = arrays[name].transpose("language", "layer", "neuron")
    # the largest are those of the regions' sign, as in the scores of the method
    signed = {"lowered": torch.neg, "both": torch.abs}.get(str(found.facts.get("sign")) if name == "d" else "")
    scores = {code: torch.from_numpy(values.sel(language=code).to_numpy()) for code in found.languages}
    return replace(found, scores={code: signed(one) if signed else one for code, one in scores.items()})


def read_widths(path: str, widths: object, masks: Mapping[str, Bool[Tensor, "P N"]]) -> tuple[int, ...]:
    """Widths of layers as a file states them; raises InputError where they are none or the masks go beyond them."""
    if not isinstance(widths, list) or not all(type(width) is int and 0 <= width < 2**31 for width in widths):
        raise InputError(f"{path}: the widths of layers are not a list of whole numbers")
    if widths:
        layout = NeuronLayout(tuple(widths))
        for mask in masks.values():
            layout.check(mask, path)
    return tuple(widths)


def _mask(path: Path | str, code: str, stored: Tensor) -> Bool[Tensor, "P N"]:
    """A stored mask; raises InputError where it holds anything but 0 and 1."""
    if stored.is_floating_point() or stored.is_complex() or bool(((stored != 0) & (stored != 1)).any()):
        raise InputError(f"{path}: the mask of {code} holds something else than 0 and 1")
    return stored.bool()


def random_region(size: int, widths: Sequence[int], seed: int) -> Bool[Tensor, "P N"]:
    """`size` neurons drawn from the whole model, `widths[l]` neurons in each layer l: the paper's random control."""
    generator = torch.Generator().manual_seed(seed)
    layout = NeuronLayout(tuple(widths))
    mask = torch.zeros(layout.neurons, dtype=torch.bool)
    mask[torch.randperm(layout.neurons, generator=generator)[:size]] = True
    return layout.by_layer(mask, False)


def random_region_by_layer(sizes: Sequence[int], widths: Sequence[int], seed: int) -> Bool[Tensor, "P N"]:
    """`sizes[l]` neurons drawn from the `widths[l]` of each layer l: a control matched in size and depth."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.zeros(len(sizes), max(widths), dtype=torch.bool)
    for layer, (size, width) in enumerate(zip(sizes, widths, strict=True)):
        mask[layer, torch.randperm(width, generator=generator)[:size]] = True
    return mask
