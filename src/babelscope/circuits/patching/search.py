"""Down the circuit, step by step: what acts on the logits, what acts on that, and so on (section 3).

Each step patches the paths from all senders into what an earlier step found. The effects of a
step can be kept by a key, so that a search that was stopped goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from babelscope._version import __version__
from babelscope.circuits.core.effects import Effects
from babelscope.circuits.core.nodes import FINAL, MLP, Head, Receiver, Sender, heads_of, mlps_of, reaches, receivers
from babelscope.circuits.patching.counterfactual import ANSWER_ROLES, of_pairs_with_a_partner, same_answer
from babelscope.circuits.patching.methods import Between, path_patching
from babelscope.circuits.patching.screen import Missed, Screen, Slopes, missed, path_estimates, screened
from babelscope.circuits.patching.selection import Growth, Rule, Selection, growth, select
from babelscope.circuits.patching.swept_batches import Sweep
from babelscope.errors import InputError
from babelscope.results.manifest import versions
from babelscope.tasks.ioi import STEPS as IOI
from babelscope.tasks.steps import Step

if TYPE_CHECKING:
    from babelscope.models import Model
    from babelscope.tasks import PromptPair

Once = Callable[[str, str, Callable[[], Effects]], Effects]
"""(name, key, how it is made) → effects, made or kept from before"""
Progress = Callable[[str, int, int], None]
"""told the step, how many pair × sender patches are done, and of how many"""


@dataclass(frozen=True)
class SearchSettings:
    """How heads are searched for and chosen."""

    rule: Rule = "significance"
    """significance or deviation, as in `select`"""
    sigmas: float = 2.0
    """least effect, in deviations over all heads: in a model of few heads two are a strict demand"""
    q: float = 0.05
    null: bool = True
    """compare with same-answer counterfactuals, where the prompts allow them"""
    mlps: Between = "recomputed"
    """between sender and receiver: recomputed or frozen"""
    answer_roles: tuple[str, ...] = ANSWER_ROLES
    """roles that same-answer counterfactuals keep"""
    seed: int = 0
    screen: Screen | None = None
    """how heads are chosen for exact patching, and only what reaches the threshold is held against the null; None:
    every head is patched, under the null too"""


@dataclass(frozen=True)
class Found:
    """What a step found, or why it was passed over."""

    step: Step
    effects: Effects | None
    selection: Selection | None
    skipped: str = ""
    null: Effects | None = None
    growth: Growth | None = None
    """after a knock-out: what grew; only that is selected"""
    also: tuple[Sender, ...] = ()
    """after a knock-out: senders that act then too, but no more than before"""

    @property
    def missed(self) -> Missed | None:
        """What the screen of this step may have missed; None where every head was patched."""
        if self.effects is None or self.selection is None:
            return None
        return missed(self.effects, self.selection.nodes)

    @property
    def supporting(self) -> tuple[Sender, ...]:
        """Selected nodes without which the answer suffers (effect below zero), strongest first."""
        return self._with(lambda effect: effect < 0)

    @property
    def opposing(self) -> tuple[Sender, ...]:
        """Selected nodes that work against the answer (negative name movers and their like)."""
        return self._with(lambda effect: effect > 0)

    def _with(self, wanted: Callable[[float], bool]) -> tuple[Sender, ...]:
        if self.effects is None or self.selection is None:
            return ()
        return tuple(node for node in self.selection.nodes if wanted(self.effects.of(node)))


@dataclass(frozen=True)
class Search:
    """A whole search: one entry per step, in order."""

    steps: tuple[Found, ...]
    settings: dict[str, object] = field(default_factory=dict[str, object])

    def __getitem__(self, name: str) -> Found:
        for found in self.steps:
            if found.step.name == name:
                return found
        raise KeyError(name)

    def _repr_html_(self) -> str:
        from babelscope.notebook import table

        rows = [
            (
                found.step.name.replace("_", " "),
                ", ".join(map(str, found.supporting)),
                ", ".join(map(str, found.opposing)),
            )
            for found in self.steps
        ]
        return table("Search for a circuit", ["step", "for the answer", "against it"], rows)

    @property
    def nodes(self) -> tuple[Sender, ...]:
        """Every node that any step found, in order of discovery."""
        return tuple(dict.fromkeys(node for found in self.steps for node in (*found.supporting, *found.opposing)))

    @property
    def heads(self) -> tuple[Head, ...]:
        return tuple(node for node in self.nodes if isinstance(node, Head))

    def ranking(self) -> list[Head]:
        """All heads by their strongest effect in any step, each step's effects measured in its own deviations."""
        strength: dict[Head, float] = {}
        for found in self.steps:
            if found.effects is None:
                continue
            spread = found.effects.deviation or 1.0
            for node, effect in zip(found.effects.senders, found.effects.effect):
                if isinstance(node, Head):
                    strength[node] = max(strength.get(node, 0.0), abs(float(effect)) / spread)
        return sorted(strength, key=lambda node: -strength[node])

    def to_json(self) -> dict[str, object]:
        """The circuit by step, with each node's effect; what `circuits/<language>.json` holds."""
        return {
            "settings": self.settings,
            "nodes": [str(node) for node in self.nodes],
            "steps": [_as_json(found) for found in self.steps],
        }


def _asked(step: Step) -> dict[str, object]:
    """What a step asks, without the function that names what it finds."""
    return {name: value for name, value in vars(step).items() if name != "label"}


def _as_json(found: Found) -> dict[str, object]:
    if found.effects is None:
        return {**_asked(found.step), "skipped": found.skipped}
    low, high = found.effects.interval()
    ends = {node: (low[place], high[place]) for place, node in enumerate(found.effects.senders)}

    def listed(nodes: Sequence[Sender]) -> list[dict[str, object]]:
        return [
            {"node": str(n), "effect": found.effects.of(n), "low": float(ends[n][0]), "high": float(ends[n][1])}
            for n in nodes
            if found.effects is not None
        ]

    return {
        **_asked(found.step),
        "receivers": found.effects.settings["receivers"],
        "supporting": listed(found.supporting),
        "opposing": listed(found.opposing),
        **(
            {"growth": {str(n): found.growth.row(n) for n in (*found.growth.backups, *found.also)}}
            if found.growth
            else {}
        ),
    }


def find_circuit(
    model: Model,
    prompts: Mapping[str, Sequence[PromptPair]],
    steps: Sequence[Step] = IOI,
    settings: SearchSettings | None = None,
    once: Once | None = None,
    progress: Progress | None = None,
    pool: Sequence[PromptPair] = (),
    slopes: Slopes | None = None,
) -> Search:
    """Runs the steps in order; `prompts` maps corruptions to pairs, the first serves steps that name none.

    `slopes`: gradients that a screen of outputs kept.

    `once`: keeps and gives back the effects of a step by a key. `pool`: further prompts, from which same-answer
    counterfactuals are put together. A step whose receivers were not found is passed over, with the reason.
    Raises InputError for a step into
    an unknown one, or a corruption without prompts.

    >>> result = find_circuit(model, {"pabc": prompts})                                        # doctest: +SKIP
    >>> result["name_movers"].supporting                                                 # doctest: +SKIP
    (Head(layer=9, head=9), Head(layer=9, head=6), Head(layer=10, head=0))
    """
    if not prompts:
        raise InputError("a search needs prompts of at least one corruption")
    settings = settings or SearchSettings()
    found: dict[str, Found] = {}
    for step in steps:
        for earlier in filter(None, (step.into, step.knocked_out)):
            if earlier not in found:
                raise InputError(f"step {step.name} builds on {earlier}, which is no earlier step")
        corruption = step.corruption or next(iter(prompts))
        if corruption not in prompts:
            raise InputError(f"step {step.name} needs prompts with corruption {corruption!r}")
        found[step.name] = _Work(model, prompts[corruption], step, settings, once, progress, pool, slopes).run(found)
    return Search(tuple(found.values()), {**asdict(settings), "corruptions": list(prompts)})


@dataclass(frozen=True)
class _Work:
    model: Model
    pairs: Sequence[PromptPair]
    step: Step
    settings: SearchSettings
    once: Once | None
    progress: Progress | None
    pool: Sequence[PromptPair]
    slopes: Slopes | None

    def run(self, found: Mapping[str, Found]) -> Found:
        into = self._receivers(found)
        if isinstance(into, str):
            return Found(self.step, None, None, into)
        if self.step.at is not None and any(self.step.at not in pair.roles for pair in self.pairs):
            return Found(self.step, None, None, f"not every prompt has the role {self.step.at}")
        gone = [node for node in self._supporting(found, self.step.knocked_out) if isinstance(node, Head)]
        if self.step.knocked_out and not gone:
            return Found(self.step, None, None, f"nothing to knock out: {self.step.knocked_out} found no head")
        effects = self._effects(self.pairs, into, gone, "")
        asked = self.settings
        nothing = self._nothing(effects, into, gone)
        distance = {node: _distance(self.model, node, into) for node in effects.senders}
        choose = partial(select, rule=asked.rule, sigmas=asked.sigmas, q=asked.q, null=nothing, distance=distance)
        if not gone:
            return Found(self.step, effects, choose(effects), null=nothing)
        before = self._before(found, into)
        effects = replace(effects, unit=before.base)
        chosen = choose(effects)
        grown = growth(before, effects, gone, asked.q)
        also = tuple(node for node in chosen.nodes if node not in grown.backups and node not in gone)
        return Found(self.step, effects, replace(chosen, nodes=grown.backups), "", nothing, grown, also)

    def _nothing(self, effects: Effects, into: Sequence[Receiver], gone: Sequence[Head]) -> Effects | None:
        """The same paths under counterfactuals with the same answer: of senders that may be selected, or of all."""
        asked = self.settings
        if not asked.null:
            return None
        strong: Sequence[Sender] | None = None
        if asked.screen is not None:
            strength = np.abs(effects.effect)
            least = asked.sigmas * effects.deviation if asked.rule == "significance" else np.inf
            strong = [node for node, value in zip(effects.senders, strength) if value >= least and value > 0]
            if not strong:
                return None
        twins = same_answer(self.pairs, asked.answer_roles, asked.seed, self.pool)
        if not twins:
            return None
        return of_pairs_with_a_partner(self._effects(twins, into, gone, "-null", strong), twins)

    def _before(self, found: Mapping[str, Found], into: Sequence[Receiver]) -> Effects:
        """The same paths with nothing knocked out: an earlier step's, where one asked the same."""
        asked = replace(self.step, name="", knocked_out="")
        for earlier in found.values():
            if replace(earlier.step, name="") == asked and earlier.effects is not None:
                return earlier.effects
        return self._effects(self.pairs, into, [], "-before")

    def _supporting(self, found: Mapping[str, Found], name: str) -> tuple[Sender, ...]:
        return found[name].supporting if name else ()

    def _receivers(self, found: Mapping[str, Found]) -> list[Receiver] | str:
        through = self.step.through
        if through == "logits":
            return [FINAL]
        nodes = self._supporting(found, self.step.into)
        if through == "mlp":
            chosen = [Receiver("mlp", node.layer) for node in nodes if isinstance(node, MLP)]
        else:
            chosen = receivers(self.model, [node for node in nodes if isinstance(node, Head)], through)
        return chosen or f"{self.step.into} found no {'FFN' if through == 'mlp' else 'head'} to receive"

    def _effects(
        self,
        pairs: Sequence[PromptPair],
        into: Sequence[Receiver],
        gone: Sequence[Head],
        suffix: str,
        only: Sequence[Sender] | None = None,
    ) -> Effects:
        """Effects of all senders (of those that a screen keeps, on the way to anything but the logits), or of some."""
        every: list[Sender] = [*heads_of(self.model), *(mlps_of(self.model) if self.step.mlps else [])]
        senders = every if only is None else only
        key = self._key(pairs, into, gone, only)
        make = partial(self._made, pairs, into, gone, suffix, senders, only is None)
        return make() if self.once is None else self.once(self.step.name + suffix, key, make)

    def _made(
        self,
        pairs: Sequence[PromptPair],
        into: Sequence[Receiver],
        gone: Sequence[Head],
        suffix: str,
        senders: Sequence[Sender],
        all_asked: bool,
    ) -> Effects:
        screen, model = self.settings.screen, self.model
        # paths to the logits cost so little that all are patched: one position, nothing behind it
        if screen is None or not all_asked or FINAL in into:
            return self._patched(into, gone, suffix, pairs, senders)
        free = [node for node in senders if not any(reaches(model, node, receiver) for receiver in into)]
        at, mlps = self.step.at, self.settings.mlps
        return screened(
            partial(self._patched, into, gone, suffix),
            pairs,
            senders,
            screen,
            free,
            lambda some: path_estimates(model, some, into, at, mlps, screen, self.slopes),
        )

    def _patched(
        self,
        into: Sequence[Receiver],
        gone: Sequence[Head],
        suffix: str,
        pairs: Sequence[PromptPair],
        senders: Sequence[Sender],
    ) -> Effects:
        total, so_far = len(senders) * len(pairs), [0]

        def done(count: int) -> None:
            so_far[0] += count
            if self.progress:
                self.progress(self.step.name + suffix, so_far[0], total)

        return path_patching(
            self.model,
            pairs,
            into,
            senders,
            self.step.at,
            self.settings.mlps,
            done=done,
            sweep=Sweep(without=tuple(gone)),
        )

    def _key(
        self,
        pairs: Sequence[PromptPair],
        into: Sequence[Receiver],
        gone: Sequence[Head],
        only: Sequence[Sender] | None,
    ) -> str:
        prompts = [[pair.clean, pair.corrupted, pair.target, pair.foil, sorted(pair.roles.items())] for pair in pairs]
        facts = [__version__, versions(), self.model.function_hash, str(self.model.dtype)]
        facts += [_asked(self.step), self.settings.mlps, prompts]
        facts += [[str(receiver) for receiver in into], [str(node) for node in gone]]
        facts += [asdict(self.settings.screen) if self.settings.screen else None, [str(node) for node in only or ()]]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _distance(model: Model, node: Sender, into: Sequence[Receiver]) -> int:
    """Layers between a sender and its nearest receiver; the logits stand behind the last layer."""
    layer = getattr(node, "layer", -1)
    ends = [model.layers if receiver.kind == "logits" else receiver.layer for receiver in into]
    behind = [end - layer - 1 for end in ends if end > layer]
    return min(behind, default=0)
