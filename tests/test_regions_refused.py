"""What regions refuse, and in which words: files, names, counts and shapes that are none."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from babelscope.corpora import ParallelCorpus
from babelscope.errors import CorpusError, EditNeverFired, InputError, NonFinite
from babelscope.models import Site, edit
from babelscope.regions import methods, residual
from babelscope.regions.blocks import RecomputedMeans
from babelscope.regions.contrast import ContrastSettings, Stack, contrast
from babelscope.regions.exchange import import_lape, import_regions
from babelscope.regions.expert_deactivation import without_experts
from babelscope.regions.headlines import headlines, z_reason
from babelscope.regions.masks import RegionSet, load_regions, save_regions
from babelscope.regions.methods import Found, localise
from babelscope.regions.nulls import excess_interval, score_null
from babelscope.regions.perplexity import refuse_non_finite
from babelscope.regions.recording import Span, record
from babelscope.regions.routed_lape import routed_activity
from babelscope.regions.routing import reference_place, routing_recording
from babelscope.regions.routing_recording import record_routing
from babelscope.regions.similarity import unit
from babelscope.regions.sinks import normalised
from babelscope.regions.stability import spread

from .planted_moe import corpus as planted_corpus
from .planted_moe import planted
from .region_data import corpus, model, noise

MASK = torch.tensor([[True, False, True], [False, False, True]])


def refused(told, run):
    with pytest.raises(InputError) as found:
        run()
    assert told in str(found.value)


def test_a_contrast_that_cannot_be_made():
    rec = noise(3, 6, 8)
    refused("an effect of -0.5 standard deviations", lambda: contrast(rec, ContrastSettings(effect=-0.5)))
    refused("there is en", lambda: contrast(noise(1, 6, 8)))
    refused("against: hi, vi is not among en, zh, fr", lambda: contrast(rec, ContrastSettings(against=("hi", "vi"))))
    refused("needs at least two sentences", lambda: contrast(noise(3, 1, 8)))
    assert contrast(rec, ContrastSettings(effect=0.0)).documents == 6


@pytest.mark.parametrize(("sentences", "documents"), [(6, 1), (8, 4)])
def test_of_few_documents_there_are_effects_and_no_regions(sentences, documents):
    ids = tuple(str(place % documents) for place in range(sentences))
    found = contrast(replace(noise(3, sentences, 8), documents=ids))
    assert found.why == f"regions need 5 documents; there are {documents}"
    assert found.p_raised.isnan().all()
    assert found.p_lowered.isnan().all()
    assert not (found.raised | found.lowered).any()
    assert not found.d.isnan().any()
    assert bool(found.d_low.isnan().all()) == (documents == 1)
    assert contrast(noise(3, 5, 8)).why == ""


def test_one_document_has_no_error():
    ones = torch.ones(2, 1, 3, dtype=torch.float64)
    assert Stack(ones, ones, torch.tensor([4.0]).double()).errors(torch.eye(2).double()).isnan().all()
    alone = headlines(replace(noise(3, 6, 8), documents=("a",) * 6))
    assert math.isnan(alone.language_share.value)
    assert (alone.strong_neurons.why, alone.effect) == ("one document", 0.5)
    null = score_null(noise(), draws=2)
    found = excess_interval(null, torch.tensor([3, 4]), 1)
    assert (found.value, found.why) == (null.excess, "one document")
    assert math.isnan(found.low)


def test_what_z_needs_is_said_in_words():
    assert z_reason(2.0, 2) == "z is ±1 for every neuron with two languages"
    assert z_reason(2.0, 5) == "z > 2 needs six languages"
    assert z_reason(1.0, 3) == "z > 1 needs three languages"
    assert z_reason(1.5, 3) == "z > 1.5 needs four languages"
    assert z_reason(2.8, 3) == "z > 2.8 needs nine languages"
    assert z_reason(3.0, 3) == "z > 3 needs 11 languages"


def save(tmp_path, content, name="masks"):
    torch.save(content, tmp_path / name)
    return tmp_path / name


def test_masks_of_lape_that_are_none(tmp_path):
    def read(content):
        return lambda: import_lape(save(tmp_path, content), ["en"], 2, 3)

    nothing = torch.tensor([], dtype=torch.long)
    refused("layer 1 of en names 4 neurons, but there are 3", read([[nothing, torch.tensor([0, 1, 2, 2])]]))
    refused("layer 0 of en names a neuron twice", read([[torch.tensor([1, 1]), nothing]]))
    refused("layer 0 of en is not a list of neuron numbers", read([[torch.tensor(1), nothing]]))
    refused("layer 0 of en is not a list of neuron numbers", read([[torch.tensor([[1]]), nothing]]))
    refused("layer 0 of en is not a list of neuron numbers", read([[torch.tensor([1.0]), nothing]]))
    refused("layer 0 of en is not a list of neuron numbers", read([[[1], nothing]]))
    refused("the mask of en has 1 layers, not 2", read([[nothing]]))
    refused("the mask of en has 3 layers, not 2", read([[nothing] * 3]))
    refused("the mask of en has int layers, not 2", read([5]))
    refused("not a list of masks, one per language", read([]))
    refused("not a list of masks, one per language", read(5))
    assert read(((nothing, torch.tensor([2, 0, 1])),))().by_layer() == {"en": [0, 3]}
    wide = save(tmp_path, [[torch.arange(1000), nothing]])
    assert import_lape(wide, ["en"], 2, 1000).by_layer() == {"en": [1000, 0]}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"layers": "2"}, "layers is missing or of another kind"),
        ({"layers": True}, "layers is missing"),
        ({"regions": [1]}, "regions is missing"),
        ({"method": 3}, "method is missing"),
        ({"facts": [1]}, "facts is missing"),
        ({"regions": {"en": [3, 4]}}, "a list of neuron numbers per layer is missing"),
        ({"regions": {"en": 3}}, "a list of neuron numbers per layer is missing"),
        ({"neurons_per_layer": [3, -1]}, "something else than numbers of neurons"),
        ({"neurons_per_layer": [3, 2.0]}, "something else than numbers of neurons"),
        ({"neurons_per_layer": [3, 3, 3]}, "neurons_per_layer names 3 layers, not 2"),
        ({"neurons_per_layer": [0, 0]}, "2 layers of 0 neurons in 1 languages are no model's regions"),
        ({"layers": 0, "regions": {"en": []}}, "0 layers of 3 neurons"),
        ({"regions": {}}, "2 layers of 3 neurons in 0 languages"),
        ({"layers": 2001}, "2001 layers of 3 neurons"),
    ],
)
def test_json_that_is_no_regions(tmp_path, changes, told):
    file = tmp_path / "r.json"
    whole = {"method": "m", "layers": 2, "neurons_per_layer": 3, "regions": {"en": [[0, 2], []]}}
    file.write_text(json.dumps(whole), encoding="utf-8")
    assert import_regions(file).by_layer() == {"en": [2, 0]}
    file.write_text(json.dumps(whole | changes), encoding="utf-8")
    refused(told, lambda: import_regions(file))


def test_json_of_layers_of_several_widths(tmp_path):
    file = tmp_path / "r.json"
    whole = {"method": "m", "layers": 2, "neurons_per_layer": [3, 1], "regions": {"en": [[2], [0]]}}
    file.write_text(json.dumps(whole), encoding="utf-8")
    found = import_regions(file)
    assert (found.widths, found["en"].tolist()) == ((3, 1), [[False, False, True], [True, False, False]])
    whole["regions"] = {"en": [[2], [1]]}
    file.write_text(json.dumps(whole), encoding="utf-8")
    refused("layer 1 of en names a neuron beyond 0", lambda: import_regions(file))
    refused("no such file", lambda: import_regions(tmp_path / "absent.json"))
    file.write_text("[1]", encoding="utf-8")
    refused("a mapping is missing", lambda: import_regions(file))


def written(tmp_path, tensors, **facts):
    told = {"format": 1, "method": "m", "languages": ["en"], **facts}
    save_file(tensors, tmp_path / "r.safetensors", {"babelscope": json.dumps(told)})
    return lambda: load_regions(tmp_path / "r.safetensors")


@pytest.mark.wrong_kind
def test_files_of_regions_that_hold_something_else(tmp_path):
    good = {"mask/en": MASK.to(torch.uint8)}
    score = torch.ones(2, 3)
    assert torch.equal(written(tmp_path, good)()["en"], MASK)
    assert written(tmp_path, good | {"score/en": score})().scores["en"].tolist() == score.tolist()
    refused("something else than 0 and 1", written(tmp_path, {"mask/en": MASK.to(torch.uint8) * 2}))
    refused("something else than 0 and 1", written(tmp_path, {"mask/en": MASK.float()}))
    refused("do not have the shape of its mask", written(tmp_path, good | {"score/en": torch.ones(3, 2)}))
    refused("do not have the shape of its mask", written(tmp_path, good | {"score/en": MASK.to(torch.uint8)}))
    refused("named twice, or are no list", written(tmp_path, good, languages=["en", "en"]))
    refused("named twice, or are no list", written(tmp_path, good, method=3))
    refused("the masks do not have one shape", written(tmp_path, {"mask/en": torch.ones(3).to(torch.uint8)}))
    refused("not a list of whole numbers", written(tmp_path, good, widths=[3, -1]))
    refused("not a list of whole numbers", written(tmp_path, good, widths=[3, True]))
    refused("not a list of whole numbers", written(tmp_path, good, widths=[2**31, 3]))
    refused("not a list of whole numbers", written(tmp_path, good, widths=7))
    refused("a newer format", written(tmp_path, good, format=2))
    with pytest.raises(InputError):
        written(tmp_path, good, widths=[3, 2])()  # neuron 2 of layer 1 is in the region


def test_layers_of_several_widths_are_saved(tmp_path):
    mask = torch.tensor([[True, False, True], [True, False, False]])
    save_regions(RegionSet({"en": mask}, "m", widths=(3, 1)), tmp_path / "r.safetensors")
    found = load_regions(tmp_path / "r.safetensors")
    assert (found.widths, found.layout.neurons, found.total) == ((3, 1), 4, 3)
    refused("no run: give a run directory", lambda: load_regions(tmp_path))


def test_a_region_as_a_table_and_in_a_line():
    found = RegionSet({"en": MASK, "zh": ~MASK}, "hand", scores={"en": torch.arange(6.0).reshape(2, 3)})
    rows = found.to_frame().values.tolist()
    assert rows[:3] == [["en", 0, 0, 0.0], ["en", 0, 2, 2.0], ["en", 1, 2, 5.0]]
    assert [row[:3] for row in rows[3:]] == [["zh", 0, 1], ["zh", 1, 0], ["zh", 1, 1]]
    assert all(math.isnan(row[3]) for row in rows[3:])
    assert list(found.to_frame("zh").language.unique()) == ["zh"]
    assert repr(found) == "<RegionSet by hand: en 3, zh 3 neurons>"
    refused("no region for 'fr'; there are en, zh", lambda: found.to_frame("fr"))
    assert repr(noise(2, 3, 4000)) == "<Recording of 4,000 neurons in 1 layers: 3 sentences in en, zh>"


@pytest.mark.wrong_kind
def test_methods_of_others_that_give_no_scores(monkeypatch):
    rec = noise(3, 6, 8)
    good = Found(torch.zeros(3, 8), torch.zeros(3, 8, dtype=torch.bool))
    for wrong in (
        Found(good.scores[:, :7], good.members),
        Found(good.scores, good.members[:2]),
        Found(good.scores, good.members.float()),
    ):
        with pytest.raises(ValueError, match=r"must be \[language, neuron\], here \[3, 8\]$"):
            methods._checked(wrong, rec)
    with pytest.raises(TypeError, match=r"it gives tuple, not Found$"):
        methods._checked((good.scores, good.members), rec)  # type: ignore[arg-type]
    assert methods._checked(good, rec) is good
    refused("relevance is measured on text", lambda: localise(rec, "relevance"))


@pytest.mark.wrong_kind
def test_norms_that_are_none():
    rec = noise(3, 6, 8)
    refused("no norm 'odd'; there are robust, paper and none", lambda: normalised(rec, "odd"))
    for share in (0.0, 1.0, -0.1):
        refused(
            f"a sink share of {share:g} is not between 0 and 1", lambda share=share: normalised(rec, "paper", share)
        )
    assert math.isnan(spread(torch.tensor([math.nan])).mean)
    refused("layer 3: all neurons are silent for language 1, sentence 2", lambda: unit(silent(), 3))


def silent():
    v = torch.ones(2, 3, 4, dtype=torch.float64)
    v[1, 2] = 0
    return v


def test_blocks_are_read_without_gaps():
    means = RecomputedMeans((2, 3, 8), lambda columns: np.ones((2, 3, columns.stop - columns.start), np.float32))
    refused("without gaps", lambda: means[:, :, slice(0, 8, 2)])
    refused("without gaps", lambda: means[:, :, slice(8, 0, -1)])
    assert means[:, :, slice(0, 8, 1)].shape == (2, 3, 8)


def test_texts_that_cannot_be_recorded_or_scored():
    loaded = model()
    empty = ParallelCorpus.from_texts({"en": ["ab", "cd"], "zh": ["ab", " cd"]})
    empty.texts["zh"] = type(empty.texts["zh"])(["ab", " "])
    with pytest.raises(CorpusError, match=r"language zh, sentence \S+: the text is empty$"):
        record(loaded, empty)
    single = ParallelCorpus.from_texts({"en": ["a", "ab"], "zh": ["ab", "c"]})
    with pytest.raises(CorpusError, match="single token in some language"):
        record(loaded, single, span=Span(first="drop"))
    with pytest.raises(NonFinite, match=r"first in document 3$"):
        refuse_non_finite(loaded, torch.tensor([0.0, 1.0, math.nan, math.inf]))


@pytest.mark.wrong_kind
def test_residuals_that_cannot_be_pooled():
    loaded, sentences = model(), corpus(2, 3)
    refused(
        "no pooling first; there are mean, last, weighted",
        lambda: residual.record_residual(loaded, sentences, ("first",)),
    )
    with (
        edit(loaded, {Site("residual", 1): lambda h: h * math.nan}),
        pytest.raises(NonFinite, match="language en, sentence "),
    ):
        residual.record_residual(loaded, sentences, ("mean",))


def test_experts_and_routing_that_are_not_there():
    routing = record_routing(planted(), planted_corpus())
    refused("no language 'xx' to compare with; there are en, zh", lambda: reference_place(routing, "xx"))
    uneven = replace(routing, experts=(8, 7, 8))
    refused("layers with the same number of experts", lambda: routing_recording(uneven))
    refused("no layer chooses experts", lambda: routing_recording(replace(routing, hashed=routing.layers)))
    refused("activity=True", lambda: routed_activity(noise()))
    loaded, ids = planted(), torch.tensor([[4, 5, 6]])
    with (
        pytest.raises(EditNeverFired, match=r"used 3 times$"),
        without_experts(loaded, {0: [1]}, "reroute") as told,
    ):
        loaded.trunk(ids)
        told.still_used = 3
