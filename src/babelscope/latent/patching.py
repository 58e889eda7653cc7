"""Language and concept patching (section 3; Dumas et al. 2411.08745).

    E1   at each layer the source's last residual replaces the target's: which of language and concept has moved?
    E2   the residuals at the source's word replace those at the target's word in all layers from l on: is the concept
         the same thing in every language?

G trial · L layers + 1 · R row (a variant) · U token
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from babelscope.latent.lens import normed, read_out, states
from babelscope.latent.tokens import TokenSets
from babelscope.latent.trials import Languages, Trial
from babelscope.latent.variants import cache_serves, final_states, final_states_plainly
from babelscope.models import Model
from babelscope.models.model import SpecialTokens

Array = NDArray[np.float64]
Run = Callable[..., Tensor]
Done = Callable[[int], None]
MASSES = ("c2 in d", "c2 in b", "c1 in d", "c1 in b")
"""nothing moved, language alone, concept alone, both"""
SOURCES = (
    "mean of languages",
    "first alone",
    "other concept",
    "random",
    "mean of demonstrations",
    "mean of concepts",
    "own",
)
"""what E2 puts in: c1 averaged over language pairs; one pair; c3; a random vector of the same norm; c1 averaged over
demonstrations of one pair; several concepts of one pair; the target's own residuals"""


@dataclass(frozen=True)
class Patched:
    """What patching gave, by trial."""

    languages: Languages
    concepts: NDArray[np.int64]
    """[G] c1"""
    solved: NDArray[np.bool_]
    """[G] source and target prompt are both solved"""
    unpatched: Float[Array, "G masses"]
    ceiling: Float[Array, " G"]
    """c1 in d on the target prompt asked for c1"""
    last: Float[Array, "G L masses"]
    """E1 at l = 1 … L"""
    word: Float[Array, "G source L"]
    """E2: c1 in d, from l = 0 … L−1 on; NaN where the word runs together with its quote"""
    cached: bool
    """whether prefixes were read from the cache"""


def patch(
    model: Model,
    tokens: TokenSets,
    pair: Languages,
    drawn: Sequence[Trial],
    special: SpecialTokens = "none",
    seed: int = 0,
    done: Done | None = None,
) -> Patched:
    """Runs E1 and E2 with all controls on every trial."""
    texts = list(dict.fromkeys(text for trial in drawn for text in _texts(trial)))
    place = {text: row for row, text in enumerate(texts)}
    residual = states(model, texts, special)  # [L, texts, D]
    cached = cache_serves(model, model.tokenize([drawn[0].target], special)[0])
    run: Run = final_states if cached else final_states_plainly
    rows = [
        _one(model, tokens, pair, trial, residual, place, special, run, seed + g, done) for g, trial in enumerate(drawn)
    ]
    solved, unpatched, ceiling, last, word = zip(*rows)
    concepts = np.array([trial.concepts[0] for trial in drawn])
    return Patched(
        pair,
        concepts,
        np.array(solved),
        np.stack(unpatched),
        np.array(ceiling),
        np.stack(last),
        np.stack(word),
        cached,
    )


def _texts(trial: Trial) -> list[str]:
    return [
        trial.source,
        trial.target,
        trial.asked,
        trial.word,
        *trial.sources,
        *trial.demonstrations,
        *trial.others,
        *trial.third,
    ]


def _one(
    model: Model,
    tokens: TokenSets,
    pair: Languages,
    trial: Trial,
    residual: Tensor,
    place: dict[str, int],
    special: SpecialTokens,
    run: Run,
    seed: int,
    done: Done | None,
) -> tuple[bool, Array, float, Array, Array]:
    b, d = pair.source[1], pair.target[1]
    c1, c2, _ = trial.concepts
    sets = [tokens.of(code)[concept] for concept, code in ((c2, d), (c2, b), (c1, d), (c1, b))]
    words = torch.tensor(sorted(frozenset[int]().union(*sets)))
    member = np.array([[float(int(word) in own) for own in sets] for word in words])

    def masses(z: Tensor) -> tuple[Array, list[int]]:
        found = read_out(model, z, words)
        return found.answers.double().cpu().numpy() @ member, found.top.tolist()

    ids = model.tokenize([trial.target], special)[0]
    plain, top = masses(
        _final(model, residual[-1, [place[text] for text in (trial.target, trial.source, trial.asked)]])
    )
    solved = top[0] in sets[0] and top[1] in sets[3]
    last, _ = masses(run(model, ids, len(ids) - 1, *single_layers(residual[:, place[trial.source]])))
    word = _word(model, trial, residual, place, ids, special, run, seed, masses)
    if done:
        done(1)
    return solved, plain[0], float(plain[2, 2]), last, word


def _final(model: Model, hidden: Tensor) -> Tensor:
    with torch.inference_mode():
        return normed(model, hidden)


def single_layers(source: Float[Tensor, "L D"]) -> tuple[Float[Tensor, "R L D"], Bool[Tensor, "R L"]]:
    """E1's rows: row l − 1 replaces layer l alone."""
    layers = len(source)
    replaced = torch.eye(layers, dtype=torch.bool)[1:]
    return source.expand(layers - 1, -1, -1), replaced


def layers_from(source: Float[Tensor, "L D"]) -> tuple[Float[Tensor, "R L D"], Bool[Tensor, "R L"]]:
    """E2's rows: row l replaces every layer from l on; l = 0 … L−1."""
    layers = len(source)
    replaced = torch.ones(layers, layers, dtype=torch.bool).triu()[:-1]
    return source.expand(layers - 1, -1, -1), replaced


def _word(
    model: Model,
    trial: Trial,
    residual: Tensor,
    place: dict[str, int],
    ids: Sequence[int],
    special: SpecialTokens,
    run: Run,
    seed: int,
    masses: Callable[[Tensor], tuple[Array, list[int]]],
) -> Array:
    start = model.tokenize([trial.word], special)[0]
    if list(ids[: len(start)]) != start:
        return np.full((len(SOURCES), model.layers), np.nan)

    def mean(texts: Sequence[str]) -> Tensor:
        return residual[:, [place[text] for text in texts]].mean(1)

    averaged = mean(trial.sources)
    noise = torch.randn(averaged.shape, generator=torch.Generator().manual_seed(seed))
    noise = torch.nn.functional.normalize(noise, dim=-1) * averaged.norm(dim=-1, keepdim=True)
    given = (
        averaged,
        mean(trial.sources[:1]),
        mean(trial.third),
        noise,
        mean(trial.demonstrations),
        mean(trial.others),
        mean([trial.word]),
    )
    values, replaced = (torch.cat(part) for part in zip(*(layers_from(source) for source in given)))
    found, _ = masses(run(model, ids, len(start) - 1, values, replaced))
    return found[:, 2].reshape(len(SOURCES), -1)
