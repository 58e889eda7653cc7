"""The pocket corpus: training documents without end, and what is held out from them, in up to nine languages.

    for document in iter_documents({"en": 1, "zh": 1}, seed=0): …

Everything is drawn from seeds; the same arguments give the same texts on every machine.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, NamedTuple

from babelscope.errors import CorpusError
from babelscope.pocket.heldout import Example
from babelscope.pocket.lexicon import concepts, languages
from pocket_factory.items import Item, Split, draw_combination, draw_sentence
from pocket_factory.realise import grammar
from pocket_factory.scenes import draw_giving, draw_tense, giving, shuffled_clauses, task, tense_pair
from pocket_factory.stories import ENDING_PROMPT, draw_story, tell

if TYPE_CHECKING:
    from babelscope.corpora.parallel import ParallelCorpus

MIX: Mapping[str, float] = {
    "sentences": 0.45,
    "ioi": 0.15,
    "tense": 0.08,
    "story": 0.15,
    "question": 0.05,
    "translation": 0.12,
}
"""Share of each kind of document in training."""
HELD_OUT_KINDS = (
    "sentence", "combination", "question", "story", "story_english", "ioi", "ioi_seen", "tense", "tense_verbs"
)  # fmt: skip
SAME_AGENT = 0.5
"""Share of sentence documents whose sentences are about one person, where the frame allows."""
BILINGUAL_STORIES, PROMPTED_ENGLISH_STORIES = 0.3, 0.15
"""Share of stories in another language that end in English after the prompt; share of English ones with that prompt."""
TRANSLATED_STORIES = 0.1
SCENES_OF_A_PAIR = (1, 2, 3)
"""Giving scenes in a document, all between the same two people: that names are copied is then learned far sooner."""


class Sentence(NamedTuple):
    """One text of an aligned set: the meaning id is the same in all languages."""

    id: str
    text: str


@dataclass(frozen=True, slots=True)
class Document:
    """One training text. The trainer puts the end-of-text token between documents."""

    text: str
    kind: str
    languages: tuple[str, ...]
    items: tuple[str, ...]
    """the sentences, stories and scenes that it consists of"""


def render(item: Item, language: str) -> str:
    """The text of an item in a language.

    >>> render(draw_sentence(random.Random(3), "train"), "en").endswith(".")
    True
    """
    if item.kind == "story":
        story = tell(item, language)
        return story.space.join((story.opening, story.right))
    if item.kind == "ioi":
        return giving(item, language).whole
    if item.kind == "tense":
        return tense_pair(item, language).whole
    frame, tense = item.frame.split(".")
    return grammar(language).realise(frame, tense, dict(item.fillers))


def iter_documents(
    language_weights: Mapping[str, float],
    seed: int = 0,
    split: Split = "train",
    mix: Mapping[str, float] | None = None,
) -> Iterator[Document]:
    """Documents without end: languages by weight, kinds by `mix` (default `MIX`).

    With a single language there is no translation. Raises CorpusError for an unknown language or kind.

    >>> next(iter_documents({"en": 1.0}, seed=1)).languages
    ('en',)
    """
    weights = {code: weight for code, weight in language_weights.items() if weight > 0}
    shares = dict(MIX if mix is None else mix)
    _refuse_unknown(weights, shares)
    if len(weights) == 1:
        shares.pop("translation", None)
    writer = _Writer(weights, random.Random(f"documents {seed} {split}"), split)
    write: dict[str, Callable[[], Document]] = {kind: getattr(writer, kind) for kind in shares}
    kinds, kind_weights = list(shares), list(shares.values())
    while True:
        yield write[writer.generator.choices(kinds, kind_weights)[0]]()


def heldout(language: str, kind: str, n: int, seed: int = 0) -> list[Example]:
    """n held-out examples of a kind (`HELD_OUT_KINDS`), no text twice; the same meanings in every language.

    `ioi` has new templates and names, `ioi_seen` new scenes of the training's; `tense` new (template, verb) pairs,
    `tense_verbs` verbs that no tense pair of training has; `story_english` ends in English, whatever the language.
    Raises CorpusError for an unknown kind, and when there are fewer than n.

    >>> example = heldout("en", "ioi", 1)[0]
    >>> example.text == f"{example.prompt} {example.target}."
    True
    """
    if kind not in HELD_OUT_KINDS:
        raise CorpusError(f"unknown held-out kind {kind!r}; known: {', '.join(HELD_OUT_KINDS)}")
    generator = random.Random(f"heldout {kind} {seed}")
    found: dict[str, Example] = {}
    for _ in range(50 * n + 1000):
        if len(found) == n:
            return list(found.values())
        example = _example(kind, language, generator)
        found.setdefault(example.meaning_id if kind != "tense_verbs" else example.text, example)
    if len(found) < n:
        raise CorpusError(f"only {len(found)} held-out examples of {kind} in {language}, not {n}")
    return list(found.values())


def parallel(
    n: int, seed: int = 0, split: Split = "heldout", codes: Sequence[str] | None = None
) -> dict[str, list[Sentence]]:
    """n different sentences in step in every language (default: all), each with its meaning id.

    >>> corpus = parallel(2, codes=["en", "zh"])
    >>> corpus["en"][1].id == corpus["zh"][1].id
    True
    """
    generator = random.Random(f"parallel {seed} {split}")
    items: dict[str, Item] = {}
    while len(items) < n:
        item = draw_sentence(generator, split)
        items.setdefault(item.meaning_id, item)
    return {
        code: [Sentence(item.meaning_id, render(item, code)) for item in items.values()]
        for code in (languages() if codes is None else codes)
    }


def parallel_corpus(
    n: int, seed: int = 0, split: Split = "heldout", codes: Sequence[str] | None = None
) -> ParallelCorpus:
    """The sentences of `parallel` as a corpus for recording, localisation and alignment."""
    from babelscope.corpora.parallel import ParallelCorpus

    said = parallel(n, seed, split, codes)
    ids = [sentence.id for sentence in next(iter(said.values()))]
    texts = {code: [sentence.text for sentence in sentences] for code, sentences in said.items()}
    return ParallelCorpus.from_texts(texts, ids=ids, spec=f"pocket:{split}?n={n}&seed={seed}")


def sentence_hash(text: str) -> str:
    """What identifies a text when held-out and training texts are compared: spaces and case do not count."""
    return blake2b("".join(text.split()).casefold().encode(), digest_size=10).hexdigest()


def _refuse_unknown(weights: Mapping[str, float], shares: Mapping[str, float]) -> None:
    if not weights:
        raise CorpusError("no language has a weight above zero")
    for code in weights:
        if code not in languages():
            raise CorpusError(f"the pocket corpus has no language {code!r}; it has {', '.join(languages())}")
    for kind in shares:
        if kind not in MIX:
            raise CorpusError(f"unknown kind of document {kind!r}; known: {', '.join(MIX)}")


class _Writer:
    """Writes documents; one method per kind of `MIX`."""

    def __init__(self, weights: Mapping[str, float], generator: random.Random, split: Split) -> None:
        self.codes, self.weights = list(weights), list(weights.values())
        self.generator = generator
        self.split: Split = split
        self.people = [id for id, concept in concepts().items() if concept.kind in ("name", "person")]

    def language(self) -> str:
        return self.generator.choices(self.codes, self.weights)[0]

    def document(self, kind: str, texts: Sequence[str], language: str) -> Document:
        return Document(grammar(language).space.join(texts), kind, (language,), tuple(texts))

    def sentences(self) -> Document:
        code, generator = self.language(), self.generator
        given = {"agent": generator.choice(self.people)} if generator.random() < SAME_AGENT else {}
        count = generator.randint(1, 4)
        texts = [render(draw_sentence(generator, self.split, given=given), code) for _ in range(count)]
        return self.document("sentences", texts, code)

    def question(self) -> Document:
        code = self.language()
        items = [draw_sentence(self.generator, self.split, "question") for _ in range(self.generator.randint(1, 3))]
        return self.document("question", [render(item, code) for item in items], code)

    def ioi(self) -> Document:
        code = self.language()
        items: list[Item] = []
        pair: tuple[str, str] | None = None
        for _ in range(self.generator.choice(SCENES_OF_A_PAIR)):
            items.append(draw_giving(self.generator, self.split, pair=pair))
            fillers = dict(items[-1].fillers)
            pair = (fillers["a"], fillers["b"])
        return self.document("ioi", [giving(item, code).whole for item in items], code)

    def tense(self) -> Document:
        code = self.language()
        texts: list[str] = []
        for _ in range(self.generator.randint(1, 2)):
            whole = tense_pair(draw_tense(self.generator, code, self.split), code).whole
            texts += shuffled_clauses(whole, self.generator) if self.generator.random() < 0.5 else [whole]
        return self.document("tense", texts, code)

    def story(self) -> Document:
        code, dice = self.language(), self.generator.random()
        item = draw_story(self.generator, self.split)
        story = tell(item, code)
        if "en" not in self.codes or dice > (PROMPTED_ENGLISH_STORIES if code == "en" else BILINGUAL_STORIES):
            return self.document("story", [*story.sentences, story.right], code)
        ending = tell(item, "en").right
        text = f"{story.opening} {ENDING_PROMPT} {ending}"
        return Document(text, "story", tuple(dict.fromkeys((code, "en"))), (*story.sentences, ending))

    def translation(self) -> Document:
        first = second = self.language()
        while second == first:
            second = self.language()
        if self.generator.random() < TRANSLATED_STORIES:
            items = [draw_story(self.generator, self.split)]
        else:
            count = self.generator.choice((1, 1, 2))
            items = [draw_sentence(self.generator, self.split) for _ in range(count)]
        texts = {code: [render(item, code) for item in items] for code in (first, second)}
        text = "\n".join(grammar(code).space.join(texts[code]) for code in (first, second))
        return Document(text, "translation", (first, second), (*texts[first], *texts[second]))


def _example(kind: str, language: str, generator: random.Random) -> Example:
    if kind in ("sentence", "combination"):
        item = draw_sentence(generator, "heldout") if kind == "sentence" else draw_combination(generator)
        return Example(item.meaning_id, kind, language, render(item, language))
    if kind == "question":
        item = draw_sentence(generator, "heldout", "question")
        return Example(item.meaning_id, kind, language, render(item, language))
    if kind.startswith("story"):
        return _story_example(kind, language, generator)
    if kind.startswith("ioi"):
        item = draw_giving(generator, "heldout", new=kind == "ioi")
        prompt, stratum = giving(item, language), item.frame
    else:
        item = draw_tense(generator, language, "heldout", new=kind == "tense_verbs")
        prompt = tense_pair(item, language)
        verbs = {verb["id"]: verb["stratum"] for verb in task("tense", language)["verb"]}
        stratum = verbs[dict(item.fillers)["verb"]]
    return Example(
        item.meaning_id, kind, language, prompt.whole, prompt.text, prompt.target, prompt.foil, prompt.join, stratum
    )


def _story_example(kind: str, language: str, generator: random.Random) -> Example:
    item = draw_story(generator, "heldout")
    story = tell(item, language)
    if kind == "story":
        prompt, right, wrong, join = story.opening, story.right, story.wrong, story.space
    else:
        english = tell(item, "en")
        prompt, right, wrong, join = f"{story.opening} {ENDING_PROMPT}", english.right, english.wrong, " "
    return Example(item.meaning_id, kind, language, f"{prompt}{join}{right}", prompt, right, wrong, join, item.frame)
