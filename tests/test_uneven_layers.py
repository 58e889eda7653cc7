"""Models whose layers differ in how many neurons they have: nothing is read, drawn or switched off a place beside."""

from __future__ import annotations

import json
from functools import lru_cache

import numpy as np
import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaMLP

from babelscope.errors import InputError
from babelscope.evolution.flow import flow
from babelscope.models import Model, Site, capture
from babelscope.models.gate import require
from babelscope.models.neuron_layout import NeuronLayout
from babelscope.models.rows import RowEdit, edited_rows
from babelscope.regions.agreement import compare
from babelscope.regions.deactivation import changes_of, deactivate
from babelscope.regions.exchange import export_regions, import_regions
from babelscope.regions.localisation import within_language_scores, within_language_sums
from babelscope.regions.masks import RegionSet, load_regions, random_region, random_region_by_layer, save_regions
from babelscope.regions.methods import localise
from babelscope.regions.recording import Recording, record
from babelscope.regions.routed_lape import routed_tokens
from babelscope.regions.similarity import layer_means
from babelscope.regions.sinks import normalised
from babelscope.regions.treatments import language_means, top_share
from babelscope.report import write_report
from babelscope.studies.regions import RegionsSettings, study_regions

from .region_data import LANGUAGES, corpus, texts
from .tiny_mixtures import mixture_weights
from .tiny_models import tiny_model, tiny_tokenizer

WIDTHS = (40, 24, 56)


@lru_cache(1)
def uneven() -> Model:
    """A LLaMA of three layers with 40, 24 and 56 neurons."""
    hf = tiny_model("llama")
    torch.manual_seed(3)
    for block, width in zip(hf.model.layers, WIDTHS, strict=True):
        config = hf.config.to_dict() | {"intermediate_size": width}
        block.mlp = LlamaMLP(type(hf.config)(**config))
        with torch.no_grad():
            for weight in block.mlp.parameters():
                weight.normal_(0, 0.3)
    return Model(hf.eval(), tiny_tokenizer(), id="uneven")


def made(widths: tuple[int, ...], languages: int = 3, sentences: int = 6) -> Recording:
    generator = torch.Generator().manual_seed(0)
    v = torch.rand(languages, sentences, sum(widths), generator=generator, dtype=torch.float64) + 0.1
    tokens = torch.randint(3, 30, (languages, sentences), generator=generator)
    ids = tuple(map(str, range(sentences)))
    return Recording(LANGUAGES[:languages], ids, len(widths), v.numpy(), tokens, 0.0, widths=widths)


def test_a_row_of_neurons_and_a_matrix_by_layer():
    layout = NeuronLayout((2, 0, 3))
    row = torch.arange(10.0).reshape(2, 5)
    matrix = layout.by_layer(row, torch.nan)
    assert matrix.shape == (2, 3, 3)
    assert torch.equal(layout.in_a_row(matrix), row)
    assert torch.equal(matrix.isnan(), ~layout.exists.expand(2, 3, 3))
    assert matrix[1, 2].tolist() == [7, 8, 9]
    names = [layout.name(place) for place in range(5)]
    assert names == [(0, 0), (0, 1), (2, 0), (2, 1), (2, 2)]
    assert [layout.place(*name) for name in names] == list(range(5))
    assert layout.with_neurons == [0, 2]
    for layer, neuron in ((1, 0), (0, 2), (3, 0), (0, -1)):
        with pytest.raises(InputError, match="there is no"):
            layout.place(layer, neuron)
    with pytest.raises(InputError, match="7 neurons do not divide into 2 layers"):
        NeuronLayout.even(2, 7)


def test_recorded_means_are_those_of_a_plain_loop():
    model, sample = uneven(), corpus(2, 3)
    assert model.widths == WIDTHS
    require(model, "circuits")
    found = record(model, sample, activity=True)
    assert found.widths == WIDTHS
    for row, code in enumerate(sample.languages):
        for column, text in enumerate(sample.texts[code]):
            inputs: list[torch.Tensor] = []

            def keep(_: object, args: tuple[torch.Tensor, ...], into: list[torch.Tensor] = inputs) -> None:
                into.append(args[0][0])

            handles = [block.mlp.down_proj.register_forward_pre_hook(keep) for block in model.hf.model.layers]
            with torch.inference_mode():
                model.hf(input_ids=torch.tensor(model.tokenize([text])))
            for handle in handles:
                handle.remove()
            for layer, h in enumerate(inputs):
                torch.testing.assert_close(found.layer(layer)[row, column], h.mean(0), atol=1e-6, rtol=1e-4)


def test_scores_and_curves_are_those_of_each_layer_alone():
    whole = made((4, 3, 6))
    curves = layer_means(whole)
    scores = whole.layout.by_layer(within_language_scores(within_language_sums(whole)), torch.nan)
    norms = whole.norms()[..., None].numpy()
    start = 0
    for layer, width in enumerate((4, 3, 6)):
        part = whole.means[:, :, start : start + width]
        alone = Recording(whole.languages, whole.ids, 1, part, whole.tokens, 0.0)
        own = layer_means(alone)
        assert float(curves.lrds[layer]) == pytest.approx(float(own.lrds[0]), rel=1e-12)
        n = part.shape[1]
        for neuron in range(width):
            # eq. 11: products of two different sentences, written out
            x = (part / norms)[:, :, neuron]
            expected = [sum(v[i] * v[j] for i in range(n) for j in range(n) if i != j) / (n * (n - 1)) for v in x]
            np.testing.assert_allclose(scores[:, layer, neuron], expected, rtol=1e-9)
        start += width


def test_a_layer_without_neurons_has_no_numbers():
    found = made((4, 0, 5))
    curves = layer_means(found)
    assert torch.isnan(curves.lrds).tolist() == [False, True, False]
    assert normalised(found)[0].layer(1).shape == (3, 6, 0)


def test_a_sink_is_named_by_its_layer_and_leaves_that_layers_norm():
    recording = made((3, 30, 40), sentences=20)
    means = recording.means.copy()
    means[:, :, 3 + 17] = 40.0 / recording.tokens.numpy()
    found, sinks = normalised(Recording(recording.languages, recording.ids, 3, means, recording.tokens, 0.0,
                                        widths=recording.widths))  # fmt: skip
    assert {(one.layer, one.neuron) for one in sinks} == {(1, 17)}
    assert bool((found.layer(1)[..., 17] == 0).all())
    assert bool((found.layer(2)[..., 17] > 0).all())


def test_regions_name_the_planted_neurons():
    recording = made((3, 8, 5), languages=6)
    means = recording.means.copy()
    means[2, :, 3 + 7] += 8  # layer 1, neuron 7: no other layer has a neuron 7
    means[4, :, 11 + 4] += 8  # layer 2, neuron 4
    planted = Recording(recording.languages, recording.ids, 3, means, recording.tokens, 0.0, widths=recording.widths)
    found = localise(planted, "z-score", threshold=2.0)
    assert bool(found.masks[LANGUAGES[2]][1, 7])
    assert bool(found.masks[LANGUAGES[4]][2, 4])
    beyond = ~planted.layout.exists
    for code in LANGUAGES[:6]:
        assert not bool((found[code] & beyond).any())
        assert bool(found.scores[code][beyond].isnan().all())
    best = top_share(found.scores[LANGUAGES[2]], 1 / 16, planted.layout)
    assert int(best.sum()) == 1
    assert not bool((best & beyond).any())
    assert language_means(planted)[2, 1, 7] == pytest.approx(means[2, :, 10].mean())
    for method in ("random", "random-layer"):
        drawn = localise(planted, method, like=found)
        assert drawn.sizes == found.sizes
        assert not any(bool((mask & beyond).any()) for mask in drawn.masks.values())


@pytest.mark.parametrize(("layer", "neuron"), [(0, 39), (1, 23), (2, 55), (2, 3)])
def test_a_neuron_switched_off_is_its_weight_set_to_zero(layer: int, neuron: int):
    model = uneven()
    mask = torch.zeros(3, 56, dtype=torch.bool)
    mask[layer, neuron] = True
    ids = torch.tensor([[5, 9, 17, 4, 33]])
    with torch.inference_mode():
        with deactivate(model, mask):
            switched = model.hf(ids).logits
        with edited_rows(model, [RowEdit(changes_of(mask), first=True)]):
            row = model.hf(ids).logits
        weight = model.hf.model.layers[layer].mlp.down_proj.weight
        kept = weight[:, neuron].clone()
        weight[:, neuron] = 0
        edited = model.hf(ids).logits
        weight[:, neuron] = kept
        assert not torch.equal(model.hf(ids).logits, edited)
    torch.testing.assert_close(switched, edited, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(row, edited, atol=1e-5, rtol=1e-4)


def test_a_mask_beyond_a_layer_is_refused():
    model = uneven()
    mask = torch.zeros(3, 56, dtype=torch.bool)
    mask[1, 30] = True
    with pytest.raises(InputError, match="names neuron 30 of layer 1, but that layer of uneven has 24"), \
            deactivate(model, mask):  # fmt: skip
        pass
    with pytest.raises(InputError, match="names neuron 30 of a layer that has 24"), \
            edited_rows(model, [RowEdit(changes_of(mask), first=True)]), torch.inference_mode():  # fmt: skip
        model.hf(torch.tensor([[5, 9]]))
    with pytest.raises(InputError, match=r"a mask of shape \(3, 40\) does not fit"), deactivate(model, mask[:, :40]):
        pass


def test_controls_are_drawn_from_the_neurons_that_exist():
    exists = NeuronLayout(WIDTHS).exists
    everything = random_region(sum(WIDTHS), WIDTHS, 0)
    assert torch.equal(everything, exists)
    assert torch.equal(random_region_by_layer(WIDTHS, WIDTHS, 0), exists)
    assert random_region_by_layer((3, 0, 50), WIDTHS, 1).sum(1).tolist() == [3, 0, 50]


def test_region_files_come_back_as_they_were(tmp_path):
    found = localise(made((3, 8, 5), languages=6), "z-score", threshold=1.0)
    assert all(found.sizes.values())
    save_regions(found, tmp_path / "r.safetensors")
    back = load_regions(tmp_path / "r.safetensors")
    export_regions(found, tmp_path / "r.json")
    again = import_regions(tmp_path / "r.json")
    assert "widths" not in back.facts
    for other in (back, again):
        assert other.layout == found.layout == NeuronLayout((3, 8, 5))
        assert all(torch.equal(other[code], found[code]) for code in found.languages)
    assert {row.neurons for row in compare(found, back)} == {16}
    assert {row.jaccard for row in compare(found, back)} == {1.0}
    assert flow(found, back).table["kept"].sum() == found.total
    empty = RegionSet({code: mask & False for code, mask in found.masks.items()}, "m", widths=found.widths)
    born = flow(empty, found).pairs.query("language == ''")
    assert born.neurons.sum() == found.total


@pytest.mark.parametrize(
    ("widths", "told"),
    [
        ([3, 8], "layers × neurons are"), ([3, 7, 5], "layers × neurons are"), ([3, 8, 4], "names neuron 4 of layer 2"),
        ([3, 8.0, 5], "not a list of whole numbers"), ([3, 8, -5], "not a list"), ("388", "not a list"),
    ],
)  # fmt: skip
def test_region_files_with_wrong_widths_are_refused(tmp_path, widths, told):
    from safetensors.torch import save_file

    facts = {"format": 1, "method": "z", "languages": ["en"], "widths": widths}
    mask = NeuronLayout((3, 8, 5)).exists.to(torch.uint8)
    save_file({"mask/en": mask}, tmp_path / "r.safetensors", metadata={"babelscope": json.dumps(facts)})
    with pytest.raises(InputError, match=told) as error:
        load_regions(tmp_path / "r.safetensors")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("widths", [[3, 8], [3, 8, "5"], [3, 8, -1], [], [3, 8, True]])
def test_regions_as_json_with_wrong_widths_are_refused(tmp_path, widths):
    content = {"method": "m", "layers": 3, "neurons_per_layer": widths, "regions": {"en": [[0], [7], []]}}
    (tmp_path / "r.json").write_text(json.dumps(content))
    with pytest.raises(InputError):
        import_regions(tmp_path / "r.json")


def test_regions_of_other_layers_are_not_compared():
    masks = {"en": torch.zeros(3, 8, dtype=torch.bool)}
    one, other = RegionSet(masks, "m", widths=(3, 8, 5)), RegionSet(masks, "m", widths=(8, 3, 5))
    for work in (compare, flow):
        with pytest.raises(InputError, match=r"of models of different shape|of different models"):
            work(one, other)


def test_tokens_routed_to_an_expert_are_counted_behind_a_dense_layer():
    model = Model(mixture_weights("qwen3_moe"), tiny_tokenizer(), id="dense first")
    assert len(set(model.widths)) > 1
    found = record(model, corpus(2, 3), activity=True)
    reach, routing = routed_tokens(found), found.routing
    assert routing is not None
    totals = found.tokens.sum(1).double()
    assert torch.equal(reach[:, : model.widths[0]], totals[:, None].expand(-1, model.widths[0]))
    counts, units = routing.routed_tokens(), model.mixtures[1].units
    for place, layer in enumerate(model.mixtures):
        for expert in range(model.mixtures[layer].count):
            first = model.offsets[layer] + expert * units
            assert torch.equal(reach[:, first], counts[:, place, expert])
            # a neuron of an expert that no token reached is silent
            assert bool((torch.from_numpy(found.means)[:, :, first].abs().sum(1)[reach[:, first] == 0] == 0).all())
    with capture(model, [Site("neurons", 0)]) as seen, torch.inference_mode():
        model.trunk(torch.tensor([[4, 5]]))
    assert seen[Site("neurons", 0)].shape[-1] == model.widths[0]


def test_a_whole_study(tmp_path):
    settings = RegionsSettings(
        "memory", texts="memory", samples=10, threshold=1.9, permutations=10, bootstrap=5, controls=1, doses=(0.1,),
        kinds=("mean-others",), methods=("lape", "average-precision", "random-layer"), alignment=True,
        alignment_neurons=(0.1,), text_tokens=32,
    )  # fmt: skip
    run = study_regions(uneven(), settings, tmp_path / "run", corpus=corpus(6, 10), texts=texts(6))
    layout, arrays = NeuronLayout(WIDTHS), run.arrays()
    beyond = ~layout.exists.numpy()
    for name in ("score", "z", "d"):
        assert arrays[name].shape == (6, 3, 56)
        assert np.isnan(arrays[name].values[:, beyond]).all()
    assert not np.isnan(arrays.score.values[:, ~beyond]).any()
    assert np.isnan(run.arrays("null").p.values[:, beyond]).all()
    assert float(np.nansum(arrays.score)) / 6 == pytest.approx(run.summary["same_language"], rel=1e-4)
    assert run.summary["neurons"] == sum(WIDTHS)
    for name in ("contrast", "z-score", "lape", "average-precision", "random-layer"):
        assert load_regions(run.file(f"regions/{name}.safetensors")).layout == layout
    assert set(run.table("methods").neurons) == {sum(WIDTHS)}
    assert run.manifest["model"]["neurons_per_layer"] == list(WIDTHS)
    assert set(run.table("dose").neurons) == {round(0.1 * sum(WIDTHS))}
    page = write_report([run], tmp_path / "report.html")
    assert page.stat().st_size > 10_000


def test_a_whole_study_of_a_mixture(tmp_path):
    model = Model(mixture_weights("qwen3_moe"), tiny_tokenizer(), id="dense first")
    settings = RegionsSettings(
        "memory", texts="memory", samples=8, threshold=1.9, methods=("lape", "lape-routed"), controls=1, bootstrap=2,
        text_tokens=32,
    )  # fmt: skip
    run = study_regions(model, settings, tmp_path / "run", corpus=corpus(6, 8), texts=texts(6))
    layout = NeuronLayout(model.widths)
    assert np.isnan(run.arrays().score.values[:, ~layout.exists.numpy()]).all()
    assert load_regions(run.file("regions/lape-routed.safetensors")).layout == layout
