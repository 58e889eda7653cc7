"""`babelscope regions`: linguistic regions of a model, end to end, into a run directory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from babelscope.cli.options import Device, DeviceMap, Dtype, Overwrite, Remote, Revision

if TYPE_CHECKING:
    from babelscope.models.model import SpecialTokens

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
    text_tokens: Annotated[int, typer.Option(help="Tokens of text per language; 0: all of it.")] = 8192,
    controls: Annotated[int, typer.Option(help="Random draws of each control.")] = 5,
    bootstrap: Annotated[int, typer.Option(help="Draws for intervals.")] = 1000,
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
    from babelscope.cli.show import show_run
    from babelscope.corpora import load_corpus
    from babelscope.languages import parse_languages
    from babelscope.studies.progress import bars
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
        text_tokens=None if text_tokens == _ALL else text_tokens,
        controls=controls,
        bootstrap=bootstrap,
    )
    check_samples(settings)
    refuse_existing(out, overwrite)
    # text first: it is read in seconds, and its faults should not wait for a model
    parallel = load_corpus(corpus, settings.languages)
    loaded = load(model, revision, dtype, device, device_map, trust_remote_code)
    run = study_regions(loaded, settings, out, overwrite, parallel, progress=bars)
    show_run(run)
    typer.echo(f"run: {out}    page: babelscope report {out}")


def _special(name: str) -> SpecialTokens:
    from babelscope.errors import InputError

    if name == "none" or name == "bos" or name == "bos-excluded":
        return name
    raise InputError(f"--special {name!r}: use none, bos, or bos-excluded")
