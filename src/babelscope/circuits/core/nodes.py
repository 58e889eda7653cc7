"""The parts of a transformer that a circuit is made of: who writes to the residual stream, and who reads from it.

Writers (senders) are the embedding, the attention heads, the linear mixers (state spaces, gated delta rules,
convolutions) and the MLPs (a mixture of experts is one; in patching each of its experts may be a sender by itself).
Readers (receivers) are the native q, k and v projections (key/value heads under grouped-query attention; out of a
latent also the rotary key that all heads share; gates of heads where there are any), the inputs of the MLPs, and the
final residual. A linear mixer is one node without receivers: it reads the whole stream.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from babelscope.errors import InputError
from babelscope.models.gate import require
from babelscope.models.hooks import Reading

if TYPE_CHECKING:
    from babelscope.models import Model

ReceiverKind = Literal["q", "k", "v", "shared_key", "gate", "mlp", "logits"]


@dataclass(frozen=True, order=True)
class Head:
    """A query head: what it writes is z_h W_O[h]."""

    layer: int
    head: int

    def __str__(self) -> str:
        return f"{self.layer}.{self.head}"


@dataclass(frozen=True, order=True)
class MLP:
    """The feed-forward network of a layer."""

    layer: int

    def __str__(self) -> str:
        return f"m{self.layer}"


@dataclass(frozen=True, order=True)
class Expert:
    """One routed expert of a mixture: what it writes is its output times its routing weight, where it was chosen."""

    layer: int
    expert: int

    def __str__(self) -> str:
        return f"m{self.layer}.{self.expert}"


@dataclass(frozen=True, order=True)
class Mixer:
    """The linear mixer of a layer: it moves what is known between positions as attention does, but has no heads."""

    layer: int

    def __str__(self) -> str:
        return f"s{self.layer}"


@dataclass(frozen=True, order=True)
class Embedding:
    """What enters the first block (BLOOM: after the embedding's LayerNorm)."""

    def __str__(self) -> str:
        return "embedding"


@dataclass(frozen=True, order=True)
class Logits:
    """The end of every circuit; it writes nothing."""

    def __str__(self) -> str:
        return "logits"


EMBEDDING = Embedding()
LOGITS = Logits()
Sender = Head | Mixer | MLP | Expert | Embedding
Node = Head | Mixer | MLP | Expert | Embedding | Logits


@dataclass(frozen=True, order=True)
class Receiver:
    """A reader: `q` of a query head, `k` or `v` of a key/value head, the rotary `shared_key` of all heads behind a
    latent, the `gate` of a query head, the input of an `mlp`, or the final residual."""

    kind: ReceiverKind
    layer: int = -1
    head: int = -1

    def __str__(self) -> str:
        if self.kind == "logits":
            return "logits"
        if self.kind == "shared_key":
            return f"{self.layer}.shared_key"
        return f"m{self.layer}" if self.kind == "mlp" else f"{self.layer}.{self.head}.{self.kind}"


FINAL = Receiver("logits")
"""the final residual stream, at the positions where the answer is read off"""


def heads_of(model: Model) -> list[Head]:
    """All heads, layer by layer."""
    return [Head(layer, head) for layer in model.attention_layers for head in range(model.heads)]


def mlps_of(model: Model) -> list[MLP]:
    """All MLPs."""
    return [MLP(layer) for layer in model.neuron_layers]


def experts_of(model: Model) -> list[Expert]:
    """All routed experts, layer by layer."""
    return [Expert(layer, expert) for layer, mixture in model.mixtures.items() for expert in range(mixture.count)]


def mixers_of(model: Model) -> list[Mixer]:
    """All linear mixers."""
    return [Mixer(layer) for layer in model.mixer_layers]


def kv_head(model: Model, head: int) -> int:
    """The key/value head that serves a query head."""
    return head // (model.heads // model.kv_heads)


def receivers(model: Model, heads: Iterable[Head], kind: Literal["q", "k", "v"]) -> list[Receiver]:
    """What these heads read with: for k and v each key/value head once, however many query heads share it.

    Out of a latent, keys have a part of their own and one that all heads share: both are given.
    """
    heads = list(heads)
    found = {Receiver(kind, node.layer, node.head if kind == "q" else kv_head(model, node.head)) for node in heads}
    if kind == "k" and model.family.key_latent:
        found |= {Receiver("shared_key", node.layer, 0) for node in heads}
    return sorted(found)


def reader_counts(model: Model) -> dict[Reading, int]:
    """How many readers of each kind a layer with heads has."""
    counts: dict[Reading, int] = {"k": model.kv_heads, "v": model.kv_heads, "shared_key": 1}
    return {kind: counts.get(kind, model.heads) for kind in model.readings}


def parse_node(text: str) -> Node:
    """The node named by `9.6` (head), `m3` (MLP), `m3.5` (one of its experts), `s3` (linear mixer), `embedding` or
    `logits`; raises InputError.

    >>> parse_node("9.6"), parse_node("m3")
    (Head(layer=9, head=6), MLP(layer=3))
    """
    if match := re.fullmatch(r"(\d+)\.(\d+)", text.strip()):
        return Head(int(match[1]), int(match[2]))
    if match := re.fullmatch(r"m(\d+)", text.strip()):
        return MLP(int(match[1]))
    if match := re.fullmatch(r"m(\d+)\.(\d+)", text.strip()):
        return Expert(int(match[1]), int(match[2]))
    if match := re.fullmatch(r"s(\d+)", text.strip()):
        return Mixer(int(match[1]))
    if text.strip() in ("embedding", "logits"):
        return EMBEDDING if text.strip() == "embedding" else LOGITS
    forms = "9.6 for a head, m3 for an MLP, m3.5 for an expert, s3 for a linear mixer, embedding, or logits"
    raise InputError(f"{text!r} names no node: write {forms}")


def check_nodes(model: Model, nodes: Iterable[Node]) -> None:
    """Raises InputError naming the first node that the model does not have."""
    for node in nodes:
        if isinstance(node, (Head, MLP, Expert, Mixer)) and not 0 <= node.layer < model.layers:
            raise InputError(f"{node}: {model.id} has layers 0 to {model.layers - 1}")
        if isinstance(node, Head) and not 0 <= node.head < model.heads:
            raise InputError(f"head {node}: {model.id} has heads 0 to {model.heads - 1} in each layer")
        if isinstance(node, Head):
            _in_layers(model, str(node), node.layer, model.attention_layers, "heads")
        if isinstance(node, MLP):
            _in_layers(model, str(node), node.layer, model.neuron_layers, "an MLP")
        if isinstance(node, Expert):
            _in_layers(model, str(node), node.layer, tuple(model.mixtures), "experts")
            count = model.mixtures[node.layer].count
            if not 0 <= node.expert < count:
                raise InputError(f"expert {node}: layer {node.layer} of {model.id} has experts 0 to {count - 1}")
        if isinstance(node, Mixer):
            _in_layers(model, str(node), node.layer, model.mixer_layers, "a linear mixer")


def _in_layers(model: Model, name: str, layer: int, layers: Sequence[int], what: str) -> None:
    if layer not in layers:
        where = f"layers {', '.join(map(str, layers))} have" if layers else "no layer has"
        raise InputError(f"{name}: layer {layer} of {model.id} has not {what}: {where}")


def check_receivers(model: Model, chosen: Sequence[Receiver]) -> None:
    """Raises InputError for receivers that do not exist, and for the final residual together with others."""
    if not chosen:
        raise InputError("no receiver was given")
    if FINAL in chosen and len(chosen) > 1:
        raise InputError("the final residual is patched alone: everything else ends in it")
    for receiver in chosen:
        if receiver.kind == "logits":
            continue
        if not 0 <= receiver.layer < model.layers:
            raise InputError(f"{receiver}: {model.id} has layers 0 to {model.layers - 1}")
        layers, what = (model.neuron_layers, "an MLP") if receiver.kind == "mlp" else (model.attention_layers, "heads")
        _in_layers(model, str(receiver), receiver.layer, layers, what)
        if receiver.kind != "mlp" and receiver.kind not in model.readings:
            raise InputError(f"{receiver}: the attention of {model.id} has no {receiver.kind}")
        count = None if receiver.kind == "mlp" else reader_counts(model)[receiver.kind]
        if count is not None and not 0 <= receiver.head < count:
            shared = "key/value heads" if receiver.kind in "kv" and count != model.heads else "heads"
            raise InputError(f"{receiver}: {model.id} has {shared} 0 to {count - 1}")


def check_model(model: Model) -> None:
    """Raises UnsupportedModel when a model does not pass the checks that circuits need (`babelscope.models.gate`)."""
    require(model, "circuits")


def reaches(model: Model, sender: Sender, receiver: Receiver) -> bool:
    """Whether a direct path (all attention frozen) leads from sender to receiver."""
    if isinstance(sender, Embedding) or receiver.kind == "logits":
        return True
    if isinstance(sender, (Head, Mixer)) and receiver.kind == "mlp" and not model.family.parallel:
        return sender.layer <= receiver.layer
    return sender.layer < receiver.layer
