"""Everything that a plan measures at one point, into one run directory."""

from __future__ import annotations

import math
import shutil
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from babelscope.errors import NonFinite

if TYPE_CHECKING:
    import pandas as pd

    from babelscope.corpora import ParallelCorpus, TextCollection
    from babelscope.evaluation import ClozeStory
    from babelscope.evolution.types import Place, Point
    from babelscope.models import Model
    from babelscope.results import Run, RunWriter
    from babelscope.studies.circuit_settings import CircuitsSettings
    from babelscope.studies.latent_settings import LatentSettings
    from babelscope.studies.regions import RegionsSettings

CLOZE_TABLE = "cloze"


def circuits_settings(arguments: Any) -> CircuitsSettings:
    """Checked settings of a circuits study."""
    from babelscope.studies.circuit_settings import CircuitsSettings

    return CircuitsSettings(**arguments)


def latent_settings(arguments: Any) -> LatentSettings:
    """Checked settings of a study of latent language; `from` is `from_` in Python."""
    from babelscope.studies.latent_settings import LatentSettings

    return LatentSettings(**{"from_" if name == "from" else name: value for name, value in arguments.items()})


def latent_contents(settings: LatentSettings) -> dict[str, object]:
    """Hashes of the words, sentences and running text that a study of latent language reads."""
    from babelscope.studies.latent import chosen_words

    words = chosen_words(settings)
    found: dict[str, object] = {"words": words.hash}
    if settings.parallel:
        found["parallel"] = corpus_of(settings.parallel, None).hash
    if settings.text and "tuned" in settings.lens:
        found["text"] = {code: text.hash for code, text in texts_of(settings.text, tuple(words.languages)).items()}
    return found


def regions_settings(arguments: Any) -> RegionsSettings:
    """Checked settings of a regions study."""
    from babelscope.studies.regions import RegionsSettings

    return RegionsSettings(**arguments)


@lru_cache(8)
def corpus_of(spec: str, languages: tuple[str, ...] | None) -> ParallelCorpus:
    """A corpus, read once for all points of a process."""
    from babelscope.corpora import load_corpus

    return load_corpus(spec, languages)


@lru_cache(8)
def texts_of(spec: str, languages: tuple[str, ...] | None) -> dict[str, TextCollection]:
    """Texts for perplexity, read once."""
    from babelscope.corpora import load_texts

    return load_texts(spec, languages)


@lru_cache(8)
def stories_of(spec: str, languages: tuple[str, ...] | None) -> dict[str, list[ClozeStory]]:
    """Stories, read once."""
    from babelscope.evaluation import load_stories

    return load_stories(spec, languages)


def compute_point(point: Point, folder: Path, scratch: Path, where: Place) -> Path:
    """Load the weights in `folder`, measure what the point asks for, and write one run below `scratch`.

    The run is a regions run (or one of kind `evaluation`, without regions) with the story cloze as table `cloze`, the
    circuits as a run of its own in `circuits/`, and the latent languages as one in `latent/`. Raises NonFinite when a
    headline number is not a number.
    """
    from babelscope.results import RunWriter

    model = load_point(point, folder, where)
    regions = _regions(model, point, scratch)
    cloze = _cloze(model, point)
    inner = {"circuits": _circuits(model, point, scratch), "latent": _latent(model, point, scratch)}
    target = scratch / "point"
    with RunWriter(target, kind="regions" if regions is not None else "evaluation") as run:
        if regions is not None:
            _take_over(regions, run)
        else:
            run.manifest.update(model=model.facts(), tokenizer_hash=model.tokenizer_hash, summary={"model": model.id})
        if cloze is not None:
            run.table(CLOZE_TABLE, cloze)
            run.manifest["summary"]["story_cloze"] = cloze.set_index("language").accuracy.to_dict()
        for name, found in inner.items():
            if found is not None:
                shutil.copytree(found.path, run.file(f"{name}/run.json").parent, dirs_exist_ok=True)
                run.manifest["summary"][name] = found.summary
        run.manifest["key"] = point.key
        facts = point.facts()
        del facts["source"]  # but for where the weights lay: that says nothing elsewhere
        source = point.source
        run.manifest["point"] = facts | {"weights": source and {"kind": source.kind, "identity": source.identity}}
    return target


def load_point(point: Point, folder: Path, where: Place) -> Model:
    """The model of a point, from the folder that holds its weights."""
    from babelscope.models import load_model

    work = point.work
    model = load_model(
        str(folder),
        dtype=work.dtype,
        device=where.device,
        device_map=where.device_map,
        trust_remote_code=work.trust_remote_code,
        attention=work.attention,
    )
    model.id, model.revision = point.model, point.revision
    return model


def _regions(model: Model, point: Point, scratch: Path) -> Run | None:
    from babelscope.studies.regions import study_regions

    if point.work.regions is None:
        return None
    settings = regions_settings(point.work.regions)
    corpus = corpus_of(settings.corpus, settings.languages)
    texts = texts_of(settings.texts, corpus.languages) if settings.texts else None
    run = study_regions(model, settings, scratch / "regions", corpus=corpus, texts=texts, kept="off")
    for name in ("lrds", "sads"):
        value = run.summary.get(name)
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise NonFinite(f"{name.upper()} of {point.label} is not a number")
    return run


def _cloze(model: Model, point: Point) -> pd.DataFrame | None:
    from babelscope.evaluation import evaluate_cloze

    if point.work.stories is None:
        return None
    return evaluate_cloze(model, stories_of(point.work.stories, point.work.story_languages))


def _circuits(model: Model, point: Point, scratch: Path) -> Run | None:
    from babelscope.studies.circuits import study_circuits

    if point.work.circuits is None:
        return None
    return study_circuits(model, circuits_settings(point.work.circuits), scratch / "circuits")


def _latent(model: Model, point: Point, scratch: Path) -> Run | None:
    from babelscope.studies.latent import study_latent

    if point.work.latent is None:
        return None
    return study_latent(model, latent_settings(point.work.latent), scratch / "latent")


def _take_over(source: Run, run: RunWriter) -> None:
    """The files and the manifest of a run that becomes part of another."""
    for name in source.files():
        if name not in ("run.json", "checksums.json"):
            shutil.copyfile(source.path / name, run.file(name))
    took = source.manifest.get("wall_time_s")
    run.manifest.update({name: value for name, value in source.manifest.items() if name != "wall_time_s"})
    run.manifest["summary"] = {**source.summary, "regions_wall_time_s": took}
