"""Fonts in a page: exactly the letters that stand in it, from the installed font that has them, or honestly none."""

from __future__ import annotations

import base64
import re
from io import BytesIO

import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from fontTools.ttLib import TTFont

from babelscope.figures import fonts as files
from babelscope.report import build_page, fonts

from .synthetic_runs import LANGUAGES, write_regions

KA, KHA, GA, VIRAMA = 0x915, 0x916, 0x917, 0x94D


def made(path, letters, licence=0):
    """A TrueType font with a square for each letter."""
    names = [".notdef", *(f"u{letter:X}" for letter in letters)]
    pen = TTGlyphPen(None)
    for place, point in enumerate([(0, 0), (0, 500), (500, 500), (500, 0)]):
        pen.lineTo(point) if place else pen.moveTo(point)
    pen.closePath()
    square = pen.glyph()
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap(dict(zip(letters, names[1:])))
    builder.setupGlyf(dict.fromkeys(names, square))
    builder.setupHorizontalMetrics(dict.fromkeys(names, (600, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Planted", "styleName": "Regular"})
    builder.setupOS2(fsType=licence)
    builder.setupPost()
    builder.save(path)
    return path


@pytest.fixture
def planted(tmp_path, monkeypatch):
    """The only installed font: four letters of Devanagari."""
    path = made(tmp_path / "NotoSansDevanagari-Regular.ttf", [KA, KHA, GA, VIRAMA])
    monkeypatch.setattr(files, "_installed", lambda: {"notosansdevanagari": path})
    return path


def test_a_subset_holds_the_letters_of_the_page_and_no_other(planted):
    found = fonts.page_fonts("ka क, virama \u094d; é, Ж, α and → need no font")
    data = base64.b64decode(re.search(r"base64,([^)]*)\)", found.css)[1])
    assert data[:4] == b"wOF2"
    assert set(TTFont(BytesIO(data)).getBestCmap()) == {KA, VIRAMA}
    assert "unicode-range: U+915, U+94D;" in found.css
    assert found.families == ("page 1",)
    assert found.told == f"in the page: Noto Sans Devanagari (2 letters, {len(data) / 1000:.0f} kB)"


def test_letters_that_no_installed_font_has_are_left_to_the_system_and_named(planted):
    found = fonts.page_fonts("中文")
    assert (found.css, found.families) == ("", ())
    assert found.told == "2 letters (Cjk) are in no installed font: your system draws them"
    both = fonts.page_fonts("क中")
    assert both.families == ("page 1",)
    assert both.told.endswith("; 1 letters (Cjk) are in no installed font: your system draws them")
    assert fonts.page_fonts("plain English").told == ""


def test_a_font_that_forbids_it_or_is_broken_is_not_embedded(tmp_path, monkeypatch):
    path = made(tmp_path / "NotoSansDevanagari-Regular.ttf", [KA], licence=2)
    monkeypatch.setattr(files, "_installed", lambda: {"notosansdevanagari": path})
    assert fonts.page_fonts("क").families == ()
    path.write_bytes(b"no font")
    assert fonts.page_fonts("क").families == ()


def test_the_page_names_its_fonts_behind_the_system_s_and_says_so(planted, tmp_path):
    run = write_regions(tmp_path / "run", 2, 3, 8)
    html = build_page([run], static=False)
    assert "hi" in LANGUAGES or "Devanagari" not in html
    assert html.count("@font-face") == len(re.findall(r'"page \d"', re.search(r"body \{[^}]*\}", html)[0]))
    assert "font-src data:" in html
    assert "<dt>Fonts</dt>" in html
