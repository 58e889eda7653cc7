"""The sections of a regions run: what switching off does, similarity, alignment, regions and calibration."""

from __future__ import annotations

from babelscope.report.blocks import Block, Section, Table, gather
from babelscope.report.charts import chart, table
from babelscope.report.similarity import similarity
from babelscope.results import Run
from babelscope.results.rows import has_column

_METHODS = table(
    "methods",
    "Regions by other methods",
    "Sizes of the regions that other methods of localisation find on the same recording.",
)
_AGREEMENT = table(
    "agreement",
    "Agreement",
    "How far the methods agree: of regions by their overlap (Jaccard) and by the rank correlation of their scores.",
)
_ALIGNMENT_NEURONS = table(
    "alignment_neurons",
    "Without the alignment neurons",
    "What becomes of alignment and loss when the neurons that carry most of SADS are switched off, against random "
    "neurons of the same layers.",
)
_SHARES = table(
    "generation_shares",
    "Languages of the continuations",
    "Which language the continuations are in, with each region switched off, and how often their text is broken.",
)
_STEERING = table(
    "steering",
    "Steering",
    "How often prompts of one language are continued in another when the regions of both are treated, with 95 % "
    "intervals; random regions of the same size stand for chance.",
)

_ROUTED = table(
    "routing_deactivation",
    "Experts switched off",
    "What becomes of the loss of each language when the experts of one language are switched off, beside random "
    "experts.",
)
_SIMILAR = table(
    "routing_similarity",
    "Routing as an activation",
    "LRDS and SADS of routing weights, whole model and by layer, with intervals and what permuted labels (LRDS) and "
    "permuted sentences (SADS) give.",
)


def regions_sections(run: Run) -> list[Section]:
    """Those sections that the run holds anything of."""
    sections = [
        Section(
            "What switching off does",
            gather(run, chart("perplexity_heatmap"), chart("selectivity"), chart("dose"), _ALIGNMENT_NEURONS,
                   ("Generations", _generations), _SHARES, _STEERING),
        ),
        Section("Similarity", gather(run, ("Similarity map", similarity), chart("language_pairs"))),
        Section("Alignment by layer", gather(run, chart("layer_curves"), chart("alignment_curves"))),
        Section("Experts", gather(run, chart("routing_by_layer"), _ROUTED, _SIMILAR)),
        Section(
            "Regions",
            gather(run, chart("region_sizes"), chart("regions_by_layer"), chart("calibration"), chart("stability"),
                   _METHODS, _AGREEMENT),
        ),
    ]  # fmt: skip
    return [section for section in sections if section.blocks]


def _generations(run: Run) -> Block | None:
    if "generations" not in run.tables:
        return None
    frame = run.table("generations")
    caption = (
        f"What the model writes with nothing and with one region switched off ({len(frame)} continuations, at most 300 "
        "shown). “Read as”: the language that an identifier reads in the continuation; “broken letters”: share of "
        "letters that are broken UTF-8."
    )
    if has_column(run, "generations", "draw") and bool((frame["draw"] < 0).all()):
        frame = frame.drop(columns="draw")
    return Table("generations", "Generations", caption, frame, text_columns=("prompt", "continuation"), most=300)
