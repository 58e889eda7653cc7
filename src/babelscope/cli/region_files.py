"""`babelscope regions show|compare|import|export`: region sets as files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from babelscope.cli.options import note
from babelscope.wording import visible

if TYPE_CHECKING:
    from babelscope.regions.masks import RegionSet

_File = Annotated[
    str, Parameter(help="Region file (.safetensors, .json), or a run: its main regions; or hf://USER/NAME of either.")
]


def show_regions(file: _File) -> None:
    """Where regions come from, and how many neurons each has in each layer.

    For example:

      babelscope regions show runs/pocket/regions/contrast.safetensors
    """
    regions = _read(file)
    print(f"{visible(regions.method)}, {len(regions.languages)} languages, {regions.total} neurons in all")
    for name, value in sorted(regions.facts.items()):
        print(f"  {visible(name)}: {visible(value)}")
    for code, by_layer in regions.by_layer().items():
        print(f"{visible(code):<8} {regions.sizes[code]:>8}   by layer: {' '.join(map(str, by_layer))}")


def compare_regions(first: _File, second: _File) -> None:
    """How far two region sets of one model agree, by language, beside what chance gives.

    For example:

      babelscope regions compare runs/a runs/a/regions/lape.safetensors
    """
    from babelscope.regions.agreement import compare

    one, other = _read(first), _read(second)
    _warn_of_other_weights(one, other)
    print(f"{'language':<9}{'size':>9}{'size':>9}{'Jaccard':>9}{'chance':>9}{'rank ρ':>9}")
    for row in compare(one, other):
        numbers = "".join(f"{value:>9.3f}" for value in (row.jaccard, row.chance, row.spearman))
        print(f"{visible(row.language):<9}{row.size:>9}{row.size2:>9}{numbers}")


def import_file(
    file: Annotated[Path, Parameter(help="LAPE's published masks (a torch file), or .json of `export`.")],
    *,
    out: Annotated[Path, Parameter(help="Region file to write (.safetensors).")],
    languages: Annotated[tuple[str, ...], Parameter(help="Codes in the file's order, by commas (LAPE).")] = (),
    layers: Annotated[int | None, Parameter(help="Layers of the model (LAPE).")] = None,
    neurons: Annotated[int | None, Parameter(help="Neurons of one layer (LAPE).")] = None,
    model: Annotated[str | None, Parameter(help="Name of the model, to be kept with the regions.")] = None,
    overwrite: Annotated[bool, Parameter(help="Replace an existing file.")] = False,
) -> None:
    """Turn masks from elsewhere into a region file; nothing in the masks' file is run.

    For example:

      babelscope regions import activation_mask.llama-7b \\
          --languages en,zh,fr,es,vi,id,ja --layers 32 --neurons 11008 \\
          --model meta-llama/Llama-2-7b-hf --out lape.safetensors
    """
    from babelscope.errors import InputError
    from babelscope.languages import parse_languages
    from babelscope.regions.exchange import import_lape, import_regions
    from babelscope.regions.masks import save_regions
    from babelscope.results.whole import whole_file

    _refuse_existing(out, overwrite)
    if file.suffix == ".json":
        given = {"--languages": languages, "--layers": layers, "--neurons": neurons, "--model": model}
        if idle := [name for name, value in given.items() if value not in (None, ())]:
            raise InputError(f"{file} says itself what {', '.join(idle)} would: leave that out")
        regions = import_regions(file)
    elif not languages or layers is None or neurons is None:
        raise InputError("LAPE's masks name neither languages nor sizes: give --languages, --layers and --neurons")
    else:
        regions = import_lape(file, parse_languages(languages), layers, neurons, model)
    with whole_file(out) as partial:
        save_regions(regions, partial)
    print(f"{out}: {regions.total} neurons in {len(regions.languages)} languages")


def export_file(
    file: _File,
    *,
    out: Annotated[Path, Parameter(help="File to write: .json or .csv.")],
    overwrite: Annotated[bool, Parameter(help="Replace an existing file.")] = False,
) -> None:
    """Write regions for other programs, as JSON or CSV.

    For example:

      babelscope regions export runs/pocket --out regions.json
    """
    from babelscope.regions.exchange import export_regions
    from babelscope.results.whole import whole_file

    _refuse_existing(out, overwrite)
    regions = _read(file)
    with whole_file(out) as partial:
        export_regions(regions, partial)
    print(str(out))


def _read(place: str) -> RegionSet:
    from babelscope.regions.exchange import import_regions
    from babelscope.regions.masks import load_regions
    from babelscope.results.hub import fetched

    with fetched(place) as path:
        return import_regions(path) if path.suffix == ".json" else load_regions(path)


def _warn_of_other_weights(one: RegionSet, other: RegionSet) -> None:
    hashes = {one.facts.get("weight_hash"), other.facts.get("weight_hash")} - {None}
    if len(hashes) > 1:
        note("note: these regions come from different weights")


def _refuse_existing(out: Path, overwrite: bool) -> None:
    from babelscope.errors import InputError

    if out.exists() and not overwrite:
        raise InputError(f"{out} exists; give --overwrite or another --out")
