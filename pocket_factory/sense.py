"""Which combinations of concepts make sense: nobody swims in a library, and an ant is not bigger than a lion.

The frames say what is grammatical; these rules leave out what a speaker would find absurd, alike in all languages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from babelscope.pocket.lexicon import concepts

Fillers = Mapping[str, str]


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


WATER = frozenset({"river", "lake", "sea"})
SHORE = WATER | {"beach", "island"}
WILD_NATURE = SHORE | {"mountain", "forest", "field"}
EATABLE_NOT = frozenset({"salt", "sugar", "butter", "honey", "onion", "lemon"})
COOKABLE = frozenset({"rice", "egg", "meat", "soup", "potato", "tomato", "onion", "carrot", "noodle"})
SURFACES = frozenset({"table", "chair", "bed", "carpet", "cupboard"})
WASHABLE_TOO = frozenset({"window", "table", "chair", "bicycle", "bus", "truck", "boat"})
SMALL_WILD = frozenset({"mouse", "frog", "snake", "turtle", "monkey"})
LONG_TIMES = frozenset({"last_year", "next_year", "last_month", "next_month"})
FROM_SMALL_TO_BIG = _words(
    "ant bee butterfly spider frog mouse bird fish rabbit duck chicken turtle cat snake fox dog monkey goat sheep pig "
    "wolf deer donkey lion tiger crocodile bear cow horse camel elephant"
)
FROM_SLOW_TO_FAST = _words(
    "turtle ant spider snake frog duck chicken mouse pig cow sheep goat elephant donkey bear crocodile camel monkey "
    "cat dog wolf fox rabbit deer tiger lion horse"
)


def sensible(frame: str, fillers: Fillers) -> bool:
    """Whether a frame filled like this is something that a speaker could mean.

    >>> sensible("compare", {"theme": "elephant", "theme2": "ant", "adj": "big"})
    True
    >>> sensible("compare", {"theme": "ant", "theme2": "elephant", "adj": "big"})
    False
    """
    if fillers.get("time") in LONG_TIMES and frame in MOMENTARY:
        return False
    rule = RULES.get(frame)
    return rule is None or rule(fillers)


def tagged(concept: str, tag: str) -> bool:
    """Whether a concept has a tag."""
    return tag in concepts()[concept].tags


def _food(fillers: Fillers) -> bool:
    verb, theme = fillers.get("v", "eat"), fillers["theme"]
    if verb == "cook_v":
        return theme in COOKABLE
    return theme not in ("salt", "sugar") if verb == "prepare" else verb == "taste" or theme not in EATABLE_NOT


def _adjective_of_object(fillers: Fillers) -> bool:
    theme, adjective = fillers["theme"], fillers["adj"]
    if tagged(theme, "nature"):
        return adjective in ("beautiful", "big", "small")
    if adjective == "broken":
        return tagged(theme, "breakable")
    return not (adjective in ("expensive", "cheap") and theme in ("letter", "stone", "gift"))


def _animal_in_place(fillers: Fillers) -> bool:
    theme = fillers["theme"]
    return not (tagged(theme, "wild") and theme not in SMALL_WILD and tagged(fillers["place"], "indoor"))


def _comparison(fillers: Fillers) -> bool:
    adjective, theme, other = fillers["adj"], fillers["theme"], fillers["theme2"]
    order = FROM_SLOW_TO_FAST if adjective in ("fast", "slow") else FROM_SMALL_TO_BIG
    if theme not in order or other not in order:
        return False
    return (order.index(theme) > order.index(other)) != (adjective in ("small", "slow"))


def _driving(fillers: Fillers) -> bool:
    vehicle, place = fillers["theme"], fillers["place"]
    if vehicle == "boat":
        return place in SHORE
    return place in ("city", "village", "farm", "airport") if vehicle == "train" else place not in ("sea", "island")


def _journey(fillers: Fillers) -> bool:
    vehicle, ends = fillers["vehicle"], {fillers["from"], fillers["place"]}
    if vehicle == "boat":
        return bool(ends & {"sea", "beach", "island"}) and not ends & {"mountain", "airport", "farm"}
    if vehicle == "airplane":
        return ends <= {"city", "island", "village", "airport"}
    return not ends & {"island", "sea"} and (vehicle != "train" or not ends & {"mountain", "farm", "beach"})


def _person_act(fillers: Fillers) -> bool:
    verb, place = fillers["v"], fillers["place"]
    if verb in ("fall", "cry") and tagged(fillers["time"], "future"):
        return False
    if verb == "swim":
        return place in WATER
    return verb != "travel" or tagged(place, "far") or place in ("forest", "lake")


def _animal_act(fillers: Fillers) -> bool:
    theme, verb = fillers["theme"], fillers["v"]
    if theme == "fish":
        return fillers["place"] in WATER and verb in ("sleep", "play", "rest", "jump", "hide_oneself")
    if theme in ("snake", "turtle", "crocodile") and verb in ("run", "walk_v", "jump"):
        return theme == "turtle" and verb == "walk_v"
    return verb != "bark_or_cry" or theme not in ("snake", "turtle", "rabbit", "camel", "deer")


def _washing(fillers: Fillers) -> bool:
    return fillers["v"] != "wash" or tagged(fillers["theme"], "washable") or fillers["theme"] in WASHABLE_TOO


def _weather(fillers: Fillers) -> bool:
    return not (fillers["weather"] in ("sunshine", "heat") and fillers["time"] in ("tonight", "last_night"))


def _keeping(fillers: Fillers) -> bool:
    theme = concepts()[fillers["theme"]]
    return theme.kind == "object" or bool(theme.tags & {"pet", "farm"})


def _dressing(fillers: Fillers) -> bool:
    return fillers["theme"] != "dress" or tagged(fillers["agent"], "f")


MOMENTARY = _words("act_food act_drink act_open act_readable sit_on stand_near animal_act play_with then_seq")
RULES: dict[str, Callable[[Fillers], bool]] = {
    "act_food": _food,
    "then_seq": _food,
    "q_what": _food,
    "story_eat_end": _food,
    "act_person": lambda fillers: fillers["v"] not in ("know", "love_v"),
    "act_break": _washing,
    "adj_object": _adjective_of_object,
    "adj_place": lambda fillers: not (fillers["adj"] in ("new", "old_thing") and fillers["theme"] in WILD_NATURE),
    "animal_act": _animal_act,
    "can_inf": lambda fillers: fillers["v"] not in ("fall", "arrive", "wait", "rest", "cry", "smile", "laugh"),
    "compare": _comparison,
    "drive": _driving,
    "exist": _animal_in_place,
    "have_count": _keeping,
    "intrans": _person_act,
    "loc_in": _animal_in_place,
    "loc_near": lambda fillers: not (tagged(fillers["theme"], "room") or tagged(fillers["place"], "room")),
    "loc_on": lambda fillers: fillers["ground"] in SURFACES,
    "loc_under": lambda fillers: fillers["ground"] in SURFACES - {"cupboard"},
    "poss_adj": _keeping,
    "q_count": _keeping,
    "q_where": _animal_in_place,
    "say_loc": _animal_in_place,
    "travel": _journey,
    "want_inf": lambda fillers: fillers["v"] not in ("fall", "cry", "arrive", "wait", "shout"),
    "wear": _dressing,
    "weather": _weather,
}
