"""The tab on steering: a direction from one language to another, with a slider for its strength."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

from babelscope.app import steered
from babelscope.app.markup import side_by_side
from babelscope.app.page import ANY, PROGRESS, QUEUE, Page, button, guess, html_field, text_field, told
from babelscope.app.work import NEW_TOKENS_LIMIT
from babelscope.errors import InputError
from babelscope.languages import english_name


def lay_out(page: Page) -> None:
    """The fields and events of the tab."""
    ANY.Markdown(
        "Add the difference between two languages' mean states while the model writes. At high strength any direction "
        "breaks text, and broken text can look like another language: `babelscope steer` measures success at equal "
        "damage, beside random directions."
    )
    page.fresh["steered prompt"] = prompt = text_field("Prompt", lines=2)
    with ANY.Row():
        page.fresh["steer from"] = source = ANY.Dropdown([], label="From", min_width=140)
        page.fresh["steer to"] = target = ANY.Dropdown([], label="To", min_width=140)
        page.fresh["steer layer"] = layer = ANY.Number(0, label="Layer", precision=0, minimum=0, min_width=110)
    with ANY.Row():
        alpha = ANY.Slider(
            -steered.STRONGEST,
            steered.STRONGEST,
            2,
            step=0.25,
            label="Strength (1 bridges the two means)",
            min_width=260,
        )
        tokens = ANY.Slider(5, NEW_TOKENS_LIMIT, 30, step=1, label="Tokens to write", min_width=260)
    with ANY.Row():
        go = button("Write", main=True)
        page.stop_button()
    ANY.Markdown(
        "Or an edit that `babelscope steer` has fitted and saved (`edits/*.safetensors` of a run), at the strength "
        "that the run chose, times a factor."
    )
    with ANY.Row():
        page.fresh["edits"] = known = ANY.Dropdown([], label="Edit of a run", min_width=220)
        typed = text_field("or the path of one", max_length=1000, visible=page.typed_paths)
        factor = ANY.Slider(-4, 4, 1, step=0.25, label="Times its own strength", min_width=260)
    with ANY.Row():
        use = button("Write under the edit")
    written = html_field()

    @told
    def write(
        prompt: str, source: str, target: str, layer: float, alpha: float, tokens: int, request: gr.Request,
        progress: gr.Progress = PROGRESS,
    ) -> object:  # fmt: skip
        with page.jobs.begin(request, progress) as work:
            found = steered.steer(page.session, prompt, source, target, int(layer or 0), float(alpha), tokens, work)
        return side_by_side(
            ["As it is", f"Steered from {english_name(source)} to {english_name(target)}, strength {alpha:g}"],
            [found.before.text, found.after.text],
            [
                guess(found.before),
                f"{guess(found.after)}; adds {100 * found.length:.0f} % of a state's length",
            ],
        )

    @told
    def under(
        prompt: str, known: str | None, typed: str, factor: float, tokens: int, request: gr.Request,
        progress: gr.Progress = PROGRESS,
    ) -> object:  # fmt: skip
        file = allowed_edit(page, known, typed)
        with page.jobs.begin(request, progress) as work:
            found, saved = steered.apply_file(page.session, prompt, file, float(factor), tokens, work)
        where = f"; adds up to {100 * found.length:.0f} % of a state's length" if saved.directions else ""
        return side_by_side(
            ["As it is", f"Under {Path(file).name}, strength {saved.alpha:.3g}"],
            [found.before.text, found.after.text],
            [guess(found.before), f"{guess(found.after)}{where}"],
        )

    edited = use.click(under, [prompt, known, typed, factor, tokens], written, **QUEUE)
    page.remember(edited, "steering", steered=prompt, edit=known)
    done = go.click(write, [prompt, source, target, layer, alpha, tokens], written, **QUEUE)
    page.remember(done, "steering", steered=prompt)


def allowed_edit(page: Page, known: str | None, typed: str | None) -> str:
    """The file to use: one that is offered, or, on this machine only, any that is typed."""
    if typed and typed.strip():
        if not page.typed_paths:
            raise InputError("paths cannot be typed when others can reach this server; start with --runs FOLDER")
        return typed.strip()
    if known and known in steered.edit_files(page.session, page.folders):
        return known
    raise InputError(
        "choose an edit" + (", or type the path of one" if page.typed_paths else "") + "; babelscope steer writes them"
    )
