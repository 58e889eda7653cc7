"""The sections of a circuits run: behaviour, the circuit, heads, languages side by side, ablations."""

from __future__ import annotations

from babelscope.figures.facts import grouped, own_rows, rows_of
from babelscope.figures.heads import task_text
from babelscope.languages import english_name
from babelscope.report.blocks import Block, Example, Prompts, Section, Table, gather
from babelscope.report.charts import chart, table
from babelscope.report.graph import circuit_drawing
from babelscope.results import Run
from babelscope.results.schemas.circuits import ExampleToken, Role

_CENSUS = ("language", "template", "offered", "survived")
"""columns of the census that are shown even where they are empty; others only with something in them"""
_ROLES = table(
    "roles",
    "Roles of heads",
    "Heads with the role that their numbers give them. A label never stands without its score; where the score is "
    "small, or no more than the same head gives to others (column why), it says “candidate”. Backups are heads whose "
    "effect grows when others are knocked out: before and after in shares of the unablated logit difference.",
)
_PROMOTED = table(
    "promoted",
    "Promoted tokens",
    "Tokens that a head's own output promotes most: direct logit attribution with the final norm frozen.",
    ("token",),
)
_AGREEMENT = table(
    "agreement", "Agreement", "How far fast estimates of circuits agree with true patching, and with each other."
)

_SCREEN = table(
    "screen",
    "Screen of heads",
    "Heads that a cheap screen kept for patching, and those sampled from the others to see what it missed. "
    "`missed_at_most` bounds (95 %) how many of the heads that nobody patched would have passed; `left` are those.",
)

_EXPERTS = table(
    "experts",
    "Experts",
    "Each routed expert of the mixture, patched by itself: its effect on the logit difference with everything behind "
    "it recomputed, and along its path to the logits alone. Those selected differ from 0 over prompts (false discovery "
    "rate over all experts) and stand out among them; an expert that no patched token goes to has effect 0.",
)


def circuits_sections(run: Run) -> list[Section]:
    """Those sections that the run holds anything of."""
    roles = [chart("circuit_tokens")] if own_rows(run, Role) else []  # another model's heads have no arrays here
    pairs = [chart("head_scatter")] if len(run.languages) > 1 else []
    sections = [
        Section("Behaviour", gather(run, chart("behaviour"))),
        Section(
            "Circuit",
            gather(run, ("Example prompts", _examples), *roles, ("Circuit", circuit_drawing), _ROLES,
                   _PROMOTED),
        ),
        Section(
            "Heads",
            gather(run, chart("head_heatmap"), *pairs, chart("attention_between_roles"), chart("ffn_curves"), _EXPERTS),
        ),
        Section("Across languages", gather(run, chart("cross_language"), ("Classes", _classes))),
        Section(
            "Ablation",
            gather(run, chart("head_faithfulness"), chart("edge_faithfulness"), chart("ablation_bars"), _AGREEMENT,
                   _SCREEN),
        ),
        Section("Prompts", gather(run, ("Census", _census))),
    ]  # fmt: skip
    return [section for section in sections if section.blocks]


def _examples(run: Run) -> Block | None:
    own = own_rows(run, ExampleToken)
    # another model's prompts are shown in languages that only it was studied in: its tokens are others
    there = {row.language for row in own}
    rows = [*own, *(row for row in rows_of(run, ExampleToken) if row.language not in there)]
    if not rows:
        return None
    examples = [
        Example(code, [(row.token, row.role) for row in own], own[0].answer, own[0].foil)
        for (code, _), own in grouped(rows, lambda row: (row.language, row.example))
    ]
    caption = (
        f"The first prompts of different templates in each language, as the model's tokens ({task_text(run)}). A mark "
        "under a token names the role that it stands in: heads are asked what they do at these places."
    )
    return Prompts("examples", "Example prompts", caption, examples, run.table("examples"))


def _census(run: Run) -> Block | None:
    if "census" not in run.tables:
        return None
    caption = (
        "How many prompts of each template survive the tokenisation census, and why others fell: spans that differ, "
        "targets of several tokens."
    )
    frame = run.table("census")
    told = [str(name) for name in frame.columns
            if name in _CENSUS or any(str(value).strip("0.") for value in frame[name].tolist())]  # fmt: skip
    return Table("census", "Tokenisation census", caption, frame.loc[:, told])


def _classes(run: Run) -> Block | None:
    if "classification" not in run.tables:
        return None
    caption = (
        "Each head by the languages whose circuits hold it: shared, repurposed (same head, other role), or of one "
        "language only."
    )
    frame = run.table("classification")
    frame["node"] = [name.replace("m", "FFN ", 1) if name.startswith("m") else name for name in frame["node"]]
    frame["class"] = [f"{english_name(own)} only" if only else own
                      for own, only, _ in (str(value).partition(" only") for value in frame["class"])]  # fmt: skip
    return Table("classification", "Shared and own heads", caption, frame, language_column="")
