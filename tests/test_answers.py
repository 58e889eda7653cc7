"""Accuracy among any number of answers: by hand on a model whose answer is known, and alike whatever the batch."""

from __future__ import annotations

import numpy as np
import pytest

from babelscope import load_model
from babelscope.errors import InputError
from babelscope.evaluation import Question, answers, evaluate_questions
from babelscope.evaluation.scoring import continuation_scores
from babelscope.regions.deactivation import deactivate


@pytest.fixture(scope="module")
def model():
    return load_model("pocket:planted-none")


def fact(number, code="zh"):
    choices = tuple(f" {code}{other:02}" for other in (number, (number + 7) % 40, (number + 9) % 40))
    prompt = f'Français: "fr01" - 中文: "zh01"\nFrançais: "fr{number:02}" - 中文: "'
    return Question(str(number), prompt, choices, 0)


def test_a_planted_translator_answers_and_blind_choice_stands_beside(model):
    frame = evaluate_questions(model, {"zh": [fact(number) for number in range(2, 12)]}, "facts")
    row = frame[frame.language == "zh"].iloc[0]
    assert row.accuracy == 1.0
    assert row.blind == pytest.approx(1 / 3)
    assert row.low > row.blind
    wrong = evaluate_questions(model, {"zh": [Question("1", fact(3).prompt, fact(3).choices, 2)]}, "facts")
    assert wrong[wrong.language == "zh"].iloc[0].accuracy == 0.0


def test_conditions_have_rows_of_their_own(model):
    import torch

    mask = torch.ones(model.layers, model.neurons_per_layer, dtype=torch.bool)
    questions = {"zh": [fact(number) for number in range(2, 6)]}
    frame = evaluate_questions(model, questions, "facts", {"all off": lambda: deactivate(model, mask)})
    accuracy = frame[frame.language == "zh"].set_index("condition").accuracy
    assert accuracy["base"] == 1.0
    assert accuracy["all off"] < 1.0


def test_scores_do_not_depend_on_what_else_is_asked(model):
    asked = [(fact(number).prompt, fact(number).choices[: 2 + number % 2]) for number in range(2, 8)]
    together = continuation_scores(model, asked)
    alone = [continuation_scores(model, [one])[0] for one in asked]
    assert [len(one) for one in together] == [2, 3, 2, 3, 2, 3]
    for one, other in zip(together, alone):
        np.testing.assert_allclose(one, other, atol=1e-3)


def test_an_empty_prompt_is_the_beginning_of_the_text(model):
    [scores] = continuation_scores(model, [("", ("fr01 fr02", "fr01 zh02"))])
    assert np.isfinite(scores).all()
    with pytest.raises(InputError, match="no questions"):
        evaluate_questions(model, {}, "facts")


def test_a_score_by_letter_does_not_count_the_blank_in_front(monkeypatch):
    """−3.1 and −6.1 nats of one letter and of two: −3.1 and −3.05 a letter; with the blank, −1.55 and −2.03."""
    monkeypatch.setattr(answers, "continuation_scores", lambda *_: [np.array([-3.1, -6.1])])
    frame = evaluate_questions(None, {"en": [Question("1", "p", (" a", " bc"), 1)]}, "facts").set_index("language")
    assert (frame.normalised["en"], frame.accuracy["en"]) == (1.0, 0.0)
