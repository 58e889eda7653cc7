"""Figures of runs: a specification once, drawn by matplotlib for papers and by plotly for pages."""

from __future__ import annotations

from babelscope.figures import (
    circuit_tokens,
    circuits,
    deactivation,
    evaluation,
    heads,
    latent,
    latent_highest,
    patching,
    regions,
    routing,
    steering,
    sweep,
)
from babelscope.figures.paper import draw, printed, save_figure
from babelscope.figures.published import Published, published, published_for
from babelscope.figures.register import FIGURES, Drawing, figure, figure_names, holds, specify
from babelscope.figures.spec import Figure

__all__ = [
    "FIGURES", "Drawing", "Figure", "Published", "draw", "figure", "figure_names", "holds", "printed", "published",
    "published_for", "save_figure", "specify",
]  # fmt: skip

FAMILIES = (
    circuit_tokens,
    circuits,
    deactivation,
    evaluation,
    heads,
    latent,
    latent_highest,
    patching,
    regions,
    routing,
    steering,
    sweep,
)
"""modules whose figures are registered by being imported"""
