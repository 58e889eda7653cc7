"""`babelscope latent`: which language a model works in between input and output, with controls and verdicts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from babelscope.cli.command import verb, verb_app
from babelscope.cli.options import Kept, Loading, ModelName, Planned, Workers
from babelscope.settings import Settings
from babelscope.studies.latent_settings import LatentSettings

app = verb_app("latent")


@dataclass(frozen=True, kw_only=True)
class Here(Settings):
    """The run."""

    out: Path | None = None
    """directory of the run; needed unless the words are only listed"""
    overwrite: bool = False
    """replace an existing run"""
    list_words: bool = False
    """print which concepts this tokenizer leaves for every pair and language, and stop"""


@app.default
@verb
def latent(
    model: ModelName,
    *,
    settings: LatentSettings,
    loading: Loading,
    here: Here,
    kept: Kept,
    planned: Planned,
    workers: Workers,
) -> None:
    """Ask whether a model passes through another language than the two it translates between.

    For example:

      babelscope latent pocket:planted-pivot --words planted --out runs/pivot

      babelscope latent pocket:pocket-bloom-m --words pocket --task sentence \\
          --parallel pocket:train --from en --to fr \\
          --lens logit,tuned --text pocket:heldout --out runs/bloom-m

      babelscope latent models/llama --special bos --from fr,de --to zh \\
          --out runs/l

      babelscope latent models/llama --from fr,de --to zh,ru \\
          --engine ray --workers 2 --gpus 1 --out runs/many
    """
    from babelscope.cli.options import load, refuse_existing
    from babelscope.errors import InputError
    from babelscope.studies.latent import census_of, study_latent
    from babelscope.studies.latent_plan import SHARED, plan_latent
    from babelscope.studies.latent_texts import chosen_words
    from babelscope.studies.progress import shown

    if here.out is None and not here.list_words and not planned.plan:
        raise InputError("--out: where shall the run go? (--list-words prints the census without a run)")
    if here.list_words and planned.plan:
        raise InputError("--list-words prints the census, --plan what a run would cost: give one of them")
    if here.list_words and (here.out is not None or here.overwrite or kept.fresh):
        raise InputError("--list-words prints the census and writes no run: leave out --out, --overwrite and --fresh")
    if here.out is not None and not planned.plan:
        refuse_existing(here.out, here.overwrite)
    # words first: they are read in no time, and their faults should not wait for a model
    words = chosen_words(settings)
    loaded = load(model, loading)
    if here.list_words:
        left_out = f"; {', '.join(words.doubles)} left out, a word occurs twice" if words.doubles else ""
        print(f"{words.name}: {len(words)} concepts in {', '.join(words.languages)}{left_out}")
        print(census_of(loaded, settings).to_string(index=False))
        return
    if planned.plan:
        print(workers.planned(plan_latent(loaded, settings), SHARED))
        return
    assert here.out is not None
    with workers.holding(loaded):
        run = study_latent(loaded, settings, here.out, here.overwrite, progress=shown, fresh=kept.fresh)
    for line in run.summary["sentences"]:
        print(line)
    print(f"run: {here.out}    page: babelscope report {here.out}")
