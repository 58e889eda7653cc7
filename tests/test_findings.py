"""Sentences of a page: the right words for a clear effect, for none, for too few data, for what was not measured."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from babelscope.findings import circuits, latent, regions, sweep
from babelscope.findings.circuits import Behaviour, Transfer
from babelscope.findings.regions import Deactivated
from babelscope.findings.sentence import Estimate, Finding, ordered
from babelscope.latent.verdict import thinks_in
from babelscope.results.schemas.sweep import PointRow, SweepPoint

NAN = float("nan")


def switched_off(language="en", own=40.0, low=0.2, control=0.05, documents=20):
    draws = (1.0, 4.0) if control == control else ()
    return Deactivated(language, own, low, (-2.0, 5.0), draws, control, documents)


def test_a_region_that_matters_more_than_random_neurons():
    found = regions.deactivation([switched_off("en"), switched_off("zh", own=23.0), switched_off("fr", own=63.2)])
    assert found.kind == "effect"
    assert found.text == (
        "Switching off a language's region raises its own language's perplexity by 23 to 63 % (median 40 %), the other "
        "languages' by −2 to 5 %; as many random neurons of the same layers raise it by 1 to 4 %: above every draw in "
        "3 of 3 languages (20 documents a language or more, 2 random draws)."
    )


@pytest.mark.parametrize(
    ("rows", "kind", "says"),
    [
        ([], "not measured", "was not measured: give --texts"),
        (
            [switched_off(low=NAN, documents=1)],
            "undecided",
            "to say what the regions do: 1 document in",
        ),
        ([switched_off(control=NAN)], "undecided", "no control to compare with"),
        ([switched_off(low=0.05), switched_off("zh", low=-0.1)], "none", "no more than random neurons do"),
        ([switched_off(), switched_off("zh", low=0.01)], "undecided", "random neurons in English only"),
    ],
)
def test_a_region_that_does_not_or_that_cannot_be_said(rows, kind, says):
    found = regions.deactivation(rows)
    assert found.kind == kind
    assert says in found.text


def test_an_interval_that_touches_the_control_does_not_count():
    assert regions.deactivation([switched_off(low=0.05, control=0.05)]).kind == "none"
    assert regions.deactivation([switched_off(low=0.051, control=0.05)]).kind == "effect"


@pytest.mark.parametrize(
    ("estimate", "kind"),
    [
        (Estimate(0.02, 0.01, 0.03), "effect"),
        (Estimate(0.02, -0.01, 0.05), "undecided"),
        (Estimate(0.02), "undecided"),
        (Estimate(-0.02, -0.03, -0.01), "none"),
    ],
)
def test_translations_against_zero(estimate, kind):
    found = regions.translations(estimate, 100, 9)
    assert found.kind == kind
    assert "100 sentences in each of 9 languages" in found.text
    assert ("no interval" in found.text) == (not estimate.known)


def test_regions_beyond_chance_or_not():
    summary = {"sklr": 789, "expected_sklr": 500.4, "p_sklr": 0.03}
    assert regions._above_chance(summary).text.startswith("The key regions hold 789 neurons in all (SKLR)")
    assert regions._above_chance(summary | {"p_sklr": 0.2}).kind == "none"
    assert regions._above_chance({"sklr": 789}) is None


def kept(found_in, run_on, value, low, high, random=0.04, random_high=0.12, heads=5):
    return Transfer(found_in, run_on, Estimate(value, low, high), random, random_high, heads)


def test_a_circuit_that_does_another_language_s_task():
    rows = [kept("en", "zh", 0.67, 0.53, 0.81), kept("zh", "zh", 0.59, 0.45, 0.72)]
    (found,) = circuits.shared(rows)
    assert found.kind == "effect"
    assert found.text == (
        "The English circuit (5 heads) keeps 67 % (53 to 81) of the task in Chinese; its own circuit, on the "
        "prompts that chose it, 59 % (45 to 72); "
        "as many random heads 4 %."
    )
    assert not list(circuits.own(rows))


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        (kept("en", "zh", 0.05, 0.0, 0.1), "none"),
        (kept("en", "zh", 0.2, 0.1, 0.3), "undecided"),
        (kept("en", "zh", 0.67, NAN, NAN), "undecided"),
        (kept("en", "zh", 0.0, 0.0, 0.0, heads=0), "none"),
    ],
)
def test_a_circuit_that_does_not(row, kind):
    (found,) = circuits.shared([row])
    assert found.kind == kind


def test_above_two_random_sets_is_no_effect():
    row = replace(kept("en", "zh", 0.9, 0.8, 1.0), sets=2)
    (found,) = circuits.shared([row])
    assert found.kind == "undecided"
    assert "2 sets; 19 or more could decide" in found.text


def test_few_prompts_say_what_they_cannot_find():
    (found,) = circuits.power({"en": 10, "zh": 40})
    assert found.kind == "undecided"
    assert "English 10" in found.text
    assert not list(circuits.power({"en": 20}))


def test_means_over_a_prompt_itself_are_told_from_one_in_ten_on():
    (found,) = circuits.alone({"en": (9, 100), "zh": (10, 100), "fr": (7, 12)})
    assert found.kind == "undecided"
    assert "(Chinese 10 of 100, French 7 of 12): mean ablation" in found.text
    assert not list(circuits.alone({"en": (9, 100)}))


def test_prompts_of_one_verb_are_told_of():
    (found,) = circuits.same_verb({"en": (33, 100), "zh": (50, 50)})
    assert found.kind == "undecided"
    assert "those of one verb (English 33 verbs in 100 prompts): where" in found.text
    assert not list(circuits.same_verb({"zh": (50, 50)}))


def test_a_circuit_that_is_none_is_said():
    (found,) = circuits.own([kept("en", "en", 0.1, 0.05, 0.2)])
    assert "not better than random heads in its own language" in found.text


@pytest.mark.parametrize(("lows", "kind"), [((0.8, 0.9), "effect"), ((0.4, 0.45), "none"), ((0.4, 0.9), "undecided")])
def test_whether_the_model_does_the_task(lows, kind):
    rows = [Behaviour(code, "", Estimate(0.95, low, 1.0), 40) for code, low in zip(("en", "zh"), lows)]
    found = circuits.behaviour(rows, "ioi")
    assert found.kind == kind
    assert "n = 40" in found.text
    assert circuits.behaviour([], "ioi").kind == "not measured"


def points(second):
    first = {"sads": 0.002, "sads_low": 0.001, "sads_high": 0.003}
    facts = [("step16", 16.0), ("main", 8000.0)]
    found = []
    for (label, step), values in zip(facts, (first, second)):
        row = PointRow("m", "k", label=label, step=step)
        ends = {"sads": (values["sads_low"], values["sads_high"])}
        found.append(SweepPoint(row, {"sads": values["sads"]}, ends))
    return found


def test_growth_is_said_where_intervals_do_not_meet():
    (found,) = sweep._changes(points({"sads": 0.03, "sads_low": 0.028, "sads_high": 0.035}), "sads")
    assert found.kind == "effect"
    assert found.text == (
        "From step16 to main, how alike translations are (SADS) rises: 0.002 (0.001 to 0.003) to 0.030 "
        "(0.028 to 0.035), 2 points (m)."
    )
    (same,) = sweep._changes(points({"sads": 0.003, "sads_low": 0.002, "sads_high": 0.004}), "sads")
    assert same.kind == "undecided"


def test_effects_come_first():
    kinds = ("not measured", "undecided", "effect", "none", "effect")
    assert [one.kind for one in ordered(Finding(kind, "", "") for kind in kinds)] == [
        "effect", "effect", "none", "undecided", "not measured",
    ]  # fmt: skip


@pytest.mark.parametrize(("outcome", "kind"), [
    ("passes through", "effect"), ("readable, no detour", "effect"), ("no sign", "none"), ("undecided", "undecided"),
    ("not decidable", "undecided"),
])  # fmt: skip
def test_the_kind_of_a_verdict_is_that_of_its_sentence(outcome, kind):
    from babelscope.latent.verdict import Accuracy, Verdict, sentence
    from tests.test_latent_lens import evidence

    text = sentence("M", "fr", "zh", Accuracy(40, 40), {"en": (evidence(), Verdict(outcome, why="why"))})
    assert latent.kind_of(text) == kind


def test_the_answer_over_all_pairs_stands_first_whatever_single_pairs_say():
    whole = thinks_in("M", ["no sign", "undecided"])
    pairs = ["fr to zh shows no sign of English.", "zh to fr passes through Arabic.", "fr to id cannot be decided."]
    run = SimpleNamespace(tables=["curves", "verdicts"], summary={"headline": whole})
    found = latent.latent_findings(run, [whole, *pairs])
    assert [one.text for one in found] == [whole, pairs[1]]
    assert [one.figure for one in found] == ["latent-highest", "latent-excess"]
    single = latent.latent_findings(SimpleNamespace(tables=["curves"], summary={}), [pairs[2], pairs[1], pairs[0]])
    assert [one.text for one in single] == [pairs[2], pairs[1], pairs[0]]
    assert latent.latent_findings(run, []) == []


def test_a_size_stands_in_a_sentence_on_sizes_once_with_its_last_checkpoint():
    """The largest model has three points; its first checkpoint, named last, was what sizes were compared by."""

    def point(model, parameters, step, value):
        row = PointRow(model=model, key=f"{model}{step}", label=f"{model}@{step}", parameters=parameters, step=step)
        return SweepPoint(row, {"sads": value}, {"sads": (value - 0.01, value + 0.01)})

    whole = float("nan")
    done = [
        point("s", 1e6, whole, 0.1),
        point("m", 2e6, whole, 0.5),
        point("m", 2e6, 9.0, 0.3),
        point("m", 2e6, 1.0, 0.0),
    ]
    (found,) = sweep._changes(done, "sads")
    assert found.text.startswith("From s@nan to m@nan")
    assert "0.100 (0.090 to 0.110) to 0.500 (0.490 to 0.510), 2 points" in found.text
