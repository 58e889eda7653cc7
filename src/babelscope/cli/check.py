"""`babelscope check`: what can this model be used for?"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from babelscope.cli.command import verb, verb_app
from babelscope.cli.options import Loading, ModelName, note

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.table import Table

    from babelscope.models import Check, Model, Site

_UNBOUNDED = 400
app = verb_app("check")
Use = Annotated[
    Literal["regions", "circuits"], Parameter(name="--for", help="What it is wanted for; decides the exit code.")
]


@app.default
@verb
def check(model: ModelName, *, use: Use = "circuits", loading: Loading) -> None:
    """Print a model's family, every site with its shape, every check, and what the model can be used for.

    Exit code 1 when it cannot be used for what was asked.

    For example:

      babelscope check pocket:pocket-bloom-m --for regions
    """
    from babelscope.cli.options import load
    from babelscope.errors import UnsupportedModel
    from babelscope.models.gate import outcomes

    try:
        loaded = load(model, loading)
    except UnsupportedModel as error:
        note(f"cannot be used: {error}")
        raise SystemExit(1) from None
    _print_sites(loaded)
    checks = outcomes(loaded, "circuits")
    for one in checks:
        limit = " (circuits only)" if one.level == "circuits" and not one.passed else ""
        print(f"{'ok  ' if one.passed else 'FAIL'} {one.name}: {one.detail}{limit}")
    print(_verdict(loaded, checks))
    if loaded.no_neurons:
        raise SystemExit(1)
    if any(not one.passed and (one.level == "regions" or use == "circuits") for one in checks):
        raise SystemExit(1)


def _verdict(model: Model, checks: list[Check]) -> str:
    failed = [one for one in checks if not one.passed]
    if not failed:
        return f"{model.id}: supported: regions, circuits."
    if model.no_neurons and all(one.passed for one in checks if one.level == "regions"):
        return f"{model.id}: supported: regions with --site residual alone ({model.no_neurons})."
    reasons = "; ".join(one.problem for one in failed)
    if all(one.level == "circuits" for one in failed):
        return f"{model.id}: supported: regions; not supported: circuits ({reasons})."
    return f"{model.id}: not supported: {reasons}."


def _print_sites(model: Model) -> None:
    from rich.console import Console

    names = {id(module): name for name, module in model.hf.named_modules()}
    rows: dict[tuple[str, str, str, str], list[int]] = {}
    for site, shape in _shapes(model).items():
        place = model.locate(site)
        name = names.get(id(place.module), "?").split(".")
        module = ".".join("{layer}" if part == str(site.layer) else part for part in name)
        rows.setdefault((site.kind, module, place.side, shape), []).append(site.layer)
    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(width=_UNBOUNDED)
    console.print(
        _site_table(f"{model.id}: {model.family.name} (shapes: batch × tokens × …, 1 batch of 3 tokens)", rows)
    )
    print("; ".join(_traits(model)))


def _site_table(title: str, rows: Mapping[tuple[str, str, str, str], Sequence[int]]) -> Table:
    """One line for all layers in which a site is the same."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE, title=title, title_justify="left", padding=(0, 1), pad_edge=False)
    for name in ("site", "layers", "module", "side", "shape"):
        table.add_column(name, overflow="fold")
    for (kind, module, side, shape), layers in rows.items():
        table.add_row(kind, _runs(layers), module, side, shape)
    return table


def _runs(layers: Sequence[int]) -> str:
    """Numbers, runs of them as first–last.

    >>> _runs([0, 1, 2, 5])
    '0–2, 5'
    """
    found: list[list[int]] = []
    for layer in sorted(layers):
        if found and layer == found[-1][-1] + 1:
            found[-1].append(layer)
        else:
            found.append([layer])
    return ", ".join(f"{run[0]}–{run[-1]}" if len(run) > 1 else str(run[0]) for run in found)


def _shapes(model: Model) -> dict[Site, str]:
    """The shape of what flows at each site, or why nothing can be read there."""
    import torch

    from babelscope.models import capture

    found: dict[Site, str] = {}
    ids = torch.zeros(1, 3, dtype=torch.long, device=model.device)
    for site in model.sites():
        try:
            with torch.inference_mode(), capture(model, [site]) as seen:
                model.trunk(ids)
            found[site] = " × ".join(map(str, seen[site].shape))
        except Exception as error:  # what cannot be read is told in its line, whatever the reason
            found[site] = f"– ({type(error).__name__})"
    return found


def _traits(model: Model) -> list[str]:
    layouts = {
        "separate": "separate",
        "blocks": "fused, all q then k then v",
        "grouped": "fused, per key/value head",
        "codegen": "fused, in four parts of q, v, k",
    }
    family = model.family
    origins = {
        "built in": "known by name",
        "structure": "found by structure",
        "registered": "registered from outside",
        "file": "read from a file",
    }
    attention = (
        [
            f"q/k/v {layouts[family.layout]}",
            f"{model.heads} query and {model.kv_heads} key/value heads of width {model.head_width}",
            "attention and MLP in parallel" if family.parallel else "attention, then MLP",
            "post-norms" if family.post_norms else "no post-norms",
        ]
        if model.heads
        else ["neurons only"]
    )
    kernel = getattr(model.config, "_attn_implementation", None)
    multipliers = [f"multipliers {model.scales.facts}"] if model.scales.facts else []
    return [*attention, f"attention kernel {kernel}", *multipliers, origins[family.origin]]
