"""Encoders, and encoder sides: neurons are recorded with special tokens around, and nothing else is claimed."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, processors
from transformers import AutoConfig, AutoModelForMaskedLM, AutoModelForSeq2SeqLM, PreTrainedTokenizerFast

from babelscope.circuits import activation_patching
from babelscope.errors import InputError, UnsupportedModel
from babelscope.models import Model, load_model
from babelscope.models.families import find
from babelscope.models.gate import failures, require
from babelscope.regions.deactivation import deactivate
from babelscope.regions.methods import localise
from babelscope.regions.perplexity import cut_windows, score
from babelscope.regions.pseudo_likelihood import pseudo_loss
from babelscope.regions.recording import Span, record
from babelscope.regions.residual import record_residual
from babelscope.studies.regions import RegionsSettings, study_regions

from .random_pairs import random_pairs
from .region_data import corpus, texts
from .tiny_models import WORDS, tiny_tokenizer

ENCODERS: dict[str, dict[str, Any]] = {
    "bert": dict(hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=40),
    "xlm-roberta": dict(hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=40),
    "modernbert": dict(hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=40),
    "distilbert": dict(dim=32, n_layers=3, n_heads=4, hidden_dim=40),
}
SIDES: dict[str, dict[str, Any]] = {
    "mt5": dict(d_model=32, num_layers=3, num_decoder_layers=2, num_heads=4, d_kv=8, d_ff=40),
    "bart": dict(d_model=32, encoder_layers=3, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4,
                 encoder_ffn_dim=40, decoder_ffn_dim=24),
    "m2m_100": dict(d_model=32, encoder_layers=3, decoder_layers=2, encoder_attention_heads=4,
                    decoder_attention_heads=4, encoder_ffn_dim=40, decoder_ffn_dim=24),
}  # fmt: skip
COMMON = dict(vocab_size=WORDS, max_position_embeddings=128, pad_token_id=0, bos_token_id=1, eos_token_id=2)


@lru_cache(1)
def marked_tokenizer() -> PreTrainedTokenizerFast:
    """The tiny tokenizer with [CLS] … [SEP] put around each text, and a mask."""
    inner = Tokenizer.from_str(tiny_tokenizer().backend_tokenizer.to_str())
    vocabulary = inner.get_vocab()
    names = [word for word, id in sorted(vocabulary.items(), key=lambda pair: pair[1])]
    cls, sep, mask = names[1], names[2], names[-1]
    inner.post_processor = processors.TemplateProcessing(
        single=f"{cls} $A {sep}", special_tokens=[(cls, vocabulary[cls]), (sep, vocabulary[sep])]
    )
    return PreTrainedTokenizerFast(tokenizer_object=inner, mask_token=mask, cls_token=cls, sep_token=sep)


@lru_cache(16)
def encoder(name: str) -> Model:
    torch.manual_seed(0)
    maker, settings = (
        (AutoModelForMaskedLM, ENCODERS[name]) if name in ENCODERS else (AutoModelForSeq2SeqLM, SIDES[name])
    )
    hf = maker.from_config(AutoConfig.for_model(name, **COMMON, **settings))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in hf.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return Model(hf, marked_tokenizer(), id=f"tiny-{name}")


@pytest.mark.parametrize("name", [*ENCODERS, *SIDES])
def test_recorded_means_are_those_of_a_plain_loop_without_special_tokens(name: str):
    model, sample = encoder(name), corpus(2, 3)
    require(model, "regions")
    assert model.widths == (40, 40, 40)
    found = record(model, sample)
    for row, code in enumerate(sample.languages):
        for column, text in enumerate(sample.texts[code]):
            ids = torch.tensor(marked_tokenizer()([text])["input_ids"])
            inputs: list[torch.Tensor] = []

            def keep(_: object, args: tuple[torch.Tensor, ...], into: list[torch.Tensor] = inputs) -> None:
                into.append(args[0].reshape(-1, 40))

            parts = [find(block, model.family.neurons) for block in model.blocks]
            handles = [part.register_forward_pre_hook(keep) for part in parts if part is not None]
            with torch.inference_mode():
                if model.hf.config.is_encoder_decoder:
                    model.hf.get_encoder()(input_ids=ids, attention_mask=torch.ones_like(ids))
                else:
                    model.hf(input_ids=ids, attention_mask=torch.ones_like(ids))
            for handle in handles:
                handle.remove()
            assert int(found.tokens[row, column]) == ids.shape[1] - 2
            for layer, h in enumerate(inputs):
                torch.testing.assert_close(found.layer(layer)[row, column], h[1:-1].mean(0), atol=1e-6, rtol=1e-4)


def test_residuals_are_pooled_without_special_tokens_too():
    model, sample = encoder("bert"), corpus(2, 3)
    found = record_residual(model, sample, special="auto").recordings
    for row, code in enumerate(sample.languages):
        for column, text in enumerate(sample.texts[code]):
            ids = torch.tensor(marked_tokenizer()([text])["input_ids"])
            with torch.inference_mode():
                h = model.hf(input_ids=ids, output_hidden_states=True).hidden_states[2][0, 1:-1]
            assert int(found["mean"].tokens[row, column]) == len(h)
            torch.testing.assert_close(found["mean"].layer(2)[row, column], h.mean(0), atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(found["last"].layer(2)[row, column], h[-1], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["bert", "mt5"])
def test_batches_change_nothing_and_special_tokens_are_as_asked(name: str):
    model, sample = encoder(name), corpus(3, 4)
    many, single = record(model, sample), record(model, sample, budget=1)
    torch.testing.assert_close(torch.from_numpy(many.means), torch.from_numpy(single.means), atol=1e-5, rtol=1e-3)
    bare = record(model, sample, "none")
    assert torch.equal(bare.tokens, many.tokens)
    assert not torch.allclose(torch.from_numpy(bare.means), torch.from_numpy(many.means), atol=1e-3)
    dropped = record(model, sample, span=Span(first="drop"))
    kept = [many.ids.index(id) for id in dropped.ids]
    assert int((many.tokens[:, kept] - dropped.tokens).unique()) == 1
    assert sum(localise(many, "eta-squared", share=0.1).sizes.values()) > 0


@pytest.mark.parametrize("name", ["bert", "bart"])
def test_a_neuron_switched_off_is_its_weight_set_to_zero(name: str):
    model = encoder(name)
    mask = torch.zeros(3, 40, dtype=torch.bool)
    mask[1, 7] = True
    ids = torch.tensor([[1, 9, 17, 4, 33, 2]])
    with torch.inference_mode():
        with deactivate(model, mask):
            hooked = model.trunk(ids)
        part = find(model.blocks[1], model.family.neurons)
        assert part is not None
        weight = part.weight
        assert isinstance(weight, torch.nn.Parameter)
        kept = weight[:, 7].clone()
        weight[:, 7] = 0
        edited = model.trunk(ids)
        weight[:, 7] = kept
        assert not torch.allclose(model.trunk(ids), edited, atol=1e-5)
    torch.testing.assert_close(hooked, edited, atol=1e-5, rtol=1e-4)


def test_pseudo_likelihood_is_the_plain_loop():
    model = encoder("bert")
    sentences = list(corpus(1, 3).texts["en"])
    found = pseudo_loss(model, sentences)
    total = 0.0
    for place, text in enumerate(sentences):
        ids = marked_tokenizer()(text)["input_ids"]
        own = 0.0
        for t in range(1, len(ids) - 1):
            masked = torch.tensor([[*ids[:t], marked_tokenizer().mask_token_id, *ids[t + 1 :]]])
            with torch.inference_mode():
                own -= float(model.hf(masked).logits[0, t].log_softmax(-1)[ids[t]])
        assert float(found.sums[place]) == pytest.approx(own, rel=1e-5)
        assert int(found.tokens[place]) == len(ids) - 2
        total += own
    assert found.per_token == pytest.approx(total / float(found.tokens.sum()), rel=1e-5)
    assert found.per_byte == pytest.approx(total / sum(len(text.encode()) for text in sentences), rel=1e-5)
    with deactivate(model, torch.ones(3, 40, dtype=torch.bool)):
        assert pseudo_loss(model, sentences).per_token != pytest.approx(found.per_token, rel=1e-3)
    with pytest.raises(UnsupportedModel, match="no masked language model"):
        pseudo_loss(encoder("mt5"), sentences)


@pytest.mark.parametrize("name", ["bert", "mt5"])
def test_what_needs_a_next_word_is_refused_in_a_line(name: str, tmp_path):
    model = encoder(name)
    told = f"tiny-{name} is an encoder: it has no next word"
    with pytest.raises(UnsupportedModel, match=told):
        score(model, cut_windows(model, texts(1)["en"], 16, limit=2))
    with pytest.raises(UnsupportedModel, match=told):
        model.logits(torch.zeros(1, 32))
    with pytest.raises(UnsupportedModel, match=told):
        study_regions(model, RegionsSettings("memory", texts="memory"), tmp_path / "r", corpus=corpus(3, 4))
    with pytest.raises(UnsupportedModel, match=r"cannot be used for circuits: it is an encoder.*regions work"):
        activation_patching(model, random_pairs())
    assert [check.level for check in failures(model, "circuits")] == ["circuits"]


def test_a_tokenizer_that_names_the_language_is_not_guessed_for():
    model = encoder("m2m_100")
    model.tokenizer.src_lang = "en"
    try:
        with pytest.raises(InputError, match=r"puts the code of a language.*--special none"):
            record(model, corpus(2, 3))
        record(model, corpus(2, 3), "none")
    finally:
        del model.tokenizer.src_lang


def test_blocks_that_are_computed_several_times_are_refused():
    hf = AutoModelForMaskedLM.from_config(
        AutoConfig.for_model("albert", **COMMON, embedding_size=16, hidden_size=32, num_hidden_layers=3,
                             num_attention_heads=4, intermediate_size=40)
    )  # fmt: skip
    with pytest.raises(UnsupportedModel):
        require(Model(hf, marked_tokenizer(), id="albert"), "regions")


@pytest.mark.parametrize("name", ["bert", "bart"])
def test_a_study_of_a_folder(name: str, tmp_path):
    model = encoder(name)
    model.hf.save_pretrained(tmp_path / "model")
    marked_tokenizer().save_pretrained(tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert loaded.encoder
    assert loaded.weight_hash == model.weight_hash
    settings = RegionsSettings("memory", samples=6, threshold=1.2, methods=("lape",), bootstrap=2, alignment=True)
    run = study_regions(loaded, settings, tmp_path / "run", corpus=corpus(3, 6))
    assert run.manifest["defaults"]["special"] == "own"
    assert math.isfinite(run.summary["sads"])
    assert run.arrays().score.shape == (3, 3, 40)
