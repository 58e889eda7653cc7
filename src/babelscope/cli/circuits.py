"""`babelscope circuits`: the circuit of a task in several languages, end to end, into a run directory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from babelscope.cli.circuit_files import export_graph, import_graph
from babelscope.cli.command import verb, verb_app
from babelscope.cli.options import Loading, Study, Workers, note
from babelscope.studies.circuit_settings import CircuitsSettings

if TYPE_CHECKING:
    from babelscope.results import Run

app = verb_app("circuits")
for name, function in (("import", import_graph), ("export", export_graph)):
    app.command(verb(function), name=name)


@app.default
@verb
def circuits(
    model: Annotated[str | None, Parameter(help="Hub name, model folder or pocket:NAME; or use --preset.")] = None,
    *,
    settings: Annotated[Mapping[str, Any], CircuitsSettings],
    preset: Annotated[str | None, Parameter(help="The paper's: ioi-bloom, ioi-gpt2, ioi-cpm, tense-qwen, …")] = None,
    against: Annotated[str | None, Parameter(help="Another model, whose heads are matched by role.")] = None,
    loading: Loading,
    study: Study,
    workers: Workers,
) -> None:
    """Find which heads and FFNs do a task, what each one does, and whether languages share them.

    For example:

      babelscope circuits pocket:pocket-bloom-m --task ioi --languages en,zh \\
          --out runs/ioi

      babelscope circuits --preset tense-qwen --out runs/tense

      babelscope circuits pocket:pocket-gpt2-en --languages en \\
          --against pocket:pocket-gpt2-zh --against-language zh \\
          --out runs/mono

      babelscope circuits pocket:pocket-bloom-m --languages en,zh \\
          --engine ray --workers 2 --out runs/ioi
    """
    from dataclasses import replace

    from babelscope.cli.options import load, refuse_existing
    from babelscope.cli.show import show_run
    from babelscope.settings import refuse_idle
    from babelscope.studies.circuit_plan import SHARED, plan_circuits
    from babelscope.studies.circuits import study_circuits
    from babelscope.studies.progress import shown
    from babelscope.tasks.registry import check_known

    chosen, asked = _settings(preset, model, settings)
    if against is None:
        names = ("against_language", "matching", "twins")
        refuse_idle(asked, {name: (lambda _: False, "--against") for name in names})
    if not study.plan:
        refuse_existing(study.out, study.overwrite)
    theirs = (asked.against_language or asked.languages[-1],) if against else ()
    check_known(asked.task, [*asked.languages, *theirs], asked.corruption)
    loaded = load(chosen, loading)
    other = load(against, replace(loading, revision=None)) if against else None
    if study.plan:
        print(workers.planned(plan_circuits(loaded, asked, other), SHARED))
        return
    with workers.holding(loaded):
        run = study_circuits(loaded, asked, study.out, study.overwrite, other, shown, study.fresh)
    show_run(str(run.path))
    for doubt in _doubts(run):
        note(f"note: {doubt}")
    print(f"run: {study.out}    page: babelscope report {study.out}")


def _doubts(run: Run) -> list[str]:
    """Languages in which the model does not do the task: heads are found there all the same, and mean nothing."""
    found: list[str] = []
    rows = run.table("behaviour").to_dict("records")
    two = len({row.get("model") for row in rows}) > 1
    for row in rows:
        value, low, high = (row[f"logit_difference{end}"] for end in ("", "_low", "_high"))
        if not low > 0:
            where = " ".join(filter(None, (str(row["language"]), str(row["stratum"] or ""))))
            who = str(row["model"]) if two else "the model"
            found.append(
                f"the logit difference in {where} is {value:.3g} ({low:.3g} to {high:.3g}): {who} cannot be said "
                "to do the task there, so neither can what was found be called its circuit"
            )
    return found


def _settings(preset_name: str | None, model: str | None, given: Mapping[str, Any]) -> tuple[str, CircuitsSettings]:
    """The model and the settings: what was given, over what the preset says, over the defaults."""
    from babelscope.errors import InputError
    from babelscope.studies.circuit_settings import preset

    base: Mapping[str, Any] = {}
    if preset_name is not None:
        known = preset(preset_name)
        base, model = known.settings, model or known.model
    if model is None:
        raise InputError("name a model, or a preset that names one (--preset ioi-bloom)")
    return model, CircuitsSettings(**{**base, **given})
