"""`babelscope circuits`: the circuit of a task in several languages, end to end, into a run directory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from babelscope.cli.options import Device, DeviceMap, Dtype, Overwrite, Remote, Revision

if TYPE_CHECKING:
    from babelscope.results import Run
    from babelscope.studies.circuits import CircuitsSettings


def circuits(
    out: Annotated[Path, typer.Option(help="Directory of the run.")],
    model: Annotated[str | None, typer.Argument(help="Hub name, model folder or pocket:NAME; or use --preset.")] = None,
    task: Annotated[
        str | None, typer.Option(help="ioi, past-tense, minimal-pairs:FILE, ioi:FILE.toml, … [ioi]")
    ] = None,
    languages: Annotated[str | None, typer.Option(help="Codes, by commas. [en,zh]")] = None,
    n: Annotated[int, typer.Option(help="Prompt pairs per language.")] = 100,
    seed: Annotated[int, typer.Option(help="Of prompts, bootstrap and random sets.")] = 0,
    split: Annotated[str | None, typer.Option(help="strict (one-token names and targets), relaxed, auto.")] = None,
    corruption: Annotated[str | None, typer.Option(help="Default: those that the task's search needs.")] = None,
    stratum: Annotated[str | None, typer.Option(help="Past tense, which to patch: en=irregular,zh=copy")] = None,
    rule: Annotated[str, typer.Option(help="Selects heads: significance or deviation.")] = "significance",
    sigmas: Annotated[float, typer.Option(help="Least effect, in deviations over all heads.")] = 2.0,
    null: Annotated[bool, typer.Option(help="Compare with same-answer counterfactuals.")] = True,
    mlps: Annotated[str, typer.Option(help="Between sender and receiver: recomputed or frozen.")] = "recomputed",
    ablation: Annotated[str, typer.Option(help="zero, mean (per template, order, position) or resample.")] = "mean",
    draws: Annotated[int, typer.Option(help="Random head sets beside the circuit.")] = 20,
    edges: Annotated[bool, typer.Option(help="Also routes, edges and circuits as masks.")] = True,
    edge_share: Annotated[float | None, typer.Option(help="Of all edges in a circuit. [fewest that do]")] = None,
    against: Annotated[str | None, typer.Option(help="Another model, whose heads are matched by role.")] = None,
    against_language: Annotated[str | None, typer.Option(help="Its language; default: the last.")] = None,
    preset: Annotated[str | None, typer.Option(help="The paper's: ioi-bloom, ioi-gpt2, ioi-cpm, tense-qwen, …")] = None,
    revision: Revision = None,
    dtype: Dtype = "auto",
    device: Device = None,
    device_map: DeviceMap = None,
    trust_remote_code: Remote = False,
    overwrite: Overwrite = False,
) -> None:
    """Find which heads and FFNs do a task, what each one does, and whether languages share them.

    Example:

      babelscope circuits pocket:pocket-bloom-m --task ioi --languages en,zh --out runs/ioi

      babelscope circuits --preset tense-qwen --out runs/tense

      babelscope circuits pocket:pocket-gpt2-en --languages en --against pocket:pocket-gpt2-zh
      --against-language zh --out runs/mono
    """
    from babelscope.cli.options import load, refuse_existing
    from babelscope.cli.show import show
    from babelscope.studies.circuits import study_circuits
    from babelscope.studies.progress import shown

    chosen, settings = _settings(
        preset,
        model,
        task=task,
        languages=languages,
        split=split,
        stratum=_strata(stratum),
        n=n,
        seed=seed,
        corruption=corruption,
        rule=rule,
        sigmas=sigmas,
        null=null,
        mlps=mlps,
        ablation=ablation,
        draws=draws,
        edges=edges,
        edge_share=edge_share,
        against_language=against_language,
    )
    refuse_existing(out, overwrite)
    loaded = load(chosen, revision, dtype, device, device_map, trust_remote_code)
    other = load(against, None, dtype, device, device_map, trust_remote_code) if against else None
    run = study_circuits(loaded, settings, out, overwrite, other, shown)
    show(str(run.path))
    for doubt in _doubts(run):
        typer.echo(f"note: {doubt}", err=True)
    typer.echo(f"run: {out}    page: babelscope report {out}")


def _doubts(run: Run) -> list[str]:
    """Languages in which the model does not do the task: heads are found there all the same, and mean nothing."""
    found: list[str] = []
    for row in run.table("behaviour").to_dict("records"):
        value, low, high = (row[f"logit_difference{end}"] for end in ("", "_low", "_high"))
        if not low > 0:
            where = " ".join(filter(None, (str(row["language"]), str(row["stratum"] or ""))))
            found.append(
                f"the logit difference in {where} is {value:.3g} ({low:.3g} to {high:.3g}): the model cannot be said "
                "to do the task there, so neither can what was found be called its circuit"
            )
    return found


def _settings(preset_name: str | None, model: str | None, **given: Any) -> tuple[str, CircuitsSettings]:
    """The model and the settings: what was given, over what the preset says, over the defaults."""
    from babelscope.errors import InputError
    from babelscope.languages import parse_languages
    from babelscope.studies.circuits import CircuitsSettings, preset

    if given["languages"] is not None:
        given["languages"] = tuple(parse_languages(given["languages"]))
    base: dict[str, Any] = {}
    if preset_name is not None:
        found = preset(preset_name)
        base, model = dict(found.settings), model or found.model
    if model is None:
        raise InputError("name a model, or a preset that names one (--preset ioi-bloom)")
    return model, CircuitsSettings(**(base | {name: value for name, value in given.items() if value is not None}))


def _strata(text: str | None) -> dict[str, str] | None:
    from babelscope.errors import InputError

    if text is None:
        return None
    parts = [part.partition("=") for part in text.split(",") if part.strip()]
    if any(not equals or not name for _, equals, name in parts):
        raise InputError(f"--stratum {text}: write language=stratum, such as en=irregular,zh=copy")
    return {code.strip(): name.strip() for code, _, name in parts}
