"""Intervals, tests and correlations of the whole package: one definition each.

What cannot be computed is NaN with its reason in `why`: never 0, never an interval of width 0. Groups are documents:
sentences of one document are not independent, so whole documents are left out or drawn.

G group (document) · n item
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import ArrayLike, NDArray

from babelscope.errors import InputError

Array = NDArray[np.float64]
NAN = float("nan")
MOST_GROUPS = 40
"""of documents left out in turn; more are put together"""
FEW_DOCUMENTS, TOLD_DOCUMENTS = 5, 10
"""below these, no bootstrap over documents is made; an interval over them is marked"""


@dataclass(frozen=True)
class Interval:
    """A value with the ends of its 95 % interval."""

    value: float
    low: float
    high: float
    method: str = ""
    """how the interval was made: column `interval`"""
    why: str = ""
    """why there is none, or what limits it"""

    def columns(self, name: str) -> dict[str, float | str]:
        """The interval as columns of a table: `name`, `name_low`, `name_high`, `interval`, `why`."""
        ends = {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high}
        return {**ends, "interval": self.method, "why": self.why}


def no_interval(value: float, why: str, method: str = "") -> Interval:
    """A value whose interval cannot be computed."""
    return Interval(value, NAN, NAN, method, why)


# -- proportions, selection, correlation -------------------------------------------------------------------------------


def wilson(successes: float, trials: float) -> Interval:
    """Share of successes with Wilson's 95 % interval (Wilson 1927); NaN of no trials, which need not be whole.

    >>> round(wilson(8, 10).low, 3), round(wilson(8, 10).high, 3)
    (0.49, 0.943)
    """
    if not 0 <= successes <= trials:
        raise InputError(f"{successes} successes of {trials} trials: a share lies between 0 and 1")
    if trials == 0:
        return no_interval(NAN, "no item", "Wilson")
    z, share = 1.959963984540054, successes / trials
    scale = 1 + z * z / trials
    centre = (share + z * z / (2 * trials)) / scale
    half = z * (share * (1 - share) / trials + z * z / (4 * trials**2)) ** 0.5 / scale
    # at 0 and at n one end is the share itself, which rounding must not pass
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == trials else centre + half
    return Interval(share, low, high, "Wilson")


def benjamini_hochberg(p: ArrayLike, rate: float = 0.05) -> Bool[NDArray[np.bool_], "*shape"]:
    """Hypotheses to reject so that the expected share of false ones among them is at most `rate`.

    Benjamini and Hochberg (1995), over all entries at once; an undefined p-value counts as a test that is not rejected.

    >>> benjamini_hochberg([0.01, 0.04, 0.03, 0.9], 0.05).tolist()
    [True, False, False, False]
    """
    from scipy.stats import false_discovery_control

    if not 0 < rate < 1:
        raise InputError(f"a false discovery rate of {rate:g} is not between 0 and 1")
    values = np.asarray(p, dtype=np.float64)
    if values.size == 0:
        return np.zeros(values.shape, dtype=bool)
    adjusted = false_discovery_control(np.nan_to_num(values, nan=1.0).ravel())
    # p · m / i and rate are compared after rounding: equality is a rejection
    return (np.asarray(adjusted).reshape(values.shape) <= rate * (1 + 1e-12)) & ~np.isnan(values)


def hypergeometric_upper(found: int, drawn: int, of: int, level: float = 0.95) -> int:
    """Most members of a kind that there can be among `of` things, if `found` are among `drawn` of them (one-sided).

    The largest number under which as few as `found` still have a chance of 1 − `level`: exact, for draws without
    replacement.

    >>> hypergeometric_upper(0, 10, 100), hypergeometric_upper(0, 100, 100), hypergeometric_upper(0, 0, 7)
    (24, 0, 7)
    """
    from scipy.stats import hypergeom

    if not 0 <= found <= drawn <= of:
        raise InputError(f"{found} of {drawn} drawn of {of} is no sample")
    there = np.arange(found, of - (drawn - found) + 1)
    possible = hypergeom.cdf(found, of, there, drawn) > 1 - level
    return int(there[possible].max())


def pearson(first: ArrayLike, second: ArrayLike) -> float:
    """Pearson's correlation over all entries; NaN where either is constant or has fewer than two entries.

    >>> round(pearson([1, 2, 3], [2, 4, 6]), 6)
    1.0
    """
    a, b = (np.asarray(one, dtype=np.float64).ravel() for one in (first, second))
    if a.size != b.size:
        raise InputError(f"a correlation of {a.size} with {b.size} values")
    if a.size < 2:
        return NAN
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.sqrt(a @ a) * np.sqrt(b @ b))
    # what is left of equal numbers after their mean is taken off is rounding
    constant = any(float(np.abs(one).max()) <= 1e-14 * float(np.abs(np.asarray(raw)).max())
                   for one, raw in ((a, first), (b, second)))  # fmt: skip
    return NAN if constant or scale == 0 else float(np.clip(a @ b / scale, -1.0, 1.0))


def spearman(first: ArrayLike, second: ArrayLike) -> float:
    """Rank correlation over all entries: ties share their mean rank, −∞ ranks lowest; NaN where either is constant.

    >>> round(spearman([1, 2, 3], [1, 10, 11]), 6)
    1.0
    """
    from scipy.stats import rankdata

    a, b = (np.asarray(one, dtype=np.float64).ravel() for one in (first, second))
    if np.isnan(a).any() or np.isnan(b).any():
        return NAN
    return pearson(rankdata(a), rankdata(b))


# -- resampling --------------------------------------------------------------------------------------------------------


def percentile(draws: ArrayLike, level: float = 0.95) -> tuple[float, float]:
    """Ends of the middle `level` of draws, those that are not numbers left out; NaN where none is.

    >>> [round(end) for end in percentile(range(1001))]
    [25, 975]
    """
    values = np.asarray(draws, dtype=np.float64).ravel()
    values = values[~np.isnan(values)]
    if values.size == 0:
        return NAN, NAN
    tail = (1 - level) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def bootstrap_counts(items: int, draws: int, seed: int = 0) -> Int[NDArray[np.int64], "draws n"]:
    """How often each item is drawn, with replacement, as many as there are; rows sum to `items`."""
    return np.random.default_rng(seed).multinomial(items, np.full(items, 1 / items), size=draws)


def group_items(labels: Sequence[str | int], most: int = MOST_GROUPS, seed: int = 0) -> Int[NDArray[np.int64], " n"]:
    """Group of each item: its document, or, where there are more than `most`, a seeded share of whole documents.

    >>> group_items(["a", "a", "b", "c"]).tolist()
    [0, 0, 1, 2]
    """
    places = {label: place for place, label in enumerate(dict.fromkeys(labels))}
    of_item = np.array([places[label] for label in labels], dtype=np.int64)
    if len(places) <= most:
        return of_item
    shuffled = np.random.default_rng(seed).permutation(len(places))
    return (shuffled % most)[of_item]


def jackknife_error(left_out: Float[Array, "G *shape"]) -> Float[Array, "*shape"]:
    """Standard error from the values with each group left out: √((G − 1)/G · Σ_g (θ₍g₎ − mean)²)."""
    groups = len(left_out)
    if groups < 2:
        return np.full(np.shape(left_out)[1:], NAN)
    return np.asarray(np.sqrt((groups - 1) / groups * np.square(left_out - left_out.mean(0)).sum(0)))


def t_ends(
    value: ArrayLike, error: ArrayLike, freedom: ArrayLike, level: float = 0.95
) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    """value ± t(freedom) · error, elementwise, t at (1 + level)/2; NaN where the error is not a positive number.

    >>> [round(float(end), 3) for end in t_ends(1.0, 0.5, 4)]
    [-0.388, 2.388]
    """
    from scipy.stats import t

    value, error = np.asarray(value, dtype=np.float64), np.asarray(error, dtype=np.float64)
    usable = np.where(error > 1e-12 * np.abs(value), error, NAN)
    half = np.asarray(t.ppf((1 + level) / 2, freedom)) * usable
    return np.asarray(value - half), np.asarray(value + half)


def jackknife_t(value: float, left_out: ArrayLike, level: float = 0.95) -> Interval:
    """value ± t(G − 1) times its leave-one-group-out standard error.

    >>> jackknife_t(2.0, [1.5, 2.0, 2.5]).why
    'few documents: too narrow where they are skewed'
    """
    draws = np.asarray(left_out, dtype=np.float64)
    if draws.size < 2:
        return no_interval(value, "one document", JACKKNIFE)
    low, high = t_ends(value, jackknife_error(draws), draws.size - 1, level)
    if np.isnan(low):
        return no_interval(value, "documents do not differ" if np.isfinite(draws).all() else "undefined", JACKKNIFE)
    return Interval(value, float(low), float(high), JACKKNIFE, documents_why(draws.size))


JACKKNIFE = "leave-one-document-out t"


def documents_why(groups: int) -> str:
    """What so few documents mean for an interval over them; empty for enough.

    >>> documents_why(1), documents_why(3), documents_why(30)
    ('one document', 'few documents: too narrow where they are skewed', '')
    """
    if groups < 2:
        return "one document"
    return "few documents: too narrow where they are skewed" if groups < TOLD_DOCUMENTS else ""


# -- means -------------------------------------------------------------------------------------------------------------

BOOTSTRAP_T = "bootstrap t"
LEAST_DRAWN = 5
"""items below which a resample repeats too few of them to have a t of its own"""


def mean_ends(
    values: Float[Array, "*some n"], draws: int = 1000, seed: int = 0, level: float = 0.95
) -> tuple[Float[Array, "*some"], Float[Array, "*some"]]:
    """Ends of the interval of a mean over independent items: bootstrap t, and nowhere narrower than Student's.

    x̄ − q.975(T*) s/√n … x̄ − q.025(T*) s/√n with T* = (x̄* − x̄)/(s*/√n) over `draws` samples. Student's t alone is too
    narrow on skewed items (0.88 at five, 0.91 at ten), T* alone on some symmetric ones (0.91 at twenty); it stands
    alone with fewer than five. NaN for fewer than two items, or equal ones.

    >>> low, high = mean_ends(np.array([1.0, 2.0, 3.0]))
    >>> round(float(high), 3)
    4.484
    """
    array = np.asarray(values, dtype=np.float64)
    count = array.shape[-1]
    if count < 2:
        unknown = np.full(array.shape[:-1], NAN)
        return unknown, unknown
    mean, error = np.asarray(array.mean(-1)), np.asarray(array.std(-1, ddof=1) / count**0.5)
    low, high = t_ends(mean, error, count - 1, level)
    if count < LEAST_DRAWN or not array.size:
        return low, high
    weights = bootstrap_counts(count, draws, seed).astype(np.float64).T / count
    centred = array - mean[..., None]
    drawn = centred @ weights
    errors = np.sqrt(np.maximum(np.square(centred) @ weights - np.square(drawn), 0) / (count - 1))
    return _widened(mean, error, drawn, errors, low, high, level)


def _widened(
    value: Array, error: Array, drawn: Float[Array, "*some R"], errors: Float[Array, "*some R"], low: Array,
    high: Array, level: float = 0.95,
) -> tuple[Array, Array]:  # fmt: skip
    """Ends by the quantiles of T* = drawn/errors, nowhere inside `low` and `high`; NaN stays."""
    # a sample of equal items has an error of 0, up to what the squares lose: about 1e-8 of their size
    varied = errors > 1e-5 * np.asarray(error)[..., None]
    t = np.divide(drawn, errors, out=np.full_like(drawn, NAN), where=varied)
    known = varied.any(-1)
    t[~known] = 0.0
    lower, upper = np.nanquantile(t, [(1 - level) / 2, (1 + level) / 2], axis=-1)
    return np.asarray(np.minimum(low, value - upper * error)), np.asarray(np.maximum(high, value - lower * error))


def bootstrap_mean(values: ArrayLike, draws: int = 1000, seed: int = 0, level: float = 0.95) -> Interval:
    """Mean over independent items with its interval (`mean_ends`); NaN ends of fewer than two items, or equal ones.

    >>> bootstrap_mean([1.0, 2.0, 3.0]).value
    2.0
    """
    array = np.asarray(values, dtype=np.float64).ravel()
    method = "t" if array.size < LEAST_DRAWN else BOOTSTRAP_T
    if array.size < 2:
        return no_interval(float(array.mean()) if array.size else NAN, "fewer than two items", method)
    low, high = mean_ends(array, draws, seed, level)
    if np.isnan(low):
        return no_interval(float(array.mean()), "all items equal", method)
    return Interval(float(array.mean()), float(low), float(high), method)


def t_test(values: Float[Array, "*tests n"], least: int = 2) -> Float[Array, "*tests"]:
    """Two-sided p-values of one-sample t tests that the mean over the last dimension is zero.

    NaN with fewer than `least` items or where items do not vary.

    >>> round(float(t_test(np.array([1.0, 2.0, 3.0]))), 3)
    0.074
    """
    from scipy.stats import t

    array = np.asarray(values, dtype=np.float64)
    n = array.shape[-1]
    if n < max(2, least):
        return np.full(array.shape[:-1], NAN)
    mean, error = array.mean(-1), array.std(-1, ddof=1) / n**0.5
    usable = error > 1e-12 * np.abs(mean)
    score = np.divide(mean, error, out=np.full_like(mean, NAN), where=usable)
    return np.asarray(2 * t.sf(np.abs(score), n - 1))


def ratio_t(totals: ArrayLike, sizes: ArrayLike, draws: int = 1000, seed: int = 0, level: float = 0.95) -> Interval:
    """Σ totals / Σ sizes over documents, such as loss over tokens, with its bootstrap-t interval (spec 6).

    From five documents: θ − q.975(T*) se … θ − q.025(T*) se, with T* = (θ* − θ)/se* over `draws` samples of documents
    and every se by leaving one document out, nowhere narrower than leave-one-document-out t. Three or four: that alone.
    Fewer: NaN.

    >>> ratio_t([1.0, 2.0], [1.0, 1.0]).why
    'fewer than three documents'
    """
    total, size = (np.asarray(one, dtype=np.float64).ravel() for one in (totals, sizes))
    total, size = total[size > 0], size[size > 0]
    groups = len(total)
    value = float(total.sum() / size.sum()) if groups else NAN
    if groups < 3:
        return no_interval(value, "fewer than three documents", BOOTSTRAP_T)
    error = _ratio_error(np.ones((1, groups)), total, size)[0]
    left = (total.sum() - total) / (size.sum() - size)
    if groups < FEW_DOCUMENTS:
        return jackknife_t(value, left, level)
    if not error > 1e-12 * abs(value):
        return no_interval(value, "documents do not differ", BOOTSTRAP_T)
    counts = bootstrap_counts(groups, draws, seed).astype(np.float64)
    drawn = (counts @ total) / (counts @ size)
    errors = _ratio_error(counts, total, size)
    low, high = t_ends(value, error, groups - 1, level)
    low, high = _widened(np.array(value), np.array(error), drawn - value, errors, low, high, level)
    return Interval(value, float(low), float(high), BOOTSTRAP_T)


def _ratio_error(counts: Float[Array, "R G"], total: Float[Array, " G"], size: Float[Array, " G"]) -> Array:
    """Leave-one-document-out standard error of Σt/Σs in each draw, a document drawn twice being two documents."""
    groups = counts.shape[1]
    numerator = (counts @ total)[:, None] - total
    denominator = (counts @ size)[:, None] - size
    left = np.divide(numerator, denominator, out=np.zeros_like(numerator), where=counts > 0)
    mean = (counts * left).sum(1, keepdims=True) / groups
    return np.sqrt((groups - 1) / groups * (counts * np.square(left - mean)).sum(1))


def document_parts(totals: ArrayLike, sizes: ArrayLike) -> Float[Array, " G"]:
    """Each document's part of Σ totals / Σ sizes, linearised: their mean is that ratio, their spread its error."""
    total, size = (np.asarray(one, dtype=np.float64).ravel() for one in (totals, sizes))
    return (ratio := total.sum() / size.sum()) + (total - ratio * size) / size.mean()


def welch_t(
    own: ArrayLike, others: Sequence[ArrayLike], draws: int = 1000, seed: int = 0, level: float = 0.95
) -> Interval:
    """Mean of `own` minus the mean of the means of `others`, independent samples (spec 6).

    By Welch's t, widened by the quantiles of T* = (θ* − θ)/se* over `draws` resamples of every sample where each has
    five items or more, as in `mean_ends`.

    >>> round(welch_t([3.0, 4.0, 5.0], [[1.0, 2.0, 3.0], [2.0, 3.0, 4.0]]).value, 2)
    1.5
    """
    samples = [np.asarray(one, dtype=np.float64).ravel() for one in (own, *others)]
    means = np.array([one.mean() if one.size else NAN for one in samples])
    value = float(means[0] - means[1:].mean())
    least = min(one.size for one in samples)
    if least < 3:
        return no_interval(value, "fewer than three documents", "Welch t")
    weight = np.array([1.0, *[-1 / len(others)] * len(others)])
    parts = np.array([one.var(ddof=1) / one.size for one in samples]) * weight**2
    whole = parts.sum()
    if whole <= (1e-14 * float(np.abs(means).max())) ** 2:  # what is left of equal numbers is rounding
        return no_interval(value, "documents do not differ", "Welch t")
    freedom = whole**2 / sum(part**2 / (one.size - 1) for part, one in zip(parts, samples))
    low, high = t_ends(value, whole**0.5, freedom, level)
    if least < LEAST_DRAWN:
        return Interval(value, float(low), float(high), "Welch t")
    drawn, squares = np.zeros(draws), np.zeros(draws)
    for place, (one, factor) in enumerate(zip(samples, weight)):
        counts = bootstrap_counts(one.size, draws, seed + place) / one.size
        moved = counts @ (one - one.mean())
        spread = np.maximum(counts @ np.square(one - one.mean()) - moved**2, 0) / (one.size - 1)
        drawn, squares = drawn + factor * moved, squares + factor**2 * spread
    low, high = _widened(np.array(value), np.array(whole**0.5), drawn, np.sqrt(squares), low, high, level)
    return Interval(value, float(low), float(high), BOOTSTRAP_T)
