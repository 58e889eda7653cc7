"""Draw the pictures of the README and docs again from the demo: `python docs/make_figures.py runs/demo`."""

from __future__ import annotations

import sys
from io import BytesIO
from pathlib import Path

from PIL import Image

from babelscope import draw, open_run

IMAGES = Path(__file__).parent / "img"


def drawn(figure: object) -> Image.Image:
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return Image.open(buffer).convert("RGB")


def side_by_side(pictures: list[Image.Image]) -> Image.Image:
    height = min(picture.height for picture in pictures)
    scaled = [picture.resize((round(picture.width * height / picture.height), height)) for picture in pictures]
    whole = Image.new("RGB", (sum(picture.width for picture in scaled), height), "white")
    place = 0
    for picture in scaled:
        whole.paste(picture, (place, 0))
        place += picture.width
    return whole


def main(demo: Path) -> None:
    IMAGES.mkdir(exist_ok=True)
    run = open_run(demo / "regions")
    pictures = [drawn(draw(run, name)) for name in ("similarity_map", "perplexity_heatmap")]
    side_by_side(pictures).quantize(256, Image.Quantize.FASTOCTREE).save(IMAGES / "readme.png", optimize=True)
    drawn(draw(run, "layer_curves")).quantize(64).save(IMAGES / "layer-curves.png", optimize=True)
    for path in sorted(IMAGES.glob("*.png")):
        print(path, path.stat().st_size)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/demo"))
