"""Hooks on an unmodified Hugging Face model: load, read, edit, resume, and the suite that says whether to trust it."""

from babelscope.models.batches import Batch, over_batches, token_budget
from babelscope.models.conformance import Check, run_checks
from babelscope.models.families import Family
from babelscope.models.gate import require
from babelscope.models.hooks import Site, capture, edit, resume
from babelscope.models.known import ROWS
from babelscope.models.loading import LoadOptions, load_model
from babelscope.models.model import Model
from babelscope.models.registry import register_family, unregister_family

__all__ = [
    "ROWS",
    "Batch",
    "Check",
    "Family",
    "LoadOptions",
    "Model",
    "Site",
    "capture",
    "edit",
    "load_model",
    "over_batches",
    "register_family",
    "require",
    "resume",
    "run_checks",
    "token_budget",
    "unregister_family",
]
