"""Regions: which neurons serve which language, how translations meet, and what switching neurons off does."""

from babelscope.regions.deactivation import deactivate
from babelscope.regions.localisation import key_regions, standard_scores, within_language_scores, within_language_sums
from babelscope.regions.masks import RegionSet, load_regions, save_regions
from babelscope.regions.recording import Recording, record
from babelscope.regions.similarity import gram, layer_means, pair_means, whole_means
from babelscope.regions.table import deactivation_table

__all__ = [
    "Recording",
    "RegionSet",
    "deactivate",
    "deactivation_table",
    "gram",
    "key_regions",
    "layer_means",
    "load_regions",
    "pair_means",
    "record",
    "save_regions",
    "standard_scores",
    "whole_means",
    "within_language_scores",
    "within_language_sums",
]
