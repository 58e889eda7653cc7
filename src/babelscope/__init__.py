"""babelscope: see how a language model holds many languages.

The public names are imported when first used, so that `import babelscope` is quick and loads no torch.

>>> import babelscope
>>> babelscope.load_model("pocket:pocket-bloom-s").layers
4
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from babelscope._version import __version__

if TYPE_CHECKING:
    from babelscope.corpora import ParallelCorpus, TextCollection, audit, load_corpus, load_texts
    from babelscope.errors import BabelscopeError
    from babelscope.languages import Language, language
    from babelscope.models import Model, Site, capture, edit, load_model, resume, run_checks
    from babelscope.regions import (
        Recording,
        RegionSet,
        deactivate,
        deactivation_table,
        load_regions,
        record,
        save_regions,
    )
    from babelscope.results import Run, open_run
    from babelscope.studies.regions import RegionsSettings, study_regions

_HOMES = {
    "BabelscopeError": "errors",
    "Language": "languages",
    "Model": "models",
    "ParallelCorpus": "corpora",
    "Recording": "regions",
    "RegionSet": "regions",
    "RegionsSettings": "studies.regions",
    "Run": "results",
    "Site": "models",
    "TextCollection": "corpora",
    "audit": "corpora",
    "capture": "models",
    "deactivate": "regions",
    "deactivation_table": "regions",
    "edit": "models",
    "language": "languages",
    "load_corpus": "corpora",
    "load_model": "models",
    "load_regions": "regions",
    "load_texts": "corpora",
    "open_run": "results",
    "record": "regions",
    "resume": "models",
    "run_checks": "models",
    "save_regions": "regions",
    "study_regions": "studies.regions",
}

__all__ = [
    "BabelscopeError",
    "Language",
    "Model",
    "ParallelCorpus",
    "Recording",
    "RegionSet",
    "RegionsSettings",
    "Run",
    "Site",
    "TextCollection",
    "__version__",
    "audit",
    "capture",
    "deactivate",
    "deactivation_table",
    "edit",
    "language",
    "load_corpus",
    "load_model",
    "load_regions",
    "load_texts",
    "open_run",
    "record",
    "resume",
    "run_checks",
    "save_regions",
    "study_regions",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'babelscope' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"babelscope.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
