"""The pocket family: its table, its tokenizers, its training, and the weights in the package."""

import csv
import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from babelscope.cli.pocket import app, tables
from babelscope.errors import InputError, ModelError
from babelscope.pocket import curriculum, models
from babelscope.pocket.baselines import CountModels
from babelscope.pocket.evaluate import CHOICES, Size, evaluate
from babelscope.pocket.models import MODELS, Recipe
from babelscope.pocket.packing import Order, TokenStream, pack
from babelscope.pocket.scoring import Scorer, accuracy, perplexity
from babelscope.pocket.tokenizer import save_tokenizer, share_of_whole, train_tokenizer
from babelscope.pocket.train import FIRST_END, Trainer, learning_rate

TEXTS = ["Today I walk. Yesterday I walked.", "今天玛丽去学校，玛丽去公园。"] * 20
RECIPE = Recipe(steps=12, batch=4, length=16, learning_rate=3e-3, warmup=4, checkpoints=(2, 8))


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, 320, whole=[" walk", "玛丽"], joined=["玛丽"])


@pytest.fixture(scope="module")
def stream(tokenizer):
    return pack([("en", TEXTS[0]), ("zh", TEXTS[1])] * 100, tokenizer, limit=3000)


def tiny(name):
    return replace(MODELS[name], layers=2, heads=2, width=16, recipe=RECIPE, key_value_heads=1)


def trainer(tokenizer, stream, directory, name="pocket-bloom-m"):
    return Trainer(tiny(name), tokenizer, stream, directory, report=lambda line: None, device="cpu")


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


def test_names_inside_an_unspaced_clause_are_one_token(tokenizer):
    assert share_of_whole(tokenizer, ["玛丽"], ["今天{}去学校", "{}去"]) == 1


def test_a_word_in_pieces_is_not_counted_whole(tokenizer):
    assert share_of_whole(tokenizer, ["Xerxes"], ["Today {} walk"]) == 0


def test_tokenizer_files_load_and_round_trip(tokenizer, tmp_path):
    save_tokenizer(tokenizer, tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = "Yesterday 玛丽 walked, naïvely."
    assert loaded(text).input_ids == tokenizer.encode(text).ids
    assert loaded.decode(loaded(text).input_ids) == text
    assert loaded.convert_tokens_to_ids(["<unk>", "<s>", "</s>", "<pad>"]) == [0, 1, 2, 3]


def test_packed_documents_end_with_the_end_of_text(tokenizer):
    stream = pack([("en", "Today I walk."), ("zh", "玛丽")], tokenizer, limit=100)
    assert stream.names == ("en", "zh")
    ends = np.flatnonzero(stream.tokens == 2)
    assert ends[-1] == len(stream) - 1
    assert stream.labels[ends].tolist() == [0, 1]


def test_a_stream_is_read_back_as_it_was(stream, tmp_path):
    assert TokenStream.load(tmp_path) is None
    stream.save(tmp_path)
    loaded = TokenStream.load(tmp_path)
    assert np.array_equal(loaded.tokens, stream.tokens)
    assert np.array_equal(loaded.labels, stream.labels)
    assert loaded.names == stream.names


def test_targets_of_a_window_are_the_inputs_of_the_next_place(stream):
    tokens, labels = stream.batch(np.array([0, 3]), 16)
    assert tokens.shape == (2, 17)
    assert tokens[1].tolist() == stream.tokens[48:65].tolist()
    assert labels[1].tolist() == stream.labels[49:65].tolist()


def test_an_epoch_reads_every_window_once_and_the_next_in_another_order():
    order = Order(windows=12, batch=4, seed=0)
    first = np.concatenate([order.rows(step) for step in range(3)])
    second = np.concatenate([order.rows(step) for step in range(3, 6)])
    assert sorted(first) == sorted(second) == list(range(12))
    assert first.tolist() != second.tolist()
    assert Order(12, 4, 0).rows(4).tolist() == second[4:8].tolist()


def test_learning_rate_rises_falls_and_ends_above_nothing():
    rates = [learning_rate(RECIPE, step) for step in range(RECIPE.steps + 1)]
    assert rates[:4] == pytest.approx([RECIPE.learning_rate * k / 4 for k in (1, 2, 3, 4)])
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert rates[-1] == pytest.approx(RECIPE.learning_rate * 0.05)


def test_a_restart_raises_the_learning_rate_once_more_and_less():
    recipe = Recipe(steps=300, batch=1, length=1, learning_rate=1.0, warmup=10, restart=200)
    rates = [learning_rate(recipe, step) for step in range(recipe.steps)]
    assert rates[:200] == [learning_rate(replace(recipe, steps=200, restart=0), step) for step in range(200)]
    assert max(rates[200:]) == pytest.approx(0.4)
    assert rates[199] < 0.06
    assert rates[200] < rates[209] > rates[-1]


def test_with_a_restart_the_finished_model_is_the_mean_of_both_ends(tokenizer, stream, tmp_path):
    spec = replace(tiny("pocket-bloom-s"), recipe=replace(RECIPE, restart=8))
    trainer = Trainer(spec, tokenizer, stream, tmp_path, report=lambda _: None, device="cpu")
    trainer.run(until=11)
    trainer.take_step()
    last = {name: p.detach().clone() for name, p in trainer.parameters.items()}
    first = load_file(tmp_path / FIRST_END)
    trainer.run()
    for name, parameter in trainer.parameters.items():
        torch.testing.assert_close(parameter.detach(), (first[name] + last[name]) / 2)


def test_a_resumed_training_ends_where_an_unbroken_one_does(tokenizer, stream, tmp_path):
    whole = trainer(tokenizer, stream, tmp_path / "whole")
    whole.run()
    trainer(tokenizer, stream, tmp_path / "broken").run(until=5)
    resumed = trainer(tokenizer, stream, tmp_path / "broken")
    assert resumed.step == 5
    resumed.run()
    for name, parameter in whole.parameters.items():
        assert torch.allclose(parameter, resumed.parameters[name], atol=1e-6), name


def test_a_state_of_other_settings_is_refused(tokenizer, stream, tmp_path):
    trainer(tokenizer, stream, tmp_path).run(until=1)
    other = replace(tiny("pocket-bloom-m"), recipe=replace(RECIPE, learning_rate=1e-3))
    with pytest.raises(ModelError, match="other settings"):
        Trainer(other, tokenizer, stream, tmp_path, report=lambda line: None, device="cpu")


def test_training_lowers_the_loss_and_writes_its_curve(tokenizer, stream, tmp_path):
    run = trainer(tokenizer, stream, tmp_path)
    first = run.take_step()
    run.run()
    rows = list(csv.DictReader((tmp_path / "loss.csv").open(encoding="utf-8")))
    assert float(rows[-1]["loss"]) < first
    assert {"step", "tokens", "loss", "en", "zh"} <= set(rows[-1])


@pytest.mark.parametrize("name", ["pocket-bloom-m", "pocket-llama", "pocket-gpt2-en"])
def test_written_models_load_by_themselves_and_equal_the_trained_ones(tokenizer, stream, tmp_path, name):
    run = trainer(tokenizer, stream, tmp_path, name)
    final = run.run()
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith("step")) == ["step2", "step8"]
    loaded = AutoModelForCausalLM.from_pretrained(final, dtype=torch.float32).eval()
    ids = AutoTokenizer.from_pretrained(final)(TEXTS[0], return_tensors="pt").input_ids
    run.network.eval()
    with torch.no_grad():
        assert torch.allclose(loaded(ids).logits, run.network(ids).logits, atol=2e-2)
    assert next(AutoModelForCausalLM.from_pretrained(final).parameters()).dtype == torch.float16


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


def test_count_models_are_distributions():
    models_of_counts = CountModels([[0, 1, 2, 1, 2], [0, 2, 2]], words=4)
    for history in range(4):
        bigram = [np.exp(-models_of_counts.bigram_losses([history, word])[0]) for word in range(4)]
        assert sum(bigram) == pytest.approx(1), history
    assert models_of_counts.unigram.sum() == pytest.approx(1)


def test_bigram_by_hand():
    counted = CountModels([[0, 1, 2, 1, 2]], words=3)
    unigram = (2 + 0.1) / (4 + 0.3)
    assert np.exp(-counted.bigram_losses([1, 2])[0]) == pytest.approx((2 - 0.75) / 2 + 0.75 / 2 * unigram)


@pytest.fixture(scope="module")
def scorer(tokenizer, stream, tmp_path_factory):
    run = trainer(tokenizer, stream, tmp_path_factory.mktemp("scored"))
    return Scorer(run.run())


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


def test_calibrated_weights_even_out_the_tokens():
    shares = {"en": 0.7, "hi": 0.3}
    tokenizer = train_tokenizer(curriculum.texts(tuple(shares), 400), 600)
    weights = curriculum.calibrated_weights(shares, tokenizer, documents=600)
    assert sum(weights.values()) == pytest.approx(1)
    counted = curriculum.tokens_by_language(weights, tokenizer, documents=600, seed=5)
    assert counted["en"] / sum(counted.values()) == pytest.approx(0.7, abs=0.06)


def test_list_names_every_model_and_revision():
    shown = CliRunner().invoke(app, ["list"])
    assert shown.exit_code == 0
    assert all(name in shown.output for name in MODELS)
    assert "step16" in shown.output


needs_weights = pytest.mark.skipif(not models.WEIGHTS.is_dir(), reason="this checkout holds no trained weights")


@needs_weights
def test_every_revision_is_there_and_the_set_is_small():
    size = 0
    for model in MODELS.values():
        for revision in model.revisions:
            directory = models.resolve(f"pocket:{model.name}@{revision}")
            size += sum(file.stat().st_size for file in directory.iterdir())
    assert size < 47e6


@needs_weights
def test_an_exported_model_loads_and_knows_who_receives(tmp_path):
    target = models.export("bloom-m", tmp_path / "copy")
    mine = Scorer(target)
    prompt = "When Mary and John went to the school, John gave a book to"
    io, s = mine.continuations([(prompt, " Mary"), (prompt, " John")])
    assert io > s


@needs_weights
def test_evaluation_tables_hold_every_language():
    found = evaluate(["gpt2-en"], Size(documents=3, choices=4, stories=3, fitted=50), report=lambda line: None)
    assert {row["predictor"] for row in found["perplexity"]} == {"model", "unigram", "bigram"}
    assert {row["kind"] for row in found["choices"]} == set(CHOICES)
    assert tables(found)[0].row_count == 3
