"""The real texts beside the checkout: Bibles of two makers and NTREX, counted."""

import pytest

from babelscope.corpora import audit, load_corpus, load_texts

pytestmark = pytest.mark.shared

NINE = ["en", "zh", "fr", "es", "pt", "ar", "vi", "hi", "id"]
HELD_OUT = "JAM,1PE,COL"


@pytest.fixture(scope="module")
def bible(shared_data):
    return f"bible:{shared_data / 'bible' / 'ces-nt'}"


@pytest.fixture(scope="module")
def verses(bible):
    return load_corpus(bible, NINE)


def test_the_nine_bibles_align_in_7928_verses(verses):
    assert (len(verses), verses.languages) == (7928, tuple(NINE))
    assert verses.dropped == {"en": 25, "zh": 12, "fr": 29, "es": 27, "pt": 20, "ar": 31, "vi": 29, "hi": 31, "id": 17}
    first = dict(zip(NINE, (verses.sentences(code)[0] for code in NINE)))
    assert verses.ids[0] == "b.MAT.1.1"
    assert first["en"] == "The book of the genealogy of Jesus Christ, the son of David, the son of Abraham."
    assert first["zh"] == "亚伯拉罕的后裔，大卫的子孙，耶稣基督的家谱："


def test_the_order_of_languages_changes_neither_hash_nor_sample(bible, verses):
    one, other = load_corpus(bible, ["en", "hi"]), load_corpus(bible, ["hi", "en"])
    assert one.hash == other.hash != verses.hash
    assert one.sample(100, seed=0).ids == other.sample(100, seed=0).ids


def test_held_out_books(bible):
    texts = load_texts(f"{bible}?books={HELD_OUT}", ["en", "vi"])
    assert {len(collection) for collection in texts.values()} == {14}, "chapters of James, 1 Peter and Colossians"
    assert texts["en"].documents[0].id == "b.COL.1"
    rest = load_corpus(f"{bible}?exclude={HELD_OUT}", ["en", "vi"])
    assert not any(i.split(".")[1] in HELD_OUT.split(",") for i in rest.ids)
    assert len(rest.documents("vi")) == 260 - 14


def test_two_unmodified_files_and_a_wrong_language_code(shared_data, bible):
    corpus = load_corpus(f"bible:{shared_data / 'bible' / 'christos-c'}")
    assert corpus.languages == ("eu", "sw"), "the Swahili file declares Swati; its name says otherwise twice"
    assert len(corpus) == 7846
    eleven = load_corpus(f"{bible}?sw=../christos-c/Swahili-NT.xml&eu=../christos-c/Basque-NT.xml", [*NINE, "sw", "eu"])
    assert len(eleven) == 7819


def test_ntrex(shared_data):
    corpus = load_corpus(f"ntrex:{shared_data / 'ntrex'}", NINE)
    assert (len(corpus), len(corpus.documents("hi"))) == (1997, 123)
    assert not any(corpus.dropped.values())


def test_the_audit_finds_a_french_line_in_hindi_news(shared_data):
    report = audit(f"ntrex:{shared_data / 'ntrex'}", ["en", "hi"])
    foreign = [finding for finding in report.findings if finding.kind == "script"]
    assert [(f.language, f.id, f.detail) for f in foreign] == [("hi", "681", "Latn 100%: Il faut bien le faire.")]
