"""Measure and print the tables of circuits-pocket.md and circuits-overlap.md, and draw their pictures.

    python docs/make_circuits.py runs/circuits [--n 32] [--only ioi,mono,tense,nine]

What is measured already under that folder is only printed. Each study is also one command, printed above its tables.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import circuits_overlap
import numpy as np
import pandas as pd
from markdown_tables import frame, p_value, span, table

from babelscope.results import Run, open_run

IMAGES = Path(__file__).parent / "img"
BLOOM, ENGLISH, CHINESE = "pocket:pocket-bloom-m", "pocket:pocket-gpt2-en", "pocket:pocket-gpt2-zh"
STUDIES: dict[str, dict[str, Any]] = {
    "ioi": dict(model=BLOOM, languages=("en", "zh"), edges=False),
    "gpt2-en": dict(model=ENGLISH, languages=("en",), against=CHINESE, against_language="zh", edges=False),
    "gpt2-zh": dict(model=CHINESE, languages=("zh",), against=ENGLISH, against_language="en", edges=False),
    "tense": dict(model=BLOOM, task="past-tense", languages=("en", "zh"), edges=False),
    "tense-aspect": dict(
        model=BLOOM, task="past-tense", languages=("zh",), stratum={"zh": "aspect"}, edges=False, windows=(1,)
    ),
}
PARTS = {"ioi": ("ioi",), "mono": ("gpt2-en", "gpt2-zh"), "tense": ("tense", "tense-aspect"), "nine": ()}


def of_own_model(run: Run, name: str) -> pd.DataFrame:
    """A table's rows of the run's own model: a study against another one holds both in the same tables."""
    table = run.table(name)
    return table[table.model == run.summary["model"]] if "model" in table else table


def command(name: str, n: int, out: Path) -> str:
    """The study as it is typed."""
    given = dict(STUDIES[name])
    words = ["babelscope circuits", given.pop("model"), f"--languages {','.join(given.pop('languages'))} --n {n}"]
    for key, value in given.items():
        flag = f"--{key.replace('_', '-')}"
        if value is False:
            words.append(f"--no-{key}")
        elif key == "stratum":
            words.append(f"{flag} {','.join(f'{code}={which}' for code, which in value.items())}")
        elif key != "windows":
            words.append(f"{flag} {value}")
    return f"    {' '.join(words)} --out {out}"


def measured(name: str, n: int, folder: Path) -> Run:
    """The run of a study, made first when it is not there."""
    out = folder / name
    print(f"{command(name, n, out)}\n", flush=True)
    if not out.exists():
        from babelscope import load_model
        from babelscope.studies.circuits import CircuitsSettings, study_circuits
        from babelscope.studies.progress import bars

        given = dict(STUDIES[name])
        model, against = load_model(given.pop("model")), given.pop("against", None)
        other = load_model(against) if against else None
        study_circuits(model, CircuitsSettings(n=n, **given), out, against=other, progress=bars)
    return open_run(out)


# -- tables that every study has ------------------------------------------------------------------------------------


def tell_behaviour(run: Run) -> None:
    rows = [
        [r.language, r.stratum or "–", r.n, span(r.accuracy, r.low, r.high),
         span(r.logit_difference, r.logit_difference_low, r.logit_difference_high), r.exact, r.foil_probability]
        for r in of_own_model(run, "behaviour").itertuples()
    ]  # fmt: skip
    head = ["language", "stratum", "n", "accuracy (Wilson)", "logit difference (bootstrap t)", "exact", "P(foil)"]
    print(f"Behaviour:\n\n{table(head, rows)}")


def tell_roles(run: Run) -> None:
    if "roles" not in run.tables:
        print("No head passed the cut-off.\n")
        return
    rows = [
        [r.language, f"{r.layer}.{r.head}", r.step, r.role, span(r.effect, r.effect_low, r.effect_high),
         span(r.growth, r.growth_low, r.growth_high) if r.growth == r.growth else "", r.score_name, r.score, r.why]
        for r in of_own_model(run, "roles").itertuples()
    ]  # fmt: skip
    head = ["language", "head", "step", "role", "effect (95 %)", "growth (95 %)", "score", "its value", "why not more"]
    print(f"Roles:\n\n{table(head, rows)}")


def tell_scores(run: Run, names: Sequence[str]) -> None:
    """Role scores of every head that was found in any language, beside the mean over all heads."""
    scores = of_own_model(run, "role_scores")
    names = [name for name in names if name in scores]
    rows = []
    for code in run.languages:
        own = scores[scores.language == code]
        chosen = sorted({tuple(node) for each in run.summary["heads"].values() for node in each})
        for layer, head in chosen:
            one = own[(own.layer == layer) & (own["head"] == head)].iloc[0]
            rows.append([code, f"{layer}.{head}", *(float(one[name]) for name in names)])
        rows.append([code, "mean of all", *(float(own[name].mean()) for name in names)])
    print(f"Scores of the heads found in either language:\n\n{table(['language', 'head', *names], rows)}")


def tell_ablation(run: Run, which: str) -> None:
    """Accuracy and change of LD without each set of heads (or FFN); random draws as their mean and range."""
    found = of_own_model(run, "ablation")
    found = found[found["set"].str.startswith("ffn") == (which == "ffn")]
    rows = []
    for (name, code, stratum), each in found.groupby(["set", "language", "stratum"], sort=False):
        first = each.iloc[0]
        if len(each) == 1:
            accuracy = span(first.accuracy, first.low, first.high)
            change = span(first.ld_delta, first.ld_delta_low, first.ld_delta_high)
        else:
            accuracy = span(each.accuracy.mean(), each.accuracy.min(), each.accuracy.max())
            change = span(each.ld_delta.mean(), each.ld_delta.min(), each.ld_delta.max())
        said = [first.target_probability, first.foil_probability]
        rows.append([name, code, stratum or "–", int(first["size"]), len(each), accuracy, change, *said])
    head = ["without", "on", "stratum", "nodes", "draws", "accuracy", "change of LD", "P(target)", "P(foil)"]
    print(f"Ablation (mean ablation; intervals over prompts, for several draws the range):\n\n{table(head, rows)}")


def tell_selectivity(run: Run, which: str) -> None:
    if "selectivity" not in run.tables:
        return
    found = of_own_model(run, "selectivity")
    ffn = found["set"].str.startswith("ffn ") & ~found["set"].str.startswith("ffn window")
    found = found[ffn if which == "ffn" else ~found["set"].str.startswith("ffn")]
    rows = []
    for (name, one, two), each in found.groupby(["set", "stratum", "stratum2"], sort=False):
        first = each.iloc[0]
        value = (first.selectivity, first.low, first.high)
        if len(each) > 1:
            value = (each.selectivity.mean(), each.selectivity.min(), each.selectivity.max())
        clear = "" if len(each) > 1 else value[1] > 0 or value[2] < 0
        kind = "paired" if first.paired else "unpaired"
        rows.append([name, one or "–", two or "–", span(*value), clear, f"{int(first['items'])} {kind}"])
    head = ["without", "en", "zh", "Δen − Δzh, as shares of LD", "interval excludes 0", "shared items"]
    print(f"Selectivity (below zero: en loses more):\n\n{table(head, rows)}")


def tell_crossed(run: Run) -> None:
    for name in ("cross_faithfulness", "cross_edges"):
        if name in run.tables:
            found = of_own_model(run, name)
            rows = [[r.found_in, r.run_on, span(r.faithfulness, r.low, r.high), r.random] for r in found.itertuples()]
            print(f"{name}:\n\n{table(['found in', 'run on', 'faithfulness', 'random, same size'], rows)}")


def tell_promoted(run: Run, top: int = 6) -> None:
    if "promoted" not in run.tables:
        return
    rows = [
        [code, f"{layer}.{head}", " ".join(f"`{token}`" for token in each.sort_values("rank").token[:top])]
        for (code, layer, head), each in of_own_model(run, "promoted").groupby(
            ["language", "layer", "head"], sort=False
        )
    ]
    print(f"Promoted tokens, mean over prompts at END:\n\n{table(['language', 'head', 'tokens'], rows)}")


def tell_overlap(run: Run) -> None:
    rows = [
        [r.language, r.language2, r.measure, r.value, r.null, p_value(r.p)]
        for r in of_own_model(run, "overlap").itertuples()
    ]
    print(f"Overlap:\n\n{table(['language', 'language2', 'measure', 'value', 'null', 'p'], rows)}")
    heads = {code: {tuple(node) for node in found} for code, found in run.summary["heads"].items()}
    if len(heads) == 2 and all(heads.values()):
        one, two = heads.values()
        layers, width = (run.arrays().sizes[name] for name in ("layer", "head"))
        p = same_heads(one, two, width)
        print(
            f"Heads found: {len(one)} and {len(two)} of {layers * width}, {len(one & two)} the same; p = {p_value(p)}"
        )
        print("(as many drawn from the same layers)\n")


def same_heads(one: set[Any], two: set[Any], width: int, draws: int = 9999) -> float:
    """Share of draws, as many heads in each layer as `two` has, that share as many heads with `one`."""
    rng, shared = np.random.default_rng(0), len(one & two)
    counts = {layer: sum(node[0] == layer for node in two) for layer, _ in two}
    hits = 0
    for _ in range(draws):
        drawn = {(x, int(head)) for x, count in counts.items() for head in rng.choice(width, count, replace=False)}
        hits += len(one & drawn) >= shared
    return (1 + hits) / (draws + 1)


# -- one part each --------------------------------------------------------------------------------------------------

IOI_SCORES = (
    "copy", "negative copy", "attention END→IO", "attention END→S1", "attention END→S2",
    "attention END→IO × writes IO", "writes target", "writes foil", "duplicate-token", "induction", "previous-token",
)  # fmt: skip
TENSE_SCORES = (
    "attention END→VERB1", "attention END→TIME2", "writes target", "writes foil", "attention END→VERB1 × writes base",
    "writes target − foil of other prompts",
)  # fmt: skip


def tell_ioi(runs: Sequence[Run]) -> None:
    (run,) = runs
    tell_behaviour(run)
    tell_roles(run)
    tell_scores(run, IOI_SCORES)
    tell_overlap(run)
    tell_ablation(run, "heads")
    tell_selectivity(run, "heads")
    tell_ablation(run, "ffn")
    tell_selectivity(run, "ffn")
    tell_crossed(run)
    tell_promoted(run)


def tell_mono(runs: Sequence[Run]) -> None:
    for run in runs:
        tell_behaviour(run)
        tell_roles(run)
        tell_scores(run, IOI_SCORES)
        tell_ablation(run, "heads")
        matched = run.table("matching")
        close = float((matched.distance < matched.null_distance).mean())
        print(f"Heads of {run.model_name} matched by role with {matched.model2[0]}: mean distance "
              f"{matched.distance.mean():.2f}, of shuffled scores {matched.null_distance.mean():.2f}, "
              f"p of the matching = {p_value(float(matched.matching_p[0]))}; {close:.0%} of ranks nearer than "
              f"shuffled ones\n")  # fmt: skip
        chosen = {tuple(node) for each in run.summary["heads"].values() for node in each}
        rows = [
            [f"{r.layer}.{r.head}", f"{r.layer2}.{r.head2}", r.distance, r.null_distance, p_value(r.p)]
            for r in matched.itertuples()
            if (r.layer, r.head) in chosen
        ]
        print(table(["head with a role", "its match", "distance", "shuffled, at this rank", "p of the pair"], rows))


def tell_tense(runs: Sequence[Run]) -> None:
    for run in runs:
        tell_behaviour(run)
        tell_roles(run)
        if "ffn" in run.tables:
            rows = [[r.language, r.step, f"m{r.layer}", r.effect] for r in of_own_model(run, "ffn").itertuples()]
            print(f"FFNs found:\n\n{table(['language', 'step', 'FFN', 'effect'], rows)}")
        _dissociation(run)
        tell_scores(run, TENSE_SCORES)
        if "overlap" in run.tables and len(run.languages) > 1:
            tell_overlap(run)
        tell_ablation(run, "heads")
        tell_selectivity(run, "heads")
        tell_ablation(run, "ffn")
        tell_selectivity(run, "ffn")
        _lens(run)
        if "cross_faithfulness" in run.tables:
            tell_crossed(run)
        tell_promoted(run)


def _dissociation(run: Run) -> None:
    """Direct effects under either corruption, of the heads that were found."""
    arrays = run.arrays()
    rows = []
    chosen = sorted({tuple(node) for each in run.summary["heads"].values() for node in each})
    for code in run.languages:
        for layer, head in chosen:
            place = dict(language=code, layer=layer, head=head)
            effects = [float(arrays[f"step_{step}"].sel(place)) for step in ("direct", "direct_verb")]
            rows.append([code, f"{layer}.{head}", *effects])
    print(f"Double dissociation, direct effects:\n\n{table(['language', 'head', 'tense flip', 'verb swap'], rows)}")


def _lens(run: Run) -> None:
    arrays = run.arrays()
    columns = {
        f"{code} {when}": arrays[f"lens_{when}"].sel(language=code).values
        for code in run.languages
        for when in ("before", "after")
    }
    print(f"Logit lens, target − foil before and after each FFN:\n\n{frame(pd.DataFrame(columns), 'layer')}")


TELL = {"ioi": tell_ioi, "mono": tell_mono, "tense": tell_tense}


# -- pictures -------------------------------------------------------------------------------------------------------


def pictures(folder: Path) -> None:
    """The figures of the two pages, from runs that are there."""
    from babelscope.figures import draw

    IMAGES.mkdir(exist_ok=True)
    if (folder / "ioi").exists():
        run = open_run(folder / "ioi")
        draw(run, "head_heatmap").savefig(IMAGES / "circuits-ioi-heads.png", dpi=100)
    if (folder / "tense").exists():
        _selectivity_picture(open_run(folder / "tense"))
    if list(folder.glob("ioi9-cross-*")):
        _nine_picture(folder / "ioi9")


def _selectivity_picture(run: Run) -> None:
    from babelscope.figures import Figure, printed
    from babelscope.figures.spec import Axis, Panel, Points, Rule

    found = of_own_model(run, "selectivity")
    found = found[found["set"].str.fullmatch(r"ffn \d+") & (found.language != found.language2)]
    found = found.assign(layer=found["set"].str.extract(r"(\d+)")[0].astype(int))
    pairs = list(found.groupby(["stratum", "stratum2"], sort=False))
    marks = [
        Points(
            f"{one} – {two}", (each.layer + (place - (len(pairs) - 1) / 2) * 0.08).tolist(), each.selectivity.tolist(),
            each.low.tolist(), each.high.tolist(), place,
        )
        for place, ((one, two), each) in enumerate(pairs)
    ]  # fmt: skip
    axes = Axis("feed-forward block removed", whole=True), Axis("Δ en − Δ zh, shares of LD")
    figure = Figure("Selectivity of FFNs, en – zh", "", (Panel((*marks, Rule(0.0)), *axes),))
    printed(figure).savefig(IMAGES / "circuits-tense-ffn.png", dpi=100)


def _nine_picture(out: Path) -> None:
    from babelscope.figures import Figure, printed
    from babelscope.figures.facts import languages_axis, square, written
    from babelscope.figures.spec import Cells, Panel

    codes = list(circuits_overlap.LANGUAGES)
    crossed = circuits_overlap.crossed_of(out)
    _, f = square(zip(crossed.found_in, crossed.run_on, crossed.faithfulness), codes)
    effects = circuits_overlap.scores_of(out).patched_prompt.values.mean(-1).reshape(len(codes), -1)
    panels = {"faithfulness: found in (rows), run on (columns)": f, "patching of heads, r": np.corrcoef(effects)}
    axis = languages_axis(codes)
    figure = Figure("Nine languages", "", tuple(
        Panel((Cells(values, "", low=0.0, high=1.0, texts=written(values)),), axis, axis, title, square=True)
        for title, values in panels.items()
    ))  # fmt: skip
    printed(figure).savefig(IMAGES / "circuits-nine.png", dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--n", type=int, default=32)
    parser.add_argument("--only", default=",".join(PARTS))
    given = parser.parse_args()
    for part in given.only.split(","):
        print(f"# {part}\n", flush=True)
        if part == "nine":
            out = given.folder / "ioi9"
            circuits_overlap.measured(BLOOM, out, given.n)
            circuits_overlap.tell(out)
        else:
            TELL[part]([measured(name, given.n, given.folder) for name in PARTS[part]])
    pictures(given.folder)


if __name__ == "__main__":
    main()
