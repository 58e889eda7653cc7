"""What the heads that a search found are called, each with the number that earns the name (section 4)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from babelscope.circuits.core.effects import Effects
from babelscope.circuits.core.nodes import MLP, Head, Sender
from babelscope.circuits.heads.labels import CANDIDATE, Evidence, evidence
from babelscope.circuits.heads.roles import Roles
from babelscope.circuits.patching.search import Found, Search
from babelscope.results.schemas.circuits import FoundFFN, Role
from babelscope.stats import welch_t
from babelscope.tasks import Task
from babelscope.tasks.steps import Label

ALSO = "also acts after knock-out"
"""a head that acts on the logits when others are knocked out, but no more than before"""


@dataclass(frozen=True)
class Named:
    """A head's role in a step, and what it rests on."""

    role: str
    evidence: Evidence

    @property
    def earned(self) -> bool:
        """Whether the number behind the role carries it."""
        return not self.role.startswith(CANDIDATE)


def role_rows(language: str, found: Search, roles: Roles, task: Task) -> list[Role]:
    """A label for every head that the search found, with the number that earns it and the effect that found it.

    Effects after a knock-out are in shares of the unablated logit difference, beside those before and their growth.
    """
    rows: list[Role] = []
    for step in found.steps:
        if step.effects is None:
            continue
        low, high = step.effects.interval()
        for node in (*step.supporting, *step.opposing, *step.also):
            if not isinstance(node, Head):
                continue
            named = name_head(step, node, roles, found, task)
            place = step.effects.senders.index(node)
            grown = step.growth.row(node) if step.growth else {}
            rows.append(Role(
                language=language, layer=node.layer, head=node.head, role=named.role, score=named.evidence.score,
                score_name=named.evidence.name, chance=named.evidence.chance, p=named.evidence.p,
                why=named.evidence.why, step=step.step.name, effect=step.effects.of(node),
                effect_low=float(low[place]), effect_high=float(high[place]),
                effect_before=grown.get("before", np.nan), growth=grown.get("growth", np.nan),
                growth_low=grown.get("low", np.nan), growth_high=grown.get("high", np.nan),
            ))  # fmt: skip
    return rows


def name_head(step: Found, node: Sender, roles: Roles, found: Search, task: Task) -> Named:
    """Role of a head that a step found; "candidate: …" where the score behind it is small, or no more than chance."""
    assert isinstance(node, Head)
    if node in step.also:
        return Named(ALSO, _beside(roles, Label(ALSO), node))

    def score(name: str) -> float:
        matrix = roles.scores.get(name)
        return float(matrix[node.layer, node.head]) if matrix is not None else float("nan")

    given, doubt = _by_dissociation(step, node, found, task)
    given = given or step.step.named(node in step.supporting, score)
    if not given.needs:
        return Named(given.role, _beside(roles, given, node))
    weighed = [evidence(roles, need.score, node, need.least) for need in given.needs]
    lacking = [each for each in weighed if each.why] or ([replace(weighed[0], why=doubt)] if doubt else [])
    return Named((CANDIDATE if lacking else "") + given.role, (lacking or weighed)[0])


def _by_dissociation(step: Found, node: Head, found: Search, task: Task) -> tuple[Label | None, str]:
    """The label by the head's effects under two corruptions, and why these do not tell it from the other labels."""
    pair = task.dissociation
    if pair is None or step.step.name not in (pair.first, pair.second):
        return None, ""
    both = {each.step.name: each for each in found.steps if each.step.name in (pair.first, pair.second)}
    label = pair.named({name: each.effects.of(node) for name, each in both.items() if each.effects is not None})
    if label is None:
        return None, ""
    effects = [both[name].effects for name in (pair.first, pair.second)]
    place = pair.labels.index(label)
    if place == 2:
        acting = all(node in (*each.supporting, *each.opposing) for each in both.values())
        return label, "" if acting else "acts clearly under one corruption only"
    own, other = (_sized(each, node) for each in (effects if place == 0 else effects[::-1]))
    clear = welch_t(own, [pair.factor * other]).low > 0
    return label, "" if clear else f"one effect is not clearly {pair.factor:g} times the other"


def _sized(effects: Effects | None, node: Head) -> NDArray[np.float64]:
    """Each pair's part in the size of a head's effect."""
    assert effects is not None
    parts = effects.parts()[effects.senders.index(node)]
    return np.sign(parts.mean()) * parts


def _beside(roles: Roles, label: Label, node: Head) -> Evidence:
    """A score that stands beside a label without deciding it."""
    seen = evidence(roles, label.score, node)
    return Evidence(seen.name, seen.score, seen.chance, seen.p, "")


def ffn_rows(language: str, found: Search) -> list[FoundFFN]:
    """The FFNs that the search found, and by which step."""
    return [
        FoundFFN(language=language, step=step.step.name, layer=node.layer, effect=step.effects.of(node))
        for step in found.steps
        if step.effects is not None
        for node in (*step.supporting, *step.opposing)
        if isinstance(node, MLP)
    ]


def score_rows(code: str, roles: Roles) -> list[dict[str, object]]:
    """Every role score of every head, a column each."""
    layers, heads = next(iter(roles.scores.values())).shape
    return [
        {"language": code, "layer": layer, "head": head, **{n: float(m[layer, head]) for n, m in roles.scores.items()}}
        for layer in range(layers)
        for head in range(heads)
    ]
