"""Files as people keep them: packed by gzip or Zstandard, in shards, or named by a pattern."""

from __future__ import annotations

import glob
import gzip
import io
import zlib
from pathlib import Path

from babelscope.errors import CorpusError, MissingExtra

PACKED = (".gz", ".zst", ".zstd")
_STEP = 4096
_ALWAYS, _TIMES = 64 << 20, 300
"""bytes that any packed file may unpack to, and how many times its size a larger one may (text: 3 to 10 times)"""


def plain_path(path: Path) -> Path:
    """The path without the ending of a packed file, from which names and formats are read.

    >>> plain_path(Path("en.txt.gz")).name
    'en.txt'
    """
    return path.with_suffix("") if path.suffix.lower() in PACKED else path


def unpacked(content: bytes, path: Path) -> bytes:
    """The content of a file that may be packed. Raises CorpusError for damage and for what unpacks to fill memory."""
    suffix = path.suffix.lower()
    if suffix not in PACKED:
        return content
    most = max(_ALWAYS, _TIMES * len(content))
    try:
        text = _gunzipped(content, most) if suffix == ".gz" else _decompressed(content, most)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise CorpusError(f"{path} cannot be unpacked: {error}") from error
    if len(text) > most:
        raise CorpusError(f"{path} unpacks to more than {_TIMES} times its size; unpack it yourself if that is right")
    return text


def _gunzipped(content: bytes, most: int) -> bytes:
    with gzip.GzipFile(fileobj=io.BytesIO(content)) as stream:
        return stream.read(most + 1)


def _decompressed(content: bytes, most: int) -> bytes:
    try:
        import zstandard
    except ImportError as error:
        raise MissingExtra("zstandard", "zstd", "reading .zst files") from error
    parts: list[bytes] = []
    size, at, frame = 0, 0, None
    try:
        while at < len(content) and size <= most:
            frame = zstandard.ZstdDecompressor(max_window_size=1 << 27).decompressobj()
            while not frame.eof and at < len(content) and size <= most:
                given = content[at : at + _STEP]
                parts.append(frame.decompress(given))
                at += len(given) - len(frame.unused_data)
                size += len(parts[-1])
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from error
    if size <= most and (frame is None or not frame.eof):
        raise EOFError("it ends in the middle")  # the library would give what there is
    return b"".join(parts)


def matching(pattern: str) -> list[Path]:
    """The files that a pattern with `*` or `[…]` names, sorted; empty for a path that is none or matches nothing."""
    if not any(letter in pattern for letter in "*["):
        return []
    return sorted(path for found in glob.iglob(pattern, recursive=True) if (path := Path(found)).is_file())
