"""The deactivation table in rounds against all text at once: the same conclusions, what is saved, and coverage.

    python -m benchmarks.rounds [--bible FOLDER] [--text-tokens 8192] [--controls 5] [--languages en,fr]
    python -m benchmarks.rounds --coverage [--repeats 100] [--documents 20 60]

Two tables of one model, or simulated documents. FOLDER holds `models/bible-bloom/final` and `data/bible/ces-nt`;
without it the built-in model is read. A conclusion is what the run says of a region: whether its own language's ΔNLL
lies above every random draw of the same layers, and on which side of 0 its selectivity lies, intervals included.
Coverage: how often intervals at whichever look their reading ended hold the truth, over all sets and languages;
documents are normal or skewed, effects strong, weak or none.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Collection, Mapping
from functools import lru_cache
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from babelscope import load_corpus, load_model, stats
from babelscope.regions.perplexity import Loss
from babelscope.regions.rounds import BASE, ROUNDS, Key, by_rounds, selectivity_in_rounds
from babelscope.regions.table import DeactivationTable, deactivation_table
from babelscope.stats import wilson
from babelscope.studies.region_settings import RegionsSettings
from babelscope.studies.regions import regions_study
from babelscope.studies.steps import run_steps
from benchmarks._measure import result, tell

SPENT = sum(look.error for look in ROUNDS)


def conclusions(table: DeactivationTable) -> dict[str, tuple[bool, int]]:
    """By language: above every draw; side of the selectivity (0: its interval holds 0, or there is none)."""
    selective = {row.language: (row.low > 0) - (row.high < 0) for row in table.selectivity}
    found: dict[str, tuple[bool, int]] = {}
    for code, side in selective.items():
        own = next(row for row in table.rows if (row.deactivated, row.language) == (code, code))
        draws = [row.delta_nll for row in table.rows if (row.deactivated, row.language) == ("random-layer", code)]
        found[code] = (own.delta_low > max(draws), int(side))
    return found


def tables(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """One model, both ways."""
    languages = tuple(arguments.languages.split(",")) if arguments.languages else None
    if arguments.bible:
        name, model = "bible-bloom", load_model(str(arguments.bible / "models/bible-bloom/final"))
        spec = f"bible:{arguments.bible / 'data/bible/ces-nt'}"
        settings = RegionsSettings(
            corpus=spec,
            languages=languages,
            texts=f"{spec}?books=JAM,1PE,COL",
            window=256,
            text_tokens=arguments.text_tokens,
        )
    else:
        name, model = "pocket", load_model("pocket:pocket-bloom-m")
        settings = RegionsSettings(
            corpus="pocket:heldout", languages=languages, texts="pocket:heldout?seed=1", window=128, joint="eos",
            text_tokens=arguments.text_tokens,
        )  # fmt: skip
    study = regions_study(model, settings, load_corpus(settings.corpus, settings.languages))
    regions = run_steps([study.recording, study.regions])[study.regions].main
    told: dict[str, DeactivationTable] = {}
    for way in ("rounds", "fixed"):
        start = time.process_time()
        told[way] = deactivation_table(
            model, study.windows, regions, arguments.controls, settings.seed, fixed=way == "fixed"
        )
        print(f"{name}, {way}: {told[way].tokens} tokens, {time.process_time() - start:.0f} processor seconds")
    rounds, fixed = told["rounds"], told["fixed"]
    print(f"sets in languages, by the rounds that they were read in: {rounds.reading}")
    same = 0
    print("| region | own ΔNLL, rounds | own ΔNLL, fixed | selectivity, rounds | selectivity, fixed | same |")
    print("|---|---|---|---|---|---|")
    ours, theirs = conclusions(rounds), conclusions(fixed)
    for code in ours:
        cells: list[str] = []
        for table in (rounds, fixed):
            own = next(row for row in table.rows if (row.deactivated, row.language) == (code, code))
            cells.append(f"{own.delta_nll:.3f} ({own.delta_low:.3f} to {own.delta_high:.3f})")
        for table in (rounds, fixed):
            one = next(row for row in table.selectivity if row.language == code)
            cells.append(f"{one.selectivity:.3f} ({one.low:.3f} to {one.high:.3f})")
        same += ours[code] == theirs[code]
        print(f"| {code} | {' | '.join(cells)} | {'yes' if ours[code] == theirs[code] else 'no'} |")
    saved = 1 - rounds.tokens / fixed.tokens
    return [
        result(f"{name}: languages with the same conclusions, of {len(ours)}", same, len(ours), "higher", ""),
        result(f"{name}: share of the tokens saved", saved, 0.4, "higher", ""),
    ]


class Simulated:
    """Documents of some languages with known mean ΔNLL under some sets, dealt to rounds."""

    def __init__(self, rng: np.random.Generator, own: float, documents: int, skewed: bool) -> None:
        self.languages = ["a", "b"]
        self.sets: dict[Key, int] = {BASE: 0, ("a", -1): 9, ("b", -1): 9, ("random", 0): 9}
        sizes = rng.integers(50, 500, (len(self.languages), documents))
        self.counts = torch.from_numpy(sizes)
        self.truth: dict[tuple[Key, str], float] = {}
        self.losses: dict[tuple[Key, str], Any] = {}
        for key in self.sets:
            if key == BASE:
                continue
            # documents are alike in all languages in part, as translations are
            shared = self._drawn(rng, documents, skewed)
            for place, code in enumerate(self.languages):
                mean = own if key == (code, -1) else 0.02
                spread = 0.6 * own + 0.01 if key == (code, -1) else 0.02
                noise = 0.7 * shared + 0.7 * self._drawn(rng, documents, skewed)
                self.truth[key, code] = mean
                self.losses[key, code] = torch.from_numpy((mean + spread * noise) * sizes[place])
        order = torch.from_numpy(rng.permutation(documents))
        ends = [0, *(int(np.ceil(look.share * documents)) for look in ROUNDS)]
        self.parts = [order[start:end] for start, end in pairwise(ends)]

    @staticmethod
    def _drawn(rng: np.random.Generator, count: int, skewed: bool) -> np.ndarray[Any, Any]:
        return rng.exponential(1, count) - 1 if skewed else rng.standard_normal(count)

    def read(self, round_: int, keys: Mapping[str, Collection[Key]]) -> dict[str, dict[Key, Loss]]:
        """What a round adds."""
        return {code: self._read(code, round_, own) for code, own in keys.items()}

    def _read(self, code: str, round_: int, keys: Collection[Key]) -> dict[Key, Loss]:
        rows, place = self.parts[round_], self.languages.index(code)
        counts = torch.zeros(self.counts.shape[1], dtype=torch.long)
        counts[rows] = self.counts[place][rows]
        found = {BASE: Loss(torch.zeros(len(counts), dtype=torch.float64), counts, 1)}
        for key in keys:
            total = torch.zeros(len(counts), dtype=torch.float64)
            total[rows] = self.losses[key, code][rows]
            found[key] = Loss(total, counts, 1)
        return found


def coverage(repeats: int, sizes: list[int]) -> list[dict[str, Any]]:
    """How often the intervals hold the truth, at whichever look their reading ended."""
    # every interval of so many documents draws the same samples: they are drawn once
    stats.bootstrap_counts = lru_cache(maxsize=32)(stats.bootstrap_counts)
    results: list[dict[str, Any]] = []
    print("| documents | effect | intervals of ΔNLL | of own regions | selectivity | read by rounds 1, 2, 3 |")
    print("|---|---|---|---|---|---|")
    pooled = {kind: Counter[tuple[str, bool]]() for kind in ("normal", "skewed")}
    for documents, kind, (name, own) in product(sizes, pooled, (("strong", 1.0), ("weak", 0.1), ("none", 0.0))):
        held, ended = Counter[tuple[str, bool]](), Counter[int]()
        for repeat in range(repeats):
            made = Simulated(
                np.random.default_rng([repeat, documents, kind == "skewed", round(10 * own)]),
                own,
                documents,
                kind == "skewed",
            )
            found = by_rounds(made.read, dict.fromkeys(made.languages, made.sets))
            for (key, code), truth in made.truth.items():
                cell = found.cells[key][code]
                good = bool(cell.change.low <= truth <= cell.change.high)
                ended[cell.rounds] += 1
                held["all", good] += 1
                held["own", good] += key == (code, -1)
            for code in made.languages:
                row = found.cells[code, -1]
                ends = selectivity_in_rounds(row[code], {other: row[other] for other in row if other != code})
                held["selectivity", bool(ends.low <= own - 0.02 <= ends.high)] += 1
        pooled[kind].update(held)
        spread = ", ".join(str(ended[place]) for place in (1, 2, 3))
        print(f"| {documents} {kind} | {name} | {' | '.join(shares(held))} | {spread} |", flush=True)
    for kind, held in pooled.items():
        print(f"| all {kind} | | {' | '.join(shares(held))} | |")
        one = wilson(held["all", True], held["all", True] + held["all", False])
        # skewed documents: as for any interval over few of them
        bound = 1 - SPENT if kind == "normal" else None
        results.append(result(f"coverage in rounds, {kind} documents", one.value, bound, "higher", ""))
    return results


def shares(held: Counter[tuple[str, bool]]) -> list[str]:
    """How many intervals of each kind hold the truth."""
    found = [wilson(held[kind, True], held[kind, True] + held[kind, False]) for kind in ("all", "own", "selectivity")]
    return [f"{one.value:.3f} ({one.low:.3f} to {one.high:.3f})" for one in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bible", type=Path)
    parser.add_argument("--text-tokens", type=int, default=8192)
    parser.add_argument("--controls", type=int, default=5)
    parser.add_argument("--languages", help="codes, by commas [all]")
    parser.add_argument("--coverage", action="store_true")
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--documents", type=int, nargs="+", default=[20, 60])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    tell(coverage(arguments.repeats, arguments.documents) if arguments.coverage else tables(arguments), arguments.json)


if __name__ == "__main__":
    main()
