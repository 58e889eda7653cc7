"""Every family passes the suite; hooks leave nothing; loading says in one line what is wrong."""

from __future__ import annotations

import json
import threading

import pytest
import torch

from babelscope.errors import AlreadyEdited, EditNeverFired, InputError, ModelError, NonFinite, UnsupportedModel
from babelscope.models import Model, Site, capture, edit, load_model, over_batches, require, run_checks
from babelscope.models.batches import collate, plan
from babelscope.models.hashing import content_sign
from babelscope.models.hooks import hook_count
from tests.tiny_models import FAMILIES, save_tiny_llama, tiny_model, tiny_tokenizer


@pytest.fixture(scope="module")
def llama():
    return Model(tiny_model("llama"), tiny_tokenizer(), id="tiny-llama")


@pytest.fixture
def saved(tmp_path):
    return save_tiny_llama(tmp_path / "model")


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_passes_the_suite(family):
    checks = run_checks(Model(tiny_model(family), tiny_tokenizer(), id=family))
    failed = [check for check in checks if not check.passed]
    if family == "opt-350m":  # a norm stands on its stream: regions work, sums of writes do not
        names = ["embedding + writes = final residual", "norm of the stream = what is read"]
        assert [check.name for check in failed] == names
    else:
        assert not failed


def test_bloom_neurons_are_the_gelu_and_llama_neurons_the_gated_product():
    bloom = Model(tiny_model("bloom"), tiny_tokenizer())
    seen = {}
    bloom.blocks[1].mlp.gelu_impl.register_forward_hook(lambda _m, _a, output: seen.update(gelu=output))
    ids = torch.arange(4, 14)[None]
    with torch.no_grad(), capture(bloom, [Site("neurons", 1)]) as got:
        bloom.trunk(ids)
    assert torch.equal(got[Site("neurons", 1)], seen["gelu"])
    llama = Model(tiny_model("llama"), tiny_tokenizer())
    with torch.no_grad(), capture(llama, [Site("mlp_in", 1), Site("neurons", 1)]) as got:
        llama.trunk(ids)
    mlp, read = llama.blocks[1].mlp, got[Site("mlp_in", 1)]
    assert torch.allclose(got[Site("neurons", 1)], torch.nn.functional.silu(mlp.gate_proj(read)) * mlp.up_proj(read))


def test_editing_neurons_of_a_whole_layer_leaves_only_the_bias():
    bloom = Model(tiny_model("bloom"), tiny_tokenizer())
    ids = torch.arange(4, 14)[None]
    with torch.no_grad(), edit(bloom, {Site("neurons", 1): torch.zeros_like}) as fired:
        with capture(bloom, [Site("mlp_write", 1)]) as got:
            bloom.trunk(ids)
    assert torch.allclose(got[Site("mlp_write", 1)], bloom.bias("neurons", 1).expand(1, 10, -1))
    assert fired == {Site("neurons", 1): 1}


def test_an_edit_that_never_fires_is_an_error(llama):
    with pytest.raises(EditNeverFired, match="never fired"), edit(llama, {Site("neurons", 1): torch.zeros_like}):
        pass


def test_an_exception_inside_leaves_no_hooks_and_is_not_masked(llama):
    before = hook_count(llama.hf)
    with pytest.raises(ZeroDivisionError), edit(llama, {Site("neurons", 1): torch.zeros_like}):
        1 / 0  # noqa: B018
    assert hook_count(llama.hf) == before


def test_other_peoples_hooks_stay(llama):
    handle = llama.blocks[0].register_forward_hook(lambda *_: None)
    before = hook_count(llama.hf)
    assert all(check.passed for check in run_checks(llama))
    assert hook_count(llama.hf) == before
    handle.remove()


def test_exclusive_edits_stand_alone_also_across_threads(llama):
    change = {Site("neurons", 1): torch.zeros_like}
    ids = torch.arange(4, 9)[None]
    caught = []

    def other():
        try:
            with edit(llama, change):
                pass
        except AlreadyEdited as error:
            caught.append(error)

    with edit(llama, change, exclusive=True):
        llama.trunk(ids)
        with pytest.raises(AlreadyEdited), edit(llama, change):
            pass
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert len(caught) == 1
    with edit(llama, change):
        llama.trunk(ids)


def test_a_layer_out_of_range_is_one_clear_line(llama):
    with pytest.raises(InputError, match="layers 0 to 2"):
        llama.locate(Site("neurons", 3))


def test_batches_cover_everything_within_the_budget():
    lengths = [3, 50, 7, 7, 1, 20]
    batches = plan(lengths, budget=40)
    assert sorted(row for rows in batches for row in rows) == list(range(6))
    assert all(len(rows) == 1 or len(rows) * max(lengths[row] for row in rows) <= 40 for rows in batches)


def test_a_batch_that_does_not_fit_is_halved_with_the_same_results(llama):
    sequences = [[4 + row] * (row + 1) for row in range(8)]
    found, tried = {}, []

    def work(batch):
        tried.append(len(batch.rows))
        if len(batch.rows) > 2:
            raise torch.OutOfMemoryError("no more")
        hidden = llama.trunk(batch.ids, batch.mask)
        found.update({row: hidden[place, batch.lengths[place] - 1] for place, row in enumerate(batch.rows)})

    with torch.no_grad():
        over_batches(sequences, work, llama.device, budget=64)
        for row, sequence in enumerate(sequences):
            single = collate(sequences, [row], llama.device)
            assert torch.allclose(found[row], llama.trunk(single.ids)[0, -1], atol=1e-5), sequence
    assert max(tried) > 2


def test_loading_a_saved_model_round_trips(saved, llama):
    model = load_model(str(saved))
    assert model.weight_hash == llama.weight_hash
    assert model.tokenizer_hash == llama.tokenizer_hash
    assert model.dtype == torch.float32


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.int8, torch.bool, torch.complex64])
@pytest.mark.parametrize(("length", "start"), [(1, 0), (7, 1), (4096, 0), (9001, 1), (20000, 3)])
def test_one_changed_element_changes_the_sign_whatever_its_type_length_and_place(kind, length, start):
    whole = (torch.arange(length + start) % 3).to(kind)
    part = whole[start:]  # eight bytes at a time where place and length allow, else element by element
    before = content_sign([part])
    assert content_sign([part.clone()]) == content_sign([part.clone()])
    for place in {0, length // 2, length - 1}:
        kept = part[place].clone()
        part[place] = 0 if bool(kept) else 1
        assert content_sign([part]) != before
        part[place] = kept
    assert content_sign([part]) == before


def test_the_hash_is_of_every_byte_of_the_weights(saved):
    model = load_model(str(saved))
    before = model.weight_hash
    weight = model.hf.get_input_embeddings().weight
    with torch.no_grad():
        weight[3, 1] += 1e-3
    assert Model(model.hf, model.tokenizer).weight_hash != before
    with torch.no_grad():
        weight[3, 1] -= 1e-3
        weight[[3, 4]] = weight[[4, 3]].clone()
    assert Model(model.hf, model.tokenizer).weight_hash != before


def test_missing_tokenizer(saved):
    for file in saved.glob("token*"):
        file.unlink()
    with pytest.raises(ModelError, match="no tokenizer"):
        load_model(str(saved))


def test_not_a_model_folder(tmp_path):
    with pytest.raises(ModelError, match=r"no config\.json"):
        load_model(str(tmp_path))
    with pytest.raises(ModelError, match="not a folder"):
        load_model(str(tmp_path / "absent"))


def test_nan_weights_are_named(tmp_path):
    model = tiny_model("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, 0] = float("nan")
    model.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(NonFinite, match=r"layers\.1\.mlp\.up_proj"):
        load_model(str(tmp_path))


def test_a_missing_weight_is_an_error_not_a_random_one(saved):
    from safetensors.torch import load_file, save_file

    weights = load_file(saved / "model.safetensors")
    weights.pop("model.layers.1.mlp.up_proj.weight")
    save_file(weights, saved / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="missing from the checkpoint"):
        load_model(str(saved))


def test_a_tokenizer_of_another_model_is_refused():
    with pytest.raises(ModelError, match="does not belong"):
        Model(tiny_model("llama", vocab_size=20), tiny_tokenizer())


def test_an_unknown_family_is_refused_by_name(saved):
    config = json.loads((saved / "config.json").read_text())
    config["model_type"] = "not-a-family"
    (saved / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="not-a-family"):
        load_model(str(saved))


def test_an_unlisted_family_with_a_known_structure_is_borrowed_and_checked():
    from transformers import AutoConfig, AutoModelForCausalLM

    shape = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, vocab_size=96)
    config = AutoConfig.for_model("seed_oss", **shape, num_key_value_heads=2, head_dim=8, pad_token_id=0)
    model = Model(AutoModelForCausalLM.from_config(config), tiny_tokenizer(), id="seed")
    assert model.family.discovered
    require(model, "circuits")


def test_bypassed_projections_are_refused():
    with pytest.raises(UnsupportedModel, match="slow_but_exact"):
        Model(tiny_model("bloom", slow_but_exact=True, pretraining_tp=2), tiny_tokenizer())


@pytest.mark.shared
def test_stories260k_says_what_its_readme_says(shared_models):
    model = load_model(str(shared_models / "stories260K"))
    start = torch.tensor([[model.tokenizer.bos_token_id]])
    text = model.tokenizer.decode(
        model.hf.generate(start, max_new_tokens=70, do_sample=False)[0], skip_special_tokens=True
    )
    assert text.startswith(
        "Once upon a time, there was a little girl named Lily. She loved to play outside in the park."
    )
    assert (model.layers, model.heads, model.kv_heads, model.family.name) == (5, 8, 4, "llama")
    assert all(check.passed for check in run_checks(model))


@pytest.mark.shared
def test_bible_bloom_passes_the_suite(shared_models):
    model = load_model(str(shared_models / "bible-bloom" / "final"))
    assert model.neurons == 4608
    assert all(check.passed for check in run_checks(model))


def test_quantised_weights_are_refused_in_words():
    model = Model(tiny_model("llama"), tiny_tokenizer())
    projection = model.blocks[0].get_submodule(model.family.neurons)
    projection.weight = torch.nn.Parameter(projection.weight.to(torch.int8), requires_grad=False)
    with pytest.raises(UnsupportedModel, match="Linear are quantised"):
        _ = model.neurons
