"""How a model writes answers: what the studies of steering and of language confusion ask alike."""

from __future__ import annotations

from dataclasses import dataclass

from babelscope.errors import InputError
from babelscope.settings import Settings
from babelscope.terms import Chat


@dataclass(frozen=True, kw_only=True)
class Writing(Settings):
    """Writing: how answers are sampled."""

    tokens: int = 100
    """new tokens at most"""
    temperature: float | None = None
    """of sampling; the Language Confusion Benchmark: 0.3 [greedy]"""
    top_p: float = 1.0
    """sample among the likeliest tokens of this probability; the Language Confusion Benchmark: 0.75"""
    fixed: bool = False
    """forbid tokens that end a text"""
    chat: Chat = "auto"
    """use the model's chat template: auto, on, off"""
    system: str | None = None
    """system prompt [none]"""
    batch: int = 128
    """texts at a time, all conditions counted"""

    def check(self) -> None:
        """Raises InputError for what cannot be sampled."""
        if self.temperature is not None and not self.temperature > 0:
            raise InputError(f"--temperature {self.temperature}: above 0; without it the likeliest token is taken")
        if not 0 < self.top_p <= 1 or min(self.tokens, self.batch) < 1:
            raise InputError("--top-p lies between 0 and 1; --tokens and --batch are at least 1")
