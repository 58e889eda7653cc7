"""Make the pictures of docs/gallery.md again, and the page itself: `python docs/make_screenshots.py`.

Runs that are not yet in `--runs` are made by the commands that the page shows. The pictures of the Bible model need
`--bible-model` and `--bible` (a model folder and a corpus specification); without them the old ones are left alone.
Needs Chromium and `pip install 'babelscope[app,browser,lid]'`.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from babelscope import open_run
from babelscope.figures import FIGURES, draw, figure_names
from babelscope.report import write_report

DOCS = Path(__file__).parent
IMAGES = DOCS / "img"
LIMIT = 150_000
"""bytes of one picture"""
MODEL = "pocket:pocket-bloom-m"
COMMANDS = {
    "regions": f"regions {MODEL} --corpus pocket:heldout --texts 'pocket:heldout?seed=1' --window 128 "
    "--samples 60 --text-tokens 1024 --controls 2 --fixed --bootstrap 100 --permutations 60 --alignment --generate 1",
    "ioi": f"circuits {MODEL} --task ioi --languages en,zh --n 30 --draws 3",
    "training": "sweep pocket-checkpoints --samples 40",
    "sizes": "sweep pocket-scales --samples 40",
}
BIBLE = (
    "--window 256 --samples 40 --text-tokens 2048 --controls 3 --fixed --bootstrap 200 --permutations 100 --alignment "
    "--generate 2"
)
LARGE = "opening 2.9 s, a step of zooming 8 to 25 ms, a frame of a drag 27 ms, the first change of order 181 ms"
RUN_OF = {"scale_curves": "sizes", "regions": "regions", "circuits": "ioi", "sweep": "training"}
OPTIONS = {
    "head_heatmap": "--labels name",
    "perplexity_heatmap": "--labels code",
    "region_sizes": "--labels name",
}
HEADINGS = {
    "regions": "Figures of regions",
    "circuits": "Figures of circuits",
    "sweep": "Figures of sweeps over checkpoints and sizes",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/gallery"))
    parser.add_argument("--only", choices=("runs", "figures", "report", "explorer", "page"), action="append")
    parser.add_argument("--bible-model")
    parser.add_argument("--bible", help="corpus of the Bible model, such as bible:FOLDER")
    given = parser.parse_args()
    wanted = given.only or ["runs", "figures", "report", "explorer", "page"]
    commands = dict(COMMANDS)
    if given.bible_model and given.bible:
        corpus = shlex.quote(given.bible)
        commands["bible"] = f"regions {shlex.quote(given.bible_model)} --corpus {corpus} --texts {corpus} {BIBLE}"
    if "runs" in wanted:
        make_runs(given.runs, commands)
    if "figures" in wanted:
        draw_figures(given.runs)
    if "report" in wanted:
        photograph_reports(given.runs)
    if "explorer" in wanted:
        photograph_explorer([MODEL, "--corpus", "pocket:heldout?n=100"], "pocket")
        if "bible" in commands:
            photograph_explorer([given.bible_model, "--corpus", given.bible], "bible")
    if "page" in wanted:
        (DOCS / "gallery.md").write_text(page(), encoding="utf-8")
    for path in sorted(IMAGES.glob("gallery-*")):
        size = path.stat().st_size
        print(f"{path.name:44} {size:7}" + ("  TOO LARGE" if size > LIMIT else ""))


def make_runs(folder: Path, commands: dict[str, str]) -> None:
    """Every run that is not there yet, by the command line."""
    for name, command in commands.items():
        if not (folder / name / "run.json").is_file():
            subprocess.run([*_babelscope(), *shlex.split(command), "--out", str(folder / name)], check=True)


def _babelscope() -> list[str]:
    return [sys.executable, "-c", "from babelscope.cli import main; main()"]


# ---- figures ----


def run_of(name: str) -> str:
    """The run that a figure is drawn from."""
    return RUN_OF.get(name, RUN_OF[FIGURES[name].kind])


def command_of(name: str) -> str:
    """The command that draws a figure."""
    options = f" {OPTIONS[name]}" if name in OPTIONS else ""
    return f"babelscope figure runs/gallery/{run_of(name)} {name}{options} --out {name}.pdf"


def drawn(folder: Path) -> list[str]:
    """Names of the figures that the runs of the gallery hold, in the order of the page."""
    return [
        name
        for kind in HEADINGS
        for name, one in FIGURES.items()
        if one.kind == kind and name in figure_names(open_run(folder / run_of(name)))
    ]


def draw_figures(folder: Path) -> None:
    """One small PNG of each kind of figure."""
    for name in drawn(folder):
        words = OPTIONS.get(name, "").split()
        options = {key.removeprefix("--"): value for key, value in zip(words[::2], words[1::2])}
        drawing = draw(open_run(folder / run_of(name)), name, **options)
        raster = BytesIO()
        drawing.savefig(raster, format="png", dpi=110)
        save_small(Image.open(raster), f"gallery-{name.replace('_', '-')}.png")


def save_small(picture: Image.Image, name: str, widest: int = 1280) -> None:
    """As PNG of few colours, or as WebP by the ending of the name; never wider than `widest`."""
    picture = picture.convert("RGB")
    if picture.width > widest:
        picture = picture.resize((widest, round(picture.height * widest / picture.width)), Image.Resampling.LANCZOS)
    if name.endswith(".png"):
        picture.quantize(256, Image.Quantize.FASTOCTREE).save(IMAGES / name, optimize=True)
        if (IMAGES / name).stat().st_size > LIMIT:
            save_small(picture, name, round(0.9 * picture.width))
        return
    for quality in (85, 70, 55, 40):
        picture.save(IMAGES / name, quality=quality, method=6)
        if (IMAGES / name).stat().st_size <= LIMIT:
            return


# ---- the report ----


@contextmanager
def browser() -> Iterator[Any]:
    """Chromium with an empty profile."""
    from playwright.sync_api import sync_playwright

    found = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=found, args=flags, timeout=180_000)
        try:
            yield opened
        finally:
            opened.close()


def photograph_reports(folder: Path) -> None:
    """The page of each run, its parts one by one."""
    runs = [folder / name for name in ("regions", "ioi", "training", "sizes") if (folder / name / "run.json").is_file()]
    with browser() as opened:
        page = _open(opened, write_report(runs, folder / "report.html"))
        pin(page, 0.72, 0.16)
        shot(page, "#r0-similarity", "report-map")
        page.get_by_role("radio", name="by meaning").first.check()
        for _ in range(3):
            page.get_by_role("button", name="Zoom in").first.click()
        pin(page, 0.30, 0.38)
        shot(page, "#r0-similarity", "report-map-meaning")
        shot(page, "#r0-perplexity-heatmap", "report-perplexity")
        shot(page, "#r0-calibration", "report-calibration")
        if page.locator("#r1-circuit-graph").count():
            page.locator("#r1-circuit-graph .node[data-id^='4']").first.click()
            shot(page, "#r1-circuit-graph", "report-circuit")
            shot(page, "#r1-head-heatmap", "report-heads")
            shot(page, "#r1-examples", "report-examples")
            shot(page, "#r1-circuit-tokens", "report-tokens")
            shot(page, "#r1-cross-language", "report-across")
        page.locator("#theme").click()
        page.wait_for_timeout(1500)
        page.evaluate("scrollTo(0, 0)")
        page.set_viewport_size({"width": 1280, "height": 860})
        shot(page, None, "report-dark")
        page = _open(opened, write_report([folder / "regions"], folder / "regions.html"), width=400)
        shot(page, None, "report-phone")
        if (folder / "bible" / "run.json").is_file():
            page = _open(opened, write_report([folder / "bible"], folder / "bible.html"))
            page.get_by_role("radio", name="by meaning").first.check()
            for _ in range(3):
                page.get_by_role("button", name="Zoom in").first.click()
            pin(page, 0.30, 0.38)
            shot(page, "#r0-similarity", "report-bible-map")
            shot(page, "#r0-generations", "report-bible-generations")


def _open(opened: Any, path: Path, width: int = 1280) -> Any:
    page = opened.new_page(viewport={"width": width, "height": 1150})
    page.set_default_timeout(180_000)
    page.goto(path.resolve().as_uri(), timeout=180_000)
    page.wait_for_selector("html[data-ready=yes]")
    return page


def pin(page: Any, across: float, down: float) -> None:
    """Pin one cell of the map, and rest the pointer on another."""
    cells = page.locator("canvas.cells").first
    cells.scroll_into_view_if_needed()
    box = cells.bounding_box()
    page.mouse.click(box["x"] + across * box["width"], box["y"] + down * box["height"])
    page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 0.62 * box["height"])


def shot(page: Any, selector: str | None, name: str) -> None:
    """A picture of one element, or of what is on the screen; the sticky header is out of the way."""
    page.wait_for_timeout(400)
    if selector is None:
        raster = page.screenshot()
    else:
        page.add_style_tag(content=".top {position: static !important}")
        raster = page.locator(selector).screenshot()
    save_small(Image.open(BytesIO(raster)), f"gallery-{name}.webp")


# ---- the explorer ----


@contextmanager
def explorer(what: list[str]) -> Iterator[str]:
    """The explorer of a model; gives its address."""
    command = [*_babelscope(), "explore", *what, "--samples", "40", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        line = server.stdout.readline() if server.stdout else ""
        try:
            yield line.split()[1]
        finally:
            server.terminate()


def photograph_explorer(what: list[str], name: str) -> None:
    """Its tabs, with something in each."""
    with explorer(what) as address, browser() as opened:
        page = opened.new_page(viewport={"width": 1180, "height": 980})
        page.set_default_timeout(300_000)
        page.goto(address)
        tab(page, "Sentences")
        page.get_by_role("button", name="Take translations").click()
        filled(page, "Sentences")
        page.get_by_role("button", name="Compare").click()
        page.locator(".bs-heat").first.wait_for()
        snap(page, f"explorer-{name}-sentences")
        tab(page, "Regions")
        page.get_by_label("English (en)", exact=True).uncheck()
        page.get_by_label("Chinese (zh)", exact=True).check()
        page.get_by_label("Beginnings in", exact=True).click()
        page.get_by_role("option", name="Chinese (zh)", exact=True).click()
        page.get_by_role("button", name="Take a beginning").click()
        filled(page, "Prompt")
        page.get_by_role("button", name="Continue").click()
        page.locator(".bs-side mark").first.wait_for()
        page.get_by_role("button", name="Measure perplexity").click()
        page.get_by_role("row").filter(has_text="zh").locator("visible=true").first.wait_for()
        snap(page, f"explorer-{name}-regions")
        tab(page, "Neurons")
        page.get_by_role("button", name="Find the strongest").click()
        page.locator("[data-testid^=cell]").locator("visible=true").first.click()
        page.locator(".bs-heat figcaption", has_text="in the region of").wait_for()
        snap(page, f"explorer-{name}-neurons")
        if name == "pocket":
            tab(page, "Circuits")
            page.get_by_role("button", name="Take a prompt").click()
            filled(page, "Right answer")
            page.get_by_role("button", name="Run", exact=True).click()
            filled(page, "Logit difference")
            page.get_by_role("button", name="Show attention").click()
            page.locator(".bs-heat.turned").nth(1).wait_for()  # the circuit over the tokens is the first
            snap(page, f"explorer-{name}-circuits")
            tab(page, "Steering")
            page.get_by_role("button", name="Write", exact=True).click()
            page.locator(".bs-side h3", has_text="strength 2").wait_for()
            snap(page, f"explorer-{name}-steering")


def tab(page: Any, name: str) -> None:
    page.get_by_role("tab", name=name).click()


def filled(page: Any, label: str) -> None:
    """Wait until a field holds something."""
    from playwright.sync_api import expect

    expect(page.get_by_label(label, exact=True).locator("visible=true").first).not_to_have_value("", timeout=300_000)


def snap(page: Any, name: str) -> None:
    page.mouse.move(5, 400)
    page.evaluate("document.activeElement?.blur(); scrollTo(0, 0)")
    page.wait_for_timeout(1500)
    picture = Image.open(BytesIO(page.screenshot(full_page=True)))
    save_small(picture.crop((0, 0, picture.width, min(picture.height, 1700))), f"gallery-{name}.webp", widest=1180)


# ---- the page ----

TOP = """# Gallery

Everything here is made by a command of the package; `python docs/make_screenshots.py` makes all of it again, this page
included. The model is the built-in `pocket-bloom-m`, the text its held-out sentences, unless another is named: a small
model of a small world, so read the pictures as examples of what is drawn, not as findings. Every figure can be saved as
`.pdf`, `.svg` or `.png`; `babelscope figure RUN` lists those that a run gives.

The runs:

```
{runs}
```
"""

SCREENS = """
## The report

`babelscope report runs/gallery/regions runs/gallery/ioi runs/gallery/training runs/gallery/sizes --out page.html`
writes one file that opens from disk, offline; every chart has its numbers as a table and as CSV, and a static twin for
papers. It prints, always in light colours. With 9 × 100 sentences the page is below 8 MB. With 9 × 1000 it is 60 MB,
and the map stays fluid: it is drawn from block means and shows more as you zoom in (`python -m tests.large_map`:
{large};
processor time of the page's thread, one machine, one time each, so without an interval).

![Similarity map, ordered by language, one cell pinned](img/gallery-report-map.webp)

*The similarity map, one pair of sentences pinned and one under the pointer.*

![Similarity map, ordered by meaning and zoomed in](img/gallery-report-map-meaning.webp)

*The same map ordered by meaning, zoomed in: each square on the diagonal holds one sentence in nine languages.*

![Perplexity under deactivation, with random controls](img/gallery-report-perplexity.webp)

*What switching each region off does to each language, beside random neurons of the same number and layers.*

![Null distribution and observed number of key neurons](img/gallery-report-calibration.webp)

*Calibration: key neurons observed against those found with the language labels permuted.*

![Graph of a circuit, one head pinned](img/gallery-report-circuit.webp)

*The circuit of indirect object identification in two languages; a pinned head tells its role, its scores and the tokens
that it promotes.*

![Example prompts, tokens marked by role](img/gallery-report-examples.webp)

![The circuit over the tokens of a prompt](img/gallery-report-tokens.webp)

*The same circuit over an example prompt: where each head acts, what it looks at, and what patching it changes.*

![Faithfulness across languages beside random heads](img/gallery-report-across.webp)

*How much of the task one language's circuit keeps in the other, with 95 % intervals, beside random heads.*

![Effect of every head, two languages side by side](img/gallery-report-heads.webp)

*The effect of every head, the same scale in both languages.*

![The top of the page in dark colours](img/gallery-report-dark.webp)

*Dark colours.*

![The first screen on a phone](img/gallery-report-phone.webp)

*On a phone.*

## With a model of the Bible

Nine translations of the New Testament, forty verses, and a small model trained on the same text
(`babelscope regions MODEL --corpus bible:FOLDER --texts bible:FOLDER {bible} --out runs/gallery/bible`).

![Similarity map of Bible verses, ordered by meaning](img/gallery-report-bible-map.webp)

![Continuations of verses in nine languages](img/gallery-report-bible-generations.webp)

![The explorer compares nine translations of one verse](img/gallery-explorer-bible-sentences.webp)

![Region of Chinese switched off, continuation and perplexity](img/gallery-explorer-bible-regions.webp)

![One neuron, and the verses that move it most](img/gallery-explorer-bible-neurons.webp)

*Verses: World English Bible, Chinese Union Version 1919, Louis Segond 1910, Smith and Van Dyck 1865, Cadman 1934,
Reina-Valera 1909, Bíblia Sagrada livre para o mundo (public domain); Unlocked Literal Bible in Hindi and Indonesian,
© Door43 World Missions Community and BCS, CC BY-SA 4.0. The boxes in the Arabic stand for the letter U+0671, which no
font of the machine that made these pictures holds.*

## The explorer

`babelscope explore pocket:pocket-bloom-m` ([more](explorer.md)).

![Sentences: translations and their similarities](img/gallery-explorer-pocket-sentences.webp)

![Regions: a region switched off](img/gallery-explorer-pocket-regions.webp)

![Neurons: one neuron by language](img/gallery-explorer-pocket-neurons.webp)

![Circuits: a circuit over the tokens, heads and attention on a prompt](img/gallery-explorer-pocket-circuits.webp)

![Steering: what is written with a direction between two languages added](img/gallery-explorer-pocket-steering.webp)
"""


def page() -> str:
    """docs/gallery.md: screens first, then every kind of figure with its command."""
    runs = "\n".join(f"babelscope {command} --out runs/gallery/{name}" for name, command in COMMANDS.items())
    parts = [TOP.format(runs=runs), SCREENS.format(bible=BIBLE, large=LARGE)]
    for kind, heading in HEADINGS.items():
        parts.append(f"\n## {heading}\n")
        for name, one in FIGURES.items():
            if one.kind == kind and (IMAGES / f"gallery-{name.replace('_', '-')}.png").is_file():
                told = (one.specify.__doc__ or "").strip().split("\n\n")[0].replace("\n", " ")
                told = " ".join(told.split())
                picture = f"![{name.replace('_', ' ')}](img/gallery-{name.replace('_', '-')}.png)"
                parts.append(f"\n### {name}\n\n{told}\n\n    {command_of(name)}\n\n{picture}\n")
    return "".join(parts)


if __name__ == "__main__":
    main()
