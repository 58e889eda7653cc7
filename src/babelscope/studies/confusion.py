"""The study of language confusion: of a model's answers, or of answers in a file."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pandas as pd

from babelscope.corpora import ParallelCorpus
from babelscope.errors import InputError, MissingExtra
from babelscope.languages import english_name
from babelscope.models import Model
from babelscope.models.chat import measured_part, prompt_ids
from babelscope.models.decoding import Decoding, decode, ignored_settings, stop_ids, written_text
from babelscope.results import RunWriter
from babelscope.results.rows import rows_frame, write_rows
from babelscope.results.schemas.steering import Ceiling, Confusion, Rates, Said, SaidHere
from babelscope.stats import wilson
from babelscope.steering.benchmark import (
    OWN,
    Completion,
    Prompt,
    own_crosslingual,
    own_monolingual,
    own_prompts,
    read_benchmark,
)  # fmt: skip
from babelscope.steering.ceiling import ceilings
from babelscope.steering.confusion import Answer, OfflineRule, PublishedRule, kinds_of, mean_of, rates
from babelscope.studies.confusion_settings import ConfusionSettings
from babelscope.studies.progress import Progress, silent

if TYPE_CHECKING:
    from babelscope.results import Run

Judge = OfflineRule | PublishedRule
ALL = "all"


def judge_of(settings: ConfusionSettings, languages: Sequence[str]) -> Judge:
    """The rule; raises MissingExtra or InputError for what it needs and is not there."""
    if settings.rule == "offline":
        return OfflineRule(languages)
    assert settings.words is not None
    assert settings.identifier is not None
    try:
        words = set(settings.words.read_text(encoding="utf-8").split())
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--words {settings.words}: {error}") from error
    return PublishedRule(fasttext(settings.identifier), words)


class _FastText(Protocol):
    """A model of fastText."""

    def predict(self, text: str) -> tuple[Sequence[str], Sequence[float]]: ...


def fasttext(path: Path) -> Callable[[str], str]:
    """The published identifier of lines: fastText's best label where its score passes 0.3."""
    try:
        import fasttext as library  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise MissingExtra("fasttext", "lid", "the published rule's identifier") from error
    if not path.is_file():
        raise InputError(f"--identifier {path} is not a file")
    model: _FastText = library.load_model(str(path))  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]

    def identify(line: str) -> str:
        (label,), (score,) = model.predict(line)
        return str(label).removeprefix("__label__") if score > 0.3 else "unknown"

    return identify


def prompts_of(settings: ConfusionSettings) -> list[Prompt]:
    """What is asked: the benchmark's prompts, or the everyday questions."""
    if settings.data is not None:
        found = read_benchmark(settings.data, settings.tasks)
    else:
        codes = list(settings.languages or own_prompts())
        found = own_monolingual(codes) if "monolingual" in settings.tasks else []
        found += own_crosslingual(codes) if "crosslingual" in settings.tasks else []
    found = [one for one in found if not settings.languages or one.language in settings.languages]
    kept: list[Prompt] = []
    counts: dict[tuple[str, str, str], int] = {}
    for one in found:
        key = one.task, one.set, one.language
        counts[key] = counts.get(key, 0) + 1
        if not settings.limit or counts[key] <= settings.limit:
            kept.append(one)
    if not kept:
        raise InputError(f"there are no prompts in {', '.join(settings.languages)}")
    return kept


def study_confusion(
    model: Model,
    settings: ConfusionSettings,
    out: str | PathLike[str],
    overwrite: bool = False,
    progress: Progress = silent,
) -> Run:
    """Answers of a model, judged.

    >>> study_confusion(model, ConfusionSettings(languages=("fr",), limit=8), "runs/confusion")    # doctest: +SKIP
    """
    prompts = prompts_of(settings)
    made = prompt_ids(model, [one.text for one in prompts], settings.chat, settings.system)
    how = Decoding(
        settings.tokens, settings.temperature, settings.top_p, settings.seed, settings.fixed, settings.batch
    )  # fmt: skip
    with progress("answers", len(prompts) * settings.tokens, "tokens") as step:
        [written] = decode(model, made.ids, how, names=[one.id for one in prompts], progress=step)
    answers = [
        Completion(model.id, one.task, one.set, one.language, measured_part(written_text(model, ids, new.ids)))
        for one, ids, new in zip(prompts, made.ids, written)
    ]
    generation = {"ignored": ignored_settings(model), "stop": list(stop_ids(model)), "template": made.template,
                  "first_prompt": made.first}  # fmt: skip
    facts = {"model": model.facts(), "tokenizer_hash": model.tokenizer_hash, "generation": generation}
    told = [(one.text, new.reason, len(new.ids)) for one, new in zip(prompts, written)]
    return study_answers(answers, settings, out, overwrite, facts, told)


def study_answers(
    answers: Sequence[Completion],
    settings: ConfusionSettings,
    out: str | PathLike[str],
    overwrite: bool = False,
    facts: Mapping[str, object] | None = None,
    told: Sequence[tuple[str, str, int]] | None = None,
) -> Run:
    """Answers that were stored, judged: tables `answers`, `confusion`, and `ceiling` under the offline rule."""
    from babelscope.results import open_run

    codes = list(dict.fromkeys(one.language for one in answers))
    judge = judge_of(settings, codes)
    found = [judge(one.text, one.language, "en" if one.task == "crosslingual" else None) for one in answers]
    rows = [
        Said(
            model=one.model, task=one.task, set_=one.set, language=one.language, text=one.text, kind=answer.kind,
            lines=" ".join(answer.lines), right=answer.right,
        )
        for one, answer in zip(answers, found)
    ]  # fmt: skip
    table = confusion_table(answers, found)
    with RunWriter(out, kind="confusion", overwrite=overwrite) as run:
        if told is None:
            write_rows(run, Said, rows)
        else:
            write_rows(run, SaidHere, (
                SaidHere(**vars(row), prompt=prompt, reason=reason, tokens=tokens)
                for row, (prompt, reason, tokens) in zip(rows, told)
            ))  # fmt: skip
        run.table(Confusion.TABLE, table)
        own = [code for code in codes if code in own_prompts()]
        if isinstance(judge, OfflineRule) and own:
            corpus = ParallelCorpus.from_texts(own_prompts(own), spec=OWN)
            write_rows(run, Ceiling, ceilings(judge, corpus, [one.text for one in answers]))
        asked = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(settings).items()}
        run.manifest.update(asked=asked, languages=codes, **(facts or {}), summary={"sentences": sentences(table)})
    return open_run(out)


def confusion_table(answers: Sequence[Completion], found: Sequence[Answer]) -> pd.DataFrame:
    """Rates by model, task, set and language; averages over sets, over languages, and over all languages."""
    groups: dict[tuple[str, str, str, str], list[Answer]] = {}
    for one, answer in zip(answers, found):
        groups.setdefault((one.model, one.task, one.set, one.language), []).append(answer)
    rows: list[Confusion] = []
    for (model, task, name, code), own in groups.items():
        share = wilson(sum(one.passes for one in own), sum(one.counted for one in own))
        rows.append(Confusion(
            model=model, task=task, set_=name, language=code, rates=rates(own), lpr_low=share.low,
            lpr_high=share.high, why=share.why, kinds=kinds_of([one.kind for one in own]),
        ))  # fmt: skip
    for model, task in dict.fromkeys((row.model, row.task) for row in rows):
        own = [row for row in rows if (row.model, row.task) == (model, task)]
        by_language = [
            Confusion(model=model, task=task, set_=ALL, language=code,
                      rates=_mean([row.rates for row in own if row.language == code]))
            for code in dict.fromkeys(row.language for row in own)
        ]  # fmt: skip
        by_set = [
            Confusion(model=model, task=task, set_=name, language=ALL,
                      rates=_mean([row.rates for row in own if row.set_ == name]))
            for name in dict.fromkeys(row.set_ for row in own)
        ]  # fmt: skip
        overall = _mean([row.rates for row in by_language])
        rows += [*by_language, *by_set, Confusion(model=model, task=task, set_=ALL, language=ALL, rates=overall)]
    return rows_frame(Confusion, rows)


def _mean(each: Sequence[Rates]) -> Rates:
    return Rates(
        sum(one.answers for one in each), sum(one.counted for one in each), mean_of([one.lpr for one in each]),
        mean_of([one.acc for one in each]), mean_of([one.wpr for one in each]), mean_of([one.lcpr for one in each]),
    )  # fmt: skip


def sentences(table: pd.DataFrame) -> list[str]:
    """What was found, a sentence for each model and task."""
    found: list[str] = []
    for row in table.loc[(table["set"] == ALL) & (table["language"] == ALL)].to_dict("records"):
        own = table.loc[(table["model"] == row["model"]) & (table["task"] == row["task"])]
        where = ", ".join(str(row[part]) for part in ("model", "task") if row[part])
        found.append(_sentence(where, row, own.loc[own["language"] != ALL]))
    return found


def _sentence(where: str, row: Mapping[Hashable, Any], own: pd.DataFrame) -> str:
    """One sentence of a model and task; `own`: its rows by language."""
    counted, answers = int(row["counted"]), int(row["answers"])
    beginning = f"{where}: " if where else ""
    if row["lpr"] != row["lpr"]:
        return (
            f"{beginning}Whether answers stay in the language that was asked for cannot be said: of {answers} answers "
            f"{counted} have a line that is long enough to tell."
        )
    languages = own.loc[own["set"] == ALL].dropna(subset=["lpr"]).sort_values("lpr")
    text = (
        f"{beginning}{_percent(row['lpr'])} % of the answers stay in the language that was asked for (n = {counted} "
        f"with a line long enough to tell, of {answers}; mean of {len(languages)} languages)"
    )
    if len(languages) < 2:
        return f"{text}."
    worst = languages.iloc[0]
    known = own.loc[(own["language"] == worst["language"]) & own["lpr_low"].notna() & (own["set"] != ALL)]
    low, high = (known.iloc[0][end] if len(known) == 1 else float("nan") for end in ("lpr_low", "lpr_high"))
    ends = f" ({_percent(low)} to {_percent(high)})" if low == low else ""
    return f"{text}, fewest in {english_name(str(worst['language']))}: {_percent(worst['lpr'])} %{ends}."


def _percent(value: float) -> str:
    return "–" if value != value else f"{100 * value:.0f}"
