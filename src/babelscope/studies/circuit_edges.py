"""The second half of a circuits study: routes, edges by fast attribution, circuits as masks, languages compared.

Edges are ranked on one half of a language's prompts and everything is tested on the other half.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import combinations

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from babelscope.circuits.comparison import head_frequency, overlap, transfer
from babelscope.circuits.comparison.method_agreement import agreements, confirmed, input_agreements
from babelscope.circuits.core.faithfulness import BUDGETS, Area, Curve
from babelscope.circuits.core.graph import Wiring
from babelscope.circuits.core.nodes import MLP, Head, Mixer
from babelscope.circuits.edges.atp import NodeScores, attribution_patching
from babelscope.circuits.edges.circuit import Circuit, greedy_edges, top_edges
from babelscope.circuits.edges.eap import Attribution, Variant, edge_attribution
from babelscope.circuits.edges.faithfulness import EdgeSpace, edge_curve, edge_curves
from babelscope.circuits.edges.ungrouping import ungrouped
from babelscope.circuits.heads.ablation import NodeSpace, node_curves
from babelscope.circuits.heads.routes import SWEEP, THRESHOLD, Routes, flow_routes
from babelscope.errors import InputError, TaskError
from babelscope.models import Model
from babelscope.models.workers import Tell, over_workers
from babelscope.results import RunWriter
from babelscope.results.rows import rows_frame
from babelscope.results.schemas.circuit_edges import (
    Agreed,
    CrossEdges,
    EdgeCurve,
    NodeClass,
    NodeCurve,
    Overlap,
)
from babelscope.studies.circuit_curves import edge_rows, node_rows
from babelscope.studies.progress import Progress, silent
from babelscope.tasks import Options, PromptPair, build, task_named
from babelscope.terms import Construction, Counted, Half, Slope

Array = NDArray[np.float64]
Pairs = Sequence[PromptPair]


@dataclass(frozen=True)
class EdgeSettings:
    """Settings of the second half; every one is recorded with the run."""

    thresholds: tuple[float, ...] = SWEEP
    threshold: float = THRESHOLD
    """τ of the head activation frequency"""
    steps: int = 5
    """m of integrated gradients (midpoint rule)"""
    share: float | None = None
    """edges of each language's circuit, as a share of all; default: the first budget of mean faithfulness `faithful`"""
    faithful: float = 0.8
    budgets: tuple[float, ...] = BUDGETS
    ablation: str = "resample"
    random: int = 5
    """random and renamed circuits beside each one"""
    permutations: int = 1000
    """renamed circuits of the null of overlap"""
    counted: Counted = "native"
    """edges into keys and values are counted by native key/value head, or by query head as MIB does"""
    construction: Construction = "greedy"
    """circuits grow from the logits upwards, or (top, as in MIB) hold the strongest edges; both are pruned"""
    slopes: tuple[Slope, ...] = ("ld",)
    """what edges are attributed by: the first ranks circuits, all stand in the table of agreement"""
    half: Half = "test"
    """prompts that faithfulness over budgets is taken on: those not used for ranking, or the very same (in-sample)"""
    confirm: int = 30
    """strongest edges of each method that are patched one by one"""
    k: int = 10
    """of top-k recall"""
    control: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.threshold not in self.thresholds:
            raise InputError(f"the routes' threshold {self.threshold:g} is not among those swept")
        if self.share is not None and not 0 < self.share <= 1:
            raise InputError(f"a circuit's share of the edges lies in (0, 1], got {self.share:g}")


@dataclass(frozen=True)
class Edges:
    """What was found: labelled arrays, tables, one circuit per language, and numbers for the summary."""

    arrays: xr.Dataset
    tables: dict[str, pd.DataFrame]
    circuits: dict[str, Circuit]
    summary: dict[str, object]
    settings: dict[str, object] = field(default_factory=dict[str, object])

    def write(
        self, run: RunWriter, table: Callable[[str, pd.DataFrame], None], files: Mapping[str, str], arrays: bool = True
    ) -> None:
        """Put everything into a run; `table` takes its tables, `files` names each language's circuit."""
        if arrays:
            run.arrays(self.arrays)
        for name, frame in self.tables.items():
            if len(frame):
                table(name, frame)
        for code, circuit in self.circuits.items():
            path = run.file(f"circuits/{files[code]}.json")
            known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
            circuit.save(path)
            told = json.loads(path.read_text(encoding="utf-8"))
            path.write_text(json.dumps(known | told, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class _Language:
    routes: Routes
    control_routes: Routes | None
    methods: dict[str, Attribution]
    nodes: NodeScores
    control: Attribution | None
    heads: dict[str, Array]
    """every method's scores of heads"""
    curves: dict[Area, Curve]
    """by signed scores for CPR, by absolute ones for CMD"""
    by_node: dict[Area, Curve]
    """the same for circuits of heads and MLPs"""
    half: Half
    """prompts that the curves were taken on"""
    sizing: Curve
    """by absolute scores on the prompts that rank, from which the size of the circuits follows"""


def find_edges(
    model: Model,
    prompts: Mapping[str, Pairs],
    settings: EdgeSettings | None = None,
    patching: Mapping[str, Array] | None = None,
    roles: Mapping[str, Mapping[str, str]] | None = None,
    controls: Mapping[str, Pairs] | None = None,
    progress: Progress = silent,
) -> Edges:
    """Routes, edge circuits and their comparison across languages.

    `prompts`: pairs by language; `patching`: heads' activation patching effects by language, for the table of
    agreement; `roles`: node → role by language; `controls`: pairs of a control task by language. Raises
    UnsupportedModel where writes do not add up, TaskError for bad pairs.

    >>> found = find_edges(model, {"en": en, "zh": zh})                                  # doctest: +SKIP
    >>> found.summary["cross_faithfulness_edges"]["en"]["zh"]                            # doctest: +SKIP
    0.71
    """
    settings = settings or EdgeSettings()
    controls = controls or {}
    halves = {code: halved(pairs) for code, pairs in prompts.items()}
    asked = _Asked(settings, {code: (prompts[code], *half) for code, half in halves.items()}, controls, patching or {})
    found: dict[str, _Language] = {}
    rows: list[Agreed] = []
    with progress("routes and edges", sum(map(asked.runs, prompts)), "prompts") as step:
        for code, (language, agreed) in zip(prompts, over_workers(model, _by_language, asked, list(prompts), step)):
            found[code] = language
            rows += agreed
    model = as_counted(model, settings)
    wiring = Wiring.of(model)
    size = circuit_size(settings, wiring, {code: each.sizing for code, each in found.items()})
    make = greedy_edges if settings.construction == "greedy" else top_edges
    ranked = ranked_by(settings.slopes[0])
    about = dict(method=ranked, steps=settings.steps, ablation=settings.ablation, model=model.id)
    circuits = {
        code: make(wiring, each.methods[ranked].scores, size, about={**about, "language": code}).with_roles(
            (roles or {}).get(code, {})
        )
        for code, each in found.items()
    }
    tests = {code: testing for code, (_, testing) in halves.items()}
    own = {c: make(wiring, x.control.scores, size) for c, x in found.items() if x.control is not None}
    with progress("circuits of each language on every other", sum(map(len, tests.values())), "prompts") as step:
        beside = transfer.Beside(own, settings.random, settings.seed)
        crossed = transfer.cross_faithfulness(model, circuits, tests, beside, settings.ablation, done=step)
    classes = [
        row
        for a, b in combinations(circuits, 2)
        for row in transfer.class_rows(a, b, transfer.classify(circuits[a], circuits[b]))
    ]
    grouped = wiring.heads != wiring.kv_heads
    counted = f"{settings.counted}: not comparable with MIB" if grouped else settings.counted
    curves = [
        row
        for code, x in found.items()
        for row in edge_rows(code, x.curves, x.half, settings.construction, counted, settings.seed)
    ]
    node_curves = [row for code, x in found.items() for row in node_rows(code, x.by_node, x.half, settings.seed)]
    tables = {
        Agreed.TABLE: rows_frame(Agreed, rows),
        EdgeCurve.TABLE: rows_frame(EdgeCurve, curves),
        NodeCurve.TABLE: rows_frame(NodeCurve, node_curves),
        Overlap.TABLE: rows_frame(Overlap, _overlap_rows(settings, found, circuits)),
        CrossEdges.TABLE: rows_frame(CrossEdges, crossed),
        NodeClass.TABLE: rows_frame(NodeClass, classes),
    }
    return Edges(
        _arrays(model, settings, found),
        tables,
        circuits,
        _summary(found, circuits, crossed, size, wiring),
        asdict(settings),
    )


def halved(pairs: Pairs) -> tuple[list[PromptPair], list[PromptPair]]:
    """Every other pair for finding, the rest for testing (fewer than eight: all for both); templates fall into both."""
    listed = list(pairs)
    if len(listed) < 8:
        return listed, listed
    # items run through the templates in both orders, so pairs are dealt in twos
    return [p for i, p in enumerate(listed) if i // 2 % 2 == 0], [p for i, p in enumerate(listed) if i // 2 % 2]


def control_prompts(model: Model, task: str, codes: Sequence[str], options: Options) -> dict[str, list[PromptPair]]:
    """Pairs of the control task in each language in which there are any."""
    found: dict[str, list[PromptPair]] = {}
    for code in codes:
        try:
            found[code] = list(build(task_named(task).control, model.tokenizer, code, options))
        except TaskError:
            continue
    return found


def circuit_size(settings: EdgeSettings, wiring: Wiring, curves: Mapping[str, Curve]) -> int:
    """Edges of every language's circuit, one number so that circuits compare: as asked, or as faithfulness needs."""
    total = int(wiring.allowed.sum())
    if settings.share is not None:
        return max(1, int(settings.share * total))
    sound = [curve.faithfulness for curve in curves.values() if np.isfinite(curve.faithfulness).all()]
    mean = np.mean(sound, axis=0) if sound else np.full(len(settings.budgets), np.nan)
    enough = [share for share, value in zip(settings.budgets, mean) if value >= settings.faithful]
    return max(1, int((enough[0] if enough else settings.budgets[-1]) * total))


def as_counted(model: Model, settings: EdgeSettings) -> Model:
    """The model with its edges as they are counted."""
    return ungrouped(model) if settings.counted == "query-heads" else model


@dataclass(frozen=True)
class _Asked:
    """What is asked of every language."""

    settings: EdgeSettings
    pairs: Mapping[str, tuple[Pairs, Pairs, Pairs]]
    """all of them, those that rank, those that test"""
    controls: Mapping[str, Pairs]
    patching: Mapping[str, Array]

    def runs(self, code: str) -> int:
        """Prompts that are run for routes and attribution in a language."""
        (everything, ranking, _), control = self.pairs[code], len(self.controls.get(code, ()))
        steps = self.settings.steps
        return len(everything) + control + (steps + 3) * len(ranking) + steps * control


def _by_language(model: Model, asked: _Asked) -> Callable[[str, Tell], tuple[_Language, list[Agreed]]]:
    """Work of `over_workers`: everything about one language."""
    settings, model = asked.settings, as_counted(model, asked.settings)

    def found(code: str, tell: Tell) -> tuple[_Language, list[Agreed]]:
        _, _, testing = asked.pairs[code]
        language = _language(model, asked, code, tell)
        rows = list(agreements(language.heads, settings.k, "heads", language=code))
        said, _ = confirmed(model, testing, language.methods, settings.confirm, settings.ablation)
        rows += agreements(said, settings.k, "edges", language=code)
        rows += input_agreements(model, language.nodes, testing, settings.k, language=code)
        return language, rows

    return found


def _language(model: Model, asked: _Asked, code: str, done: Tell) -> _Language:
    settings, (everything, ranking, testing) = asked.settings, asked.pairs[code]
    control, patching = asked.controls.get(code), asked.patching.get(code)
    routes = flow_routes(model, everything, settings.thresholds, done=done)
    beside = flow_routes(model, control, settings.thresholds, done=done) if control else None
    attribution = partial(edge_attribution, ablation=settings.ablation, done=done)
    methods = {
        "eap": attribution(model, ranking, "eap"),
        "eap-ig": attribution(model, ranking, "eap-ig", settings.steps),
        "relp": attribution(model, ranking, "relp"),
    }
    for slope in settings.slopes:
        if slope != "ld":
            variant = Variant(slope=slope)
            methods[ranked_by(slope)] = attribution(model, ranking, "eap-ig", settings.steps, variant=variant)
    nodes = attribution_patching(model, ranking, done=done)
    variant = Variant(slope=settings.slopes[0])
    other = edge_attribution(model, control, "eap-ig", settings.steps, done=done, variant=variant) if control else None
    half: Half = settings.half if ranking is not testing else "ranking"
    space = EdgeSpace(model, testing if half == "test" else ranking, settings.ablation)
    scores, how, budgets = methods[ranked_by(settings.slopes[0])].scores, settings.construction, settings.budgets
    curves = edge_curves(space, scores, how, budgets)
    sizing = curves["cmd"]
    if half == "test" and settings.share is None:  # the size is not chosen on the prompts that judge the circuits
        sizing = edge_curve(EdgeSpace(model, ranking, settings.ablation), scores, "cmd", how, budgets)
    parts = NodeSpace(model, space.pairs, settings.ablation, mlps=True)
    effects = node_effects(nodes)
    by_node = node_curves(parts, effects, budgets)
    heads: dict[str, Array] = {"routes": routes.frequency(settings.threshold), "atp": nodes.heads}
    heads |= {name: edges.heads for name, edges in methods.items()}
    if patching is not None:
        heads["patching"] = patching
    return _Language(routes, beside, methods, nodes, other, heads, curves, by_node, half, sizing)


def ranked_by(slope: Slope) -> str:
    """The name that integrated gradients of something go by in a run."""
    return "eap-ig" if slope == "ld" else f"eap-ig {slope}"


def node_effects(nodes: NodeScores) -> dict[Head | MLP | Mixer, float]:
    """Estimated effects of heads, other mixers and MLPs, by which circuits of nodes are ranked."""
    found: dict[Head | MLP | Mixer, float] = {Head(x, y): float(v) for (x, y), v in np.ndenumerate(nodes.heads)}
    found |= {Mixer(layer): float(value) for layer, value in enumerate(nodes.mixers)}
    return found | {MLP(layer): float(value) for layer, value in enumerate(nodes.mlps)}


def _overlap_rows(
    settings: EdgeSettings, found: Mapping[str, _Language], circuits: Mapping[str, Circuit]
) -> list[Overlap]:
    rows: list[Overlap] = []
    for a, b in combinations(found, 2):
        first, second = found[a], found[b]
        controls = None
        if first.control_routes is not None and second.control_routes is not None:
            tau = settings.threshold
            controls = first.control_routes.frequency(tau), second.control_routes.frequency(tau)
        agreement = head_frequency.compare(
            first.routes.used(settings.threshold), second.routes.used(settings.threshold), controls, seed=settings.seed
        )
        rows += head_frequency.rows({(a, b): agreement})
        draws = settings.permutations, settings.seed
        rows += overlap.rows(a, b, overlap.circuit_overlap(circuits[a], circuits[b], *draws))
        rows += overlap.rows(b, a, overlap.circuit_overlap(circuits[b], circuits[a], *draws, overlap.DIRECTED))
    return rows


def _arrays(model: Model, settings: EdgeSettings, found: Mapping[str, _Language]) -> xr.Dataset:
    half, tau = ("language", "layer", "head"), settings.threshold
    sweep = np.stack([x.routes.heads.mean(1) for x in found.values()])
    data: dict[str, object] = {
        "head_frequency": (half, np.stack([x.routes.frequency(tau) for x in found.values()])),
        "mlp_frequency": (("language", "layer"), np.stack([x.routes.mlp_frequency(tau) for x in found.values()])),
        "head_frequency_sweep": (("language", "threshold", "layer", "head"), sweep),
    }
    for name in ("eap", "eap-ig", "relp"):
        scores = np.stack([x.methods[name].heads for x in found.values()])
        data[f"attribution_{name.replace('-', '_')}"] = (half, scores)
    coords = {
        "language": list(found),
        "threshold": sorted(settings.thresholds),
        "layer": np.arange(model.layers),
        "head": np.arange(model.heads),
    }
    return xr.Dataset(data, coords=coords)


def _summary(
    found: Mapping[str, _Language],
    circuits: Mapping[str, Circuit],
    crossed: Sequence[CrossEdges],
    size: int,
    wiring: Wiring,
) -> dict[str, object]:
    return {
        "edges": {code: circuit.size for code, circuit in circuits.items()},
        "edges_asked": size,
        "edges_of_model": int(wiring.allowed.sum()),
        "cpr": {code: each.curves["cpr"].value for code, each in found.items()},
        "cmd": {code: each.curves["cmd"].value for code, each in found.items()},
        "cross_faithfulness_edges": transfer.matrix(crossed),
    }
