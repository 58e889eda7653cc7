"""Two runs side by side: the same question put to two models, checkpoints, corpora or settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from babelscope.results import Run
from babelscope.results.rows import read_rows
from babelscope.results.schemas.regions import Sentence
from babelscope.stats import pearson, spearman

if TYPE_CHECKING:
    from babelscope.regions.masks import RegionSet

_HEADLINES = (
    "lrds", "sads", "language_share", "strong_neurons", "excess_sklr_rarefied", "sklr", "sklr_share", "excess_sklr",
    "region_neurons", "neurons", "layers", "n", "threshold",
)  # fmt: skip
_GROW = ("excess_sklr", "region_neurons")
"""sizes that grow with the number of sentences: never subtracted where that, or that of documents, differs"""


def compare_headlines(first: Run, second: Run) -> pd.DataFrame:
    """measure, first, second, difference, and whether their 95 % intervals overlap (None where there are none)."""
    rows: list[dict[str, object]] = []
    for name in _HEADLINES:
        one, two = first.summary.get(name), second.summary.get(name)
        if name == "threshold" and "z-score" not in {run.summary.get("method", "z-score") for run in (first, second)}:
            continue  # of z, which none of their regions comes from
        if isinstance(one, int | float) and isinstance(two, int | float):
            apart = _overlap(_interval(first, name), _interval(second, name))
            why = _not_comparable(first, second, name)
            difference = float("nan") if why else two - one
            row = {"measure": name, "first": one, "second": two, "difference": difference, "overlap": apart}
            rows.append({**row, "why": why})
    return pd.DataFrame(rows, columns=["measure", "first", "second", "difference", "overlap", "why"])


def _not_comparable(first: Run, second: Run, name: str) -> str:
    sizes = [(run.summary.get("n"), run.summary.get("documents")) for run in (first, second)]
    if name not in _GROW or sizes[0] == sizes[1]:
        return ""
    told = [f"n = {n}" + (f", {documents} documents" if documents else "") for n, documents in sizes]
    return f"grows with the corpus: {told[0]} against {told[1]}"


def _interval(run: Run, name: str) -> Sequence[float] | None:
    return dict(run.summary.get("intervals") or {}).get(name)


def _overlap(one: Sequence[float | None] | None, two: Sequence[float | None] | None) -> bool | None:
    ends = [end for end in (*(one or ()), *(two or ())) if end is not None]
    return bool(ends[0] <= ends[3] and ends[2] <= ends[1]) if len(ends) == 4 else None


def compare_regions(first: Run, second: Run) -> pd.DataFrame:
    """Per language: region sizes, shared neurons, Jaccard, and the Jaccard that chance gives two sets of these sizes.

    Neurons are compared only where both models have the same layers and neurons; otherwise those columns are NaN and
    `depth_overlap` (the shared part of the distributions over relative depth) is what can be compared.
    """
    from babelscope.evolution.flow import depth_overlap

    sizes = [_sizes(run) for run in (first, second)]
    masks = [_regions(run) for run in (first, second)]
    rows: list[dict[str, object]] = []
    for code in [code for code in sizes[0] if code in sizes[1]]:
        row: dict[str, object] = {
            "language": code, "first": int(sizes[0][code].sum()), "second": int(sizes[1][code].sum()),
            "depth_overlap": depth_overlap(sizes[0][code], sizes[1][code]),
        }  # fmt: skip
        first_set, second_set = masks
        if first_set and second_set and first_set.layout == second_set.layout and code in second_set.masks:
            one, two = (found[code].numpy() for found in (first_set, second_set))
            shared, union = int((one & two).sum()), int((one | two).sum())
            chance = one.sum() * two.sum() / first_set.layout.neurons
            row |= {
                "shared": shared,
                "jaccard": shared / union if union else np.nan,
                "jaccard_by_chance": float(chance / (one.sum() + two.sum() - chance)) if union else np.nan,
            }
        rows.append(row)
    columns = ["language", "first", "second", "shared", "jaccard", "jaccard_by_chance", "depth_overlap"]
    return pd.DataFrame(rows, columns=columns)


def _sizes(run: Run) -> dict[str, NDArray[np.float64]]:
    array = _array(run, "region_size_layer")
    if array is None or array.ndim != 2:  # a sweep has one more axis: its points are compared one by one
        return {}
    return {str(code): array.sel(language=code).values.astype(float) for code in array.language.values}


def _regions(run: Run) -> RegionSet | None:
    from babelscope.evolution.flow import region_file
    from babelscope.regions.masks import load_regions

    file = region_file(run)
    return None if file is None else load_regions(file)


def compare_alignment(first: Run, second: Run) -> pd.DataFrame:
    """measure, item (a layer, or a pair of languages), first, second, difference: layer curves and the map's pairs."""
    rows: list[pd.DataFrame] = []
    for name in ("lrds_layer", "sads_layer", "lrds_pair", "sads_pair", "similarity_pair"):
        one, two = _array(first, name), _array(second, name)
        if one is None or two is None or one.dims != two.dims:
            continue
        one, two = xr.align(one, two, join="inner")
        frame = pd.DataFrame({"first": one.to_series(), "second": two.to_series()})
        if one.ndim == 2 and all(_symmetric(it.values) for it in (one, two)):
            order = {label: place for place, label in enumerate(one[one.dims[0]].values.tolist())}
            frame = frame[[order[a] <= order[b] for a, b in frame.index]]  # both orders of a pair say the same
        items = [" – ".join(map(str, item)) if isinstance(item, tuple) else str(item) for item in frame.index]
        frame = frame.assign(measure=name, item=items, difference=frame["second"] - frame["first"])
        frame = frame.dropna(subset=["first", "second"], how="all")  # a language with itself is no pair
        rows.append(frame.loc[:, ["measure", "item", "first", "second", "difference"]])
    if not rows:
        return pd.DataFrame(columns=["measure", "item", "first", "second", "difference"])
    return pd.concat(rows, ignore_index=True)


def _symmetric(values: NDArray[np.float64]) -> bool:
    return values.shape == values.T.shape and bool(np.allclose(values, values.T, equal_nan=True))


def compare_map(first: Run, second: Run) -> dict[str, float] | None:
    """Agreement of two similarity maps over the same languages and sentences: Pearson, mean and largest difference.

    Sentences are the same where their ids are, and their texts, which two corpora that count their lines do not share.
    """
    one, two = _array(first, "similarity"), _array(second, "similarity")
    if one is None or two is None:
        return None
    texts = [{(row.language, row.id): row.text for row in read_rows(run, Sentence)} for run in (first, second)]
    labels = [
        [(*key, told.get(key) if all(texts) else None)
         for key in zip(it.item_language.values.tolist(), map(str, it.item_sentence.values.tolist()))]
        for it, told in zip((one, two), texts)
    ]  # fmt: skip
    places = {label: place for place, label in enumerate(labels[1])}
    shared = [(place, places[label]) for place, label in enumerate(labels[0]) if label in places]
    if len(shared) < 3:
        return None
    left, right = (np.array(side) for side in zip(*shared))
    above = np.triu_indices(len(shared), 1)
    a, b = one.values[np.ix_(left, left)][above], two.values[np.ix_(right, right)][above]
    difference = np.abs(a - b)
    return {
        "items": float(len(shared)),
        "pearson": pearson(a, b),
        "mean_difference": float(difference.mean()),
        "largest_difference": float(difference.max()),
    }


def compare_points(first: Run, second: Run) -> pd.DataFrame:
    """Two sweeps, point by point (model, revision, corpus): measure, first, second, difference; empty otherwise."""
    columns = ["model", "revision", "corpus", "measure", "first", "second", "difference"]
    if not first.manifest.get("kind") == second.manifest.get("kind") == "sweep":
        return pd.DataFrame(columns=columns)
    same = columns[:3]
    both = first.table("points").merge(second.table("points"), on=same, suffixes=("_first", "_second"))
    rows: list[dict[str, object]] = []
    for name in ("lrds", "sads", "sklr", "accuracy_story_cloze"):
        if f"{name}_first" not in both or f"{name}_second" not in both:
            continue
        for row in both.to_dict("records"):
            one, two = float(row[f"{name}_first"]), float(row[f"{name}_second"])
            rows.append(
                {
                    **{key: row[key] for key in same},
                    "measure": name,
                    "first": one,
                    "second": two,
                    "difference": two - one,
                }
            )
    return pd.DataFrame(rows, columns=columns)


def compare_circuits(first: Run, second: Run, top: int = 10) -> pd.DataFrame:
    """Per head measure and language: Pearson and Spearman over heads, and how many of the `top` heads are shared.

    `top` grows where heads are level with the last of them, and shrinks where there are fewer that act at all.
    """
    rows: list[dict[str, object]] = []
    for name in ("activation_patching", "path_logits", "head_frequency"):
        one, two = _array(first, name), _array(second, name)
        if one is None or two is None or one.shape[1:] != two.shape[1:]:
            continue
        for code in [code for code in one.language.values if code in two.language.values]:
            a, b = one.sel(language=code).values.ravel(), two.sel(language=code).values.ravel()
            known = np.isfinite(a) & np.isfinite(b)  # heads that a screen left unpatched are in neither
            a, b = a[known], b[known]
            largest = [_strongest(np.abs(it), top) for it in (a, b)]
            rows.append(
                {
                    "measure": name, "language": str(code),
                    "pearson": pearson(a, b),
                    "spearman": spearman(a, b),
                    "top": max(map(len, largest)), "shared_top": len(largest[0] & largest[1]),
                }
            )  # fmt: skip
    return pd.DataFrame(rows, columns=["measure", "language", "pearson", "spearman", "top", "shared_top"])


def _strongest(size: NDArray[np.float64], top: int) -> set[int]:
    """Places of the `top` largest and of all that are level with the last of them; what is 0 is not among them."""
    if not size.size or top < 1:
        return set()
    return set(np.flatnonzero((size >= np.sort(size)[-min(top, size.size)]) & (size > 0)).tolist())


def _array(run: Run, name: str) -> xr.DataArray | None:
    if not (run.path / "arrays.zarr").is_dir():
        return None
    arrays = run.arrays()
    return arrays[name].load() if name in arrays else None
