"""The decoding loop: settings of our own, stacked conditions, padding, cache, chat templates."""

from __future__ import annotations

from functools import lru_cache

import pytest
import torch

from babelscope.errors import AlreadyEdited, EditNeverFired, InputError
from babelscope.models import Model, Site, capture
from babelscope.models.chat import DATE, end_of_turn, measured_part, prompt_ids
from babelscope.models.decoding import (
    Decoding,
    decode,
    ignored_settings,
    padding_error,
    sample,
    stands_left_padding,
    stop_ids,
    uniforms,
    written_text,
)
from babelscope.models.rows import Flow, RowEdit, edited_rows
from babelscope.regions import deactivate

from .region_data import model
from .tiny_models import FAMILIES, tiny_model, tiny_tokenizer

PROMPTS = [[5, 6, 7, 8, 9], [10, 11, 12], [13, 14, 15, 16, 17, 18, 19], [20, 21], [22, 23, 24]]


def argmax_loop(loaded, prompt, tokens, ends=()):
    """Plain: the whole text is read anew for each token; the lowest id of the highest logits."""
    ids, new = list(prompt), []
    for _ in range(tokens):
        with torch.no_grad():
            row = loaded.hf(torch.tensor([ids])).logits[0, -1].float()
        best = max(range(len(row)), key=lambda word: (float(row[word]), -word))
        if best in ends:
            break
        ids.append(best)
        new.append(best)
    return tuple(new)


@lru_cache(1)
def hostile():
    hf = tiny_model("llama")
    config = hf.generation_config
    config.repetition_penalty, config.num_beams, config.no_repeat_ngram_size = 1.5, 3, 2
    config.do_sample, config.top_p, config.temperature, config.suppress_tokens = True, 0.3, 0.6, list(range(40, 60))
    return Model(hf, tiny_tokenizer(), id="hostile")


def test_greedy_is_an_argmax_loop_without_cache_whatever_the_generation_config_asks_for():
    loaded = hostile()
    [written] = decode(loaded, PROMPTS, Decoding(12))
    for prompt, one in zip(PROMPTS, written):
        assert one.ids == argmax_loop(loaded, prompt, 12, stop_ids(loaded))
    ignored = ignored_settings(loaded)
    assert ignored["repetition_penalty"] == 1.5
    assert ignored["num_beams"] == 3
    assert "eos_token_id" not in ignored


@pytest.mark.parametrize("family", FAMILIES)
def test_padded_is_single_in_every_family(family):
    loaded = model(family)
    together = decode(loaded, PROMPTS, Decoding(6))[0]
    alone = [decode(loaded, [prompt], Decoding(6))[0][0] for prompt in PROMPTS]
    assert together == alone
    if stands_left_padding(loaded):
        assert padding_error(loaded) <= 1e-4


def test_a_model_that_does_not_stand_padding_gets_equal_lengths(monkeypatch):
    loaded = model("gpt2")
    before = decode(loaded, PROMPTS, Decoding(4))
    shapes: list[int] = []

    def next_logits(given, ids, mask, cache, keep):
        shapes.append(int(mask.sum(1).min() - mask.shape[1]))
        return original(given, ids, mask, cache, keep)

    from babelscope.models import decoding

    original = decoding.next_logits
    monkeypatch.setattr(decoding, "stands_left_padding", lambda _: False)
    monkeypatch.setattr(decoding, "next_logits", next_logits)
    assert decode(loaded, PROMPTS, Decoding(4)) == before
    assert set(shapes) == {0}  # nothing was padded


def shift(width, size, seed):
    return size * torch.randn(width, generator=torch.Generator().manual_seed(seed))


def conditions(loaded, where="all", first=False):
    wide = loaded.width
    one, two = shift(wide, 1.0, 1), shift(wide, 1.0, 2)
    return [
        None,
        RowEdit({Site("residual", 1): lambda h: h + one}, where, first),
        RowEdit({Site("residual", 1): lambda h: h + two, Site("residual", 2): lambda h: h - one}, where, first),
        RowEdit({Site("residual", 2): lambda h: h * 1.5}, where, first),
    ]


@pytest.mark.parametrize("where", ["all", "generated", "prompt"])
@pytest.mark.parametrize("family", ["bloom", "llama", "opt"])
def test_stacked_conditions_are_separate_runs_and_the_cache_changes_nothing(family, where):
    loaded = model(family)
    edits = conditions(loaded, where)
    stacked = decode(loaded, PROMPTS, Decoding(7), edits)
    assert len({tuple(row) for row in stacked}) >= len(edits) - 1
    for edit, found in zip(edits, stacked):
        assert decode(loaded, PROMPTS, Decoding(7), [edit])[0] == found
        assert decode(loaded, PROMPTS, Decoding(7, cache=False), [edit])[0] == found
    assert decode(loaded, PROMPTS, Decoding(7, batch=3), edits) == stacked


def test_places_of_an_edit():
    loaded = model("llama")
    add = shift(loaded.width, 1.0, 3)
    site, seen = Site("residual", 1), Site("residual", 2)
    ids, mask = torch.tensor([[0, 0, 5, 6, 7, 8], [4, 5, 6, 7, 8, 9]]), torch.ones(2, 6, dtype=torch.long)
    mask[0, :2] = 0
    expected = {
        ("all", False): [[0, 0, 0, 1, 1, 1], [0, 1, 1, 1, 1, 1]],
        ("all", True): [[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]],
        ("generated", False): [[0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 1]],
        ("prompt", False): [[0, 0, 0, 1, 0, 0], [0, 1, 1, 1, 0, 0]],
    }
    with capture(loaded, [site]) as before, torch.no_grad():
        loaded.trunk(ids, mask)
    for (where, first), places in expected.items():
        flow = Flow(prompt=torch.tensor([2, 4]))
        edit = RowEdit({site: lambda h: h + add}, where, first)
        with edited_rows(loaded, [edit], flow), capture(loaded, [site, seen]) as after, torch.no_grad():
            loaded.trunk(ids, mask)
        moved = (after[site] - before[site]).abs().amax(-1) > 0
        assert moved.int().tolist() == places, where
        assert flow.edited[0] == sum(map(sum, places))
        untouched = ~torch.tensor(places, dtype=torch.bool)
        assert torch.equal(after[site][untouched], before[site][untouched])


def test_plain_generate_tells_the_prompt_from_what_is_written():
    loaded = model("llama")
    for where in ("all", "generated", "prompt"):
        edit = conditions(loaded, where)[1]
        ours = decode(loaded, [PROMPTS[2]], Decoding(6, fixed=True), [edit])[0][0].ids
        with edited_rows(loaded, [edit]):
            theirs = loaded.hf.generate(
                torch.tensor([PROMPTS[2]]), max_new_tokens=6, min_new_tokens=6, do_sample=False, pad_token_id=0
            )
        assert tuple(theirs[0, 7:].tolist()) == ours


def test_an_edit_that_changes_no_token_is_an_error_and_edits_do_not_nest():
    loaded = model("bloom")
    edit = RowEdit({Site("residual", 1): lambda h: h + 1}, "prompt")
    with pytest.raises(EditNeverFired, match="changed no token"):
        decode(loaded, [[5], [6]], Decoding(3), [None, edit])
    mask = torch.zeros(loaded.layers, loaded.neurons_per_layer, dtype=torch.bool)
    mask[0, 0] = True
    with pytest.raises(AlreadyEdited), deactivate(loaded, mask):
        decode(loaded, [[5, 6]], Decoding(3), [edit])
    with pytest.raises(InputError, match="'answer'"):
        RowEdit({}, "answer")  # type: ignore[arg-type]


# -- sampling ------------------------------------------------------------------------------------------------------


def test_sampling_depends_on_seed_prompt_draw_and_step_alone():
    loaded = model("llama")
    names = list("abcde")
    settings = Decoding(8, temperature=1.0, top_p=0.9, seed=3)
    first = decode(loaded, PROMPTS, settings, names=names)
    assert decode(loaded, PROMPTS, Decoding(8, 1.0, 0.9, 3, batch=2), names=names) == first
    assert decode(loaded, PROMPTS[::-1], settings, names=names[::-1])[0] == first[0][::-1]
    assert decode(loaded, PROMPTS, settings, [None, None], names)[1] == first[0]
    assert decode(loaded, PROMPTS, settings, names=names, draw=1) != first
    assert decode(loaded, PROMPTS, Decoding(8, 1.0, 0.9, 4), names=names) != first
    state = torch.get_rng_state()
    decode(loaded, PROMPTS, settings, names=names)
    assert torch.equal(state, torch.get_rng_state())
    assert (uniforms(0, "a", 0, 4) == uniforms(0, "a", 0, 9)[:4]).all()


def plain_sample(logits, uniform, temperature, top_p):
    weights = [pow(2.718281828459045, value / temperature) for value in logits]
    whole = sum(weights)
    ranked = sorted(((-weight / whole, word) for word, weight in enumerate(weights)))
    kept, mass = [], 0.0
    for negative, word in ranked:
        if mass >= top_p:
            break
        kept.append((-negative, word))
        mass += -negative
    threshold, passed = uniform * mass, 0.0
    for share, word in kept:
        passed += share
        if passed > threshold:
            return word
    return kept[-1][1]


def test_a_sampled_token_is_that_of_the_plain_rule_and_in_proportion():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(200, 12, generator=generator)
    uniform = torch.rand(200, generator=generator, dtype=torch.float64)
    for temperature, top_p in ((1.0, 1.0), (0.3, 0.75), (2.0, 0.5)):
        found = sample(logits, uniform, temperature, top_p).tolist()
        assert found == [plain_sample(row, u, temperature, top_p) for row, u in zip(logits.tolist(), uniform.tolist())]
    row = torch.tensor([[0.0, 1.0, 2.0]]).expand(4000, 3)
    drawn = torch.bincount(sample(row, torch.linspace(0, 0.99999, 4000), 1.0), minlength=3) / 4000
    assert torch.allclose(drawn, row[0].softmax(-1), atol=0.002)


@pytest.mark.parametrize(
    "settings", [{"tokens": 0}, {"temperature": 0.0}, {"top_p": 0.0}, {"top_p": 1.5}, {"batch": 0}]
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(InputError):
        Decoding(**settings)


# -- ends ----------------------------------------------------------------------------------------------------------


def test_texts_end_at_end_tokens_and_the_reason_is_kept():
    loaded = Model(tiny_model("llama"), tiny_tokenizer(), id="ends")
    free = decode(loaded, PROMPTS, Decoding(9, fixed=True))[0]
    end = free[0].ids[3]
    loaded.hf.generation_config.eos_token_id = [2, end]
    assert stop_ids(loaded) == tuple(sorted({2, end}))
    stopped = decode(loaded, PROMPTS, Decoding(9))[0]
    assert stopped[0].ids == free[0].ids[: free[0].ids.index(end)]
    assert stopped[0].reason == "end"
    fixed = decode(loaded, PROMPTS, Decoding(9, fixed=True))[0]
    assert all(end not in one.ids and len(one.ids) == 9 and one.reason == "length" for one in fixed)


def test_the_model_s_own_length_ends_a_text_and_too_long_prompts_are_refused():
    loaded = Model(tiny_model("gpt2", n_positions=10), tiny_tokenizer(), id="short")
    [[one]] = decode(loaded, [PROMPTS[0]], Decoding(9, fixed=True))
    assert (len(one.ids), one.reason) == (5, "context")
    with pytest.raises(InputError, match="prompt 0 has 10 tokens"):
        decode(loaded, [list(range(3, 13))], Decoding(2))
    with pytest.raises(InputError, match="prompt 1 has no tokens"):
        decode(loaded, [[3], []], Decoding(2))


def test_text_is_decoded_with_its_prompt():
    loaded = model("llama")
    prompt = loaded.tokenize(["abc"])[0]
    assert written_text(loaded, prompt, loaded.tokenize(["de f"])[0]) == "de f"


# -- chat ----------------------------------------------------------------------------------------------------------

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role') }}"
    "{% elif m.role == 'user' %}A{{ m.content }}B{% else %}C{{ m.content }}</s>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}C{% if enable_thinking %}t{% endif %}{% endif %}"
)


def chatty(template=TEMPLATE):
    tokenizer = type(tiny_tokenizer())(
        tokenizer_object=tiny_tokenizer().backend_tokenizer, bos_token="<s>", eos_token="<pad>", pad_token="<pad>"
    )
    tokenizer.chat_template = template
    tokenizer.add_special_tokens({"additional_special_tokens": ["</s>"]})
    return Model(tiny_model("llama"), tokenizer, id="chatty")


def test_a_chat_prompt_is_the_template_s_once_with_a_generation_prompt_and_no_thoughts():
    loaded = chatty()
    found = prompt_ids(loaded, ["abc", "d"])
    assert found.first == "<s>AabcBC"
    assert [row.count(1) for row in found.ids] == [1, 1]  # one beginning of sequence
    assert len(found.template) == 64
    assert prompt_ids(loaded, ["abc"], "off").ids == loaded.tokenize(["abc"])
    assert prompt_ids(model("llama"), ["abc"]).template == ""


def test_the_end_of_a_turn_ends_an_answer():
    loaded = chatty()
    assert end_of_turn(loaded.tokenizer) == 2
    assert set(stop_ids(loaded)) >= {0, 2}
    assert end_of_turn(model("llama").tokenizer) is None


def test_roles_that_a_template_refuses_are_errors_and_so_are_chats_without_one():
    with pytest.raises(InputError, match="no system role"):
        prompt_ids(chatty(), ["a"], system="b")
    with pytest.raises(InputError, match="no chat template"):
        prompt_ids(model("llama"), ["a"], "on")
    with pytest.raises(InputError, match="system prompt needs"):
        prompt_ids(model("llama"), ["a"], system="b")


def test_the_date_of_a_template_is_fixed():
    loaded = chatty("{{ strftime_now('%d') }}{% for m in messages %}{{ m.content }}{% endfor %}")
    assert prompt_ids(loaded, ["abc"]).first == DATE + "abc"


def test_thoughts_are_not_measured():
    assert measured_part("<think>\nHm.\n</think>\n\nBonjour") == "Bonjour"
    assert measured_part("Bonjour ") == "Bonjour "
