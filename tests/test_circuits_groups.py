"""What is patched together: groups of senders, units of a sweep, chunks that fit in memory."""

from __future__ import annotations

import pytest
import torch

from babelscope.circuits.core.nodes import EMBEDDING, MLP, Expert, Head, Mixer
from babelscope.circuits.patching import swept_batches
from babelscope.circuits.patching.swept_batches import Asked, Sweep, groups_of, in_chunks


def test_senders_that_enter_at_one_place_are_grouped():
    senders = [MLP(0), Head(1, 1), Expert(0, 1), Head(0, 0), EMBEDDING, Mixer(1), Head(1, 0), Expert(0, 0), MLP(1)]
    assert list(groups_of(senders)) == [
        [EMBEDDING], [Head(0, 0)], [MLP(0)], [Expert(0, 1), Expert(0, 0)], [Head(1, 1), Head(1, 0)],
        [Mixer(1)], [MLP(1)],
    ]  # fmt: skip


def asked(senders, **alike):
    return Asked((), tuple(senders), None, Sweep(), alike=alike.get("alike", {}))


def test_units_hold_about_so_many_senders(monkeypatch):
    monkeypatch.setattr(swept_batches, "TOGETHER", 4)
    senders = [Head(layer, head) for layer in range(4) for head in range(3)]
    units = [(unit.batch, unit.start, unit.end) for unit in asked(senders).units(2)]
    assert units == [(0, 0, 2), (0, 2, 4), (1, 0, 2), (1, 2, 4)]
    assert [(unit.start, unit.end) for unit in asked(senders[:9]).units(1)] == [(0, 2), (2, 3)]
    wide = [Head(layer, head) for layer in range(2) for head in range(4)]
    assert [(unit.start, unit.end) for unit in asked(wide).units(1)] == [(0, 1), (1, 2)]


def test_groups_of_one_number_are_put_together_and_others_are_not():
    senders = [Head(layer, head) for layer in range(4) for head in range(2)]
    alike = {node: node.layer // 2 for node in senders}
    assert [len(group) for group in asked(senders, alike=alike).groups()] == [4, 4]
    assert [len(group) for group in asked(senders, alike=dict.fromkeys(senders[:2], 0)).groups()] == [2, 2, 2, 2]
    assert [len(group) for group in asked(senders).groups()] == [2, 2, 2, 2]


def test_chunks_that_do_not_fit_are_halved_and_come_in_order():
    cpu, seen = torch.device("cpu"), []

    def work(chunk):
        seen.append(list(chunk))
        if len(chunk) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return sum(chunk)

    assert list(in_chunks(range(5), 2, work, cpu)) == [(range(2), 1), (range(2, 4), 5), (range(4, 5), 4)]
    seen.clear()
    assert [total for _, total in in_chunks(range(7), 5, work, cpu)] == [0 + 1, 2, 3 + 4, 5 + 6]
    assert seen == [[0, 1, 2, 3, 4], [0, 1, 2], [0, 1], [2], [3, 4], [5, 6]]

    def never(_):
        raise torch.OutOfMemoryError("out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        list(in_chunks(range(2), 2, never, cpu))
    with pytest.raises(ZeroDivisionError):
        list(in_chunks(range(2), 2, lambda _: 1 / 0, cpu))
