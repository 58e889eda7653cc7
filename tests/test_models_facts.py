"""What a model says of itself, how long a text may be, chat templates, adapters, encoders and offloaded weights."""

from __future__ import annotations

import hashlib
import json
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from babelscope.errors import InputError, ModelError
from babelscope.models import Model, adapters, chat, encoders, offload
from babelscope.models.context import Context, _moving, context_of

from .planted_faults import IDS, model
from .tiny_models import tiny_model, tiny_tokenizer

# -- length ---------------------------------------------------------------------------------------------------------


def of(config: dict[str, object], **tables: nn.Module) -> Context:
    root = nn.Module()
    for name, table in tables.items():
        setattr(root, name, table)
    return context_of(SimpleNamespace(trunk_module=root, config=SimpleNamespace(**config)))  # pyright: ignore[reportArgumentType]


def offset(table: nn.Embedding, rows: int) -> nn.Embedding:
    table.offset = rows  # pyright: ignore[reportArgumentType]
    return table


@pytest.mark.parametrize(
    "name", ["wpe", "embed_positions", "position_embeddings", "position_embedding", "positions_embed"]
)
def test_learned_positions_end_where_their_table_does(name):
    assert of({}, **{name: nn.Embedding(10, 2)}) == Context(10, True)
    assert of({}, **{name: nn.Embedding(10, 2, padding_idx=1)}) == Context(8, True, first=2)
    assert of({}, **{name: nn.Embedding(10, 2, padding_idx=0)}) == Context(9, True, first=1)
    assert of({}, **{name: offset(nn.Embedding(10, 2, padding_idx=1), 3)}) == Context(7, True)
    assert of({}, **{name: nn.Linear(10, 2)}) == Context(None, False)


@pytest.mark.parametrize(
    "name",
    ["max_position_embeddings", "n_positions", "seq_length", "n_ctx", "max_sequence_length", "max_seq_len"],
)
def test_other_positions_end_where_the_configuration_says(name):
    assert of({name: 64}) == Context(64, False)
    assert of({name: 64, "max_position_embeddings": 32, "n_ctx": 48}) == Context(32, False)
    assert of({name: 1}) == Context(None, False)
    assert of({name: 2}) == Context(2, False)
    assert of({name: "64"}) == Context(None, False)
    assert of({name: 64, "alibi": True}) == Context(None, False)
    assert of({name: 64, "position_embedding_type": "alibi"}) == Context(None, False)


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_frequencies_that_move_are_a_hard_limit(kind):
    original = "original_max_position_embeddings"
    base: dict[str, object] = {"max_position_embeddings": 64}
    assert of({**base, "rope_parameters": {"rope_type": kind}}) == Context(64, False, True)
    assert of({**base, "rope_parameters": {"type": kind, original: 16}}) == Context(16, False, True)
    assert of({**base, original: 8, "rope_parameters": {"rope_type": kind}}) == Context(8, False, True)
    assert of({**base, original: 8, "rope_parameters": {"rope_type": "linear"}}) == Context(64, False)
    nested: dict[str, object] = {"full": {"rope_type": kind, original: 32}, "sliding": {"rope_type": "default"}}
    assert list(_moving(nested)) == [nested["full"]]
    assert of({**base, "rope_parameters": nested}) == Context(32, False, True)
    assert list(_moving(None)) == []


def test_a_window_and_a_limit_where_nothing_is_stated():
    assert (Context(None, False).window, Context(None, False).limit) == (2048, 1 << 20)
    assert (Context(64, False).window, Context(64, True).limit) == (64, 64)


def test_texts_up_to_the_length_of_a_model():
    one = model()
    one.check_length(128, "x")
    told = r"^x has 129 tokens; llama was made for 128 positions: leave it out, or add --allow-longer$"
    with pytest.raises(InputError, match=told):
        one.check_length(129, "x")
    with pytest.raises(InputError, match=r"^x has 129 tokens; gpt2 has learned 128 positions and no more$"):
        model("gpt2").check_length(129, "x")
    model("bloom").check_length(10**6, "x")
    one.check_ids([95], "x")
    with pytest.raises(InputError, match=r"^x: token .* \(96\) is beyond the model's 96 embeddings$"):
        one.check_ids([3, 96, 2], "x")


# -- what a model says ----------------------------------------------------------------------------------------------


def test_a_model_in_a_line():
    one = Model(tiny_model("llama"), tiny_tokenizer(), id="tiny")
    assert repr(one) == "<Model tiny: llama, 3 layers, 144 neurons, float32 on cpu>"
    there = Model(tiny_model("gpt2", torch.bfloat16), tiny_tokenizer(), "tiny", "r")
    assert repr(there) == "<Model tiny@r: gpt2, 3 layers, 384 neurons, bfloat16 on cpu>"
    assert "tiny@r" in there._repr_html_()
    hf = tiny_model("llama")
    hf.config._name_or_path = "stored"
    assert (Model(hf, tiny_tokenizer()).id, one.id) == ("stored", "tiny")
    hf.config._name_or_path = ""
    assert Model(hf, tiny_tokenizer()).id == "LlamaForCausalLM"


def test_what_a_run_records_of_a_model():
    one = Model(tiny_model("llama"), tiny_tokenizer(), id="tiny")
    facts = one.facts()
    wanted = dict(id="tiny", revision=None, family="llama", family_origin="built in", dtype="float32", device="cpu")
    assert facts == facts | wanted | dict(layers=3, width=32)
    assert (facts["neurons_per_layer"], facts["heads"], facts["kv_heads"], facts["attention"]) == (48, 4, 2, "sdpa")
    assert facts["parameters"] == sum(one.numel() for one in one.hf.parameters())
    assert facts["foreign_hooks"] == []
    idle = {"standing_edits", "family_version", "multipliers", "adapter", "allow_longer"}
    assert not idle & set(facts)


def test_words_of_logits_are_rows_of_the_whole():
    for one in (model("llama"), model("phi"), Model(tiny_model("gemma2"), tiny_tokenizer())):
        with torch.inference_mode():
            hidden = one.trunk(IDS)
            own = one.hf(input_ids=IDS).logits
            words = torch.tensor([7, 3])
            torch.testing.assert_close(one.logits(hidden), own, atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(one.logits(hidden, words), own[..., words], atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(one._own_logits(hidden), own, atol=1e-5, rtol=1e-4)
            assert "forward" not in one.trunk_module.__dict__


@pytest.mark.parametrize("name", ["final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap"])
def test_a_cap_of_logits_goes_by_several_names(name):
    one = Model(tiny_model("llama"), tiny_tokenizer())
    assert one.soft_cap is None
    one.config = SimpleNamespace(**{name: 4})
    assert one.soft_cap == 4.0
    raw = torch.tensor([0.0, 4.0, -400.0])
    assert one.finish_logits(raw).tolist() == pytest.approx([0, 4 * 0.76159416, -4])
    one.config = SimpleNamespace(**{name: 0})
    assert one.soft_cap is None


def test_a_pass_is_given_its_mask_and_keeps_no_cache(monkeypatch):
    from .test_encoders import encoder

    given: list[dict[str, Any]] = []
    for one in (Model(tiny_model("llama"), tiny_tokenizer()), encoder("bert")):
        assert not one.context.moving
        output = SimpleNamespace(last_hidden_state=torch.zeros(*IDS.shape, one.width))
        monkeypatch.setattr(one, "trunk_module", lambda output=output, **named: (given.append(named), output)[1])
        one.trunk(IDS)
        one.trunk(IDS, torch.zeros_like(IDS))
    causal, masked, both, both_masked = given
    assert "attention_mask" not in causal
    assert (causal["use_cache"], causal["return_dict"]) == (False, True)
    assert not masked["attention_mask"].any()
    assert bool(both["attention_mask"].all())
    assert both["attention_mask"].shape == IDS.shape
    assert not both_masked["attention_mask"].any()
    assert "use_cache" not in both


def test_special_tokens_as_asked():
    one = model()
    assert one.tokenize([]) == []
    plain = one.tokenize(["ab", "c"])
    assert one.tokenize(["ab", "c"], "bos") == [[1, *ids] for ids in plain]
    assert one.tokenize(["ab", "c"], "bos-excluded") == [[1, *ids] for ids in plain]
    assert [one.special_ends(kind) for kind in ("none", "auto", "bos", "bos-excluded")] == [
        (0, 0),
        (0, 0),
        (0, 0),
        (1, 0),
    ]
    with pytest.raises(InputError, match=r"^the text '' has no tokens$"):
        one.tokenize(["a", ""])


# -- encoders, chat, adapters, offloaded weights --------------------------------------------------------------------


def tokenizer(before: int, after: int, within: bool = False, **more: Any) -> Any:
    def encode(texts: str | list[str], add_special_tokens: bool) -> dict[str, Any]:
        def one(text: str) -> list[int]:
            ids = [ord(letter) for letter in text]
            if not add_special_tokens:
                return ids
            ids = [*ids[:1], 9, *ids[1:]] if within and len(ids) > 1 else ids
            return [1] * before + ids + [2] * after

        return {"input_ids": one(texts) if isinstance(texts, str) else [one(text) for text in texts]}

    found = SimpleNamespace(**more)
    return type("Tok", (), {"__call__": staticmethod(encode), **vars(found)})()


@pytest.mark.parametrize(("before", "after"), [(0, 0), (1, 0), (0, 1), (1, 1), (2, 1), (1, 3)])
def test_special_tokens_around_a_text_are_counted(before, after):
    assert encoders.own_tokens(tokenizer(before, after)) == (before, after)
    found = encoders.with_own_tokens(tokenizer(before, after), ["bc", "d"], "m")
    assert found == [[1] * before + [98, 99] + [2] * after, [1] * before + [100] + [2] * after]


def test_special_tokens_within_a_text_or_of_a_language_are_refused():
    with pytest.raises(InputError, match=r"^the tokenizer of m puts special tokens within text 1: add --special none$"):
        encoders.with_own_tokens(tokenizer(1, 1, within=True), ["a", "bc"], "m")
    with pytest.raises(InputError, match=r"^the tokenizer of m puts the code of a language beside each text"):
        encoders.with_own_tokens(tokenizer(1, 1, src_lang="en"), ["a"], "m")


def test_what_stands_before_a_text_is_the_token_asked_for_or_the_tokenizers_own():
    first = encoders.first_tokens
    marked = tokenizer(1, 1, bos_token_id=7)
    told = {special: first(marked, special, False, "m") for special in ("none", "bos", "bos-excluded", "own")}
    assert told == {"none": [], "bos": [7], "bos-excluded": [7], "own": [1]}
    assert first(marked, "own", True, "m") == []  # around the text of an encoder: no windows are cut of it
    assert first(tokenizer(0, 1), "own", False, "m") == []
    with pytest.raises(InputError, match=r"^the tokenizer of m puts 2 tokens before a text: use bos or none$"):
        first(tokenizer(2, 0), "own", False, "m")
    with pytest.raises(InputError, match=r"special tokens 'bos': the tokenizer of m has no beginning-of-sequence"):
        first(tokenizer(1, 0, bos_token_id=None), "bos", False, "m")


def test_plain_prompts_and_those_in_a_template():
    one = model()
    found = chat.prompt_ids(one, ["ab"])
    assert (found.ids, found.template, found.first) == (one.tokenize(["ab"]), "", "ab")
    assert chat.prompt_ids(one, [], "off") == chat.Prompted([], "", "")
    assert chat.measured_part("a</think>b</think> c ") == "c"


def test_the_hash_of_an_adapter_is_of_its_files(tmp_path):
    (tmp_path / "adapter_b").write_bytes(b"2")
    (tmp_path / "adapter_a").write_bytes(b"1")
    (tmp_path / "config.json").write_bytes(b"3")
    assert adapters._hash(tmp_path) == hashlib.sha256(b"adapter_a1adapter_b2").hexdigest()


def test_the_base_of_an_adapter_is_the_folders_own_or_the_one_it_names(tmp_path):
    folder, bare = tmp_path / "m", tmp_path / "bare"
    folder.mkdir()
    bare.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "org/base"}))
    assert adapters._without_adapter(folder, bare, "m") == "org/base"
    (folder / "config.json").write_text("{}")
    (folder / "weights").write_text("w")
    assert adapters._without_adapter(folder, bare, "m") == str(bare)
    assert sorted(file.name for file in bare.iterdir()) == ["config.json", "weights"]
    (folder / "config.json").unlink()
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"^the adapter in m does not say which model it belongs to$"):
        adapters._without_adapter(folder, bare, "m")


@pytest.mark.parametrize("kind", ["PROMPT_TUNING", "PREFIX_TUNING", "P_TUNING", "ADAPTION_PROMPT", "CPT"])
def test_adapters_that_put_tokens_in_front_are_no_change_of_weights(tmp_path, kind):
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps({"peft_type": kind}))
    with pytest.raises(ModelError, match=rf"^m holds a {kind} adapter, which is no change of weights"):
        adapters.refuse_adapter(file, "m")
    with pytest.raises(ModelError, match=rf"^the {kind} adapter of m is no change of weights, so it cannot be merged"):
        adapters.merged(tmp_path, "m", lambda _: nn.Identity())
    file.write_text("{}")
    with pytest.raises(ModelError, match=r"^m holds a LoRA adapter: add --merge-adapter"):
        adapters.refuse_adapter(file, "m")
    with pytest.raises(ModelError, match=r"^m holds the configuration of an adapter without its weights"):
        adapters.merged(tmp_path, "m", lambda _: nn.Identity())
    adapters.refuse_adapter(None, "m")


def test_four_inner_adapters_are_named_at_most(tmp_path):
    adapters.refuse_inner_adapters(tmp_path, "m")
    for name in "abcde":
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"^m holds adapters in a, b, c, d: move them out of the folder"):
        adapters.refuse_inner_adapters(tmp_path, "m")


def test_where_a_module_computes():
    assert offload.execution_device(nn.Identity()) == torch.device("cpu")
    away = nn.Linear(2, 2).to("meta")
    assert offload.execution_device(away) == torch.device("cpu")
    away._hf_hook = SimpleNamespace(hooks=[SimpleNamespace(execution_device="cuda:1")])
    assert offload.execution_device(away) == torch.device("cuda:1")
    away._hf_hook = SimpleNamespace(execution_device="cuda:2", hooks=[SimpleNamespace(execution_device="cuda:1")])
    assert offload.execution_device(away) == torch.device("cuda:2")
    assert offload.offloaded(nn.Sequential(nn.Linear(2, 2), away)) == ["1.weight", "1.bias"]


def test_placeholders_are_filled_and_given_back_or_refused():
    away, calls = nn.Linear(2, 2).to("meta"), []
    with pytest.raises(ModelError, match=r"^the weights of a Linear are placeholders that nothing fills$"):
        with offload.resident(away):
            pass
    away._hf_hook = SimpleNamespace(
        offload=True, pre_forward=lambda one: calls.append("in"), post_forward=lambda one, out: calls.append("out")
    )
    with offload.resident(away):
        assert calls == ["in"]
    assert calls == ["in", "out"]
    with offload.resident(nn.Linear(2, 2)), offload.resident(nn.Sequential(away)):
        pass
    assert calls == ["in", "out"]
    assert offload.weight_of(nn.Linear(2, 2, bias=False), "bias") is None
