"""`babelscope check`: can this model be measured?"""

from __future__ import annotations

from babelscope.cli.command import verb, verb_app
from babelscope.cli.options import Loading, ModelName, note

app = verb_app("check")


@app.default
@verb
def check(model: ModelName, *, loading: Loading) -> None:
    """Print a model's family, every site with its shape, and the outcome of the conformance suite; exit 1 if it fails.

    Example:  babelscope check pocket:pocket-bloom-m
    """
    from babelscope.cli.options import load
    from babelscope.errors import UnsupportedModel
    from babelscope.models import run_checks

    try:
        loaded = load(model, loading)
    except UnsupportedModel as error:
        note(f"not supported: {error}")
        raise SystemExit(1) from None
    _print_sites(loaded)
    checks = run_checks(loaded)
    for one in checks:
        mark = "ok  " if one.passed else "FAIL"
        limit = " (circuits only)" if one.circuits_only and not one.passed else ""
        print(f"{mark} {one.name}: {one.detail}{limit}")
    if not all(one.passed for one in checks):
        raise SystemExit(1)


def _print_sites(model: object) -> None:
    import torch
    from rich.console import Console
    from rich.table import Table

    from babelscope.models import Model, Site, capture
    from babelscope.models.hooks import Kind

    assert isinstance(model, Model)
    names = {id(module): name for name, module in model.hf.named_modules()}
    table = Table("site", "module", "side", "shape (batch 1, 3 tokens)", title=f"{model.id}: {model.family.name}")
    kinds: tuple[Kind, ...] = ("residual", "q", "k", "v", "z", "attention_write", "mlp_in", "neurons", "mlp_write")
    sites = [Site(kind, layer) for layer in range(model.layers) for kind in kinds] + [Site("residual", model.layers)]
    with torch.inference_mode(), capture(model, sites) as seen:
        model.trunk(torch.zeros(1, 3, dtype=torch.long, device=model.device))
    for site in sites:
        place = model.locate(site)
        shape = " × ".join(map(str, seen[site].shape))
        table.add_row(f"{site.kind} {site.layer}", names.get(id(place.module), "?"), place.side, shape)
    Console().print(table)
    layout = {"separate": "separate", "blocks": "fused, all q then k then v", "grouped": "fused, per key/value head"}
    family = model.family
    traits = [
        f"q/k/v {layout[family.layout]}",
        f"{model.heads} query and {model.kv_heads} key/value heads of width {model.head_width}",
        "attention and MLP in parallel" if family.parallel else "attention, then MLP",
        "post-norms" if family.post_norms else "no post-norms",
        f"attention kernel {model.facts()['attention']}",
        "found by structure" if family.discovered else "known by name",
    ]
    print("; ".join(traits))
