"""The public surface: what is exported, what importing costs, what the command line says."""

from __future__ import annotations

import importlib
import itertools
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import babelscope
from babelscope.cli import VERBS, main
from tests.command import command

SOURCE = Path(babelscope.__file__).parent


def test_all_is_exactly_the_public_surface():
    homes = [name for names in babelscope._HOMES.values() for name in names]
    assert sorted(babelscope.__all__) == sorted([*homes, "__version__"])
    for name in babelscope.__all__:
        assert getattr(babelscope, name) is not None
    with pytest.raises(AttributeError, match="nothing"):
        _ = babelscope.nothing


def test_importing_is_pure_and_loads_no_torch():
    code = "import sys, babelscope; print(sorted({'torch', 'transformers', 'numpy', 'pandas'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert done.stderr == ""


def test_help_loads_no_torch():
    code = (
        "import sys\nfrom babelscope.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\nassert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_exists_and_helps(verb):
    result = command(verb, "--help")
    assert result.exit_code == 0, result.output
    assert f"babelscope {verb}" in result.stdout


EXAMPLES = [
    (file.name, one.replace("\\\\\n", "\n"))
    for file in sorted((SOURCE / "cli").glob("*.py"))
    for one in re.findall(r"^ +(babelscope (?:.*\\\\\n)*.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
]


def test_no_example_loses_its_end():
    """A line that begins with an option goes on from the one above, which says so."""
    for file in SOURCE.rglob("*.py"):
        lines = file.read_text(encoding="utf-8").splitlines()
        pairs = itertools.pairwise(lines)
        lost = [line for above, line in pairs if re.match(r" +--[a-z]", line) and above[-1:] != "\\"]
        assert not lost, f"{file.name}: {lost}"


@pytest.mark.parametrize(("file", "example"), EXAMPLES)
def test_an_example_of_the_help_can_be_copied_from_a_narrow_terminal(file, example):
    assert all(len(line) <= 78 for line in example.splitlines()), "the terminal would break this line"
    words = shlex.split(example)[1:]
    verbs = words[:2] if len(words) > 1 and command(words[0], words[1], "--help").exit_code == 0 else words[:1]
    told = command(*verbs, "--help").stdout
    assert [word for word in words if word.startswith("--") and word not in told] == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["check", "nowhere/at/all/model"], "not a folder"),
        (["regions", "x", "--corpus", "nothing", "--out", "OUT"], "corpus"),
        (["show", "OUT"], "OUT"),
        # said before a model is looked for
        (["circuits", "no/model", "--task", "nosuch", "--out", "OUT"], "no task 'nosuch'"),
        (["circuits", "no/model", "--languages", "de", "--out", "OUT"], "ioi has no language 'de'"),
        (["circuits", "no/model", "--corruption", "x", "--out", "OUT"], "ioi has no corruption 'x'"),
        (["corpus", "list", "x"], "babelscope corpus list: nothing takes 'x'; see babelscope corpus list --help"),
        (["show"], "babelscope show: RUN-DIR is missing; see babelscope show --help"),
        (["regions", "--corpus", "lines:x", "--out", "OUT"], "babelscope regions: MODEL is missing"),
        (["regions", "x", "--out", "OUT"], "babelscope regions: --corpus is missing"),
        (["regions", "x", "--corpus"], "--corpus requires an argument"),
    ],
)
def test_errors_are_one_line_and_exit_code_two(arguments, says, capsys, tmp_path):
    with pytest.raises(SystemExit) as stop:
        main([str(tmp_path / "OUT") if word == "OUT" else word for word in arguments])
    said = capsys.readouterr().err.strip()
    assert stop.value.code == 2
    assert said.startswith("error: ")
    assert says in said


def test_every_module_has_a_docstring():
    import pkgutil

    for module in pkgutil.walk_packages(babelscope.__path__, "babelscope."):
        if ".evaluation" not in module.name:
            assert importlib.import_module(module.name).__doc__, module.name
