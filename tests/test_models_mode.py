"""Relatives of a wrong number without a word: each state of a model is measured as it is, or refused in one line."""

from __future__ import annotations

import copy
from types import MethodType

import pytest
import torch
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.utils import parametrizations, parametrize, prune

from babelscope import circuits
from babelscope.circuits.core.nodes import Head
from babelscope.errors import InputError, ModelError, UnsupportedModel
from babelscope.models import Model, require
from babelscope.models.decoding import Decoding, decode
from babelscope.regions.perplexity import cut_windows, score
from babelscope.regions.recording import record
from tests.random_pairs import random_pairs
from tests.region_data import corpus, texts
from tests.tiny_models import tiny_model, tiny_tokenizer

IDS = torch.tensor([[5, 77, 30, 41, 60, 12], [8, 9, 10, 11, 12, 13]])


def wrapped(family: str = "llama", **changes: object) -> Model:
    return Model(tiny_model(family, **changes), tiny_tokenizer(), id="tiny")


USES = {
    "states": lambda model: model.trunk(IDS),
    "recording": lambda model: record(model, corpus()),
    "perplexity": lambda model: score(model, cut_windows(model, texts()["fr"], 32)),
    "writing": lambda model: decode(model, [[5, 6, 7]], Decoding(3)),
    "circuits": lambda model: circuits.activation_patching(model, random_pairs()[:1], [Head(0, 0)]),
}


@pytest.mark.parametrize("use", USES)
def test_dropout_and_autocast_give_no_numbers(use):
    model = wrapped(attention_dropout=0.5)
    model.hf.model.layers[1].self_attn.train()
    with pytest.raises(ModelError, match="tiny is in training mode"):
        USES[use](model)
    model.hf.eval()
    with torch.autocast("cpu", dtype=torch.bfloat16), pytest.raises(ModelError, match="bfloat16 under autocast"):
        USES[use](model)
    USES[use](model)


def test_a_compiled_model_is_measured_uncompiled_or_refused():
    hf = tiny_model("llama")
    plain = Model(copy.deepcopy(hf), tiny_tokenizer(), id="tiny")
    model = Model(torch.compile(hf), tiny_tokenizer(), id="tiny")
    assert model.weight_hash == plain.weight_hash
    require(model, "circuits")
    hf.model.layers[1].mlp.compile()
    with pytest.raises(UnsupportedModel, match=r"model\.layers\.1\.mlp runs as compiled code"):
        require(model, "regions")
    other = wrapped()
    other.hf.forward = torch.compile(other.hf.forward)
    with pytest.raises(UnsupportedModel, match=r"runs as compiled code.*load it anew"):
        decode(other, [[5, 6, 7]], Decoding(3))


def test_hashes_follow_the_weights_however_they_are_changed():
    model = wrapped(tie_word_embeddings=False)
    first, function = model.weight_hash, model.function_hash
    weight = model.hf.model.embed_tokens.weight
    weight.data[[5, 6]] = weight.data[[6, 5]]  # moves no counter, changes no sum
    assert model.weight_hash != first
    assert model.weight_hash == Model(model.hf, tiny_tokenizer()).weight_hash
    weight.data[[5, 6]] = weight.data[[6, 5]]
    assert (model.weight_hash, model.function_hash) == (first, function)
    model.hf.lm_head.weight = weight  # tied in memory
    assert model.weight_hash != first
    require(model, "circuits")


def test_what_a_function_hash_holds_beside_weights():
    model = wrapped()
    weights, function = model.weight_hash, model.function_hash
    other = wrapped(rms_norm_eps=1e-2)
    assert other.weight_hash == weights
    assert other.function_hash != function
    assert other.facts()["config_hash"] != model.facts()["config_hash"]
    handle = model.blocks[0].mlp.register_forward_hook(lambda *_: None)
    hooked = model.function_hash
    handle.remove()
    assert hooked != function == model.function_hash
    model.blocks[0].mlp.forward = MethodType(lambda self, x: self.down_proj(self.up_proj(x)), model.blocks[0].mlp)
    assert model.function_hash != function
    assert model.facts()["foreign_hooks"] == ["model.layers.0.mlp.forward"]


def test_hooks_of_every_module_are_told_of_and_asked_about():
    model = wrapped()
    require(model, "circuits")
    name = type(model.blocks[0].self_attn.o_proj)

    def twice(module, _inputs, output):
        return output * 2 if isinstance(module, name) and output.shape[-1] == 32 else None

    handle = register_module_forward_hook(twice)
    try:
        assert "(every module)" in model.facts()["foreign_hooks"]
        with pytest.raises(UnsupportedModel, match="neurons times output weights miss"):
            require(model, "regions")
    finally:
        handle.remove()
    require(model, "circuits")


def test_a_forward_put_in_place_of_a_modules_own_is_asked_about():
    model = wrapped()
    require(model, "circuits")
    part = model.blocks[0].self_attn
    own = part.forward
    part.forward = lambda *given, **named: (own(*given, **named)[0].relu(), None)
    with pytest.raises(UnsupportedModel, match="embedding \\+ writes miss"):
        require(model, "circuits")
    del part.forward
    require(model, "circuits")


def test_parametrised_and_pruned_weights_are_what_is_computed_or_refused():
    for change in (
        lambda part: parametrizations.weight_norm(part, "weight"),
        lambda part: parametrize.register_parametrization(part, "weight", Halved()),
        lambda part: prune.l1_unstructured(part, "weight", amount=0.3),
    ):
        model = wrapped()
        first = model.weight_hash
        change(model.blocks[1].mlp.down_proj)
        changed = Model(model.hf, tiny_tokenizer(), id="changed")
        assert changed.weight_hash != first
        require(changed, "regions")
        with torch.inference_mode():
            wanted = changed.hf(IDS).logits
        assert torch.allclose(changed.logits(changed.trunk(IDS)), wanted, atol=1e-5)
    model = wrapped()
    prune.l1_unstructured(model.blocks[1].mlp.down_proj, "weight", amount=0.3)
    before = model.weight_hash
    model.blocks[1].mlp.down_proj.weight_mask[0] = 0  # a buffer that is saved with the weights
    assert model.weight_hash != before


class Halved(torch.nn.Module):
    def forward(self, weight):
        return weight * 0.5


def test_rotary_frequencies_that_move_with_the_longest_text_end_a_text():
    """LongRoPE and dynamic NTK: beyond the original length, what a text gives would depend on its company."""
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 16}
    factors = {"long_factor": [4.0] * 4, "short_factor": [1.0] * 4}
    dynamic = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    for model in (
        Model(
            tiny_model("phi3", rope_parameters=rope | factors, original_max_position_embeddings=16), tiny_tokenizer()
        ),
        Model(
            tiny_model("llama", rope_parameters=dynamic, max_position_embeddings=16),
            tiny_tokenizer(),
            None,
            None,
            None,
            True,
        ),
    ):
        require(model, "circuits")
        assert model.context.window == 16
        with pytest.raises(InputError, match="sentence 1 has 17 tokens; beyond 16 the rotary frequencies"):
            model.tokenize(["a" * 17], names=["sentence 1"])
        with torch.inference_mode(), pytest.raises(InputError, match="rotary frequencies"):
            model.trunk(torch.ones(1, 17, dtype=torch.long))
        [[written]] = decode(model, [[5] * 14], Decoding(8))
        assert (len(written.ids), written.reason) == (2, "context")
    yarn = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 16}
    assert wrapped(rope_parameters=yarn).context.window == 128


def test_layers_taken_out_of_a_model_are_taken_out_of_what_is_measured():
    model = wrapped()
    require(model, "circuits")
    model.hf.model.layers = model.hf.model.layers[:2]
    model.hf.config.num_hidden_layers = 2
    require(model, "circuits")
    assert model.layers == 2
    assert len(model.widths) == 2
    deeper = wrapped()
    deeper.hf.config.num_hidden_layers = 2  # the model now goes round its last block
    with pytest.raises(UnsupportedModel):
        require(deeper, "regions")
