"""What models are asked with: random token ids that are the same today and tomorrow, and the smallest numbers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from babelscope.models import Model, conformance, decoding, head_checks, mixture_checks, run_checks, scales
from babelscope.models.chat import DATE
from babelscope.models.stream_checks import require_stream

from .planted_faults import IDS, model
from .tiny_models import tiny_model, tiny_tokenizer


def fed(act: Callable[[Model], object], count: int = 1) -> list[list[list[int]]]:
    """Token ids of the first passes that something makes."""
    one = Model(tiny_model("llama"), tiny_tokenizer())
    seen: list[list[list[int]]] = []
    one.hf.get_input_embeddings().register_forward_pre_hook(lambda _, args: seen.append(args[0].tolist()))
    act(one)
    return seen[:count]


def drawn(seed: int, rows: int, length: int) -> list[list[int]]:
    return torch.randint(0, 96, (rows, length), generator=torch.Generator().manual_seed(seed)).tolist()


def test_token_ids_of_checks_are_drawn_once_and_for_all():
    assert fed(lambda one: run_checks(one, level="regions")) == [drawn(0, 2, 9)]
    assert fed(lambda one: run_checks(one, 12, "regions")) == [drawn(0, 2, 12)]
    assert fed(scales.measure) == [drawn(1, 2, 6)]
    assert fed(require_stream) == [drawn(2, 2, 6)]
    assert fed(conformance.why_no_text) == [[[0] * 9] * 2]
    assert fed(lambda one: one.block_returns_tuple) == [[[0]]]


def test_texts_of_six_lengths_are_padded():
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(0, 96, (length,), generator=generator).tolist() for length in (2, 3, 5, 7, 10, 14)]
    after = torch.randint(0, 96, (6, 1), generator=generator).tolist()
    first, second = fed(decoding.padding_error, 2)
    assert first == [[0] * (14 - len(row)) + row for row in rows]
    assert second == after


@pytest.mark.parametrize("size", [1.0, 1e-2, 1e-4])
def test_small_values_are_compared_like_large_ones(size):
    """Values that are scaled down: a head is still a share of its value, and half a share is seen as a half."""
    hf = tiny_model("llama")
    with torch.no_grad():
        for block in hf.model.layers:
            block.self_attn.v_proj.weight.mul_(size)
    one = Model(hf, tiny_tokenizer())

    def halves(_: object, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        first, second = args[0].chunk(2, dim=-1)
        return (torch.cat([second, first], -1),)

    with torch.inference_mode():
        assert head_checks.value_layout(one, IDS) <= 1e-4
        handle = one.part("self_attn.o_proj", 1).register_forward_pre_hook(halves)
        assert head_checks.value_layout(one, IDS) > 0.05
        handle.remove()


def test_queries_and_keys_are_asked_in_the_last_layer_with_heads():
    """A layer whose queries do nothing is not seen before the last."""
    for layer, seen in ((0, False), (1, False), (2, True)):
        one = Model(tiny_model("llama"), tiny_tokenizer())
        one.part("self_attn.o_proj", layer).register_forward_pre_hook(lambda _, args: (args[0] * 0,))
        with torch.inference_mode():
            assert (head_checks.query_key_layout(one, IDS) == float("inf")) is seen


@pytest.mark.parametrize(("factor", "seen"), [(1.0, False), (1e-9, True)])
def test_a_head_moves_by_a_hundred_thousandth_at_least(factor, seen):
    one = Model(tiny_model("llama"), tiny_tokenizer())
    one.part("self_attn.o_proj", 2).register_forward_pre_hook(lambda _, args: (args[0] * factor,))
    with torch.inference_mode():
        assert (head_checks.query_key_layout(one, IDS) == float("inf")) is seen


def test_the_smallest_expectations():
    assert mixture_checks.difference(torch.tensor([2e-6]), torch.tensor([1e-6])) == pytest.approx(1.0)
    assert mixture_checks.difference(torch.tensor([5e-7]), torch.tensor([0.0])) == pytest.approx(0.5)
    assert (scales.AGREEMENT, scales.LENGTH, DATE) == (1e-4, 6, "26 Jul 2024")
    assert model().id == "llama"
