"""How long a text may be: positions that were learned end where their table ends; others end where training did."""

from __future__ import annotations

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
            offset = getattr(module, "offset", None)
            if offset is None:
                # RoBERTa's kin begin counting after the padding's row
                offset = 0 if module.padding_idx is None else module.padding_idx + 1
            return Context(module.num_embeddings - int(offset), True)
    if getattr(model.config, "alibi", False) or "alibi" in str(getattr(model.config, "position_embedding_type", "")):
        return Context(None, False)
    known = [getattr(model.config, name, None) for name in _NAMES]
    return Context(min((length for length in known if isinstance(length, int) and length > 1), default=None), False)
