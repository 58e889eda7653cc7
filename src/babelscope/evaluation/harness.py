"""EleutherAI's lm-evaluation-harness on our model as it is now: any of its tasks, and ours (the `[eval]` extra)."""

from __future__ import annotations

import importlib
import importlib.util
import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from importlib.resources import files
from math import nan
from pathlib import Path
from typing import NotRequired, TypedDict

import pandas as pd

from babelscope.errors import InputError, MissingExtra
from babelscope.evaluation.items import ClozeStory, cloze_items
from babelscope.evaluation.scoring import Z
from babelscope.models import Model
from babelscope.results.scratch import Scratch

STORY_TASK = "story_cloze_english"


def harness_available() -> bool:
    """Whether the `[eval]` extra is installed."""
    return all(importlib.util.find_spec(package) is not None for package in ("lm_eval", "accelerate"))


def run_harness(
    model: Model,
    tasks: Sequence[str] = (),
    stories: Mapping[str, Sequence[ClozeStory]] | None = None,
    shots: int | None = None,
    limit: int | None = None,
    batch_size: int = 8,
) -> pd.DataFrame:
    """Every metric of the named harness tasks, and of the story cloze in each language of `stories`.

    Runs on the model as it is, so inside `deactivate` it measures the deactivated model. Columns: task, language,
    metric, value, stderr, low, high, n. Raises MissingExtra without lm-eval, InputError for an unknown task.
    """
    if not harness_available():
        raise MissingExtra("lm-eval", "eval", "evaluating harness tasks")
    # its declared types do not describe what it takes
    lm_eval = importlib.import_module("lm_eval")
    huggingface = importlib.import_module("lm_eval.models.huggingface")
    harness_tasks = importlib.import_module("lm_eval.tasks")

    with ExitStack() as stack:
        folder = stack.enter_context(Scratch("tasks"))
        ours = {f"{STORY_TASK}_{code}": code for code in stories or {}}
        for name, code in ours.items():
            _write_task(folder, name, (stories or {})[code])
        # the index of the harness's own thousands of tasks is read only when one of them is asked for
        manager = harness_tasks.TaskManager(include_path=str(folder), include_defaults=bool(tasks))
        unknown = [task for task in tasks if not manager.match_tasks([task])]
        if unknown:
            raise InputError(f"lm-evaluation-harness has no task {unknown[0]!r}; see: lm_eval ls tasks")
        if not tasks and not ours:
            raise InputError("name at least one task")
        language_model: object = huggingface.HFLM(pretrained=model.hf, tokenizer=model.tokenizer, batch_size=batch_size)
        found: _Found = lm_eval.simple_evaluate(
            model=language_model,
            tasks=[*tasks, *ours],
            num_fewshot=shots,
            limit=limit,
            # with 0 it makes no standard error at all, not even the closed form of an accuracy
            bootstrap_iters=1000,
            log_samples=False,
            task_manager=manager,
            verbosity="ERROR",
        )
    return _frame(found, ours)


def _write_task(folder: Path, name: str, stories: Sequence[ClozeStory]) -> None:
    """Our task of one language: the template of the package, with its own file of stories."""
    data = folder / f"{name}.jsonl"
    rows = (
        {"prompt": item.prompt, "first": first.strip(), "second": second.strip(), "label": item.label}
        for item in cloze_items(stories)
        for first, second in [item.choices]
    )
    data.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    template = files("babelscope.evaluation").joinpath("data", f"{STORY_TASK}.yaml").read_text(encoding="utf-8")
    # JSON strings are YAML strings, whatever is in a path
    filled = template.replace("TASK_NAME", json.dumps(name)).replace("DATA_FILE", json.dumps(str(data)))
    filled = filled.replace("CACHE_FOLDER", json.dumps(str(folder / "cache")))
    (folder / f"{name}.yaml").write_text(filled, encoding="utf-8")


_Metrics = Mapping[str, Mapping[str, object]]
_Found = TypedDict("_Found", {"results": _Metrics, "n-samples": NotRequired[_Metrics]})
"""what the harness gives back, as far as it is read: metrics by task, and how many items there were"""


def _frame(found: _Found, ours: Mapping[str, str]) -> pd.DataFrame:
    rows: list[dict[str, object]] = []
    for task, metrics in found["results"].items():
        count = found.get("n-samples", {}).get(task, {}).get("effective")
        for name, value in metrics.items():
            metric, _, kind = name.partition(",")
            if metric.endswith("_stderr") or not kind or not isinstance(value, int | float):
                continue
            error = metrics.get(f"{metric}_stderr,{kind}")
            error = float(error) if isinstance(error, int | float) else nan
            half = Z * error if error > 0 else nan  # of nothing but right answers it is 0, and no interval
            rows.append(
                {
                    "task": STORY_TASK if task in ours else task, "language": ours.get(task, ""), "metric": metric,
                    "value": float(value), "stderr": error, "low": value - half, "high": value + half,
                    "n": count,
                }
            )  # fmt: skip
    return pd.DataFrame(rows)
