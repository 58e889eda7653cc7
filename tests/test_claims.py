"""Published claims: rules by hand, calibration on nulls, power, files read strictly, twins that fail."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import yaml

from babelscope import load_model
from babelscope.claims import judge, packaged_claims
from babelscope.claims import replicate as replicate_module
from babelscope.claims.case import Case, permuted_ids, permuted_labels
from babelscope.claims.claim import load_claim, parse_claim
from babelscope.claims.measures import MEASURES
from babelscope.claims.page import claim_page
from babelscope.claims.replicate import (
    Replication,
    finished,
    judged_again,
    power,
    quick_case,
    replicate,
    write_replication,
)
from babelscope.claims.summary import summary_lines, summary_row, summary_table
from babelscope.corpora import ParallelCorpus
from babelscope.errors import InputError, PlanError, RunError
from babelscope.studies.region_settings import RegionsSettings
from babelscope.studies.regions import study_regions
from tests.command import command

from .test_claims_verdicts import HOLDS, NOT, OPEN, _part_of, part

CORPUS = ParallelCorpus.from_texts({code: [f"{code}{i}" for i in range(30)] for code in ("en", "fr", "zh")})


def test_twins_destroy_what_they_say_and_nothing_else():
    labels, ids = permuted_labels(CORPUS, 0), permuted_ids(CORPUS, 0)
    for place in range(30):
        assert {labels.texts[code][place] for code in CORPUS.languages} == {f"{c}{place}" for c in CORPUS.languages}
    assert labels.texts["en"] != CORPUS.texts["en"]
    for code in CORPUS.languages:
        assert sorted(ids.texts[code]) == sorted(CORPUS.texts[code])
    together = sum(ids.texts["en"][place][2:] == ids.texts["fr"][place][2:] for place in range(30))
    assert together < 6


def test_in_the_twin_of_a_sweep_first_and_last_are_exchanged_on_half_of_the_items():
    case = Case(("first", "last"), "", "", seed=3)
    [(weight, items)] = case.halves(10)
    assert weight == 1
    assert items.tolist() == list(range(10))
    (up, kept), (down, exchanged) = replace(case, twin="order").halves(10)
    assert (up, down) == (0.5, -0.5)
    assert sorted([*kept, *exchanged]) == list(range(10))
    assert len(kept) == len(exchanged) == 5


def test_what_grows_on_every_item_cancels_out_in_the_twin_and_a_blind_method_would_hold():
    rng = np.random.default_rng(0)
    growth = rng.normal(1.0, 0.3, 60)
    held = blind = 0
    for seed in range(200):
        halves = Case(("a", "b"), "", "", seed=seed, twin="order").halves(60)
        change = sum(weight * growth[items].mean() for weight, items in halves)
        signed = np.concatenate([np.sign(weight) * growth[items] for weight, items in halves])
        held += judge(_part_of(signed), "greater", 0.1).answer == HOLDS
        blind += judge(_part_of(np.abs(signed)), "greater", 0.1).answer == HOLDS
        assert change == pytest.approx(signed.mean())
    assert held / 200 <= 0.05
    assert blind == 200  # one that does not see which point is first


@pytest.mark.parametrize("name", sorted(packaged_claims()))
def test_packaged_claims_are_whole(name):
    claim = packaged_claims()[name]
    assert claim.id == name
    assert claim.controls_missing
    assert claim.needs or claim.measure in MEASURES


def raw(**changes):
    return yaml.safe_dump(
        {**packaged_claims()["zeng-same-meaning"].raw, **changes}, allow_unicode=True, sort_keys=False
    )


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"claims": "x"}, "unknown key"),
        ({"claim": 3}, "claim is a text, not int"),
        ({"twin": {"kind": "magic", "expected": NOT}}, "'magic' is none of labels"),
        ({"verdict": {"rule": "bigger", "least_effect": 1, "aggregate": "all"}}, "'bigger' is none of greater"),
        ({"verdict": {"rule": "less", "least_effect": 0, "aggregate": "all"}}, "no number above 0"),
        ({"reported": [{"what": "x", "value": 1, "sure": "hearsay"}]}, "'hearsay' is none of text"),
    ],
)
def test_a_wrong_file_names_the_key(changes, says):
    with pytest.raises(PlanError, match=r"mine\.yaml") as error:
        parse_claim(raw(**changes), "mine.yaml")
    assert says in str(error.value)


def test_a_changed_least_effect_changes_the_hash_alone(tmp_path):
    verdict = {"rule": "greater", "least_effect": 0.006, "aggregate": "all"}
    path = tmp_path / "mine.yaml"
    path.write_text(raw(verdict=verdict), encoding="utf-8")
    own, packaged = load_claim(str(path)), packaged_claims()["zeng-same-meaning"]
    assert own.hash != packaged.hash
    assert own.measure == packaged.measure
    with pytest.raises(InputError, match="replicate list"):
        load_claim("nothing")


@pytest.fixture(scope="module")
def found() -> Replication:
    claim = packaged_claims()["zeng-same-meaning"]
    case = replace(quick_case(claim), models=("pocket:pocket-bloom-s",), n=30, bootstrap=200)
    return replicate(claim, case)


def test_translations_are_alike_in_the_pocket_model_and_not_in_the_twin(found):
    assert found.verdict.answer == HOLDS
    assert found.twin.verdict.answer == NOT
    sads = found.original.parts[0]
    assert 0.005 < sads.low < sads.estimate < sads.high
    assert abs(found.twin.parts[0].estimate) < 0.005


def test_what_is_not_known_surely_never_changes_the_verdict(found):
    claim = replace(found.claim, reported=({"what": "x", "value": 9, "sure": "memory"},))
    other = replace(found, claim=claim)
    assert other.facts()["verdict"] == found.facts()["verdict"]
    assert [value["compared"] for value in other.facts()["reported"]] == [False]


def test_a_replication_is_written_with_its_page(found, tmp_path):
    out = write_replication(found, tmp_path / "claim")
    facts = json.loads((out / "verdict.json").read_text())
    assert facts["verdict"]["answer"] == HOLDS
    page = (out / "index.html").read_text()
    assert "Translations" in page or "translation" in page
    assert "<script" not in page
    hostile = claim_page([facts | {"sentence": "<img src=x onerror=alert(1)>"}])
    assert "<img" not in hostile


def test_all_claims_have_one_page_with_a_table_first(found, tmp_path, monkeypatch):
    def told(claim, case, *rest):
        return replace(found, claim=replace(found.claim, id=claim.id, raw=claim.raw), case=case)

    monkeypatch.setattr(replicate_module, "replicate", told)
    done = command("replicate", "all", "--quick", "--out", str(tmp_path / "all"))
    assert done.exit_code in (0, 3, 4), done.output
    page = (tmp_path / "all" / "index.html").read_text(encoding="utf-8")
    runnable = [claim for claim in packaged_claims().values() if not claim.needs]
    assert page.count("<section") == len(runnable)
    assert page.index("<table>") < page.index("<section")
    table = pd.read_csv(tmp_path / "all" / "verdicts.csv")
    assert table["claim"].tolist() == [claim.id for claim in runnable]
    assert table["as expected"].tolist() == [claim.expected == HOLDS for claim in runnable]
    assert done.exit_code == 3
    assert f"{table['as expected'].sum()} of {len(runnable)} as expected" in done.stdout
    again = command("replicate", "all", "--quick", "--out", str(tmp_path / "all"))
    assert "page:" in again.stdout
    assert not any(line.endswith("destroyed)") for line in again.stdout.splitlines())  # nothing is measured again


def test_a_claim_that_waits_says_for_what():
    waiting = next(claim for claim in packaged_claims().values() if claim.needs)
    with pytest.raises(InputError, match="it waits for"):
        quick_case(waiting)


CHEAP = ("bandarkar-u-shape", "chen-moe-families", "wendler-english-pivot", "zhong-two-latent", "klar-last-layers")
"""quick runs of a few seconds; all of them, for three seeds, are on the page that docs/make_claims.py writes"""
BY_NIGHT = ("bandarkar-correlation", "dumas-language-first", "dumas-mean-helps")
"""theirs by another measure, each of which is held by hand below"""


@pytest.mark.parametrize("name", [*CHEAP, *(pytest.param(name, marks=pytest.mark.nightly) for name in BY_NIGHT)])
def test_quick_runs_of_seconds_come_out_as_their_files_say(name):
    claim = packaged_claims()[name]
    found = replicate(claim, replace(quick_case(claim), bootstrap=200))
    assert found.verdict.answer == claim.expected
    assert found.twin.verdict.answer == claim.twin_expected


def test_the_command_line_lists_checks_and_plans_without_weights():
    listed = command("replicate", "list")
    assert listed.exit_code == 0
    assert "33 of 39 can be run" in listed.stdout
    plan = command("replicate", "zeng-regions-selective", "--model", "bigscience/bloom-7b1", "--plan")
    assert plan.exit_code == 0, plan.output
    assert "--model bigscience/bloom-7b1 --corpus 'bible:bibles?exclude=JAM,1PE,COL'" in plan.stdout
    assert "14 GB in bfloat16" in plan.stdout
    assert command("replicate", "chou-one-feature", "--plan").exit_code == 2
    points = command("replicate", "zeng-alignment-grows", "--plan").stdout
    assert "bloom-7b1-intermediate@global_step1000,bigscience/bloom-7b1-intermediate@global_step10000" in points
    assert "--stories 'stories:xstory_cloze?split=eval'" in points


def test_a_check_refuses_least_effects_that_the_twin_cannot_tell(tmp_path):
    checked = command("replicate", "zeng-same-meaning", "--check", "--n", "30")
    assert checked.exit_code == 0, checked.output
    assert "SADS: least effect 0.005, twin " in checked.stdout
    path = tmp_path / "mine.yaml"
    verdict = {"rule": "greater", "least_effect": 0.0001, "aggregate": "all"}
    path.write_text(raw(id="mine", verdict=verdict), encoding="utf-8")
    refused = command("replicate", str(path), "--check", "--n", "30")
    assert refused.exit_code == 2
    assert "least effects below the twin's half width at n = 30: SADS 0.0001, half width" in refused.stderr
    waiting = command("replicate", "chou-one-feature", "--check")  # says for what, and has nothing to measure
    assert waiting.exit_code == 0
    assert "waits for a reader of sparse features" in waiting.stdout


def test_one_part_that_cannot_be_told_refuses_the_file_but_where_the_file_says_so(monkeypatch):
    parts = [part(-0.02, 0.02, name="SADS"), part(-0.2, 0.2, name="accuracy")]
    monkeypatch.setattr(replicate_module, "measured", lambda name, case: parts)
    claim = packaged_claims()["zeng-same-meaning"]
    claim = replace(claim, least_effect={"SADS": 0.05, "*": 0.1}, aggregate="all")
    with pytest.raises(InputError, match=r"half width at n = 60: accuracy 0\.1, half width 0\.2: raise n or the least"):
        power(claim, quick_case(claim))
    assert power(replace(claim, twin_expected=OPEN), quick_case(claim))[-1].startswith("the file says so (twin: cannot")
    assert len(power(replace(claim, least_effect={"*": 0.2}), quick_case(claim))) == 2  # a line a part: nothing is weak


def test_a_table_of_many_claims_marks_what_is_not_as_expected(found):
    rows = [summary_row(found.claim, found.facts(), as_expected) for as_expected in (True, False)]
    head, first, second, last = summary_lines(summary_table(rows))
    assert head.split() == ["claim", "seed", "verdict", "twin", "wall", "processor"]
    assert first.split()[:2] == ["zeng-same-meaning", "0"]
    assert "NOT AS EXPECTED (verdict holds)" in second
    assert "NOT" not in first
    assert last.startswith("1 of 2 as expected; twins: 2 does not hold; wall ")


def test_what_lies_there_is_not_measured_again(found, tmp_path):
    out = write_replication(found, tmp_path / "claim")
    assert finished(found.claim, found.case, out)["claim_hash"] == found.claim.hash
    assert finished(found.claim, replace(found.case, n=31), out) is None
    whole = (out / "verdict.json").read_bytes()
    for place in range(20, len(whole), 97):  # one flipped bit anywhere is never a verdict
        changed = bytearray(whole)
        changed[place] ^= 1
        (out / "verdict.json").write_bytes(bytes(changed))
        with pytest.raises(RunError, match=r"verdict\.json"):
            finished(found.claim, found.case, out)
    assert finished(found.claim, found.case, tmp_path / "nothing") is None


def test_a_changed_least_effect_is_judged_on_what_was_measured(found, tmp_path, monkeypatch):
    out = write_replication(found, tmp_path / "claim")
    monkeypatch.setattr(replicate_module, "measured", lambda name, case: pytest.fail("measured again"))
    stricter = replace(found.claim, least_effect={"*": 0.2}, raw=found.claim.raw | {"note": "stricter"})
    assert finished(stricter, found.case, out) is None
    again = judged_again(stricter, found.case, out)
    assert again.verdict.answer == NOT
    assert again.original.parts == found.original.parts
    assert again.twin.wall_s == pytest.approx(found.twin.wall_s, abs=0.05)
    write_replication(again, out)  # in the place of the older verdict
    assert finished(stricter, found.case, out)["verdict"]["answer"] == NOT
    assert judged_again(stricter, replace(found.case, seed=1), out) is None
    assert judged_again(replace(stricter, twin="labels"), found.case, out) is None
    other = tmp_path / "other"
    other.mkdir()
    (other / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="not an empty directory"):
        write_replication(again, other)


def test_a_claim_is_tried_on_what_a_finished_run_was_about(tmp_path):
    settings = RegionsSettings("pocket:heldout", samples=16, bootstrap=20, languages=("en", "fr", "zh"))
    study_regions(load_model("pocket:pocket-bloom-s"), settings, tmp_path / "run")
    out = tmp_path / "claim"
    done = command(
        "replicate", "zeng-same-language", "--run", str(tmp_path / "run"), "--draws", "20", "--out", str(out)
    )
    assert done.exit_code in (0, 4), done.output  # 4: so few sentences do not tell the twin
    facts = json.loads((out / "verdict.json").read_text())
    assert facts["distance"] == "other model"
    assert facts["case"]["n"] == 16
    assert facts["case"]["languages"] == ["en", "fr", "zh"]
    with pytest.raises(InputError, match="other weights than the run"):
        Case(("pocket:pocket-bloom-s",), "", "", weight_hash="0").loaded()
    assert command("replicate", "zeng-same-language", "--quick", "--run", str(out)).exit_code == 2
