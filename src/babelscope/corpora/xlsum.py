"""XL-Sum: BBC articles, the text on which the paper measures perplexity; JSON lines or the hub (Hasan et al. 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from babelscope.corpora.files import files_in, listed, read_bytes, shown
from babelscope.corpora.folders import find_language_files, named_language
from babelscope.corpora.hub import config_names, load_hub_table
from babelscope.corpora.packed import plain_path
from babelscope.corpora.source import Source, add_text, choose
from babelscope.corpora.spec import Spec
from babelscope.corpora.table import Table, parse_table
from babelscope.errors import CorpusError

__all__ = ["read_xlsum"]

OPTIONS = ("split", "dataset", "revision")
DATASET = "csebuetnlp/xlsum"
# The dataset itself is a script, which `datasets` no longer runs; the hub keeps a converted copy under this revision.
REVISION = "refs/convert/parquet"

_SUFFIXES = {"val": ("_val", "_validation", "_dev"), "test": ("_test",), "train": ("_train",)}
_HUB_SPLITS = {"val": "validation", "test": "test", "train": "train"}
_IRREGULAR = {
    "chinese_simplified": "zh", "chinese_traditional": "zh-Hant", "serbian_cyrillic": "sr", "serbian_latin": "sr-Latn",
    "scottish_gaelic": "gd", "pidgin": "pcm", "kirundi": "rn", "oromo": "om",
}  # fmt: skip


def read_xlsum(spec: Spec, languages: Sequence[str] | None) -> Source:
    """The reader `xlsum:PATH?split=val&limit=500` (english_val.jsonl or english.jsonl) or `xlsum:hub?limit=500`."""
    split = spec.choice("split", tuple(_SUFFIXES), "val")
    notes: list[str] = []
    if spec.place == "hub":
        tables = _hub_tables(spec, split, languages)
    else:
        place = spec.path
        folder = place if place.is_dir() else place.parent
        paths = (
            [place]
            if place.is_file()
            else files_in(place, lambda path: plain_path(path).suffix == ".jsonl", "JSONL files")
        )
        files = find_language_files(
            folder, _of_split(paths, split, spec), _language_of, spec.by_language((*OPTIONS, "limit"))
        )
        chosen = files.pick(languages, spec)
        notes += files.notes
        tables = {code: parse_table(read_bytes(path), "jsonl", path) for code, path in chosen.items()}
    return Source({code: _articles(table, notes) for code, table in tables.items()}, notes=tuple(notes))


def _hub_tables(spec: Spec, split: str, languages: Sequence[str] | None) -> dict[str, Table]:
    if languages is None:
        raise CorpusError(f"{spec.text}: name the languages to download")
    dataset, revision = spec.options.get("dataset", DATASET), spec.options.get("revision", REVISION)
    names = {code: name for name in config_names(dataset, revision) if (code := _code(name))}
    chosen = choose(names, languages, spec)
    return {code: load_hub_table(dataset, name, _HUB_SPLITS[split], revision) for code, name in chosen.items()}


def _of_split(paths: Sequence[Path], split: str, spec: Spec) -> list[Path]:
    """Files of the split, and files without a split in their name for languages that have none."""
    every = [suffix for suffixes in _SUFFIXES.values() for suffix in suffixes]
    exact = [path for path in paths if plain_path(path).stem.endswith(_SUFFIXES[split])]
    covered = {_language_of(path) for path in exact}
    plain = [p for p in paths if not plain_path(p).stem.endswith(tuple(every)) and _language_of(p) not in covered]
    if not exact + plain:
        raise CorpusError(f"{spec.text}: no file of the split {split} (such as english_{split}.jsonl)")
    return exact + plain


def _language_of(path: Path) -> str | None:
    stem = plain_path(path).stem
    for suffixes in _SUFFIXES.values():
        for suffix in suffixes:
            stem = stem.removesuffix(suffix)
    return _code(stem)


def _code(name: str) -> str | None:
    return _IRREGULAR.get(name) or named_language(name.replace("_", " "))


def _articles(table: Table, notes: list[str]) -> dict[str, str]:
    texts: dict[str, str] = {}
    for number, row in enumerate(table.rows, 1):
        text, name = row.get("text"), row.get("id", number)
        if not isinstance(text, str):
            raise CorpusError(f"{table.where}, row {number}: no field 'text' (it has {listed(row)})")
        label = str(name)
        if label in texts:  # articles are looked up by nobody: a repeated id is noted, not refused
            label = f"{label}#{number}"
            notes.append(f"{table.where}, row {number}: the id {shown(name)} occurs twice; read as {shown(label)}")
        add_text(texts, label, text, table.where)
    return texts
