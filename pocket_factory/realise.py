"""From a meaning to a sentence: the grammar of one language, read from its data folder (`data/FORMAT.md`).

    python -m pocket_factory check LANG [N [FRAME…]]

checks the data of a language and prints N random sentences of every frame.

A *slot* `{v:past@agent}` of a template is a concept (`v`), a shape (`past`) and the source that it agrees with
(`agent`). Its text depends on those concepts alone, so it is worked out once for each of them and then looked up.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from typing import Any

from babelscope.errors import CorpusError
from babelscope.pocket.lexicon import NOUNS, Concept, concepts, data_folder, table
from pocket_factory.vocabulary import GRAMMARS

SLOT = re.compile(r"\{([^{}]*)\}")
SLOT_PARTS = re.compile(r"(?P<name>&?\w+)(?::(?P<shape>[\w.]+))?(?:@(?P<source>[\w|&]+))?$")
SENTENCE_START = re.compile(r"(?:^|[.?!…]\s+|[:,]\s*(?=[\"«“]))[\W_]*(\w)")
SPACES = re.compile(" {2,}")

Features = dict[str, str]


class GrammarError(CorpusError):
    """The data of a language cannot say something: the message names the language, the template and the word."""


@dataclass(frozen=True, slots=True)
class Word:
    """One concept in one language: its forms, and the features that other words agree with."""

    concept: Concept
    features: Features
    forms: dict[str, str]


@dataclass(frozen=True, slots=True)
class Slot:
    """One `{name:shape@source}` of a template; a name with `&` in front is a concept itself."""

    name: str
    shape: str
    sources: tuple[str, ...]


Template = list[str | Slot]


class Grammar:
    """Lexicon, morphology and templates of one language, ready to speak.

    Raises GrammarError when the files cannot be parsed. What they lack shows in `check_data.check_language`.

    >>> grammar = Grammar("en")
    >>> grammar.realise("act_drink", "past", {"time": "yesterday", "agent": "cook", "v": "drink_v", "theme": "tea"})
    'Yesterday the cook drank the tea.'
    """

    def __init__(self, language: str) -> None:
        self.language = language
        folder = GRAMMARS / language
        self.words = {word.concept.id: word for word in _lexicon(language)}
        morphology = tomllib.loads((folder / "morphology.toml").read_text(encoding="utf-8"))
        self.phrases = _phrases(morphology.get("phrase", {}))
        self.capital = bool(_option(morphology, "capital", True))
        self.space = str(_option(morphology, "space", " "))
        rules: list[list[str]] = morphology.get("rewrite", {}).get("rules", [])
        self._rules: list[tuple[Callable[[str, str], str], str]] = [(re.compile(p).sub, r) for p, r in rules]
        self.templates = {row[0]: self._parse(row) for row in table(folder / "templates.tsv")}
        self._texts: dict[tuple[object, ...], str] = {}

    def realise(self, frame: str, tense: str, fillers: Mapping[str, str]) -> str:
        """The sentence of a frame, in a tense, with a concept id for every slot.

        Raises GrammarError when the template, a slot or a form is missing.
        """
        template = self.templates.get(f"{frame}.{tense}")
        if template is None:
            raise GrammarError(f"{self.language}: no template {frame}.{tense}")
        return self.finish("".join([part if isinstance(part, str) else self._text(part, fillers) for part in template]))

    def finish(self, text: str) -> str:
        """The rewriting rules, spaces and capitals of the language, applied to a composed sentence."""
        for substitute, replacement in self._rules:
            text = substitute(replacement, text)
        if self.space:
            if "  " in text:
                text = SPACES.sub(" ", text)
            text = text.strip(" ")
        if self.capital:
            text = SENTENCE_START.sub(_upper_last, text)
        return text

    def form(self, concept: str, shape: str = "base", *sources: str) -> str:
        """The phrase of a concept in a shape, agreeing with the source concepts, before rewriting.

        >>> Grammar("en").form("cat", "pl")
        'cats'
        """
        return self._phrase(self._word(concept), shape, [self._word(source) for source in sources])

    def _text(self, slot: Slot, fillers: Mapping[str, str]) -> str:
        try:
            name = slot.name[1:] if slot.name[0] == "&" else fillers[slot.name]
            sources = tuple([s[1:] if s[0] == "&" else fillers[s] for s in slot.sources])
        except KeyError as missing:
            raise GrammarError(f"{self.language}: no filler for the slot {missing}") from None
        key = (name, slot.shape, sources)
        text = self._texts.get(key)
        if text is None:
            word = self._word(name)
            text = self._phrase(word, slot.shape or word.concept.shape, [self._word(source) for source in sources])
            self._texts[key] = text
        return text

    def _word(self, concept: str) -> Word:
        word = self.words.get(concept)
        if word is None:
            raise GrammarError(f"{self.language}: the lexicon has no concept {concept}")
        return word

    def _phrase(self, word: Word, shape: str, sources: list[Word]) -> str:
        agreement = _joint_features(sources)
        pattern = self.pattern(word, shape, agreement)
        if pattern is None:
            return self._inflect(word, shape, agreement)

        def fill(match: re.Match[str]) -> str:
            key = match[1]
            if key == "@":
                return " ".join(self._inflect(source, "base", word.features) for source in sources)
            if key in word.forms or key not in word.features:
                return self._inflect(word, key, agreement)
            return word.features[key]

        return SLOT.sub(fill, pattern)

    def pattern(self, word: Word, shape: str, agreement: Features) -> str | None:
        """The phrase pattern of a word in a shape: the kind's own before `noun`'s, more features before fewer."""
        features = {**agreement, **word.features}
        for kind in (word.concept.kind, "noun") if word.concept.kind in NOUNS else (word.concept.kind,):
            patterns = self.phrases.get((kind, shape))
            if patterns is None:
                continue
            for combination in _combinations(features, named=True):
                if combination in patterns:
                    return patterns[combination]
        return None

    def _inflect(self, word: Word, shape: str, agreement: Features) -> str:
        forms = word.forms
        for combination in _combinations(agreement):
            key = ".".join((shape, *combination))
            if key in forms:
                return forms[key]
            if shape == "base" and combination and ".".join(combination) in forms:
                return forms[".".join(combination)]
        for key in ("base", "sg", "inf"):
            if key in forms:
                return forms[key]
        raise GrammarError(f"{self.language}: {word.concept.id} has no form {shape!r} and no base form")

    def _parse(self, row: list[str]) -> Template:
        if len(row) != 2:
            raise GrammarError(f"{self.language}: templates.tsv: expected two cells in {row}")
        parts: Template = []
        for index, part in enumerate(SLOT.split(row[1])):
            if index % 2 == 0:
                parts += [part] if part else []
                continue
            match = SLOT_PARTS.match(part)
            if match is None:
                raise GrammarError(f"{self.language}: {row[0]}: cannot read the slot {{{part}}}")
            sources = tuple(match["source"].split("|")) if match["source"] else ()
            parts.append(Slot(match["name"], match["shape"] or "", sources))
        return parts


@cache
def grammar(language: str) -> Grammar:
    """The grammar of a language, read once."""
    return Grammar(language)


def _option(morphology: Mapping[str, Any], key: str, default: object) -> object:
    """A setting, at the top of the file or inside `[rewrite]`: TOML puts what follows a table header into the table."""
    for place in (morphology, morphology.get("rewrite", {}), morphology.get("phrase", {})):
        if key in place:
            return place[key]
    return default


def _lexicon(language: str) -> Iterator[Word]:
    for row in table(data_folder() / language / "lexicon.tsv"):
        id, features, forms = (*row, "", "")[:3]
        concept = concepts().get(id)
        if concept is None or not forms:
            raise GrammarError(f"{language}: lexicon.tsv: {id!r} is no concept, or its row has no three cells: {row}")
        yield Word(concept, _features(features, concept), _forms(forms))


def _features(cell: str, concept: Concept) -> Features:
    given = dict(part.split("=", 1) for part in cell.split())
    if "g" not in given and concept.kind in ("name", "person"):
        given["g"] = "f" if "f" in concept.tags else "m"
    first = {name: given[name] for name in ("num", "g") if name in given}
    return first | given


def _forms(cell: str) -> dict[str, str]:
    forms: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in cell.split(";"))):
        key, equals, text = part.partition("=")
        forms[key.strip() if equals else "base"] = (text if equals else key).strip()
    return forms


def _phrases(patterns: Mapping[str, Any]) -> dict[tuple[str, str], dict[tuple[str, ...], str]]:
    """`noun.def.num=pl.g=f` → (noun, def) → (num=pl, g=f) → pattern. Nested TOML tables read like dotted keys."""
    found: dict[tuple[str, str], dict[tuple[str, ...], str]] = {}
    for key, pattern in _flat(patterns):
        kind, shape, *features = (*key.split("."), "base") if "." not in key else key.split(".")
        found.setdefault((kind, shape), {})[tuple(features)] = pattern
    return found


def _flat(patterns: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in patterns.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        elif isinstance(value, str) and key not in ("space",):
            yield prefix + key, value


def _joint_features(sources: list[Word]) -> Features:
    """What to agree with: one source as it is; several are plural, and feminine only if all of them are."""
    if len(sources) < 2:
        return sources[0].features if sources else {}
    feminine = all(source.features.get("g") == "f" for source in sources)
    return {"num": "pl", "g": "f" if feminine else "m"}


def _combinations(features: Features, named: bool = False) -> Iterator[tuple[str, ...]]:
    """Feature values (or name=value) in every combination, longest first, the empty one last."""
    values = [f"{name}={value}" if named else value for name, value in features.items()]
    for length in range(len(values), -1, -1):
        yield from combinations(values, length)


def _upper_last(match: re.Match[str]) -> str:
    return match[0][:-1] + match[0][-1].upper()
