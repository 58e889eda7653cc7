"""Tokenisation census: for each language and template, how many prompts survive, and what kills the others.

Section 2: a tokenizer that cuts words its own way in context decides which prompts of a task exist at all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

REASONS: Mapping[str, str] = {
    "target_tokens": "the target is not one token (relaxed split: it is, and belongs to the strict split)",
    "foil_tokens": "the foil is not one token (relaxed split, names: not as many tokens as the target)",
    "first_tokens_equal": "target and foil begin with the same token",
    "prefix_broken": "the tokens of prompt + target do not begin with those of the prompt",
    "role_not_separate": "a role shares a token with its neighbours",
    "name_tokens": "a name does not have as many tokens in the prompt as the target",
    "unknown_token": "the tokenizer does not know a word of the prompt, the target or the foil",
    "tokens_vary": "a name is other tokens at its second place (asked for with same_tokens)",
    "length_differs": "clean and corrupted prompts differ in token length",
    "spans_differ": "the roles stand on other tokens in the corrupted prompt",
    "same_prompt": "clean and corrupted prompts are the same tokens",
    "too_few_names": "too few names of one token count are left",
    "no_twin": "no other prompt serves as the corrupted one",
}
"""Everything that can stop a prompt, in plain words; the columns of a census"""

Row = tuple[str, str, str]
"""language, template, stratum"""


@dataclass(frozen=True)
class Census:
    """Prompts offered, survived, and lost by reason, for each language, template and stratum."""

    task: str
    split: str
    corruption: str
    counts: Mapping[Row, Mapping[str, int]]
    """row → {"survived": …, reason: …}"""

    @property
    def offered(self) -> int:
        """Prompts examined."""
        return sum(sum(row.values()) for row in self.counts.values())

    @property
    def survived(self) -> int:
        """Prompts that can be used."""
        return sum(row.get("survived", 0) for row in self.counts.values())

    def reasons(self) -> dict[str, int]:
        """Prompts lost by reason, most frequent first."""
        lost: Counter[str] = Counter()
        for row in self.counts.values():
            lost.update({reason: count for reason, count in row.items() if reason != "survived"})
        return dict(lost.most_common())

    def frame(self) -> pd.DataFrame:
        """One line per language, template and stratum: offered, survived, and one column per reason."""
        import pandas as pd

        columns = ["task", "split", "corruption", "language", "template", "stratum", "offered", "survived", *REASONS]
        rows: list[dict[str, object]] = []
        for (language, template, stratum), counts in sorted(self.counts.items()):
            rows.append(
                {
                    "task": self.task,
                    "split": self.split,
                    "corruption": self.corruption,
                    "language": language,
                    "template": template,
                    "stratum": stratum,
                    "offered": sum(counts.values()),
                    "survived": counts.get("survived", 0),
                    **{reason: counts.get(reason, 0) for reason in REASONS},
                }
            )
        return pd.DataFrame(rows, columns=pd.Index(columns))

    def line(self) -> str:
        """The census in one line: what was offered, what survived, and the reasons with their counts."""
        lost = ", ".join(f"{reason} {count}" for reason, count in self.reasons().items())
        return f"{self.survived} of {self.offered} offered survive" + (f" ({lost})" if lost else "")

    def __str__(self) -> str:
        lines = [f"{self.task}, {self.split} split, corruption {self.corruption}: {self.line()}"]
        for (language, template, stratum), counts in sorted(self.counts.items()):
            name = " ".join(part for part in (language, template, stratum) if part)
            lost = ", ".join(f"{why} {count}" for why, count in sorted(counts.items()) if why != "survived")
            lines.append(
                f"  {name}: {counts.get('survived', 0)}/{sum(counts.values())}" + (f" ({lost})" if lost else "")
            )
        return "\n".join(lines)


class Tally:
    """Counts as they come in; `census` freezes them."""

    def __init__(self) -> None:
        self.total = 0
        """Prompts counted until now"""
        self._counts: dict[Row, Counter[str]] = {}

    def add(self, row: Row, outcome: str) -> None:
        """One prompt that survived, or died of a reason."""
        self.total += 1
        self._counts.setdefault(row, Counter())[outcome] += 1

    def census(self, task: str, split: str, corruption: str) -> Census:
        """What was counted until now."""
        return Census(task, split, corruption, {row: dict(counts) for row, counts in self._counts.items()})


def joined(censuses: Iterable[Census]) -> Census:
    """One census over several languages of the same task; raises ValueError when there is none."""
    first, *others = list(censuses)
    counts = dict(first.counts)
    for other in others:
        counts.update(other.counts)
    return Census(first.task, first.split, first.corruption, counts)
