"""Fuzzed: readers of parallel corpora and of texts, packed or in shards."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

from .fuzz_reading import Read, Seed, as_json

_BIBLE = (
    b'<?xml version="1.0" encoding="utf-8"?><cesDoc version="4"><cesHeader><profileDesc><langUsage>'
    b'<language id="en" iso639="eng">English</language></langUsage></profileDesc></cesHeader><text><body>'
    b'<div id="b.MAT" type="book"><div id="b.MAT.1" type="chapter"><seg id="b.MAT.1.1" type="verse">In the beginning.'
    b'</seg><seg id="b.MAT.1.2" type="verse">And &amp; then.</seg></div></div></body></text></cesDoc>'
)


_JSONL = b'{"id": "1", "en": "a cat", "fr": "un chat"}\n{"id": "2", "en": "a dog", "fr": "un chien"}\n'


_XLSUM = b'{"id": "1", "url": "u", "title": "t", "summary": "s", "text": "A text. Its end."}\n'


def _corpus(reader: str, names: list[str], options: str = "") -> Read:
    def read(data: bytes, folder: Path) -> None:
        from babelscope.corpora import load_corpus, load_texts
        from babelscope.errors import BabelscopeError

        for name in names:
            (folder / name).write_bytes(data)
        place = folder if len(names) > 1 else folder / names[0]
        for load in (load_corpus, load_texts):
            with contextlib.suppress(BabelscopeError):
                load(f"{reader}:{place}{options}", ["en", "fr"])

    return read


def _spec(data: bytes, folder: Path) -> None:
    from babelscope.corpora import load_corpus

    (folder / "en.txt").write_text("One.\nTwo.\n")
    (folder / "fr.txt").write_text("Un.\nDeux.\n")
    load_corpus(data.decode("utf-8", "replace").replace("FOLDER", str(folder)))


def _parquet_bytes() -> bytes:
    import pandas as pd

    stream = io.BytesIO()
    pd.DataFrame({"id": ["1", "2"], "en": ["a cat", "a dog"], "fr": ["un chat", "un chien"]}).to_parquet(stream)
    return stream.getvalue()


def _packed(kind: str) -> Read:
    """A corpus file that is packed: the input is what stands in it, and then the packed bytes themselves."""

    def read(data: bytes, folder: Path) -> None:
        import gzip

        import zstandard

        from babelscope.corpora import load_corpus
        from babelscope.errors import BabelscopeError

        pack = gzip.compress if kind == "gz" else zstandard.ZstdCompressor().compress
        for name, content in (("a", pack(data)), ("b", data)):
            place = folder / name
            place.mkdir()
            for code in ("en", "fr"):
                (place / f"{code}.txt.{kind}").write_bytes(content)
            with contextlib.suppress(BabelscopeError):
                load_corpus(f"lines:{place}?normalise=nfc", ["en", "fr"])

    return read


def _shards(data: bytes, folder: Path) -> None:
    """A folder of Parquet shards, one of them good."""
    from babelscope.corpora import load_corpus

    (folder / "part-0.parquet").write_bytes(_parquet_bytes())
    (folder / "part-1.parquet").write_bytes(data)
    load_corpus(f"table:{folder}/part-*.parquet?id=id", ["en", "fr"])


def _parquet_types_bytes() -> bytes:
    """Every kind of column that Arrow has, as a reader may meet it: texts in dictionaries, lists, structs, times, …"""
    import datetime
    from decimal import Decimal

    import pyarrow as pa
    import pyarrow.parquet as pq

    day = datetime.datetime(2026, 1, 1)
    table = pa.table({
        "id": pa.array(["1", "2"]), "en": pa.array(["a", "b"]).dictionary_encode(),
        "fr": pa.array(["c", None], pa.large_string()), "de": pa.array([["x"], []]),
        "es": pa.array([{"t": "x"}, None]), "pt": pa.array([day, None], pa.timestamp("ns", "UTC")),
        "vi": pa.array([b"x", None]), "zh": pa.array([1.5, float("nan")]), "hi": pa.array([Decimal("1.5"), None]),
        "ar": pa.array([True, None]), "ja": pa.array([datetime.timedelta(1), None]), "ko": pa.nulls(2),
        "ru": pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int8())),
    })  # fmt: skip
    stream = io.BytesIO()
    pq.write_table(table, stream)
    return stream.getvalue()


CORPORA: dict[str, tuple[Read, Seed]] = {
    "bible": (_corpus("bible", ["English-NT.xml", "French-NT.xml"]), lambda: _BIBLE),
    "ntrex": (
        _corpus("ntrex", ["newstest2019-src.eng.txt", "newstest2019-ref.fra.txt"]),
        lambda: "A line.\nAnother – one.\n".encode(),
    ),
    "lines": (_corpus("lines", ["en.txt", "fr.txt"]), lambda: "One.\nTwo.\nÜ\n".encode()),
    "flores": (_corpus("flores", ["eng_Latn.dev", "fra_Latn.dev"]), lambda: b"One.\nTwo.\n"),
    "xlsum": (_corpus("xlsum", ["english_val.jsonl", "french_val.jsonl"]), lambda: _XLSUM),
    "tsv": (_corpus("table", ["t.tsv"]), lambda: b"id\ten\tfr\n1\ta cat\tun chat\n2\ta dog\tun chien\n"),
    "csv": (_corpus("table", ["t.csv"]), lambda: b'id,en,fr\n1,"a, cat",un chat\n2,a dog,un chien\n'),
    "jsonl": (_corpus("table", ["t.jsonl"]), lambda: _JSONL),
    "parquet": (_corpus("table", ["t.parquet"]), _parquet_bytes),
    "spec": (_spec, lambda: b"lines:FOLDER?languages=en&limit=2"),
    "json": (
        _corpus("table", ["t.json"]),
        as_json([{"id": "1", "en": "a", "fr": "b"}, {"id": "2", "en": "c", "fr": "d"}]),
    ),
    "parquet-types": (_corpus("table", ["t.parquet"], "?id=id"), _parquet_types_bytes),
    "shards": (_shards, _parquet_bytes),
    "gz": (_packed("gz"), lambda: "One.\nU\u0308.\n".encode()),
    "zst": (_packed("zst"), lambda: b"One.\nTwo.\n"),
}
