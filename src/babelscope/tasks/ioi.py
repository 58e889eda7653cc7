"""Indirect object identification: "When Mary and John went to the school, John gave a book to" → Mary.

A scene (names, place, object, template, order) is drawn from (seed, item) alone, so item i is the same scene in every
language. All names of a scene are of one gender: nothing in an inflected language then gives the answer away, and the
corrupted sentence stays grammatical.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from babelscope.tasks.candidates import Candidate
from babelscope.tasks.encoding import Encoder
from babelscope.tasks.steps import Label, Need, Step, fixed
from babelscope.tasks.templates import IoiLexicon, Rendered, Template, render

CORRUPTIONS: Mapping[str, tuple[str, int]] = {
    "pabc": ("all three name slots hold three other names: no name is repeated, none is the answer", 5),
    "flip": ("the repeated subject becomes the indirect object: the answer turns round", 2),
    "random-s2": ("the repeated subject becomes a third name: nothing is repeated", 3),
    "token-only": ("both names replaced wherever they stand: other tokens, same positions of the repetition", 4),
    "position-only": ("the first two names change places: same tokens, other position of the repetition", 2),
}
"""Corruption → (what it does, how many names a scene needs). The last two take S2's signals apart"""

CONTROL_CORRUPTIONS: Mapping[str, tuple[str, int]] = {
    "pabc": ("all three name slots hold three other names", 6),
}
"""Corruptions of the task without a duplicated name"""

ATTENDING, COPYING = 0.1, 0.2
"""least score of a label by attention, and by copying: average heads stay below"""


def _mover(supports: bool, score: Callable[[str], float]) -> Label:
    """A head that acts on the names' logits: by copying, or by suppressing what it reads (for S, that helps)."""
    copies = score("copy") >= score("negative copy")
    name = "copy" if copies else "negative copy"
    if not score(name) >= COPYING:
        return Label("direct" if supports else "direct, opposing", score=name)
    role = {
        (True, True): "name mover",
        (True, False): "copy suppression",
        (False, True): "name mover, opposing",
        (False, False): "negative name mover",
    }[supports, copies]
    return Label(role, (Need(name, COPYING),))


def _backup(supports: bool, score: Callable[[str], float]) -> Label:
    found = _mover(supports, score)
    return replace(found, role=f"backup {found.role}")


def _repeating(_: bool, score: Callable[[str], float]) -> Label:
    best = "induction" if score("induction") > score("duplicate-token") else "duplicate-token"
    return Label(best, (Need(best, ATTENDING),))


STEPS = (
    Step("name_movers", label=_mover),
    Step(
        "s_inhibition",
        "q",
        "name_movers",
        label=fixed("S-inhibition", "anti-S-inhibition", Need("attention END→S2", ATTENDING)),
    ),
    Step("duplicate_induction", "v", "s_inhibition", "S2", label=_repeating),
    Step(
        "previous_token",
        "k",
        "duplicate_induction",
        "S1+1",
        label=fixed("previous-token", "", Need("previous-token", ATTENDING)),
    ),
    Step("backup_name_movers", knocked_out="name_movers", label=_backup),
)
"""Name movers (and negative ones), S-inhibition, duplicate-token and induction, previous-token, backups."""


@dataclass(frozen=True)
class Scene:
    """One drawn scene; `primary` names are for IO and S, `secondary` ones for the corrupted prompt as well."""

    item: int
    template: int
    order: str
    place: int
    object: int
    heldout: bool
    primary: tuple[int, ...]
    secondary: tuple[int, ...]


def draw(lexicon: IoiLexicon, item: int, seed: int) -> Scene:
    """The scene of an item: templates in turn, each in both orders; held-out templates go with held-out names.

    Same-shaped data (sixteen templates, forty names, …) give the same indices in every language.
    """
    generator = np.random.default_rng((seed, item))
    template = (item // 2) % len(lexicon.templates)
    heldout = lexicon.heldout_template(template)
    genders = sorted(set(lexicon.genders))
    gender = genders[int(generator.integers(len(genders)))]
    place, thing = int(generator.integers(len(lexicon.places))), int(generator.integers(len(lexicon.objects)))
    # Own names first, then those of the other gender: needed only where a tokenizer leaves too few.
    order = [int(name) for name in generator.permutation(len(lexicon.names))]
    order.sort(key=lambda name: lexicon.genders[name] != gender)
    primary = tuple(name for name in order if (name in lexicon.heldout_names) == heldout)
    # Eight held-out names are too few for three further ones: those of a corrupted prompt may be ordinary.
    secondary = primary + (tuple(name for name in order if name not in primary) if heldout else ())
    secondary = tuple(sorted(secondary, key=lambda name: lexicon.genders[name] != gender))
    return Scene(item, template, "BABA" if item % 2 else "ABBA", place, thing, heldout, primary, secondary)


def exact_names(scene: Scene, count: int) -> tuple[int, ...]:
    """The scene's own names: IO, S, then those that the corruption needs."""
    io, subject = scene.primary[:2]
    return (io, subject, *[name for name in scene.secondary if name not in (io, subject)][: count - 2])


class Names:
    """How many tokens each name is in context, so that names that fail can be replaced by ones that do not.

    A name counts as k tokens in a template when it is k tokens in each of the three slots and as the continuation.
    """

    def __init__(self, lexicon: IoiLexicon, encoder: Encoder) -> None:
        self.lexicon, self.encoder = lexicon, encoder
        self._tokens: dict[tuple[int, int], int | None] = {}

    def tokens(self, template: int, name: int) -> int | None:
        """k, or None when the name differs from slot to slot or melts into its neighbours."""
        key = template, name
        if key not in self._tokens:
            self._tokens[key] = self._count(template, name)
        return self._tokens[key]

    def substitute(self, scene: Scene, count: int, split: str) -> tuple[int, ...] | None:
        """Names for a scene in its own order of preference, all of one token count (1 in the strict split)."""
        frame = self.lexicon.templates[scene.template]

        def usable(names: Sequence[int], k: int) -> list[int]:
            fitting = [name for name in names if self.tokens(scene.template, name) == k]
            if not frame.feminine or not fitting:
                return fitting
            gender = self.lexicon.genders[fitting[0]]
            return [name for name in fitting if self.lexicon.genders[name] == gender]

        sizes = [self.tokens(scene.template, name) for name in scene.primary]
        for k in dict.fromkeys(size for size in sizes if size is not None):
            if (k == 1) != (split == "strict"):
                continue
            first = usable(scene.primary, k)[:2]
            others = [name for name in usable(scene.secondary, k) if name not in first]
            if len(first) == 2 and len(others) >= count - 2:
                return (*first, *others[: count - 2])
        return None

    def _count(self, template: int, name: int) -> int | None:
        other = (name + 1) % len(self.lexicon.names)
        counts: set[int] = set()
        for slots in ((name, other, other), (other, name, other), (other, other, name)):
            text = sentence(self.lexicon, template, slots, 0, 0)
            continuation = self.encoder.continuation(text.text, self.lexicon.join + self.lexicon.names[name])
            start, end = text.spans["ABS"[slots.index(name)]]
            span = self.encoder.span(text.text, start, end)
            if continuation is None or span is None:
                return None
            counts |= {len(continuation), span[1] - span[0]}
        return counts.pop() if len(counts) == 1 else None


def sentence(lexicon: IoiLexicon, template: int, slots: Sequence[int], place: int, thing: int) -> Rendered:
    """A template with three names in the slots A, B and S."""
    frame = lexicon.templates[template]
    values = {slot: lexicon.names[name] for slot, name in zip("ABS", slots)}
    values |= {"place": lexicon.places[place], "object": lexicon.objects[thing]}
    feminine = frame.feminine and lexicon.genders[slots[2]] == "f"
    return render(frame.feminine if feminine else frame.text, values)


def slots(corruption: str, order: str, names: Sequence[int]) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Names in the slots A, B, S of the clean and of the corrupted prompt; `names` is IO, S, then the others."""
    io, subject, *others = names
    corrupted = {
        "pabc": lambda: (others[1], others[2], others[0]),
        "flip": lambda: (io, subject, io),
        "random-s2": lambda: (io, subject, others[0]),
        "token-only": lambda: (others[1], others[0], others[0]),
        "position-only": lambda: (subject, io, subject),
    }[corruption]()
    return _ordered((io, subject, subject), order), _ordered(corrupted, order)


def control_slots(order: str, names: Sequence[int]) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """The same for the control task: the giver is a third person, and three others take their places."""
    io, subject, giver, *others = names
    return _ordered((io, subject, giver), order), _ordered((others[0], others[1], others[2]), order)


def candidate(lexicon: IoiLexicon, scene: Scene, names: Sequence[int], corruption: str, control: bool) -> Candidate:
    """The scene in words: roles IO, S1, S2 on their slots; target IO, foil S."""
    clean, corrupted = control_slots(scene.order, names) if control else slots(corruption, scene.order, names)
    frame: Template = lexicon.templates[scene.template]
    first, second = ("A", "B") if scene.order == "ABBA" else ("B", "A")
    return Candidate(
        item=scene.item,
        language=lexicon.language,
        template=frame.id,
        clean=sentence(lexicon, scene.template, clean, scene.place, scene.object),
        twins=(sentence(lexicon, scene.template, corrupted, scene.place, scene.object),),
        target=lexicon.names[names[0]],
        foils=(lexicon.names[names[1]],),
        join=lexicon.join,
        roles={"IO": first, "S1": second, "S2": "S"},
        equal=("IO", "S1", "S2"),
        order=scene.order,
        heldout=scene.heldout,
        scene={"IO": names[0], "S": names[1], "place": scene.place, "object": scene.object},
    )


def scenes(lexicon: IoiLexicon, seed: int, heldout: bool | None, templates: Sequence[str] | None) -> Iterator[Scene]:
    """All scenes in their fixed order, those of other templates or of the other half skipped; endless."""
    item = -1
    while True:
        item += 1
        index = (item // 2) % len(lexicon.templates)
        if heldout is not None and lexicon.heldout_template(index) != heldout:
            continue
        if templates is None or lexicon.templates[index].id in templates:
            yield draw(lexicon, item, seed)


def _ordered(names: tuple[int, int, int], order: str) -> tuple[int, int, int]:
    io, subject, repeated = names
    return (io, subject, repeated) if order == "ABBA" else (subject, io, repeated)
