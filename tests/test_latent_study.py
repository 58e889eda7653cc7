"""The study of latent language: a run with its tables, figures, page and command line; pooled residuals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from babelscope import LatentSettings, load_model, study_latent
from babelscope.cli import main
from babelscope.corpora import ParallelCorpus, TextCollection
from babelscope.corpora.texts import Document
from babelscope.errors import InputError
from babelscope.figures import draw, figure_names
from babelscope.pocket.planted import words as planted_words
from babelscope.regions.residual import anisotropy, record_residual, residual_alignment, shuffled
from babelscope.report import write_report
from babelscope.results import Run
from babelscope.studies.latent import TUNED_FILE, census_of

QUICK = LatentSettings(
    words="planted", demonstrations=1, draws=200, permutations=99, matched=20, trials=6, window=16,
    parts=("lens", "patch", "align"), lens=("logit", "tuned"), text="memory", parallel="memory",
)  # fmt: skip


def said(seed: int) -> dict[str, list[str]]:
    generator = np.random.default_rng(seed)
    meanings = [generator.choice(list(planted_words()), 4, replace=False) for _ in range(60)]
    return {
        code: [" ".join(planted_words()[id][code] for id in ids) + " :" for ids in meanings]
        for code in ("en", "fr", "zh")
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    texts = {
        code: TextCollection(code, tuple(Document(str(i), text) for i, text in enumerate(lines)), "memory")
        for code, lines in said(1).items()
    }
    out = tmp_path_factory.mktemp("latent") / "run"
    model = load_model("pocket:planted-pivot")
    return study_latent(model, QUICK, out, corpus=ParallelCorpus.from_texts(said(0)), texts=texts)


def test_the_first_sentence_answers(run):
    assert run.summary["sentences"][0].startswith(
        "Translating French to Chinese, pocket:planted-pivot solves 40 of 40 concepts and passes through English: "
        "at layer 2 the English word gains 0.9"
    )
    assert run.summary["sentences"][0].endswith("Chinese takes over at layer 4.")
    assert run.summary["sentences"][1].startswith("Through the tuned lens: ")


def test_every_table_is_there_with_its_ends(run):
    assert set(run.tables) == {
        "alignment", "census", "controls", "curves", "entropy", "patch", "tuned", "verdicts",
    }  # fmt: skip
    curves = run.table("curves")
    inner = curves[(curves.lens == "logit") & curves.layer.between(1, 3)]
    assert (inner.excess_low <= inner.excess).all()
    assert (inner.excess_high >= inner.excess).all()
    assert (inner.excess_high > inner.excess_low).all()  # never of width 0
    outside = curves[~curves.layer.between(1, 3)]
    assert outside.excess_low.isna().all()
    assert outside.why.str.len().min() > 0
    assert np.allclose(curves.excess, curves.mass - (curves.row + curves.col) / 2)
    verdicts = run.table("verdicts").set_index(["lens", "language", "scope"]).sort_index()
    assert verdicts.loc[("logit", "en", "solved")].outcome == "passes through"
    assert verdicts.loc[("logit", "en", "solved")].peak_layer == 2
    assert verdicts.loc[("logit", "en", "solved")].handover_layer == 4
    patch = run.table("patch")
    assert set(patch[patch.what == "recovery"].why) == {
        "6 pairs of 6 concepts with both prompts solved, 30 pairs of 4 concepts are needed"
    }


def test_the_tuned_lens_is_kept_and_read_again(run, tmp_path):
    given = {"text": None, "parallel": None, "window": LatentSettings.window, "trials": LatentSettings.trials}
    from_file = replace(QUICK, parts=("lens",), lens=("tuned",), tuned=run.path / TUNED_FILE, **given)
    again = study_latent(load_model("pocket:planted-pivot"), from_file, tmp_path / "again")
    first = run.table("curves")
    assert np.allclose(first[first.lens == "tuned"].excess, again.table("curves").excess, atol=1e-7)


def test_all_figures_and_the_page(run, tmp_path):
    assert len(figure_names(run)) == 10
    for name in figure_names(run):
        assert draw(run, name).axes
    page = write_report([run], tmp_path / "page.html", static=False).read_text(encoding="utf-8")
    assert "could not be made from this run" not in page
    assert page.index("passes through English") < page.index(">Layer by layer</h3>")
    assert "no lens is causal" in page


def test_the_census_needs_no_pass():
    found = census_of(load_model("pocket:planted-none"), LatentSettings(words="planted"))
    assert found[["offered", "one_token", "kept", "comparable"]].to_numpy().tolist() == [[40] * 4] * 3


def test_the_command_line(tmp_path, capsys):
    quick = "--demonstrations 1 --matched 0 --draws 100 --permutations 19"
    line = f"latent pocket:planted-none --words planted --from fr --to zh {quick} --out"
    with pytest.raises(SystemExit) as end:
        main([*line.split(), str(tmp_path / "run")])
    assert end.value.code in (0, None)
    assert "shows no sign of French and English." in capsys.readouterr().out
    with pytest.raises(SystemExit) as end:
        main(["latent", "pocket:planted-none", "--words", "planted", "--list-words"])
    assert end.value.code in (0, None)
    assert "planted: 40 concepts in en, fr, zh" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"from_": ("zh",), "to": ("zh",)}, "a translation needs two"),
        ({"task": "sentence"}, "needs --parallel"),
        ({"lens": ("tuned",)}, "needs --text"),
        ({"parts": ("align",)}, "needs --parallel"),
        ({"parts": ("nothing",)}, "there are lens, patch, align"),
        ({"draws": 10}, "--draws: 100 or more"),
        ({"patch_from": "en"}, "go together"),
        ({"n": 2}, "at least three"),
        ({"special": "bos-excluded"}, "use none or bos"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        LatentSettings(**{"words": "planted", **changes})


def test_languages_without_words_are_refused_before_the_model(tmp_path):
    with pytest.raises(InputError, match="no words in sw: the languages are en, fr, zh"):
        study_latent(load_model("pocket:planted-none"), LatentSettings(words="planted", to=("sw",)), tmp_path / "run")


# -- pooled residuals --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def corpus() -> ParallelCorpus:
    texts = {
        "en": [
            "A cat sleeps here.",
            "The dogs eat!",
            "Rain falls on the old house",
            "We go home now ...",
            "She sings",
            "A tree",
        ],
        "fr": [
            "Un chat dort ici.",
            "Les chiens mangent !",
            "La pluie tombe sur la vieille maison",
            "On rentre ...",
            "Elle chante",
            "Un arbre",
        ],
    }
    return ParallelCorpus.from_texts(texts)


def test_pooling_is_the_loop(corpus):
    model = load_model("pocket:pocket-bloom-s")
    pooled = record_residual(model, corpus)
    for language, code in enumerate(corpus.languages):
        for sentence, text in enumerate(corpus.texts[code]):
            ids = model.tokenize([text])[0]
            cut = len(model.tokenize([text.rstrip(" .!")])[0])
            with torch.inference_mode():
                hidden = model.hf(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states[2][0]
            places = torch.arange(1, len(ids) + 1)[:, None]
            expected = {
                "mean": hidden.mean(0),
                "last": hidden[cut - 1],
                "weighted": (places * hidden).sum(0) / places.sum(),
            }
            for name, value in expected.items():
                assert torch.allclose(pooled.recordings[name].layer(2)[language, sentence], value, atol=1e-5), name


def test_every_metric_runs_on_residuals_with_its_controls(corpus):
    recording = record_residual(load_model("pocket:pocket-bloom-s"), corpus, ["mean"]).recordings["mean"]
    found = {(one.treatment, one.alignment.metric) for one in residual_alignment(recording, shuffles=1)}
    plain = {"lrds", "sads", "mexa", "cka", "anc", "sads-length-matched"}
    both = {(treatment, name) for treatment in ("centred", "language-centred") for name in ("lrds", "sads", "mexa")}
    assert found == {("plain", name) for name in plain} | both


def test_anisotropy_is_the_pair_loop(corpus):
    recording = record_residual(load_model("pocket:pocket-bloom-s"), corpus, ["mean"]).recordings["mean"]
    x = recording.layer(1).double().flatten(0, 1)
    pairs = [float(torch.cosine_similarity(x[i], x[j], 0)) for i in range(12) for j in range(12) if i != j]
    assert anisotropy(recording)[1] == pytest.approx(sum(pairs) / len(pairs))


def test_shuffling_keeps_sentences_and_breaks_pairs(corpus):
    recording = record_residual(load_model("pocket:pocket-bloom-s"), corpus, ["mean"]).recordings["mean"]
    other = shuffled(recording, 3)
    assert np.allclose(np.sort(other.means, 1), np.sort(recording.means, 1))
    assert not np.allclose(other.means, recording.means)
