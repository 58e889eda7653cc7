"""Numbers of regions at the edges: empty sets, indices far away, odd chunks, last tokens by language."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch

from babelscope.corpora import ParallelCorpus
from babelscope.errors import InputError
from babelscope.regions import alignment_measures, residual, table
from babelscope.regions.agreement import expected_jaccard
from babelscope.regions.alignment import Metric, alignment
from babelscope.regions.alignment_measures import Layer
from babelscope.regions.document_means import DocumentMap, whole_intervals
from babelscope.regions.exchange import import_lape, import_regions
from babelscope.regions.expert_deactivation import Dropped, _without
from babelscope.regions.masks import random_region
from babelscope.regions.methods import Choices, localise
from babelscope.regions.nulls import ScoreNull, excess_interval, score_null
from babelscope.regions.perplexity import Loss, token_losses
from babelscope.regions.residual import record_residual
from babelscope.regions.rounds import Cell
from babelscope.regions.stability import Overlaps
from babelscope.regions.table import DeactivationTable
from babelscope.results.schemas.regions import Perplexity
from babelscope.stats import Interval

from .region_data import model, noise, recording


def test_the_null_tells_how_many_neurons_are_done():
    told: list[int] = []
    score_null(noise(languages=5, neurons=30), draws=2, progress=told.append)
    assert sum(told) == 30
    assert min(told) >= 1


def test_chance_of_sets_of_which_one_is_empty():
    """No neuron is in both, some are in either: 0; of two empty sets nothing can be said."""
    assert expected_jaccard(0, 3, 10) == 0
    assert expected_jaccard(3, 0, 10) == 0
    assert math.isnan(expected_jaccard(0, 0, 10))


@pytest.mark.parametrize("index", [4, 5, 1000, -1])
def test_a_mask_that_names_a_neuron_of_no_model_is_refused(tmp_path, index):
    torch.save([[torch.tensor([0, 3])], [torch.tensor([index])]], tmp_path / "mask")
    with pytest.raises(InputError, match=r"layer 0 of zh names a neuron beyond 3$"):
        import_lape(tmp_path / "mask", ["en", "zh"], layers=1, neurons=4)
    torch.save([[torch.tensor([0, 3])], [torch.tensor([1])]], tmp_path / "mask")
    assert import_lape(tmp_path / "mask", ["en", "zh"], 1, 4)["en"].tolist() == [[True, False, False, True]]


@pytest.mark.parametrize("chunk", [3, 7, 10**6])
def test_losses_are_those_of_the_whole_vocabulary_by_chunks_of_any_size(chunk):
    loaded = model("llama")
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(2, 40, loaded.width, generator=generator)
    targets = torch.randint(0, len(loaded.unembedding), (2, 40), generator=generator)
    logits = loaded.logits(hidden).double()
    wanted = -logits.log_softmax(-1).gather(-1, targets[..., None])[..., 0]
    assert torch.allclose(token_losses(loaded, hidden, targets, chunk).double(), wanted, atol=1e-4)


def test_last_tokens_are_counted_within_each_language():
    texts = {"en": ["ba", "ca", "da", "ea"], "zh": ["ab", "ac", "ab", "ad"], "fr": ["x", "ax", "bx", "by"]}
    found = record_residual(model(), ParallelCorpus.from_texts(texts), ("last",))
    assert found.last_tokens == {"en": 1, "zh": 3, "fr": 2}


@pytest.mark.parametrize(
    ("neuron", "told"),
    [
        (-(2**63), "'-9223372036854775808' of en is not the number of a neuron"),
        (-(2**62), "'-4611686018427387904' of en is not the number of a neuron"),
        (2**62, "'4611686018427387904' of en is not the number of a neuron"),
        (True, "'True' of en is not the number of a neuron"),
        (1 - 2**62, "layer 0 of en names a neuron beyond 3"),
        (2**62 - 1, "layer 0 of en names a neuron beyond 3"),
    ],
)
def test_a_number_that_is_no_neuron_is_refused_however_large(tmp_path, neuron, told):
    file = tmp_path / "r.json"
    content = {"method": "m", "layers": 1, "neurons_per_layer": 4, "regions": {"en": [[neuron]]}}
    file.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(InputError, match=f"{told}$"):
        import_regions(file)


def test_the_first_tokens_share_is_of_squares():
    """Σ v² over sentences: 10 and 4; the first token has 1/2 and 1/4 of them: 6 of 14."""
    found = recording(torch.tensor([[[1.0, 2.0], [3.0, 0.0]]], dtype=torch.float64))
    assert math.isnan(found.first_share())
    assert replace(found, first_part=torch.tensor([[0.5, 0.25]])).first_share() == pytest.approx(6 / 14)


def test_a_bootstrapped_excess_reckons_with_one_document_less():
    """SKLR 1, 3 of two bootstraps (variance 2), of draws 0, 0 (variance 0): excess ± t(2) · √2 of three documents."""
    ones = torch.ones(2, 3, dtype=torch.long)
    null = ScoreNull(
        ("a", "b"),
        torch.tensor([1, 1]),
        torch.zeros(2, 2, dtype=torch.long),
        ones[:, :2].double(),
        ones[:, :2].double(),
        3.0,
    )
    found = excess_interval(null, torch.tensor([1, 3]), 3)
    half = 4.30265272991 * 2**0.5
    assert found.value == 2
    assert (found.low, found.high) == pytest.approx((2 - half, 2 + half))


def test_chance_is_averaged_over_draws_where_it_is_known():
    chance = torch.tensor([[0.1, 0.4], [0.3, float("nan")]], dtype=torch.float64)
    none = torch.zeros(2, 2, dtype=torch.long)
    told = Overlaps(("en", "zh"), none, none, none, chance).chance_by_language()
    assert told == pytest.approx({"en": 0.2, "zh": 0.4})


def test_documents_that_leave_one_sentence_are_not_left_out():
    sums = torch.zeros(1, 3, 1, 3, dtype=torch.float64)
    two_left = DocumentMap(sums[:, :2, :, :2], sums[:, 0, :, :2], torch.tensor([1, 2]))
    assert two_left.each_left_out().tolist() == [[0, 1]]


def test_two_documents_of_which_one_leaves_a_single_sentence_are_not_called_one():
    """Without the first document one sentence is left: no interval, and that is the reason, by either way."""
    two = replace(noise(3, 3, 8), documents=("a", "a", "b"))
    one = replace(noise(3, 3, 8), documents=("a", "a", "a"))
    for name in ("lrds", "sads"):
        found = whole_intervals(two)[name]
        assert math.isnan(found.low)
        assert found.why == alignment(two, [name])[0].why == "too few sentences are left without a document"
        assert whole_intervals(one)[name].why == alignment(one, [name])[0].why == "one document"


def test_neurons_in_common_are_divided_by_those_of_either_text():
    """Two and three active neurons, one in common: 1 of 4; the other sentence shares nothing of either."""
    v = torch.tensor([[[1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1]], [[0, 1, 1, 1, 0, 0], [1, 0, 0, 0, 1, 0]]]).double()
    seen: list[torch.Tensor] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            alignment_measures,
            "_neighbours",
            lambda _layer, of, *_: (seen.append(of(0, 1, 0)), torch.zeros(1, 2, 2))[1],
        )
        alignment_measures.neuron_matching(Layer(v, torch.tensor([0, 1])))
    assert seen[0].tolist() == [[1 / 4, 1 / 3], [0, 0]]


@pytest.mark.parametrize(("text", "kept"), [("a .", "a"), ("a . !", "a"), ("ab。", "ab"), ("..", "."), ("a ", "a")])
def test_the_last_word_is_what_stands_before_the_punctuation(text, kept):
    assert residual._unpunctuated(text) == kept


def test_experts_are_switched_off_by_their_number_and_others_stay():
    """Choice 2 names an expert beyond the two that are known (a shared one): it stays."""
    told = Dropped()
    index, weights = torch.tensor([[0, 2], [1, 0]]), torch.tensor([[0.5, 0.5], [0.25, 0.75]])
    _, left = _without(told, torch.tensor([True, False]), "drop", index, weights)
    assert left.tolist() == [[0, 0.5], [0.25, 0]]
    assert (told.passes, told.without_expert, told.still_used) == (1, 0, 0)


def test_random_regions_have_a_seed_each():
    found = noise(languages=6)
    like = localise(found)
    drawn = localise(found, "random", Choices(seed=3), like=like)
    for order, code in enumerate(like.sizes):
        wanted = random_region(like.sizes[code], found.layout.widths, 3 + order)
        assert torch.equal(drawn[code], wanted)


def test_a_map_of_another_shape_is_refused():
    layer = Layer(torch.rand(3, 4, 5, dtype=torch.float64), torch.arange(4))
    with pytest.raises(ValueError, match=r"must be \[language, language\], here \[3, 3\]$"):
        Metric(lambda v: v, lambda _: torch.zeros(2, 2)).of(layer)


def test_rounds_are_counted_and_bits_are_those_of_all_bytes():
    """Regions that were read to the first, the second and again the second look; a draw to the first."""

    def row(rounds: int, draw: int = -1, deactivated: str = "en") -> Perplexity:
        facts = {"neurons": 3, "rounds": rounds, "perplexity": 2.0, "increase_percent": 1.0}
        return Perplexity(language="en", deactivated=deactivated, draw=draw, **facts)

    rows = (row(1), row(2), row(2), row(1, 0, "random"), row(1, deactivated="base"))
    told = DeactivationTable(rows, (), fixed=False).reading
    assert told["regions_by_rounds"][:3] == [1, 2, 0]
    assert told["draws_by_rounds"][:3] == [1, 0, 0]
    # 10 tokens of 2 nats each and 1 nat more, on 5 bytes
    whole = Loss(torch.tensor([8.0, 12.0]), torch.tensor([4, 6]), 5)
    made = table._row("en", "zh", -1, 3, Cell(whole, whole, Interval(1.0, 0.5, 1.5, "t"), 1, 0.95), whole)
    assert made.bits_per_byte == pytest.approx(3 * 10 / math.log(2) / 5)
    assert (made.nll, made.tokens, made.documents) == (3, 10, 2)
