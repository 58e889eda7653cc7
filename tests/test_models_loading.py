"""Names, devices, types and settings with which a model is loaded: at the border on either side, with the words."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
)

from babelscope.errors import MissingExtra, ModelError
from babelscope.models import LoadOptions, Model, load_model, loading
from babelscope.models.loading import Origin, choose_device, choose_dtype, device_called, stored_layers

from .tiny_models import tiny_config, tiny_model, tiny_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("loading") / "tiny"
    tiny_model("llama").save_pretrained(place)
    tiny_tokenizer().save_pretrained(place)
    return place


# -- devices and types ----------------------------------------------------------------------------------------------


def accelerators(monkeypatch, cuda: int, mps: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3 if cuda == 0 else cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


@pytest.mark.parametrize(("cuda", "mps", "chosen"), [(2, True, "cuda"), (0, True, "mps"), (0, False, "cpu")])
def test_the_best_device_is_chosen(monkeypatch, cuda, mps, chosen):
    accelerators(monkeypatch, cuda, mps)
    assert choose_device() == torch.device(chosen)


@pytest.mark.parametrize(
    ("cuda", "mps", "there", "missing"),
    [
        (2, False, ["cpu", "cpu:0", "cuda", "cuda:0", "cuda:1"], ["cuda:2", "cpu:1", "mps"]),
        (0, True, ["cpu", "mps", "mps:0"], ["cuda", "cuda:0", "mps:1"]),
    ],
)
def test_a_device_is_one_of_those_that_there_are(monkeypatch, cuda, mps, there, missing):
    accelerators(monkeypatch, cuda, mps)
    assert [str(device_called(name)) for name in there] == there
    for name in missing:
        with pytest.raises(ModelError, match=rf"^there is no device '{name}' here; leave --device out for the best"):
            device_called(name)
    with pytest.raises(ModelError, match=r"^'gpu' is no device; write cpu, cuda, cuda:1 or mps$"):
        device_called("gpu")
    with pytest.raises(ModelError, match=r"^'meta' is no device to compute on; write cpu, cuda, cuda:1 or mps$"):
        device_called("meta")


@pytest.mark.parametrize(
    ("names", "dtype"),
    [
        (["bf16", "bfloat16"], torch.bfloat16),
        (["fp16", "half", "f16", "float16"], torch.float16),
        (["fp32", "f32", "float", "float32"], torch.float32),
        (["fp64", "f64", "double", "float64"], torch.float64),
    ],
)
def test_types_by_their_names(names, dtype):
    assert all(choose_dtype(name, torch.device("cpu")) == dtype for name in names)


def test_the_type_of_a_checkpoint_is_kept_on_an_accelerator():
    assert choose_dtype("auto", torch.device("cpu")) == torch.float32
    assert choose_dtype("auto", torch.device("cuda")) == "auto"
    for name in ("int8", "linspace", "nothing"):
        with pytest.raises(ModelError, match=rf"^dtype '{name}' is not a floating-point type; use auto"):
            choose_dtype(name, torch.device("cpu"))


# -- names ----------------------------------------------------------------------------------------------------------


def test_what_is_to_be_opened(folder, tmp_path):
    assert loading._place(str(folder), None) == (str(folder), None)
    assert loading._place("org/name", "r") == ("org/name", "r")
    assert loading._place("name", None) == ("name", None)
    (tmp_path / "x.gguf").write_bytes(b"")
    (tmp_path / "x.bin").write_bytes(b"")
    with pytest.raises(ModelError, match=r"x\.gguf is a file: GGUF is not read$"):
        loading._place(str(tmp_path / "x.gguf"), None)
    with pytest.raises(ModelError, match=r"x\.bin is a file: give the folder that it is in$"):
        loading._place(str(tmp_path / "x.bin"), None)
    for name in ("./nothing", "/nothing", "~/nothing", "a/b/c"):
        with pytest.raises(ModelError, match=rf"^{name} is not a folder; give a model folder, a hub name such as"):
            loading._place(name, None)


def test_a_folder_of_checkpoints_names_eight_at_most(folder, tmp_path):
    for step in range(10):
        (tmp_path / f"s{step}").mkdir()
        (tmp_path / f"s{step}" / "config.json").write_text("{}")
    eight = ", ".join(f"s{step}" for step in range(8))
    with pytest.raises(ModelError, match=rf"^m is a folder and has no revision 'x'; it has {eight}$"):
        loading._folder(tmp_path, "m", "x")
    with pytest.raises(ModelError, match=rf"^m holds models in {eight}: give one of them, or --revision$"):
        loading._folder(tmp_path, "m", None)
    assert loading._folder(tmp_path, "m", "s3") == str(tmp_path / "s3")
    with pytest.raises(ModelError, match=r"^m is a folder and has no revision 'x': leave --revision out$"):
        loading._folder(folder, "m", "x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"^m has no config\.json: a model folder is what save_pretrained writes$"):
        loading._folder(tmp_path / "empty", "m", None)
    (tmp_path / "empty" / "adapter_config.json").write_text("{}")
    assert loading._folder(tmp_path / "empty", "m", None) == str(tmp_path / "empty")


def test_how_many_layers_a_configuration_names(folder, tmp_path, monkeypatch):
    assert stored_layers(folder) == 3
    monkeypatch.setattr(loading, "hub_answers", lambda: False)
    assert stored_layers("no-such-org/no-such-model") is None
    (tmp_path / "config.json").write_text("{}")
    assert stored_layers(tmp_path) is None
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bart", "encoder_layers": 2}))
    assert stored_layers(tmp_path) is None


def test_a_tokenizer_lies_beside_the_configuration(folder, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"^m has no tokenizer: put tokenizer\.json beside config\.json"):
        loading._tokenizer(str(tmp_path), "m", {})
    for name in ("tokenizer.json", "vocab.txt"):
        (tmp_path / name).write_text("{")
        with pytest.raises(ModelError, match=r"^(the tokenizer of m cannot be loaded|m )"):
            loading._tokenizer(str(tmp_path), "m", {})
        (tmp_path / name).unlink()
    assert loading._tokenizer(str(folder), "m", {}).get_vocab() == tiny_tokenizer().get_vocab()


def test_an_error_names_the_model_once():
    assert str(loading._unloadable(ValueError("gated repo"), "m", "the tokenizer of ")).startswith("m is open to those")
    assert (
        str(loading._unloadable(ValueError("x"), "m", "the tokenizer of ")) == "the tokenizer of m cannot be loaded: x"
    )
    assert str(loading._unloadable(ValueError("mx"), "m")) == "m cannot be loaded: mx"


# -- weights --------------------------------------------------------------------------------------------------------


def maker(monkeypatch, config: object, **kwargs: object) -> tuple[object, list[object]]:
    """The class that makes a model, and what its sizes were held against."""
    asked: list[object] = []
    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", lambda *_, **given: (asked.append(given), config)[1])
    monkeypatch.setattr(loading, "refuse_sizes", lambda *given: asked.append(given[1:]))
    return loading._maker("place", "m", {"dtype": torch.bfloat16, **kwargs}), asked


@pytest.mark.parametrize(
    ("kind", "settings", "wanted"),
    [
        ("llama", {}, AutoModelForCausalLM),
        ("bart", {"is_encoder_decoder": True}, AutoModelForSeq2SeqLM),
        ("bert", {"is_decoder": False}, AutoModelForMaskedLM),
        ("bert", {"is_decoder": True}, AutoModelForCausalLM),
        ("bert", {}, AutoModelForCausalLM),
        ("distilbert", {}, AutoModelForMaskedLM),
        ("mistral3", {}, AutoModelForImageTextToText),
        ("no-such-kind", {}, AutoModelForCausalLM),
    ],
)
def test_the_class_that_makes_a_model(monkeypatch, kind, settings, wanted):
    found, _ = maker(monkeypatch, SimpleNamespace(model_type=kind, **settings))
    assert found is wanted


def test_sizes_are_held_against_the_type_and_the_machine(monkeypatch):
    config = SimpleNamespace(model_type="llama")
    assert maker(monkeypatch, config)[1] == [{}, ("m", 2, None)]
    given = dict(revision="r", trust_remote_code=True, local_files_only=True)
    assert maker(monkeypatch, config, dtype="auto", **given)[1] == [given, ("m", 1, None)]
    assert maker(monkeypatch, config, device_map="auto", attn_implementation="eager")[1] == [{}, ("m", 2, 1 << 62)]
    monkeypatch.setattr(
        "transformers.AutoConfig.from_pretrained", lambda *_, **__: (_ for _ in ()).throw(ValueError("x"))
    )
    with pytest.raises(ModelError, match=r"^m cannot be loaded: x$"):
        loading._maker("place", "m", {"dtype": "auto"})


@pytest.mark.parametrize(
    ("report", "told"),
    [
        ({"missing_keys": ["b", "a"]}, "^m: 2 weights are missing from the checkpoint, the first is a$"),
        (
            {"mismatched_keys": {("b", 1, 2), ("a", 3, 4), ("c", 5, 6)}},
            "^m: the shapes of 3 weights do not .*, the first is a$",
        ),
        ({"unexpected_keys": ["h.1.x"]}, "^m: 1 stored weights have no place in the model"),
    ],
)
def test_weights_that_do_not_fit_are_told(monkeypatch, report, told):
    made, asked = nn.Module(), []

    def of(found: dict[str, object]) -> SimpleNamespace:
        return SimpleNamespace(from_pretrained=lambda place, **given: (asked.append((place, given)), (made, found))[1])

    monkeypatch.setattr(loading, "_maker", lambda *_: of({}))
    assert loading._weights("p", "m", {"dtype": "auto"}) is made
    assert asked == [("p", {"output_loading_info": True, "ignore_mismatched_sizes": True, "dtype": "auto"})]
    monkeypatch.setattr(loading, "_maker", lambda *_: of(report))
    with pytest.raises(ModelError, match=told):
        loading._weights("p", "m", {})


@pytest.mark.parametrize(
    ("method", "hint"),
    [
        ("mxfp4", "add --dequantise"),
        ("fp8", "add --dequantise"),
        ("awq", "load an unquantised copy"),
        (None, "load an unquantised copy"),
    ],
)
def test_quantised_weights_are_told_with_the_way_out(tmp_path, method, hint):
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"quantization_config": {"quant_method": method} if method else {}}))
    told = f"^m holds weights quantised by {method or 'unknown'}, which are not what was trained: {hint}$"
    with pytest.raises(ModelError, match=told):
        loading._dequantising(file, "m", False)
    if hint.startswith("add"):
        made = loading._dequantising(file, "m", True)["quantization_config"]
        assert made.dequantize is True  # pyright: ignore[reportAttributeAccessIssue]
    else:
        with pytest.raises(ModelError, match=rf"^m: transformers cannot dequantise {method or 'unknown'}; load an"):
            loading._dequantising(file, "m", True)


@pytest.mark.parametrize("content", ["{}", "[]", '{"quantization_config": null}', '{"quantization_config": "fp8"}'])
def test_weights_that_are_not_quantised(tmp_path, content):
    file = tmp_path / "config.json"
    file.write_text(content)
    assert loading._dequantising(file, "m", False) == {}
    assert loading._dequantising(None, "m", False) == {}
    assert loading._dequantising(None, "m", True) == {}
    with pytest.raises(ModelError, match=r"^m holds no quantised weights: leave --dequantise out$"):
        loading._dequantising(file, "m", True)


# -- what the loader is given ---------------------------------------------------------------------------------------


def loaded(monkeypatch, *given: object, answers: bool = True, **named: object) -> dict[str, object]:
    """What transformers is asked for by a call of `load_model`."""
    asked: list[dict[str, object]] = []
    monkeypatch.setattr(loading, "hub_answers", lambda: answers)
    monkeypatch.setattr(loading, "_stored", lambda *_: None)
    monkeypatch.setattr(loading, "_tokenizer", lambda *_: tiny_tokenizer())
    monkeypatch.setattr(loading, "_weights", lambda place, name, kwargs: (asked.append(kwargs), tiny_model("llama"))[1])
    model = load_model(*given, **named)  # pyright: ignore[reportArgumentType]
    assert isinstance(model.origin, Origin)
    return asked[0]


def test_settings_of_a_name_on_the_hub(monkeypatch, folder):
    plain = {"trust_remote_code": False, "dtype": torch.float32}
    assert loaded(monkeypatch, "org/name", device="cpu") == plain
    assert loaded(monkeypatch, "org/name", "r", device="cpu") == {**plain, "revision": "r"}
    assert loaded(monkeypatch, "org/name", device="cpu", answers=False) == {**plain, "local_files_only": True}
    assert loaded(monkeypatch, folder, device="cpu", answers=False) == plain
    assert loaded(monkeypatch, folder, dtype="bf16", trust_remote_code=True, attention="eager", device="cpu") == {
        "trust_remote_code": True, "dtype": torch.bfloat16, "attn_implementation": "eager",
    }  # fmt: skip
    assert loaded(monkeypatch, folder, device_map={"": "cpu"})["device_map"] == {"": "cpu"}


def test_a_map_of_devices_goes_without_a_device(monkeypatch, folder):
    told = r"^a device map says where every part goes: leave --device out, or --device-map$"
    with pytest.raises(ModelError, match=told):
        load_model(folder, device="cpu", device_map="auto")
    with pytest.raises(ModelError, match=r"^--merge-adapter takes a folder: download org/name and give its folder$"):
        monkeypatch.setattr(loading, "hub_answers", lambda: True)
        monkeypatch.setattr(loading, "_stored", lambda *_: None)
        load_model("org/name", device="cpu", options=LoadOptions(merge_adapter=True))
    monkeypatch.setitem(__import__("sys").modules, "accelerate", None)
    with pytest.raises(MissingExtra, match=r"accelerate"):
        load_model(folder, device_map="auto")


def test_another_process_loads_the_same_model(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    first = load_model("tiny", dtype="bf16", device="cpu", options=LoadOptions(allow_longer=True))
    origin = first.origin
    assert origin is not None
    assert origin.folder == str(folder)
    assert (origin.id_or_path, origin.revision, origin.dtype, origin.device) == ("tiny", None, "bf16", "cpu")
    monkeypatch.chdir("/")
    again = origin.load()
    assert (again.id, again.dtype, again.allow_longer) == ("tiny", torch.bfloat16, True)
    assert again.function_hash == first.function_hash


def test_freed_memory_is_kept_on_the_processor_alone(folder, monkeypatch):
    kept: list[int] = []
    monkeypatch.setattr(loading, "keep_freed_memory", lambda: kept.append(1))
    load_model(folder, device="cpu")
    assert kept == [1]
    monkeypatch.setattr(Model, "device", torch.device("meta"))
    monkeypatch.setattr(loading, "require", lambda *_: None)
    monkeypatch.setattr("babelscope.models.model.measure", lambda one: one.scales)
    load_model(folder, device="cpu")
    assert kept == [1]


def test_files_of_a_folder_and_of_the_hub(monkeypatch, folder, tmp_path):
    assert loading._stored(str(folder), "config.json", {}) == folder / "config.json"
    assert loading._stored(str(folder), "nothing.json", {}) is None
    asked: list[dict[str, object]] = []

    def cached(place: str, file: str, **given: object) -> str | None:
        asked.append(given)
        return {"a": "/x/a", "b": None}[file]

    monkeypatch.setattr("transformers.utils.cached_file", cached)
    settings: dict[str, object] = {"revision": "r", "local_files_only": True}
    assert loading._stored("org/name", "a", settings) == Path("/x/a")
    assert loading._stored("org/name", "b", {}) is None
    assert loading._stored("org/name", "raises", {}) is None
    quiet = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    assert asked[0] == {**settings, **quiet}
    assert asked[1] == {"revision": None, "local_files_only": False, **quiet}
    assert tiny_config("llama").model_type == "llama"
