"""The built-in generated corpus of nine languages; needs no file."""

from __future__ import annotations

from collections.abc import Sequence

from babelscope.corpora.source import Source, add_text, choose
from babelscope.corpora.spec import Spec
from babelscope.errors import CorpusError

__all__ = ["read_pocket"]

OPTIONS = ("n", "seed")


def read_pocket(spec: Spec, languages: Sequence[str] | None) -> Source:
    """The reader `pocket:` or `pocket:heldout?n=1000&seed=0`: sentences by grammar, held out from training or not."""
    from babelscope.pocket import corpus

    split = spec.place or "train"
    if split not in {"train", "heldout"}:
        raise CorpusError(
            f"{spec.text}: there is no part {split!r} of the pocket corpus; write pocket: or pocket:heldout"
        )
    seed = spec.options.get("seed", "0")
    if not (seed.isascii() and seed.isdigit()):
        raise CorpusError(f"{spec.text}: seed={seed} is not a whole number")
    ids, sentences = corpus.parallel(spec.integer("n") or 1000, seed=int(seed), split=split)
    texts: dict[str, dict[str, str]] = {}
    for code, of_code in choose(sentences, languages, spec).items():
        texts[code] = {}
        for sentence_id, text in zip(ids, of_code, strict=True):
            add_text(texts[code], sentence_id, text, spec.text)
    return Source(texts)
