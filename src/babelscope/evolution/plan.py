"""What a sweep is to measure: models × revisions × corpora × measures, from a YAML file, a preset, or flags.

name: my-checkpoints
models:
  - id: pocket:pocket-bloom-m
    revisions: all
corpora: [pocket:heldout]
dtype: float32
measures:
  regions: {samples: 100}
  perplexity: {texts: pocket:heldout, text_tokens: 4096}
  story_cloze: {stories: "pocket:?n=100"}
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Any, get_type_hints

from babelscope.errors import InputError, PlanError
from babelscope.evolution.located import Located, Place, read_yaml, read_yaml_file
from babelscope.evolution.types import PlannedModel, Revision
from babelscope.evolution.values import checked
from babelscope.settings import refuse_wrong_value

TOP = [
    "name", "about", "models", "corpora", "languages", "dtype", "measures", "published", "trust_remote_code",
    "attention",
]  # fmt: skip
MEASURES = ["regions", "alignment", "perplexity", "story_cloze", "circuits", "latent"]
DTYPES = ("float32", "bfloat16", "float16", "float64")
PUBLISHED = ("bloom-7b1", "llama-2-7b")
ALL = "all"
_OF_PERPLEXITY = ("texts", "window", "text_tokens", "controls", "fixed", "doses", "kinds")
_OF_ALIGNMENT = ("alignment_neurons", "stories")
_NOT_MEASURED = ("corpus", "languages", "alignment")
"""said by the plan as a whole, or by naming the measure"""


@dataclass(frozen=True)
class Plan:
    """A whole sweep. `measures` holds the settings of each measure as the plan gives them."""

    name: str
    models: tuple[PlannedModel, ...]
    corpora: tuple[str, ...]
    measures: Mapping[str, Mapping[str, Any]]
    languages: tuple[str, ...] | None = None
    dtype: str = "float32"
    published: str | None = None
    trust_remote_code: bool = False
    attention: str | None = None
    about: str = ""
    data: Mapping[str, object] = field(default_factory=dict)
    """the plan as it was written"""


def presets() -> list[str]:
    """Names of the plans that come with the package.

    >>> "bloom-scales" in presets()
    True
    """
    return sorted(
        Path(entry.name).stem
        for entry in files("babelscope.evolution").joinpath("presets").iterdir()
        if entry.name.endswith(".yaml")
    )


def read_plan(plan: str | Path, changes: Mapping[str, object] | None = None) -> Plan:
    """The plan in a YAML file, or the preset of that name; `changes` take the place of entries, by dotted key.

    Raises PlanError that names the file, the line, the key, what is allowed, and the nearest match.

    >>> read_plan("bloom-scales").models[0].id
    'bigscience/bloom-560m'
    """
    path = Path(plan)
    if path.suffix in {".yaml", ".yml"} or path.is_file():
        if not path.is_file():
            raise PlanError(f"{plan}: no such file; presets: {', '.join(presets())}")
        located = read_yaml_file(path)
    elif str(plan) in presets():
        text = files("babelscope.evolution").joinpath("presets", f"{plan}.yaml").read_text(encoding="utf-8")
        located = read_yaml(text, f"preset {plan}")
    else:
        near = get_close_matches(str(plan), presets(), 1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise PlanError(f"{plan} is neither a plan file nor a preset{hint}. Presets: {', '.join(presets())}")
    return parse_plan(_changed(located, changes or {}), default_name=path.stem)


def plan_from(data: Mapping[str, object], name: str = "the command line") -> Plan:
    """A plan from a mapping with the keys of a plan file."""
    return parse_plan(Located(dict(data), name), default_name="sweep")


def _changed(located: Located, changes: Mapping[str, object]) -> Located:
    """The document with some entries replaced: `measures.regions.samples` reaches into it, making what is missing."""
    if not isinstance(located.data, dict):
        return located
    for dotted, value in changes.items():
        *path, last = dotted.split(".")
        target: dict[str, object] = located.data
        for part in path:
            inner = target.get(part)
            if not isinstance(inner, dict):
                inner = target[part] = dict[str, object]()
            target = inner
        target[last] = value
        located.lines.pop((*path, last), None)
    return located


def parse_plan(located: Located, default_name: str) -> Plan:
    """A checked plan from a document; raises PlanError."""
    data = located.data
    if not isinstance(data, dict):
        located.fail((), "a plan is a mapping with the keys " + ", ".join(TOP))
    located.only(data, (), TOP)
    for needed in ("models", "measures"):
        if not data.get(needed):
            located.fail((), f"the key {needed} is missing")
    measures = _measures(located)
    languages = _languages(located)
    plan = Plan(
        name=str(_typed(located, "name", str, default_name)),
        models=tuple(_model(located, entry, ("models", n)) for n, entry in enumerate(_listed(located, ("models",)))),
        corpora=tuple(_text(located, entry, ("corpora", n)) for n, entry in enumerate(_listed(located, ("corpora",)))),
        measures=measures,
        languages=languages,
        dtype=_choice(located, "dtype", DTYPES, "float32"),
        published=_choice(located, "published", PUBLISHED, None),
        trust_remote_code=_typed(located, "trust_remote_code", bool, False),
        attention=_typed(located, "attention", str, None),
        about=str(_typed(located, "about", str, "")),
        data=data,
    )
    if not plan.corpora and set(measures) - {"story_cloze", "circuits", "latent"}:
        located.fail(("corpora",), "regions, alignment and perplexity need a corpus, such as pocket:heldout")
    return plan


def _model(located: Located, entry: object, place: Place) -> PlannedModel:
    if isinstance(entry, str):
        return _named(entry)
    if not isinstance(entry, dict):
        located.fail(place, "a model is a name, or a mapping with id and revisions")
    located.only(entry, place, ["id", "revisions"])
    if "id" not in entry:
        located.fail(place, "the key id is missing")
    base = _named(_text(located, entry["id"], (*place, "id")))
    if "revisions" not in entry:
        return base
    if base.revisions != (Revision(None),):
        located.fail((*place, "id"), "the name has a revision after @ already; leave that, or the key revisions, out")
    given, here = entry["revisions"], (*place, "revisions")
    if given == ALL:
        return PlannedModel(base.id, ())
    if isinstance(given, str) and any(letter in given for letter in "*?["):
        return PlannedModel(base.id, (), given)
    if isinstance(given, dict):
        return _matched(located, base.id, given, here)
    if not isinstance(given, list) or not given:
        located.fail(here, "a list of revisions, all, a pattern such as step*, or a mapping with match and count")
    return PlannedModel(base.id, tuple(_revision(located, one, (*here, n)) for n, one in enumerate(given)))


def _matched(located: Located, model: str, given: dict[str, object], place: Place) -> PlannedModel:
    located.only(given, place, ["match", "count"])
    pattern = _text(located, given.get("match", "*"), (*place, "match"))
    count = _checked(located, given.get("count"), int | None, (*place, "count"))
    if count is not None and count < 2:
        located.fail((*place, "count"), "at least 2")
    return PlannedModel(model, (), pattern, count)


def _named(text: str) -> PlannedModel:
    name, at, revision = text.partition("@")
    return PlannedModel(name, (revision_of(revision) if at else Revision(None),))


def _revision(located: Located, entry: object, place: Place) -> Revision:
    if isinstance(entry, str | int) and not isinstance(entry, bool):
        return revision_of(_text(located, str(entry), place))
    if not isinstance(entry, dict):
        located.fail(place, "a revision is a name, or a mapping with name and step")
    located.only(entry, place, ["name", "step"])
    name = _text(located, entry.get("name"), (*place, "name"))
    step = entry.get("step")
    if step is not None and (not isinstance(step, int) or isinstance(step, bool) or step < 0):
        located.fail((*place, "step"), f"{step!r} is not a training step")
    return Revision(name, revision_of(name).step if step is None else step)


def revision_of(name: str) -> Revision:
    """A revision with the training step that its name states, if it states one.

    >>> revision_of("global_step1000").step, revision_of("stage1-step5000-tokens21B").step, revision_of("main").step
    (1000, 5000, None)
    >>> revision_of("step_20k").step, revision_of("checkpoint-500").step
    (20000, 500)
    """
    found = re.search(r"(?:step|checkpoint)[-_]?(\d{1,12})(k(?![a-z]))?", name)
    return Revision(name, int(found[1]) * (1000 if found[2] else 1) if found else None)


def _measures(located: Located) -> dict[str, dict[str, Any]]:
    given = located.data["measures"]
    if isinstance(given, list):
        given = {str(name): {} for name in given}
    if not isinstance(given, dict):
        located.fail(("measures",), f"a mapping or list of measures: {', '.join(MEASURES)}")
    located.only(given, ("measures",), MEASURES)
    schema = settings_of_measures()
    found: dict[str, dict[str, Any]] = {}
    for name, settings in given.items():
        place: Place = ("measures", name)
        settings = {} if settings is None or settings is True else settings
        if not isinstance(settings, dict):
            located.fail(place, "a mapping of settings")
        located.only(settings, place, list(schema[name]))
        found[name] = {
            key: _checked(located, value, schema[name][key], (*place, key)) for key, value in settings.items()
        }
        for needed, example in {"perplexity": ("texts", "xlsum:XLSum"), "story_cloze": ("stories", "pocket:")}.items():
            if name == needed and settings.get(example[0]) is None:
                located.fail(place, f"the key {example[0]} is missing, for instance {example[0]}: {example[1]}")
    if "circuits" in found and "task" not in found["circuits"]:
        located.fail(("measures", "circuits"), "the key task is missing, for instance task: ioi")
    return found


def settings_of_measures() -> dict[str, dict[str, object]]:
    """Measure → setting → its type: the fields of the studies themselves, so that a new option needs no change here."""
    from babelscope.studies.regions import RegionsSettings

    hints = get_type_hints(RegionsSettings)
    names = [one.name for one in fields(RegionsSettings) if one.name not in _NOT_MEASURED]
    return {
        "regions": {name: hints[name] for name in names if name not in {*_OF_PERPLEXITY, *_OF_ALIGNMENT}},
        "alignment": {name: hints[name] for name in _OF_ALIGNMENT if name in hints},
        "perplexity": {name: hints[name] for name in _OF_PERPLEXITY if name in hints},
        "story_cloze": {"stories": str, "languages": tuple[str, ...]},
        "circuits": _circuits_settings(),
        "latent": _latent_settings(),
    }


def _latent_settings() -> dict[str, object]:
    """`from` is spelt as in the command; files of one machine (a tuned lens, word counts) have no place in a plan."""
    from babelscope.studies.latent_settings import LatentSettings

    hints = get_type_hints(LatentSettings)
    names = [one.name for one in fields(LatentSettings) if one.name not in {"tuned", "counts"}]
    return {name.rstrip("_"): hints[name] for name in names}


def _circuits_settings() -> dict[str, object]:
    from babelscope.studies.circuit_settings import CircuitsSettings

    hints = get_type_hints(CircuitsSettings)
    return {one.name: hints[one.name] for one in fields(CircuitsSettings)}


def _languages(located: Located) -> tuple[str, ...] | None:
    from babelscope.languages import parse_languages

    given = located.data.get("languages")
    if given is None:
        return None
    try:
        return tuple(parse_languages(given if isinstance(given, str) else [str(code) for code in given]))
    except (InputError, TypeError) as error:
        located.fail(("languages",), str(error))


def _listed(located: Located, place: Place) -> list[object]:
    given = located.data.get(place[0])
    if given is None:
        return []
    if isinstance(given, str):
        return [given]
    if not isinstance(given, list) or not given:
        located.fail(place, "a list with at least one entry")
    return given


def _text(located: Located, value: object, place: Place) -> str:
    if not isinstance(value, str) or not value.strip():
        located.fail(place, f"{value!r} is not a name")
    return value


def _typed(located: Located, key: str, hint: object, default: object) -> Any:
    value = located.data.get(key)
    return default if value is None else _checked(located, value, hint, (key,))


def _choice(located: Located, key: str, allowed: tuple[str, ...], default: str | None) -> Any:
    value = located.data.get(key)
    if value is None:
        return default
    if value not in allowed:
        why = "; auto could differ from point to point" if value == "auto" else ""
        located.fail((key,), f"{value!r} is not one of {', '.join(allowed)}{why}")
    return value


def _checked(located: Located, value: object, hint: object, place: Place) -> Any:
    try:
        found = checked(value, hint)
        refuse_wrong_value(str(place[-1]), hint, found, "got")
    except (InputError, TypeError, ValueError) as error:
        located.fail(place, str(error))
    return found
