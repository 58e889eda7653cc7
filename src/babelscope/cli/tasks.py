"""`babelscope tasks`: which prompts there are, and what a tokenizer leaves of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter, validators

from babelscope.cli.command import verb, verb_app
from babelscope.cli.options import note
from babelscope.settings import Settings, refuse_idle
from babelscope.terms import Split

if TYPE_CHECKING:
    from babelscope.tasks import Census, PromptPair
    from babelscope.tasks.encoding import Encoder

app = verb_app("tasks", "Look at the prompt tasks and at what a tokenizer leaves of them.")

TaskName = Annotated[str, Parameter(help="Task name, minimal-pairs:PATH or ioi:PATH.toml ({language}: its code).")]
TokenizerName = Annotated[str, Parameter(help="Model or tokenizer: hub name, folder, file, or pocket:NAME.")]
Count = Annotated[int, Parameter(alias="-n", validator=validators.Number(gte=1), help="Prompts in each language.")]


@dataclass(frozen=True, kw_only=True)
class Offered(Settings):
    """Prompts."""

    split: Split | None = None
    """strict: one-token answers; relaxed: more; auto: strict where that is enough [census: strict; sample: auto]"""
    corruption: str | None = None
    """how the corrupted prompt is made; see `tasks list`"""
    source: str | None = None
    """mib:FOLDER for IOI, a .toml of templates, or a file of minimal pairs"""
    verbs: str | None = None
    """unimorph:TABLE, verbs for past-tense"""
    seed: int = 0
    """scenes are drawn from the seed and their number alone"""


@app.command(name="list")
@verb
def list_tasks() -> None:
    """List the tasks with their languages and corruptions; the first corruption is the default.

    For example:

      babelscope tasks list
    """
    from babelscope.tasks import TASKS

    for task in TASKS.values():
        languages = ", ".join(task.languages) or "whatever the file is in"
        print(f"{task.name}: {task.summary}\n  languages: {languages}")
        for name, what in task.corruptions.items():
            print(f"  corruption {name}: {what}")


@app.command(name="census")
@verb
def census(
    task: TaskName,
    tokenizer: TokenizerName,
    *,
    languages: Annotated[tuple[str, ...], Parameter(help="Codes, by commas [all the task has]")] = (),
    offered: Offered,
    n: Count = 320,
    csv: Annotated[Path | None, Parameter(help="Write the whole table, by template, to this file.")] = None,
) -> None:
    """Count the prompts that survive a tokenizer, by language, and why the others do not.

    For example:

      babelscope tasks census ioi pocket:pocket-bloom-m --languages en,zh
    """
    from babelscope.cli.options import quiet

    quiet()
    from babelscope.tasks import REASONS, Encoder, load_tokenizer
    from babelscope.tasks.registry import count_all

    _refuse_verbs(task, offered)
    options = {**asdict(offered), "split": offered.split or "strict"}
    counted = count_all(task, Encoder(load_tokenizer(tokenizer)), list(languages) or None, n=n, **options)
    if csv is not None:
        from babelscope.results.csv_cells import write_csv
        from babelscope.results.whole import whole_file

        with whole_file(csv) as partial:
            write_csv(counted.frame(), partial)
        note(f"wrote {csv}")
    _print_census(counted, f"{task}, {options['split']} split, corruption {counted.corruption}")
    for reason in counted.reasons():
        print(f"{reason}: {REASONS[reason]}")
    if not any(counts.get("survived") for counts in counted.counts.values()):
        other = "relaxed" if options["split"] == "strict" else "strict"
        note(
            f"no prompt survives: try --split {other}, other names or verbs (--source, --verbs), or your own templates"
        )


@app.command(name="sample")
@verb
def sample(
    task: TaskName,
    tokenizer: TokenizerName,
    *,
    languages: Annotated[tuple[str, ...], Parameter(help="Codes, by commas.")] = ("en",),
    offered: Offered,
    n: Count = 5,
) -> None:
    """Print some prompt pairs with target, foil and the tokens of every role.

    For example:

      babelscope tasks sample ioi pocket:pocket-bloom-m --languages zh
    """
    from babelscope.cli.options import quiet

    quiet()
    from babelscope.languages import parse_languages
    from babelscope.tasks import Encoder, Options, build, load_tokenizer

    _refuse_verbs(task, offered)
    encoder = Encoder(load_tokenizer(tokenizer))
    options = replace(Options(n=n, **asdict(offered)), split=offered.split or "auto")
    for language in parse_languages(languages):
        prompts = build(task, encoder, language, options)
        if len(languages) > 1:
            print(f"{language}\n")
        for pair in prompts:
            _print_pair(pair, encoder)
        note(f"{len(prompts)} pairs, {prompts.split} split, {prompts.scenes} scenes; {prompts.census.line()}")


def _refuse_verbs(task: str, offered: Offered) -> None:
    refuse_idle(offered, {"verbs": (lambda _: task.startswith("past-tense"), "the task past-tense")})


def _print_pair(pair: PromptPair, encoder: Encoder) -> None:
    labels = " ".join(filter(None, (pair.template, pair.order, pair.stratum, "held out" if pair.heldout else "")))
    print(f"item {pair.item}  {labels}")
    print(f"  clean      {pair.clean_text}")
    print(f"  corrupted  {pair.corrupted_text}")
    print(f"  target {encoder.decode(pair.target)!r} {pair.target}  foil {encoder.decode(pair.foil)!r} {pair.foil}")
    shown = (f"{role}={encoder.decode(pair.clean[start:end])!r}@{start}" for role, (start, end) in pair.roles.items())
    print(f"  roles      {'  '.join(shown)}\n")


def _print_census(counted: Census, title: str) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from babelscope.wording import visible

    by_language: dict[tuple[str, str], dict[str, int]] = {}
    for (language, _, stratum), counts in counted.counts.items():
        total = by_language.setdefault((language, stratum), {})
        for outcome, number in counts.items():
            total[outcome] = total.get(outcome, 0) + number
    table = Table("language", "stratum", "offered", "survived", "lost to", title=title)
    for (language, stratum), total in by_language.items():
        survived = total.pop("survived", 0)
        lost = ", ".join(f"{why} {number}" for why, number in sorted(total.items(), key=lambda entry: -entry[1]))
        table.add_row(language, escape(visible(stratum)), str(survived + sum(total.values())), str(survived), lost)
    Console().print(table)
