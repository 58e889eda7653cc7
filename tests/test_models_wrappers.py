"""The text model inside an image-text one, and what is no causal language model at all."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

from babelscope.errors import UnsupportedModel
from babelscope.models import Model, load_model, require
from tests.tiny_models import WORDS, tiny_tokenizer

TEXT: dict[str, Any] = dict(
    vocab_size=WORDS,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    max_position_embeddings=128,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
)
VISION: dict[str, Any] = dict(
    hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=14, patch_size=14
)
IDS = torch.tensor([[5, 77, 30, 41, 60, 12]])


def wrapper(kind: str) -> Any:
    torch.manual_seed(0)
    types = {"gemma3": "gemma3_text", "mistral3": "mistral"}
    vision = {"gemma3": "siglip_vision_model", "mistral3": "pixtral"}[kind]
    config = AutoConfig.for_model(
        kind,
        text_config={**TEXT, "model_type": types[kind], "sliding_window": 64},
        vision_config={**VISION, "model_type": vision},
        image_token_index=3,
    )
    return AutoModelForImageTextToText.from_config(config).eval()


@pytest.mark.parametrize("kind", ["gemma3", "mistral3"])
def test_the_text_model_inside_is_measured(kind, tmp_path):
    hf = wrapper(kind)
    hf.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    model = load_model(tmp_path)
    assert (model.layers, model.family.blocks) == (2, "model.language_model.layers")
    require(model, "circuits")
    with torch.no_grad():
        assert torch.allclose(model.logits(model.trunk(IDS)), hf(IDS).logits, atol=1e-5)


def test_the_text_model_alone_has_the_same_hash():
    hf = wrapper("gemma3")
    inside = Model(hf, tiny_tokenizer(), id="inside")
    alone: Any = AutoModelForCausalLM.from_config(hf.config.get_text_config())
    alone.model.load_state_dict(hf.model.language_model.state_dict())
    alone.tie_weights()
    assert inside.weight_hash == Model(alone, tiny_tokenizer(), id="alone").weight_hash


def test_blocks_without_a_known_mlp_are_told():
    config = AutoConfig.for_model("mamba", vocab_size=WORDS, hidden_size=32, num_hidden_layers=2, state_size=8)
    hf = AutoModelForCausalLM.from_config(config)
    told = Model(hf, tiny_tokenizer(), id="mamba").no_neurons
    assert told.startswith(
        "unknown architecture 'mamba': no MLP at a place that is known in its blocks (backbone.layers: "
    )
    assert "MambaBlock of norm, mixer" in told


def test_a_mixture_whose_first_layer_is_dense_is_read_for_everything():
    config = AutoConfig.for_model("glm4_moe", **TEXT, n_routed_experts=4, num_experts_per_tok=2, n_shared_experts=1)
    config.first_k_dense_replace, config.moe_intermediate_size = 1, 16
    model = Model(AutoModelForCausalLM.from_config(config), tiny_tokenizer(), id="mixed")
    assert model.offsets == (0, 48, 48 + 4 * 16 + 16)
    require(model, "circuits")
    require(model, "regions")


@pytest.mark.parametrize("kind", ["qwen2_vl", "qwen2_5_vl", "glm4v"])
def test_positions_of_time_height_and_width_are_no_hindrance(kind, tmp_path):
    torch.manual_seed(0)
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}
    eyes = dict(depth=1, num_heads=2, hidden_size=32, out_hidden_size=32, embed_dim=16, intermediate_size=16)
    text = {**TEXT, "rope_parameters": rope}
    hf = AutoModelForImageTextToText.from_config(AutoConfig.for_model(kind, text_config=text, vision_config=eyes))
    hf.eval().save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    model = load_model(tmp_path)
    require(model, "circuits")
    with torch.no_grad():
        assert torch.allclose(model.logits(model.trunk(IDS)), hf(IDS).logits, atol=1e-5)


def test_a_model_that_cannot_do_without_an_image_says_so_once():
    small = dict(hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
    text = dict(vocab_size=WORDS, num_hidden_layers=2, hidden_size=32, ffn_dim=48, num_attention_heads=4)
    config = AutoConfig.for_model(
        "instructblip",
        vision_config={**small, "image_size": 14, "patch_size": 14},
        qformer_config={**small, "encoder_hidden_size": 32, "vocab_size": WORDS},
        text_config={**text, "model_type": "opt", "word_embed_proj_dim": 32, "max_position_embeddings": 64},
    )
    model = Model(AutoModelForImageTextToText.from_config(config).eval(), tiny_tokenizer(), id="see")
    assert model.family.blocks == "language_model.model.decoder.layers"
    with pytest.raises(UnsupportedModel, match=r"does not run on text alone .*pixel_values") as found:
        require(model, "regions")
    assert "cannot run" not in str(found.value)


def test_a_model_without_an_embedding_of_tokens_is_refused(monkeypatch):
    hf = wrapper("gemma3")

    def none(*_: object) -> None:
        raise NotImplementedError("not auto-handled")

    monkeypatch.setattr(type(hf), "get_input_embeddings", none)
    with pytest.raises(UnsupportedModel, match="has no embedding of tokens"):
        Model(hf, tiny_tokenizer(), id="formulas")


def test_projections_made_of_several_maps_are_named():
    config = AutoConfig.for_model("zaya", **{**TEXT, "num_hidden_layers": 4})
    model = Model(AutoModelForCausalLM.from_config(config).eval(), tiny_tokenizer(), id="zaya")
    require(model, "regions")
    with pytest.raises(UnsupportedModel, match="is no linear map with one weight matrix") as found:
        require(model, "circuits")
    assert "quantised" not in str(found.value)
