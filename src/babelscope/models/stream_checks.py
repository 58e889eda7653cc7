"""Whether the blocks of a model hand one residual stream on from each to the next: what `--site residual` reads.

B batch · T position · D model width
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from babelscope.errors import UnsupportedModel
from babelscope.models.aside import set_aside
from babelscope.models.hooks import Site, capture
from babelscope.models.mixture_checks import difference
from babelscope.models.model import Model

NAME = "blocks hand on the stream"
PROBLEM = "what leaves a block misses what enters the next by {error}: it has no one residual stream"


def handed_on(model: Model, ids: Int[Tensor, "B T"]) -> float:
    """What a block puts out is what enters the next one; every block is computed once a pass."""
    outputs: dict[int, list[Tensor]] = {layer: [] for layer in range(model.layers)}

    def keep(into: list[Tensor]) -> Callable[[object, object, Tensor | Sequence[Tensor]], None]:
        return lambda _module, _inputs, output: into.append(output if isinstance(output, Tensor) else output[0])

    handles = [block.register_forward_hook(keep(outputs[layer])) for layer, block in enumerate(model.blocks)]
    sites = [Site("residual", layer) for layer in range(model.layers)]
    try:
        with capture(model, sites) as seen:
            model.trunk(ids)
    finally:
        for handle in handles:
            handle.remove()
    odd = [layer for layer, found in outputs.items() if len(found) != 1]
    if odd:
        times = f"{len(outputs[odd[0]])} times" if outputs[odd[0]] else "never"
        raise UnsupportedModel(f"block {odd[0]} is computed {times} in a pass, not once")
    shape = (*ids.shape, model.width)
    wrong = [site.layer for site, value in seen.items() if tuple(value.shape) != shape]
    if wrong:
        raise UnsupportedModel(f"what enters block {wrong[0]} is no stream of {model.width} dimensions for each token")
    pairs = [(outputs[layer][0], seen[Site("residual", layer + 1)]) for layer in range(model.layers - 1)]
    return max((difference(out, entering) for out, entering in pairs), default=0.0)


def require_stream(model: Model) -> None:
    """Raises UnsupportedModel for a model whose blocks do not hand one residual stream on."""
    ids = torch.randint(0, model.vocabulary, (2, 6), generator=torch.Generator().manual_seed(2)).to(model.device)
    try:
        with torch.inference_mode(), set_aside():
            error = handed_on(model, ids)
    except (UnsupportedModel, RuntimeError) as failure:
        reason = str(failure).partition("\n")[0]
        raise UnsupportedModel(f"{model.id} has no residual stream that can be recorded: {reason}") from failure
    if error > (1e-4 if model.dtype in (torch.float32, torch.float64) else 0.05):
        told = PROBLEM.format(error=f"{error:.0%}")
        raise UnsupportedModel(f"{model.id} has no residual stream that can be recorded: {told}")
