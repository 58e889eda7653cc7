"""Routing by language: formulas against plain loops, planted routing recovered, shuffled labels give nothing."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from math import log

import pytest
import torch

from babelscope.errors import InputError
from babelscope.regions import localisation, nulls, similarity
from babelscope.regions.expert_deactivation import without_experts
from babelscope.regions.perplexity import cut_windows, score
from babelscope.regions.routed import Routing
from babelscope.regions.routing import (
    divergence,
    divergences,
    evenness,
    jensen_shannon,
    language_shares,
    owner,
    routing_recording,
    shared,
    specialised,
)
from babelscope.regions.routing_nulls import routing_null
from babelscope.regions.routing_recording import chosen, record_routing
from babelscope.studies.routing_deactivation import expert_deactivation

from .planted_moe import BY_LANGUAGE, BY_MEANING, BY_WORD, COMMON, EXPERTS, UNUSED, corpus, planted
from .region_data import corpus as letters
from .region_data import texts
from .tiny_mixtures import mixture


@lru_cache(2)
def routing(mixed: bool = False) -> Routing:
    return record_routing(planted(), corpus(mixed=mixed))


def plain_entropy(q: list[float]) -> float:
    return -sum(value * log(value) for value in q if value > 0)


def plain_divergence(q: list[float], r: list[float]) -> float:
    middle = [(a + b) / 2 for a, b in zip(q, r)]
    mean = (plain_entropy(q) + plain_entropy(r)) / 2
    return (plain_entropy(middle) - mean) / (log(len(q)) - mean)


def test_divergence_is_the_plain_formula():
    generator = torch.Generator().manual_seed(0)
    q, r = torch.rand(2, 5, 4, generator=generator, dtype=torch.float64).softmax(-1)
    found = divergence(q, r)
    for place in range(5):
        assert float(found[place]) == pytest.approx(plain_divergence(q[place].tolist(), r[place].tolist()), abs=1e-12)
    torch.testing.assert_close(found, divergence(r, q))
    assert float(divergence(q[0], q[0])) == pytest.approx(0, abs=1e-12)
    assert float(jensen_shannon(torch.tensor([1.0, 0]), torch.tensor([0, 1.0]))) == pytest.approx(log(2))


def test_divergence_by_hand():
    # H(q) = 0, H(r) = log 2, m = (3/4, 1/4): [H(m) − log 2 / 2] / [log 2 − log 2 / 2]
    q, r = torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.5])
    m = plain_entropy([0.75, 0.25])
    assert float(divergence(q, r)) == pytest.approx((m - log(2) / 2) / (log(2) / 2))
    # two of four experts against the other two: all that the entropies allow
    assert float(divergence(torch.tensor([0.5, 0.5, 0, 0]), torch.tensor([0, 0, 0.5, 0.5]))) == pytest.approx(1.0)


def test_shuffling_labels_may_raise_divergence():
    """Why the null of whole languages is one of JS: D divides by what shuffling makes small."""
    sharp = torch.tensor([[0.9, 0.05, 0.05], [0.05, 0.05, 0.9]])
    mixed = torch.stack([0.6 * sharp[0] + 0.4 * sharp[1], 0.4 * sharp[0] + 0.6 * sharp[1]])
    mixed = (mixed + torch.tensor([0.0, 0.45, 0.0])) / 1.45
    wide = divergence(sharp[0], sharp[1]), jensen_shannon(sharp[0], sharp[1])
    narrow = divergence(mixed[0], mixed[1]), jensen_shannon(mixed[0], mixed[1])
    assert float(narrow[1] / wide[1]) < 0.05
    assert float(narrow[0] / wide[0]) > 2 * float(narrow[1] / wide[1])


def test_two_uniform_routings_have_no_divergence():
    assert torch.isnan(divergence(torch.full((4,), 0.25), torch.full((4,), 0.25)))


def test_planted_routing_is_seen_by_divergence():
    found = divergences(routing(), "en")
    assert (found.same_sentence[BY_LANGUAGE, 1:] > 0.3).all()
    assert (found.same_sentence[BY_MEANING, 1:] < 1e-3).all()
    assert (found.other_sentence[BY_MEANING, 1:] > 0.05).all()
    assert (found.alignment[BY_MEANING, 1:] > 0.99).all()
    assert (found.alignment[BY_LANGUAGE, 1:].abs() < 0.05).all()
    assert torch.isnan(found.same_sentence[:, 0]).all()


def test_divergences_are_the_plain_means():
    one = routing()
    p = one.probabilities.double()
    for layer in range(3):
        pairs = [
            plain_divergence(p[0, i, layer].tolist(), p[2, j, layer].tolist())
            for i in range(len(one.ids))
            for j in range(len(one.ids))
            if i != j
        ]
        same = [plain_divergence(p[0, i, layer].tolist(), p[2, i, layer].tolist()) for i in range(len(one.ids))]
        found = divergences(one, "en")
        assert float(found.same_sentence[layer, 2]) == pytest.approx(sum(same) / len(same), abs=1e-9)
        assert float(found.other_sentence[layer, 2]) == pytest.approx(sum(pairs) / len(pairs), abs=1e-9)


def test_planted_experts_have_their_language():
    f = routing().language_choices()
    assert torch.allclose(f.sum(-1), torch.full((6, 3), 2.0, dtype=torch.float64), atol=1e-6)
    assert specialised(f, 0)[1:, BY_LANGUAGE].nonzero().tolist() == [[place, place + 1] for place in range(5)]
    shares = language_shares(f)
    assert owner(shares)[BY_LANGUAGE].tolist() == [0, 1, 2, 3, 4, 5, -1, -1]
    assert (owner(shares)[BY_MEANING] == -1).all()
    everybody = torch.arange(6)
    assert shared(shares, everybody)[BY_LANGUAGE].nonzero()[:, 0].tolist() == [COMMON]
    assert torch.isnan(shares[:, BY_LANGUAGE, UNUSED]).all()
    # the common expert has one half of every language: each has one sixth of it
    assert torch.allclose(shares[:, BY_LANGUAGE, COMMON], torch.full((6,), 1 / 6, dtype=torch.float64), atol=1e-6)


def test_favourites_by_hand():
    f = torch.tensor([[[0.6, 0.3, 0.1]], [[0.1, 0.3, 0.6]]])
    assert language_shares(f, favourites=1)[0, 0].tolist() == pytest.approx([1, float("nan"), 0], nan_ok=True)
    assert language_shares(f)[:, 0, 0].tolist() == pytest.approx([6 / 7, 1 / 7])


def test_the_null_finds_what_was_planted_and_nothing_else():
    null = routing_null(routing(), "en", draws=200)
    observed = divergences(routing(), "en")
    assert (observed.pooled[BY_LANGUAGE, 1:] > null.pooled[:, BY_LANGUAGE, 1:].amax(0)).all()
    inside = observed.pooled[BY_MEANING, 1:] <= null.pooled[:, BY_MEANING, 1:].amax(0) + 1e-6
    assert inside.all()
    own = null.chosen()
    assert own[:, BY_LANGUAGE].nonzero().tolist() == [[place, place] for place in range(6)]
    assert int(own[:, BY_MEANING].sum()) == 0
    f = routing().language_choices()
    assert int(specialised(f, 0).any(0).sum(-1)[BY_LANGUAGE]) > int(null.specialised[:, BY_LANGUAGE].max())
    assert int(null.exclusive[:, BY_LANGUAGE].float().mean()) < int((owner(language_shares(f))[BY_LANGUAGE] >= 0).sum())


def test_one_sentence_has_no_null():
    one = routing()
    one = replace(
        one,
        ids=one.ids[:1],
        probabilities=one.probabilities[:, :1],
        choices=one.choices[:, :1],
        tokens=one.tokens[:, :1],
    )
    with pytest.raises(InputError, match="there are 6, 1, 20"):
        routing_null(one, "en", draws=20)


def test_shuffled_labels_give_nothing():
    one = routing(mixed=True)
    null = routing_null(one, "en", draws=200)
    assert int(null.chosen().sum()) == 0
    found = divergences(one, "en")
    assert null.same_sentence is not None
    for layer in (BY_LANGUAGE, BY_WORD):
        drawn = null.same_sentence[:, layer, 1:].mean(1)
        value = float(found.same_sentence[layer, 1:].mean())
        assert float(drawn.quantile(0.005)) <= value <= float(drawn.quantile(0.995))


def test_p_values_are_the_plain_count():
    one = routing()
    null = routing_null(one, "en", draws=7, seed=3)
    orders = nulls.permutations(7, len(one.ids), 6, 3)

    def effects(order: torch.Tensor) -> torch.Tensor:
        f = torch.zeros(6, 3, EXPERTS, dtype=torch.float64)
        for language in range(6):
            tokens = 0
            for i in range(len(one.ids)):
                source = int(order[i, language])
                f[language] += one.choices[source, i].double() * int(one.tokens[source, i])
                tokens += int(one.tokens[source, i])
            f[language] /= tokens
        return f - f.mean(0)

    observed = effects(torch.arange(6).expand(len(one.ids), 6))
    every = torch.cat([observed, *(effects(order) for order in orders)])
    expected = torch.stack([(every >= effect - 1e-9).sum(0) for effect in observed]).double() / len(every)
    torch.testing.assert_close(null.p, expected)


def test_with_two_languages_translations_have_no_null():
    whole = routing()
    two = replace(
        whole, languages=whole.languages[:2], probabilities=whole.probabilities[:2], choices=whole.choices[:2],
        tokens=whole.tokens[:2],
    )  # fmt: skip
    null = routing_null(two, "en", draws=50)
    assert null.same_sentence is None
    assert (divergences(two, "en").pooled[BY_LANGUAGE, 1] > null.pooled[:, BY_LANGUAGE, 1]).all()


def test_similarity_and_regions_of_routing():
    recording = routing_recording(routing())
    means = similarity.layer_means(recording)
    # where language routes, sentences of a language are alike; where meaning does, translations are
    assert float(means.lrds[BY_LANGUAGE]) > 0.9 > 0.1 > abs(float(means.sads[BY_LANGUAGE]))
    assert float(means.sads[BY_MEANING]) > 0.9
    assert abs(float(means.lrds[BY_MEANING])) < 0.1
    scores = localisation.within_language_scores(localisation.within_language_sums(recording))
    regions = localisation.key_regions(scores, 2.0).reshape(6, 3, EXPERTS)
    assert regions[:, BY_LANGUAGE, :6].equal(torch.eye(6, dtype=torch.bool))
    uncentred = similarity.whole_means(routing_recording(routing(), centred=False))
    assert float(uncentred.neither) > 0.2  # any two routings are alike as long as all entries are positive


def test_evenness_by_hand():
    even = evenness(routing())
    assert even.shape == (6, 3)
    assert (even <= 1).all()
    assert (even[:, BY_LANGUAGE] < even[:, BY_MEANING]).all()


@pytest.mark.parametrize("name", ["mixtral", "qwen2_moe", "glm4_moe", "gpt_oss"])
def test_padding_adds_no_counts(name: str):
    """In batches of one no token is padded: the same numbers as in batches of many."""
    model = mixture(name)
    texts = letters(3, 6)
    together, alone = (record_routing(model, texts, budget=budget) for budget in (4096, 1))
    torch.testing.assert_close(together.probabilities, alone.probabilities, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(together.choices, alone.choices, atol=1e-6, rtol=1e-5)
    sums = together.choices.sum(-1)
    torch.testing.assert_close(sums, torch.full_like(sums, together.per_token), atol=1e-5, rtol=0)
    assert torch.allclose(together.probabilities.sum(-1), torch.ones(()), atol=1e-5)


def test_a_skip_class_is_counted():
    index, weights = torch.tensor([[0, 2], [0, 1]]), torch.tensor([[0.0, 0.5], [0.4, 0.6]])
    counted = chosen(index, weights, torch.ones(1, 2), experts=3, skip=True)
    assert counted.tolist() == [[1, 1, 1, 1]]


def test_a_dense_model_has_no_routing():
    from .region_data import model

    with pytest.raises(InputError, match="no mixture of experts"):
        record_routing(model("llama"), letters(3, 4))


def test_a_study_of_a_mixture_writes_its_routing(tmp_path):
    from babelscope.studies.region_settings import RegionsSettings
    from babelscope.studies.regions import study_regions

    settings = RegionsSettings("memory", samples=24, bootstrap=20, permutations=60)
    run = study_regions(planted(), settings, tmp_path / "run", corpus=corpus())
    layers, experts = run.table("routing_layer"), run.table("routing_expert")
    first = layers[layers.layer == BY_LANGUAGE]
    assert (first.pooled_js > first.pooled_js_null_high).all()
    assert sorted(first.language) == sorted(code for code in routing().languages if code != "en")
    owned = experts[experts.chosen & (experts.layer == BY_LANGUAGE)]
    assert dict(zip(owned.language, owned.expert)) == {code: place for place, code in enumerate(routing().languages)}
    assert owned.exclusive.all()
    for _, one in experts.groupby(["layer", "expert"]):
        for row in one.itertuples():
            assert row.f_others == pytest.approx(one.f[one.language != row.language].mean())
    similar = run.table("routing_similarity")
    assert set(similar.layer.dropna()) == {0, 1, 2}
    whole = run.summary["routing"]
    assert whole["scoring"] == "softmax"
    assert whole["per_token"] == 2
    # the neurons of a language's own expert are its region in that layer
    regions = run.arrays().z.sel(layer=BY_LANGUAGE).values > 2.0
    units = planted().mixtures[0].units
    for place in range(6):
        members = regions[place].reshape(EXPERTS, units)
        assert members[place].mean() > 0.7
        assert members[[other for other in range(6) if other != place]].sum() == 0


def test_an_expert_that_is_off_adds_to_the_loss_what_is_lost():
    model, sentences = mixture("qwen3_moe"), letters(2, 4)
    found = record_routing(model, sentences)
    windows = {code: cut_windows(model, texts(2)[code], 16, limit=2) for code in found.languages}
    rows = expert_deactivation(model, windows, found, controls=1)
    assert {row.kind for row in rows} == {"own", "matched"}
    before = {code: score(model, text).nll for code, text in windows.items()}
    for row in [row for row in rows if row.way == "drop"][:4]:
        with without_experts(model, {row.layer: [row.expert]}, row.way):
            after = score(model, windows[row.language]).nll
        assert row.delta_nll == pytest.approx(after - before[row.language], abs=1e-6)
        assert row.tokens == score(model, windows[row.language]).tokens
    assert max(abs(row.delta_nll) for row in rows) > 1e-4
