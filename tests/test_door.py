"""The door of the command line: whatever a verb raises is one line and the right exit code."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from babelscope.cli.door import FAULT, guarded
from babelscope.cli.stopping import Stop
from babelscope.errors import InputError
from babelscope.wording import number, visible

from .command import command as in_process
from .synthetic_runs import write_regions

LONG = "x" * 300
SOURCE = Path(__file__).resolve().parents[1] / "src"


def raising(error: BaseException):
    def call() -> None:
        raise error

    return call


def said(capsys, error: BaseException) -> tuple[int, str]:
    code = guarded(raising(error), Stop())
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1, captured.err
    return code, captured.err.strip()


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (InputError("no such thing"), 2, "error: no such thing"),
        (InputError("two\nlines \x1b]0;x\x07 and \u202e"), 2, "[U+001B]]0;x[U+0007] and [U+202E]"),
        (MemoryError(), 2, "not enough memory"),
        (RuntimeError("can't start new thread"), 2, "not enough memory"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory"), 2, "not enough"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "x" * 300), 2, "File name too long"),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "the output: No space left on device"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), 2, "/x: Permission denied"),
        (UnicodeEncodeError("ascii", "\udcff", 0, 1, "no"), 2, "PYTHONUTF8=1"),
        (RecursionError("maximum recursion depth exceeded"), FAULT, "please report it with "),
        (KeyError("secret"), FAULT, "KeyError: 'secret'; this is a fault of babelscope: please report it with "),
        (FileNotFoundError(errno.ENOENT, "No such file", "data/de/lexicon.tsv"), FAULT, "please report it"),
        (AssertionError(), FAULT, "AssertionError"),
    ],
)  # fmt: skip
def test_attack_5_every_error_is_one_line(capsys, tmp_path, monkeypatch, error, code, words):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    got, line = said(capsys, error)
    assert got == code
    assert words in line
    if code == FAULT:
        (kept,) = tmp_path.glob("babelscope-error-*.txt")
        assert str(kept) in line
        assert "Traceback" in kept.read_text()
        assert "raise error" in kept.read_text()
    else:
        assert list(tmp_path.iterdir()) == []


def test_interruptions_and_exits_keep_their_codes(capsys):
    assert guarded(raising(KeyboardInterrupt()), Stop()) == 130
    assert capsys.readouterr().err == "interrupted; nothing half-written was left\n"
    stop = KeyboardInterrupt()
    stop.add_note("finished steps are kept")
    assert guarded(raising(stop), Stop()) == 130
    assert capsys.readouterr().err == "interrupted; finished steps are kept\n"
    for code in (0, 1, 2):
        assert guarded(raising(SystemExit(code)), Stop()) == code
    assert guarded(raising(SystemExit(None)), Stop()) == 0
    assert guarded(lambda: None, Stop()) == 0


def test_no_place_for_the_traceback_is_no_second_error(capsys, monkeypatch):
    monkeypatch.setattr("tempfile.mkstemp", raising(OSError(errno.ENOSPC, "No space left")))
    code, line = said(capsys, KeyError("x"))
    assert code == FAULT
    assert "set TMPDIR" in line


# -- the real command line -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return write_regions(tmp_path_factory.mktemp("runs") / "run").path


def command(*arguments: object, shell: str = "", **environment: str) -> subprocess.CompletedProcess[bytes]:
    words = [sys.executable, "-c", "from babelscope.cli import main; main()", *map(str, arguments)]
    line = " ".join(f"'{word}'" for word in words)
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{line} {shell}"],
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(SOURCE), **environment},
        timeout=120,
    )


def test_attack_5_a_full_output_is_one_line(run):
    done = command("show", run, shell="> /dev/full")
    assert done.returncode == 2, done
    assert done.stderr.decode().strip() == "error: cannot read or write the output: No space left on device"


def test_attack_5_a_reader_that_has_gone_is_no_error(run):
    done = command("show", run, shell="| head -c 1 > /dev/null")
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "utf-8"])
def test_attack_5_any_encoding_of_the_output(run, encoding):
    done = command("show", run, "--table", "sentences", PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize(
    "given",
    [["show", LONG], ["check", LONG], ["report", LONG], ["sweep", LONG, "--out", "x"], ["regions", "show", LONG]],
)
def test_attack_5_a_path_that_is_too_long_is_one_line(tmp_path, monkeypatch, given):
    monkeypatch.chdir(tmp_path)
    done = in_process(*given)
    lines = done.stderr.strip().splitlines()
    assert done.exit_code == 2, done
    assert lines[-1].startswith("error: "), lines
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("verb", ["report", "regions export", "compare", "corpus audit", "figure"])
def test_attack_5_an_output_that_is_too_long_is_one_line(tmp_path, run, verb):
    endings = {"report": ".html", "regions export": ".json", "figure": ".png"}
    out = tmp_path / ("x" * 300 + endings.get(verb, ""))
    (tmp_path / "en.txt").write_text("a\n")
    (tmp_path / "fr.txt").write_text("a\n")
    given = {
        "compare": [run, run], "corpus audit": [f"lines:{tmp_path}"], "figure": [run, "region_sizes"],
    }.get(verb, [run])  # fmt: skip
    done = in_process(*verb.split(), *given, "--out", out)
    lines = done.stderr.strip().splitlines()
    assert done.exit_code == 2, done
    assert lines[-1].startswith("error: "), lines
    assert "File name too long" in lines[-1]


# -- words -----------------------------------------------------------------------------------------------------------


def test_numbers_have_one_spelling():
    assert [number(value) for value in (1234567, 0.5, 1e-9, 2000.0, float("nan"), None, True, "x")] == [
        "1\u202f234\u202f567", "0.5", "1e-09", "2\u202f000", "–", "–", "True", "x",
    ]  # fmt: skip


def test_attack_7_what_steers_a_terminal_is_written_out():
    for letter in "\x00\x07\x08\x1b\x7f\x9b\n\r\u200b\u200e\u202a\u202e\u2066\u2069\ufeff\u2028\U000e0041\ud800":
        assert visible(letter) == f"[U+{ord(letter):04X}]"
    spelled = "می\u200cخواهم क्\u200dष 日本語 e\u0301 👩\u200d👩\u200d👧 co\u00adop"
    assert visible(spelled) == spelled
