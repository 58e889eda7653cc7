"""Figures for papers, drawn from run directories: a Run goes in, a matplotlib Figure comes out."""

from __future__ import annotations

from babelscope.plots.circuits import (
    ablation_bars,
    behaviour,
    circuit_graph,
    cross_language,
    ffn_curves,
    head_difference,
    head_heatmap,
    head_scatter,
)  # fmt: skip
from babelscope.plots.graph import circuit_edges
from babelscope.plots.latent import (
    latent_alignment,
    latent_controls,
    latent_excess,
    latent_last,
    latent_mass,
    latent_strengths,
    latent_tuned,
    latent_word,
)  # fmt: skip
from babelscope.plots.perplexity import perplexity_heatmap, selectivity
from babelscope.plots.published import Published, published, published_for
from babelscope.plots.regions import (
    alignment_curves,
    calibration,
    language_pairs,
    layer_curves,
    region_sizes,
    regions_by_layer,
    similarity_map,
)  # fmt: skip
from babelscope.plots.steering import (
    confusion_languages,
    steering_front,
    steering_layers,
    steering_pairs,
    steering_strength,
)  # fmt: skip
from babelscope.plots.style import FIGURES, draw, figure_names, save_figure
from babelscope.plots.sweep import layers_over_training, neuron_flow, scale_curves, sizes_over_training, training_curves

__all__ = [
    "FIGURES", "Published", "ablation_bars", "alignment_curves", "behaviour", "calibration",
    "circuit_edges", "circuit_graph", "confusion_languages",
    "cross_language", "draw", "ffn_curves", "figure_names", "head_difference", "head_heatmap", "head_scatter",
    "language_pairs", "latent_alignment", "latent_controls", "latent_excess", "latent_last", "latent_mass",
    "latent_strengths", "latent_tuned", "latent_word", "layer_curves", "layers_over_training", "neuron_flow",
    "perplexity_heatmap",
    "published", "published_for", "region_sizes", "regions_by_layer", "save_figure", "scale_curves", "selectivity",
    "similarity_map", "sizes_over_training", "steering_front", "steering_layers", "steering_pairs", "steering_strength",
    "training_curves",
]  # fmt: skip
