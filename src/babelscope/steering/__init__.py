"""Steering the language in which a model writes, and measuring what it costs; language confusion."""

from babelscope.steering.confusion import OfflineRule, PublishedRule, rates
from babelscope.steering.directions import Direction, direction, intersection_layer, separation_layer
from babelscope.steering.edits import arithmetic_changes, direction_edit, region_edit
from babelscope.steering.files import SavedEdit, load_edit, save_edit
from babelscope.steering.fitted import Fitted, How, Setting, fit_neurons
from babelscope.steering.losses import damage, fidelity, text_loss
from babelscope.steering.moments import Moments, collect

__all__ = [
    "Direction",
    "Fitted",
    "How",
    "Moments",
    "OfflineRule",
    "PublishedRule",
    "SavedEdit",
    "Setting",
    "arithmetic_changes",
    "collect",
    "damage",
    "direction",
    "direction_edit",
    "fidelity",
    "fit_neurons",
    "intersection_layer",
    "load_edit",
    "rates",
    "region_edit",
    "save_edit",
    "separation_layer",
    "text_loss",
]
