"""What a circuits study measures in one language: prompts, behaviour, patching, the search, roles, the lens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from babelscope.circuits.core.effects import Effects
from babelscope.circuits.core.metrics import Behaviour
from babelscope.circuits.core.nodes import Head, Receiver, Sender, heads_of, reaches, receivers
from babelscope.circuits.heads.lens import Lens
from babelscope.circuits.heads.roles import Roles
from babelscope.circuits.patching.methods import Between, path_patching
from babelscope.circuits.patching.screen import Screen, screened
from babelscope.circuits.patching.search import Search
from babelscope.errors import InputError, TaskError
from babelscope.models import Model
from babelscope.studies.circuit_experts import PatchedExperts
from babelscope.studies.circuit_settings import CircuitsSettings
from babelscope.tasks import Encoder, Options, PromptPair, PromptSet, build, corruptions, repeated_tokens, task_named

FUTURE = "tense-flip"
"""corruption whose twin is the sentence in the future"""


@dataclass(frozen=True)
class Prompts:
    """One language's prompts: all strata for behaviour and ablation, one stratum for patching, by corruption."""

    everything: PromptSet
    patched: dict[str, list[PromptPair]]
    stratum: str

    @property
    def main(self) -> list[PromptPair]:
        return next(iter(self.patched.values()))


@dataclass(frozen=True)
class Measured:
    """All that was measured in one language."""

    behaviour: Behaviour
    activation: Effects
    at_roles: dict[str, Effects]
    path: Effects
    found: Search
    roles: Roles
    lens: Lens
    decomposed: dict[str, Effects]
    experts: PatchedExperts | None = None


def name_beside(first: Model, second: Model) -> str:
    """What a second model is called in tables: with its revision, or as the other, where both have one name."""
    if second.id != first.id:
        return second.id
    revision = second.revision not in (None, first.revision)
    return f"{second.id}@{second.revision}" if revision else f"{second.id} (against)"


def options_of(settings: CircuitsSettings) -> Options:
    """Which prompts are asked for, whatever they are for."""
    return Options(n=settings.n, seed=settings.seed, split=settings.split, heldout=settings.heldout)


def prompts_of(model: Model, settings: CircuitsSettings, code: str) -> Prompts:
    task = settings.task.partition(":")[0]
    wanted = [settings.corruption] if settings.corruption else list(_search_corruptions(task))
    asked = options_of(settings)

    def made(corruption: str) -> PromptSet:
        return build(settings.task, model.tokenizer, code, asked, corruption=corruption)

    everything = _foils(model, made(wanted[0]), made)
    stratum = _stratum(everything, settings.stratum.get(code))
    patched: dict[str, list[PromptPair]] = {}
    for corruption in wanted:
        asked = replace(asked, stratum=stratum or None)
        patched[corruption] = list(_foils(model, made(corruption), made).pairs)
    return Prompts(everything, patched, stratum)


def _search_corruptions(task: str) -> tuple[str, ...]:
    """Corruptions that the task's search needs; otherwise the task's first."""
    named = tuple(dict.fromkeys(step.corruption for step in task_named(task).steps if step.corruption))
    return named or corruptions(task)[:1]


def _stratum(prompts: PromptSet, asked: str | None) -> str:
    """The stratum to patch: as asked, or the one with most prompts (syncretic verbs show no tense, so never those)."""
    if asked is not None:
        if asked not in prompts.strata:
            raise TaskError(f"no stratum {asked!r} in {prompts.language}; there are {', '.join(prompts.strata)}")
        return asked
    counts = {name: len(prompts.where(stratum=name)) for name in prompts.strata if name not in ("", "syncretic")}
    return max(counts, key=lambda name: (counts[name], name != "aspect"), default="")


@torch.no_grad()
def _foils(model: Model, prompts: PromptSet, made: Callable[[str], PromptSet]) -> PromptSet:
    """Aspect prompts (了) are told from what the model itself says in the future twin, whatever the corruption is.

    The bare sentence is grammatical too ("昨天我跑步。"), so a foil of ours would ask for style, not for aspect. Pairs
    in whose twin the model says 了 as well have no foil, and are left out; raises TaskError when that leaves no prompt.
    """
    aspect = prompts.where(stratum="aspect")
    if not len(aspect):
        return prompts
    flipped = prompts if prompts.corruption == FUTURE else made(FUTURE)
    future = {(pair.item, pair.template): pair.corrupted for pair in flipped.where(stratum="aspect")}
    said: dict[tuple[int, str], int] = {}
    for pair in aspect:
        key = pair.item, pair.template
        if key in future:
            ids = torch.tensor([future[key]], device=model.device)
            said[key] = int(model.logits(model.trunk(ids)[0, -1]).argmax())
    kept: list[PromptPair] = []
    for pair in prompts:
        foil = said.get((pair.item, pair.template))
        if pair.stratum != "aspect":
            kept.append(pair)
        elif foil is not None and (foil,) != pair.target:
            kept.append(replace(pair, foil=(foil,)))
    if not kept:
        raise TaskError(
            f"{model.id} says 了 in the future too, in every prompt in {prompts.language}: nothing to compare"
        )
    return prompts.replace(kept)


def pool_of(model: Model, settings: CircuitsSettings, code: str) -> Sequence[PromptPair]:
    """More prompts, from which same-answer counterfactuals are put together."""
    return build(settings.task, model.tokenizer, code, options_of(settings), n=10 * settings.n).pairs


def check_repeats(model: Model, settings: CircuitsSettings) -> None:
    """Raises InputError for a length of --repeats that was asked for and that the model has no positions for."""
    longest, prefix = model.context.window, len(Encoder(model.tokenizer).prefix)
    for half in settings.repeats:
        if half not in CircuitsSettings.repeats and prefix + 2 * half > longest:
            most = (longest - prefix) // 2
            raise InputError(f"--repeats {half}: twice that does not fit; {most} is the most in {longest} positions")


def repeated(model: Model, settings: CircuitsSettings, code: str) -> tuple[dict[int, torch.Tensor], int]:
    """Random tokens of the language said twice, where the package has text of it and the model the positions."""
    longest = model.context.window
    found: dict[int, torch.Tensor] = {}
    prefix = len(Encoder(model.tokenizer).prefix)
    for half in settings.repeats:
        if prefix + 2 * half > longest:
            continue
        try:
            ids = repeated_tokens(model.tokenizer, code, length=half, n=20, seed=settings.seed)
        except TaskError:
            return {}, prefix
        found[half] = torch.from_numpy(ids)
    return found, prefix


def decomposed(
    model: Model, settings: CircuitsSettings, found: Search, code: str, between: Between, screen: Screen | None = None
) -> dict[str, Effects]:
    """What each head tells the receivers when only one side of its message is corrupted (IOI: tokens, or positions)."""
    task = task_named(settings.task)
    if task.decomposing is None or settings.corruption is not None or settings.task != task.name:
        return {}
    _, into, asked = task.decomposing
    movers = [node for node in found[into].supporting if isinstance(node, Head)]
    effects: dict[str, Effects] = {}
    for corruption in asked if movers else ():
        try:
            pairs = build(settings.task, model.tokenizer, code, options_of(settings), corruption=corruption).pairs
        except TaskError:
            continue
        into = receivers(model, movers, "q")

        def sweep(some: Sequence[PromptPair], senders: Sequence[Sender], into: Sequence[Receiver] = into) -> Effects:
            return path_patching(model, some, into, senders, mlps=between)

        every = heads_of(model)
        free = [node for node in every if not any(reaches(model, node, receiver) for receiver in into)]
        effects[corruption] = screened(sweep, pairs, every, screen, free) if screen else sweep(pairs, every)
    return effects
