"""Every published data format on a made-up file, and a wrong file refused in one line that names what was expected."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from babelscope.corpora import READERS, load_corpus
from babelscope.corpora.published import PUBLISHED
from babelscope.errors import CorpusError, InputError, TaskError
from babelscope.evaluation.questions import SETS, load_questions
from babelscope.steering.benchmark import read_benchmark
from babelscope.tasks import TASKS, read_minimal_pairs
from babelscope.tasks.collect import _of_language
from tests.command import command


def put(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def parquet(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def lines(*rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


# -- corpora -----------------------------------------------------------------------------------------------------------


def flores(code, text, number, script="Latn", variant="g1"):
    return {"id": number, "iso_639_3": code, "iso_15924": script, "glottocode": variant, "text": text}


def test_flores_plus_as_one_long_table(tmp_path):
    rows = [flores("eng", "It rained.", 1), flores("eng", "It snowed.", 2), flores("cmn", "下雨了。", 1, "Hans")]
    parquet(tmp_path / "dev.parquet", [*rows, flores("cmn", "下雪了。", 2, "Hans")])
    spec = f"table:{tmp_path}/dev.parquet?language=iso_639_3+iso_15924&text=text&id=id"
    corpus = load_corpus(spec)
    assert corpus.languages == ("en", "zh")
    assert corpus.ids == ("1", "2")
    assert corpus.texts["zh"] == ("下雨了。", "下雪了。")
    with pytest.raises(CorpusError, match=r"has no column 'code'; it has id, iso_639_3"):
        load_corpus(spec.replace("iso_639_3+iso_15924", "code"))


def test_an_id_twice_in_a_language_is_refused(tmp_path):
    parquet(tmp_path / "dev.parquet", [flores("eng", "a", 1), flores("eng", "b", 1, variant="g2")])
    with pytest.raises(CorpusError, match="the id '1' occurs twice"):
        load_corpus(f"table:{tmp_path}/dev.parquet?language=iso_639_3&text=text&id=id")


def test_variants_of_a_language_hinder_only_those_who_ask_for_it(tmp_path):
    variants = [flores("cat", "gener", 1, variant="stan1289"), flores("cat", "giner", 1, variant="vale1252")]
    rows = [flores("eng", "January", 1, variant="stan1293"), flores("ekk", "jaanuar", 1, variant="esto1258")]
    parquet(tmp_path / "dev.parquet", [*rows, *variants])
    spec = f"table:{tmp_path}/dev.parquet?language=iso_639_3+iso_15924&text=text&id=id"
    assert load_corpus(spec, ["en", "et"]).texts == {"en": ("January",), "et": ("jaanuar",)}
    with pytest.raises(CorpusError, match="in ca: the id '1' occurs twice"):
        load_corpus(spec, ["en", "ca"])
    chosen = load_corpus(f"{spec}&only=glottocode:vale1252+stan1293")
    assert chosen.texts == {"ca": ("giner",), "en": ("January",)}


def test_flores_plus_in_a_file_a_language(tmp_path):
    for code, text in (("eng_Latn", "It rained."), ("cmn_Hans", "下雨了。")):
        parquet(tmp_path / f"dev/{code}.parquet", [flores(code[:3], text, 1, code[4:]), flores(code[:3], text, 2)])
    corpus = load_corpus(f"flores:{tmp_path}?split=dev")
    assert (corpus.languages, corpus.ids) == (("zh", "en"), ("1", "2"))
    parquet(tmp_path / "dev/eng_Latn.parquet", [{"id": 1, "words": "It rained."}])
    with pytest.raises(CorpusError, match="no column 'text'; it has id, words"):
        load_corpus(f"flores:{tmp_path}?split=dev")


def bouquet(level, name, text, code="fra_Latn"):
    english = {"tgt_lang": "eng_Latn", "tgt_text": "It rains."}
    return {"level": level, "src_lang": code, "src_text": text, "par_id": "P1", "uniq_id": name, **english}


def test_bouquet_by_language_and_as_one_table_of_two_levels(tmp_path):
    rows = [bouquet("sentence_level", "P1-S1", "Il pleut."), bouquet("sentence_level", "P1-S2", "Il neige.")]
    german = [bouquet("sentence_level", one["uniq_id"], "Es regnet.", "deu_Latn") for one in rows]
    parquet(tmp_path / "dev/fra_Latn.parquet", rows)
    parquet(tmp_path / "dev/deu_Latn.parquet", german)
    corpus = load_corpus(f"table:{tmp_path}/dev/{{language}}.parquet?text=src_text&id=uniq_id&document=par_id")
    assert set(corpus.languages) == {"fr", "de"}
    assert corpus.groups["P1-S1"] == "P1"
    both = [*rows, *german, bouquet("paragraph_level", "P1", "Il pleut. Il neige.")]
    parquet(tmp_path / "all.parquet", both)
    spec = f"table:{tmp_path}/all.parquet?language=src_lang&text=src_text&id=uniq_id&only=level:sentence_level"
    assert load_corpus(spec).ids == ("P1-S1", "P1-S2")
    with pytest.raises(CorpusError, match=r"no row has 'words' in level; there are sentence_level, paragraph_level"):
        load_corpus(spec.replace("sentence_level", "words"))
    with pytest.raises(CorpusError, match="only=level is not of the form COLUMN:VALUE"):
        load_corpus(spec.replace("only=level:sentence_level", "only=level"))


def test_sib_200_quotes_as_csv_does(tmp_path):
    put(tmp_path / "ace_Latn/dev.tsv", 'index_id\tcategory\ttext\n12\ttravel\t"Take ""the"" bus."\n')
    put(tmp_path / "eng_Latn/dev.tsv", 'index_id\tcategory\ttext\n12\ttravel\tTake "it".\n')
    spec = f"table:{tmp_path}/{{language}}/dev.tsv?text=text&id=index_id&format=tsv-quoted"
    corpus = load_corpus(spec)
    assert corpus.texts["ace"] == ('Take "the" bus.',)
    with pytest.raises(CorpusError, match=r"has no column 'sentence'; it has index_id, .*; say text=COLUMN"):
        load_corpus(spec.replace("text=text", "text=sentence"))
    with pytest.raises(CorpusError, match="no file fits"):
        load_corpus(spec.replace("dev.tsv", "test.tsv"))


def belebele(number, **changes):
    return {
        "link": "https://x/1", "question_number": number, "flores_passage": "It rained.", "question": "What fell?",
        "mc_answer1": "Rain", "mc_answer2": "Snow", "mc_answer3": "Hail", "mc_answer4": "Ash",
        "correct_answer_num": "1", "dialect": "eng_Latn", **changes,
    }  # fmt: skip


def test_belebele_as_questions_and_as_text(tmp_path):
    for code in ("eng_Latn", "fra_Latn"):
        put(tmp_path / f"{code}.jsonl", lines(belebele(1), belebele(2, correct_answer_num="4")))
    path = f"{tmp_path}/{{language}}.jsonl"
    found = load_questions(f"belebele:{path}")
    assert list(found) == ["en", "fr"]
    assert [one.label for one in found["en"]] == [0, 3]
    assert found["en"][0].id == "https://x/1/1"
    assert found["en"][0].choices == ("Rain", "Snow", "Hail", "Ash")
    corpus = load_corpus(f"table:{path}?text=flores_passage&id=link+question_number")
    assert corpus.ids == ("https://x/1/1", "https://x/1/2")
    put(tmp_path / "deu_Latn.jsonl", lines(belebele(1, correct_answer_num="5")))
    with pytest.raises(TaskError, match=r"row 1: the right answer is '5', not a number from 1 to 4"):
        load_questions(f"belebele:{path}", ["de"])
    put(tmp_path / "deu_Latn.jsonl", lines({"text": "x"}))
    with pytest.raises(TaskError, match=r"has the fields text; expected link, question_number, flores_passage"):
        load_questions(f"belebele:{path}", ["de"])
    with pytest.raises(TaskError, match=r"nothing in zh; there are de, en, fr"):
        load_questions(f"belebele:{path}", ["zh"])


# -- minimal pairs -----------------------------------------------------------------------------------------------------


def test_multiblimp_by_name_of_columns(tmp_path):
    path = put(tmp_path / "eng/data.tsv", "prefix\tsen\twrong_sen\nThe\tThe cats sleep.\tThe cats sleeps.\n")
    [pair] = read_minimal_pairs(path)
    assert (pair.good, pair.bad) == ("The cats sleep.", "The cats sleeps.")
    assert _of_language(f"{tmp_path}/{{language}}/data.tsv", "en") == str(path)
    put(path, "sen\twrong_sen\nThe cats sleep.\n")
    with pytest.raises(TaskError, match="line 2: 1 fields, but the header has 2"):
        read_minimal_pairs(path)
    put(path, "prefix\tchild\nThe\tcats\n")
    with pytest.raises(TaskError, match=r'line 1: expected "True" or .*a header with sen and wrong_sen'):
        read_minimal_pairs(path)


def test_blimp_sling_and_clams(tmp_path):
    row = {"sentence_good": "A cat sleeps.", "sentence_bad": "A cat sleep.", "UID": "agreement"}
    assert read_minimal_pairs(put(tmp_path / "blimp.jsonl", lines(row)))[0].paradigm == "agreement"
    clams = put(tmp_path / "simple_agrmt.txt", "True\tthe author laughs\nFalse\tthe author laugh\n")
    assert read_minimal_pairs(clams)[0].bad == "the author laugh"
    with pytest.raises(TaskError, match="needs sentence_good/sentence_bad or good/bad"):
        read_minimal_pairs(put(tmp_path / "odd.jsonl", lines({"a": 1})))


# -- stories and causes ------------------------------------------------------------------------------------------------

HUB = [
    "story_id", *(f"input_sentence_{n}" for n in range(1, 5)), "sentence_quiz1", "sentence_quiz2", "answer_right_ending"
]  # fmt: skip
ROC = [
    "InputStoryid", *(f"InputSentence{n}" for n in range(1, 5)), "RandomFifthSentenceQuiz1", "RandomFifthSentenceQuiz2",
    "AnswerRightEnding",
]  # fmt: skip
STORY = ["a1", "He ran.", "It rained.", "He slipped.", "He fell.", "He hurt.", "He flew."]


@pytest.mark.parametrize("names", [HUB, ROC])
def test_xstorycloze_in_both_schemes_of_names(tmp_path, names):
    put(
        tmp_path / "spring2016.val.en.tsv.split_20_80_eval.tsv",
        "\t".join(names) + "\n" + "\t".join([*STORY, "2"]) + "\n",
    )
    spec = f"xstorycloze:{tmp_path}/spring2016.val.{{language}}.tsv.split_20_80_eval.tsv"
    [question] = load_questions(spec)["en"]
    assert (question.id, question.label) == ("a1", 1)
    assert question.prompt == "He ran. It rained. He slipped. He fell."
    assert question.choices == (" He hurt.", " He flew.")
    put(tmp_path / "spring2016.val.en.tsv.split_20_80_eval.tsv", "a\tb\n1\t2\n")
    with pytest.raises(TaskError, match="has the fields a, b; expected those of XStoryCloze or XCOPA"):
        load_questions(spec)


def test_xcopa(tmp_path):
    row = {
        "premise": "It fell.",
        "choice1": "It was wet.",
        "choice2": "It flew.",
        "question": "cause",
        "label": 0,
        "idx": 7,
    }
    put(tmp_path / "zh/val.zh.jsonl", lines(row))
    spec = f"xcopa:{tmp_path}/{{language}}/val.{{language}}.jsonl"
    [question] = load_questions(spec)["zh"]
    assert (question.id, question.label, question.group) == ("7", 0, "cause")
    put(tmp_path / "zh/val.zh.jsonl", lines({**row, "label": 2}))
    with pytest.raises(TaskError, match="there are two endings, so no ending 3"):
        load_questions(spec)
    put(tmp_path / "zh/val.zh.jsonl", lines(dict(zip(HUB, [*STORY, 1]))))
    with pytest.raises(TaskError, match="holds stories, not XCOPA's premise, choice1"):
        load_questions(spec)


# -- facts -------------------------------------------------------------------------------------------------------------


def relation(template, *samples):
    rows = [{"subject": subject, "object": answer, "index": index} for subject, answer, index in samples]
    return json.dumps({"prompt_templates": [template], "samples": rows}, ensure_ascii=False)


def test_klar_facts_align_by_index_and_choose_among_the_relation_s_objects(tmp_path):
    put(tmp_path / "en/country.json", relation("Where is <subject>? The answer is: <mask>", ("Lyon", "France", 0),
                                               ("Rome", "Italy", 1), ("Nice", "France", 2)))  # fmt: skip
    put(tmp_path / "ja/country.json", relation("<subject>はどこ？答えは：<MASK>", ("ローマ", "イタリア", 1)))
    found = load_questions(f"klar:{tmp_path}")
    assert found["en"][1].prompt == "Where is Rome? The answer is:"
    assert found["en"][1].choices == (" France", " Italy")
    assert [one.label for one in found["en"]] == [0, 1, 0]
    assert found["ja"][0].choices == ("イタリア",)
    assert found["ja"][0].id == found["en"][1].id == "country/1"
    assert load_questions(f"klar:{tmp_path}/{{language}}") == found
    put(tmp_path / "en/country.json", relation("<mask> holds <subject>", ("Lyon", "France", 0)))
    with pytest.raises(TaskError, match="expected a template with <subject> that ends with <mask>"):
        load_questions(f"klar:{tmp_path}", ["en"])
    put(tmp_path / "en/country.json", '{"samples": []}')
    with pytest.raises(TaskError, match="expected an object with prompt_templates and samples"):
        load_questions(f"klar:{tmp_path}", ["en"])


def test_bmlama_with_the_mask_anywhere(tmp_path):
    head = "Prompt\tAns\tCandidate Ans\tSubject\n"
    rows = "Ana was born in <mask>.\tRome\tParis, Rome\tAna\n<mask> was Ana's town.\tRome\tOslo, Rome\tAna\n"
    put(tmp_path / "BMLAMA17/es.tsv", head + rows)
    first, second = load_questions(f"bmlama:{tmp_path}/BMLAMA17/{{language}}.tsv")["es"]
    assert (first.prompt, first.choices, first.label) == ("Ana was born in", (" Paris.", " Rome."), 1)
    assert (second.prompt, second.choices) == ("", ("Oslo was Ana's town.", "Rome was Ana's town."))
    put(tmp_path / "BMLAMA17/es.tsv", head + "Ana was born in <mask>.\tRome\tParis, Rome, Oslo, Rome\tAna\n")
    [twice] = load_questions(f"bmlama:{tmp_path}/BMLAMA17/{{language}}.tsv")["es"]
    assert (twice.choices, twice.label) == ((" Paris.", " Rome.", " Oslo."), 1)
    put(tmp_path / "BMLAMA17/es.tsv", head + "Ana was born.\tRome\tParis, Rome\tAna\n")
    with pytest.raises(TaskError, match="row 1: expected a prompt with <mask> and its answer among the candidates"):
        load_questions(f"bmlama:{tmp_path}/BMLAMA17/{{language}}.tsv")


def mkqa(identifier, answer, kind="entity"):
    given = [{"type": kind, "text": answer}]
    queries = {"en": f"who sang {identifier}", "zh_cn": f"谁唱了{identifier}", "zh_hk": "x"}
    return {"example_id": identifier, "query": "q", "queries": queries, "answers": dict.fromkeys(queries, given)}


def test_an_answer_that_is_offered_twice_is_one(tmp_path):
    """The third answer, which is right, is the first one too: with both it would tie with itself and be wrong."""
    answers = {f"mc_answer{number}": text for number, text in enumerate(("rain", "snow", "rain", "hail"), 1)}
    row = {"link": "x", "question_number": 1, "flores_passage": "p", "question": "q", "correct_answer_num": 3}
    (tmp_path / "en.jsonl").write_text(lines(row | answers), encoding="utf-8")
    [found] = load_questions(f"belebele:{tmp_path}/{{language}}.jsonl")["en"]
    assert (found.choices, found.label) == (("rain", "snow", "hail"), 0)


def test_another_right_answer_is_no_wrong_choice(tmp_path):
    """Bo and Bobby sang 7: neither the second answer nor the alias of the first may stand among the wrong ones."""
    rows = [mkqa(7, "Bo"), mkqa(8, "Bobby"), mkqa(9, "Beau"), mkqa(10, "Cy")]
    rows[0]["answers"]["en"] = [
        {"type": "entity", "text": "Bo", "aliases": ["Beau"]}, {"type": "entity", "text": "Bobby"},
    ]  # fmt: skip
    rows[3]["queries"]["en"] = "who sang 10？"
    (tmp_path / "mkqa.jsonl").write_text(lines(*rows), encoding="utf-8")
    found = load_questions(f"mkqa:{tmp_path}/mkqa.jsonl", ["en"])["en"]
    assert sorted(found[0].choices) == ["Bo", "Cy"]
    assert sorted(found[1].choices) == ["Beau", "Bo", "Bobby", "Cy"]
    assert found[3].prompt == "who sang 10？\n"


def test_two_folders_of_facts_in_one_language_are_refused(tmp_path):
    for name in ("zh", "zho_Hans"):
        (tmp_path / name).mkdir()
    with pytest.raises(TaskError, match=r"zh and .*zho_Hans are both zh; name one of them"):
        load_questions(f"klar:{tmp_path}")


def test_mkqa_as_questions_and_as_text(tmp_path):
    rows = [mkqa(-5, "Ana"), mkqa(7, "Bo"), mkqa(8, "Cy"), mkqa(9, "", "unanswerable"), mkqa(10, "x", "long_answer")]
    (tmp_path / "mkqa.jsonl.gz").write_bytes(gzip.compress(lines(*rows).encode()))
    found = load_questions(f"mkqa:{tmp_path}/mkqa.jsonl.gz", ["en", "zh"])
    assert [one.id for one in found["en"]] == ["-5", "7", "8"]
    assert all(one.choices[one.label] == answer for one, answer in zip(found["en"], ("Ana", "Bo", "Cy")))
    assert found["zh"][0].prompt.startswith("谁唱了-5")
    corpus = load_corpus(f"table:{tmp_path}/mkqa.jsonl.gz?id=example_id&en=queries.en&zh=queries.zh_cn")
    assert corpus.ids[0] == "-5"
    with pytest.raises(CorpusError, match=r"holds dict, not text; name the way into it, such as queries\.en"):
        load_corpus(f"table:{tmp_path}/mkqa.jsonl.gz?id=example_id&en=queries")
    with pytest.raises(CorpusError, match=r"there is no 'queries\.fr'; inside stand en, zh_cn, zh_hk"):
        load_corpus(f"table:{tmp_path}/mkqa.jsonl.gz?id=example_id&en=queries.fr")
    (tmp_path / "odd.jsonl").write_text(lines({"query": "x"}))
    with pytest.raises(TaskError, match="has the fields query; expected example_id, queries, answers"):
        load_questions(f"mkqa:{tmp_path}/odd.jsonl")


# -- prompts, and the list ---------------------------------------------------------------------------------------------


def test_language_confusion_by_name_with_line_breaks_in_fields(tmp_path):
    put(tmp_path / "test_sets/monolingual/okapi/tr.csv", 'prompt,source,language\n"Bugün\nhava nasıl?",made_up,tr\n')
    crossed = "prompt,location,phrasing,language,source\nAnswer in Turkish.,start,1,tr,made_up\n"
    put(tmp_path / "test_sets/crosslingual/complex_prompts/tr.csv", crossed)
    found = read_benchmark(tmp_path)
    assert [(one.task, one.set, one.language) for one in found] == [
        ("monolingual", "okapi", "tr"),
        ("crosslingual", "complex_prompts", "tr"),
    ]
    assert "\n" in found[0].text
    put(tmp_path / "test_sets/monolingual/okapi/tr.csv", "question,language\nBugün hava nasıl?,tr\n")
    with pytest.raises(InputError, match="no column prompt; it has question, language"):
        read_benchmark(tmp_path)


def test_every_published_set_is_listed_with_a_reader_that_exists():
    listed = command("corpus", "list").stdout
    page = (Path(__file__).parents[1] / "docs" / "data.md").read_text(encoding="utf-8")
    for one in PUBLISHED:
        assert one.example in listed
        assert one.use == "prompts" or one.example in page
        name = one.example.partition(":")[0]
        known = {"corpus": READERS, "questions": SETS, "minimal pairs": TASKS}.get(one.use)
        assert known is None or name in known


def test_questions_are_named_with_what_there_is():
    with pytest.raises(TaskError, match=r"questions are named belebele:PATH, xcopa:PATH"):
        load_questions("trivia:x")
    with pytest.raises(TaskError, match=r"write \{language\} in the path"):
        load_questions("belebele:x.jsonl")
