"""Models in half precision: what is summed, and what is subtracted, is so in float32."""

from dataclasses import fields

import numpy as np
import pytest
import torch

from babelscope.circuits.core.ablation import _mean_constants, reference
from babelscope.circuits.core.batching import batches
from babelscope.circuits.core.cache import run
from babelscope.circuits.core.residual import Values
from babelscope.circuits.heads.copy_scores import among_top
from babelscope.circuits.heads.patterns import eager
from babelscope.circuits.heads.routes import Layer, _record, layer_of, shares
from babelscope.latent.lens import read_out
from babelscope.models import Model
from tests.random_pairs import random_pairs
from tests.tiny_models import tiny_model, tiny_tokenizer


@pytest.fixture(scope="module", params=[torch.bfloat16, torch.float16])
def model(request):
    return Model(tiny_model("llama", request.param), tiny_tokenizer(), id="half")


def recorded(model, pairs):
    """Values of all rows, a batch each, in float64."""
    return [
        ([part.double() for part in Values.of(run(model, rows.corrupted)).listed()], rows)
        for rows in batches(pairs, 1, model.device)
    ]


def test_logits_of_a_few_words_are_products_in_float32(model):
    hidden, words = torch.randn(5, model.width, dtype=model.dtype), torch.tensor([3, 4, 7])
    found = model.logits(hidden, words)
    assert found.dtype == torch.float32
    exact = hidden.double() @ model.unembedding[words].double().T
    np.testing.assert_allclose(found.detach().double(), exact.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("copies", [3, 200])
def test_means_over_many_prompts_are_as_exact_as_over_few(model, copies):
    pair = random_pairs()[0]
    other = reference(model, [pair] * copies, "mean", budget=1)
    (rows,) = batches([pair], 10**6, model.device)
    for mean, part in zip(other(rows).listed(), Values.of(run(model, rows.corrupted)).listed()):
        assert mean.dtype == model.dtype
        assert torch.equal(mean, part)  # all prompts are equal, so their mean is one of them


def test_constants_are_means_over_all_tokens(model):
    pairs = random_pairs()
    of_rows = recorded(model, pairs * 20)
    tokens = sum(rows.corrupted.numel() for _, rows in of_rows)
    found = _mean_constants(model, pairs * 20, 1).listed()
    for place, mean in enumerate(found):
        exact = sum(parts[place].sum((0, 1)) for parts, _ in of_rows) / tokens
        step = torch.finfo(model.dtype).eps
        np.testing.assert_allclose(mean.double(), exact, rtol=step, atol=step * 1e-3)


@torch.no_grad()
def test_routes_are_those_of_the_recorded_values_in_full_precision(model):
    """Shares of the very values that the half model made, from long sums that are not in half precision."""
    ids = torch.tensor([[3, 5, 7, 9, 11, 13, 4, 8]])
    with eager(model):
        seen = _record(model, ids)
    layer = layer_of(model, seen, 1, 0, 8)
    parts = {field.name: getattr(layer, field.name) for field in fields(layer)}
    exact = Layer(**{name: part.double() if isinstance(part, torch.Tensor) else part for name, part in parts.items()})
    found, true = shares(layer, [7]), shares(exact, [7])
    assert found.heads.dtype == torch.float32
    np.testing.assert_allclose(found.heads, true.heads, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(found.mlp, true.mlp, rtol=1e-4)


def test_the_top_words_are_those_of_products_in_float32():
    """Words that bfloat16 cannot tell apart: 64 and 64.1 are both 64 in it, so both would be the largest."""
    half = Model(tiny_model("llama", torch.bfloat16), tiny_tokenizer(), id="half")
    with torch.no_grad():
        half.unembedding.zero_()
        half.unembedding[5:7, 0] = 64.0
        half.unembedding[6, 1] = 0.125
    final, asked = torch.ones(1, half.width, dtype=half.dtype), torch.tensor([[True, True]])
    assert among_top(half, final, torch.tensor([5, 6]), asked, 1)[0].tolist() == [[False, True]]


def test_a_probability_in_half_precision_is_none_above_one(model):
    """The likeliest word of a sharp lens, whose logit is no number of half precision."""
    z = 40 * torch.randn(200, model.width, generator=torch.Generator().manual_seed(0)).to(model.dtype)
    found = read_out(model, z, torch.arange(model.vocabulary))
    assert float(found.answers.max()) <= 1 + 1e-6
    np.testing.assert_allclose(found.answers.sum(1), 1, atol=1e-5)
