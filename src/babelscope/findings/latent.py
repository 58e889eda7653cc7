"""What the sentences of a run of latent language tell of: an effect, none, or that it cannot be decided."""

from __future__ import annotations

from babelscope.findings.sentence import Finding, Kind
from babelscope.results import Run

_OPEN = ("cannot be decided", "is undecided about", "too few concepts")
_NONE = ("shows no sign of", "does not think in")
FIGURE = "latent-excess"
"""the block of the page that shows excess by layer"""


def latent_findings(run: Run, sentences: list[str]) -> list[Finding]:
    """The study's own sentences, each with its kind and the figure that it is read off."""
    figure = FIGURE if "curves" in run.tables else ""
    return [Finding(kind_of(text), text, figure) for text in sentences]


def kind_of(text: str) -> Kind:
    """The kind of a sentence, by the words with which `babelscope.latent.verdict` says it.

    >>> kind_of("Translating French to Chinese, M solves 40 of 40 concepts and shows no sign of English.")
    'none'
    """
    if any(words in text for words in _OPEN):
        return "undecided"
    return "none" if any(words in text for words in _NONE) else "effect"
