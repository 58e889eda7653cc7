"""One suite that every family passes: what we read is what the model computes, and what we edit is what it would do.

`run_checks` needs nothing but the model: it feeds random token ids. `babelscope check MODEL` prints it; a model whose
family was found by structure must pass it before it is used at all.

B batch · T position · D model width · N neuron · H query head · K key/value head · E head width
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from babelscope.errors import UnsupportedModel
from babelscope.models.families import find
from babelscope.models.hooks import Site, capture, edit, hook_count, resume
from babelscope.models.mixture_checks import MIXTURE_SUITE, difference
from babelscope.models.model import Model, matrix


@dataclass(frozen=True)
class Check:
    """The outcome of one check."""

    name: str
    passed: bool
    detail: str
    circuits_only: bool = False
    """needed by circuits but not by regions"""


def run_checks(model: Model, length: int = 9) -> list[Check]:
    """All checks of a model, on random token ids; the model is left as it was.

    A failure inside a check is that check's failure, not an exception.
    """
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, model.vocabulary, (2, length), generator=generator).to(model.device)
    before = hook_count(model.hf)
    suite = (*_SUITE, *MIXTURE_SUITE) if model.mixtures else _SUITE
    checks = [_outcome(name, test, model, ids, circuits) for name, test, circuits in suite]
    after = hook_count(model.hf)
    return [*checks, Check("no hooks left", before == after, f"{before} before, {after} after")]


def require_conformance(model: Model) -> None:
    """Raises UnsupportedModel listing what failed, when a family found by structure does not pass the suite."""
    if not model.family.discovered:
        return
    failed = [check for check in run_checks(model) if not check.passed and not check.circuits_only]
    if failed:
        reasons = "; ".join(f"{check.name} ({check.detail})" for check in failed)
        raise UnsupportedModel(f"{model.id} ({model.config.model_type}) looks like a known family but fails: {reasons}")


def _outcome(name: str, test: Callable[[Model, Tensor], float], model: Model, ids: Tensor, circuits: bool) -> Check:
    tolerance = 1e-4 if model.dtype in (torch.float32, torch.float64) else 0.05
    try:
        with torch.inference_mode():
            error = test(model, ids)
    except Exception as failure:
        return Check(name, False, f"{type(failure).__name__}: {failure}", circuits)
    return Check(name, error <= tolerance, f"largest relative difference {error:.1e}", circuits)


def neuron_definition(model: Model, ids: Tensor) -> float:
    """Neurons times the output projection (plus bias) are what the projection puts out (regions.md, section 1)."""
    errors: list[float] = []
    for layer in range(model.layers):
        if layer in model.mixtures:
            continue  # the suite of mixtures has its own
        projection = find(model.blocks[layer], model.family.neurons)
        assert projection is not None
        outputs: list[Tensor] = []
        handle = projection.register_forward_hook(_keep(outputs))
        try:
            with capture(model, [Site("neurons", layer)]) as seen:
                model.trunk(ids)
        finally:
            handle.remove()
        made = seen[Site("neurons", layer)] @ model.neuron_weight(layer)
        bias = model.bias("neurons", layer)
        errors.append(difference(made if bias is None else made + bias, outputs[0].reshape(made.shape)))
    return max(errors, default=0.0)


def _keep(outputs: list[Tensor]) -> Callable[[Any, Any, Tensor], None]:
    def hook(_module: Any, _inputs: Any, output: Tensor) -> None:
        outputs.append(output.clone())

    return hook


def additivity(model: Model, ids: Tensor) -> float:
    """Embedding plus everything written is what enters the final norm (circuits.md, section 8)."""
    writes = [
        site for layer in range(model.layers) for site in (Site("attention_write", layer), Site("mlp_write", layer))
    ]
    first, last = Site("residual", 0), Site("residual", model.layers)
    with capture(model, [first, *writes, last]) as seen:
        model.trunk(ids)
    return difference(sum((seen[site] for site in writes), seen[first]), seen[last])


def logits(model: Model, ids: Tensor) -> float:
    """Our unembedding of the trunk's output is the model's own logits."""
    return difference(model.logits(model.trunk(ids)), model.hf(input_ids=ids).logits)


def value_layout(model: Model, ids: Tensor) -> float:
    """With one token, every head's output is its (shared) value vector: the v rows and the grouping are right."""
    sites = [site for layer in range(model.layers) for site in (Site("v", layer), Site("z", layer))]
    with capture(model, sites) as seen:
        model.trunk(ids[:, :1])
    group = model.heads // model.kv_heads
    return max(
        difference(seen[Site("v", layer)].repeat_interleave(group, dim=-2), seen[Site("z", layer)])
        for layer in range(model.layers)
    )


def query_key_layout(model: Model, ids: Tensor) -> float:
    """Changing one head's query (or key) moves that head's output (or its group's), and no other's."""
    group, layer = model.heads // model.kv_heads, model.layers - 1
    site = Site("z", layer)
    with capture(model, [site]) as base:
        model.trunk(ids)
    worst = 0.0
    for place, count, members in ((Site("q", layer), model.heads, 1), (Site("k", layer), model.kv_heads, group)):
        for head in {0, count - 1}:
            with edit(model, {place: _scramble(head)}), capture(model, [site]) as seen:
                model.trunk(ids)
            moved = (seen[site] - base[site]).abs().amax(dim=(0, 1, 3))
            mine = torch.zeros_like(moved, dtype=torch.bool)
            mine[head * members : (head + 1) * members] = True
            worst = max(worst, float(moved[~mine].max()) if (~mine).any() else 0.0)
            if not bool((moved[mine] > 1e-5).all()):
                return float("inf")
    return worst


def _scramble(head: int) -> Callable[[Tensor], Tensor]:
    def change(value: Tensor) -> Tensor:
        changed = value.clone()
        noise = torch.linspace(-2, 2, value.shape[1] * value.shape[-1], device=value.device).sin()
        changed[..., head, :] += 3 * noise.reshape(value.shape[1], -1).to(value.dtype)
        return changed

    return change


def head_ablation(model: Model, ids: Tensor) -> float:
    """Zeroing a head by a hook equals zeroing its columns of W_O in a copy of the block's projection."""
    layer, head = model.layers // 2, model.heads - 1

    def zero(value: Tensor) -> Tensor:
        value = value.clone()
        value[..., head, :] = 0
        return value

    with edit(model, {Site("z", layer): zero}):
        hooked = model.trunk(ids)
    projection = find(model.blocks[layer], model.family.attention_output)
    assert projection is not None
    whole = projection.weight
    assert isinstance(whole, torch.nn.Parameter)
    edited = copy.deepcopy(whole)
    columns = slice(head * model.head_width, (head + 1) * model.head_width)
    with torch.no_grad():
        view = edited.T if matrix(projection) is not whole else edited
        view[:, columns] = 0
    projection.weight = edited
    try:
        weighted = model.trunk(ids)
    finally:
        projection.weight = whole
    return difference(hooked, weighted)


def padding(model: Model, ids: Tensor) -> float:
    """A right-padded batch gives what single sequences give."""
    short = ids.shape[1] - 4
    mask = torch.ones_like(ids)
    mask[1, short:] = 0
    together = model.trunk(ids, mask)
    return max(
        difference(together[:1], model.trunk(ids[:1])),
        difference(together[1:, :short], model.trunk(ids[1:, :short])),
    )


def resuming(model: Model, ids: Tensor) -> float:
    """A pass resumed at any block with that block's input ends where the whole pass ends."""
    sites = [Site("residual", layer) for layer in range(model.layers)]
    with capture(model, sites) as seen:
        whole = model.trunk(ids)
    errors: list[float] = []
    for site in sites:
        with resume(model, site.layer, seen[site]):
            errors.append(difference(model.trunk(ids), whole))
    return max(errors)


_SUITE: tuple[tuple[str, Callable[[Model, Tensor], float], bool], ...] = (
    ("neurons are the MLP's output weights' input", neuron_definition, False),
    ("logits are the model's own", logits, False),
    ("batch and right padding change nothing", padding, False),
    ("embedding + writes = final residual", additivity, True),
    ("values: rows and groups", value_layout, True),
    ("queries and keys: rows and groups", query_key_layout, True),
    ("head by hook = head by weights", head_ablation, True),
    ("resumed pass = whole pass", resuming, True),
)
