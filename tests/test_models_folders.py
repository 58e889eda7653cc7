"""Folders of models that hold something else than they say: refused in one line, or measured as what they hold."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import (
    AdaLoraConfig,
    IA3Config,
    LNTuningConfig,
    LoHaConfig,
    LoraConfig,
    OFTConfig,
    PrefixTuningConfig,
    PromptTuningConfig,
    VeraConfig,
    get_peft_model,
)
from safetensors.torch import load_file, save_file

from babelscope.errors import ModelError, UnsupportedModel
from babelscope.models import LoadOptions, Model, load_model, require
from tests.tiny_models import tiny_model, tiny_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # peft's, of adapters on embeddings and norms
IDS = torch.tensor([[5, 77, 30, 41, 60, 12]])
MERGE = LoadOptions(merge_adapter=True)


def saved(folder: Path, **changes: object) -> Path:
    tiny_model("llama", **changes).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def reconfigured(folder: Path, **changes: object) -> Path:
    file = folder / "config.json"
    settings = json.loads(file.read_text()) | changes
    settings.pop("layer_types", None)
    file.write_text(json.dumps(settings))
    return folder


def test_a_configuration_edited_after_the_weights_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"9 stored weights have no place.*first is model\.layers\.2\."):
        load_model(reconfigured(saved(tmp_path / "fewer"), num_hidden_layers=2))
    with pytest.raises(ModelError, match=r"12 stored weights have no place.*k_proj\.bias"):
        load_model(reconfigured(saved(tmp_path / "bias", attention_bias=True), attention_bias=False))
    with pytest.raises(ModelError, match="weights are missing"):
        load_model(reconfigured(saved(tmp_path / "more"), num_hidden_layers=4))
    untied = saved(tmp_path / "untied", tie_word_embeddings=False)
    wanted = load_model(untied).hf(IDS).logits
    assert torch.equal(load_model(reconfigured(untied, tie_word_embeddings=True)).hf(IDS).logits, wanted)


def test_weights_that_are_stored_twice_are_refused(tmp_path):
    folder = saved(tmp_path)
    weights = load_file(folder / "model.safetensors")
    names = sorted(weights)
    files = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    placed = {name: files[place >= len(names) // 2] for place, name in enumerate(names)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": placed}))
    with pytest.raises(ModelError, match="two sets of weights"):
        load_model(folder)
    (folder / "model.safetensors").unlink()
    for file in files:
        own = {name: weights[name] for name in names if placed[name] == file}
        save_file(own, folder / file, metadata={"format": "pt"})
    load_model(folder)
    double = {name: weights[name] for name in names if placed[name] == files[1]} | {names[0]: weights[names[0]] + 1}
    save_file(double, folder / files[1], metadata={"format": "pt"})
    with pytest.raises(ModelError, match=rf"holds {names[0]} in {files[0]} and in {files[1]}"):
        load_model(folder)
    (folder / files[1]).unlink()
    with pytest.raises(ModelError, match=f"names {files[1]}, which is not there"):
        load_model(folder)


def test_a_revision_is_named_once():
    with pytest.raises(ModelError, match="names revision 'step16' already"):
        load_model("pocket:pocket-bloom-m@step16", revision="step64")


# -- adapters of every kind ------------------------------------------------------------------------------------------

TARGETS = ["q_proj", "o_proj", "down_proj"]
MERGED = {
    "embeddings and head": lambda: LoraConfig(r=4, target_modules=["embed_tokens", "lm_head"], init_lora_weights=False),
    "modules to save": lambda: LoraConfig(r=4, target_modules=TARGETS, modules_to_save=["lm_head", "embed_tokens"]),
    "biases": lambda: LoraConfig(r=4, target_modules=TARGETS, init_lora_weights=False, bias="all"),
    "single tokens": lambda: LoraConfig(r=4, target_modules=TARGETS, trainable_token_indices=[5, 6]),
    "ia3": lambda: IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
    "adalora": lambda: AdaLoraConfig(target_modules=TARGETS, init_r=4, target_r=2, total_step=10),
    "vera": lambda: VeraConfig(r=4, target_modules=["q_proj"], init_weights=False),
    "loha": lambda: LoHaConfig(r=4, target_modules=TARGETS, init_weights=False),
    "oft": lambda: OFTConfig(oft_block_size=8, target_modules=["q_proj"], init_weights=False),
    "norms": lambda: LNTuningConfig(task_type="CAUSAL_LM", target_modules=["input_layernorm"]),
}


@pytest.mark.parametrize("kind", MERGED)
def test_adapters_of_every_kind_are_merged_or_refused(tmp_path, kind):
    torch.manual_seed(3)
    peft = get_peft_model(tiny_model("llama"), MERGED[kind]()).eval()
    with torch.no_grad():
        for parameter in peft.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.05)
        wanted = peft(IDS).logits
    peft.save_pretrained(saved(tmp_path))
    with pytest.raises(UnsupportedModel, match="not merged"):
        Model(peft.base_model.model, tiny_tokenizer(), id="tiny")
    with pytest.raises(ModelError, match="add --merge-adapter"):
        load_model(tmp_path)
    model = load_model(tmp_path, options=MERGE)
    assert torch.allclose(model.hf(IDS).logits, wanted, atol=2e-5)
    assert float((model.hf(IDS).logits - tiny_model("llama")(IDS).logits).detach().abs().max()) > 1e-3
    require(model, "circuits")


@pytest.mark.parametrize("make", [PrefixTuningConfig, PromptTuningConfig])
def test_adapters_that_are_no_change_of_weights_are_refused(tmp_path, make):
    peft = get_peft_model(tiny_model("llama"), make(task_type="CAUSAL_LM", num_virtual_tokens=3))
    peft.save_pretrained(saved(tmp_path))
    with pytest.raises(UnsupportedModel, match="not merged"):
        Model(peft, tiny_tokenizer(), id="tiny")
    with pytest.raises(ModelError, match="no change of weights: remove the adapter's files"):
        load_model(tmp_path)
    with pytest.raises(ModelError, match="cannot be merged"):
        load_model(tmp_path, options=MERGE)


def test_an_adapter_that_does_not_fit_or_lies_elsewhere_is_refused(tmp_path):
    peft = get_peft_model(tiny_model("llama"), LoraConfig(r=4, target_modules=TARGETS, init_lora_weights=False))
    peft.save_pretrained(saved(tmp_path))
    file = tmp_path / "adapter_model.safetensors"
    weights = load_file(file)
    save_file({name: value for name, value in weights.items() if ".layers.1." not in name}, file)
    with pytest.raises(ModelError, match="of another model: 6 tensors do not fit"):
        load_model(tmp_path, options=MERGE)
    save_file({name.replace("model.layers", "transformer.h"): value for name, value in weights.items()}, file)
    with pytest.raises(ModelError, match="of another model: 36 tensors do not fit"):
        load_model(tmp_path, options=MERGE)
    settings = tmp_path / "adapter_config.json"
    kept = settings.read_text()
    settings.unlink()
    with pytest.raises(ModelError, match="an adapter without its adapter_config"):
        load_model(tmp_path)
    file.unlink()
    settings.write_text(kept)
    with pytest.raises(ModelError, match="without its weights"):
        load_model(tmp_path, options=MERGE)
    settings.unlink()
    peft.add_adapter("second", LoraConfig(r=2, target_modules=["v_proj"]))
    peft.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="holds adapters in second"):
        load_model(tmp_path, options=MERGE)
    shutil.rmtree(tmp_path / "second")
    load_model(tmp_path, options=MERGE)


def test_adapters_that_are_off_or_merged_in_place_are_refused_and_unloaded_ones_are_gone():
    peft = get_peft_model(tiny_model("llama"), LoraConfig(r=4, target_modules=TARGETS, init_lora_weights=False))
    peft.base_model.disable_adapter_layers()
    with pytest.raises(UnsupportedModel, match="not merged"):
        Model(peft.base_model.model, tiny_tokenizer())
    peft.base_model.enable_adapter_layers()
    peft.merge_adapter()
    with pytest.raises(UnsupportedModel, match="not merged"):
        Model(peft.base_model.model, tiny_tokenizer())
    peft.unmerge_adapter()
    assert torch.allclose(peft.unload()(IDS).logits, tiny_model("llama")(IDS).logits, atol=1e-5)


@pytest.mark.parametrize("name", ["qweight", "W_q", "weight"])
def test_packed_weights_in_memory_are_refused_whoever_packed_them(name):
    hf = tiny_model("llama")
    part = hf.model.layers[1].mlp.up_proj
    if name == "weight":
        part.weight = torch.nn.Parameter(part.weight.to(torch.float8_e4m3fn), requires_grad=False)
    else:
        part.register_buffer(name, torch.zeros(4, dtype=torch.int32))
    with pytest.raises(UnsupportedModel, match=rf"quantised weights \(model\.layers\.1\.mlp\.up_proj\.{name}\)"):
        Model(hf, tiny_tokenizer(), id="tiny")
