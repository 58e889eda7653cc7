"""Corpora from the hub, packed, in shards, and as people have them."""

import json
import sys
import types

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from babelscope.corpora import load_corpus, load_texts
from babelscope.errors import CorpusError, MissingExtra

from .test_corpora_readers import write


class FakeDataset(list):
    @property
    def column_names(self):
        return list(self[0])


@pytest.fixture
def hub(monkeypatch):
    """A stand-in for the `datasets` library that keeps what it was asked."""
    asked = []
    module = types.ModuleType("datasets")

    def load_dataset(path, name=None, *, split, revision=None, streaming):
        asked.append((path, name, split, revision))
        assert streaming is False
        if path == "gone/away":
            raise FileNotFoundError("Dataset 'gone/away' doesn't exist on the Hub\nmore")
        if name in {"english", "chinese_simplified"}:
            return FakeDataset([{"id": f"{name}{i}", "text": f"{name} {i}", "title": ""} for i in range(3)])
        if name in {"eng_Latn", "cmn_Hans"}:
            return FakeDataset([{"id": i, "text": f"{name} {i}", "url": "u"} for i in range(3)])
        return FakeDataset([{"key": "a", "translation": {"en": "x", "fr": "y"}}])

    module.load_dataset = load_dataset
    module.get_dataset_config_names = lambda path, revision=None: (
        ["english", "chinese_simplified"] if "xlsum" in path else ["eng_Latn", "cmn_Hans", "not-a-language!"]
    )
    monkeypatch.setitem(sys.modules, "datasets", module)
    return asked


def test_hub(hub):
    corpus = load_corpus("hub:some/set?config=en-fr&split=test&en=translation.en&fr=translation.fr&id=key")
    assert (corpus.ids, corpus.texts) == (("a",), {"en": ("x",), "fr": ("y",)})
    assert hub == [("some/set", "en-fr", "test", None)]
    for spec, message in [
        ("hub:?split=x", "no dataset is named"),
        ("hub:some/set?en=key", "say which split to read, such as &split=test"),
        (
            "hub:gone/away?split=test",
            "cannot read gone/away from the hub: Dataset 'gone/away' doesn't exist on the Hub$",
        ),
    ]:
        with pytest.raises(CorpusError, match=message):
            load_corpus(spec)


def test_flores_and_xlsum_from_the_hub(hub):
    corpus = load_corpus("flores:hub", "zh,en")
    assert corpus.sentences("zh") == ("cmn_Hans 0", "cmn_Hans 1", "cmn_Hans 2")
    assert hub[0] == ("openlanguagedata/flores_plus", "cmn_Hans", "devtest", None)
    texts = load_texts("xlsum:hub?limit=2", "zh")
    assert [d.text for d in texts["zh"].documents] == ["chinese_simplified 0", "chinese_simplified 1"]
    assert hub[-1] == ("csebuetnlp/xlsum", "chinese_simplified", "validation", "refs/convert/parquet")
    for spec in ("flores:hub", "xlsum:hub"):
        with pytest.raises(CorpusError, match="name the languages"):
            load_texts(spec)
        with pytest.raises(CorpusError, match="no text in de; available: en, zh"):
            load_texts(spec, "de")


def test_the_hub_needs_an_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtra, match=r"pip install 'babelscope\[hub\]'"):
        load_corpus("hub:some/set?split=test&en=a")


def test_hub_with_a_configuration_a_language_and_with_a_language_column(hub):
    corpus = load_corpus("hub:some/set?config={language}&split=test&text=text&id=id", ["en", "zh"])
    assert corpus.ids == ("0", "1", "2")
    assert corpus.texts["zh"][0] == "cmn_Hans 0"
    assert [name for _, name, _, _ in hub] == ["eng_Latn", "cmn_Hans"]
    for spec, message in [
        ("hub:some/set?config=x-{language}&split=test&text=text", "no configuration of some/set fits x-{language}"),
        ("hub:some/set?split=test&language=lang&text=translation", "has no column 'lang'"),
    ]:
        with pytest.raises(CorpusError, match=message):
            load_corpus(spec, ["en"])
    with pytest.raises(CorpusError, match="name the languages to download"):
        load_corpus("hub:some/set?config={language}&split=test&text=text")


# -- text as people have it --------------------------------------------------------------------------------------------


def packed(data: bytes, how: str) -> bytes:
    import gzip

    return gzip.compress(data) if how == "gz" else pytest.importorskip("zstandard").ZstdCompressor().compress(data)


@pytest.mark.parametrize("how", ["gz", "zst"])
def test_bug_40_packed_files_are_read_by_every_reader_of_files(tmp_path, how):
    for code, text in (("en", b"a cat\na dog\n"), ("fr", b"un chat\nun chien\n")):
        (tmp_path / f"{code}.txt.{how}").write_bytes(packed(text, how))
    assert load_corpus(f"lines:{tmp_path}").sentences("fr") == ("un chat", "un chien")
    table = b"id\ten\tfr\n1\ta cat\tun chat\n"
    (tmp_path / f"t.tsv.{how}").write_bytes(packed(table, how))
    assert load_corpus(f"table:{tmp_path / f't.tsv.{how}'}").sentences("en") == ("a cat",)
    (tmp_path / "damaged").mkdir()
    for code in ("en", "fr"):
        (tmp_path / "damaged" / f"{code}.txt.{how}").write_bytes(packed(b"a\n" * 50, how)[:-9])
    with pytest.raises(CorpusError, match="cannot be unpacked"):
        load_corpus(f"lines:{tmp_path / 'damaged'}")


@pytest.mark.parametrize("how", ["gz", "zst"])
def test_a_packed_file_that_would_fill_memory_is_refused(tmp_path, how):
    (tmp_path / f"t.tsv.{how}").write_bytes(packed(b"\0" * (80 << 20), how))
    with pytest.raises(CorpusError, match="more than 300 times its size"):
        load_corpus(f"table:{tmp_path / f't.tsv.{how}'}")


def test_bug_42_shards_arrays_and_patterns(tmp_path):
    for number in (0, 1):
        rows = [{"en": f"cat {number}", "fr": f"chat {number}"}]
        (tmp_path / f"part-{number}.json").write_text(json.dumps({"data": rows} if number else rows))
    assert load_corpus(f"table:{tmp_path}").sentences("en") == ("cat 0", "cat 1")
    assert load_corpus(f"table:{tmp_path}/part-*.json").sentences("fr") == ("chat 0", "chat 1")
    assert load_corpus(f"table:{tmp_path / 'part-0.json'}").sentences("fr") == ("chat 0",)
    (tmp_path / "part-2.json").write_text(json.dumps([{"en": "x", "de": "y"}]))
    with pytest.raises(CorpusError, match="are no shards of one table"):
        load_corpus(f"table:{tmp_path}")
    (tmp_path / "part-0.json").write_text('{"a": 1}')
    with pytest.raises(CorpusError, match="an array of objects is expected"):
        load_corpus(f"table:{tmp_path / 'part-0.json'}")


def test_attack_8_a_small_parquet_file_costs_little(tmp_path):
    import tracemalloc

    table = pa.table({"en": pa.array(["x" * 2000] * 400_000).dictionary_encode(), "fr": pa.array(["y"] * 400_000)})
    pq.write_table(table, tmp_path / "t.parquet")
    assert (tmp_path / "t.parquet").stat().st_size < 100_000
    tracemalloc.start()
    with pytest.raises(CorpusError, match=r"states 400000 rows|times its size"):
        load_corpus(f"table:{tmp_path / 't.parquet'}")
    assert tracemalloc.get_traced_memory()[1] < 150e6
    tracemalloc.stop()


def test_attack_8_nested_verses_are_refused_soon(tmp_path):
    (tmp_path / "English.xml").write_text("<a>" * 3000 + "</a>" * 3000)
    with pytest.raises(CorpusError, match="levels deep"):
        load_corpus(f"bible:{tmp_path}", "en")


def test_normalise_changes_counts_and_records(tmp_path):
    import unicodedata

    write(tmp_path, {"en.txt": "a\nb\n", "vi.txt": unicodedata.normalize("NFD", "tiếng Việt\nmèo\n")})
    as_it_is, formed = (load_corpus(f"lines:{tmp_path}{rest}") for rest in ("", "?normalise=nfc"))
    assert formed.sentences("vi") == ("tiếng Việt", "mèo")
    assert "texts changed to Unicode form NFC: 2 in vi" in formed.notes
    assert formed.hash != as_it_is.hash
    assert "normalise=nfc" in formed.spec
    with pytest.raises(CorpusError, match="normalise=xyz is not one of nfc"):
        load_corpus(f"lines:{tmp_path}?normalise=xyz")
