"""Other ways to find regions: planted neurons found, definitions equal to loops, agreement, files of others."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from babelscope.errors import InputError, UnattainableThreshold
from babelscope.models.neuron_layout import NeuronLayout
from babelscope.regions import RegionSet, contrasts
from babelscope.regions.agreement import agreement_matrix, compare, expected_jaccard, jaccard
from babelscope.regions.exchange import export_regions, import_lape, import_regions
from babelscope.regions.lape import lape
from babelscope.regions.methods import METHODS, Choices, exclusive, localise
from babelscope.regions.treatments import top_share

from . import reference
from .region_data import noise, planted, recording

EFFECT = 6.0
"""standard deviations by which planted neurons are raised"""


@pytest.fixture(scope="module")
def known():
    return planted(EFFECT, per_language=10, languages=9, sentences=40, neurons=1000)


def quality(found: RegionSet, truth: torch.Tensor) -> tuple[float, float]:
    members = torch.stack([mask.flatten() for mask in found.masks.values()])
    hits = int((members & truth).sum())
    return hits / max(int(members.sum()), 1), hits / int(truth.sum())


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("lape", {"share": 0.09, "quantile": 0.99}),
        ("average-precision", {}),
        ("eta-squared", {"share": 0.09}),
        ("mean-difference", {}),
        ("fdr-effect", {"permutations": 400}),
    ],
)
def test_planted_neurons_are_found(known, method, changes):
    precision, recall = quality(localise(known[0], method, **changes), known[1])
    assert precision >= 0.95
    assert recall >= 0.95


def test_z_finds_the_planted_neurons_but_not_only_them(known):
    """Noise passes z > 2 whatever the effect: recall without precision, and a higher threshold mends it."""
    precision, recall = quality(localise(known[0]), known[1])
    assert recall >= 0.95
    assert precision < 0.6
    strict = quality(localise(known[0], threshold=2.8), known[1])
    assert min(strict) >= 0.95


def test_noise_passes_z_but_no_method_with_error_control():
    rec = noise(languages=9, sentences=20, neurons=400)
    share = localise(rec).total / 400
    assert 0.1 < share < 0.7
    for method in ("fdr", "fdr-effect"):
        assert localise(rec, method, permutations=100).total == 0
    assert localise(rec, "mean-difference").total <= 3


def test_every_method_gives_regions_with_scores_and_facts(known):
    like = localise(known[0])
    for name in METHODS:
        if name in ("lape-routed", "relevance"):  # of mixtures, of text: tests of experts' recording and of relevance
            continue
        found = localise(known[0], name, like=like, permutations=20)
        assert found.method == name
        assert found.languages == known[0].languages
        assert found.facts["choices"]["seed"] == 0
        assert all(found.scores[code].shape == (1, 1000) for code in found.languages)


def test_random_regions_take_their_sizes(known):
    like = localise(known[0])
    assert localise(known[0], "random", like=like).sizes == like.sizes
    assert localise(known[0], "random-layer", like=like).by_layer() == like.by_layer()


def test_what_a_method_lacks_it_says(known):
    with pytest.raises(InputError, match="no method 'magic'; there are contrast, z-score, fdr"):
        localise(known[0], "magic")
    with pytest.raises(InputError, match="activity=True"):
        localise(noise(), "lape")
    with pytest.raises(InputError, match="like=regions"):
        localise(noise(), "random")
    with pytest.raises(UnattainableThreshold):
        localise(noise(languages=5))


def test_regions_overlap_unless_asked_not_to():
    v = torch.from_numpy(noise(languages=6, sentences=10, neurons=20).means).clone()
    v[:2, :, :5] += 8  # five neurons that two languages share
    shared = localise(recording(v), "mean-difference")
    assert (torch.stack(list(shared.masks.values())).sum(0) > 1).sum() >= 5
    alone = localise(recording(v), "mean-difference", Choices(disjoint=True))
    assert torch.stack(list(alone.masks.values())).sum(0).max() == 1
    scores = torch.tensor([[1.0, 2.0], [3.0, 1.0]])
    assert exclusive(scores, torch.tensor([[True, True], [True, False]])).tolist() == [[False, True], [True, False]]


def test_average_precision_equals_the_loop_and_scikit_learn_style_ties():
    v = torch.randint(0, 4, (3, 5, 12), generator=torch.Generator().manual_seed(0)).double()
    found = contrasts.average_precision(recording(v))
    for language in range(3):
        positive = [row // 5 == language for row in range(15)]
        for neuron in range(12):
            wanted = reference.loop_average_precision(v[..., neuron].flatten().tolist(), positive)
            assert float(found[language, neuron]) == pytest.approx(wanted, rel=1e-12)


def test_eta_squared_is_the_share_of_variance_between_languages():
    rec = noise(languages=4, sentences=6, neurons=15)
    found = contrasts.eta_squared(rec)
    for neuron in range(15):
        v = rec.means[..., neuron]
        between = 6 * ((v.mean(1) - v.mean()) ** 2).sum()
        assert float(found[:, neuron].abs().sum()) == pytest.approx(between / ((v - v.mean()) ** 2).sum(), rel=1e-10)
    assert not contrasts.eta_squared(recording(torch.ones(4, 6, 2))).any()


def test_welch_equals_scipy():
    from scipy.stats import ttest_ind

    rec = noise(languages=4, sentences=6, neurons=9)
    t, p, effect = contrasts.welch(rec)
    for language in range(4):
        others = np.delete(rec.means, language, axis=0).reshape(-1, 9)
        wanted = ttest_ind(rec.means[language], others, equal_var=False, alternative="greater")
        assert np.allclose(t[language], wanted.statistic, rtol=1e-9)
        assert np.allclose(p[language], wanted.pvalue, rtol=1e-8)
    assert torch.equal(effect > 0, t > 0)
    t, p, _ = contrasts.welch(recording(torch.ones(4, 6, 2)))
    assert (t == 0).all()
    assert (p == 1).all()


def test_lape_keeps_the_lowest_entropies_among_active_neurons():
    p = torch.rand(4, 200, generator=torch.Generator().manual_seed(0)).double() * 0.5
    p[2, 17], p[:, 17] = 0.99, torch.tensor([0.01, 0.01, 0.99, 0.01]).double()
    p[:, 40] = torch.tensor([0.001, 0.0, 0.0, 0.0]).double()  # the lowest entropy of all, but hardly ever active
    scores, members = lape(p, share=0.01)
    assert members[:, 17].tolist() == [False, False, True, False]
    assert not members[:, 40].any()
    assert int(members.any(0).sum()) <= 2
    assert scores[:, 17].argmax() == 2


def test_neurons_of_one_entropy_are_taken_by_their_probability_and_never_by_their_place():
    """Four neurons of one language each: two are active more often, and there is room for one, two or three."""
    p = torch.full((3, 100), 0.3).double()
    for place, value in ((10, 0.5), (40, 0.9), (60, 0.9), (90, 0.5)):
        p[:, place] = torch.tensor([0.0, value, 0.0]).double()
    for share, kept in ((0.01, []), (0.02, [40, 60]), (0.03, [40, 60]), (0.04, [10, 40, 60, 90])):
        found = lape(p, share)[1]
        assert found[1].nonzero().flatten().tolist() == kept
        assert torch.equal(lape(p.flip(1), share)[1].flip(1), found)


def test_agreement_is_one_with_itself_and_chance_with_random(known):
    z = localise(known[0])
    same = compare(z, z)
    assert all(row.jaccard == 1 and row.spearman == pytest.approx(1) for row in same)
    rows = agreement_matrix({"z": z, "random": localise(known[0], "random", like=z), "eta": z})
    assert len(rows) == 3 * 9
    random = [row for row in rows if row.method2 == "random"]
    assert np.mean([row.jaccard for row in random]) == pytest.approx(np.mean([row.chance for row in random]), abs=0.03)
    assert abs(np.mean([row.spearman for row in random])) < 0.05


def test_small_agreements_by_hand():
    a, b = torch.tensor([[1, 1, 0, 0]]).bool(), torch.tensor([[1, 0, 1, 0]]).bool()
    assert jaccard(a, b) == pytest.approx(1 / 3)
    assert math.isnan(jaccard(a & ~a, a & ~a))
    assert expected_jaccard(2, 2, 4) == pytest.approx(1 / 3)


def test_sets_of_different_models_cannot_be_compared():
    one = RegionSet({"en": torch.ones(2, 3).bool()}, "a")
    with pytest.raises(InputError, match="no language in common: en and zh"):
        compare(one, RegionSet({"zh": torch.ones(2, 3).bool()}, "b"))
    with pytest.raises(InputError, match="different shape"):
        compare(one, RegionSet({"en": torch.ones(3, 2).bool()}, "b"))


def test_masks_that_lape_publishes_are_read(tmp_path):
    indices = [[torch.tensor([1, 3]), torch.tensor([], dtype=torch.long)], [torch.tensor([0]), torch.tensor([2, 3])]]
    torch.save(indices, tmp_path / "masks")
    found = import_lape(tmp_path / "masks", ["en", "zh"], layers=2, neurons=4)
    assert found.by_layer() == {"en": [2, 0], "zh": [1, 2]}
    assert found["zh"].nonzero().tolist() == [[0, 0], [1, 2], [1, 3]]
    wrong = {
        "masks of 2 languages, but 1": (["en"], 2, 4),
        "has 2 layers, not 3": (["en", "zh"], 3, 4),
        "a neuron beyond 2": (["en", "zh"], 2, 3),
        "are no model's regions": (["en", "zh"], 0, 3),
        "1001 layers of 20000 neurons in 2 languages are no model's": (["en", "zh"], 1001, 20_000),
        "1000 layers of 20000 neurons in 51 languages are no model's": (["en"] * 51, 1000, 20_000),
    }
    for message, given in wrong.items():
        with pytest.raises(InputError, match=message):
            import_lape(tmp_path / "masks", *given)


class _Harmful:
    def __reduce__(self):
        return (print, ("run",))


def test_a_file_that_would_run_code_is_refused(tmp_path, capsys):
    import pickle

    (tmp_path / "bad").write_bytes(pickle.dumps([_Harmful()]))
    torch.save([_Harmful()], tmp_path / "worse")
    (tmp_path / "text").write_text("hello")
    torch.save({"en": 1}, tmp_path / "dictionary")
    torch.save([["a"], ["b"]], tmp_path / "words")
    for name in ("bad", "worse", "text", "absent", "dictionary", "words"):
        with pytest.raises(InputError) as told:
            import_lape(tmp_path / name, ["en", "zh"], 1, 4)
        assert "\n" not in str(told.value)
    assert "run" not in capsys.readouterr().out


@pytest.mark.parametrize("suffix", ["json", "csv"])
def test_regions_are_written_for_other_programs_and_read_back(tmp_path, suffix):
    regions = RegionSet(
        {"en": torch.tensor([[True, False], [False, True]]), "zh": torch.zeros(2, 2).bool()}, "z-score", {"model": "m"}
    )
    export_regions(regions, tmp_path / f"r.{suffix}")
    if suffix == "json":
        back = import_regions(tmp_path / "r.json")
        assert back.by_layer() == {"en": [1, 1], "zh": [0, 0]}
        assert back.facts == {"model": "m"}
        assert torch.equal(back["en"], regions["en"])
    else:
        assert (tmp_path / "r.csv").read_text().splitlines() == ["language,layer,neuron", "en,0,0", "en,1,1"]
    with pytest.raises(InputError, match=r"\.json or \.csv"):
        export_regions(regions, tmp_path / "r.txt")


def test_neurons_without_a_score_are_not_the_best():
    scores = torch.tensor([[0.1, float("nan"), 0.5, -torch.inf]])
    layout = NeuronLayout((4,))
    assert top_share(scores, 0.25, layout).tolist() == [[False, False, True, False]]
    assert top_share(scores, 1.0, layout).tolist() == [[True, False, True, False]]
