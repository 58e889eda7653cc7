"""The report's page in a real browser."""

from __future__ import annotations

import contextlib
import csv
import io
import re

import numpy as np
import pytest
from matplotlib import colormaps

from babelscope.report import build_page, write_report
from babelscope.results.csv_cells import inert

from . import browser as browsers
from .synthetic_circuits import write_one_of_each
from .synthetic_runs import HOSTILE, LANGUAGES, SENTENCES, write_regions


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return write_one_of_each(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def html(runs):
    return build_page(runs)


@pytest.fixture(scope="module")
def opened(html, tmp_path_factory):
    """The page in a browser, with everything that it said and asked for."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(html, encoding="utf-8")
    with browsers.launched() as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 900}, accept_downloads=True)
        page.set_default_timeout(browsers.PATIENCE_MS)
        page.heard = {"console": [], "errors": [], "requests": []}
        page.on("console", lambda message: page.heard["console"].append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: page.heard["errors"].append(str(error)))
        page.on("request", lambda request: page.heard["requests"].append(request.url))
        page.goto(path.as_uri(), timeout=browsers.PATIENCE_MS)
        page.wait_for_selector("html[data-ready=yes]")
        yield page


def downloaded(page, block):
    with page.expect_download() as waiting:
        page.locator(f"#{block} .download").click()
    with open(waiting.value.path(), encoding="utf-8", newline="") as stream:
        return list(csv.reader(io.StringIO(stream.read())))


@pytest.mark.browser
def test_the_page_opens_quietly_and_asks_for_nothing(opened):
    assert opened.heard["console"] == []
    assert opened.heard["errors"] == []
    assert [url for url in opened.heard["requests"] if not url.startswith(("file:", "data:", "blob:"))] == []
    assert len({url for url in opened.heard["requests"] if url.startswith("file:")}) == 1
    assert opened.evaluate("window.__xss") is None
    assert opened.locator(".js-plotly-plot").count() >= 18


@pytest.mark.browser
def test_hover_shows_both_sentences_and_click_pins_them(opened, runs):
    cells = opened.locator("canvas.cells")
    cells.scroll_into_view_if_needed()
    box = cells.bounding_box()
    arrays, n = runs[0].arrays(), 6
    size = n * len(LANGUAGES)

    def point(i, j):
        opened.mouse.move(box["x"] + (j + 0.5) * box["width"] / size, box["y"] + (i + 0.5) * box["height"] / size)

    i, j = LANGUAGES.index("hi") * n + 5, LANGUAGES.index("ar") * n + 1
    point(i, j)
    card = opened.locator(".card.here")
    assert card.locator(".value").text_content() == f"{float(arrays.similarity[i, j]):.4f}"
    sentences = card.locator(".sentence")
    assert sentences.all_text_contents() == [f"{SENTENCES['hi']} 5", f"{HOSTILE[1]} {SENTENCES['ar']} 1"]
    assert sentences.nth(1).get_attribute("dir") == "auto"
    assert sentences.nth(1).get_attribute("lang").startswith("ar")
    assert card.locator(".where").all_text_contents() == ["Hindi, s5", "Arabic, s1"]
    opened.mouse.down()
    opened.mouse.up()
    point(0, 0)
    assert opened.locator(".card.kept .value").text_content() == f"{float(arrays.similarity[i, j]):.4f}"
    assert card.locator(".value").text_content() == "1.0000"
    opened.get_by_role("button", name="Unpin").click()
    assert not opened.locator(".card.kept").is_visible()


@pytest.mark.browser
def test_a_large_map_is_drawn_from_block_means_and_exact_under_the_pointer(opened, tmp_path):
    n = 225
    run = write_regions(tmp_path / "run", n=n, layers=2, width=20)
    path = write_report([run], tmp_path / "page.html", static=False)
    matrix = run.arrays().similarity.values.astype(float)
    size = n * len(LANGUAGES)
    with contextlib.closing(opened.context.browser.new_page(viewport={"width": 1280, "height": 900})) as page:
        page.set_default_timeout(browsers.PATIENCE_MS)
        page.goto(path.as_uri(), timeout=browsers.PATIENCE_MS)
        page.wait_for_selector("html[data-ready=yes]")
        read = "([x, y]) => { const c = document.querySelector('canvas.cells'); return [c.width, ...c.getContext('2d')"
        read += ".getImageData(x, y, 1, 1).data]; }"
        pixels = page.evaluate(read, [0, 0])[0]
        block = -(-size // 1000)
        for x, y in ((31, 407), (200, 150), (pixels - 7, 11)):
            row, column = (int((at + 0.5) / pixels * size) // block * block for at in (y, x))
            mean = matrix[row : row + block, column : column + block].mean()
            near = [colormaps["viridis"](min(255, max(0, int(mean * 256) + step)))[:3] for step in (-1, 0, 1)]
            drawn = page.evaluate(read, [x, y])[1:4]
            assert any(np.allclose(np.array(colour) * 255, drawn, atol=1.5) for colour in near), (x, y)
        cells = page.locator("canvas.cells")
        cells.focus()
        for key in ("ArrowDown", "ArrowDown", "ArrowRight"):
            cells.press(key)
        i, j = map(int, re.findall(r"\d+", " ".join(page.locator(".card.here .where").all_text_contents())))
        shown = float(page.locator(".card.here .value").text_content())
        assert shown == pytest.approx(matrix[i, j], abs=1e-4)  # both of the first language


@pytest.mark.browser
def test_order_by_meaning_and_keyboard(opened, runs):
    opened.get_by_role("radio", name="by meaning").check()
    cells = opened.locator("canvas.cells")
    cells.focus()
    cells.press("ArrowDown")
    cells.press("ArrowRight")
    cells.press("Enter")
    kept = opened.locator(".card.kept .where").all_text_contents()
    assert kept == ["English, s0", "Chinese, s0"]
    cells.press("+")
    cells.press("Escape")
    assert not opened.locator(".card.kept").is_visible()
    opened.get_by_role("radio", name="by language").check()


@pytest.mark.browser
def test_hostile_sentences_are_shown_as_text(opened):
    cells = opened.locator("canvas.cells")
    cells.focus()
    cells.press("Escape")
    shown = []
    for _ in HOSTILE:
        shown.append(opened.locator(".card.here .sentence").nth(0).text_content())
        cells.press("ArrowDown")
    assert any("<script>window.__xss = 1</script>" in text for text in shown)
    assert any("[U+202E]" in text for text in shown), shown
    assert opened.evaluate("window.__xss") is None
    assert opened.locator("main img:not([src^='data:'])").count() == 0


@pytest.mark.browser
def test_the_download_equals_the_array(opened, runs):
    rows = downloaded(opened, "r0-similarity")
    assert rows[0][2:5] == ["en/s0", "en/s1", "en/s2"]
    values = np.array([[float(cell) for cell in row[2:]] for row in rows[1:]], dtype=np.float32)
    assert np.array_equal(values, runs[0].arrays().similarity.values)


@pytest.mark.browser
def test_the_download_follows_the_chosen_view(opened, runs):
    opened.locator("#r0-layer-curves .choose").select_option(label="the means they are made of")
    rows = downloaded(opened, "r0-layer-curves")
    parts = [float(row[1]) for row in rows[1:] if row[-1] == "same_sentence_layer"]
    assert parts == runs[0].arrays().same_sentence_layer.values.tolist()
    table = downloaded(opened, "r0-generations")
    assert table[1][2] == f"{HOSTILE[0]} {SENTENCES['en']} 0"
    opened.locator("#r0-layer-curves details.numbers summary").click()
    opened.wait_for_selector("#r0-layer-curves .numbers tbody")
    assert opened.locator("#r0-layer-curves .numbers tbody tr").count() == 12


@pytest.mark.browser
def test_a_chart_answers_the_pointer(opened):
    chart = opened.locator("#r0-perplexity-heatmap .js-plotly-plot")
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    opened.mouse.move(box["x"] + box["width"] * 0.4, box["y"] + box["height"] * 0.5)
    opened.wait_for_selector("#r0-perplexity-heatmap .hoverlayer text")
    assert "evaluated" in opened.locator("#r0-perplexity-heatmap .hoverlayer").text_content()


@pytest.mark.browser
def test_nodes_of_the_circuit_tell_their_numbers(opened):
    node = opened.locator("#r1-circuit-graph .node").first
    node.focus()
    card = opened.locator("#r1-circuit-graph .card")
    assert "Head 1.2" in card.text_content()
    assert "induction (0.8)" in card.text_content()
    node.press("Enter")
    assert "pinned" in card.text_content()
    node.press("Enter")
    opened.locator("#r1-circuit-graph input[type=checkbox]").first.uncheck()
    assert opened.locator("#r1-circuit-graph .node").count() == 4
    opened.locator("#r1-circuit-graph input[type=checkbox]").first.check()


@pytest.mark.browser
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_no_serious_barrier(opened, theme):
    opened.evaluate("theme => { document.documentElement.dataset.theme = theme; }", theme)
    try:
        assert browsers.violations(opened) == []
    finally:
        opened.evaluate("delete document.documentElement.dataset.theme")


@pytest.mark.browser
def test_the_button_changes_the_colours(opened):
    def background():
        return opened.evaluate("getComputedStyle(document.body).backgroundColor")

    light = background()
    opened.get_by_role("button", name="Dark colours").click()
    assert background() != light
    opened.get_by_role("button", name="Light colours").click()
    assert background() == light


@pytest.mark.browser
def test_it_prints(opened):
    paper = opened.pdf(format="A4")
    assert paper.startswith(b"%PDF")
    assert opened.heard["errors"] == []


@pytest.mark.browser
def test_text_of_a_download_is_never_a_formula(opened):
    """As `write_csv` writes it: text alone, behind an apostrophe."""
    texts = ["=1+1", "+1", "-1", "@x", "＝1", "'=1", "'tis", "a=1", "\tx", "−1"]
    assert [opened.evaluate("(text) => csvCell(text)", text) for text in texts] == list(map(inert, texts))
    numbers = [opened.evaluate("(value) => csvCell(value)", value) for value in (-1.5, 3, None)]
    assert numbers == ["-1.5", "3", ""]
