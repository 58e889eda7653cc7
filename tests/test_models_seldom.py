"""What seldom happens to a model: threads that meet, rows of packages, heads inside others, adapters of odd kinds."""

from __future__ import annotations

import json
import sys
import threading
from importlib.metadata import EntryPoint
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from babelscope.errors import AlreadyEdited, BabelscopeError, InputError, ModelError, UnsupportedModel
from babelscope.models import Model, adapters, batches, chat, decoding, foreign, registry, structure
from babelscope.models.decoding import Decoding
from babelscope.models.experts import attach_neurons
from babelscope.models.families import Family
from babelscope.models.hooks import Location, Site, capture, hooked, resume
from babelscope.models.refusals import memory
from babelscope.models.scales import Scales

from .planted_faults import IDS, model
from .tiny_mixtures import mixture
from .tiny_models import tiny_model, tiny_tokenizer


def test_the_cache_of_an_accelerator_is_emptied_before_halves(monkeypatch):
    emptied: list[int] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(1))
    monkeypatch.setattr(batches, "collate", lambda _, rows, __: SimpleNamespace(rows=rows))

    def work(batch: Any) -> None:
        if len(batch.rows) > 1:
            raise torch.OutOfMemoryError("full")

    for kind, count in (("cuda", 1), ("cpu", 0), ("mps", 0)):
        emptied.clear()
        assert list(batches.halving([[1]] * 2, (0, 1), work, torch.device(kind))) == [1, 1]
        assert len(emptied) == count
    writer = decoding._Writer(model(), decoding._Asked([[4]] * 2, ["a", "b"], Decoding(1), [None], 0))

    def write(part: Any, _: object) -> Any:
        if len(part) > 1:
            raise torch.OutOfMemoryError("full")
        return part

    monkeypatch.setattr(writer, "_write", write)
    for kind, count in (("cuda", 1), ("cpu", 0), ("mps", 0)):
        emptied.clear()
        writer.model = SimpleNamespace(device=torch.device(kind))  # pyright: ignore[reportAttributeAccessIssue]
        assert writer.write([(0, 0), (1, 0)], lambda _: None) == [(0, 0), (1, 0)]
        assert len(emptied) == count


def test_a_template_that_takes_no_answers_says_nothing_of_their_end():
    tokenizer = type(tiny_tokenizer())(tokenizer_object=tiny_tokenizer().backend_tokenizer, eos_token="</s>")
    for template, end in (
        ("{{ raise_exception('no') }}", None),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", None),
        ("{% for m in messages %}{{ m.content }}a{% endfor %}", None),
        ("{% for m in messages %}{{ m.content }}</s>{% endfor %}", 2),
        ("{% for m in messages %}{{ m.content }} </s>a{% endfor %}", 2),
    ):
        tokenizer.chat_template = template
        assert chat.end_of_turn(tokenizer) == end
    tokenizer.chat_template = {"default": "x"}
    assert chat.end_of_turn(tokenizer) is None


def test_passes_of_other_threads_are_left_alone_in_the_parts_of_a_mixture():
    one = mixture("qwen2_moe").mixtures[1]
    seen: list[torch.Size] = []
    handle = attach_neurons(one, lambda value: (seen.append(value.shape), value * 0)[1], True)
    whole = mixture("qwen2_moe")
    with torch.inference_mode():
        inside = whole.trunk(IDS)
        count = len(seen)
        found: list[Tensor] = []

        def other() -> None:
            with torch.inference_mode():
                found.append(whole.trunk(IDS))

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert len(seen) == count
        handle.remove()
        plain = whole.trunk(IDS)
    assert torch.equal(found[0], plain)
    assert not torch.allclose(inside, plain)


def test_an_argument_by_its_name_is_changed_too():
    class Named(nn.Module):
        def forward(self, hidden_states: Tensor, other: int = 0) -> Tensor:
            return hidden_states + other

    part = Named()
    seen: list[float] = []
    for replaces, wanted in ((True, 11.0), (False, 6.0)):
        place = Location(part, "input")
        with hooked([(place, lambda value: (seen.append(float(value)), value * 2)[1], replaces)]):
            assert float(part(hidden_states=torch.tensor(5.0), other=1)) == wanted
            assert float(part(torch.tensor(5.0), other=1)) == wanted
    assert seen == [5.0] * 4


def test_passes_are_resumed_by_one_thread_at_a_time():
    one = Model(tiny_model("llama"), tiny_tokenizer())
    met: list[BaseException] = []

    def other() -> None:
        try:
            with resume(one, 1, torch.ones(2, 9, 32)):
                pass
        except AlreadyEdited as error:
            met.append(error)

    with resume(one, 1, torch.ones(2, 9, 32)), resume(one, 2, torch.ones(2, 9, 32)):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert str(met[0]).startswith("another thread resumes passes of this model; use one thread")
    other()
    assert len(met) == 1


def test_logits_without_a_scale_are_the_models_own():
    one = Model(tiny_model("gemma2"), tiny_tokenizer(), id="own")
    with torch.inference_mode():
        hidden = one.trunk(IDS)
        wanted = one.hf(input_ids=IDS).logits
        one.scales = Scales.plain(one.layers, None)
        put = one.trunk_module.forward
        one.trunk_module.forward = lambda *args, **named: put(*args, **named)
        mine = one.trunk_module.forward
        torch.testing.assert_close(one.logits(hidden), wanted, atol=1e-5, rtol=1e-4)
        words = torch.tensor([5, 2])
        torch.testing.assert_close(one.logits(hidden, words), wanted[..., words], atol=1e-5, rtol=1e-4)
        assert one.trunk_module.__dict__["forward"] is mine


def test_a_tokenizer_without_a_first_token_is_told():
    tokenizer = type(tiny_tokenizer())(tokenizer_object=tiny_tokenizer().backend_tokenizer, eos_token="</s>")
    one = Model(tiny_model("llama"), tokenizer, id="tiny")
    with pytest.raises(InputError, match=r"^special tokens 'bos': the tokenizer of tiny has no beginning-of-sequence"):
        one.tokenize(["a"], "bos")
    assert one.tokenize(["a"]) == [[4]]


def test_the_head_of_a_text_model_inside_another_is_hashed_under_its_own_name():
    from .test_models_wrappers import wrapper

    hf = wrapper("mistral3")
    hf.lm_head.weight = nn.Parameter(hf.lm_head.weight.detach().clone())
    one = Model(hf, tiny_tokenizer())
    names = list(one._hashed_parts())
    assert "lm_head.weight" in names
    assert all(name.startswith(("model.", "lm_head.")) for name in names)
    assert not [name for name in names if "vision" in name]


def test_memory_where_no_limits_are_known(monkeypatch):
    monkeypatch.setitem(sys.modules, "resource", None)
    assert memory() > 1 << 20


# -- rows of packages -----------------------------------------------------------------------------------------------


class Announced(EntryPoint):
    dist = SimpleNamespace(name="package", version="1")


def test_rows_that_packages_announce(monkeypatch):
    row, config = Family("theirs", "model.layers", "mlp.down_proj"), SimpleNamespace(model_type="theirs")
    entry = Announced("theirs", "package:row", "babelscope.families")
    monkeypatch.setattr(registry, "entry_named", lambda group, name: entry if name in ("theirs", "llama") else None)
    monkeypatch.setattr(registry, "loaded", lambda *_: row)
    found = registry.outside_row("theirs", config)  # pyright: ignore[reportArgumentType]
    assert found is not None
    assert (found.name, found.origin, found.mlp_write) == ("theirs", "registered", "mlp.down_proj")
    monkeypatch.setattr(registry, "loaded", lambda *_: lambda given: row if given is config else None)
    assert registry.outside_row("theirs", config) == found  # pyright: ignore[reportArgumentType]
    assert registry.outside_row("nobodys", config) is None  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match=r"announces the family 'llama', which is built in; register_family"):
        registry.outside_row("llama", config)  # pyright: ignore[reportArgumentType]
    monkeypatch.setattr(registry, "loaded", lambda *_: lambda _: 3)
    with pytest.raises(BabelscopeError, match=r"package.*the row of 'theirs' is a int, not a Family"):
        registry.outside_row("theirs", config)  # pyright: ignore[reportArgumentType]
    registry.register_family(lambda _: 3, "mine")  # pyright: ignore[reportArgumentType]
    try:
        with pytest.raises(InputError, match=r"^the row of 'mine' is a int, not a Family$"):
            registry.outside_row("mine", config)  # pyright: ignore[reportArgumentType]
    finally:
        registry.unregister_family("mine")


# -- structure ------------------------------------------------------------------------------------------------------


def wrapped(**parts: Any) -> Any:
    """A model without anything but what is given."""

    class Odd(nn.Module):
        base_model_prefix = "x"

    found: Any = Odd()
    for name, value in parts.items():
        setattr(found, name, value) if isinstance(value, nn.Module) else found.__dict__.update({name: value})
    return found


def test_trunks_of_odd_models():
    both = SimpleNamespace(is_encoder_decoder=True)
    with pytest.raises(UnsupportedModel, match=r"^Odd has no encoder that can be read by itself$"):
        structure.trunk_of(wrapped(base_model=None, config=both, get_encoder=lambda: None))
    config = SimpleNamespace(is_encoder_decoder=False)
    config.get_text_config = lambda: config
    bare = wrapped(config=config)
    bare.__dict__["base_model"] = bare
    with pytest.raises(UnsupportedModel, match=r"^Odd is no model with a head on top of a trunk$"):
        structure.trunk_of(bare)
    inner = nn.Linear(1, 1)
    for name in ("model", "transformer"):
        one = wrapped(config=config, **{name: inner})
        one.__dict__["base_model"] = one
        found = structure.trunk_of(one)
        assert (found.path, found.module, found.inside) == (name, inner, False)
    text = SimpleNamespace()
    outer = SimpleNamespace(is_encoder_decoder=False, get_text_config=lambda: text)
    headed, trunk = nn.Module(), nn.Linear(1, 1)
    headed.model, headed.lm_head = trunk, nn.Linear(1, 1)
    one = wrapped(config=outer, base_model=None, language_model=headed, get_decoder=lambda: headed)
    found = structure.trunk_of(one)
    assert (found.path, found.module, found.inside) == ("language_model.model", trunk, True)
    held = nn.Module()
    held.decoder = nn.Linear(1, 1)
    held.config = held.decoder.config = text
    one = wrapped(config=outer, base_model=None, opt=held, get_decoder=lambda: held.decoder)
    found = structure.trunk_of(one)
    assert (found.path, found.module, found.inside) == ("opt", held, True)
    held.config = SimpleNamespace()
    assert structure.trunk_of(one).path == "opt.decoder"


def block(width: int = 4) -> nn.Module:
    found = nn.Module()
    found.mlp = nn.Module()
    found.mlp.down_proj = nn.Linear(6, width)
    return found


def test_neurons_of_an_unknown_model_are_where_most_layers_have_them():
    config = SimpleNamespace(model_type="odd", hidden_size=4)

    def row(*blocks: nn.Module) -> Family | None:
        root = nn.Module()
        root.layers = nn.ModuleList(blocks)
        return structure._regions_row(root, config, structure.Trunk("", root, False))  # pyright: ignore[reportArgumentType]

    found = row(block(), block())
    assert found is not None
    assert (found.neurons, found.mlp_write, found.mlp_read, found.blocks) == (
        "mlp.down_proj",
        "mlp.down_proj",
        "mlp",
        "layers",
    )
    assert (found.mixed, found.flattens, found.origin, found.levels) == (False, True, "structure", ("regions",))
    mixed = row(block(), nn.Identity(), block(5))
    assert mixed is not None
    assert mixed.mixed
    assert row(nn.Identity(), block(5)) is None
    assert structure._regions_row(nn.Identity(), config, structure.Trunk("", nn.Identity(), False)) is None  # pyright: ignore[reportArgumentType]
    none = structure.Trunk("", nn.Identity(), False)
    with pytest.raises(UnsupportedModel, match=r"it has no list of blocks"):
        structure._without_neurons(none.module, config, none)  # pyright: ignore[reportArgumentType]


def test_a_gate_stands_beside_or_within_a_projection():
    row = Family("a", "layers", "mlp.down_proj")
    root = nn.Module()
    root.layers = nn.ModuleList([block(), block()])
    assert not structure._gated(root, row)
    root.layers[1].mlp.gate_up_proj = nn.Linear(4, 12)
    assert structure._gated(root, row)


# -- what others put in ---------------------------------------------------------------------------------------------


def test_a_forward_put_into_a_class_is_somebodys():
    class Part(nn.Module):
        def forward(self, value: Tensor) -> Tensor:
            return value

    def put(self: nn.Module, value: Tensor) -> Tensor:
        return value * 2

    root = nn.Sequential(Part())
    assert foreign.foreign_registrations(root) == []
    put.__module__ = "somewhere.else"
    Part.forward = put
    assert foreign.foreign_registrations(root) == [("0.forward", id(put))]
    assert foreign.foreign_hooks(Part()) == ["forward"]
    put.__module__ = "transformers.x"
    assert foreign.foreign_registrations(root) == []
    root[0].forward = lambda value: value
    assert [name for name, _ in foreign.foreign_registrations(root)] == ["0.forward"]
    handle = root.register_forward_hook(lambda *_: None)
    assert foreign.foreign_hooks(root) == ["(the model)", "0.forward"]
    handle.remove()


def test_adapters_that_cannot_be_merged_are_told(tmp_path, monkeypatch):
    with pytest.raises(ModelError, match=r"^m holds no adapter to merge: it has no adapter_config\.json$"):
        adapters.merged(tmp_path, "m", lambda _: nn.Identity())
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "base"}))
    (tmp_path / "adapter_model.bin").write_bytes(b"")
    asked: list[str] = []
    found = SimpleNamespace(missing_keys=["a"], unexpected_keys=["b"])
    adapted = SimpleNamespace(load_adapter=lambda *_: found, merge_and_unload=lambda: nn.Linear(1, 1))
    monkeypatch.setitem(
        sys.modules, "peft", SimpleNamespace(PeftModel=SimpleNamespace(from_pretrained=lambda *_: adapted))
    )

    def merged() -> tuple[nn.Module, dict[str, str]]:
        return adapters.merged(tmp_path, "m", lambda place: (asked.append(place), nn.Linear(1, 1))[1])

    with pytest.raises(ModelError, match=r"^the adapter of m is of another model: 2 tensors do not fit, the first a$"):
        merged()
    found.missing_keys, found.unexpected_keys = [], []
    whole, facts = merged()
    assert isinstance(whole, nn.Linear)
    assert sorted(facts) == ["adapter_hash", "base_weight_hash"]
    assert asked == ["base", "base"]
    kept = type("BaseTunerLayer", (nn.Module,), {})()
    adapted.merge_and_unload = lambda: nn.Sequential(kept)
    with pytest.raises(ModelError, match=r"^the adapter of m is of a kind that cannot be merged into weights$"):
        merged()
    adapted.load_adapter = lambda *_: (_ for _ in ()).throw(ValueError("odd\nmore"))
    with pytest.raises(ModelError, match=r"^the adapter of m cannot be merged: odd$"):
        merged()


def test_an_edit_within_a_capture_is_seen_by_it():
    one = model()
    with torch.inference_mode(), capture(one, [Site("residual", 0)]) as seen:
        one.trunk(IDS)
    assert torch.equal(seen[Site("residual", 0)], one.hf.get_input_embeddings()(IDS))
