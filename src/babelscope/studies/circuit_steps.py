"""What a circuits study measures in one language, as a list of steps to be read from top to bottom."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace

import numpy as np
from numpy.typing import NDArray

from babelscope.circuits.core.effects import Effects
from babelscope.circuits.core.metrics import Behaviour, behaviour
from babelscope.circuits.core.nodes import Sender, experts_of, heads_of, mlps_of
from babelscope.circuits.heads.lens import Lens, logit_lens
from babelscope.circuits.heads.roles import Roles, role_scores
from babelscope.circuits.patching.counterfactual import same_answer
from babelscope.circuits.patching.kept_runs import keeping_runs
from babelscope.circuits.patching.methods import activation_patching, path_patching
from babelscope.circuits.patching.screen import Screen, Slopes, activation_estimates, screened, spread_over
from babelscope.circuits.patching.search import Search, SearchSettings, find_circuit
from babelscope.models import Model
from babelscope.results.manifest import run_key
from babelscope.studies import circuit_costs as costs
from babelscope.studies.circuit_costs import Sizes
from babelscope.studies.circuit_experts import PatchedExperts, patched_experts
from babelscope.studies.circuit_measures import Measured, Prompts, decomposed, pool_of, repeated
from babelscope.studies.circuit_settings import (
    CircuitsSettings,
    Described,
    MixedSearch,
    Screened,
    ScreenedSearch,
    Searched,
)
from babelscope.studies.steps import AnyStep, Cost, Given, Results, Step
from babelscope.tasks import PromptPair, task_named

Array = NDArray[np.float64]
Patched = dict[str, Effects]
"""activation patching at every position (under "") and at the positions of each role"""


class LanguageSteps:
    """What is measured in one language."""

    def __init__(self, model: Model, settings: CircuitsSettings, code: str, prompts: Prompts) -> None:
        self.model, self.settings, self.code, self.prompts = model, settings, code, prompts
        self.task = task_named(settings.task)
        self.slopes = Slopes(  # of steps on the main prompts; others find nothing that was kept
            (step.through, step.at) for step in self.task.steps if step.through != "logits"
        )
        texts = {"prompts": prompts_key(prompts)}
        searched = settings.part(Searched)

        # how well the model does the task
        self.behaviour = Step[None, Behaviour](
            f"{code}: behaviour",
            None,
            lambda _, given: behaviour(model, prompts.everything.pairs),
            inputs=texts,
            cost=lambda _: Cost(tokens=self.sizes.tokens, scored=2 * len(prompts.everything), passes=2),
        )
        # what each head and FFN does to the answer, with everything behind it recomputed
        self.activation = Step[Screened, Patched](
            f"{code}: activation patching",
            settings.part(Screened),
            self._activation,
            inputs=texts,
            cost=lambda own: costs.patched(
                self.sizes,
                screen_of(own, settings.seed),
                costs.role_sweeps(self.sizes, (None, *self._roles)),
                "--n",
                costs.views(screen_of(own, settings.seed)),
                anew=costs.on_the_same(self.sizes, 1 + len(self._roles)),
            ),
        )
        # what each of them says to the logits directly
        self.path = Step[Searched, Effects](
            f"{code}: paths to the logits",
            searched,
            self._paths,
            inputs=texts,
            cost=lambda _: costs.to_logits(self.sizes, self.sizes.heads, model.layers, "--n"),
        )
        # down the circuit, from the logits to what reads the names; each question of it is kept on its own
        self.search = Step[ScreenedSearch, Search](
            f"{code}: search",
            settings.part(ScreenedSearch),
            self._search,
            needs=(self.path,),
            inputs=texts,
            cost=lambda own: costs.searched(self.sizes, screen_of(own, settings.seed), self.task.steps, own.null),
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
            cost=lambda own: costs.copying(self.sizes, own.repeats),
        )
        # what the logits would be after each layer
        self.lens = Step[None, Lens](
            f"{code}: logit lens",
            None,
            lambda _, given: logit_lens(model, prompts.main),
            inputs=texts,
            cost=lambda _: Cost(tokens=self.sizes.tokens, scored=2 * model.layers * len(prompts.main), passes=1),
        )
        # what each head tells when only one side of its message is corrupted
        self.decomposed = Step[ScreenedSearch, Patched](
            f"{code}: messages",
            settings.part(ScreenedSearch),
            lambda own, given: decomposed(
                model, settings, given[self.search], code, own.mlps, screen_of(own, settings.seed)
            ),
            needs=(self.search,),
            inputs=texts,
            cost=lambda own: (
                costs.patched(
                    self.sizes,
                    screen_of(own, settings.seed),
                    [costs.path_sweep(self.sizes, "END")] * len(self.task.decomposing[2]),
                    "--n",
                    mlps=False,
                    together=costs.RECEIVERS,
                )
                if self.task.decomposing
                else Cost()
            ),
        )

        # what each routed expert of a mixture does, where that is asked for
        self.experts = Step[MixedSearch, PatchedExperts](
            f"{code}: experts",
            settings.part(MixedSearch),
            self._experts,
            inputs=texts,
            cost=lambda _: costs.swept(
                self.sizes,
                len(experts_of(model)),
                [self.sizes.span(None), self.sizes.span(None), 1.0],
                "--experts none",
            ),
        )

    @property
    def steps(self) -> list[AnyStep]:
        experts = [] if self.settings.experts == "none" else [self.experts]
        return [
            self.behaviour,
            self.activation,
            self.path,
            self.search,
            self.roles,
            self.lens,
            self.decomposed,
            *experts,
        ]

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
            experts=None if self.settings.experts == "none" else given[self.experts],
        )

    @property
    def _roles(self) -> list[str]:
        return [role for role in self.task.patched_roles if all(role in pair.roles for pair in self.prompts.main)]

    def _exact(self, screen: Screen | None) -> bool:
        """Whether every head is patched on all prompts in one round."""
        model = self.model
        return screen is None or model.layers * model.heads < screen.fewest or len(self.prompts.main) <= screen.trial

    def _activation(self, own: Screened, given: Given) -> Patched:
        model, pairs, screen = self.model, self.prompts.main, screen_of(own, self.settings.seed)
        nodes = [*heads_of(model), *mlps_of(model)]
        roles: list[str | None] = [None, *self._roles]
        exact = self._exact(screen)
        estimates: dict[str | None, Array] = {}
        with given.progress(f"{self.code}: activation patching", 0, "patches") as step:
            if screen is not None and not exact:  # one backward pass serves all roles
                some = spread_over(pairs, screen.pairs)
                estimates = activation_estimates(model, some, roles, screen, self.slopes)

            def patched(role: str | None) -> Effects:
                def sweep(some: Sequence[PromptPair], senders: Sequence[Sender]) -> Effects:
                    return activation_patching(model, some, senders, at=role, done=step)

                if screen is None or exact:
                    return sweep(pairs, nodes)
                return screened(sweep, pairs, nodes, screen, estimate=lambda _: estimates[role])

            return {role or "": patched(role) for role in roles}

    def _paths(self, own: Searched, given: Given) -> Effects:
        pairs, nodes = self.prompts.main, [*heads_of(self.model), *mlps_of(self.model)]
        # under a screen other sweeps go through the prompts in two rounds, so none asks for the same batches again
        screen = screen_of(self.settings.part(Screened), self.settings.seed)
        kept = nullcontext() if self._exact(screen) else keeping_runs(self.model, most=0)
        with kept, given.progress(f"{self.code}: paths to the logits", len(pairs) * len(nodes), "patches") as step:
            return path_patching(self.model, pairs, senders=nodes, mlps=own.mlps, done=step)

    def _experts(self, own: MixedSearch, given: Given) -> PatchedExperts:
        pairs, seed = self.prompts.main, self.settings.seed
        pool = pool_of(self.model, self.settings, self.code) if own.null else ()
        twins = same_answer(pairs, self.task.answer_roles, seed, pool) if own.null else None
        total = (3 if twins else 2) * len(pairs) * len(experts_of(self.model))
        with given.progress(f"{self.code}: experts", total, "patches") as step:
            return patched_experts(self.model, pairs, own, twins, step)

    def _search(self, own: ScreenedSearch, given: Given) -> Search:
        settings, steps = self.settings, self.task.steps
        if settings.corruption:  # one corruption was asked for, so every step runs under it
            steps = tuple(replace(step, corruption=settings.corruption) for step in steps)
        screen = screen_of(own, settings.seed)
        asked = SearchSettings(
            own.rule, own.sigmas, own.q, own.null, own.mlps, self.task.answer_roles, settings.seed, screen
        )
        told: dict[str, int] = {}
        main = next(iter(self.prompts.patched))
        # the paths to the logits were taken before, for the map of all heads
        known = {
            step.name: given[self.path].only([*heads_of(self.model), *(mlps_of(self.model) if step.mlps else ())])
            for step in steps
            if step.through == "logits" and not step.knocked_out and step.corruption in ("", main)
        }

        def once(name: str, key: str, make: Callable[[], Effects]) -> Effects:
            return known[name] if name in known else given.once(name, key, make)

        with given.progress(f"{self.code}: search in {len(steps)} steps", 0, "patches") as step:

            def tell(name: str, count: int, _total: int) -> None:
                step(count - told.get(name, 0) if count > told.get(name, 0) else count)
                told[name] = count

            pool = pool_of(self.model, settings, self.code) if own.null else ()
            found = find_circuit(self.model, self.prompts.patched, steps, asked, once, tell, pool, self.slopes)
            self.slopes.clear()
            return found

    # -- sizes, for the plan -------------------------------------------------------------------------------------------

    @property
    def sizes(self) -> Sizes:
        """Of this language's prompts and the model."""
        return Sizes(self.model, self.prompts.main, len(self.prompts.everything))


def screen_of(own: Screened, seed: int) -> Screen | None:
    """The screen that the settings ask for; None where every head is patched."""
    return None if own.exact else Screen(sample=own.screen_sample, seed=seed)


def screen_facts(model: Model, settings: CircuitsSettings) -> dict[str, object]:
    """How heads were chosen for patching, for the record: every one of them, and why, or the screen's settings."""
    screen, heads = screen_of(settings, settings.seed), model.layers * model.heads
    if screen is None:
        return {"patched": "every head, as asked"}
    if heads < screen.fewest:
        return {"patched": f"every head: {heads} are fewer than the {screen.fewest} from which a screen costs less"}
    if settings.n <= screen.trial:
        return {"patched": f"every head: a screen tries all of them on {screen.trial} prompts, and there are no more"}
    return {"patched": "heads that a screen kept, and a sample of the others", **asdict(screen)}


def prompts_key(prompts: Prompts) -> str:
    """Hash of what the model is shown."""

    def ids(pairs: Sequence[PromptPair]) -> list[object]:
        return [[pair.clean, pair.corrupted, pair.target, pair.foil, sorted(pair.roles.items())] for pair in pairs]

    patched = {name: ids(pairs) for name, pairs in prompts.patched.items()}
    return run_key({"everything": ids(prompts.everything.pairs), "patched": patched})
