"""When does the answer appear? Logit lens of target against foil before and after each FFN (section 6).

L layer · P pair
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray

from babelscope.circuits.core import logit_diff
from babelscope.circuits.core.batching import batches
from babelscope.circuits.core.cache import run
from babelscope.circuits.core.nodes import check_model
from babelscope.models.batches import token_budget

if TYPE_CHECKING:
    from babelscope.models import Model
    from babelscope.tasks import PromptPair

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Lens:
    """LD of target against foil (past against base) read off the stream by the final norm and the unembedding."""

    before: Float[Array, "L P"]
    """before the layer's FFN has written; NaN where a layer has none"""
    after: Float[Array, "L P"]
    """after it has; the last layer's is the model's own LD"""


@torch.no_grad()
def logit_lens(model: Model, pairs: Sequence[PromptPair], which: str = "clean") -> Lens:
    """The lens before and after every FFN. Raises UnsupportedModel where writes do not add up.

    >>> lens = logit_lens(model, prompts)                                                # doctest: +SKIP
    >>> (lens.after - lens.before).mean(1)     # what each FFN adds to past over base    # doctest: +SKIP
    """
    check_model(model)
    norm = model.norm("final")
    before, after = np.full((2, model.layers, len(pairs)), np.nan)
    before[list(model.neuron_layers)] = after[list(model.neuron_layers)] = 0
    for rows in batches(pairs, token_budget(model.device), model.device):
        seen = run(model, getattr(rows, which))
        for layer in model.neuron_layers:
            stream = seen.residual[layer + 1][:, rows.length - rows.answer :]
            written = seen.mlp[layer][:, rows.length - rows.answer :]
            for place, value in ((before, stream - written), (after, stream)):
                normed = norm(value) if norm else value
                scores = logit_diff.scores(model, rows, normed[None])[0].cpu().double().numpy()
                np.add.at(place[layer], list(rows.index), scores)
    return Lens(before, after)
