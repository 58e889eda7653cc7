"""Attributions add up to the logit; attention is read as it is; roles are recovered in hand-built models."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from babelscope.circuits.comparison.head_matching import match_heads, random_twin, shuffled
from babelscope.circuits.core.cache import run
from babelscope.circuits.core.nodes import Head
from babelscope.circuits.heads.copy_scores import copying, token_copying
from babelscope.circuits.heads.dla import attributions, promoted
from babelscope.circuits.heads.labels import Null
from babelscope.circuits.heads.patterns import attention_between, attention_patterns
from babelscope.circuits.heads.roles import (
    Roles,
    direct,
    repetition,
    role_scores,
)
from babelscope.errors import InputError, TaskError
from babelscope.models import Model
from babelscope.studies.circuit_roles import name_head
from babelscope.tasks import task_named
from tests import planted
from tests.random_pairs import random_pairs
from tests.tiny_models import FAMILIES, tiny_model, tiny_tokenizer

SUMMING = [family for family in FAMILIES if family != "opt-350m"]


@pytest.fixture(scope="module")
def llama():
    return Model(tiny_model("llama"), tiny_tokenizer(), id="llama")


@pytest.mark.parametrize("family", SUMMING)
def test_all_attributions_and_biases_add_up_to_the_logit(family):
    model = Model(tiny_model(family), tiny_tokenizer(), id=family)
    ids, words = torch.arange(4, 22).reshape(2, 9), torch.tensor([5, 40, 77])
    with torch.no_grad():
        seen = run(model, ids)
        hidden = seen.final[:, -1]
        head = model.hf.get_output_embeddings()
        expected = head(hidden)[:, words] * float(getattr(model.config, "logit_scale", None) or 1)
        senders, parts, biases = attributions(model, seen, words)
    assert len(senders) == len(parts) == 1 + model.layers * (model.heads + 1)
    assert torch.allclose(parts.sum(0) + biases, expected, atol=2e-4 * float(expected.abs().max()))
    place = senders.index(Head(1, 2))
    tokens = promoted(model, seen, [Head(1, 2)])
    assert torch.allclose(tokens[0, words], parts[place].mean(0), atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "bloom", "gpt2", "gemma2"])
def test_patterns_sum_to_one_and_the_kernel_is_put_back(family):
    model = Model(tiny_model(family), tiny_tokenizer(), id=family)
    before = model.config._attn_implementation
    found = attention_patterns(model, torch.arange(4, 13)[None])
    assert model.config._attn_implementation == before
    assert len(found) == model.layers
    assert all(torch.allclose(part.sum(-1), torch.ones(1, model.heads, 9), atol=1e-5) for part in found.values())
    assert all(float(part.triu(1).abs().max()) == 0 for part in found.values())


def test_attention_between_roles_is_read_at_their_tokens(llama):
    pairs = random_pairs()[:2]
    found = attention_between(llama, pairs, ["END", "A"], ["A", "B"])
    weights = attention_patterns(llama, torch.tensor([pairs[1].clean]))
    start, end = pairs[1].roles["B"]
    assert found[0, 1, 2, 3, 1] == pytest.approx(float(weights[2][0, 3, -1, start:end].sum()), abs=1e-6)
    assert np.isnan(found[1, 1]).all()  # B stands behind A
    with pytest.raises(TaskError, match="no role 'S1'"):
        attention_between(llama, pairs, ["S1"], ["A"])


def test_name_movers_copy_and_their_opponents_copy_negatively():
    model, pairs = planted.ioi("llama")
    model_scores = copying(model, pairs, ["IO", "S1"], top=1)
    assert model_scores.copy[3, 3] == 1
    assert model_scores.negative[3, 2] == 1
    assert model_scores.diagonal[3, 2] < -1 < 1 < model_scores.diagonal[3, 3]
    alone = token_copying(model, torch.tensor([4, 5, 6]), [Head(3, 3)], top=1)
    assert alone.copy[3, 3] == 1
    assert np.isnan(alone.copy[0, 0])


def test_role_scores_name_the_planted_heads():
    model, pairs = planted.ioi("gpt2")
    roles = role_scores(model, pairs)
    assert roles.scores["attention END→S2"][2, 0] == pytest.approx(1, abs=1e-6)
    assert roles.scores["attention END→IO"][3, 3] == pytest.approx(1, abs=1e-6)
    assert roles.scores["writes target − foil"][3, 3] == pytest.approx(10, abs=1e-4)
    assert roles.scores["writes target − foil"][3, 2] == pytest.approx(-4, abs=1e-4)
    assert roles.attention[4, 3, 2, 0] == pytest.approx(1, abs=1e-6)


def test_repeated_tokens_show_the_induction_circuit():
    model, _ = planted.induction("llama")
    half = torch.tensor([[1, 2, 3, 4, 5], [6, 3, 1, 5, 2]])
    ids = torch.cat([torch.zeros(2, 1, dtype=torch.long), half, half], 1)
    found, _ = repetition(model, {5: ids}, prefix=1)
    assert found["previous-token"][0, 2] > 0.99
    assert found["induction"][1, 1] > 0.99
    assert found["induction"][0, 2] < 0.01
    assert found["duplicate-token"].max() < 0.2
    with pytest.raises(InputError, match="said twice"):
        repetition(model, {4: ids}, prefix=1)


def test_past_tense_is_promoted_on_verbs_that_are_not_in_the_prompt(llama):
    pairs = [pair for pair in random_pairs() if len(pair.target) == 1 and len(pair.clean) == 9][:2]
    found = direct(llama, pairs)
    seen = run(llama, torch.tensor([pair.clean for pair in pairs]))
    words = torch.tensor([pairs[1].target[0], pairs[1].foil[0]])
    senders, parts, _ = attributions(llama, seen, words)
    place = senders.index(Head(2, 1))
    other = float(parts[place][0, 0] - parts[place][0, 1])  # what prompt 0 makes the head say about prompt 1's words
    words = torch.tensor([pairs[0].target[0], pairs[0].foil[0]])
    _, parts, _ = attributions(llama, seen, words)
    assert found.target[2, 1, 0] == pytest.approx(float(parts[place][0, 0]), abs=1e-5)
    other += float(parts[place][1, 0] - parts[place][1, 1])
    assert found.elsewhere.mean(-1)[2, 1] == pytest.approx(other / 2, abs=1e-5)


def test_heads_are_matched_by_what_they_do_wherever_they_stand():
    model, pairs = planted.ioi("gpt2")
    other, same = planted.ioi("llama")
    first, second = role_scores(model, pairs), role_scores(other, same)
    matched = dict(match_heads(first, second).pairs)
    assert matched[Head(3, 3)] == Head(3, 3)
    assert matched[Head(2, 0)] == Head(2, 0)
    twins = [role_scores(random_twin(other, seed), same) for seed in range(3)]
    found = match_heads(first, second, twins)
    assert found.null.shape == (16,)
    assert found.p == 0.25  # the planted heads are nearer than those of any of three random models
    null = [shuffled(second, np.random.default_rng(seed)) for seed in range(40)]
    found = match_heads(first, second, null)
    assert found.p == pytest.approx(1 / 41)
    assert found.pair_p.shape == (16,)
    assert (found.pair_p >= 1 / 41 - 1e-9).all()
    assert (found.pair_p <= 1).all()


def test_a_random_twin_does_not_disturb_the_random_state(llama):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    twin = random_twin(llama, seed=7)
    assert torch.equal(torch.rand(1), expected)
    assert twin.layers == llama.layers
    assert twin.weight_hash != llama.weight_hash


@pytest.mark.parametrize(
    ("copy", "negative", "supporting", "role"),
    [
        (0.9, 0.0, True, "name mover"),
        (0.0, 0.9, True, "copy suppression"),
        (0.0, 0.9, False, "negative name mover"),
        (0.0, 0.1, True, "direct"),
        (0.1, 0.0, False, "direct, opposing"),
    ],
)
def test_no_head_is_named_after_copying_that_it_hardly_does(copy, negative, supporting, role):
    scores = {"copy": np.array([[copy]]), "negative copy": np.array([[negative]])}
    assert named(scores, {}, "name_movers", supporting).role.removeprefix("candidate: ") == role


def named(scores, nulls, step, supporting=True, task="ioi"):
    asked = next(each for each in task_named(task).steps if each.name == step)
    found = SimpleNamespace(step=asked, supporting=(Head(0, 0),) if supporting else (), also=())
    roles = Roles(scores, (), (), np.zeros((0, 0, 1, 1)), nulls)
    return name_head(found, Head(0, 0), roles, SimpleNamespace(steps=()), task_named(task))


@pytest.mark.parametrize(
    ("score", "gain", "positions", "why"),
    [
        (0.4, 0.3, 5, ""),
        (0.015, 0.3, 5, "score below 0.1"),
        (0.4, 0.0, 5, "no more than its own null"),
        (0.4, 0.3, 2, "only 2 distinct positions"),
    ],
)
def test_a_label_is_a_candidate_until_its_number_earns_it(score, gain, positions, why):
    others = np.random.default_rng(0).normal(0.1, 0.01, (1, 1, 10))
    spread = np.random.default_rng(1).normal(0, 0.01, (1, 1, 10))
    null = Null.of(others + gain + spread - spread.mean(), others, positions)
    name = "attention END→S2"
    found = named({name: np.array([[score]])}, {name: null}, "s_inhibition")
    assert found.role == ("candidate: " if why else "") + "S-inhibition"
    assert found.evidence.why == why
    assert found.evidence.score == score


def test_a_score_that_was_not_measured_leaves_a_candidate():
    found = named({}, {}, "previous_token")
    assert (found.role, found.evidence.why) == ("candidate: previous-token", "previous-token was not measured")


def test_the_null_of_attention_is_the_other_positions_of_the_same_query():
    """A head that spreads its attention evenly looks at S2 no more than anywhere; one that looks at S2 does."""
    model, pairs = planted.ioi("gpt2")
    roles = role_scores(model, pairs)
    null = roles.nulls["attention END→S2"]
    assert 0 < null.p[2, 0] < 1e-9  # the same in every prompt
    assert null.beaten[2, 0]
    assert null.chance[2, 0] == pytest.approx(0, abs=1e-6)
    # heads with nothing planted attend evenly: one in eight positions to S2, and as much to each other one
    assert null.chance[3, 0] == pytest.approx(1 / 8, abs=1e-6)
    assert not null.beaten[3, 0]


def test_copying_is_held_against_words_that_are_not_in_the_prompt():
    model, pairs = planted.ioi("llama")
    found = copying(model, pairs, ["IO", "S1"], top=1)
    assert found.nulls["copy"].chance[3, 3] == 0
    assert found.nulls["copy"].beaten[3, 3]
    assert found.nulls["negative copy"].beaten[3, 2]
    assert not found.nulls["copy"].beaten[3, 2]


@pytest.mark.parametrize("family", ["bloom", "llama", "gpt2"])
def test_reading_the_vocabulary_by_parts_gives_what_all_logits_give(family, monkeypatch):
    from babelscope.circuits.heads import copy_scores as room

    model = Model(tiny_model(family), tiny_tokenizer(), id=family)
    pairs = random_pairs()
    parts = copying(model, pairs, ["A", "B"], top=2)
    monkeypatch.setattr(room, "FIRST_WORDS", 3)
    monkeypatch.setattr(room, "WORDS", 5)
    small = copying(model, pairs, ["A", "B"], top=2)
    with torch.no_grad():
        asked = room._words_in_context(model, pairs, ["A", "B"], 64, 0, [1])
    words, states = asked[0], asked[1][0]
    for node in (Head(layer, head) for layer in range(model.layers) for head in range(model.heads)):
        logits = room.ov_logits(model, node, states).float().detach()
        own = logits.gather(1, words[:, None])
        for found in (parts, small):
            where = node.layer, node.head
            assert found.copy[where] == pytest.approx(float((own >= logits.topk(2).values[:, -1:]).float().mean()))
            low = (-own >= (-logits).topk(2).values[:, -1:]).float().mean()
            assert found.negative[where] == pytest.approx(float(low))
            score = ((own[:, 0] - logits.mean(1)) / logits.std(1)).mean()
            assert found.diagonal[where] == pytest.approx(float(score), abs=1e-3)
