"""Each check of a mixture of experts meets a mixture that must fail it, by an amount that is known beforehand."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from babelscope.models import Model, mixture_checks
from babelscope.models.experts import Routed, attach, attached_anywhere

from .planted_faults import IDS, model, near, output, twice
from .tiny_mixtures import mixture_weights
from .tiny_models import tiny_tokenizer


def mixed(kind: str = "mixtral") -> Model:
    return Model(mixture_weights(kind), tiny_tokenizer(), id=kind)


@pytest.mark.parametrize("kind", ["mixtral", "gpt_oss"])
def test_experts_that_put_out_something_else_are_seen_in_each_layer(kind):
    one = mixed(kind)
    with torch.inference_mode():
        assert mixture_checks.experts_sum(one, IDS) <= 1e-4
        for mixture in one.mixtures.values():
            with output(mixture.experts, twice):
                assert mixture_checks.experts_sum(one, IDS) == near(0.5)


def test_experts_are_added_up_as_written_down():
    """Expert 1 makes 1·3 + 1 = 4, with weight 2 of one token and 0.5 of the other; expert 0 makes 5·2 + 7 = 17."""
    experts = SimpleNamespace(
        down_proj=torch.tensor([[[5.0]], [[1.0]]]), is_transposed=False, has_bias=True, has_post_expert_norm=False,
        down_proj_bias=torch.tensor([[7.0], [1.0]]),
    )  # fmt: skip
    pairs = Routed(
        torch.tensor([[2.0], [3.0], [3.0]]), torch.tensor([0, 1, 1]), torch.tensor([1, 0, 1]),
        torch.tensor([1.0, 2.0, 0.5]), torch.tensor([[1, 2], [0, 1]]), 2,
    )  # fmt: skip
    mixture = SimpleNamespace(experts=experts)
    assert mixture_checks.experts_output(mixture, pairs).tolist() == [[8.0], [19.0]]  # pyright: ignore[reportArgumentType]
    experts.has_post_expert_norm, experts.post_expert_norm = True, lambda value: value * 10
    assert mixture_checks.experts_output(mixture, pairs).tolist() == [[80.0], [190.0]]  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("transposed", [False, True])
def test_weights_of_experts_may_stand_either_way(transposed):
    weight = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]])  # [1, D = 3, F = 2]
    experts = SimpleNamespace(
        down_proj=weight.transpose(1, 2) if transposed else weight, is_transposed=transposed, has_bias=False,
        has_post_expert_norm=False,
    )  # fmt: skip
    pairs = Routed(
        torch.tensor([[1.0, 10.0]]), torch.tensor([0]), torch.tensor([0]), torch.ones(1), torch.tensor([[0]]), 1
    )
    found = mixture_checks.experts_output(SimpleNamespace(experts=experts), pairs)  # pyright: ignore[reportArgumentType]
    assert found.tolist() == [[21.0, 43.0, 65.0]]


def test_experts_that_their_own_code_computes_otherwise_are_seen():
    one = mixed()
    before = one.config._experts_implementation_internal
    mixture = one.mixtures[2]
    own = type(mixture.experts).forward
    with torch.inference_mode():
        assert mixture_checks.eager_experts(model(), IDS) == 0
        assert mixture_checks.eager_experts(one, IDS) <= 1e-5

        def forward(hidden: Tensor, *rest: Tensor) -> Tensor:
            eager = one.config._experts_implementation_internal == "eager"
            return own(mixture.experts, hidden, *rest) * (0 if eager else 1)

        mixture.experts.forward = forward
        assert mixture_checks.eager_experts(one, IDS) > 0.01
    assert one.config._experts_implementation_internal == before
    assert attached_anywhere() == 0


def test_what_a_mixture_writes_besides_its_neurons_is_seen():
    """A write of its own at each token, as large as the largest that is written: half of the whole."""
    one = mixed()
    with torch.inference_mode():
        assert mixture_checks.nothing_else(one, IDS) <= 1e-5
        for mixture in one.mixtures.values():
            added = torch.zeros(2, 9, 32)
            added[1, 4, 7] = 1000.0
            with output(mixture.mlp, lambda value, added=added: value + added):
                assert mixture_checks.nothing_else(one, IDS) == pytest.approx(1.0, abs=0.01)
            with output(mixture.mlp, lambda value: value + 1000.0):  # the same at every token
                assert mixture_checks.nothing_else(one, IDS) <= 1e-4


def test_biases_of_experts_are_not_taken_for_something_else():
    one = mixed("gpt_oss")
    with torch.inference_mode(), output(one.mixtures[0].mlp, lambda value: value):
        assert mixture_checks.nothing_else(one, IDS) == 0


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_zeroing_an_expert_by_weights_is_asked_of_the_one_used_most(layer):
    """Where weights of an expert are zero, another write is planted."""
    one = mixed()
    mixture = one.mixtures[layer]
    weight = mixture.experts.down_proj
    before = weight.detach().clone()
    used: list[int] = []
    zeroed: list[int] = []

    def planted(value: Tensor) -> Tensor:
        gone = [expert for expert in range(mixture.count) if not weight[expert].any()]
        zeroed.extend(gone)
        return value + 100 * torch.arange(32) if gone else value

    with torch.inference_mode():
        assert mixture_checks.expert_ablation(one, IDS) <= 1e-5
        handle = attach(mixture, lambda pairs: used.extend(pairs.index.flatten().tolist()))
        one.trunk(IDS)
        handle.remove()
        with output(mixture.mlp, planted):
            assert mixture_checks.expert_ablation(one, IDS) > 0.1
    assert zeroed == [max(range(mixture.count), key=lambda expert: (used.count(expert), -expert))]
    assert torch.equal(weight, before)
    assert attached_anywhere() == 0
