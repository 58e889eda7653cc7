"""The tab on latent language: what every layer would answer, and in which language it holds the word."""

from __future__ import annotations

import gradio as gr

from babelscope.app import layers
from babelscope.app.markup import Tint, heat_table
from babelscope.app.page import ANY, PROGRESS, QUEUE, Page, button, html_field, plain, text_field, text_table, told


def lay_out(page: Page) -> None:
    """The fields and events of the tab."""
    ANY.Markdown(
        "What would each layer answer? Take a word to translate, or type any beginning. One prompt shows what can "
        "happen, not what is true of the model: `babelscope latent` asks many, with controls and intervals."
    )
    place = ANY.State(1)  # the first word stands there already
    page.fresh["concept"] = concept = ANY.Textbox("", visible=False)
    page.fresh["question"] = prompt = text_field("Prompt", lines=4)
    with ANY.Row():
        page.fresh["from"] = source = ANY.Dropdown([], label="Translate from", min_width=140)
        page.fresh["to"] = target = ANY.Dropdown([], label="to", min_width=140)
    with ANY.Row():
        go = button("Read the layers", main=True)
        another = button("Take a word")
        page.stop_button()
    matrix = html_field()
    top = text_table("Likeliest tokens (␣ is a blank)", "layer", *(f"{rank}." for rank in range(1, layers.TOP + 1)))

    @told
    def take(source: str, target: str, at: int) -> tuple[int, str, str]:
        asked = layers.question(page.session, source, target, at)
        return at + 1, asked.text, asked.concept

    @told
    def read(prompt: str, concept: str, request: gr.Request, progress: gr.Progress = PROGRESS) -> object:
        with page.jobs.begin(request, progress) as work:
            found = layers.read_layers(page.session, prompt, concept, work)
        codes = list(found.by_language)
        if not codes:
            return "", plain(found.top)
        rows = [[100 * found.by_language[code][layer] for code in codes] for layer in range(len(found.top))]
        names = [f"layer {layer}" for layer in range(len(rows))]
        caption = (
            "Probability of the word in each language, in percent, read off every layer by the model's own "
            "unembedding. A token that begins the word in two languages counts for both."
        )
        return heat_table(rows, names, codes, caption, Tint(0, 100, 1)), plain(found.top)

    another.click(take, [source, target, place], [place, prompt, concept], **QUEUE)
    prompt.input(lambda: "", None, concept, queue=False, show_progress="hidden", api_visibility="private")
    page.remember(go.click(read, [prompt, concept], [matrix, top], **QUEUE), "layers", question=prompt, concept=concept)
