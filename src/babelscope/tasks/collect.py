"""Drawing prompt pairs of each task until enough survive the tokenizer; every prompt looked at counts in the census."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from babelscope.errors import TaskError
from babelscope.languages import three_letters
from babelscope.tasks import ioi, tense
from babelscope.tasks.candidates import assemble
from babelscope.tasks.census import Tally
from babelscope.tasks.encoding import Encoder
from babelscope.tasks.minimal_pairs import prompt_pairs, read_minimal_pairs
from babelscope.tasks.prompts import PromptPair
from babelscope.tasks.random_text import random_pairs
from babelscope.tasks.sources import mib_lexicon, unimorph_verbs
from babelscope.tasks.templates import IoiLexicon, TenseLexicon, ioi_lexicon, parse_ioi, parse_tense, tense_lexicon

LANGUAGE = "{language}"
"""in the path of a user's own file: the code of the language"""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Which prompts of a task are wanted."""

    n: int = 100
    """pairs; fewer where fewer survive the tokenizer"""
    seed: int = 0
    corruption: str | None = None
    """how the corrupted prompt is made [the task's first]"""
    split: str = "strict"
    """strict: names, targets and foils of one token in context; relaxed: equally many above one; auto: the strict
    split where it gives half of `n`"""
    heldout: bool | None = None
    """the templates and names (verbs) kept for evaluation alone, or only the others [all]"""
    templates: Sequence[str] | None = None
    """by name [all]"""
    stratum: str | None = None
    """of past tense [all in turn]"""
    source: str | None = None
    """mib:FOLDER, a template file (.toml) or the file of minimal pairs, `{language}` in it standing for the code"""
    verbs: str | None = None
    """unimorph:TABLE"""
    scenes: str = "auto"
    """exact: a name that fails is never replaced; substituted: it is; auto: where too few survive"""
    special: bool = True
    """keep the tokenizer's BOS"""
    extend: bool = True
    """a target of several tokens shares its first ones with the foil"""
    whole: bool = False
    """score whole sentences of minimal pairs"""
    same_tokens: bool = False
    """a name is the same tokens wherever it stands"""
    length: int = 20
    """of random text, in tokens"""
    limit: int = 0
    """prompts looked at before giving up; 0: twenty for each one wanted, and at least 2 000"""


@dataclass(frozen=True, kw_only=True)
class Request(Options):
    """What a task is asked for: its options, with the corruption named."""

    task: str
    language: str
    corruption: str  # pyright: ignore[reportIncompatibleVariableOverride, reportGeneralTypeIssues]

    @property
    def offered(self) -> int:
        """The limit that applies."""
        return self.limit or max(2000, 20 * self.n)


Collected = tuple[list[PromptPair], str]
"""The pairs, and whether scenes are "exact" or "substituted" """


def collect_ioi(request: Request, encoder: Encoder, tally: Tally) -> Collected:
    """IOI pairs, ABBA and BABA in equal numbers within each template.

    Scenes are taken in their fixed order. Where too few survive as they are, names that the tokenizer cuts up are
    replaced by the next ones of the scene's own order that it does not: item, template, order, place and object stay.
    """
    lexicon = _ioi_data(request)
    if request.scenes not in ("auto", "exact", "substituted"):
        raise TaskError(f"scenes are auto, exact or substituted, not {request.scenes!r}")
    exact = _Balanced(request.n)
    control = request.task == "ioi-control"
    needed = (ioi.CONTROL_CORRUPTIONS if control else ioi.CORRUPTIONS)[request.corruption][1]
    if len(lexicon.names) < needed + 2:
        raise TaskError(
            f"{request.task} needs at least {needed + 2} names, {lexicon.language} has {len(lexicon.names)}"
        )
    for scene in islice(ioi.scenes(lexicon, request.seed, request.heldout, request.templates), request.offered):
        if exact.full:
            break
        candidate = ioi.candidate(lexicon, scene, ioi.exact_names(scene, needed), request.corruption, control)
        outcome = assemble(candidate, encoder, request.split, same_tokens=request.same_tokens)
        tally.add(candidate.row, outcome if isinstance(outcome, str) else "survived")
        if not isinstance(outcome, str):
            exact.add(outcome)
        if request.scenes == "auto" and _hopeless(tally, len(exact.pairs), request):
            break
    if request.scenes == "exact" or (request.scenes == "auto" and exact.full):
        return exact.pairs, "exact"
    names, substituted = ioi.Names(lexicon, encoder), _Balanced(request.n)
    for scene in islice(ioi.scenes(lexicon, request.seed, request.heldout, request.templates), request.offered):
        if substituted.full:
            break
        chosen = names.substitute(scene, needed, request.split)
        if chosen is not None:
            candidate = ioi.candidate(lexicon, scene, chosen, request.corruption, control)
            outcome = assemble(candidate, encoder, request.split, same_tokens=request.same_tokens)
            if not isinstance(outcome, str):
                substituted.add(outcome)
    if request.scenes == "auto" and len(exact.pairs) >= len(substituted.pairs):
        return exact.pairs, "exact"
    return substituted.pairs, "substituted"


def collect_tense(request: Request, encoder: Encoder, tally: Tally) -> Collected:
    """Past-tense pairs, one from each stratum in turn for as long as it has any."""
    lexicon = _tense_data(request)
    _templates_exist(request, [template.id for template in lexicon.templates])
    clauses = tense.clauses(lexicon, request.seed, request.templates)
    if request.stratum is not None:
        wanted = {name: one for name, one in clauses.items() if request.stratum.startswith(name)}
        if not wanted:
            raise TaskError(f"no stratum {request.stratum!r} in {request.language}; there are {', '.join(clauses)}")
        clauses = wanted
    streams = [_tense_pairs(request, lexicon, islice(one, request.offered), encoder, tally) for one in clauses.values()]
    pairs: list[PromptPair] = []
    while streams and len(pairs) < request.n:
        for stream in list(streams):
            pair = next(stream, None)
            if pair is None:
                streams.remove(stream)
            elif len(pairs) < request.n:
                pairs.append(pair)
    return pairs, "exact"


def collect_minimal_pairs(request: Request, encoder: Encoder, tally: Tally) -> Collected:
    """Minimal pairs of a file or folder, in its order."""
    if request.source is None:
        raise TaskError(f"{request.task} needs a file of minimal pairs: {request.task}:PATH, or source=PATH")
    pairs = read_minimal_pairs(_of_language(request.source, request.language))
    found = prompt_pairs(pairs, encoder, request.language, request.split, tally, request.whole)
    return found[: request.n], "exact"


def _of_language(path: str, code: str) -> str:
    """The path with the language's code in it, of two letters or, where only that is there, of three (MultiBLiMP)."""
    plain = path.replace(LANGUAGE, code)
    other = path.replace(LANGUAGE, three_letters(code))
    return other if not Path(plain).exists() and Path(other).exists() else plain


def collect_random(request: Request, encoder: Encoder, tally: Tally) -> Collected:
    """Random text of the language's token subset."""
    pairs = random_pairs(encoder, request.language, request.n, request.seed, request.length)
    for pair in pairs:
        tally.add((pair.language, pair.template, pair.stratum), "survived")
    return pairs, "exact"


def _hopeless(tally: Tally, found: int, request: Request) -> bool:
    """Whether, after a fair look, the rest of the scenes will not bring what is wanted either."""
    return tally.total >= 400 and found * request.offered < request.n * tally.total


class _Balanced:
    """Keeps as many ABBA as BABA pairs of each template: one waits until its counterpart comes."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.pairs: list[PromptPair] = []
        self._waiting: dict[tuple[str, str], list[PromptPair]] = {}

    @property
    def full(self) -> bool:
        return len(self.pairs) >= self.n

    def add(self, pair: PromptPair) -> None:
        counterpart = "BABA" if pair.order == "ABBA" else "ABBA"
        queue = self._waiting.get((pair.template, counterpart), [])
        if not queue:
            self._waiting.setdefault((pair.template, pair.order), []).append(pair)
            return
        self.pairs += [queue.pop(0), pair][: self.n - len(self.pairs)]


def balanced(pairs: Sequence[PromptPair], n: int) -> list[PromptPair]:
    """The first n pairs, ABBA and BABA in equal numbers within each template where there are orders."""
    if not all(pair.order for pair in pairs):
        return list(pairs[:n])
    chosen = _Balanced(n)
    for pair in pairs:
        if not chosen.full:
            chosen.add(pair)
    return chosen.pairs


def _tense_pairs(
    request: Request, lexicon: TenseLexicon, clauses: Iterator[tense.Clause], encoder: Encoder, tally: Tally
) -> Iterator[PromptPair]:
    for clause in clauses:
        if request.heldout is not None and tense.heldout(clause.verb) != request.heldout:
            continue
        candidate = tense.candidate(lexicon, clause, request.corruption, request.seed, request.split)
        outcome = assemble(candidate, encoder, request.split, request.extend)
        tally.add(candidate.row, outcome if isinstance(outcome, str) else "survived")
        if not isinstance(outcome, str) and request.stratum in (None, clause.stratum, outcome.stratum):
            yield outcome


def _ioi_data(request: Request) -> IoiLexicon:
    if request.source is None:
        lexicon = ioi_lexicon(request.language)
    elif request.source.startswith("mib:"):
        lexicon = mib_lexicon(request.source.removeprefix("mib:"))
    else:
        lexicon = replace(parse_ioi(*_own_templates(request)), language=request.language)
    _templates_exist(request, [template.id for template in lexicon.templates])
    return lexicon


def _tense_data(request: Request) -> TenseLexicon:
    if request.source is None:
        lexicon = tense_lexicon(request.language)
    else:
        lexicon = replace(parse_tense(*_own_templates(request)), language=request.language)
    if request.verbs is None:
        return lexicon
    if not request.verbs.startswith("unimorph:"):
        raise TaskError(f"the verbs {request.verbs!r} are not known; past-tense reads unimorph:TABLE")
    return tense.with_verbs(lexicon, unimorph_verbs(request.verbs.removeprefix("unimorph:")))


def _own_templates(request: Request) -> tuple[str, str]:
    """The text of the user's template file for the language, and its name for messages."""
    name = (request.source or "").replace(LANGUAGE, request.language)
    if not name.endswith(".toml"):
        raise TaskError(f"the source {name!r} is not known; {request.task} reads a template file (.toml) or mib:FOLDER")
    try:
        return Path(name).read_text(encoding="utf-8"), name
    except FileNotFoundError:
        raise TaskError(f"no template file at {name}") from None
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise TaskError(f"the template file {name} cannot be read: {error}") from error


def _templates_exist(request: Request, there: Sequence[str]) -> None:
    unknown = [name for name in request.templates or () if name not in there]
    if unknown:
        raise TaskError(
            f"no template {unknown[0]!r} of {request.task} in {request.language}; there are {', '.join(there)}"
        )
