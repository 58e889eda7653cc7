"""`babelscope regions`: linguistic regions of a model, end to end, into a run directory; and region sets as files."""

from __future__ import annotations

from babelscope.cli.command import verb, verb_app
from babelscope.cli.options import Loading, ModelName, Study, Workers, note
from babelscope.cli.region_files import compare_regions, export_file, import_file, show_regions
from babelscope.studies.region_settings import RegionsSettings

app = verb_app("regions")
for name, function in {
    "show": show_regions,
    "compare": compare_regions,
    "import": import_file,
    "export": export_file,
}.items():
    app.command(verb(function), name=name)


@app.default
@verb
def regions(
    model: ModelName,
    *,
    settings: RegionsSettings,
    loading: Loading,
    study: Study,
    workers: Workers,
) -> None:
    """Find the neurons that serve each language, how translations meet, and what switching regions off does.

    A model folder that is called like one of the commands below is written ./show.

    For example:

      babelscope regions pocket:pocket-bloom-m --corpus pocket:heldout \\
          --texts pocket:heldout --out runs/pocket

      babelscope regions bigscience/bloom-560m --corpus bible:bibles \\
          --languages en,zh,fr,es,pt,ar,vi,hi,id \\
          --texts xlsum:xlsum --window 2048 --text-tokens 0 --out runs/bloom

      babelscope regions bigscience/bloom-7b1 --corpus bible:/data/bibles \\
          --engine ray --address auto --workers 4 --gpus 1 --out runs/big
    """
    from babelscope.cli.options import load, refuse_existing
    from babelscope.cli.show import show_run
    from babelscope.corpora import load_corpus
    from babelscope.corpora.spec import parse_spec
    from babelscope.studies.progress import shown
    from babelscope.studies.region_plan import SHARED, plan_regions
    from babelscope.studies.regions import regions_study, study_regions

    if not study.plan:
        refuse_existing(study.out, study.overwrite)
    # text first: it is read in seconds, and its faults should not wait for a model
    if settings.texts is not None:
        parse_spec(settings.texts)  # what is no spec is said before the model is loaded
    parallel = load_corpus(settings.corpus, settings.languages)
    for line in parallel.notes:
        note(f"note: {line}")
    loaded = load(model, loading)
    if study.plan:
        print(workers.planned(plan_regions(regions_study(loaded, settings, parallel)), SHARED))
        return
    steps = "fresh" if study.fresh else "resume"
    with workers.holding(loaded):
        run = study_regions(loaded, settings, study.out, study.overwrite, parallel, None, shown, steps)
    show_run(str(run.path))
    print(f"run: {study.out}    page: babelscope report {study.out}")
