"""Texts of the pocket corpus that the package carries: sentences in step, and held-out examples of every kind.

They were drawn by the factory of the pocket family (`pocket_factory` in the repository); nothing is generated here.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from babelscope.errors import CorpusError

FOLDER = files("babelscope.pocket") / "data" / "heldout"
EXAMPLES = "examples.jsonl.gz"
SEEDS: Mapping[str, tuple[int, ...]] = {"heldout": (0, 1), "train": (0,)}
"""draws that are kept of each part"""


@dataclass(frozen=True, slots=True)
class Example:
    """One held-out text; `prompt`, `target`, `foil` where the kind is a choice, joined by `join`."""

    meaning_id: str
    kind: str
    language: str
    text: str
    prompt: str = ""
    target: str = ""
    foil: str = ""
    join: str = ""
    stratum: str = ""
    """tense: regular, irregular, syncretic or none; ioi: template"""


@dataclass(frozen=True, slots=True)
class Sentences:
    """Sentences with the same meaning ids in every language."""

    ids: tuple[str, ...]
    texts: Mapping[str, tuple[str, ...]]


def sentences_file(part: str, seed: int) -> str:
    """Name of the file of a part's draw."""
    return f"{part}-{seed}.tsv.gz"


@cache
def sentences(part: str = "heldout", seed: int = 0) -> Sentences:
    """All kept sentences of a part (`heldout`, `train`) and draw, in nine languages.

    Raises CorpusError for a part or a draw that is not kept.

    >>> sentences("heldout").ids[0].split(":")[0].count(".")
    1
    """
    if seed not in SEEDS.get(part, ()):
        known = "; ".join(f"{name}: {', '.join(map(str, seeds))}" for name, seeds in SEEDS.items())
        raise CorpusError(f"the pocket corpus keeps no draw {part} with seed {seed}; it keeps {known}")
    header, *rows = [line.split("\t") for line in _lines(sentences_file(part, seed))]
    columns = list(zip(*rows))
    return Sentences(columns[0], dict(zip(header[1:], columns[1:])))


def heldout(language: str, kind: str, n: int) -> list[Example]:
    """The first n held-out examples of a kind; the same meanings in every language.

    `ioi` has new templates and names, `ioi_seen` new scenes of the training's, `ioi_names` and `ioi_templates` one of
    both new; `tense` new (template, verb) pairs, `tense_verbs` verbs that no tense pair of training has;
    `story_english` ends in English, whatever the language. Raises CorpusError when there are fewer than n.

    >>> example = heldout("en", "ioi", 1)[0]
    >>> example.text == f"{example.prompt} {example.target}."
    True
    """
    found = examples(language, kind)[:n]
    if len(found) < n:
        raise CorpusError(f"only {len(found)} held-out examples of {kind} in {language}, not {n}")
    return list(found)


def examples(language: str, kind: str) -> Sequence[Example]:
    """All kept examples of a kind. Raises CorpusError for an unknown kind or language."""
    kept = _examples()
    if (language, kind) not in kept:
        codes, kinds = sorted({code for code, _ in kept}), sorted({name for _, name in kept})
        raise CorpusError(
            f"no held-out examples of {kind!r} in {language!r}; "
            f"kinds: {', '.join(kinds)}; languages: {', '.join(codes)}"
        )
    return kept[language, kind]


@cache
def _examples() -> dict[tuple[str, str], list[Example]]:
    found: dict[tuple[str, str], list[Example]] = {}
    for line in _lines(EXAMPLES):
        example = Example(**json.loads(line))
        found.setdefault((example.language, example.kind), []).append(example)
    return found


def _lines(name: str) -> list[str]:
    return gzip.decompress((FOLDER / name).read_bytes()).decode().splitlines()
