"""Write the tables and the figure of `docs/mixtures.md` again from a run.

babelscope regions pocket:pocket-moe --corpus pocket:heldout --samples 100 --permutations 1000 \
    --texts "pocket:heldout?seed=1" --window 128 --text-tokens 1024 --controls 2 --fixed --out runs/moe
python docs/make_mixtures.py runs/moe
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from babelscope import open_run
from babelscope.results import Run

PAGE = Path(__file__).parent / "mixtures.md"
IMAGE = Path(__file__).parent / "img" / "routing.png"
FIRST, LAST = "<!-- tables -->", "<!-- end of tables -->"


def markdown(table: pd.DataFrame) -> Iterator[str]:
    yield "| " + " | ".join(map(str, table.columns)) + " |"
    yield "|" + "---|" * len(table.columns)
    for row in table.itertuples(index=False):
        yield "| " + " | ".join(map(str, row)) + " |"


def by_layer(run: Run) -> pd.DataFrame:
    """Means over the languages other than the reference, beside their null."""
    layers, similar = run.table("routing_layer"), run.table("routing_similarity")
    experts = run.table("routing_expert")
    rows = []
    for layer, part in layers.groupby("layer"):
        one = similar[(similar.layer == layer) & similar.centred].iloc[0]
        own = experts[experts.layer == layer]
        rows.append(
            {
                "layer": layer,
                "JS of languages, nats": f"{part.pooled_js.mean():.3f}",
                "97.5 % of shuffled": f"{part.pooled_js_null_high.mean():.4f}",
                "languages beyond it": f"{int((part.pooled_js > part.pooled_js_null_high).sum())} of {len(part)}",
                "D of translations": f"{part.divergence.mean():.2f}",
                "D of other sentences": f"{part.other_sentence.mean():.2f}",
                "alignment": f"{part.alignment.mean():.2f}",
                "LRDS": f"{one.lrds:.2f} ({one.lrds_low:.2f}–{one.lrds_high:.2f})",
                "SADS": f"{one.sads:.3f} ({one.sads_low:.3f}–{one.sads_high:.3f})",
                "evenness": f"{part.evenness.mean():.2f}",
                "specialised": int(own.specialised.sum()),
                "exclusive": int(own.exclusive.sum()),
            }
        )
    return pd.DataFrame(rows)


def own_experts(run: Run) -> pd.DataFrame:
    """For each language the three experts that it is given most beyond the others."""
    experts = run.table("routing_expert")
    rows = []
    for language, part in experts.groupby("language", sort=False):
        best = part.assign(raised=part.f - part.f_others).nlargest(3, "raised")
        cells = [
            f"{one.layer}:{one.expert} ({100 * one.f:.0f} against {100 * one.f_others:.0f} %)"
            for one in best.itertuples()
        ]
        rows.append({"language": language, "1": cells[0], "2": cells[1], "3": cells[2],
                     "raised at FDR 0.05": f"{int(part.chosen.sum())} of {len(part)}"})  # fmt: skip
    return pd.DataFrame(rows)


def deactivated(run: Run) -> pd.DataFrame:
    """Loss added to the language itself and, in the mean, to the others, by way; and by matched experts."""
    table = run.table("routing_deactivation")
    rows = []
    for code, part in table.groupby("deactivated", sort=False):
        own = part[(part.kind == "own") & (part.language == code)].set_index("way")
        others = part[(part.kind == "own") & (part.language != code)].groupby("way").delta_nll.mean()
        control = part[(part.kind == "matched") & (part.language == code)]
        drop = own.loc["drop"]
        rows.append(
            {
                "language": code,
                "expert": f"{drop.layer}:{drop.expert}",
                "drop: itself": f"{drop.delta_nll:.2f} ({drop.delta_nll_low:.2f}–{drop.delta_nll_high:.2f})",
                "others": f"{others['drop']:.2f}",
                "renormalised: itself": f"{own.loc['drop-renormalised'].delta_nll:.2f}",
                "reroute: itself": f"{own.loc['reroute'].delta_nll:.2f}",
                "matched experts: itself": " ".join(f"{value:.2f}" for value in control.delta_nll) or "–",
            }
        )
    return pd.DataFrame(rows)


def drawn(run: Run) -> Figure:
    """Share of each language's tokens that every expert is given, layer by layer; a dot where beyond chance."""
    experts = run.table("routing_expert")
    languages = list(dict.fromkeys(experts.language))
    layers = sorted(set(experts.layer))
    figure = Figure(figsize=(1.55 * len(layers) + 1.0, 0.26 * len(languages) + 1.0), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(layers), sharey=True))
    for layer, axes in zip(layers, panels):
        part = experts[experts.layer == layer]
        grid = part.pivot(index="language", columns="expert", values="f").loc[languages]
        raised = part.pivot(index="language", columns="expert", values="chosen").loc[languages]
        image = axes.imshow(grid, vmin=0, vmax=1, cmap="viridis", aspect="auto")
        for row, column in np.argwhere(raised.to_numpy(dtype=bool)):
            axes.plot(column, row, "o", color="white", markeredgecolor="black", markersize=3, markeredgewidth=0.4)
        axes.set_title(f"layer {layer}", fontsize=9)
        axes.set_xticks(range(grid.shape[1]))
        axes.tick_params(labelsize=7, length=0)
        axes.set_xlabel("expert", fontsize=8)
    panels[0].set_yticks(range(len(languages)), languages)
    figure.colorbar(image, ax=list(panels), label="share of tokens").ax.tick_params(labelsize=7)
    return figure


def main(path: Path) -> None:
    run = open_run(path)
    parts = [("By layer", by_layer(run)), ("Experts by language", own_experts(run)), ("Switched off", deactivated(run))]
    text = "\n".join(line for name, table in parts for line in (f"\n{name}:\n", *markdown(table)))
    page = PAGE.read_text(encoding="utf-8")
    between = re.compile(f"{FIRST}.*?{LAST}", re.DOTALL)
    PAGE.write_text(between.sub(lambda _: f"{FIRST}\n{text}\n{LAST}", page), encoding="utf-8")
    drawn(run).savefig(IMAGE, dpi=110)
    print(text)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
