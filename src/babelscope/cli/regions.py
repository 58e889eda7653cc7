"""`babelscope regions`: linguistic regions of a model, end to end, into a run directory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from babelscope.cli.options import Device, DeviceMap, Dtype, Overwrite, Remote, Revision

if TYPE_CHECKING:
    from babelscope.models.model import SpecialTokens
    from babelscope.regions.perplexity import Joint
    from babelscope.regions.treatments import Kind

_ALL = 0


def regions(
    model: Annotated[str, typer.Argument(help="Hub name, model folder, pocket:NAME or pocket:NAME@REVISION.")],
    corpus: Annotated[str, typer.Option(help="Parallel text, such as bible:FOLDER (see: babelscope corpus list).")],
    out: Annotated[Path, typer.Option(help="Directory of the run.")],
    languages: Annotated[str | None, typer.Option(help="Codes, by commas; default: all in the corpus.")] = None,
    samples: Annotated[int, typer.Option(help="Parallel sentences.")] = 100,
    seed: Annotated[int, typer.Option(help="Of the sample, the controls and the bootstrap.")] = 0,
    threshold: Annotated[float, typer.Option(help="On z; must be below √(languages − 1).")] = 2.0,
    special: Annotated[str, typer.Option(help="Special tokens: none, bos, or bos-excluded.")] = "none",
    texts: Annotated[str | None, typer.Option(help="Text for the perplexity table; default: no table.")] = None,
    window: Annotated[int | None, typer.Option(help="Tokens per window; default: the model's length, ≤ 2048.")] = None,
    joint: Annotated[str, typer.Option(help="Between documents: blank-line (the paper) or eos.")] = "blank-line",
    text_tokens: Annotated[int, typer.Option(help="Tokens of text per language; 0: all of it.")] = 8192,
    controls: Annotated[int, typer.Option(help="Random draws of each control.")] = 5,
    bootstrap: Annotated[int, typer.Option(help="Draws for intervals.")] = 1000,
    permutations: Annotated[int, typer.Option(help="Draws of permuted labels to calibrate by; 0: none.")] = 0,
    fdr: Annotated[float, typer.Option(help="False discovery rate of calibrated regions.")] = 0.05,
    methods: Annotated[str | None, typer.Option(help="Further methods, by commas: lape,average-precision,…")] = None,
    alignment: Annotated[bool, typer.Option("--alignment", help="All alignment metrics, by layer and pair.")] = False,
    alignment_neurons: Annotated[
        str | None, typer.Option(help="Shares of neurons that carry SADS to switch off: 0.01,0.05")
    ] = None,
    stories: Annotated[str | None, typer.Option(help="Story cloze beside the alignment neurons.")] = None,
    doses: Annotated[str | None, typer.Option(help="Shares of neurons to treat, by rank: 0.001,0.01,0.1")] = None,
    kinds: Annotated[str, typer.Option(help="Treatments of the doses: zero,mean,mean-others,scale.")] = "zero",
    generate: Annotated[int, typer.Option(help="Prompts per language to continue under each region.")] = 0,
    steer: Annotated[str | None, typer.Option(help="Make prompts in one language go on in another: en:zh")] = None,
    steer_way: Annotated[str, typer.Option(help="mean: the region at its means in the target; or scale.")] = "mean",
    steer_factor: Annotated[float, typer.Option(help="Times the means, or the activations.")] = 1.0,
    revision: Revision = None,
    dtype: Dtype = "auto",
    device: Device = None,
    device_map: DeviceMap = None,
    trust_remote_code: Remote = False,
    overwrite: Overwrite = False,
) -> None:
    """Find the neurons that serve each language, how translations meet, and what switching regions off does.

    Example:

      babelscope regions pocket:pocket-bloom-m --corpus pocket:heldout --texts pocket:heldout --out runs/pocket

      babelscope regions bigscience/bloom-560m --corpus bible:bibles --languages en,zh,fr,es,pt,ar,vi,hi,id
      --texts xlsum:xlsum --window 2048 --text-tokens 0 --out runs/bloom
    """
    from babelscope.cli.options import load, refuse_existing
    from babelscope.cli.show import show
    from babelscope.corpora import load_corpus
    from babelscope.languages import parse_languages
    from babelscope.studies.progress import shown
    from babelscope.studies.regions import RegionsSettings, check_samples, study_regions

    settings = RegionsSettings(
        corpus=corpus,
        languages=tuple(parse_languages(languages)) if languages else None,
        samples=samples,
        seed=seed,
        threshold=threshold,
        special=_special(special),
        texts=texts,
        window=window,
        joint=_joint(joint),
        text_tokens=None if text_tokens == _ALL else text_tokens,
        controls=controls,
        bootstrap=bootstrap,
        permutations=permutations,
        fdr=fdr,
        methods=_listed(methods),
        alignment=alignment,
        alignment_neurons=_shares("--alignment-neurons", alignment_neurons),
        stories=stories,
        doses=_shares("--doses", doses),
        kinds=_kinds(kinds),
        generate=generate,
        steer=_steer(steer),
        steer_way="scale" if steer_way == "scale" else _mean(steer_way),
        steer_factor=steer_factor,
    )
    check_samples(settings)
    refuse_existing(out, overwrite)
    # text first: it is read in seconds, and its faults should not wait for a model
    parallel = load_corpus(corpus, settings.languages)
    for note in parallel.notes:
        typer.echo(f"note: {note}", err=True)
    loaded = load(model, revision, dtype, device, device_map, trust_remote_code)
    run = study_regions(loaded, settings, out, overwrite, parallel, progress=shown)
    show(str(run.path))
    typer.echo(f"run: {out}    page: babelscope report {out}")


def _joint(name: str) -> Joint:
    from babelscope.errors import InputError

    if name == "blank-line" or name == "eos":
        return name
    raise InputError(f"--joint {name!r}: use blank-line or eos")


def _special(name: str) -> SpecialTokens:
    from babelscope.errors import InputError

    if name == "none" or name == "bos" or name == "bos-excluded":
        return name
    raise InputError(f"--special {name!r}: use none, bos, or bos-excluded")


def _listed(text: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())


def _shares(option: str, text: str | None) -> tuple[float, ...]:
    from babelscope.errors import InputError

    try:
        return tuple(float(part) for part in _listed(text))
    except ValueError:
        raise InputError(f"{option} {text}: write shares by commas, such as 0.01,0.05") from None


def _kinds(text: str) -> tuple[Kind, ...]:
    from babelscope.errors import InputError
    from babelscope.regions.treatments import KINDS

    unknown = [name for name in _listed(text) if name not in KINDS]
    if unknown:
        raise InputError(f"--kinds {', '.join(unknown)}: there are {', '.join(KINDS)}")
    return tuple(kind for kind in KINDS if kind in _listed(text))


def _mean(way: str) -> Literal["mean"]:
    from babelscope.errors import InputError

    if way != "mean":
        raise InputError(f"--steer-way {way}: use mean or scale")
    return "mean"


def _steer(text: str | None) -> tuple[str, str] | None:
    from babelscope.errors import InputError
    from babelscope.languages import language

    if text is None:
        return None
    source, colon, target = text.partition(":")
    if not colon or not source or not target:
        raise InputError(f"--steer {text}: write two languages, such as en:zh")
    return language(source).code, language(target).code
