"""The benchmarks' own arithmetic: slopes, verdicts, the table of the docs."""

from __future__ import annotations

import json

import pytest
from benchmarks import _measure, _table
from benchmarks.__main__ import verdicts


def test_a_slope_is_the_power_of_growth():
    assert _measure.slope([8, 16, 32], [1.0, 2.0**1.5, 8.0]) == pytest.approx(1.5)


def test_the_least_of_several_times_counts_and_ways_take_turns():
    order: list[str] = []
    clock = iter([0.0, 3.0, 10.0, 11.0, 20.0, 21.0, 30.0, 35.0])
    ways = {name: (lambda name=name: order.append(name)) for name in ("a", "b")}
    assert _measure.best(ways, 2, lambda: next(clock)) == {"a": 1.0, "b": 1.0}
    assert order == ["a", "b", "a", "b"]


@pytest.mark.parametrize(
    ("value", "bound", "better", "missed"),
    [
        (1.83, 2.0, "higher", True),
        (2.0, 2.0, "higher", False),
        (1.05, 1.05, "lower", False),
        (1.2, 1.05, "lower", True),
        (5.0, None, "lower", False),
        (float("nan"), None, "lower", True),
    ],
)
def test_a_bound_is_missed_on_its_worse_side_only(value, bound, better, missed):
    assert _table.misses(_measure.result("x", value, bound, better)) is missed


def test_the_gate_forgives_a_quarter_and_no_more(capsys):
    assert verdicts([_measure.result("x", 1.7, 2.0)])
    assert not verdicts([_measure.result("x", 1.5, 2.0)])
    assert "MISS x" in capsys.readouterr().out


def test_the_table_replaces_what_stood_between_the_marks_and_tells_misses(tmp_path):
    results, page = tmp_path / "results.json", tmp_path / "page.md"
    page.write_text(f"before\n{_table.BEGIN}\nstale\n{_table.END}\nafter\n", encoding="utf-8")
    _table.save(results, "recording", [_measure.result("fast", 1.83, 2.0), _measure.result("large", 2041.0, 1000.0)])
    _table.save(results, "routes", [_measure.result("memory", 5e8, None, "lower", "bytes")])
    _table.write(results, page)
    text = page.read_text(encoding="utf-8")
    assert "stale" not in text
    assert text.startswith("before")
    assert text.endswith("after\n")
    assert "| fast | 1.83 × | ≥ 2 | **missed** |" in text
    assert "| large | 2\u202f041 × | ≥ 1\u202f000 | holds |" in text
    assert "| memory | 5e+08 bytes | – |  |" in text
    assert set(json.loads(results.read_text(encoding="utf-8"))["benchmarks"]) == {"recording", "routes"}


def test_sequences_by_number_are_recorded_as_they_are():
    import torch
    from benchmarks import peers

    from babelscope.models import Model

    from .tiny_models import tiny_model

    model = Model(tiny_model("bloom"), None, id="tiny")
    means = peers.ours_recording(peers.numbered(model))
    seen: list[torch.Tensor] = []
    handle = model.hf.transformer.h[0].mlp.dense_4h_to_h.register_forward_pre_hook(
        lambda _, given: seen.append(given[0])
    )
    try:
        with torch.no_grad():
            model.hf(input_ids=peers.ids(model))
    finally:
        handle.remove()
    own = seen[0].mean(1)
    assert means.shape == (peers.SENTENCES, model.neurons)
    torch.testing.assert_close(torch.as_tensor(means)[:, : own.shape[1]], own, rtol=1e-4, atol=1e-5)


@pytest.mark.nightly
def test_growth_is_measured_of_every_work(tmp_path):
    import subprocess
    import sys

    out = tmp_path / "growth.json"
    command = [sys.executable, "-m", "benchmarks.growth", "--quick", "--repeat", "1", "--json", str(out)]
    subprocess.run(command, check=True, capture_output=True)
    results = json.loads(out.read_text(encoding="utf-8"))["results"]
    assert len(results) == 10
    assert all(row["value"] == row["value"] for row in results)
