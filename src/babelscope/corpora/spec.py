"""A corpus in one string: `reader:place?option=value&option=value`."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

from babelscope.errors import CorpusError, InputError
from babelscope.languages import language

__all__ = ["Spec", "parse_spec"]


@dataclass(frozen=True)
class Spec:
    """The parts of a corpus spec, with the accessors that readers share."""

    text: str
    """as the user wrote it"""
    reader: str
    place: str
    """path or hub name, before the question mark"""
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """The place as an existing file or folder; CorpusError when it is not there."""
        if not self.place:
            raise CorpusError(f"{self.text}: no path is given: write {self.reader}:PATH")
        if "\0" in self.place:
            raise CorpusError(f"{self.text!r}: a path cannot hold a NUL character")
        path = Path(os.path.expanduser(self.place))  # Path.expanduser fails for ~nobody
        try:
            exists = path.exists()
        except OSError as error:
            raise CorpusError(f"{self.text}: cannot look at {path}: {error.strerror}") from error
        if not exists:
            raise CorpusError(f"{self.text}: {path} does not exist; check the path")
        return path

    @property
    def join(self) -> str:
        """The character that adds one more option to this spec, for hints in messages."""
        return "&" if self.options else "?"

    def integer(self, name: str) -> int | None:
        """An option that counts something: a positive whole number, or None when it was not given."""
        value = self.options.get(name)
        if value is None:
            return None
        if not (value.isascii() and value.isdigit() and 0 < len(value) < 10 and int(value) > 0):
            raise CorpusError(f"{self.text}: {name}={value} is not a positive whole number")
        return int(value)

    def choice(self, name: str, allowed: Iterable[str], default: str) -> str:
        """An option with a fixed list of values."""
        value = self.options.get(name, default)
        if value not in (known := list(allowed)):
            raise CorpusError(f"{self.text}: {name}={value} is not one of {', '.join(known)}")
        return value

    def items(self, name: str) -> tuple[str, ...]:
        """An option that holds a comma-separated list."""
        return tuple(item.strip() for item in self.options.get(name, "").split(",") if item.strip())

    def by_language(self, reserved: Iterable[str]) -> dict[str, str]:
        """The options whose name is a language, by code: `en=column` in tables, `en=file` in folders."""
        kept = set(reserved)
        found: dict[str, str] = {}
        for name, value in self.options.items():
            if name in kept:
                continue
            try:
                if not _CODE.fullmatch(name):  # a name of four letters and more is looked up freely: limit is Limilngan
                    raise InputError(name)
                code = language(name).code
            except InputError:
                raise CorpusError(
                    f"{self.text}: unknown option {name!r}; {self.reader} takes {', '.join(sorted(kept))} and languages"
                ) from None
            if code in found:
                raise CorpusError(f"{self.text}: language {code} is given twice, last as {name}={value}")
            found[code] = value
        return found


_CODE = re.compile(r"[A-Za-z]{2,3}([-_][A-Za-z0-9]+)*")
"""codes and tags of languages, as the names of options are"""
_FILES = {
    "ntrex": re.compile(r"newstest\d+-(src|ref)\."),
    "table": re.compile(r".*\.(tsv|tab|csv|jsonl|ndjson|json|parquet)(\.|$)"),
    "bible": re.compile(r".*\.xml(\.|$)"),
    "flores": re.compile(r"[a-z]{3}_[A-Z][a-z]{3}\.|.*\.(dev|devtest)(\.|$)"),
    "lines": re.compile(r"(?!newstest).*\.txt(\.|$)"),
}
"""readers, and the names of files that they read"""


def fitting_reader(place: str) -> str:
    """The spec by which a file or a folder is most likely read, from the names in it; an example where nothing fits.

    >>> fitting_reader("no-such-folder")
    'lines:my-folder'
    """
    place = place.strip()
    try:
        path = Path(os.path.expanduser(place))
        folder = () if path.is_file() else path.iterdir()
        names = sorted(name for entry in folder if not (name := entry.name).startswith("."))[:1000] or [path.name]
    except (OSError, ValueError):
        return "lines:my-folder"
    counts = {reader: sum(bool(form.match(name)) for name in names) for reader, form in _FILES.items()}
    if any(name in ("dev", "devtest") for name in names):
        counts["flores"] += 1
    best = max(counts, key=lambda reader: counts[reader])
    return f"{best}:{place}" if counts[best] else "lines:my-folder"


def with_form(spec: str, form: str | None) -> str:
    """The spec with `normalise=FORM`. Raises CorpusError where it asks for another form already.

    >>> with_form("lines:x?lone=drop", "nfc"), with_form("lines:x?normalise=nfc", "nfc"), with_form("lines:x", None)
    ('lines:x?lone=drop&normalise=nfc', 'lines:x?normalise=nfc', 'lines:x')
    """
    if form is None or ":" not in spec:  # a corpus in memory has no spec
        return spec
    parsed = parse_spec(spec)
    asked = parsed.options.get("normalise", form)
    if asked != form:
        raise CorpusError(f"{spec}: it asks for normalise={asked}, and --normalise for {form}: keep one of them")
    return spec if "normalise" in parsed.options else f"{spec}{parsed.join}normalise={form}"


def _decoded(place: str) -> str:
    """The place with %3F, %26 and their kind as letters, unless a file is really called so: folders with a `?`."""
    plain = unquote(place)
    try:
        return place if plain == place or "\0" in plain or Path(os.path.expanduser(place)).exists() else plain
    except (OSError, ValueError):
        return place


def parse_spec(text: str) -> Spec:
    """Split a spec into reader, place and options; says nothing yet about whether the reader exists.

    Raises CorpusError when there is no `reader:` in front, or an option is no `name=value` or comes twice.

    >>> spec = parse_spec("table:pairs.tsv?id=key&en=English")
    >>> spec.reader, spec.place, dict(spec.options)
    ('table', 'pairs.tsv', {'id': 'key', 'en': 'English'})
    """
    if any(unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"} for character in text):
        raise CorpusError(f"{text!a} holds characters that are no text; write reader:PATH")
    reader, colon, rest = text.strip().partition(":")
    if not colon:
        raise CorpusError(f"{text!r} is not a corpus spec: write reader:PATH, such as {fitting_reader(text)}")
    place, _, query = rest.partition("?")
    place = _decoded(place.strip())
    options: dict[str, str] = {}
    for part in query.split("&") if query else []:
        name, equals, value = part.partition("=")
        if not equals or not name or not value:
            hint = " (a ? in a file's name is written %3F)" if not equals else ""
            raise CorpusError(f"{text}: option {part!r} is not of the form name=value{hint}")
        name = unquote(name)
        if name in options:
            raise CorpusError(f"{text}: option {name} is given twice")
        options[name] = unquote(value)
    return Spec(text=text.strip(), reader=reader, place=place, options=options)
