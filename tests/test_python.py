"""Python as people type it: short answers at the prompt, data as they have it, five tasks in three lines each."""

from __future__ import annotations

import ast
from pathlib import Path

import pandas as pd
import pytest

import babelscope as bs
from babelscope.errors import CorpusError, InputError
from babelscope.settings import syntax_tree

SENTENCES = {"en": ["The cat sleeps.", "A dog runs."], "fr": ["Le chat dort.", "Un chien court."]}


@pytest.fixture(scope="module")
def model():
    return bs.load_model("pocket:pocket-bloom-s")


@pytest.fixture(scope="module")
def corpus():
    return bs.load_corpus("pocket:heldout", ["en", "zh", "ar"]).sample(12, seed=0)


def test_the_three_lists_of_public_names_say_the_same():
    tree = syntax_tree(Path(bs.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    typed = {(node.module, alias.name, alias.asname) for node in block.body for alias in node.names}
    homes = {(module, bs._OTHER_NAMES.get(name, name), name) for module, names in bs._HOMES.items() for name in names}
    assert typed == homes


@pytest.mark.parametrize(
    "given",
    [
        SENTENCES,
        {"eng_Latn": SENTENCES["en"], "fra_Latn": SENTENCES["fr"]},
        pd.DataFrame(SENTENCES),
        [dict(zip(SENTENCES, row)) for row in zip(*SENTENCES.values())],
        (dict(zip(SENTENCES, row)) for row in zip(*SENTENCES.values())),
    ],
    ids=["lists", "long codes", "frame", "rows", "generator"],
)
def test_sentences_in_memory_are_a_corpus(given):
    corpus = bs.load_corpus(given)
    assert corpus.languages == ("en", "fr")
    assert corpus.sentences("fr") == tuple(SENTENCES["fr"])


@pytest.mark.wrong_kind
def test_a_data_set_is_a_corpus_and_its_column_id_names_the_sentences():
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_dict(SENTENCES | {"id": [7, 9], "topic": ["x", "y"]})
    corpus = bs.load_corpus(data, "fr,en")
    assert (corpus.languages, corpus.ids) == (("fr", "en"), ("7", "9"))
    with pytest.raises(InputError, match=r"splits; give one of them, such as data\['train'\]"):
        bs.load_corpus(datasets.DatasetDict(train=data))


@pytest.mark.wrong_kind
@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "no column names a language; columns: none"),
        ({"en": "The cat sleeps."}, "'en' holds str, not a list of sentences"),
        ({"en": ["a"], "fr": ["b", "c"]}, "en has 1 sentences and fr has 2"),
        ({"en": ["a", None]}, "entry 2 of 'en' is NoneType, not a sentence"),
        ({"en": ["a"], "eng_Latn": ["b"]}, "two columns are one language"),
        ([{"en": "a"}, {"fr": "b"}], "row 2 has fr; the first has en"),
        (["a", "b"], "row 1 is str, not a dictionary"),
        (Path("texts"), "write the reader before the path, such as lines:my-folder"),
        (7, "not int"),
    ],
)
def test_what_is_no_corpus_is_said_in_one_line(given, says):
    with pytest.raises((CorpusError, InputError)) as error:
        bs.load_corpus(given)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_everything_is_short_at_the_prompt(model, corpus):
    recording = bs.record(model, corpus)
    shown = {repr(model), repr(corpus), repr(recording), repr(bs.load_texts("pocket:heldout", "en")["en"])}
    assert max(map(len, shown)) < 160
    assert repr(model).startswith("<Model pocket:pocket-bloom-s: bloom, 4 layers, 1,024 neurons, float32 on cpu>")
    assert repr(corpus) == "<ParallelCorpus pocket:heldout: 12 sentences in en, zh, ar>"
    assert "12 sentences in en, zh, ar" in repr(recording)
    assert all("<table" in thing._repr_html_() for thing in (model, corpus, recording))


def test_neurons_of_a_region_as_a_frame():
    import torch

    from babelscope.regions import RegionSet

    mask, score = torch.tensor([[True, False], [False, True]]), torch.tensor([[3.0, 0.0], [0.0, 2.5]])
    regions = RegionSet({"en": mask, "zh": ~mask}, "by hand", scores={"en": score})
    assert repr(regions) == "<RegionSet by by hand: en 2, zh 2 neurons>"
    frame = regions.to_frame("en")
    assert frame.to_dict("records") == [
        {"language": "en", "layer": 0, "neuron": 0, "score": 3.0},
        {"language": "en", "layer": 1, "neuron": 1, "score": 2.5},
    ]
    assert len(regions.to_frame()) == 4
    with pytest.raises(InputError, match="no region for 'fr'"):
        regions.to_frame("fr")


def test_unknown_names_say_what_there_is(model):
    with pytest.raises(AttributeError, match="did you mean load_corpus"):
        _ = bs.load_corpora
    with pytest.raises(InputError, match="no site 'mlp'; sites: residual, neurons"):
        bs.Site("mlp", 3)


def test_every_public_name_has_its_place_in_the_reference():
    import re

    page = (Path(bs.__file__).parents[2] / "docs" / "reference.md").read_text(encoding="utf-8")
    listed = {name for names in re.findall(r"members: \[([^]]*)]", page) for name in names.split(", ")}
    missing = {bs._OTHER_NAMES.get(name, name) for name in bs.__all__} - listed - {"__version__", "BabelscopeError"}
    assert not missing, missing
    for module, names in re.findall(r"^::: (\S+)\n    options: {{ members: \[([^]]*)]".replace("{{", "{"), page, re.M):
        home = __import__(module, fromlist=["x"])
        assert [name for name in names.split(", ") if not hasattr(home, name)] == [], module


@pytest.mark.wrong_kind
def test_what_is_no_mask_is_said_in_one_line(model, tmp_path):
    import torch

    from babelscope.regions import RegionSet

    regions = RegionSet({"zh": torch.eye(4, 256).bool()}, "by hand")
    with pytest.raises(InputError, match=r"a mask \[layer, neuron\] is needed, got RegionSet; .* regions\['en'\]"):
        with bs.deactivate(model, regions):
            pass
    with pytest.raises(InputError, match="is no run: give a run directory or a region file"):
        bs.load_regions(tmp_path)


# -- five tasks, each in at most three lines -----------------------------------------------------------------------


def test_own_sentences(model):
    recording = bs.record(model, bs.load_corpus(SENTENCES))
    assert recording.languages == ("en", "fr")


def test_neurons_of_a_language(model, corpus, tmp_path):
    import torch

    from babelscope.regions import RegionSet

    path = tmp_path / "regions.safetensors"
    bs.save_regions(RegionSet({"zh": torch.eye(4, 256).bool()}, "by hand"), path)
    neurons = bs.load_regions(path).to_frame("zh")
    assert len(neurons) == 4


def test_own_intervention(model):
    ids = __import__("torch").tensor(model.tokenize(["The cat sleeps."]))
    with bs.edit(model, {bs.Site("neurons", 1): lambda h: h * 0}):
        changed = model.hf(ids).logits
    assert (changed - model.hf(ids).logits).abs().max() > 1e-3


def test_a_patch(model):
    prompts = bs.build_task("ioi", model.tokenizer, "en", n=6)
    effects = bs.activation_patching(model, prompts.pairs)
    assert len(effects.senders) >= 16


def test_a_figure_and_a_page_of_a_run(model, corpus, tmp_path):
    settings = bs.RegionsSettings(corpus="pocket:heldout", samples=12, bootstrap=20, threshold=1.2)
    run = bs.study_regions(model, settings, tmp_path / "run", corpus=corpus)
    regions = bs.load_regions(run.path)
    assert regions.sizes == run.summary["region_size"]
    neurons = regions.to_frame()
    assert (neurons.score >= run.manifest["asked"]["effect"]).all()
    assert bs.load_regions(run.file("regions/contrast.safetensors")).scores == {}
    figure, page = bs.draw(run, "layer_curves"), bs.write_report([run], tmp_path / "page.html", static=False)
    assert figure.axes
    assert page.stat().st_size > 100_000
