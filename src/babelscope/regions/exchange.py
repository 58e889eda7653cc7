"""Region files from and for elsewhere: the masks that LAPE publishes, JSON and CSV; nothing in a file is ever run."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Bool
from torch import Tensor

from babelscope.errors import InputError
from babelscope.json_text import read_json
from babelscope.models.neuron_layout import NeuronLayout
from babelscope.regions.masks import RegionSet
from babelscope.results.csv_cells import inert
from babelscope.results.whole import whole_file, write_whole

_LARGEST, _MOST_LAYERS, _LARGEST_SET = 2 * 10**7, 2000, 10**9
"""neurons of a model, layers, and neurons times languages: beyond the largest models, and below what fills a machine"""


def import_lape(
    path: Path | str, languages: Sequence[str], layers: int, neurons: int, model: str | None = None
) -> RegionSet:
    """Regions from a torch file that holds, for each language, a list of index tensors, one per layer.

    `languages` in the order of the file; `neurons` of one layer. Loaded with weights-only safety. Raises InputError for
    a file of another shape, or an index beyond the model.

    >>> import_lape("activation_mask.llama-7b", ["en", "zh"], 32, 11008)            # doctest: +SKIP
    """
    _refuse_sizes("", layers, neurons, len(languages))
    content = _load(Path(path))
    if len(content) != len(languages):
        raise InputError(f"{path}: masks of {len(content)} languages, but {len(languages)} languages are named")
    layout = NeuronLayout.even(layers, layers * neurons)
    masks = {code: _mask(path, code, one, layout) for code, one in zip(languages, content)}
    facts: dict[str, object] = {"source": Path(path).name, "site": "activation of the MLP's gate", "model": model}
    return RegionSet(masks, "lape-published", facts)


def _load(path: Path) -> list[object]:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        content: object = torch.load(path, map_location="cpu", weights_only=True)
    # unpickling fails in as many ways as there are files
    except Exception as error:
        raise InputError(f"{path}: not a torch file that can be loaded safely ({type(error).__name__})") from error
    if not isinstance(content, list | tuple) or not content:
        raise InputError(f"{path}: not a list of masks, one per language")
    return list(content)


def _mask(path: Path | str, code: str, content: object, layout: NeuronLayout) -> Bool[Tensor, "P N"]:
    if not isinstance(content, list | tuple) or len(content) != layout.layers:
        found = len(content) if isinstance(content, list | tuple) else type(content).__name__
        raise InputError(f"{path}: the mask of {code} has {found} layers, not {layout.layers}")
    mask = torch.zeros(layout.layers, layout.widest, dtype=torch.bool)
    for layer, (indices, neurons) in enumerate(zip(content, layout.widths)):
        if not isinstance(indices, Tensor) or not _is_list_of_numbers(indices):
            raise InputError(f"{path}: layer {layer} of {code} is not a list of neuron numbers")
        if len(indices) > neurons:
            raise InputError(f"{path}: layer {layer} of {code} names {len(indices)} neurons, but there are {neurons}")
        if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < neurons:
            raise InputError(f"{path}: layer {layer} of {code} names a neuron beyond {neurons - 1}")
        mask[layer, indices.long()] = True
        if int(mask[layer].sum()) != len(indices):
            raise InputError(f"{path}: layer {layer} of {code} names a neuron twice")
    return mask


def _is_list_of_numbers(indices: Tensor) -> bool:
    whole = indices.dtype in (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
    return whole and indices.dim() == 1 and indices.layout == torch.strided and indices.device.type == "cpu"


def _refuse_sizes(where: str, layers: int, neurons: int, languages: int) -> None:
    impossible = layers < 1 or neurons < 1 or languages < 1
    if (
        impossible
        or layers > _MOST_LAYERS
        or layers * neurons > _LARGEST
        or layers * neurons * languages > _LARGEST_SET
    ):
        raise InputError(f"{where}{layers} layers of {neurons} neurons in {languages} languages are no model's regions")


def export_regions(regions: RegionSet, path: Path | str) -> None:
    """Write regions for other programs, by suffix: `.json` (neuron numbers by language and layer) or `.csv` (one row
    per neuron), whole or not at all. Raises InputError for another suffix. Scores are left out.
    """
    file = Path(path)
    if file.suffix == ".json":
        layout = regions.layout
        content = {
            "method": regions.method,
            "layers": layout.layers,
            "neurons_per_layer": layout.widest if layout.alike else list(layout.widths),
            "facts": dict(regions.facts),
            "regions": {code: [_numbers(row) for row in mask] for code, mask in regions.masks.items()},
        }
        write_whole(file, json.dumps(content, ensure_ascii=False, sort_keys=True))
    elif file.suffix == ".csv":
        with whole_file(file) as partial, partial.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(("language", "layer", "neuron"))
            for code, mask in regions.masks.items():
                writer.writerows((inert(code), layer, neuron) for layer, neuron in mask.nonzero().tolist())
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
        if not file.is_file():
            raise InputError(f"{path}: no such file")
    except OSError as error:
        raise InputError(f"{str(path)[:80]}: {error.strerror or error}") from error
    content = read_json(file)
    absent = _absent(content)
    if absent or not isinstance(content, dict):
        raise InputError(f"{path}: not regions as JSON: {absent} is missing or of another kind (see `export`)")
    layers, neurons, regions = content["layers"], content["neurons_per_layer"], content["regions"]
    if isinstance(neurons, list) and any(type(width) is not int or width < 0 for width in neurons):
        raise InputError(f"{path}: neurons_per_layer holds something else than numbers of neurons")
    _refuse_sizes(f"{path}: ", layers, max(neurons, default=0) if isinstance(neurons, list) else neurons, len(regions))
    widths = tuple(neurons) if isinstance(neurons, list) else (neurons,) * layers
    if len(widths) != layers:
        raise InputError(f"{path}: neurons_per_layer names {len(widths)} layers, not {layers}")
    layout = NeuronLayout(widths)
    method, facts = content["method"], content.get("facts") or {}
    listed = {code: [_row(path, code, row) for row in rows] for code, rows in regions.items()}
    masks = {code: _mask(path, code, rows, layout) for code, rows in listed.items()}
    return RegionSet(masks, method, facts, widths=() if layout.alike else widths)


_KINDS: dict[str, tuple[type, ...]] = {
    "layers": (int,), "neurons_per_layer": (int, list), "method": (str,), "regions": (dict,),
}  # fmt: skip


def _absent(content: object) -> str:
    """The first entry that regions as JSON need and this content does not have; "" where all is there."""
    if not isinstance(content, dict):
        return "a mapping"
    for name, kinds in _KINDS.items():
        if type(content.get(name)) not in kinds:
            return name
    if not isinstance(content.get("facts") or {}, dict):
        return "facts"
    lists = all(
        isinstance(rows, list) and all(isinstance(row, list) for row in rows) for rows in content["regions"].values()
    )
    return "" if lists else "a list of neuron numbers per layer"


def _row(path: Path | str, code: str, row: list[object]) -> Tensor:
    for neuron in row:
        if type(neuron) is not int or not -(2**62) < neuron < 2**62:
            raise InputError(f"{path}: {str(neuron)[:40]!r} of {code} is not the number of a neuron")
    return torch.tensor(row, dtype=torch.long)
