"""Texts that begin alike are read once up to where they part: keys and values of the beginning serve them all.

P beginning · R text · T position · D model width
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from babelscope.models.aside import set_aside
from babelscope.models.batches import collate
from babelscope.models.hooks import hook_count
from babelscope.models.model import Model

_errors: weakref.WeakKeyDictionary[nn.Module, float] = weakref.WeakKeyDictionary()
_REFUSED = (AttributeError, TypeError, ValueError, NotImplementedError, RuntimeError, KeyError, IndexError)
"""what models raise that take no cache, or another kind of it"""


def shares_prefixes(model: Model) -> bool:
    """Whether a text may go on from the keys and values of its beginning: measured once, on random words.

    Never while a hook stands: an edit may look at a text's length, which a beginning does not have.
    """
    if model.encoder or not model.keeps_keys or hook_count(model.hf):
        return False
    if model.hf not in _errors:
        _errors[model.hf] = _error(model)
    return _errors[model.hf] <= (1e-4 if model.dtype.itemsize >= 4 else 0.05)


@torch.inference_mode()
def continued(
    model: Model, beginnings: Int[Tensor, "P T"], rests: Sequence[Sequence[int]], owners: Sequence[int]
) -> Float[Tensor, "R rest D"]:
    """Final hidden states of what follows the beginnings, padded on the right: text r goes on from `owners[r]`."""
    from transformers import DynamicCache

    cache = DynamicCache()
    model.trunk(beginnings, cache=cache)
    cache.batch_select_indices(torch.tensor(owners, dtype=torch.long))
    rest = collate(rests, range(len(rests)), model.device)
    before = torch.ones(len(rests), beginnings.shape[1], dtype=rest.mask.dtype, device=rest.mask.device)
    return model.trunk(rest.ids, torch.cat([before, rest.mask], 1), cache)


@torch.inference_mode()
def _error(model: Model) -> float:
    """Largest difference of hidden states from those of whole texts, relative to the largest; infinite of a refusal."""
    words = torch.randint(0, model.vocabulary, (2, 12), generator=torch.Generator().manual_seed(3)).to(model.device)
    rests, owners = [words[0, 7:].tolist(), words[0, 5:9].tolist(), words[1, 4:12].tolist()], [0, 0, 1]
    errors: list[float] = []
    try:
        with set_aside():
            found = continued(model, words[:, :7], rests, owners)
            for row, (rest, owner) in enumerate(zip(rests, owners)):
                whole = torch.tensor([[*words[owner, :7].tolist(), *rest]], device=words.device)
                alone = model.trunk(whole)[0, 7:]
                errors.append(float((found[row, : len(rest)] - alone).abs().max() / alone.abs().max().clamp_min(1e-6)))
    except _REFUSED:
        return float("inf")
    return max(errors) if all(error == error for error in errors) else float("inf")
