"""The pocket family in the package: its table, its weights, and what `pocket evaluate` scores."""

import itertools

import numpy as np
import pytest
import torch

from babelscope.cli.pocket import tables
from babelscope.errors import InputError, ModelError, NonFinite
from babelscope.pocket import models
from babelscope.pocket.evaluate import CHOICES, Size, cloze, evaluate
from babelscope.pocket.heldout import examples
from babelscope.pocket.models import LANGUAGES, MODELS
from babelscope.pocket.scoring import Scorer, accuracy, perplexity
from tests.command import command

needs_weights = pytest.mark.skipif(not models.WEIGHTS.is_dir(), reason="this checkout holds no trained weights")


def test_names_may_leave_out_the_prefix():
    assert models.get("llama") is MODELS["pocket-llama"]


def test_an_unknown_name_lists_the_names():
    with pytest.raises(ModelError, match="pocket-bloom-s, pocket-bloom-m"):
        models.path("bloom-xxl")


def test_an_unknown_revision_lists_the_revisions():
    with pytest.raises(ModelError, match=r"step16, .*main"):
        models.resolve("pocket:bloom-m@step17")


def test_only_pocket_references_resolve():
    with pytest.raises(ModelError, match="pocket:"):
        models.resolve("bloom-m")


def test_checkpoints_are_log_spaced_and_begin_early():
    steps = MODELS["pocket-bloom-m"].recipe.checkpoints
    assert len(steps) >= 7
    assert steps[0] <= 20
    assert all(1.4 <= b / a <= 4.1 for a, b in itertools.pairwise(steps))


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_shares_sum_to_one(model):
    assert sum(model.shares.values()) == pytest.approx(1)


def test_export_refuses_a_directory_in_use(tmp_path):
    (tmp_path / "something").write_text("x")
    with pytest.raises((InputError, ModelError)):
        models.export("bloom-s", tmp_path)


def test_wilson_interval_by_hand():
    share = accuracy([True] * 8 + [False] * 2)
    assert (share.n, share.share) == (10, 0.8)
    assert (share.low, share.high) == pytest.approx((0.4902, 0.9433), abs=1e-4)


def test_perplexity_of_a_uniform_model_is_its_number_of_words():
    losses = [np.full(n, np.log(7)) for n in (3, 5, 11)]
    found = perplexity(losses, ["abc", "defgh", "xyz"])
    assert found.perplexity == pytest.approx(7)
    assert found.low == pytest.approx(7)
    assert found.bits_per_byte == pytest.approx(19 * np.log2(7) / 11)


@pytest.fixture(scope="module")
def scorer():
    return Scorer(models.path("bloom-s"))


def test_batched_losses_equal_those_of_one_text_at_a_time(scorer):
    rows = scorer.rows(["Today I walk.", "玛丽", "Today I walk. Yesterday I walked. Today I walk.", "x"])
    together = scorer.token_losses(rows)
    for row, losses in zip(rows, together):
        assert len(losses) == len(row) - 1
        assert np.allclose(losses, scorer.token_losses([row])[0], atol=1e-5)


def test_continuations_sum_the_log_probabilities_of_their_tokens(scorer):
    prompt, text = "Today I", " walk. Yesterday"
    ids = [2, *scorer.ids(prompt), *scorer.ids(text)]
    with torch.no_grad():
        logs = scorer.model(torch.tensor([ids])).logits[0].log_softmax(-1)
    start = 1 + len(scorer.ids(prompt))
    by_hand = sum(float(logs[place - 1, ids[place]]) for place in range(start, len(ids)))
    assert scorer.continuations([(prompt, text)])[0] == pytest.approx(by_hand, abs=1e-4)


def test_list_names_every_model_and_revision():
    shown = command("pocket", "list")
    assert shown.exit_code == 0
    assert all(name in shown.output for name in MODELS)
    assert "step16" in shown.output


@needs_weights
def test_every_revision_is_there_and_the_set_is_small():
    size = 0
    for model in MODELS.values():
        for revision in model.revisions:
            directory = models.resolve(f"pocket:{model.name}@{revision}")
            size += sum(file.stat().st_size for file in directory.iterdir())
    assert size < 52e6


@needs_weights
def test_an_exported_model_loads_and_knows_who_receives(tmp_path):
    target = models.export("bloom-m", tmp_path / "copy")
    mine = Scorer(target)
    prompt = "When Mary and John went to the school, John gave a book to"
    io, s = mine.continuations([(prompt, " Mary"), (prompt, " John")])
    assert io > s


@needs_weights
def test_evaluation_tables_hold_every_language():
    found = evaluate(["gpt2-en"], Size(documents=3, choices=4, stories=3), report=lambda line: None)
    assert {row["kind"] for row in found["choices"]} == set(CHOICES)
    assert tables(found)[0].row_count == 1


def test_a_story_in_eight_languages_is_one_observation():
    """Two of four stories, in every language the same ones: Wilson's interval of 2 in 4, not of 16 in 32."""
    ids = [example.meaning_id for example in examples("fr", "story_english")[:4]]
    assert ids == [example.meaning_id for example in examples("zh", "story_english")[:4]]

    class Told:
        """Right endings have 0, 1, 0, 1, wrong ones 0.5."""

        calls = 0

        def continuations(self, pairs):
            self.calls += 1
            return np.arange(len(pairs)) % 2.0 if self.calls % 2 else np.full(len(pairs), 0.5)

    rows = {row["language"]: row for row in cloze(Told(), LANGUAGES, Size(stories=4))}
    share = accuracy([True, True, False, False])
    assert (rows["others"]["n"], rows["others"]["share"]) == (4, 0.5)
    assert (rows["others"]["low"], rows["others"]["high"]) == pytest.approx((share.low, share.high))


@needs_weights
def test_a_text_that_is_longer_than_the_model_reads_is_refused():
    scorer = Scorer(models.path("gpt2-en"))
    fits = [5] * scorer.longest
    assert len(scorer.token_losses([fits])[0]) == scorer.longest - 1
    with pytest.raises(InputError, match=f"{scorer.longest + 1} tokens, where the model has {scorer.longest}"):
        scorer.token_losses([[*fits, 5]])


@needs_weights
def test_a_model_whose_losses_are_no_numbers_has_no_accuracy():
    """Every answer of it was wrong: no comparison with NaN holds."""
    broken = Scorer(models.path("bloom-s"))
    broken.model.get_output_embeddings().weight.data[7] = float("nan")
    with pytest.raises(NonFinite, match="not a number"):
        broken.continuations([("Today I", " walk.")])
