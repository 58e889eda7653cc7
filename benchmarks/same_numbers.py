"""Whether every number is the one that it was: `python -m benchmarks.same_numbers OLD [--full] [--only NAME]`.

Runs a fixed list of commands on the built-in models with the source of an older revision (in a temporary work tree) and
with this one, and prints for each table and array the largest difference, relative to the largest value of its column.
What was changed on purpose is listed with its reason, and counts as different only where it says nothing.
"""

from __future__ import annotations

import argparse
import fnmatch
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr
import zarr

from benchmarks.house import ROOT, source_at

NAMES = ["key", "weight_hash"]
"""columns that name what was computed, and are no numbers"""
CLOSE = 1e-5
"""relative difference that the order of additions in float32 can make"""
FIVE = "en,zh,fr,es,ar"


@dataclass(frozen=True)
class Asked:
    """One command, the same for both revisions but for what only one of them knows."""

    name: str
    words: str
    full: str = ""
    """further words of the full list"""
    old: str = ""
    new: str = ""
    plan: str = ""
    """YAML of a sweep, which stands at the place of PLAN; lines that begin with `new ` are for this revision alone"""


PLAN = """\
name: same
models:
- pocket:pocket-bloom-s
- pocket:pocket-bloom-m
corpora: ["pocket:heldout"]
languages: [en, zh, fr, es, pt, ar]
measures:
  alignment: {}
  perplexity: {texts: "pocket:heldout", text_tokens: 512, controls: 1}
  story_cloze: {stories: "pocket:?n=20"}
old   regions: {samples: 20, bootstrap: 20}
new   regions: {samples: 20, bootstrap: 20, paper: true, documents: none}
"""

COMMANDS = (
    Asked(
        "regions",
        "regions pocket:pocket-bloom-s --corpus pocket:heldout --samples 12 --texts pocket:heldout --text-tokens 64 "
        f"--controls 1 --bootstrap 10 --permutations 10 --threshold 1.5 --languages {FIVE} --alignment "
        "--alignment-neurons 0.05 --doses 0.01 "
        "--methods lape,average-precision,eta-squared,mean-difference,random,random-layer",
        full="--samples 100 --text-tokens 4096 --permutations 200 --generate 2",
        new="--paper --documents none --fixed",
    ),
    Asked("ioi", "circuits pocket:pocket-bloom-s --task ioi --languages en,zh --n 8 --draws 1", full="--n 48"),
    Asked("tense", "circuits pocket:pocket-bloom-s --task past-tense --languages en --n 8 --draws 1", full="--n 48"),
    Asked("sweep", "sweep PLAN", plan=PLAN),
    Asked("evaluate", "evaluate pocket:pocket-bloom-s --languages en,zh,fr"),
)

PAIRED = "intervals are paired by prompt and never narrower than Student's; none where nothing differs"
ON_PATH = "random circuits lie on paths from input to output, and no two are the same"
AREAS = "CPR ranks by signed scores and CMD by absolute ones, both on the prompts that did not rank"
WORDS = "words of the lexicons were mended, and random text is made of their tokens"
ROLES = "a role needs its floor and beats its own null; else it is a candidate"
STUDENT = "ends by leaving one out and Student's t, where a bootstrap was"
DRAWN = "resamples are drawn by document, with another sequence of random numbers"
CONTRAST = "the method contrast is new"
DRAWN_ALIKE = "random neurons by layer are as many as the region of the text's own language, not as the mean region"
SEARCH = "of eight Chinese prompts the search finds no head significant any more: what begins with its heads is missing"
SEARCHED, FROM_SEARCH = "zh", ("faithfulness", "cross_faithfulness", "promoted", "array step_s_inhibition")
"""the language of that, and the tables that begin with the heads found, whose rows of it are compared by themselves"""
TIED = ("sads-rank", "sads-length-matched", "sads-overlap-matched", "anc")
"""metrics of alignment in which ties and rounding decided, compared by themselves"""
EFFECTS, LEAST = "array step_", 0.1
"""effects are shares of the whole effect: of one below LEAST the difference is told as a share of LEAST, since float32
rounds logits, not effects"""
APART = "random-layer"
"""rows of the tables of perplexity that are compared by themselves"""
PURPOSE = {
    "regions/array *_low/value": STUDENT,
    "regions/array *_high/value": STUDENT,
    "regions/perplexity/delta_*": STUDENT,
    f"*/perplexity, {APART}/*": DRAWN_ALIKE,
    "regions/selectivity/*": STUDENT,
    "regions/dose/delta_*": STUDENT,
    "regions/alignment*, ties/value": "equal values share ranks and places, negatives are of both directions",
    "regions/alignment*/low": STUDENT,
    "regions/alignment*/high": STUDENT,
    "regions/alignment/rows*": "facts of texts have no layer",
    "regions/calibration/excess_*": "ends of the excess are Student's, of resamples and draws together",
    "regions/stability/*": DRAWN,
    "regions/agreement/rows*": CONTRAST,
    "regions/methods/rows*": CONTRAST,
    "regions/region_size/rows*": CONTRAST,
    "regions/dose/rows*": CONTRAST,
    "sweep/array *_low/value": STUDENT,
    "sweep/array *_high/value": STUDENT,
    "sweep/p*/*_low": STUDENT,
    "sweep/p*/*_high": STUDENT,
    "*/ablation/rows*": "random sets are distinct, and a stratum has rows of its own",
    "*/ablation/*_low": PAIRED,
    "*/ablation/*_high": PAIRED,
    "*/ffn_windows/*_low": PAIRED,
    "*/ffn_windows/*_high": PAIRED,
    "*/array path_logits_low/*": PAIRED,
    "*/array path_logits_high/*": PAIRED,
    "*/behaviour*/*_low": PAIRED,
    "*/behaviour*/*_high": PAIRED,
    "*/faithfulness/low": PAIRED,
    "*/faithfulness/high": PAIRED,
    "*/cross_*/low": PAIRED,
    "*/cross_*/high": PAIRED,
    "*/cross_*/random": ON_PATH,
    "*/cross_edges/control": "circuits have the size that the prompts which rank ask for, not those which judge",
    "*/agreement/rows*": "agreement is also taken on inputs of heads, with and without the fix of queries and keys",
    "*/array step_backup*/*": "a backup is a head whose effect grows with the knock-out",
    "*/classification/rows*": ROLES,
    "*/roles/*": ROLES,
    "*/role_scores/*": WORDS,
    "*/edge_curve/*": AREAS,
    "*/overlap/*": "1 000 relabellings instead of 200, and the measures that have a direction stand in both",
    f"ioi/*, {SEARCHED}/*": SEARCH,
    "*/cross_faithfulness/random_high": ON_PATH,
    "*/selectivity/low": PAIRED,
    "*/selectivity/high": PAIRED,
    "*/selectivity/rows*": "a set that holds no head has no row, each stratum has one",
}
"""command/table/column, with * → why it is another number now"""


def told(where: str) -> str:
    """Why a number was changed on purpose; empty where it was not."""
    return next((why for pattern, why in PURPOSE.items() if fnmatch.fnmatch(where, pattern)), "")


def run(asked: Asked, source: Path, out: Path, which: str, full: bool) -> str:
    """The command with one source; its last words where it failed."""
    words = [*asked.words.split(), *(asked.full.split() if full else []), *getattr(asked, which).split()]
    if asked.plan:
        plan = out.with_suffix(".yaml")
        lines = [line for line in asked.plan.splitlines() if not line.startswith(("old ", "new "))]
        lines += [line[4:] for line in asked.plan.splitlines() if line.startswith(which)]
        plan.write_text("\n".join(lines) + "\n", encoding="utf-8")
        words = [str(plan) if word == "PLAN" else word for word in words]
    call = [sys.executable, "-c", "from babelscope.cli import main; main()", *words, "--out", str(out)]
    where = {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(call, env=where, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["no word"])[-1]


def columns(folder: Path) -> dict[str, pd.DataFrame]:
    """Every table, and every array as a table with its labels in front, by name."""
    found: dict[str, pd.DataFrame] = {}
    for file in sorted((folder / "tables").glob("*.csv")):
        found[file.stem] = pd.read_csv(file, keep_default_na=False, na_values=["", "NaN", "nan"])
    arrays = folder / "arrays.zarr"
    if arrays.is_dir():
        for group in ["", *[name for name, _ in zarr.open_group(arrays, mode="r").groups()]]:
            dataset = xr.open_zarr(arrays, group=group or None, consolidated=False)
            for name, array in dataset.data_vars.items():
                if array.ndim and array.dtype.kind in "fiub" and array.size < 2e6:
                    frame = array.astype(float).to_series().rename("value").reset_index()
                    found[f"array {group + '/' if group else ''}{name}"] = frame
    for name in [name for name, frame in found.items() if name.endswith("perplexity") and "deactivated" in frame]:
        alike = found[name].deactivated == APART
        found[f"{name}, {APART}"], found[name] = found[name][alike], found[name][~alike]
    for name in [name for name in found if name.startswith(FROM_SEARCH)]:
        frame = found[name]
        place = frame["found_in" if "found_in" in frame else "language"] == SEARCHED
        found[f"{name}, {SEARCHED}"], found[name] = frame[place], frame[~place]
    for name in [name for name, frame in found.items() if "metric" in frame]:
        place = found[name].metric.isin(TIED)
        found[f"{name}, ties"], found[name] = found[name][place], found[name][~place]
    return {name: frame.drop(columns=NAMES, errors="ignore") for name, frame in _by_label(found).items()}


def _by_label(found: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Points of a sweep by what they are of: their keys are other ones, since keys hold the version of the software."""
    if "points" not in found:
        return found
    points = found["points"]
    labels = dict(zip(points.key, points.label + " " + points.corpus))
    return {
        name: frame.assign(point=frame.point.map(labels)) if "point" in frame else frame
        for name, frame in found.items()
    }


def compare(old: pd.DataFrame, new: pd.DataFrame, least: float = 1e-12) -> dict[str, float]:
    """Largest difference of each shared column of numbers, rows joined by the columns of words; ∞ where one is NaN.

    Relative to the largest value of the column, or to `least` where that is more.
    """
    shared = [name for name in old if name in new]
    numeric = [name for name in shared if all(pd.api.types.is_float_dtype(one[name]) for one in (old, new))]
    keys = [name for name in shared if name not in numeric and name not in ("why", "interval")]
    numbered = [
        one.assign(_=one.groupby(keys, dropna=False).cumcount() if keys else range(len(one))) for one in (old, new)
    ]
    for one in numbered:
        one[keys] = one[keys].astype(str)
    both = numbered[0].merge(numbered[1], on=[*keys, "_"], suffixes=("_old", "_new"))
    found = {"rows without a partner": float(len(old) + len(new) - 2 * len(both))}
    for name in numeric:
        one, two = (both[f"{name}_{side}"].to_numpy(float) for side in ("old", "new"))
        scale = np.nanmax(np.abs(np.concatenate([one, two, [least]])))
        apart = np.where(np.isnan(one) & np.isnan(two), 0.0, np.abs(one - two) / scale)
        found[name] = float(np.nan_to_num(apart, nan=np.inf).max(initial=0.0))
    return found


def main(arguments: list[str] | None = None) -> int:
    """Print what differs, table by table; exit 1 where something does that was not to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("old", help="git revision to compare with")
    parser.add_argument("--full", action="store_true", help="more samples (half an hour instead of five minutes)")
    parser.add_argument("--only", action="append", choices=[asked.name for asked in COMMANDS])
    asked = parser.parse_args(arguments)
    worst, wrong = 0.0, 0
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    with source_at(asked.old) as before, tempfile.TemporaryDirectory(prefix="same-") as folder:
        for one in COMMANDS:
            if asked.only and one.name not in asked.only:
                continue
            sides = {}
            for which, source in (("old", before), ("new", ROOT / "src")):
                out = Path(folder) / f"{one.name}-{which}"
                failed = run(one, source, out, which, asked.full)
                if failed:
                    print(f"{one.name} ({which}): {failed}")
                    wrong += 1
                sides[which] = columns(out)
            gone = sorted(set(sides["old"]) - set(sides["new"]))
            print(f"\n{one.name}: {len(sides['old'])} tables and arrays before, {len(sides['new'])} now")
            for name in gone:
                why = told(f"{one.name}/{name}")
                print(f"  {name}: not there any more{' – ' + why if why else ''}")
                wrong += not why
            same: list[str] = []
            for name in sorted(set(sides["old"]) & set(sides["new"])):
                found = compare(sides["old"][name], sides["new"][name], LEAST if name.startswith(EFFECTS) else 1e-12)
                apart = {column: value for column, value in found.items() if value > CLOSE}
                worst = max([worst, *(value for value in found.values() if value <= CLOSE)])
                if not apart:
                    same.append(name)
                for column, value in apart.items():
                    why = told(f"{one.name}/{name}/{column}")
                    print(f"  {name}, {column}: {value:.2g}{' – ' + why if why else '  UNEXPECTED'}")
                    wrong += not why
            print(f"  the same to {CLOSE:g}: {', '.join(same)}")
    print(f"\nlargest difference among those that are the same: {worst:.2g}; unexpected: {wrong}")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
