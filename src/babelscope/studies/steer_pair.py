"""One pair of languages: choose layer and strength on some documents, report on others, with controls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypedDict

import numpy as np

from babelscope.corpora import ParallelCorpus
from babelscope.errors import InputError
from babelscope.models import Model
from babelscope.models.chat import measured_part, prompt_ids
from babelscope.models.decoding import Decoding, decode, written_text
from babelscope.models.rows import RowEdit
from babelscope.results.schemas.steering import (
    Answer,
    Continuation,
    Damage,
    Directed,
    Fidelity,
    Front,
    Judged,
    Steered,
    SteeringControl,
)
from babelscope.steering.confusion import Judge
from babelscope.steering.controls import (
    NEURONS,
    PROMPTED,
    RANDOM,
    RANDOM_COV,
    SHUFFLED,
    STEERED,
    THIRD,
    UNSTEERED,
    generator_of,
)  # fmt: skip
from babelscope.steering.directions import METHODS, intersection_layer, separation_layer
from babelscope.steering.fitted import EVERY_LAYER, Fitted, How, Setting
from babelscope.steering.inference import (
    LIMITS,
    Scores,
    best_within,
    document_interval,
    front_shares,
    harmonic,
    on_front,
    p_of_draws,
    paired_interval,
)  # fmt: skip
from babelscope.steering.losses import TextLoss, continuation, damage, fidelity, retrieval_gains, rises, text_losses
from babelscope.steering.writing import judged, written_means
from babelscope.studies.steer_settings import SteerSettings

NAN = float("nan")


@dataclass(frozen=True)
class Asked:
    """Prompts in one language, each with its document."""

    ids: Sequence[Sequence[int]]
    texts: Sequence[str]
    documents: Sequence[str]

    def names(self, source: str) -> list[str]:
        return [f"{source}/{name}/{text}" for name, text in zip(self.documents, self.texts)]


@dataclass
class PairTables:
    """Rows of every table that a pair leaves."""

    steering: list[Steered] = field(default_factory=list[Steered])
    answers: list[Answer] = field(default_factory=list[Answer])
    damage: list[Damage] = field(default_factory=list[Damage])
    fidelity: list[Fidelity] = field(default_factory=list[Fidelity])
    controls: list[SteeringControl] = field(default_factory=list[SteeringControl])
    front: list[Front] = field(default_factory=list[Front])
    continuation: list[Continuation] = field(default_factory=list[Continuation])
    directions: list[Directed] = field(default_factory=list[Directed])


class Pair:
    """The work on one pair; `choose` and `report` fill its tables."""

    def __init__(
        self, model: Model, fitted: Fitted, settings: SteerSettings, judge: Judge, source: str, target: str
    ) -> None:
        self.model, self.fitted, self.settings, self.judge = model, fitted, settings, judge
        self.source, self.target = source, target
        self.tables = PairTables()
        self.head: _Head = {"source": source, "target": target}

    # -- settings ------------------------------------------------------------------------------------------------

    def grid(self, method: str) -> list[Setting]:
        """All settings of a method."""
        alphas = [alpha for alpha in self.settings.alpha if alpha or self.settings.edit == "move"]
        if not alphas:
            raise InputError("--alpha: adding 0 times a vector is no steering")
        return [
            Setting(self.source, self.target, method, layer, alpha)
            for layer in self._layers(method)
            for alpha in alphas
        ]  # fmt: skip

    def _layers(self, method: str) -> list[int]:
        rule, moments = self.settings.layer, self.fitted.moments
        if method not in METHODS or rule == "all":
            return [EVERY_LAYER]
        if rule == "sweep":
            # an edit of the embeddings is one of words, and behind the last block one of logits
            return list(range(1, self.model.layers))
        if rule == "intersection":
            return [intersection_layer(moments)]
        if rule == "separation":
            return [separation_layer(moments, self.source, self.target)]
        return [int(rule)]

    # -- choosing ------------------------------------------------------------------------------------------------

    def choose(self, method: str, asked: Asked, texts: Sequence[str], plain: TextLoss) -> list[tuple[Setting, str]]:
        """Settings to report with why: the best success at ΔNLL up to each limit; the study's own limit comes first."""
        grid = self.grid(method)
        edits = [self.fitted.edit(setting) for setting in grid]
        found = self.answers(asked, edits)
        changed = text_losses(self.model, [texts] * len(edits), edits)
        success = [_scores(rows, asked).mean() for rows in found]
        harm = [damage(loss, plain).value for loss in changed]
        self._front(grid, found, asked, changed, plain, success, harm)
        chosen: dict[Setting, list[str]] = {}
        for limit in dict.fromkeys((self.settings.limit, *LIMITS)):
            place = best_within(success, harm, limit)
            if place is not None:
                chosen.setdefault(grid[place], []).append(f"{limit:g}")
        if not any(f"{self.settings.limit:g}" in limits for limits in chosen.values()):
            # nothing stays within the limit: the least damaging is reported, and says so
            least = int(np.argmin(harm))
            chosen = {grid[least]: ["least damage"], **chosen}
        return [(setting, ", ".join(limits)) for setting, limits in chosen.items()]

    def _front(
        self, grid: Sequence[Setting], found: Sequence[Sequence[Judged]], asked: Asked, changed: Sequence[TextLoss],
        plain: TextLoss, success: Sequence[float], harm: Sequence[float],
    ) -> None:  # fmt: skip
        documents = list(dict.fromkeys(asked.documents))
        table = np.full((len(grid), len(documents)), np.nan)
        for row, answers in enumerate(found):
            for place, name in enumerate(documents):
                known = [one.success for one, own in zip(answers, asked.documents) if own == name]
                known = [value for value in known if value == value]
                table[row, place] = sum(known) / len(known) if known else np.nan
        each = np.stack([rises(loss, plain) / plain.counts for loss in changed])
        shares = front_shares(table, each, seed=self.settings.seed, sizes=plain.counts)
        on = on_front(success, harm)
        for place, setting in enumerate(grid):
            self.tables.front.append(Front(
                **self.head, **_of(setting), success=success[place], delta_nll=harm[place], front=bool(on[place]),
                front_share=float(shares[place]), n=len(asked.ids), documents=len(documents),
                written=written_means(found[place]),
            ))  # fmt: skip

    # -- reporting -----------------------------------------------------------------------------------------------

    def baselines(self, asked: Asked, told: Asked) -> list[Judged]:
        """Answers without steering, and of the model that is told which language to use."""
        [plain] = self.answers(asked, [None])
        [prompted] = self.answers(told, [None])
        self.plain_scores, self.prompted_scores = _scores(plain, asked), _scores(prompted, told)
        for name, rows, prompts in ((UNSTEERED, plain, asked), (PROMPTED, prompted, told)):
            self._keep_answers(name, -1, None, rows, prompts)
            self.tables.steering.append(self._row(name, None, "", rows, prompts, -1))
        return plain

    def report(self, setting: Setting, why: str, asked: Asked, plain: Sequence[Judged], full: bool) -> None:
        """Success of a setting on the report documents; `full`: with all controls and p."""
        conditions: list[tuple[str, int, RowEdit | None]] = [(STEERED, -1, self.fitted.edit(setting))]
        if full:
            conditions += self._control_edits(setting)
        found = self.answers(asked, [edit for _, _, edit in conditions])
        steered = _scores(found[0], asked)
        over = paired_interval(steered, self.plain_scores)
        row = replace(
            self._row(STEERED, setting, why, found[0], asked, -1),
            minus_unsteered=over.value, minus_unsteered_low=over.low, minus_unsteered_high=over.high,
        )  # fmt: skip
        self._keep_answers(STEERED, -1, setting, found[0], asked)
        draws: dict[str, list[Scores]] = {}
        for (name, draw, _), rows in list(zip(conditions, found))[1:]:
            scores = _scores(rows, asked)
            kind = name if name in _RANDOM else THIRD
            draws.setdefault(kind, []).append(scores)
            self.tables.controls.append(SteeringControl(
                **self.head, **_of(setting), control=kind, language="" if kind == name else name, draw=draw,
                success=scores.mean(), written=written_means(rows),
            ))  # fmt: skip
            self._keep_answers(kind, draw, setting, rows, asked)
        for kind, several in draws.items():
            pooled = Scores([v for one in several for v in one.values], [d for one in several for d in one.documents])
            row = replace(row, **{_FIELDS[kind]: pooled.mean()})
            if kind in (RANDOM, NEURONS):
                over = paired_interval(steered, pooled)
                row = replace(
                    row, p=p_of_draws(steered.mean(), [one.mean() for one in several]), draws=len(several),
                    minus_random=over.value, minus_random_low=over.low, minus_random_high=over.high,
                )  # fmt: skip
        self.tables.steering.append(row)
        self._fidelity(setting, found[0], plain, asked)

    def _control_edits(self, setting: Setting) -> list[tuple[str, int, RowEdit | None]]:
        names = (RANDOM, RANDOM_COV, SHUFFLED) if setting.method in METHODS else (NEURONS,)
        wanted = [(name, draw) for name in names for draw in range(self.settings.controls)]
        if setting.method in METHODS:
            others = [code for code in self.fitted.moments.languages if code not in (self.source, self.target)]
            order = generator_of("third", self.settings.seed, self.source, self.target).permutation(others)
            wanted += [(str(code), 0) for code in order[: self.settings.third]]
        return [(name, draw, self.fitted.control(setting, name, draw)) for name, draw in wanted]

    def _fidelity(self, setting: Setting, found: Sequence[Judged], plain: Sequence[Judged], asked: Asked) -> None:
        usable = [one.all_target for one in found]
        gains = retrieval_gains(
            self.model, [one.text if use else "" for one, use in zip(plain, usable)], [one.text for one in found],
            seed=self.settings.seed,
        )  # fmt: skip
        kept = fidelity(gains, asked.documents, self.reference, self.told_documents)
        success = _scores(found, asked).mean()
        self.tables.fidelity.append(Fidelity(
            **self.head, **_of(setting), kept=kept, success=success, harmonic=harmonic(success, kept.value)
        ))  # fmt: skip

    def continue_text(self, setting: Setting | None, corpus: ParallelCorpus, count: int) -> None:
        """Whether the model, steered or not, still finds which translation comes next (table `continuation`)."""
        contexts, following = next_translations(corpus, self.source, self.target, count)
        edit = None if setting is None else self.fitted.edit(setting)
        found = continuation(self.model, contexts, following, edit, seed=self.settings.seed)
        condition = UNSTEERED if setting is None else STEERED
        self.tables.continuation.append(Continuation(**self.head, condition=condition, found=found, **_of(setting)))

    def measure_reference(self, corpus: ParallelCorpus, count: int) -> None:
        """r*: what a translation tells about a held-out sentence."""
        said, told = corpus.texts[self.source][:count], corpus.texts[self.target][:count]
        self.told_documents = [corpus.groups.get(one, one) for one in corpus.ids[:count]]
        self.reference = retrieval_gains(self.model, said, told, seed=self.settings.seed)

    def report_damage(
        self, setting: Setting, texts: Mapping[str, Sequence[str]], plain: Mapping[str, TextLoss], controls: int = 1
    ) -> None:
        """ΔNLL of held-out text of the target, the source and others under a setting; of the target under controls."""
        edits: list[tuple[str, RowEdit | None]] = [(STEERED, self.fitted.edit(setting))]
        control = RANDOM if setting.method in METHODS else NEURONS
        edits += [(control, self.fitted.control(setting, control, draw)) for draw in range(controls)]
        jobs = [(name, code, edit) for name, edit in edits for code in texts if name == STEERED or code == self.target]
        found = text_losses(self.model, [texts[code] for _, code, _ in jobs], [edit for _, _, edit in jobs])
        for (name, code, _), loss in zip(jobs, found):
            rise = damage(loss, plain[code])
            self.tables.damage.append(Damage(
                **self.head, **_of(setting), condition=name, language=code,
                role={self.target: "target", self.source: "source"}.get(code, "third"), delta_nll=rise.value,
                delta_nll_low=rise.low, delta_nll_high=rise.high, interval=rise.method, why=rise.why,
                nll=loss.nll, delta_bits_per_byte=loss.bits_per_byte - plain[code].bits_per_byte,
                documents=len(texts[code]),
            ))  # fmt: skip

    # -- shared --------------------------------------------------------------------------------------------------
    def answers(self, asked: Asked, edits: Sequence[RowEdit | None]) -> list[list[Judged]]:
        """What the model writes under each edit, judged."""
        written = decode(
            self.model, asked.ids, decoding_of(self.settings), edits, asked.names(self.source), progress=self.progress
        )
        return [
            [
                judged(
                    self.judge, measured_part(written_text(self.model, prompt, one.ids)), self.target, self.source,
                    one.ids, one.reason,
                )
                for prompt, one in zip(asked.ids, row)
            ]
            for row in written
        ]  # fmt: skip

    progress: Callable[[int], None] | None = None

    def _row(
        self, name: str, setting: Setting | None, why: str, rows: Sequence[Judged], asked: Asked, draw: int
    ) -> Steered:
        from babelscope.steering.edits import strength

        share = document_interval(_scores(rows, asked))
        row = Steered(
            **self.head, condition=name, chosen_at=why, success=share.value, success_low=share.low,
            success_high=share.high, interval=share.method, why=share.why, written=written_means(rows), n=len(rows),
            documents=len(set(asked.documents)), draw=draw, **_of(setting),
        )  # fmt: skip
        if setting is None or setting.method not in METHODS or setting.layer == EVERY_LAYER:
            return row
        [one] = self.fitted.directions(setting)
        size = strength(one, setting.alpha, self.settings.unit)
        return replace(row, strength_gap=size.gap, strength_absolute=size.absolute, strength_norm=size.norm)

    def describe(self, method: str) -> None:
        """Rows of the table `directions`."""
        if method not in METHODS:
            return
        for layer in range(self.model.layers):
            [one] = self.fitted.directions(Setting(self.source, self.target, method, layer, 1.0))
            self.tables.directions.append(Directed(
                **self.head, method=method, layer=layer, gap=one.gap, norm=one.norm, at_source=one.at_source,
                at_target=one.at_target,
            ))  # fmt: skip

    def _keep_answers(
        self, name: str, draw: int, setting: Setting | None, rows: Sequence[Judged], asked: Asked
    ) -> None:
        self.tables.answers += [
            Answer(
                **self.head, condition=name, draw=draw, document=document, prompt=prompt, judged=one, **_of(setting)
            )
            for one, document, prompt in zip(rows, asked.documents, asked.texts)
        ]  # fmt: skip


def next_translations(corpus: ParallelCorpus, source: str, target: str, count: int) -> tuple[list[str], list[str]]:
    """Sentences in the source, and the target's translation of what follows each in its document.

    Where a sentence is a document of its own, its translation is what follows it.
    """
    said, told = corpus.texts[source], corpus.texts[target]
    groups = [corpus.groups.get(one, one) for one in corpus.ids]
    pairs = [(place, place + 1) for place in range(len(groups) - 1) if groups[place] == groups[place + 1]]
    pairs = pairs or [(place, place) for place in range(len(groups))]
    chosen = pairs[:count]
    return [said[first] for first, _ in chosen], [told[second] for _, second in chosen]


_RANDOM = (RANDOM, RANDOM_COV, SHUFFLED, NEURONS)
_FIELDS = {
    RANDOM: "random", RANDOM_COV: "random_cov", SHUFFLED: "shuffled", NEURONS: "random_neurons", THIRD: "third",
}  # fmt: skip
"""where a row of the table `steering` has the success of each kind of control"""


class _Head(TypedDict):
    source: str
    target: str


class _Place(TypedDict):
    method: str
    layer: float
    alpha: float


def _scores(rows: Sequence[Judged], asked: Asked) -> Scores:
    return Scores([one.success for one in rows], list(asked.documents))


def _of(setting: Setting | None) -> _Place:
    if setting is None:
        return {"method": "", "layer": NAN, "alpha": NAN}
    return {"method": setting.method, "layer": setting.layer, "alpha": setting.alpha}


def asked_of(
    model: Model, texts: Sequence[str], documents: Sequence[str], settings: SteerSettings, plain: bool
) -> Asked:
    """Prompts as token ids: sentences to go on from as they are, requests in the chat template."""
    made = prompt_ids(model, list(texts), "off" if plain else settings.chat, None if plain else settings.system)
    return Asked(made.ids, list(texts), list(documents))


def told_of(asked: Asked, name: str, model: Model, settings: SteerSettings, plain: bool) -> Asked:
    """The same prompts with a request for the language."""
    texts = [f"Answer in {name}. {text}" for text in asked.texts]
    return replace(asked_of(model, texts, asked.documents, settings, plain), texts=list(asked.texts))


def decoding_of(settings: SteerSettings) -> Decoding:
    """How answers are written."""
    return Decoding(
        settings.tokens, settings.temperature, settings.top_p, settings.seed, settings.fixed, settings.batch
    )  # fmt: skip


def how_of(settings: SteerSettings) -> How:
    """What all edits of a study have in common."""
    return How(
        settings.edit, settings.keep, settings.unit, settings.where, settings.first, settings.beta,
        settings.arithmetic, settings.seed,
    )  # fmt: skip
