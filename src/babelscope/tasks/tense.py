"""Past tense: "Today I walk. Yesterday I" → walked, foil walk; in Chinese verb copy (D1) and aspect (D2).

A candidate is (verb, template, two time words), ordered by hashes of the verb's concept id and the seed, so the same
verbs and times come first in every language, whatever other verbs a language has.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from babelscope.tasks.candidates import Candidate
from babelscope.tasks.steps import Dissociation, Label, Need, Step, fixed
from babelscope.tasks.templates import Rendered, Template, TenseLexicon, Verb, render

CORRUPTIONS: Mapping[str, str] = {
    "tense-flip": "the past time word becomes a future one, or a present one, of as many tokens: isolates tense",
    "verb-swap": "the verb becomes another one of as many tokens: isolates copying",
}

ATTENDING = 0.1
"""least attention of a label that says where a head looks"""

STEPS = (
    Step("direct", mlps=True, corruption="tense-flip"),
    Step("direct_verb", mlps=True, corruption="verb-swap"),
    Step("queries", "q", "direct", mlps=True, corruption="tense-flip", label=fixed("feeds queries")),
    Step("keys", "k", "direct", None, mlps=True, corruption="tense-flip", label=fixed("feeds keys")),
    Step("values", "v", "direct", None, mlps=True, corruption="tense-flip", label=fixed("feeds values")),
    Step(
        "values_verb",
        "v",
        "direct_verb",
        "VERB1",
        mlps=True,
        corruption="verb-swap",
        label=fixed("feeds values of the verb"),
    ),
    Step("ffn_inputs", "mlp", "direct", corruption="tense-flip", label=fixed("feeds FFNs")),
)
"""What acts directly under either corruption, what feeds its heads, and which heads feed its FFNs."""

_RULE = Need("writes target − foil of other prompts")
_VERB = Need("attention END→VERB1", ATTENDING)
ROLES = Dissociation(
    "direct",
    "direct_verb",
    (
        Label("past-tense head", (_RULE,)),
        Label("copy head", (_VERB,)),
        Label("tense and copy head", (_RULE, _VERB)),
    ),
)
"""Past-tense heads: moved more than twice as much by the tense flip as by the verb swap; copy heads: the reverse."""

_ALTERNATIVES = 40
"""How many other verbs are tried as a swap or as a foil before the candidate is given up"""


@dataclass(frozen=True)
class Clause:
    """Which verb, template and time words a prompt is made of."""

    verb: Verb
    template: int
    first: int
    """Index of the first clause's time word"""
    past: int
    stratum: str


def concept(verb: Verb) -> str:
    """The verb's concept id without the mark of a homograph (walk_v and walk are one)."""
    return verb.id.removesuffix("_v")


def stratum(verb: Verb, template: Template) -> str:
    """Stratum of a prompt: the verb's own for inflection, else the kind of template (copy, aspect, particle)."""
    return verb.stratum if template.kind in ("", "inflection") else template.kind


def heldout(verb: Verb) -> bool:
    """Whether a verb is kept for evaluation: one in five, by its concept, alike in every language."""
    return zlib.crc32(f"held out {concept(verb)}".encode()) % 5 == 0


def clauses(lexicon: TenseLexicon, seed: int, templates: Sequence[str] | None = None) -> dict[str, Iterator[Clause]]:
    """Stratum → its clauses, every verb once before any comes twice."""
    found: dict[str, list[tuple[int, Verb]]] = {}
    for number, template in enumerate(lexicon.templates):
        if templates is None or template.id in templates:
            for verb in lexicon.verbs:
                found.setdefault(stratum(verb, template), []).append((number, verb))
    return {name: _rounds(lexicon, name, pairs, seed) for name, pairs in sorted(found.items())}


def candidate(lexicon: TenseLexicon, clause: Clause, corruption: str, seed: int, split: str) -> Candidate:
    """The clause in words: its roles, target and foil as far as the template has them.

    In the strict split target and foil are first words ("read" of "read the newspaper"): one token is all they have.
    """
    template, verb = lexicon.templates[clause.template], clause.verb
    clean = _rendered(lexicon, clause)

    def shortened(text: str) -> str:
        return (text.split() or [text])[0] if split == "strict" else text

    return Candidate(
        item=_item(verb, clause),
        language=lexicon.language,
        template=template.id,
        clean=clean,
        twins=tuple(_twins(lexicon, clause, corruption, seed)),
        target=shortened(_text(template.target or "{past_form}", verb)),
        foils=tuple(shortened(foil) for foil in _foils(lexicon, clause, seed)),
        join=lexicon.join,
        after=_text(template.after, verb),
        roles=_role_slots(clean, verb),
        stratum=clause.stratum,
        heldout=heldout(verb),
        scene={"verb": zlib.crc32(concept(verb).encode()), "first": clause.first, "past": clause.past},
    )


def _rounds(lexicon: TenseLexicon, name: str, pairs: Sequence[tuple[int, Verb]], seed: int) -> Iterator[Clause]:
    firsts, pasts = len(lexicon.times["present"]), len(lexicon.times["past"])

    def rank(number: int, verb: Verb, *rest: int) -> int:
        return zlib.crc32(f"{seed} {concept(verb)} {number} {rest}".encode())

    ordered = sorted(pairs, key=lambda pair: rank(*pair))
    times = {
        (number, verb.id): sorted(
            ((first, past) for first in range(firsts) for past in range(pasts)),
            key=lambda pair: rank(number, verb, *pair),
        )
        for number, verb in (ordered if len(ordered) < 5000 else ())
    }
    for turn in range(firsts * pasts):
        for number, verb in ordered:
            # Long verb tables skip the shuffle of times: their verbs alone are more than anyone asks for.
            first, past = times[number, verb.id][turn] if times else divmod(turn, pasts)
            yield Clause(verb, number, first, past, name)


def _item(verb: Verb, clause: Clause) -> int:
    return zlib.crc32(f"{concept(verb)} {clause.template} {clause.first} {clause.past}".encode())


def _rendered(lexicon: TenseLexicon, clause: Clause, past: str | None = None, verb: Verb | None = None) -> Rendered:
    times = lexicon.times
    values = dict((verb or clause.verb).forms) | {
        "present": times["present"][clause.first],
        "future": times["future"][min(clause.first, len(times["future"]) - 1)],
        "past": past or times["past"][clause.past],
    }
    return render(lexicon.templates[clause.template].text, values)


def _twins(lexicon: TenseLexicon, clause: Clause, corruption: str, seed: int) -> Iterator[Rendered]:
    if corruption == "verb-swap":
        for other in _others(lexicon, clause, f"{seed} swap"):
            yield _rendered(lexicon, clause, verb=other)
        return
    future, present = lexicon.times["future"], lexicon.times["present"]
    past = lexicon.times["past"][clause.past]
    said = {present[clause.first], future[min(clause.first, len(future) - 1)]}
    turned = [*future[clause.past : clause.past + 1], *future, *present]
    # A word that the first clause may hold already comes last: repetition is not what is to be tested.
    for word in sorted(dict.fromkeys(turned), key=lambda word: word in said):
        if word != past:
            yield _rendered(lexicon, clause, past=word)


def _foils(lexicon: TenseLexicon, clause: Clause, seed: int) -> Iterator[str]:
    template, verb = lexicon.templates[clause.template], clause.verb
    target = _text(template.target or "{past_form}", verb)
    foil = _text(template.foil, verb) if "{other" not in template.foil else ""
    if foil and foil != target:
        yield foil
    elif template.kind == "aspect":
        yield template.after.format_map(verb.forms).strip() or "。"
    else:
        # Copy, and syncretic verbs, whose base is the past form: the foil is another verb of the same stratum.
        for other in _others(lexicon, clause, f"{seed} foil"):
            yield other.base


def _others(lexicon: TenseLexicon, clause: Clause, purpose: str) -> Sequence[Verb]:
    """Other verbs of the same stratum in an order of their own for each item, alike in every language."""
    same = lexicon.by_stratum[clause.verb.stratum]
    start = f"{purpose} {concept(clause.verb)} "
    if len(same) > 1000:  # of a long table, a stretch that begins anywhere will do
        begin = zlib.crc32(start.encode()) % (len(same) - 199)
        same = same[begin : begin + 200]
    others = [verb for verb in same if verb.base != clause.verb.base]
    return sorted(others, key=lambda verb: zlib.crc32((start + concept(verb)).encode()))[:_ALTERNATIVES]


def _role_slots(text: Rendered, verb: Verb) -> dict[str, str]:
    """Roles by slot, as far as a template has them: TIME1, VERB1, TIME2, SUBJ2 (what follows TIME2), VERB2."""
    time = next((slot for slot in ("present", "future") if slot in text.spans), "")
    verbs = [slot for slot in text.spans if slot.split("#")[0] in verb.forms]
    first, second = [*verbs, "", ""][:2]
    roles = {"TIME1": time, "VERB1": first, "TIME2": "past", "SUBJ2": "past+", "VERB2": second}
    return {
        role: slot for role, slot in roles.items() if slot in text.spans and text.spans[slot][0] < text.spans[slot][1]
    }


def _text(pattern: str, verb: Verb) -> str:
    return render(pattern, verb.forms).text


def with_verbs(lexicon: TenseLexicon, verbs: Sequence[Verb]) -> TenseLexicon:
    """The same templates with verbs from elsewhere (a UniMorph table)."""
    return replace(lexicon, verbs=tuple(verbs))
