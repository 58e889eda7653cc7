"""Texts that begin alike are read once where they do, and are scored as each is alone, in every family."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from babelscope.evaluation import scoring
from babelscope.evaluation.scoring import continuation_scores
from babelscope.models import Model, Site, edit, prefixes
from babelscope.models.rows import RowEdit, edited_rows
from tests.tiny_mixtures import MIXTURES, mixture
from tests.tiny_models import CONFIGS, tiny_model, tiny_tokenizer

WORDS = "en01 fr01 zh01 en02 fr02 zh02 en03 fr03"
ASKED = [
    (WORDS, (" en01 en02", " fr01", " en01 zh03 fr01")),
    (f"{WORDS} en01 en02", (" en05", " en01 en02 zh03 fr04")),
    ("en01", (" en02", " en03")),
    ("", ("en02 fr01", "en03 en02")),
    (WORDS, (" en01 en02",)),
]
"""prompts of several lengths, one without a word and one with a single choice"""


def tiny(family: str, **changes: object) -> Model:
    return Model(tiny_model(family, **changes), tiny_tokenizer(), id=family)


def lone_losses(model: Model, prompt: str, choice: str) -> float:
    """log p(choice | prompt), word by word from whole logits of the one text."""
    whole = model.tokenizer.encode(prompt + choice)
    first = max(1, len(model.tokenizer.encode(prompt)))
    with torch.inference_mode():
        logp = model.logits(model.trunk(torch.tensor([whole])))[0].double().log_softmax(-1)
    return sum(float(logp[place - 1, whole[place]]) for place in range(first, len(whole)))


def tokens_read(model: Model) -> list[int]:
    """Positions of every pass of a scoring."""
    seen: list[int] = []
    own = model.trunk

    def trunk(ids, *rest, **named):
        seen.append(ids.numel())
        return own(ids, *rest, **named)

    model.trunk = trunk
    try:
        continuation_scores(model, ASKED)
    finally:
        del model.trunk
    return seen


@pytest.mark.parametrize("family", [*CONFIGS, *MIXTURES])
def test_choices_are_scored_as_each_text_is_alone(family):
    model = mixture(family) if family in MIXTURES else tiny(family)
    if model.encoder:
        pytest.skip("an encoder has no next word")
    found = continuation_scores(model, ASKED)
    for (prompt, choices), scores in zip(ASKED, found):
        np.testing.assert_allclose(scores, [lone_losses(model, prompt, one) for one in choices], atol=1e-4)


def test_what_carries_a_state_is_read_text_by_text():
    assert prefixes.shares_prefixes(tiny("bloom"))
    assert not prefixes.shares_prefixes(tiny("bailing_hybrid"))


def test_a_window_shorter_than_the_beginning_stays_one():
    model = tiny("mistral", sliding_window=3)
    assert prefixes.shares_prefixes(model)
    found = continuation_scores(model, ASKED)[0]
    np.testing.assert_allclose(found, [lone_losses(model, WORDS, one) for one in ASKED[0][1]], atol=1e-4)


def test_the_beginning_is_read_once(monkeypatch):
    model = tiny("llama")
    assert prefixes.shares_prefixes(model)
    together = tokens_read(model)
    monkeypatch.setattr(scoring, "shares_prefixes", lambda _: False)
    assert sum(together) < sum(tokens_read(model))


def test_nothing_is_shared_while_a_hook_stands():
    model = tiny("llama")
    with edit(model, {Site("residual", 1): lambda h: h * 2}):
        assert not prefixes.shares_prefixes(model)
        model.trunk(torch.tensor([[1, 2]]))
    asked = [(WORDS, (" en01 en02", " fr01"))]
    change = RowEdit({Site("residual", 1): lambda h: h + 3.0}, where="prompt")
    with edited_rows(model, [change]):
        together = continuation_scores(model, asked)[0]
        alone = [continuation_scores(model, [(WORDS, (one,))])[0][0] for one in asked[0][1]]
    np.testing.assert_allclose(together, alone, atol=1e-4)
    assert np.abs(together - continuation_scores(model, asked)[0]).max() > 1e-3


@pytest.mark.parametrize("how", ["refuses", "forgets"])
def test_a_model_that_takes_no_cache_is_read_text_by_text(how):
    """One that raises, and one that goes on as if nothing stood before: a wrong number without a word."""
    model = tiny("llama")
    own, calls = model.trunk, []

    def trunk(ids, mask=None, cache=None):
        if cache is None:
            return own(ids, mask)
        calls.append(1)
        if how == "refuses":
            raise TypeError("no cache here")
        return own(ids, None if mask is None else mask[:, -ids.shape[1] :])

    model.trunk = trunk
    found = continuation_scores(model, ASKED)
    assert calls
    assert prefixes._errors[model.hf] > 1e-2
    for (prompt, choices), scores in zip(ASKED, found):
        np.testing.assert_allclose(scores, [lone_losses(model, prompt, one) for one in choices], atol=1e-4)
