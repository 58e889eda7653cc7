"""What is asked of a study of language confusion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from babelscope.errors import InputError
from babelscope.languages import parse_languages
from babelscope.settings import Use
from babelscope.studies.writing_settings import Writing
from babelscope.terms import ConfusionRule

TASKS = ("monolingual", "crosslingual")


@dataclass(frozen=True, kw_only=True)
class ConfusionSettings(Writing):
    """Confusion: prompts, answers, and how they are judged."""

    data: Path | None = None
    """folder of the Language Confusion Benchmark [everyday questions that the package carries, in nine languages]"""
    tasks: tuple[str, ...] = TASKS
    """monolingual, crosslingual, by commas"""
    languages: tuple[str, ...] = ()
    """languages of the answers, by commas [all that there are prompts in]"""
    rule: ConfusionRule = "offline"
    """offline; or lcb, the published one, which needs --words and --identifier"""
    words: Path | None = None
    """list of English words of the published rule"""
    identifier: Path | None = None
    """model of fastText (lid.176.bin) of the published rule"""
    limit: int = 0
    """prompts of each set and language [all]"""
    seed: int = 0
    """of sampling"""

    ONLY: ClassVar[Mapping[str, Use]] = {
        "words": (lambda own: own.rule == "lcb", "--rule lcb"),
        "identifier": (lambda own: own.rule == "lcb", "--rule lcb"),
        "top_p": (lambda own: own.temperature is not None, "--temperature"),
        "seed": (lambda own: own.temperature is not None, "--temperature"),
        "system": (lambda own: own.chat != "off", "a chat template"),
    }

    def check(self) -> None:
        """Raises InputError for what cannot be asked."""
        if self.languages:
            self._put(languages=tuple(parse_languages(self.languages)))
        unknown = [name for name in self.tasks if name not in TASKS]
        if unknown or not self.tasks:
            raise InputError(f"--tasks {', '.join(unknown)}: there are {', '.join(TASKS)}")
        if self.rule == "lcb" and (self.words is None or self.identifier is None):
            raise InputError("--rule lcb: give its list of words (--words) and its fastText model (--identifier)")
