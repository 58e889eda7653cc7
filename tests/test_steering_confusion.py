"""Language confusion: the published rule against a plain loop of its arithmetic, the offline rule, readers."""

from __future__ import annotations

import csv
import math
import string

import pytest

from babelscope.errors import InputError
from babelscope.regions.identification import Identifier
from babelscope.steering import confusion
from babelscope.steering.benchmark import (
    own_crosslingual,
    own_monolingual,
    own_prompts,
    read_answers,
    read_benchmark,
)
from babelscope.steering.confusion import OfflineRule, PublishedRule, mean_of, normalised, rates
from babelscope.steering.identify import LineIdentifier, long_enough, script_share
from babelscope.steering.writing import judged, longest_repeat

WORDS = {"hello", "world", "the", "River", "Garden", "words", "house"}
ANSWERS = {
    "fr": ["le chat est sur la table", "le chat est là\nQ: et le chien noir est ici", "un deux", "",
           "hello world this is it\nle chat est sur la table"],
    "ar": ["hello، مرحبا بكم في هذا البيت الجميل",
           "مرحبا بكم في هذا البيت الجميل", "(hello) مرحبا—بكم في هذا البيت house.", "no"],
    "zh": ["你 好 世 界 人", "你 好 words 世 界", "你 好"],
}  # fmt: skip


def stub(line):
    """A line's language by its first letter, as any identifier might be wrong or right."""
    for code, letters in (("ar", "مب"), ("zh", "你"), ("fr", "lu")):
        if line.strip()[:1] in letters:
            return code
    return "unknown"


def published(completions, lang):
    """From the rule: cut at the next question, delete punctuation, split at line breaks, drop what is short, count."""
    skipped, passing, right_shares, clean = 0, 0, [], 0
    english = {word for word in WORDS if word == word.lower() and len(word) > 3}
    for completion in completions:
        text = completion.split("\nQ:")[0].strip()
        text = "".join(letter for letter in text if letter not in string.punctuation)
        text = text.replace("—", " ").replace("،", "")
        lines = [line for line in text.split("\n") if len(line.split()) >= 5]
        if not lines:
            skipped += 1
            continue
        wrong = [line for line in lines if stub(line) != lang]
        right_shares.append(1 - len(wrong) / len(lines))
        if not wrong:
            passing += 1
            if not any(token in english for line in lines for token in line.split()):
                clean += 1
    counted = len(completions) - skipped
    return passing / counted, sum(right_shares) / counted, clean / passing if passing else math.nan


@pytest.mark.parametrize("code", sorted(ANSWERS))
def test_the_published_rule_is_its_arithmetic(code):
    rule = PublishedRule(stub, WORDS, lambda line, _: line.split())
    found = rates([rule(text, code) for text in ANSWERS[code]])
    lpr, acc, wpr = published(ANSWERS[code], code)
    assert found.lpr == pytest.approx(lpr)
    assert found.acc == pytest.approx(acc)
    if code in ("ar", "zh"):
        assert found.wpr == pytest.approx(wpr)
        assert found.lcpr == pytest.approx(2 * lpr * wpr / (lpr + wpr))
    else:
        assert math.isnan(found.wpr)


def test_kinds_exclude_each_other_and_nothing_counted_is_nan():
    rule = PublishedRule(stub, WORDS, lambda line, _: line.split())
    assert [rule(text, "fr").kind for text in ANSWERS["fr"]] == ["none", "skipped", "skipped", "skipped", "line"]
    assert [rule(text, "ar").kind for text in ANSWERS["ar"]] == ["full", "none", "full", "skipped"]
    assert rule("le chat est sur la table", "ar").kind == "full"
    assert rule("你 好 words 世 界", "zh").kind == "word"
    empty = rates([rule("un", "fr")])
    assert math.isnan(empty.lpr)
    assert math.isnan(empty.acc)
    assert (empty.answers, empty.counted) == (1, 0)
    assert mean_of([0.5, math.nan]) == 0.5
    assert math.isnan(mean_of([]))
    assert normalised(" a—b، c.\nQ: d") == "a b c"


def test_missing_tokenizers_of_the_published_rule_are_named(monkeypatch):
    def absent(name):
        raise ImportError(name)

    monkeypatch.setattr("importlib.import_module", absent)
    with pytest.raises(InputError, match="pip install jieba"):
        PublishedRule(stub, WORDS)("你好世界", "zh")
    assert confusion.published_tokens("a b", "fr") == ["a", "b"]


# -- offline -------------------------------------------------------------------------------------------------------

LINES = {
    "en": "The children are playing in the garden behind the house",
    "fr": "Les enfants jouent dans le jardin derrière la maison",
    "es": "Los niños juegan en el jardín detrás de la casa", "pt": "As crianças brincam no jardim atrás da casa",
    "id": "Anak-anak itu bermain di kebun di belakang rumah", "vi": "Bọn trẻ đang chơi trong vườn sau nhà",
    "ar": "يلعب الأطفال في الحديقة خلف البيت الكبير",
    "hi": "बच्चे घर के पीछे बगीचे में खेल रहे हैं", "zh": "孩子们在房子后面的花园里玩耍",
}  # fmt: skip


def test_the_offline_rule_tells_nine_languages_apart_and_is_not_told_which_to_expect():
    rule = OfflineRule(["en", "fr"])
    for code, line in LINES.items():
        for target in LINES:
            found = rule(line, target, "en")
            assert found.lines == (code,) or not long_enough(normalised(line), target), (code, target, found)
    two = Identifier(["en", "fr"])
    assert two.identify(LINES["es"]) in ("en", "fr")  # what a choice between source and target alone would say


def test_a_line_also_needs_the_target_s_script_where_scripts_differ():
    rule = OfflineRule(["en", "hi"], identify=lambda _: "hi")
    assert rule("main ghar ja raha hoon abhi", "hi", "en").lines == ("unknown",)
    assert rule("main ghar ja raha hoon abhi", "hi", "hi").lines == ("hi",)
    assert rule(LINES["hi"], "hi", "en").passes


@pytest.mark.parametrize(
    ("text", "code", "share"),
    [("你好", "zh", 1.0), ("こんにちは世界", "zh", 0.0), ("世界", "ja", 0.0), ("世界の", "ja", 1.0),
     ("안녕 ab", "ko", 0.5),
     ("...", "en", 0.0), ("éa", "fr", 1.0)],
)  # fmt: skip
def test_scripts(text, code, share):
    assert script_share(text, code) == share


def test_english_words_in_answers_of_another_script():
    rule = OfflineRule(["ar", "zh"], identify=lambda _: "ar")
    arabic = LINES["ar"]
    assert rule(arabic + " house", "ar").word is True
    assert rule(arabic + " NATO Paris abc", "ar").word is False
    assert rule(arabic, "ar").kind == "none"
    assert OfflineRule(["fr"], identify=lambda _: "fr")(LINES["fr"], "fr").word is None


def test_lines_without_letters_and_unknown_languages():
    identify = LineIdentifier(["en"])
    assert identify("12 34 !!") == "unknown"
    with pytest.raises(InputError, match="does not know xx"):
        LineIdentifier(["xx"])
    with pytest.raises(InputError, match="takes zh and zh-Hant for one language"):
        LineIdentifier(["zh", "zh-Hant", "en"])
    assert LineIdentifier(["zh-Hant", "en"])("孩子們在花園裡玩耍") == "zh-Hant"
    assert long_enough("一二三四五六七八", "zh")
    assert not long_enough("一二三四五六七", "zh")


def test_a_judged_answer_keeps_what_its_language_does_not_say():
    rule = OfflineRule(["en", "fr"])
    found = judged(rule, "la la la la la la la la", "fr", "en", [5, 6] * 4, "length")
    assert (found.repeat, found.distinct_1, found.tokens) == (6, 0.25, 8)
    english = judged(rule, LINES["en"], "fr", "en")
    assert (english.all_source, english.all_target, english.success) == (True, False, 0.0)
    assert judged(rule, LINES["es"], "fr", "en").all_other
    assert math.isnan(judged(rule, "a b", "fr", "en").success)


def test_the_longest_repeat_is_that_of_a_plain_search():
    for tokens in ([], [1], [1, 1, 1], [1, 2, 3], [3, 1, 2, 9, 1, 2, 3, 1, 2]):
        best = max(
            (size for size in range(len(tokens)) for i in range(len(tokens)) for j in range(i)
             if i + size <= len(tokens) and tokens[i : i + size] == tokens[j : j + size]), default=0,
        )  # fmt: skip
        assert longest_repeat(tokens) == best


# -- readers -------------------------------------------------------------------------------------------------------


def write(path, columns, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerows([columns, *rows])


def test_benchmark_folders_and_answers_are_read(tmp_path):
    write(
        tmp_path / "t/monolingual/okapi/fr.csv", ["prompt", "source", "language"], [["Salut,\nça va ?", "Okapi", "fr"]]
    )
    write(tmp_path / "t/crosslingual/sharegpt/ar.csv", ["prompt", "source", "language", "location"],
          [["Reply in Arabic", "ShareGPT", "ar", "start"], ["In Arabic", "ShareGPT", "ar", "end"]])  # fmt: skip
    found = read_benchmark(tmp_path)
    assert [(one.task, one.set, one.language) for one in found] == [
        ("monolingual", "okapi", "fr"),
        ("crosslingual", "sharegpt", "ar"), ("crosslingual", "sharegpt", "ar")]  # fmt: skip
    assert found[0].text == "Salut,\nça va ?"
    assert len({one.id for one in found}) == 3
    write(
        tmp_path / "a.csv",
        ["id", "model", "completion", "task", "source", "language"],
        [[0, "m", "Oui", "mono", "o", "fr"]],
    )
    [answer] = read_answers(tmp_path / "a.csv")
    assert (answer.model, answer.set, answer.language, answer.text) == ("m", "o", "fr", "Oui")
    write(tmp_path / "b.csv", ["x"], [[1]])
    with pytest.raises(InputError, match="no column completion"):
        read_answers(tmp_path / "b.csv")
    with pytest.raises(InputError, match="has no prompts"):
        read_benchmark(tmp_path / "nowhere")


def test_everyday_questions_are_in_nine_languages_and_in_their_language():
    found = own_prompts()
    assert sorted(found) == ["ar", "en", "es", "fr", "hi", "id", "pt", "vi", "zh"]
    assert {len(texts) for texts in found.values()} == {52}
    for code, texts in found.items():
        assert len(set(texts)) == 52
        assert all(text == text.strip() and text[-1] in "?？؟" for text in texts)
        identify = LineIdentifier([code])
        assert sum(identify(text) == code for text in texts) >= 45, code
    assert len(own_monolingual(["fr", "zh"])) == 104
    asked = own_crosslingual(["en", "fr"])
    assert len(asked) == 52
    assert all("French" in one.text and one.language == "fr" for one in asked)
    with pytest.raises(InputError, match="no everyday questions in sw"):
        own_prompts(["sw"])
