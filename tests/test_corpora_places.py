"""Where texts come from: which file, column, row or configuration is read, and what each message names."""

from __future__ import annotations

import json
import sys
import types

import pytest

from babelscope.corpora import bible, load_corpus, load_texts, xlsum
from babelscope.errors import CorpusError


def write(folder, **files):
    for name, content in files.items():
        path = folder / name.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    return folder


def rows(*them):
    return "\n".join(map(json.dumps, them))


# -- Bibles ------------------------------------------------------------------------------------------------------------


def xml(head="", body='lang="en"', verse="b.MAT.1.1"):
    return f'<cesDoc>{head}<text><body {body}><seg id="{verse}">One.</seg></body></text></cesDoc>'


def test_a_bible_of_fifty_levels_is_read_and_one_more_is_refused():
    inner = '<seg id="b.MAT.1.1">One.</seg>'
    assert bible.parse_bible(("<a>" * 49 + inner + "</a>" * 49).encode(), "x") == {"b.MAT.1.1": "One."}
    with pytest.raises(CorpusError, match=r"^x is nested more than 50 levels deep"):
        bible.parse_bible(("<a>" * 50 + inner + "</a>" * 50).encode(), "x")


def test_verses_without_an_id_are_placed_behind_the_last_that_has_one():
    with pytest.raises(CorpusError, match=r"a <seg> has no id \(after 'the beginning'\)"):
        bible.parse_bible(b"<a><seg>x</seg></a>", "x")
    with pytest.raises(CorpusError, match=r"a <seg> has no id \(after 'b'\)"):
        bible.parse_bible(b'<a><seg id="a">x</seg><seg id="b">x</seg><seg>x</seg></a>', "x")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'<?xml version="1.0" encoding="latin-1"?><a>\0</a>', "^x is a binary file, not XML$"),
        (b'<?xml version="1.0" encoding="UTF-8"?><a>\xe9</a>', "^x is not valid UTF-8"),
        (b'<?xml version="1.0" encoding="utf8"?><a>\xe9</a>', "^x is not valid UTF-8"),
        (b"<a>\xe9</a>", "^x is not valid UTF-8"),
        (b"<!DOCTYPE a><a/>", "^x holds no verses"),
        (b'<!DOCTYPE a [<!ENTITY e "x">]><a>&e;</a>', "^x defines XML entities; such files are refused"),
    ],
)
def test_bytes_that_are_no_bible(content, said):
    with pytest.raises(CorpusError, match=said):
        bible.parse_bible(content, "x")


def test_the_language_of_a_bible_is_what_its_header_says_then_its_name(tmp_path):
    def language(name, content):
        file = tmp_path / name
        file.write_text(content, encoding="utf-8")
        notes = []
        return bible._language_of(file, notes), len(notes)

    def head(code, three, name):
        return f'<cesHeader><language id="{code}" iso639="{three}"> {name} </language></cesHeader>'

    assert language("French.xml", xml(head("en", "", "English"))) == ("en", 0)
    assert language("French.xml", xml(head("en", "", "French"))) == ("fr", 1)
    assert language("French.xml", xml(head("fr", "", "French"))) == ("fr", 0)
    assert language("French.xml", xml(head("", "", "French"))) == ("fr", 0)
    assert language("x1.xml", xml(head("zzz1", "deu", "?"))) == ("de", 0)
    assert language("x1.xml", xml(head("", "", "German"))) == ("de", 0)
    assert language("French.xml", xml(head("", "", "German"))) == ("fr", 0)
    assert language("French-NT.xml", xml("", "")) == ("fr", 0)
    assert language("French.xml", "<a><broken></a>") == ("fr", 0)
    with pytest.raises(CorpusError, match=r"not well-formed"):
        language("x1.xml", "<a><broken></a>")
    with pytest.raises(CorpusError, match=r"^cannot read .*gone\.xml: No such file"):
        bible._declared(tmp_path / "gone.xml")
    assert language("x1.xml", "<a/>") == (None, 0)
    around = '<author id="de"/>{}<year id="it"/>'.format(head("fr", "", "?"))
    assert language("x1.xml", xml(around)) == ("fr", 0)
    assert language("x1.xml", xml('<author lang="de"/><title lang="it"/>', 'lang="fr"')) == ("fr", 0)


def test_documents_are_chapters_or_books_of_verses_and_other_ids_alone():
    names = ("b.MAT.1.2", "b.MAT.1", "x")
    assert [bible._document(name, 3) for name in names] == ["b.MAT.1", "b.MAT.1", "x"]
    assert [bible._document(name, 2) for name in names] == ["b.MAT", "b.MAT.1", "x"]


def test_books_kept_and_left_out(tmp_path):
    write(tmp_path, English_DOT_xml="<cesDoc><text><body lang='en'>" + "".join(
        f'<seg id="b.{book}.1.1">{book}</seg>' for book in ("MAT", "MAR", "LUK")
    ) + "</body></text></cesDoc>")  # fmt: skip
    for option, kept in (("books=mat,LUK&exclude=luk", "MAT"), ("exclude=mat,mar", "LUK"), ("books=MAR", "MAR")):
        assert load_corpus(f"bible:{tmp_path}?{option}").sentences("en") == (kept,)
    for option, said in (
        ("books=MAT&exclude=MAT", "every book"),
        ("exclude=ZZZ", "no book 'ZZZ'; there are MAT, MAR, L"),
    ):
        with pytest.raises(CorpusError, match=said):
            load_corpus(f"bible:{tmp_path}?{option}")


# -- FLORES, NTREX, XL-Sum ---------------------------------------------------------------------------------------------


def test_the_split_of_flores_is_devtest_unless_another_is_asked_for_or_alone(tmp_path):
    write(tmp_path, dev__eng_Latn_DOT_dev="d")
    assert load_corpus(f"flores:{tmp_path}").sentences("en") == ("d",)
    write(tmp_path, devtest__eng_Latn_DOT_devtest="t")
    assert load_corpus(f"flores:{tmp_path}").sentences("en") == ("t",)
    assert load_corpus(f"flores:{tmp_path}?split=dev").sentences("en") == ("d",)


def test_rows_of_flores_have_text_an_id_and_perhaps_a_page(tmp_path):
    file = tmp_path / "eng_Latn.jsonl"
    file.write_text(rows({"sentence": "a"}, {"sentence": "b", "URL": "u"}, {"sentence": "c", "id": "k", "url": ""}))
    corpus = load_corpus(f"flores:{tmp_path}")
    assert corpus.ids == ("1", "2", "k")
    assert corpus.groups == {"2": "u"}
    for bad in ({"text": None}, {"text": 5}, {"text": "x", "id": True}, {"text": "x", "id": 1.5}):
        file.write_text(rows({"text": "a", "id": "z"}, bad))
        with pytest.raises(CorpusError, match=r"jsonl, row 2: id or text is missing or of the wrong type"):
            load_corpus(f"flores:{tmp_path}")


def test_flores_in_one_table_counts_rows_from_one(tmp_path):
    good = {"iso_639_3": "eng", "iso_15924": "Latn", "text": "a", "id": 1}
    file = tmp_path / "all.jsonl"
    file.write_text(rows(good, good | {"iso_639_3": "fra"}, good | {"id": 2}))
    assert load_corpus(f"flores:{file}?lone=drop").ids == ("1",)
    file.write_text(rows(good, good | {"iso_639_3": "x9"}))
    with pytest.raises(CorpusError, match=r"row 2: iso_639_3 and iso_15924 name no known language \('x9_Latn'\)"):
        load_corpus(f"flores:{file}")


def test_documents_of_ntrex_stand_beside_or_above(tmp_path):
    write(tmp_path, **{"sub__newstest2019-ref.eng_DOT_txt": "a\nb\n", "DOCUMENT_IDS_DOT_tsv": "above\tx\nother\tx\n"})
    assert load_corpus(f"ntrex:{tmp_path / 'sub'}").groups == {"1": "above", "2": "other"}
    write(tmp_path, sub__DOCUMENT_IDS_DOT_tsv="one\none\n")
    assert load_corpus(f"ntrex:{tmp_path / 'sub'}").groups == {"1": "one", "2": "one"}


@pytest.mark.parametrize("ending", ["_val", "_validation", "_dev", ""])
def test_articles_of_a_split_by_every_ending(tmp_path, ending):
    write(tmp_path, **{f"english{ending}_DOT_jsonl": rows({"text": "a"}, {"text": "b"}), "english_test_DOT_jsonl": "x"})
    texts = load_texts(f"xlsum:{tmp_path}")
    assert [(one.id, one.text) for one in texts["en"].documents] == [("1", "a"), ("2", "b")]
    assert load_texts(f"xlsum:{tmp_path / f'english{ending}.jsonl'}")["en"].documents == texts["en"].documents


def test_articles_with_the_id_of_another_or_without_text(tmp_path):
    write(tmp_path, english_DOT_jsonl=rows(*({"id": name, "text": name} for name in "abaca")))
    found = load_texts(f"xlsum:{tmp_path}")["en"]
    assert [one.id for one in found.documents] == ["a", "b", "a#3", "c", "a#5"]
    assert [note.rpartition("jsonl, ")[2] for note in found.notes] == [
        "row 3: the id 'a' occurs twice; read as 'a#3'", "row 5: the id 'a' occurs twice; read as 'a#5'",
    ]  # fmt: skip
    write(tmp_path, english_DOT_jsonl=rows({"text": "a"}, {"text": 5}))
    with pytest.raises(CorpusError, match=r"row 2: no field 'text' \(it has text\)"):
        load_texts(f"xlsum:{tmp_path}")
    assert [xlsum._code(name) for name in ("pidgin", "scottish_gaelic", "french", "no_such")] == [
        "pcm",
        "gd",
        "fr",
        None,
    ]


# -- the hub -----------------------------------------------------------------------------------------------------------


class Rows(list):
    column_names = ("text", "id")


@pytest.fixture
def hub(monkeypatch):
    """A stand-in for `datasets`: what it is asked, and what it shall answer."""
    module, seen = types.ModuleType("datasets"), types.SimpleNamespace(asked=[], names=[], rows=[], error=None)

    def load_dataset(*place, **options):
        seen.asked.append((*place, options))
        if seen.error:
            raise seen.error
        return Rows(seen.rows)

    def get_dataset_config_names(place, revision=None):
        seen.asked.append((place, revision))
        return seen.names

    module.load_dataset, module.get_dataset_config_names = load_dataset, get_dataset_config_names
    monkeypatch.setitem(sys.modules, "datasets", module)
    return seen


def test_configurations_fit_a_pattern_whole_and_the_first_of_a_language_counts(hub):
    hub.names = ["x-deu", "deu-y", "x-eng-y", "x-en-y", "x-nowhere1-y", "a-x-fra-y", "x-fra-y"]
    hub.rows = [{"text": "a", "id": "1"}]
    spec = "hub:some/set?config=x-{language}-y&split=dev&revision=r&text=text"
    assert load_corpus(spec, ["en", "fr"]).languages == ("en", "fr")
    options = {"split": "dev", "revision": "r", "streaming": False}
    assert hub.asked == [
        ("some/set", "r"), ("some/set", "x-eng-y", options), ("some/set", "x-fra-y", options),
    ]  # fmt: skip
    with pytest.raises(CorpusError, match=r"no text in de; available: en, fr"):
        load_corpus(spec, ["de"])


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("Couldn't\nreach the server"), "the hub cannot be reached and some/set is not in the cache"),
        (OSError("we couldn't connect to it"), "the hub cannot be reached"),
        (ValueError("ConnectionError: x"), "the hub cannot be reached"),
        (ValueError("in offline mode"), "the hub cannot be reached"),
        (ValueError("one\ntwo"), "^cannot read some/set from the hub: one$"),
        (None, r"^some/set \(c\), split s has no rows$"),
    ],
)
def test_what_the_hub_refuses(hub, error, said):
    hub.error = error
    with pytest.raises(CorpusError, match=said):
        load_corpus("hub:some/set?config=c&split=s&en=text")


def test_what_save_to_disk_wrote_is_no_table(hub, tmp_path):
    (tmp_path / "state.json").touch()
    with pytest.raises(CorpusError, match=r"is a data set that save_to_disk wrote"):
        load_corpus(f"hub:{tmp_path}?split=s&en=text")
    assert hub.asked == []


def test_flores_and_xlsum_of_other_places_and_revisions(hub):
    hub.names, hub.rows = ["eng_Latn", "eng", "english"], [{"text": "a", "id": "1"}]
    load_corpus("flores:hub?dataset=d/d&revision=r&split=dev", "en")
    options = {"split": "dev", "revision": "r", "streaming": False}
    assert hub.asked == [("d/d", "r"), ("d/d", "eng_Latn", options)]
    hub.asked.clear()
    hub.names = ["english"]
    load_texts("xlsum:hub?dataset=d/d&revision=r&split=test", "en")
    assert hub.asked == [("d/d", "r"), ("d/d", "english", options | {"split": "test"})]
    with pytest.raises(CorpusError, match=r"name the languages; the hub holds more than two hundred"):
        load_corpus("flores:hub")
