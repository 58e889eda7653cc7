"""What every tab of the explorer shares: the work in progress, what is open, and fields that show text as text."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any

import gradio as gr
import pandas as pd

from babelscope.app import facts, heads, layers, steered, switches
from babelscope.app.markup import facts_line, facts_table, findings_list, shown
from babelscope.app.session import Loading, Session
from babelscope.app.work import TEXT_LIMIT, Work
from babelscope.errors import BabelscopeError, Interrupted
from babelscope.languages import english_name

_log = logging.getLogger(__name__)

ANY: Any = gr  # Gradio's own types change from release to release; what it takes and gives is not checked here
PROGRESS = ANY.Progress()
WHOLE = "whole model"
VIEWS = ("regions", "sentences", "neurons", "circuits", "layers", "steering", "run")
"""tabs by the name that they have in the address, the first one open at the beginning"""
QUEUE = {"concurrency_limit": 1, "concurrency_id": "model", "api_visibility": "private"}
"""of every event that runs the model: one at a time, whoever asks"""
QUICK = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}


@dataclass
class Jobs:
    """The work in progress by browser tab, so that the right one is stopped."""

    session: Session
    running: dict[str, Work] = field(default_factory=dict[str, Work])

    @contextmanager
    def begin(self, request: gr.Request, progress: Callable[..., object]) -> Generator[Work]:
        """One call of the model: alone, with a bar, stoppable."""
        key = str(request.session_hash)

        def tell(share: float, text: str) -> None:
            progress(share, desc=text)

        work = Work(tell)
        self.running[key] = work
        try:
            with self.session.lock:
                work.check()
                yield work
        finally:
            self.running.pop(key, None)

    def stop(self, request: gr.Request) -> None:
        """Ask the caller's work to end."""
        work = self.running.get(str(request.session_hash))
        if work is not None:
            work.stop()


@dataclass
class Page:
    """What the tabs share, and the components that change when something else is opened."""

    session: Session
    jobs: Jobs
    folders: Sequence[Path]
    typed_paths: bool
    loading: Loading
    fresh: dict[str, Any] = field(default_factory=dict[str, Any])

    def stop_button(self) -> None:
        """A button that ends what this browser tab has asked for."""
        button("Stop").click(self.jobs.stop, None, None, **QUICK)

    def fill(self) -> None:
        """What stands in the fields before the page has asked for anything, so that nobody sees it empty."""
        for (name, component), value in zip(self.fresh.items(), self._choices({}), strict=True):
            if name == "tabs":  # the first is open
                continue
            new: dict[str, Any] = value if isinstance(value, dict) else {"value": value}
            if "choices" in new:
                component.choices = [one if isinstance(one, tuple) else (str(one), one) for one in new["choices"]]
            if "value" in new:
                component.value = new["value"]

    def updates(self, request: gr.Request) -> list[object]:
        """New choices for everything in `fresh`, in its order; what the address asks for is put into its fields."""
        return self._choices(
            {name: str(value)[:TEXT_LIMIT] for name, value in dict(request.query_params or {}).items()}
        )

    def _choices(self, asked: dict[str, str]) -> list[object]:
        session = self.session
        languages = list(session.languages)
        named = _named(languages)
        model = session.model
        depths = [WHOLE, *map(str, range(model.layers if model else 0))]
        first = "en" if "en" in languages else languages[0] if languages else None
        ioi = [code for code in heads.ioi_languages() if code in languages] or list(heads.ioi_languages())
        names = facts.table_names(session)
        choices: dict[str, object] = {
            "layers": ANY.update(choices=depths, value=WHOLE),
            "beginning": ANY.update(choices=named, value=first),
            "neuron language": ANY.update(choices=named, value=first),
            "ioi": ANY.update(choices=_named(ioi), value="en" if "en" in ioi else ioi[0]),
            "findings": findings_list(facts.run_findings(session)),
            "facts": facts_table(facts.session_facts(session), "What is open"),
            "tables": ANY.update(choices=names, value=names[0] if names else None),
            "runs": ANY.update(choices=facts.runs_beside(self.folders)),
        }
        edits = steered.edit_files(session, self.folders)
        wanted = asked.get("edit", "")
        choices["edits"] = ANY.update(choices=edits, value=wanted if wanted in edits else (edits[0] if edits else None))
        choices |= self._examples(languages, asked)
        return [choices[name] for name in self.fresh]

    def _examples(self, languages: list[str], asked: dict[str, str]) -> dict[str, object]:
        """What stands in the fields at the beginning: what the address says, else something to look at."""
        session, able = self.session, layers.languages(self.session)
        source, target = ("fr" if "fr" in able else able[0]), ("zh" if "zh" in able else able[-1])
        start = "en" if "en" in languages else languages[0] if languages else ""
        text, prompt, example, word = "", "", None, layers.Question("", "")
        # without a text, a task or words the fields are empty
        with suppress(BabelscopeError):
            corpus = session.need_corpus()
            text = "\n".join(corpus.texts[code][0].replace("\n", " ") for code in corpus.languages[:3])
            prompt = switches.beginning(session, start, 0)
        with suppress(BabelscopeError):
            word = layers.question(session, source, target, 0)
        with suppress(BabelscopeError):
            example = heads.ioi_example(session, "en", 0) if session.model is not None else None
        named = _named(languages)
        off = [code for code in asked.get("off", "").split(",") if code in languages]
        view = asked.get("view", "")
        return {
            # without a view in the address, the tab that was chosen meanwhile stays
            "tabs": ANY.Tabs(selected=view) if view in VIEWS else ANY.update(),
            "open": facts_line(facts.session_facts(session)),
            "sentences": asked.get("sentences", text),
            "regions": ANY.update(choices=named, value=off or [code for code in languages if code == start]),
            "prompt": asked.get("prompt", prompt),
            "steered prompt": asked.get("steered", prompt),
            "neuron layer": _number(asked.get("layer")),
            "neuron": _number(asked.get("neuron")),
            "typed": asked.get("text", ""),
            "circuit prompt": asked.get("circuit", example.prompt if example else ""),
            "right": asked.get("right", example.target if example else ""),
            "wrong": asked.get("wrong", example.foil if example else ""),
            "from": ANY.update(choices=_named(able), value=source),
            "to": ANY.update(choices=_named(able), value=target),
            "question": asked.get("question", word.text),
            "concept": asked.get("concept", word.concept if asked.get("question", word.text) == word.text else ""),
            "steer from": ANY.update(choices=named, value=start or None),
            "steer to": ANY.update(choices=named, value=next((one for one in languages if one != start), None)),
            "steer layer": (session.model.layers // 2) if session.model else 0,
        }

    def remember(self, event: Any, view: str, **fields: Any) -> Any:
        """After `event`, the address says what is looked at, so that the view can be kept and shared."""
        names = ", ".join(fields)
        query = f"new URLSearchParams({{view: {json.dumps(view)}, {names}}})"
        write = f"({names}) => {{ history.replaceState(null, '', '?' + {query}); return []; }}"
        return event.success(None, list(fields.values()), None, js=write, **QUICK)


def _named(codes: Sequence[str]) -> list[tuple[str, str]]:
    """Languages by name, with the code that tables use."""
    return [(code if (name := english_name(code)) == code else f"{name} ({code})", code) for code in codes]


def _number(text: str | None) -> int:
    return int(text) if text is not None and text.isdecimal() and len(text) < 9 else 0


def make_theme() -> Any:
    """A theme with the fonts of the reader's own system: nothing is fetched."""
    plain = ("system-ui", "Segoe UI", "Noto Sans", "sans-serif")
    theme = ANY.themes.Default(font=plain, font_mono=("ui-monospace", "Consolas", "monospace"), primary_hue="blue")
    # the framework's own blue has a contrast of 3.7 to the white on it; 4.5 is the least that everyone reads
    return theme.set(
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_border_color="*primary_600",
        button_primary_border_color_hover="*primary_700",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_800",
    )


QUIET_TOASTS = """() => {
  const mend = () => document.querySelectorAll(".toast-header[role=button]").forEach((header) => {
    header.removeAttribute("role");
    header.removeAttribute("tabindex");
  });
  new MutationObserver(mend).observe(document.body, {childList: true, subtree: true});
}"""
"""The framework's notices have a button inside a button, which screen readers cannot tell apart: the outer one, which
only folds the text away, is made a plain heading; the inner one still closes the notice."""


def text_field(label: str, **settings: Any) -> Any:
    """A field of plain text, in the direction of what stands in it."""
    return ANY.Textbox(label=label, **{"max_length": TEXT_LIMIT, "elem_classes": ["bs-plain"], **settings})


def button(label: str, main: bool = False) -> Any:
    """A button as wide as its label."""
    settings: dict[str, Any] = {"variant": "primary"} if main else {}
    return ANY.Button(label, size="md", scale=0, min_width=96, elem_classes=["bs-button"], **settings)


def html_field() -> Any:
    """A place for what `markup` makes; no script of the framework's runs in it."""
    return ANY.HTML(js_on_load=None, apply_default_css=False)


def text_table(label: str, *headers: str, widths: list[str] | None = None) -> Any:
    """A table of plain text and numbers."""
    return ANY.Dataframe(
        label=label,
        headers=list(headers),
        datatype="str",
        interactive=False,
        wrap=True,
        elem_classes=["bs-plain"],
        max_height=420,
        min_width=300,
        buttons=["copy"],
        column_widths=widths,
    )


def plain(frame: pd.DataFrame | None) -> pd.DataFrame | None:
    """Numbers short enough to read; text as it is."""
    if frame is None:
        return None
    frame = frame.copy()
    for name in frame.columns:
        if pd.api.types.is_float_dtype(frame[name]):
            percent = str(name).endswith("%")
            frame[name] = [round(value, 1) if percent else float(f"{value:.4g}") for value in frame[name]]
    return frame


def told(event: Callable[..., object]) -> Callable[..., Any]:
    """The event, with its errors as a notice, and what was on the page left as it was."""

    @wraps(event)
    def run(*inputs: Any) -> Any:
        try:
            return event(*inputs)
        except Interrupted:
            ANY.Info("Stopped.", title="Stopped")
        except BabelscopeError as error:
            ANY.Warning(shown(error), title="Not done", duration=20)
        except Exception as error:
            _log.exception("the explorer failed")
            ANY.Warning(f"This failed ({shown(type(error).__name__)}); the terminal says more.", title="Failed")
        return ANY.skip()

    return run


def quietly(event: Callable[..., object]) -> Callable[..., Any]:
    """An event made by `told`, for when nobody asked for it: what it cannot do it leaves undone, without a notice."""
    plain_event: Callable[..., object] = getattr(event, "__wrapped__", event)

    @wraps(plain_event)
    def run(*inputs: Any) -> Any:
        try:
            return plain_event(*inputs)
        except BabelscopeError:
            return ANY.skip()

    return run


def guess(written: switches.Continuation) -> str:
    """The language that a text looks like, in words; or that the model ends the text after the prompt.

    >>> guess(switches.Continuation("", None, 0.0))
    'writes nothing: the model ends the text here'
    """
    if not written.text.strip():
        return "writes nothing: the model ends the text here"
    if not written.language:
        return "looks like a language that cannot be told"
    return f"looks like {english_name(written.language)} ({100 * written.probability:.0f} %)"
