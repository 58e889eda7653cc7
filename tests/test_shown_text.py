"""What verbs print of files that others wrote holds no control characters."""

from __future__ import annotations

import pytest
import torch

from babelscope.cli import main
from babelscope.regions.masks import RegionSet, save_regions

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
