"""Whoever hooks a model sees its own passes alone, whichever of two threads has the higher number; other borders."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from babelscope.errors import AlreadyEdited, EditNeverFired, InputError
from babelscope.models import Model, conformance, gate, head_checks, scales, structure
from babelscope.models.aside import set_aside
from babelscope.models.decoding import _check_prompts
from babelscope.models.experts import attach
from babelscope.models.families import Family
from babelscope.models.head_checks import head_shapes
from babelscope.models.hooks import Site, capture, edit, resume
from babelscope.models.known import ROWS
from babelscope.models.mixtures import Neuron
from babelscope.models.norms import NormMap, frozen_norm
from babelscope.models.places import Places
from babelscope.models.rows import RowEdit, conditions_of, edited_rows

from .planted_faults import IDS, model
from .test_models_scales import ATTENTION, MLP, OUT, STREAM, hand
from .tiny_mixtures import mixture
from .tiny_models import tiny_model, tiny_tokenizer


def elsewhere(act: Callable[[], Any]) -> Any:
    """What an act gives in another thread."""
    found: list[Any] = []

    def run() -> None:
        with torch.inference_mode():
            found.append(act())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return found[0]


def from_both_sides(enter: Callable[[], Any], one: Model) -> None:
    """A pass of another thread, and one made with the model set aside, are as if nothing stood; either way round."""
    with torch.inference_mode():
        plain = one.trunk(IDS)
        with enter():
            assert not torch.allclose(one.trunk(IDS), plain)
            assert torch.equal(elsewhere(lambda: one.trunk(IDS)), plain)
            with set_aside():
                assert torch.equal(one.trunk(IDS), plain)

    ready, done = threading.Event(), threading.Event()

    def hold() -> None:
        with enter():
            ready.set()
            done.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    ready.wait(60)
    try:
        with torch.inference_mode():
            assert torch.equal(one.trunk(IDS), plain)
    finally:
        done.set()
        thread.join()


class Quiet:
    """An edit that need not fire."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __enter__(self) -> object:
        return self.inner.__enter__()

    def __exit__(self, *told: object) -> None:
        with contextlib.suppress(EditNeverFired):
            self.inner.__exit__(*told)


KINDS = ["residual", "neurons", "z", "q", "attention_write", "mlp_in", "mlp_write"]


@pytest.mark.parametrize("kind", KINDS)
def test_edits_are_those_of_one_thread(kind):
    one = model()
    from_both_sides(lambda: Quiet(edit(one, {Site(kind, 1): torch.zeros_like})), one)


def test_edits_of_flat_values_are_those_of_one_thread():
    one = Model(tiny_model("opt"), tiny_tokenizer())
    from_both_sides(lambda: Quiet(edit(one, {Site("neurons", 1): lambda value: value + 1})), one)


def negative(value: Tensor) -> Tensor:
    return -value


@pytest.mark.parametrize("kind", ["neurons", "router", "mlp_in", "mlp_write"])
def test_edits_of_a_mixture_are_those_of_one_thread(kind):
    one = mixture("qwen2_moe")
    from_both_sides(lambda: Quiet(edit(one, {Site(kind, 1): negative})), one)


def test_resumed_passes_and_edits_of_rows_are_those_of_one_thread():
    one = model()
    from_both_sides(lambda: resume(one, 2, torch.ones(2, 9, 32)), one)
    change = {Site("residual", 1): torch.zeros_like}
    from_both_sides(lambda: Quiet(edited_rows(one, [RowEdit(change, first=True)])), one)


def test_experts_are_chosen_in_one_thread_alone():
    one = mixture("mixtral")

    class Chosen:
        def __enter__(self) -> None:
            self.handle = attach(one.mixtures[1], choose=lambda index, weights: (index.flip(1), weights))

        def __exit__(self, *_: object) -> None:
            self.handle.remove()

    from_both_sides(Chosen, one)


@pytest.mark.parametrize(("first", "second"), [(True, False), (False, True), (True, True)])
def test_an_exclusive_edit_stands_alone_from_either_side(first, second):
    one, change = model(), {Site("neurons", 0): negative}

    def refused() -> bool:
        try:
            with Quiet(edit(one, change, exclusive=second)):
                return False
        except AlreadyEdited:
            return True

    with Quiet(edit(one, change, exclusive=first)):
        assert refused()
        assert elsewhere(refused)
        with set_aside():
            assert not refused()
    ready, done = threading.Event(), threading.Event()

    def hold() -> None:
        with Quiet(edit(one, change, exclusive=first)):
            ready.set()
            done.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    ready.wait(60)
    assert refused()
    done.set()
    thread.join()
    assert not refused()


def test_edits_that_are_not_exclusive_stand_together():
    one, change = model(), {Site("neurons", 0): negative}
    with Quiet(edit(one, change)), Quiet(edit(one, change)):
        pass
    assert gate.failures(one, "regions") == []


# -- other borders --------------------------------------------------------------------------------------------------


def test_a_single_head_moves_no_other():
    one = Model(tiny_model("llama", num_attention_heads=1, num_key_value_heads=1, head_dim=32), tiny_tokenizer())
    with torch.inference_mode():
        assert head_checks.query_key_layout(one, IDS) == 0


def test_a_layer_norm_is_centred_though_one_of_its_answers_is_nearly_nothing():
    norm = nn.LayerNorm(8)
    probe = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole = NormMap.of(norm, 8, probe)
        seen: list[Tensor] = []
        norm.register_forward_hook(lambda *_: None)
        own = nn.LayerNorm.forward

        class Watched(nn.LayerNorm):
            def forward(self, value: Tensor) -> Tensor:
                seen.append(value)
                return own(self, value)

        watched = Watched(8)
        NormMap.of(watched, 8, probe)
        made = own(watched, seen[1])[0]
        norm.bias[3] = -made[3]
        found = NormMap.of(norm, 8, probe)
        assert (whole.centred, found.centred) == (True, True)
        torch.testing.assert_close(frozen_norm(norm, probe).part(probe) + norm.bias, norm(probe))


def test_prompts_far_beyond_a_model_are_told():
    one = model()
    _check_prompts(one, [[4] * 127])
    for length in (128, 129, 300):
        with pytest.raises(InputError, match=rf"^prompt 1 has {length} tokens; llama takes 128 and must write some"):
            _check_prompts(one, [[4], [4] * length])


def test_two_fits_agree_to_a_ten_thousandth_of_the_first():
    generator = torch.Generator().manual_seed(0)
    stream, attention, mlp = (torch.randn(2, 6, 8, generator=generator, dtype=torch.float64) for _ in range(3))
    for more, agree in ((0.9999e-4, True), (1.00005e-4, False)):
        out = 2 * (stream + attention + mlp)
        out[1] *= 1 + more
        seen = {STREAM: stream, ATTENTION: attention, MLP: mlp, OUT: out}
        assert bool(scales._layer(hand(torch.float64), seen, 0)) is agree  # pyright: ignore[reportArgumentType]


def test_rows_of_mixed_stacks():
    mixed = {name for name, row in ROWS.items() if isinstance(row, Family) and row.mixed}
    assert mixed == {
        "qwen3_next", "qwen3_5_text", "qwen3_5_moe_text", "lfm2", "lfm2_moe", "lfm3", "bamba", "jamba",
        "granitemoehybrid", "recurrent_gemma", "kimi_linear", "bailing_hybrid",
    }  # fmt: skip
    ungated = {name for name, row in ROWS.items() if isinstance(row, Family) and not row.gated}
    assert ungated == {
        "apertus", "bloom", "gpt2", "xglm", "phi", "starcoder2", "gptj", "gpt_neo", "persimmon", "biogpt", "mbart",
        "pegasus", "blenderbot", "whisper", "bigbird_pegasus", "ctrl", "nanochat",
    }  # fmt: skip


def test_a_joint_projection_may_have_more_rows():
    one = Model(tiny_model("gpt_neox"), tiny_tokenizer())
    part = one.part(one.family.qkv[0], 0)
    part.weight = nn.Parameter(torch.cat([part.weight, part.weight[:3]]))
    assert head_shapes(one, IDS) == 0


def test_layers_that_text_goes_round_have_no_neurons():
    def block(*names: str) -> nn.Module:
        found = nn.Module()
        for name in names:
            setattr(found, name, nn.Identity())
        return found

    blocks = [block("mlp"), block("mlp", "cross"), block("cross"), block(), block()]
    held = SimpleNamespace(blocks=blocks, family=SimpleNamespace(neurons="mlp", skipped="cross"), mixtures={4: None})
    assert vars(Places)["neuron_layers"].func(held) == (0, 4)


def test_conditions_that_are_not_there_are_told():
    for row in (2, 3, 9, -1):
        with pytest.raises(InputError, match=rf"^no condition {row}: there are 2$"):
            conditions_of(2, [0, row], torch.device("cpu"))


def test_neurons_by_name():
    named = [Neuron(1, "expert", 2, 3), Neuron(1, "shared", None, 3), Neuron(1, "dense", None, 0)]
    assert [str(one) for one in named] == [
        "layer 1, expert 2, unit 3", "layer 1, shared, unit 3", "layer 1, dense, unit 0",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("level", "passed", "told"), [("regions", False, True), ("circuits", False, False), ("regions", True, False)]
)
def test_why_a_model_runs_on_no_text_is_asked_where_regions_fail(monkeypatch, level, passed, told):
    checks = [conformance.Check("a", True, ""), conformance.Check("b", passed, "", level, "p")]
    monkeypatch.setattr(gate, "run_checks", lambda *_, **__: checks)
    monkeypatch.setattr(gate, "why_no_text", lambda _: "it wants an image")
    found = gate._asked(model(), "circuits")
    if not told:
        assert found == checks
        return
    problem = "its own code does not run on text alone (it wants an image)"
    assert found == [conformance.Check("runs on text alone", False, "it wants an image", "regions", problem)]
    monkeypatch.setattr(gate, "why_no_text", lambda _: "")
    assert gate._asked(model(), "circuits") == checks


def test_a_head_that_is_said_to_be_tied_and_is_not_counts():
    one = Model(tiny_model("llama", tie_word_embeddings=False), tiny_tokenizer())
    before = one.weight_hash
    one.hf.all_tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}
    assert one.weight_hash == before
    with torch.no_grad():
        one.hf.lm_head.weight.mul_(2)
    assert one.weight_hash != before


def test_the_first_of_the_blocks_is_described():
    root = nn.Module()
    root.layers = nn.ModuleList([nn.Sequential(nn.Identity()), nn.ModuleDict({"x": nn.Identity()})])
    told = structure.why_no_neurons(root, SimpleNamespace(model_type="odd"), structure.Trunk("", root, False))  # pyright: ignore[reportArgumentType]
    assert "(layers: Sequential of 0)" in told


def test_a_capture_is_of_one_thread():
    one, site = model(), Site("residual", 1)
    with capture(one, [site]) as seen:
        elsewhere(lambda: one.trunk(IDS))
        assert seen == {}
