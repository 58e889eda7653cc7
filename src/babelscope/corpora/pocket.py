"""The built-in generated corpus; needs no file."""

from __future__ import annotations

from collections.abc import Sequence

from babelscope.corpora.source import Source, add_text, choose
from babelscope.corpora.spec import Spec
from babelscope.errors import CorpusError

__all__ = ["read_pocket"]

OPTIONS = ("n", "seed")
DEFAULT_SENTENCES = 1000
MOST_SENTENCES = 20_000  # the grammar holds a finite number, and drawing slows down well before it is used up


def read_pocket(spec: Spec, languages: Sequence[str] | None) -> Source:
    """The reader `pocket:` or `pocket:heldout?n=1000&seed=0`: generated sentences, or those held out."""
    from babelscope.pocket import corpus, vocabulary

    if spec.place not in {"", "train", "heldout"}:
        raise CorpusError(f"{spec.text}: the pocket corpus has no part {spec.place!r}; write pocket: or pocket:heldout")
    seed = spec.options.get("seed", "0")
    if not (seed.isascii() and seed.isdigit() and len(seed) < 19):
        raise CorpusError(f"{spec.text}: seed={seed} is not a whole number")
    n = spec.integer("n") or DEFAULT_SENTENCES
    if n > MOST_SENTENCES:
        raise CorpusError(f"{spec.text}: n={n} is more than the {MOST_SENTENCES} sentences that can be asked for")
    codes = list(choose({code: code for code in vocabulary.languages()}, languages, spec))
    said = corpus.parallel(n, int(seed), "heldout" if spec.place == "heldout" else "train", codes)
    texts: dict[str, dict[str, str]] = {code: {} for code in codes}
    for code, sentences in said.items():
        for sentence in sentences:
            add_text(texts[code], sentence.id, sentence.text, spec.text)
    return Source(texts)
