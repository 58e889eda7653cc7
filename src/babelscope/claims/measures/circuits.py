"""What claims about circuits measure: heads on the routes, and a language's circuit on another language's prompts.

Prompts are resampled, languages apart. In the twin the heads of the second language are renamed inside their layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from babelscope.circuits.comparison.overlap import relabelled
from babelscope.circuits.core.ablation import reference
from babelscope.circuits.core.faithfulness import Scored
from babelscope.circuits.core.graph import Wiring
from babelscope.circuits.edges.circuit import Circuit, sized_circuit
from babelscope.circuits.edges.eap import edge_attribution
from babelscope.circuits.edges.edge_ablation import logit_differences
from babelscope.circuits.edges.faithfulness import score_circuits
from babelscope.circuits.heads.routes import flow_routes
from babelscope.claims.case import Case, named_model
from babelscope.claims.verdict import Part, ends, not_above_chance, unread
from babelscope.models import Model
from babelscope.stats import pearson
from babelscope.studies.circuit_edges import control_prompts, halved
from babelscope.tasks import Options, PromptPair, build

LANGUAGES = ("en", "zh")
SHARE = 0.01
"""of the edges in a circuit, as documented for the pocket model"""


@dataclass(frozen=True)
class _Found:
    used: NDArray[np.bool_]
    """[prompt, layer, head] on the routes"""
    circuit: Circuit
    control: Circuit
    accuracy: tuple[int, int]
    """right of all prompts"""
    testing: Sequence[PromptPair]


@lru_cache(2)
def _measured(name: str, task: str, n: int, seed: int) -> tuple[Model, dict[str, _Found]]:
    """Routes and circuits of both languages; claim and twin share them."""
    model = named_model(name)
    wiring = Wiring.of(model)
    size = max(1, int(SHARE * wiring.allowed.sum()))
    others = control_prompts(model, task, LANGUAGES, Options(n=n, seed=seed))
    found: dict[str, _Found] = {}
    for code in LANGUAGES:
        pairs = list(build(task, model.tokenizer, code, n=n, seed=seed))
        ranking, testing = halved(pairs)
        own, control = (edge_attribution(model, some, "eap-ig").scores for some in (ranking, others[code]))
        whole = logit_differences(model, pairs, [wiring.allowed], reference(model, pairs, "resample"))[0]
        right = int((whole > 0).sum())
        found[code] = _Found(
            flow_routes(model, pairs).used(),
            sized_circuit(wiring, own, size),
            sized_circuit(wiring, control, size),
            (right, len(pairs)),
            testing,
        )
    return model, found


def ioi_shared(case: Case) -> list[Part]:
    """Pearson of head activation frequencies; faithfulness of each language's circuit on the other minus that of the
    control task's circuit of as many edges. Control of the first: heads permuted inside layers."""
    model, found = _measured(case.models[0], "ioi", case.n, case.seed)
    generator = np.random.default_rng(case.seed)
    first, second = (found[code] for code in LANGUAGES)
    names = ["Pearson", *(f"faithfulness {a} on {b} minus control circuit's" for a, b in (LANGUAGES, LANGUAGES[::-1]))]
    if why := not_above_chance({code: found[code].accuracy for code in LANGUAGES}):
        return [unread(name, case.n, "prompts", why) for name in names]
    used, circuit = second.used, second.circuit
    if case.twin == "heads":
        used = np.stack([layer[:, generator.permutation(layer.shape[1])] for layer in used.transpose(1, 0, 2)], 1)
        circuit = relabelled(circuit, generator)
    a, b = first.used.mean(0), used.mean(0)
    drawn = [pearson(_resampled(first.used, generator), _resampled(used, generator)) for _ in range(case.bootstrap)]
    null = [pearson(a, generator.permuted(b, axis=1)) for _ in range(max(200, case.draws))]
    low, high = ends([value for value in drawn if np.isfinite(value)], 3)
    # Fisher's z is not needed: resampled prompts make both frequencies noisier, so ends are of the deviations
    shift = pearson(a, b) - float(np.nanmean(drawn))
    parts = [
        Part(names[0], pearson(a, b), low + shift, min(high + shift, 1.0), case.n, "prompts",
             float(np.nanquantile(null, 0.975)))
    ]  # fmt: skip
    # renamed heads spoil a circuit wherever it runs: in the twin both directions use the renamed one
    own = relabelled(first.circuit, generator) if case.twin == "heads" else first.circuit
    for name, crossed, control, home in (
        (names[1], own, first.control, second),
        (names[2], circuit, second.control, first),
    ):
        scored = score_circuits(model, home.testing, [crossed, control])
        parts.append(_difference(name, scored, case))
    return parts


def _resampled(used: NDArray[np.bool_], generator: np.random.Generator) -> NDArray[np.float64]:
    return used[generator.integers(0, len(used), len(used))].mean(0)


def _difference(name: str, scored: Scored, case: Case) -> Part:
    prompts = len(scored.whole)
    if not scored.defined:
        why = "the whole model scores as the empty circuit"
        return unread(name, prompts, "prompts", why)
    picks = np.random.default_rng(case.seed).multinomial(prompts, np.full(prompts, 1 / prompts), case.bootstrap)
    drawn = scored.faithfulness(picks.astype(float))
    value = scored.faithfulness()
    low, high = ends((drawn[:, 0] - drawn[:, 1]).tolist(), 3)
    return Part(name, float(value[0] - value[1]), low, high, prompts, "prompts")
