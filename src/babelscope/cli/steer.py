"""`babelscope steer`: make a model write in another language, with success, fidelity, damage and controls."""

from __future__ import annotations

from babelscope.cli.command import verb, verb_app
from babelscope.cli.options import Loading, ModelName, Study, Workers, note
from babelscope.studies.steer_settings import SteerSettings

app = verb_app("steer")


@app.default
@verb
def steer(
    model: ModelName,
    *,
    settings: SteerSettings,
    loading: Loading,
    study: Study,
    workers: Workers,
) -> None:
    """Make a model write in another language, and measure what that costs.

    Directions and neurons are fitted on half of the documents, layer and strength are chosen on a fifth, and every
    number that is printed comes from the rest.

    For example:

      babelscope steer pocket:pocket-bloom-m --corpus 'pocket:heldout?n=240' \\
          --pairs en:fr --fixed --tokens 24 \\
          --out runs/steer

      babelscope steer CohereLabs/aya-expanse-8b --corpus ntrex:NTREX-128 \\
          --languages en,fr,de,ar --pairs en:fr \\
          --method diffmean,rest,neurons --prompts everyday --out runs/aya

      babelscope steer pocket:pocket-bloom-m --corpus 'pocket:heldout?n=240' \\
          --pairs en:fr --engine ray --workers 2 --out runs/steer
    """
    from babelscope.cli.options import load, refuse_existing
    from babelscope.corpora import load_corpus
    from babelscope.regions.identification import check_identifier
    from babelscope.studies.progress import shown
    from babelscope.studies.steer import study_steering
    from babelscope.studies.steer_plan import SHARED, plan_steering

    if not study.plan:
        refuse_existing(study.out, study.overwrite)
    check_identifier()
    # text first: it is read in seconds, and its faults should not wait for a model
    parallel = load_corpus(settings.corpus, list(settings.languages) or None)
    settings.wanted(tuple(parallel.languages))
    for line in parallel.notes:
        note(f"note: {line}")
    loaded = load(model, loading)
    if study.plan:
        print(workers.planned(plan_steering(loaded, settings, parallel), SHARED))
        return
    with workers.holding(loaded):
        run = study_steering(loaded, settings, study.out, study.overwrite, parallel, shown, study.fresh)
    for sentence in run.manifest["summary"]["sentences"]:
        print(sentence)
    print(f"run: {study.out}    tables: babelscope show {study.out}")
