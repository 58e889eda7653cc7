"""What any edit of the same place and size does: random directions, shuffled labels, another language (steering.md, 3).

R draw · D model width
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from babelscope.errors import InputError
from babelscope.steering.directions import Direction, direction
from babelscope.steering.moments import Moments

RANDOM, RANDOM_COV, SHUFFLED, THIRD, NEURONS, PROMPTED = (
    "random", "random-cov", "shuffled", "third", "random-neurons", "prompted",
)  # fmt: skip
UNSTEERED, STEERED = "unsteered", "steered"
CONTROLS = (RANDOM, RANDOM_COV, SHUFFLED, THIRD, NEURONS)
"""each a column of the table `steering` where it was drawn"""


def generator_of(*parts: object) -> np.random.Generator:
    """Random numbers of a name: the same for the same parts, whatever else is drawn."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "little"))


def random_unit(width: int, seed: int, draw: int) -> Float[Tensor, " D"]:
    """An isotropic unit vector."""
    vector = torch.from_numpy(generator_of("random", seed, draw).standard_normal(width))
    return vector / vector.norm()


def random_covariance_unit(covariance: Float[Tensor, "D D"], seed: int, draw: int) -> Float[Tensor, " D"]:
    """A unit vector drawn from the states' own covariance: where states vary, controls do too."""
    values, vectors = torch.linalg.eigh(covariance.double())
    normal = torch.from_numpy(generator_of("random-cov", seed, draw).standard_normal(len(values)))
    vector = vectors @ (values.clamp_min(0).sqrt() * normal)
    return vector / vector.norm()


def shuffled_unit(moments: Moments, source: str, target: str, layer: int, seed: int, draw: int) -> Float[Tensor, " D"]:
    """The direction fitted with source and target exchanged in half of the documents, scaled up to a unit vector.

    Exactly half: with a coin for each document what is left over points along the direction itself, forwards or
    backwards, and scaled up it is the direction again.
    """
    documents = moments.documents
    if len(documents) < 4:
        raise InputError(f"shuffled labels need four documents; there are {len(documents)}")
    order = generator_of("shuffled", source, target, seed, draw).permutation(len(documents) // 2 * 2)
    kept = moments.only([documents[place] for place in order])
    coins = [place < len(order) // 2 for place in range(len(order))]
    # against the rest or a middle of all languages, labels of two exchanged leave a direction of the others
    return direction(kept.swapped(source, target, coins), source, target, layer, "diffmean").unit


def third_unit(moments: Moments, one: Direction, language: str) -> Float[Tensor, " D"]:
    """The difference of means towards a language that is neither source nor target."""
    if language in (one.source, one.target):
        raise InputError(f"{language} is no third language beside {one.source} and {one.target}")
    return direction(moments, one.source, language, one.layer).unit
