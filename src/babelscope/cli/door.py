"""The one door of the command line: whatever leaves a verb becomes one line and an exit code.

0 done · 1 a check failed · 2 the input, the machine or the place cannot be used · 70 a fault of ours, with the
traceback in a file · 128 + signal stopped.
"""

from __future__ import annotations

import builtins
import contextlib
import errno
import io
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Generator
from typing import TextIO, cast

from babelscope.cli.stopping import Stop
from babelscope.errors import BabelscopeError
from babelscope.wording import first_line, visible

FAULT = 70
"""EX_SOFTWARE of sysexits.h"""
_OF_THE_MACHINE = {
    getattr(errno, name)
    for name in (
        "ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EACCES", "EPERM", "ENAMETOOLONG", "ELOOP", "ENOTDIR", "EISDIR", "EMFILE",
        "ENFILE", "ENOMEM", "EIO", "ESTALE", "ENODEV", "ENXIO", "ENOTCONN", "ECONNREFUSED", "EADDRINUSE",
        "EADDRNOTAVAIL", "ETXTBSY", "EBUSY", "ENOLCK", "EILSEQ", "EINVAL",
    )
    if hasattr(errno, name)
}  # fmt: skip
"""what the file system or the network of a machine says, whichever program asks"""
_MEMORY_WORDS = (
    "can't start new thread", "not enough memory", "can't allocate memory", "cannot allocate memory", "out of memory",
    "bad_alloc", "failed to map segment", "resource temporarily unavailable", "unable to allocate",
)  # fmt: skip
_MEMORY = "not enough memory: use fewer --samples or languages, a smaller model, --dtype bfloat16, or another machine"


def guarded(call: Callable[[], object], stop: Stop) -> int:
    """Does `call` and gives the exit code; says in one line on standard error what went wrong."""
    with _any_output(), _clean_print():
        try:
            call()
            _flush()
        except SystemExit as end:
            return _exit_code(end, stop)
        except KeyboardInterrupt as end:
            kept = "; ".join(getattr(end, "__notes__", ()))
            _say(f"interrupted; {kept or 'nothing half-written was left'}")
            return stop.code
        except BaseException as error:
            return _told(error)
        return 0


def _exit_code(end: SystemExit, stop: Stop) -> int:
    """Of an exit that a library chose: typer's for an interruption, and rich's and click's for a closed pipe."""
    if end.code == 130:
        _say("interrupted; nothing half-written was left")
        return stop.code
    if _closed_pipe(end):
        _discard(sys.stdout)
        return 0
    try:
        _flush()
    except OSError as error:
        return _told(error)
    if isinstance(end.code, str):
        _say(end.code)
        return 1
    return int(end.code or 0)


def _told(error: BaseException) -> int:
    if isinstance(error, BabelscopeError):
        # a reader may have wrapped the want of memory in an error of its own
        if _is_memory(error) or (error.__cause__ is not None and _starved()):
            return _told_of_memory()
        _say(f"error: {error}")
        return 2
    if isinstance(error, OSError) and _closed_pipe(error):
        # the reader of a pipe has gone (… | head): not our error
        _discard(sys.stdout)
        return 0
    if _is_usage(error):
        text = _missing(error) or _left_over(error) or " ".join(str(error).split())
        _say(f"error: {text[:1].lower()}{text[1:].rstrip('.')}" if text else f"error: {type(error).__name__}")
        return 2
    if _is_memory(error) or (not isinstance(error, OSError) and _starved()):
        return _told_of_memory()
    if isinstance(error, OSError) and error.errno in _OF_THE_MACHINE:
        where = f"{error.filename}: " if error.filename is not None else "the output: "
        _discard(sys.stdout)
        _say(f"error: cannot read or write {where}{error.strerror}")
        return 2
    if isinstance(error, UnicodeEncodeError) and len(error.object) < 5000:
        _say(f"error: {error.object[:200]!r} cannot be written or named here ({error.encoding}); set PYTHONUTF8=1")
        return 2
    what = f"{type(error).__name__}: {first_line(error)}".removesuffix(f": {type(error).__name__}")
    _say(f"error: {what}; this is a fault of babelscope: please report it{_kept(error)}")
    return FAULT


def _told_of_memory() -> int:
    # at the end of Python libraries tidy up, and would print a traceback each for the same want
    sys.unraisablehook = lambda _: None
    _say(f"error: {_MEMORY}")
    return 2


def _is_usage(error: BaseException) -> bool:
    """What the command line's own library says of arguments; it is not imported where nothing went wrong."""
    return any(f"{kind.__module__}.{kind.__name__}".startswith("cyclopts.") for kind in type(error).__mro__)


def _missing(error: BaseException) -> str:
    """What to type where something that a verb needs was left out; empty for any other misuse."""
    argument = getattr(error, "argument", None)
    if type(error).__name__ != "MissingArgumentError" or argument is None or argument.tokens or _keyword(error):
        return ""
    name = argument.name if argument.field_info.is_keyword_only else argument.name.lstrip("-").upper()
    words = " ".join(("babelscope", *(getattr(error, "command_chain", None) or ())))
    return f"{words}: {name} is missing; see {words} --help"


def _left_over(error: BaseException) -> str:
    """The arguments that nothing takes, by name; empty for any other misuse."""
    left = getattr(error, "unused_tokens", None)
    if type(error).__name__ != "UnusedCliTokensError" or not left:
        return ""
    words = " ".join(("babelscope", *(getattr(error, "command_chain", None) or ())))
    return f"{words}: nothing takes {' '.join(map(repr, left))}; see {words} --help"


def _keyword(error: BaseException) -> str | None:
    """The option that was given without its value."""
    return getattr(error, "keyword", None)


def _is_memory(error: BaseException) -> bool:
    seen: BaseException | None = error
    for _ in range(5):
        if seen is None:
            return False
        if isinstance(seen, MemoryError) or type(seen).__name__ == "OutOfMemoryError":
            return True
        if isinstance(seen, RuntimeError | OSError | ImportError) and any(
            word in str(seen).lower() for word in _MEMORY_WORDS
        ):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def _starved() -> bool:
    """Whether this process has used up the address space it may have: then libraries in C fail with any error."""
    try:
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        if limit == resource.RLIM_INFINITY:
            return False
        with open("/proc/self/statm", encoding="ascii") as stream:
            return int(stream.read().split()[0]) * resource.getpagesize() > 0.85 * limit
    except Exception:
        return False


def _closed_pipe(error: BaseException) -> bool:
    seen: BaseException | None = error
    for _ in range(5):
        if isinstance(seen, OSError) and (seen.errno == errno.EPIPE or isinstance(seen, BrokenPipeError)):
            return True
        seen = None if seen is None else seen.__cause__ or seen.__context__
    return False


def _kept(error: BaseException) -> str:
    """Where the traceback was put, as the end of a sentence."""
    try:
        handle, name = tempfile.mkstemp(prefix="babelscope-error-", suffix=".txt")
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as stream:
            stream.write(f"babelscope {' '.join(sys.argv[1:])}\n")
            stream.writelines(traceback.format_exception(error))
    except Exception:
        return " (no place for the traceback was found: set TMPDIR)"
    return f" with {name}"


@contextlib.contextmanager
def _any_output() -> Generator[None]:
    """An encoding without the letters of most languages writes them as escapes instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and not (stream.encoding or "").lower().startswith("utf"):
            with contextlib.suppress(OSError, ValueError):
                stream.reconfigure(errors="backslashreplace")
    yield


@contextlib.contextmanager
def _clean_print() -> Generator[None]:
    """What verbs print holds texts of corpora, models and files: none of their characters may steer the screen."""
    real = builtins.print

    def clean(
        *values: object, sep: str | None = " ", end: str | None = "\n", file: TextIO | None = None, flush: bool = False
    ) -> None:
        if file in (None, sys.stdout, sys.stderr):
            values = tuple("\n".join("\t".join(map(visible, line.split("\t"))) for line in str(value).split("\n"))
                           for value in values)  # fmt: skip
        real(*values, sep=sep, end=end, file=file, flush=flush)

    builtins.print = clean
    try:
        yield
    finally:
        builtins.print = real


def _say(line: str) -> None:
    with contextlib.suppress(OSError, ValueError, AttributeError):
        print(visible(line), file=sys.stderr, flush=True)


def _flush() -> None:
    """What was printed must arrive before the exit code says that it did."""
    stream = cast("TextIO | None", sys.stdout)
    if stream is not None and not stream.closed:
        stream.flush()


def _discard(stream: TextIO | None) -> None:
    """Keeps Python from complaining about a stream when it flushes that at the end."""
    with contextlib.suppress(OSError, ValueError, AttributeError, io.UnsupportedOperation):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno() if stream else 1)
