"""Datasets of the Hugging Face hub: downloaded once, cached and resumed by the `datasets` library."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from babelscope.corpora.files import first_line
from babelscope.corpora.folders import named_language
from babelscope.corpora.long_table import LANGUAGE, LONG_OPTIONS, is_long, source_of_long_tables
from babelscope.corpora.source import Source
from babelscope.corpora.spec import Spec
from babelscope.corpora.table import source_of_table
from babelscope.corpora.table_cells import Table
from babelscope.errors import CorpusError, MissingExtra

__all__ = ["config_names", "load_hub_table", "read_hub"]

OPTIONS = ("config", "split", "revision", "id", "document", *LONG_OPTIONS)


def read_hub(spec: Spec, languages: Sequence[str] | None) -> Source:
    """The reader `hub:DATASET?config=NAME&split=test&en=COLUMN&fr=translation.fr&id=COLUMN`; of a long table
    `hub:DATASET?split=test&language=COLUMN&text=COLUMN&id=COLUMN`, or one configuration a language,
    `hub:DATASET?config={language}&split=test&text=COLUMN`.
    """
    if not spec.place:
        raise CorpusError(f"{spec.text}: no dataset is named: write hub:OWNER/NAME?split=test&en=COLUMN")
    split = spec.options.get("split")
    if split is None:
        raise CorpusError(f"{spec.text}: say which split to read, such as {spec.join}split=test")
    config, revision = spec.options.get("config"), spec.options.get("revision")
    if config is not None and LANGUAGE in config:
        if languages is None:
            raise CorpusError(f"{spec.text}: name the languages to download")
        by_language: dict[str | None, Callable[[], Table]] = {
            code: (lambda name=name, split=split: load_hub_table(spec.place, name, split, revision))
            for code, name in _configs(spec, config, revision).items()
        }
        return source_of_long_tables(by_language, spec, languages)
    table = load_hub_table(spec.place, config, split, revision)
    if is_long(spec):
        return source_of_long_tables({None: lambda: table}, spec, languages)
    return source_of_table(table, spec, languages)


def _configs(spec: Spec, pattern: str, revision: str | None) -> dict[str, str]:
    """Configuration of each language, by a name that holds {language}."""
    before, _, behind = pattern.partition(LANGUAGE)
    found: dict[str, str] = {}
    for name in config_names(spec.place, revision):
        middle = name.removeprefix(before).removesuffix(behind)
        code = named_language(middle) if name == before + middle + behind else None
        if code is not None:
            found.setdefault(code, name)
    if not found:
        raise CorpusError(f"{spec.text}: no configuration of {spec.place} fits {pattern}")
    return found


def load_hub_table(dataset: str, config: str | None, split: str, revision: str | None = None) -> Table:
    """One split of one configuration as a table; CorpusError on anything that the hub or the network refuses."""
    if (Path(dataset) / "state.json").is_file():
        raise CorpusError(
            f"{dataset} is a data set that save_to_disk wrote: write it as a table (data.to_parquet('x.parquet')) and "
            "read that by table:x.parquet"
        )
    loaded = _ask(dataset, "load_dataset", dataset, config, split=split, revision=revision, streaming=False)
    rows = list(loaded)
    where = f"{dataset}{f' ({config})' if config else ''}, split {split}"
    if not rows:
        raise CorpusError(f"{where} has no rows")
    return Table(tuple(loaded.column_names), rows, where)


def config_names(dataset: str, revision: str | None = None) -> list[str]:
    """The configurations (often: languages) that a dataset offers."""
    return list(_ask(dataset, "get_dataset_config_names", dataset, revision=revision))


def _ask(dataset: str, function: str, *args: object, **options: object):
    try:
        import datasets
    except ImportError as error:
        raise MissingExtra("datasets", "hub", "reading from the Hugging Face hub") from error
    try:
        return getattr(datasets, function)(*args, **options)
    except Exception as error:  # the library raises its own, the hub's, requests' and pyarrow's errors alike
        text = " ".join(str(error).split())
        if any(sign in text for sign in ("Couldn't reach", "couldn't connect", "ConnectionError", "offline mode")):
            raise CorpusError(
                f"the hub cannot be reached and {dataset} is not in the cache: check the name, or read files by table:"
            ) from error
        raise CorpusError(f"cannot read {dataset} from the hub: {first_line(error)}") from error
