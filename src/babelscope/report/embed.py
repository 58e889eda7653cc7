"""Putting data and scripts inside a page so that nothing in them can break out of it or reach out of it."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from babelscope.results.manifest import plain

_SMALL = 50_000
"""bytes up to which a static figure goes in as SVG"""
_UNSAFE = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


def safe_json(value: Any) -> Markup:
    """JSON that may stand inside a `<script>` element: every character with a meaning in HTML is escaped.

    >>> safe_json({"a": "</script>"})
    Markup('{"a":"\\\\u003c/script\\\\u003e"}')
    """
    text = json.dumps(plain(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for letter, written in _UNSAFE.items():
        text = text.replace(letter, written)
    return Markup(text)


def script_hash(script: str) -> str:
    """The content security policy's name for one inline script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def content_policy(*scripts: str) -> str:
    """A policy under which the named inline scripts run, and the page can ask the network for nothing at all."""
    allowed = " ".join(script_hash(script) for script in scripts)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; font-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def inline_script(script: str) -> Markup:
    """A script as the content of an element; the end tag inside its strings is broken up."""
    return Markup(script.replace("</script", "<\\/script").replace("<!--", "<\\!--"))


def columns(frame: pd.DataFrame) -> dict[str, Any]:
    """A frame as JSON: names and columns, numbers with the shortest digits that give them back exactly."""
    return {"names": [str(name) for name in frame.columns], "columns": [numbers(frame[name]) for name in frame.columns]}


def numbers(values: Any) -> list[Any]:
    """Values as JSON can hold them; a float32 keeps its own short digits instead of those of the nearest double."""
    array = np.asarray(values)
    if array.dtype == np.float32 or array.dtype == np.float16:
        return (
            [[float(str(item)) for item in row] for row in array] if array.ndim == 2 else [float(str(x)) for x in array]
        )
    return array.tolist()


@dataclass(frozen=True)
class PackedTriangle:
    """The lower triangle of a symmetric matrix, diagonal included, row by row, as base64."""

    kind: str
    """`float32` exact; `uint16` and `uint8` between `low` and `high`"""
    size: int
    low: float
    high: float
    data: str


def pack_triangle(matrix: np.ndarray, budget: int = 1_800_000) -> PackedTriangle:
    """Exact float32 while it fits in `budget` bytes; 16 bits up to twice that many cells; 8 bits beyond."""
    size = len(matrix)
    # row by row: the indices of a triangle of 9 000 rows alone would take 650 MB
    cells = np.concatenate([matrix[row, : row + 1] for row in range(size)]).astype("<f4", copy=False)
    if 4 * len(cells) <= budget:
        return PackedTriangle("float32", size, 0.0, 1.0, _base64(cells.tobytes()))
    low, high = float(cells.min()), float(cells.max())
    levels, kind = (65535, "<u2") if 2 * len(cells) <= 2 * budget else (255, "u1")
    scaled = np.round((cells - low) / ((high - low) or 1.0) * levels).astype(kind)
    return PackedTriangle("uint16" if levels == 65535 else "uint8", size, low, high, _base64(scaled.tobytes()))


def picture(drawing: Any) -> str:
    """A matplotlib figure as the address of an image inside the page: SVG, or a PNG of 256 colours where that is
    smaller."""
    drawing.draw_without_rendering()
    drawing.set_layout_engine("none")  # laid out once for all that is written
    vector = io.BytesIO()
    drawing.savefig(vector, format="svg", metadata={"Date": None})
    if vector.tell() <= _SMALL:
        return f"data:image/svg+xml;base64,{_base64(vector.getvalue())}"
    from PIL import Image

    raster, small = io.BytesIO(), io.BytesIO()
    drawing.savefig(raster, format="png", dpi=90)
    Image.open(raster).convert("RGB").quantize(256).save(small, format="png", optimize=True)
    return f"data:image/png;base64,{_base64(small.getvalue())}"


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
