"""The numbers that Zeng et al. 2024 (arXiv 2410.11718, Tables 1 and 4) printed, to stand beside ours."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from babelscope.errors import InputError

SOURCE = "Zeng et al. 2024, arXiv 2410.11718"
_TITLES = {"bloom-7b1": ("BLOOM-7b1", "Table 1"), "llama-2-7b": ("LLaMA-2-7b", "Table 4")}


@dataclass(frozen=True)
class Published:
    """One model of the paper."""

    key: str
    name: str
    table: str
    languages: list[str]
    neurons: int
    base_perplexity: dict[str, float]
    region_size: dict[str, int]
    random_control_size: int
    increase_percent: dict[str, dict[str, float]]
    """evaluated language → deactivated region (or `random`) → increase of perplexity in percent"""


def published(name: str) -> Published:
    """The numbers of `bloom-7b1` or `llama-2-7b`; raises InputError for any other name.

    >>> published("bloom-7b1").increase_percent["zh"]["zh"]
    47
    """
    facts = _facts()
    if name not in _TITLES:
        raise InputError(f"no published numbers for {name!r}; there are: {', '.join(_TITLES)}")
    title, table = _TITLES[name]
    return Published(key=name, name=title, table=table, languages=facts["languages"], **facts[name])


def published_for(model: str) -> Published | None:
    """The published numbers of this very model, when it is one of the paper's."""
    plain = re.sub(r"[^a-z0-9]", "", model.lower().rsplit("/", 1)[-1])
    for key in _TITLES:
        if plain in {key.replace("-", ""), key.replace("-", "") + "hf"}:
            return published(key)
    return None


@cache
def _facts() -> dict[str, Any]:
    text = files("babelscope.figures").joinpath("published.json").read_text(encoding="utf-8")
    return json.loads(text)
