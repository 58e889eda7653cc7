"""Regions: which neurons serve which language, how translations meet, and what switching neurons off does."""

from babelscope.regions.agreement import agreement_matrix
from babelscope.regions.alignment_neurons import deactivate_alignment
from babelscope.regions.deactivation import deactivate
from babelscope.regions.exchange import export_regions, import_lape, import_regions
from babelscope.regions.generation import continue_prompts, generations
from babelscope.regions.localisation import key_regions, standard_scores, within_language_scores, within_language_sums
from babelscope.regions.masks import RegionSet, load_regions, save_regions
from babelscope.regions.methods import Choices, localise
from babelscope.regions.nulls import label_null, score_null, sentence_null
from babelscope.regions.pseudo_likelihood import PseudoLoss, pseudo_loss
from babelscope.regions.recording import Recording, record
from babelscope.regions.similarity import gram, layer_means, pair_means, whole_means
from babelscope.regions.stability import bootstrap_regions, split_half_regions
from babelscope.regions.table import deactivation_table
from babelscope.regions.treatments import dose_response, treated, treatment

__all__ = [
    "Choices",
    "PseudoLoss",
    "Recording",
    "RegionSet",
    "agreement_matrix",
    "bootstrap_regions",
    "continue_prompts",
    "deactivate",
    "deactivate_alignment",
    "deactivation_table",
    "dose_response",
    "export_regions",
    "generations",
    "gram",
    "import_lape",
    "import_regions",
    "key_regions",
    "label_null",
    "layer_means",
    "load_regions",
    "localise",
    "pair_means",
    "pseudo_loss",
    "record",
    "save_regions",
    "score_null",
    "sentence_null",
    "split_half_regions",
    "standard_scores",
    "treated",
    "treatment",
    "whole_means",
    "within_language_scores",
    "within_language_sums",
]
