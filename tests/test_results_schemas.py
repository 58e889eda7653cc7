"""The classes of rows of every table: frozen, made by the names of columns, and what stands for what is not said."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import pkgutil
import sys

import pytest

from babelscope.results import schemas
from babelscope.results.rows import Part
from babelscope.results.schemas.steering import Judged

POSITIONAL = {
    "circuits.ExpertEffect", "circuits.RoleScores", "evaluation.Accuracy", "evaluation.Answered", "latent.Control",
    "latent.Curve", "latent.Entropy", "latent.Patch", "latent.ResidualAlignment", "latent.RouterAlignment",
    "latent.TunedScore", "steering.Ceiling", "steering.Continued", "steering.Judged", "steering.Kept",
    "steering.Rates", "sweep.PointRow", "sweep.SweepPoint",
}  # fmt: skip
STATED = {
    "circuit_edges.Agreed.what": "heads", "regions.Agreement.no_interval": "a fact of one recording",
    "regions.Dose.draw": -1, "regions.Perplexity.draw": -1, "routing.RoutingSimilarity.centred": False,
    "steering.Answer.draw": -1, "steering.Front.front": False, "steering.Judged.all_target": False,
    "steering.Judged.all_source": False, "steering.Judged.all_other": False, "steering.Judged.unknown": False,
    "steering.Judged.tokens": 0, "steering.Judged.repeat": 0, "steering.Kept.n": 0, "steering.Steered.draw": -1,
    "steering.SteeringControl.draw": -1, "sweep.Flow.layer": -1, "sweep.Flow.left": 0, "sweep.PointRow.status": "done",
}  # fmt: skip
"""what a column holds where a row says nothing of it, beside NaN and an empty text"""


def classes() -> dict[str, type]:
    """Every class of the schemas, made anew from their files."""
    found: dict[str, type] = {}
    for one in pkgutil.iter_modules(schemas.__path__):
        place = importlib.util.find_spec(f"{schemas.__name__}.{one.name}")
        assert place is not None
        assert place.origin is not None
        spec = importlib.util.spec_from_file_location(f"anew_{one.name}", place.origin)
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        for name, kind in vars(module).items():
            if isinstance(kind, type) and kind.__module__ == module.__name__:
                found[f"{one.name}.{name}"] = kind
    return found


def test_rows_are_frozen_and_made_by_the_names_of_their_columns():
    positional: set[str] = set()
    for name, kind in classes().items():
        parameters = vars(kind).get("__dataclass_params__")
        assert parameters is not None, name
        assert parameters.frozen, name
        own = [one for one in dataclasses.fields(kind) if one.name in kind.__annotations__]
        if not own or not own[-1].kw_only:
            positional.add(name)
    assert positional == POSITIONAL


def test_what_a_column_holds_that_a_row_says_nothing_of():
    stated: dict[str, object] = {}
    for name, kind in classes().items():
        for one in dataclasses.fields(kind):
            default = one.default
            if one.name not in kind.__annotations__ or default is dataclasses.MISSING or isinstance(default, Part):
                continue
            if default != "" and not (isinstance(default, float) and math.isnan(default)):
                stated[f"{name}.{one.name}"] = default
    assert stated == STATED


@pytest.mark.parametrize(
    ("tokens", "repeat", "loops"),
    [
        (0, 0, False),
        (0, 5, False),
        (1, 0, False),
        (1, 1, True),
        (4, 2, True),
        (4, 1, False),
        (5, 2, False),
        (5, 3, True),
    ],
)
def test_an_answer_loops_where_half_of_it_stands_twice(tokens, repeat, loops):
    assert Judged(tokens=tokens, repeat=repeat).loops is loops
