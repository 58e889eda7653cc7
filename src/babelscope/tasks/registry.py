"""The tasks by name, and the functions that build their prompts: `build`, `build_paired`, `census`, `fill_foils`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from babelscope.errors import NoPromptSurvives, TaskError
from babelscope.outside import Rows
from babelscope.tasks import ioi, tense
from babelscope.tasks.census import Census, Tally, joined
from babelscope.tasks.collect import (
    Collected,
    Options,
    Request,
    balanced,
    collect_ioi,
    collect_minimal_pairs,
    collect_random,
    collect_tense,
)
from babelscope.tasks.encoding import Encoder
from babelscope.tasks.prompts import PromptPair, PromptSet
from babelscope.tasks.steps import ANY, Dissociation, Step
from babelscope.tasks.templates import available

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedTokenizerBase as Tokenizer

_log = logging.getLogger(__name__)

SPLITS = ("strict", "relaxed", "auto")


@dataclass(frozen=True)
class Task:
    """One task: what it asks, its corruptions (the first is the default), and where its languages come from."""

    name: str
    summary: str
    corruptions: Mapping[str, str]
    collect: Callable[[Request, Encoder, Tally], Collected]
    data: str = ""
    """Folder of package data, one file per language; empty when the prompts come from a file of the user's"""
    steps: tuple[Step, ...] = ANY
    """how the circuit is searched for, and what its heads are called"""
    dissociation: Dissociation | None = None
    """two of the steps whose effects, held against each other, name the heads that act on the logits"""
    decomposing: tuple[str, str, tuple[str, ...]] | None = None
    """step, its receivers' step, corruptions that take apart what the step's heads send"""
    answer_roles: tuple[str, ...] = ("END",)
    """roles whose tokens decide target and foil: kept in counterfactuals with the same answer"""
    patched_roles: tuple[str, ...] = ("END",)
    """roles at which heads are patched one position at a time"""
    copied_roles: tuple[str, ...] = ()
    """roles whose words heads may copy"""
    control: str = "random-text"
    """the task of the same language that does not ask for this process"""
    spoken: tuple[str, ...] = ()
    """languages of a task that makes its prompts without data of the package"""

    @property
    def languages(self) -> tuple[str, ...]:
        """Languages with data in the package; empty when the user brings the text."""
        return available(self.data) if self.data else self.spoken


_TWIN = {"twin": "the prompt of another pair of equal length, best one whose target is this one's foil"}

_TASKS: Mapping[str, Task] = {
    task.name: task
    for task in (
        Task(
            "ioi",
            "indirect object identification: the name that is not repeated",
            {name: what for name, (what, _) in ioi.CORRUPTIONS.items()},
            collect_ioi,
            "ioi",
            steps=ioi.STEPS,
            decomposing=("s_inhibition", "name_movers", ("token-only", "position-only")),
            answer_roles=("IO", "S1", "S2", "END"),
            patched_roles=("IO", "S1", "S2", "END"),
            copied_roles=("IO", "S1", "S2"),
            control="ioi-control",
        ),
        Task(
            "past-tense",
            "the past form after a past time word",
            tense.CORRUPTIONS,
            collect_tense,
            "tense",
            steps=tense.STEPS,
            dissociation=tense.ROLES,
            answer_roles=("VERB1", "END"),
            patched_roles=("VERB1", "TIME2", "END"),
            copied_roles=("VERB1",),
        ),
        Task(
            "ioi-control",
            "IOI sentences in which no name is repeated: target and foil are equally good",
            {name: what for name, (what, _) in ioi.CONTROL_CORRUPTIONS.items()},
            collect_ioi,
            "ioi",
        ),
        Task("agreement", "subject-verb agreement from a file of minimal pairs", _TWIN, collect_minimal_pairs),
        Task("minimal-pairs", "any file or folder of minimal pairs", _TWIN, collect_minimal_pairs),
        Task(
            "random-text",
            "random tokens of the language: a control without a task",
            {"random": "other random tokens"},
            collect_random,
            "ioi",
        ),
    )
}
TASKS: Rows[Task] = Rows("tasks", lambda row: isinstance(row, Task), _TASKS)
"""Task name → task; "minimal-pairs:PATH", "agreement:PATH" and, for templates of your own, "ioi:PATH.toml" and
"past-tense:PATH.toml" name their file; `{language}` in a path stands for the language's code"""


def task_named(name: str) -> Task:
    """The task of a name, with or without a file ("ioi", "ioi:MINE.toml"); raises TaskError for an unknown one."""
    return _task(name)[0]


def corruptions(task: str) -> tuple[str, ...]:
    """Corruptions of a task, its default first; raises TaskError for an unknown task.

    >>> corruptions("past-tense")
    ('tense-flip', 'verb-swap')
    """
    return tuple(_task(task)[0].corruptions)


def check_known(task: str, languages: Sequence[str], corruption: str | None = None) -> None:
    """Raises TaskError for a task, a language or a corruption that there is not, before any model is loaded.

    >>> check_known("ioi", ["en", "zh"])
    """
    kind, path = _task(task)
    _corruption(kind, corruption)
    for code in () if path else languages:  # files bring languages of their own
        _language(kind, code)


def build(
    task: str, tokenizer: Tokenizer | Encoder, language: str, options: Options | None = None, **changes: Any
) -> PromptSet:
    """Prompt pairs of a task in a language, as a tokenizer allows them (section 2); `changes` are Options by name.

    Fewer than `n` is logged, none raises NoPromptSurvives with the census; an unknown task, option, corruption, split,
    language, template or stratum raises TaskError.

    >>> build("ioi", tokenizer, "en", n=60, split="auto")                                  # doctest: +SKIP
    """
    asked = _options(options, changes)
    kind, path = _task(task)
    if asked.n < 1:
        raise TaskError(f"n must be at least 1, got {asked.n}")
    if asked.split not in SPLITS:
        raise TaskError(f"no split {asked.split!r}; there are {', '.join(SPLITS)}")
    values: dict[str, Any] = {
        **vars(asked),
        "task": kind.name,
        "language": language if asked.source or path else _language(kind, language),
        "corruption": _corruption(kind, asked.corruption),
        "templates": None if asked.templates is None else tuple(asked.templates),
        "source": asked.source or path,
    }
    request = Request(**values)
    prompts = _collected(kind, request, _encoder(tokenizer, asked.special))
    if len(prompts) < asked.n:
        counted = prompts.census.line()
        _log.info("%s in %s: %d prompts instead of %d (%s)", task, language, len(prompts), asked.n, counted)
    return prompts


def _options(options: Options | None, changes: Mapping[str, object]) -> Options:
    known = [field.name for field in fields(Options)]
    unknown = [name for name in changes if name not in known]
    if unknown:
        raise TaskError(f"no option {unknown[0]!r} of prompts; there are {', '.join(known)}")
    return replace(options or Options(), **changes)


def build_paired(
    task: str,
    tokenizer: Tokenizer | Encoder | Mapping[str, Tokenizer | Encoder],
    languages: Sequence[str],
    *,
    n: int = 100,
    limit: int = 0,
    **options: Any,
) -> dict[str, PromptSet]:
    """Prompts of the same items in every language, in the same order, so that row i is one scene everywhere.

    `tokenizer` is one for all, or a mapping by language. All survivors among `limit` candidates are built, and the
    first `n` items that every language has are kept. Raises TaskError when they share none.
    """
    limit = limit or max(400, 4 * n)
    by_language: Mapping[str, Tokenizer | Encoder] = (
        tokenizer if isinstance(tokenizer, Mapping) else dict.fromkeys(languages, tokenizer)
    )
    missing = [language for language in languages if language not in by_language]
    if missing:
        raise TaskError(f"no tokenizer for {missing[0]}; there are some for {', '.join(by_language)}")
    sets = {
        language: build(task, by_language[language], language, n=limit, limit=limit, **options)
        for language in languages
    }
    common = set.intersection(*(set(prompts.items) for prompts in sets.values())) if sets else set[int]()
    if not common:
        counts = ", ".join(f"{language} {len(prompts)}" for language, prompts in sets.items())
        raise TaskError(f"no item of {task} survives in all of {', '.join(languages)} ({counts} survive alone)")
    first = next(iter(sets.values()))
    chosen = [pair.item for pair in balanced([pair for pair in first if pair.item in common], n)]
    paired: dict[str, PromptSet] = {}
    for language, prompts in sets.items():
        by_item = {pair.item: pair for pair in prompts}
        paired[language] = replace(prompts.replace([by_item[item] for item in chosen]), requested=n)
    return paired


def census(
    task: str,
    tokenizer: Tokenizer | Encoder,
    languages: Sequence[str] | None = None,
    *,
    n: int = 320,
    **options: object,
) -> pd.DataFrame:
    """Per language, template and stratum: prompts offered, survived, and lost by reason, among the first `n` scenes.

    Nothing raises for a language in which no prompt survives: that is what a census is for. Options as in `build`.
    """
    return count_all(task, tokenizer, languages, n=n, **options).frame()


def count_all(
    task: str,
    tokenizer: Tokenizer | Encoder,
    languages: Sequence[str] | None = None,
    *,
    n: int = 320,
    **options: Any,
) -> Census:
    """The same as an object: `census(…)` is its frame."""
    kind, path = _task(task)
    wanted = list(languages) if languages is not None else [] if path else list(kind.languages)
    if not wanted:
        raise TaskError(f"{task} comes with no language of its own: say which one its file is in")
    return joined(_count(task, tokenizer, language, n=n, **options) for language in wanted)


def _count(
    task: str, tokenizer: Tokenizer | Encoder, language: str, *, n: int = 320, split: str = "strict", **options: Any
) -> Census:
    try:
        options = {"scenes": "exact", "limit": n} | options
        # Every prompt among the first n is looked at, however many survive; random text has no end, and all survive.
        wanted = n if task == "random-text" else 1_000_000
        return build(
            task, tokenizer, language, n=wanted, split="strict" if split == "auto" else split, **options
        ).census
    except NoPromptSurvives as error:
        if not isinstance(error.census, Census):
            raise
        return error.census


def fill_foils(
    prompts: PromptSet, choose: Callable[[tuple[int, ...]], int | Sequence[int]], *, drop_equal: bool = True
) -> PromptSet:
    """The prompts with foils that a model chooses: `choose` gets the corrupted prompt's ids (under tense flip, the
    future twin) and returns the foil's token or tokens. Where it answers with the target, the pair is left out.

    Raises TaskError when that leaves none, or with `drop_equal` False when it happens at all. Section 2, aspect (D2).
    """
    filled: list[PromptPair] = []
    for pair in prompts:
        answer = choose(pair.corrupted)
        foil = (answer,) if isinstance(answer, int) else tuple(int(token) for token in answer)
        if foil != pair.target or not drop_equal:
            filled.append(replace(pair, foil=foil))
    if not filled:
        raise TaskError(f"every foil chosen for {prompts.task} in {prompts.language} is the target itself")
    return prompts.replace(filled)


def _neither(request: Request, strict: NoPromptSurvives, relaxed: NoPromptSurvives) -> NoPromptSurvives:
    counted = [one.census.line() if isinstance(one.census, Census) else "" for one in (strict, relaxed)]
    return NoPromptSurvives(
        f"no prompt of {request.task} survives in {request.language} with this tokenizer, "
        f"neither in the strict nor in the relaxed split: strict, {counted[0]}; relaxed, {counted[1]}",
        strict.census,
    )


def _collected(kind: Task, request: Request, encoder: Encoder) -> PromptSet:
    if request.split == "auto":
        try:
            strict = _collected(kind, replace(request, split="strict"), encoder)
        except NoPromptSurvives as first:
            try:
                return _collected(kind, replace(request, split="relaxed"), encoder)
            except NoPromptSurvives as second:
                raise _neither(request, first, second) from None
        if 2 * len(strict) >= request.n:
            return strict
        try:
            relaxed = _collected(kind, replace(request, split="relaxed"), encoder)
        except NoPromptSurvives:
            return strict
        return relaxed if len(relaxed) > len(strict) else strict
    tally = Tally()
    with TASKS.running(kind.name):
        pairs, scenes = kind.collect(request, encoder, tally)
    counted = tally.census(request.task, request.split, request.corruption)
    if not pairs:
        other = "relaxed" if request.split == "strict" else "strict"
        advice = f"; try the {other} split (--split {other}, or auto)"
        if counted.survived:
            advice = ", but none with a counterpart in the other order" + advice
        raise NoPromptSurvives(
            f"no prompt of {request.task} survives in {request.language} with this tokenizer, {request.split} split: "
            f"{counted.line()}{advice}",
            counted,
        )
    return PromptSet(
        tuple(pairs), request.language, request.task, request.corruption, counted, request.n, request.split, scenes
    )


def _task(name: str) -> tuple[Task, str | None]:
    base, _, path = name.partition(":")
    if base not in TASKS:
        raise TaskError(f"no task {base!r}; there are {', '.join(TASKS)}")
    if path and TASKS[base].data:
        if base == "random-text":
            raise TaskError("random-text reads no file")
        if not path.endswith(".toml") and not path.startswith("mib:"):
            raise TaskError(f"{name}: {base} reads templates from PATH.toml ({{language}} for the code), or mib:FOLDER")
    return TASKS[base], path or None


def _corruption(task: Task, corruption: str | None) -> str:
    if corruption is None:
        return next(iter(task.corruptions))
    if corruption not in task.corruptions:
        raise TaskError(f"{task.name} has no corruption {corruption!r}; there are {', '.join(task.corruptions)}")
    return corruption


def _language(task: Task, code: str) -> str:
    """The code as the data files write it: zho, zh-CN and Chinese are zh."""
    if not task.languages or code in task.languages:
        return code
    from babelscope.errors import InputError
    from babelscope.languages import language

    try:
        known = language(code).code
    except InputError:
        known = code
    base = known.split("-")[0]
    for spelling in (known, base):
        if spelling in task.languages:
            return spelling
    hint = f"; {task.name}:FILE.toml brings another" if task.data else ""
    raise TaskError(f"{task.name} has no language {code!r}; there are {', '.join(task.languages) or 'none'}{hint}")


def _encoder(tokenizer: Tokenizer | Encoder, special: bool) -> Encoder:
    if isinstance(tokenizer, Encoder):
        return tokenizer
    if not hasattr(tokenizer, "encode") or not hasattr(tokenizer, "convert_ids_to_tokens"):
        raise TaskError(f"a tokenizer of transformers is needed, got {type(tokenizer).__name__}")
    return Encoder(tokenizer, special)
