"""Names out of a file are equal to those in the code and other objects; numbers of layers may be even."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from typing import Any, get_args

import pytest
import torch

from babelscope.errors import InputError
from babelscope.models import Model, chat, conformance, head_checks, require
from babelscope.models.families import Family
from babelscope.models.hooks import Kind, Site, capture
from babelscope.models.loading import choose_dtype
from babelscope.models.registry import row_from_data
from babelscope.models.routers import probabilities
from babelscope.models.rows import RowEdit, edited_rows
from babelscope.models.scales import measure
from babelscope.models.stream_checks import handed_on

from .planted_faults import IDS, entering, model, near, output, twice
from .test_decoding import TEMPLATE
from .tiny_mixtures import mixture
from .tiny_models import tiny_model, tiny_tokenizer


def fresh(text: Any) -> Any:
    """An equal text that is another object, as one out of a file is."""
    return "".join([text[:1], text[1:]])


def as_from_a_file(row: Family) -> Family:
    held = {name: value for name, value in asdict(row).items() if name != "origin" and value is not None}
    data = {
        fresh(name): [fresh(one) for one in value] if isinstance(value, tuple) else value
        for name, value in held.items()
    }
    data = {name: value for name, value in data.items() if value != []}
    return row_from_data({name: fresh(one) if isinstance(one, str) else one for name, one in data.items()}, "here")


@pytest.mark.parametrize(
    "family", ["llama", "gpt2", "bloom", "codegen", "minicpm3", "qwen3_5", "olmo2", "opt", "gpt_neox", "bailing_hybrid"]
)
def test_a_row_from_a_file_is_read_like_the_same_row_of_ours(family):
    own = Model(tiny_model(family), tiny_tokenizer(), id=family)
    row = as_from_a_file(own.family)
    assert replace(row, origin="built in") == replace(own.family, origin="built in")
    assert row.layout is not own.family.layout
    other = Model(own.hf, tiny_tokenizer(), id=family, family=row)
    require(other, "circuits")
    assert (other.kv_heads, other.readings, other.sites()) == (own.kv_heads, own.readings, own.sites())
    sites = [Site(fresh(site.kind), site.layer) for site in own.sites()]
    assert sites[0].kind is not own.sites()[0].kind
    with torch.inference_mode(), capture(own, own.sites()) as seen:
        own.trunk(IDS)
    with torch.inference_mode(), capture(other, sites) as found:
        other.trunk(IDS)
    assert all(torch.equal(found[site], seen[site]) for site in own.sites())
    layer = own.attention_layers[0]
    for kind in own.readings:
        if kind != "shared_key":
            assert torch.equal(other.projection_weight(fresh(kind), layer), own.projection_weight(kind, layer))  # pyright: ignore[reportArgumentType]
    for which in ("attention", "mlp", "final"):
        assert other.norm(fresh(which), 0) is own.norm(which, 0) or family in ("qwen3_5", "bailing_hybrid")  # pyright: ignore[reportArgumentType]
    for what in ("attention_output", "neurons"):
        one, two = own.bias(what, layer), other.bias(fresh(what), layer)  # pyright: ignore[reportArgumentType]
        assert one is two or torch.equal(one, two)  # pyright: ignore[reportArgumentType]


def test_sites_of_a_mixture_by_names_from_elsewhere():
    one = mixture("qwen2_moe")
    sites = [Site(fresh(site.kind), site.layer) for site in one.sites()]
    with torch.inference_mode(), capture(one, one.sites()) as seen:
        one.trunk(IDS)
    with torch.inference_mode(), capture(one, sites) as found:
        one.trunk(IDS)
    assert all(torch.equal(found[site], seen[site]) for site in one.sites())
    assert {site.kind for site in sites} <= set(get_args(Kind))


@pytest.mark.parametrize("scoring", ["softmax", "sigmoid", "sqrtsoftplus"])
def test_scorings_by_names_from_elsewhere(scoring):
    logits = torch.tensor([0.5, -1.0, 2.0])
    assert torch.equal(probabilities(logits, fresh(scoring)), probabilities(logits, scoring))


def test_settings_by_names_from_elsewhere():
    one = model()
    for asked in ("bos", "bos-excluded", "none", "auto"):
        assert one.tokenize(["ab"], fresh(asked)) == one.tokenize(["ab"], asked)  # pyright: ignore[reportArgumentType]
        assert one.special_ends(fresh(asked)) == one.special_ends(asked)  # pyright: ignore[reportArgumentType]
    assert choose_dtype(fresh("auto"), torch.device("cuda")) == "auto"
    for where in ("all", "prompt", "generated"):
        counts = []
        for name in (where, fresh(where)):
            edits = [RowEdit({Site("residual", 3): torch.zeros_like}, name, first=True)]  # pyright: ignore[reportArgumentType]
            with edited_rows(one, edits) as flow, torch.inference_mode():
                one.trunk(IDS)
            counts.append(flow.edited[0])
        assert counts[0] == counts[1]


def test_chat_is_used_where_it_is_asked_for_and_there_is_a_template():
    tokenizer = type(tiny_tokenizer())(
        tokenizer_object=tiny_tokenizer().backend_tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    tokenizer.chat_template = TEMPLATE
    one = Model(tiny_model("llama"), tokenizer, id="chatty")
    for asked in ("auto", "on"):
        assert chat.prompt_ids(one, ["ab"], fresh(asked)).first == "<s>AabBC"
    assert chat.prompt_ids(one, ["ab"], fresh("off")).first == "ab"
    assert chat.prompt_ids(one, [], "on").ids == []
    with pytest.raises(InputError, match=r"^the tokenizer of llama has no chat template; use --chat off$"):
        chat.prompt_ids(model(), ["ab"], fresh("on"))


# -- an even number of layers ---------------------------------------------------------------------------------------


def four() -> Model:
    return Model(tiny_model("llama", num_hidden_layers=4), tiny_tokenizer(), id="four")


def test_four_layers_are_four_for_every_check():
    one = four()
    with pytest.raises(InputError, match=r"^z of layer 4: this model has layers 0 to 3$"):
        one.locate(Site("z", 4))
    assert [site.layer for site in one.sites()] == sorted(site.layer for site in one.sites())
    assert one.sites()[-1] == Site("residual", 4)
    with torch.inference_mode():
        assert handed_on(one, IDS) == 0
        for layer in range(3):
            with entering(one.blocks[layer + 1], twice):
                assert handed_on(one, IDS) == near(0.5)
        for check in (conformance.additivity, conformance.resuming, conformance.norms, head_checks.head_weights):
            assert check(one, IDS) <= 1e-5
        with output(one.blocks[3], lambda value: value * 3):
            found = measure(one)
    assert found.stream == (1.0, 1.0, 1.0, pytest.approx(3.0, abs=1e-3))
    require(one, "circuits")


def test_the_layer_in_the_middle_of_four_is_the_third():
    """What the last head writes there is missed where zeroing its weights does nothing."""
    one = four()
    part = one.part("self_attn.o_proj", 2)
    weight = part.weight.detach().clone()
    part.forward = lambda value: torch.nn.functional.linear(value, weight)
    with torch.inference_mode():
        assert head_checks.head_ablation(one, IDS) > 0.01


# -- single numbers -------------------------------------------------------------------------------------------------


def test_noise_is_a_sine_far_behind_the_point():
    """Twice the fraction of 43758.5453 sin(12.9898 i + phase), its sign kept; the same for each row of a batch."""
    made = head_checks._noise(2.0)(torch.zeros(2, 2, 3, dtype=torch.float64))
    wanted = [2 * math.fmod(math.sin(12.9898 * step + 2.0) * 43758.5453, 1.0) for step in range(6)]
    assert made.reshape(2, 6).tolist() == [pytest.approx(wanted, abs=1e-6)] * 2
    own = head_checks._noise(5.0, head_checks._noise(2.0), 1)(torch.zeros(1, 1, 3, 2, dtype=torch.float64))
    other = [2 * math.fmod(math.sin(12.9898 * step + 5.0) * 43758.5453, 1.0) for step in (2, 3)]
    assert own.flatten().tolist() == pytest.approx([*wanted[:2], *other, *wanted[4:]], abs=1e-6)


def test_no_stream_at_all_is_not_several():
    conformance._one_stream({})
    conformance._one_stream({Site("neurons", 0): torch.zeros(2, 9, 48)})


def test_logits_of_one_state_are_those_of_its_row():
    one = model()
    with torch.inference_mode():
        hidden = one.trunk(IDS)
        whole = one.hf(input_ids=IDS).logits
        torch.testing.assert_close(one._own_logits(hidden[1, 4]), whole[1, 4], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(one._own_logits(hidden[:, :3]), whole[:, :3], atol=1e-5, rtol=1e-4)
        assert one._own_logits(hidden[0, 0]).shape == (96,)
