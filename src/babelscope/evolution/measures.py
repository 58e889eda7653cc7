"""What can be measured at a point: each measure owns its settings, says what it reads and costs, and leaves its result.

A new measure is one class and a line of `measures_of` here, and its settings in `plan.settings_of_measures`.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

from babelscope.errors import NonFinite
from babelscope.results.checksums import file_hash

if TYPE_CHECKING:
    import pandas as pd

    from babelscope.corpora import ParallelCorpus, TextCollection
    from babelscope.evaluation import ClozeStory
    from babelscope.models import Model
    from babelscope.results import Run, RunWriter
    from babelscope.studies.circuit_settings import CircuitsSettings
    from babelscope.studies.latent_settings import LatentSettings
    from babelscope.studies.plan import PlannedStep
    from babelscope.studies.regions import RegionsSettings
    from babelscope.studies.rehearsal import Clock

CLOZE_TABLE = "cloze"
R = TypeVar("R")
_PLACES = ("corpus", "texts", "words", "parallel", "text")
"""settings that say where text lies: what it says counts, and is hashed by itself"""


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


class Measure(Protocol[R]):
    """One study at every point, with its settings."""

    name: ClassVar[str]

    def contents(self) -> dict[str, object]:
        """Hashes of the text that it reads, by a name of their own."""
        ...

    def decided(self) -> object:
        """What else its numbers depend on: every setting, the defaults filled in."""
        ...

    def planned(self, model: Model, clock: Clock) -> Sequence[PlannedStep]:
        """What it costs with this model, step by step; nothing is written."""
        ...

    def measured(self, model: Model, label: str, scratch: Path) -> R:
        """What is found at the point of that label; files go into `scratch`."""
        ...

    def leave(self, found: R, run: RunWriter) -> None:
        """Puts what was found into the point's run."""
        ...


@dataclass(frozen=True)
class RegionsMeasure:
    """Regions, with alignment and perplexity where they were asked for: the run that the others are added to."""

    settings: RegionsSettings
    name: ClassVar[str] = "regions"

    def contents(self) -> dict[str, object]:
        """Hashes of what is read: the sampled sentences, the texts, the stories, and the files of edits."""
        from babelscope.evaluation.items import stories_hash

        sample = corpus_of(self.settings.corpus, self.settings.languages).sample(
            self.settings.samples, self.settings.seed
        )
        found: dict[str, object] = {"corpus": sample.hash}
        if self.settings.texts:
            texts = texts_of(self.settings.texts, sample.languages)
            found["texts"] = {code: text.hash for code, text in texts.items()}
        if self.settings.stories:
            found["alignment_stories"] = stories_hash(stories_of(self.settings.stories, sample.languages))
        if self.settings.edits:
            found["edits"] = [file_hash(path) for path in self.settings.edits]
        return found

    def decided(self) -> object:
        """Every setting, the defaults filled in; where text lies does not count, what it says does."""
        return {name: value for name, value in asdict(self.settings).items() if name not in _PLACES}

    def planned(self, model: Model, clock: Clock) -> Sequence[PlannedStep]:
        """What it costs with this model, step by step."""
        from babelscope.studies.plan import plan_steps
        from babelscope.studies.region_plan import regions_probe
        from babelscope.studies.regions import regions_study

        study = regions_study(model, self.settings, *self._text())
        return plan_steps(study.steps, regions_probe(study, clock)).steps

    def measured(self, model: Model, label: str, scratch: Path) -> Run:
        """The study's run; raises NonFinite where a headline number of the point `label` is not a number."""
        from babelscope.studies.regions import study_regions

        corpus, texts = self._text()
        run = study_regions(model, self.settings, scratch, corpus=corpus, texts=texts, kept="off")
        for name in ("lrds", "sads"):
            value = run.summary.get(name)
            if not isinstance(value, int | float) or not math.isfinite(value):
                raise NonFinite(f"{name.upper()} of {label} is not a number")
        return run

    def leave(self, found: Run, run: RunWriter) -> None:
        """Puts the study's files and manifest into the point's run."""
        for name in found.files():
            if name not in ("run.json", "checksums.json"):
                shutil.copyfile(found.path / name, run.file(name))
        took = found.manifest.get("wall_time_s")
        run.manifest.update({name: value for name, value in found.manifest.items() if name != "wall_time_s"})
        run.manifest["summary"] = {**found.summary, "regions_wall_time_s": took}

    def _text(self) -> tuple[ParallelCorpus, dict[str, TextCollection] | None]:
        corpus = corpus_of(self.settings.corpus, self.settings.languages)
        return corpus, texts_of(self.settings.texts, corpus.languages) if self.settings.texts else None


@dataclass(frozen=True)
class ClozeMeasure:
    """Story cloze: which of two endings the model finds likelier, as the table `cloze`."""

    stories: str
    languages: tuple[str, ...] | None = None
    name: ClassVar[str] = "story_cloze"

    def contents(self) -> dict[str, object]:
        """The hash of the stories."""
        from babelscope.evaluation.items import stories_hash

        return {"stories": stories_hash(stories_of(self.stories, self.languages))}

    def decided(self) -> object:
        """Nothing but the stories, which are hashed by themselves."""
        return True

    def planned(self, model: Model, clock: Clock) -> Sequence[PlannedStep]:
        """What it costs with this model: four stories are rehearsed."""
        from babelscope.evaluation import evaluate_cloze
        from babelscope.studies.rehearsal import planned, spent

        stories = stories_of(self.stories, self.languages)
        most = max(map(len, stories.values()))
        few = {code: own[: min(4, len(own))] for code, own in stories.items()}
        _, cost = spent(model, lambda: evaluate_cloze(model, few), clock)
        return planned({"story cloze": (cost * (most / min(4, most)), "")}).steps

    def measured(self, model: Model, label: str, scratch: Path) -> pd.DataFrame:
        """Accuracy by language."""
        from babelscope.evaluation import evaluate_cloze

        return evaluate_cloze(model, stories_of(self.stories, self.languages))

    def leave(self, found: pd.DataFrame, run: RunWriter) -> None:
        """Puts the table and its accuracies into the point's run."""
        run.table(CLOZE_TABLE, found)
        run.manifest["summary"][self.name] = found.set_index("language").accuracy.to_dict()


@dataclass(frozen=True)
class CircuitsMeasure:
    """Circuits, as a run of its own in `circuits/`."""

    settings: CircuitsSettings
    name: ClassVar[str] = "circuits"

    def contents(self) -> dict[str, object]:
        """Hashes of the files that prompts are read from; most tasks make theirs."""
        place = self.settings.task.partition(":")[2].removeprefix("mib:")
        if not place:
            return {}
        return {self.name: {code: file_hash(place.replace("{language}", code)) for code in self.settings.languages}}

    def decided(self) -> object:
        """Every setting, the defaults filled in."""
        return {one.name: getattr(self.settings, one.name) for one in fields(self.settings)}

    def planned(self, model: Model, clock: Clock) -> Sequence[PlannedStep]:
        """What it costs with this model, part by part."""
        from babelscope.studies.circuit_plan import plan_circuits

        return plan_circuits(model, self.settings, clock=clock).steps

    def measured(self, model: Model, label: str, scratch: Path) -> Run:
        """The study's run."""
        from babelscope.studies.circuits import study_circuits

        return study_circuits(model, self.settings, scratch)

    def leave(self, found: Run, run: RunWriter) -> None:
        """Puts the run into a folder of the point's."""
        _inside(found, run, self.name)


@dataclass(frozen=True)
class LatentMeasure:
    """The language the model thinks in, as a run of its own in `latent/`."""

    settings: LatentSettings
    name: ClassVar[str] = "latent"

    def contents(self) -> dict[str, object]:
        """Hashes of the words, sentences and running text that are read."""
        from babelscope.studies.latent_texts import chosen_words

        words = chosen_words(self.settings)
        found: dict[str, object] = {"words": words.hash}
        if self.settings.parallel:
            found["parallel"] = corpus_of(self.settings.parallel, None).hash
        if self.settings.text and "tuned" in self.settings.lens:
            texts = texts_of(self.settings.text, tuple(words.languages))
            found["text"] = {code: text.hash for code, text in texts.items()}
        files = {"tuned": self.settings.tuned, "counts": self.settings.counts}
        found |= {name: file_hash(str(path)) for name, path in files.items() if path is not None}
        return {self.name: found}

    def decided(self) -> object:
        """Every setting, the defaults filled in; where text lies does not count, what it says does."""
        return {name: value for name, value in asdict(self.settings).items() if name not in _PLACES}

    def planned(self, model: Model, clock: Clock) -> Sequence[PlannedStep]:
        """What it costs with this model, part by part."""
        from babelscope.studies.latent_plan import plan_latent

        return plan_latent(model, self.settings, clock=clock).steps

    def measured(self, model: Model, label: str, scratch: Path) -> Run:
        """The study's run."""
        from babelscope.studies.latent import study_latent

        return study_latent(model, self.settings, scratch)

    def leave(self, found: Run, run: RunWriter) -> None:
        """Puts the run into a folder of the point's."""
        _inside(found, run, self.name)


def measures_of(
    asked: Mapping[str, Mapping[str, Any]], corpus: str | None, languages: tuple[str, ...] | None
) -> Iterator[Measure[Any]]:
    """The measures of a point, with checked settings; the plan's languages where a measure names none."""
    from babelscope.studies.circuit_settings import CircuitsSettings
    from babelscope.studies.latent_settings import LatentSettings
    from babelscope.studies.regions import RegionsSettings

    of_regions = [asked[name] for name in ("regions", "alignment", "perplexity") if name in asked]
    if of_regions:
        given: dict[str, Any] = {"corpus": corpus, "languages": languages}
        for settings in of_regions:
            given |= settings
        if "alignment" in asked:
            given["alignment"] = True
        yield RegionsMeasure(RegionsSettings(**given))
    if (cloze := asked.get("story_cloze")) is not None:
        yield ClozeMeasure(cloze["stories"], cloze.get("languages") or languages)
    common: dict[str, Any] = {} if languages is None else {"languages": languages}
    if (circuits := asked.get("circuits")) is not None:
        yield CircuitsMeasure(CircuitsSettings(**{**common, **circuits}))
    if (latent := asked.get("latent")) is not None:
        given = {"from_" if name == "from" else name: value for name, value in latent.items()}
        yield LatentMeasure(LatentSettings(**{**common, **given}))


def _inside(found: Run, run: RunWriter, name: str) -> None:
    """A whole run in a folder of another, its summary under that name."""
    shutil.copytree(found.path, run.file(f"{name}/run.json").parent, dirs_exist_ok=True)
    run.manifest["summary"][name] = found.summary
