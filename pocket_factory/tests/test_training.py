"""The factory's tokenizers, packing, training and count models."""

import csv
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from babelscope.errors import ModelError
from babelscope.pocket.models import MODELS, Recipe
from pocket_factory import curriculum
from pocket_factory.baselines import CountModels
from pocket_factory.packing import Order, TokenStream, pack
from pocket_factory.tokenizer import save_tokenizer, share_of_whole, train_tokenizer
from pocket_factory.train import FIRST_END, Trainer, learning_rate

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


def test_calibrated_weights_even_out_the_tokens():
    shares = {"en": 0.7, "hi": 0.3}
    tokenizer = train_tokenizer(curriculum.texts(tuple(shares), 400), 600)
    weights = curriculum.calibrated_weights(shares, tokenizer, documents=600)
    assert sum(weights.values()) == pytest.approx(1)
    counted = curriculum.tokens_by_language(weights, tokenizer, documents=600, seed=5)
    assert counted["en"] / sum(counted.values()) == pytest.approx(0.7, abs=0.06)
