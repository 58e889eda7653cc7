"""Routing recorded beside the neurons, in the same pass: probabilities and choices of every sentence, padding left out.

B batch · T position · M layer that is a mixture · E expert · K experts of a token
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from babelscope.corpora import ParallelCorpus
from babelscope.errors import InputError
from babelscope.models import Batch, Model, Site, capture, over_batches, require
from babelscope.models.experts import attach
from babelscope.models.model import SpecialTokens
from babelscope.models.routers import Scoring, attach_router, probabilities, scoring_of
from babelscope.regions.routed import Routing

Passed = Mapping[int, tuple[Tensor, Tensor]]
"""sums of probabilities and of choices by row of a batch, of each mixture by its place"""


class RoutingTally:
    """Sums of routing by sentence; `watch` a pass with the weight of every token, then `store` it by its rows."""

    def __init__(self, model: Model, sentences: int) -> None:
        self.model, self.layers = model, list(model.mixtures)
        scoring: tuple[Scoring, bool] = router_scoring(model)
        self.scoring: Scoring = scoring[0]
        self.reproduced = scoring[1]
        self.per_token = 0
        widths = router_widths(model)
        self.experts = tuple(widths)
        shape = (sentences, len(self.layers), max(widths))
        self.probabilities, self.choices = torch.zeros(shape), torch.zeros(shape)
        self.tokens = torch.zeros(sentences, dtype=torch.long)
        self.passed: Passed = {}
        """of the last pass that was watched"""

    @contextmanager
    def watch(self, weights: Float[Tensor, "B T"]) -> Generator[None]:
        """Inside, one pass is read; `weights` are 1 for tokens that count and 0 for all others."""
        passed: dict[int, tuple[Tensor, Tensor]] = {}
        self.passed = passed
        p: dict[int, Tensor] = {}

        def read(place: int, logits: Tensor) -> Tensor:
            values = probabilities(logits, self.scoring)
            p[place] = torch.einsum("bte,bt->be", values, weights.to(values)).cpu().float()
            return logits

        def count(place: int, index: Tensor, routing: Tensor) -> tuple[Tensor, Tensor]:
            self.per_token = max(self.per_token, index.shape[1])
            experts = self.model.mixtures[self.layers[place]].count
            counted = chosen(index, routing, weights, experts, skip=self.experts[place] > experts)
            passed[place] = (p[place], counted.cpu())
            return index, routing

        with ExitStack() as stack:
            for place, layer in enumerate(self.layers):
                mixture = self.model.mixtures[layer]
                stack.callback(attach_router(mixture, partial(read, place), replaces=False).remove)
                stack.callback(attach(mixture, choose=partial(count, place)).remove)
            yield

    def store(self, rows: Sequence[int], counts: Int[Tensor, " B"], passed: Passed | None = None) -> None:
        """Keep what a pass held (the last one, unless given), as means over each sentence's tokens."""
        for place, (p, counted) in (self.passed if passed is None else passed).items():
            self.probabilities[list(rows), place, : p.shape[1]] = p / counts[:, None]
            self.choices[list(rows), place, : counted.shape[1]] = counted / counts[:, None]
        self.tokens[list(rows)] = counts

    def finish(self, languages: tuple[str, ...], ids: tuple[str, ...]) -> Routing:
        """Routing of all sentences, rows being language-major."""
        shape = (len(languages), len(ids))
        return Routing(
            languages=languages,
            ids=ids,
            layers=tuple(self.layers),
            probabilities=self.probabilities.unflatten(0, shape),
            choices=self.choices.unflatten(0, shape),
            tokens=self.tokens.unflatten(0, shape),
            experts=self.experts,
            units=tuple(self.model.mixtures[layer].units for layer in self.layers),
            routed_experts=tuple(self.model.mixtures[layer].count for layer in self.layers),
            per_token=self.per_token,
            hashed=tuple(layer for layer in self.layers if self.model.mixtures[layer].hashed),
            scoring=self.scoring,
            reproduced=self.reproduced,
        )


def chosen(
    index: Int[Tensor, "tokens K"],
    routing: Float[Tensor, "tokens K"],
    weights: Float[Tensor, "B T"],
    experts: int,
    skip: bool = False,
) -> Float[Tensor, "B classes"]:
    """How many of each sentence's tokens every expert was given; with `skip`, the last class are tokens given to none.

    A router with a skip class (Zaya) reports it as expert 0 at weight 0.
    """
    named = index.masked_fill((routing == 0) & (index == 0), experts) if skip else index
    grid = weights.new_zeros(weights.numel(), experts + skip)
    grid.scatter_add_(1, named, torch.ones_like(named, dtype=grid.dtype))
    return torch.einsum("bte,bt->be", grid.unflatten(0, weights.shape), weights).float()


def record_routing(
    model: Model,
    corpus: ParallelCorpus,
    special: SpecialTokens = "none",
    budget: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Routing:
    """Routing alone of every sentence of a parallel corpus; `record` gives it beside the neurons.

    Raises InputError for a model without mixtures of experts.

    >>> record_routing(model, corpus.sample(100, seed=0)).language_choices().shape     # doctest: +SKIP
    (9, 6, 8)
    """
    if not model.mixtures:
        raise InputError(f"{model.id} has no mixture of experts: there is no routing to record")
    require(model, "regions")
    sequences = [
        ids
        for code in corpus.languages
        for ids in model.tokenize(corpus.texts[code], special, [f"sentence {id} ({code})" for id in corpus.ids])
    ]
    tally = RoutingTally(model, len(sequences))
    before, after = model.special_ends(special)
    if after:
        raise InputError("routing is recorded without the tokenizer's own special tokens: use none or bos")

    def add(batch: Batch) -> None:
        weights = batch.mask.float()
        weights[:, :before] = 0
        with tally.watch(weights):
            model.trunk(batch.ids, batch.mask)
        tally.store(batch.rows, weights.sum(1).long().cpu())

    with torch.inference_mode():
        over_batches(sequences, add, model.device, budget, progress)
    return tally.finish(corpus.languages, corpus.ids)


def router_scoring(model: Model) -> tuple[Scoring, bool]:
    """How a model's routers make probabilities of logits, from a pass over a few tokens; False: softmax is assumed."""
    index: list[Tensor] = []
    weights: list[Tensor] = []

    def note(chosen_experts: Tensor, routing: Tensor) -> tuple[Tensor, Tensor]:
        index.append(chosen_experts)
        weights.append(routing)
        return chosen_experts, routing

    with ExitStack() as stack, _few_tokens(model) as (ids, seen):
        for mixture in model.mixtures.values():
            stack.callback(attach(mixture, choose=note).remove)
        model.trunk(ids)
    logits = [seen[Site("router", layer)].flatten(0, 1) for layer in model.mixtures]
    return scoring_of(logits, index, weights)


def router_widths(model: Model) -> list[int]:
    """Classes of each router: E, or one more where tokens may skip all experts."""
    with _few_tokens(model) as (ids, seen):
        model.trunk(ids)
    return [int(seen[Site("router", layer)].shape[-1]) for layer in model.mixtures]


@contextmanager
def _few_tokens(model: Model) -> Generator[tuple[Tensor, dict[Site, Tensor]]]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, model.vocabulary, (2, 9), generator=generator).to(model.device)
    with torch.inference_mode(), capture(model, [Site("router", layer) for layer in model.mixtures]) as seen:
        yield ids, seen
