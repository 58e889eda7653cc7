"""Running a circuit: one forward pass in which every reader has an input of its own (section 6).

A reader sees the sum of what was written, where each writer outside the circuit is exchanged for its ablated value:

    in_r = Σ_u z_u − Σ_{u → r not in the circuit} (z_u − ablated_u),   z_u as computed in this very pass

Every edge is an entry of one mask. The pass is the model's own: hooks put the readers' values in place block by block.
It holds [W, N, T, D] numbers and computes about three times what a plain pass does (a product of mask and writers, the
norm once per reader), so batches are small; norms and attention are the model's.

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
from babelscope.circuits.core.graph import Mask, Wiring
from babelscope.circuits.core.nodes import EMBEDDING, MLP, Head, Mixer, Receiver, Sender, reader_counts
from babelscope.circuits.core.residual import AttentionKind, Values, attention_write, head_parts, read, read_mlp
from babelscope.errors import InputError
from babelscope.models.batches import token_budget
from babelscope.models.hooks import Change, Site, edit

if TYPE_CHECKING:
    from babelscope.models import Model
    from babelscope.tasks import PromptPair

Array = NDArray[np.float64]
ELEMENTS = 2**26
"""At most this many numbers are held for the writers of one batch."""


class _Pass:
    """The hooks of one circuit's forward pass, and the stream as it grows."""

    def __init__(self, model: Model, wiring: Wiring, edges: Bool[Tensor, "W R"], ablated: Values) -> None:
        self.model, self.wiring, self.ablated = model, wiring, ablated
        self.missing = ~edges
        self.differences = torch.empty(0)  # z_u − ablated_u of each writer, [W, N, T, D]
        self.parts: dict[int, Tensor] = {}  # the same by first row, where they must be differentiated through
        self.stream = torch.empty(0)
        self.entering = torch.empty(0)  # the stream as it was when the block began

    def changes(self) -> dict[Site, Change]:
        found: dict[Site, Change] = {Site("residual", self.model.layers): lambda _: self.seen_by(Receiver("logits"))[0]}
        for layer in range(self.model.layers):
            found[Site("residual", layer)] = lambda value, layer=layer: self.enter(value, layer)
            for receiver in self.wiring.first_readers(layer):
                if receiver.kind != "mlp" and receiver.kind != "logits":
                    kind = receiver.kind
                    found[Site(kind, layer)] = lambda _, kind=kind, layer=layer: self.project(kind, layer)
            if self.wiring.has(layer, "a"):
                found[Site("z", layer)] = lambda value, layer=layer: self.attend(value, layer)
            if self.wiring.has(layer, "s"):
                found[Site("state_write", layer)] = lambda value, layer=layer: self.written(
                    Mixer(layer), value, self.ablated.state[layer]
                )
            if self.wiring.has(layer, "m"):
                found[Site("mlp_in", layer)] = lambda _, layer=layer: self.feed(layer)
                found[Site("mlp_write", layer)] = lambda value, layer=layer: self.written(
                    MLP(layer), value, self.ablated.mlp[layer]
                )
        return found

    def enter(self, value: Tensor, layer: int) -> Tensor:
        if layer == 0:
            self.stream = value.clone()
            self.add(EMBEDDING, (value - self.ablated.embedding)[None])
        self.entering = self.stream
        return value

    def add(self, first: Sender, parts: Float[Tensor, "w N T D"]) -> None:
        """Keep the differences of neighbouring writers; those of a layer come in whatever order the model has."""
        row = self.wiring.writer(first)
        if torch.is_grad_enabled():  # a buffer written in place cannot be differentiated through
            self.parts[row] = parts
            self.differences = torch.cat([self.parts[place] for place in sorted(self.parts)])
            return
        if not row:
            self.differences = parts.new_empty(len(self.wiring.writers), *parts.shape[1:])
        self.differences[row : row + len(parts)] = parts

    def seen_by(self, first: Receiver, count: int = 1) -> Float[Tensor, "R N T D"]:
        """The streams that `count` neighbouring readers see."""
        column, before = self.wiring.reader(first), self.wiring.before(first)
        late = first.kind == "logits" or (first.kind == "mlp" and not self.wiring.parallel)
        stream = self.stream if late else self.entering
        missing = self.missing[:before, column : column + count]
        differences = self.differences[:before]
        everywhere = missing.all(1)
        some = missing.any(1) & ~everywhere
        if bool(everywhere.any()):  # what none of these readers sees is taken away once for all of them
            stream = stream - torch.tensordot(everywhere.to(differences.dtype), differences, dims=1)
        if not bool(some.any()):
            return stream.expand(count, *stream.shape)
        return stream - torch.tensordot(missing[some].T.to(differences.dtype), differences[some], dims=1)

    def project(self, kind: AttentionKind, layer: int) -> Float[Tensor, "N T R E"]:
        count = reader_counts(self.model)[kind]
        return read(self.model, kind, layer, self.seen_by(Receiver(kind, layer, 0), count)).movedim(0, -2)

    def attend(self, z: Tensor, layer: int) -> Tensor:
        parts = head_parts(self.model, layer, z)
        ablated = head_parts(self.model, layer, self.ablated.z[layer])
        constant = [1] * (parts.dim() - ablated.dim())
        self.add(Head(layer, 0), parts - ablated.reshape(len(parts), *constant, *ablated.shape[1:]))
        self.stream = self.stream + attention_write(self.model, layer, z)
        return z

    def feed(self, layer: int) -> Tensor:
        return read_mlp(self.model, layer, self.seen_by(Receiver("mlp", layer))[0])

    def written(self, node: Sender, value: Tensor, ablated: Tensor) -> Tensor:
        self.add(node, (value - ablated)[None])
        self.stream = self.stream + value
        return value


def masked_final(
    model: Model, wiring: Wiring, edges: Bool[Tensor, "W R"], rows: Rows, ablated: Values
) -> Float[Tensor, "N A D"]:
    """Final hidden states at the answer positions when only `edges` carry what the prompt says."""
    state = _Pass(model, wiring, edges, ablated)
    with edit(model, state.changes()):
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
        ablated = reference(rows)
        for place, mask in enumerate(masks):
            if bool((mask | ~torch.from_numpy(wiring.allowed)).all()):  # nothing is ablated
                final = model.trunk(rows.clean)[:, rows.length - rows.answer :]
            else:
                final = masked_final(model, wiring, mask.to(model.device), rows, ablated)
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
