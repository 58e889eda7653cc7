"""Minimal pairs (BLiMP, CLAMS, SLING and their kind): a good and a bad sentence that part at one place.

Up to there both are one prompt x, so log p(good) − log p(bad) = log p(rest of good | x) − log p(rest of bad | x): the
rests are target and foil, and whole sentences are scored exactly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from babelscope.errors import TaskError
from babelscope.json_text import parse_json
from babelscope.tasks.census import Tally
from babelscope.tasks.encoding import Encoder
from babelscope.tasks.prompts import PromptPair
from babelscope.tasks.reading import lines_of

_FIELDS = (
    ("sentence_good", "sentence_bad"),
    ("good", "bad"),
    ("correct", "incorrect"),
    ("grammatical", "ungrammatical"),
    ("sen", "wrong_sen"),
)


@dataclass(frozen=True)
class MinimalPair:
    """Two sentences, and where they come from."""

    item: int
    good: str
    bad: str
    paradigm: str = ""


@dataclass(frozen=True)
class _Parted:
    pair: MinimalPair
    prompt: tuple[int, ...]
    target: tuple[int, ...]
    foil: tuple[int, ...]


def read_minimal_pairs(path: str | Path) -> list[MinimalPair]:
    """Pairs from JSONL or TSV with a header (sentence_good and sentence_bad, good/bad, correct/incorrect, MultiBLiMP's
    sen/wrong_sen), or from lines "True<tab>…", "False<tab>…" in turn (CLAMS); a folder is read file by file. Raises
    TaskError with file and line.
    """
    source = Path(path)
    if source.is_dir():
        files = sorted(file for file in source.rglob("*") if file.suffix in (".jsonl", ".tsv", ".txt"))
        pairs = [pair for file in files for pair in read_minimal_pairs(file)]
        if not pairs:
            raise TaskError(f"no minimal pairs (.jsonl, .tsv, .txt) under {path}")
        return [MinimalPair(number, pair.good, pair.bad, pair.paradigm) for number, pair in enumerate(pairs)]
    if not source.is_file():
        raise TaskError(f"no file of minimal pairs at {path}")
    lines = [line for line in lines_of(source) if line.strip()]
    if not lines:
        raise TaskError(f"{path} is empty")
    if lines[0].lstrip().startswith("{"):
        return [_from_json(line, number, source) for number, line in enumerate(lines, 1)]
    header = lines[0].split("\t")
    if any(good in header and bad in header for good, bad in _FIELDS):
        return [_from_row(header, line.split("\t"), number, source) for number, line in enumerate(lines[1:], 1)]
    return _from_judgements(lines, source)


def prompt_pairs(
    pairs: Sequence[MinimalPair], encoder: Encoder, language: str, split: str, tally: Tally, whole: bool = False
) -> list[PromptPair]:
    """Prompt pairs in the order of the file; the corrupted prompt is that of another pair of equal length.

    Strict split: the sentences differ in one token each, and go on alike. Relaxed, or `whole`: target and foil are all
    that follows. Best twin first: one whose target is this one's foil (the subject in the other number), then one with
    another target, then any other prompt.
    """
    parted: list[_Parted] = []
    for pair in pairs:
        outcome = _part(pair, encoder, split, whole)
        if isinstance(outcome, str):
            tally.add((language, pair.paradigm, ""), outcome)
        else:
            parted.append(outcome)
    by_length: dict[int, list[_Parted]] = {}
    for entry in parted:
        by_length.setdefault(len(entry.prompt), []).append(entry)
    found: list[PromptPair] = []
    for entry in parted:
        twin = _twin(entry, by_length[len(entry.prompt)])
        tally.add((language, entry.pair.paradigm, ""), "survived" if twin else "no_twin")
        if twin:
            found.append(_pair(entry, twin, encoder, language, split))
    return found


def _part(pair: MinimalPair, encoder: Encoder, split: str, whole: bool) -> _Parted | str:
    good, bad = encoder.encode(pair.good).ids, encoder.encode(pair.bad).ids
    start = 0
    while start < min(len(good), len(bad)) and good[start] == bad[start]:
        start += 1
    prompt = good[:start]
    if not prompt or start in (len(good), len(bad)):
        return "prefix_broken"
    one_token = good[start + 1 :] == bad[start + 1 :]
    if whole:
        return _Parted(pair, prompt, good[start:], bad[start:])
    if split == "strict":
        return _Parted(pair, prompt, good[start : start + 1], bad[start : start + 1]) if one_token else "target_tokens"
    return "target_tokens" if one_token else _Parted(pair, prompt, good[start:], bad[start:])


def _twin(entry: _Parted, others: Sequence[_Parted]) -> _Parted | None:
    best, best_rank = None, 0
    after = others.index(entry) if len(others) < 2000 else 0
    for other in [*others[after + 1 :], *others[:after]]:
        if other.prompt == entry.prompt:
            continue
        turned = other.target == entry.foil and other.foil == entry.target
        rank = 3 if turned else 2 if other.target != entry.target else 1
        if rank > best_rank:
            best, best_rank = other, rank
        if rank == 3:
            break
    return best


def _pair(entry: _Parted, twin: _Parted, encoder: Encoder, language: str, split: str) -> PromptPair:
    clean, corrupted = encoder.prefix + entry.prompt, encoder.prefix + twin.prompt
    return PromptPair(
        item=entry.pair.item,
        language=language,
        template=entry.pair.paradigm,
        order="",
        stratum="",
        split=split,
        clean=clean,
        corrupted=corrupted,
        clean_text=encoder.decode(entry.prompt),
        corrupted_text=encoder.decode(twin.prompt),
        target=entry.target,
        foil=entry.foil,
        roles={"END": (len(clean) - 1, len(clean))},
        scene={"twin": twin.pair.item, "turned": int(twin.target == entry.foil and twin.foil == entry.target)},
    )


def _from_json(line: str, number: int, source: Path) -> MinimalPair:
    row: object = parse_json(line, f"{source}, line {number}", TaskError)
    return _of_fields(row if isinstance(row, dict) else {}, number, source)


def _from_row(header: Sequence[str], cells: Sequence[str], number: int, source: Path) -> MinimalPair:
    if len(cells) != len(header):
        raise TaskError(f"{source}, line {number + 1}: {len(cells)} fields, but the header has {len(header)}")
    return _of_fields(dict(zip(header, cells)), number, source)


def _of_fields(fields: Mapping[str, object], number: int, source: Path) -> MinimalPair:
    for good, bad in _FIELDS:
        if good in fields and bad in fields:
            first, second = (_sentence(fields[name], name, number, source) for name in (good, bad))
            paradigm = str(fields.get("paradigm") or fields.get("UID") or source.stem)
            return MinimalPair(number - 1, first, second, paradigm)
    known = " or ".join(f"{good}/{bad}" for good, bad in _FIELDS)
    raise TaskError(f"{source}, line {number}: a minimal pair needs {known}; it has {', '.join(fields) or 'no fields'}")


def _sentence(value: object, name: str, number: int, source: Path) -> str:
    if not isinstance(value, str) or not value.strip():
        raise TaskError(f"{source}, line {number}: {name} is no sentence but {str(value)[:40]!r}")
    return value


def _from_judgements(lines: Sequence[str], source: Path) -> list[MinimalPair]:
    rows = [line.split("\t")[-2:] for line in lines]
    pairs: list[MinimalPair] = []
    good, unpaired = "", False
    for number, row in enumerate(rows, 1):
        if len(row) != 2 or row[0] not in ("True", "False"):
            raise TaskError(
                f'{source}, line {number}: expected "True" or "False", a tab, and a sentence; '
                "or a header with sen and wrong_sen"
            )
        if not row[1].strip():
            raise TaskError(f"{source}, line {number}: there is no sentence behind {row[0]}")
        if row[0] == "True" and unpaired:
            raise TaskError(f"{source}, line {number}: a second good sentence, and no bad one for the first")
        if row[0] == "False" and not good:
            raise TaskError(f"{source}, line {number}: a bad sentence, and no good one before it")
        unpaired = row[0] == "True"
        if unpaired:
            good = row[1]
        else:
            pairs.append(MinimalPair(len(pairs), good, row[1], source.stem))
    if unpaired:
        raise TaskError(f"{source} ends with a good sentence and no bad sentence after it")
    return pairs
