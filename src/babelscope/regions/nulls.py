"""What region sizes and alignment scores chance alone would give: labels permuted, everything else kept.

z discards effect size, so pure noise puts many neurons above any cut-off. Here the language labels of each sentence are
shuffled B times and all scores computed anew, from one stored recording.

How: a permuted language's Σx is a sum of n rows of the recording, one per sentence. Rows of two sentences at a time are
added up beforehand for all L² pairs of languages, so that a draw looks up n/2 rows (one `embedding_bag`). Cost: B · L ·
n/2 · 2D additions, 4.5e11 at B = 1000, L = 9, n = 100, D = 500 000, where label-indicator matrices times the recording
take 1.6e13 operations for the same sums; memory is independent of D but for the p-values themselves.

B draw · L language · n sentence · D neuron · C neurons of a chunk
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from babelscope.errors import InputError
from babelscope.regions.localisation import reachable
from babelscope.regions.recording import NEURON_CHUNK, Recording
from babelscope.regions.similarity import Means
from babelscope.stats import Interval, documents_why, group_items, no_interval, percentile, t_ends

CHUNK = 128
"""neurons at a time: their table of row pairs stays in the processor's cache"""
CHUNK_ON_GPU = 4096
"""the same where memory is far from the cache, and many threads wait for work"""
DRAWS_AT_ONCE = 64


@dataclass(frozen=True)
class ScoreNull:
    """Region sizes and p-values under permuted language labels."""

    languages: tuple[str, ...]
    observed: Int[Tensor, " L"]
    """neurons with z above the threshold, unpermuted"""
    sizes: Int[Tensor, "B L"]
    """the same in every draw"""
    p: Float[Tensor, "L D"]
    """of z: share of (draw, language) pairs, the observed ones counted in, whose z reaches the observed z"""
    p_effect: Float[Tensor, "L D"]
    """the same of score − mean over languages, which keeps effect size; regions made of it may overlap"""
    threshold: float

    @property
    def draws(self) -> int:
        return len(self.sizes)

    @property
    def sklr(self) -> int:
        return int(self.observed.sum())

    @property
    def sklr_null(self) -> Int[Tensor, " B"]:
        return self.sizes.sum(1)

    @property
    def excess(self) -> float:
        """Excess SKLR: observed minus the mean of the draws."""
        return self.sklr - float(self.sklr_null.double().mean())

    @property
    def null_ends(self) -> tuple[float, float]:
        """Middle 95 % of the draws' SKLR: what chance gives, not an interval of the estimate."""
        return percentile(self.sklr_null.double().numpy())

    @property
    def p_sklr(self) -> float:
        """Share of draws, the observed one counted in, whose SKLR reaches the observed."""
        return reached(self.sklr, self.sklr_null.double())


def score_null(
    recording: Recording,
    draws: int = 1000,
    threshold: float = 2.0,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
    device: torch.device | str = "cpu",
) -> ScoreNull:
    """Permute language labels within each document, `draws` times; `progress` is told of neurons done.

    `device`: where the draws are added up; the permutations are the same on every one.

    All sentences of a document are given the same permutation of languages, since they are not exchangeable one by one.

    p-values pool the L languages of every draw: relabelling the languages of a draw gives a draw of equal probability,
    so under the null the observed z of a language is one of (B + 1) · L exchangeable values and its rank is uniform
    (super-uniform with ties). The smallest p is 1 / ((B + 1) · L). Sums in float32, of values centred and scaled by
    neuron, which leaves z as it is. A threshold that z cannot reach leaves sizes of 0, and the p-values as they
    are. Raises InputError with fewer than two sentences or one draw.

    >>> null = score_null(recording, draws=200)                        # doctest: +SKIP
    >>> null.excess, null.null_ends                                    # doctest: +SKIP
    (611.2, (1312.0, 1397.1))
    """
    languages = len(recording.languages)
    rows = _rows(_drawn(recording, draws, seed)).to(device)
    bound = reachable(threshold, languages)
    width = CHUNK if rows.device.type == "cpu" else CHUNK_ON_GPU
    observed = torch.zeros(languages, dtype=torch.long)
    sizes = torch.zeros(draws, languages, dtype=torch.long)
    p, p_effect = (torch.empty(languages, recording.neurons) for _ in range(2))
    norms = recording.norms()[..., None]
    # wide blocks are read from the disk, narrow ones worked on
    for block in recording.chunks(NEURON_CHUNK):
        x = recording.values(block).double() / norms
        for start in range(0, x.shape[-1], width):
            part = x[..., start : start + width]
            own, found, counts, counts_effect = (made.cpu() for made in _chunk(part.to(device), rows, bound))
            columns = slice(block.start + start, block.start + start + part.shape[-1])
            observed += own
            sizes += found
            p[:, columns], p_effect[:, columns] = counts, counts_effect
        if progress:
            progress(x.shape[-1])
    total = (draws + 1) * languages
    return ScoreNull(recording.languages, observed, sizes, p / total, p_effect / total, threshold)


def excess_sklr(recording: Recording, draws: int, threshold: float = 2.0, seed: int = 0) -> float:
    """`score_null(…).excess` by the same draws, without the p-values, which take a third of the time.

    Raises InputError with fewer than two sentences or one draw.
    """
    rows = _rows(_drawn(recording, draws, seed))
    bound = reachable(threshold, len(recording.languages))
    observed, permuted = 0, 0
    for _, x in recording.unit_chunks():
        for part in x.split(CHUNK, dim=-1):
            table, (own, _) = _permutable(part)
            observed += int((own[0] > bound).sum())
            permuted += sum(int((_statistics(some, table)[0] > bound).sum()) for some in rows.split(DRAWS_AT_ONCE))
    return observed - permuted / draws


def _drawn(recording: Recording, draws: int, seed: int) -> Int[Tensor, "B n L"]:
    languages, sentences = len(recording.languages), len(recording.ids)
    if sentences < 2 or draws < 1:
        raise InputError(f"a null needs two sentences and one draw; there are {sentences} and {draws}")
    return permutations(draws, sentences, languages, seed, owners(recording.documents))


def permutations(
    draws: int, sentences: int, languages: int, seed: int, documents: Int[Tensor, " n"] | None = None
) -> Int[Tensor, "B n L"]:
    """For each draw and sentence, which language's text each label is given; the same within a document."""
    generator = torch.Generator().manual_seed(seed)
    if documents is None:
        return torch.rand(draws, sentences, languages, generator=generator).argsort(-1)
    count = int(documents.max()) + 1
    return torch.rand(draws, count, languages, generator=generator).argsort(-1)[:, documents]


def owners(documents: tuple[str, ...]) -> Int[Tensor, " n"] | None:
    """Number of each sentence's document; None where sentences are taken as independent."""
    return torch.from_numpy(group_items(documents, len(documents))) if documents else None


def excess_interval(null: ScoreNull, resampled: Int[Tensor, " R"], documents: int) -> Interval:
    """Excess SKLR ± t(G−1) · √(Var of SKLR over document bootstraps + Var(null)/B), the null's mean held fixed.

    `resampled`: SKLR of bootstraps of documents (stability.bootstrap_regions). NaN of one document.
    """
    if documents < 2:
        return no_interval(null.excess, documents_why(documents), EXCESS)
    variance = float(resampled.double().var()) + float(null.sklr_null.double().var()) / null.draws
    low, high = t_ends(null.excess, variance**0.5, documents - 1)
    return Interval(null.excess, float(low), float(high), EXCESS, documents_why(documents))


EXCESS = "document bootstrap and null, t"


def _rows(permuted: Int[Tensor, "B n L"]) -> Int[Tensor, "B L pairs"]:
    """Rows of the table of sentence pairs that make up each permuted language."""
    draws, sentences, languages = permuted.shape
    if sentences % 2:
        permuted = torch.cat([permuted, torch.zeros(draws, 1, languages, dtype=torch.long)], dim=1)
    first, second = permuted[:, 0::2], permuted[:, 1::2]
    pair = torch.arange(first.shape[1])[:, None]
    return ((pair * languages + first) * languages + second).transpose(1, 2).int().contiguous()


def _chunk(
    x: Float[Tensor, "L n C"], rows: Int[Tensor, "B L pairs"], threshold: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Observed sizes [L], null sizes [B, L], and how many values reach each observed z and effect [L, C]."""
    table, (z, effect) = _permutable(x)
    own = (z[0] > threshold).sum(1)
    # the observed values are counted among those that reach them
    counts, counts_effect = _reaching(z, z[0]), _reaching(effect, effect[0])
    sizes: list[Tensor] = []
    for some in rows.split(DRAWS_AT_ONCE):
        null_z, null_effect = _statistics(some, table)
        sizes.append((null_z > threshold).sum(2))
        counts += _reaching(null_z, z[0])
        counts_effect += _reaching(null_effect, effect[0])
    return own, torch.cat(sizes), counts, counts_effect


def _permutable(x: Float[Tensor, "L n C"]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """The table of row pairs, and z and effect of the labels as they are."""
    table = _pair_table(_terms(x))
    identity = torch.arange(len(x)).expand(1, x.shape[1], len(x))
    return table, _statistics(_rows(identity).to(x.device), table)


def _terms(x: Float[Tensor, "L n C"]) -> Float[Tensor, "L n 2*C"]:
    """d and y with (Σd)² + Σy = a · ((Σx)² − Σx²) + b, a > 0: d = (x − m)/σ, y = 2(n−1)(m/σ) d − d²."""
    spread, mean = torch.std_mean(x, dim=(0, 1), correction=0, keepdim=True)
    silent = spread <= 1e-12 * mean.abs()
    d = ((x - mean) / spread).masked_fill(silent, 0)
    y = 2 * (x.shape[1] - 1) * (mean / spread).masked_fill(silent, 0) * d - d.square()
    return torch.cat([d, y], dim=-1).float()


def _pair_table(terms: Float[Tensor, "L n W"]) -> Float[Tensor, "rows W"]:
    """Sums of the rows of sentences 2i and 2i + 1 for every pair of languages, [n/2 · L · L, W]."""
    if terms.shape[1] % 2:
        terms = torch.cat([terms, torch.zeros_like(terms[:, :1])], dim=1)
    first, second = terms[:, 0::2].transpose(0, 1), terms[:, 1::2].transpose(0, 1)
    return (first[:, :, None] + second[:, None]).reshape(-1, terms.shape[-1])


def _statistics(rows: Int[Tensor, "b L pairs"], table: Float[Tensor, "rows W"]) -> tuple[Tensor, Tensor]:
    """z and score − mean (in units of each neuron's own), [b, L, C]; −∞ and 0 where a neuron does not vary."""
    draws, languages, pairs = rows.shape
    sums = torch.nn.functional.embedding_bag(rows.reshape(-1, pairs), table, mode="sum")
    first, second = sums.reshape(draws, languages, -1).chunk(2, dim=-1)
    score = torch.addcmul(second, first, first)
    effect = score - score.mean(1, keepdim=True)
    variance = effect.square().mean(1, keepdim=True)
    # float32 sums: what is left of terms that cancel is no spread
    size = first.square().square().mean(1, keepdim=True) + second.square().mean(1, keepdim=True)
    constant = variance <= 1e-10 * size
    return (effect * variance.rsqrt()).masked_fill_(constant, -torch.inf), effect.masked_fill_(constant, 0)


def _reaching(values: Float[Tensor, "b L C"], observed: Float[Tensor, "L C"]) -> Int[Tensor, "L C"]:
    # a hair below, so that equal values computed in another order of addition count as equal
    bound = observed - 1e-5 * observed.abs().nan_to_num(posinf=0)
    return torch.stack([(values >= one).view(torch.uint8).sum((0, 1), dtype=torch.int32) for one in bound])


def label_null(
    similarity: Float[Tensor, "L n L n"], draws: int = 1000, seed: int = 0, documents: tuple[str, ...] = ()
) -> Means:
    """A, B and C with language labels shuffled within each document (LRDS → 0; B stays), one entry per draw.

    O(draws · L · n²) from the similarity map.
    """
    languages, sentences = similarity.shape[:2]
    flat = similarity.reshape(languages * sentences, -1)
    permuted = permutations(draws, sentences, languages, seed, owners(documents))
    items = (permuted * sentences + torch.arange(sentences)[:, None]).transpose(1, 2)
    by_language = torch.stack([flat[one[:, :, None], one[:, None]].sum() for one in items])
    by_sentence = similarity.diagonal(dim1=1, dim2=3).sum().expand(draws)
    return _means(flat, by_language, by_sentence, languages, sentences)


def sentence_null(similarity: Float[Tensor, "L n L n"], draws: int = 1000, seed: int = 0) -> Means:
    """A, B and C with sentence ids shuffled within each language (SADS → 0; A stays), one entry per draw.

    O(draws · n · L²) from the similarity map.
    """
    languages, sentences = similarity.shape[:2]
    flat = similarity.reshape(languages * sentences, -1)
    permuted = permutations(draws, languages, sentences, seed)
    items = (torch.arange(languages)[:, None] * sentences + permuted).transpose(1, 2)
    by_sentence = torch.stack([flat[one[:, :, None], one[:, None]].sum() for one in items])
    by_language = similarity.diagonal(dim1=0, dim2=2).sum().expand(draws)
    return _means(flat, by_language, by_sentence, languages, sentences)


def _means(flat: Tensor, by_language: Tensor, by_sentence: Tensor, languages: int, sentences: int) -> Means:
    own, total = flat.diagonal().sum(), flat.sum()
    across = languages * sentences * (languages - 1) * (sentences - 1)
    return Means(
        (by_language - own) / (languages * sentences * (sentences - 1)),
        (by_sentence - own) / (sentences * languages * (languages - 1)),
        (total - by_language - by_sentence + own) / across,
    )


def reached(observed: float, draws: Float[Tensor, " B"]) -> float:
    """p-value of one number: (1 + draws at or above it) / (B + 1)."""
    return (1 + int((draws >= observed).sum())) / (len(draws) + 1)
