"""Public formats: minimal pairs, MIB's IOI folder, story endings; and random text."""

import json

import numpy as np
import pytest

from babelscope.errors import TaskError
from babelscope.tasks import (
    Encoder,
    build,
    language_tokens,
    load_tokenizer,
    mib_lexicon,
    read_minimal_pairs,
    read_stories,
    repeated_tokens,
)
from babelscope.tasks import (
    census as build_census,
)


@pytest.fixture(scope="module")
def gpt2(shared_data):
    return Encoder(load_tokenizer(shared_data / "tokenizers" / "gpt2"))


@pytest.fixture(scope="module")
def bible(shared_models):
    return Encoder(load_tokenizer(shared_models / "bible-bloom" / "final"))


AGREEMENT = [
    ("The cats near the door sleep.", "The cats near the door sleeps."),
    ("The dog near the tree sleeps.", "The dog near the tree sleep."),
    ("The man by the river walks.", "The man by the river walk."),
    ("A woman who laughs.", "A woman who laugh."),
]


@pytest.fixture
def blimp(tmp_path):
    file = tmp_path / "agreement.jsonl"
    rows = [{"sentence_good": good, "sentence_bad": bad, "UID": "sv"} for good, bad in AGREEMENT]
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return file


def test_agreement_is_decided_at_the_verb_against_the_other_number(blimp, gpt2):
    prompts = build(f"agreement:{blimp}", gpt2, "en")
    assert prompts.items == (0, 1, 2)
    first = prompts[0]
    assert first.clean_text == "The cats near the door"
    assert first.corrupted_text == "The dog near the tree"
    assert (gpt2.decode(first.target), gpt2.decode(first.foil)) == (" sleep", " sleeps")
    assert first.scene == {"twin": 1, "turned": 1}
    assert prompts[2].scene["turned"] == 0
    assert prompts.census.reasons() == {"no_twin": 1}


def test_whole_sentences_are_prompt_and_rest(blimp, gpt2):
    prompts = build(f"minimal-pairs:{blimp}", gpt2, "en", whole=True)
    for pair, (good, bad) in zip(prompts, AGREEMENT):
        assert gpt2.decode(pair.clean + pair.target) == good
        assert gpt2.decode(pair.clean + pair.foil) == bad


def test_real_minimal_pairs_of_sling(bible, shared_data):
    file = shared_data / "minimal-pairs" / "sling" / "Aspect" / "temporal_guo.jsonl"
    pairs = read_minimal_pairs(file)
    assert len(pairs) == 1000
    assert (pairs[0].good, pairs[0].paradigm) == ("她们去年吃过其它小动物。", "temporal_guo")
    for split in ("strict", "relaxed"):
        prompts = build("minimal-pairs", bible, "zh", source=str(file), split=split, n=40)
        for pair in prompts:
            good = tuple(bible.encode(pairs[pair.item].good).ids)
            assert good[: len(pair.clean)] == pair.clean
            assert good[len(pair.clean) :][: len(pair.target)] == pair.target
            assert pair.target[0] != pair.foil[0]
    assert len(read_minimal_pairs(shared_data / "minimal-pairs" / "sling")) == 6000


def test_lines_of_judgements_as_in_clams(tmp_path):
    file = tmp_path / "simple_agrmt.txt"
    file.write_text("True\tthe cat sleeps\nFalse\tthe cat sleep\nTrue\tthe cats sleep\nFalse\tthe cats sleeps\n")
    pairs = read_minimal_pairs(file)
    assert [(pair.good, pair.bad) for pair in pairs] == [
        ("the cat sleeps", "the cat sleep"),
        ("the cats sleep", "the cats sleeps"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ('{"a": 1}', "line 1: a minimal pair needs sentence_good/sentence_bad .* it has a"),
        ('{"sentence_good": "x"', "line 1 is not JSON"),
        ("True\tx\nmaybe\ty", 'line 2: expected "True" or "False"'),
        ("True\tx", "no bad sentence"),
    ],
)
def test_broken_minimal_pairs_are_named(text, message, tmp_path):
    (tmp_path / "p.jsonl").write_text(text)
    with pytest.raises(TaskError, match=message):
        read_minimal_pairs(tmp_path / "p.jsonl")


def test_minimal_pairs_need_a_file(gpt2, tmp_path):
    with pytest.raises(TaskError, match="agreement needs a file"):
        build("agreement", gpt2, "en")
    with pytest.raises(TaskError, match="no file of minimal pairs"):
        build("agreement:absent.jsonl", gpt2, "en")
    with pytest.raises(TaskError, match="no minimal pairs"):
        read_minimal_pairs(tmp_path)


def test_mib_folder_with_a_real_tokenizer(gpt2, shared_data):
    folder = shared_data / "ioi" / "mib"
    lexicon = mib_lexicon(folder)
    assert (len(lexicon.names), len(lexicon.objects), len(lexicon.places)) == (99, 8, 8)
    texts = [template.text for template in lexicon.templates]
    assert len(set(texts)) == len(texts) < 70, "no template comes twice, once for a and once for an"
    assert not any(" a {object}" in text or " an {object}" in text for text in texts)
    assert set(lexicon.objects) >= {"a ring", "a computer"}
    prompts = build("ioi", gpt2, "en", source=f"mib:{folder}", n=40)
    assert len(prompts) == 40
    for pair in prompts:
        assert gpt2.decode(pair.target).strip() == lexicon.names[pair.scene["IO"]]


def test_a_broken_mib_folder_is_named(tmp_path):
    with pytest.raises(TaskError, match=r"no names.json in .*: an IOI folder of MIB holds names"):
        mib_lexicon(tmp_path)
    for part in ("names", "objects", "places"):
        (tmp_path / f"{part}.json").write_text('["x", "y"]')
    (tmp_path / "templates.json").write_text('["{name_A} and {name_B}"]')
    with pytest.raises(TaskError, match=r"lacks one of \{name_A\}, \{name_B\}, \{name_C\}"):
        mib_lexicon(tmp_path)
    (tmp_path / "templates.json").write_text('{"a": 1}')
    with pytest.raises(TaskError, match="must be a list of texts"):
        mib_lexicon(tmp_path)


def test_random_text_is_of_the_language_and_says_nothing(bible):
    tokens = set(language_tokens(bible, "zh").tolist())
    prompts = build("random-text", bible, "zh", n=10, length=12)
    arrays = prompts.arrays()
    assert arrays["input_ids"].shape == (10, 12)
    assert set(arrays["input_ids"].ravel().tolist()) <= tokens
    assert prompts.pairs == build("random-text", bible, "zh", n=10, length=12).pairs
    assert len(tokens & set(language_tokens(bible, "hi").tolist())) < len(tokens) / 5


def test_repeated_tokens_say_everything_twice(bible):
    ids = repeated_tokens(bible, "en", length=25, n=4)
    assert ids.shape == (4, 50)
    assert np.array_equal(ids[:, :25], ids[:, 25:])
    assert all(len(set(row.tolist())) == 25 for row in ids)
    given = repeated_tokens(bible, "eu", length=5, n=2, texts=["hasieran zen hitza eta hitza"])
    assert set(given.ravel().tolist()) <= set(bible.encode("hasieran zen hitza eta hitza").ids)


def test_stories_of_xcopa_and_copa(shared_data):
    english = read_stories(shared_data / "xcopa" / "copa-en" / "test.jsonl")
    chinese = read_stories(shared_data / "xcopa" / "data" / "zh" / "test.zh.jsonl")
    assert len(english) == len(chinese) == 500
    assert [story.label for story in english] == [story.label for story in chinese]
    assert english[0].endings == ("It was fragile.", "It was small.")
    assert (english[0].label, english[0].question, english[0].item) == (0, "cause", "0")


CLOZE = {
    "InputStoryid": "s1",
    "InputSentence1": "A.",
    "InputSentence2": "B.",
    "InputSentence3": "C.",
    "InputSentence4": "D.",
    "RandomFifthSentenceQuiz1": "E.",
    "RandomFifthSentenceQuiz2": "F.",
    "AnswerRightEnding": "2",
}


def test_story_cloze_from_a_table_or_from_records(tmp_path):
    table, records = tmp_path / "x.tsv", tmp_path / "x.jsonl"
    table.write_text("\t".join(CLOZE) + "\n" + "\t".join(CLOZE.values()) + "\n")
    ours = {"story_id": "s1", **{f"input_sentence_{n}": "ABCD"[n - 1] + "." for n in range(1, 5)}}
    ours |= {"sentence_quiz1": "E.", "sentence_quiz2": "F.", "answer_right_ending": 2}
    records.write_text(json.dumps(ours))
    for file in (table, records):
        (story,) = read_stories(file)
        assert (story.item, story.context, story.endings, story.label) == ("s1", "A. B. C. D.", ("E.", "F."), 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ('{"x": 1}', "has the fields x; expected those of XStoryCloze or XCOPA"),
        ("[1]", "line 1 is not a JSON object"),
        ("{", "line 1 is not JSON"),
        ('{"premise": "p", "choice1": "a"}', "record 1 does not fit: 'choice2'"),
        (
            '{"premise": "p", "choice1": "a", "choice2": "b", "label": 4, "idx": 0, "question": "cause"}',
            "there are two endings, so no ending 5",
        ),
    ],
)
def test_broken_stories_are_named(text, message, tmp_path):
    (tmp_path / "s.jsonl").write_text(text)
    with pytest.raises(TaskError, match=message):
        read_stories(tmp_path / "s.jsonl")
    with pytest.raises(TaskError, match="no file of stories"):
        read_stories(tmp_path / "absent.jsonl")


OWN = """
names = ["Mary", "Anna", "Sarah", "Emma", "Alice", "Lucy", "John", "Tom", "Paul", "Peter", "David", "Mark"]
places = ["the school", "the park"]
objects = ["a book", "a key"]

[[template]]
id = "own"
text = "{A} met {B} at {place}. {S} handed {object} to"
"""


def test_own_templates_are_a_task_in_whatever_language_their_file_is_named_after(tmp_path, gpt2):
    (tmp_path / "en.toml").write_text(OWN, encoding="utf-8")
    prompts = build(f"ioi:{tmp_path}/{{language}}.toml", gpt2, "en", n=4)
    assert {pair.template for pair in prompts} == {"own"}
    assert {pair.language for pair in prompts} == {"en"}
    assert " met " in prompts[0].clean_text
    assert " handed " in prompts[0].clean_text
    with pytest.raises(TaskError, match=r"no template file at .*xx"):
        build(f"ioi:{tmp_path}/{{language}}.toml", gpt2, "xx", n=4)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (OWN.replace('id = "own"', ""), r"\[\[template\]\] number 1 has no id"),
        (OWN.replace("{S}", "she"), "slot {S} is missing"),
        (OWN.replace('"the park"', "3"), "places must be a list of texts"),
        ('template = "x"\n' + OWN.split("[[")[0], r"\[\[template\]\]"),
        ("names = [", "not TOML"),
    ],
)
def test_a_broken_template_file_is_one_line(text, said, tmp_path, gpt2):
    (tmp_path / "own.toml").write_text(text, encoding="utf-8")
    with pytest.raises(TaskError, match=said):
        build(f"ioi:{tmp_path}/own.toml", gpt2, "en")


def test_a_file_of_minimal_pairs_per_language(tmp_path, gpt2):
    for code, (good, bad) in {"en": ("The cats sleep.", "The cats sleeps."), "de": ("Der Hund", "Den Hund")}.items():
        row = {"good": good, "bad": bad}
        (tmp_path / f"{code}.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(row), encoding="utf-8")
    counted = build_census(f"minimal-pairs:{tmp_path}/{{language}}.jsonl", gpt2, ["en", "de"])
    assert set(counted.language) == {"en", "de"}
