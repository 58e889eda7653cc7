"""Settings become the options of a verb: name, type, default and help are read off the fields.

A verb is a function whose parameters are words of its own and settings; `verb` gives it the options of those settings,
in a group for each class that declares fields. `Annotated[Mapping[str, Any], SomeSettings]` asks for what was given
alone, to be laid over something else (a preset). Lists are written by commas, pairs with a colon, mappings `en=a,zh=b`.
"""

from __future__ import annotations

import dataclasses
import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Annotated, Literal, Union, get_args, get_origin, get_type_hints

from cyclopts import App, Group, Parameter, Token

from babelscope.repeat import asked_for
from babelscope.settings import Option, Settings, options_of, refuse_wrong_value

CONFIG = "config"
_NOT_AGAIN = {"out", "overwrite", "fresh", "plan", "engine", "workers", "address", "cpus", "gpus"}
"""options that say where and how a run is made, not which"""


def verb_app(name: str, help: str = "") -> App:
    """An empty verb, or a family of verbs."""
    return App(name=name, help=help or None, help_format="plaintext", version_flags=[])


def verb(function: Callable[..., object]) -> Callable[..., object]:
    """`function` as cyclopts reads it: each parameter that is a Settings class is replaced by that class's fields."""
    hints = get_type_hints(function, include_extras=True)
    kinds: dict[str, tuple[type[Settings], bool]] = {}
    words: list[inspect.Parameter] = []
    options: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(function).parameters.items():
        hint = hints[name]
        kind, raw = _settings_of(hint)
        if kind is not None:
            kinds[name] = (kind, raw)
            options += [_of_field(option) for option in options_of(kind)]
        elif parameter.kind is parameter.KEYWORD_ONLY:
            options.append(parameter.replace(annotation=_annotated(hint, parameter.default)))
        else:
            words.append(parameter.replace(annotation=hint))
    plain = {word.name for word in words}
    of_settings = {option.name for kind, _ in kinds.values() for option in options_of(kind)}
    if kinds:
        asked = Parameter(help="YAML file of options; those given here count more.", group=_group("The run"))
        options.append(_keyword(CONFIG, Annotated[Path | None, asked], None))

    @wraps(function)
    def called(*given: object, **named: object) -> object:
        named.pop(CONFIG, None)
        again = _again(signature, given, named)
        for name, value in signature.bind_partial(*given, **named).arguments.items():
            if name not in of_settings:
                refuse_wrong_value(name, hints[name], value, name.upper().replace("_", "-") if name in plain else None)
        made: dict[str, Settings | Mapping[str, object]] = {}
        for name, (kind, raw) in kinds.items():
            own = {field.name for field in dataclasses.fields(kind)} & set(named)
            values = {key: named.pop(key) for key in own}
            made[name] = values if raw else kind(**values)
        with asked_for(function.__name__, again):
            return function(*given, **named, **made)

    del called.__wrapped__
    signature = inspect.Signature([*words, *options])
    called.__signature__ = signature  # pyright: ignore[reportAttributeAccessIssue]
    called.__annotations__ = {name: one.annotation for name, one in signature.parameters.items()}
    return called


def _again(signature: inspect.Signature, given: Sequence[object], named: Mapping[str, object]) -> dict[str, str | bool]:
    """What was asked for and is not the default, as a file of options says it; the place of the run is left out."""
    asked = signature.bind_partial(*given, **named).arguments
    return {
        name: value if isinstance(value, bool) else _as_written(value)
        for name, value in asked.items()
        if name not in _NOT_AGAIN and value is not None and value != signature.parameters[name].default
    }


def _settings_of(hint: object) -> tuple[type[Settings] | None, bool]:
    """The settings that a parameter stands for, and whether it wants only what was given, as a mapping."""
    raw = get_origin(hint) is Annotated
    for kind in get_args(hint)[1:] if raw else [hint]:
        if isinstance(kind, type) and issubclass(kind, Settings):
            return kind, raw
    return None, False


def _of_field(option: Option) -> inspect.Parameter:
    empty = inspect.Parameter.empty
    default = empty if option.default is dataclasses.MISSING else option.default
    asked = Parameter(help=_sentence(option.help), group=_group(option.group))
    if option.help.endswith("]"):  # the help says in words what happens without it
        asked = Parameter.combine(asked, Parameter(show_default=False))
    return _keyword(option.name, _annotated(Annotated[option.hint, asked], default), default)


def _keyword(name: str, hint: object, default: object) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=hint, default=default)


def _annotated(hint: object, default: object) -> object:
    """The type with the way in which it is written on a command line, in front of what was said of it."""
    shape, converter = _shape(hint)
    worth_showing = default is not inspect.Parameter.empty and (default or default == 0) and default is not False
    rules = Parameter(
        negative="" if shape is not bool or default is False else None,
        show_default=_as_written if worth_showing else False,
        allow_repeating=True,  # the last one counts, so that scripts can add to a line
    )
    if converter is not None:
        rules = Parameter.combine(rules, Parameter(converter=converter, n_tokens=1, accepts_keys=False))
    inner, said = (get_args(hint)[0], get_args(hint)[1:]) if get_origin(hint) is Annotated else (hint, ())
    return Annotated[inner, rules, *said]  # pyright: ignore[reportInvalidTypeForm]


_GROUPS: dict[str, Group] = {}


def _group(title: str) -> Group:
    """One group a title, in the order in which they are met."""
    return _GROUPS.setdefault(title, Group(title, sort_key=len(_GROUPS) + 1))


def _sentence(text: str) -> str:
    """Help that is written as a phrase, as a sentence; what is to be typed stays as it is."""
    first = text.partition(" ")[0]
    begun = text if ":" in first.rstrip(":,") else text[:1].upper() + text[1:]
    return begun + ("" if text.endswith((".", "]", "…")) or not text else ".")


def _as_written(value: object) -> str:
    """A default as one would type it."""
    if isinstance(value, Mapping):
        return ",".join(f"{key}={item}" for key, item in value.items())
    if isinstance(value, tuple | list):
        return ",".join(map(_as_written, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _shape(hint: object) -> tuple[object, Callable[..., object] | None]:
    """The type without Annotated and None, and what reads it from one word where that is not the library's business."""
    while get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    if get_origin(hint) in (Union, types.UnionType):
        known = [part for part in get_args(hint) if part is not type(None)]
        return _shape(known[0]) if len(known) == 1 else (hint, None)
    origin, parts = get_origin(hint), get_args(hint)
    if origin is tuple and len(parts) == 2 and parts[1] is Ellipsis:
        return tuple, lambda _, tokens: tuple(_one(parts[0], text) for text in _split(tokens, ","))
    if origin is tuple:
        return tuple, lambda _, tokens: _pair(parts, _split(tokens, ":"))
    if inspect.isclass(origin) and issubclass(origin, Mapping):
        return Mapping, lambda _, tokens: _mapping(_split(tokens, ","))
    if hint is int or hint is float:  # the library would round 1.5 to a whole number
        kind = hint
        return kind, lambda _, tokens: _number(kind, tokens[-1].value)
    if hint is Path:  # an empty one would be the folder that one is in
        return hint, lambda _, tokens: _path(tokens[-1].value)
    return hint, None


def _split(tokens: Sequence[Token], mark: str) -> list[str]:
    found = [part.strip() for token in tokens for part in token.value.split(mark) if part.strip()]
    if not found:
        raise ValueError("nothing stands there; give it a value or leave it out")
    return found


def _one(kind: object, text: str) -> object:
    if get_origin(kind) is Literal:
        if text not in get_args(kind):
            raise ValueError(f"{text} is none of {', '.join(map(str, get_args(kind)))}")
        return text
    if kind is int or kind is float:
        return _number(kind, text, ": write them by commas")
    assert isinstance(kind, type)
    return kind(text)


def _path(text: str) -> Path:
    if not text.strip():
        raise ValueError("nothing stands there; name a file or a folder")
    return Path(text)


def _number(kind: type[int] | type[float], text: str, hint: str = "") -> int | float:
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"{text[:60]} is not a {'whole ' if kind is int else ''}number{hint}") from None


def _pair(kinds: Sequence[object], parts: Sequence[str]) -> tuple[object, ...]:
    if len(parts) != len(kinds):
        raise ValueError(f"{len(kinds)} parts are needed with ':' between them, such as en:zh")
    return tuple(_one(kind, text) for kind, text in zip(kinds, parts))


def _mapping(parts: Sequence[str]) -> dict[str, str]:
    pairs = [part.partition("=") for part in parts]
    if any(not equals or not key or not value for key, equals, value in pairs):
        raise ValueError("write name=value by commas, such as en=irregular,zh=copy")
    return {key.strip(): value.strip() for key, _, value in pairs}
