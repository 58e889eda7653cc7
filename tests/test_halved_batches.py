"""A batch that does not fit in memory is done again in halves: what it had added up before must not count twice."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager

import pytest
import torch

from babelscope.latent import tuned
from babelscope.models import Model, require
from babelscope.regions.perplexity import cut_windows
from babelscope.regions.relevance import relevance
from babelscope.steering.moments import collect
from tests.region_data import corpus, texts
from tests.tiny_models import tiny_model, tiny_tokenizer


@contextmanager
def full_once(monkeypatch: pytest.MonkeyPatch, place: int):
    """Inside, memory runs out once, when a tensor is turned into float64 for the `place`th time."""
    own, calls = torch.Tensor.double, [0]

    def double(self: torch.Tensor) -> torch.Tensor:
        calls[0] += 1
        if calls[0] == place:
            raise torch.OutOfMemoryError("full")
        return own(self)

    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "double", double)
        yield
    assert calls[0] > place


def model() -> Model:
    return Model(tiny_model("llama"), tiny_tokenizer(), id="tiny")


def moments(one: Model) -> list[torch.Tensor]:
    found = collect(one, corpus(2, 6), "tokens")
    return [found.sums, found.counts, found.norms]


def relevances(one: Model) -> list[torch.Tensor]:
    return [relevance(one, cut_windows(one, texts(1)["en"], 16, limit=6))]


@pytest.mark.parametrize("measure", [moments, relevances])
@pytest.mark.parametrize("place", [1, 3])
def test_sums_of_a_batch_that_is_halved_are_those_of_one_that_is_not(monkeypatch, measure, place):
    one = model()
    expected = measure(one)
    with full_once(monkeypatch, place):
        found = measure(one)
    for value, wanted in zip(found, expected, strict=True):
        assert value.numpy() == pytest.approx(wanted.numpy(), rel=1e-5, abs=1e-6)


def test_what_is_added_up_of_positions_is_never_done_again():
    one, windows = model(), [[4, 5, 6], [7, 8, 9]]

    def counting(into: list[int], fail: bool) -> Callable[[list[torch.Tensor]], None]:
        def work(values: list[torch.Tensor]) -> None:
            into.append(len(values[0]))
            if fail:
                raise torch.OutOfMemoryError("full")

        return work

    seen: list[int] = []
    tuned.over_positions(one, windows, counting(seen, False))
    assert sum(seen) == 6
    with pytest.raises(torch.OutOfMemoryError):
        tuned.over_positions(one, windows, counting(seen := [], True))
    assert len(seen) == 1


def test_positions_of_a_pass_that_is_halved_are_all_read_once(monkeypatch):
    one, windows = model(), [[4, 5, 6], [7, 8, 9]]
    require(one, "regions")
    own, asked, done, seen = one.trunk, [], [], []

    def trunk(ids: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        asked.append(len(ids))
        if len(ids) > 1:
            raise torch.OutOfMemoryError("full")
        return own(ids, *rest)

    monkeypatch.setattr(one, "trunk", trunk)
    tuned.over_positions(one, windows, lambda values: seen.append(len(values[0])), done.append)
    assert (asked, seen, done) == ([2, 1, 1], [3, 3], [1, 1])
