"""What claims about facts measure: whether an answer that is missed stood in the middle layers all the same.

A layer says the object, of all objects of the relation in all languages, whose first token the logit lens puts first.
Facts are the unit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from babelscope.claims.case import Case
from babelscope.claims.measures.lens import PIVOT, middle_layers
from babelscope.claims.verdict import Part, mean_part, unread
from babelscope.evaluation.questions import Question, load_questions
from babelscope.languages import own_name
from babelscope.latent.lens import normed, states
from babelscope.models import Model
from babelscope.pocket import planted

LEAST_MISSED = 50
"""facts known in English and missed in the language, without which nothing is said"""
SHUFFLES = 200
BUILT_IN = "planted"


def lost_at_the_end(case: Case) -> list[Part]:
    """Of facts known in English and missed in a language: does a middle layer say the answer, in any language, minus
    the share of the relation's other answers that one says? One part a language. Facts whose answer shares its first
    token with another are left out.

    Control: 97.5 % point with answers exchanged among the missed subjects of a relation. Twin: every subject has the
    answer of another.
    """
    model = case.loaded()
    facts = _facts(case)
    if PIVOT not in facts:
        return [
            unread("facts", 0, "facts", f"precondition: there are no facts in {PIVOT}, whose answers are to be known")
        ]
    others = [code for code in facts if code != PIVOT]
    firsts = _first_tokens(model, facts)
    known = {code: _said(model, facts, firsts, code) for code in facts}
    parts: list[Part] = []
    for code in others:
        rows = [
            (seen, answer, relation)
            for name, (seen, answer, right, relation) in known[code].items()
            if not right and name in known[PIVOT] and known[PIVOT][name][2]
        ]
        if len(rows) < LEAST_MISSED:
            why = (
                f"precondition: {len(rows)} facts are known in {PIVOT} and missed in {code}, {LEAST_MISSED} are needed"
            )
            parts.append(unread(code, len(rows), "facts", why))
            continue
        rng = np.random.default_rng(case.seed)
        null = [float(_beyond(rows, _exchanged(rows, rng)).mean()) for _ in range(SHUFFLES)]
        answers = _exchanged(rows, rng, 1) if case.twin == "facts" else [answer for _, answer, _ in rows]
        bar = float(np.quantile(null, 0.975))
        parts.append(mean_part(code, _beyond(rows, answers), "facts", len(others), bar, (-1.0, 1.0)))
    return parts


Row = tuple[NDArray[np.bool_], int, str]
"""which objects of the relation a middle layer says, the answer's number, the relation"""


def _beyond(rows: Sequence[Row], answers: Sequence[int]) -> NDArray[np.float64]:
    found: list[float] = []
    for (seen, _, _), answer in zip(rows, answers):
        others = np.delete(seen, answer)
        found.append(float(seen[answer]) - float(others.mean()))
    return np.array(found)


def _exchanged(rows: Sequence[Row], rng: np.random.Generator, turn: int = 0) -> list[int]:
    """Answers permuted within relations; with a turn, each goes to the next subject of a random order: none stays."""
    answers = np.array([answer for _, answer, _ in rows])
    relations = np.array([relation for _, _, relation in rows])
    for relation in np.unique(relations):
        places = np.flatnonzero(relations == relation)
        order = rng.permutation(places)
        answers[np.roll(order, turn) if turn else places] = answers[order]
    return [int(answer) for answer in answers]


@torch.inference_mode()
def _said(
    model: Model, facts: Mapping[str, Sequence[Question]], firsts: Mapping[tuple[str, str], int], code: str
) -> dict[str, tuple[NDArray[np.bool_], int, bool, str]]:
    """By fact: which objects a middle layer says, the answer's number, whether the last layer says it, the relation."""
    found: dict[str, tuple[NDArray[np.bool_], int, bool, str]] = {}
    english = {one.id: one.choices[one.label] for one in facts[PIVOT]}
    for relation in dict.fromkeys(one.group for one in facts[code]):
        asked = [one for one in facts[code] if one.group == relation and one.id in english]
        if not asked:
            continue
        objects = list(dict.fromkeys(english[one.id] for one in asked))
        tokens, owner, own = _candidates(facts, firsts, relation, objects, english, code)
        hidden = states(model, [one.prompt for one in asked])
        last = len(hidden) - 1
        rows = model.unembedding[tokens]
        logits = torch.stack([normed(model, hidden[layer]) @ rows.T for layer in range(last + 1)]).float().cpu().numpy()
        best = owner[logits[middle_layers(last)].argmax(2)]
        final = owner[np.where(own, logits[last], -np.inf).argmax(1)]
        for place, one in enumerate(asked):
            seen = np.zeros(len(objects), dtype=bool)
            seen[best[:, place]] = True
            answer = objects.index(english[one.id])
            if answer not in owner[own]:
                continue  # its first token begins other answers too: it can be told neither as known nor as missed
            found[one.id] = (seen, answer, bool(final[place] == answer), relation)
    return found


def _candidates(
    facts: Mapping[str, Sequence[Question]], firsts: Mapping[tuple[str, str], int], relation: str, objects: list[str],
    english: Mapping[str, str], code: str,
) -> tuple[list[int], NDArray[np.intp], NDArray[np.bool_]]:  # fmt: skip
    """First tokens of the relation's objects in all languages, whose object each is, and which are of one language.

    A token that begins two objects says neither.
    """
    owners: dict[int, set[int]] = {}
    of_language: set[int] = set()
    for language, questions in facts.items():
        for one in questions:
            if one.group != relation or one.id not in english or english[one.id] not in objects:
                continue
            token = firsts[language, one.id]
            owners.setdefault(token, set()).add(objects.index(english[one.id]))
            if language == code:
                of_language.add(token)
    tokens = [token for token, who in owners.items() if len(who) == 1]
    owner = np.array([min(owners[token]) for token in tokens], dtype=np.intp)
    return tokens, owner, np.array([token in of_language for token in tokens], dtype=bool)


def _first_tokens(model: Model, facts: Mapping[str, Sequence[Question]]) -> dict[tuple[str, str], int]:
    """By language and fact, the first token by which a prompt with its answer differs from the prompt alone."""
    asked = [(code, one) for code, questions in facts.items() for one in questions]
    alone = model.tokenize([one.prompt for _, one in asked])
    whole = model.tokenize([one.prompt + one.choices[one.label] for _, one in asked])
    found: dict[tuple[str, str], int] = {}
    for (code, one), before, after in zip(asked, alone, whole):
        differ = (k for k, (a, b) in enumerate(zip(before, after)) if a != b)
        found[code, one.id] = int(after[next(differ, min(len(before), len(after) - 1))])
    return found


def _facts(case: Case) -> dict[str, list[Question]]:
    if case.corpus != BUILT_IN:
        return load_questions(case.corpus, list(case.languages) or None)
    return planted_facts()


def planted_facts() -> dict[str, list[Question]]:
    """Words of the planted models as facts: a subject in either of two languages, its word in the one asked for.

    >>> planted_facts()["zh"][0].prompt, planted_facts()["zh"][0].choices[0]
    ('English: "en00" - 中文: "', 'zh00')
    """
    found: dict[str, list[Question]] = {}
    every = list(planted.words().items())
    for code in (PIVOT, planted.LANGUAGES[planted.LOSSY]):
        choices = tuple(words[code] for _, words in every)
        found[code] = []
        for source in planted.LANGUAGES[:2]:
            for place, (name, words) in enumerate(every):
                prompt = f'{own_name(source)}: "{words[source]}" - {own_name(code)}: "'
                found[code].append(Question(f"{source}/{name}", prompt, choices, place, source))
    return found
