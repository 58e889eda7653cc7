"""Two circuits runs side by side: edges by name within one model, heads by role between models."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from babelscope.circuits.comparison.head_matching import shuffled
from babelscope.circuits.core.graph import Wiring
from babelscope.circuits.edges.circuit import Circuit
from babelscope.circuits.heads.roles import Roles
from babelscope.results import RunWriter, open_run
from babelscope.studies.circuits_compare import _role_scores, compare_circuit_edges, compare_head_roles, same_model
from tests.command import command

WIRING = Wiring(layers=2, heads=4, kv_heads=4)


def made(path, model, codes, order, seed=0):
    """A run whose heads are those of one model, renamed by `order`."""
    generator = np.random.default_rng(seed)
    scores = np.where(WIRING.allowed, -generator.random(WIRING.allowed.shape), 0.0)
    edges = WIRING.allowed & (scores < -0.5)
    table = np.random.default_rng(1).normal(size=(8, 5))[order]
    with RunWriter(path, kind="circuits") as run:
        rows = []
        for code in codes:
            Circuit(WIRING, edges, scores).save(run.file(f"circuits/{code}.json"))
            for place, values in enumerate(table):
                named = {f"score {k}": float(value) for k, value in enumerate(values)}
                rows.append({"language": code, "layer": place // 4, "head": place % 4, **named})
        run.table("role_scores", pd.DataFrame(rows))
        run.manifest.update(task="ioi", languages=list(codes), model={"id": model}, summary={"model": model})
    return open_run(path)


def test_circuits_of_one_model_share_edges_by_name(tmp_path):
    first = made(tmp_path / "a", "toy", ["en"], np.arange(8))
    second = made(tmp_path / "b", "toy@step16", ["zh"], np.arange(8))
    assert same_model(first, second)
    found = compare_circuit_edges(first, second, permutations=200).set_index("measure")
    assert found.value["edge_iou"] == pytest.approx(1)
    assert set(found.language) == {"en"}
    assert set(found.language2) == {"zh"}
    assert found.p["edge_iou"] <= 0.1


def test_heads_of_two_models_are_matched_by_what_they_do(tmp_path):
    order = np.array([3, 0, 7, 1, 2, 6, 5, 4])
    first = made(tmp_path / "a", "toy", ["en", "zh"], np.arange(8))
    second = made(tmp_path / "b", "other", ["zh"], order, seed=5)
    assert not same_model(first, second)
    assert compare_circuit_edges(first, second).empty
    found = compare_head_roles(first, second, draws=49)
    assert set(found.language) == {"zh"}
    assert found.distance.max() == pytest.approx(0, abs=1e-9)
    assert found.matching_p.max() == pytest.approx(0.02)  # the whole matching beats each of 49 shuffles
    assert found.p.max() <= 0.04  # a single pair may be met by one of them
    matched = {(row.head, row.head2) for row in found.itertuples()}
    assert matched == {(f"{k // 4}.{k % 4}", f"{i // 4}.{i % 4}") for i, k in enumerate(order)}


def test_scores_of_a_table_have_attention_between_no_roles(tmp_path):
    found = _role_scores(made(tmp_path / "a", "toy", ["en"], np.arange(8)))["en"]
    for roles in (found, shuffled(found, np.random.default_rng(0))):
        assert roles.attention.shape == (0, 0, 2, 4)
    assert Roles.of_scores({}).attention.shape == (0, 0, 0, 0)


def test_the_command_prints_them_and_writes_them(tmp_path):
    for name in ("a", "b"):
        made(tmp_path / name, "toy", ["en"], np.arange(8))
    out = tmp_path / "tables"
    result = command("compare", tmp_path / "a", tmp_path / "b", "--out", out)
    assert result.exit_code == 0, result.output
    assert "heads by role" in result.output
    assert {"circuit_overlap.csv", "heads_by_role.csv"} <= {path.name for path in out.iterdir()}
