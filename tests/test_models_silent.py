"""What went wrong without a word once: texts, logits and multipliers are those of a plain loop over the model."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from babelscope.circuits.heads import routes
from babelscope.corpora import ParallelCorpus
from babelscope.errors import InputError, NonFinite, UnsupportedModel
from babelscope.evaluation.scoring import continuation_scores
from babelscope.latent.lens import chunk_logits, normed, states
from babelscope.models import Model, decoding
from babelscope.models.chat import prompt_ids
from babelscope.models.conformance import additivity
from babelscope.models.decoding import Decoding, decode, stop_ids
from babelscope.models.stream_checks import require_stream
from babelscope.regions.losses_under import losses_under, resumes
from babelscope.regions.perplexity import Windows, score
from babelscope.regions.recording import Span, record
from babelscope.regions.residual import record_residual
from tests.planted_faults import output
from tests.tiny_models import CONFIGS, tiny_model, tiny_tokenizer

SMALL = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4)


def made(kind: str, auto: type = AutoModelForCausalLM, **settings: object) -> Model:
    """A random model of a type that is none of the families of the other tests."""
    from transformers import AutoConfig

    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **{"vocab_size": 96, "bos_token_id": 1, "eos_token_id": 2, **settings})
    hf = auto.from_config(config)
    with torch.no_grad():
        for parameter in hf.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return Model(hf, tiny_tokenizer(), id=kind)


def written_alone(model: Model, prompt: list[int], tokens: int) -> list[int]:
    """The likeliest words one by one, the whole text read each time, without cache, padding or given positions."""
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(tokens):
            last = model.hf(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].clone()
            last[list(stop_ids(model))] = -torch.inf
            ids.append(int(last.argmax()))
    return ids[len(prompt) :]


def writes_as_alone(model: Model) -> None:
    rows = [[5, 6, 7, 8, 9, 10, 11], [10, 11, 12], [40, 41, 42, 43, 44, 45, 46, 47, 48, 49]]
    [found] = decode(model, rows, Decoding(8, fixed=True))
    assert [list(text.ids) for text in found] == [written_alone(model, row, 8) for row in rows]


def cross_entropy(model: Model, ids: torch.Tensor) -> float:
    with torch.no_grad():
        return float(F.cross_entropy(model.hf(input_ids=ids).logits[0, :-1], ids[0, 1:]))


def window(ids: torch.Tensor) -> Windows:
    return Windows("en", ids, torch.zeros_like(ids), 1)


IDS = torch.randint(3, 80, (1, 20), generator=torch.Generator().manual_seed(4))


# -- writing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [Decoding(2), Decoding(2, temperature=1.0)])
def test_an_infinite_logit_is_told_and_not_the_likeliest_word(settings):
    one = Model(tiny_model("llama"), tiny_tokenizer(), id="tiny")
    writer = decoding._Writer(one, decoding._Asked([[4]], ["0"], settings, [None], 0))
    with output(one.hf.lm_head, lambda value: value.index_fill(-1, torch.tensor([7]), torch.inf)):
        with pytest.raises(NonFinite, match=r"^tiny gives logits that are NaN or infinite$"):
            writer._write([(0, 0)], lambda _: None)
    with output(one.hf.lm_head, lambda value: value.index_fill(-1, torch.tensor([7]), -torch.inf)):
        assert writer._write([(0, 0)], lambda _: None)[0].reason == "length"


def test_a_short_prompt_beside_one_that_fills_the_model_is_written_to_its_end():
    one = Model(tiny_model("llama", max_position_embeddings=32), tiny_tokenizer(), id="tiny")
    rows = [IDS[0, :10].tolist(), [*IDS[0].tolist(), *IDS[0, :10].tolist()]]
    [found] = decode(one, rows, Decoding(20, fixed=True))
    assert [text.reason for text in found] == ["length", "context"]
    assert [list(text.ids) for text in found] == [written_alone(one, rows[0], 20), written_alone(one, rows[1], 2)]


@pytest.mark.parametrize("kind", ["xlm-roberta", "bert"])
def test_positions_are_those_that_the_model_counts_by_itself(kind):
    """RoBERTa's kin begin behind the padding's row of their table, not at 0."""
    one = made(kind, is_decoder=True, max_position_embeddings=64, type_vocab_size=1, **SMALL)
    writes_as_alone(one)


def test_positions_go_on_behind_a_cache_that_the_model_does_not_count():
    """Bamba takes what follows its cache to begin at 0 where nothing else is said."""
    writes_as_alone(Model(tiny_model("bamba"), tiny_tokenizer(), id="tiny"))


def test_of_several_chat_templates_the_default_is_taken():
    one = Model(tiny_model("llama"), copy.deepcopy(tiny_tokenizer()), id="tiny")
    one.tokenizer.chat_template = {"tool_use": "t", "default": "A{{ messages[0]['content'] }}B"}
    assert prompt_ids(one, ["cd"]).first == "AcdB"
    one.tokenizer.chat_template = {"tool_use": "t"}
    assert prompt_ids(one, ["cd"]).template == ""


# -- tokens ---------------------------------------------------------------------------------------------------------


def test_added_tokens_without_an_embedding_are_told_wherever_they_come_from():
    one = Model(tiny_model("llama"), copy.deepcopy(tiny_tokenizer()), id="tiny")
    one.tokenizer.add_tokens([f"<{place}>" for place in range(16)])
    one.tokenizer.add_special_tokens({"bos_token": "<new>"})
    assert one.tokenizer.bos_token_id == 96
    with pytest.raises(InputError, match=r"^text 0: token '<new>' \(96\) is beyond the model's 96 embeddings$"):
        one.tokenize(["ab"], "bos")
    one.tokenizer.chat_template = "<new>{{ messages[0]['content'] }}"
    with pytest.raises(InputError, match=r"^prompt 0: token '<new>' \(96\) is beyond the model's 96 embeddings$"):
        prompt_ids(one, ["ab"])
    with pytest.raises(InputError, match=r"^the choice '<new>': token '<new>' \(96\) is beyond"):
        continuation_scores(one, [("ab", ("<new>", "c"))])


def test_a_choice_is_scored_without_the_token_that_a_tokenizer_ends_texts_with():
    one = Model(tiny_model("llama"), copy.deepcopy(tiny_tokenizer()), id="tiny")
    asked = [("abc", (" de", " f")), ("b", ("c", "dd"))]
    bare = continuation_scores(one, asked)
    one.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    assert one.tokenizer("abc")["input_ids"] == [4, 5, 6, 2]
    for found, expected in zip(continuation_scores(one, asked), bare, strict=True):
        assert found.tolist() == pytest.approx(expected.tolist())


def test_a_language_that_the_tokenizer_does_not_know_is_refused():
    one = Model(tiny_model("llama"), tiny_tokenizer(), id="tiny")
    corpus = ParallelCorpus.from_texts({"en": ["abc", "de"], "ru": ["жжж", "жaж"]})
    told = r"does not know the script of sentence 1 \(ru\) and its like: 83% of its tokens are '<unk>'"
    for recorder in (record, record_residual):
        with pytest.raises(InputError, match=told):
            recorder(one, corpus)
    half = ParallelCorpus.from_texts({"en": ["abc", "de"], "ru": ["жaжa", "жa"]})
    assert record(one, half).means.shape == (2, 2, 144)


# -- logits, multipliers, layers ------------------------------------------------------------------------------------


def test_a_head_that_does_more_than_its_weights_is_asked_itself():
    one = Model(tiny_model("llama"), tiny_tokenizer(), id="tiny")
    with output(one.hf.lm_head, lambda value: value * torch.linspace(0.5, 1.5, 96)):
        assert score(one, window(IDS)).nll == pytest.approx(cross_entropy(one, IDS), abs=1e-5)
    assert score(one, window(IDS)).nll == pytest.approx(cross_entropy(one, IDS), abs=1e-5)


def test_words_that_the_unembedding_has_no_row_for_are_never_said():
    hf = tiny_model("llama", tie_word_embeddings=False)
    hf.lm_head, hf.config.eos_token_id = torch.nn.Linear(32, 80, bias=False).eval(), 90
    one = Model(hf, tiny_tokenizer(), id="tiny")
    assert 90 in stop_ids(one)
    assert score(one, window(IDS)).nll == pytest.approx(cross_entropy(one, IDS), abs=1e-5)
    [[found]] = decode(one, [[4, 5]], Decoding(3, fixed=True))
    assert len(found.ids) == 3
    with pytest.raises(NonFinite, match="tiny gives a loss that is not a number"):
        score(one, window(torch.tensor([[4, 85, 5]])))


def test_a_setting_that_is_changed_later_is_heeded():
    one = Model(tiny_model("granite", logits_scaling=3.0), tiny_tokenizer(), id="tiny")
    for scale in (3.0, 1.5):
        one.hf.config.logits_scaling = scale
        assert score(one, window(IDS)).nll == pytest.approx(cross_entropy(one, IDS), abs=1e-5)
        assert one.scales.logits == pytest.approx(1 / scale)


@pytest.mark.parametrize("size", [1.0, 3000.0])
def test_a_write_that_is_missing_is_seen_beside_a_dimension_that_dwarfs_it(size):
    hf = tiny_model("llama")
    with torch.no_grad():
        hf.model.embed_tokens.weight[:, 3] = size
    one = Model(hf.to(torch.bfloat16), tiny_tokenizer(), id="tiny")
    with torch.inference_mode():
        assert additivity(one, IDS) < 0.02
        with output(one.blocks[1], lambda value: value + value.sign() * 0.5 * (value.abs() < 20)):
            assert additivity(one, IDS) > 0.05


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [30.0, 3000.0])
def test_multipliers_are_found_beside_a_dimension_that_dwarfs_the_others(dtype, size):
    hf = tiny_model("granite", residual_multiplier=0.22, embedding_multiplier=1.0)
    with torch.no_grad():
        hf.model.embed_tokens.weight[:, 3] = size
    one = Model(hf.to(dtype), tiny_tokenizer(), id="tiny")
    assert one.scales.attention == one.scales.mlp == (0.22, 0.22, 0.22)


def test_states_that_an_encoder_cut_off_at_the_largest_float16_are_told():
    settings = dict(d_model=32, encoder_layers=3, decoder_layers=1, encoder_ffn_dim=48, decoder_ffn_dim=48)
    one = made("m2m_100", AutoModelForSeq2SeqLM, encoder_attention_heads=4, decoder_attention_heads=4, **settings)
    with torch.no_grad():
        for block in one.blocks:
            block.fc2.bias[5] = 40000.0  # three of them are beyond 65504
    corpus = ParallelCorpus.from_texts({"en": ["abc"], "fr": ["de"]})
    assert record(one, corpus, special="none").means.shape == (2, 1, 144)
    one.hf.half()
    with pytest.raises(NonFinite, match=r"^states of m2m_100 pass the largest number of float16"):
        record(one, corpus, special="none")


def test_passes_do_not_start_behind_blocks_whose_keys_later_ones_use():
    kinds = ["sliding_attention", "full_attention"] * 2
    more = dict(layer_types=kinds, num_hidden_layers=4, num_kv_shared_layers=2, vocab_size_per_layer_input=96)
    one = made("gemma4_text", **{**CONFIGS["llama"][1], **more}, sliding_window=8, hidden_size_per_layer_input=8)
    assert not resumes(one)
    assert resumes(Model(tiny_model("llama"), tiny_tokenizer()))
    mask = torch.zeros(4, one.layout.widest, dtype=torch.bool)
    mask[3, :5] = True
    found = losses_under(one, window(IDS), {"top": mask}, resumes(one))["top"].nll
    with output(one.blocks[3].mlp.act_fn, lambda value: value.index_fill(-1, torch.arange(5), 0.0)):
        assert found == pytest.approx(cross_entropy(one, IDS), abs=1e-5)


@pytest.mark.parametrize("part", ["lm_head", "model.norm"])
def test_a_lens_reads_weights_that_are_kept_elsewhere(part):
    from accelerate import cpu_offload

    resident, hf = Model(tiny_model("llama"), tiny_tokenizer()), tiny_model("llama", tie_word_embeddings=False)
    cpu_offload(hf.get_submodule(part), execution_device=torch.device("cpu"))
    away = Model(hf, tiny_tokenizer())
    found = [chunk_logits(one, normed(one, states(one, ["abc"])[1]), slice(0, 96)) for one in (resident, away)]
    assert torch.allclose(found[0], found[1], atol=1e-6)


def test_blocks_that_return_lists_are_read():
    one = made("openai-gpt", n_embd=32, n_layer=3, n_head=4, n_positions=64)
    require_stream(one)
    corpus = ParallelCorpus.from_texts({"en": ["abc"], "fr": ["de"]})
    found = record(one, corpus, span=Span(site="residual"))
    [ids] = one.tokenize(["abc"])
    with torch.no_grad():
        states = one.hf(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states
    expected = torch.cat([state[0].mean(0) for state in states])
    assert found.means[0, 0] == pytest.approx(expected.numpy(), abs=1e-6)


def test_routes_look_at_the_patterns_of_every_layer():
    """OLMo clips queries, keys and values on their way: what is hooked is not what heads are made of."""
    one = Model(tiny_model("llama"), tiny_tokenizer())
    with routes.eager(one), torch.no_grad():
        routes._record(one, IDS)
    clipped = made("olmo", **CONFIGS["llama"][1], clip_qkv=0.2)
    with torch.no_grad():
        clipped.blocks[0].self_attn.v_proj.weight *= 1e-3
        with routes.eager(clipped), pytest.raises(UnsupportedModel, match="patterns times values are not its heads"):
            routes._record(clipped, IDS)
