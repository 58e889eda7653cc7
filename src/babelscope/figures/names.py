"""Languages and options as they are written in figures."""

from __future__ import annotations

from babelscope.errors import BabelscopeError
from babelscope.languages import Language, language


def known_language(code: str) -> Language | None:
    """The language of a code, or None when it is unknown."""
    try:
        return language(code)
    except BabelscopeError:
        return None


def language_tag(code: str) -> str:
    """What the `lang` attribute says; empty when the language is unknown."""
    found = known_language(code)
    return "" if found is None else found.tag
