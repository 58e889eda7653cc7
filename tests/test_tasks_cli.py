"""`babelscope tasks`: list, census and sample; a user's fault is one line and exit code 2."""

import subprocess
import sys

import pandas as pd
import pytest

from tests.command import command


@pytest.fixture(scope="module")
def gpt2(shared_data):
    return str(shared_data / "tokenizers" / "gpt2")


def run(*arguments):
    return command("tasks", *arguments)


def test_list_names_tasks_languages_and_corruptions():
    shown = run("list").output
    for word in ("ioi: ", "past-tense: ", "ar, en, es, fr, hi, id, pt, vi, zh", "corruption tense-flip: "):
        assert word in shown


def test_census_counts_by_language_and_writes_the_whole_table(gpt2, tmp_path):
    csv = tmp_path / "census.csv"
    result = run("census", "ioi", gpt2, "--languages", "en, zh", "-n", "32", "--csv", str(csv))
    assert result.exit_code == 0
    assert "target_tokens: the target is not one token" in result.output
    frame = pd.read_csv(csv)
    assert frame.groupby("language")["offered"].sum().to_dict() == {"en": 32, "zh": 32}


def test_sample_prints_pairs_with_their_roles(gpt2):
    shown = run("sample", "ioi", gpt2, "--languages", "en", "-n", "2").output
    assert shown.count("corrupted") == 2
    assert "S1+1=" in shown
    assert "2 pairs, strict split, exact scenes" in shown


def test_a_language_that_dies_is_an_error(gpt2):
    result = run("sample", "ioi", gpt2, "--languages", "zh", "--split", "strict")
    assert result.exit_code == 2
    assert "0 of" in result.stderr


def test_importing_the_tasks_imports_no_torch():
    code = "import sys, babelscope.tasks; print([m for m in ('torch', 'transformers', 'pandas') if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )
