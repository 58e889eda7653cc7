"""Datasets of the Hugging Face hub: downloaded once, cached and resumed by the `datasets` library."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from babelscope.corpora.files import first_line
from babelscope.corpora.source import Source
from babelscope.corpora.spec import Spec
from babelscope.corpora.table import Table, source_of_table
from babelscope.errors import CorpusError, MissingExtra

__all__ = ["config_names", "load_hub_table", "read_hub"]

OPTIONS = ("config", "split", "revision", "id", "document")


def read_hub(spec: Spec, languages: Sequence[str] | None) -> Source:
    """The reader `hub:DATASET?config=NAME&split=test&en=COLUMN&fr=translation.fr&id=COLUMN`."""
    if not spec.place:
        raise CorpusError(f"{spec.text}: no dataset is named: write hub:OWNER/NAME?split=test&en=COLUMN")
    split = spec.options.get("split")
    if split is None:
        raise CorpusError(f"{spec.text}: say which split to read, such as {spec.join}split=test")
    table = load_hub_table(spec.place, spec.options.get("config"), split, spec.options.get("revision"))
    return source_of_table(table, spec, languages)


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
