"""Text files read strictly: UTF-8 or a clear refusal, byte-order mark removed, nothing else changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from babelscope.corpora.packed import unpacked
from babelscope.corpora.spec import fitting_reader
from babelscope.errors import CorpusError

__all__ = ["decode", "files_in", "first_line", "listed", "read_bytes", "read_lines", "shown", "split_lines"]


def read_bytes(path: Path) -> bytes:
    """The content of a file, unpacked where it is packed; CorpusError when it cannot be read or is empty."""
    try:
        if path.is_dir():
            raise CorpusError(f"{path} is a folder where a file is expected")
        content = path.read_bytes()
    except OSError as error:
        raise CorpusError(f"cannot read {path}: {error.strerror or error}") from error
    content = unpacked(content, path)
    if not content.strip():
        raise CorpusError(f"{path} is empty")
    return content


def decode(content: bytes, where: str | Path) -> str:
    """UTF-8 text without its byte-order mark; CorpusError on binary content or broken UTF-8, with the place."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise CorpusError(f"{where} is UTF-16; save it as UTF-8")
    if b"\0" in content:
        raise CorpusError(f"{where} is a binary file, not text (NUL at byte {content.index(0)})")
    try:
        return content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise CorpusError(
            f"{where} is not valid UTF-8: byte {error.start} (0x{content[error.start]:02x}), line {line}; "
            "save it as UTF-8"
        ) from error


def decode_lines(content: bytes, where: str | Path) -> str:
    """The same of text that is read by lines, which end in \\n; CorpusError where carriage returns alone end them."""
    text = decode(content, where)
    if "\r" in text and "\n" not in text:
        raise CorpusError(f"{where}: its lines end in carriage returns alone; save it with Unix or Windows line ends")
    return text


def split_lines(text: str) -> list[str]:
    """Lines ended by \\n or \\r\\n and by nothing else: str.splitlines would cut at U+2028 and eight others too."""
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    return [line.removesuffix("\r") for line in lines]


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 file, whole, with no white space trimmed."""
    return split_lines(decode_lines(read_bytes(path), path))


def shown(value: object) -> str:
    """A piece of somebody's data as it may stand in a one-line message: short, quoted, without control characters."""
    text = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


def listed(names: Iterable[object]) -> str:
    """Names for a message, the first twenty of them."""
    every = [name if isinstance(name, str) and name.isprintable() and len(name) < 60 else shown(name) for name in names]
    return ", ".join(every[:20]) + (f" and {len(every) - 20} more" if len(every) > 20 else "") or "none"


def first_line(error: Exception) -> str:
    """The first line of what another library said, or the name of its error."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def files_in(folder: Path, wanted: Callable[[Path], bool], what: str) -> list[Path]:
    """The files of a folder that a reader wants, by name; CorpusError when there are none.

    `what` describes them: "no {what} in FOLDER".
    """
    if not folder.is_dir():
        raise CorpusError(f"{folder} is a file where a folder is expected")
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise CorpusError(f"cannot list {folder}: {error.strerror or error}") from error
    found = [path for path in entries if not path.name.startswith(".") and wanted(path) and path.is_file()]
    if found:
        return found
    below = [path.name for path in entries if path.is_dir() and _holds(path, wanted)]
    hint = f"; there are some in {', '.join(below)}" if below else _other_reader(folder)
    raise CorpusError(f"no {what} in {folder}{hint}")


def _other_reader(folder: Path) -> str:
    fits = fitting_reader(str(folder))
    return f"; its files look like {fits}" if fits.endswith(str(folder)) else "; check the path"


def _holds(folder: Path, wanted: Callable[[Path], bool]) -> bool:
    try:
        return any(wanted(child) for child in folder.iterdir())
    except OSError:
        return False
