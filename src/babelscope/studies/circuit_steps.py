"""A circuits study as a list of steps, to be read from top to bottom: in every language, then languages together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from babelscope.circuits.core.effects import Effects
from babelscope.circuits.core.metrics import Behaviour, behaviour
from babelscope.circuits.core.nodes import Head, heads_of, mlps_of
from babelscope.circuits.heads.ablation import matched_random, windows
from babelscope.circuits.heads.lens import Lens, logit_lens
from babelscope.circuits.heads.roles import Roles, match_heads, random_twin, role_scores
from babelscope.circuits.patching.methods import activation_patching, path_patching
from babelscope.circuits.patching.search import Search, SearchSettings, find_circuit
from babelscope.models import Model
from babelscope.results.manifest import run_key
from babelscope.studies import circuit_tables as tables
from babelscope.studies.circuit_edges import Edges, EdgeSettings, control_prompts, find_edges
from babelscope.studies.circuit_measures import Measured, Prompts, decomposed, pool_of, repeated
from babelscope.studies.circuit_roles import ALSO, CANDIDATE, role_rows
from babelscope.studies.circuit_settings import (
    Ablated,
    CircuitsSettings,
    Described,
    Edged,
    Matched,
    Searched,
)
from babelscope.studies.circuit_tables import AblationSet
from babelscope.studies.steps import Cost, Given, Results, Step, Tables
from babelscope.tasks import task_named

Array = NDArray[np.float64]
Patched = dict[str, Effects]
"""activation patching at every position (under "") and at the positions of each role"""


class LanguageSteps:
    """What is measured in one language."""

    def __init__(self, model: Model, settings: CircuitsSettings, code: str, prompts: Prompts) -> None:
        self.model, self.settings, self.code, self.prompts = model, settings, code, prompts
        self.task = task_named(settings.task)
        texts = {"prompts": prompts_key(prompts)}
        searched = settings.part(Searched)

        # how well the model does the task
        self.behaviour = Step[None, Behaviour](
            f"{code}: behaviour",
            None,
            lambda _, given: behaviour(model, prompts.everything.pairs),
            inputs=texts,
            cost=lambda _: Cost(tokens=2 * self.tokens, scored=2 * len(prompts.everything), passes=2),
        )
        # what each head and FFN does to the answer, with everything behind it recomputed
        self.activation = Step[None, Patched](
            f"{code}: activation patching",
            None,
            self._activation,
            inputs=texts,
            cost=lambda _: self._patching((1 + len(self._roles)) * ACTIVATION, "--n"),
        )
        # what each of them says to the logits directly
        self.path = Step[Searched, Effects](
            f"{code}: paths to the logits",
            searched,
            self._paths,
            inputs=texts,
            cost=lambda _: self._patching(DIRECT, "--n"),
        )
        # down the circuit, from the logits to what reads the names; each question of it is kept on its own
        self.search = Step[Searched, Search](
            f"{code}: search",
            searched,
            self._search,
            inputs=texts,
            cost=lambda own: self._patching(SEARCH * len(self.task.steps) * (2 if own.null else 1), "--no-null, --n"),
            kept=False,
        )
        # what heads attend to and copy
        self.roles = Step[Described, Roles](
            f"{code}: roles",
            settings.part(Described),
            lambda _, given: role_scores(
                model, prompts.main, *repeated(model, settings, code), settings.seed, self.task.copied_roles
            ),
            inputs=texts,
            cost=lambda _: self._copying(),
        )
        # what the logits would be after each layer
        self.lens = Step[None, Lens](
            f"{code}: logit lens",
            None,
            lambda _, given: logit_lens(model, prompts.main),
            inputs=texts,
            cost=lambda _: Cost(tokens=self.tokens, scored=2 * model.layers * len(prompts.main), passes=1),
        )
        # what each head tells when only one side of its message is corrupted
        self.decomposed = Step[Searched, Patched](
            f"{code}: messages",
            searched,
            lambda own, given: decomposed(model, settings, given[self.search], code, own.mlps),
            needs=(self.search,),
            inputs=texts,
            cost=lambda _: self._patching(2 * SEARCH if self.task.decomposing else 0, "--n"),
        )

    @property
    def steps(self) -> list[Step[Any, Any]]:
        return [self.behaviour, self.activation, self.path, self.search, self.roles, self.lens, self.decomposed]

    def measured(self, given: Given | Results) -> Measured:
        """All results of this language."""
        patched = given[self.activation]
        return Measured(
            behaviour=given[self.behaviour],
            activation=patched[""],
            at_roles={role: effects for role, effects in patched.items() if role},
            path=given[self.path],
            found=given[self.search],
            roles=given[self.roles],
            lens=given[self.lens],
            decomposed=given[self.decomposed],
        )

    @property
    def tokens(self) -> int:
        """Of the prompts that are patched, clean and corrupted."""
        return sum(len(pair.clean) + len(pair.corrupted) for pair in self.prompts.main)

    @property
    def _roles(self) -> list[str]:
        return [role for role in self.task.patched_roles if all(role in pair.roles for pair in self.prompts.main)]

    def _activation(self, _own: None, given: Given) -> Patched:
        pairs, nodes = self.prompts.main, [*heads_of(self.model), *mlps_of(self.model)]
        total = len(pairs) * len(nodes) * (1 + len(self._roles))
        with given.progress(f"{self.code}: activation patching", total, "patches") as step:
            found = {"": activation_patching(self.model, pairs, nodes, done=step)}
            for role in self._roles:
                found[role] = activation_patching(self.model, pairs, nodes, at=role, done=step)
        return found

    def _paths(self, own: Searched, given: Given) -> Effects:
        pairs, nodes = self.prompts.main, [*heads_of(self.model), *mlps_of(self.model)]
        with given.progress(f"{self.code}: paths to the logits", len(pairs) * len(nodes), "patches") as step:
            return path_patching(self.model, pairs, senders=nodes, mlps=own.mlps, done=step)

    def _search(self, own: Searched, given: Given) -> Search:
        settings, steps = self.settings, self.task.steps
        if settings.corruption:  # one corruption was asked for, so every step runs under it
            steps = tuple(replace(step, corruption=settings.corruption) for step in steps)
        asked = SearchSettings(own.rule, own.sigmas, own.q, own.null, own.mlps, self.task.answer_roles, settings.seed)
        told: dict[str, int] = {}
        with given.progress(f"{self.code}: search in {len(steps)} steps", 0, "patches") as step:

            def tell(name: str, count: int, _total: int) -> None:
                step(count - told.get(name, 0))
                told[name] = count

            pool = pool_of(self.model, settings, self.code) if own.null else ()
            return find_circuit(self.model, self.prompts.patched, steps, asked, given.once, tell, pool)

    # -- sizes, for the plan -------------------------------------------------------------------------------------------

    def _patching(self, sweeps: float, cheaper: str) -> Cost:
        """`sweeps`: trunk passes of all prompts for each head and FFN, as measured (benchmarks/plans.py)."""
        nodes = self.model.layers * (self.model.heads + 1)
        tokens = int(sweeps * nodes * self.tokens / 2)
        return Cost(tokens=tokens, passes=-(-tokens // 1024), scored=0, cheaper=cheaper)

    def _copying(self) -> Cost:
        drawn = sum(2 * 20 * half for half in self.settings.repeats)
        heads, width = self.model.layers * self.model.heads, self.model.width
        words = int(self.model.config.vocab_size)
        return Cost(
            tokens=self.tokens + drawn,
            passes=1 + len(self.settings.repeats),
            elements=heads * width * words * COPYING // 1000,
            cheaper="--repeats",
        )


# trunk passes for each head and FFN that a sweep costs, everything shared counted (benchmarks/plans.py)
ACTIVATION, DIRECT, SEARCH = 0.35, 0.12, 0.25
COPYING = 50
"""thousandths of a multiply-add in float64 that one of a float32 matrix product costs"""


class CircuitsStudy:
    """The steps of one study: every language, then what they share; `steps` are those that the settings ask for."""

    def __init__(
        self,
        model: Model,
        settings: CircuitsSettings,
        prompts: Mapping[str, Prompts],
        against: Model | None = None,
        other: Prompts | None = None,
    ) -> None:
        self.model, self.settings, self.prompts = model, settings, prompts
        self.against, self.other = against, other
        self.languages = {code: LanguageSteps(model, settings, code, each) for code, each in prompts.items()}
        measured = tuple(step for one in self.languages.values() for step in one.steps)
        sizes = {"draws": str(settings.draws), "ablation": settings.ablation}

        # which words each head promotes
        self.promoted = Step[Described, Tables](
            "promoted words", settings.part(Described), self._promoted, needs=measured, cost=lambda own: Cost()
        )
        # what goes without the heads of each role, beside random heads and without FFNs
        self.ablations = Step[Ablated, Tables](
            "ablation", settings.part(Ablated), self._ablations, needs=measured, cost=self._ablating
        )
        # how few heads do the task, in their own language and in others
        self.faithfulness = Step[Ablated, Tables](
            "faithfulness", settings.part(Ablated), self._faithfulness, needs=measured, cost=self._curves
        )
        # routes, edges, and circuits as masks
        self.edges = Step[Edged, Edges](
            "edges", settings.part(Edged), self._edges, needs=measured, inputs=sizes, cost=lambda own: self._edging()
        )
        # heads of another model that do the same
        self.matching = Step[Matched, Tables](
            "matching",
            settings.part(Matched),
            self._matching,
            needs=measured,
            inputs={"against": against.weight_hash, "prompts": prompts_key(other)} if against and other else {},
        )

    @property
    def steps(self) -> list[Step[Any, Any]]:
        """Those that the settings ask for."""
        steps: list[Step[Any, Any]] = [step for one in self.languages.values() for step in one.steps]
        steps += [self.promoted, self.ablations, self.faithfulness]
        steps += [self.edges] if self.settings.edges else []
        return steps + ([self.matching] if self.against is not None else [])

    @property
    def inputs(self) -> dict[str, str]:
        """What every number depends on."""
        model, settings = self.model, self.settings
        return {
            "weights": model.weight_hash,
            "tokenizer": model.tokenizer_hash,
            "dtype": str(model.dtype),
            "device": str(model.device),
            "task": settings.task,
            "asked": run_key({"seed": settings.seed, "n": settings.n, "split": settings.split,
                              "corruption": settings.corruption, "permutations": settings.permutations}),
        }  # fmt: skip

    def measured(self, given: Given | Results) -> dict[str, Measured]:
        """Results by language."""
        return {code: one.measured(given) for code, one in self.languages.items()}

    @property
    def _everything(self) -> dict[str, list[Any]]:
        return {code: list(each.everything.pairs) for code, each in self.prompts.items()}

    @property
    def _main(self) -> dict[str, list[Any]]:
        return {code: each.main for code, each in self.prompts.items()}

    def _promoted(self, own: Described, given: Given) -> Tables:
        rows = [
            row
            for code, one in self.measured(given).items()
            for row in tables.promoted_rows(self.model, code, self.prompts[code].main, list(one.found.heads), own.top)
        ]
        return as_tables(promoted=rows)

    def _ablations(self, own: Ablated, given: Given) -> Tables:
        sets, everything = ablation_sets(self.model, self.settings, self.measured(given)), self._everything
        scores: dict[str, Array] = {}
        rows: list[dict[str, Any]] = []
        with given.progress("ablation", len(everything) * len(sets), "sets") as step:
            for code, pairs in everything.items():
                found, scores[code] = tables.ablation_rows(
                    self.model, code, pairs, sets, own.ablation, self.settings.seed
                )
                rows += found
                step(len(sets))
        return as_tables(
            ablation=[row for row in rows if not row["set"].startswith("ffn window")],
            ffn_windows=[row for row in rows if row["set"].startswith("ffn window")],
            selectivity=tables.selectivity_rows(sets, scores, everything, self.settings.seed),
        )

    def _faithfulness(self, own: Ablated, given: Given) -> Tables:
        done, seed = self.measured(given), self.settings.seed
        heads = {code: list(one.found.heads) for code, one in done.items()}
        curves: list[dict[str, Any]] = []
        with given.progress("faithfulness", 2 * len(done), "languages") as step:
            for code, one in done.items():
                ranking = one.found.ranking()
                curves += tables.faithfulness_rows(self.model, code, self._main[code], ranking, own.ablation, seed)
                step(1)
            largest = max(heads.values(), key=len, default=[])
            draws = matched_random(self.model, largest, own.draws, seed) if largest else []
            crossed = tables.cross_rows(self.model, self._main, heads, draws, own.ablation)
            step(len(done))
        return as_tables(faithfulness=curves, cross_faithfulness=crossed)

    def _edges(self, own: Edged, given: Given) -> Edges:
        settings, done = self.settings, self.measured(given)
        chosen = EdgeSettings(share=own.edge_share, permutations=settings.permutations, seed=settings.seed)
        controls = control_prompts(
            self.model, settings.task, list(done), max(2, settings.n // 2), seed=settings.seed, split=settings.split
        )
        roles: dict[str, dict[str, str]] = {}
        for code, one in done.items():
            for row in role_rows(code, one.found, one.roles, task_named(settings.task)):
                if row["role"] != ALSO:
                    roles.setdefault(code, {}).setdefault(f"{row['layer']}.{row['head']}", str(row["role"]))
        patching = {code: one.activation.heads() for code, one in done.items()}
        return find_edges(self.model, self._main, chosen, patching, roles, controls, given.progress)

    def _matching(self, own: Matched, given: Given) -> Tables:
        """Heads of two models paired by role scores, with the random-weights null."""
        against, other, settings = self.against, self.other, self.settings
        assert against is not None
        assert other is not None
        code = other_language(settings)
        twice, prefix = repeated(against, settings, code)
        theirs = role_scores(against, other.main, twice, prefix, settings.seed)
        twins = [
            role_scores(random_twin(against, seed), other.main, twice, prefix, settings.seed)
            for seed in range(own.twins)
        ]
        found = match_heads(self.measured(given)[settings.languages[0]].roles, theirs, twins)
        rows = [
            {
                "layer": a.layer,
                "head": a.head,
                "model2": against.id,
                "layer2": b.layer,
                "head2": b.head,
                "distance": float(found.distance[place]),
                "null_distance": float(found.null[place]),
                "p": found.p,
            }
            for place, (a, b) in enumerate(found.pairs)
        ]
        return as_tables(matching=rows)

    # -- sizes, for the plan -------------------------------------------------------------------------------------------

    def _ablating(self, own: Ablated) -> Cost:
        roles = len(task_named(self.settings.task).steps) * (1 + own.draws) + 1 + own.draws
        sets = len(self.languages) * roles + len(own.windows) * self.model.layers
        pairs = sum(len(pair.clean) for code in self.languages for pair in self._everything[code])
        return Cost(tokens=sets * pairs, passes=sets * len(self.languages), cheaper="--draws, --windows")

    def _curves(self, own: Ablated) -> Cost:
        sets = 12 + len(self.languages) * (1 + own.draws)
        tokens = sum(one.tokens for one in self.languages.values())
        return Cost(tokens=sets * tokens, passes=sets * len(self.languages), cheaper="--draws")

    def _edging(self) -> Cost:
        tokens = sum(one.tokens for one in self.languages.values())
        return Cost(tokens=EDGING * tokens * len(self.languages), passes=EDGING, cheaper="--no-edges")


EDGING = 400
"""trunk passes of all prompts that routes, edges and circuits as masks cost (benchmarks/plans.py)"""


def as_tables(**rows: Sequence[Mapping[str, Any]]) -> Tables:
    """Tables of a run from rows; those without a row are left out."""
    return Tables({name: pd.DataFrame(list(some)) for name, some in rows.items() if some})


def prompts_key(prompts: Prompts) -> str:
    """Hash of what the model is shown."""

    def ids(pairs: Sequence[Any]) -> list[Any]:
        return [[pair.clean, pair.corrupted, pair.target, pair.foil, sorted(pair.roles.items())] for pair in pairs]

    patched = {name: ids(pairs) for name, pairs in prompts.patched.items()}
    return run_key({"everything": ids(prompts.everything.pairs), "patched": patched})


def other_language(settings: CircuitsSettings) -> str:
    """Of the other model."""
    return settings.against_language or settings.languages[-1]


def ablation_sets(model: Model, settings: CircuitsSettings, done: Mapping[str, Measured]) -> list[AblationSet]:
    """Each step's heads and the whole circuit of each language, random sets like it, FFNs and windows of them."""
    sets: list[AblationSet] = []
    task = task_named(settings.task)
    dissociated = {label.role for label in task.dissociation.labels} if task.dissociation else set[str]()
    for code, language in done.items():
        suffix = f" ({code})" if len(done) > 1 else ""
        named: dict[str, list[Head]] = {}
        for row in role_rows(code, language.found, language.roles, task):
            if row["role"] != ALSO:
                named.setdefault(str(row["role"]), []).append(Head(row["layer"], row["head"]))
        for role, heads in named.items():
            chosen = tuple(dict.fromkeys(heads))
            sets.append(AblationSet(f"{role}{suffix}", chosen, code))
            # section 6: each of these sets beside random heads of its own layers
            if role.removeprefix(CANDIDATE) in dissociated:
                like = matched_random(model, chosen, settings.draws, settings.seed)
                sets += [AblationSet(f"random like {role}{suffix}", tuple(n), code, d) for d, n in enumerate(like)]
        circuit = language.found.heads
        if circuit:
            sets.append(AblationSet(f"circuit{suffix}", circuit, code))
            draws = matched_random(model, circuit, settings.draws, settings.seed)
            sets += [AblationSet(f"random{suffix}", tuple(nodes), code, draw) for draw, nodes in enumerate(draws)]
    for width in settings.windows:
        for centre, nodes in enumerate(windows(model, width)):
            name = f"ffn {centre}" if width == 1 else f"ffn window of {width} at {centre}"
            sets.append(AblationSet(name, tuple(nodes)))
    return sets
