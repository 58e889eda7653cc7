"""One suite that every model passes: what we read is what the model computes, and what we edit is what it would do.

`run_checks` needs nothing but the model: it feeds random token ids. The gate (`babelscope.models.gate`) asks it, of
every model, before anything is measured; `babelscope check MODEL` prints it.

B batch · T position · D model width · N neuron · H query head · K key/value head · E head width
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from babelscope.errors import AlreadyEdited, BabelscopeError, NonFinite, UnsupportedModel
from babelscope.models.batches import out_of_memory
from babelscope.models.families import Level
from babelscope.models.head_checks import (
    head_ablation,
    head_shapes,
    head_weights,
    mixer_ablation,
    projected,
    projection_weights,
    query_key_layout,
    value_layout,
)
from babelscope.models.hooks import Site, capture, edit, hook_count, resume
from babelscope.models.mixture_checks import MIXTURE_SUITE, difference
from babelscope.models.model import Model
from babelscope.models.norms import plain
from babelscope.models.offload import offloaded
from babelscope.models.scales import writes_of
from babelscope.models.stream_checks import NAME, PROBLEM, handed_on
from babelscope.wording import first_line


@dataclass(frozen=True)
class Check:
    """The outcome of one check."""

    name: str
    passed: bool
    detail: str
    level: Level = "regions"
    """what needs it: regions and circuits, or circuits alone"""
    problem: str = ""
    """what a failure means, as the end of a sentence; empty when it passed"""


def run_checks(model: Model, length: int = 9, level: Level = "circuits") -> list[Check]:
    """The checks of a model up to a level, on random token ids; the model is left as it was.

    A failure inside a check is that check's failure, not an exception, but for what says nothing of the structure:
    memory that ran out is the system's own error. Raises AlreadyEdited while somebody edits the model, as what is
    checked then is not the model, and NonFinite where its states are no numbers.
    """
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, model.vocabulary, (2, length), generator=generator).to(model.device)
    before = hook_count(model.hf)
    suite = (*SUITE, *map(_of_mixtures, MIXTURE_SUITE)) if model.mixtures else SUITE
    # an encoder has no next word, and sees what comes later
    suite = [test for test in suite if not (model.encoder and test.measure in (logits, causality))]
    if model.no_neurons:
        suite.append(Test(NAME, handed_on, "regions", PROBLEM))
    checks: list[Check] = []
    for test in suite:
        odd = any(check.name == SHAPES and not check.passed for check in checks)
        if (test.level == "regions" or level == "circuits") and not (test.of_heads and odd):
            checks.append(_outcome(test, model, ids))
    after = hook_count(model.hf)
    told = f"{before} before, {after} after"
    return [*checks, Check("no hooks left", before == after, told, problem=f"hooks are left behind ({told})")]


@dataclass(frozen=True)
class Test:
    """One check: a largest relative difference that shall be nearly 0, and what it says when it is not."""

    name: str
    measure: Callable[[Model, Tensor], float]
    level: Level
    problem: str
    """with `{error}` in it"""
    of_heads: bool = False
    """it says nothing where layers have other heads than the configuration states"""


def _of_mixtures(row: tuple[str, Callable[[Model, Tensor], float], bool]) -> Test:
    name, measure, circuits = row
    return Test(name, measure, "circuits" if circuits else "regions", f"{name} does not hold: off by {{error}}")


def _outcome(test: Test, model: Model, ids: Tensor) -> Check:
    tolerance = 1e-4 if model.dtype in (torch.float32, torch.float64) else 0.05
    try:
        with torch.inference_mode():
            error = test.measure(model, ids)
    except (AlreadyEdited, NonFinite):
        raise
    except Exception as failure:
        if out_of_memory(failure):
            raise
        reason = f"{type(failure).__name__}: {str(failure).strip().partition(chr(10))[0]}"
        told = (
            str(failure) if isinstance(failure, UnsupportedModel) else f"the check “{test.name}” cannot run ({reason})"
        )
        return Check(test.name, False, reason, test.level, told)
    detail = f"largest relative difference {error:.1e}"
    if error <= tolerance:
        return Check(test.name, True, detail, test.level)
    share = f"{error:.0%}" if error < 10 else f"{error:.0e} ×"
    return Check(test.name, False, detail, test.level, test.problem.format(error=share))


def why_no_text(model: Model, length: int = 9) -> str:
    """What the model's own code says to token ids without anything else, such as an image; empty where it runs."""
    ids = torch.zeros((2, length), dtype=torch.long, device=model.device)
    try:
        with torch.inference_mode():
            model.trunk(ids)
            if not model.encoder:
                _own_logits(model, ids)
    except BabelscopeError:
        raise
    except Exception as failure:
        if out_of_memory(failure):
            raise
        return f"{type(failure).__name__}: {first_line(failure)}"
    return ""


def neuron_definition(model: Model, ids: Tensor) -> float:
    """Neurons times the output projection (plus bias) are what the projection puts out (regions.md, section 1)."""
    errors: list[float] = []
    for layer in model.neuron_layers:
        if layer in model.mixtures:
            continue  # the suite of mixtures has its own
        neurons, output = projected(model, model.family.neurons, Site("neurons", layer), ids)
        made = neurons @ model.neuron_weight(layer)
        bias = model.bias("neurons", layer)
        errors.append(difference(made if bias is None else made + bias, output.reshape(made.shape)))
    return max(errors, default=0.0)


def additivity(model: Model, ids: Tensor) -> float:
    """Embedding plus everything written is what enters the final norm (circuits.md, section 8)."""
    stream = [layer for layer, factor in enumerate(model.scales.stream) if factor != 1]
    if stream:
        raise UnsupportedModel(
            f"the stream is multiplied by {model.scales.stream[stream[0]]:g} after layer {stream[0]}"
        )
    writes = [site for layer in range(model.layers) for site in writes_of(model, layer)]
    first, last = Site("residual", 0), Site("residual", model.layers)
    with capture(model, [first, *writes, last]) as seen:
        model.trunk(ids)
    _one_stream(seen)
    parts = [seen[site].double() for site in (first, *writes)]
    made, final = sum(parts, torch.zeros_like(parts[0])), seen[last].double()
    error = difference(made, final)
    if error > 0.05:
        return error
    # number by number, of the sizes that were added up there: a dimension that dwarfs the others hides nothing in them
    sizes = sum((part.abs() for part in parts), torch.zeros_like(made)).clamp_min(1e-12)
    return float(((made - final).abs() / sizes).max())


def _one_stream(seen: dict[Site, Tensor]) -> None:
    shapes = {tuple(value.shape) for site, value in seen.items() if site.kind != "neurons"}
    if len(shapes) > 1:
        told = " and ".join(str(list(shape[2:])) for shape in sorted(shapes, key=len)[:2])
        raise UnsupportedModel(f"its blocks hand on more than one residual stream (tokens of shape {told})")


def _own_logits(model: Model, ids: Tensor) -> Tensor:
    """The model's own logits, without a cache: one of a stack without attention may not be made."""
    plain = "use_cache" in inspect.signature(model.hf.forward).parameters
    given = {"use_cache": False} if plain else {}
    return model.hf(input_ids=ids, attention_mask=torch.ones_like(ids), **given).logits


def logits(model: Model, ids: Tensor) -> float:
    """Our unembedding of the trunk's output is the model's own logits."""
    own = _own_logits(model, ids)
    return difference(model.logits(model.trunk(ids)), own)


def answer_rows(model: Model, ids: Tensor) -> float:
    """The answers' rows of the unembedding, read as weights, give the model's own logits of those words."""
    _ = model.logit_scale
    words = ids.unique()
    own = _own_logits(model, ids)
    return difference(model.logits(model.trunk(ids), words), own[..., words])


def norms(model: Model, ids: Tensor) -> float:
    """What attention and MLP read is their norm of the stream, which a reader's own input is put through."""
    errors: list[float] = []
    for layer in range(model.layers):
        attends, feeds = layer in model.attention_layers, layer in model.neuron_layers
        before = [] if model.family.parallel else [site for site in writes_of(model, layer) if site.kind != "mlp_write"]
        read = [Site("attention_in", layer)] * attends + [Site("mlp_in", layer)] * feeds
        with capture(model, [Site("residual", layer), *before, *read]) as seen:
            model.trunk(ids)
        _one_stream(seen)
        entering = seen[Site("residual", layer)]
        if attends:
            errors.append(difference(_normed(model, "attention", layer, entering), seen[Site("attention_in", layer)]))
        if feeds:
            stream = sum((seen[site] for site in before), entering)
            errors.append(difference(_normed(model, "mlp", layer, stream), seen[Site("mlp_in", layer)]))
    return max(errors)


def _normed(model: Model, which: Literal["attention", "mlp"], layer: int, stream: Tensor) -> Tensor:
    norm = model.norm(which, layer)
    return stream if norm is None else plain(norm, stream)


def residency(model: Model, _: Tensor) -> float:
    """All weights are in memory: circuits read many of them, again and again."""
    away = offloaded(model.hf)
    if away:
        raise UnsupportedModel(f"{len(away)} weights are offloaded, the first is {away[0]}")
    return 0.0


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


def growing(model: Model, ids: Tensor) -> float:
    """Rows may join the batch within a pass (path patching stacks senders so): the trunk does not count them first."""
    layer = model.layers
    whole = model.trunk(ids[:1])
    with edit(model, {Site("residual", layer): lambda hidden: torch.cat([hidden, hidden])}):
        grown = model.trunk(ids[:1])
    return difference(grown, torch.cat([whole, whole]))


def causality(model: Model, ids: Tensor) -> float:
    """Later tokens leave earlier outputs alone."""
    half = ids.shape[1] // 2
    other = torch.cat([ids[:, :half], ids[:, half:].flip(1).roll(1, 0)], dim=1)
    return difference(model.trunk(other)[:, :half], model.trunk(ids)[:, :half])


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


SHAPES = "heads are as the configuration states"
SUITE: tuple[Test, ...] = (
    Test(
        "neurons are the MLP's output weights' input",
        neuron_definition,
        "regions",
        "neurons times output weights miss the MLP's output by {error}",
    ),
    Test("logits are the model's own", logits, "regions", "logits miss the model's own by {error}"),
    Test(
        "batch and right padding change nothing",
        padding,
        "regions",
        "padding on the right changes the final states by {error}",
    ),
    Test(
        "later tokens leave earlier outputs alone",
        causality,
        "regions",
        "later tokens change the states of earlier ones by {error}: it is no causal model",
    ),
    Test("all weights are in memory", residency, "circuits", "weights are offloaded"),
    Test(
        "embedding + writes = final residual",
        additivity,
        "circuits",
        "embedding + writes miss the final residual by {error}",
    ),
    Test(
        "norm of the stream = what is read",
        norms,
        "circuits",
        "norms of the stream miss what attention or the MLP reads by {error}",
    ),
    Test(
        "answer rows = own logits", answer_rows, "circuits", "answer rows of the unembedding miss the logits by {error}"
    ),
    Test(SHAPES, head_shapes, "circuits", "heads differ by layer"),
    Test(
        "heads × W_O = attention's output",
        head_weights,
        "circuits",
        "heads times W_O miss the attention's output by {error}: its weight is not what it multiplies with",
        of_heads=True,
    ),
    Test(
        "stream × W_Q, W_K, W_V = q, k, v",
        projection_weights,
        "circuits",
        "what attention reads times its weights misses q, k or v by {error}",
        of_heads=True,
    ),
    Test(
        "values: rows and groups",
        value_layout,
        "circuits",
        "one token's heads miss their values by {error}",
        of_heads=True,
    ),
    Test(
        "queries and keys: rows and groups",
        query_key_layout,
        "circuits",
        "changing one head's query or key moves other heads by {error}",
        of_heads=True,
    ),
    Test(
        "head by hook = head by weights",
        head_ablation,
        "circuits",
        "zeroing a head by hook misses zeroing its weights by {error}",
        of_heads=True,
    ),
    Test(
        "mixer by hook = mixer by weights",
        mixer_ablation,
        "circuits",
        "zeroing a linear mixer by hook misses zeroing its weights by {error}",
    ),
    Test("rows may join within a pass", growing, "circuits", "rows that join within a pass end elsewhere, by {error}"),
    Test("resumed pass = whole pass", resuming, "circuits", "resumed passes miss the whole pass by {error}"),
)
"""every check, by the level that needs it"""
