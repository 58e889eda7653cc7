"""Experts, routers and mixtures on numbers made by hand."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from babelscope.errors import UnsupportedModel
from babelscope.models.experts import PassShape, Routed, _by_expert, compute, expert_output
from babelscope.models.hooks import Site, edit
from babelscope.models.mixtures import Mixture, Part, _unread_experts, mixture_of
from babelscope.models.routers import _OntoExperts, _reproduces, probabilities, scoring_of

from .tiny_mixtures import mixture


def test_routed_values_as_every_neuron_of_every_token():
    pairs = Routed(
        torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), torch.tensor([0, 2, 2]), torch.tensor([1, 0, 1]),
        torch.ones(3), torch.tensor([[2], [0]]), 3,
    )  # fmt: skip
    dense = pairs.dense()
    assert dense.tolist() == [[0, 0, 0, 0, 3, 4], [1, 2, 0, 0, 5, 6]]
    assert torch.equal(pairs.gathered(dense), pairs.values)


def experts(count: int = 3, bias: bool = False, gate: bool = False, transposed: bool = False) -> SimpleNamespace:
    """Experts e of one unit that add: up makes (e + 1) · x, down 10 · that; biases are e and 100 e."""
    numbers = torch.arange(1.0, count + 1)[:, None, None]
    found = SimpleNamespace(
        num_experts=count, has_gate=gate, has_bias=bias, is_transposed=transposed, has_post_expert_norm=False,
        up_proj=numbers, down_proj=torch.full((count, 1, 1), 10.0), act_fn=lambda value: value + 0.5,
        up_proj_bias=torch.arange(float(count))[:, None], down_proj_bias=100 * torch.arange(float(count))[:, None],
        post_expert_norm=lambda value: -value,
    )  # fmt: skip
    found.gate_up_proj = torch.cat([numbers, numbers * 0 + 2], 2 if transposed else 1)
    found.gate_up_proj_bias = torch.zeros(count, 2)
    found._apply_gate = lambda raised: raised[:, :1] * raised[:, 1:]
    return found


class Module(nn.Module):
    """Experts that can be a key of actors."""

    def __init__(self, facts: SimpleNamespace) -> None:
        super().__init__()
        self.__dict__.update(vars(facts))


HIDDEN = torch.tensor([[1.0], [2.0]])
INDEX = torch.tensor([[0, 2], [2, 3]])  # 3 is no expert
WEIGHTS = torch.tensor([[0.5, 2.0], [3.0, 7.0]])


@pytest.mark.parametrize("transposed", [False, True])
def test_experts_by_hand(transposed):
    """Token 0: 0.5 · 10 (1 + 0.5) + 2 · 10 (3 + 0.5) = 77.5; token 1: 3 · 10 (6 + 0.5) = 195."""
    plain = Module(experts(transposed=transposed))
    assert compute(plain, HIDDEN, INDEX, WEIGHTS).tolist() == [[77.5], [195.0]]
    biased, gated = [[517.5], [855.0]], [[130.0], [720.0]]
    # biases 2 and 200 of expert 2: 7.5 + 2 (10 (3 + 2.5) + 200) = 517.5; 3 (10 (6 + 2.5) + 200) = 855
    assert compute(Module(experts(bias=True, transposed=transposed)), HIDDEN, INDEX, WEIGHTS).tolist() == biased
    # gates of 2 x: 0.5 · 10 · 1 · 2 + 2 · 10 · 3 · 2 = 130; 3 · 10 · 6 · 4 = 720
    assert compute(Module(experts(gate=True, transposed=transposed)), HIDDEN, INDEX, WEIGHTS).tolist() == gated
    normed = experts()
    normed.has_post_expert_norm = True
    assert compute(Module(normed), HIDDEN, INDEX, WEIGHTS).tolist() == [[-77.5], [-195.0]]
    nobody = torch.full((2, 2), 3)
    assert compute(plain, HIDDEN, nobody, WEIGHTS).tolist() == [[0.0], [0.0]]
    assert _by_expert(plain, "down_proj", torch.zeros(0, 1), [0, 0, 0]).shape == (0, 1)


def test_one_expert_by_itself():
    one = SimpleNamespace(experts=experts(bias=True), count=3)
    assert expert_output(one, 2, HIDDEN).tolist() == [[255.0], [285.0]]  # pyright: ignore[reportArgumentType]
    assert expert_output(one, 0, HIDDEN).tolist() == [[15.0], [25.0]]  # pyright: ignore[reportArgumentType]


def test_batch_and_positions_are_those_of_the_block_that_runs():
    block = nn.Identity()
    shape = PassShape(block)
    block(torch.zeros(2, 3, 4))
    assert shape.of(6) == (2, 3)
    with pytest.raises(AssertionError):
        shape.of(5)
    shape.remove()
    block(torch.zeros(5, 5, 4))
    assert shape.shape == (2, 3)


def test_probabilities_of_experts_by_hand():
    logits = torch.tensor([0.0, 2.0])
    sigmoid = [0.5, 1 / (1 + torch.tensor(-2.0).exp().item())]
    soft = [torch.tensor(2.0).log().item() ** 0.5, torch.tensor(1 + 7.38905609893).log().item() ** 0.5]
    assert probabilities(logits, "sigmoid").tolist() == pytest.approx([one / sum(sigmoid) for one in sigmoid])
    assert probabilities(logits, "sqrtsoftplus").tolist() == pytest.approx([one / sum(soft) for one in soft])
    assert probabilities(logits, "softmax").tolist() == pytest.approx([0.1192029, 0.8807971])
    assert probabilities(logits.bfloat16(), "softmax").dtype == torch.float32
    assert probabilities(logits.double(), "softmax").dtype == torch.float64


@pytest.mark.parametrize("chosen", [1, 2])
@pytest.mark.parametrize("scoring", ["softmax", "sigmoid", "sqrtsoftplus"])
def test_the_scoring_is_the_one_that_gives_the_weights(scoring, chosen):
    logits = torch.randn(20, 5, generator=torch.Generator().manual_seed(0))
    scores = probabilities(logits, scoring)
    weights, index = scores.topk(chosen)
    factor = 3.0 if chosen == 1 else torch.rand(20, 1, generator=torch.Generator().manual_seed(1)) + 1
    if chosen == 1 and scoring != "softmax":
        raw = logits.sigmoid() if scoring == "sigmoid" else nn.functional.softplus(logits).sqrt()
        weights = weights * 0 + raw.gather(1, index)
        assert scoring_of([logits], [index], [weights])[1] is False
        return
    assert scoring_of([logits], [index], [weights * factor]) == (scoring, True)
    assert scoring_of([logits, logits], [index, index], [weights, weights.roll(1, 0)]) == ("softmax", False)


def test_weights_are_given_back_to_a_thousandth():
    p, index = torch.tensor([[0.6, 0.4], [0.5, 0.5]]), torch.tensor([[0, 1], [0, 1]])
    for off, fits in ((0.0009, True), (0.0011, False)):
        assert _reproduces(p, index, torch.tensor([[0.6 + off, 0.4 - off], [2.0, 2.0]])) is fits
        single = torch.tensor([[0.6 * (1 + 2 * off)], [0.6]])
        assert _reproduces(torch.tensor([[0.6, 0.4]] * 2), torch.zeros(2, 1, dtype=torch.long), single) is fits
    # a token without any weight says nothing; an index beyond the experts is the last
    assert _reproduces(p, index, torch.tensor([[0.6, 0.4], [0.0, 0.0]]))
    assert _reproduces(p, torch.tensor([[0, 5], [0, 1]]), torch.tensor([[0.6, 0.4], [1.0, 1.0]]))


def test_only_a_linear_map_onto_experts_is_shown():
    seen: list[int] = []
    value = torch.ones(2, 4)
    with _OntoExperts(3, lambda out: (seen.append(out.shape[-1]), out * 0)[1]):
        for width in (2, 3, 4, 5):
            out = nn.functional.linear(value, torch.ones(width, 4))
            assert bool(out.any()) is (width not in (3, 4))
        assert torch.add(torch.ones(1, 3), 1).any()
    assert seen == [3, 4]


class Group(nn.Module):
    """Experts as the interface leaves them."""

    def __init__(self) -> None:
        super().__init__()
        self.is_concatenated, self.has_gate, self.is_transposed, self.num_experts = True, True, False, 2
        self.down_proj = nn.Parameter(torch.zeros(2, 3, 4))


def block(**parts: nn.Module) -> nn.Module:
    found = nn.Module()
    found.mlp = nn.Module()
    for name, part in parts.items():
        setattr(found.mlp, name, part)
    return found


def test_a_mixture_is_one_group_of_experts_beside_a_router():
    assert mixture_of(block(up=nn.Linear(2, 2)), 0) is None
    one = mixture_of(block(experts=Group(), router=nn.Linear(3, 2)), 4)
    assert one is not None
    assert (one.layer, one.count, one.units, one.width, one.hashed) == (4, 2, 4, 8, False)
    with pytest.raises(UnsupportedModel, match=r"^m: layer 1 has 2 groups of experts, not one$"):
        mixture_of(block(experts=Group(), more=Group(), gate=nn.Linear(3, 2)), 1, "m")
    with pytest.raises(UnsupportedModel, match=r"^the model: no router beside the experts at mlp\.experts of layer 1$"):
        mixture_of(block(experts=Group()), 1)
    told = r"^m: the experts at mlp\.other_experts of layer 1 do not pass through transformers' experts interface"
    with pytest.raises(UnsupportedModel, match=told):
        mixture_of(block(experts=Group(), gate=nn.Linear(3, 2), other_experts=nn.Linear(2, 2)), 1, "m")


def test_shared_and_dense_parts_beside_experts():
    shared, dense = nn.Module(), nn.Module()
    shared.down_proj, dense.w2, dense.up = nn.Linear(5, 3), nn.Linear(6, 3), nn.Linear(3, 6)
    whole = block(experts=Group(), gate=nn.Linear(3, 2), dense=dense, shared_expert=shared)
    whole.self_attn = nn.Module()
    whole.self_attn.c_proj = nn.Linear(3, 3)
    one = mixture_of(whole, 0)
    assert isinstance(one, Mixture)
    assert one.parts == (Part("shared", shared.down_proj, 5), Part("dense", dense.w2, 6))


def test_a_gate_or_a_bias_by_expert_is_no_expert():
    def holding(shape: tuple[int, ...]) -> nn.Module:
        part = nn.Module()
        part.weight = nn.Parameter(torch.zeros(shape))
        return block(shared_expert_gate=part)

    for shape in ((4,), (1, 4)):
        assert _unread_experts(holding(shape), []) is None
    for shape in ((2, 4), (1, 2, 3)):
        assert _unread_experts(holding(shape), []) == "mlp.shared_expert_gate"
        assert _unread_experts(holding(shape), ["mlp"]) is None
        assert _unread_experts(holding(shape), ["ml", "mlp.shared"]) == "mlp.shared_expert_gate"


def test_neurons_of_a_mixture_are_changed_one_part_at_a_time():
    one = mixture("qwen2_moe")
    widths: list[tuple[int, ...]] = []
    with edit(one, {Site("neurons", 1): lambda value: (widths.append(tuple(value.shape)), value)[1]}):
        with torch.inference_mode():
            one.trunk(torch.tensor([[4, 5, 6]]))
    assert widths == [(1, 3, one.widths[1])] * 2
