"""Alignment on the residual stream and on routers, by the metrics that neurons are measured by."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from babelscope.corpora import ParallelCorpus
from babelscope.errors import InputError
from babelscope.models import Model
from babelscope.regions.alignment import alignment
from babelscope.regions.recording import Recording
from babelscope.regions.residual import MEASURES, record_residual, shuffled
from babelscope.regions.routed import Routing
from babelscope.regions.routing import routing_recording
from babelscope.results.rows import write_rows
from babelscope.results.schemas.latent import RouterAlignment
from babelscope.studies.latent_tables import alignment_frame
from babelscope.studies.progress import Progress
from babelscope.studies.steps import Sink
from babelscope.terms import SpecialTokens

SHUFFLES = 5


def write_alignment_sites(
    run: Sink,
    model: Model,
    recording: Recording,
    corpus: ParallelCorpus,
    sites: Sequence[str],
    seed: int,
    progress: Progress,
    special: SpecialTokens,
) -> None:
    """Tables `alignment_residual` and `alignment_router`, those that are asked for, with what shuffled sentences give.

    Raises InputError for the routers of a model that has none.
    """
    if "residual" in sites:
        with progress("residuals", len(corpus) * len(corpus.languages), "sentences") as step:
            pooled = record_residual(model, corpus, special=special, progress=step)
        run.table("alignment_residual", alignment_frame(pooled, seed))
    if "router" in sites:
        if recording.routing is None:
            raise InputError(f"--alignment-sites router: {model.id} is no mixture of experts; it has no routers")
        write_rows(run, RouterAlignment, _router_rows(recording.routing, seed))


def _router_rows(routing: Routing, seed: int) -> list[RouterAlignment]:
    """Every metric on centred routing probabilities, by layer with a router and pair of languages."""
    routed = routing_recording(routing)
    nulls = [alignment(shuffled(routed, seed + draw), MEASURES) for draw in range(SHUFFLES)]
    rows: list[RouterAlignment] = []
    for place, one in enumerate(alignment(routed, MEASURES)):
        null = torch.stack([drawn[place].values for drawn in nulls]).mean(0)
        rows += [
            RouterAlignment(
                metric=one.metric, layer=routing.layers[routing.measured[layer]],
                language=routed.languages[first], other=code, value=float(one.values[layer, first, second]),
                value_low=float(one.low[layer, first, second]), value_high=float(one.high[layer, first, second]),
                shuffled=float(null[layer, first, second]), n=len(routed.ids),
            )
            for layer in range(routed.layers)
            for second, code in enumerate(routed.languages)
            for first in range(second)
        ]  # fmt: skip
    return rows
