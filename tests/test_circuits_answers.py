"""Batches of prompts and the scores of their answers, against plain loops."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from babelscope.circuits.core import logit_diff, metrics
from babelscope.circuits.core.ablation import _mean_constants, prompts_alone
from babelscope.circuits.core.batching import batches, check_pairs, first_difference
from babelscope.circuits.core.cache import run
from babelscope.circuits.core.residual import Values
from babelscope.errors import TaskError
from babelscope.models import Model
from tests.random_pairs import random_pair, random_pairs
from tests.tiny_models import tiny_model, tiny_tokenizer

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def llama():
    return Model(tiny_model("llama"), tiny_tokenizer(), id="llama")


@pytest.mark.parametrize(("budget", "sizes"), [(18, [2, 2, 1]), (17, [1] * 5), (5, [1] * 5), (27, [3, 2]), (45, [5])])
def test_batches_hold_as_many_rows_as_fit(budget, sizes):
    pairs = [random_pair(item) for item in range(5)]
    found = list(batches(pairs, budget, CPU))
    assert [len(rows) for rows in found] == sizes
    assert sorted(place for rows in found for place in rows.index) == [0, 1, 2, 3, 4]


def test_rows_of_one_batch_change_at_about_the_same_place():
    pairs = [random_pair(item, changed=(place, 7)) for item, place in enumerate((5, 1, 4, 2, 3, 0))]
    pairs.append(replace(pairs[0], corrupted=pairs[0].clean))
    found = list(batches(pairs, 18, CPU))
    assert [rows.index for rows in found] == [(5, 1), (3, 4), (2, 0), (6,)]
    spans = [rows.span(None, rows.clean, rows.corrupted).shape[1] for rows in found]
    assert spans == [9, 7, 5, 1]  # from the first change of any row; the answer's position where nothing changes


def test_longer_answers_make_two_rows_of_the_prompt_and_all_but_its_last_word():
    pair = random_pair(3, answer=(3, 1))
    by_sign = {rows.signs[0]: rows for rows in batches([pair], 1, CPU)}
    assert by_sign[1].clean.tolist() == [[*pair.clean, *pair.target[:2]]]
    assert by_sign[1].corrupted.tolist() == [[*pair.corrupted, *pair.target[:2]]]
    assert by_sign[-1].clean.tolist() == [list(pair.clean)]
    assert (by_sign[1].answer, by_sign[1].words.tolist(), by_sign[1].foils) == (3, [list(pair.target)], None)
    assert by_sign[1].span("END", by_sign[1].clean, by_sign[1].corrupted).tolist() == [[8, 9, 10]]
    same = by_sign[1].span(None, by_sign[1].clean, by_sign[1].clean)
    assert same.tolist() == [[8, 9, 10]]
    (one,) = batches([random_pair(0)], 1, CPU)
    assert (one.signs, one.words[0, 0], one.foils[0]) == ((0,), random_pair(0).target[0], random_pair(0).foil[0])


def test_shorter_spans_of_a_role_repeat_their_last_position():
    pairs = [replace(random_pair(0), roles={"A": (2, 5), "END": (8, 9)}), replace(random_pair(1), roles={"A": (4, 5)})]
    (rows,) = batches(pairs, 99, CPU)
    assert dict(zip(rows.index, rows.span("A", rows.clean, rows.corrupted).tolist())) == {0: [2, 3, 4], 1: [4, 4, 4]}
    with pytest.raises(TaskError, match="no role 'B' in en t0; there are A, END"):
        next(batches(pairs[:1], 99, CPU)).span("B", rows.clean, rows.corrupted)


def test_the_first_difference_of_any_row():
    base = torch.zeros(2, 5, dtype=torch.long)
    other = base.clone()
    assert first_difference(base, other) == 4
    other[1, 3] = other[0, 2] = 1
    assert first_difference(base, other) == 2
    other[1, 0] = 1
    assert first_difference(base, other) == 0


def test_pairs_that_cannot_be_patched_are_named():
    pair = random_pair(4)
    odd = SimpleNamespace(**{name: getattr(pair, name) for name in ("item", "language", "template", "clean", "foil")})
    odd.corrupted, odd.target = pair.corrupted[:-1], pair.target
    with pytest.raises(TaskError, match=r"^pair 4 \(en t0\): clean has 9 tokens and corrupted 8$"):
        check_pairs([pair, odd])
    odd.corrupted, odd.target = pair.corrupted, list(pair.foil)
    with pytest.raises(TaskError, match=r"^pair 4 \(en t0\): target and foil are the same tokens"):
        check_pairs([odd])
    with pytest.raises(TaskError, match="no prompt pair was given"):
        list(batches([], 9, CPU))


def logged(model, rows, final):
    """log p of each row's words and of its foil, plainly."""
    found = []
    for row in range(len(rows)):
        own = sum(
            float(model.logits(final[row, step][None])[0].double().log_softmax(-1)[int(word)])
            for step, word in enumerate(rows.words[row])
        )
        first = model.logits(final[row, 0][None])[0].double().log_softmax(-1)
        found.append((own, None if rows.foils is None else float(first[int(rows.foils[row])])))
    return found


@torch.no_grad()
@pytest.mark.parametrize("held", [2**24, 97 * 2, 1])
def test_answers_are_scored_alike_however_few_logits_are_held(llama, monkeypatch, held):
    """Three variants of each batch, against one log softmax at a time."""
    monkeypatch.setattr(logit_diff, "LOGIT_ELEMENTS", held)
    pairs = random_pairs()
    into, expected = np.zeros((5, 2, len(pairs))), np.zeros((5, 2, len(pairs)))
    for rows in batches(pairs, 20, CPU):
        finals = torch.randn(3, len(rows), rows.answer, llama.width, generator=torch.Generator().manual_seed(1))
        logit_diff.add_answers(llama, rows, finals, into, [4, 0, 2])
        scores = logit_diff.scores(llama, rows, finals)
        target = logit_diff.followed(llama, rows, finals, "loss")
        own, other, _, _ = metrics._scored(llama, rows, finals[1])
        kl = logit_diff.divergence(llama, finals[0, :, 0], finals[:, :, 0])
        before = llama.logits(finals[0, :, 0]).double().log_softmax(-1)
        for variant, place in enumerate([4, 0, 2]):
            plain = logged(llama, rows, finals[variant])
            now = llama.logits(finals[variant, :, 0]).double().log_softmax(-1)
            assert kl[variant].numpy() == pytest.approx((before.exp() * (before - now)).sum(-1).numpy(), abs=1e-5)
            for row, (sign, index, (first, second)) in enumerate(zip(rows.signs, rows.index, plain)):
                expected[place, 0 if sign >= 0 else 1, index] += first
                expected[place, 1, index] += second or 0
                assert float(target[variant, row]) == pytest.approx(first if sign >= 0 else 0, abs=1e-4)
                ld = first - second if sign == 0 else sign * first
                assert float(scores[variant, row]) == pytest.approx(ld, abs=1e-4)
                if variant == 1:
                    assert (own[row], other[row]) == pytest.approx((first, second or 0), abs=1e-4)
    assert into == pytest.approx(expected, abs=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("budget", [9, 20, 500])
def test_constants_begin_at_the_means_over_prompts_and_positions(llama, budget):
    pairs = random_pairs()
    found = _mean_constants(llama, pairs, budget)
    rows_of = [rows.corrupted for rows in batches(pairs, 1, CPU)]
    whole = [Values.of(run(llama, ids)).listed() for ids in rows_of]
    tokens = sum(ids.numel() for ids in rows_of)
    for place, part in enumerate(found.listed()):
        assert torch.allclose(part, sum(each[place].sum((0, 1)) for each in whole) / tokens, atol=1e-5)


def test_a_prompt_is_alone_where_no_other_has_its_template_order_and_lengths():
    first, second = random_pair(0), random_pair(0, changed=(2, 5))
    apart = [random_pair(1), random_pair(0, length=10), random_pair(0, answer=(2, 1)), random_pair(0, answer=(1, 2))]
    assert prompts_alone([first, second]) == 0  # one group of two
    assert prompts_alone([first, second, *apart]) == 4  # order and template, length, target, foil
    assert prompts_alone([first]) == 1
