"""The circuit found in one language, run on another; and which of its nodes the languages share (section 6).

P pair
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from babelscope.circuits.comparison.overlap import random_circuit, relabelled
from babelscope.circuits.core.ablation import Ablation
from babelscope.circuits.core.faithfulness import Scored
from babelscope.circuits.core.nodes import Embedding, Sender
from babelscope.circuits.edges.circuit import Circuit, sized_circuit
from babelscope.circuits.edges.faithfulness import score_circuits
from babelscope.circuits.heads.labels import CANDIDATE
from babelscope.models.workers import Tell, over_workers
from babelscope.results.schemas.circuit_edges import CrossEdges, NodeClass
from babelscope.results.schemas.circuits import CrossRow
from babelscope.stats import Interval
from babelscope.terms import Construction

if TYPE_CHECKING:
    from babelscope.models import Model
    from babelscope.tasks import PromptPair

Array = NDArray[np.float64]
Class = Literal["shared", "repurposed", "first only", "second only"]
ALIKE = 0.5
"""Least cosine of a node's edge scores in two circuits that counts as doing the same thing, where no role is known"""


@dataclass(frozen=True)
class Beside:
    """What every circuit is held against."""

    controls: Mapping[str, Circuit] = field(default_factory=dict[str, Circuit])
    """the control task's circuit of each language"""
    random: int = 5
    """draws of random circuits, and of the circuit with its heads renamed"""
    seed: int = 0


def cross_faithfulness(
    model: Model,
    circuits: Mapping[str, Circuit],
    prompts: Mapping[str, Sequence[PromptPair]],
    beside: Beside | None = None,
    ablation: Ablation | str = Ablation.RESAMPLE,
    budget: int | None = None,
    done: Callable[[int], None] | None = None,
) -> list[CrossEdges]:
    """Faithfulness of every language's circuit on every language's prompts: one row per pair of languages.

    Each row holds f with its bootstrap interval over prompts, and beside it `random`: mean f of as many random circuits
    with as many edges (within 5 %, all on paths; mean size in `random_edges`); `relabelled`: of the circuit with its
    heads renamed inside their layers; `control`: of the control task's circuit of the language it was found in, cut to
    the same number of edges; `share`: f divided by the f of the own circuit of the language it is run on. NaN, with the
    reason in `why`, in a language in which the whole model does no better than nothing; `share` alone where the own
    circuit does no better. Raises as `score_circuits`.
    """
    beside = beside or Beside()
    generator = np.random.default_rng(beside.seed)
    names = list(circuits)
    extras = {name: _beside(circuits[name], beside.controls.get(name), beside.random, generator) for name in names}
    flat = [circuit for name in names for circuit in [circuits[name], *extras[name].values()]]
    labels = [(name, kind) for name in names for kind in ["own", *extras[name]]]
    rows: list[CrossEdges] = []
    asked = flat, ablation, budget
    for (run_on, pairs), scored in zip(
        prompts.items(), over_workers(model, _scoring, asked, list(prompts.values()), done)
    ):
        values = dict(zip(labels, scored.intervals(seed=beside.seed)))
        for found_in in names:
            own = values[found_in, "own"]
            home = values.get((run_on, "own"))
            rows.append(CrossEdges(
                found_in=found_in, run_on=run_on, faithfulness=own.value, low=own.low, high=own.high,
                random=_mean(values, found_in, "random"), random_edges=_mean_size(extras[found_in], "random"),
                relabelled=_mean(values, found_in, "relabelled"), control=_mean(values, found_in, "control"),
                share=own.value / home.value if home is not None and home.value > 0 else float("nan"),
                edges=circuits[found_in].size,
                why=_why(scored.defined, home), prompts=len(pairs),
            ))  # fmt: skip
    return rows


def _why(defined: bool, home: Interval | None) -> str:
    if not defined:
        return "the whole model scores as the empty circuit"
    return "no share: its own circuit keeps nothing" if home is not None and home.value <= 0 else ""


def _scoring(
    model: Model, asked: tuple[Sequence[Circuit], Ablation | str, int | None]
) -> Callable[[Sequence[PromptPair], Tell], Scored]:
    """Work of `over_workers`: circuits on the prompts of one language."""

    def scored(pairs: Sequence[PromptPair], tell: Tell) -> Scored:
        circuits, ablation, budget = asked
        found = score_circuits(model, pairs, circuits, ablation, budget)
        tell(len(pairs))
        return found

    return scored


def _beside(
    circuit: Circuit, control: Circuit | None, random: int, generator: np.random.Generator
) -> dict[str, Circuit]:
    wiring = circuit.wiring
    construction: Construction = "top" if circuit.about.get("construction") == "top" else "greedy"
    found = {f"random {draw}": random_circuit(wiring, circuit.size, generator, construction) for draw in range(random)}
    found |= {f"relabelled {draw}": relabelled(circuit, generator) for draw in range(random)}
    if control is not None:
        found["control"] = sized_circuit(wiring, control.scores, circuit.size, construction)
    return found


def _mean(values: Mapping[tuple[str, str], Interval], found_in: str, kind: str) -> float:
    chosen = [interval.value for (name, label), interval in values.items() if name == found_in and kind in label]
    return float(np.mean(chosen)) if chosen else float("nan")


def _mean_size(extras: Mapping[str, Circuit], kind: str) -> float:
    sizes = [circuit.size for name, circuit in extras.items() if kind in name]
    return float(np.mean(sizes)) if sizes else float("nan")


def matrix(rows: Sequence[CrossRow]) -> dict[str, dict[str, float]]:
    """The rows as {found in: {run on: faithfulness}}."""
    found: dict[str, dict[str, float]] = {}
    for row in rows:
        found.setdefault(row.found_in, {})[row.run_on] = row.faithfulness
    return found


def classify(first: Circuit, second: Circuit, alike: float = ALIKE) -> dict[Sender, Class]:
    """Every node of either circuit: shared, repurposed (in both, doing something else), or of one language only.

    A node in both is shared when its roles agree; where a role is unknown, or one that a head is only a candidate for,
    when the cosine of its edge scores in the two circuits is at least `alike` (ours).
    """
    found: dict[Sender, Class] = {}
    a, b = set(first.nodes), set(second.nodes)
    for node in first.wiring.writers:
        if isinstance(node, Embedding) or node not in a | b:
            continue
        if node in a and node in b:
            found[node] = "shared" if same_part(first, second, node, alike) else "repurposed"
        else:
            found[node] = "first only" if node in a else "second only"
    return found


def same_part(first: Circuit, second: Circuit, node: Sender, alike: float = ALIKE) -> bool:
    """Whether a node that two circuits hold does the same thing in both."""
    roles = [role for each in (first, second) if (role := each.roles.get(str(node), ""))]
    if len(roles) == 2 and not any(role.startswith(CANDIDATE) for role in roles):
        return roles[0] == roles[1]
    a, b = _profile(first, node), _profile(second, node)
    size = float(np.linalg.norm(a) * np.linalg.norm(b))
    return size > 0 and float(a @ b) / size >= alike


def _profile(circuit: Circuit, node: Sender) -> Float[Array, " edges"]:
    """Scores of all edges out of a node and into it, whether in the circuit or not."""
    wiring = circuit.wiring
    columns = [wiring.reader(reader) for reader in wiring.readers_of(node)]
    return np.concatenate([circuit.scores[wiring.writer(node)], circuit.scores[:, columns].ravel()])


def class_rows(language: str, language2: str, classes: Mapping[Sender, Class]) -> list[NodeClass]:
    """Rows for the table of classes, with the languages' names in place of first and second."""
    names = {"first only": f"{language} only", "second only": f"{language2} only"}
    return [
        NodeClass(language=language, language2=language2, node=str(node), class_=names.get(kind, kind))
        for node, kind in classes.items()
    ]
