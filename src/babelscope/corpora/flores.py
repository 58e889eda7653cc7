"""FLORES-200 and FLORES+: Wikimedia sentences in some two hundred languages, from local files or from the hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from babelscope.corpora.files import files_in, listed, read_bytes, read_lines, shown
from babelscope.corpora.folders import find_language_files, named_language, same_length
from babelscope.corpora.hub import config_names, load_hub_table
from babelscope.corpora.packed import plain_path
from babelscope.corpora.source import Source, add_text, choose
from babelscope.corpora.spec import Spec
from babelscope.corpora.table import parse_table
from babelscope.corpora.table_cells import Table
from babelscope.errors import CorpusError

__all__ = ["read_flores"]

OPTIONS = ("split", "dataset", "revision")
DATASET = "openlanguagedata/flores_plus"

_SPLITS = ("dev", "devtest")
_NOT_LANGUAGE = {*_SPLITS, "txt", "jsonl", "parquet"}
_TABLES = {".jsonl": "jsonl", ".parquet": "parquet"}


def read_flores(spec: Spec, languages: Sequence[str] | None) -> Source:
    """The reader `flores:PATH?split=devtest` (dev/eng_Latn.dev, devtest/eng_Latn.jsonl, …) or `flores:hub?split=…`."""
    if spec.place == "hub":
        return _from_hub(spec, languages)
    place = spec.path
    if place.is_file():
        return _from_one_table(place, spec, languages)
    return _from_folder(_split_folder(place, spec), spec, languages)


def _split_folder(place: Path, spec: Spec) -> Path:
    there = [split for split in ("devtest", "dev") if (place / split).is_dir()]
    if not there:
        return place
    return place / spec.choice("split", there, there[0])


def _from_folder(folder: Path, spec: Spec, languages: Sequence[str] | None) -> Source:
    paths = files_in(folder, lambda path: _language_of(path) is not None, "FLORES files such as eng_Latn.devtest")
    found = find_language_files(folder, paths, _language_of, spec.by_language((*OPTIONS, "lone", "limit")))
    files = found.pick(languages, spec)
    texts: dict[str, dict[str, str]] = {}
    documents: dict[str, str] = {}
    lines: dict[str, list[str]] = {}
    named: dict[bool, Path] = {}
    for code, path in files.items():
        if (suffix := plain_path(path).suffix) in _TABLES:
            table = parse_table(read_bytes(path), _TABLES[suffix], path)
            named.setdefault("id" in table.columns, path)
            texts[code] = _sentences(table, documents)
        else:
            named.setdefault(False, path)
            lines[code] = read_lines(path)
            texts[code] = {str(i): line for i, line in enumerate(lines[code], 1)}
    if len(named) > 1:
        raise CorpusError(f"{named[True]} names its sentences and {named[False]} counts them: read files of one kind")
    if lines:
        same_length(lines, files)
    return Source(texts, documents, tuple(found.notes))


def _language_of(path: Path) -> str | None:
    """eng_Latn.devtest, devtest.eng_Latn, eng.dev and eng_Latn.jsonl all name their language in one part."""
    name = plain_path(path).name
    parts = [part for part in name.split(".") if part not in _NOT_LANGUAGE]
    return named_language(parts[0]) if len(parts) == 1 and "." in name else None


def _from_one_table(path: Path, spec: Spec, languages: Sequence[str] | None) -> Source:
    """One FLORES+ file with all languages, told apart by iso_639_3 and iso_15924."""
    suffix = plain_path(path).suffix
    if suffix not in _TABLES:
        raise CorpusError(f"{path} is neither a folder nor a FLORES+ table (.jsonl, .parquet)")
    table = parse_table(read_bytes(path), _TABLES[suffix], path)
    rows: dict[str, list[dict[str, object]]] = {}
    for number, row in enumerate(table.rows, 1):
        name = f"{row.get('iso_639_3')}_{row.get('iso_15924')}"
        code = named_language(name)
        if code is None:
            raise CorpusError(f"{path}, row {number}: iso_639_3 and iso_15924 name no known language ({shown(name)})")
        rows.setdefault(code, []).append(dict(row))
    documents: dict[str, str] = {}
    chosen = choose(rows, languages, spec)
    texts = {code: _sentences(Table(table.columns, of_code, str(path)), documents) for code, of_code in chosen.items()}
    return Source(texts, documents)


def _from_hub(spec: Spec, languages: Sequence[str] | None) -> Source:
    if languages is None:
        raise CorpusError(f"{spec.text}: name the languages; the hub holds more than two hundred")
    dataset, revision = spec.options.get("dataset", DATASET), spec.options.get("revision")
    split = spec.choice("split", _SPLITS, "devtest")
    configs: dict[str, str] = {}
    for name in config_names(dataset, revision):
        code = named_language(name)
        if code is not None:
            configs.setdefault(code, name)
    documents: dict[str, str] = {}
    texts = {
        code: _sentences(load_hub_table(dataset, config, split, revision), documents)
        for code, config in choose(configs, languages, spec).items()
    }
    return Source(texts, documents)


def _sentences(table: Table, documents: dict[str, str]) -> dict[str, str]:
    """Id → text of one language's rows; the older layout calls the text `sentence`, and the url is the document."""
    texts: dict[str, str] = {}
    column = next((name for name in ("text", "sentence") if name in table.columns), None)
    if column is None:
        raise CorpusError(f"{table.where} has no column 'text'; it has {listed(table.columns)}")
    for number, row in enumerate(table.rows, 1):
        text, name, url = row.get(column), row.get("id", number), row.get("url", row.get("URL"))
        if not isinstance(text, str) or not isinstance(name, str | int) or isinstance(name, bool):
            raise CorpusError(f"{table.where}, row {number}: id or text is missing or of the wrong type")
        add_text(texts, str(name), text, table.where)
        if isinstance(url, str) and url:
            documents[str(name)] = url
    return texts
