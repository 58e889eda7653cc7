"""Prompt pairs: a clean prompt, a corrupted twin of equal length, a target, a foil, and where each role stands.

P pair · T token
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from babelscope.errors import TaskError
from babelscope.tasks.census import Census

Span = tuple[int, int]


@dataclass(frozen=True)
class PromptPair:
    """One clean prompt and its corrupted twin (section 2); token ids hold the tokenizer's leading special tokens.

    Raises TaskError when the two differ in length, when target and foil are equal, or when a role lies outside.
    """

    item: int
    """Scene number, the same in every language: statistics are paired by it."""
    language: str
    template: str
    order: str
    """"ABBA" or "BABA" (the indirect object is named first or second); empty outside IOI"""
    stratum: str
    """Never average over strata; empty outside past tense."""
    split: str
    """"strict": names, targets and foils are one token in context; "relaxed": more than one"""
    clean: tuple[int, ...]
    corrupted: tuple[int, ...]
    clean_text: str
    corrupted_text: str
    target: tuple[int, ...]
    foil: tuple[int, ...]
    roles: Mapping[str, Span]
    """Role → token span [start, end) in the clean prompt; the same in the corrupted one"""
    heldout: bool = False
    scene: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    """What the scene is made of, as indices into the language's data: equal mappings mean the very same scene."""

    def __post_init__(self) -> None:
        name = f"pair {self.item} ({self.language} {self.template})"
        if len(self.clean) != len(self.corrupted):
            raise TaskError(
                f"{name}: clean and corrupted prompts must be equally long, got {len(self.clean)} and "
                f"{len(self.corrupted)} tokens"
            )
        if not self.clean or not self.target or not self.foil:
            raise TaskError(f"{name}: prompt, target and foil must hold at least one token each")
        if self.target == self.foil:
            raise TaskError(f"{name}: target and foil are the same tokens {self.target}, so nothing can be compared")
        for role, (start, end) in self.roles.items():
            if not 0 <= start < end <= len(self.clean):
                raise TaskError(
                    f"{name}: role {role} at tokens {start}–{end} lies outside its {len(self.clean)} tokens"
                )

    def role(self, name: str) -> Span:
        """Token span of a role; raises TaskError with the roles that exist."""
        if name not in self.roles:
            raise TaskError(f"no role {name!r} in {self.language} {self.template}; there are {', '.join(self.roles)}")
        return self.roles[name]


@dataclass(frozen=True)
class PromptSet:
    """The prompt pairs of one task in one language, with the census that says what they were chosen from.

    >>> from babelscope.tasks import build  # doctest: +SKIP
    >>> prompts = build("ioi", tokenizer, "en", n=100)  # doctest: +SKIP
    >>> for group in prompts.by_length():  # doctest: +SKIP
    ...     arrays = prompts.subset(group).arrays()
    """

    pairs: tuple[PromptPair, ...]
    language: str
    task: str
    corruption: str
    census: Census
    requested: int = 0
    """How many pairs were asked for; fewer survive when the tokenizer leaves fewer."""
    split: str = "strict"
    scenes: str = "exact"
    """"exact": pairs of the same item are the same scene; "substituted": names that fail were replaced (same place,
    object, template and order)"""

    def __len__(self) -> int:
        return len(self.pairs)

    def __iter__(self) -> Iterator[PromptPair]:
        return iter(self.pairs)

    def __getitem__(self, index: int) -> PromptPair:
        return self.pairs[index]

    @property
    def items(self) -> tuple[int, ...]:
        """Scene number of each pair."""
        return tuple(pair.item for pair in self.pairs)

    @property
    def templates(self) -> tuple[str, ...]:
        """The templates that occur, sorted."""
        return tuple(sorted({pair.template for pair in self.pairs}))

    @property
    def strata(self) -> tuple[str, ...]:
        """The strata that occur, sorted."""
        return tuple(sorted({pair.stratum for pair in self.pairs}))

    @property
    def roles(self) -> tuple[str, ...]:
        """Roles that every pair has, in the order of the text."""
        if not self.pairs:
            return ()
        return tuple(role for role in self.pairs[0].roles if all(role in pair.roles for pair in self.pairs))

    def by_length(self) -> list[list[int]]:
        """Indices of the pairs in groups of exactly equal token length, shortest first: no padding is ever needed."""
        groups: dict[int, list[int]] = {}
        for index, pair in enumerate(self.pairs):
            groups.setdefault(len(pair.clean), []).append(index)
        return [groups[length] for length in sorted(groups)]

    def subset(self, which: Sequence[int] | Sequence[bool] | NDArray[np.bool_] | NDArray[np.int64]) -> PromptSet:
        """The pairs at these indices, or where a mask of one entry per pair is true; raises TaskError out of range."""
        chosen = np.asarray(which)
        if chosen.size == 0:
            chosen = chosen.astype(int)
        if chosen.dtype == bool:
            if chosen.shape != (len(self),):
                raise TaskError(f"a mask over {len(self)} pairs needs {len(self)} entries, got {chosen.size}")
            chosen = np.flatnonzero(chosen)
        beyond = [int(index) for index in chosen if not -len(self) <= index < len(self)]
        if beyond:
            raise TaskError(f"pair {beyond[0]} does not exist: there are {len(self)}")
        return self.replace(tuple(self.pairs[int(index)] for index in chosen))

    def where(self, **fields: object) -> PromptSet:
        """The pairs whose fields have these values, as in `where(stratum="irregular", heldout=False)`."""
        unknown = [name for name in fields if name not in PromptPair.__dataclass_fields__]
        if unknown:
            raise TaskError(
                f"prompt pairs have no field {unknown[0]!r}; there are {', '.join(PromptPair.__dataclass_fields__)}"
            )
        return self.subset([all(getattr(pair, name) == value for name, value in fields.items()) for pair in self.pairs])

    def replace(self, pairs: Sequence[PromptPair]) -> PromptSet:
        """The same set with other pairs."""
        from dataclasses import replace

        return replace(self, pairs=tuple(pairs))

    def arrays(self) -> dict[str, NDArray[np.int64]]:
        """`input_ids` and `corrupted_ids` [P, T], `target` and `foil` [P, tokens; −1 beyond the end], `item` [P].

        Raises TaskError when the prompts differ in length (take the groups of `by_length`), or when there is none.
        """
        if not self.pairs:
            raise TaskError(f"no prompt pair of {self.task} in {self.language} to make arrays of")
        lengths = {len(pair.clean) for pair in self.pairs}
        if len(lengths) > 1:
            raise TaskError(
                f"prompts of {self.task} in {self.language} have {len(lengths)} different lengths "
                f"({min(lengths)} to {max(lengths)} tokens): make arrays of one group of by_length() at a time"
            )
        return {
            "input_ids": np.array([pair.clean for pair in self.pairs], dtype=np.int64),
            "corrupted_ids": np.array([pair.corrupted for pair in self.pairs], dtype=np.int64),
            "target": _padded([pair.target for pair in self.pairs]),
            "foil": _padded([pair.foil for pair in self.pairs]),
            "item": np.array(self.items, dtype=np.int64),
        }

    def positions(self, role: str, at: str = "last") -> NDArray[np.int64]:
        """Token position of a role in each pair [P]: its `first` or its `last` token.

        Raises TaskError with the roles that exist.
        """
        if at not in ("first", "last"):
            raise TaskError(f"a role's position is its first or its last token, not {at!r}")
        spans = [pair.role(role) for pair in self.pairs]
        return np.array([start if at == "first" else end - 1 for start, end in spans], dtype=np.int64)

    def paired_with(self, other: PromptSet) -> tuple[list[int], list[int]]:
        """Indices here and in `other` of the items that both hold, in the same order: the pairs to compare."""
        here = {pair.item: index for index, pair in enumerate(self.pairs)}
        there = {pair.item: index for index, pair in enumerate(other.pairs)}
        common = [item for item in here if item in there]
        return [here[item] for item in common], [there[item] for item in common]


def _padded(rows: Sequence[tuple[int, ...]]) -> NDArray[np.int64]:
    padded = np.full((len(rows), max(map(len, rows))), -1, dtype=np.int64)
    for row, ids in zip(padded, rows):
        row[: len(ids)] = ids
    return padded
