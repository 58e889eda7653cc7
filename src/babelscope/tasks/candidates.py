"""From a written scene to a prompt pair, or to the reason why the tokenizer forbids it (the rules of section 2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from babelscope.tasks.encoding import Encoder, Span
from babelscope.tasks.prompts import PromptPair
from babelscope.tasks.templates import Rendered

Ids = tuple[int, ...]


@dataclass(frozen=True)
class Candidate:
    """A scene put into words, before the tokenizer has seen it."""

    item: int
    language: str
    template: str
    clean: Rendered
    twins: tuple[Rendered, ...]
    """Corrupted prompts, best first; the first that fits token by token is taken"""
    target: str
    foils: tuple[str, ...]
    """Foils, best first; the first that can be told from the target is taken"""
    join: str
    roles: Mapping[str, str]
    """Role → slot of the rendered text"""
    after: str = "."
    equal: tuple[str, ...] = ()
    """Roles that must have as many tokens as the target: the names"""
    order: str = ""
    stratum: str = ""
    heldout: bool = False
    scene: Mapping[str, int] = field(default_factory=dict[str, int])

    @property
    def row(self) -> tuple[str, str, str]:
        """The line of the census that this candidate counts in."""
        return self.language, self.template, self.stratum


def assemble(
    candidate: Candidate, encoder: Encoder, split: str, extend: bool = True, same_tokens: bool = False
) -> PromptPair | str:
    """The prompt pair of a candidate, or the reason (a key of `census.REASONS`) why there is none.

    Strict split: target and foil are one token each. Relaxed: the target has more, or the foil has. With `extend`,
    a relaxed target that begins like its foil (walk-ed, walk.) moves the shared tokens into both prompts. `same_tokens`
    refuses names whose tokens change with their place, as "Mary" and " Mary" do at the beginning of a prompt.
    """
    answer = _answer(candidate, encoder, split, extend)
    if isinstance(answer, str):
        return answer
    target, foil, shared = answer
    roles = _roles(candidate, candidate.clean, encoder)
    if isinstance(roles, str):
        return roles
    if any(roles[role][1] - roles[role][0] != len(target) for role in candidate.equal):
        return "name_tokens"
    ids = encoder.encode(candidate.clean.text).ids
    if encoder.unknown is not None and encoder.unknown in (*ids, *target, *foil):
        return "unknown_token"
    if same_tokens and candidate.equal and _vary(ids, roles, target, foil):
        return "tokens_vary"
    first_reason = "no_twin"
    for twin in candidate.twins:
        why = _misfit(candidate, twin, encoder, ids, roles)
        if why is None:
            return _pair(candidate, twin, encoder, split, (target, foil, shared), roles)
        first_reason = why if first_reason == "no_twin" else first_reason
    return first_reason


def _answer(candidate: Candidate, encoder: Encoder, split: str, extend: bool) -> tuple[Ids, Ids, Ids] | str:
    """Target, foil, and the tokens that both prompts are lengthened by."""
    prompt = candidate.clean.text
    target = encoder.continuation(prompt, candidate.join + candidate.target)
    if target is None:
        return "prefix_broken"
    if split == "strict" and len(target) != 1:
        return "target_tokens"
    first_reason = "no_twin"
    for text in candidate.foils:
        answer = _against(candidate, encoder, split, extend, target, text)
        if not isinstance(answer, str):
            return answer
        first_reason = answer if first_reason == "no_twin" else first_reason
    return first_reason


def _against(
    candidate: Candidate, encoder: Encoder, split: str, extend: bool, target: Ids, text: str
) -> tuple[Ids, Ids, Ids] | str:
    prompt = candidate.clean.text
    foil = encoder.continuation(prompt, candidate.join + text)
    if foil is None:
        return "prefix_broken"
    if split == "strict":
        if len(foil) != 1:
            return "foil_tokens"
        return "first_tokens_equal" if target == foil else (target, foil, ())
    if candidate.equal and len(foil) != len(target):
        return "foil_tokens"
    if len(target) == len(foil) == 1 and target != foil:
        return "target_tokens"
    if target[0] != foil[0]:
        return target, foil, ()
    if not extend or candidate.equal:
        return "first_tokens_equal"
    whole = encoder.continuation(prompt, candidate.join + text + candidate.after)
    return _parted(target, whole) or "first_tokens_equal"


def _parted(target: Ids, foil: Ids | None) -> tuple[Ids, Ids, Ids] | None:
    """Both without the tokens they share at the beginning, the foil cut to the one token that differs."""
    if foil is None:
        return None
    shared = 0
    while shared < min(len(target), len(foil)) and target[shared] == foil[shared]:
        shared += 1
    if shared in (len(target), len(foil)):
        return None
    return target[shared:], foil[shared : shared + 1], target[:shared]


def _roles(candidate: Candidate, text: Rendered, encoder: Encoder) -> dict[str, Span] | str:
    spans: dict[str, Span] = {}
    for role, slot in candidate.roles.items():
        start, end = text.spans[slot]
        span = encoder.span(text.text, start, end)
        if span is None:
            return "role_not_separate"
        spans[role] = span
    return spans


def _vary(ids: Ids, roles: Mapping[str, Span], target: Ids, foil: Ids) -> bool:
    """Whether IO is not the target's tokens, or S1 not the foil's (S2 is another name in the control task)."""
    return ids[slice(*roles["IO"])] != target or ids[slice(*roles["S1"])] != foil


def _misfit(candidate: Candidate, twin: Rendered, encoder: Encoder, ids: Ids, roles: Mapping[str, Span]) -> str | None:
    twin_ids = encoder.encode(twin.text).ids
    if len(twin_ids) != len(ids):
        return "length_differs"
    if twin_ids == ids:
        return "same_prompt"
    spans = _roles(candidate, twin, encoder)
    if isinstance(spans, str):
        return spans
    return None if spans == roles else "spans_differ"


def _pair(
    candidate: Candidate,
    twin: Rendered,
    encoder: Encoder,
    split: str,
    answer: tuple[Ids, Ids, Ids],
    roles: Mapping[str, Span],
) -> PromptPair:
    target, foil, shared = answer
    clean = encoder.prefix + encoder.encode(candidate.clean.text).ids + shared
    tail = encoder.decode(shared) if shared else ""
    offset, end = len(encoder.prefix), len(clean)
    placed = {role: (start + offset, stop + offset) for role, (start, stop) in roles.items()}
    if "S1" in placed:
        placed["S1+1"] = (placed["S1"][1], placed["S1"][1] + 1)
    ordered = dict(sorted(placed.items(), key=lambda entry: entry[1]))
    return PromptPair(
        item=candidate.item,
        language=candidate.language,
        template=candidate.template,
        order=candidate.order,
        stratum=_stratum(candidate.stratum, split, len(target) + len(shared)),
        split=split,
        clean=clean,
        corrupted=encoder.prefix + encoder.encode(twin.text).ids + shared,
        clean_text=candidate.clean.text + tail,
        corrupted_text=twin.text + tail,
        target=target,
        foil=foil,
        roles=ordered | {"END": (end - 1, end)},
        heldout=candidate.heldout,
        scene=dict(candidate.scene),
    )


def _stratum(stratum: str, split: str, tokens: int) -> str:
    if stratum != "regular":
        return stratum
    return "regular-one-token" if split == "strict" or tokens == 1 else "regular-multi-token"
