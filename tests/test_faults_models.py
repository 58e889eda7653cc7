"""What goes wrong inside a model: no memory, no number, another's tokenizer, others' hooks, exceptions, threads."""

from __future__ import annotations

import copy
import shutil
import threading

import numpy as np
import pytest
import torch

from babelscope.circuits.core.nodes import MLP, heads_of
from babelscope.circuits.patching.methods import activation_patching, path_patching
from babelscope.cli import main
from babelscope.corpora import ParallelCorpus
from babelscope.errors import AlreadyEdited, InputError, NonFinite
from babelscope.evaluation import choice_scores, cloze_items, load_stories
from babelscope.models import Model, Site, capture, edit, require, resume
from babelscope.models.foreign import foreign_hooks
from babelscope.models.hooks import hook_count
from babelscope.regions import deactivate, record
from babelscope.regions.perplexity import cut_windows, score
from babelscope.regions.treatments import treated, treatment

from .random_pairs import random_pairs
from .region_data import corpus, texts
from .tiny_models import tiny_model, tiny_tokenizer

FAMILIES = ("bloom", "llama")
NO_MEMORY = (
    lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    lambda: RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
)


def fresh(family: str = "bloom", dtype: torch.dtype = torch.float64) -> Model:
    return Model(tiny_model(family, dtype), tiny_tokenizer(), id=f"tiny-{family}")


def ids(rows: int = 2) -> torch.Tensor:
    return torch.arange(4, 4 + 8 * rows).reshape(rows, 8) % 90 + 4


# -- no memory ---------------------------------------------------------------------------------------------------------


class Scarce:
    """A model's last block that takes at most so many tokens at once: memory runs out in the middle of the pass."""

    def __init__(self, model: Model, tokens: float, error=None) -> None:
        self.refused = self.largest = 0

        def check(_, args, kwargs):
            hidden = args[0] if args else kwargs["hidden_states"]
            size = hidden.shape[0] * hidden.shape[1]
            self.largest = max(self.largest, size)
            if hidden.shape[0] > 1 and size > tokens:
                self.refused += 1
                raise error()

        self.handle = model.blocks[-1].register_forward_pre_hook(check, with_kwargs=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.handle.remove()


def recorded(model):
    found = record(model, corpus(4, 6), activity=True, budget=256)
    return [torch.as_tensor(np.array(found.means)), found.activity]


def perplexity(model):
    windows = cut_windows(model, texts(1, 4)["en"], 16)
    return [score(model, windows, budget=256).by_document]


def stories(model):
    items = cloze_items(load_stories("pocket:?n=4", ["en"])["en"])
    return [torch.as_tensor(choice_scores(model, items))]


def patched(model):
    pairs = random_pairs()[:3]
    senders = [*heads_of(model), MLP(1)]
    one = activation_patching(model, pairs, senders).patched
    two = path_patching(model, pairs, senders=senders).patched
    return [torch.as_tensor(one), torch.as_tensor(two)]


@pytest.mark.parametrize("error", NO_MEMORY, ids=["accelerator", "processor"])
@pytest.mark.parametrize("work", [recorded, perplexity, stories, patched])
@pytest.mark.parametrize("family", FAMILIES)
def test_with_little_memory_the_numbers_are_the_same(family, work, error):
    model = fresh(family)
    with Scarce(model, float("inf")) as plenty:
        before = work(model)
    with Scarce(model, plenty.largest // 2, error) as scarce:
        after = work(model)
    assert scarce.refused, "memory never ran out, so nothing was tried"
    for one, other in zip(before, after):
        assert torch.allclose(one.double(), other.double(), rtol=1e-10, atol=1e-10)
    assert hook_count(model.hf) == 0


def test_a_single_row_that_does_not_fit_is_the_systems_own_error():
    model = fresh()

    def never(*_):
        raise NO_MEMORY[0]()

    handle = model.blocks[1].register_forward_pre_hook(never)
    with pytest.raises(torch.OutOfMemoryError):
        record(model, corpus(2, 2))
    handle.remove()
    assert hook_count(model.hf) == 0


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    model, calls = fresh(), []
    require(model, "regions")  # asked before the model breaks, so that its answer is not what is met here

    def broken(*_, **__):
        calls.append(1)
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    broken.__module__ = "transformers.models.broken"  # of what is not the model's own the gate asks anew
    model.blocks[1].forward = broken
    with pytest.raises(RuntimeError, match="shapes"):
        record(model, corpus(2, 4))
    assert len(calls) == 1


# -- no number ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("work", [recorded, perplexity, stories])
def test_activations_that_are_no_numbers_are_named(work, value):
    model = fresh()
    require(model, "regions")  # what is edited is not asked any more
    with pytest.raises(NonFinite), edit(model, {Site("neurons", 1): lambda h: h * value}):
        work(model)
    assert hook_count(model.hf) == 0


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_no_numbers_are_named_whichever_they_are(tmp_path, value):
    from babelscope.models import load_model

    model, generator = tiny_model("llama"), torch.Generator().manual_seed(3)
    names = [name for name, _ in model.named_parameters()]
    for name in [names[0], names[-1], *(names[int(i)] for i in torch.randint(len(names), (3,), generator=generator))]:
        weight = model.get_parameter(name)
        place = int(torch.randint(weight.numel(), (1,), generator=generator))
        with torch.no_grad():
            kept = weight.view(-1)[place].item()
            weight.view(-1)[place] = value
        model.save_pretrained(tmp_path / "model")
        tiny_tokenizer().save_pretrained(tmp_path / "model")
        with pytest.raises(NonFinite, match=name.replace(".", r"\.")):
            load_model(str(tmp_path / "model"))
        with torch.no_grad():
            weight.view(-1)[place] = kept


def said_of(capsys, *arguments: object) -> str:
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    said = capsys.readouterr().err.strip()
    assert end.value.code == 2, said
    assert "Traceback" not in said
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, said
    return errors[0]


def commands(model, out):
    return {
        "regions": ["regions", model, "--corpus", "pocket:heldout", "--samples", 4, "--out", out],
        "circuits": ["circuits", model, "--n", 4, "--out", out],
        "evaluate": ["evaluate", model, "--stories", "pocket:?n=2", "--out", out],
    }


@pytest.mark.parametrize("verb", ["regions", "evaluate"])
def test_weights_that_overflow_are_refused_in_one_line(capsys, tmp_path, verb):
    """Every weight is a number, and what they make is not."""
    model = tiny_model("llama")
    with torch.no_grad():
        for block in model.model.layers:
            block.mlp.down_proj.weight.fill_(3e38)
    model.save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    message = said_of(capsys, *commands(tmp_path / "model", tmp_path / "out")[verb])
    assert "NaN" in message or "infinite" in message or "not a number" in message, message
    assert not (tmp_path / "out").exists()


# -- a tokenizer that does not match --------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["regions", "circuits", "evaluate"])
def test_a_tokenizer_of_another_model_is_refused_in_one_line(capsys, tmp_path, verb):
    tiny_model("llama", vocab_size=20).save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    message = said_of(capsys, *commands(tmp_path / "model", tmp_path / "out")[verb])
    assert "does not belong" in message
    assert not (tmp_path / "out").exists()


def test_a_word_added_to_the_tokenizer_is_refused_where_it_is_used():
    """Ids beyond the embedding must never reach it: on an accelerator that ends the process."""
    longer = copy.deepcopy(tiny_tokenizer())
    longer.add_tokens([f"word{number}" for number in range(400)])
    model = Model(tiny_model("bloom"), longer)
    assert model.tokenize(["abc"])
    with pytest.raises(InputError, match=r"sentence 2: token 'word399' .* is beyond the model's"):
        model.tokenize(["abc", "a word399"], names=["sentence 1", "sentence 2"])
    with pytest.raises(InputError, match="is beyond the model's"):
        record(model, ParallelCorpus.from_texts({"en": ["abc", "a word399"], "fr": ["abc", "abc"]}))


def test_a_damaged_tokenizer_file_is_one_line(capsys, tmp_path):
    tiny_model("llama").save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    file = tmp_path / "model" / "tokenizer.json"
    file.write_text(file.read_text()[:300])
    assert "tokenizer" in said_of(capsys, *commands(tmp_path / "model", tmp_path / "out")["regions"])


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_damaged_weights_file_is_one_line(capsys, tmp_path, share):
    tiny_model("llama").save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])
    assert "cannot be loaded" in said_of(capsys, *commands(tmp_path / "model", tmp_path / "out")["evaluate"])
    shutil.rmtree(tmp_path / "model")


# -- others' hooks ---------------------------------------------------------------------------------------------------


def test_hooks_of_others_count_stay_and_are_told_of():
    """Somebody's own intervention is part of the model that is measured; the run says that it was there."""
    model = fresh()
    plain = recorded(model)[0]
    assert model.facts()["foreign_hooks"] == []
    calls = []
    handle = model.blocks[1].register_forward_hook(lambda *_: calls.append(1))
    doubled = model.blocks[0].register_forward_pre_hook(lambda _, args: (args[0] * 2, *args[1:]))
    names = [name for name, part in model.hf.named_modules() if part in (model.blocks[0], model.blocks[1])]
    assert model.facts()["foreign_hooks"] == foreign_hooks(model.hf) == names
    changed = recorded(model)[0]
    assert calls
    assert not torch.allclose(plain, changed)
    with capture(model, [Site("neurons", 0)]):
        assert model.facts()["foreign_hooks"] == names, "our own hooks are not somebody else's"
    handle.remove()
    doubled.remove()
    assert torch.equal(recorded(model)[0], plain)


# -- exceptions --------------------------------------------------------------------------------------------------------


def contexts(model):
    mask = torch.zeros(model.layers, model.neurons_per_layer, dtype=torch.bool)
    mask[:, 0] = True
    hidden = torch.zeros(2, 8, model.width, dtype=torch.float64)
    return {
        "capture": lambda: capture(model, [Site("z", 0), Site("q", 1), Site("residual", 1)]),
        "edit": lambda: edit(model, {Site("neurons", 1): torch.zeros_like, Site("k", 0): torch.zeros_like}),
        "resume": lambda: resume(model, 1, hidden),
        "deactivate": lambda: deactivate(model, mask),
        "treated": lambda: treated(model, treatment(mask, "scale")),
    }


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ["capture", "edit", "resume", "deactivate", "treated"])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_exception_in_any_context_leaves_the_model_as_it_was(family, name, error):
    model = fresh(family)
    with torch.no_grad():
        before = model.hf(ids()).logits
    weights = model.weight_hash
    with pytest.raises(error), contexts(model)[name]():
        with torch.no_grad():
            model.hf(ids())
        raise error
    assert hook_count(model.hf) == 0
    assert all("forward" not in block.__dict__ for block in model.blocks)
    with torch.no_grad():
        assert torch.equal(model.hf(ids()).logits, before)
    assert Model(model.hf, model.tokenizer).weight_hash == weights


def test_an_exception_in_the_middle_of_a_pass_leaves_the_model_as_it_was():
    model = fresh()
    before = recorded(model)[0]
    handle = model.blocks[2].register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(ZeroDivisionError()))
    for name, context in contexts(model).items():
        with pytest.raises(ZeroDivisionError), context():
            model.hf(ids())
        assert hook_count(model.hf) == 1, name
    handle.remove()
    assert torch.equal(recorded(model)[0], before)


# -- threads ---------------------------------------------------------------------------------------------------------


def together(*works):
    """Run each in a thread of its own, begun at one moment; what they gave, or raised."""
    gate, found = threading.Barrier(len(works)), [None] * len(works)

    def run(place, work):
        gate.wait()
        try:
            found[place] = work()
        except BaseException as error:
            found[place] = error

    threads = [threading.Thread(target=run, args=(place, work)) for place, work in enumerate(works)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    for one in found:
        if isinstance(one, BaseException):
            raise one
    return found


@pytest.mark.parametrize("shared", [False, True], ids=["two models", "one model"])
def test_threads_record_as_if_each_were_alone(shared):
    one = fresh("bloom")
    other = one if shared else fresh("llama")
    texts_of = {0: corpus(3, 8, seed=0), 1: corpus(5, 6, seed=1)}

    def work(model, which):
        return lambda: np.array(record(model, texts_of[which], budget=32).means)

    alone = [work(one, 0)(), work(other, 1)()]
    for _ in range(3):
        for found, expected in zip(together(work(one, 0), work(other, 1)), alone):
            assert np.array_equal(found, expected)
    assert hook_count(one.hf) == 0


def test_an_edit_in_one_thread_is_not_felt_in_another():
    model = fresh()
    with torch.no_grad():
        before = model.hf(ids()).logits
        with edit(model, {Site("neurons", 1): torch.zeros_like}):
            (elsewhere,) = together(lambda: model.hf(ids()).logits.detach())
            here = model.hf(ids()).logits
    assert torch.equal(elsewhere, before)
    assert not torch.equal(here, before)


def test_blocks_are_passed_over_in_one_thread_only():
    model = fresh()
    with torch.no_grad():
        before = model.hf(ids()).logits
        hidden = torch.ones(2, 8, model.width, dtype=torch.float64)

        def resumed():
            with resume(model, 2, hidden):
                return model.hf(ids()).logits.detach()

        with resume(model, 1, hidden):
            (elsewhere,) = together(lambda: model.hf(ids()).logits.detach())
            assert torch.equal(elsewhere, before)
            with pytest.raises(AlreadyEdited, match="another thread"):
                together(resumed)
            assert not torch.equal(model.hf(ids()).logits, before)
        assert torch.equal(model.hf(ids()).logits, before)
