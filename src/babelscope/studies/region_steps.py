"""A regions study as a list of steps, to be read from top to bottom: what is measured, from what, at what cost."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import torch
from torch import Tensor

from babelscope.corpora import ParallelCorpus
from babelscope.evaluation.items import load_stories, stories_hash
from babelscope.models import Model
from babelscope.models.batches import token_budget
from babelscope.regions.expert_deactivation import WAYS
from babelscope.regions.masks import RegionSet
from babelscope.regions.perplexity import Windows
from babelscope.regions.recording import Recording, Span, record
from babelscope.regions.relevance import relevances, selective
from babelscope.regions.rounds import first_ending
from babelscope.regions.table import DeactivationTable, deactivation_table
from babelscope.results.checksums import file_hash
from babelscope.results.manifest import run_key
from babelscope.results.rows import write_rows
from babelscope.results.schemas.regions import EditedText
from babelscope.stats import MOST_GROUPS
from babelscope.studies import calibration, probes
from babelscope.studies.alignment_sites import write_alignment_sites
from babelscope.studies.edited_text import edited_text
from babelscope.studies.region_scores import score_regions
from babelscope.studies.region_settings import (
    Alignment,
    Calibration,
    Deactivation,
    Dosing,
    Generation,
    Localisation,
    Recorded,
    RegionsSettings,
)
from babelscope.studies.routing import write_routing
from babelscope.studies.steps import AnyStep, Cost, Given, Step, Tables

IN_MEMORY = 1 << 30
"""bytes of mean activations above which a recording lies in a file"""
# multiply-adds for each of the L · n · D values of a recording; the last two guessed, not measured
SCORING, RESAMPLING, PERMUTING, ALIGNING = 150, 0.6, 3.0, 60
LEFT_OUT, RAREFIED = 16, 600
"""the same for each of L · D values and pair of groups that are left out in turn, and of the rarefied recording"""
INTERVAL = 12_000
"""the same for each document of a text and condition: 1000 draws of the bootstrap"""
UNDER_EDIT = "text under an edit"
"""kind of passes that score text while neurons are switched off, timed before a plan"""


class RegionsStudy:
    """The steps of one study of one model; `steps` are those that the settings ask for, in order."""

    def __init__(
        self, model: Model, settings: RegionsSettings, corpus: ParallelCorpus, windows: Mapping[str, Windows]
    ) -> None:
        self.model, self.settings, self.corpus, self.windows = model, settings, corpus, windows
        asked = settings

        # mean activation of every neuron in every sentence
        self.recording = Step(
            "recording",
            asked.part(Recorded),
            self._record,
            inputs={"corpus": corpus.hash, "activity": str(self.activity)},
            cost=lambda _: Cost(
                tokens=self.tokens,
                passes=-(-self.tokens // token_budget(model.device)),
                peak_bytes=min(self.values * 4, IN_MEMORY),
                disk_bytes=self.values * 4,
                cheaper="--samples",
            ),
        )
        # scores, regions and headline numbers of that recording; cheaper to make again than to keep
        self.regions = Step(
            "regions",
            asked.part(Localisation),
            lambda _, given: score_regions(model, given[self.recording], self.sample(given), asked),
            needs=(self.recording,),
            inputs={"fdr": repr(asked.fdr)},
            cost=lambda _: Cost(elements=self._scored, peak_bytes=2 * self.values * 8, cheaper="--samples"),
            kept=False,
        )
        # what switching each region off does to each language
        self.table = Step(
            "deactivation table",
            asked.part(Deactivation),
            self._deactivate,
            needs=(self.regions,),
            inputs=self.texts,
            cost=self._switching_off,
        )
        # what saved edits of steering do to each language
        self.edited = Step(
            "text under edits",
            asked.part(Deactivation),
            self._edited,
            needs=(),
            inputs={**self.texts, **{f"edit {place}": file_hash(path) for place, path in enumerate(asked.edits)}},
            cost=lambda own: self._scoring(1 + len(own.edits) * (1 + own.controls), "--text-tokens, --controls"),
        )
        # the same regions in resampled documents and in halves
        self.steadiness = Step(
            "stability",
            asked.part(Localisation),
            lambda _, given: calibration.steadiness(given[self.regions], asked),
            needs=(self.regions,),
            cost=lambda own: Cost(
                elements=int(RESAMPLING * min(own.bootstrap, calibration.RESAMPLES) * self.values),
                cheaper="--bootstrap",
            ),
        )
        # what chance alone gives: languages permuted within documents
        self.null = Step(
            "permutations",
            asked.part(Calibration),
            lambda own, given: calibration.null_of(
                given[self.regions].recording, own.permutations, asked, given.progress, model.device
            ),
            needs=(self.regions,),
            cost=lambda own: Cost(
                elements=int(PERMUTING * own.permutations * self.values),
                disk_bytes=8 * self.languages * model.neurons,
                cheaper="--permutations",
            ),
        )
        # regions by further methods
        self.methods = Step(
            "methods",
            asked.part(Calibration),
            self._methods,
            needs=(self.regions, *([self.null] if asked.permutations else [])),
            inputs=self.texts if "relevance" in asked.methods else {},
            cost=lambda own: Cost(elements=20 * len(own.methods) * self.values),
            kept=False,
        )
        # what the routers of a mixture of experts do with each language
        self.routing = Step(
            "routing",
            asked.part(Recorded),
            self._routing,
            needs=(self.recording,),
            inputs={**self.texts, "asked": run_key({"permutations": asked.permutations, "controls": asked.controls})},
            cost=lambda own: self._scoring(self.languages * (len(WAYS) + asked.controls), "--text-tokens, --controls"),
        )
        # how translations meet, by every metric, beside matched negatives
        self.alignment = Step(
            "alignment",
            asked.part(Alignment),
            self._alignment,
            needs=(self.recording, self.regions),
            cost=lambda _: Cost(elements=ALIGNING * self.values, cheaper="without --alignment"),
        )
        # the same on the residual stream and on routers
        self.sites = Step(
            "alignment on other sites",
            asked.part(Alignment),
            self._sites,
            needs=(self.recording, self.regions),
            cost=lambda own: Cost(
                tokens=self.tokens * ("residual" in own.alignment_sites), elements=ALIGNING * self.values
            ),
        )
        self.alignment_neurons = Step(
            "alignment neurons",
            asked.part(Alignment),
            self._alignment_neurons,
            needs=(self.recording, self.regions),
            inputs={**self.texts, "controls": str(asked.controls), **self._stories},
            cost=lambda own: self._realigning(len(own.alignment_neurons)),
        )
        # more and more of a region, by every kind of treatment
        self.doses = Step(
            "doses",
            asked.part(Dosing),
            self._doses,
            needs=(self.regions, self.methods),
            inputs={**self.texts, "controls": str(asked.controls)},
            cost=lambda own: self._scoring(
                1 + len(own.doses) * len(own.kinds) * self.languages * (1 + min(1, asked.controls)) * self._ranked,
                "--doses, --kinds, --text-tokens",
            ),
        )
        # what the model writes with and without a region
        self.writing = Step(
            "writing",
            asked.part(Generation),
            self._writing,
            needs=(self.recording, self.regions),
            inputs={"controls": str(asked.controls)},
            cost=self._generating,
        )

    @property
    def steps(self) -> list[AnyStep]:
        """Those that the settings ask for."""
        asked = self.settings
        every: list[tuple[AnyStep, object]] = [
            (self.recording, True),
            (self.regions, True),
            (self.table, self.windows),
            (self.edited, asked.edits),
            (self.steadiness, True),
            (self.null, asked.permutations),
            (self.methods, True),
            (self.routing, self.model.mixtures and asked.site == "neurons"),
            (self.alignment, asked.alignment),
            (self.sites, asked.alignment_sites),
            (self.alignment_neurons, asked.alignment_neurons),
            (self.doses, asked.doses),
            (self.writing, asked.generate),
        ]
        return [step for step, wanted in every if wanted]

    @property
    def inputs(self) -> dict[str, str]:
        """What every number depends on."""
        model = self.model
        return {
            "model": model.function_hash,
            "tokenizer": model.tokenizer_hash,
            "dtype": str(model.dtype),
            "device": str(model.device),
            "seed": str(self.settings.seed),
        }

    @property
    def activity(self) -> bool:
        """Whether a method asks how often a neuron is above zero."""
        return bool({"lape", "lape-routed"} & set(self.settings.methods))

    def sample(self, given: Given) -> ParallelCorpus:
        """The sentences that were recorded: one with a single token may have been left out."""
        return self.corpus.select(given[self.recording].ids)

    def _record(self, own: Recorded, given: Given) -> Recording:
        count = len(self.corpus) * self.languages
        store = given.folder / "means.npy" if self.values * 4 > IN_MEMORY else None
        with given.progress("recording", count, "sentences") as step:
            return record(
                self.model, self.corpus, own.special, self.activity, store=store, progress=step,
                span=Span(own.first, own.tokens, own.weighted, own.site),
            )  # fmt: skip

    def _deactivate(self, own: Deactivation, given: Given) -> DeactivationTable:
        regions = given[self.regions].main
        passes = 1 + len(regions.masks) + 2 * own.controls
        tokens = passes * sum(text.ids.numel() for text in self.windows.values())
        with given.progress("deactivation table", tokens, "tokens") as step:
            return deactivation_table(
                self.model, self.windows, regions, own.controls, self.settings.seed, progress=step, fixed=own.fixed
            )

    def _methods(self, own: Calibration, given: Given) -> dict[str, RegionSet]:
        found = given[self.regions]
        scores: Tensor | None = None
        if "relevance" in own.methods:
            by_language = selective(relevances(self.model, self.windows))
            scores = torch.stack([self.model.layout.in_a_row(by_language[code]) for code in found.recording.languages])
        return calibration.method_sets(found, given[self.null] if own.permutations else None, self.settings, scores)

    def _edited(self, own: Deactivation, given: Given) -> Tables:
        into = Tables()
        with given.progress("text under edits", len(own.edits), "files") as step:
            rows = edited_text(self.model, self.windows, own.edits, own.controls, self.settings.seed, step)
        write_rows(into, EditedText, rows)
        return into

    def _routing(self, _own: object, given: Given) -> Tables:
        into = Tables()
        told = write_routing(into, self.model, given[self.recording], self.windows, self.settings)
        into.summary.update(told)
        return into

    def _alignment(self, _own: Alignment, given: Given) -> Tables:
        into = Tables()
        into.summary["matched_negatives"] = probes.write_alignment(
            into, self.model, given[self.regions].recording, self.sample(given)
        )
        return into

    def _sites(self, own: Alignment, given: Given) -> Tables:
        into = Tables()
        write_alignment_sites(
            into,
            self.model,
            given[self.recording],
            self.sample(given),
            own.alignment_sites,
            self.settings.seed,
            given.progress,
            self.settings.special,
        )
        return into

    def _alignment_neurons(self, _own: Alignment, given: Given) -> Tables:
        into, recording = Tables(), given[self.regions].recording
        probes.write_alignment_neurons(into, self.model, self.sample(given), recording, self.windows, self.settings)
        return into

    def _doses(self, _own: Dosing, given: Given) -> Tables:
        into, recording = Tables(), given[self.regions].recording
        probes.write_doses(
            into, self.model, recording, given[self.methods], self.windows, self.settings, given.progress
        )
        return into

    def _writing(self, _own: Generation, given: Given) -> Tables:
        into, found = Tables(), given[self.regions]
        probes.write_generations(
            into, self.model, found.recording, found.main, self.sample(given), self.settings, given.progress
        )
        return into

    # -- sizes, for the plan -------------------------------------------------------------------------------------------

    @property
    def languages(self) -> int:
        return len(self.corpus.languages)

    @cached_property
    def tokens(self) -> int:
        """Tokens of the sample in all languages."""
        return sum(len(ids) for code in self.corpus.languages for ids in self.model.tokenize(self.corpus.texts[code]))

    @property
    def values(self) -> int:
        """Numbers of a recording: L · n · D."""
        residual = self.model.width * (self.model.layers + 1)
        places = residual if self.settings.site == "residual" else self.model.neurons
        return self.languages * len(self.corpus) * places

    @cached_property
    def texts(self) -> dict[str, str]:
        """Hash of the text on which perplexity is measured."""
        return {"texts": run_key({code: text.ids.tolist() for code, text in self.windows.items()})}

    @property
    def _stories(self) -> dict[str, str]:
        """Hash of the stories that are told beside the alignment neurons."""
        if self.settings.stories is None:
            return {}
        return {"stories": stories_hash(load_stories(self.settings.stories, list(self.corpus.languages)))}

    @property
    def _ranked(self) -> int:
        return 1 + len(set(self.settings.methods) - {"contrast", "z-score", "random", "random-layer"})

    def _scoring(self, conditions: int, cheaper: str) -> Cost:
        texts, budget = self.windows.values(), token_budget(self.model.device)
        tokens = conditions * sum(text.ids.numel() for text in texts)
        passes = conditions * sum(-(-text.ids.numel() // budget) for text in texts)
        documents = sum(int(text.document.max()) + 1 for text in texts)
        under = Cost(tokens=tokens, passes=passes, kind=UNDER_EDIT)
        return Cost(elements=INTERVAL * conditions * documents, cheaper=cheaper, parts=(under,))

    def _switching_off(self, own: Deactivation) -> Cost:
        sets = self.languages + 2 * own.controls
        if own.fixed:
            return self._scoring(1 + sets, "without --fixed; --text-tokens, --controls")
        # a set is read to the first look that can end its reading, or to the end, as effects turn out
        shares = [(first_ending(text, self.settings.seed) + 1) / 2 for text in self.windows.values()]
        return self._scoring(1 + round(sets * sum(shares) / len(shares)), "--text-tokens, --controls")

    @property
    def _scored(self) -> int:
        n = len(self.corpus)
        groups = min(MOST_GROUPS, len(set(self.corpus.groups.values())) if self.corpus.groups else n)
        each = self.values // n
        return SCORING * self.values + each * (LEFT_OUT * groups**2 + RAREFIED * min(n, self.settings.rarefy))

    def _realigning(self, shares: int) -> Cost:
        conditions = shares * (1 + self.settings.controls)
        scoring = self._scoring(1 + conditions, "--alignment-neurons, --controls")
        return Cost(
            tokens=conditions * self.tokens,
            elements=scoring.elements + conditions * SCORING * self.values,
            cheaper=scoring.cheaper,
            parts=scoring.parts,
        )

    def _generating(self, own: Generation) -> Cost:
        conditions = 1 + self.languages + min(self.settings.controls, 2) if own.generate else 0
        prompts = own.generate * conditions * self.languages
        # a token that is generated costs a pass of its own, in which few rows share the weights
        tokens = prompts * (own.prompt_tokens + 4 * own.generate_tokens)
        return Cost(tokens=tokens, scored=prompts * own.generate_tokens, passes=tokens // 64, cheaper="--generate")
