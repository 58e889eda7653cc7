"""LAPE and means of a mixture's neurons over the tokens that were routed to their expert, not over all.

L language · D neuron · M layer that is a mixture · E expert
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from babelscope.errors import InputError
from babelscope.regions.lape import lape
from babelscope.regions.recording import Recording

LEAST_TOKENS = 100
"""tokens of every language that an expert must have been given for its activation probabilities to be known"""


def routed_tokens(recording: Recording) -> Float[Tensor, "L D"]:
    """c: tokens of each language that could reach a neuron: those routed to its expert, or all where none chooses.

    Raises InputError for a recording without routing.
    """
    routing = recording.routing
    if routing is None:
        raise InputError("tokens routed to an expert need a recording of a mixture of experts")
    totals = recording.tokens.sum(1).double()
    reach = totals[:, None].expand(-1, recording.neurons).clone()
    counts = routing.routed_tokens()
    for place, layer in enumerate(routing.layers):
        units = routing.units[place]
        own = counts[:, place, : routing.routed_experts[place]].repeat_interleave(units, dim=1)
        start = recording.layout.offsets[layer]
        reach[:, start : start + own.shape[1]] = own
    return reach


def routed_means(recording: Recording) -> Float[Tensor, "L D"]:
    """m_all · T / c: the mean of each neuron over the tokens routed to its expert; NaN where there are none."""
    weights = recording.tokens.double()
    weights = weights / weights.sum(1, keepdim=True)
    means = torch.cat(
        [torch.einsum("lnc,ln->lc", recording.stored(block).double(), weights) for block in recording.chunks()], dim=1
    )
    reach = routed_tokens(recording)
    return means * recording.tokens.sum(1, keepdim=True) / torch.where(reach > 0, reach, torch.nan)


def routed_activity(recording: Recording, least: int = LEAST_TOKENS) -> tuple[Float[Tensor, "L D"], Bool[Tensor, " D"]]:
    """Share of the tokens routed to a neuron's expert at which it is above zero, and the neurons for which it is known.

    Left out are those whose expert was given fewer than `least` tokens in some language. Raises InputError without
    recorded activity.
    """
    if recording.activity is None:
        raise InputError("activity over routed tokens needs record(..., activity=True)")
    reach = routed_tokens(recording)
    known = (reach >= least).all(0)
    shares = recording.activity.double() * recording.tokens.sum(1, keepdim=True) / reach.clamp_min(1)
    return shares.masked_fill(~known, 0).float(), known


def routed_lape(
    recording: Recording, share: float = 0.01, quantile: float = 0.95, least: int = LEAST_TOKENS
) -> tuple[Float[Tensor, "L D"], Bool[Tensor, "L D"]]:
    """`lape` of the probabilities over routed tokens, among the neurons for which these are known."""
    activity, known = routed_activity(recording, least)
    scores, members = torch.zeros_like(activity, dtype=torch.float64), torch.zeros_like(activity, dtype=torch.bool)
    if bool(known.any()):
        scores[:, known], members[:, known] = lape(activity[:, known], share, quantile)
    return scores, members
