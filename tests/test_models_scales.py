"""Multipliers that are planted in a model are found; where none is, or no one number does it, none is claimed."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from babelscope.errors import UnsupportedModel
from babelscope.models import Model, scales
from babelscope.models.hooks import Site
from babelscope.models.scales import Scales, measure, writes_of

from .planted_faults import output
from .tiny_models import tiny_model, tiny_tokenizer


def tiny(family: str = "llama", dtype: torch.dtype = torch.float32, **changes: float) -> Model:
    return Model(tiny_model(family, dtype, **changes), tiny_tokenizer(), id="tiny")


def hand(dtype: torch.dtype = torch.float32, cap: float | None = None, **stated: float) -> SimpleNamespace:
    """What stands for a model of one layer of attention and MLP, with the numbers of its configuration."""
    config = SimpleNamespace(**stated)
    return SimpleNamespace(
        dtype=dtype, config=config, soft_cap=cap, attention_layers=(0,), mixer_layers=(), neuron_layers=(0,)
    )


STREAM, ATTENTION, MLP, OUT = Site("residual", 0), Site("attention_write", 0), Site("mlp_write", 0), Site("residual", 1)


def values(
    a: float = 1.0, c: float = 1.0, d: float = 1.0, extra: float = 0.0, second: float = 1.0
) -> dict[Site, Tensor]:
    """Two sequences in which a block makes a · (stream + c · attention + d · MLP), the second one `second` times so."""
    generator = torch.Generator().manual_seed(0)
    stream, attention, mlp, noise = (torch.randn(2, 6, 8, generator=generator) for _ in range(4))
    out = a * (stream + c * attention + d * mlp) + extra * noise
    out[1] *= second
    return {STREAM: stream, ATTENTION: attention, MLP: mlp, OUT: out}


def layer(model: SimpleNamespace, seen: dict[Site, Tensor]) -> dict[str, float]:
    return {str(kind): value for kind, value in scales._layer(model, seen, 0).items()}  # pyright: ignore[reportArgumentType]


def test_a_plain_sum_has_no_multipliers():
    assert layer(hand(), values()) == {}
    assert layer(hand(), values(c=1.0 + 1e-6)) == {}


@pytest.mark.parametrize(("a", "c", "d"), [(1.0, 0.5, 1.0), (2.0, 1.0, 1.0), (0.25, 3.0, 0.7), (1.0, 1.0, 4.0)])
def test_the_multipliers_of_stream_and_writes_are_found(a, c, d):
    found = layer(hand(), values(a, c, d))
    assert found == pytest.approx({"residual": a, "attention_write": c, "mlp_write": d}, abs=1e-5)
    assert all(value == 1.0 for value in found.values() if abs(value - 1) < 1e-3)


def test_no_multiplier_is_claimed_of_what_no_number_explains():
    assert layer(hand(), values(c=2.0, extra=0.01)) == {}
    assert layer(hand(), values(c=2.0, second=1.01)) == {}
    assert layer(hand(), values(a=0.0)) == {}
    for site in (STREAM, ATTENTION, MLP, OUT):
        seen = values(c=2.0)
        seen[site][1, 2, 3] = torch.nan
        assert layer(hand(), seen) == {}


def test_what_is_never_written_has_no_multiplier():
    seen = values(c=2.0)
    seen[OUT] -= seen[MLP]
    seen[MLP].zero_()
    assert layer(hand(), seen) == pytest.approx({"residual": 1.0, "attention_write": 2.0}, abs=1e-6)


def test_rounding_of_a_type_is_no_multiplier():
    assert layer(hand(torch.bfloat16), values(c=1.005)) == {}
    assert layer(hand(torch.bfloat16), values(c=1.3)) == pytest.approx(
        {"residual": 1.0, "attention_write": 1.3, "mlp_write": 1.0}, abs=1e-5
    )
    assert layer(hand(torch.float64), values(c=1.005))["attention_write"] == pytest.approx(1.005)
    kinds = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
    assert [scales._tolerance(hand(kind)) for kind in kinds] == [1e-4, 1e-4, 0.02, 0.02]  # pyright: ignore[reportArgumentType]


def near(value: float, **stated: float) -> float:
    return scales._near(hand(**stated), value)  # pyright: ignore[reportArgumentType]


def test_a_fitted_number_is_the_one_of_the_configuration_that_it_rounds():
    assert near(1 + 9e-5) == 1.0
    assert near(1 - 9e-5) == 1.0
    assert near(1.0002) == 1.0002
    assert near(0.40001, residual_multiplier=0.4) == 0.4
    assert near(2.50001, residual_multiplier=0.4) == 2.5
    assert near(0.401, residual_multiplier=0.4) == 0.401
    assert near(0.40001, first=0.40003, second=0.4) == 0.4
    assert near(3.0001, layers=3) == 3.0001, "an integer is a count and no multiplier"
    assert near(0.5, epsilon=0.0, other=-2.0) == 0.5
    assert near(4000.3, large=4000.0) == 4000.0
    assert near(4000.5, large=4000.0) == 4000.5


# -- logits ---------------------------------------------------------------------------------------------------------


def logit_scale(raw: Tensor, wanted: Tensor, cap: float | None = None) -> float | None:
    one = hand(cap=cap)
    head = torch.nn.Linear(raw.shape[-1], raw.shape[-1], bias=False).requires_grad_(False)
    head.weight.data = torch.eye(raw.shape[-1], dtype=raw.dtype)
    one.hf = SimpleNamespace(get_output_embeddings=lambda: head)
    return scales._logit_scale(one, raw, wanted)  # pyright: ignore[reportArgumentType]


RAW = torch.randn(2, 6, 20, generator=torch.Generator().manual_seed(3))


def test_a_multiple_of_logits_is_found():
    assert logit_scale(RAW, RAW) == 1.0
    assert logit_scale(RAW, RAW * 1.00001) == 1.0
    assert logit_scale(RAW, RAW * 0.3) == pytest.approx(0.3)
    assert logit_scale(RAW, RAW * -2.0) == pytest.approx(-2.0)
    assert logit_scale(torch.zeros(2, 6, 20), torch.zeros(2, 6, 20)) == 1.0


def test_a_multiple_behind_a_cap_is_found():
    for scale in (1.0, 0.3, 2.5):
        assert logit_scale(RAW, (RAW * scale / 3).tanh() * 3, cap=3.0) == pytest.approx(scale)
    # of logits that are squeezed onto the cap nothing is read
    sharp = RAW.clone()
    sharp[0, 0, 0] = 100.0
    assert logit_scale(sharp, (sharp * 2.5 / 3).tanh() * 3, cap=3.0) == pytest.approx(2.5)


def test_logits_that_no_one_number_makes_are_left_to_the_model():
    differ = RAW * torch.tensor([2.0, 2.001])[:, None, None]
    assert logit_scale(RAW, differ) is None
    assert logit_scale(RAW, RAW * 2 + 0.01) is None
    assert logit_scale(torch.zeros(2, 6, 20), RAW) is None
    assert logit_scale(RAW[..., :19], RAW) is None
    for bad in (torch.nan, torch.inf):
        broken = RAW.clone()
        broken[1, 1, 1] = bad
        assert logit_scale(broken, RAW) is None
        assert logit_scale(RAW, broken) is None
    one = hand()
    one.hf = SimpleNamespace(get_output_embeddings=lambda: None)
    assert scales._logit_scale(one, RAW, RAW) is None  # pyright: ignore[reportArgumentType]


# -- of a whole model -----------------------------------------------------------------------------------------------


def test_multipliers_of_each_layer_are_found_in_a_model_and_are_its_record():
    """The second block multiplies its stream by 3; Granite writes 0.4 times what it writes, and divides logits by 3."""
    one = tiny("granite", residual_multiplier=0.4, logits_scaling=3.0)
    assert one.scales == Scales((0.4,) * 3, (1.0,) * 3, (0.4,) * 3, (1.0,) * 3, 1 / 3.0)
    assert one.scales.facts == {"logits": 1 / 3.0, "attention": [0.4] * 3, "mlp": [0.4] * 3}
    plain = tiny()
    assert plain.scales == Scales.plain(3)
    assert plain.scales.facts == {}
    with output(plain.blocks[1], lambda value: value * 3):
        found = measure(plain)
    assert found.stream == (1.0, pytest.approx(3.0, abs=1e-3), 1.0)
    assert (found.attention, found.mlp, found.state, found.logits) == ((1.0,) * 3, (1.0,) * 3, (1.0,) * 3, 1.0)
    assert list(found.facts) == ["stream"]


def test_logits_that_are_no_multiple_have_no_scale():
    one = tiny()
    own = one.hf.forward
    one.hf.forward = lambda **given: (lambda made: (made.update(logits=made.logits + 1.0), made)[1])(own(**given))
    assert measure(one) == Scales.plain(3, None)
    one.scales = measure(one)
    assert one.scales.facts == {"logits": None}
    with pytest.raises(UnsupportedModel, match="the logits of tiny are no multiple of its unembedding"):
        _ = one.logit_scale


def test_a_model_that_cannot_run_claims_nothing():
    one = tiny()
    one.hf.forward = lambda **_: (_ for _ in ()).throw(ValueError("no"))
    assert measure(one) == Scales.plain(3, None)
    assert Scales.plain(2) == Scales((1.0, 1.0), (1.0, 1.0), (1.0, 1.0), (1.0, 1.0), 1.0)


def test_an_encoder_has_no_logits_and_no_multipliers():
    from .test_encoders import encoder

    assert measure(encoder("bert")) == Scales.plain(3, None)


def test_what_a_layer_writes_in_its_order():
    one = tiny("qwen3_5")
    assert writes_of(one, 0) == [Site("state_write", 0), Site("mlp_write", 0)]
    assert writes_of(one, 1) == [Site("attention_write", 1), Site("mlp_write", 1)]
    both = tiny("falcon_h1")
    assert writes_of(both, 2) == [Site("attention_write", 2), Site("state_write", 2), Site("mlp_write", 2)]
