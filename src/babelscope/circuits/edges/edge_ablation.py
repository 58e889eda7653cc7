"""Running a circuit: one forward pass in which every reader has an input of its own (section 6).

A reader sees the sum of what was written, where each writer outside the circuit is exchanged for its ablated value:

    in_r = Σ_u ablated_u + Σ_{u → r in the circuit} (z_u − ablated_u),   z_u as computed in this very pass

Every edge is an entry of one mask. The pass is the model's own: hooks put the readers' values in place block by block.
It holds [W, N, T, D] numbers and computes up to twice what a plain pass does (a product of mask and writers, the norm
once per reader), so batches are small; norms and attention are the model's.

W writer · R reader · N row · T position · D width · P pair
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from babelscope.circuits.core import logit_diff
from babelscope.circuits.core.ablation import Reference, fitted_constants
from babelscope.circuits.core.batching import Rows, batches
from babelscope.circuits.core.cache import projection
from babelscope.circuits.core.graph import Mask, Wiring
from babelscope.circuits.core.nodes import EMBEDDING, MLP, Head, Mixer, Receiver, Sender, reader_counts
from babelscope.circuits.core.residual import AttentionKind, Values, attention_write, head_parts, read, read_mlp
from babelscope.circuits.patching.path_passes import Forwards, frozen_attention, replaced
from babelscope.errors import InputError
from babelscope.models.batches import token_budget
from babelscope.models.families import find
from babelscope.models.gelu import fused_gelu
from babelscope.models.hooks import Change, Site, edit
from babelscope.models.places import matrix

if TYPE_CHECKING:
    from babelscope.models import Model
    from babelscope.tasks import PromptPair

Array = NDArray[np.float64]
ELEMENTS = 2**26
"""At most this many numbers are held for the writers of one batch."""


class Silent:
    """Everything ablated: the values, and the stream that they alone make, the same for every circuit of a batch.

    Where a post-norm stands before the stream, what is left of a write beside its heads' parts depends on the pass, so
    the stream grows in it.
    """

    def __init__(self, model: Model, values: Values) -> None:
        self.model, self.values = model, values
        self.settled = not model.family.post_norms
        self._entering: list[Tensor] = [values.embedding]
        self._between: list[Tensor] = []

    def entering(self, layer: int) -> Float[Tensor, "*batch D"]:
        """The stream that enters a block (after the last: the logits), all before it ablated."""
        while len(self._entering) <= layer:
            at = len(self._entering) - 1
            between = self.between(at)
            mlp = self.values.mlp.get(at)
            self._entering.append(between if mlp is None else between + mlp)
        return self._entering[layer]

    def between(self, layer: int) -> Float[Tensor, "*batch D"]:
        """The stream before a block's MLP, where that does not run beside its attention."""
        while len(self._between) <= layer:
            at = len(self._between)
            stream = self.entering(at)
            if at in self.values.z:
                stream = stream + attention_write(self.model, at, self.values.z[at])
            self._between.append(stream + self.values.state[at] if at in self.values.state else stream)
        return self._between[layer]


class _Pass:
    """The hooks of one circuit's forward pass, and the streams that its readers see.

    A reader sees the stream of everything ablated, and the differences of the writers that it has an edge from. So only
    writers with an edge are kept, and heads and MLPs without one are not computed, where nothing else depends on them.
    """

    def __init__(self, model: Model, wiring: Wiring, edges: Bool[Tensor, "W R"], silent: Silent) -> None:
        self.model, self.wiring, self.silent, self.ablated = model, wiring, silent, silent.values
        writing = edges.any(1)
        self.mask = edges[writing].to(model.dtype)  # of the writers that have an edge
        self.slots = [0, *writing.cumsum(0).tolist()]  # how many of these are among the first writers
        self.writing = writing.tolist()
        # a post-norm's scale, and what a linear mixer reads, depend on all that is written
        lean = silent.settled and not model.mixer_layers
        feeds = torch.from_numpy(wiring.feeds).to(edges.device)
        needed = (feeds & writing).any(1) if lean else torch.ones(len(feeds), dtype=torch.bool)
        self.needed = needed.tolist()
        self.lean = lean
        self.differences = torch.empty(0)  # z_u − ablated_u of each writer that has an edge, [w, N, T, D]
        self.parts: dict[int, Tensor] = {}  # the same by slot, where they must be differentiated through
        self.shape: tuple[int, ...] = ()
        self.floor = torch.empty(0)  # the stream of everything ablated, where it grows in the pass
        self.entering = torch.empty(0)  # and as it was when the block began
        self.got: tuple[int, list[int], Tensor | None] = -1, [], None  # what the readers of the last layer received

    def changes(self) -> dict[Site, Change]:
        wiring = self.wiring
        found: dict[Site, Change] = {Site("residual", self.model.layers): lambda _: self.logits()}
        for layer in range(self.model.layers):
            if layer == 0 or not self.silent.settled:
                found[Site("residual", layer)] = lambda value, layer=layer: self.enter(value, layer)
            if wiring.has(layer, "a") and self.attends(layer):
                for kind in wiring.attention_readers:
                    found[Site(kind, layer)] = lambda _, kind=kind, layer=layer: self.project(kind, layer)
                found[Site("z", layer)] = lambda value, layer=layer: self.attend(value, layer)
            if wiring.has(layer, "s"):
                found[Site("state_write", layer)] = lambda value, layer=layer: self.written(
                    Mixer(layer), value, self.ablated.state[layer]
                )
            if wiring.has(layer, "m") and self.needed[wiring.reader(Receiver("mlp", layer))]:
                found[Site("mlp_in", layer)] = lambda _, layer=layer: self.feed(layer)
                found[Site("mlp_write", layer)] = lambda value, layer=layer: self.written(
                    MLP(layer), value, self.ablated.mlp[layer]
                )
        return found

    def attends(self, layer: int) -> bool:
        """Whether any head of a layer has to be computed."""
        start = self.wiring.reader(Receiver("q", layer, 0))
        return any(self.needed[start : start + self.wiring.heads])

    def idle(self, shape: tuple[int, ...]) -> Forwards:
        """Forwards under which nothing is computed that goes to nobody; `shape` of the stream."""
        model, family = self.model, self.model.family
        if not self.lean:
            return {}
        attending = [layer for layer in model.attention_layers if self.attends(layer)]
        nothing = torch.zeros(shape, dtype=model.dtype, device=model.device)
        # what a block makes of its own stream is read by nobody: its projections either
        forwards = frozen_attention(model, dict.fromkeys(model.attention_layers, nothing), set(attending))
        for layer in attending:
            forwards[projection(model, layer)] = _zeros(model.width)
        for layer in attending if family.layout != "latent" else ():
            for path in family.qkv:
                module = model.part(path, layer)
                forwards[module] = _zeros(matrix(module).shape[0])
        for layer in model.neuron_layers if family.mlp_read == "mlp" and not family.flattens else ():
            module = find(model.blocks[layer], "mlp")
            if module is not None and not self.needed[self.wiring.reader(Receiver("mlp", layer))]:
                forwards[module] = _zeros(model.width)
        return forwards

    def enter(self, value: Tensor, layer: int) -> Tensor:
        if layer == 0:
            self.shape = value.shape
            self.floor = self.ablated.embedding.expand(value.shape)
            self.add(EMBEDDING, lambda: (value - self.ablated.embedding)[None])
        self.entering = self.floor
        return value

    def add(self, first: Sender, parts: Callable[[], Float[Tensor, "w N T D"]]) -> None:
        """Keep the differences of neighbouring writers; those of a layer come in whatever order the model has."""
        row = self.wiring.writer(first)
        if not self.writing[row] and not isinstance(first, Head):
            return
        made, slot = parts(), self.slots[row]
        if torch.is_grad_enabled():  # a buffer written in place cannot be differentiated through
            self.parts[slot] = made
            self.differences = torch.cat([self.parts[place] for place in sorted(self.parts)])
            return
        if not self.differences.numel():
            self.differences = made.new_empty(self.slots[-1], *made.shape[1:])
        self.differences[slot : slot + len(made)] = made

    def received(self, layer: int) -> tuple[list[int], Float[Tensor, "R N T D"] | None]:
        """Columns of a layer's readers, and what each gets from writers of earlier layers: one product for all."""
        if self.got[0] != layer:
            kinds = self.wiring.first_readers(layer)
            start, end = self.wiring.reader(kinds[0]), self.wiring.columns[layer + 1]
            columns = [column for column in range(start, end) if self.needed[column]]
            self.got = layer, columns, self.total(columns, 0, self.slots[self.wiring.before(kinds[0])])
        return self.got[1:]

    def total(self, columns: Sequence[int], first: int, last: int) -> Float[Tensor, "R N T D"] | None:
        """For each column, the differences in some slots that it has an edge from; None where there is no edge."""
        mask = self.mask[first:last, columns]
        if not bool(mask.any()):
            return None
        return torch.tensordot(mask.T.to(self.differences), self.differences[first:last], dims=1)

    def project(self, kind: AttentionKind, layer: int) -> Float[Tensor, "N T R E"]:
        start, count = self.wiring.reader(Receiver(kind, layer, 0)), reader_counts(self.model)[kind]
        columns, got = self.received(layer)
        first = sum(column < start for column in columns)
        heads = [column - start for column in columns if start <= column < start + count]
        seen = self.silent.entering(layer) if self.silent.settled else self.entering
        # without an edge all see the same stream
        seen = seen.expand(len(heads), *self.shape) if got is None else seen + got[first : first + len(heads)]
        made = read(self.model, kind, layer, seen, heads).movedim(0, -2)
        if len(heads) == count:
            return made
        whole = made.new_zeros(*made.shape[:-2], count, made.shape[-1])
        whole[..., heads, :] = made
        return whole

    def attend(self, z: Tensor, layer: int) -> Tensor:
        row = self.wiring.writer(Head(layer, 0))
        heads = [head for head in range(self.wiring.heads) if self.writing[row + head]]
        if self.silent.settled:
            if heads:  # without a post-norm parts are linear in what heads put out
                change = z - self.ablated.z[layer].to(z)
                self.add(Head(layer, 0), lambda: head_parts(self.model, layer, change, heads))
            return z
        parts, ablated = head_parts(self.model, layer, z), head_parts(self.model, layer, self.ablated.z[layer])
        ablated = ablated.reshape(len(parts), *[1] * (parts.dim() - ablated.dim()), *ablated.shape[1:])
        self.floor = self.floor + attention_write(self.model, layer, z) - (parts - ablated).sum(0)
        if heads:
            self.add(Head(layer, 0), lambda: (parts - ablated)[heads])
        return z

    def feed(self, layer: int) -> Tensor:
        receiver, first = Receiver("mlp", layer), self.wiring.first_readers(layer)[0]
        column, parallel = self.wiring.reader(receiver), self.wiring.parallel
        columns, got = self.received(layer)
        if self.silent.settled:
            seen = self.silent.entering(layer) if parallel else self.silent.between(layer)
        else:
            seen = self.entering if parallel else self.floor
        seen = seen.expand(self.shape)
        seen = seen if got is None else seen + got[columns.index(column)]
        last = self.slots[self.wiring.before(receiver)]  # of this layer's attention, where the MLP stands behind it
        own = self.total([column], self.slots[self.wiring.before(first)], last)
        return read_mlp(self.model, layer, seen if own is None else seen + own[0])

    def written(self, node: Sender, value: Tensor, ablated: Tensor) -> Tensor:
        self.add(node, lambda: (value - ablated)[None])
        if not self.silent.settled:
            self.floor = self.floor + ablated
        return value

    def logits(self) -> Float[Tensor, "N T D"]:
        """What the final norm sees."""
        seen = self.silent.entering(self.model.layers) if self.silent.settled else self.floor
        got = self.total([len(self.wiring.readers) - 1], 0, self.slots[-1])
        return seen.expand(self.shape).clone() if got is None else seen + got[0]


def _zeros(width: int) -> Callable[..., Tensor]:
    return lambda value, *_: value.new_zeros(*value.shape[:-1], width)


def masked_final(
    model: Model,
    wiring: Wiring,
    edges: Bool[Tensor, "W R"],
    rows: Rows,
    ablated: Values | Silent,
) -> Float[Tensor, "N A D"]:
    """Final hidden states at the answer positions when only `edges` carry what the prompt says."""
    state = _Pass(model, wiring, edges, ablated if isinstance(ablated, Silent) else Silent(model, ablated))
    idle = state.idle((*rows.clean.shape, model.width))
    with replaced(idle), fused_gelu(model), edit(model, state.changes()):
        final = model.trunk(rows.clean)
    return final[:, rows.length - rows.answer :]


@torch.no_grad()
def logit_differences(
    model: Model,
    pairs: Sequence[PromptPair],
    circuits: Sequence[Bool[Mask, "W R"]],
    reference: Reference,
    budget: int | None = None,
    done: Callable[[int], None] | None = None,
) -> Float[Array, "circuits P"]:
    """LD of every pair under every circuit (a mask of edges), what is ablated coming from `reference`.

    Raises UnsupportedModel where writes do not add up, InputError for masks of another model.

    >>> whole = logit_differences(model, prompts, [Wiring.of(model).allowed], zero)      # doctest: +SKIP
    """
    wiring = Wiring.of(model)
    masks, places = _distinct([_checked(wiring, edges) for edges in circuits])
    _ = model.block_returns_tuple
    found = np.zeros((len(masks), len(pairs)))
    budget = min(budget or token_budget(model.device), max(1, ELEMENTS // (len(wiring.writers) * model.width)))
    for rows in batches(pairs, budget, model.device):
        silent = Silent(model, reference(rows))
        for place, mask in enumerate(masks):
            if bool((mask | ~torch.from_numpy(wiring.allowed)).all()):  # nothing is ablated
                final = model.trunk(rows.clean)[:, rows.length - rows.answer :]
            else:
                final = masked_final(model, wiring, mask.to(model.device), rows, silent)
            scores = logit_diff.scores(model, rows, final[None])[0]
            np.add.at(found[place], list(rows.index), scores.double().cpu().numpy())
            if done:
                done(len(rows))
    return found[places]


def _distinct(masks: Sequence[Tensor]) -> tuple[list[Tensor], list[int]]:
    """Masks without repetitions (rankings of few edges are often pruned to the same), and where each one went."""
    seen: dict[bytes, int] = {}
    kept: list[Tensor] = []
    places: list[int] = []
    for mask in masks:
        key = mask.numpy().tobytes()
        if key not in seen:
            seen[key] = len(kept)
            kept.append(mask)
        places.append(seen[key])
    return kept, places


def _checked(wiring: Wiring, edges: Mask) -> Tensor:
    if edges.shape != wiring.allowed.shape:
        raise InputError(
            f"a circuit of {edges.shape[0]} writers and {edges.shape[1]} readers does not belong to a model of "
            f"{wiring.allowed.shape[0]} and {wiring.allowed.shape[1]}"
        )
    return torch.from_numpy(np.ascontiguousarray(edges & wiring.allowed))


def optimal_reference(
    model: Model,
    pairs: Sequence[PromptPair],
    edges: Bool[Mask, "W R"],
    steps: int = 50,
    budget: int | None = None,
) -> tuple[Reference, list[float]]:
    """The constants under which a circuit of edges diverges least from the model, and the loss of every step."""
    wiring = Wiring.of(model)
    mask = _checked(wiring, edges).to(model.device)

    def final(rows: Rows, values: Values) -> Tensor:
        return masked_final(model, wiring, mask, rows, values)[:, 0]

    limit = min(budget or token_budget(model.device), max(1, ELEMENTS // (8 * len(wiring.writers) * model.width)))
    return fitted_constants(model, pairs, final, steps, budget=limit)
