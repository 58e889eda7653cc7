"""The sections of a run of latent language: the verdict in words first, then what it rests on."""

from __future__ import annotations

from babelscope.report.blocks import Block, Section, Table, gather
from babelscope.report.charts import chart, table
from babelscope.results import Run

OBJECTIONS = (
    "Read with care: a language's mass is language, not meaning, so only excess over other words and other prompts "
    "counts; the lens is biased and brittle in early layers; English leads on content words and depends on the "
    "training data; no lens is causal: what is read need not be used."
)
_VERDICTS = table(
    "verdicts",
    "Verdict for each candidate language",
    "The verdict is that on solved concepts; the same rules on all concepts stand beside it. Strength: excess of the "
    "word, mean over the inner layers; p against permuted concepts, adjusted over candidates. " + OBJECTIONS,
)
_CENSUS = table(
    "census",
    "Census",
    "What the tokenizer leaves: concepts with a word, with one token, whose first token behind the prompt is that by "
    "itself, with a part of a character; how many token sets differ; what was dropped and why.",
)


def latent_sections(run: Run) -> list[Section]:
    """Verdict, curves, controls, tuned lens, patching, alignment, census: those that the run holds."""
    sections = [
        Section("Verdicts", gather(run, chart("latent_highest"), chart("latent_excess"), _VERDICTS)),
        Section("Layer by layer", gather(run, chart("latent_mass"), chart("latent_entropy"))),
        Section("Controls", gather(run, chart("latent_controls"), chart("latent_strengths"))),
        Section("Tuned lens", gather(run, chart("latent_tuned"))),
        Section("Patching", gather(run, chart("latent_last"), chart("latent_word"), ("Recovery", _recovery))),
        Section("Residual alignment", gather(run, chart("latent_alignment"))),
        Section("Words", gather(run, _CENSUS)),
    ]
    return [section for section in sections if section.blocks]


def _recovery(run: Run) -> Block | None:
    if "patch" not in run.tables:
        return None
    frame = run.table("patch")
    frame = frame.loc[frame["what"] == "recovery"].drop(columns=["experiment", "what", "layer"])
    caption = (
        "(patched − unpatched) / (asked for it − unpatched); the layer is chosen on half of the concepts, the value is "
        "that of the other half, both ways averaged."
    )
    return Table("latent-recovery", "Recovery", caption, frame.reset_index(drop=True))
