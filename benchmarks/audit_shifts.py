"""False alarms and hits of the audit's search for shifted lines: `python -m benchmarks.audit_shifts [FOLDER]`.

FOLDER holds NTREX-128 and bibles. False alarms: blocks of untouched parallel text that are reported as shifted. Hits:
blocks reported after one line of the second language was taken out near the beginning.
"""

from __future__ import annotations

import sys
from pathlib import Path

from babelscope.corpora import load_corpus
from babelscope.corpora.text_faults import BLOCK, OFFSETS, shifts
from babelscope.stats import wilson


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "../shared")
    for name, place in (
        ("NTREX", _beside(folder, "newstest2019-ref.fra.txt")),
        ("Bibles", _beside(folder, "French*.xml")),
    ):
        if place is None:
            print(f"{name}: not below {folder}")
            continue
        corpus = load_corpus(f"{'ntrex' if name == 'NTREX' else 'bible'}:{place}", "en,ar,es,fr,hi,id,pt,vi,zh")
        blocks = false = hits = 0
        first = dict(zip(corpus.ids, corpus.sentences("en")))
        for code in corpus.languages[1:]:
            texts = corpus.sentences(code)
            blocks += max(0, (len(texts) - 2 * OFFSETS) // BLOCK)
            false += len(list(shifts(first, dict(zip(corpus.ids, texts)))))
            moved = (*texts[:1], *texts[2:], texts[1])
            hits += len(list(shifts(first, dict(zip(corpus.ids, moved)))))
        print(
            f"{name}: {len(corpus)} lines, {len(corpus.languages) - 1} languages beside en, {blocks} blocks of {BLOCK}"
        )
        for what, count in (("false alarms", false), ("hits after a shift by one", hits)):
            share = wilson(count, blocks)
            print(
                f"  {what}: {count} of {blocks}, {share.value:.2%} (95 % interval {share.low:.2%} to {share.high:.2%})"
            )


def _beside(folder: Path, pattern: str) -> Path | None:
    """The first folder that holds such a file."""
    return next((path.parent for path in sorted(folder.rglob(pattern))), None)


if __name__ == "__main__":
    main()
