"""The public surface: what is exported, what importing costs, what the command line says."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

import babelscope
from babelscope.cli import VERBS, main
from tests.command import command


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


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["check", "nowhere/at/all/model"], "not a folder"),
        (["regions", "x", "--corpus", "nothing", "--out", "OUT"], "corpus"),
        (["show", "OUT"], "OUT"),
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
