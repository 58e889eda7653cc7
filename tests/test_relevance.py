"""Relevance by gradient × activation: against a plain loop, and against what switching a neuron off really does."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from babelscope import load_model
from babelscope.corpora import load_texts
from babelscope.errors import InputError, UnsupportedModel
from babelscope.models import Site, edit
from babelscope.regions.deactivation import deactivate
from babelscope.regions.perplexity import cut_windows, score
from babelscope.regions.relevance import predicted_rise, relevance, relevances, relevant_regions, selective


@pytest.fixture(scope="module")
def model():
    return load_model("pocket:pocket-bloom-s")


@pytest.fixture(scope="module")
def windows(model):
    texts = load_texts("pocket:heldout?n=40", ["en", "zh"])
    return {code: cut_windows(model, text, 48, 6) for code, text in texts.items()}


def test_it_is_the_derivative_of_the_loss_in_a_neuron_s_scale(model, windows):
    found, step = relevance(model, windows["en"]), 1e-2
    for layer, neuron in ((0, 3), (2, 17), (3, 40)):

        def scaled(h, by, neuron=neuron):
            h = h.clone()
            h[..., neuron] *= by
            return h

        losses = []
        for by in (1 - step, 1 + step):
            with edit(model, {Site("neurons", layer): lambda h, by=by: scaled(h, by)}):
                losses.append(score(model, windows["en"]).nll)
        # d loss / d scale at 1 is h · ∂loss/∂h: its negative is relevance
        assert -(losses[1] - losses[0]) / (2 * step) == pytest.approx(float(found[layer, neuron]), abs=2e-4)


def test_what_it_promises_of_single_neurons_is_what_deactivation_does(model, windows):
    found, base = relevance(model, windows["zh"]), score(model, windows["zh"]).nll
    generator = torch.Generator().manual_seed(0)
    promised, measured = [], []
    for place in torch.randperm(found.numel(), generator=generator)[:24].tolist():
        mask = torch.zeros(found.numel(), dtype=torch.bool)
        mask[place] = True
        mask = mask.reshape(found.shape)
        with deactivate(model, mask):
            measured.append(score(model, windows["zh"]).nll - base)
        promised.append(predicted_rise(found, mask))
    assert np.corrcoef(promised, measured)[0, 1] > 0.9


def test_batches_do_not_matter_and_the_model_is_left_alone(model, windows):
    before = score(model, windows["en"]).nll
    torch.testing.assert_close(
        relevance(model, windows["en"], budget=48), relevance(model, windows["en"]), atol=1e-6, rtol=1e-4
    )
    assert score(model, windows["en"]).nll == before
    assert all(parameter.grad is None for parameter in model.hf.parameters())


def test_regions_take_the_sizes_they_are_given(model, windows):
    found = relevances(model, windows)
    sizes = {"en": [1, 2, 3, 0], "zh": [4, 0, 0, 1]}
    regions = relevant_regions(found, sizes)
    assert regions.by_layer() == sizes
    scores = selective(found)
    torch.testing.assert_close(scores["en"], -scores["zh"])
    assert float(scores["en"][2][regions["en"][2]].min()) >= float(scores["en"][2][~regions["en"][2]].max())


def test_refusals(windows):
    with pytest.raises(InputError, match="two languages"):
        selective({"en": torch.zeros(2, 3)})
    with pytest.raises(UnsupportedModel, match="mixture of experts"):
        relevance(load_model("pocket:pocket-moe"), windows["en"])
