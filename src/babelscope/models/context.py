"""How long a text may be: positions that were learned end where their table ends; others end where training did."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from babelscope.models.model import Model

DEFAULT = 2048
"""window for models that state no length (ALiBi)"""
_TABLES = ("wpe", "embed_positions", "position_embeddings", "position_embedding", "positions_embed")
_NAMES = ("max_position_embeddings", "n_positions", "seq_length", "n_ctx", "max_sequence_length", "max_seq_len")


@dataclass(frozen=True)
class Context:
    """Positions of a model."""

    length: int | None
    """None where nothing states any"""
    learned: bool
    """a hard limit: there is no embedding for the position after the last"""
    moving: bool = False
    """a hard limit too: beyond it the rotary frequencies are those of the longest text of a pass, so that what a text
    gives would depend on its company (dynamic NTK, LongRoPE)"""
    first: int = 0
    """what the model counts the first token as: RoBERTa's kin begin behind the padding's row of their table"""

    @property
    def window(self) -> int:
        """A length to cut texts to."""
        return self.length or DEFAULT

    @property
    def limit(self) -> int:
        """How many positions may be used; practically without end where nothing states any."""
        return self.length or 1 << 20


def context_of(model: Model) -> Context:
    """Rows of the table of learned positions less its offset, else what the configuration states.

    >>> from babelscope import load_model
    >>> load_model("pocket:pocket-bloom-s").context.learned
    False
    """
    for name, module in model.trunk_module.named_modules():
        if name.rpartition(".")[2] in _TABLES and isinstance(module, nn.Embedding):
            first = 0 if module.padding_idx is None or hasattr(module, "offset") else module.padding_idx + 1
            return Context(module.num_embeddings - int(getattr(module, "offset", first)), True, first=first)
    if getattr(model.config, "alibi", False) or "alibi" in str(getattr(model.config, "position_embedding_type", "")):
        return Context(None, False)
    known = [getattr(model.config, name, None) for name in _NAMES]
    moving = list(_moving(getattr(model.config, "rope_parameters", None)))
    if moving:
        known += [getattr(model.config, _ORIGINAL, None), *(one.get(_ORIGINAL) for one in moving)]
    length = min((one for one in known if isinstance(one, int) and one > 1), default=None)
    return Context(length, False, bool(moving))


_ORIGINAL = "original_max_position_embeddings"


def _moving(settings: object) -> Iterator[dict[str, object]]:
    """The settings of rotary embeddings whose frequencies follow the length of a pass, also by kind of layer."""
    if not isinstance(settings, dict):
        return
    if settings.get("rope_type", settings.get("type")) in ("dynamic", "longrope"):
        yield settings
    for inner in settings.values():
        yield from _moving(inner)
