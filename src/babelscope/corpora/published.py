"""How the data sets of the field are read: one line each, by `babelscope corpus list`.

Places are where a copy would lie; columns are those of the published files.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["PUBLISHED", "Published"]


@dataclass(frozen=True)
class Published:
    """A published data set and the words by which it is read."""

    name: str
    use: str
    """corpus (parallel sentences or text), questions (evaluate --tasks), minimal pairs (a task), prompts"""
    example: str


PUBLISHED = (
    Published("FLORES+ (a folder)", "corpus", "flores:flores_plus?split=dev"),
    Published(
        "FLORES+ (one long table)",
        "corpus",
        "table:dev.parquet?language=iso_639_3+iso_15924&text=text&id=id",
    ),
    Published(
        "BOUQuET",
        "corpus",
        "table:bouquet/data/sentence_level/dev/{language}.parquet?text=src_text&id=uniq_id&document=par_id",
    ),
    Published(
        "BOUQuET (both levels in one)",
        "corpus",
        "table:bouquet.parquet?language=src_lang&text=src_text&id=uniq_id&only=level:sentence_level",
    ),
    Published(
        "SIB-200", "corpus", "table:sib/data/annotated/{language}/dev.tsv?text=text&id=index_id&format=tsv-quoted"
    ),
    Published(
        "Belebele (passages)", "corpus", "table:belebele/{language}.jsonl?text=flores_passage&id=link+question_number"
    ),
    Published("MKQA (questions)", "corpus", "table:mkqa.jsonl.gz?id=example_id&en=queries.en&zh=queries.zh_cn"),
    Published("Belebele", "questions", "belebele:belebele/{language}.jsonl"),
    Published("XCOPA", "questions", "xcopa:data/{language}/val.{language}.jsonl"),
    Published(
        "XStoryCloze (both schemes of names)",
        "questions",
        "xstorycloze:spring2016.val.{language}.tsv.split_20_80_eval.tsv",
    ),
    Published("KLAR", "questions", "klar:klar/{language}"),
    Published("BMLAMA", "questions", "bmlama:BMLAMA17/{language}.tsv"),
    Published("MKQA", "questions", "mkqa:mkqa.jsonl.gz"),
    Published("MultiBLiMP", "minimal pairs", "minimal-pairs:multiblimp/{language}/data.tsv"),
    Published("BLiMP, SLING", "minimal pairs", "minimal-pairs:blimp/data"),
    Published("CLAMS", "minimal pairs", "minimal-pairs:clams/{language}"),
    Published("Language Confusion Benchmark", "prompts", "babelscope confusion MODEL --data test_sets"),
)
