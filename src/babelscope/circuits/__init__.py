"""Circuits: which parts of a model do a task, what each one does, and whether two languages use the same ones.

Prompts come from `babelscope.tasks`; whole studies, which end in a run directory, are in `babelscope.studies.circuits`.

>>> from babelscope import load_model
>>> from babelscope.circuits import find_circuit
>>> from babelscope.tasks import build
>>> model = load_model("pocket:pocket-bloom-m")                                          # doctest: +SKIP
>>> prompts = build("ioi", model.tokenizer, "en", n=60)                                  # doctest: +SKIP
>>> find_circuit(model, {"pabc": prompts.pairs})["name_movers"].supporting               # doctest: +SKIP
(Head(layer=4, head=5), Head(layer=4, head=4), Head(layer=3, head=0))
"""

from babelscope.circuits.comparison.head_matching import Match, match_heads, random_twin
from babelscope.circuits.comparison.overlap import circuit_overlap
from babelscope.circuits.comparison.transfer import classify, cross_faithfulness
from babelscope.circuits.core.ablation import Ablation, reference
from babelscope.circuits.core.effects import Effects
from babelscope.circuits.core.faithfulness import Curve, Scored, completeness, minimality, score
from babelscope.circuits.core.graph import Wiring
from babelscope.circuits.core.metrics import Behaviour, behaviour, logit_differences
from babelscope.circuits.core.nodes import (
    EMBEDDING,
    FINAL,
    LOGITS,
    MLP,
    Expert,
    Head,
    Mixer,
    Receiver,
    heads_of,
    mixers_of,
    mlps_of,
    parse_node,
    receivers,
)
from babelscope.circuits.edges.atp import NodeScores, attribution_patching
from babelscope.circuits.edges.circuit import Circuit, greedy_edges, sized_circuit, top_edges
from babelscope.circuits.edges.eap import Attribution, edge_attribution
from babelscope.circuits.edges.faithfulness import EdgeSpace, edge_curve, score_circuits
from babelscope.circuits.edges.mib import read_graph, write_graph
from babelscope.circuits.edges.single_edges import edge_effects
from babelscope.circuits.heads.ablation import NodeSpace, ablated_differences, matched_random, node_curve, windows
from babelscope.circuits.heads.dla import attributions, promoted
from babelscope.circuits.heads.lens import Lens, logit_lens
from babelscope.circuits.heads.patterns import attention_between, attention_patterns
from babelscope.circuits.heads.roles import Roles, role_scores
from babelscope.circuits.heads.routes import Routes, flow_routes
from babelscope.circuits.patching.counterfactual import same_answer
from babelscope.circuits.patching.methods import activation_patching, path_patching
from babelscope.circuits.patching.search import Search, SearchSettings, find_circuit
from babelscope.circuits.patching.selection import Growth, Selection, growth, select
from babelscope.tasks.ioi import STEPS as IOI
from babelscope.tasks.steps import ANY, Step
from babelscope.tasks.tense import STEPS as TENSE

__all__ = [
    "ANY",
    "EMBEDDING",
    "FINAL",
    "IOI",
    "LOGITS",
    "MLP",
    "Expert",
    "TENSE",
    "Ablation",
    "Attribution",
    "Behaviour",
    "Circuit",
    "Curve",
    "EdgeSpace",
    "Effects",
    "Growth",
    "Head",
    "Lens",
    "Match",
    "Mixer",
    "NodeScores",
    "NodeSpace",
    "Receiver",
    "Roles",
    "Routes",
    "Scored",
    "Search",
    "SearchSettings",
    "Selection",
    "Step",
    "Wiring",
    "ablated_differences",
    "activation_patching",
    "attention_between",
    "attention_patterns",
    "attribution_patching",
    "attributions",
    "behaviour",
    "circuit_overlap",
    "classify",
    "completeness",
    "cross_faithfulness",
    "edge_attribution",
    "edge_curve",
    "edge_effects",
    "find_circuit",
    "flow_routes",
    "greedy_edges",
    "growth",
    "heads_of",
    "logit_differences",
    "logit_lens",
    "match_heads",
    "matched_random",
    "minimality",
    "mixers_of",
    "mlps_of",
    "node_curve",
    "parse_node",
    "path_patching",
    "promoted",
    "random_twin",
    "read_graph",
    "receivers",
    "reference",
    "role_scores",
    "same_answer",
    "score",
    "score_circuits",
    "select",
    "sized_circuit",
    "top_edges",
    "windows",
    "write_graph",
]
