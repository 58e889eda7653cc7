"""The plan of a study, whichever it is."""

from __future__ import annotations

from babelscope.corpora import ParallelCorpus, load_corpus
from babelscope.models import Model
from babelscope.studies.circuit_plan import plan_circuits
from babelscope.studies.circuit_settings import CircuitsSettings
from babelscope.studies.plan import StudyPlan, plan_steps, probe
from babelscope.studies.regions import RegionsSettings, regions_study


def plan(model: Model, settings: RegionsSettings | CircuitsSettings, corpus: ParallelCorpus | None = None) -> StudyPlan:
    """What a study of these settings will cost on this machine, by step; nothing is written.

    `corpus` takes the place of the settings' specification when already loaded. Raises what the study itself would
    raise before it measures.

    >>> print(plan(model, CircuitsSettings(n=50)).table())                                 # doctest: +SKIP
    >>> plan(model, CircuitsSettings(n=50)).seconds                                        # doctest: +SKIP
    412.7
    """
    if isinstance(settings, CircuitsSettings):
        return plan_circuits(model, settings)
    parallel = corpus if corpus is not None else load_corpus(settings.corpus, settings.languages)
    return plan_steps(regions_study(model, settings, parallel).steps, probe(model))
