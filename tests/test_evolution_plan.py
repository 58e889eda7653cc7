"""Plans: what is read, what is refused and how it is said, presets, and the revisions behind names and patterns."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest

from babelscope.errors import ModelError, PlanError
from babelscope.evolution import plan_from, plan_points, presets, read_plan
from babelscope.evolution.located import read_yaml
from babelscope.evolution.plan import parse_plan
from babelscope.evolution.sources import find, folder_hash, revisions
from babelscope.evolution.types import PlannedModel, Revision

from .sweep_helpers import cloze_plan, folder_of_checkpoints

GOOD = """\
models: [some/model]
corpora: [pocket:heldout]
measures:
  regions: {samples: 10}
"""


def test_every_preset_is_a_plan():
    wanted = {
        "bloom-7b1-checkpoints", "bloom-scales", "llama2-scales", "pythia-checkpoints", "olmo2-checkpoints",
        "pocket-checkpoints", "pocket-scales", "paper-table-1", "paper-table-4",
    }  # fmt: skip
    assert wanted <= set(presets())
    for name in presets():
        plan = read_plan(name)
        assert plan.name == name
        assert plan.models


def test_the_paper_tables_have_the_papers_protocol():
    for name, window, published in (("paper-table-1", 2048, "bloom-7b1"), ("paper-table-4", 4096, "llama-2-7b")):
        plan = read_plan(name)
        assert plan.published == published
        assert plan.measures["perplexity"]["window"] == window
        assert plan.measures["perplexity"]["text_tokens"] is None
        assert plan.measures["regions"]["samples"] == 100
        assert plan.languages == ("en", "zh", "fr", "es", "pt", "ar", "vi", "hi", "id")


def _models(text):
    return GOOD.replace("[some/model]", text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "plan.yaml is empty"),
        ("models: [a\n", "plan.yaml, line 2: not YAML"),
        ("- a\n", "line 1: a plan is a mapping"),
        ("modles: [a]\n", "line 1, modles: unknown key; allowed here: name, about, models"),
        ("modles: [a]\n", "did you mean models?"),
        ("models: [a]\n", "the key measures is missing"),
        ("models: [a]\nmeasures: {region: {}}\n", "line 2, measures.region: unknown key"),
        ("models: [a]\nmeasures: {regions: {}}\n", "corpora: regions, alignment and perplexity need a corpus"),
        (GOOD + "    sample: 3\n", "line 5: not YAML"),
        (GOOD.replace("samples: 10", "sampels: 10"), "line 4, measures.regions.sampels: unknown key"),
        (GOOD.replace("samples: 10", "sampels: 10"), "did you mean samples?"),
        (GOOD.replace("samples: 10", "samples: ten"), "line 4, measures.regions.samples: 'ten' is not a whole number"),
        (GOOD.replace("samples: 10", "samples: true"), "True is not a whole number"),
        (GOOD.replace("samples: 10", "special: first"), "'first' is not one of auto, none, bos, bos-excluded, own"),
        (GOOD + "dtype: auto\n", "line 5, dtype: 'auto' is not one of float32, bfloat16, float16, float64; auto"),
        (GOOD + "dtype: float32\ndtype: float16\n", "line 6, dtype: this key is given twice"),
        (GOOD + "languages: [en, '?!']\n", "line 5, languages"),
        (GOOD + "published: bloom\n", "'bloom' is not one of bloom-7b1, llama-2-7b"),
        (GOOD.replace("regions: {samples: 10}", "perplexity: {window: 5}"), "the key texts is missing"),
        (GOOD.replace("regions: {samples: 10}", "story_cloze: {}"), "the key stories is missing"),
        (_models("[{id: a, revision: [x]}]"), "line 1, models[0].revision: unknown key; allowed here: id, revisions"),
        (_models("[{id: a@b, revisions: [x]}]"), "has a revision after @ already"),
        (_models("[{id: a, revisions: [{name: x, step: -1}]}]"), "models[0].revisions[0].step: -1 is not"),
        (_models("[{id: a, revisions: 7}]"), "a list of revisions, all, a pattern"),
        (_models("[{id: a, revisions: {match: x*, count: 1}}]"), "models[0].revisions.count: at least 2"),
        (_models("[]"), "the key models is missing"),
        (_models("[!!python/object:os.system x]"), "cannot stand in a plan"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_line_and_key(text, says):
    with pytest.raises(PlanError, match=re.escape(says)) as caught:
        parse_plan(read_yaml(text, "plan.yaml"), "plan")
    assert "\n" not in str(caught.value)


def test_a_bomb_of_aliases_is_refused():
    text = "a: &a [x, x, x, x, x, x, x, x, x]\n"
    for before, name in zip("abcdefg", "bcdefgh"):
        text += f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
    with pytest.raises(PlanError, match="too large"):
        read_yaml(text, "plan.yaml")


def test_names_that_are_no_plan():
    with pytest.raises(PlanError, match="did you mean pocket-scales"):
        read_plan("pocket-scale")
    with pytest.raises(PlanError, match="no such file"):
        read_plan("nowhere.yaml")


def test_flags_take_the_place_of_entries():
    plan = read_plan("pocket-scales", {"corpora": ["ntrex:X"], "measures.regions.samples": 7, "dtype": "bfloat16"})
    assert plan.corpora == ("ntrex:X",)
    assert plan.measures["regions"]["samples"] == 7
    assert plan.dtype == "bfloat16"
    with pytest.raises(PlanError, match=r"measures\.regions\.samples: 'x' is not a whole number"):
        read_plan("pocket-scales", {"measures.regions.samples": "x"})


def test_hyphens_and_underscores_are_the_same():
    text = GOOD.replace("regions: {samples: 10}", 'story-cloze: {stories: "pocket:"}')
    assert "story_cloze" in parse_plan(read_yaml(text, "plan.yaml"), "plan").measures


def test_revisions_of_a_folder_come_in_the_order_of_training(tmp_path):
    folder_of_checkpoints(tmp_path, [512, 16, 2048])
    (tmp_path / "final").mkdir()
    (tmp_path / "final" / "config.json").write_text("{}")
    assert [one.name for one in revisions(PlannedModel(str(tmp_path), (), "*"))] == [
        "step16",
        "step512",
        "step2048",
        "final",
    ]
    assert [one.step for one in revisions(PlannedModel(str(tmp_path), (), "step*"))] == [16, 512, 2048]
    with pytest.raises(ModelError, match="no revision that matches"):
        revisions(PlannedModel(str(tmp_path), (), "epoch*"))


def test_all_revisions_of_the_built_in_model():
    found = revisions(PlannedModel("pocket:pocket-bloom-m", ()))
    assert found[0] == Revision("step16", 16)
    assert found[-1].name == "main"


def test_branches_of_the_hub_are_matched_and_thinned(monkeypatch):
    names = ["main", *(f"stage1-step{n}-tokens1B" for n in (0, 10, 100, 1000, 10000)), "stage2-step5"]
    refs = SimpleNamespace(branches=[SimpleNamespace(name=name) for name in names], tags=[])
    monkeypatch.setattr("huggingface_hub.HfApi.list_repo_refs", lambda self, repository: refs)
    found = revisions(PlannedModel("some/model", (), "stage1-step*", 3))
    assert [one.step for one in found] == [0, 100, 10000]


def test_a_folder_is_known_by_its_content(tmp_path):
    folder_of_checkpoints(tmp_path, [1, 2])
    before = folder_hash(tmp_path / "step1")
    (tmp_path / "step1").rename(tmp_path / "moved")
    (tmp_path / "moved" / "README.md").write_text("about")
    assert folder_hash(tmp_path / "moved") == before != folder_hash(tmp_path / "step2")


def test_a_model_of_the_hub_is_known_by_its_commit(monkeypatch):
    from babelscope.evolution import sources

    sources._on_hub.cache_clear()
    files = [SimpleNamespace(rfilename=name) for name in ("config.json", "model.safetensors", "pytorch_model.bin")]
    facts = SimpleNamespace(sha="c" * 40, siblings=files)
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda self, *a, **k: facts)
    source = find("some/model", "step7")
    assert (source.kind, source.identity) == ("hub", "c" * 40)
    assert "*.safetensors" in source.patterns
    assert "*.bin" not in source.patterns
    sources._on_hub.cache_clear()


def test_without_network_or_cache_a_hub_model_is_a_problem_of_its_point(tmp_path):
    folder_of_checkpoints(tmp_path / "here", [1])
    plan = plan_from(
        {
            "models": ["no/such-model-anywhere", str(tmp_path / "here" / "step1")],
            "measures": {"story_cloze": {"stories": "pocket:?n=2", "languages": ["fr"]}},
        }
    )
    lost, there = plan_points(plan)
    assert lost.source is None
    assert "no/such-model-anywhere" in lost.problem
    assert there.problem == ""


def test_circuits_take_the_settings_of_their_study(tmp_path):
    from babelscope.evolution import plan

    folder_of_checkpoints(tmp_path, [1])
    asked = {"models": [{"id": str(tmp_path), "revisions": "all"}]}

    def key(**circuits):
        measured = plan_from(
            {**asked, "languages": ["en", "zh"], "measures": {"circuits": {"task": "ioi", **circuits}}}
        )
        return plan_points(measured)[0].key

    assert len({key(), key(n=7), key(seed=1)}) == 3
    with pytest.raises(PlanError, match=r"circuits\.m: unknown key; allowed here: task, languages, n"):
        key(m=3)
    with pytest.raises(PlanError, match="a mapping from a text to a text"):
        key(stratum="regular")
    assert "task" in plan.settings_of_measures()["circuits"]


def test_the_key_follows_what_decides_the_numbers(tmp_path):
    folder_of_checkpoints(tmp_path, [1, 2])
    keys = [point.key for point in plan_points(cloze_plan(tmp_path))]
    assert len(set(keys)) == 2
    assert [point.key for point in plan_points(cloze_plan(tmp_path, name="other", about="words"))] == keys
    assert not set(keys) & {point.key for point in plan_points(cloze_plan(tmp_path, dtype="float64"))}
    (tmp_path / "step2" / "config.json").write_text("{}")
    changed = [point.key for point in plan_points(cloze_plan(tmp_path))]
    assert changed[0] == keys[0]
    assert changed[1] != keys[1]


def test_another_model_and_corpus_leave_the_plans_settings(tmp_path):
    from babelscope.cli.sweep import Changes, _changes
    from babelscope.evolution.plan import read_plan

    plan = tmp_path / "p.yaml"
    plan.write_text("models: [a]\ncorpora: [pocket:]\nmeasures: {regions: {samples: 7}}\n", encoding="utf-8")
    flags = Changes(model=["b"], corpus=["pocket:heldout"])
    found = read_plan(plan, _changes(flags, str(plan)))
    assert (found.models[0].id, found.corpora, found.measures) == (
        "b",
        ("pocket:heldout",),
        {"regions": {"samples": 7}},
    )
    assert _changes(flags, None)["measures.regions"] == {}


def test_two_folders_of_one_name_are_two_models(tmp_path):
    """Checkpoints of two trainings in folders of one name were one line, neurons flowing from one to the other."""
    for training in ("a", "b"):
        folder_of_checkpoints(tmp_path / training / "checkpoints", [1, 2])
    asked = [{"id": str(tmp_path / training / "checkpoints"), "revisions": "all"} for training in ("a", "b")]
    found = plan_points(plan_from({"models": asked, "measures": {"story_cloze": {"stories": "pocket:?n=2"}}}))
    assert [(point.model, point.step) for point in found] == [(one["id"], step) for one in asked for step in (1, 2)]
    alone = plan_points(plan_from({"models": asked[:1], "measures": {"story_cloze": {"stories": "pocket:?n=2"}}}))
    assert [point.model for point in alone] == ["checkpoints", "checkpoints"]
