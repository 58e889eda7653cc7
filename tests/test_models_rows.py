"""Rows of families: the whole suite, patching against the plain loop, multipliers measured, norms in every type."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from babelscope.circuits import attributions
from babelscope.circuits.core.cache import run
from babelscope.circuits.core.nodes import FINAL, MLP, Head
from babelscope.circuits.patching.methods import activation_patching, path_patching
from babelscope.models import Model, Site, capture, require
from babelscope.models.norms import frozen_norm
from tests import reference
from tests.random_pairs import random_pairs
from tests.tiny_models import FAMILIES, RECENT, tiny_model, tiny_tokenizer

SUMMING = [family for family in FAMILIES if family != "opt-350m"]
HALVES = (torch.bfloat16, torch.float16)


def tiny(family: str, dtype: torch.dtype = torch.float32) -> Model:
    return Model(tiny_model(family, dtype), tiny_tokenizer(), id=family)


@pytest.mark.parametrize("family", RECENT)
def test_every_row_passes_the_whole_gate(family):
    require(tiny(family), "circuits")


@pytest.mark.parametrize("family", RECENT)
def test_patching_equals_the_plain_loop(family):
    model, pairs = tiny(family), random_pairs()[:1]
    nodes = [Head(0, 1), Head(2, 0), MLP(1)]
    found = activation_patching(model, pairs, nodes, at="B").patched
    expected = [[reference.naive_activation_patching(model, pair, node, "B") for pair in pairs] for node in nodes]
    assert np.allclose(found, expected, atol=2e-5)
    found = path_patching(model, pairs, senders=nodes).patched
    expected = [
        [reference.naive_path_patching(model, pair, node, [FINAL], "END", "recomputed") for pair in pairs]
        for node in nodes
    ]
    assert np.allclose(found, expected, atol=2e-5)


@pytest.mark.parametrize("family", ["granite", "hyperclovax"])
def test_multipliers_are_measured_not_read(family):
    """The same key divides logits in Granite and multiplies them in HyperCLOVA X."""
    model = tiny(family)
    assert set(model.scales.attention) == set(model.scales.mlp) == {0.4}
    assert model.logit_scale == pytest.approx({"granite": 1 / 3, "hyperclovax": 0.3}[family], rel=1e-6)
    assert model.facts()["multipliers"]["attention"] == [0.4] * 3


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
@pytest.mark.parametrize("family", [*SUMMING, *RECENT])
def test_attributions_add_up_to_the_logits_in_every_type(family, dtype):
    model = tiny(family, dtype)
    ids = torch.arange(5, 16)[None]
    words = torch.tensor([7, 11, 23])
    seen = run(model, ids)
    _, parts, rest = attributions(model, seen, words)
    whole = (parts.sum(0) + rest)[0].double()
    cap = model.soft_cap
    made = whole if cap is None else (whole / cap).tanh() * cap
    own = model.logits(seen.final[:, -1], words)[0].detach().double()
    tolerance = 1e-4 if dtype == torch.float32 else 0.05
    assert float((made - own).abs().max()) <= tolerance * max(1.0, float(own.abs().max()))


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("family", ["bloom", "llama", "gemma2", "cohere", "olmo2"])
def test_a_frozen_norm_is_the_same_map_in_every_type(family, dtype):
    """Half precision rounds its inputs, and changes nothing else."""
    rough, exact = tiny(family, dtype), tiny(family, torch.float32)
    exact.hf.load_state_dict(rough.hf.state_dict())
    ids = torch.arange(5, 16)[None]
    site = Site("residual", exact.layers)
    with torch.no_grad(), capture(rough, [site]) as seen:
        rough.trunk(ids)
    whole = seen[site][0].detach()
    with torch.no_grad():
        found = frozen_norm(rough.norm("final"), whole)
        wanted = frozen_norm(exact.norm("final"), whole.float())
    assert torch.allclose(found.part(whole), wanted.part(whole), rtol=0.02, atol=0.02)
    assert found.map is not None
    assert wanted.map is not None
    assert found.map.centred == wanted.map.centred
