"""Experts of a mixture as nodes of a circuits study: each routed expert patched by itself, as heads and FFNs are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from babelscope.circuits.core.effects import Effects
from babelscope.circuits.core.nodes import Expert, experts_of
from babelscope.circuits.patching.counterfactual import of_pairs_with_a_partner
from babelscope.circuits.patching.methods import Done, activation_patching, path_patching
from babelscope.circuits.patching.selection import select
from babelscope.circuits.patching.swept_batches import Sweep
from babelscope.errors import InputError
from babelscope.models import Model
from babelscope.results.schemas.circuits import ExpertEffect
from babelscope.studies.circuit_settings import CircuitsSettings, Mixed, Searched
from babelscope.tasks import PromptPair


@dataclass(frozen=True)
class PatchedExperts:
    """What patching each routed expert does, with all behind it recomputed, and along its path to the logits alone."""

    activation: Effects
    path: Effects
    null: Effects | None
    """activation patching under counterfactuals with the same answer, where the prompts allow them"""


def check_experts(model: Model, settings: CircuitsSettings) -> None:
    """Raises InputError where experts are to be patched in a model that has none."""
    if settings.experts != "none" and not model.mixtures:
        raise InputError(f"--experts {settings.experts}: {model.id} has no experts; leave the option out")


def patched_experts(
    model: Model,
    pairs: Sequence[PromptPair],
    own: Mixed,
    twins: Sequence[PromptPair] | None,
    done: Done | None = None,
) -> PatchedExperts:
    """Effects of all routed experts under the routing that is asked for (`frozen` or `free`); `twins`: the pairs with
    counterfactuals of the same answer."""
    assert own.experts != "none"
    nodes, sweep = experts_of(model), Sweep(routing=own.experts)
    return PatchedExperts(
        activation_patching(model, pairs, nodes, done=done, sweep=sweep),
        path_patching(model, pairs, senders=nodes, done=done, sweep=sweep),
        of_pairs_with_a_partner(activation_patching(model, twins, nodes, done=done, sweep=sweep), twins)
        if twins
        else None,
    )


def expert_rows(found: Mapping[str, PatchedExperts], own: Searched) -> Iterator[ExpertEffect]:
    """A row an expert and language; those are selected that the rule of the search selects among all experts."""
    for code, one in found.items():
        chosen = select(one.activation, own.rule, one.null, q=own.q, sigmas=own.sigmas)
        low, high = one.activation.interval()
        for place, node in enumerate(one.activation.senders):
            assert isinstance(node, Expert)
            effect, direct = float(one.activation.effect[place]), float(one.path.effect[place])
            yield ExpertEffect(
                code, node.layer, node.expert, effect, float(low[place]), float(high[place]), direct,
                float(chosen.p[place]), "yes" if node in chosen.nodes else "",
            )  # fmt: skip
