"""What was tried of directions, layer rules, sampling and chat on `pocket-bloom-m`: the tables of `docs/steering.md`.

    python docs/steering_tried.py runs/tried [methods] [rules] [sampling] [chat]

Runs that are in the folder already are only printed.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pandas as pd

from babelscope import load_model
from babelscope.corpora import load_corpus
from babelscope.models import Model
from babelscope.results import Run, open_run
from babelscope.steering.directions import dominance, intersection_layer, separation_layer
from babelscope.steering.moments import collect
from babelscope.studies.steer import study_steering
from babelscope.studies.steer_settings import SteerSettings

MODEL, CORPUS = "pocket:pocket-bloom-m", "pocket:heldout?n=240"
SMALL: dict[str, Any] = {
    "corpus": CORPUS, "choose_prompts": 12, "report_prompts": 24, "controls": 1, "third": 0, "tokens": 24,
    "fixed": True,
}  # fmt: skip
TEMPLATE = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def run_of(model: Model, out: Path, settings: SteerSettings) -> Run:
    return open_run(out) if out.exists() else study_steering(model, settings, out)


def show(run: Run) -> None:
    """The settings that were chosen, on the report documents."""
    steering, damage = run.table("steering"), run.table("damage")
    print("| pair | method | layer, α | chosen at ΔNLL ≤ | success | looping | ΔNLL, nats |")
    print("|---|---|---|---|---|---|---|")
    for _, row in steering[steering.condition != "prompted"].iterrows():
        ends = f"{row.success:.2f} [{row.success_low:.2f}, {row.success_high:.2f}], n = {row.n}"
        if row.condition == "unsteered":
            print(f"| {row.source}→{row.target} | unsteered | – | – | {ends} | {_said(row.looping)} | 0 |")
            continue
        same = damage[(damage.role == "target") & (damage.condition == "steered")]
        for name in ("source", "target", "method", "layer", "alpha"):
            same = same[same[name] == row[name]]
        print(f"| {row.source}→{row.target} | {row.method} | {row.layer:g}, {row.alpha:g} | {row.chosen_at} | {ends} "
              f"| {_said(row.looping)} | {same.delta_nll.iloc[0]:.2f} |")  # fmt: skip
    drawn = run.table("controls")
    print("controls:", {name: f"{own.success.mean():.2f} of {len(own)}" for name, own in drawn.groupby("control")})


def _said(value: float) -> str:
    return "–" if pd.isna(value) else f"{value:.2f}"


def methods(model: Model, folder: Path) -> None:
    for pair in ("en:fr", "en:zh"):
        show(run_of(model, folder / pair.replace(":", "-"), SteerSettings(
            pairs=(pair,), method=("diffmean", "rest", "lda", "pca"), alpha=(1.0, 1.5, 2.0, 4.0), **SMALL
        )))  # fmt: skip


def rules(model: Model, folder: Path) -> None:
    del folder
    moments = collect(model, load_corpus(CORPUS))
    print("share of the first eigenvalue, by layer:", ", ".join(f"{value:.2f}" for value in dominance(moments)))
    print("intersection rule: layer", intersection_layer(moments))
    for source, target in (("en", "fr"), ("es", "pt"), ("en", "zh")):
        print(f"separation rule, {source} to {target}: layer {separation_layer(moments, source, target)}")


def sampling(model: Model, folder: Path) -> None:
    show(run_of(model, folder / "sampling", SteerSettings(
        pairs=("en:fr",), layer="intersection", temperature=0.3, top_p=0.75, **SMALL
    )))  # fmt: skip


def chat(model: Model, folder: Path) -> None:
    """Everyday questions in a template that the model never saw: that the way through it holds, no more."""
    model.tokenizer.chat_template = TEMPLATE
    run = run_of(model, folder / "chat", SteerSettings(pairs=("en:fr",), prompts="everyday", chat="on", **SMALL))
    model.tokenizer.chat_template = None
    print("first prompt:", repr(run.manifest["generation"]["first_prompt"]))
    print("template:", run.manifest["generation"]["template"][:12])
    show(run)


PARTS = {"methods": methods, "rules": rules, "sampling": sampling, "chat": chat}

if __name__ == "__main__":
    loaded = load_model(MODEL)
    for name in sys.argv[2:] or PARTS:
        PARTS[name](loaded, Path(sys.argv[1]))
