"""Region files from and for elsewhere: the masks that LAPE publishes, JSON and CSV; nothing in a file is ever run."""

from __future__ import annotations

import csv
import json
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


def export_regions(regions: RegionSet, path: Path | str) -> None:
    """Write regions for other programs, by suffix: `.json` (neuron numbers by language and layer) or `.csv` (one row
    per neuron). Raises InputError for another suffix. Scores are left out.
    """
    file = Path(path)
    if file.suffix == ".json":
        first = next(iter(regions.masks.values()))
        content = {
            "method": regions.method,
            "layers": first.shape[0],
            "neurons_per_layer": first.shape[1],
            "facts": dict(regions.facts),
            "regions": {code: [_numbers(row) for row in mask] for code, mask in regions.masks.items()},
        }
        file.write_text(json.dumps(content, ensure_ascii=False, sort_keys=True), encoding="utf-8")
    elif file.suffix == ".csv":
        with file.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(("language", "layer", "neuron"))
            for code, mask in regions.masks.items():
                writer.writerows((code, layer, neuron) for layer, neuron in mask.nonzero().tolist())
    else:
        raise InputError(f"{path}: regions are exported as .json or .csv")


def _numbers(row: Bool[Tensor, " N"]) -> list[int]:
    return row.nonzero()[:, 0].tolist()


def import_regions(path: Path | str) -> RegionSet:
    """Regions from the JSON of `export_regions`, which is easily written by hand too.

    Raises InputError for anything else.
    """
    file = Path(path)
    try:
        content: Any = json.loads(file.read_text(encoding="utf-8"))
        layers, neurons = int(content["layers"]), int(content["neurons_per_layer"])
        listed = {
            code: [torch.tensor(row, dtype=torch.long) for row in rows] for code, rows in content["regions"].items()
        }
        method, facts = str(content["method"]), dict(content.get("facts", {}))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, OverflowError) as error:
        raise InputError(f"{path}: not regions as JSON ({type(error).__name__})") from error
    if layers < 1 or neurons < 1 or layers * neurons > _LARGEST or not listed:
        raise InputError(f"{path}: {layers} layers of {neurons} neurons in {len(listed)} languages are no regions")
    return RegionSet({code: _mask(path, code, rows, layers, neurons) for code, rows in listed.items()}, method, facts)
