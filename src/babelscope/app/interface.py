"""The page of the explorer: seven tabs, laid out with Gradio; everything that is computed comes from the other files.

Text of the user's and of a corpus goes into text fields and plain tables, or through `markup`, never into Markdown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from babelscope.app import circuits_view, facts, latent_view, neurons_view, sentences, steering_view, switches
from babelscope.app.markup import Tint, heat_table, side_by_side
from babelscope.app.page import (
    ANY,
    PROGRESS,
    QUEUE,
    QUICK,
    VIEWS,
    WHOLE,
    Jobs,
    Page,
    button,
    guess,
    html_field,
    plain,
    quietly,
    text_field,
    text_table,
    told,
)
from babelscope.app.session import Loading, Session, open_for_viewing
from babelscope.app.work import NEW_TOKENS_LIMIT, SENTENCES_LIMIT, TEXT_LIMIT
from babelscope.errors import InputError
from babelscope.languages import english_name


def make_interface(
    session: Session, folders: Sequence[Path] = (), typed_paths: bool = True, loading: Loading | None = None
) -> Any:
    """The page as Gradio Blocks. `folders`: whose runs can be opened; `typed_paths`: whether any other path can be."""
    page = Page(session, Jobs(session), folders, typed_paths, loading or Loading())
    with ANY.Blocks(title="babelscope explorer", analytics_enabled=False, fill_width=True) as blocks:
        ANY.Markdown("# babelscope explorer")
        page.fresh["open"] = html_field()
        with ANY.Tabs(selected=VIEWS[0]) as tabs:
            page.fresh["tabs"] = tabs
            with ANY.Tab("Regions", id="regions"):
                begin_regions = _regions(page)
            with ANY.Tab("Sentences", id="sentences"):
                begin_sentences = _sentences(page)
            with ANY.Tab("Neurons", id="neurons"):
                neurons_view.lay_out(page)
            with ANY.Tab("Circuits", id="circuits"):
                circuits_view.lay_out(page)
            with ANY.Tab("Latent language", id="layers"):
                latent_view.lay_out(page)
            with ANY.Tab("Steering", id="steering"):
                steering_view.lay_out(page)
            with ANY.Tab("Run", id="run"):
                _run(page)
        loaded = blocks.load(page.updates, None, list(page.fresh.values()), **QUICK)
        # something to look at before anything was clicked
        begin_sentences(begin_regions(loaded))
    page.fill()  # outside the page, so that what it makes does not become a part of it
    blocks.queue(max_size=16, default_concurrency_limit=1, api_open=False)
    return blocks


def _sentences(page: Page) -> Callable[[Any], Any]:
    ANY.Markdown(
        "How alike are these sentences to the model, and which neurons make them so? One sentence on each line."
    )
    place = ANY.State(0)
    page.fresh["sentences"] = text = text_field("Sentences", lines=6, max_length=TEXT_LIMIT * SENTENCES_LIMIT)
    with ANY.Row():
        go = button("Compare", main=True)
        another = button("Take translations")
        page.stop_button()
    page.fresh["layers"] = layer = ANY.Dropdown([WHOLE], value=WHOLE, label="Layer")
    matrix, by_layer = html_field(), html_field()
    with ANY.Row():
        shared = text_table("Neurons that make them alike", "layer", "neuron", "adds to similarity", "region")
        own = text_table(
            "Strongest neurons of each sentence", "sentence", "layer", "neuron", "mean activation", "share", "region"
        )

    @told
    def take(at: int) -> tuple[int, str]:
        corpus = page.session.need_corpus()
        lines = [corpus.texts[code][at % len(corpus)] for code in corpus.languages[:SENTENCES_LIMIT]]
        return at + 1, "\n".join(line.replace("\n", " ") for line in lines)

    @told
    def compare(text: str, layer: str, request: gr.Request, progress: gr.Progress = PROGRESS) -> object:
        with page.jobs.begin(request, progress) as work:
            found = sentences.compare(page.session, text, None if layer == WHOLE else int(layer), work)
        lowest = float(found.similarity.min())
        rows = [f"{place}  {line}" for place, line in enumerate(found.sentences, start=1)]
        numbers = [str(place + 1) for place in range(len(rows))]
        caption = f"Cosine similarity of mean activations, {'layer ' if layer != WHOLE else ''}{layer}; 1 is the same."
        return (
            heat_table(found.similarity.tolist(), rows, numbers, caption, Tint(min(lowest, 0.0), 1.0)),
            heat_table(
                [found.by_layer.tolist()],
                ["mean of all pairs"],
                [str(one) for one in range(len(found.by_layer))],
                "The same in each layer.",
                Tint(min(float(found.by_layer.nan_to_num(0.0).min()), 0.0), 1.0),
            ),
            plain(found.shared),
            plain(found.own),
        )

    another.click(take, place, [place, text], **QUEUE)
    wanted = ([text, layer], [matrix, by_layer, shared, own])
    page.remember(go.click(compare, *wanted, **QUEUE), "sentences", sentences=text)
    return lambda before: before.then(quietly(compare), *wanted, **QUEUE)


def _regions(page: Page) -> Callable[[Any], Any]:
    ANY.Markdown("Switch the neurons of one or more languages off, and watch what the model writes.")
    page.fresh["regions"] = off = ANY.CheckboxGroup([], label="Switch off the regions of", elem_id="bs-off")
    place = ANY.State(0)
    page.fresh["prompt"] = prompt = text_field("Prompt", lines=2)
    with ANY.Row():
        page.fresh["beginning"] = language = ANY.Dropdown([], label="Beginnings in", min_width=140)
        tokens = ANY.Slider(5, NEW_TOKENS_LIMIT, 30, step=1, label="Tokens to write", min_width=260)
    with ANY.Row():
        go = button("Continue", main=True)
        another = button("Take a beginning")
        measure = button("Measure perplexity")
        page.stop_button()
    written = html_field()
    table = text_table(
        "Perplexity on the parallel text; “random” is as many neurons drawn from the same layers",
        *("language", "all neurons", "off", "off %", "random", "random %", "tokens"),
    )

    @told
    def take(code: str | None, at: int) -> tuple[int, str]:
        return at + 1, switches.beginning(page.session, code or "", at)

    @told
    def go_on(
        off: list[str], prompt: str, tokens: int, request: gr.Request, progress: gr.Progress = PROGRESS
    ) -> object:
        with page.jobs.begin(request, progress) as work:
            found = switches.switch_off(page.session, prompt, off, tokens, work)
        return side_by_side(
            ["With all neurons", f"With the regions off: {', '.join(map(english_name, off))}"],
            [found.before.text, found.after.text],
            [guess(found.before), f"{guess(found.after)}; {found.neurons} neurons off"],
        )

    @told
    def change(off: list[str], request: gr.Request, progress: gr.Progress = PROGRESS) -> object:
        with page.jobs.begin(request, progress) as work:
            return plain(switches.perplexity_change(page.session, off, work))

    another.click(take, [language, place], [place, prompt], **QUEUE)
    wanted = ([off, prompt, tokens], written)
    page.remember(go.click(go_on, *wanted, **QUEUE), "regions", prompt=prompt, off=off)
    measure.click(change, off, table, **QUEUE)

    @told
    def at_once(
        off: list[str], prompt: str, tokens: int, request: gr.Request, progress: gr.Progress = PROGRESS
    ) -> object:
        # regions that a run brought are there at once; finding them would keep the page waiting
        return ANY.skip() if page.session.known_regions is None else go_on(off, prompt, tokens, request, progress)

    return lambda before: before.then(quietly(at_once), *wanted, **QUEUE)


def _run(page: Page) -> None:
    page.fresh["findings"] = html_field()
    page.fresh["facts"] = html_field()
    with ANY.Row():
        page.fresh["tables"] = name = ANY.Dropdown([], label="Table of the run", min_width=220)
    with ANY.Row():
        show = button("Show")
    table = text_table("Its first rows", " ")
    with ANY.Row():
        page.fresh["runs"] = known = ANY.Dropdown([], label="Other runs", scale=1)
        typed = text_field("or the path of a run", max_length=1000, visible=page.typed_paths)
    with ANY.Row():
        go = button("Open")
        page.stop_button()

    @told
    def rows(name: str | None) -> Any:
        return plain(facts.run_table(page.session, name or ""))

    @told
    def open_other(
        known: str | None, typed: str, before: int, request: gr.Request, progress: gr.Progress = PROGRESS
    ) -> int:
        with page.jobs.begin(request, progress) as work:
            path = _allowed(page, known, typed)
            with work.stage("opening the run and its model", 1, "run") as step:
                other = open_for_viewing(path, page.loading, page.session)
                step(1)
            page.session.replace(other)
        return before + 1

    show.click(rows, name, table, **QUEUE)
    # an event that `told` ended with a notice counts as a success too, but opens nothing: the fields stay as they are
    opened = ANY.State(0)
    go.click(open_other, [known, typed, opened], opened, **QUEUE)
    opened.change(page.updates, None, list(page.fresh.values()), **QUICK)


def _allowed(page: Page, known: str | None, typed: str | None) -> str:
    """The run to open: one that is offered, or, on this machine only, any that is typed."""
    if typed and typed.strip():
        if not page.typed_paths:
            raise InputError("paths cannot be typed when others can reach this server; start with --runs FOLDER")
        return typed.strip()
    if known and known in facts.runs_beside(page.folders):
        return known
    raise InputError("choose a run" + (", or type the path of one" if page.typed_paths else ""))
