"""The pages' machinery: equations become MathML, each release keeps its pages, the version is the same everywhere."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest
import yaml

from babelscope import __version__

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"


def loaded(name: str):
    spec = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_equations_become_mathml():
    pytest.importorskip("latex2mathml")
    hook = loaded("mathml")
    page = r'<p>with <span class="arithmatex">\(a &lt; b_1\)</span></p><div class="arithmatex">\[\sum_i x\]</div>'
    made = hook.on_page_content(page)
    assert "arithmatex" not in made
    assert made.count("<math") == 2
    assert 'display="inline"' in made
    assert 'display="block"' in made
    assert hook.on_page_content("<p>none</p>") == "<p>none</p>"


@pytest.mark.parametrize("page", sorted(DOCS.glob("methods-*.md")), ids=lambda page: page.stem)
def test_every_equation_of_a_method_page_can_be_drawn(page):
    convert = pytest.importorskip("latex2mathml.converter").convert
    text = page.read_text(encoding="utf-8")
    found = re.findall(r"\$\$(.+?)\$\$", text, re.DOTALL)
    inline = re.findall(r"(?<!\$)\$([^$\n]+)\$(?!\$)", text)
    assert len(found) > 2
    assert len(inline) > 10
    for equation in (*found, *inline):
        drawn = convert(equation)
        assert "\\" not in drawn.replace("&#x0005C;", ""), equation


def test_each_release_keeps_its_pages(tmp_path, monkeypatch, capsys):
    module = loaded("version")

    def build(command: list[object], **_: object) -> None:
        folder = Path(str(command[-1]))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "index.html").write_text("new", encoding="utf-8")

    monkeypatch.setattr(module.subprocess, "run", build)
    for old in ("0.0.9", "0.0.10"):
        build([tmp_path / old])
        (tmp_path / old / "index.html").write_text("old", encoding="utf-8")
    (tmp_path / "assets").mkdir()
    module.main(tmp_path)
    listed = json.loads((tmp_path / "versions.json").read_text(encoding="utf-8"))
    assert [entry["version"] for entry in listed] == [__version__, "0.0.10", "0.0.9"]
    assert [entry["aliases"] for entry in listed] == [["latest"], [], []]
    assert f"url={__version__}/" in (tmp_path / "index.html").read_text(encoding="utf-8")
    assert (tmp_path / "0.0.9" / "index.html").read_text(encoding="utf-8") == "old"
    assert __version__ in capsys.readouterr().out


def test_the_version_is_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert str(citation["version"]) == __version__
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## \[([^]]+)\](?: - (\S+))?$", changes, re.MULTILINE)
    assert headings[0][0] == "Unreleased" or headings[0][0] == __version__
    assert (__version__, str(citation["date-released"])) in headings


def test_the_citation_has_what_the_format_demands():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0"
    for field in ("message", "title", "authors"):
        assert citation[field]
    for reference in citation["references"]:
        assert {"type", "title", "authors"} <= set(reference)


def test_the_readme_links_to_files_that_are_there():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for target in [*re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", text), *re.findall(r"`(docs/[^`]*)`", text)]:
        assert (ROOT / target).exists(), target


def test_every_file_that_contributing_names_is_there():
    """The stranger's walk: paths in the tables of CONTRIBUTING, below src/babelscope unless they say otherwise."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ") and "`" in line]
    assert len(rows) > 14
    for row in rows:
        cells = row.split("|")[2:]
        for path in [found for cell in cells for found in re.findall(r"`([^`]+)`", cell)]:
            inside = path.partition("NAME")[0].partition("LANGUAGE")[0].rstrip("/")
            assert any((place / inside).exists() for place in (ROOT / "src" / "babelscope", ROOT)), f"{path}: {row}"
