"""Every figure is specified from a run, shows the run's numbers in both drawers, and saves the same bytes twice."""

from __future__ import annotations

import json
import re

import numpy as np
import pandas as pd
import pytest
from matplotlib import colormaps
from matplotlib.figure import Figure as Canvas

from babelscope import figures
from babelscope.errors import InputError, RunError
from babelscope.figures import fonts
from babelscope.figures.deactivation import perplexity_grid
from babelscope.figures.page import panel_plot, plots
from babelscope.figures.palette import COLOURS, colour, language_place, luminance
from babelscope.figures.spec import Axis, Bars, Cells, Code, Figure, Line, Panel, Points, Rule, Strip, drawn_numbers
from babelscope.figures.sweep import checkpoints, scales
from babelscope.results import RunWriter, open_run
from babelscope.results.rows import read_rows
from babelscope.results.schemas.regions import Selectivity

from .synthetic_circuits import write_circuits
from .synthetic_latent import write_latent
from .synthetic_runs import LANGUAGES, write_regions, write_sweep
from .test_report_kinds import write_evaluation
from .test_report_studies import write_confusion, write_steering

NAMES = sorted(figures.FIGURES)
NAN = float("nan")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    made = [write_regions(folder / "r"), write_circuits(folder / "c"), write_sweep(folder / "s")]
    made += [write_latent(folder / "l"), write_steering(folder / "t"), write_confusion(folder / "f")]
    made += [write_evaluation(folder / "e")]
    return {run.kind: run for run in made}


def test_every_figure_is_given_by_the_kind_it_is_for(runs):
    given = {name for run in runs.values() for name in figures.figure_names(run)}
    assert given == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_figure_is_drawn_twice_from_one_specification(runs, name, tmp_path):
    run = runs[figures.FIGURES[name].kind]
    figure = figures.specify(run, name)
    path = figures.save_figure(figures.printed(figure), tmp_path / f"{name}.png", dpi=40)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert len(figure.caption) > 40
    if name == "similarity_map":  # it has a drawer of its own on pages
        return
    for view in plots(figure):
        assert view.plot["data"]
        json.dumps(view.plot, allow_nan=False)
        assert len(view.table)


@pytest.mark.parametrize("name", NAMES)
def test_a_caption_says_what_the_intervals_are_or_that_there_are_none(runs, name):
    caption = figures.specify(runs[figures.FIGURES[name].kind], name).caption.lower()
    if name in ("similarity_map", "language_pairs", "regions_by_layer", "circuit_graph", "head_scatter"):
        return  # values by item, or r over all heads: the caption names no interval
    assert re.search(r"interval|whisker|band|spread|%", caption), caption


@pytest.mark.parametrize("ending", ["pdf", "svg", "png"])
def test_the_same_run_gives_the_same_bytes(runs, tmp_path, ending):
    one, two = (
        figures.save_figure(figures.draw(runs["regions"], "layer_curves"), tmp_path / f"{name}.{ending}").read_bytes()
        for name in "ab"
    )
    assert one == two


def test_the_similarity_map_is_the_array_from_0_to_1(runs):
    (image,) = figures.draw(runs["regions"], "similarity_map").axes[0].images
    assert np.array_equal(np.asarray(image.get_array()), runs["regions"].arrays().similarity.values)
    assert (image.norm.vmin, image.norm.vmax, image.cmap.name) == (0, 1, "viridis")


def test_layer_curves_show_the_run_in_both_drawers(runs):
    wanted = runs["regions"].arrays().lrds_layer.values
    figure = figures.specify(runs["regions"], "layer_curves")
    axes = figures.printed(figure).axes[0]
    assert np.array_equal(axes.lines[0].get_ydata(), wanted)
    assert len(axes.collections) == 1  # SADS, which is smaller by far, has axes of its own
    traces = [trace for trace in plots(figure)[0].plot["data"] if trace["mode"] == "lines+markers"]
    assert traces[0]["y"] == wanted.tolist()


def test_perplexity_controls_are_means_over_draws(runs):
    table = runs["regions"].table("perplexity")
    grid = perplexity_grid(runs["regions"])
    draws = table[(table.language == "hi") & (table.deactivated == "random")].increase_percent
    assert grid.at("hi", "random") == pytest.approx(draws.mean())
    row, column = LANGUAGES.index("hi"), grid.columns.index("random")
    assert grid.spread[row, column] == pytest.approx(draws.std(ddof=0))
    assert np.isnan(grid.spread[row, grid.columns.index("zh")])
    assert grid.draws == {"random": 3, "random-layer": 3}
    assert grid.columns == ["random", "random-layer", *LANGUAGES]


def test_the_published_table_stands_beside_its_own_model_and_on_request(tmp_path, runs):
    def heatmaps(drawing):
        return [axes for axes in drawing.axes if axes.get_xlabel() == "deactivated"]

    assert len(heatmaps(figures.draw(runs["regions"], "perplexity_heatmap"))) == 1
    assert len(heatmaps(figures.draw(runs["regions"], "perplexity_heatmap", beside="llama-2-7b"))) == 2
    bloom = write_regions(tmp_path / "bloom", model="bigscience/bloom-7b1")
    published = heatmaps(figures.draw(bloom, "perplexity_heatmap"))[1]
    assert {"1498", "309", "47"} <= {text.get_text() for text in published.texts}
    with pytest.raises(InputError, match="no published numbers for 'gpt2'"):
        figures.draw(runs["regions"], "perplexity_heatmap", beside="gpt2")


def test_published_numbers_add_up():
    bloom, llama = figures.published("bloom-7b1"), figures.published("llama-2-7b")
    # the totals that the paper states: 42.1 % and 71.8 % of all neurons
    assert sum(bloom.region_size.values()) / bloom.neurons == pytest.approx(0.421, abs=5e-4)
    assert sum(llama.region_size.values()) / llama.neurons == pytest.approx(0.718, abs=5e-4)
    assert figures.published_for("meta-llama/Llama-2-7b-hf") == llama
    assert figures.published_for("bigscience/bloom-560m") is None


def test_what_a_run_cannot_give_is_said(runs, tmp_path):
    with pytest.raises(InputError, match=r"there is no figure 'pie'; this run gives: .*similarity_map"):
        figures.draw(runs["regions"], "pie")
    with pytest.raises(RunError, match="is of kind regions, not circuits"):
        figures.draw(runs["regions"], "head_heatmap")
    with pytest.raises(RunError, match="has no table:perplexity"):
        figures.draw(write_regions(tmp_path / "bare", texts=False), "perplexity_heatmap")
    with pytest.raises(InputError, match="no measure 'x' of heads; it has: activation_patching"):
        figures.draw(runs["circuits"], "head_heatmap", measure="x")
    with pytest.raises(InputError, match="has no language 'sw'"):
        figures.draw(runs["circuits"], "head_scatter", first="en", second="sw")
    with pytest.raises(InputError, match=r"saved as \.pdf, \.png or \.svg"):
        figures.save_figure(Canvas(), tmp_path / "x.gif")


def test_letters_without_a_font_are_named_instead_of_boxed(monkeypatch):
    monkeypatch.setattr(fonts, "families", lambda: ("DejaVu Sans",))
    fonts._drawable.cache_clear()
    assert fonts.drawn("小") == "U+5C0F"
    assert fonts.drawn("中文", otherwise="Chinese") == "Chinese"
    assert fonts.drawn("português") == "português"
    assert fonts.drawn("a\u202eb$") == r"ab\$"
    fonts._drawable.cache_clear()


def test_every_way_to_label_languages_draws(runs, tmp_path):
    for labels in ("code", "name", "own"):
        drawing = figures.draw(runs["regions"], "regions_by_layer", labels)
        figures.save_figure(drawing, tmp_path / "x.png", dpi=40)
    assert "Chinese" in [
        one.get_text() for one in figures.draw(runs["regions"], "regions_by_layer", "name").axes[0].get_yticklabels()
    ]


def test_drawing_leaves_the_callers_settings_alone(runs):
    import matplotlib

    before = dict(matplotlib.rcParams)
    figures.draw(runs["regions"], "region_sizes")
    assert dict(matplotlib.rcParams) == before


def test_sweeps_put_points_in_order_and_leave_failures_out(runs):
    run = runs["sweep"]
    assert [point.row.step for point in checkpoints(run)] == [1000, 10000, 100000, 200000, 300000]
    assert [bool(point.row.duplicate_of) for point in checkpoints(run)] == [False, False, False, True, False]
    sizes = [point.row.parameters for point in scales(run)]
    assert sizes == sorted(sizes)
    assert "toy/broken" not in {point.row.model for point in scales(run)}


# ---- one look ----


@pytest.mark.parametrize(
    "name", ["region_sizes", "selectivity", "sizes_over_training", "depth", "ffn_curves", "behaviour"]
)
def test_a_language_keeps_its_colour_in_every_figure_of_a_run(runs, name):
    run = runs[figures.FIGURES[name].kind]
    seen = 0
    for panel in figures.specify(run, name).panels:
        for mark in panel.marks:
            if isinstance(mark, Line) and isinstance(mark.name, Code):
                assert mark.colour == language_place(run, mark.name)
                seen += 1
            if isinstance(mark, Bars) and mark.colours:
                codes = [one if isinstance(one, Code) else one[0] for one in panel.x.names]
                assert list(mark.colours) == [language_place(run, code) for code in codes]
                seen += 1
    assert seen


def test_steps_are_logarithmic_and_a_step_0_stands_left_of_the_first():
    axis = Axis("training step", log=True, ticks=(0.0, 10.0, 100.0, 1000.0), tick_names=("0", "10", "100", "1k"))
    places = [axis.at(step) for step in axis.ticks]
    assert places[1:] == pytest.approx([1, 2, 3])
    assert places[0] < 1
    panel = Panel((Line("x", axis.ticks, (1, 2, 3, 4)),), axis, Axis("score"))
    layout = panel_plot(panel)["layout"]["xaxis"]
    assert (layout["tickvals"], layout["ticktext"]) == ([pytest.approx(p) for p in places], list(axis.tick_names))
    drawn = figures.printed(Figure("", "", (panel,))).axes[0]
    assert drawn.lines[0].get_xdata() == pytest.approx(places)
    assert [one.get_text() for one in drawn.get_xticklabels()] == list(axis.tick_names)


def test_no_interval_is_drawn_where_there_is_none():
    bars = Bars("b", (1.0, 2.0, NAN), (0.5, NAN, NAN), (1.5, NAN, NAN))
    assert bars.whiskers() == [(0, 0.5, 0.5)]
    trace = panel_plot(Panel((bars,)))["data"][0]
    assert trace["error_y"]["array"] == [0.5, None, None]
    assert trace["y"] == [1.0, 2.0, None]
    without = panel_plot(Panel((Bars("b", (1.0,), (NAN,), (NAN,)),)))["data"][0]
    assert "error_y" not in without
    line = Line("l", (0.0, 1.0, 2.0), (1.0, 1.0, 1.0), (0.9, NAN, 0.9), (1.1, NAN, 1.1))
    band, _ = panel_plot(Panel((line,)))["data"]
    assert band["x"] == [0.0, 2.0, 2.0, 0.0]
    assert len(panel_plot(Panel((Line("l", (0.0,), (1.0,), (NAN,), (NAN,)),)))["data"]) == 1


def test_selectivity_without_intervals_says_why_and_shows_random_neurons(tmp_path):
    with RunWriter(tmp_path / "run", kind="regions") as run:
        rows = [
            {"language": x, "selectivity": 0.3, "low": NAN, "high": NAN, "why": "one document"} for x in ("en", "fr")
        ]
        run.table("selectivity", pd.DataFrame(rows))
        losses = [("en", 0.4), ("fr", 0.1)]
        run.table("perplexity", pd.DataFrame([
            {"language": x, "deactivated": "random", "draw": draw, "perplexity": 9.0, "increase_percent": 1.0,
             "delta_nll": value + draw}
            for x, value in losses for draw in (0, 1)
        ]))  # fmt: skip
        run.manifest.update(languages=["en", "fr"])
    figure = figures.specify(open_run(tmp_path / "run"), "selectivity")
    region, random = [mark for mark in figure.panels[0].marks if isinstance(mark, Bars)]
    assert region.whiskers() == []
    assert random.heights == pytest.approx([0.3, -0.3])  # (0.4 + 0.5) − (0.1 + 0.5), and the other way round
    assert "No intervals (one document)." in figure.caption


def test_stacked_bars_stand_on_each_other_and_hang_below_0():
    bars = [Bars("kept", (3.0,)), Bars("born", (2.0,)), Bars("lost", (-4.0,)), Bars("left", (-1.0,))]
    axes = figures.printed(Figure("", "", (Panel(tuple(bars), Axis(names=("a",)), bars="stack"),))).axes[0]
    assert [(bar.get_y(), bar.get_height()) for bar in axes.patches] == [(0, 3), (3, 2), (0, -4), (-4, -1)]
    assert panel_plot(Panel(tuple(bars), Axis(names=("a",)), bars="stack"))["layout"]["barmode"] == "relative"


def test_percentages_over_orders_of_magnitude_are_coloured_by_their_logarithm():
    cells = Cells(np.array([[0.0, 90.0], [-90.0, 990.0]]), palette="percent")
    assert cells.colour_values().tolist() == [[0.0, pytest.approx(1.0)], [pytest.approx(-1.0), pytest.approx(2.0)]]
    assert cells.ends() == (pytest.approx(-1.0), pytest.approx(2.0))


def test_the_download_has_every_drawn_number():
    line = Line((Code("fr"), "strict"), (0.0, 1.0), (2.0, 3.0), (1.0, NAN), (4.0, NAN))
    frame = drawn_numbers(Panel((line, Rule(0.0), Strip(0, 1))))
    assert frame.series.tolist() == ["fr strict", "fr strict"]
    assert frame.y.tolist() == [2.0, 3.0]
    cells = drawn_numbers(Panel((Cells(np.array([[1.0, 2.0]])),), Axis(names=("a", Code("b"))), Axis(names=("r",))))
    assert cells.to_dict("list") == {"row": ["r", "r"], "column": ["a", "b"], "value": [1.0, 2.0]}


def test_numbers_in_cells_stand_out_from_them():
    """Black or white, whichever has the contrast of 4.5 that WCAG asks for; plotly's own grey has 2 on the middle."""
    matrix = np.linspace(0, 1, 100).reshape(10, 10)
    cells = Cells(matrix, texts=tuple(tuple(f"{v:.2f}" for v in row) for row in matrix))
    names = tuple(map(str, range(10)))
    plot = panel_plot(Panel((cells,), Axis(names=names), Axis(names=names)))
    for value, shade in zip(np.linspace(0, 1, 100), plot["data"][1]["textfont"]["color"]):
        under = luminance(np.array(colormaps["viridis"](value)[:3]))
        above = 1.0 if shade == "#fff" else 0.0
        assert (max(under, above) + 0.05) / (min(under, above) + 0.05) >= 4.5
    assert plot["layout"]["yaxis"]["range"] == [9.5, -0.5]


# ---- rows ----


def test_rows_are_typed_and_a_missing_column_is_named(tmp_path):
    with RunWriter(tmp_path / "run", kind="regions") as run:
        run.table("selectivity", pd.DataFrame({"language": ["fr", None], "selectivity": [1, 2], "other": [0, 0]}))
    rows = read_rows(open_run(tmp_path / "run"), Selectivity)
    assert [row.language for row in rows] == ["fr", ""]
    assert isinstance(rows[0].selectivity, float)
    assert np.isnan(rows[0].low)
    with RunWriter(tmp_path / "two", kind="regions") as run:
        run.table("selectivity", pd.DataFrame({"language": ["fr"], "value": [1]}))
    with pytest.raises(RunError, match=r"'selectivity' of the run .*two has no column 'selectivity'"):
        read_rows(open_run(tmp_path / "two"), Selectivity)
    with RunWriter(tmp_path / "three", kind="regions") as run:
        run.table("selectivity", pd.DataFrame({"language": ["fr"], "selectivity": ["much"]}))
    with pytest.raises(RunError, match="holds something else than float in its column 'selectivity'"):
        read_rows(open_run(tmp_path / "three"), Selectivity)


def test_nine_languages_have_nine_colours():
    assert len({colour(place) for place in range(9)}) == 9
    assert len(set(COLOURS)) == len(COLOURS)


def test_an_axis_of_whole_numbers_has_no_more_ticks_than_numbers():
    lines = Panel((Line("", [0.0, 1.0, 4.0], [0.1, 0.2, NAN]),), Axis("layer", whole=True))
    assert panel_plot(lines)["layout"]["xaxis"]["nticks"] == 5
    cells = Panel((Cells(np.zeros((3, 20))),), Axis("head", whole=True), Axis("layer", whole=True))
    layout = panel_plot(cells)["layout"]
    assert (layout["xaxis"]["nticks"], layout["yaxis"]["nticks"]) == (10, 3)


def test_bands_of_latent_curves_stand_in_the_inner_layers_only(runs):
    lines = [one for one in figures.specify(runs["latent"], "latent_excess").panels[0].marks if isinstance(one, Line)]
    assert [line.banded() for line in lines] == [[1, 2, 3]] * 3
    assert [line.name for line in lines] == ["en", "fr", ("zh", "asked for")]
    word = figures.specify(runs["latent"], "latent_word").panels[0].marks
    assert [mark.at for mark in word if isinstance(mark, Rule)] == [0.3]


def test_the_highest_excess_stands_with_its_verdict_beside_what_counts(runs):
    shown = figures.specify(runs["latent"], "latent_highest")
    points = [mark for mark in shown.panels[0].marks if isinstance(mark, Points)]
    # layer 3 has the highest upper end of the inner layers
    assert [(one.name, one.x, one.y, one.low, one.high) for one in points] == [
        ("passes through", [0.0], pytest.approx([0.3]), pytest.approx([0.15]), pytest.approx([0.6]))
    ]
    assert shown.panels[0].x.names == ("en", "fr")
    assert [mark.at for mark in shown.panels[0].marks if isinstance(mark, Rule)] == [0.01, 0.0]


def test_one_candidate_is_held_against_what_counts_in_every_pair(tmp_path):
    key = {"lens": "logit", "scope": "solved", "language": "en", "target": "zh", "concepts": 30, "why": ""}
    outcomes = {"fr": "no sign", "vi": "undecided", "es": "not decidable"}
    counts = {"solved": 30, "asked": 40, "accuracy_low": 0.6, "accuracy_high": 0.9, "p": 0.5}
    places = {"strength_low": -0.1, "strength_high": 0.1, "peak_layer": 1, "handover_layer": 2}
    with RunWriter(tmp_path / "run", kind="latent") as run:
        run.table("verdicts", pd.DataFrame([
            {**key, **counts, **places, "source": code, "outcome": told, "strength": 0.0}
            for code, told in outcomes.items()
        ]))  # fmt: skip
        run.table("curves", pd.DataFrame([
            {**key, "source": code, "layer": layer, "mass": 0.1, "row": 0.1, "col": 0.1, "excess": 0.0,
             "excess_low": -high, "excess_high": high if layer == 1 else NAN}
            for code, high in (("fr", 0.005), ("vi", 0.02), ("es", NAN)) for layer in range(3)
        ]))  # fmt: skip
        run.manifest.update(languages=["en"], model={"id": "toy"}, summary={"least": 0.01})
    found = open_run(tmp_path / "run")
    panel = figures.specify(found, "latent_highest").panels[0]
    points = [mark for mark in panel.marks if isinstance(mark, Points)]
    assert [(one.name, one.x, one.high) for one in points[:2]] == [
        ("no sign", [0.0], [0.005]), ("undecided", [1.0], [0.02]),
    ]  # fmt: skip
    assert np.isnan(points[2].y).all()
    assert panel.x.names == ("fr→zh", "vi→zh", "es→zh")
    with pytest.raises(InputError, match="no candidate 'de'"):
        figures.specify(found, "latent_highest", candidate="de")


def test_faithfulness_stands_beside_heads_drawn_at_random(runs):
    lines = [
        one for one in figures.specify(runs["circuits"], "head_faithfulness").panels[0].marks if isinstance(one, Line)
    ]
    ranking, random = lines[:2]
    assert (ranking.y, ranking.dash, random.dash) == ([0.0, 0.6, 0.9], "solid", "dashed")
    assert random.y == pytest.approx([0.0, 0.12, 0.18])
    assert ranking.colour == random.colour


def test_routing_of_one_language_stands_beside_its_null(runs):
    lines = figures.specify(runs["regions"], "routing_by_layer", language="fr").panels[0].marks
    assert [drawn.name for drawn in lines] == ["fr", ("fr", "unrelated sentences"), "by chance"]
    assert lines[0].banded() == lines[2].banded() == [0, 1, 2, 3]
    assert lines[2].y == [0.05] * 4
