"""`babelscope tasks`: which prompts there are, and what a tokenizer leaves of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from babelscope.tasks import Census, PromptPair
    from babelscope.tasks.encoding import Encoder

app = typer.Typer(help="Look at the prompt tasks and at what a tokenizer leaves of them.", no_args_is_help=True)

Split = Annotated[
    str, typer.Option(help="strict: one-token answers; relaxed: more; auto: strict where that is enough.")
]
Corruption = Annotated[str | None, typer.Option(help="How the corrupted prompt is made; see `tasks list`.")]
Source = Annotated[
    str | None, typer.Option(help="mib:FOLDER for IOI, a .toml of templates, or a file of minimal pairs.")
]
Verbs = Annotated[str | None, typer.Option(help="unimorph:TABLE, verbs for past-tense.")]
Seed = Annotated[int, typer.Option(help="Scenes are drawn from the seed and their number alone.")]


@app.command("list")
def list_tasks() -> None:
    """List the tasks with their languages and corruptions; the first corruption is the default.

    Example:  babelscope tasks list
    """
    from babelscope.tasks import TASKS

    for task in TASKS.values():
        languages = ", ".join(task.languages) if task.data else "whatever the file is in"
        typer.echo(f"{task.name}: {task.summary}\n  languages: {languages}")
        for name, what in task.corruptions.items():
            typer.echo(f"  corruption {name}: {what}")


@app.command("census")
def census(
    task: Annotated[str, typer.Argument(help="Task name, minimal-pairs:PATH or ioi:PATH.toml ({language}: its code).")],
    tokenizer: Annotated[str, typer.Argument(help="Model or tokenizer: hub name, folder, file, or pocket:NAME.")],
    languages: Annotated[str | None, typer.Option(help="Comma-separated codes; default: all the task has.")] = None,
    split: Split = "strict",
    corruption: Corruption = None,
    source: Source = None,
    verbs: Verbs = None,
    n: Annotated[int, typer.Option("--n", "-n", min=1, help="Prompts looked at in each language.")] = 320,
    seed: Seed = 0,
    csv: Annotated[Path | None, typer.Option(help="Write the whole table, by template, to this file.")] = None,
) -> None:
    """Count the prompts that survive a tokenizer, by language, and why the others do not.

    Example:  babelscope tasks census ioi pocket:pocket-bloom-m --languages en,zh
    """
    from babelscope.cli.options import quiet

    quiet()
    from babelscope.tasks import REASONS, Encoder, load_tokenizer
    from babelscope.tasks.registry import count_all

    wanted = [code.strip() for code in languages.split(",") if code.strip()] if languages else None
    options = {"split": split, "corruption": corruption, "source": source, "verbs": verbs, "seed": seed}
    counted = count_all(task, Encoder(load_tokenizer(tokenizer)), wanted, n=n, **options)
    if csv is not None:
        from babelscope.results.whole import whole_file

        with whole_file(csv) as partial:
            counted.frame().to_csv(partial, index=False)
        typer.echo(f"wrote {csv}", err=True)
    _print_census(counted, f"{task}, {split} split, corruption {counted.corruption}")
    for reason in counted.reasons():
        typer.echo(f"{reason}: {REASONS[reason]}")


@app.command("sample")
def sample(
    task: Annotated[str, typer.Argument(help="Task name, minimal-pairs:PATH or ioi:PATH.toml ({language}: its code).")],
    tokenizer: Annotated[str, typer.Argument(help="Model or tokenizer: hub name, folder, file, or pocket:NAME.")],
    language: Annotated[str, typer.Option(help="Language of the prompts.")] = "en",
    split: Split = "auto",
    corruption: Corruption = None,
    source: Source = None,
    verbs: Verbs = None,
    n: Annotated[int, typer.Option("--n", "-n", min=1, help="How many prompt pairs.")] = 5,
    seed: Seed = 0,
) -> None:
    """Print some prompt pairs with target, foil and the tokens of every role.

    Example:  babelscope tasks sample ioi pocket:pocket-bloom-m --language zh
    """
    from babelscope.cli.options import quiet

    quiet()
    from babelscope.tasks import Encoder, build, load_tokenizer

    encoder = Encoder(load_tokenizer(tokenizer))
    options = {"split": split, "corruption": corruption, "source": source, "verbs": verbs, "seed": seed}
    prompts = build(task, encoder, language, n=n, **options)  # type: ignore[arg-type]
    for pair in prompts:
        _print_pair(pair, encoder)
    typer.echo(
        f"{len(prompts)} pairs, {prompts.split} split, {prompts.scenes} scenes; {prompts.census.line()}", err=True
    )


def _print_pair(pair: PromptPair, encoder: Encoder) -> None:
    labels = " ".join(filter(None, (pair.template, pair.order, pair.stratum, "held out" if pair.heldout else "")))
    typer.echo(f"item {pair.item}  {labels}")
    typer.echo(f"  clean      {pair.clean_text}")
    typer.echo(f"  corrupted  {pair.corrupted_text}")
    typer.echo(
        f"  target {encoder.decode(pair.target)!r} {pair.target}  foil {encoder.decode(pair.foil)!r} {pair.foil}"
    )
    shown = (f"{role}={encoder.decode(pair.clean[start:end])!r}@{start}" for role, (start, end) in pair.roles.items())
    typer.echo(f"  roles      {'  '.join(shown)}\n")


def _print_census(counted: Census, title: str) -> None:
    from rich.console import Console
    from rich.table import Table

    by_language: dict[tuple[str, str], dict[str, int]] = {}
    for (language, _, stratum), counts in counted.counts.items():
        total = by_language.setdefault((language, stratum), {})
        for outcome, number in counts.items():
            total[outcome] = total.get(outcome, 0) + number
    table = Table("language", "stratum", "offered", "survived", "lost to", title=title)
    for (language, stratum), total in by_language.items():
        survived = total.pop("survived", 0)
        lost = ", ".join(f"{why} {number}" for why, number in sorted(total.items(), key=lambda entry: -entry[1]))
        table.add_row(language, stratum, str(survived + sum(total.values())), str(survived), lost)
    Console().print(table)
