"""The tab on circuits: a prompt, its answer, the heads that give it, and where they look."""

from __future__ import annotations

import gradio as gr

from babelscope.app import heads
from babelscope.app.markup import Tint, heat_table, shown
from babelscope.app.page import ANY, PROGRESS, QUEUE, Page, button, html_field, plain, text_field, text_table, told
from babelscope.app.token_circuits import TokenCircuit, over_tokens
from babelscope.errors import InputError
from babelscope.wording import decimals


def lay_out(page: Page) -> None:
    """The fields and events of the tab."""
    ANY.Markdown(
        "Which heads give the right answer? Take a prompt of indirect object identification, or type your own. What is "
        "shown is direct attribution: what a head itself writes towards the answer. A circuit found by patching also "
        "has the heads that act through later heads, and leaves out heads that write the same whatever the names are; "
        "so the two lists differ, and neither is wrong."
    )
    place = ANY.State(0)
    page.fresh["circuit prompt"] = prompt = text_field("Prompt", lines=2)
    with ANY.Row():
        page.fresh["ioi"] = language = ANY.Dropdown([], label="Prompts in", min_width=140)
        page.fresh["right"] = target = text_field("Right answer", max_length=100)
        page.fresh["wrong"] = foil = text_field("Wrong answer", max_length=100)
    with ANY.Row():
        go = button("Run", main=True)
        another = button("Take a prompt")
        page.stop_button()
    said = text_field("Logit difference", interactive=False)
    over = html_field()
    with ANY.Row():
        with ANY.Column(scale=2):
            parts = html_field()
        with ANY.Column(scale=1):
            words = text_table("Next tokens", "next token", "probability", "logit")
    with ANY.Row():
        layer = ANY.Number(0, label="Layer", precision=0, minimum=0, min_width=110)
        head = ANY.Number(0, label="Head", precision=0, minimum=0, min_width=110)
    with ANY.Row():
        watch = button("Show attention")
    pattern = html_field()

    @told
    def take(code: str, at: int) -> tuple[int, str, str, str]:
        with page.session.lock:
            example = heads.ioi_example(page.session, code, at)
        return at + 1, example.prompt, example.target, example.foil

    @told
    def run(
        prompt: str, target: str, foil: str, code: str, request: gr.Request, progress: gr.Progress = PROGRESS
    ) -> object:
        with page.jobs.begin(request, progress) as work:
            found = heads.answer(page.session, prompt, target, foil, work)
            try:
                drawn = _over_tokens(over_tokens(page.session, prompt, code, found, work))
            except InputError as error:  # of a prompt that is too long to be shown token by token
                drawn = f'<p class="bs-note">{shown(error)}</p>'
        best = int(found.heads.abs().argmax())
        size = found.heads.shape[1]
        total = _difference(found, page.session.need_model().soft_cap is not None)
        return total, drawn, _attribution(found), plain(found.next_words), best // size, best % size

    @told
    def attend(prompt: str, layer: float, head: float, request: gr.Request, progress: gr.Progress = PROGRESS) -> object:
        with page.jobs.begin(request, progress) as work:
            seen = heads.attention(page.session, prompt, int(layer or 0), int(head or 0), work)
        names = [_visible(word) for word in seen.words]
        values = seen.weights.tolist()
        masked = [
            [value if column <= row else float("nan") for column, value in enumerate(line)]
            for row, line in enumerate(values)
        ]
        titles = [[f"{row} → {column}" for column in names] for row in names]
        caption = f"Attention of head {int(layer or 0)}.{int(head or 0)}: each row reads from the columns; percent."
        percent = [[100 * value for value in line] for line in masked]
        return heat_table(percent, names, names, caption, Tint(0, 100, 0, quiet=5), upright=False, names=titles)

    another.click(take, [language, place], [place, prompt, target, foil], **QUEUE)
    ran = go.click(run, [prompt, target, foil, language], [said, over, parts, words, layer, head], **QUEUE)
    page.remember(ran, "circuits", circuit=prompt, right=target, wrong=foil)
    watch.click(attend, [prompt, layer, head], pattern, **QUEUE)


def _difference(found: heads.Answer, capped: bool) -> str:
    """What the parts add up to: where logits are capped, the difference before that."""
    before = ", before the soft cap" if capped else ""
    return f"{decimals(found.difference, 3)} = logit({found.target.strip()}) − logit({found.foil.strip()}){before}"


def _over_tokens(circuit: TokenCircuit) -> str:
    """Heads by tokens: how much each head reads of each token, from where it acts."""
    names = [
        f"{_visible(word)} · {role}" if role else _visible(word) for word, role in zip(circuit.words, circuit.roles)
    ]
    rows = [
        f"{one.layer}.{one.head} {one.what}; from “{_visible(circuit.words[one.place])}”" for one in circuit.readers
    ]
    titles = [[f"{row}: {column}" for column in names] for row in rows]
    caption = (
        f"The circuit over the tokens ({circuit.source}): how much each head reads of each token, in percent, from "
        "the token where it acts. A first token that takes nearly all is where heads look that have nothing to do here."
    )
    values = [one.attention for one in circuit.readers]
    return heat_table(values, rows, names, caption, Tint(0, 100, 0, quiet=5), upright=False, names=titles)


def _attribution(found: heads.Answer) -> str:
    """Heads by layer, MLPs beside them."""
    together = [[*row, mlp] for row, mlp in zip(found.heads.tolist(), found.mlps.tolist())]
    most = max((abs(value) for row in together for value in row), default=1.0)
    columns = [*(str(head) for head in range(found.heads.shape[1])), "MLP"]
    names = [
        [f"head {layer}.{head}" for head in range(found.heads.shape[1])] + [f"MLP {layer}"]
        for layer in range(len(together))
    ]
    caption = (
        f"What each head (column) of each layer (row) adds to the difference, blue for, orange against; "
        f"embedding and biases add {decimals(found.rest, 2)}."
    )
    return heat_table(
        together, [f"layer {layer}" for layer in range(len(together))], columns, caption, Tint(-most, most), names=names
    )


def _visible(word: str) -> str:
    return word.strip() or "␣"
