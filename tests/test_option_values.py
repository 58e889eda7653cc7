"""Every number and text of every option: what cannot be meant is refused in one line, and nothing is rounded."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import os
import pkgutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import babelscope
from babelscope.circuits.edges.circuit import circuit_file
from babelscope.cli import VERBS
from babelscope.errors import BabelscopeError, InputError
from babelscope.settings import MAY_BE_EMPTY, Settings, _kind, options_of

from .command import command

NEEDED = {"corpus": "pocket:heldout", "out": "x"}


def settings() -> list[type[Settings]]:
    """Every class of options that the package declares."""
    for part in ("studies", "cli"):
        for module in pkgutil.iter_modules([str(Path(babelscope.__file__).parent / part)]):
            importlib.import_module(f"babelscope.{part}.{module.name}")

    def below(kind: type[Settings]) -> Iterator[type[Settings]]:
        for one in kind.__subclasses__():
            if one.__module__.startswith("babelscope."):
                yield one
                yield from below(one)

    return sorted(set(below(Settings)), key=lambda kind: kind.__name__)


def options() -> Iterator[tuple[type[Settings], str, object, bool]]:
    for kind in settings():
        for option in options_of(kind):
            if option.name in vars(kind).get("__annotations__", {}):
                yield (
                    kind,
                    option.name,
                    _kind(option.hint)[0],
                    "tuple" in str(option.hint) or "list" in str(option.hint),
                )


WRONG = {
    int: [-1, 1.5, 2.0, True, "3", 10**10, 10**40, float("nan")],
    float: [float("nan"), float("inf"), -float("inf"), True, "0.5"],
    bool: [1, "yes", None],
    str: ["", "  ", "\n"],
}


def test_no_option_takes_what_cannot_be_meant():
    tried = 0
    for kind, name, of, listed in options():
        needed = {one.name: NEEDED.get(one.name, "x") for one in options_of(kind) if one.default is dataclasses.MISSING}
        for value in WRONG.get(of, []) if name not in MAY_BE_EMPTY else []:
            if value is None and "None" in str(kind.__annotations__[name]):
                continue
            with pytest.raises(BabelscopeError):
                kind(**{**needed, name: (value,) if listed else value})
                pytest.fail(f"{kind.__name__}.{name} took {value!r}")
            tried += 1
    assert tried > 500


def typed() -> Iterator[tuple[list[str], str, str]]:
    """Command with all words that it needs, option, and whether it is a whole number, a number, a list or a path."""
    for verb in VERBS:
        app = importlib.import_module(f"babelscope.cli.{verb}").app
        named = [(verb, app), *((f"{verb} {name}", app[name]) for name in app if not name.startswith("-"))]
        for words, one in named:
            if one.default_command is None:
                continue
            parameters = inspect.signature(one.default_command).parameters
            given = [
                f"--{item.name}=m" if item.kind is item.KEYWORD_ONLY else "m"
                for item in parameters.values()
                if item.kind is not item.KEYWORD_ONLY or item.default is item.empty
            ]
            for name, parameter in parameters.items():
                if parameter.kind is parameter.KEYWORD_ONLY and name != "config":
                    hint = str(parameter.annotation).split("Parameter")[0].split("Group")[0]
                    kinds = [kind for kind in ("tuple", "int", "float", "Path") if kind in hint]
                    if kinds:
                        yield [*words.split(), *given], f"--{name.strip('_').replace('_', '-')}", kinds[0]


def test_the_command_line_rounds_nothing_and_takes_no_empty_value(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tried = 0
    for words, option, kind in typed():
        for value in {"int": ["1.5", "1e3", "", "x"], "float": ["", "1,5"], "tuple": ["", " , "], "Path": ["", " "]}[
            kind
        ]:
            said = command(*words, f"{option}={value}")
            assert (said.exit_code, said.stderr.count("\n")) == (2, 1), (words, option, value, said)
            assert option in said.stderr, (words, option, value, said)
            tried += 1
    assert tried > 300
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sweep", "--model", "m", "--cpus", "2", "--out", "s"], "--cpus changes nothing without --engine ray"),
        (["sweep", "--model", "m", "--samples", "1", "--out", "s"], "--samples 1"),
        (["sweep", "--model", "m", "--engine", "ray", "--cpus", "0", "--out", "s"], "--cpus 0"),
        (["latent", "m", "--workers", "2", "--out", "s"], "--workers changes nothing without --engine ray"),
        (["circuits", "m", "--engine", "ray", "--workers", "0", "--out", "s"], "--workers 0"),
        (["explore", "m", "--port", "65536"], "--port 65536"),
        (["explore", "m", "--samples", "1"], "--samples 1"),
        (["explore", "m", "--threshold", "-1"], "--threshold -1"),
        (["regions", "m", "--corpus", "pocket:heldout", "--texts", "pocket:heldout", "--window", "1", "--out", "r"],
         "--window 1"),
        (["regions", "m", "--corpus", "pocket:heldout", "--threshold", "0", "--out", "r"], "--threshold 0"),
        (["regions", "m", "--corpus", "pocket:heldout", "--norm", "other", "--out", "r"], "--norm"),
        (["steer", "m", "--corpus", "pocket:heldout", "--alpha", "0", "--out", "r"], "--alpha 0"),
        (["steer", "m", "--corpus", "pocket:heldout", "--limit", "-1", "--out", "r"], "--limit -1"),
        (["circuits", "m", "--sigmas", "-2", "--out", "r"], "--sigmas -2"),
        (["replicate", "zeng-same-meaning", "--quick", "--draws", "0"], "--draws 0"),
        (["replicate", "zeng-same-meaning", "--quick", "--n", "1"], "--n 1"),
        (["show", ""], "RUN-DIR"), (["report", "a", "a"], "RUNS: a is named twice"),
        (["tasks", "census", "ioi", "m", "--languages", "en", "-n", "10000000"], "1,000,000 is the most"),
    ],
)  # fmt: skip
def test_what_is_out_of_range_is_said_before_anything_is_loaded(tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    ended = command(*words)
    assert (ended.exit_code, ended.stderr.count("\n")) == (2, 1), ended
    assert said in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_choice_is_one_of_those_that_there_are_in_python_too():
    from babelscope.studies.region_settings import RegionsSettings

    for change in ({"norm": "other"}, {"method": "x"}, {"special": "cls"}, {"site": "heads"}, {"joint": ""}):
        with pytest.raises(InputError):
            RegionsSettings("pocket:heldout", **change)  # pyright: ignore[reportArgumentType]


def test_options_of_masks_that_a_region_file_says_itself_are_refused(tmp_path):
    (tmp_path / "r.json").write_text("{}")
    for option in (["--layers", "3"], ["--neurons", "4"], ["--languages", "en"], ["--model", "m"]):
        said = command("regions", "import", tmp_path / "r.json", "--out", tmp_path / "x", *option)
        assert (said.exit_code, "says itself" in said.stderr) == (2, True), said


def test_a_dot_within_the_name_of_a_circuit_is_no_ending():
    assert circuit_file(Path("a/qwen2.5")).name == "qwen2.5.safetensors"
    assert circuit_file(Path("a/qwen2.safetensors"), ".json").name == "qwen2.json"
    with pytest.raises(InputError, match="names no file"):
        circuit_file(Path())


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="no such devices here")
@pytest.mark.parametrize(
    "words",
    [
        ["check", "m", "--config", "/dev/zero"], ["check", "m", "--family=/dev/full"],
        ["corpus", "audit", "table:/dev/urandom?id=x"], ["regions", "show", "LINK"],
        ["tasks", "sample", "minimal-pairs:/dev/zero", "m", "--languages", "en"],
    ],
)  # fmt: skip
def test_attack_8_a_device_without_an_end_is_not_read(tmp_path, words):
    link = tmp_path / "link.json"
    link.symlink_to("/dev/zero")
    said = command(*[str(link) if word == "LINK" else word for word in words])
    assert (said.exit_code, said.stderr.count("\n")) == (2, 1), said
    assert "a device without an end" in said.stderr


def test_an_option_that_there_is_not_is_told_its_neighbours():
    from babelscope.errors import InputError
    from babelscope.studies.regions import RegionsSettings

    with pytest.raises(InputError, match="RegionsSettings has no option 'sample'; did you mean samples"):
        RegionsSettings(corpus="pocket:heldout", sample=3)
