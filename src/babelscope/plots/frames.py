"""What the figures and the page draw, taken from a run as labelled frames: the same numbers for both."""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false, reportPossiblyUnboundVariable=false, reportMissingParameterType=false
# pandas declares what a selection returns as a union that no single frame is; the shapes are checked by tests.

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from babelscope.errors import RunError
from babelscope.plots.published import Published
from babelscope.results import Run

CONTROLS = ("random", "random-layer")


@dataclass(frozen=True)
class PerplexityGrid:
    """Increase of perplexity in percent: a row per evaluated language, a column per deactivated set."""

    base: dict[str, float]
    increase: pd.DataFrame
    spread: pd.DataFrame
    """standard deviation over the draws of a random control; NaN elsewhere"""
    draws: dict[str, int]


def perplexity_grid(run: Run) -> PerplexityGrid:
    """The perplexity table of a run as a grid, controls averaged over their draws."""
    table = run.table("perplexity")
    base = table[table.deactivated == "base"].groupby("language").perplexity.mean()
    changed = table[table.deactivated != "base"]
    cells = changed.groupby(["language", "deactivated"]).increase_percent
    rows = in_order(run, base.index)
    columns = [name for name in CONTROLS if name in set(changed.deactivated)]
    columns += in_order(run, set(changed.deactivated) - set(CONTROLS))
    mean, spread = (frame.unstack().reindex(index=rows, columns=columns) for frame in (cells.mean(), cells.std(ddof=0)))
    counts = changed.groupby("deactivated").draw.nunique()
    control = [name for name in columns if name in CONTROLS]
    spread[[name for name in columns if name not in control]] = np.nan
    return PerplexityGrid(base[rows].to_dict(), mean, spread, {name: int(counts[name]) for name in control})


def published_grid(facts: Published, languages: list[str]) -> PerplexityGrid:
    """The published table, for those of `languages` that it has."""
    shared = [code for code in languages if code in facts.languages]
    frame = pd.DataFrame(facts.increase_percent).T.loc[shared, ["random", *shared]].astype(float)
    empty = pd.DataFrame(np.nan, index=frame.index, columns=frame.columns)
    return PerplexityGrid({code: facts.base_perplexity[code] for code in shared}, frame, empty, {"random": 1})


def in_order(run: Run, languages: Any) -> list[str]:
    """Languages in the run's own order, unknown ones after, alphabetically."""
    found = {str(code) for code in languages}
    known = [code for code in run.languages if code in found]
    return known + sorted(found - set(known))


def layer_curve(run: Run, name: str) -> pd.DataFrame:
    """`layer`, `value`, and `low`, `high` where the run has an interval for this curve."""
    arrays = run.arrays()
    frame = pd.DataFrame({"layer": arrays.layer.values, "value": arrays[name].values})
    if f"{name}_low" in arrays:
        frame["low"], frame["high"] = arrays[f"{name}_low"].values, arrays[f"{name}_high"].values
    return frame


def region_sizes(run: Run) -> pd.DataFrame:
    """`language`, `size`, `share` of all neurons, and `expected_null` when the run was calibrated."""
    sizes: dict[str, int] = dict(run.summary.get("region_size") or {})
    if not sizes:
        raise RunError(f"the run {run.source} states no region sizes")
    languages = in_order(run, sizes)
    frame = pd.DataFrame({"language": languages, "size": [sizes[code] for code in languages]})
    neurons = run.summary.get("neurons")
    frame["share"] = frame["size"] / neurons if neurons else np.nan
    # the null is that of z-scores
    if "calibration" in run.tables and run.summary.get("method", "z-score") == "z-score":
        table = run.table("calibration").set_index("language")
        frame["expected_null"] = [table.expected_null.get(code, np.nan) for code in languages]
    return frame


def heads(run: Run, name: str) -> xr.DataArray:
    """A `language` × `layer` × `head` array of a circuits run."""
    return run.arrays()[name].transpose("language", "layer", "head")


def head_measures(run: Run) -> list[str]:
    """Names of all arrays by language, layer and head, the searched steps last, without interval bounds."""
    arrays = run.arrays()
    wanted = {"language", "layer", "head"}
    found = [str(name) for name, it in arrays.data_vars.items() if set(it.dims) == wanted]
    known = [name for name in ("activation_patching", "path_logits", "head_frequency") if name in found]
    return known + [name for name in found if name not in known and not name.endswith(("_low", "_high"))]


def square(table: pd.DataFrame, rows: str, columns: str, value: str, order: list[str]) -> pd.DataFrame:
    """A tidy table as a matrix with rows and columns in the given order."""
    matrix = table.pivot_table(index=rows, columns=columns, values=value, aggfunc="mean")
    present = [code for code in order if code in set(matrix.index) | set(matrix.columns)]
    return matrix.reindex(index=present, columns=present)


def points(run: Run) -> pd.DataFrame:
    """The finished points of a sweep."""
    table = run.table("points")
    if "status" in table:
        table = table[table.status.isin(["done", "finished", "ok", "duplicate", "cached"])]
    return table.reset_index(drop=True)


def checkpoints(run: Run) -> pd.DataFrame:
    """Points of a sweep along training, in the order of their steps: those of the model with most steps."""
    table = points(run)
    if "step" not in table:
        return table.iloc[:0]
    table = table[table.step.notna()]
    if "corpus" in table and len(table):
        table = table[table.corpus == table.corpus.iloc[0]]
    if table.empty:
        return table
    model = table.groupby("model").step.nunique().idxmax()
    return table[table.model == model].sort_values("step").reset_index(drop=True)


def scales(run: Run) -> pd.DataFrame:
    """The last point of every size of a sweep, smallest first."""
    table = points(run)
    if "parameters" not in table:
        return table.iloc[:0]
    table = table[table.parameters.notna()]
    step = table.step if "step" in table else pd.Series(np.inf, index=table.index)
    table = table.assign(_step=step.astype(float).fillna(np.inf)).sort_values(["parameters", "_step"])
    return table.groupby("parameters").tail(1).drop(columns="_step").reset_index(drop=True)


def accuracies(table: pd.DataFrame) -> list[str]:
    """Columns of a table of points that hold an accuracy."""
    return [
        name
        for name in table.columns
        if "accuracy" in name and not name.endswith(("_low", "_high")) and table[name].notna().any()
    ]


def layers_of_points(run: Run, table: pd.DataFrame) -> xr.DataArray | None:
    """Region size by `point`, `language` and `layer`: from the sweep itself, or from the runs of its points."""
    if (run.path / "arrays.zarr").is_dir() and "region_size_layer" in run.arrays():
        return run.arrays().region_size_layer.sel(point=list(table.key))
    from babelscope.results import is_run, open_run

    found: list[xr.DataArray] = []
    for key in table.key:
        if is_run(run.path / str(key)):
            found.append(open_run(run.path / str(key)).arrays().region_size_layer.load())
    if len(found) != len(table) or not found:
        return None
    return xr.concat(found, dim=pd.Index(list(table.key), name="point"), join="outer")


def same_weights(table: pd.DataFrame) -> list[bool]:
    """Which points hold the very weights of another point."""
    if "duplicate_of" not in table:
        return [False] * len(table)
    return [isinstance(value, str) and value != "" for value in table.duplicate_of]


def of_own_model(run: Run, name: str) -> pd.DataFrame:
    """A table's rows of the run's own model: a study against another model holds both in the same tables."""
    table = run.table(name)
    return table[table.model == run.summary.get("model", table.model.iloc[0])] if "model" in table else table


def alignment_summary(run: Run) -> pd.DataFrame:
    """Each alignment metric in the first, the middle and the last layer, mean over pairs with its interval."""
    from babelscope.results.display import number

    means = run.table("alignment_means")
    last = int(means.layer.max())
    places = sorted({0, last // 2, last})
    rows: list[dict[str, str]] = []
    for metric, own in means.groupby("metric", sort=False):
        own = own.set_index("layer")
        cells: dict[str, str] = {"metric": str(metric)}
        for place in places:
            one = own.loc[place]
            ends = f" ({number(float(one.low))} to {number(float(one.high))})" if one.low == one.low else ""
            cells[f"layer {place}"] = f"{number(float(one.value))}{ends}" if one.value == one.value else "–"
        rows.append({**cells, "why": str(own.why.iloc[0])})
    return pd.DataFrame(rows)
