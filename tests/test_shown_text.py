"""What verbs print of files that others wrote holds no control characters."""

from __future__ import annotations

import json

import pytest
import torch

from babelscope.cli import main
from babelscope.regions.masks import RegionSet, save_regions
from babelscope.wording import visible_json

from .command import command

BAD = "\x1b]0;x\x07\u202e\x9b"


def test_attack_7_region_files_are_shown_clean(capsys, tmp_path):
    mask = torch.tensor([[True, False]])
    save_regions(RegionSet({f"en{BAD}": mask}, f"m{BAD}", {f"k{BAD}": f"v{BAD}"}), tmp_path / "r.safetensors")
    for verb in (["show"], ["compare", str(tmp_path / "r.safetensors")]):
        with pytest.raises(SystemExit) as end:
            main(["regions", verb[0], str(tmp_path / "r.safetensors"), *verb[1:]])
        assert end.value.code == 0
        said = capsys.readouterr()
        assert not [letter for letter in said.out + said.err if letter in "\x1b\x07\u202e\x9b"], verb
        assert "[U+001B]" in said.out


def test_attack_7_keys_of_a_plan_are_shown_clean(capsys, tmp_path):
    (tmp_path / "plan.yaml").write_text('"\\e]0;x\\a": 1\nmodels: [a]\n')
    with pytest.raises(SystemExit) as end:
        main(["sweep", str(tmp_path / "plan.yaml"), "--out", str(tmp_path / "out")])
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert "\x1b" not in said
    assert "[U+001B]" in said


ACTING = "\x1b]0;x\x07\u202e\x1b[31m"


def texts_in(value):
    """All texts of a JSON value in one."""
    if isinstance(value, dict):
        return "".join(map(texts_in, [*value, *value.values()]))
    return "".join(map(texts_in, value)) if isinstance(value, list) else str(value)


def clean(text):
    return not any(letter in text for letter in "\x1b\x07\u202e")


def test_attack_7_texts_of_answers_prompts_and_runs_are_printed_clean(tmp_path):
    """One guard for whatever a verb prints: names of models, answers, sentences, in JSON too."""
    rows = [f"m{ACTING},Il fait beau.{ACTING},monolingual,s{ACTING},fr", f"m{ACTING},I go to town.{ACTING},x,s,fr"]
    (tmp_path / "a.csv").write_text("model,completion,task,source,language\n" + "\n".join(rows), encoding="utf-8")
    said = command("confusion", tmp_path / "a.csv", "--out", tmp_path / "run")
    assert (said.exit_code, clean(said.output)) == (0, True), said
    for words in (["--format", "json"], ["--table", "answers", "--format", "json"], []):
        shown = command("show", tmp_path / "run", *words)
        assert clean(shown.output), shown
        if "json" in words:
            assert ACTING in texts_in(json.loads(shown.stdout)), words  # it means the same
    (tmp_path / "p.jsonl").write_text(
        json.dumps({"good": f"the cats {ACTING} sleep", "bad": f"the cats {ACTING} sleeps", "UID": ACTING}) + "\n"
    )
    said = command(
        "tasks", "census", f"minimal-pairs:{tmp_path / 'p.jsonl'}", "pocket:pocket-bloom-s", "--languages", "en"
    )
    assert clean(said.output), said


def test_printing_outside_the_command_line_is_as_it_was(capsys):
    command("show", "nothing")
    print(ACTING)
    assert ACTING in capsys.readouterr().out
    assert json.loads(visible_json(json.dumps({"a": ACTING, "b": "\U000e0001"}, ensure_ascii=False)))["a"] == ACTING
