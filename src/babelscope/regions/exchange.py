"""Region files from elsewhere: the masks that LAPE publishes, read without running anything that is in them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from babelscope.errors import InputError
from babelscope.regions.masks import RegionSet

_LARGEST = 10**8


def import_lape(
    path: Path | str, languages: Sequence[str], layers: int, neurons: int, model: str | None = None
) -> RegionSet:
    """Regions from a torch file that holds, for each language, a list of index tensors, one per layer.

    `languages` in the order of the file; `neurons` of one layer. Loaded with weights-only safety. Raises InputError for
    a file of another shape, or an index beyond the model.

    >>> import_lape("activation_mask.llama-7b", ["en", "zh"], 32, 11008)            # doctest: +SKIP
    """
    if layers < 1 or neurons < 1 or layers * neurons > _LARGEST:
        raise InputError(f"{layers} layers of {neurons} neurons are not a model")
    content = _load(Path(path))
    if len(content) != len(languages):
        raise InputError(f"{path}: masks of {len(content)} languages, but {len(languages)} languages are named")
    masks = {code: _mask(path, code, one, layers, neurons) for code, one in zip(languages, content)}
    facts: dict[str, Any] = {"source": Path(path).name, "site": "activation of the MLP's gate", "model": model}
    return RegionSet(masks, "lape-published", facts)


def _load(path: Path) -> list[Any]:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    # unpickling fails in as many ways as there are files
    except Exception as error:
        raise InputError(f"{path}: not a torch file that can be loaded safely ({type(error).__name__})") from error
    if not isinstance(content, list | tuple) or not content:
        raise InputError(f"{path}: not a list of masks, one per language")
    return list(content)


def _mask(path: Path | str, code: str, content: Any, layers: int, neurons: int) -> Bool[Tensor, "P N"]:
    if not isinstance(content, list | tuple) or len(content) != layers:
        found = len(content) if isinstance(content, list | tuple) else type(content).__name__
        raise InputError(f"{path}: the mask of {code} has {found} layers, not {layers}")
    mask = torch.zeros(layers, neurons, dtype=torch.bool)
    for layer, indices in enumerate(content):
        if not isinstance(indices, Tensor) or indices.is_floating_point() or indices.dim() != 1:
            raise InputError(f"{path}: layer {layer} of {code} is not a list of neuron numbers")
        if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < neurons:
            raise InputError(f"{path}: layer {layer} of {code} names a neuron beyond {neurons - 1}")
        mask[layer, indices.long()] = True
    return mask


def export_lape(regions: RegionSet, path: Path | str) -> None:
    """Write regions as LAPE's masks: per language a list of index tensors, one per layer; scores and facts are lost."""
    content = [[row.nonzero()[:, 0] for row in mask] for mask in regions.masks.values()]
    torch.save(content, path)
