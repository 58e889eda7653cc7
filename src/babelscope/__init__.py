"""babelscope: see how a language model holds many languages.

The public names are imported when first used, so that `import babelscope` is quick and loads no torch.

>>> import babelscope
>>> babelscope.load_model("pocket:pocket-bloom-s").layers
4
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from babelscope._version import __version__

if TYPE_CHECKING:  # what editors and type checkers see; `_HOMES` says the same to Python, and a test compares them
    from babelscope.circuits import activation_patching as activation_patching
    from babelscope.circuits import find_circuit as find_circuit
    from babelscope.circuits import path_patching as path_patching
    from babelscope.corpora import ParallelCorpus as ParallelCorpus
    from babelscope.corpora import TextCollection as TextCollection
    from babelscope.corpora import audit as audit
    from babelscope.corpora import load_corpus as load_corpus
    from babelscope.corpora import load_texts as load_texts
    from babelscope.errors import BabelscopeError as BabelscopeError
    from babelscope.evolution.sweep import run_sweep as run_sweep
    from babelscope.figures import draw as draw
    from babelscope.languages import Language as Language
    from babelscope.languages import language as language
    from babelscope.models import Model as Model
    from babelscope.models import Site as Site
    from babelscope.models import capture as capture
    from babelscope.models import edit as edit
    from babelscope.models import load_model as load_model
    from babelscope.models import resume as resume
    from babelscope.models import run_checks as run_checks
    from babelscope.regions import Recording as Recording
    from babelscope.regions import RegionSet as RegionSet
    from babelscope.regions import deactivate as deactivate
    from babelscope.regions import deactivation_table as deactivation_table
    from babelscope.regions import load_regions as load_regions
    from babelscope.regions import record as record
    from babelscope.regions import save_regions as save_regions
    from babelscope.report import write_report as write_report
    from babelscope.results import Run as Run
    from babelscope.results import open_run as open_run
    from babelscope.steering import load_edit as load_edit
    from babelscope.studies.circuit_settings import CircuitsSettings as CircuitsSettings
    from babelscope.studies.circuits import study_circuits as study_circuits
    from babelscope.studies.latent import study_latent as study_latent
    from babelscope.studies.latent_settings import LatentSettings as LatentSettings
    from babelscope.studies.planning import plan as plan
    from babelscope.studies.regions import RegionsSettings as RegionsSettings
    from babelscope.studies.regions import study_regions as study_regions
    from babelscope.studies.steer import study_steering as study_steering
    from babelscope.studies.steer_settings import SteerSettings as SteerSettings
    from babelscope.tasks import build as build_task  # pyright: ignore[reportUnusedImport]

_HOMES = {
    "babelscope.circuits": ("activation_patching", "find_circuit", "path_patching"),
    "babelscope.corpora": ("ParallelCorpus", "TextCollection", "audit", "load_corpus", "load_texts"),
    "babelscope.errors": ("BabelscopeError",),
    "babelscope.evolution.sweep": ("run_sweep",),
    "babelscope.figures": ("draw",),
    "babelscope.languages": ("Language", "language"),
    "babelscope.models": ("Model", "Site", "capture", "edit", "load_model", "resume", "run_checks"),
    "babelscope.regions": (
        "Recording", "RegionSet", "deactivate", "deactivation_table", "load_regions", "record", "save_regions"
    ),
    "babelscope.report": ("write_report",),
    "babelscope.results": ("Run", "open_run"),
    "babelscope.steering": ("load_edit",),
    "babelscope.studies.circuit_settings": ("CircuitsSettings",),
    "babelscope.studies.circuits": ("study_circuits",),
    "babelscope.studies.latent": ("study_latent",),
    "babelscope.studies.latent_settings": ("LatentSettings",),
    "babelscope.studies.planning": ("plan",),
    "babelscope.studies.regions": ("RegionsSettings", "study_regions"),
    "babelscope.studies.steer": ("study_steering",),
    "babelscope.studies.steer_settings": ("SteerSettings",),
    "babelscope.tasks": ("build_task",),
}  # fmt: skip
"""module → its names that are public here"""
_OTHER_NAMES = {"build_task": "build"}
"""public name → what its module calls it"""

__all__ = sorted(["__version__", *(name for names in _HOMES.values() for name in names)])  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> object:
    home = next((module for module, names in _HOMES.items() if name in names), None)
    if home is None:
        from babelscope.wording import nearest

        raise AttributeError(f"babelscope has no {name!r}; {nearest(name, __all__)}")
    from importlib import import_module

    return getattr(import_module(home), _OTHER_NAMES.get(name, name))


def __dir__() -> list[str]:
    return list(__all__)
