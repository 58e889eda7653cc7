"""One text under many sets of neurons: a pass starts at the first layer that its set touches.

Below it nothing is changed, so the residual stream that the unchanged model hands into that layer is taken over.

P layer · N neurons of a layer · B window · T position
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool
from torch import Tensor

from babelscope.errors import UnsupportedModel
from babelscope.models import Batch, Model, Site, capture, over_batches, require
from babelscope.models.aside import set_aside
from babelscope.models.batches import out_of_memory, plan, token_budget
from babelscope.models.gelu import fused_gelu
from babelscope.models.hooks import resume
from babelscope.models.stream_checks import require_stream
from babelscope.models.workers import Tell, over_workers
from babelscope.regions.deactivation import deactivate
from babelscope.regions.perplexity import Loss, Windows, refuse_non_finite, token_losses
from babelscope.regions.rounds import BASE, Key, joined


def first_layer(mask: Bool[Tensor, "P N"]) -> int:
    """The lowest layer of a set that holds a neuron; 0 of an empty set.

    >>> first_layer(torch.tensor([[False, False], [False, True]]))
    1
    """
    return int(mask.any(1).int().argmax())


def resumes(model: Model) -> bool:
    """Whether a pass that starts at any block gives what a whole pass gives, to the bit, on a few random words.

    It does not where later blocks use more than the stream: keys and values of earlier ones (Gemma 4).
    """
    if model.layers < 2:
        return False
    ids = torch.randint(0, model.vocabulary, (2, 6), generator=torch.Generator().manual_seed(2)).to(model.device)
    try:
        require_stream(model)
    except UnsupportedModel:
        return False
    entries = [Site("residual", layer) for layer in range(1, model.layers)]
    with torch.inference_mode(), set_aside():
        with capture(model, entries) as seen:
            whole = model.trunk(ids)
        return all(_ends_alike(model, ids, site.layer, seen[site], whole) for site in entries)


def _ends_alike(model: Model, ids: Tensor, layer: int, entering: Tensor, whole: Tensor) -> bool:
    try:
        with resume(model, layer, entering):
            return torch.equal(model.trunk(ids), whole)
    except Exception as error:  # whatever a model says that misses what earlier blocks leave for it
        if out_of_memory(error):
            raise
        return False


def losses_under(
    model: Model,
    windows: Windows,
    masks: Mapping[Key, Bool[Tensor, "P N"]],
    resumed: bool,
    budget: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> dict[Key, Loss]:
    """Loss of a text as the model is, under BASE, and with each set switched off.

    `resumed`: start at the first touched layer (where `resumes` holds). `progress` is told tokens of every set. Raises
    NonFinite where a loss is not a number.
    """
    require(model, "regions")
    starts = {key: first_layer(mask) if resumed else 0 for key, mask in masks.items()}
    entries = [Site("residual", layer) for layer in sorted({start for start in starts.values() if start})]
    documents = int(windows.document.max()) + 1
    totals = {key: torch.zeros(documents, dtype=torch.float64) for key in (BASE, *masks)}
    counts = torch.zeros(documents, dtype=torch.long)

    def work(batch: Batch) -> None:
        def losses(hidden: Tensor) -> Tensor:
            if progress:
                progress(batch.ids.numel())
            return token_losses(model, hidden[:, :-1], batch.ids[:, 1:].to(hidden.device)).double().cpu().reshape(-1)

        with capture(model, entries) as entering:
            found = {BASE: losses(model.trunk(batch.ids, batch.mask))}
        for key, mask in masks.items():
            with ExitStack() as stack:
                stack.enter_context(deactivate(model, mask))
                if starts[key]:
                    stack.enter_context(resume(model, starts[key], entering[Site("residual", starts[key])]))
                found[key] = losses(model.trunk(batch.ids, batch.mask))
        # only now: a batch that does not fit in memory is done again in halves
        owner = windows.document[list(batch.rows), 1:].reshape(-1)
        counts.index_add_(0, owner, torch.ones_like(owner))
        for key, values in found.items():
            totals[key].index_add_(0, owner, values)

    with torch.inference_mode(), fused_gelu(model):
        over_batches(windows.ids.tolist(), work, model.device, budget)
    for total in totals.values():
        refuse_non_finite(model, total)
    return {key: Loss(total, counts, windows.byte_count, windows.names) for key, total in totals.items()}


@dataclass(frozen=True)
class Reading:
    """Texts by language, and the sets of neurons under which each is read."""

    windows: Mapping[str, Windows]
    masks: Mapping[str, Mapping[Key, Bool[Tensor, "P N"]]]
    resumed: bool


def read_texts(
    model: Model, asked: Reading, budget: int | None = None, progress: Callable[[int], None] | None = None
) -> dict[str, dict[Key, Loss]]:
    """`losses_under` of every text; a unit of work is a batch of windows under all its sets. Empty of an empty text."""
    size = budget or token_budget(model.device)
    units = [
        (code, rows) for code, text in asked.windows.items() for rows in plan([text.ids.shape[1]] * len(text.ids), size)
    ]
    found: dict[str, dict[Key, Loss]] = {code: {} for code in asked.windows}
    for (code, _), losses in zip(units, over_workers(model, _batches_read, asked, units, progress)):
        found[code] = {key: joined(found[code].get(key), loss) for key, loss in losses.items()}
    return found


def _batches_read(model: Model, asked: Reading) -> Callable[[tuple[str, tuple[int, ...]], Tell], dict[Key, Loss]]:
    def read(unit: tuple[str, tuple[int, ...]], tell: Tell) -> dict[Key, Loss]:
        code, rows = unit
        text = asked.windows[code]
        part = replace(text, ids=text.ids[list(rows)], document=text.document[list(rows)])
        return losses_under(model, part, asked.masks[code], asked.resumed, part.ids.numel(), tell)

    return read
