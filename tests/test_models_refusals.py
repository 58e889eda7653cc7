"""What is refused of a model's folder, sizes, weights and tokenizer: at the border on either side, with the words."""

from __future__ import annotations

import json
import os
import resource
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from babelscope.errors import ModelError, NonFinite, UnsupportedModel
from babelscope.models import refusals
from babelscope.models.refusals import (
    check_finite,
    in_our_words,
    memory,
    refuse_doubles,
    refuse_files,
    refuse_narrow,
    refuse_placeholders,
    refuse_quantised,
    refuse_sizes,
    refuse_tokenizer,
    refuse_unused,
    refuse_what_is_no_model,
)

from .tiny_models import tiny_model

POINTER = b"version https://git-lfs.github.com/spec/v1\noid x\n"


# -- folders --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.safetensors", "a.bin", "a.pt", "a.pth", "a.json", "a.model"])
def test_a_pointer_of_git_lfs_is_told_in_every_file_that_is_read(tmp_path, name):
    (tmp_path / "README.md").write_bytes(POINTER)
    (tmp_path / "folder.bin").mkdir()
    (tmp_path / "b.bin").write_bytes(b"version https://git")
    refuse_files(tmp_path, "m")
    (tmp_path / name).write_bytes(POINTER)
    told = f"^{tmp_path / name} is a pointer of Git LFS, not the file itself: run `git lfs pull` in {tmp_path}$"
    with pytest.raises(ModelError, match=told):
        refuse_files(tmp_path, "m")


@pytest.mark.parametrize("weights", ["a.safetensors", "a.bin", "a.pt", "a.pth", None])
def test_gguf_is_refused_where_there_are_no_other_weights(tmp_path, weights):
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    if weights:
        (tmp_path / weights).write_bytes(b"0")
        refuse_files(tmp_path, "m")
        return
    with pytest.raises(ModelError, match=r"^m holds x\.gguf, and GGUF is not read: take the model that it was made"):
        refuse_files(tmp_path, "m")


def test_a_file_that_cannot_be_read_is_one_line(tmp_path):
    with pytest.raises(ModelError, match=f"^{tmp_path} cannot be read: Is a directory$"):
        refusals._begins(tmp_path, b"v")


def test_weights_of_an_adapter_need_its_configuration(tmp_path):
    refuse_doubles(tmp_path, "m")
    for name in ("adapter_model.safetensors", "adapter_model.bin"):
        (tmp_path / name).write_bytes(b"")
    told = r"^m holds adapter_model\.bin, an adapter without its adapter_config\.json: add it, or remove the adapter$"
    with pytest.raises(ModelError, match=told):
        refuse_doubles(tmp_path, "m")
    (tmp_path / "adapter_config.json").write_text("{}")
    refuse_doubles(tmp_path, "m")


@pytest.mark.parametrize("content", ["[]", "{}", '{"weight_map": []}'])
def test_an_index_of_another_kind_is_told(tmp_path, content):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(content)
    with pytest.raises(ModelError, match=r"index.json has no weight_map: it is no index of safetensors files"):
        refuse_doubles(tmp_path, "m")
    (tmp_path / "model.safetensors").write_bytes(b"")
    told = r"^m holds model\.safetensors and model\.safetensors\.index\.json, two sets of weights: remove one$"
    with pytest.raises(ModelError, match=told):
        refuse_doubles(tmp_path, "m")


def test_a_file_of_weights_that_is_none_is_told(tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "one.safetensors"}}')
    (tmp_path / "one.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(ModelError, match=r"one\.safetensors cannot be read: m: its weights are no safetensors file"):
        refuse_doubles(tmp_path, "m")


def test_a_tensor_that_the_index_leaves_out_is_not_double(tmp_path):
    save_file({"a": torch.ones(1), "more": torch.ones(1)}, tmp_path / "one.safetensors")
    save_file({"b": torch.ones(1)}, tmp_path / "two.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}))
    refuse_doubles(tmp_path, "m")
    save_file({"b": torch.ones(1), "a": torch.ones(1)}, tmp_path / "two.safetensors")
    told = r"^m holds a in one\.safetensors and in two\.safetensors: which is meant is not said$"
    with pytest.raises(ModelError, match=told):
        refuse_doubles(tmp_path, "m")


@pytest.mark.parametrize(
    "key",
    ["model.layers.3.mlp.up.weight", "h.0.x", "transformer.h.12.x", "layer.1.x", "a.block.2.x", "blocks.0.x",
     "lm_head.bias", "embed_out.weight", "model.norm.bias", "model.embed_positions.weight"],
)  # fmt: skip
def test_stored_weights_of_blocks_and_head_need_a_place(key):
    told = f"^m: 1 stored weights have no place in the model that config.json describes, the first is {key}: its conf"
    with pytest.raises(ModelError, match=told):
        refuse_unused([key, "classifier.weight"], "m")


@pytest.mark.parametrize(
    "key",
    ["score.weight", "model.layers.weight", "model.layers.x.weight", "mylayers.0.x", "model.lm_head.weight",
     "layers.0.rotary_emb.x", "layers.0.self_attn.inv_freq", "h.0.attn.masked_bias", "h.0.attn.bias",
     "layers.0.attention.bias", "layers.0.position_ids", "layers.0.num_batches_tracked", "vision.layers.0.x",
     "image.layers.0.x", "visual.blocks.0.x", "audio.layers.0.x", "speech.layers.0.x", "mtp.layers.0.x",
     "layers.61.nextn.x", "eagle.layers.0.x", "medusa.layers.0.x", "projector.layers.0.x", "model.pooler.dense.weight",
     "model.encoder.embed_positions.weights", "model.embed_positions._float_tensor", "vision.norm.weight", "norm.x"],
)  # fmt: skip
def test_heads_of_other_tasks_and_what_is_computed_anew_are_no_matter(key):
    refuse_unused([key], "m")


def test_weights_are_of_the_trunk_by_what_its_names_begin_with():
    refuse_unused(["transformer.ln_f.bias"], "m")
    with pytest.raises(ModelError, match=r"the first is transformer\.ln_f\.bias"):
        refuse_unused(["transformer.ln_f.bias"], "m", "transformer")


NARROW = {"I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool, "F8_E4M3": torch.float8_e4m3fn}


@pytest.mark.parametrize("kind", NARROW)
def test_stored_weights_of_few_bits_without_their_scales_are_refused(tmp_path, kind):
    weight = torch.ones(2, 2).to(NARROW[kind])
    save_file({"a.weight": torch.ones(1), "h.0.weight": weight}, tmp_path / "model.safetensors")
    told = f"^m holds h.0.weight as {kind}, and its config.json names no quantisation: load an unquantised copy$"
    with pytest.raises(ModelError, match=told):
        refuse_narrow(tmp_path, "m")


def test_numbers_of_sixteen_bits_and_buffers_are_what_they_are(tmp_path):
    kinds = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    saved = {f"{place}.weight": torch.ones(1, dtype=kind) for place, kind in enumerate(kinds)}
    more = {"attn.bias": torch.ones(1, dtype=torch.bool), "position_ids": torch.arange(3)}
    save_file({**saved, **more}, tmp_path / "model.safetensors")
    refuse_narrow(tmp_path, "m")


def test_the_first_of_several_unused_weights_is_told():
    with pytest.raises(ModelError, match=r"^m: 2 stored weights .* the first is h\.1\.x:"):
        refuse_unused(["h.2.x", "h.1.x", "other"], "m")


# -- what is no model -----------------------------------------------------------------------------------------------


def test_what_a_model_is_made_of():
    hf = tiny_model("llama")
    refuse_what_is_no_model(hf, None)
    with pytest.raises(ModelError, match=r"Model takes a Hugging Face model, not Linear: load_model takes a name"):
        refuse_what_is_no_model(nn.Linear(2, 2), None)
    with pytest.raises(ModelError, match=r"not SimpleNamespace: give its \.module$"):
        refuse_what_is_no_model(SimpleNamespace(config=1, module=hf), None)
    for path in ("a/b", b"a/b", Path("a/b")):
        with pytest.raises(ModelError, match=r"Model takes a tokenizer, not the path .*a/b.*: AutoTokenizer"):
            refuse_what_is_no_model(hf, path)


def test_a_tokenizer_has_no_more_words_than_there_are_embeddings():
    def tokenizer(*words: int, added: tuple[int, ...] = ()) -> SimpleNamespace:
        return SimpleNamespace(
            get_vocab=lambda: {str(word): word for word in words}, added_tokens_decoder=dict.fromkeys(added, "")
        )

    refuse_tokenizer(None, 5, "m")
    refuse_tokenizer(tokenizer(0, 4, 3), 5, "m")  # pyright: ignore[reportArgumentType]
    refuse_tokenizer(tokenizer(0, 4, 5, 9, added=(5, 9)), 5, "m")  # pyright: ignore[reportArgumentType]
    refuse_tokenizer(tokenizer(7, added=(7,)), 0, "m")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ModelError, match=r"not belong to m: its highest token id is 5, the model has 5 embeddings$"):
        refuse_tokenizer(tokenizer(0, 5, 9, added=(9,)), 5, "m")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ModelError, match=r"^the tokenizer of m has an empty vocabulary$"):
        refuse_tokenizer(tokenizer(), 5, "m")  # pyright: ignore[reportArgumentType]


class Bare(nn.Module):
    def __init__(self, **tensors: torch.Tensor) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)


class Subclass(torch.Tensor):
    pass


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_floating_weights_are_what_they_are(dtype):
    refuse_quantised(nn.Sequential(Bare(weight=torch.zeros(2, dtype=dtype), bias=torch.zeros(2).int())), "m")


@pytest.mark.parametrize(
    "weight",
    [torch.zeros(2, dtype=torch.int8), torch.zeros(2, dtype=torch.int32), torch.zeros(2, dtype=torch.float8_e4m3fn),
     torch.zeros(2).as_subclass(Subclass)],
)  # fmt: skip
def test_packed_weights_are_refused_by_their_type(weight):
    with pytest.raises(UnsupportedModel, match=r"^m holds quantised weights \(0\.weight\), which are not what was"):
        refuse_quantised(nn.Sequential(Bare(weight=weight)), "m")


@pytest.mark.parametrize("name", ["qweight", "W_q", "weight_packed", "q_weight"])
def test_packed_weights_are_refused_by_their_name(name):
    with pytest.raises(UnsupportedModel, match=rf"^m holds quantised weights \(Bare\.{name}\)"):
        refuse_quantised(Bare(**{name: torch.zeros(2), "weight": torch.zeros(2)}), "m")


def test_weights_that_are_methods_are_packed_ones():
    packed = nn.Module()
    packed.weight = lambda: torch.zeros(2)
    with pytest.raises(UnsupportedModel, match=r"\(Module\.weight\)"):
        refuse_quantised(packed, "m")
    holder = nn.Module()
    holder.weight = nn.Linear(2, 2)
    refuse_quantised(holder, "m")


def test_weights_that_are_no_numbers_are_named():
    hf = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    check_finite(hf, "m")
    with torch.no_grad():
        for bad in (torch.nan, torch.inf, -torch.inf):
            hf[1].bias[1] = bad
            with pytest.raises(NonFinite, match=r"^the weight 1\.bias of m holds NaN or infinite values$"):
                check_finite(hf, "m")
    hf[1].to("meta")
    check_finite(hf, "m")


def test_placeholders_are_refused_where_nothing_fills_them():
    hf = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    refuse_placeholders(hf, "m")
    hf[1].to("meta")
    with pytest.raises(ModelError, match=r"^m: 2 weights were never loaded, the first is 1\.weight$"):
        refuse_placeholders(hf, "m")
    hf[0]._hf_hook = object()
    refuse_placeholders(hf, "m")


# -- sizes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "most", "what"),
    [("num_hidden_layers", 2_000, "layers"), ("hidden_size", 1 << 20, "dimensions"),
     ("vocab_size", 1 << 26, "words in the vocabulary")],
)  # fmt: skip
def test_sizes_that_no_model_has_are_refused(size, most, what):
    fitting: dict[str, object] = dict(num_hidden_layers=1, hidden_size=1, vocab_size=1)
    for value in (1, most, float(most), None):
        refuse_sizes(SimpleNamespace(**fitting | {size: value}), "m", 2, 1 << 62)
    for value, told in ((0, 0), (-1, -1), (most + 1, most + 1), (True, 0), ("4", 0), (4.5, 0)):
        with pytest.raises(
            ModelError, match=rf"^m: config\.json states {told} {what}, which no model has \(1 to {most}\)$"
        ):
            refuse_sizes(SimpleNamespace(**fitting | {size: value}), "m", 2, 1 << 62)


@pytest.mark.parametrize("layers", ["num_hidden_layers", "n_layer", "n_layers", "num_layers"])
@pytest.mark.parametrize("width", ["hidden_size", "n_embd", "d_model", "word_embed_proj_dim"])
def test_sizes_go_by_several_names(layers, width):
    """5 layers of width 3 and 7 words of one byte: 5 · 2 · 9 + 7 · 3 = 111."""
    inner = SimpleNamespace(**{layers: 5, width: 3, "vocab_size": 7})
    config = SimpleNamespace(num_hidden_layers=0, get_text_config=lambda: inner)
    refuse_sizes(config, "m", 1, 111)
    with pytest.raises(ModelError, match=r"m: 5 layers of width 3 and 7 words need at least 0 GiB; there are 0 GiB"):
        refuse_sizes(config, "m", 1, 110)


def test_the_room_is_what_the_machine_has(monkeypatch):
    config = SimpleNamespace(num_hidden_layers=1, hidden_size=4, vocab_size=2)
    monkeypatch.setattr(refusals, "memory", lambda: 80)
    refuse_sizes(config, "m", 2)
    monkeypatch.setattr(refusals, "memory", lambda: 79)
    with pytest.raises(ModelError, match=r"m: 1 layers"):
        refuse_sizes(config, "m", 2)


@pytest.mark.parametrize(
    ("meminfo", "swap"),
    [("MemTotal: 9 kB\nSwapTotal:       3 kB\n", 3 << 10), ("MemTotal: 9 kB\n", 0), ("SwapTotal:\n", 0),
     ("SwapTotal: x kB\n", 0), (None, 0)],
)  # fmt: skip
def test_memory_is_of_the_machine_with_its_swap_or_of_the_process(monkeypatch, meminfo, swap):
    def read(_: Path) -> str:
        if meminfo is None:
            raise OSError
        return meminfo

    monkeypatch.setattr(Path, "read_text", read)
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1000}.__getitem__)
    monkeypatch.setattr(
        resource, "getrlimit", lambda what: (resource.RLIM_INFINITY, 1 if what == resource.RLIMIT_AS else 0)
    )
    assert memory() == 4_096_000 + swap
    monkeypatch.setattr(resource, "getrlimit", lambda _: (5_000_000, 9))
    assert memory() == 4_096_000 + swap
    monkeypatch.setattr(resource, "getrlimit", lambda _: (12_345, 9))
    assert memory() == 12_345
    monkeypatch.delattr(os, "sysconf")
    assert memory() == 1 << 62


# -- what others say ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            "give trust_remote_code=True",
            "m brings code of its own, which is not run unasked: read it,",
        ),
        ("a is not a valid git identifier", "m: there is no such revision on the hub; leave --revision out"),
        ("we couldn't connect", "m is no folder here and not in the cache, and the hub cannot be reached: check"),
        ("Cannot reach it", "m is no folder here and not in the cache"),
        ("offline mode is on", "m is no folder here and not in the cache"),
        ("a LocalEntryNotFound", "m is no folder here and not in the cache"),
        (
            "x is not a local folder and is not a valid model identifier",
            "m is no folder here and no model",
        ),
        ("RepositoryNotFound", "m is no folder here and no model of the hub; or is it a private one: hf auth login"),
        ("a Gated REPO", "m is open to those only who accepted its terms"),
        ("no file named model.safetensors", "m holds no weights: a model folder has"),
        ("no file named config.json", "no file named config.json"),
        ("HeaderTooLarge", "m: its weights are no safetensors file"),
        ("header too large", "m: its weights are no safetensors file"),
        ("some\n  other\n words", "some"),
        ("this:\n  that\n more", "this: that more"),
    ],
)
def test_what_others_say_is_told_with_the_way_out(said, told):
    found = in_our_words(ValueError(said), "m")
    assert found.startswith(told)
    assert len(in_our_words(ValueError("x:\n" + "y " * 200), "m")) <= 200


def test_errors_of_the_hub_are_told_by_their_class_too():
    class RevisionNotFoundError(Exception):
        pass

    class GatedRepoError(Exception):
        pass

    assert in_our_words(RevisionNotFoundError("404"), "m").startswith("m: there is no such revision on the hub")
    assert in_our_words(GatedRepoError("403"), "m").startswith("m is open to those only")
    assert in_our_words(ValueError("404"), "m") == "404"


def test_two_names_at_most_are_near_and_far_ones_are_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("model-a1", "model-a2", "model-a3", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    asked = refusals._near("model-a4")
    assert asked.count(" or ") == 1
    assert asked.startswith("did you mean model-a")
    assert asked.endswith("?")
    assert refusals._near("pocket-bloom-x").startswith("did you mean pocket:pocket-bloom-")
    assert refusals._near("quite-different") == ""
    assert refusals._near("othe") == "did you mean other?"
    assert refusals._near("otXXr") == ""
