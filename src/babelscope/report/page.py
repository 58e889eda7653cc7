"""The page itself: facts, sections, data and scripts put into one HTML file."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2

from babelscope.errors import InputError, RunError
from babelscope.figures.circuit_tokens import role_colour
from babelscope.figures.names import language_tag
from babelscope.figures.palette import colour
from babelscope.figures.paper import styled
from babelscope.findings import Finding, findings_of
from babelscope.languages import english_name
from babelscope.report.blocks import Block, Chart, Nothing, Problem, Prompts, Section
from babelscope.report.charts import more_figures, static_twin
from babelscope.report.circuits import circuits_sections
from babelscope.report.embed import content_policy, inline_script, safe_json
from babelscope.report.evaluation import evaluation_sections
from babelscope.report.fonts import page_fonts
from babelscope.report.latent import latent_sections
from babelscope.report.regions import regions_sections
from babelscope.report.steering import confusion_sections, steering_sections
from babelscope.report.sweep import sweep_sections
from babelscope.report.tables import shown_table
from babelscope.results import Run, open_run
from babelscope.results.whole import home, whole_file
from babelscope.wording import estimated, number, of_dimensions, unbroken, visible

_SECTIONS = {
    "regions": regions_sections,
    "circuits": circuits_sections,
    "sweep": sweep_sections,
    "latent": latent_sections,
    "steering": steering_sections,
    "confusion": confusion_sections,
    "evaluation": evaluation_sections,
}
_KINDS = {
    "regions": "Linguistic regions",
    "circuits": "Circuits",
    "sweep": "Evolution",
    "latent": "Latent language",
    "steering": "Steering",
    "confusion": "Language confusion",
    "evaluation": "Evaluation",
}
_QUESTIONS = {
    "regions": "Which neurons serve each language, what switching them off does, and how alike translations are inside "
    "the model.",
    "circuits": "Which attention heads and feed-forward blocks do a task, what each one does, and whether languages "
    "share them.",
    "sweep": "How the languages of a model come apart and together over its training, or with its size.",
    "latent": "Which language a model works in, layer by layer, between what it reads and what it writes.",
    "steering": "Whether an edit of the model's states makes it write in another language, and what that costs.",
    "confusion": "How often answers leave the language that was asked for.",
    "evaluation": "What the model can do in each language, whole and with a part switched off.",
}
_SCRIPTS = ("text.js", "theme.js", "download.js", "plot.js", "similarity.js", "graph.js", "main.js")
_PRINTED_ROWS = 24


def write_report(
    runs: Sequence[Run | str | os.PathLike[str]], out: str | os.PathLike[str], static: bool = True
) -> Path:
    """Writes the page of one or several runs to `out`; returns its path.

    Raises InputError when the place cannot be written.
    """
    target = home(out)
    with whole_file(target) as partial:  # a place that cannot be written is refused before the page is made
        partial.write_text(build_page(runs, static), encoding="utf-8")
    return target


def is_report(path: Path) -> bool:
    """Whether a file is a page that we made, and so may be made anew."""
    try:
        with path.open(encoding="utf-8") as stream:
            return '<meta name="generator" content="babelscope">' in stream.read(4000)
    except (OSError, ValueError):
        return False


def build_page(runs: Sequence[Run | str | os.PathLike[str]], static: bool = True) -> str:
    """The page as text, with static twins of its charts unless `static` is off.

    Raises InputError when no run is given, RunError for a kind that has no sections.
    """
    if not runs:
        raise InputError("a report needs at least one run")
    opened = [run if isinstance(run, Run) else open_run(run) for run in runs]
    plotly = inline_script(_plotly())
    script = inline_script("\n".join(_static(name) for name in _SCRIPTS))
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(visible=visible, safe_json=safe_json, unbroken=unbroken)
    with styled():
        described = [_run(run, index, static) for index, run in enumerate(opened)]
    fonts = page_fonts(json.dumps(described, ensure_ascii=False, default=str))
    for run in described:
        run["facts"].append(("Fonts", fonts.told))
    behind = ", ".join(f'"{name}"' for name in fonts.families)
    style = f"{fonts.css}\n{_static('page.css')}".replace("/* fonts */", f"{behind}, " if behind else "")
    return environment.from_string(_static("page.html")).render(
        title=described[0]["title"] if len(described) == 1 else f"babelscope: {_models(opened)}",
        policy=content_policy(plotly, script),
        style=inline_script(style),
        plotly=plotly,
        script=script,
        runs=described,
        printed_rows=_PRINTED_ROWS,
        comparison=_comparison(opened),
    )


def _models(runs: Sequence[Run]) -> str:
    return ", ".join(dict.fromkeys(run.model_name for run in runs))


def _run(run: Run, index: int, static: bool) -> dict[str, Any]:
    if run.kind not in _SECTIONS:
        raise RunError(f"there is no report for a run of kind {run.kind!r}: {run.source}")
    say = of_dimensions if run.of_dimensions else str
    every = [*_SECTIONS[run.kind](run), *more_figures(run)]
    sections = [_section(run, section, f"r{index}", static) for section in every]
    return {
        "id": f"r{index}",
        "title": f"{_KINDS[run.kind]}: {run.model_name}",
        "question": say(_QUESTIONS[run.kind]),
        "findings": [_finding(finding, sections, f"r{index}") for finding in findings_of(run)],
        "caution": say(" ".join(run.summary.get("notes") or [])),
        "headline": [tuple(map(say, one)) for one in _headline(run)],
        "facts": [(say(name), value) for name, value in _facts(run)],
        "sections": sections,
    }


def _finding(finding: Finding, sections: list[dict[str, Any]], prefix: str) -> dict[str, str]:
    """A sentence with the figure that shows it, where the page has that."""
    shown = {block.get("id") for section in sections for block in section["blocks"]}
    figure = f"{prefix}-{finding.figure}"
    return {"kind": finding.kind, "text": finding.text, "figure": figure if figure in shown else ""}


def _section(run: Run, section: Section, prefix: str, static: bool) -> dict[str, object]:
    blocks = [_block(run, block, prefix, static) for block in section.blocks]
    return {
        "id": f"{prefix}-section-{section.title.lower().replace(' ', '-')}",
        "title": section.title,
        "blocks": blocks,
    }


def _block(run: Run, block: Block, prefix: str, static: bool) -> dict[str, Any]:
    if isinstance(block, Problem | Nothing):
        return {"kind": block.kind, "title": block.title, "message": block.message}
    say = of_dimensions if run.of_dimensions else str
    described: dict[str, object] = {
        "id": f"{prefix}-{block.name}",
        "kind": block.kind,
        "title": say(block.title),
        "caption": say(block.caption),
        "data": block.data(),
    }
    if isinstance(block, Prompts):
        return described | {"examples": list(_prompts(block))}
    if isinstance(block, Chart):
        return described | {
            "twin": static_twin(run, block) if static else None,
            "variants": [view.label for view in block.variants],
            "choose": block.choose,
            "height": block.height,
            "min_width": block.min_width,
        }
    return described | {"table": shown_table(block, run.languages, say)}


def _prompts(block: Prompts) -> Iterator[dict[str, Any]]:
    """Example prompts with the colour of each role, one on the whole page."""
    roles = list(dict.fromkeys(role for one in block.examples for _, role in one.tokens if role))
    for one in block.examples:
        yield {
            "language": english_name(one.language), "tag": language_tag(one.language), "answer": one.answer,
            "foil": one.foil,
            "tokens": [
                (text, role, colour(role_colour(roles.index(role))) if role else "") for text, role in one.tokens
            ],
        }  # fmt: skip


_SCORES = {
    "language_share": (
        "Language share, %",
        "",
        "Share of a neuron's variance that is between languages, mean.",
    ),
    "strong_neurons": (
        "Neurons of a language, N(d > {effect})",
        "",
        "How many neurons a language raises by that many standard deviations, added over languages.",
    ),
    "lrds": ("LRDS, languages apart", "↓ more shared", "Similarity of sentences within a language minus between two."),
    "sads": ("SADS, translations alike", "↑ more shared", "Similarity of translations minus unrelated sentences."),
    "sklr": ("SKLR, neurons in regions", "", "Sizes of all key linguistic regions added up."),
    "excess_sklr": ("SKLR beyond chance at {at}", "", "SKLR minus what permuted language labels give."),
    "excess_sklr_rarefied": (
        "SKLR beyond chance at {rarefy} sentences",
        "",
        "The same over random subsets of the corpus, so that corpora of any size compare.",
    ),
}
"""scores of the first screen: name in words, which way is more shared, definition"""


def _headline(run: Run) -> Iterator[tuple[str, str, str, str, str]]:
    """Name, value, interval, direction and definition of the numbers that come first."""
    intervals: dict[str, Any] = run.summary.get("intervals") or {}
    reasons: dict[str, str] = run.summary.get("why") or {}
    words = {"effect": "δ", "at": "unknown n", "rarefy": "few", **run.summary}
    for key, (title, direction, definition) in _SCORES.items():
        value = run.summary.get(key)
        if isinstance(value, int | float) or key in reasons:
            bounds = intervals.get(key)
            told = f"{number(bounds[0])} to {number(bounds[1])}" if bounds and None not in bounds else ""
            said = " · ".join(part for part in (told, reasons.get(key, "")) if part)
            yield title.format(**words), "–" if value is None else number(value), said, direction, definition


def _facts(run: Run) -> Iterator[tuple[str, str]]:
    manifest = run.manifest
    model: dict[str, Any] = (
        manifest["model"] if isinstance(manifest.get("model"), dict) else {"id": manifest.get("model")}
    )
    corpus: dict[str, Any] = manifest.get("corpus") or {}
    yield "Model", _joined([model.get("id"), model.get("revision")], " @ ")
    yield "Kind of model", _joined([model.get("family"), model.get("dtype"), model.get("device")], ", ")
    yield (
        "Weights, tokenizer",
        _joined([_short(model.get("weight_hash")), _short(manifest.get("tokenizer_hash"))], ", "),
    )
    yield "Neurons, layers", _joined([run.summary.get("neurons"), run.summary.get("layers")], ", ")
    yield "Task", _joined([manifest.get("task"), manifest.get("corruption")], ", corruption ")
    yield "Corpus", _joined([corpus.get("spec"), _short(corpus.get("hash"))], ", hash ")
    noted = corpus.get("notes") or manifest.get("corpus_notes")
    yield "What was changed or left out of the corpus", "; ".join(map(str, noted)) if isinstance(noted, list) else ""
    yield "Languages", ", ".join(run.languages)
    sentences = run.summary.get("n") or len(corpus.get("sentence_ids") or []) or None
    yield "Sentences per language (n)", _joined([sentences], "")
    yield "Threshold on z", _joined([run.summary.get("threshold")], "")
    yield "Seeds", _listed(manifest.get("seeds"))
    yield "Concentration", _concentration(run)
    yield "Hooks fired", _joined([manifest.get("hooks_fired")], "")
    yield "Wall time", _joined([_seconds(manifest.get("wall_time_s"))], "")
    versions: dict[str, Any] = manifest.get("versions") or {}
    yield (
        "Versions",
        ", ".join(
            [
                f"babelscope {manifest.get('babelscope')}",
                *(f"{name} {v}" for name, v in versions.items() if name != "babelscope"),
            ]
        ),
    )
    yield "Run", _joined([run.path.name, run.key], ", key ")


def _concentration(run: Run) -> str:
    if not (run.path / "arrays.zarr").is_dir() or "top10_share" not in run.arrays():
        return ""
    arrays = run.arrays()
    told = f"the ten largest neurons carry {float(arrays.top10_share.mean()):.1%} of the activations' squared length"
    if "first_position_share" in arrays:
        told += f", the first position {float(arrays.first_position_share.mean()):.1%}"
    return of_dimensions(told) if run.of_dimensions else told


def _comparison(runs: list[Run]) -> dict[str, Any] | None:
    """The headline numbers of several regions runs side by side."""
    regions = [run for run in runs if run.kind == "regions"]
    if len(regions) < 2:
        return None
    keys = ("lrds", "sads", "sklr", "neurons", "n")
    rows = [[run.model_name, *(_with_interval(run, key) for key in keys)] for run in regions]
    return {"columns": ["model", "LRDS (↓ more shared)", "SADS (↑ more shared)", "SKLR", "neurons", "n"], "rows": rows}


def _with_interval(run: Run, key: str) -> str:
    value, ends = run.summary.get(key), (run.summary.get("intervals") or {}).get(key)
    if isinstance(value, int | float) and ends and None not in ends:
        return estimated(float(value), float(ends[0]), float(ends[1]))
    return number(value)


def _joined(parts: list[object], between: str) -> str:
    return between.join(number(part) for part in parts if part is not None)


def _listed(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {item}" for name, item in value.items())
    return ", ".join(str(item) for item in value) if isinstance(value, list | tuple) else str(value or "")


def _short(digest: object) -> str | None:
    return str(digest)[:12] if digest else None


def _seconds(value: Any) -> str | None:
    return f"{value:.1f} s" if isinstance(value, int | float) else None


def _static(name: str) -> str:
    return files("babelscope.report").joinpath("static", name).read_text(encoding="utf-8")


def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return get_plotlyjs()
