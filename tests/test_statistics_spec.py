"""The statistics of regions on simulated recordings of known truth (tests 1–9 of the specification), all seeded."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from babelscope import stats
from babelscope.regions.contrast import ContrastSettings, contrast
from babelscope.regions.document_means import score_intervals, whole_map
from babelscope.regions.headlines import headlines
from babelscope.regions.nulls import excess_interval, score_null
from babelscope.regions.recording import Recording
from babelscope.regions.similarity import bootstrap_means, gram, layer_means, whole_means
from babelscope.regions.sinks import _at_first, length_coupling, normalised
from babelscope.regions.stability import bootstrap_regions

LENGTHS = (46, 55, 56, 53, 52, 118, 50, 62, 47)
LONG = 5
CODES = ("en", "zh", "fr", "es", "pt", "ar", "hi", "id", "vi")


def made(v: torch.Tensor, tokens: torch.Tensor | None = None, documents: list[int] | None = None) -> Recording:
    languages, sentences, _ = v.shape
    tokens = torch.full((languages, sentences), 20) if tokens is None else tokens
    labels = tuple(map(str, documents or ()))
    ids = tuple(map(str, range(sentences)))
    return Recording(CODES[:languages], ids, 1, v.float().numpy(), tokens, 0.0, documents=labels)


def draw(seed: int):
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)


def with_sink(share: float, seed: int, neurons: int = 300, raised: float = 0.0) -> tuple[Recording, torch.Tensor]:
    """No language effect (but `raised` on ten neurons a language), unequal lengths, neuron 0 firing at one position."""
    normal = draw(seed)
    tokens = (torch.tensor(LENGTHS)[:, None] * (0.35 * normal(9, 100)).exp()).round().clamp(min=1).long()
    v = normal(neurons) + normal(100, neurons) + 0.8 * normal(9, 100, neurons)
    v += 3 * normal(9, 100, neurons) / tokens[..., None].sqrt()
    truth = torch.zeros(9, neurons, dtype=torch.bool)
    if raised:
        for language in range(9):
            truth[language, 1 + 10 * language : 11 + 10 * language] = True
            v[language, :, truth[language]] += raised
    if share:
        rest = v.square().sum(-1).mean()
        amplitude = (share / (1 - share) * rest / tokens.double().pow(-2).mean()).sqrt()
        v[..., 0] += amplitude / tokens
    return made(v, tokens), truth


@pytest.mark.parametrize("share", [0.0, 0.5, 0.95])
def test_a_sink_and_unequal_lengths_make_no_region(share):
    nulls, long, members, shares, strong = [], [], 0, [], []
    for seed in range(8):
        recording, sinks = normalised(with_sink(share, seed)[0])
        assert [(one.neuron, one.scope) for one in sinks] == ([(0, "model"), (0, "layer")] if share else [])
        kept = recording.kept()
        point = contrast(recording, ContrastSettings(effect=0.0)).p_raised[:, kept]
        nulls.append(float((point <= 0.05).double().mean()))
        long.append(float((point[LONG] <= 0.05).double().mean()))
        members += int(contrast(recording).raised.sum())
        if seed < 2:
            found = headlines(recording)
            shares.append(found.language_share.value)
            strong.append(found.strong_neurons.value)
    assert 0.045 <= np.mean(nulls) <= 0.06
    assert 0.03 <= np.mean(long) <= 0.07
    assert members == 0
    assert max(map(abs, shares)) < 0.1
    assert strong == [0, 0]


def test_under_the_papers_norm_the_long_language_seems_to_have_a_region():
    recording, _ = normalised(with_sink(0.95, 0)[0], "paper")
    point = contrast(recording, ContrastSettings(effect=0.0)).p_raised
    assert float((point[LONG] <= 0.05).double().mean()) > 0.3
    assert length_coupling(recording) < -0.5
    assert abs(length_coupling(normalised(recording)[0])) < 0.2


def test_planted_neurons_are_found_beside_a_sink():
    hits, false, kept = 0, 0, 0
    for seed in range(3):
        recording, truth = with_sink(0.5, seed, raised=0.5)
        found = contrast(normalised(recording)[0], ContrastSettings(effect=0.0)).raised
        hits += int((found & truth).sum())
        false += int((found & ~truth).sum())
        kept += int(truth.sum())
    assert hits / kept >= 0.9
    assert false / (hits + false) <= 0.1


def test_without_a_sink_the_default_is_the_papers_bit_for_bit():
    recording = with_sink(0.0, 3)[0]
    default, sinks = normalised(recording)
    assert sinks == []
    for (_, x), (_, y) in zip(default.unit_chunks(), normalised(recording, "paper")[0].unit_chunks()):
        assert torch.equal(x, y)
    assert torch.equal(layer_means(default).lrds, layer_means(recording).lrds)


def fires_at_first(seed: int, elsewhere: float, languages: int = 9) -> Recording:
    """Neuron 0 fires at the first token in some languages, and `elsewhere` as much besides, more in long texts."""
    recording, normal = with_sink(0.0, seed)[0], draw(100 + seed)
    v, tokens = torch.from_numpy(recording.means).double(), recording.tokens.double()
    mean = tokens.mean(1, keepdim=True)
    first = v / tokens[..., None]  # of other neurons the first token carries what each token does
    first[:languages, :, 0] = 2000 / tokens[:languages]
    others = elsewhere * normal(9, 100).abs() * 2000 / mean * (tokens / mean) ** 2
    v[:languages, :, 0] = (first[..., 0] + others)[:languages]
    part = (v * first).sum(1) / v.square().sum(1)
    return replace(recording, means=v.float().numpy(), first_part=part.float())


def test_a_sink_that_fires_elsewhere_too_is_known_by_where_it_fires():
    """Its slope is flat, so length alone does not tell (spec 1); nothing else is taken out, nor a language's own."""
    for seed in range(4):
        recording = fires_at_first(seed, elsewhere=0.3)
        _, sinks = normalised(recording)
        assert [(one.neuron, one.scope) for one in sinks] == [(0, "model"), (0, "layer")]
        assert sinks[0].first > 0.5
        assert sinks[0].slope > -1
        assert normalised(replace(recording, first_part=None))[1] == []  # by length alone it is missed
        assert normalised(fires_at_first(seed, 0.3, languages=3))[1] == []
    two = replace(recording, tokens=torch.full_like(recording.tokens, 2))  # half of two tokens is nothing
    assert not _at_first(two, 0)[1]


def sparse(sentences: int, effects: bool) -> tuple[Recording, float, int]:
    """Effects 1.2 N on a twentieth of neurons and languages: the recording, true language share (%) and N(d > 0.5)."""
    normal = draw(5)
    effect = 1.2 * normal(9, 1500) * (torch.rand(9, 1500, generator=torch.Generator().manual_seed(6)) < 0.05)
    effect = effect * float(effects)
    v = normal(1500) + effect[:, None] + normal(sentences, 1500) + normal(9, sentences, 1500)
    s2 = 2.0  # sentences 1, their noise 1
    between = effect.var(0)
    against = effect - (effect.sum(0) - effect) / 8
    return made(v), 100 * float((between / (between + s2)).mean()), int((against / s2**0.5 > 0.5).sum())


@pytest.mark.parametrize("sentences", [25, 100, 400])
def test_headlines_do_not_move_with_the_number_of_sentences(sentences):
    recording, share, strong = sparse(sentences, effects=True)
    found = headlines(recording)
    assert found.language_share.value == pytest.approx(share, rel=0.05)
    assert found.strong_neurons.value == pytest.approx(strong, rel=0.25)


@pytest.mark.parametrize("sentences", [25, 100])
def test_noise_has_no_headline(sentences):
    found = headlines(sparse(sentences, effects=False)[0])
    assert found.strong_neurons.value == 0
    assert abs(found.language_share.value) < 0.05


def test_labels_are_permuted_by_document():
    by_document, by_sentence = [], []
    documents = [place // 10 for place in range(50)]
    for seed in range(12):
        normal = draw(100 + seed)
        shared = 0.5 * normal(6, 5, 1, 200).expand(6, 5, 10, 200).reshape(6, 50, 200)
        v = normal(200) + normal(50, 200) + shared + normal(6, 50, 200)
        null = score_null(made(v, documents=documents), draws=60, seed=seed)
        by_document.append(float((null.p_effect <= 0.05).double().mean()))
        by_sentence.append(float((score_null(made(v), draws=60, seed=seed).p_effect <= 0.05).double().mean()))
    assert 0.04 <= np.mean(by_document) <= 0.065
    assert np.mean(by_sentence) > 0.12


def document_data(groups: int, normal, size: int = 6) -> Recording:
    """Four languages whose manner is stronger in some documents, which also have a subject more or less their own."""

    def spread(values: torch.Tensor) -> torch.Tensor:
        return values[:, None].expand(groups, size, -1).reshape(groups * size, -1)

    shuffle = torch.randperm(160, generator=torch.Generator().manual_seed(0))
    manner = 1.5 * torch.linspace(-1, 1, 160, dtype=torch.float64)[shuffle]
    manner = manner.reshape(4, 1, 40) * (1 + 0.4 * spread(normal(groups, 1)))
    subject = normal(groups * size, 40) * (1 + 0.4 * spread(normal(groups, 1)))
    v = 1 + manner + subject + normal(4, groups * size, 40)
    return made(v, documents=[place // size for place in range(groups * size)])


@pytest.mark.parametrize("groups", [5, 20])
def test_intervals_of_scores_cover_by_document_and_not_by_sentence(groups):
    runs = [document_data(groups, draw(10_000 * groups + seed)) for seed in range(200)]
    found = [whole_means(run) for run in runs]
    truth = {name: np.mean([float(getattr(one, name)) for one in found]) for name in ("lrds", "sads")}
    inside = {"lrds": 0, "sads": 0}
    by_sentence = 0
    for run, whole in zip(runs, found):
        blocks = whole_map(run)
        made_intervals = score_intervals(whole, blocks)
        for name in inside:
            inside[name] += made_intervals[name].low <= truth[name] <= made_intervals[name].high
        drawn = bootstrap_means(gram(run), draws=100, seed=1)
        low, high = stats.percentile(drawn.lrds.numpy())
        by_sentence += low <= truth["lrds"] <= high
    assert 0.91 <= inside["lrds"] / 200 <= 0.98
    assert 0.91 <= inside["sads"] / 200 <= 0.98
    assert by_sentence / 200 < 0.92


def test_excess_covers_its_own_mean():
    found = []
    for seed in range(50):
        normal = draw(500 + seed)
        language = torch.linspace(-1, 1, 7 * 250, dtype=torch.float64).reshape(250, 7).T[:, None]
        manner = 0.4 * normal(7, 20, 1, 250).expand(7, 20, 3, 250).reshape(7, 60, 250)
        v = 1 + 0.5 * language + normal(60, 250) + manner + normal(7, 60, 250)
        run = made(v, documents=[place // 3 for place in range(60)])
        null = score_null(run, draws=20, seed=seed)
        resampled = bootstrap_regions(run, draws=60, seed=seed).sizes.sum(1)
        found.append(excess_interval(null, resampled, 20))
    truth = np.mean([one.value for one in found])
    assert 0.90 <= np.mean([one.low <= truth <= one.high for one in found]) <= 1.0


def test_variances_may_differ_between_languages():
    ends = []
    for seed in range(4):
        normal = draw(700 + seed)
        # every neuron has an order of its own, so that no language has a longer vector
        order = torch.rand(9, 400, generator=torch.Generator().manual_seed(seed)).argsort(0)
        spread = torch.linspace(0.3, 2, 9, dtype=torch.float64)[order]
        v = normal(400) + normal(60, 400) + spread[:, None] * normal(9, 60, 400)
        p = contrast(made(v), ContrastSettings(effect=0.0)).p_raised
        ends.append([float((p[order == one] <= 0.05).double().mean()) for one in (0, 8)])
    assert all(0.03 <= rate <= 0.07 for rate in np.mean(ends, axis=0))


def test_neurons_that_two_languages_share_and_lowered_ones():
    normal = draw(8)
    v = normal(300) + normal(100, 300) + normal(8, 100, 300)
    s = 2**0.5
    v[:2, :, :15] += 1.5 * s
    v[3, :, 20:35] -= 1.5 * s
    found = contrast(made(v), ContrastSettings(effect=0.25))
    assert float(found.raised[:2, :15].double().mean()) >= 0.9
    assert float(found.lowered[3, 20:35].double().mean()) >= 0.9
    assert not found.raised[3, 20:35].any()


@pytest.mark.parametrize("languages", [2, 3, 5])
def test_few_languages_are_enough(languages):
    normal = draw(9)
    v = normal(100) + normal(60, 100) + normal(languages, 60, 100)
    v[0, :, :10] += 3
    found = contrast(made(v))
    assert found.raised[0].nonzero()[:, 0].tolist() == list(range(10))
    assert not math.isnan(headlines(made(v)).language_share.low)
    if languages == 2:
        assert torch.equal(found.lowered[1], found.raised[0])


def test_intervals_of_a_change_of_loss_cover():
    rng = np.random.default_rng(0)
    inside = 0
    for seed in range(400):
        sizes = rng.integers(50, 150, 15)
        changes = 0.3 * sizes + np.sqrt(sizes) * rng.standard_normal(15)
        made_interval = stats.ratio_t(changes, sizes, draws=200, seed=seed)
        inside += made_interval.low <= 0.3 <= made_interval.high
    assert 0.90 <= inside / 400 <= 0.97


def test_one_sample_t_holds_its_rate_at_ten():
    p = stats.t_test(np.random.default_rng(1).standard_normal((6000, 10)))
    assert 0.04 <= (p <= 0.05).mean() <= 0.065
