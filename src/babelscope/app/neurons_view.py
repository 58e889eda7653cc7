"""The tab on neurons: the strongest of a language, and all that is known of one."""

from __future__ import annotations

from itertools import groupby

import gradio as gr

from babelscope.app import neurons
from babelscope.app.evidence import rule
from babelscope.app.markup import Tint, heat_table, shown, token_text
from babelscope.app.page import (
    ANY,
    PROGRESS,
    QUEUE,
    QUICK,
    Page,
    button,
    html_field,
    plain,
    text_field,
    text_table,
    told,
)
from babelscope.languages import english_name
from babelscope.wording import decimals


def lay_out(page: Page) -> None:
    """The fields and events of the tab."""
    ANY.Markdown("Find the neurons that stand out for a language; click a row, or name a neuron, to look at it.")
    with ANY.Row():
        page.fresh["neuron language"] = language = ANY.Dropdown([], label="Language", min_width=140)
        page.fresh["neuron layer"] = layer = ANY.Number(0, label="Layer", precision=0, minimum=0, min_width=110)
        page.fresh["neuron"] = neuron = ANY.Number(0, label="Neuron", precision=0, minimum=0, min_width=110)
    page.fresh["typed"] = typed = text_field("A text of your own to read the neuron on (may be left empty)", lines=1)
    with ANY.Row():
        find = button("Find the strongest", main=True)
        look = button("Look at one")
        page.stop_button()
    with ANY.Row():
        found = text_table("Strongest neurons", "layer", "neuron", "z", "score", "region")
        with ANY.Column():
            card = html_field()
            tokens = html_field()
    scores = text_table(
        "By language: which regions hold it, and with what evidence", "language", "held by", "score", "z"
    )
    top = text_table(
        "Sentences that move it most, of all languages",
        *("mean activation", "language", "text", "id"),
        widths=["14%", "12%", "48%", "26%"],
    )

    @told
    def strongest(code: str, request: gr.Request, progress: gr.Progress = PROGRESS) -> object:
        with page.jobs.begin(request, progress) as work:
            return plain(neurons.strongest(page.session, code, work))

    @told
    def show(layer: float, neuron: float, typed: str, request: gr.Request, progress: gr.Progress = PROGRESS) -> object:
        with page.jobs.begin(request, progress) as work:
            seen = neurons.look_at(page.session, int(layer or 0), int(neuron or 0), work, typed)
            said = rule(page.session)
        name, values = seen.measure
        finite = [value if abs(value) < float("inf") else float("nan") for value in values]
        most = max((abs(value) for value in finite if value == value), default=3.0)
        region = f"in the region of {seen.region}" if seen.region else "in no region"
        told_name = "effect in standard deviations" if name == "effect" else "z"
        caption = (
            f"Neuron {seen.neuron} of layer {seen.layer}, {region}: {told_name} by language ({seen.source})"
            f"{'; ' if said else ''}{said}."
        )
        languages = seen.by_language["language"].tolist()
        z = heat_table([finite], [name], languages, caption, Tint(-max(most, 3.0), max(most, 3.0)))
        return z, _passages(seen), plain(seen.by_language), plain(seen.sentences)

    def pick(event: gr.SelectData) -> tuple[int, int]:
        row = event.row_value
        return int(row[0]), int(row[1])

    find.click(strongest, language, found, **QUEUE)
    wanted = ([layer, neuron, typed], [card, tokens, scores, top])
    page.remember(look.click(show, *wanted, **QUEUE), "neurons", layer=layer, neuron=neuron, text=typed)
    picked = found.select(pick, None, [layer, neuron], **QUICK).then(show, *wanted, **QUEUE)
    page.remember(picked, "neurons", layer=layer, neuron=neuron, text=typed)


def _passages(seen: neurons.Neuron) -> str:
    """What was typed, then the sentences of each language that move the neuron most, tinted token by token."""
    most = max((abs(value) for one in seen.passages for value in one.values), default=1.0) or 1.0
    parts: list[str] = []
    for language, group in groupby(seen.passages, lambda one: one.language):
        name = f"{english_name(language)} ({language})" if language else "your text"
        parts.append(f"<h4>{shown(name)}</h4>")
        parts += [token_text(one.words, one.values, most) for one in group]
    if not parts:
        return ""
    note = (
        "Its activation at every token, of the sentences of each language that move it most: blue above zero, orange "
        f"below, the fullest tint {decimals(most, 2)}; each number is under the pointer."
    )
    return f'<div class="bs-passages"><p class="bs-note">{shown(note)}</p>{"".join(parts)}</div>'
