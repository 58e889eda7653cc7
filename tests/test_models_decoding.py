"""Decoding, edits of rows, batches and chat at the borders: settings, room, ends, padding, places of an edit."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from babelscope.errors import EditNeverFired, InputError, NonFinite, UnsupportedModel
from babelscope.models import Model, Site, decoding
from babelscope.models.batches import collate, halving, out_of_memory, over_batches, plan, token_budget
from babelscope.models.decoding import Decoding, Written, decode, left_padded, next_logits, sample, stop_ids
from babelscope.models.rows import Flow, RowEdit, conditions_of, edited_rows

from .planted_faults import model, output
from .tiny_models import tiny_model, tiny_tokenizer

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"tokens": 0}, "tokens and batch shall be at least 1, not 0 and 128"),
        ({"batch": 0}, "tokens and batch shall be at least 1, not 100 and 0"),
        ({"temperature": -1.0}, "temperature -1.0: above 0; none at all is greedy"),
        ({"temperature": 0.0}, "temperature 0.0: above 0"),
        ({"temperature": float("nan")}, "temperature nan: above 0"),
        ({"top_p": 0.0}, "top-p 0.0: above 0, at most 1"),
        ({"top_p": 1.01}, "top-p 1.01: above 0, at most 1"),
    ],
)
def test_settings_beyond_the_border_are_told(settings, told):
    with pytest.raises(InputError, match=f"^{told}"):
        Decoding(**settings)


def test_settings_at_the_border_and_those_that_nobody_gave():
    assert Decoding(1, 0.01, 0.01, batch=1).tokens == 1
    assert Decoding() == Decoding(100, None, 1.0, 0, False, 128, True)


# -- what is written ------------------------------------------------------------------------------------------------


def scripted(tokens: list[list[int]], context: int = 128) -> Model:
    """A model whose likeliest next words are these, by row and by length of what was read."""
    one = Model(tiny_model("llama", max_position_embeddings=context), tiny_tokenizer(), id="scripted")

    def forward(input_ids: Tensor, attention_mask: Tensor, **_: object) -> SimpleNamespace:
        logits = torch.zeros(*input_ids.shape, 96)
        for row, ids in enumerate(input_ids):
            first = int(ids[attention_mask[row, : len(ids)].argmax()]) if attention_mask is not None else int(ids[0])
            real = int(attention_mask[row].sum())
            logits[row, -1, tokens[first - 10][real - 1]] = 1.0
        return SimpleNamespace(logits=logits, past_key_values=None)

    decoding._padding[one.hf] = True
    one.hf.forward = forward
    return one


def test_a_text_is_without_the_token_that_ended_it(monkeypatch):
    one = scripted([[5, 6, 2, 7, 8], [5, 2, 6, 7, 8], [5, 6, 7, 8, 9]])
    monkeypatch.setattr(decoding, "require", lambda *_: None)
    told: list[int] = []
    [found] = decode(one, [[10], [11], [12]], Decoding(4, cache=False), progress=told.append)
    assert found == [Written((5, 6), "end"), Written((5,), "end"), Written((5, 6, 7, 8), "length")]
    assert told == [3, 3, 3, 3]
    told.clear()
    [found] = decode(one, [[10], [11]], Decoding(4, cache=False), progress=told.append)
    assert found == [Written((5, 6), "end"), Written((5,), "end")]
    assert told == [2, 2, 2], "nothing is asked for once every text has ended"
    [[only]] = decode(one, [[11]], Decoding(1, cache=False))
    assert only == Written((5,), "length")


@pytest.mark.parametrize(("tokens", "reason"), [(2, "length"), (3, "length"), (4, "context")])
def test_a_text_ends_where_the_model_does(monkeypatch, tokens, reason):
    """Six positions, of which the prompt takes three."""
    one = scripted([[5] * 9], context=6)
    monkeypatch.setattr(decoding, "require", lambda *_: None)
    [[found]] = decode(one, [[10, 3, 3]], Decoding(tokens, cache=False))
    assert found == Written((5,) * min(tokens, 3), reason)
    decode(one, [[10, 3, 3, 3, 3]], Decoding(1, cache=False))
    told = r"^prompt 0 has 6 tokens; scripted takes 6 and must write some itself$"
    with pytest.raises(InputError, match=told):
        decode(one, [[10] * 6], Decoding(1, cache=False))


def test_logits_that_are_no_numbers_are_told():
    one = model()
    with output(one.hf.lm_head, lambda value: torch.full_like(value, torch.nan)):
        writer = decoding._Writer(one, decoding._Asked([[4]], ["0"], Decoding(1), [None], 0))
        with pytest.raises(NonFinite, match=r"^llama gives logits that are NaN or infinite$"):
            writer._write([(0, 0)], lambda _: None)


def test_a_batch_without_room_is_halved_and_a_single_row_is_an_error(monkeypatch):
    writer = decoding._Writer(model(), decoding._Asked([[4]] * 5, list("abcde"), Decoding(1), [None], 0))
    asked: list[int] = []

    def write(part: list[tuple[int, int]], _: object) -> list[tuple[int, int]]:
        asked.append(len(part))
        if len(part) > 2:
            raise torch.OutOfMemoryError("full")
        return part

    monkeypatch.setattr(writer, "_write", write)
    jobs = [(place, 0) for place in range(5)]
    assert writer.write(jobs, lambda _: None) == jobs
    assert asked == [5, 2, 3, 1, 2]
    for error in (torch.OutOfMemoryError("full"), ValueError("no")):
        asked.clear()
        monkeypatch.setattr(writer, "_write", lambda part, _, e=error: (asked.append(1), (_ for _ in ()).throw(e)))
        with pytest.raises(type(error)):
            writer.write(jobs if isinstance(error, ValueError) else jobs[:1], lambda _: None)
        assert len(asked) == 1


def test_jobs_are_in_batches_of_one_length_where_padding_is_not_stood(monkeypatch):
    rows, jobs = [[1, 1], [1], [1, 1], [1]], [(place, 0) for place in range(4)]
    for stands, parts in (
        (False, [[(1, 0), (3, 0)], [(0, 0), (2, 0)]]),
        (True, [[(1, 0), (3, 0), (0, 0)], [(2, 0)]]),
    ):
        monkeypatch.setattr(decoding, "stands_left_padding", lambda _, stands=stands: stands)
        assert decoding._parts(model(), rows, jobs, 3, 5) == parts
    monkeypatch.setattr(decoding, "stands_left_padding", lambda _: pytest.fail("equal lengths need no padding"))
    assert decoding._parts(model(), [[1], [2]], jobs[:2], 3, 5) == [[(0, 0), (1, 0)]]


@pytest.mark.parametrize(("dtype", "most"), [("float32", 1e-4), ("bfloat16", 0.05)])
def test_padding_is_stood_up_to_the_rounding_of_the_type(monkeypatch, dtype, most):
    for error, stands in ((most, True), (most * 1.01, False)):
        one = Model(tiny_model("llama", getattr(torch, dtype)), tiny_tokenizer())
        monkeypatch.setattr(decoding, "padding_error", lambda _, error=error: error)
        assert decoding.stands_left_padding(one) is stands
        monkeypatch.setattr(decoding, "padding_error", lambda _: pytest.fail("it is measured once"))
        assert decoding.stands_left_padding(one) is stands
    one = Model(tiny_model("llama"), tiny_tokenizer())
    one.hf._is_stateful = True
    assert decoding.stands_left_padding(one) is False


@pytest.mark.parametrize("step", [0, 1])
def test_what_padding_does_to_the_first_and_to_a_cached_step_is_seen(monkeypatch, step):
    """Of several rows, logits are halved: half of the largest is missed."""
    own, calls = next_logits, [0]

    def planted(one: Model, ids: Tensor, *rest: object) -> tuple[Tensor, object]:
        logits, cache = own(one, ids, *rest)  # pyright: ignore[reportArgumentType]
        if len(ids) > 1:
            calls[0] += 1
            logits = logits * (0.5 if calls[0] == step + 1 else 1.0)
        return logits, cache

    assert decoding.padding_error(model()) <= 1e-5
    monkeypatch.setattr(decoding, "next_logits", planted)
    assert decoding.padding_error(model()) == pytest.approx(0.5, abs=1e-4)
    monkeypatch.setattr(decoding, "next_logits", lambda *_: (torch.full((6, 96), torch.nan), None))
    assert decoding.padding_error(model()) == float("inf")


def test_positions_of_padded_rows_begin_at_their_first_token():
    one = model()
    given: dict[str, Tensor] = {}

    def forward(**named: Tensor) -> SimpleNamespace:
        given.update(named)
        return SimpleNamespace(logits=torch.arange(12.0).reshape(2, 2, 3), past_key_values=7)

    ids, mask = left_padded([[7], [4, 5, 6]], CPU)
    assert ids.tolist() == [[0, 0, 7], [4, 5, 6]]
    assert mask.tolist() == [[0, 0, 1], [1, 1, 1]]
    one.hf.forward = forward
    try:
        logits, cache = next_logits(one, ids, mask, None, False)
        assert (logits.tolist(), cache) == ([[3, 4, 5], [9, 10, 11]], None)
        assert given["position_ids"].tolist() == [[0, 0, 0], [0, 1, 2]]
        assert (given["logits_to_keep"], given["use_cache"], "past_key_values" in given) == (1, False, False)
        longer = torch.cat([mask, torch.ones(2, 1, dtype=torch.long)], 1)
        assert next_logits(one, ids[:, -1:], longer, 5, True)[1] == 7
        assert given["position_ids"].tolist() == [[1], [3]]
        assert (given["past_key_values"], given["use_cache"]) == (5, True)
    finally:
        del one.hf.forward


def test_a_sampled_token_at_the_border_of_probabilities():
    """Probabilities 0.5, 0.25, 0.25: equal ones in the order of their ids; below 0.5 the first is all there is."""
    logits = torch.tensor([[0.25, 0.5, 0.25]]).log()
    uniforms = torch.tensor([0.0, 0.499, 0.501, 0.749, 0.751, 0.999])
    assert sample(logits.expand(6, 3), uniforms, 1.0).tolist() == [1, 1, 0, 0, 2, 2]
    assert sample(logits.expand(6, 3), uniforms, 1.0, 0.49).tolist() == [1] * 6
    assert sample(logits.expand(6, 3), uniforms, 1.0, 0.74).tolist() == [1, 1, 1, 0, 0, 0]
    assert sample(logits, torch.tensor([1.0]), 1.0).tolist() == [2]
    assert sample(logits, torch.tensor([1.0]), 1.0, 0.6).tolist() == [0]
    # likelier by e^4 = 54.6 at a quarter of the temperature
    assert sample(torch.tensor([[0.0, 1.0]] * 2), torch.tensor([0.98, 0.983]), 0.25).tolist() == [1, 0]


def test_uniform_numbers_are_of_seed_name_and_draw():
    first = decoding.uniforms(1, "a", 0, 5)
    assert np.array_equal(first[:3], decoding.uniforms(1, "a", 0, 3))
    for other in (decoding.uniforms(2, "a", 0, 5), decoding.uniforms(1, "b", 0, 5), decoding.uniforms(1, "a", 1, 5)):
        assert not np.isclose(first, other).any()


def test_tokens_that_end_a_text_come_from_tokenizer_model_and_generation():
    one = Model(tiny_model("llama"), tiny_tokenizer())
    one.tokenizer = SimpleNamespace(eos_token_id=0, chat_template=None)
    one.config = SimpleNamespace(eos_token_id=[95, 96, None])
    one.hf.generation_config.eos_token_id = (-1, 7)
    assert stop_ids(one) == (0, 7, 95)
    one.hf.generation_config = None
    one.config = SimpleNamespace(eos_token_id=4)
    assert stop_ids(one) == (0, 4)


def test_what_a_model_asks_for_and_is_not_done():
    one = Model(tiny_model("llama"), tiny_tokenizer())
    taken = dict(eos_token_id=3, bos_token_id=1, pad_token_id=0, decoder_start_token_id=2, transformers_version="9")
    asked = taken | {"_own": 1, "top_k": None, "top_p": 0.5, "min_p": 0.1}
    one.hf.generation_config = SimpleNamespace(to_diff_dict=lambda: asked)
    assert list(decoding.ignored_settings(one).items()) == [("min_p", 0.1), ("top_p", 0.5)]
    one.hf.generation_config = None
    assert decoding.ignored_settings(one) == {}


def test_text_at_a_seam_that_changes_is_that_of_the_new_tokens():
    words = {(1,): "a", (1, 2): "ab", (3,): "x", (3, 2): "yb", (2,): "b"}
    one = SimpleNamespace(tokenizer=SimpleNamespace(decode=lambda ids, skip_special_tokens: words[tuple(ids)]))
    assert decoding.written_text(one, [1], [2]) == "b"  # pyright: ignore[reportArgumentType]
    assert decoding.written_text(one, [3], [2]) == "b"  # pyright: ignore[reportArgumentType]


def test_encoders_do_not_write():
    from .test_encoders import encoder

    with pytest.raises(UnsupportedModel, match="no next word"):
        decode(encoder("bert"), [[4]])


# -- edits of rows --------------------------------------------------------------------------------------------------


def test_an_edit_that_changed_no_token_is_told_with_its_place():
    change = {Site("residual", 1): lambda value: value}
    decoding._check_fired([None, RowEdit({}), RowEdit(change)], Counter({2: 1}))
    with pytest.raises(EditNeverFired, match=r"^edit 1 changed no token: its place is 'all', the first token"):
        decoding._check_fired([None, RowEdit(change)], Counter({0: 1}))
    with pytest.raises(EditNeverFired, match=r"^edit 0 changed no token: its place is 'prompt'$"):
        decoding._check_fired([RowEdit(change, "prompt", first=True)], Counter())


@pytest.mark.parametrize(
    ("where", "first", "places"),
    [
        ("all", False, [[0, 0, 1, 1], [0, 1, 1, 1]]),
        ("all", True, [[0, 1, 1, 1], [1, 1, 1, 1]]),
        ("prompt", False, [[0, 0, 1, 0], [0, 1, 0, 0]]),
        ("prompt", True, [[0, 1, 1, 0], [1, 1, 0, 0]]),
        ("generated", False, [[0, 0, 1, 1], [0, 1, 1, 1]]),
        ("generated", True, [[0, 0, 1, 1], [0, 1, 1, 1]]),
    ],
)
def test_the_tokens_that_an_edit_touches(where, first, places):
    """Two rows with prompts of two tokens, the first behind one place of padding."""
    flow = Flow(prompt=torch.tensor([2, 2]))
    flow.read(torch.zeros(2, 4, dtype=torch.long), torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]]), 0)
    assert flow.places.tolist() == [[-1, 0, 1, 2], [0, 1, 2, 3]]
    assert flow.touched(RowEdit({}, where, first)).int().tolist() == places


def test_places_behind_a_cache_go_on():
    flow = Flow()
    flow.read(torch.zeros(1, 3), None, 0)
    assert (flow.places.tolist(), flow.lengths.tolist()) == ([[0, 1, 2]], [3])
    flow.read(torch.zeros(1, 2), torch.tensor([[0, 1, 1, 1, 1, 1]]), 3)
    assert (flow.places.tolist(), flow.lengths.tolist()) == ([[2, 3]], [3])
    flow.read(torch.zeros(1, 2), torch.zeros(1, 1, 2, 5), 3)
    assert flow.places.tolist() == [[3, 4]]
    with pytest.raises(InputError, match=r"^an edit is made at all, generated, prompt, not at 'end'$"):
        RowEdit({}, "end")  # pyright: ignore[reportArgumentType]


def test_rows_are_under_the_condition_that_they_name():
    one, site = model(), Site("residual", 3)
    ids = torch.tensor([[5, 6, 7], [5, 6, 7], [5, 6, 7]])
    with torch.inference_mode():
        plain = one.trunk(ids)
        edits = [None, RowEdit({site: torch.zeros_like}), RowEdit({site: torch.zeros_like}, first=True)]
        with edited_rows(one, edits) as flow:
            flow.rows = torch.tensor([1, 0, 2])
            found = one.trunk(ids)
        same = [[bool(torch.equal(found[row, place], plain[row, place])) for place in range(3)] for row in range(3)]
        assert same == [[True, False, False], [True, True, True], [False, False, False]]
        assert flow.edited == Counter({1: 2, 2: 3})
        with edited_rows(one, [RowEdit({site: torch.zeros_like}), RowEdit({site: torch.ones_like})]) as flow:
            found = one.trunk(ids)
        assert flow.edited == Counter({0: 6, 1: 0})
    assert conditions_of(2, [1, 0], CPU).tolist() == [1, 0]
    for wrong in (2, -1):
        with pytest.raises(InputError, match=f"^no condition {wrong}: there are 2$"):
            conditions_of(2, [0, wrong], CPU)


# -- batches --------------------------------------------------------------------------------------------------------


def test_a_batch_is_filled_up_to_its_budget():
    assert plan([4, 4, 4], 8) == [(0, 1), (2,)]
    assert plan([4, 4, 4], 7) == [(0,), (1,), (2,)]
    assert plan([1, 9, 1], 3) == [(1,), (0, 2)]
    assert plan([], 3) == []
    assert (token_budget(CPU), token_budget(torch.device("cuda"))) == (512, 16384)


def test_padding_is_on_the_right_with_the_given_token():
    batch = collate([[4], [5, 6], [7, 8, 9]], [1, 0], CPU, pad=3)
    assert (batch.rows, batch.ids.tolist(), batch.mask.tolist()) == ((1, 0), [[5, 6], [4, 3]], [[1, 1], [1, 0]])
    assert batch.lengths.tolist() == [2, 1]
    assert collate([[4], [5, 6]], [0, 1], CPU).ids.tolist() == [[4, 0], [5, 6]]


def test_memory_that_ran_out_is_known_by_its_words():
    assert out_of_memory(torch.OutOfMemoryError("x"))
    assert out_of_memory(RuntimeError("can't allocate memory: 9"))
    assert not out_of_memory(RuntimeError("x"))
    assert not out_of_memory(ValueError("can't allocate memory"))


def test_halves_are_done_in_order_and_a_row_alone_is_an_error():
    done: list[tuple[int, ...]] = []

    def work(batch: object) -> None:
        rows: tuple[int, ...] = batch.rows  # pyright: ignore[reportAttributeAccessIssue]
        if len(rows) > 1:
            raise torch.OutOfMemoryError("full")
        done.append(rows)

    assert list(halving([[4]] * 3, (2, 0, 1), work, CPU)) == [1, 1, 1]
    assert done == [(2,), (0,), (1,)]
    told: list[int] = []
    over_batches([[4]] * 5, lambda _: None, CPU, budget=2, done=told.append)
    assert told == [2, 2, 1]
    over_batches([[4] * 100] * 6, lambda batch: done.append(batch.rows), CPU)
    assert done[3:] == [(0, 1, 2, 3, 4), (5,)]
    for error in (torch.OutOfMemoryError("full"), ValueError("x")):
        with pytest.raises(type(error)):
            list(halving([[4]], (0,), lambda _, e=error: (_ for _ in ()).throw(e), CPU))
    with pytest.raises(ValueError, match="x"):
        list(halving([[4]] * 2, (0, 1), lambda _: (_ for _ in ()).throw(ValueError("x")), CPU))
