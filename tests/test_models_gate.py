"""The gate: what a model cannot be used for is refused in words, before a number is made of it, wherever one asks."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model

from babelscope import circuits
from babelscope.circuits.core.nodes import Head
from babelscope.errors import AlreadyEdited, MissingExtra, ModelError, UnsupportedModel
from babelscope.evaluation.cloze import evaluate_cloze
from babelscope.evaluation.items import ClozeStory
from babelscope.models import Family, LoadOptions, Model, load_model, register_family, require, unregister_family
from babelscope.models.experts import PassShape
from babelscope.models.family_rows import ROWS
from babelscope.models.gate import failures
from babelscope.models.hooks import Site, capture, edit, resume
from babelscope.models.rows import RowEdit, edited_rows
from babelscope.regions.deactivation import deactivate
from babelscope.regions.expert_deactivation import without_experts
from babelscope.regions.perplexity import cut_windows, score, token_losses
from babelscope.regions.recording import record
from tests.random_pairs import random_pairs
from tests.region_data import corpus, texts
from tests.tiny_mixtures import mixture_weights
from tests.tiny_models import tiny_model, tiny_tokenizer

IDS = torch.tensor([[5, 77, 30, 41, 60, 12], [8, 9, 10, 11, 12, 13]])
LLAMA = ROWS["llama"]
assert isinstance(LLAMA, Family)


@pytest.fixture
def misread():
    """GLM-4 under LLaMA's row: every path exists, and what is written misses the stream."""
    register_family(replace(LLAMA, name="wrong"), "glm4", overwrite=True)
    yield Model(tiny_model("glm4"), tiny_tokenizer(), id="misread")
    unregister_family("glm4")


ENTRIES: dict[str, Callable[[Model], object]] = {
    "activation patching": lambda model: circuits.activation_patching(model, random_pairs()),
    "path patching": lambda model: circuits.path_patching(model, random_pairs()),
    "edges": lambda model: circuits.edge_attribution(model, random_pairs()),
    "wiring": lambda model: circuits.Wiring.of(model),
    "atp": lambda model: circuits.attribution_patching(model, random_pairs()),
    "routes": lambda model: circuits.flow_routes(model, random_pairs()),
    "patterns": lambda model: circuits.attention_patterns(model, IDS),
    "roles": lambda model: circuits.role_scores(model, random_pairs()),
    "lens": lambda model: circuits.logit_lens(model, random_pairs()),
}


@pytest.mark.parametrize("entry", ENTRIES)
def test_no_circuit_is_computed_on_a_model_that_fails_the_checks(misread, entry):
    with pytest.raises(UnsupportedModel, match=r"cannot be used for circuits: embedding \+ writes miss.*regions work"):
        ENTRIES[entry](misread)


def test_what_circuits_cannot_use_regions_can(misread):
    require(misread, "regions")
    assert [check.level for check in failures(misread, "circuits")] == ["circuits"] * len(failures(misread, "circuits"))


def test_the_gate_asks_again_when_weights_change():
    model = Model(tiny_model("llama"), tiny_tokenizer(), id="tiny")
    require(model, "circuits")
    projection = model.blocks[0].self_attn.o_proj
    own = projection.forward
    projection.forward = lambda hidden: own(hidden) * 2
    with pytest.raises(UnsupportedModel, match="attention's output"):
        require(model, "circuits")


def test_a_hook_added_after_the_first_check_is_asked_about():
    model = Model(tiny_model("llama"), tiny_tokenizer(), id="tiny")
    require(model, "regions")
    handle = model.blocks[0].mlp.down_proj.register_forward_hook(lambda _m, _i, output: output * 2)
    with pytest.raises(UnsupportedModel, match="neurons times output weights miss"):
        require(model, "regions")
    handle.remove()
    require(model, "regions")
    model.blocks[1].register_forward_hook(lambda _m, _i, _o: None)  # one that only looks
    require(model, "regions")


def test_a_model_that_is_edited_before_it_was_ever_asked_is_asked_as_it_is():
    """The edit is set aside while the model is asked, and stands again afterwards; the answer is the bare model's."""
    zero = {Site("mlp_write", 1): torch.zeros_like}
    bare = Model(tiny_model("llama"), tiny_tokenizer(), id="bare")
    with torch.inference_mode(), edit(bare, zero):
        wanted = bare.trunk(IDS)
    model = Model(tiny_model("llama"), tiny_tokenizer(), id="tiny")
    with torch.inference_mode(), edit(model, zero) as fired:
        require(model, "circuits")
        assert fired == {Site("mlp_write", 1): 0}
        assert torch.equal(model.trunk(IDS), wanted)
    with torch.inference_mode(), edit(model, zero, exclusive=True):
        with pytest.raises(AlreadyEdited), edit(model, zero):
            pass
        model.trunk(IDS)
    again = Model(tiny_model("llama"), tiny_tokenizer(), id="again")
    mask = torch.zeros(again.layers, again.neurons_per_layer, dtype=torch.bool)
    mask[1] = True
    with deactivate(again, mask):
        inside = record(again, corpus()).means
    with deactivate(bare, mask):
        assert torch.equal(torch.as_tensor(inside), torch.as_tensor(record(bare, corpus()).means))
    with resume(again, 2, torch.ones(2, 6, 32)):
        Model(again.hf, tiny_tokenizer(), id="twin").renew()
        require(Model(again.hf, tiny_tokenizer(), id="twin"), "circuits")
    mixture = Model(mixture_weights("mixtral"), tiny_tokenizer(), id="mixed")
    with without_experts(mixture, {0: [1]}), torch.inference_mode():
        require(mixture, "circuits")
        mixture.trunk(IDS)
    with without_experts(mixture, {0: [1]}, "reroute"), torch.inference_mode():
        assert Model(mixture.hf, tiny_tokenizer(), id="twin").scales == mixture.scales
        mixture.trunk(IDS)


def test_a_model_that_fails_is_refused_within_an_edit_too(misread):
    with edit(misread, {Site("neurons", 0): torch.zeros_like}), torch.inference_mode():
        with pytest.raises(UnsupportedModel, match="cannot be used for circuits"):
            require(misread, "circuits")
        misread.trunk(IDS)


def test_every_router_is_among_the_sites():
    model = Model(mixture_weights("qwen3_moe"), tiny_tokenizer(), id="mixed")
    assert [site.layer for site in model.sites() if site.kind == "router"] == list(model.mixtures)
    with torch.inference_mode(), capture(model, model.sites()) as seen:
        model.trunk(IDS)
    assert set(seen) == set(model.sites())


def test_a_hook_of_one_thread_reads_no_pass_of_another():
    """What torch calls without keywords, as it does while a hook is half added, is a pass of another thread."""
    model = Model(tiny_model("llama"), tiny_tokenizer(), id="tiny")
    mixture = Model(mixture_weights("mixtral"), tiny_tokenizer(), id="mixed")
    shape = PassShape(mixture.blocks[0])
    shape._note(mixture.blocks[0], (torch.zeros(4, 5, 1),))
    assert shape.shape == (0, 0)
    shape.remove()
    with edited_rows(model, [RowEdit({Site("residual", 1): lambda h: h * 2}, first=True)]) as flow:
        flow.rows = torch.zeros(2, dtype=torch.long)
        with torch.inference_mode():
            model.trunk(IDS)
            places = flow.places
            other = threading.Thread(target=lambda: model.trunk(IDS[:1, :3]))
            other.start()
            other.join()
        assert flow.places is places
        (note,) = [
            hook for hook in model.hf.model._forward_pre_hooks.values() if hook.__module__ == "babelscope.models.rows"
        ]
        note(model.hf.model, (IDS,))
        assert flow.places is places


def test_a_model_in_training_mode_gives_no_numbers():
    model = Model(tiny_model("llama"), tiny_tokenizer(), id="tiny")
    model.hf.train()
    with pytest.raises(ModelError, match="training mode"):
        model.trunk(IDS)


def test_weights_that_are_zero_when_the_multipliers_are_measured_are_no_reason_to_refuse():
    def emptied(family: str, **shape: float) -> Model:
        hf = tiny_model(family, tie_word_embeddings=False, **shape)
        kept = hf.lm_head.weight.detach().clone()
        with torch.no_grad():
            hf.lm_head.weight.zero_()
            model = Model(hf, tiny_tokenizer(), id="tiny")
            assert model.scales.logits == 1
            require(model, "circuits")
            hf.lm_head.weight.copy_(kept)
        return model

    require(emptied("llama"), "circuits")
    granite = emptied("granite", logits_scaling=4.0)
    require(granite, "circuits")  # a multiplier that came to light afterwards is measured then
    assert granite.scales.logits == 0.25


# -- adapters -------------------------------------------------------------------------------------------------------


def adapted(dora: bool):
    base = tiny_model("llama")
    config = LoraConfig(r=4, target_modules=["q_proj", "o_proj", "down_proj"], use_dora=dora, init_lora_weights=False)
    torch.manual_seed(3)
    return get_peft_model(base, config).eval()


@pytest.mark.parametrize("dora", [False, True])
def test_an_unmerged_adapter_is_refused_in_memory(dora):
    peft = adapted(dora)
    for hf in (peft, peft.base_model.model):
        with pytest.raises(UnsupportedModel, match=r"not merged.*merge_and_unload"):
            Model(hf, tiny_tokenizer(), id="tiny")


def test_an_adapter_added_after_loading_is_noticed():
    hf = tiny_model("llama")
    model = Model(hf, tiny_tokenizer(), id="tiny")
    require(model, "circuits")
    get_peft_model(hf, LoraConfig(r=2, target_modules=["o_proj"], init_lora_weights=False))
    with pytest.raises(UnsupportedModel, match="adapter is not merged"):
        circuits.activation_patching(model, random_pairs()[:1], [Head(0, 0)])


@pytest.mark.parametrize("dora", [False, True])
def test_a_merged_adapter_is_the_merged_weights(tmp_path, monkeypatch, dora):
    peft = adapted(dora)
    tiny_model("llama").save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    peft.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="LORA adapter: add --merge-adapter, or remove"):
        load_model(tmp_path)
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "peft", None)
        with pytest.raises(ModelError, match="LORA adapter: add --merge-adapter, or remove"):
            load_model(tmp_path)
        with pytest.raises(MissingExtra, match="peft"):
            load_model(tmp_path, options=LoadOptions(merge_adapter=True))
    model = load_model(tmp_path, options=LoadOptions(merge_adapter=True))
    with torch.no_grad():
        wanted = peft(IDS).logits
    merged = Model(peft.merge_and_unload(), tiny_tokenizer(), id="merged")
    assert torch.allclose(model.hf(IDS).logits, wanted, atol=1e-5)
    assert torch.equal(model.neuron_weight(1), merged.neuron_weight(1))
    assert model.weight_hash == merged.weight_hash
    recorded = model.facts()["adapter"]
    assert recorded["base_weight_hash"] == Model(tiny_model("llama"), tiny_tokenizer()).weight_hash
    assert recorded["base_weight_hash"] != model.weight_hash
    assert len(recorded["adapter_hash"]) == 64
    require(model, "circuits")


# -- offloaded ------------------------------------------------------------------------------------------------------

AWAY = {"embedding": "model.embed_tokens", "head": "lm_head", "a layer": "model.layers.1"}


def placed(part: str, where: str, folder: Path) -> Model:
    from accelerate import dispatch_model

    names = ["model.embed_tokens", "model.layers.0", "model.layers.1", "model.layers.2", "model.norm", "lm_head"]
    names.append("model.rotary_emb")
    device_map = dict.fromkeys(names, "cpu") | {AWAY[part]: where}
    hf = tiny_model("llama", tie_word_embeddings=False)
    if where == "disk":
        return Model(
            dispatch_model(hf, device_map, main_device="cpu", offload_dir=str(folder)), tiny_tokenizer(), id="tiny"
        )
    from accelerate import cpu_offload

    inner = hf.get_submodule(AWAY[part])
    cpu_offload(inner, execution_device=torch.device("cpu"), offload_buffers=False)
    return Model(hf, tiny_tokenizer(), id="tiny")


@pytest.mark.parametrize("part", AWAY)
@pytest.mark.parametrize("where", ["disk", "memory"])
def test_offloaded_weights_give_the_numbers_of_resident_ones(part, where, tmp_path):

    resident = Model(tiny_model("llama", tie_word_embeddings=False), tiny_tokenizer(), id="tiny")
    away = placed(part, where, tmp_path)
    assert away.device.type == "cpu"
    assert away.weight_hash == resident.weight_hash
    with torch.inference_mode():
        hidden = [model.trunk(IDS) for model in (resident, away)]
        losses = [token_losses(model, h[:, :-1], IDS[:, 1:]) for model, h in zip((resident, away), hidden)]
        words = [model.logits(h, torch.tensor([7, 9])) for model, h in zip((resident, away), hidden)]
    assert torch.allclose(hidden[0], hidden[1], atol=1e-6)
    assert torch.allclose(losses[0], losses[1], atol=1e-6)
    assert torch.allclose(words[0], words[1], atol=1e-6)
    require(away, "regions")
    means = [record(model, corpus(2, 2)).means for model in (resident, away)]
    assert abs(means[0] - means[1]).max() <= 1e-6
    windows = cut_windows(resident, texts(1)["en"], 16, limit=2)
    perplexities = [score(model, windows).perplexity for model in (resident, away)]
    assert perplexities[0] == pytest.approx(perplexities[1], rel=1e-6)
    story = ClozeStory("1", "ab cd", ("ef gh", "ij"), 0)
    margins = [evaluate_cloze(model, {"en": [story]}).margin[0] for model in (resident, away)]
    assert margins[0] == pytest.approx(margins[1], rel=1e-6)
    for entry in ("activation patching", "path patching", "edges", "atp", "roles"):
        with pytest.raises(UnsupportedModel, match=r"offloaded.*regions work"):
            ENTRIES[entry](away)


def test_two_offloaded_models_have_two_hashes(tmp_path):
    from accelerate import cpu_offload

    def hashed(seed: int) -> str:
        hf = tiny_model("llama", seed=seed)
        cpu_offload(hf, execution_device=torch.device("cpu"))
        return Model(hf, tiny_tokenizer(), id="tiny").weight_hash

    assert hashed(0) == Model(tiny_model("llama"), tiny_tokenizer()).weight_hash
    assert hashed(0) != hashed(1)


# -- options that are used, or refused ------------------------------------------------------------------------------


def test_a_wrong_registered_row_is_refused(misread):
    assert misread.family.origin == "registered"
    with pytest.raises(UnsupportedModel, match="cannot be used for circuits"):
        require(misread, "circuits")


# -- the command ----------------------------------------------------------------------------------------------------
