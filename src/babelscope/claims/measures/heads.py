"""What claims about heads of two models measure: roles that only one has, and how near its heads are to the other's.

The two models may share neither tokenizer nor heads, so heads are matched by what they do, never by index. The first
model is asked in English, the second in Chinese, unless the case names other languages.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from babelscope.circuits.comparison.head_matching import match_heads, random_twin
from babelscope.circuits.core.nodes import Head
from babelscope.circuits.heads.copy_scores import copying
from babelscope.circuits.heads.roles import Roles, role_scores
from babelscope.claims.case import Case, named_model
from babelscope.claims.measures.tense import difference
from babelscope.claims.verdict import Part, not_above_chance, unread
from babelscope.models import Model
from babelscope.stats import jackknife_error, t_ends
from babelscope.studies.circuit_edges import halved
from babelscope.tasks import PromptPair, build

Array = NDArray[np.float64]
LANGUAGES = ("en", "zh")
READS = 0.1
"""least attention of a head that reads a word"""
TWIN_PROMPTS = 16
"""prompts by which heads are matched: their roles are taken of every random model too"""
CHOOSING = 32
"""prompts at most by which a role's strongest head is chosen"""
FOLDS = 8
"""of prompts, one left out at a time"""
MOVER, SUPPRESSION = "negative name mover", "copy suppression"
NULLS = 3
"""pairs of random models by which the strongest head's score is bounded: what it reads is chosen in each"""


def negative_movers(case: Case) -> list[Part]:
    """Negative copy score of the strongest negative name mover and of the strongest copy-suppressing head, first model
    minus second.

    A negative name mover reads IO and writes against the answer; a suppressing head reads the subject and writes
    against it, for the answer. Both are chosen on half of the prompts and scored on the other half, prompt by prompt;
    no such head scores 0. Control: the same of random models. Twin: both sides are the first model, on halves of its
    prompts.
    """
    names = [MOVER, SUPPRESSION]
    prompts = _prompts(case.models, _languages(case), case.n, case.seed)
    models = [named_model(name) for name in case.models]
    if poor := _unsolved(models, prompts):
        return [unread(name, case.n, "prompts", poor) for name in names]
    if case.twin == "models":
        models, prompts = [models[0]] * 2, list(halved(prompts[0]))
    scored = [_strongest(model, *halved(pairs)) for model, pairs in zip(models, prompts)]
    random = [
        [_strongest(random_twin(model, draw), *halved(pairs)) for model, pairs in zip(models, prompts)]
        for draw in range(case.seed * NULLS, (case.seed + 1) * NULLS)
    ]
    parts: list[Part] = []
    for name, sign in zip(names, (1, -1)):
        null = [sign * float(one[name].mean() - other[name].mean()) for one, other in random]
        parts.append(difference(name, scored[0][name], scored[1][name], 2, sign * max(null), "prompts", (0.0, 1.0)))
    return parts


def _strongest(model: Model, choosing: Sequence[PromptPair], testing: Sequence[PromptPair]) -> dict[str, Array]:
    """By kind of head, the negative copy score of its strongest on every prompt that it was not chosen on."""
    roles = role_scores(model, choosing[:CHOOSING]).scores
    against = roles["writes target − foil"] < 0
    subject = np.maximum(roles["attention END→S1"], roles["attention END→S2"])
    kinds = {
        MOVER: (against & (roles["attention END→IO"] >= READS), "IO"),
        SUPPRESSION: (~against & (roles["writes foil"] < 0) & (subject >= READS), "S1"),
    }
    found: dict[str, Array] = {}
    for name, (able, role) in kinds.items():
        score = np.where(able, roles["negative copy from own layer"], -1.0)
        layer, head = (int(place) for place in np.unravel_index(score.argmax(), score.shape))
        if score[layer, head] <= 0:
            found[name] = np.zeros(len(testing))
            continue
        node = Head(layer, head)
        found[name] = np.array(
            [float(copying(model, [pair], [role], [node], own_layer=True).negative[layer, head]) for pair in testing]
        )
    return found


def role_match(case: Case) -> list[Part]:
    """Mean distance of heads matched by their roles, over that to models with random weights, minus 1 (`less`).

    Prompts are left out an eighth at a time. Control: 2.5 % point over random models. Twin: a random model stands in
    the place of the second.
    """
    name = "distance"
    codes = _languages(case)
    prompts = _prompts(case.models, codes, case.n, case.seed)
    models = [named_model(one) for one in case.models]
    if poor := _unsolved(models, prompts):
        return [unread(name, case.n, "prompts", poor)]
    few = [pairs[:TWIN_PROMPTS] for pairs in prompts]
    null = _random_roles(case.models[1], codes[1], case.n, case.seed, case.draws)
    second = random_twin(models[1], 10_000 + case.seed) if case.twin == "weights" else models[1]

    def distance(kept: Sequence[int]) -> tuple[float, Array]:
        own, other = (
            role_scores(model, [pairs[place] for place in kept])
            for model, pairs in ((models[0], few[0]), (second, few[1]))
        )
        apart = [float(match_heads(own, roles).distance.mean()) for roles in (other, *null)]
        return apart[0] / float(np.mean(apart[1:])) - 1, np.array(apart[1:]) / float(np.mean(apart[1:])) - 1

    every = list(range(min(map(len, few))))
    estimate, random = distance(every)
    left = [distance([place for place in every if place % FOLDS != fold])[0] for fold in range(FOLDS)]
    low, high = t_ends(estimate, jackknife_error(np.array(left)), FOLDS - 1)
    return [Part(name, estimate, float(low), float(high), len(every), "prompts", float(np.quantile(random, 0.025)))]


@lru_cache(2)
def _random_roles(name: str, code: str, n: int, seed: int, draws: int) -> list[Roles]:
    model = named_model(name)
    pairs = list(build("ioi", model.tokenizer, code, n=n, seed=seed))[:TWIN_PROMPTS]
    return [role_scores(random_twin(model, draw), pairs) for draw in range(draws)]


def _languages(case: Case) -> tuple[str, ...]:
    return case.languages or LANGUAGES


@lru_cache(2)
def _prompts(models: tuple[str, ...], codes: tuple[str, ...], n: int, seed: int) -> list[list[PromptPair]]:
    return [list(build("ioi", named_model(name).tokenizer, code, n=n, seed=seed)) for name, code in zip(models, codes)]


def _unsolved(models: Sequence[Model], prompts: Sequence[Sequence[PromptPair]]) -> str:
    from babelscope.circuits.heads.ablation import ablated_differences

    right = {
        model.id: (int((ablated_differences(model, pairs, [()])[0] > 0).sum()), len(pairs))
        for model, pairs in zip(models, prompts)
    }
    return not_above_chance(right, "by")
