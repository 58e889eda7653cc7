"""What is given to be loaded: folders, devices, types, lengths, rows from outside; and the command that checks it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from babelscope.errors import InputError, ModelError, UnsupportedModel
from babelscope.models import LoadOptions, Model, load_model, register_family, require, unregister_family
from babelscope.models.registry import family_from_file, row_from_data
from tests.tiny_mixtures import mixture_weights
from tests.tiny_models import save_tiny_llama, tiny_model, tiny_tokenizer

from .test_models_gate import LLAMA


@pytest.fixture
def saved(tmp_path):
    return save_tiny_llama(tmp_path / "model")


def test_a_folder_has_no_revisions_but_its_subfolders(saved):
    with pytest.raises(ModelError, match="is a folder and has no revision 'step16'"):
        load_model(saved, revision="step16")
    saved.rename(saved.parent / "step16")
    assert load_model(saved.parent, revision="step16").layers == 3


@pytest.mark.parametrize(
    ("device", "told"),
    [
        ("gpu", "is no device"),
        ("tpu", "is no device"),
        ("meta", "no device to compute on"),
        ("cuda:99", "there is no device"),
    ],
)  # fmt: skip
def test_devices_that_do_not_exist_are_one_line(saved, device, told):
    with pytest.raises(ModelError, match=told):
        load_model(saved, device=device)


def test_types_go_by_their_short_names_too(saved):
    assert load_model(saved, dtype="bf16").dtype == torch.bfloat16
    with pytest.raises(ModelError, match="not a floating-point type"):
        load_model(saved, dtype="int8")


def test_what_is_no_model_or_tokenizer_is_told(saved):
    with pytest.raises(ModelError, match="load_model takes a name"):
        Model("path", tiny_tokenizer())
    with pytest.raises(ModelError, match="takes a tokenizer, not the path"):
        Model(tiny_model("llama"), saved)
    with pytest.raises(ModelError, match=r"give its \.module"):
        Model(torch.nn.DataParallel(tiny_model("llama")), tiny_tokenizer())


def test_quantised_weights_are_refused_from_the_configuration(saved):
    config = json.loads((saved / "config.json").read_text())
    for method, told in (("mxfp4", "add --dequantise"), ("gptq", "load an unquantised copy")):
        config["quantization_config"] = {"quant_method": method, "bits": 4}
        (saved / "config.json").write_text(json.dumps(config))
        with pytest.raises(ModelError, match=f"quantised by {method}.*{told}"):
            load_model(saved)
    with pytest.raises(ModelError, match="holds no quantised weights: leave --dequantise out"):
        load_model("pocket:pocket-bloom-s", options=LoadOptions(dequantise=True))
    with pytest.raises(ModelError, match="cannot dequantise gptq"):
        load_model(saved, options=LoadOptions(dequantise=True))


# -- tokens and lengths ---------------------------------------------------------------------------------------------


def test_a_token_beyond_the_embeddings_is_refused_where_it_is_used():
    tokenizer = tiny_tokenizer()
    highest = max(tokenizer.get_vocab().values()) + 1
    grown = type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer, unk_token="<unk>")
    grown.add_special_tokens({"pad_token": "[PADX]"})
    model = Model(tiny_model("llama", vocab_size=highest), grown, id="tiny")
    assert model.tokenize(["abc"])
    with pytest.raises(InputError, match=rf"sentence 17 \(fr\): token '\[PADX\]' \({highest}\) is beyond the model's"):
        model.tokenize(["abc", "a[PADX]"], names=["sentence 16 (fr)", "sentence 17 (fr)"])


def test_learned_positions_are_a_hard_limit():
    model = Model(tiny_model("opt"), tiny_tokenizer(), id="tiny", allow_longer=True)
    model.tokenize(["a" * 128], names=["first"])
    model.tokenize(["a" * 129])  # to be cut
    with pytest.raises(InputError, match="text 1 has 129 tokens; tiny has learned 128 positions"):
        model.tokenize(["a", "a" * 129], names=["text 0", "text 1"])


def test_texts_beyond_trained_positions_need_leave():
    strict = Model(tiny_model("llama"), tiny_tokenizer(), id="tiny")
    with pytest.raises(InputError, match=r"made for 128 positions.*--allow-longer"):
        strict.tokenize(["a" * 129], names=["long"])
    free = Model(tiny_model("llama"), tiny_tokenizer(), id="tiny", allow_longer=True)
    assert len(free.tokenize(["a" * 129], names=["long"])[0]) == 129
    assert free.facts()["allow_longer"] is True
    assert Model(tiny_model("bloom"), tiny_tokenizer()).context.length is None


# -- rows from outside ----------------------------------------------------------------------------------------------

OUTSIDE = """
name = "mine"
version = "2"
blocks = "model.layers"
neurons = "mlp.down_proj"
attention_output = "self_attn.o_proj"
qkv = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]
attention_norm = "input_layernorm"
mlp_norm = "post_attention_layernorm"
final_norm = "model.norm"
"""


def test_a_row_from_a_file_passes_the_whole_gate(saved, tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text(OUTSIDE)
    model = load_model(saved, options=LoadOptions(family=file))
    require(model, "circuits")
    facts = model.facts()
    assert (facts["family"], facts["family_origin"], facts["family_version"]) == ("mine", "file", "2")
    assert len(facts["family_digest"]) == 64


def test_a_wrong_row_from_a_file_is_refused(saved, tmp_path):
    file = tmp_path / "wrong.toml"
    file.write_text(OUTSIDE.replace("mlp.down_proj", "mlp.third_proj"))
    with pytest.raises(UnsupportedModel, match=r"'mine' finds no module at mlp\.third_proj \(layers 0, 1, 2\)"):
        load_model(saved, options=LoadOptions(family=file))
    file.write_text(OUTSIDE.replace('mlp_norm = "post_attention_layernorm"', "parallel = true"))
    model = load_model(saved, options=LoadOptions(family=file))
    assert model.family.parallel


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"name": "a", "blocks": "b"}, "needs 'neurons'"),
        ({"name": "a", "blocks": "b", "neurons": "n", "color": "red"}, "'color' is no field"),
        ({"name": "a", "blocks": "b", "neurons": "n", "origin": "built in"}, "'origin' is no field"),
        ({"name": "a", "blocks": "b", "neurons": 3}, "neurons is 3"),
        ({"name": "a", "blocks": "b", "neurons": "n", "layout": "odd"}, "layout is 'odd'"),
        ({"name": "a", "blocks": "b", "neurons": "n", "qkv": "self"}, "qkv is 'self'"),
        ({"name": "a", "blocks": "b", "neurons": "n", "parallel": "yes"}, "parallel is 'yes'"),
    ],
)
def test_a_row_with_wrong_fields_is_refused(content, told):
    with pytest.raises(InputError, match=told):
        row_from_data(content, "here")


def test_a_file_that_is_no_toml_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        family_from_file(tmp_path / "absent.toml")
    (tmp_path / "odd.toml").write_text("name = ")
    with pytest.raises(InputError, match="is not TOML"):
        family_from_file(tmp_path / "odd.toml")


def test_a_registered_row_passes_the_gate_and_is_not_overwritten_by_chance():
    register_family(lambda config: replace(LLAMA, name=f"mine of {config.hidden_size}"), "llama", overwrite=True)
    try:
        model = Model(tiny_model("llama"), tiny_tokenizer(), id="tiny")
        assert (model.family.name, model.family.origin) == ("mine of 32", "registered")
        require(model, "circuits")
        with pytest.raises(InputError, match="registered already"):
            register_family(LLAMA, "llama")
    finally:
        unregister_family("llama")
    with pytest.raises(InputError, match="built in already"):
        register_family(LLAMA, "llama")
    with pytest.raises(InputError, match="not str"):
        register_family("llama", "mine")  # pyright: ignore[reportArgumentType]


def check(capsys, *words: str) -> tuple[int, str]:
    from babelscope.cli import main

    try:
        main(["check", *words])
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    said = capsys.readouterr()
    return code, " ".join((said.out + said.err).split())


def test_check_says_what_a_model_can_be_used_for(saved, capsys):
    code, said = check(capsys, str(saved))
    assert code == 0
    assert "supported: regions, circuits." in said


def test_check_of_a_model_for_regions_alone(tmp_path, capsys):
    tiny_model("opt-350m").save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    code, said = check(capsys, str(tmp_path))
    assert code == 1
    assert "supported: regions; not supported: circuits (embedding + writes miss the final residual by" in said
    code, said = check(capsys, str(tmp_path), "--for", "regions")
    assert code == 0


def test_check_of_what_cannot_be_used_is_one_line(tmp_path, capsys):
    mixture_weights("jetmoe").save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    code, said = check(capsys, str(tmp_path))
    assert code == 1
    assert "cannot be used: jetmoe: the experts at mlp.input_linear of layer 0 do not pass through" in said
    assert "Traceback" not in said


def test_a_window_longer_than_learned_positions_is_refused():
    from babelscope.corpora.texts import Document, TextCollection
    from babelscope.regions.perplexity import cut_windows

    model = Model(tiny_model("opt"), tiny_tokenizer(), id="tiny")
    texts = TextCollection("en", (Document("a", "ab" * 200),), "here")
    with pytest.raises(InputError, match="a window has 129 tokens; tiny has learned 128 positions"):
        cut_windows(model, texts, 129)


def test_adapters_and_quantised_weights_on_the_hub_are_refused_too(tmp_path):
    """A cache as the hub's client lays it out, offline."""
    files = {"adapter": {"adapter_config.json": {"peft_type": "LORA"}}, "small": {}}
    for name, more in files.items():
        folder = tmp_path / "hub" / f"models--org--{name}"
        (folder / "refs").mkdir(parents=True)
        (folder / "refs" / "main").write_text("abc")
        snapshot = folder / "snapshots" / "abc"
        tiny_model("llama").save_pretrained(snapshot)
        tiny_tokenizer().save_pretrained(snapshot)
        for file, content in more.items():
            (snapshot / file).write_text(json.dumps(content))
    config = json.loads((snapshot / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8"}
    (snapshot / "config.json").write_text(json.dumps(config))
    program = (
        "from babelscope.errors import ModelError\n"
        "from babelscope.models import load_model\n"
        "for name in ('org/adapter', 'org/small'):\n"
        "    try: load_model(name)\n"
        "    except ModelError as error: print(error)\n"
    )
    environment = os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    ended = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines() == [
        "org/adapter holds a LORA adapter: add --merge-adapter, or remove the adapter's files",
        "org/small holds weights quantised by fp8, which are not what was trained: add --dequantise",
    ]
