"""Every figure is drawn from a run, shows the run's numbers, and saves the same bytes twice."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure

from babelscope import plots
from babelscope.errors import InputError, RunError
from babelscope.plots import fonts, frames

from .synthetic_runs import LANGUAGES, write_circuits, write_regions, write_sweep

NAMES = sorted(name for name, one in plots.FIGURES.items() if one.kind in ("regions", "circuits", "sweep"))
"""figures of other kinds are drawn by the tests of their studies"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    made = (write_regions(folder / "r"), write_circuits(folder / "c"), write_sweep(folder / "s"))
    return {run.kind: run for run in made}


def test_every_figure_is_given_by_the_kind_it_is_for(runs):
    given = {name for run in runs.values() for name in plots.figure_names(run)}
    assert given == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_figure_is_drawn_and_laid_out_without_a_warning(runs, name, tmp_path):
    drawing = plots.draw(runs[plots.FIGURES[name].kind], name)
    assert isinstance(drawing, Figure)
    path = plots.save_figure(drawing, tmp_path / f"{name}.png", dpi=40)
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("ending", ["pdf", "svg", "png"])
def test_the_same_run_gives_the_same_bytes(runs, tmp_path, ending):
    one, two = (
        plots.save_figure(plots.layer_curves(runs["regions"]), tmp_path / f"{name}.{ending}").read_bytes()
        for name in "ab"
    )
    assert one == two


def test_the_similarity_map_is_the_array_from_0_to_1(runs):
    (image,) = plots.similarity_map(runs["regions"]).axes[0].images
    assert np.array_equal(np.asarray(image.get_array()), runs["regions"].arrays().similarity.values)
    assert (image.norm.vmin, image.norm.vmax, image.cmap.name) == (0, 1, "viridis")


def test_layer_curves_show_the_run(runs):
    axes = plots.layer_curves(runs["regions"]).axes[0]
    assert np.array_equal(axes.lines[0].get_ydata(), runs["regions"].arrays().lrds_layer.values)
    assert len(axes.collections) == 2


def test_perplexity_controls_are_means_over_draws(runs):
    table = runs["regions"].table("perplexity")
    grid = frames.perplexity_grid(runs["regions"])
    draws = table[(table.language == "hi") & (table.deactivated == "random")].increase_percent
    assert grid.increase.loc["hi", "random"] == pytest.approx(draws.mean())
    assert grid.spread.loc["hi", "random"] == pytest.approx(draws.std(ddof=0))
    assert np.isnan(grid.spread.loc["hi", "zh"])
    assert grid.draws == {"random": 3, "random-layer": 3}
    assert list(grid.increase.columns) == ["random", "random-layer", *LANGUAGES]


def test_the_published_table_stands_beside_its_own_model_and_on_request(tmp_path, runs):
    def heatmaps(drawing):
        return [axes for axes in drawing.axes if axes.get_xlabel() == "deactivated"]

    assert len(heatmaps(plots.perplexity_heatmap(runs["regions"]))) == 1
    assert len(heatmaps(plots.perplexity_heatmap(runs["regions"], beside="llama-2-7b"))) == 2
    bloom = write_regions(tmp_path / "bloom", model="bigscience/bloom-7b1")
    published = heatmaps(plots.perplexity_heatmap(bloom))[1]
    assert {"1498", "309", "47"} <= {text.get_text() for text in published.texts}
    with pytest.raises(InputError, match="no published numbers for 'gpt2'"):
        plots.perplexity_heatmap(runs["regions"], beside="gpt2")


def test_published_numbers_add_up():
    bloom, llama = plots.published("bloom-7b1"), plots.published("llama-2-7b")
    # the totals that the paper states: 42.1 % and 71.8 % of all neurons
    assert sum(bloom.region_size.values()) / bloom.neurons == pytest.approx(0.421, abs=5e-4)
    assert sum(llama.region_size.values()) / llama.neurons == pytest.approx(0.718, abs=5e-4)
    assert plots.published_for("meta-llama/Llama-2-7b-hf") == llama
    assert plots.published_for("bigscience/bloom-560m") is None


def test_what_a_run_cannot_give_is_said(runs, tmp_path):
    with pytest.raises(InputError, match=r"there is no figure 'pie'; this run gives: .*similarity_map"):
        plots.draw(runs["regions"], "pie")
    with pytest.raises(RunError, match="is of kind regions, not circuits"):
        plots.head_heatmap(runs["regions"])
    with pytest.raises(RunError, match="has no table:perplexity"):
        plots.perplexity_heatmap(write_regions(tmp_path / "bare", texts=False))
    with pytest.raises(InputError, match="no measure 'x' of heads; it has: activation_patching"):
        plots.head_heatmap(runs["circuits"], measure="x")
    with pytest.raises(InputError, match="has no language 'sw'"):
        plots.head_scatter(runs["circuits"], "en", "sw")
    with pytest.raises(InputError, match=r"saved as \.pdf, \.png or \.svg"):
        plots.save_figure(Figure(), tmp_path / "x.gif")


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
        plots.save_figure(plots.regions_by_layer(runs["regions"], labels=labels), tmp_path / "x.png", dpi=40)


def test_drawing_leaves_the_callers_settings_alone(runs):
    import matplotlib

    before = dict(matplotlib.rcParams)
    plots.region_sizes(runs["regions"])
    assert dict(matplotlib.rcParams) == before


def test_sweeps_put_points_in_order_and_leave_failures_out(runs):
    run = runs["sweep"]
    assert frames.checkpoints(run).step.tolist() == [1000, 10000, 100000, 200000, 300000]
    assert frames.same_weights(frames.checkpoints(run)) == [False, False, False, True, False]
    scales = frames.scales(run)
    assert scales.parameters.is_monotonic_increasing
    assert "toy/broken" not in set(scales.model)
