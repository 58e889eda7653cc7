"""How often the identifier is wrong on text whose language is known, cut to the length of the answers' lines."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from babelscope.corpora import ParallelCorpus
from babelscope.results.schemas.steering import Ceiling
from babelscope.stats import wilson
from babelscope.steering.confusion import OfflineRule, normalised
from babelscope.steering.identify import UNSPACED, long_enough, script


def ceilings(judge: OfflineRule, corpus: ParallelCorpus, texts: Sequence[str]) -> list[Ceiling]:
    """The ceiling of each language of a corpus, at the median line length of `texts`."""
    from babelscope.steering.identify import SHARE, script_share

    lines = [line.split() for text in texts for line in normalised(text).split("\n")]
    lengths = [len(words) for words in lines if len(words) >= 5]
    words = max(5, round(median(lengths))) if lengths else 5
    found: list[Ceiling] = []
    for code in corpus.languages:
        unspaced = script(code) in UNSPACED
        length = 2 * words if unspaced else words
        cut = [cut_to(normalised(text), length, unspaced) for text in corpus.texts[code]]
        cut = [line for line in cut if long_enough(line, code)]
        share = wilson(sum(judge.identify(line) == code for line in cut), len(cut))
        letters = sum(script_share(line, code) >= SHARE for line in cut) / len(cut) if cut else float("nan")
        found.append(Ceiling(code, share.value, share.low, share.high, len(cut), length, letters))
    return found


def cut_to(line: str, length: int, unspaced: bool) -> str:
    """The first words of a line, or its first letters.

    >>> cut_to("one two three", 2, False)
    'one two'
    """
    if unspaced:
        return line.replace(" ", "")[:length]
    return " ".join(line.split()[:length])
