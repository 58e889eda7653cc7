"""Mutants that change nothing that can be seen, each with the reason: they count neither as killed nor as alive."""

from __future__ import annotations

import re

KINDS: tuple[tuple[str, str, str], ...] = ()
"""what stands in a line (a regular expression), what a mutant makes of it, and why; the rest of the line is the same"""

ONES: tuple[tuple[str, str, str, str], ...] = ()
"""file, the line as it is, the line of the mutant, and why"""


def reason(file: str, old: str, new: str) -> str:
    """Why a mutant changes nothing that can be seen; empty where it may change something."""
    for name, right, wrong, why in ONES:
        if (name, right, wrong) == (file, old, new):
            return why
    for right, wrong, why in KINDS:
        if any(
            old[: one.start()] + re.sub(right, wrong, one[0]) + old[one.end() :] == new
            for one in re.finditer(right, old)
        ):
            return why
    return ""
