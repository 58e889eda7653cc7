"""The sections of a run of latent language: the verdict in words first, then what it rests on."""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false, reportAssignmentType=false
# pandas declares what a selection returns as a union that no single frame is; the shapes are checked by tests.

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from babelscope.plots.latent import MOVED, pairs_of, scope_text, shown_pair, strengths
from babelscope.plots.style import holds
from babelscope.report import shapes
from babelscope.report.blocks import Block, Chart, Section, Table, Variant, gather, language_name
from babelscope.results import Run

OBJECTIONS = (
    "Read with care: a language's mass is language, not meaning, so only excess over other words and other prompts "
    "counts; the lens is biased and brittle in early layers; English leads on content words and depends on the "
    "training data; no lens is causal: what is read need not be used."
)


def latent_sections(run: Run) -> list[Section]:
    """Verdict, curves, controls, tuned lens, patching, alignment, census: those that the run holds."""
    sections = [
        Section("What was found", gather(run, ("Findings", _findings), ("Verdicts", _verdicts))),
        Section("Layer by layer", gather(run, ("Excess", _excess), ("Mass", _mass), ("Entropy", _entropy))),
        Section("Controls", gather(run, ("Controls", _controls), ("Strengths", _strengths))),
        Section("Tuned lens", gather(run, ("Tuned lens", _tuned))),
        Section("Patching", gather(run, ("Last position", _last), ("Word", _word), ("Recovery", _recovery))),
        Section("Residual alignment", gather(run, ("Alignment", _alignment))),
        Section("Words", gather(run, ("Census", _census))),
    ]
    return [section for section in sections if section.blocks]


def _findings(run: Run) -> Block | None:
    sentences: list[str] = run.summary.get("sentences") or []
    if not sentences:
        return None
    frame = pd.DataFrame({"finding": sentences})
    return Table("findings", "Findings", OBJECTIONS, frame, ("finding",), language_column="")


def _verdicts(run: Run) -> Block | None:
    if not holds(run, "table:verdicts"):
        return None
    table = run.table("verdicts")
    caption = (
        "The verdict is that on solved concepts; the same rules on all concepts stand beside it. Strength: excess of "
        "the word, mean over the inner layers; p against permuted concepts, adjusted over candidates."
    )
    return Table("verdicts", "Verdict for each candidate language", caption, table)


def _curves(run: Run, y: str, bands: bool) -> list[Variant]:
    variants: list[Variant] = []
    for pair, lens in pairs_of(run):
        table = shown_pair(run, pair, lens)
        traces: list[dict[str, Any]] = []
        for index, (code, own) in enumerate(table.groupby("language", sort=False)):
            frame = own[["layer", y]].rename(columns={y: "value"})
            if bands:
                frame = frame.assign(low=own.excess_low, high=own.excess_high).dropna()
            traces += shapes.curve(frame.reset_index(drop=True), language_name(str(code)), index)
        described = shapes.layer_layout(int(table.layer.max()) + 1, y if y != "mass" else "mass of the word")
        variants.append(Variant(f"{pair}, {lens} lens", {"data": traces, "layout": described}, table))
    return variants


def _excess(run: Run) -> Block | None:
    if not holds(run, "table:curves"):
        return None
    table = shown_pair(run)
    caption = (
        "How much likelier the lens finds the concept's own word than other words of that language on the same prompt "
        f"and the same word on other prompts; {scope_text(table)}. Bands: 95 %, in all inner layers at once; layer 0 "
        "reads the input back and the last layer is the output, so both stand outside. A language is passed through "
        "where its excess rises above the target's and goes again."
    )
    variants = _curves(run, "excess", True)
    return Chart("latent-excess", "Excess by layer", caption, variants=variants, choose="Pair", twin="latent_excess")


def _mass(run: Run) -> Block | None:
    if not holds(run, "table:curves"):
        return None
    caption = (
        f"Probability of the concept's word in each language, {scope_text(shown_pair(run))}. It is never the verdict: "
        "mass grows with how frequent a word is, and with how many of its tokens others share."
    )
    variants = _curves(run, "mass", False)
    return Chart("latent-mass", "Mass by layer", caption, variants=variants, choose="Pair", twin="latent_mass")


def _entropy(run: Run) -> Block | None:
    if not holds(run, "table:entropy"):
        return None
    variants: list[Variant] = []
    for index, (key, own) in enumerate(run.table("entropy").groupby(["source", "target", "lens"], sort=False)):
        frame = own.rename(columns={"entropy": "value", "entropy_low": "low", "entropy_high": "high"}).dropna()
        source, target, lens = key
        traces = shapes.curve(frame.reset_index(drop=True), "entropy", index)
        described = shapes.layer_layout(int(own.layer.max()) + 1, "bits")
        variants.append(Variant(f"{source}→{target}, {lens} lens", {"data": traces, "layout": described}, own))
    caption = "Entropy of the next word as the lens sees it, mean over concepts with a 95 % band over all layers."
    return Chart("latent-entropy", "Entropy by layer", caption, variants=variants, choose="Pair")


def _controls(run: Run) -> Block | None:
    if not holds(run, "table:controls"):
        return None
    variants: list[Variant] = []
    whole = run.table("controls")
    for pair, lens in pairs_of(run):
        scope = shown_pair(run, pair, lens).scope.iloc[0]
        same = (whole.source + "→" + whole.target == pair) & (whole.lens == lens) & (whole.scope == scope)
        table = whole[same & ~whole.control.str.startswith(("minus", "Spearman"))]
        traces = [
            shapes.bars(own.language, own.value, str(name), index, own.value_low, own.value_high)
            for index, (name, own) in enumerate(table.groupby("control", sort=False))
        ]
        described = shapes.layout("candidate", "strength A", barmode="group")
        variants.append(Variant(f"{pair}, {lens} lens", {"data": traces, "layout": described}, whole[same]))
    caption = (
        "Strength as it is and under each control, 95 % intervals over concepts. Rows of matched spectrum stand for "
        "the 95 % quantile of strengths that rows with the same length and the same cosine to the target's give."
    )
    return Chart(
        "latent-controls", "Controls", caption, variants=variants, choose="Pair", twin="latent_controls", height=430
    )


def _strengths(run: Run) -> Block | None:
    if not holds(run, "table:verdicts"):
        return None
    variants: list[Variant] = []
    for lens in dict.fromkeys(run.table("verdicts").lens):
        table = strengths(run, lens)
        if table.strength.notna().any():
            matrix = table.pivot_table(index="pair", columns="language", values="strength", sort=False)
            figure = shapes.with_texts(
                shapes.heatmap(matrix, "strength A", 3), shapes.matrix_layout("candidate", "pair")
            )
            variants.append(Variant(f"{lens} lens", figure, table))
    if not variants:
        return None
    caption = "Strength of every candidate (columns) for every pair of languages (rows)."
    return Chart("latent-strengths", "All pairs", caption, variants=variants, choose="Lens", twin="latent_strengths")


def _tuned(run: Run) -> Block | None:
    if not holds(run, "table:tuned"):
        return None
    table = run.table("tuned")
    variants: list[Variant] = []
    for name, title in (("kl", "mean KL, bits"), ("bias", "bias, bits"), ("agreement", "same likeliest token")):
        traces: list[dict[str, Any]] = []
        for index, (key, own) in enumerate(table.groupby(["language", "lens"], sort=False)):
            frame = own[["layer", name]].rename(columns={name: "value"}).reset_index(drop=True)
            traces += shapes.curve(frame, ", ".join(key), index)
        described = shapes.layer_layout(int(table.layer.max()) + 1, title)
        variants.append(Variant(title, {"data": traces, "layout": described}, table))
    caption = (
        "How near each lens comes to the model's own next word on text that was not fitted; bias: what the lens says "
        f"whatever the text. The tuned lens was {run.summary.get('tuned_lens')}. It can turn a pivot into the target: "
        "that a language is absent there refutes nothing."
    )
    return Chart("latent-tuned", "Tuned lens", caption, variants=variants, choose="Measure", twin="latent_tuned")


def _patched(run: Run, experiment: str, rows: pd.Series, name: str, names: dict[str, str], y: str) -> list[Variant]:
    table = run.table("patch")
    variants: list[Variant] = []
    for key, own in table[(table.experiment == experiment) & rows].groupby(["from", "into"], sort=False):
        traces: list[dict[str, Any]] = []
        for index, (label, curve) in enumerate(own.groupby(name, sort=False)):
            frame = curve.rename(columns={"value_low": "low", "value_high": "high"})[["layer", "value", "low", "high"]]
            frame = frame.assign(low=frame.low.fillna(frame.value), high=frame.high.fillna(frame.value))
            traces += shapes.curve(frame.reset_index(drop=True), names.get(str(label), str(label)), index)
        described = shapes.layer_layout(int(own.layer.max()) + 1, y)
        variants.append(Variant(" into ".join(key), {"data": traces, "layout": described}, own))
    return variants


def _pairs_text(run: Run) -> str:
    first = run.table("patch").iloc[0]
    return f"n = {int(first.pairs)} {'solved ' if first.scope == 'solved' else ''}pairs of prompts"


def _last(run: Run) -> Block | None:
    if not holds(run, "table:patch"):
        return None
    table = run.table("patch")
    variants = _patched(run, "E1", table.layer.notna(), "what", MOVED, "mass")
    caption = f"The source's last residual in the target's place, one layer at a time; {_pairs_text(run)}."
    return Chart("latent-last", "Last position", caption, variants=variants, choose="Pair", twin="latent_last")


def _word(run: Run) -> Block | None:
    if not holds(run, "table:patch"):
        return None
    table = run.table("patch")
    rows = table.layer.notna() & (table.what == "c1 in d")
    variants = _patched(run, "E2", rows, "patched", {}, "mass of the source's concept")
    caption = (
        "The residuals at the source's word in the place of those at the target's word, from a layer on: does the "
        f"target's language say the source's concept? {_pairs_text(run)}."
    )
    return Chart("latent-word", "At the word", caption, variants=variants, choose="Pair", twin="latent_word")


def _recovery(run: Run) -> Block | None:
    if not holds(run, "table:patch"):
        return None
    table = run.table("patch")
    table = table[table.what == "recovery"].drop(columns=["experiment", "what", "layer"])
    caption = (
        "(patched − unpatched) / (asked for it − unpatched); the layer is chosen on half of the concepts, the value is "
        "that of the other half, both ways averaged."
    )
    return Table("latent-recovery", "Recovery", caption, table.reset_index(drop=True))


def _alignment(run: Run) -> Block | None:
    if not holds(run, "table:alignment"):
        return None
    table = run.table("alignment")
    variants: list[Variant] = []
    for (pooling, metric), own in table.groupby(["pooling", "metric"], sort=False):
        traces: list[dict[str, Any]] = []
        for index, (name, part) in enumerate(own.groupby("treatment", sort=False)):
            mean = part.groupby("layer")[["value", "shuffled"]].mean().reset_index()
            traces += shapes.curve(mean[["layer", "value"]], str(name), 2 * index)
            if np.isfinite(mean.shuffled).all():
                frame = mean[["layer", "shuffled"]].rename(columns={"shuffled": "value"})
                traces += shapes.curve(frame, f"{name}, shuffled", 2 * index + 1)
        described = shapes.layer_layout(int(own.layer.max()) + 1, str(metric))
        variants.append(Variant(f"{metric}, {pooling}", {"data": traces, "layout": described}, own))
    caption = (
        "Alignment of translations on pooled residuals, mean over pairs of languages: plainly, with the mean of all "
        "and of each language taken off, and of shuffled sentences. Intervals by pair are in the download."
    )
    return Chart("latent-alignment", "Residuals", caption, variants=variants, choose="Metric", twin="latent_alignment")


def _census(run: Run) -> Block | None:
    if not holds(run, "table:census"):
        return None
    caption = (
        "What the tokenizer leaves: concepts with a word, with one token, whose first token behind the prompt is that "
        "by itself, with a part of a character; how many token sets differ; what was dropped and why."
    )
    return Table("census", "Census", caption, run.table("census"))
