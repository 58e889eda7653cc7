"""What switching off the expert that a language is given most beyond others does to each language."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from babelscope import stats
from babelscope.models import Model
from babelscope.regions.expert_deactivation import WAYS, Way, matched_experts, without_experts
from babelscope.regions.perplexity import Windows, score
from babelscope.regions.routed import Routing
from babelscope.results.schemas.routing import ExpertOff

OWN, MATCHED = "own", "matched"


def own_expert(routing: Routing, language: int) -> tuple[int, int]:
    """(place of the layer, expert) that a language's tokens are given most beyond the other languages' mean."""
    f = routing.language_choices()
    raised = f[language] - (f.sum(0) - f[language]) / (len(f) - 1)
    unmeasured = [place for place in range(len(routing.layers)) if place not in routing.measured]
    raised[unmeasured] = -torch.inf
    place, expert = divmod(int(raised.argmax()), raised.shape[1])
    return place, expert


def expert_deactivation(
    model: Model,
    windows: Mapping[str, Windows],
    routing: Routing,
    controls: int = 3,
    seed: int = 0,
    ways: tuple[Way, ...] = WAYS,
) -> list[ExpertOff]:
    """A row for each switched-off expert, way and evaluated language: the loss it adds, in nats a token.

    Controls are other experts of the same layer, as near in how often they are chosen as there are.
    """
    base = {code: score(model, text) for code, text in windows.items()}
    f = routing.language_choices().mean(0)
    rows: list[ExpertOff] = []
    for language, code in enumerate(routing.languages):
        place, expert = own_expert(routing, language)
        for kind, draw, other in _conditions(f, place, expert, controls, seed):
            for way in ways if kind == OWN else ways[:1]:
                with without_experts(model, {routing.layers[place]: [other]}, way):
                    losses = {evaluated: score(model, text) for evaluated, text in windows.items()}
                for evaluated, loss in losses.items():
                    used = base[evaluated].counts > 0
                    added = (loss.by_document - base[evaluated].by_document)[used]
                    change = stats.ratio_t(added.numpy(), base[evaluated].counts[used].numpy())
                    row = ExpertOff(
                        deactivated=code,
                        kind=kind,
                        draw=draw,
                        way=way,
                        layer=routing.layers[place],
                        expert=other,
                        f=float(f[place, other]),
                        language=evaluated,
                        delta_nll=change.value,
                        delta_nll_low=change.low,
                        delta_nll_high=change.high,
                        interval=change.method,
                        why=change.why,
                        documents=int(used.sum()),
                        tokens=base[evaluated].tokens,
                    )
                    rows.append(row)
    return rows


def _conditions(
    f: Float[Tensor, "M E"], place: int, expert: int, controls: int, seed: int
) -> Iterator[tuple[str, int, int]]:
    yield OWN, -1, expert
    drawn = dict.fromkeys(one[0] for one in matched_experts(f, place, [expert], 4 * controls, seed) if one)
    for draw, other in enumerate([*drawn][:controls]):
        yield MATCHED, draw, other
