"""What the explorer's later views compute: a neuron over tokens and its evidence, circuits over tokens, saved edits."""

from __future__ import annotations

import math

import pandas as pd
import pytest
import torch

import babelscope as bs
from babelscope.app import circuits_view, evidence, facts, heads, neurons, steered, token_circuits
from babelscope.app.identify import identify
from babelscope.app.session import Session, open_session
from babelscope.app.work import Work
from babelscope.errors import InputError, RunError
from babelscope.results import RunWriter, open_run
from babelscope.steering import SavedEdit, collect, direction, save_edit

MODEL = "pocket:pocket-bloom-s"


@pytest.fixture(scope="module")
def model():
    return bs.load_model(MODEL, device="cpu")


@pytest.fixture(scope="module")
def session(model):
    return Session(model, corpus_spec="pocket:heldout?n=12", codes=("en", "fr", "zh"), samples=12)


@pytest.fixture(scope="module")
def run_folder(model, tmp_path_factory):
    settings = bs.RegionsSettings(
        "pocket:heldout?n=24", languages=("en", "fr", "zh"), samples=24, bootstrap=20, methods=("lape",)
    )
    folder = tmp_path_factory.mktemp("views") / "runs" / "regions"
    bs.study_regions(model, settings, folder)
    return folder


def test_a_neuron_over_tokens_is_what_the_model_gives_out(session, model):
    text = "The children go to school."
    words, values = neurons.over_tokens(model, 1, 7, text)
    assert "".join(words) == text
    with bs.capture(model, [bs.Site("neurons", 1)]) as seen, torch.inference_mode():
        model.hf(torch.tensor([model.tokenize([text])[0]]))
    assert list(values) == pytest.approx(seen[bs.Site("neurons", 1)][0, :, 7].tolist(), abs=1e-6)


def test_each_language_has_the_sentences_that_move_a_neuron_most(session):
    card = neurons.look_at(session, 1, 7, Work(), "Anna goes.")
    assert [one.language for one in card.passages] == ["", *(code for code in ("en", "fr", "zh") for _ in range(2))]
    recording = session.recording(Work())
    means = recording.values(slice(card.layer * 256 + 7, card.layer * 256 + 8))[..., 0]
    for place, code in enumerate(recording.languages):
        shown = [sum(one.values) / len(one.values) for one in card.passages if one.language == code]
        assert shown == pytest.approx(means[place].topk(2).values.tolist(), abs=1e-5)


def test_the_evidence_of_a_neuron_is_the_runs(run_folder):
    session = open_session(str(run_folder))
    arrays, regions = session.run.arrays(), bs.load_regions(run_folder)
    assert set(session.region_sets()) >= {"contrast", "lape"}
    held = [code for code in regions.languages if bool(regions[code].any())]
    assert held, "no region to look at"
    layer, neuron = (int(one) for one in regions[held[0]].nonzero()[0])
    table = neurons.look_at(session, layer, neuron, Work()).by_language.set_index("language")
    assert table.effect.to_dict() == pytest.approx(
        {code: float(arrays["d"].sel(language=code, layer=layer, neuron=neuron)) for code in regions.languages}
    )
    for code in regions.languages:
        assert ("contrast" in table.loc[code, "held by"]) == bool(regions[code][layer, neuron])
    low, high = (float(arrays[name].sel(language=held[0], layer=layer, neuron=neuron)) for name in ("d_low", "d_high"))
    assert table.loc[held[0], "95 %"] == f"{low:.2f} to {high:.2f}"
    assert "0.5 standard deviations or more" in evidence.rule(session)
    strongest = neurons.strongest(session, held[0], Work(), top=10)
    assert strongest.effect.is_monotonic_decreasing
    assert strongest.effect.iloc[0] == pytest.approx(float(arrays["d"].sel(language=held[0]).max()))
    assert not strongest.z.isna().any()  # the run itself leaves z out: three languages are too few for a threshold


def test_without_a_run_there_is_no_evidence_but_z(session):
    assert evidence.evidence(session, 0, 0, ("en",)) == {}
    assert evidence.rule(Session()) == ""
    assert evidence.held_by(Session(), 0, 0, ("en", "fr")) == ["–", "–"]


def test_heads_are_shown_over_the_tokens_from_where_they_act(session, tmp_path):
    example = heads.ioi_example(session, "en", 0)
    found = heads.answer(session, example.prompt, example.target, example.foil, Work())
    drawn = token_circuits.over_tokens(session, example.prompt, "en", found, Work())
    assert len(drawn.readers) == token_circuits.STRONGEST
    sizes = [abs(float(found.heads[one.layer, one.head])) for one in drawn.readers]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == float(found.heads.abs().max())
    first = drawn.readers[0]
    weights = heads.attention(session, example.prompt, first.layer, first.head, Work()).weights
    assert list(first.attention) == pytest.approx((100 * weights[-1]).tolist(), abs=1e-3)
    assert {"IO", "S1", "S2", "END"} <= set(" ".join(drawn.roles).split())

    with RunWriter(tmp_path / "run", kind="circuits") as run:
        run.manifest["asked"] = {"task": "ioi"}
        run.table("roles", pd.DataFrame([
            {"language": "en", "layer": 1, "head": 3, "role": "name mover", "step": "name_movers",
             "effect": -0.5, "effect_low": -0.75, "effect_high": -0.25},
            {"language": "en", "layer": 0, "head": 2, "role": "duplicate-token", "step": "duplicate_induction",
             "effect": -0.1, "effect_low": math.nan, "effect_high": math.nan},
            {"language": "zh", "layer": 2, "head": 0, "role": "name mover", "step": "name_movers", "effect": -1.0},
        ]))  # fmt: skip
    whole = Session(session.model, open_run(tmp_path / "run"))
    whole.__dict__["_pairs"] = session.__dict__["_pairs"]
    mover, duplicate = token_circuits.over_tokens(whole, example.prompt, "en", found, Work()).readers
    assert (mover.layer, mover.head, mover.what) == (1, 3, "name mover, effect −0.50 (−0.75 to −0.25)")
    assert duplicate.what == "duplicate-token, effect −0.10"
    assert drawn.roles[duplicate.place].split() == ["S2"]
    assert all(math.isnan(one) for one in duplicate.attention[duplicate.place + 1 :])
    assert sum(duplicate.attention[: duplicate.place + 1]) == pytest.approx(100, abs=1e-3)


def test_a_saved_edit_is_applied_at_its_own_strength(session, model, tmp_path):
    towards = direction(collect(model, session.need_corpus()), "en", "fr", 2)
    folder = tmp_path / "steer"
    with RunWriter(folder, kind="steering") as run:
        file = run.file("edits/en-fr-diffmean.safetensors")
        save_edit(SavedEdit((towards,), alpha=2.0, facts={"weight_hash": model.weight_hash}), file)
    written = folder / "edits" / "en-fr-diffmean.safetensors"
    assert steered.edit_files(session, [tmp_path]) == [str(written)]
    found, saved = steered.apply_file(session, "The children go to", str(written), 1.0, 8, Work())
    made_here = steered.steer(session, "The children go to", "en", "fr", 2, 2.0, 8, Work())
    assert found.before == made_here.before
    assert saved.alpha == 2.0
    assert found.length == pytest.approx(2 * towards.gap / towards.norm)
    _, saved = steered.apply_file(session, "The children go to", str(written), -1.5, 8, Work())
    assert saved.alpha == -3.0
    other = tmp_path / "other.safetensors"
    save_edit(SavedEdit((towards,), facts={"weight_hash": "0", "model": "another"}), other)
    with pytest.raises(InputError, match="was made for other weights"):
        steered.apply_file(session, "The", str(other), 1.0, 8, Work())
    with pytest.raises(InputError, match="is not a file of a steering edit"):
        steered.apply_file(session, "The", str(tmp_path / "none.safetensors"), 1.0, 8, Work())
    with pytest.raises(InputError, match="factors between"):
        steered.apply_file(session, "The", str(written), 99.0, 8, Work())


def test_a_run_is_told_in_sentences_first(run_folder):
    session = open_session(str(run_folder))
    assert any("LRDS" in one for one in facts.run_findings(session))
    assert facts.run_findings(Session()) == []


def test_a_misspelt_run_says_which_there_are(run_folder):
    with pytest.raises(RunError, match=r"there is no run at .*region; .* has regions"):
        open_session(str(run_folder.parent / "region"))


@pytest.mark.parametrize(("capped", "said"), [(False, "logit(b)"), (True, "logit(b), before the soft cap")])
def test_a_difference_of_logits_that_are_capped_is_the_one_before_that(capped, said):
    found = heads.Answer(1.5, torch.zeros(1, 1), torch.zeros(1), 0.0, pd.DataFrame(), " a", " b")
    assert circuits_view._difference(found, capped) == f"1.500 = logit(a) − {said}"


@pytest.mark.parametrize(
    ("languages", "code"),
    [(("en", "pt"), "pt"), (("en", "pt-BR"), "pt-BR"), (("en", "pt", "pt-BR"), "pt"), (("en", "pt-PT", "pt-BR"), "pt")],
)
def test_of_two_codes_that_are_told_as_one_only_the_language_is_named(languages, code):
    pytest.importorskip("py3langid")
    assert identify("As crianças estão brincando no jardim da escola.", languages)[0] == code


def test_a_neuron_that_is_the_same_everywhere_is_neither_raised_nor_lowered():
    assert neurons.directions(torch.zeros(3), ("en", "zh", "fr"), ("en", "zh", "fr")) == ["–"] * 3
    rounded = torch.tensor([0.1, 0.1, 0.1 + 1e-8])
    assert neurons.directions(rounded, ("en", "zh", "fr"), ("en", "fr")) == ["–", "–"]
    apart = torch.tensor([0.1, 0.1, 0.1001])
    assert neurons.directions(apart, ("en", "zh", "fr"), ("en", "fr")) == ["lowered", "raised"]


def test_text_that_is_another_one_than_the_runs_is_not_shown_beside_its_numbers(model, tmp_path):
    lines = {code: [f"{code} sentence number {n}" for n in range(8)] for code in ("en", "fr", "zh")}

    def write():
        for code, own in lines.items():
            (tmp_path / f"{code}.txt").write_text("\n".join(own) + "\n", encoding="utf-8")

    write()
    spec = f"lines:{tmp_path}"
    bs.study_regions(model, bs.RegionsSettings(spec, samples=6, bootstrap=20), tmp_path / "run")
    assert open_session(str(tmp_path / "run")).corpus_spec == spec
    lines["fr"][3:5] = ["something else", "and more"]
    write()
    assert open_session(str(tmp_path / "run")).corpus_spec is None
