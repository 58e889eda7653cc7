"""Write the texts that the package carries: sentences in step in nine languages, examples of every held-out kind."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from babelscope.errors import CorpusError
from babelscope.pocket import heldout as bank
from babelscope.pocket.heldout import Example
from pocket_factory.corpus import heldout, parallel
from pocket_factory.items import Split
from pocket_factory.scenes import draw_giving, giving, names

SENTENCES = 1000
"""of each part and seed"""
COUNTS = {"sentence": 60, "combination": 60, "question": 60, "story": 60, "story_english": 300, "ioi": 150,
          "ioi_seen": 150, "tense": 150, "tense_verbs": 150, "ioi_names": 150, "ioi_templates": 150}  # fmt: skip


def write_bank(report: Callable[[str], None], folder: Path | None = None) -> int:
    """Write all files of the bank into `folder` (default: the package); 0 when done."""
    target = folder or Path(str(bank.FOLDER))
    target.mkdir(parents=True, exist_ok=True)
    codes: list[str] = []
    for part, seeds in bank.SEEDS.items():
        for seed in seeds:
            said = parallel(SENTENCES, seed, _split(part))
            codes = list(said)
            rows = zip(*said.values())
            lines = [[row[0].id, *(sentence.text for sentence in row)] for row in rows]
            _write(target / bank.sentences_file(part, seed), ["\t".join(line) for line in [["id", *codes], *lines]])
            report(f"{part} {seed}: {len(lines)} sentences")
    rows = [asdict(e) for code in codes for kind, n in COUNTS.items() for e in _examples(code, kind, n)]
    _write(target / bank.EXAMPLES, [json.dumps(row, ensure_ascii=False) for row in rows])
    report(f"{len(rows)} examples")
    return 0


def _split(part: str) -> Split:
    return "heldout" if part == "heldout" else "train"


def _write(path: Path, lines: list[str]) -> None:
    # no time stamp inside: the same texts are the same bytes
    path.write_bytes(gzip.compress(("\n".join(lines) + "\n").encode(), mtime=0))


def _examples(language: str, kind: str, n: int) -> list[Example]:
    """n held-out examples, or as many as there are."""
    if kind in ("ioi_names", "ioi_templates"):
        return list(_halfway(language, kind, n))
    while n:
        try:
            return heldout(language, kind, n)
        except CorpusError:
            n = n * 2 // 3
    return []


def _halfway(language: str, kind: str, n: int) -> Iterator[Example]:
    """Giving scenes of which either the names or the templates are held out, to see which of them is the harder."""
    new_names = kind == "ioi_names"
    generator = random.Random(f"halfway {new_names}")
    for _ in range(n):
        a, b = generator.sample(names(new_names), 2)
        item = draw_giving(generator, "heldout", new=not new_names, pair=(a, b))
        said = giving(item, language)
        yield Example(
            item.meaning_id, kind, language, said.whole, said.text, said.target, said.foil, said.join, item.frame
        )
