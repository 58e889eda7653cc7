"""Borders of models that are met seldom: exact tolerances, small numbers, single layers, several odd blocks at once."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from babelscope.errors import InputError, UnsupportedModel
from babelscope.models import Model, decoding, encoders, gate, head_checks, mixture_checks, ray_cluster, structure
from babelscope.models.decoding import Decoding, stop_ids
from babelscope.models.hashing import content_sign
from babelscope.models.head_checks import head_shapes
from babelscope.models.known import ROWS
from babelscope.models.stream_checks import handed_on

from .planted_faults import IDS, model, output
from .test_models_facts import tokenizer
from .test_models_mixture_checks import mixed
from .test_models_scales import ATTENTION, MLP, OUT, RAW, STREAM, hand, layer, logit_scale
from .tiny_models import tiny_model, tiny_tokenizer


def test_a_sum_that_misses_by_exactly_the_tolerance_is_a_sum():
    zero = torch.zeros(2, 1, 2, dtype=torch.float64)
    stream, out = zero.clone(), zero.clone()
    stream[..., 0] = out[..., 0] = 1.0
    out[..., 1] = 1e-4
    assert layer(hand(torch.float64), {STREAM: stream, ATTENTION: zero, MLP: zero, OUT: out}) == {}
    out[..., 1] = 1.01e-4
    stream[..., 1] = 1e-9
    found = layer(hand(torch.float64), {STREAM: stream, ATTENTION: zero, MLP: zero, OUT: out})
    assert found in ({}, {"residual": 1.0})


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_logits_are_a_multiple_to_a_ten_thousandth_of_the_largest(size):
    """Noise that no multiple explains, at right angles to the logits, of twice and of half the tolerance."""
    noise = torch.randn(RAW.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    raw = RAW.double()
    for row in range(2):
        noise[row] -= raw[row] * (noise[row] * raw[row]).sum() / raw[row].square().sum()
    noise /= noise.abs().max()
    most = float(raw.abs().max()) * size
    for share, fits in ((0.5e-4, True), (2e-4, False)):
        wanted = raw * size + noise * share * most
        found = logit_scale(raw, wanted)
        assert (found is not None) is fits
        if fits:
            assert found == pytest.approx(size, rel=1e-3)


def test_what_a_mixture_writes_besides_its_neurons_is_relative_to_what_it_writes():
    one = mixed()
    added = torch.zeros(2, 9, 32)
    added[1, 4, 7] = 1e-2
    with torch.inference_mode(), output(one.mixtures[0].mlp, lambda value: value * 1e-5 + added):
        assert mixture_checks.nothing_else(one, IDS) == pytest.approx(1.0, abs=0.05)


def test_the_first_of_several_odd_blocks_is_told(monkeypatch):
    one = Model(tiny_model("llama"), tiny_tokenizer())
    more = tiny_model("llama").model.layers[0]
    monkeypatch.setattr(type(one), "blocks", nn.ModuleList([*one.hf.model.layers, more]))
    one.hf.model.layers[0].forward = lambda hidden, *rest, **named: one.blocks[1](hidden, *rest, **named)
    with torch.inference_mode():
        with pytest.raises(UnsupportedModel, match=r"^block 1 is computed 2 times in a pass, not once$"):
            handed_on(one, IDS)
        monkeypatch.setattr(type(one), "blocks", nn.ModuleList([more, *one.hf.model.layers]))
        one.hf.model.layers[0].forward = lambda hidden, *rest, **named: one.blocks[2](hidden, *rest, **named)
        with pytest.raises(UnsupportedModel, match=r"^block 0 is computed never in a pass, not once$"):
            handed_on(one, IDS)


def test_models_of_one_layer():
    one = tiny_model("olmo2", num_hidden_layers=1)
    row = ROWS["olmo2"]
    assert structure._norms_fit(one, row, one.config)  # pyright: ignore[reportArgumentType]
    assert structure.missing_paths(one, row) == {}  # pyright: ignore[reportArgumentType]
    held = Model(one, tiny_tokenizer(), id="one")
    gate.require(held, "circuits")
    assert held.block_returns_tuple is False
    with torch.inference_mode():
        assert handed_on(held, IDS) == 0


def test_a_model_that_names_no_embedding_has_none():
    def none() -> None:
        raise NotImplementedError

    for found, embeds in ((none, False), (lambda: None, False), (lambda: nn.Embedding(2, 2), True)):
        assert structure.embeds_tokens(SimpleNamespace(get_input_embeddings=found)) is embeds  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(("count", "seen"), [(1 << 16, True), ((1 << 16) + 1, False), (18, True)])
def test_buffers_of_some_size_are_looked_at(monkeypatch, count, seen):
    one = Model(tiny_model("llama"), tiny_tokenizer())
    one.hf.register_buffer("beside", torch.zeros(count), persistent=False)
    asked: list[int] = []
    monkeypatch.setattr(gate, "_asked", lambda *_: (asked.append(1), [])[1])
    gate.outcomes(one, "regions")
    one.hf.beside[count - 1] = 1.0
    gate.outcomes(one, "regions")
    assert len(asked) == 1 + seen


@pytest.mark.parametrize("kind", [torch.int8, torch.bool, torch.bfloat16, torch.float32, torch.float64])
def test_signs_are_made_wherever_a_tensor_begins(kind):
    whole = torch.arange(64).remainder(2).to(kind)
    for start in range(9):
        for length in (8, 12, 16):
            part = whole[start : start + length]
            before = content_sign([part])
            assert content_sign([part.clone()]) == content_sign([part.clone()])
            kept = part[length - 1].clone()
            part[length - 1] = 0 if bool(kept) else 1
            assert content_sign([part]) != before
            part[length - 1] = kept
            assert content_sign([part]) == before


def test_ends_beyond_the_vocabulary_are_none():
    one = Model(tiny_model("llama"), tiny_tokenizer())
    one.tokenizer = SimpleNamespace(eos_token_id=None, chat_template=None)
    one.config = SimpleNamespace(eos_token_id=[95, 96, 97, 500])
    one.hf.generation_config = SimpleNamespace(eos_token_id=[-1, -5])
    assert stop_ids(one) == (95,)


@pytest.mark.parametrize("error", [ConnectionError, ValueError, RuntimeError])
def test_whatever_ray_raises_is_one_line(monkeypatch, error):
    fake = SimpleNamespace(is_initialized=lambda: False, init=lambda **_: (_ for _ in ()).throw(error("odd\nmore")))
    monkeypatch.setitem(sys.modules, "ray", fake)
    with pytest.raises(InputError, match=r"^no Ray cluster at there: odd$"), ray_cluster.cluster("there"):
        pass


@pytest.mark.parametrize("error", [AttributeError, RuntimeError])
def test_numbers_of_heads_that_differ_by_layer_are_told(monkeypatch, error):
    one = Model(tiny_model("llama"), tiny_tokenizer())
    monkeypatch.setattr(type(one), "kv_heads", property(lambda _: (_ for _ in ()).throw(error("by layer"))))
    with pytest.raises(UnsupportedModel, match=r"^the configuration states no one number of heads for all layers$"):
        head_shapes(one, IDS)


@pytest.mark.parametrize("mark", [1, 9, 200, 999])
def test_special_tokens_within_a_text_are_refused_whatever_their_number(mark):
    inner = tokenizer(1, 1)

    def encode(texts: Any, add_special_tokens: bool) -> dict[str, Any]:
        found = inner(texts, add_special_tokens=add_special_tokens)
        if add_special_tokens and isinstance(texts, list):
            found["input_ids"] = [[*ids[:2], mark, *ids[2:]] for ids in found["input_ids"]]
        return found

    with pytest.raises(InputError, match=r"puts special tokens within text 0: add --special none$"):
        encoders.with_own_tokens(encode, ["bc"], "m")  # pyright: ignore[reportArgumentType]


def test_no_graph_is_kept_while_a_text_is_written():
    one = model()
    seen: list[bool] = []
    handle = one.hf.lm_head.register_forward_hook(lambda *_: seen.append(torch.is_inference_mode_enabled()))
    try:
        decoding.decode(one, [[4, 5]], Decoding(2))
        writer = decoding._Writer(one, decoding._Asked([[4]], ["a"], Decoding(1), [None], 0))
        seen.clear()
        writer._write([(0, 0)], lambda _: None)
        assert seen == [True]
        seen.clear()
        decoding.padding_error(one)
        assert all(seen)
    finally:
        handle.remove()


def test_blocks_that_return_tuples_are_known_by_the_first():
    assert [model(family).block_returns_tuple for family in ("llama", "bloom")] == [False, True]


def test_what_is_no_number_is_not_passed_over():
    """In a head that a query should not move, and in what the last of several mixtures writes."""
    one = Model(tiny_model("llama"), tiny_tokenizer())
    passes: list[int] = []

    def spoil(_: object, args: tuple[Tensor, ...]) -> tuple[Tensor]:
        passes.append(1)
        heads = args[0].clone()
        if len(passes) == 2:  # the first is as it is, in the second the query of the first head is changed
            heads[..., 8:16] = torch.nan
        return (heads,)

    one.part("self_attn.o_proj", 2).register_forward_pre_hook(spoil)
    with torch.inference_mode():
        assert head_checks.query_key_layout(one, IDS) == float("inf")
    experts = mixed()
    last = experts.mixtures[2]
    with torch.inference_mode(), output(last.mlp, lambda value: value * torch.nan):
        assert not mixture_checks.nothing_else(experts, IDS) <= 0.05


def test_what_padding_does_to_small_logits_is_relative_to_them(monkeypatch):
    hf = tiny_model("llama", tie_word_embeddings=False)
    with torch.no_grad():
        hf.lm_head.weight.mul_(1e-3)
    one = Model(hf, tiny_tokenizer())
    own = decoding.next_logits

    def halved(model: Model, ids: Tensor, *rest: Any) -> tuple[Tensor, object]:
        logits, cache = own(model, ids, *rest)
        return logits * (0.5 if len(ids) > 1 else 1.0), cache

    monkeypatch.setattr(decoding, "next_logits", halved)
    assert decoding.padding_error(one) == pytest.approx(0.5, abs=1e-3)


def test_queries_keys_and_values_are_noise_of_phases_of_their_own(monkeypatch):
    asked: list[tuple[float, int | None]] = []
    own = head_checks._noise

    def noise(phase: float, before: Any = None, head: int | None = None) -> Any:
        asked.append((phase, head))
        return own(phase, before, head)

    monkeypatch.setattr(head_checks, "_noise", noise)
    with torch.inference_mode():
        assert head_checks.query_key_layout(model(), IDS) == 0
    assert asked[:3] == [(1.0, None), (2.0, None), (3.0, None)]
    assert sorted(asked[3:]) == [(5.0, 0), (5.0, 0), (5.0, 1), (5.0, 3)]


def test_a_head_by_itself_is_given_as_many_ids_as_states():
    one = Model(tiny_model("llama"), tiny_tokenizer())
    shapes: list[tuple[int, ...]] = []
    own = one.hf.forward
    one.hf.forward = lambda **given: (shapes.append(tuple(given["input_ids"].shape)), own(**given))[1]
    with torch.inference_mode():
        hidden = one.trunk(IDS)
        one._own_logits(hidden)
        one._own_logits(hidden[0, 0])
    assert shapes == [(1, 18), (1, 1)]


def test_a_number_at_the_end_of_a_token_s_share_belongs_to_the_next():
    """Four tokens of a quarter each: 0.25 has not passed the first, and 0 the first of all."""
    found = decoding.sample(torch.zeros(5, 4), torch.tensor([0.0, 0.25, 0.5, 0.75, 0.999]), 1.0)
    assert found.tolist() == [0, 1, 2, 3, 3]


@pytest.mark.parametrize(
    ("whole", "places"),
    [([5], (0, 0)), ([1, 5, 2], (1, 1)), ([5, 2], (0, 1)), ([1, 9, 5], (2, 0)), ([1, 6, 2], (0, 2))],
)
def test_special_tokens_in_front_and_behind(whole, places):
    """A text that its special tokens change is taken to stand in front of them."""

    def tokens(_, add_special_tokens):
        return {"input_ids": whole if add_special_tokens else [5]}

    assert encoders.own_tokens(tokens) == places
