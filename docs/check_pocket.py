"""Compare every held-out text of the pocket corpus with everything that its training reads, by hash.

python -m pocket_factory train bloom-m --out training      # its first minute writes the corpus
python docs/check_pocket.py training
"""

from __future__ import annotations

import sys
from pathlib import Path

from pocket_factory.corpus import HELD_OUT_KINDS, heldout, iter_documents, sentence_hash
from pocket_factory.curriculum import MIX, calibrated_weights, prepare

from babelscope.errors import CorpusError
from babelscope.pocket.models import get

ITEMS = 300


def main(directory: Path) -> None:
    model = get("pocket-bloom-m")
    tokenizer, stream = prepare(model, directory, print)
    seen: set[str] = set()
    read = documents = 0
    for document in iter_documents(calibrated_weights(model.shares, tokenizer), seed=model.recipe.seed, mix=MIX):
        read += len(tokenizer.encode(document.text).ids) + 1
        documents += 1
        seen.update(map(sentence_hash, document.items))
        if read >= len(stream):
            break
    print(f"{documents:,} documents of {read:,} tokens, {len(seen):,} different texts")
    for kind in HELD_OUT_KINDS:
        for language in model.shares:
            texts = {example.text for example in heldout(language, kind, available(language, kind))}
            known = sum(sentence_hash(text) in seen for text in texts)
            print(f"{kind:15} {language}  {len(texts)} held-out texts, {known} of them in training")


def available(language: str, kind: str) -> int:
    """Up to ITEMS: some kinds have fewer."""
    for n in (ITEMS, 150, 60, 20):
        try:
            heldout(language, kind, n)
        except CorpusError as error:
            print(f"{kind} {language}: {error}")
        else:
            return n
    return 0


if __name__ == "__main__":
    main(Path(sys.argv[1]))
