"""Loading tokenizers from bare files, and finding roles with offsets or without them."""

import pytest

from babelscope.errors import TaskError
from babelscope.tasks import Encoder, build, load_tokenizer


@pytest.fixture(scope="module")
def gpt2(shared_data):
    return load_tokenizer(shared_data / "tokenizers" / "gpt2")


@pytest.fixture(scope="module")
def mistral(shared_data):
    return load_tokenizer(shared_data / "tokenizers" / "mistral-v1")


@pytest.fixture(scope="module")
def cpm(shared_data):
    return load_tokenizer(shared_data / "tokenizers" / "cpm-1-chinese" / "chinese_vocab.model")


class Slow:
    """A tokenizer without offsets, as those written in Python are."""

    is_fast = False

    def __init__(self, fast, bos=()):
        self.fast, self.bos = fast, list(bos)

    def encode(self, text, add_special_tokens=True):
        ids = self.fast.encode(text, add_special_tokens=False)
        return [*self.bos, *ids, *self.bos] if add_special_tokens else ids

    def convert_ids_to_tokens(self, token):
        return self.fast.convert_ids_to_tokens(token)

    def decode(self, ids):
        return self.fast.decode(ids)


def lines(shared_data, code, step=60):
    folder = shared_data / "ntrex"
    name = "newstest2019-src.eng.txt" if code == "eng" else f"newstest2019-ref.{code}.txt"
    return [line for line in (folder / name).read_text(encoding="utf-8").split("\n") if line][::step]


def test_gpt2_gives_the_ids_published_with_it(gpt2, shared_data):
    folder = shared_data / "tokenizers" / "gpt2"
    texts = (folder / "ggml-vocab-gpt-2.gguf.inp").read_text(encoding="utf-8").split("\n__ggml_vocab_test__\n")
    ids = (folder / "ggml-vocab-gpt-2.gguf.out").read_text(encoding="utf-8").split("\n")
    for text, line in zip(texts, ids):
        if text.strip():
            assert gpt2.encode(text, add_special_tokens=False) == [int(token) for token in line.split()]


@pytest.mark.parametrize(
    ("name", "file"), [("mistral", "mistral-v1/tokenizer.model.v1"), ("cpm", "cpm-1-chinese/chinese_vocab.model")]
)
def test_converted_sentencepiece_gives_the_ids_of_sentencepiece(name, file, shared_data, request):
    sentencepiece = pytest.importorskip("sentencepiece")
    processor = sentencepiece.SentencePieceProcessor(model_file=str(shared_data / "tokenizers" / file))
    tokenizer = request.getfixturevalue(name)
    for code in ("eng", "zho-CN", "fra", "hin"):
        for line in lines(shared_data, code):
            assert tokenizer.encode(line, add_special_tokens=False) == processor.encode(line)


@pytest.mark.parametrize("language", ["en", "fr"])
def test_roles_are_the_same_without_offsets(language, gpt2):
    fast = build("ioi", gpt2, language, n=20, split="auto")
    slow = build("ioi", Slow(gpt2), language, n=20, split="auto")
    assert [pair.roles for pair in fast] == [pair.roles for pair in slow]
    assert [pair.clean for pair in fast] == [pair.clean for pair in slow]


def test_leading_special_tokens_are_kept_and_trailing_ones_are_not(gpt2):
    bare, led = Encoder(gpt2), Encoder(Slow(gpt2, bos=[50256]))
    assert bare.prefix == ()
    assert led.prefix == (50256,)
    without, with_bos = build("ioi", bare, "en", n=6), build("ioi", led, "en", n=6)
    for plain, shifted in zip(without, with_bos):
        assert shifted.clean == (50256, *plain.clean)
        assert {role: (start - 1, end - 1) for role, (start, end) in shifted.roles.items()} == plain.roles
    assert build("ioi", Slow(gpt2, bos=[50256]), "en", n=6, special=False).pairs == without.pairs


def test_a_span_has_its_leading_blank_and_nothing_of_its_neighbours(gpt2, mistral):
    text = "When Mary and John went"
    assert Encoder(gpt2).span(text, 5, 9) == (1, 2)
    assert Encoder(mistral).span(text, 0, 4) == (0, 1)
    assert Encoder(gpt2).span(text, 5, 8) is None
    assert Encoder(Slow(gpt2)).span(text, 5, 8) is None


def test_a_blank_token_of_its_own_belongs_to_the_word_after_it(gpt2):
    text = "अब सीता"
    encoder = Encoder(gpt2)
    start, end = encoder.span(text, 3, len(text)) or (0, 0)
    assert encoder.encode(text).ids[start:end] == encoder.continuation("अब", " सीता")


def test_continuations_begin_where_the_prompt_ends(gpt2):
    encoder = Encoder(gpt2)
    assert encoder.continuation("gave a book to", " Mary") == (5335,)
    assert encoder.continuation("gave a book to", "day") is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder, r"expected tokenizer.json, \*vocab.json with \*merges.txt, or \*.model"),
        (lambda folder: written(folder / "x.txt", "hello"), "is no tokenizer"),
        (lambda folder: written(folder / "tokenizer.json", "{}"), "no tokenizer could be loaded"),
        (lambda folder: written(folder / "x.model", "hello"), "no tokenizer could be loaded"),
        (lambda folder: written(folder / "x.model", ""), "no tokenizer could be loaded"),
        (lambda folder: pair(folder, "{}", "a b c\n"), "no tokenizer could be loaded"),
        (lambda folder: pair(folder, "[", "a b\n"), "no tokenizer could be loaded"),
        (lambda folder: pair(folder, '{"a": "x"}', "a b\n"), "no tokenizer could be loaded"),
        (lambda folder: pair(folder, '{"a": -1}', "a b\n"), "no tokenizer could be loaded"),
        (lambda folder: pair(folder, '{"a": 0}', "\udcff"), "no tokenizer could be loaded"),
    ],
)
def test_what_is_no_tokenizer_is_refused(make, message, tmp_path):
    with pytest.raises(TaskError, match=message):
        load_tokenizer(make(tmp_path))


def pair(folder, vocabulary, merges):
    (folder / "vocab.json").write_text(vocabulary)
    (folder / "merges.txt").write_bytes(merges.encode("utf-8", "surrogateescape"))
    return folder


def written(path, text):
    path.write_text(text)
    return path


def test_what_is_no_tokenizer_object_is_refused():
    with pytest.raises(TaskError, match="a tokenizer of transformers is needed, got str"):
        build("ioi", "gpt2", "en")
