"""The tab on steering: a direction from one language to another, with a slider for its strength."""

from __future__ import annotations

from typing import Any

import gradio as gr

from babelscope.app import steered
from babelscope.app.markup import side_by_side
from babelscope.app.page import ANY, PROGRESS, QUEUE, Page, button, guess, html_field, text_field, told
from babelscope.app.work import NEW_TOKENS_LIMIT


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
    written = html_field()

    @told
    def write(
        prompt: str, source: str, target: str, layer: float, alpha: float, tokens: int, request: gr.Request,
        progress: Any = PROGRESS,
    ) -> Any:  # fmt: skip
        with page.jobs.begin(request, progress) as work:
            found = steered.steer(page.session, prompt, source, target, int(layer or 0), float(alpha), tokens, work)
        return side_by_side(
            ["As it is", f"Steered from {source} to {target}, strength {alpha:g}"],
            [found.before.text, found.after.text],
            [
                f"looks like {guess(found.before)}",
                f"looks like {guess(found.after)}; adds {100 * found.length:.0f} % of a state's length",
            ],
        )

    done = go.click(write, [prompt, source, target, layer, alpha, tokens], written, **QUEUE)
    page.remember(done, "steering", steered=prompt)
