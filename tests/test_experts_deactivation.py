"""Whole experts switched off: by hook as by weights, in three ways; what is counted, what is refused."""

from __future__ import annotations

import pytest
import torch

from babelscope.errors import EditNeverFired, InputError
from babelscope.models import Site, capture, edit
from babelscope.models.experts import attached_anywhere
from babelscope.regions.expert_deactivation import WAYS, matched_experts, without_experts

from .tiny_mixtures import EXPERTS, MIXTURES, mixture

IDS = torch.randint(4, 90, (2, 9), generator=torch.Generator().manual_seed(0))


def used(name: str, layer: int) -> list[int]:
    """Experts of a layer by how many tokens they have, the most first."""
    model = mixture(name)
    one = model.mixtures[layer]
    with torch.inference_mode(), capture(model, [Site("neurons", layer)]) as seen:
        model.trunk(IDS)
    active = [int(seen[Site("neurons", layer)][..., one.expert(expert)].any(-1).sum()) for expert in range(one.count)]
    return sorted(range(one.count), key=lambda expert: -active[expert])


@pytest.mark.parametrize("name", MIXTURES)
@torch.inference_mode()
def test_dropping_an_expert_is_zeroing_its_neurons(name: str):
    """… and its output weights; where it has an output bias, dropping it takes that too."""
    model = mixture(name)
    layer = max(model.mixtures)
    one, expert = model.mixtures[layer], used(name, layer)[0]
    columns = torch.zeros(one.width, dtype=torch.bool)
    columns[one.expert(expert)] = True
    with without_experts(model, {layer: [expert]}) as told:
        dropped = model.trunk(IDS)
    with edit(model, {Site("neurons", layer): lambda h: h.masked_fill(columns, 0)}):
        zeroed = model.trunk(IDS)
    assert told.passes == 1
    assert not torch.allclose(dropped, model.trunk(IDS), atol=1e-4)
    if one.experts.has_bias:
        assert not torch.allclose(dropped, zeroed, atol=1e-4)
    else:
        torch.testing.assert_close(dropped, zeroed, atol=1e-5, rtol=1e-5)
    assert attached_anywhere() == 0


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["mixtral", "glm4_moe", "gpt_oss", "qwen2_moe", "minimax_m2"])
@torch.inference_mode()
def test_no_token_uses_what_is_off(name: str, way: str):
    model = mixture(name)
    layer = max(model.mixtures)
    one, off = model.mixtures[layer], used(name, layer)[:2]
    weights: list[torch.Tensor] = []
    with without_experts(model, {layer: off}, way) as told:  # type: ignore[arg-type]
        from babelscope.models.experts import attach

        handle = attach(one, choose=lambda index, routing: (weights.append((index, routing)), (index, routing))[1])  # type: ignore[func-returns-value,arg-type]
        model.trunk(IDS)
        handle.remove()
    index, routing = weights[0]
    assert not bool(((index == off[0]) | (index == off[1]))[routing != 0].any())
    assert told.still_used == 0


@torch.inference_mode()
def test_renormalised_weights_keep_their_sum():
    from babelscope.models.experts import attach

    model = mixture("mixtral")
    off = used("mixtral", 1)[0]
    sums: dict[str, torch.Tensor] = {}
    for way in ("drop", "drop-renormalised"):
        with without_experts(model, {1: [off]}, way) as told:

            def note(index: torch.Tensor, routing: torch.Tensor, way: str = way) -> tuple[torch.Tensor, torch.Tensor]:
                sums[way] = routing.sum(1)
                return index, routing

            handle = attach(model.mixtures[1], choose=note)
            model.trunk(IDS)
            handle.remove()
        assert told.without_expert == 0
    assert float(sums["drop"].min()) < 0.99
    torch.testing.assert_close(sums["drop-renormalised"], torch.ones(18))


@torch.inference_mode()
def test_tokens_without_any_expert_are_counted():
    model = mixture("mixtral")
    off = used("mixtral", 1)[:4]
    with without_experts(model, {1: off}, "drop-renormalised") as told:
        model.trunk(IDS)
    assert told.without_expert > 0


def test_impossible_deactivations_are_refused():
    model = mixture("glm4_moe")
    for experts, message in (
        ({0: [1]}, "no mixture"),
        ({1: [99]}, "experts 0 to 5"),
        ({1: range(EXPERTS)}, "cannot be off"),
    ):
        with pytest.raises(InputError, match=message), without_experts(model, experts):
            pass
    with pytest.raises(InputError, match="no way"), without_experts(model, {1: [0]}, "burn"):  # type: ignore[arg-type]
        pass
    with pytest.raises(EditNeverFired), without_experts(model, {1: [0]}):
        pass
    with pytest.raises(EditNeverFired), without_experts(model, {1: [0]}, "reroute"):
        pass


@torch.inference_mode()
def test_generation_goes_on_without_experts():
    model = mixture("mixtral")
    plain = model.hf.generate(input_ids=IDS[:1], max_new_tokens=5, do_sample=False)
    for way in WAYS:
        with without_experts(model, {1: [used("mixtral", 1)[0]], 2: [0]}, way) as told:
            model.hf.generate(input_ids=IDS[:1], max_new_tokens=5, do_sample=False)
        assert told.passes >= 5
    assert torch.equal(plain, model.hf.generate(input_ids=IDS[:1], max_new_tokens=5, do_sample=False))


def test_matched_experts_are_others_of_like_use():
    f = torch.tensor([[0.5, 0.49, 0.48, 0.47, 0.03, 0.03]])
    for drawn in matched_experts(f, 0, [0], draws=20):
        assert len(drawn) == 1
        assert drawn[0] in (1, 2, 3)
    assert {drawn[0] for drawn in matched_experts(f, 0, [0], draws=60)} == {1, 2, 3}
    assert matched_experts(f[:, :2], 0, [0], draws=1) == [[1]]  # there is but one other
    assert all(set(drawn).isdisjoint({0, 1}) and len(set(drawn)) == 2 for drawn in matched_experts(f, 0, [0, 1], 20))
