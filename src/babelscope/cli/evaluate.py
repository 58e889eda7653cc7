"""`babelscope evaluate`: what a model can do, whole and with a region switched off."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from babelscope.cli.options import Device, DeviceMap, Dtype, Overwrite, Remote, Revision

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from babelscope.evaluation import ClozeStory
    from babelscope.models import Model

OURS = "story-cloze"


def evaluate(
    model: Annotated[str, typer.Argument(help="Hub name, model folder, pocket:NAME or pocket:NAME@REVISION.")],
    tasks: Annotated[str, typer.Option(help="story-cloze, and lm-evaluation-harness tasks, by commas.")] = OURS,
    stories: Annotated[str, typer.Option(help="pocket:, stories:FOLDER or hub:DATASET, for story-cloze.")] = "pocket:",
    languages: Annotated[str | None, typer.Option(help="Of the stories; default: all.")] = None,
    deactivate: Annotated[list[str] | None, typer.Option(help="REGIONFILE:LANGUAGE, or RUN:LANGUAGE.")] = None,
    harness: Annotated[
        bool, typer.Option("--harness", help="Run story-cloze through lm-evaluation-harness too (babelscope[eval]).")
    ] = False,
    shots: Annotated[int | None, typer.Option(help="Examples in the prompt of harness tasks.")] = None,
    limit: Annotated[int | None, typer.Option(help="Items per harness task.")] = None,
    out: Annotated[Path | None, typer.Option(help="Directory of a run with the tables.")] = None,
    revision: Revision = None,
    dtype: Dtype = "auto",
    device: Device = None,
    device_map: DeviceMap = None,
    trust_remote_code: Remote = False,
    overwrite: Overwrite = False,
) -> None:
    """Accuracy on the cross-lingual story cloze and on any lm-evaluation-harness task, with intervals.

    Examples:

      babelscope evaluate pocket:pocket-bloom-m

      babelscope evaluate bigscience/bloom-560m --stories stories:XStoryCloze --deactivate runs/bloom:zh

      babelscope evaluate bigscience/bloom-560m --tasks xnli_fr,xcopa_zh --limit 200
    """
    from babelscope.cli.options import load, refuse_existing
    from babelscope.errors import InputError
    from babelscope.evaluation import evaluate_cloze, load_stories

    names = [name.strip() for name in tasks.split(",") if name.strip()]
    if not names:
        raise InputError("--tasks: name at least one task")
    if out is not None:
        refuse_existing(out, overwrite)
    told = load_stories(stories, languages) if OURS in names else {}
    masks = dict(map(_region, deactivate or []))
    loaded = load(model, revision, dtype, device, device_map, trust_remote_code)
    found: dict[str, pd.DataFrame] = {}
    if told:
        found["cloze"] = evaluate_cloze(loaded, told, masks)
    others = [name for name in names if name != OURS]
    if others or harness:
        found["harness"] = _harness(loaded, others, told if harness else {}, masks, shots, limit)
    _print(found)
    if out is not None:
        asked = {"tasks": names, "stories": stories if told else None, "languages": languages, "deactivate": deactivate}
        _save(out, overwrite, loaded, found, asked | {"shots": shots, "limit": limit})
        typer.echo(f"run: {out}")


def _region(text: str) -> tuple[str, Tensor]:
    """Name and mask of `FILE:LANGUAGE`; a run stands for its region file."""
    from babelscope.errors import InputError
    from babelscope.evolution.flow import region_file
    from babelscope.regions.masks import load_regions
    from babelscope.results import is_run, open_run

    place, colon, code = text.rpartition(":")
    if not colon or not place or not code:
        raise InputError(f"--deactivate {text!r}: write REGIONFILE:LANGUAGE, such as runs/bloom:zh")
    file = Path(place)
    if is_run(file):
        found = region_file(open_run(file))
        if found is None:
            raise InputError(f"the run {file} has no region file")
        file = found
    return code, load_regions(file)[code]


def _harness(
    model: Model,
    tasks: list[str],
    stories: Mapping[str, list[ClozeStory]],
    masks: Mapping[str, Tensor],
    shots: int | None,
    limit: int | None,
) -> pd.DataFrame:
    import pandas as pd

    from babelscope.evaluation import run_harness
    from babelscope.regions.deactivation import deactivate

    frames: list[pd.DataFrame] = []
    for name, mask in {"base": None, **masks}.items():
        with nullcontext() if mask is None else deactivate(model, mask):
            frame = run_harness(model, tasks, stories, shots, limit)
        frame.insert(2, "deactivated", name)
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def _print(found: Mapping[str, pd.DataFrame]) -> None:
    from rich.console import Console
    from rich.table import Table

    for name, frame in found.items():
        table = Table(*frame.columns, title=name, title_justify="left", box=None)
        for row in frame.itertuples(index=False):
            table.add_row(*(f"{value:.4g}" if isinstance(value, float) else str(value) for value in row))
        Console().print(table)


def _save(out: Path, overwrite: bool, model: Model, found: Mapping[str, pd.DataFrame], asked: dict[str, Any]) -> None:
    from babelscope.results import RunWriter

    with RunWriter(out, kind="evaluation", overwrite=overwrite) as run:
        for name, frame in found.items():
            run.table(name, frame)
        summary: dict[str, Any] = {"model": model.id}
        if "cloze" in found:
            base = found["cloze"][found["cloze"].deactivated == "base"]
            summary["story_cloze"] = base.set_index("language").accuracy.to_dict()
        run.manifest.update(asked=asked, model=model.facts(), tokenizer_hash=model.tokenizer_hash, summary=summary)
