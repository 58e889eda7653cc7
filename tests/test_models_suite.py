"""Which checks are asked of which model, from where on they fail, and what is said then."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from babelscope.errors import AlreadyEdited, BabelscopeError, NonFinite, UnsupportedModel
from babelscope.models import Model, conformance, gate, mixture_checks, require, run_checks
from babelscope.models.conformance import SUITE, _outcome, why_no_text
from babelscope.models.head_checks import head_shapes, head_weights
from babelscope.models.hooks import hook_count

from .planted_faults import IDS, model
from .tiny_mixtures import mixture_weights
from .tiny_models import tiny_model, tiny_tokenizer

REGIONS = [
    "neurons are the MLP's output weights' input",
    "logits are the model's own",
    "batch and right padding change nothing",
    "later tokens leave earlier outputs alone",
]
WHOLE = [
    "all weights are in memory",
    "embedding + writes = final residual",
    "norm of the stream = what is read",
    "answer rows = own logits",
    "heads are as the configuration states",
]
OF_HEADS = [
    "heads × W_O = attention's output",
    "stream × W_Q, W_K, W_V = q, k, v",
    "values: rows and groups",
    "queries and keys: rows and groups",
    "head by hook = head by weights",
]
LAST = ["mixer by hook = mixer by weights", "rows may join within a pass", "resumed pass = whole pass"]
MIXED = [
    "experts recorded = experts of the model",
    "Σ experts = output of the experts",
    "nothing but neurons writes",
    "expert by hook = expert by weights",
]
NONE_LEFT = ["no hooks left"]


def names(found: list[conformance.Check]) -> list[str]:
    return [check.name for check in found]


def test_each_level_has_its_checks():
    assert [(test.name, test.level) for test in SUITE] == [
        *((name, "regions") for name in REGIONS),
        *((name, "circuits") for name in (*WHOLE, *OF_HEADS, *LAST)),
    ]
    assert [test.name for test in SUITE if test.of_heads] == OF_HEADS
    assert all("{error}" in test.problem for test in SUITE if test.name not in (WHOLE[0], WHOLE[4]))
    assert names(run_checks(model(), level="regions")) == [*REGIONS, *NONE_LEFT]
    found = run_checks(model())
    assert names(found) == [*REGIONS, *WHOLE, *OF_HEADS, *LAST, *NONE_LEFT]
    assert all(check.passed and check.problem == "" for check in found[:-1])
    assert found[-1].detail == "0 before, 0 after"
    assert [check.level for check in found] == ["regions"] * 4 + ["circuits"] * 13 + ["regions"]


def test_mixtures_encoders_and_models_without_neurons_have_checks_of_their_own():
    from .test_encoders import encoder
    from .test_residual_site import mamba

    mixed = Model(mixture_weights("mixtral"), tiny_tokenizer(), id="mixed")
    assert names(run_checks(mixed, level="regions")) == [*REGIONS, *MIXED, *NONE_LEFT]
    assert [row[2] for row in mixture_checks.MIXTURE_SUITE] == [False] * 4
    assert names(run_checks(encoder("bert"), level="regions")) == [REGIONS[0], REGIONS[2], *NONE_LEFT]
    assert names(run_checks(mamba(), level="regions")) == [*REGIONS, "blocks hand on the stream", *NONE_LEFT]


def test_a_mixture_that_fails_is_told_by_the_check(monkeypatch):
    mixed = Model(mixture_weights("mixtral"), tiny_tokenizer(), id="mixed")
    row = ("experts add up", lambda *_: 0.25, True)
    test = conformance._of_mixtures(row)
    assert (test.level, test.of_heads) == ("circuits", False)
    assert _outcome(test, mixed, IDS).problem == "experts add up does not hold: off by 25%"
    assert conformance._of_mixtures((*row[:2], False)).level == "regions"


def test_where_layers_have_other_heads_nothing_is_asked_of_heads():
    one = Model(tiny_model("llama"), tiny_tokenizer())
    part = one.part("self_attn.k_proj", 1)
    part.weight = nn.Parameter(part.weight[:8])
    one.blocks[1].self_attn.forward = lambda hidden, **_: (hidden, None)
    found = run_checks(one)
    assert names(found) == [*REGIONS, *WHOLE, *LAST, *NONE_LEFT]
    (shapes,) = [check for check in found if check.name == WHOLE[4]]
    assert shapes.problem == "self_attn.k_proj of layer 1 makes 8 rows, not 2 heads of 8"


def test_a_check_that_leaves_a_hook_is_told(monkeypatch):
    one = Model(tiny_model("llama"), tiny_tokenizer())

    def leaves(model: Model, _: Tensor) -> float:
        model.blocks[0].register_forward_hook(lambda *_: None)
        return 0.0

    monkeypatch.setattr(conformance, "SUITE", (conformance.Test("leaves", leaves, "regions", ""),))
    first, last = run_checks(one, level="regions")
    assert (first.passed, last.passed, last.name) == (True, False, "no hooks left")
    assert last.problem == "hooks are left behind (0 before, 1 after)"
    assert hook_count(one.hf) == 1


def of(error: float | BaseException, dtype: torch.dtype = torch.float32) -> conformance.Check:
    def measure(_: Model, __: Tensor) -> float:
        if isinstance(error, BaseException):
            raise error
        return error

    fake = SimpleNamespace(dtype=dtype)
    return _outcome(conformance.Test("the check", measure, "circuits", "it misses by {error}"), fake, IDS)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("dtype", "most"), [("float32", 1e-4), ("float64", 1e-4), ("bfloat16", 0.05), ("float16", 0.05)]
)
def test_a_check_passes_up_to_the_rounding_of_the_type(dtype, most):
    kind = getattr(torch, dtype)
    passed, failed = of(most, kind), of(most * 1.01, kind)
    assert (passed.passed, passed.problem, passed.level) == (True, "", "circuits")
    assert (failed.passed, failed.level) == (False, "circuits")
    assert of(float("nan"), kind).passed is False


def test_how_far_a_check_misses_is_told_in_per_cent_or_as_a_multiple():
    assert of(0.5).problem == "it misses by 50%"
    assert of(9.99).problem == "it misses by 999%"
    assert of(10.0).problem == "it misses by 1e+01 ×"
    assert of(float("inf")).problem == "it misses by inf ×"
    assert of(0.5).detail == "largest relative difference 5.0e-01"


def test_a_check_that_cannot_run_is_that_checks_failure_with_the_reason():
    found = of(ValueError("first\nsecond"))
    assert (found.name, found.passed, found.detail, found.level) == (
        "the check",
        False,
        "ValueError: first",
        "circuits",
    )
    assert found.problem == "the check “the check” cannot run (ValueError: first)"
    assert of(UnsupportedModel("it has no heads")).problem == "it has no heads"
    for error in (AlreadyEdited("a"), NonFinite("b"), torch.OutOfMemoryError("c")):
        with pytest.raises(type(error)):
            of(error)
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        of(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"))


def test_what_a_models_own_code_says_of_text_alone():
    one = Model(tiny_model("llama"), tiny_tokenizer())
    assert why_no_text(one) == ""
    given: list[torch.Size] = []

    def fails(error: BaseException):
        def forward(input_ids: Tensor, **_: object) -> None:
            given.append(input_ids.shape)
            raise error

        return forward

    one.trunk_module.forward = fails(ValueError("give an image\nor two"))
    assert why_no_text(one, 5) == "ValueError: give an image"
    assert why_no_text(one) == "ValueError: give an image"
    assert given == [(2, 5), (2, 9)]
    for error in (BabelscopeError("ours"), torch.OutOfMemoryError("full")):
        one.trunk_module.forward = fails(error)
        with pytest.raises(type(error)):
            why_no_text(one)


def test_logits_of_their_own_are_asked_of_all_but_encoders():
    one = Model(tiny_model("llama"), tiny_tokenizer())
    one.hf.forward = lambda **_: (_ for _ in ()).throw(ValueError("no head"))
    assert why_no_text(one) == "ValueError: no head"
    one.encoder = True
    assert why_no_text(one) == ""


# -- shapes of heads ------------------------------------------------------------------------------------------------


def cut(part: nn.Module, rows: int | None = None, columns: int | None = None) -> None:
    part.weight = nn.Parameter(part.weight[:rows, :columns])


@pytest.mark.parametrize(
    ("path", "rows", "columns", "told"),
    [
        ("self_attn.o_proj", None, 24, "^layer 1 has heads of 24 units in all, layer 0 4 heads of 8$"),
        ("self_attn.k_proj", 15, None, "^self_attn.k_proj of layer 1 makes 15 rows, not 2 heads of 8$"),
        ("self_attn.v_proj", 8, None, "^self_attn.v_proj of layer 1 makes 8 rows, not 2 heads of 8$"),
        ("self_attn.q_proj", 16, None, "^self_attn.k_proj of layer 1 makes 16 rows, not 2 heads of 4$"),
    ],
)
def test_a_layer_with_other_heads_is_told(path, rows, columns, told):
    one = Model(tiny_model("llama"), tiny_tokenizer())
    assert head_shapes(one, IDS) == 0
    cut(one.part(path, 1), rows, columns)
    with pytest.raises(UnsupportedModel, match=told):
        head_shapes(one, IDS)


def test_keys_are_as_wide_as_queries_and_values_as_what_attention_puts_out():
    """MiniMax-like layers: queries and keys of 4 units, values of 8."""
    one = Model(tiny_model("llama"), tiny_tokenizer())
    for layer in range(3):
        cut(one.part("self_attn.q_proj", layer), 16)
        cut(one.part("self_attn.k_proj", layer), 8)
    assert head_shapes(one, IDS) == 0


def test_queries_that_bring_their_gates_are_twice_as_wide():
    one = Model(tiny_model("qwen3_next"), tiny_tokenizer())
    assert one.family.query_gates
    assert head_shapes(one, IDS) == 0


@pytest.mark.parametrize("family", ["falcon-40b", "codegen"])
def test_a_joint_projection_has_rows_for_every_head(family):
    one = Model(tiny_model(family), tiny_tokenizer())
    assert head_shapes(one, IDS) == 0
    needed = (one.heads + 2 * one.kv_heads) * one.head_width
    cut(one.part(one.family.qkv[0], 0), needed - 1)
    told = f"{one.family.qkv[0]} of layer 0 has {needed - 1} rows; queries, keys and values need {needed}$"
    with pytest.raises(UnsupportedModel, match=told):
        head_shapes(one, IDS)


def test_a_configuration_without_a_number_of_heads_is_told():
    one = Model(tiny_model("llama"), tiny_tokenizer())
    one.config = SimpleNamespace(decoder_attention_heads=None)
    with pytest.raises(UnsupportedModel, match=r"^the configuration states no one number of heads for all layers$"):
        head_shapes(one, IDS)


def test_a_model_without_heads_is_told():
    from .test_residual_site import mamba

    with pytest.raises(UnsupportedModel, match="no layer has heads"):
        head_weights(mamba(), IDS)


# -- the gate -------------------------------------------------------------------------------------------------------


def failing(*levels: str) -> list[conformance.Check]:
    return [conformance.Check(f"c{place}", False, "", level, f"p{place}") for place, level in enumerate(levels)]  # pyright: ignore[reportArgumentType]


def test_the_gate_says_what_still_works(monkeypatch):
    one = model()
    monkeypatch.setattr(gate, "outcomes", lambda *_: [conformance.Check("c", True, ""), *failing("circuits")])
    with pytest.raises(UnsupportedModel, match=r"^llama cannot be used for circuits: p0; regions work$"):
        require(one, "circuits")
    monkeypatch.setattr(gate, "outcomes", lambda *_: [*failing("circuits", "regions"), *failing("circuits")])
    with pytest.raises(UnsupportedModel, match=r"^llama \(llama\) cannot be used: p0; p1$"):
        require(one, "circuits")
    monkeypatch.setattr(gate, "outcomes", lambda *_: failing("regions"))
    with pytest.raises(UnsupportedModel, match=r"^llama \(llama\) cannot be used: p0$"):
        require(one, "regions")


def test_answers_are_kept_until_something_changes(monkeypatch):
    one = Model(tiny_model("llama"), tiny_tokenizer())
    asked: list[str] = []
    monkeypatch.setattr(gate, "_asked", lambda _, level: (asked.append(level), [])[1])
    for level in ("regions", "regions", "circuits", "regions", "circuits"):
        gate.outcomes(one, level)  # pyright: ignore[reportArgumentType]
    assert asked == ["regions", "circuits"]
    for change in (
        lambda: one.hf.lm_head.weight.mul_(2),
        lambda: one.hf.model.rotary_emb.inv_freq.mul_(1.5),
        lambda: setattr(one.config, "_attn_implementation_internal", "eager"),
        lambda: one.blocks[0].register_forward_hook(lambda *_: None),
    ):
        asked.clear()
        with torch.no_grad():
            change()
        gate.outcomes(one, "regions")
        gate.outcomes(one, "regions")
        assert asked == ["regions"]
