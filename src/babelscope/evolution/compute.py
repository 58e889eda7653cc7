"""One point: the weights are loaded, everything that is asked for is measured, and one run holds it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from babelscope.evolution.measures import RegionsMeasure

if TYPE_CHECKING:
    from babelscope.evolution.types import Place, Point
    from babelscope.models import Model


def compute_point(point: Point, folder: Path, scratch: Path, where: Place) -> Path:
    """Load the weights in `folder`, measure what the point asks for, and write one run below `scratch`.

    The run is a regions run (or one of kind `evaluation`, without regions) with the story cloze as table `cloze`, the
    circuits as a run of its own in `circuits/`, and the latent languages as one in `latent/`. Raises NonFinite when a
    headline number is not a number.
    """
    from babelscope.results import RunWriter

    model = load_point(point, folder, where)
    measures = point.work.measures
    found = [(one, one.measured(model, point.label, scratch / one.name)) for one in measures]
    target = scratch / "point"
    kind = "regions" if any(isinstance(one, RegionsMeasure) for one in measures) else "evaluation"
    with RunWriter(target, kind=kind) as run:
        run.manifest.update(model=model.facts(), tokenizer_hash=model.tokenizer_hash, summary={"model": model.id})
        for one, result in found:
            one.leave(result, run)
        run.manifest["key"] = point.key
        facts = point.facts()
        del facts["source"]  # but for where the weights lay: that says nothing elsewhere
        source = point.source
        run.manifest["point"] = facts | {"weights": source and {"kind": source.kind, "identity": source.identity}}
    return target


def load_point(point: Point, folder: Path, where: Place) -> Model:
    """The model of a point, from the folder that holds its weights."""
    from babelscope.models import load_model

    work = point.work
    model = load_model(
        str(folder),
        dtype=work.dtype,
        device=where.device,
        device_map=where.device_map,
        trust_remote_code=work.trust_remote_code,
        attention=work.attention,
    )
    model.id, model.revision = point.model, point.revision
    return model
