"""The plan of a study, whichever it is."""

from __future__ import annotations

from babelscope.corpora import ParallelCorpus, load_corpus
from babelscope.models import Model
from babelscope.studies.circuit_plan import plan_circuits
from babelscope.studies.circuit_settings import CircuitsSettings
from babelscope.studies.latent_plan import plan_latent
from babelscope.studies.latent_settings import LatentSettings
from babelscope.studies.plan import StudyPlan
from babelscope.studies.region_plan import plan_regions
from babelscope.studies.regions import RegionsSettings, regions_study
from babelscope.studies.steer_plan import plan_steering
from babelscope.studies.steer_settings import SteerSettings


def plan(
    model: Model,
    settings: RegionsSettings | CircuitsSettings | LatentSettings | SteerSettings,
    corpus: ParallelCorpus | None = None,
) -> StudyPlan:
    """What a study of these settings will cost on this machine, by step; nothing is written.

    `corpus` takes the place of the settings' specification when already loaded. Raises what the study itself would
    raise before it measures.

    >>> print(plan(model, CircuitsSettings(n=50)).table())                                 # doctest: +SKIP
    >>> plan(model, CircuitsSettings(n=50)).seconds                                        # doctest: +SKIP
    412.7
    """
    if isinstance(settings, CircuitsSettings):
        return plan_circuits(model, settings)
    if isinstance(settings, LatentSettings):
        return plan_latent(model, settings, corpus)
    if isinstance(settings, SteerSettings):
        return plan_steering(model, settings, corpus)
    parallel = corpus if corpus is not None else load_corpus(settings.corpus, settings.languages)
    return plan_regions(regions_study(model, settings, parallel))
