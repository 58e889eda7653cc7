"""Experts and routers of unmodified mixtures: read, changed, put back; on every type whose attention we know."""

from __future__ import annotations

import pytest
import torch

from babelscope.errors import EditNeverFired, UnsupportedModel
from babelscope.models import Model, Site, capture, edit, run_checks
from babelscope.models.experts import Routed, attach, attached_anywhere
from babelscope.models.mixtures import Neuron
from babelscope.models.routers import FORBIDDEN, probabilities, scoring_of

from .tiny_mixtures import CHOSEN, EXPERTS, MIXTURES, UNITS, UNREADABLE, mixture, mixture_weights
from .tiny_models import tiny_tokenizer

EACH = pytest.mark.parametrize("name", MIXTURES)
IDS = torch.randint(4, 90, (2, 9), generator=torch.Generator().manual_seed(0))


def eager(model: Model, ids: torch.Tensor) -> torch.Tensor:
    configs = [one.experts.config for one in model.mixtures.values()]
    before = [config._experts_implementation_internal for config in configs]
    for config in configs:
        config._experts_implementation_internal = "eager"
    try:
        return model.hf(input_ids=ids).logits
    finally:
        for config, old in zip(configs, before):
            config._experts_implementation_internal = old


@EACH
def test_every_type_passes_the_suite_for_regions(name: str):
    failed = [check for check in run_checks(mixture(name)) if not check.passed and check.level == "regions"]
    assert not failed, failed


@EACH
@torch.inference_mode()
def test_recording_leaves_the_model_as_it_is(name: str):
    model = mixture(name)
    expected = eager(model, IDS)
    implementations = [one.experts.config._experts_implementation for one in model.mixtures.values()]
    with capture(model, [Site("neurons", layer) for layer in range(model.layers)]) as seen:
        logits = model.hf(input_ids=IDS).logits
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    assert [one.experts.config._experts_implementation for one in model.mixtures.values()] == implementations
    assert attached_anywhere() == 0
    assert [seen[Site("neurons", layer)].shape for layer in range(model.layers)] == [
        (2, 9, width) for width in model.widths
    ]


@EACH
@torch.inference_mode()
def test_routed_and_shared_experts_add_up_to_the_output(name: str):
    """Σ_e w_e (W_e h + b_e) + shared = MLP output, from the recorded neurons and a plain loop."""
    model = mixture(name)
    for layer, one in model.mixtures.items():
        pairs: list[Routed] = []
        inputs: list[torch.Tensor] = []
        handles = [
            attach(one, lambda routed, pairs=pairs: pairs.append(routed)),
            one.mlp.register_forward_pre_hook(lambda _m, args, inputs=inputs: inputs.append(args[0])),
        ]
        with capture(model, [Site("neurons", layer), Site("mlp_write", layer)]) as seen:
            model.trunk(IDS)
        for handle in handles:
            handle.remove()
        h = seen[Site("neurons", layer)].flatten(0, 1).double()
        weights = torch.zeros(len(h), one.count, dtype=torch.float64)
        weights[pairs[0].tokens, pairs[0].experts] = pairs[0].weights.double()
        output = torch.zeros(len(h), model.hf.config.hidden_size, dtype=torch.float64)
        for expert in range(one.count):
            down = one.experts.down_proj[expert].double()
            made = h[:, one.expert(expert)] @ (down if one.experts.is_transposed else down.T)
            if one.experts.has_bias:
                made = made + one.experts.down_proj_bias[expert].double()
            output += weights[:, expert, None] * made
        for part, columns in one.columns():
            made = h[:, columns] @ part.projection.weight.double().T
            gate = getattr(one.mlp, "shared_expert_gate", None)
            if gate is not None:
                made = made * torch.sigmoid(gate(inputs[0])).reshape(-1, 1)
            # Granite adds its shared MLP outside the module of experts
            output += made if part.projection in set(one.mlp.modules()) else 0 * made
        if getattr(one.mlp, "shared_expert_combination_strategy", "sum") == "average":
            output /= 2
        written = one.mlp(inputs[0])
        written = written if isinstance(written, torch.Tensor) else written[0]
        torch.testing.assert_close(output.float(), written.reshape(len(h), -1), atol=1e-5, rtol=1e-4)


@EACH
@torch.inference_mode()
def test_the_router_is_reproduced(name: str):
    model = mixture(name)
    chosen: list[torch.Tensor] = []
    weights: list[torch.Tensor] = []

    def note(index: torch.Tensor, routing: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        chosen.append(index)
        weights.append(routing)
        return index, routing

    handles = [attach(one, choose=note) for one in model.mixtures.values()]
    with capture(model, [Site("router", layer) for layer in model.mixtures]) as seen:
        model.trunk(IDS)
    for handle in handles:
        handle.remove()
    logits = [seen[Site("router", layer)].flatten(0, 1) for layer in model.mixtures]
    assert all(one.shape == (18, EXPERTS) for one in logits)
    scoring, reproduced = scoring_of(logits, chosen, weights)
    assert reproduced or name == "phimoe"
    if "correction" not in str(model.hf.state_dict().keys()) and name != "phimoe":
        for index, one in zip(chosen, logits):
            top = probabilities(one, scoring).topk(CHOSEN).indices
            assert torch.equal(top.sort().values, index.sort().values)


@EACH
@torch.inference_mode()
def test_a_forbidden_expert_is_used_by_no_token(name: str):
    model = mixture(name)
    layer = max(model.mixtures)
    used: list[int] = []
    with capture(model, [Site("neurons", layer)]) as seen:
        model.trunk(IDS)
    one = model.mixtures[layer]
    active = [int(seen[Site("neurons", layer)][..., one.expert(expert)].any(-1).sum()) for expert in range(one.count)]
    banned = active.index(max(active))

    def count(index: torch.Tensor, routing: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        used.append(int(((index == banned) & (routing != 0)).sum()))
        return index, routing

    def forbid(logits: torch.Tensor) -> torch.Tensor:
        logits = logits.clone()
        logits[..., banned] = FORBIDDEN
        return logits

    handle = attach(model.mixtures[layer], choose=count)
    model.trunk(IDS)
    with edit(model, {Site("router", layer): forbid}):
        model.trunk(IDS)
    handle.remove()
    assert used == [max(active), 0]


@pytest.mark.parametrize("name", UNREADABLE)
def test_experts_outside_the_interface_are_refused_in_words(name: str):
    with pytest.raises(UnsupportedModel, match="do not pass through transformers' experts interface"):
        Model(mixture_weights(name), tiny_tokenizer(), id=name)


def test_neurons_have_names_and_columns():
    one = mixture("qwen2_moe").mixtures[0]
    assert (one.count, one.units, one.width) == (EXPERTS, UNITS, EXPERTS * UNITS + 24)
    assert one.neuron(UNITS + 3) == Neuron(0, "expert", 1, 3)
    assert str(one.neuron(EXPERTS * UNITS + 5)) == "layer 0, shared, unit 5"
    assert one.expert(2) == slice(2 * UNITS, 3 * UNITS)


def test_dense_first_layers_have_their_own_width():
    model = mixture("glm4_moe")
    assert list(model.mixtures) == [1, 2]
    assert model.widths[0] == 48
    assert model.neurons == sum(model.widths)
    assert mixture("qwen3_moe").widths == (48, EXPERTS * UNITS, EXPERTS * UNITS)


def test_widths_follow_from_the_weights():
    for name in MIXTURES:
        model = mixture(name)
        for layer, one in model.mixtures.items():
            routed = one.experts.down_proj.numel() // model.hf.config.hidden_size
            assert model.widths[layer] == routed + sum(part.projection.in_features for part in one.parts), name


@torch.inference_mode()
def test_edits_of_neurons_nest_and_leave_nothing():
    model = mixture("qwen2_moe")
    plain = model.trunk(IDS)
    site = Site("neurons", 1)
    with edit(model, {site: lambda h: 2 * h}), capture(model, [site]) as outer:
        doubled = model.trunk(IDS)
    with capture(model, [site]) as inner:
        again = model.trunk(IDS)
    assert torch.equal(plain, again)
    assert not torch.allclose(plain, doubled)
    torch.testing.assert_close(outer[site], 2 * inner[site])


def test_an_edit_of_a_router_that_never_ran_is_an_error():
    model = mixture("mixtral")
    with pytest.raises(EditNeverFired), edit(model, {Site("router", 0): lambda logits: logits}):
        pass
    assert attached_anywhere() == 0


@torch.inference_mode()
def test_a_failing_pass_leaves_the_model_as_it_was():
    model = mixture("mixtral")
    before = model.trunk(IDS)

    def fail(_: torch.Tensor) -> torch.Tensor:
        raise ValueError("stop")

    for site in (Site("neurons", 1), Site("router", 1)):
        with pytest.raises(ValueError, match="stop"), edit(model, {site: fail}):
            model.trunk(IDS)
        assert attached_anywhere() == 0
        assert torch.equal(model.trunk(IDS), before)


@torch.inference_mode()
def test_another_thread_is_not_read():
    import threading

    model = mixture("mixtral")
    with capture(model, [Site("neurons", 0), Site("router", 0)]) as seen:
        other = threading.Thread(target=lambda: model.trunk(IDS[:1]))
        other.start()
        other.join()
        assert not seen
        model.trunk(IDS)
    assert seen[Site("router", 0)].shape == (2, 9, EXPERTS)


def test_scorings_by_hand():
    logits = torch.tensor([[0.0, 1.0, -1.0, 2.0]])
    assert torch.allclose(probabilities(logits, "softmax"), logits.softmax(-1))
    sigmoid = logits.sigmoid()
    assert torch.allclose(probabilities(logits, "sigmoid"), sigmoid / sigmoid.sum())
    index = torch.tensor([[3, 1]])
    for scoring in ("softmax", "sigmoid", "sqrtsoftplus"):
        weights = 2.5 * probabilities(logits, scoring).gather(1, index)
        assert scoring_of([logits], [index], [weights]) == (scoring, True)
    assert scoring_of([logits], [index], [torch.tensor([[0.5, 0.5]])]) == ("softmax", False)
