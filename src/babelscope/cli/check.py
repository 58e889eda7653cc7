"""`babelscope check`: what can this model be used for?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from babelscope.cli.command import verb, verb_app
from babelscope.cli.options import Loading, ModelName, note

if TYPE_CHECKING:
    from babelscope.models import Check, Model, Site

app = verb_app("check")
Use = Annotated[
    Literal["regions", "circuits"], Parameter(name="--for", help="What it is wanted for; decides the exit code.")
]


@app.default
@verb
def check(model: ModelName, *, use: Use = "circuits", loading: Loading) -> None:
    """Print a model's family, every site with its shape, every check, and what the model can be used for.

    Exit code 1 when it cannot be used for what was asked.

    Example:  babelscope check pocket:pocket-bloom-m --for regions
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
        return f"{model.id} can be used for regions and circuits."
    if model.no_neurons and all(one.passed for one in checks if one.level == "regions"):
        return f"{model.id} can be used with --site residual alone: {model.no_neurons}."
    reasons = "; ".join(one.problem for one in failed)
    if all(one.level == "circuits" for one in failed):
        return f"{model.id} can be used for regions, not for circuits: {reasons}."
    return f"{model.id} cannot be used: {reasons}."


def _print_sites(model: Model) -> None:
    from rich.console import Console
    from rich.table import Table

    names = {id(module): name for name, module in model.hf.named_modules()}
    table = Table("site", "module", "side", "shape (batch 1, 3 tokens)", title=f"{model.id}: {model.family.name}")
    shapes = _shapes(model)
    for site, shape in shapes.items():
        place = model.locate(site)
        table.add_row(f"{site.kind} {site.layer}", names.get(id(place.module), "?"), place.side, shape)
    Console().print(table)
    print("; ".join(_traits(model)))


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
