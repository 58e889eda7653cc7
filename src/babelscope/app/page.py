"""What every tab of the explorer shares: the work in progress, what is open, and fields that show text as text."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any

import gradio as gr
import pandas as pd

from babelscope.app import facts, heads
from babelscope.app.markup import facts_table, shown
from babelscope.app.session import Loading, Session
from babelscope.app.work import TEXT_LIMIT, Work
from babelscope.errors import BabelscopeError, Interrupted

_log = logging.getLogger(__name__)

ANY: Any = gr  # Gradio's own types change from release to release; what it takes and gives is not checked here
PROGRESS = ANY.Progress()
WHOLE = "whole model"
QUEUE = {"concurrency_limit": 1, "concurrency_id": "model", "api_visibility": "private"}
"""of every event that runs the model: one at a time, whoever asks"""
QUICK = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}


@dataclass
class Jobs:
    """The work in progress by browser tab, so that the right one is stopped."""

    session: Session
    running: dict[str, Work] = field(default_factory=dict[str, Work])

    @contextmanager
    def begin(self, request: Any, progress: Any) -> Generator[Work]:
        """One call of the model: alone, with a bar, stoppable."""
        key = str(request.session_hash)
        work = Work(lambda share, text: progress(share, desc=text))
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

    def updates(self) -> list[Any]:
        """New choices for everything in `fresh`, in its order."""
        session = self.session
        languages = list(session.languages)
        model = session.model
        layers = [WHOLE, *map(str, range(model.layers if model else 0))]
        first = "en" if "en" in languages else languages[0] if languages else None
        ioi = [code for code in heads.ioi_languages() if code in languages] or list(heads.ioi_languages())
        names = facts.table_names(session)
        choices: dict[str, Any] = {
            "layers": ANY.update(choices=layers, value=WHOLE),
            "regions": ANY.update(choices=languages, value=[]),
            "beginning": ANY.update(choices=languages, value=first),
            "neuron language": ANY.update(choices=languages, value=first),
            "ioi": ANY.update(choices=ioi, value="en" if "en" in ioi else ioi[0]),
            "facts": facts_table(facts.session_facts(session), "What is open"),
            "tables": ANY.update(choices=names, value=names[0] if names else None),
            "runs": ANY.update(choices=facts.runs_beside(self.folders)),
        }
        return [choices[name] for name in self.fresh]


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


def told(event: Callable[..., Any]) -> Callable[..., Any]:
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
