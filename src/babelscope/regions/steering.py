"""Making a model write in another language by setting a region's neurons to what they are in that language.

Success is the share of continuations identified as the target language; as many random neurons of the same layers, set
to their means in the target language likewise, say what any such edit does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from jaxtyping import Int
from torch import Tensor

from babelscope.errors import InputError
from babelscope.models import Model
from babelscope.regions.generation import BASE, Continuation, Sampling, Share, generations, means_of, share
from babelscope.regions.masks import RegionSet, random_region_by_layer
from babelscope.regions.recording import Recording
from babelscope.regions.treatments import Treatment, language_means
from babelscope.terms import Way

STEERED, SWAPPED, RANDOM = "steered", "swapped", "random-layer"


@dataclass(frozen=True)
class Steering:
    """How often continuations came out in the target language."""

    source: str
    target: str
    condition: str
    """`base`; `steered`: the target's region set; `swapped`: the source's region too; `random-layer`: as many others"""
    way: str
    factor: float
    """multiplies the means (mean) or the activations (scale)"""
    neurons: int
    success: float
    low: float
    high: float
    n: int
    broken_share: float
    broken_share_low: float
    broken_share_high: float
    distinct_1: float
    distinct_1_low: float
    distinct_1_high: float
    distinct_2: float
    distinct_2_low: float
    distinct_2_high: float


def steering_conditions(
    recording: Recording,
    regions: RegionSet,
    source: str,
    target: str,
    way: Way = "mean",
    factor: float = 1.0,
    controls: int = 3,
    seed: int = 0,
) -> Iterator[tuple[str, int, Treatment | None]]:
    """Nothing; the target's region at `factor` × its mean in the target language (or its activations × `factor`); the
    source's region at its means in the target language as well; and random neurons of the same layers as the target's.

    Raises InputError for a language that is not there or has an empty region.
    """
    for code in (source, target):
        if code not in recording.languages:
            raise InputError(f"steering {source}:{target}: {code!r} is not a language of the recording")
    mask, both = regions[target], regions[target] | regions[source]
    if not bool(mask.any()):
        raise InputError(f"steering {source}:{target}: the region of {target} is empty")
    means = factor * language_means(recording)[recording.languages.index(target)]

    def made(chosen: Tensor) -> Treatment:
        return Treatment(chosen, means) if way == "mean" else Treatment(chosen, scale=factor)

    yield BASE, -1, None
    yield STEERED, -1, made(mask)
    if way == "mean":
        yield SWAPPED, -1, made(both)
    for draw in range(controls):
        yield RANDOM, draw, made(random_region_by_layer(mask.sum(1).tolist(), recording.layout.widths, seed + draw))


def steer(
    model: Model,
    recording: Recording,
    regions: RegionSet,
    source: str,
    target: str,
    prompts: Int[Tensor, "B T"],
    way: Way = "mean",
    factor: float = 1.0,
    controls: int = 3,
    seed: int = 0,
    sampling: Sampling | None = None,
    progress: Callable[[int], None] | None = None,
) -> tuple[list[Steering], list[Continuation]]:
    """Continue prompts in `source` while the region of `target` is set to that language's means, and with controls.

    >>> table, texts = steer(model, recording, regions, "en", "zh", prompts)        # doctest: +SKIP
    >>> {row.condition: row.success for row in table}                             # doctest: +SKIP
    {'base': 0.0, 'steered': 0.8, 'swapped': 0.95, 'random-layer': 0.0}
    """
    conditions = list(steering_conditions(recording, regions, source, target, way, factor, controls, seed))
    rows = generations(model, {source: prompts}, conditions, sampling, recording.languages, progress)
    sizes = {name: 0 if chosen is None else int(chosen.mask.sum()) for name, _, chosen in conditions}
    return [
        _summary([row for row in rows if row.deactivated == name], source, target, name, way, factor, size)
        for name, size in sizes.items()
    ], rows


def _summary(
    rows: Sequence[Continuation], source: str, target: str, name: str, way: str, factor: float, size: int
) -> Steering:
    found: Share = share([row.identified == target for row in rows])
    return Steering(
        source, target, name, way, factor, size, found.value, found.low, found.high, found.n, **means_of(rows)
    )
