"""Regions of the residual stream (`--site residual`): for models without known MLPs, and for any other."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

from babelscope.errors import InputError, UnsupportedModel
from babelscope.models import Model, require
from babelscope.models.stream_checks import require_stream
from babelscope.regions.masks import load_regions
from babelscope.regions.recording import Span, record
from babelscope.report import write_report
from babelscope.studies.regions import RegionsSettings, study_regions

from .region_data import corpus, model
from .tiny_models import WORDS, tiny_tokenizer

RESIDUAL = Span(site="residual")


@lru_cache(1)
def mamba() -> Model:
    torch.manual_seed(0)
    config = AutoConfig.for_model("mamba", vocab_size=WORDS, hidden_size=32, num_hidden_layers=3, state_size=8)
    return Model(AutoModelForCausalLM.from_config(config), tiny_tokenizer(), id="mamba")


def test_a_model_without_an_mlp_has_a_stream_and_no_neurons():
    loaded = mamba()
    require(loaded, "regions")
    assert loaded.neurons == 0
    assert {site.kind for site in loaded.sites()} == {"residual"}
    with pytest.raises(UnsupportedModel, match=r"no MLP at a place that is known.*or record its residual stream"):
        record(loaded, corpus(2, 3))
    with pytest.raises(UnsupportedModel, match="cannot be used for circuits"):
        require(loaded, "circuits")


@pytest.mark.parametrize("name", ["mamba", "llama", "bloom"])
def test_recorded_streams_are_those_of_a_plain_loop(name: str):
    loaded, sample = mamba() if name == "mamba" else model(name), corpus(2, 3)
    found = record(loaded, sample, span=RESIDUAL)
    assert found.layers == loaded.layers + 1
    assert found.layout.widths == (loaded.width,) * (loaded.layers + 1)
    for row, code in enumerate(sample.languages):
        for column, text in enumerate(sample.texts[code]):
            streams: list[torch.Tensor] = []

            def before(_: object, args: tuple[torch.Tensor, ...], into: list[torch.Tensor] = streams) -> None:
                into.append(args[0][0].clone())

            def behind(_: object, __: object, output: torch.Tensor, into: list[torch.Tensor] = streams) -> None:
                into.append((output[0] if isinstance(output, tuple) else output)[0].clone())

            handles = [block.register_forward_pre_hook(before) for block in loaded.blocks]
            handles.append(loaded.blocks[-1].register_forward_hook(behind))
            with torch.inference_mode():
                loaded.hf(input_ids=torch.tensor(loaded.tokenize([text])))
            for handle in handles:
                handle.remove()
            for layer, h in enumerate(streams):
                torch.testing.assert_close(found.layer(layer)[row, column], h.mean(0), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("kind", "settings", "told"),
    [
        ("xlm", dict(emb_dim=32, n_layers=3, n_heads=4, causal=True), "what leaves a block misses what enters"),
        ("albert", dict(embedding_size=16, hidden_size=32, num_hidden_layers=3, num_attention_heads=4), "3 times"),
    ],
)  # fmt: skip
def test_blocks_that_hand_no_stream_on_are_refused(kind, settings, told):
    torch.manual_seed(0)
    maker = AutoModelForCausalLM if kind == "xlm" else AutoModelForMaskedLM
    hf = maker.from_config(AutoConfig.for_model(kind, vocab_size=WORDS, pad_token_id=0, **settings))
    loaded = Model(hf, tiny_tokenizer(), id=kind)
    with pytest.raises(UnsupportedModel, match=told):
        require(loaded, "regions")
    with pytest.raises(UnsupportedModel, match=f"{kind} has no residual stream that can be recorded: .*{told}"):
        require_stream(loaded)


def test_a_study_of_the_stream(tmp_path):
    settings = RegionsSettings("memory", samples=6, threshold=1.2, bootstrap=2, site="residual", alignment=True,
                               permutations=5)  # fmt: skip
    run = study_regions(mamba(), settings, tmp_path / "run", corpus=corpus(3, 6))
    assert run.arrays().score.shape == (3, 4, 32)
    assert np.isfinite(run.arrays().lrds_layer).all()
    assert load_regions(run.file("regions/contrast.safetensors")).facts["site"] == "residual stream"
    assert any("dimension of the residual stream" in note for note in run.summary["notes"])
    assert "dimension of the residual stream" in write_report([run], tmp_path / "page.html").read_text()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"texts": "memory"}, "--texts: of neurons alone"), ({"generate": 2}, "--generate"),
        ({"methods": ("lape",)}, "--methods lape"),
        ({"weighted": True}, "--weighted"),
    ],
)  # fmt: skip
def test_what_is_defined_of_neurons_alone_is_refused(changes, told):
    with pytest.raises(InputError, match=told):
        RegionsSettings("memory", site="residual", **changes)
