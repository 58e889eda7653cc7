"""The sweep as a run of its own: its points in one table, their layers in one array, and what changes between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from babelscope.evolution.flow import DEPTH_BINS, Flow, depth_profile, flow, region_file, scale_overlap
from babelscope.evolution.measures import CLOZE_TABLE
from babelscope.evolution.plan import Plan
from babelscope.evolution.published import beside_published
from babelscope.evolution.store import SweepStore
from babelscope.evolution.types import Point
from babelscope.results import Run, RunWriter
from babelscope.results.manifest import plain
from babelscope.results.rows import read_rows, write_rows
from babelscope.results.schemas import sweep as schemas
from babelscope.results.schemas.evaluation import Cloze

Row = dict[str, Any]
_CURVES = ("lrds_layer", "sads_layer", "same_language_layer", "same_sentence_layer", "neither_layer")
_HEADLINES = (
    "language_share",
    "strong_neurons",
    "excess_sklr_rarefied",
    "sklr",
    "sklr_share",
    "excess_sklr",
    "neurons",
    "layers",
    "same_language",
    "same_sentence",
    "neither",
)


def write_index(store: SweepStore, plan: Plan, points: Sequence[Point], damaged: Mapping[str, str]) -> None:
    """Write the tables of a sweep from the points that are finished; the others stand in it as failed or waiting.

    `damaged` points stand in it as failed, with what is wrong, and lend it no numbers.

    Tables: points (a row each), accuracy, flow and flow_pairs (between checkpoints), depth and scale_overlap, and
    published where the plan reproduces the paper. Arrays: region_size_layer and the layer curves, by point.
    """
    finished = store.keys() - set(damaged)
    runs = {point.key: store.open(point.key) for point in points if point.key in finished}
    rows = [_row(point, runs.get(point.key), store, damaged.get(point.key)) for point in points]
    mark_duplicates(rows)
    with store.scratch() as folder:
        with RunWriter(folder / "sweep", kind="sweep") as run:
            run.table("points", pd.DataFrame(rows))
            _tables(run, rows, runs, plan)
            arrays = _arrays(runs)
            if arrays is not None:
                run.arrays(arrays)
            run.manifest.update(_manifest(plan, rows, runs))
        store.put_index(folder / "sweep", set(damaged))


def _row(point: Point, run: Run | None, store: SweepStore, problem: str | None) -> Row:
    row: Row = {
        "model": point.model, "revision": point.revision, "label": point.label, "step": point.step,
        "parameters": None, "corpus": point.corpus or "", "status": "waiting", "key": point.key, "duplicate_of": None,
        "weight_hash": None, "error": None,
    }  # fmt: skip
    if problem is not None:
        return row | {"status": "failed", "error": problem}
    if run is None:
        failure = store.failure(point.key)
        return row | ({"status": "failed", "error": failure.get("error")} if failure else {})
    summary, model = run.summary, dict(run.manifest.get("model") or {})
    row |= {"status": "done", "parameters": model.get("parameters"), "weight_hash": model.get("weight_hash")}
    intervals = dict(summary.get("intervals") or {})
    for name in ("lrds", "sads"):
        if summary.get(name) is not None:
            row[name] = summary[name]
            row[f"{name}_low"], row[f"{name}_high"] = _bounds(intervals.get(name))
    row |= {name: summary[name] for name in _HEADLINES if isinstance(summary.get(name), int | float)}
    for name in ("excess_sklr", "language_share", "strong_neurons"):
        if intervals.get(name):
            row[f"{name}_low"], row[f"{name}_high"] = _bounds(intervals[name])
    row |= {f"region_size_{code}": size for code, size in dict(summary.get("region_size") or {}).items()}
    row |= {f"perplexity_{code}": value for code, value in _base_perplexity(summary).items()}
    return row | _accuracy(run)


def _bounds(interval: object) -> tuple[float | None, float | None]:
    return (interval[0], interval[1]) if isinstance(interval, list | tuple) and len(interval) == 2 else (None, None)


def _base_perplexity(summary: Row) -> dict[str, float]:
    table: object = summary.get("perplexity")
    return dict(table.get("base") or {}) if isinstance(table, dict) else {}


def _accuracy(run: Run) -> Row:
    """The mean over languages, and over those that are not English, with their intervals; then each language."""
    if CLOZE_TABLE not in run.tables:
        return {}
    found: Row = {}
    for row in read_rows(run, Cloze):
        if row.condition != "base":
            continue
        name = {"mean": "accuracy_story_cloze", "others": "accuracy_story_cloze_not_english"}.get(row.language)
        if name is None:
            found[f"story_cloze_{row.language}"] = row.share.accuracy
        else:
            found |= {name: row.share.accuracy, f"{name}_low": row.share.low, f"{name}_high": row.share.high}
    return found


def mark_duplicates(rows: list[Row]) -> None:
    """Name, in each later row whose weights equal an earlier row's, that earlier one."""
    first: dict[tuple[object, object], Row] = {}
    for row in rows:
        if row["weight_hash"] is None:
            continue
        earlier = first.setdefault((row["weight_hash"], row["corpus"]), row)
        if earlier is not row:
            same_model = earlier["model"] == row["model"] and earlier["revision"] != row["revision"]
            row["duplicate_of"] = earlier["revision"] if same_model else earlier["label"]


def _tables(run: RunWriter, rows: list[Row], runs: dict[str, Run], plan: Plan) -> None:
    done = [row for row in rows if row["status"] == "done"]
    accuracy = [_tagged(runs[row["key"]].table(CLOZE_TABLE), row) for row in done if _has(runs, row, CLOZE_TABLE)]
    if accuracy:
        run.table("accuracy", pd.concat(accuracy, ignore_index=True))
    perplexity = [_tagged(runs[row["key"]].table("perplexity"), row) for row in done if _has(runs, row, "perplexity")]
    if perplexity:
        run.table("perplexity", pd.concat(perplexity, ignore_index=True))
    flows = flows_between(done, runs)
    if flows:
        write_rows(run, schemas.Flow, (row for found in flows for row in found.by_layer))
        write_rows(run, schemas.FlowPair, (row for found in flows for row in found.by_pair))
    depth, overlap = _depth(done, runs)
    if depth:
        write_rows(run, schemas.Depth, depth)
    if len(overlap):
        run.table(schemas.ScaleOverlap.TABLE, overlap)
    if plan.published is not None:
        compared = [
            _tagged(table, row) for row in done for table in [beside_published(runs[row["key"]], plan.published)]
        ]
        if compared:
            run.table("published", pd.concat(compared, ignore_index=True))


def _has(runs: dict[str, Run], row: Row, table: str) -> bool:
    return table in runs[row["key"]].tables


def _tagged(table: pd.DataFrame, row: Row) -> pd.DataFrame:
    """A point's table with the point in front."""
    tagged = table.assign(**{name: row[name] for name in ("model", "revision", "step", "key", "label")})
    return tagged.loc[:, ["label", "model", "revision", "step", "key", *table.columns]]


def flows_between(done: list[Row], runs: dict[str, Run]) -> list[Flow]:
    """Flow between each checkpoint and the next of the same model on the same corpus.

    Checkpoints that hold the weights of an earlier one are left out: when in training they are from is not known.
    """
    from babelscope.regions.masks import load_regions

    found: list[Flow] = []
    lines: dict[tuple[str, str], list[Row]] = {}
    for row in done:
        if row["step"] is not None and row["duplicate_of"] is None and region_file(runs[row["key"]]) is not None:
            lines.setdefault((row["model"], row["corpus"]), []).append(row)
    for (model, corpus), line in lines.items():
        line = sorted(line, key=lambda row: row["step"])
        for before, after in pairwise(line):
            first, second = (load_regions(str(region_file(runs[row["key"]]))) for row in (before, after))
            found.append(flow(first, second).between(model, corpus, before["revision"], after["revision"]))
    return found


def _depth(done: list[Row], runs: dict[str, Run]) -> tuple[list[schemas.Depth], pd.DataFrame]:
    """Regions over relative depth, at every point; and, on each corpus, their overlap between the last checkpoints of
    each size."""
    rows: list[schemas.Depth] = []
    largest: dict[str, dict[str, dict[str, NDArray[np.float64]]]] = {}
    last: dict[tuple[str, str], float] = {}
    for row in done:
        run = runs[row["key"]]
        if not (run.path / "arrays.zarr").is_dir() or "region_size_layer" not in run.arrays():
            continue
        sizes = run.arrays().region_size_layer.load()
        by_language = {str(code): sizes.sel(language=code).values.astype(float) for code in sizes.language.values}
        for code, by_layer in by_language.items():
            for number, share in enumerate(depth_profile(by_layer)):
                low, high = number / DEPTH_BINS, (number + 1) / DEPTH_BINS
                rows.append(
                    schemas.Depth(
                        label=row["label"], key=row["key"], language=code, from_depth=low, to_depth=high, share=share
                    )
                )
        step = float("inf") if row["step"] is None else float(row["step"])
        model, corpus = str(row["model"]), str(row["corpus"])
        if step >= last.get((corpus, model), -1.0):
            last[corpus, model] = step
            largest.setdefault(corpus, {})[model] = by_language
    overlaps = [scale_overlap(models, corpus) for corpus, models in largest.items()]
    return rows, pd.concat(overlaps, ignore_index=True) if overlaps else scale_overlap({})


def _arrays(runs: dict[str, Run]) -> xr.Dataset | None:
    """Region sizes and curves by layer of all points that have them; shallower models have NaN in deeper layers."""
    found: dict[str, xr.Dataset] = {}
    for key, run in runs.items():
        if (run.path / "arrays.zarr").is_dir():
            arrays = run.arrays()
            names = [name for name in ("region_size_layer", *_CURVES) if name in arrays]
            names += [f"{name}_{end}" for name in _CURVES for end in ("low", "high") if f"{name}_{end}" in arrays]
            if "region_size_layer" in names:
                kept = arrays[names].load()
                found[key] = kept.drop_vars([name for name in kept.coords if name not in ("language", "layer")])
    if not found:
        return None
    joined = xr.concat(list(found.values()), dim=pd.Index(list(found), name="point"), join="outer", data_vars="all")
    return joined.assign_coords(point=np.array(list(found), dtype=str))


def _manifest(plan: Plan, rows: list[Row], runs: dict[str, Run]) -> Row:
    first = next((run.manifest for run in runs.values() if run.kind == "regions"), {})
    counts = pd.Series([row["status"] for row in rows]).value_counts().to_dict() if rows else {}
    corpus = dict(first.get("corpus") or {})
    corpus.pop("sentence_ids", None)
    return {
        "asked": plain(plan.data, "plan"),
        "plan": plan.name,
        "model": {"id": _title(rows)},
        "languages": corpus.get("languages") or list(plan.languages or ()),
        "corpus": corpus | {"specs": list(plan.corpora)},
        "seeds": first.get("seeds") or [],
        "summary": {
            "points": len(rows),
            **{f"points_{name}": int(count) for name, count in counts.items()},
            "duplicates": sum(row["duplicate_of"] is not None for row in rows),
            "models": sorted({row["model"] for row in rows}),
        },
    }


def _title(rows: list[Row]) -> str:
    names = list(dict.fromkeys(str(row["model"]) for row in rows))
    return names[0] if len(names) == 1 else f"{len(names)} models"
