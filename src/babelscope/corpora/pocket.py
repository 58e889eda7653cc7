"""The built-in corpus; needs no file."""

from __future__ import annotations

from collections.abc import Sequence

from babelscope.corpora.source import Source, add_text, choose
from babelscope.corpora.spec import Spec
from babelscope.errors import CorpusError

__all__ = ["read_pocket"]

OPTIONS = ("n", "seed")


def read_pocket(spec: Spec, languages: Sequence[str] | None) -> Source:
    """The reader `pocket:` or `pocket:heldout?n=1000&seed=0`: sentences of the pocket corpus, or those held out."""
    from babelscope.pocket.heldout import sentences

    if spec.place not in {"", "train", "heldout"}:
        raise CorpusError(f"{spec.text}: the pocket corpus has no part {spec.place!r}; write pocket: or pocket:heldout")
    seed = spec.options.get("seed", "0")
    if not (seed.isascii() and seed.isdigit() and len(seed) < 19):
        raise CorpusError(f"{spec.text}: seed={seed} is not a whole number")
    kept = sentences(spec.place or "train", int(seed))
    n = spec.integer("n") or len(kept.ids)
    if n > len(kept.ids):
        raise CorpusError(f"{spec.text}: n={n} is more than the {len(kept.ids)} sentences that are kept")
    codes = list(choose({code: code for code in kept.texts}, languages, spec))
    texts: dict[str, dict[str, str]] = {code: {} for code in codes}
    for code in codes:
        for name, text in zip(kept.ids[:n], kept.texts[code]):
            add_text(texts[code], name, text, spec.text)
    return Source(texts)
