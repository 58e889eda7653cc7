"""What each model of the pocket family reads: which documents, in which proportions, cut by which tokenizer."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from hashlib import blake2b
from itertools import islice
from pathlib import Path

from tokenizers import Tokenizer

from babelscope.pocket.models import PocketModel
from pocket_factory.corpus import Document, iter_documents
from pocket_factory.packing import MIXED, TokenStream, pack
from pocket_factory.realise import grammar
from pocket_factory.scenes import task
from pocket_factory.tokenizer import train_tokenizer

MIX: Mapping[str, float] = {
    "sentences": 0.30,
    "ioi": 0.28,
    "tense": 0.08,
    "story": 0.17,
    "question": 0.05,
    "translation": 0.12,
}
"""Share of each kind of document. More giving scenes and stories than the corpus has by itself: that a name may be
copied from the context is learned from them, and late where they are rare (`docs/pocket-training-notes.md`)."""
WORDS = {"nine": 4096, "en": 2048, "zh": 2048}
TOKENIZER_DOCUMENTS = 60_000
WHOLE_VERBS = ("en", "zh")
"""languages whose verbs of the tense task are made one token; for those of all nine 4 096 words are too few"""
CALIBRATION_DOCUMENTS = 6_000
PARTICLES = tuple("了着过的得把给在和去来很不吗呢是我他她它们有个会想要能就都也")
"""Chinese function words, which together with the lexicon show the tokenizer where words end"""

Report = Callable[[str], None]


def prepare(model: PocketModel, directory: Path, report: Report) -> tuple[Tokenizer, TokenStream]:
    """Tokenizer and packed corpus of a model, made once and kept in `directory` for the models that share them."""
    languages = tuple(model.shares)
    tokenizer = _tokenizer(
        model.vocabulary, languages if len(languages) > 1 else (model.vocabulary,), directory, report
    )
    limit = model.recipe.distinct
    digest = blake2b(json.dumps([model.shares, MIX, limit], sort_keys=True).encode(), digest_size=4).hexdigest()
    folder = directory / "corpus" / f"{model.vocabulary}-{digest}"
    stream = TokenStream.load(folder)
    if stream is None:
        report(f"{model.name}: writing the corpus")
        weights = calibrated_weights(model.shares, tokenizer)
        documents = iter_documents(weights, seed=model.recipe.seed, mix=MIX)
        stream = pack(((label(document), document.text) for document in documents), tokenizer, limit)
        stream.save(folder)
    report(f"{model.name}: {len(stream):,} tokens to read")
    return tokenizer, stream


def label(document: Document) -> str:
    """Language of a document, or `mixed`."""
    return document.languages[0] if len(document.languages) == 1 else MIXED


def calibrated_weights(
    shares: Mapping[str, float], tokenizer: Tokenizer, documents: int = CALIBRATION_DOCUMENTS
) -> dict[str, float]:
    """Weights of the languages among documents under which their shares of the *tokens* come out as asked.

    Languages differ in tokens per sentence, and translations bring a second language along; so the weights are
    corrected by what they yield, three times.
    """
    weights = dict(shares)
    for _ in range(3 if len(weights) > 1 else 0):
        counted = tokens_by_language(weights, tokenizer, documents)
        total = sum(counted.values())
        weights = {code: weight * shares[code] / (counted[code] / total) for code, weight in weights.items()}
    total = sum(weights.values())
    return {code: weight / total for code, weight in weights.items()}


def tokens_by_language(
    weights: Mapping[str, float], tokenizer: Tokenizer, documents: int, seed: int = 1
) -> dict[str, float]:
    """Tokens of each language in some documents; those of a bilingual document count half for each."""
    counted = dict.fromkeys(weights, 1.0)
    for document in islice(iter_documents(weights, seed=seed, mix=MIX), documents):
        tokens = len(tokenizer.encode(document.text).ids)
        for language in document.languages:
            counted[language] += tokens / len(document.languages)
    return counted


def prompt_words(languages: tuple[str, ...]) -> list[str]:
    """Names and verb forms of the circuit tasks, with what stands before them in running text; names also bare."""
    found: dict[str, None] = {}
    for language in languages:
        giving, tense = task("ioi", language), task("tense", language)
        for name in giving["names"]:
            found |= {f"{giving['join']}{name}": None, name: None}
        for verb in tense["verb"] if language in WHOLE_VERBS else ():
            forms = (
                form for key, form in verb.items() if key not in ("id", "stratum") and not re.search(" |了$", form)
            )
            found |= {f"{tense['join']}{form}": None for form in forms}
    return list(found)


def chinese_words() -> list[str]:
    """Every word of the Chinese lexicon, and the function words; 了 stays a word of its own behind a verb."""
    forms = (form.removesuffix("了") for word in grammar("zh").words.values() for form in word.forms.values())
    return [*dict.fromkeys([*forms, *PARTICLES])]


def _tokenizer(vocabulary: str, languages: tuple[str, ...], directory: Path, report: Report) -> Tokenizer:
    file = directory / "tokenizers" / f"{vocabulary}.json"
    if file.is_file():
        return Tokenizer.from_file(str(file))
    report(f"training the tokenizer {vocabulary!r}")
    tokenizer = train_tokenizer(
        texts(languages, TOKENIZER_DOCUMENTS),
        WORDS[vocabulary],
        whole=prompt_words(languages),
        joined=chinese_words() if "zh" in languages else (),
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(file), pretty=False)
    return tokenizer


def texts(languages: tuple[str, ...], documents: int) -> Iterator[str]:
    """Documents in equal shares, for the training of a tokenizer."""
    equal = iter_documents(dict.fromkeys(languages, 1.0), seed=2, mix=MIX)
    return (document.text for document in islice(equal, documents))
