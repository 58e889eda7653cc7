"""What directions are fitted on: mean states of parallel sentences by language, document and layer (steering.md, 2).

h_l enters block l, l = 0 … P; h_P enters the final norm. The first token of a sentence is left out: its activation is
that of a position, not of a language.

L language · G document · E layer that is entered, the final norm last (P + 1) · D model width · n token
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from babelscope.corpora import ParallelCorpus
from babelscope.errors import InputError
from babelscope.models import Batch, Model, Site, capture, over_batches, require
from babelscope.models.stream_checks import require_stream
from babelscope.terms import Weighting


@dataclass(frozen=True, eq=False)
class Moments:
    """Sums of states over the sentences (or tokens) of each language and document."""

    languages: tuple[str, ...]
    documents: tuple[str, ...]
    sums: Float[Tensor, "L G E D"]
    """float64; of sentence means, or of tokens"""
    counts: Float[Tensor, "L G"]
    norms: Float[Tensor, " E"]
    """mean length of a token's state"""

    @property
    def layers(self) -> int:
        """Layers, the one before the final norm included."""
        return self.sums.shape[2]

    def index(self, code: str) -> int:
        """Raises InputError for a language that is not there."""
        if code not in self.languages:
            raise InputError(f"no states of {code!r}; there are {', '.join(self.languages)}")
        return self.languages.index(code)

    def mean(self, code: str) -> Float[Tensor, "E D"]:
        """m_c, the mean state of a language in every layer."""
        place = self.index(code)
        return self.sums[place].sum(0) / self.counts[place].sum()

    def means(self) -> Float[Tensor, "L E D"]:
        return self.sums.sum(1) / self.counts.sum(1)[:, None, None]

    def document_means(self, code: str) -> Float[Tensor, "G E D"]:
        place = self.index(code)
        return self.sums[place] / self.counts[place][:, None, None]

    def only(self, documents: Sequence[str]) -> Moments:
        """The moments of some documents."""
        rows = [self.documents.index(one) for one in documents]
        return replace(self, documents=tuple(documents), sums=self.sums[:, rows], counts=self.counts[:, rows])

    def swapped(self, source: str, target: str, coins: Sequence[bool]) -> Moments:
        """The labels of two languages exchanged in the documents whose coin fell on True."""
        one, other = self.index(source), self.index(target)
        sums, counts = self.sums.clone(), self.counts.clone()
        rows = [place for place, coin in enumerate(coins) if coin]
        sums[one, rows], sums[other, rows] = self.sums[other, rows], self.sums[one, rows]
        counts[one, rows], counts[other, rows] = self.counts[other, rows], self.counts[one, rows]
        return replace(self, sums=sums, counts=counts)


def collect(
    model: Model,
    corpus: ParallelCorpus,
    weighting: Weighting = "sentences",
    budget: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Moments:
    """Read the residual stream of every sentence in every layer.

    Raises InputError when a language has a sentence of one token in every document.

    >>> moments = collect(model, corpus)                               # doctest: +SKIP
    """
    require(model, "regions")
    require_stream(model)
    names = tuple(dict.fromkeys(corpus.groups.get(one, one) for one in corpus.ids))
    owner = {sentence: names.index(corpus.groups.get(sentence, sentence)) for sentence in corpus.ids}
    sites = [Site("residual", layer) for layer in range(model.layers + 1)]
    shape = (len(corpus.languages), len(names), len(sites))
    sums = torch.zeros(*shape, model.width, dtype=torch.float64)
    counts = torch.zeros(*shape[:2], dtype=torch.float64)
    lengths, tokens = torch.zeros(len(sites), dtype=torch.float64), 0
    sequences = [model.tokenize(corpus.texts[code]) for code in corpus.languages]
    # a sentence of one token in one language leaves all of them, so that means stay of the same sentences
    kept = [place for place in range(len(corpus)) if all(len(rows[place]) > 1 for rows in sequences)]
    jobs = [(code, place) for code in range(len(sequences)) for place in kept]

    def work(batch: Batch) -> None:
        nonlocal tokens, lengths
        with capture(model, sites) as seen:
            model.trunk(batch.ids, batch.mask)
        used = batch.mask.bool()
        used[:, 0] = False
        each = used.sum(1).cpu()
        codes = torch.tensor([jobs[row][0] for row in batch.rows])
        places = torch.tensor([owner[corpus.ids[jobs[row][1]]] for row in batch.rows])
        totals: list[Tensor] = []
        norms: list[float] = []
        for site in sites:
            state = seen[site].double() * used[..., None].to(seen[site].device)
            totals.append(state.sum(1).cpu())
            norms.append(float(state.norm(dim=-1).sum()))
        # only now: a batch that does not fit in memory is done again in halves
        tokens += int(each.sum())
        lengths = lengths + torch.tensor(norms, dtype=torch.float64)
        for layer, total in enumerate(totals):
            sums[:, :, layer].index_put_(
                (codes, places), total / each[:, None] if weighting == "sentences" else total, accumulate=True
            )
        weight = torch.ones(len(batch.rows), dtype=torch.float64) if weighting == "sentences" else each.double()
        counts.index_put_((codes, places), weight, accumulate=True)
        if progress:
            progress(len(batch.rows))

    with torch.inference_mode():
        over_batches([sequences[code][place] for code, place in jobs], work, model.device, budget)
    full = [place for place in range(len(names)) if bool((counts[:, place] > 0).all())]
    if not full:
        raise InputError(f"{corpus.spec}: no sentence has two tokens in every language")
    return Moments(
        tuple(corpus.languages), tuple(names[place] for place in full), sums[:, full], counts[:, full],
        lengths / max(tokens, 1),
    )  # fmt: skip


def collect_tokens(
    model: Model, sentences: Sequence[str], layer: int, limit: int = 4000, budget: int | None = None
) -> Float[Tensor, "n D"]:
    """States of single tokens at one layer, first ones left out; at most `limit`, spread evenly over the sentences."""
    require(model, "regions")
    rows = [ids for ids in model.tokenize(sentences) if len(ids) > 1]
    found: dict[int, Tensor] = {}
    site = Site("residual", layer)

    def work(batch: Batch) -> None:
        with capture(model, [site]) as seen:
            model.trunk(batch.ids, batch.mask)
        for place, row in enumerate(batch.rows):
            found[row] = seen[site][place, 1 : int(batch.lengths[place])].float().cpu()

    with torch.inference_mode():
        over_batches(rows, work, model.device, budget)
    states = torch.cat([found[row] for row in range(len(rows))])
    if len(states) <= limit:
        return states
    return states[torch.linspace(0, len(states) - 1, limit).long()]
