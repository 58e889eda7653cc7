"""Every sentence that a page can say, made from planted truth; one that no case here makes fails the last test."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import get_args

import numpy as np
import pandas as pd
import pytest

import babelscope.findings as findings
from babelscope.findings import circuits, evaluation, regions, sentence, steering, sweep
from babelscope.findings.circuits import Behaviour, Transfer
from babelscope.findings.regions import Deactivated
from babelscope.findings.sentence import Estimate
from babelscope.latent import separation, verdict
from babelscope.latent.patching import SOURCES
from babelscope.latent.verdict import Accuracy, Outcome, Verdict
from babelscope.settings import syntax_tree
from babelscope.stats import Interval, no_interval
from babelscope.steering import sentences as steered
from babelscope.studies import confusion
from tests.test_latent_lens import evidence

NAN = float("nan")
ABOVE, BELOW, ACROSS, BARE = (
    Estimate(0.3, 0.2, 0.4),
    Estimate(-0.3, -0.4, -0.2),
    Estimate(0.1, -0.1, 0.3),
    Estimate(0.1),
)


def off(low=0.2, control=0.05, code="en", draws=(1.0, 4.0)):
    return Deactivated(code, 40.0, low, (-2.0, 5.0), draws, control, 20)


def kept(value, low, high, found_in="en", run_on="zh", **others):
    return Transfer(found_in, run_on, Estimate(value, low, high), 0.04, 0.12, **{"heads": 5, **others})


def does(*lows):
    return [Behaviour(code, "", Estimate(0.9, low, 1.0), 40) for code, low in zip(("en", "zh"), lows)]


def screened(seen):
    row = {"sweep": "search", "missed_at_most": 2, "left": 30, "sampled": 10, "sampled_passed": seen}
    return SimpleNamespace(tables=["screen"], table=lambda _: pd.DataFrame([row]))


def answers(*rows, name="cloze", **others):
    """(language, condition, accuracy, low, high) as an evaluation run."""
    frame = pd.DataFrame(rows, columns=["language", "condition", "accuracy", "low", "high"]).assign(n=100, **others)
    return SimpleNamespace(tables=[name] if rows else [], table=lambda _: frame)


BASE = [("en", "base", 0.9, 0.8, 0.95), ("zh", "base", 0.8, 0.7, 0.9)]
GUESS = [("en", "base", 0.5, 0.4, 0.6), ("zh", "base", 0.52, 0.42, 0.62)]


def changed(*rows):
    """The sentences on conditions, without that on the whole model."""
    return evaluation.evaluation_findings(answers(*BASE, *rows))[1:]


def grown(*ends, tables=("points",), measure="sads"):
    rows = [
        {"model": "m", "key": str(step), "revision": f"step{step}", "step": float(step), "status": "done",
         measure: value, f"{measure}_low": low, f"{measure}_high": high}
        for step, (value, low, high) in enumerate(ends)
    ]  # fmt: skip
    return SimpleNamespace(tables=list(tables), table=lambda _: pd.DataFrame(rows), source="run")


def steer(p=0.01, draws=20.0, success=0.9, looping=NAN, damage=True, fidelity: float | None = 0.4, baselines=True,
          **others):  # fmt: skip
    """The sentence on one method, made from its tables."""
    setting = {"source": "en", "target": "fr", "method": "diffmean", "layer": 3, "alpha": 1.5}
    own = {**setting, "condition": "steered", "success": success, "success_low": 0.8, "success_high": 1.0, "n": 64,
           "random": 0.02, "p": p, "draws": draws, "looping": looping, **others}  # fmt: skip
    told = [{**setting, "condition": name, "success": value} for name, value in (("unsteered", 0.0), ("prompted", NAN))]
    rise = {**setting, "role": "target", "condition": "steered", "delta_nll": 0.3, "delta_nll_low": 0.2,
            "delta_nll_high": 0.4}  # fmt: skip
    kept = {**setting, "value": fidelity, "why": "no answer is in the target"}
    return steered.first_sentence(
        pd.DataFrame([own, *(told if baselines else [])]), pd.DataFrame([rise] if damage else []),
        pd.DataFrame([kept] if fidelity is not None else []),
    )  # fmt: skip


def stayed(*rates):
    """The sentence on language confusion; `rates`: of languages, then their mean."""
    rows = [{"model": "m", "task": "t", "set": place, "language": code, "lpr": rate, "lpr_low": rate - 0.1,
             "lpr_high": rate + 0.1, "answers": 12, "counted": 12 if rate == rate else 0}
            for code, rate in (*zip(("fr", "ar"), rates), ("all", np.mean(rates)))
            for place in ("all", "s")]  # fmt: skip
    return confusion.sentences(pd.DataFrame(rows))[0]


def latent_of(outcome="passes through", accuracy=(40, 40), others=(), task="translation", **changes):
    found = {"en": (evidence(**changes), Verdict(outcome, why="words of like frequency"))}
    found |= {code: (evidence(), Verdict(other, why="why")) for code, other in zip(("es", "hi"), others)}
    return verdict.sentence("M", "fr", "zh", Accuracy(*accuracy), found, task)


def apart(decidable=True, value=0.8, separable: bool | None = True, shared: bool | None = True, first=1.0, why=""):
    share = Interval(value, 0.7, 0.9) if not why else no_interval(value, why)
    found = separation.Separation(
        40, decidable, (separation.Recovery(SOURCES[0], share, (1, 1)),), share, share, 1, 2, first, separable, shared,
        why,
    )  # fmt: skip
    return found.sentence


def thinks(*outcomes):
    return verdict.thinks_in("M", outcomes)


SAID = {"sklr": 2000, "expected_sklr": 1200.0}
CASES = [  # what makes the sentence, its kind ("": a study states it), words that must stand in it
    # regions
    (partial(regions.deactivation, [off(), off(code="zh")]), "effect", "above every draw in 2 of 2 languages"),
    (partial(regions.deactivation, [off(low=0.05)]), "none", "does no more than random neurons do"),
    (partial(regions.deactivation, [off(), off(code="zh", low=0.01)]), "undecided", "random neurons in English only"),
    (partial(regions.deactivation, [off(low=NAN)]), "undecided", "Too little text"),
    (partial(regions.deactivation, [off(draws=())]), "undecided", "no control to compare with"),
    (partial(regions.deactivation, []), "not measured", "give --texts"),
    *((partial(make, value, *more), kind, words)
      for make, more, said in (
          (regions.translations, (60, 9), ("Translations are more alike", "are no more alike", "cannot be said")),
          (regions.languages_apart, (60, 9), ("of one language are more alike", "are no more alike", "cannot be said")),
          (regions.language_share, (), ("accounts for 0.3 (0.2 to 0.4) %", "accounts for none", "cannot be said")),
      )
      for value, kind, words in zip((ABOVE, BELOW, ACROSS, BARE), ("effect", "none", "undecided", "undecided"),
                                    (*said, said[-1]))),
    (partial(regions.translations, Estimate(0.0004, 0.0001, 0.0007), 60, 9), "effect",
     "by 0.0004 (0.0001 to 0.0007) in cosine similarity"),
    (partial(regions._above_chance, {**SAID, "p_sklr": 0.001}), "effect", "give 1\u202f200 on average (p = 0.001)"),
    (partial(regions._above_chance, {**SAID, "p_sklr": 0.2}), "none", "no larger than chance"),
    # circuits
    (partial(circuits.behaviour, does(0.8, 0.9), "ioi"), "effect", "The model does the task (ioi) better than chance"),
    (partial(circuits.behaviour, does(0.8), "ioi", "gpt2-en"), "effect", "gpt2-en does the task (ioi) better"),
    (partial(circuits.behaviour, does(0.4, 0.45), "ioi"), "none", "does not do the task"),
    (partial(circuits.behaviour, does(0.4, 0.9), "ioi"), "undecided", "in part only"),
    (partial(circuits.behaviour, [], "ioi"), "not measured", "was not measured"),
    (partial(circuits.shared, [kept(0.9, 0.8, 1.0), kept(0.95, 0.9, 1.0, "zh")]), "effect",
     "The English circuit (5 heads) keeps 90 % (80 to 100) of the task in Chinese; its own circuit, on the "
     "prompts that chose it, 95 % (90 to 100); "
     "as many random heads 4 %."),
    (partial(circuits.shared, [kept(0.05, 0.0, 0.1)]), "none", "does no more than random heads in Chinese"),
    (partial(circuits.shared, [kept(0.2, 0.05, 0.4)]), "undecided", "does no more than random heads in Chinese"),
    (partial(circuits.shared, [kept(0.9, 0.8, 1.0, sets=3)]), "undecided", "(3 sets; 19 or more could decide)"),
    (partial(circuits.shared, [kept(0.9, NAN, NAN)]), "undecided", "keeps 90 % of the task"),
    (partial(circuits.shared, [kept(0.9, 0.8, 1.0, heads=0)]), "none", "No head was selected in English"),
    (partial(circuits.own, [kept(0.1, 0.05, 0.2, "en", "en")]), "undecided", "not better than random heads in its own"),
    (partial(circuits.power, {"en": 10, "zh": 40}), "undecided", "Few prompts were patched (English 10)"),
    (partial(circuits.alone, {"en": (9, 100), "zh": (10, 100)}), "undecided", "and length (Chinese 10 of 100): mean"),
    (partial(circuits.same_verb, {"en": (33, 100)}), "undecided", "one verb (English 33 verbs in 100 prompts): where"),
    (partial(circuits.screen, screened(0)), "none", "0 of 10 sampled"),
    (partial(circuits.screen, screened(1)), "undecided", "1 of 10 sampled"),
    # evaluation
    (partial(evaluation.evaluation_findings, answers(*BASE)), "effect", "better than chance in every language"),
    (partial(evaluation.evaluation_findings, answers(BASE[0], GUESS[1])), "undecided", "in 1 of 2 languages (English)"),
    (partial(evaluation.evaluation_findings, answers(*GUESS)), "none", "In no language are answers better than chance"),
    (partial(evaluation.evaluation_findings, answers(*BASE, name="klar")), "effect", "what chance gives is not known"),
    (partial(evaluation.evaluation_findings, answers(*GUESS, name="belebele", blind=[0.25, 0.5])), "undecided",
     "in 1 of 2 languages (English): 50 to 52 % of the answers are right (median 51 %; belebele, 100 items a language "
     "or more); blind choice gives 25 to 50 %"),
    (partial(evaluation.evaluation_findings, answers(*GUESS, name="xcopa", blind=0.5)), "none",
     "In no language are answers better than chance"),
    (partial(evaluation.evaluation_findings, answers()), "not measured", "No share of right answers"),
    (partial(changed, ("zh", "zh", 0.5, 0.4, 0.6), ("zh", "zh, random 0", 0.8, 0.7, 0.9)), "effect",
     "With the region of Chinese switched off, 50 % (40 to 60) of the answers in Chinese are right instead of 80"),
    (partial(changed, ("zh", "zh", 0.78, 0.7, 0.9)), "undecided",
     "without random controls; the intervals meet"),
    # sweeps
    (partial(sweep.sweep_findings, grown((0.1, 0.0, 0.2), (0.5, 0.4, 0.6))), "effect", "From step0 to step1, how"),
    (partial(sweep.sweep_findings, grown((0.5, 0.4, 0.6), (0.1, 0.0, 0.2))), "effect", "(SADS) falls"),
    (partial(sweep.sweep_findings, grown((0.5, 0.4, 0.6), (0.4, 0.3, 0.5))), "undecided", "may have changed"),
    (partial(sweep.sweep_findings, grown((0.5, NAN, NAN), (0.1, NAN, NAN), measure="lrds")), "undecided",
     "how far languages stand apart (LRDS) may have changed: 0.500 (no interval)"),
    (partial(sweep.sweep_findings, grown((0.1, 0.0, 0.2), (0.5, 0.4, 0.6), measure="sklr_share")), "effect",
     "the share of neurons in some region rises"),
    (partial(sweep.sweep_findings, grown((0.5, 0.4, 0.6))), "undecided", "nothing can be said about growth"),
    # a run of another shape
    (lambda: findings.findings_of(SimpleNamespace(kind="circuits", summary={}, tables=["behaviour"], manifest={},
                                          table=lambda _: pd.DataFrame({"x": [1]}), of_dimensions=False)),
     "not measured", "No finding could be read from this run: KeyError"),
    # steering
    (steer, "", "Steered (diffmean at layer 3, strength α = 1.5), 90 % (80 to 100) of 64 answers to English prompts "
     "are in French; unsteered 0 %, with random directions of the same size 2 %, told in words not known. It adds 0.30 "
     "(0.20 to 0.40) nats a token to the loss on French text, fidelity 0.40"),
    (partial(steer, p=0.4), "", "no better than random directions (p = 0.4)"),
    (partial(steer, p=0.2, draws=4.0), "", "4 draws of random directions are too few for p below 0.05"),
    (partial(steer, success=NAN), "", "cannot be said: none of 64 answers is long enough"),
    (partial(steer, skipped=0.25), "", "of 48 answers to English prompts are in French (16 more are too short to"),
    (partial(steer, looping=0.5), "", "50 % of the answers in French say one stretch twice"),
    (partial(steer, damage=False, fidelity=None), "", "The damage to French text was not measured, whether answers "
     "keep to the prompt (fidelity) was not measured"),
    (partial(steer, fidelity=NAN, baselines=False), "", "unsteered not measured"),
    (partial(steer, **{"random-neurons": 0.1}), "", "with random"),
    # confusion
    (partial(stayed, 0.9, 0.7), "", "80 % of the answers stay in the language that was asked for (n = 12"),
    (partial(stayed, 0.9), "", "90 % of the answers stay"),
    (partial(stayed, NAN), "", "Whether answers stay in the language that was asked for cannot be said"),
    # latent language
    (latent_of, "effect", "solves 40 of 40 concepts and passes through English"),
    (partial(latent_of, target=np.zeros(5)), "effect", "Chinese does not take over"),
    (partial(latent_of, "readable, no detour"), "effect", "lets English be read, no detour (words of like frequency)"),
    (partial(latent_of, "no sign"), "none", "shows no sign of English."),
    (partial(latent_of, "undecided", others=("no sign", "not decidable")), "undecided",
     "shows no sign of Spanish, is undecided about English and has too few concepts to decide about Hindi"),
    (partial(latent_of, "not decidable", (10, 80), concepts=10), "undecided",
     "(12 %, 7 to 22 %); which language it passes through cannot be decided"),
    *((partial(latent_of, task=task), "effect", words) for task, words in (
        ("repetition", "Repeating French, M solves"), ("cloze", "Filling gaps in Chinese, M solves"),
        ("sentence", "Translating French sentences to Chinese, M solves"))),
    (partial(thinks, "passes through", "no sign", "undecided"), "effect", "M passes through English in 1 of 3 pairs"),
    (partial(thinks, "passes through", "no sign", "no sign"), "effect", "2 do not"),
    (partial(thinks, "no sign", "readable, no detour"), "none", "does not think in English as far as the lens sees"),
    (partial(thinks, "no sign", "no sign", "readable, no detour", "readable, no detour"), "none", "2 let it be read"),
    (partial(thinks, "no sign"), "none", "of 1 pair of other languages"),
    (partial(thinks, "undecided", "not decidable"), "undecided", "Whether M thinks in English cannot be decided"),
    (partial(thinks, "undecided", "undecided", "not decidable", "not decidable"), "undecided", "2 have too few"),
    # concept and language
    (apart, "", "Concept and language are separable: the concept alone, put in, recovers 0.80 (0.70 to 0.90)"),
    (partial(apart, separable=False, first=0.0), "", "not separable"),
    (partial(apart, shared=False, first=0.6), "", "whether the language moves before the concept is open (60% of"),
    (partial(apart, separable=None, why="few"), "", "separate cannot be decided: few"),
    (partial(apart, decidable=False, why="3 pairs"), "", "separate cannot be decided: 3 pairs"),
]  # fmt: skip
BUILDERS = (findings, regions, circuits, evaluation, sweep, sentence, steering, steered, verdict)


def made(case):
    """The sentences of a case, with their kinds where they have any."""
    found = case()
    found = [found] if isinstance(found, str) or hasattr(found, "text") else list(found)
    return [(getattr(one, "kind", ""), getattr(one, "text", one)) for one in found]


@pytest.mark.parametrize(("case", "kind", "words"), CASES)
def test_planted_truth_has_its_words_and_its_kind(case, kind, words):
    from babelscope.findings.latent import kind_of

    found = made(case)
    assert any(words in text for _, text in found), found
    own, text = next((own, text) for own, text in found if words in text)
    if kind:
        assert (own or kind_of(text)) == kind
    assert text.endswith(".")
    assert "nan" not in text


def test_every_sentence_has_a_case():
    texts = "\n".join(text for case, *_ in CASES for _, text in made(case))
    missing = [piece for module in (*BUILDERS, confusion, separation) for piece in pieces(module) if piece not in texts]
    assert not missing


def pieces(module: ModuleType) -> Iterator[str]:
    """Every run of three words or more that a function of a module puts into text; not what it refuses or documents."""
    functions = [one for one in ast.walk(syntax_tree(inspect.getsource(module))) if isinstance(one, ast.FunctionDef)]
    only = {confusion: ("sentences", "_sentence"), separation: ("sentence", "_order_said")}.get(module)
    for function in functions:
        if (only and function.name not in only) or function.name in NOT_ON_PAGES:
            continue
        told = {id(node.value) for node in function.body if isinstance(node, ast.Expr)}
        for node in ast.walk(function):
            text = node.value if isinstance(node, ast.Constant) and id(node) not in told else None
            if isinstance(text, str) and len(text.split()) > 2 and text not in get_args(Outcome):
                yield text


NOT_ON_PAGES = {"decide", "_failing", "_unreadable"}
"""reasons of a verdict, each held by tests/test_latent_lens.py"""


def test_an_empty_region_is_no_lack_of_text():
    """Switching off nothing changes nothing, for certain: what the others do can be said."""
    rows = [
        {"language": code, "deactivated": name, "increase_percent": rise, "delta_nll": rise / 100, "documents": 30,
         "delta_low": NAN if rise == 0 else rise / 200, "why": "nothing changed" if rise == 0 else ""}
        for code, name, rise in (
            ("en", "en", 30.0), ("zh", "en", 2.0), ("en", "zh", 0.0), ("zh", "zh", 0.0), ("en", "random-layer", 1.0),
            ("zh", "random-layer", 0.0),
        )
    ]  # fmt: skip
    run = SimpleNamespace(
        tables=["perplexity"], table=lambda _: pd.DataFrame(rows), languages=["en", "zh"], summary={}, manifest={}
    )
    [found] = regions.region_findings(run)
    assert (found.kind, "English only" in found.text) == ("undecided", True)


def test_a_sentence_on_growth_keeps_to_one_corpus():
    """On neither corpus does anything change; from the first point of one to the last of the other it would."""
    rows = [
        {"model": "m", "key": f"{corpus}{step}", "revision": f"step{step}", "step": float(step), "status": "done",
         "corpus": corpus, "sads": value, "sads_low": value - 0.01, "sads_high": value + 0.01}
        for step in range(2) for corpus, value in (("bible", 0.1), ("news", 0.5))
    ]  # fmt: skip
    run = SimpleNamespace(tables=["points"], table=lambda _: pd.DataFrame(rows), source="run")
    found = sweep.sweep_findings(run)
    assert [one.kind for one in found] == ["undecided", "undecided"]
    assert ["(m, bible)" in found[0].text, "(m, news)" in found[1].text] == [True, True]
