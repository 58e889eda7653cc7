"""Two circuits runs side by side: edges they share where the model is one, heads that do the same where it is not."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd

from babelscope.circuits.comparison import overlap
from babelscope.circuits.comparison.head_matching import match_heads, shuffled
from babelscope.circuits.edges.circuit import Circuit
from babelscope.circuits.heads.roles import Roles
from babelscope.results import Run
from babelscope.results.rows import read_rows, rows_frame
from babelscope.results.schemas.circuit_edges import Overlap
from babelscope.results.schemas.circuits import RoleScores

OVERLAP = ["language", "language2", "measure", "value", "null", "p", "why"]
MATCHED = ["language", "language2", "head", "head2", "distance", "null_distance", "p", "matching_p"]


def same_model(first: Run, second: Run) -> bool:
    """Whether two runs are of one model, or of revisions of it, so that a head keeps its name between them.

    Only then are circuits compared by layer and head; heads of different models are matched by their roles.
    """
    return _base(first) == _base(second)


def _base(run: Run) -> str:
    return run.model_name.partition("@")[0]


def compare_circuit_edges(first: Run, second: Run, permutations: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Overlap of the runs' circuits (nodes, edges, scores), each with its null: one row per language and measure.

    The same language in both runs; where they share none, every language of the first with every one of the second.
    Empty for different models, and for runs without edges. Section 6.

    >>> compare_circuit_edges(open_run("runs/ioi"), open_run("runs/ioi-step256"))        # doctest: +SKIP
    """
    rows: list[Overlap] = []
    if same_model(first, second):
        kept = [_circuits(run) for run in (first, second)]
        for one, other in _pairs(list(kept[0]), list(kept[1])):
            if kept[0][one].wiring == kept[1][other].wiring:
                rows += overlap.rows(
                    one, other, overlap.circuit_overlap(kept[0][one], kept[1][other], permutations, seed)
                )
    return rows_frame(Overlap, rows).filter(OVERLAP)


def compare_head_roles(first: Run, second: Run, draws: int = 200, seed: int = 0) -> pd.DataFrame:
    """Heads of two runs matched by their role scores (Hungarian), never by index: one row per pair of heads.

    `null_distance`, `p`: the same matching with every score of the second run shuffled over its heads, so that each
    score keeps its values but no head keeps its combination of them. Section 4.

    >>> compare_head_roles(open_run("runs/gpt2-en"), open_run("runs/gpt2-zh")).head()    # doctest: +SKIP
    """
    rows: list[dict[str, object]] = []
    scored = [_role_scores(run) for run in (first, second)]
    generator = np.random.default_rng(seed)
    for one, other in _pairs(list(scored[0]), list(scored[1])):
        own, theirs = scored[0][one], scored[1][other]
        if not {n for n in own.scores if np.isfinite(own.scores[n]).all()} & set(theirs.scores):
            continue
        null = [shuffled(theirs, generator) for _ in range(draws)]
        found = match_heads(own, theirs, null)
        for place, (a, b) in enumerate(found.pairs):
            distances = {"distance": float(found.distance[place]), "null_distance": float(found.null[place])}
            rows.append(
                {
                    "language": one,
                    "language2": other,
                    "head": str(a),
                    "head2": str(b),
                    **distances,
                    "p": float(found.pair_p[place]),
                    "matching_p": found.p,
                }
            )
    return pd.DataFrame(rows, columns=MATCHED)


def _pairs(first: list[str], second: list[str]) -> list[tuple[str, str]]:
    shared = [(code, code) for code in first if code in second]
    return shared or list(product(first, second))


def _circuits(run: Run) -> dict[str, Circuit]:
    files = {code: run.path / "circuits" / f"{code}.safetensors" for code in run.languages}
    return {code: Circuit.load(path) for code, path in files.items() if path.is_file()}


def _role_scores(run: Run) -> dict[str, Roles]:
    if "role_scores" not in run.tables:
        return {}
    found: dict[str, Roles] = {}
    table = run.table("role_scores")
    heads = read_rows(run, RoleScores)
    names = [str(name) for name in table.columns if name not in ("language", "layer", "head", "model")]
    for code in dict.fromkeys(row.language for row in heads):
        model = next(row.model for row in heads if row.language == code)
        places = [place for place, row in enumerate(heads) if (row.language, row.model) == (code, model)]
        shape = max(heads[place].layer for place in places) + 1, max(heads[place].head for place in places) + 1
        scores = {name: np.full(shape, np.nan) for name in names}
        for name in names:
            values = table[name].tolist()
            for place in places:
                scores[name][heads[place].layer, heads[place].head] = values[place]
        found[code] = Roles.of_scores(scores)
    return found
