"""Numbers of regions at the edges: empty sets, indices far away, odd chunks, last tokens by language."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch

from babelscope.corpora import ParallelCorpus
from babelscope.errors import InputError
from babelscope.regions.agreement import expected_jaccard
from babelscope.regions.exchange import import_lape, import_regions
from babelscope.regions.nulls import score_null
from babelscope.regions.perplexity import token_losses
from babelscope.regions.residual import record_residual

from .region_data import model, noise, recording


def test_the_null_tells_how_many_neurons_are_done():
    told: list[int] = []
    score_null(noise(languages=5, neurons=30), draws=2, progress=told.append)
    assert sum(told) == 30
    assert min(told) >= 1


def test_chance_of_sets_of_which_one_is_empty():
    """No neuron is in both, some are in either: 0; of two empty sets nothing can be said."""
    assert expected_jaccard(0, 3, 10) == 0
    assert expected_jaccard(3, 0, 10) == 0
    assert math.isnan(expected_jaccard(0, 0, 10))


@pytest.mark.parametrize("index", [4, 5, 1000, -1])
def test_a_mask_that_names_a_neuron_of_no_model_is_refused(tmp_path, index):
    torch.save([[torch.tensor([0, 3])], [torch.tensor([index])]], tmp_path / "mask")
    with pytest.raises(InputError, match=r"layer 0 of zh names a neuron beyond 3$"):
        import_lape(tmp_path / "mask", ["en", "zh"], layers=1, neurons=4)
    torch.save([[torch.tensor([0, 3])], [torch.tensor([1])]], tmp_path / "mask")
    assert import_lape(tmp_path / "mask", ["en", "zh"], 1, 4)["en"].tolist() == [[True, False, False, True]]


@pytest.mark.parametrize("chunk", [3, 7, 10**6])
def test_losses_are_those_of_the_whole_vocabulary_by_chunks_of_any_size(chunk):
    loaded = model("llama")
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(2, 40, loaded.width, generator=generator)
    targets = torch.randint(0, len(loaded.unembedding), (2, 40), generator=generator)
    logits = loaded.logits(hidden).double()
    wanted = -logits.log_softmax(-1).gather(-1, targets[..., None])[..., 0]
    assert torch.allclose(token_losses(loaded, hidden, targets, chunk).double(), wanted, atol=1e-4)


def test_last_tokens_are_counted_within_each_language():
    texts = {"en": ["ba", "ca", "da", "ea"], "zh": ["ab", "ac", "ab", "ad"], "fr": ["x", "ax", "bx", "by"]}
    found = record_residual(model(), ParallelCorpus.from_texts(texts), ("last",))
    assert found.last_tokens == {"en": 1, "zh": 3, "fr": 2}


@pytest.mark.parametrize(
    ("neuron", "told"),
    [
        (-(2**63), "'-9223372036854775808' of en is not the number of a neuron"),
        (-(2**62), "'-4611686018427387904' of en is not the number of a neuron"),
        (2**62, "'4611686018427387904' of en is not the number of a neuron"),
        (True, "'True' of en is not the number of a neuron"),
        (1 - 2**62, "layer 0 of en names a neuron beyond 3"),
        (2**62 - 1, "layer 0 of en names a neuron beyond 3"),
    ],
)
def test_a_number_that_is_no_neuron_is_refused_however_large(tmp_path, neuron, told):
    file = tmp_path / "r.json"
    content = {"method": "m", "layers": 1, "neurons_per_layer": 4, "regions": {"en": [[neuron]]}}
    file.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(InputError, match=f"{told}$"):
        import_regions(file)


def test_the_first_tokens_share_is_of_squares():
    """Σ v² over sentences: 10 and 4; the first token has 1/2 and 1/4 of them: 6 of 14."""
    found = recording(torch.tensor([[[1.0, 2.0], [3.0, 0.0]]], dtype=torch.float64))
    assert math.isnan(found.first_share())
    assert replace(found, first_part=torch.tensor([[0.5, 0.25]])).first_share() == pytest.approx(6 / 14)
