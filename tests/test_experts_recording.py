"""Neurons of experts pooled where they are computed are those of the dense matrix; routing comes in the same pass."""

from __future__ import annotations

import pytest
import torch

from babelscope.models import Site, capture
from babelscope.regions import record
from babelscope.regions.routing_recording import record_routing

from .region_data import corpus
from .tiny_mixtures import mixture


@pytest.mark.parametrize("name", ["mixtral", "qwen2_moe", "gpt_oss"])
def test_recording_is_the_plain_mean_of_all_tokens(name: str):
    """One sentence at a time, no padding: neurons of all experts, 0 where a token was not routed."""
    model, texts = mixture(name), corpus(3, 3)
    recording = record(model, texts, activity=True)
    assert recording.activity is not None
    for language, code in enumerate(texts.languages):
        active = torch.zeros(model.neurons)
        for sentence, text in enumerate(texts.texts[code]):
            ids = torch.tensor(model.tokenize([text]))
            sites = [Site("neurons", layer) for layer in range(model.layers)]
            with torch.inference_mode(), capture(model, sites) as seen:
                model.trunk(ids)
            h = torch.cat([seen[site][0] for site in sites], dim=1)
            torch.testing.assert_close(
                torch.from_numpy(recording.means[language, sentence]), h.mean(0), atol=1e-6, rtol=1e-4
            )
            active += (h > 0).sum(0)
        torch.testing.assert_close(recording.activity[language], active / recording.tokens[language].sum())


@pytest.mark.parametrize("name", ["mixtral", "qwen2_moe"])
def test_routing_beside_neurons_is_routing_alone(name: str):
    model, texts = mixture(name), corpus(3, 4)
    beside, alone = record(model, texts).routing, record_routing(model, texts)
    assert beside is not None
    torch.testing.assert_close(beside.probabilities, alone.probabilities)
    torch.testing.assert_close(beside.choices, alone.choices)
    assert torch.equal(beside.tokens, alone.tokens)


def test_batches_change_nothing():
    model, texts = mixture("qwen2_moe"), corpus(3, 4)
    many, single = record(model, texts, budget=4096), record(model, texts, budget=1)
    torch.testing.assert_close(torch.from_numpy(many.means), torch.from_numpy(single.means), atol=1e-6, rtol=1e-4)
    assert many.first_position_share == pytest.approx(single.first_position_share, abs=1e-5)
