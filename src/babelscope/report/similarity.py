"""The similarity map of the page: exact values and both sentences under the pointer."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from matplotlib import colormaps

from babelscope.plots.style import holds
from babelscope.report.blocks import Block, Chart, language_name, language_tag
from babelscope.report.embed import pack_triangle
from babelscope.results import Run

_MOST_BYTES = 60_000_000


def similarity(run: Run) -> Block | None:
    """The map of every two sentences, when the run holds one."""
    if not holds(run, "similarity"):
        return None
    arrays = run.arrays()
    languages, ids = arrays.item_language.values.astype(str), arrays.item_sentence.values.astype(str)
    kept = _fitting(languages)
    matrix = arrays.similarity.values
    packed = pack_triangle(matrix if len(kept) == len(matrix) else matrix[np.ix_(kept, kept)])
    codes = list(dict.fromkeys(languages))
    sentences = list(dict.fromkeys(ids))
    at = {sentence: i for i, sentence in enumerate(sentences)}
    spec: dict[str, Any] = {
        "packed": packed.__dict__,
        "codes": codes,
        "names": [language_name(code) for code in codes],
        "tags": [language_tag(code) for code in codes],
        "sentences": sentences,
        "language": [codes.index(code) for code in languages[kept]],
        "sentence": [at[sentence] for sentence in ids[kept]],
        "texts": _texts(run, languages[kept], ids[kept]),
        "colours": base64.b64encode(
            (colormaps["viridis"](np.arange(256))[:, :3] * 255).round().astype("u1").tobytes()
        ).decode(),
    }
    exact = (
        ""
        if packed.kind == "float32"
        else f" Values are rounded to {packed.kind[4:]} bits here; the run holds them exactly."
    )
    fewer = (
        ""
        if len(kept) == len(languages)
        else f" The first {len(kept) // len(codes)} sentences of each language are shown."
    )
    caption = (
        f"Cosine similarity of the activations of every two sentences, {len(sentences)} sentences in {len(codes)} "
        "languages. Ordered by "
        "language, bright squares on the diagonal are languages, and bright diagonals inside the other squares are "
        "translations; "
        "ordered by meaning, bright squares on the diagonal are sentences that keep their meaning across languages. "
        "Point at a cell to see "
        f"both sentences, click to pin it; with the keyboard: arrows, Enter, + and −.{exact}{fewer}"
    )
    return Chart("similarity", "Similarity map", caption, kind="similarity", spec=spec, twin="similarity_map")


def _fitting(languages: np.ndarray) -> np.ndarray:
    """Which items to show: all, or the first of each language when even 8 bits a cell would be too much."""
    items = np.arange(len(languages))
    most = int((2 * _MOST_BYTES) ** 0.5)
    if len(items) <= most:
        return items
    each = most // len(set(languages.tolist()))
    rank = np.concatenate([np.arange((languages == code).sum()) for code in dict.fromkeys(languages.tolist())])
    return items[rank < each]


def _texts(run: Run, languages: np.ndarray, ids: np.ndarray) -> list[str]:
    if "sentences" not in run.tables:
        return [""] * len(ids)
    table = run.table("sentences")
    at = zip(table.language.astype(str), table.id.astype(str))
    known = dict(zip(at, table.text.astype(str)))
    return [known.get((str(code), str(sentence)), "") for code, sentence in zip(languages, ids)]
