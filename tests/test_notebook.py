"""What results show in a notebook: escaped, small, readable on light and dark pages, nothing asked of the network."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import torch

from babelscope import figures
from babelscope.circuits import Circuit, Wiring, circuit_overlap, top_edges
from babelscope.circuits.patching.search import Found, Search, Step
from babelscope.evolution.flow import flow
from babelscope.notebook import table
from babelscope.regions import RegionSet
from babelscope.regions.recording import Recording
from babelscope.regions.similarity import Means, neuron_means
from babelscope.regions.table import DeactivationTable
from babelscope.results import RunWriter, open_run
from babelscope.results.schemas.regions import Perplexity

from .synthetic_circuits import write_circuits
from .synthetic_runs import HOSTILE, write_regions, write_sweep

NASTY = HOSTILE[1]


class _Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.attributes = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs


def regions(seed=0):
    draw = torch.Generator().manual_seed(seed)
    return RegionSet({NASTY: torch.rand(2, 8, generator=draw) > 0.5, "zh": torch.zeros(2, 8).bool()}, "z-score")


def circuit():
    wiring = Wiring(layers=1, heads=2, kv_heads=2)
    found = top_edges(wiring, np.where(wiring.allowed, -1.0, 0.0), count=3, prune=False)
    return Circuit(found.wiring, found.edges, found.scores, {"embedding": NASTY})


def deactivated():
    cell = {"draw": -1, "neurons": 5, "nll": 1.0, "tokens": 9, "bytes": 9, "bits_per_byte": 1.0, "documents": 1}
    numbers = ("increase_percent", "increase_low", "increase_high", "delta_nll", "delta_low", "delta_high")
    rest = {**dict.fromkeys(numbers, 0.0), "interval": "", "why": ""}
    rows = [
        Perplexity(language=NASTY, deactivated=x, perplexity=p, **cell, **rest)
        for x, p in (("base", 10.0), ("zh", 15.0))
    ]
    return DeactivationTable(tuple(rows), ())


def recording():
    return Recording((NASTY, "zh"), ("s0", "s1"), 2, np.ones((2, 2, 16), np.float32), torch.ones(2, 2).int(), 0.1)


def search():
    return Search((Found(Step(NASTY), None, None),))


def hostile_run(folder):
    with RunWriter(folder / "run", kind="sweep") as writer:
        writer.manifest.update(model={"id": NASTY})
        writer.table("points", pd.DataFrame([{"model": NASTY, "revision": HOSTILE[0], "lrds": 0.1}]))
    return open_run(folder / "run")


SHOWN = {
    "run": hostile_run,
    "regions": lambda _: regions(),
    "deactivation": lambda _: deactivated(),
    "recording": lambda _: recording(),
    "means": lambda _: neuron_means(torch.nn.functional.normalize(torch.rand(3, 4, 50), dim=-1)),
    "one mean": lambda _: Means(*torch.tensor([0.3, 0.2, 0.1])),
    "circuit": lambda _: circuit(),
    "overlap": lambda _: circuit_overlap(circuit(), circuit(), permutations=3),
    "search": lambda _: search(),
    "flow": lambda _: flow(regions(), regions(1)),
    "regions run": lambda folder: write_regions(folder / "r"),
    "circuits run": lambda folder: write_circuits(folder / "c"),
    "sweep run": lambda folder: write_sweep(folder / "s"),
    "figure": lambda folder: figures.draw(write_regions(folder / "r", model=NASTY), "region_sizes"),
}


@pytest.mark.parametrize("name", SHOWN)
def test_it_is_inert_small_and_takes_the_colours_of_the_page(name, tmp_path):
    html = SHOWN[name](tmp_path)._repr_html_()
    read = _Tags()
    read.feed(html)
    allowed = {"div", "table", "caption", "thead", "tbody", "tr", "th", "td", "bdi", "p"}
    assert set(read.tags) <= (allowed | {"img"} if name == "figure" else allowed)
    assert not [key for key, _ in read.attributes if key.startswith("on")]
    assert all(value.startswith("data:image/png;base64,") for key, value in read.attributes if key in ("src", "href"))
    assert len(html) < (150_000 if name == "figure" else 12_000)
    assert not re.search(r"[^-]color:(?!inherit)", html)  # text is never painted in one colour for every page
    assert not set("\u202e\u2066") & set(html)


def test_numbers_are_the_results(tmp_path):
    assert '<td style="padding:.15em .6em;border:0;background:none;color:inherit;text-align:right">50</td>' in (
        deactivated()._repr_html_()
    )
    one = regions()
    assert f"{one.total} of 16 neurons" in one._repr_html_()
    assert (
        "8 points" in write_sweep(tmp_path / "s")._repr_html_() or "9 points" in open_run(tmp_path / "s")._repr_html_()
    )


def test_long_tables_say_what_they_leave_out():
    assert "and 88 more" in table("long", ["k"], [[k] for k in range(100)])


def test_a_figure_has_words_for_who_cannot_see_it(tmp_path):
    html = figures.draw(write_regions(tmp_path / "r"), "similarity_map")._repr_html_()
    assert 'alt="Similarity map, toy/babel, 6 sentences a language"' in html
