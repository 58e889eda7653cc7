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
from babelscope.regions.treatments import Treatment, mean_values
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


@dataclass(frozen=True)
class Push:
    """From which language to which, how, and against how many random draws."""

    source: str
    target: str
    way: Way = "mean"
    """the target's region at its means in the target language, or its activations scaled"""
    factor: float = 1.0
    """times the means, or the activations"""
    controls: int = 3
    """draws of as many random neurons of the same layers"""
    seed: int = 0


def steering_conditions(
    recording: Recording,
    regions: RegionSet,
    push: Push,
) -> Iterator[tuple[str, int, Treatment | None]]:
    """Nothing; the target's region at `factor` × its mean in the target language (or its activations × `factor`); the
    source's region at its means in the target language as well; and random neurons of the same layers as the target's.

    Raises InputError for a language that is not there or has an empty region.
    """
    source, target, way, factor = push.source, push.target, push.way, push.factor
    for code in (source, target):
        if code not in recording.languages:
            raise InputError(f"steering {source}:{target}: {code!r} is not a language of the recording")
    mask, both = regions[target], regions[target] | regions[source]
    if not bool(mask.any()):
        raise InputError(f"steering {source}:{target}: the region of {target} is empty")
    means = factor * mean_values(recording)[recording.languages.index(target)]

    def made(chosen: Tensor) -> Treatment:
        return Treatment(chosen, means) if way == "mean" else Treatment(chosen, scale=factor)

    yield BASE, -1, None
    yield STEERED, -1, made(mask)
    if way == "mean":
        yield SWAPPED, -1, made(both)
    for draw in range(push.controls):
        drawn = random_region_by_layer(mask.sum(1).tolist(), recording.layout.widths, push.seed + draw)
        yield RANDOM, draw, made(drawn)


def steer(
    model: Model,
    recording: Recording,
    regions: RegionSet,
    push: Push,
    prompts: Int[Tensor, "B T"],
    sampling: Sampling | None = None,
    progress: Callable[[int], None] | None = None,
) -> tuple[list[Steering], list[Continuation]]:
    """Continue prompts in `source` while the region of `target` is set to that language's means, and with controls.

    >>> table, texts = steer(model, recording, regions, Push("en", "zh"), prompts)   # doctest: +SKIP
    >>> {row.condition: row.success for row in table}                             # doctest: +SKIP
    {'base': 0.0, 'steered': 0.8, 'swapped': 0.95, 'random-layer': 0.0}
    """
    conditions = list(steering_conditions(recording, regions, push))
    rows = generations(model, {push.source: prompts}, conditions, sampling, recording.languages, progress)
    sizes = {name: 0 if chosen is None else int(chosen.mask.sum()) for name, _, chosen in conditions}
    return [
        _summary([row for row in rows if row.deactivated == name], push, name, size) for name, size in sizes.items()
    ], rows


def _summary(rows: Sequence[Continuation], push: Push, name: str, size: int) -> Steering:
    success: Share = share([row.identified == push.target for row in rows])
    return Steering(
        push.source, push.target, name, push.way, push.factor, size,
        success.value, success.low, success.high, success.n, **means_of(rows),
    )  # fmt: skip
