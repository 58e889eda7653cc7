"""What the sentences of a run of latent language tell of: an effect, none, or that it cannot be decided."""

from __future__ import annotations

from babelscope.findings.sentence import Finding, Kind, ordered
from babelscope.results import Run

_OPEN = ("cannot be decided", "is undecided about", "too few concepts")
_NONE = ("shows no sign of", "does not think in")
FIGURE, OVER_ALL = "latent-excess", "latent-highest"
"""the blocks of the page that show excess by layer, and how high a candidate comes in every pair"""


def latent_findings(run: Run, sentences: list[str]) -> list[Finding]:
    """The study's own sentences, each with its kind and the figure that it is read off; its first one comes first.

    Where that one answers for all pairs of languages, those that find nothing or decide nothing stand in the table of
    verdicts alone.
    """
    if not sentences:
        return []
    over_all = sentences[0] == run.summary.get("headline")
    figure = FIGURE if "curves" in run.tables else ""
    first = Finding(kind_of(sentences[0]), sentences[0], OVER_ALL if over_all and figure else figure)
    rest = [Finding(kind_of(text), text, figure) for text in sentences[1:]]
    return [first, *ordered(one for one in rest if not over_all or one.kind == "effect")]


def kind_of(text: str) -> Kind:
    """The kind of a sentence, by the words with which `babelscope.latent.verdict` says it.

    >>> kind_of("Translating French to Chinese, M solves 40 of 40 concepts and shows no sign of English.")
    'none'
    """
    if any(words in text for words in _OPEN):
        return "undecided"
    return "none" if any(words in text for words in _NONE) else "effect"
