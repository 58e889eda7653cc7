"""What the explorer looks at: one model, perhaps a run, parallel text, and what was measured on them so far.

L language · n sentence · P layer · N neurons of a layer
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from babelscope.app.work import Work
from babelscope.errors import BabelscopeError, InputError, ModelError, RunError
from babelscope.models import Model, load_model
from babelscope.models.neuron_layout import NeuronLayout
from babelscope.regions import localisation, masks
from babelscope.regions.recording import Recording, Span, record
from babelscope.regions.sinks import SINK_SHARE, normalised
from babelscope.results import Run, is_run, open_run

if TYPE_CHECKING:
    from babelscope.corpora import ParallelCorpus

POCKET_TEXT = "pocket:heldout?n=200"
"""parallel text for the built-in models, when no other is named"""


@dataclass(frozen=True)
class Loading:
    """How models are loaded."""

    revision: str | None = None
    dtype: str = "auto"
    device: str | None = None


@dataclass(frozen=True)
class Scores:
    """What each neuron does for each language."""

    languages: tuple[str, ...]
    score: Float[Tensor, "L P N"]
    """share of the similarity within the language (eq. 11)"""
    z: Float[Tensor, "L P N"]
    """standard score across languages (eq. 12–14)"""
    source: str
    """where the numbers come from"""
    layout: NeuronLayout
    effect: Float[Tensor, "L P N"] | None = None
    """difference to the other languages in standard deviations (regions by contrast); None where it is not known"""

    @property
    def ranking(self) -> tuple[str, Float[Tensor, "L P N"]]:
        """What neurons are ranked by, with its name: the effect that the run's regions rest on, else z."""
        return ("z", self.z) if self.effect is None else ("effect", self.effect)


@dataclass
class Session:
    """A model with what belongs to it; `lock` is held during every call, so that calls never mix."""

    model: Model | None = None
    run: Run | None = None
    corpus_spec: str | None = None
    codes: tuple[str, ...] | None = None
    samples: int = 100
    threshold: float = 2.0
    note: str = ""
    """what the user must know: why the run's model is not there, say"""
    lock: threading.RLock = field(default_factory=threading.RLock, repr=False)

    @cached_property
    def corpus(self) -> ParallelCorpus | None:
        """The sample of parallel text, or None where none is named; a run's own sentences where its text is at hand."""
        from babelscope.corpora import load_corpus

        if self.corpus_spec is None:
            return None
        known: dict[str, Any] = (self.run.manifest.get("corpus") or {}) if self.run else {}
        same = known.get("spec") == self.corpus_spec
        whole = load_corpus(self.corpus_spec, self.codes or (self.languages if same else None))
        wanted = [str(id) for id in known.get("sentence_ids", ())]
        if wanted and same and set(wanted) <= set(whole.ids):
            return whole.select(wanted[: self.samples])
        return whole.sample(min(self.samples, len(whole)), seed=0)

    @property
    def languages(self) -> tuple[str, ...]:
        """Languages that regions and scores are about."""
        if self.run is not None and self.run.languages:
            return tuple(self.run.languages)
        return self.corpus.languages if self.corpus is not None else ()

    def need_model(self) -> Model:
        """The model; raises InputError where only a run is open."""
        if self.model is None:
            raise InputError(f"no model is loaded: {self.note or 'open a model or a run of one model'}")
        return self.model

    def need_corpus(self) -> ParallelCorpus:
        """The parallel text; raises InputError that says how to name one."""
        if self.corpus is None:
            raise InputError("no parallel text is named: start with --corpus, such as --corpus bible:FOLDER")
        return self.corpus

    def recording(self, work: Work) -> Recording:
        """Mean activations of the parallel text, made once, over the tokens and under the norm of the run's own."""
        known: Recording | None = self.__dict__.get("_recording")
        if known is None:
            model, corpus = self.need_model(), self.need_corpus()
            with work.stage("reading the parallel text", len(corpus) * len(corpus.languages), "sentences") as step:
                asked = self._asked
                span = Span(asked.get("first", "keep"), asked.get("tokens", "all"))
                raw = record(model, corpus, asked.get("special", "none"), progress=step, span=span)
                known = normalised(raw, asked.get("norm", "robust"), asked.get("sink_share", SINK_SHARE))[0]
            self.__dict__["_recording"] = known
        return known

    @property
    def _asked(self) -> dict[str, Any]:
        """Settings of the run that is looked at, where it is one of regions."""
        return self.run.manifest.get("asked") or {} if self.run is not None and self.run.kind == "regions" else {}

    def scores(self, work: Work) -> Scores:
        """Scores of all neurons: those of the run, or measured now on the parallel text."""
        known: Scores | None = self.__dict__.get("_scores")
        if known is None:
            known = self._run_scores() or self._own_scores(work)
            self.__dict__["_scores"] = known
        return known

    def regions(self, work: Work) -> masks.RegionSet:
        """Regions of all languages: those of the run, or found now.

        With fewer than six languages z > 2 is out of reach; then the threshold is nine tenths of what is attainable.
        """
        known: masks.RegionSet | None = self.__dict__.get("_regions")
        if known is None:
            known = self._run_regions() or self._own_regions(work)
            self.__dict__["_regions"] = known
        return known

    def region_sets(self) -> dict[str, masks.RegionSet]:
        """Regions by every method of the run, or those that were found here: method → regions."""
        known: dict[str, masks.RegionSet] | None = self.__dict__.get("_region_sets")
        if known is None and self.run is not None and self.run.kind == "regions":
            files = sorted(name for name in self.run.files() if name.startswith("regions/"))
            sets = [masks.load_regions(self.run.file(name)) for name in files if name.endswith(".safetensors")]
            known = self.__dict__["_region_sets"] = {one.method: one for one in sets}
        found = self.known_regions
        return known or ({found.method: found} if found is not None else {})

    @property
    def known_regions(self) -> masks.RegionSet | None:
        """Regions, where they are known without measuring anything."""
        if "_regions" not in self.__dict__ and (stored := self._run_regions()) is not None:
            self.__dict__["_regions"] = stored
        return self.__dict__.get("_regions")

    def replace(self, other: Session) -> None:
        """Look at something else from now on."""
        for name in (
            "corpus",
            "_recording",
            "_scores",
            "_regions",
            "_region_sets",
            "_losses",
            "_moments",
            "_ioi",
            "_pairs",
        ):
            self.__dict__.pop(name, None)
        for name in ("model", "run", "corpus_spec", "codes", "note"):
            setattr(self, name, getattr(other, name))

    def _run_scores(self) -> Scores | None:
        if self.run is None or self.run.kind != "regions":
            return None
        arrays = self.run.arrays()
        if not {"score", "z"} <= set(arrays.data_vars):
            return None
        score, z = (
            torch.from_numpy(arrays[name].transpose("language", "layer", "neuron").to_numpy()).double()
            for name in ("score", "z")
        )
        # a layer has no neuron where there is no score
        layout = NeuronLayout(tuple((~score[0].isnan()).sum(1).tolist()))
        if bool(z.isnan().all()):  # a run of few languages leaves z out, for no threshold fits it
            z = localisation.standard_scores(score)
        effect = None
        if "d" in arrays and self.run.summary.get("method") == "contrast":
            effect = torch.from_numpy(arrays["d"].transpose("language", "layer", "neuron").to_numpy()).double()
        languages = tuple(str(code) for code in arrays["language"].values)
        return Scores(languages, score, z, "the run", layout, effect)

    def _own_scores(self, work: Work) -> Scores:
        recording = self.recording(work)
        if len(recording.languages) < 2:
            raise InputError("scores compare languages: name parallel text in at least two")
        scores = localisation.within_language_scores(localisation.within_language_sums(recording))
        z = localisation.standard_scores(scores)
        source, layout = f"{len(recording.ids)} sentences of {self.need_corpus().spec}", recording.layout
        score, z = (layout.by_layer(one, torch.nan) for one in (scores, z))
        return Scores(recording.languages, score, z, source, layout)

    def _run_regions(self) -> masks.RegionSet | None:
        if self.run is None or self.run.kind != "regions":
            return None
        files = sorted(name for name in self.run.files() if name.startswith("regions/"))
        main = f"regions/{self.run.summary.get('method', 'z-score')}.safetensors"
        files.sort(key=lambda name: name != main)
        return masks.load_regions(self.run.file(files[0])) if files else None

    def _own_regions(self, work: Work) -> masks.RegionSet:
        scores = self.scores(work)
        threshold = min(self.threshold, 0.9 * localisation.largest_z(len(scores.languages)))
        return masks.RegionSet(
            {code: z > threshold for code, z in zip(scores.languages, scores.z)},
            "z-score",
            {"threshold": threshold, "source": scores.source},
            widths=scores.layout.widths,
        )


def open_session(
    what: str,
    corpus: str | None = None,
    languages: Sequence[str] | None = None,
    samples: int = 100,
    threshold: float = 2.0,
    loading: Loading | None = None,
    model: str | None = None,
) -> Session:
    """A session about a run directory, or about a model: hub name, folder, `pocket:NAME`.

    A run's model is loaded again by its recorded name (or from `model`) and must have the run's weights; raises
    ModelError that says what to do where it is not there. Raises RunError, CorpusError, InputError for the rest.

    >>> open_session("pocket:pocket-bloom-s").languages                # doctest: +SKIP
    ('en', 'zh', 'fr', 'es', 'pt', 'ar', 'vi', 'hi', 'id')
    """
    if samples < 2:
        raise InputError(f"--samples {samples}: at least two sentences are needed")
    codes = tuple(languages) if languages else None
    loading = loading or Loading()
    if is_run(what) or (Path(what).is_dir() and (Path(what) / "run.json").exists()):
        run = open_run(what)
        loaded = run_model(run, loading, model)
        spec = corpus or _text_of(run)
        found = Session(loaded, run, spec, codes, samples, threshold)
    else:
        _refuse_missing_run(what)
        loaded = load_model(model or what, loading.revision, loading.dtype, loading.device)
        spec = corpus or (POCKET_TEXT if what.startswith("pocket:") else None)
        found = Session(loaded, None, spec, codes, samples, threshold)
    if corpus is not None:
        _ = found.corpus  # a wrong specification is told now, not at the first click
    return found


def _refuse_missing_run(what: str) -> None:
    """Raises RunError for a path that is none where its folder holds runs."""
    place = Path(what)
    if not place.exists() and place.parent != Path() and place.parent.is_dir():
        beside = sorted(one.parent.name for one in place.parent.glob("*/run.json"))
        if beside:
            raise RunError(f"there is no run at {what}; {place.parent} has {', '.join(beside[:8])}")


def open_for_viewing(path: str, loading: Loading, now: Session) -> Session:
    """A session about another run: with the model at hand if it fits, else the run's own, or none and why."""
    if "://" in path:
        raise RunError("the explorer opens runs of this machine only, not URLs")
    run = open_run(path)
    spec = _text_of(run)
    facts: dict[str, object] = _facts(run)
    if now.model is not None and facts.get("weight_hash") == now.model.weight_hash:
        return Session(now.model, run, spec or now.corpus_spec)
    try:
        return Session(run_model(run, loading), run, spec)
    except BabelscopeError as error:
        return Session(None, run, spec, note=str(error))


def run_model(run: Run, loading: Loading, model: str | None = None) -> Model:
    """The model that a run was made with; raises ModelError where it is not there or has other weights."""
    facts = _facts(run)
    name = model or facts.get("id")
    if not name:
        raise ModelError(f"the run {run.source} ({run.kind}) names no single model; open one of its points, or a model")
    dtype = str(facts.get("dtype") or "auto") if loading.dtype == "auto" else loading.dtype
    try:
        loaded = load_model(str(name), loading.revision or facts.get("revision"), dtype, loading.device)
    except ModelError as error:
        hint = "" if model else "; say where it is now with --model"
        raise ModelError(f"the run was made with {name}, which cannot be loaded here{hint}: {error}") from error
    expected = facts.get("weight_hash")
    if expected and dtype == facts.get("dtype") and loaded.weight_hash != expected:
        raise ModelError(f"{name} is not the model of the run {run.source}: its weights are others")
    return loaded


def _facts(run: Run) -> dict[str, Any]:
    known = run.manifest.get("model")
    if isinstance(known, dict):
        return known
    return {"id": known} if isinstance(known, str) else {}


def _text_of(run: Run) -> str | None:
    """The specification of a run's text, where it can be read here (a run travels without) and says what it said."""
    from babelscope.corpora import load_corpus

    known: dict[str, Any] = run.manifest.get("corpus") or {}
    spec, ids = str(known.get("spec") or ""), [str(id) for id in known.get("sentence_ids") or ()]
    if not spec or spec.startswith("hub:"):
        return None
    try:
        whole = load_corpus(spec, run.languages or None)
        same = not ids or whole.select(ids).hash == known.get("hash")
    except BabelscopeError:
        return None
    return spec if same else None
