"""The similarity map of the page: exact values and both sentences under the pointer."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray

from babelscope.figures.names import language_tag
from babelscope.figures.regions import similarity_map
from babelscope.figures.register import holds
from babelscope.languages import english_name
from babelscope.report.blocks import Block, Chart
from babelscope.report.embed import pack_triangle
from babelscope.results import Run
from babelscope.results.rows import read_rows
from babelscope.results.schemas.regions import Sentence

_MOST_BYTES = 60_000_000
_HANDLING = "Point at a cell to see both sentences, click to pin it; with the keyboard: arrows, Enter, + and −."


def similarity(run: Run) -> Block | None:
    """The map of every two sentences, when the run holds one."""
    if not holds(run, "similarity"):
        return None
    figure = similarity_map(run)
    arrays = run.arrays()
    languages, ids = arrays.item_language.values.astype(str), arrays.item_sentence.values.astype(str)
    kept = _fitting(languages)
    matrix = arrays.similarity.values
    packed = pack_triangle(matrix if len(kept) == len(matrix) else matrix[np.ix_(kept, kept)])
    codes = list(dict.fromkeys(languages))
    sentences = list(dict.fromkeys(ids))
    at = {sentence: i for i, sentence in enumerate(sentences)}
    colours = (colormaps["viridis"](np.arange(256))[:, :3] * 255).round().astype("u1").tobytes()
    spec: dict[str, Any] = {
        "packed": packed.__dict__,
        "codes": codes,
        "names": [english_name(code) for code in codes],
        "tags": [language_tag(code) for code in codes],
        "sentences": sentences,
        "language": [codes.index(code) for code in languages[kept]],
        "sentence": [at[sentence] for sentence in ids[kept]],
        "texts": _texts(run, languages[kept], ids[kept]),
        "colours": base64.b64encode(colours).decode(),
    }
    rounded = f" Values are rounded to {packed.kind[4:]} bits here; the run holds them exactly."
    exact = "" if packed.kind == "float32" else rounded
    fewer = f" The first {len(kept) // len(codes)} sentences of each language are shown."
    caption = f"{figure.caption} {_HANDLING}{exact}{'' if len(kept) == len(languages) else fewer}"
    return Chart("similarity", figure.title, caption, kind="similarity", spec=spec, twin="similarity_map")


def _fitting(languages: NDArray[np.str_]) -> NDArray[np.int64]:
    """Which items to show: all, or the first of each language when even 8 bits a cell would be too much."""
    items = np.arange(len(languages))
    most = int((2 * _MOST_BYTES) ** 0.5)
    if len(items) <= most:
        return items
    each = most // len(set(languages.tolist()))
    rank = np.concatenate([np.arange((languages == code).sum()) for code in dict.fromkeys(languages.tolist())])
    return items[rank < each]


def _texts(run: Run, languages: NDArray[np.str_], ids: NDArray[np.str_]) -> list[str]:
    known = {(row.language, row.id): row.text for row in read_rows(run, Sentence)}
    return [known.get((str(code), str(sentence)), "") for code, sentence in zip(languages, ids)]
