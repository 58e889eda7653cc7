"""Neurons of experts pooled where they are computed are those of the dense matrix; routing comes in the same pass."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from babelscope.errors import InputError
from babelscope.models import Site, capture
from babelscope.models.experts import Routed, attach
from babelscope.regions import localise, record
from babelscope.regions.recording import Span
from babelscope.regions.routed_lape import routed_activity, routed_lape, routed_means
from babelscope.regions.routing_recording import record_routing
from babelscope.regions.treatments import treatment

from .region_data import corpus
from .region_data import model as dense
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


def test_over_routed_tokens_by_hand():
    """The mean and the activity of a neuron over the tokens of its expert alone, and NaN where it has none."""
    model, texts = mixture("qwen2_moe"), corpus(3, 3)
    recording = record(model, texts, activity=True)
    means, (shares, known) = routed_means(recording), routed_activity(recording, least=1)
    one, language = model.mixtures[1], 1
    rows: list[torch.Tensor] = []
    for text in texts.texts[texts.languages[language]]:
        with torch.inference_mode(), capture(model, [Site("neurons", 1)]) as seen:
            model.trunk(torch.tensor(model.tokenize([text])))
        rows.append(seen[Site("neurons", 1)][0])
    h = torch.cat(rows)
    start = model.widths[0]
    for expert in range(one.count):
        columns = slice(start + expert * one.units, start + (expert + 1) * one.units)
        own = h[:, one.expert(expert)]
        own = own[own.any(-1)]
        if len(own):
            torch.testing.assert_close(means[language, columns].float(), own.mean(0), atol=1e-6, rtol=1e-4)
            if bool(known[columns].all()):
                torch.testing.assert_close(shares[language, columns], (own > 0).float().mean(0))
        else:
            assert means[language, columns].isnan().all()
            assert not known[columns].any()
    shared = slice(start + one.routed, start + one.width)
    torch.testing.assert_close(shares[language, shared], (h[:, one.routed :] > 0).float().mean(0))


def test_lape_over_routed_tokens_leaves_out_what_is_too_rare():
    recording = record(mixture("mixtral"), corpus(6, 5), activity=True)
    assert localise(recording, "lape-routed").total == 0  # no expert has a hundred tokens of every language
    scores, members = routed_lape(recording, share=0.05, least=1)
    assert scores.shape == members.shape == (6, recording.neurons)
    assert members.any()
    assert not members[:, ~routed_activity(recording, least=1)[1]].any()


def test_weighted_neurons_are_neurons_times_their_routing_weight():
    model, texts = mixture("qwen2_moe"), corpus(2, 2)
    one = model.mixtures[1]
    weighted, plain = record(model, texts, span=Span(weighted=True)), record(model, texts)
    for row, code in enumerate(texts.languages):
        for column, text in enumerate(texts.texts[code]):
            seen: list[Routed] = []
            handle = attach(one, lambda pairs, into=seen: into.append(pairs))
            with torch.inference_mode():
                model.trunk(torch.tensor(model.tokenize([text])))
            handle.remove()
            (pairs,) = seen
            h = replace(pairs, values=pairs.values * pairs.weights[:, None]).dense()
            torch.testing.assert_close(weighted.layer(1)[row, column, : one.routed], h.mean(0), atol=1e-6, rtol=1e-4)
    # what every token passes has no routing weight
    torch.testing.assert_close(weighted.layer(1)[..., one.routed :], plain.layer(1)[..., one.routed :])
    assert not torch.allclose(weighted.layer(1)[..., : one.routed], plain.layer(1)[..., : one.routed])
    mask = torch.zeros(model.layers, model.neurons_per_layer, dtype=torch.bool)
    with pytest.raises(InputError, match="never its value times its routing weight"):
        treatment(mask, "mean", weighted)
    with pytest.raises(InputError, match="no mixture of experts"):
        record(dense("bloom"), texts, span=Span(weighted=True))
