"""The demo says something before it has done everything."""

from __future__ import annotations

from babelscope.cli import demo_study
from babelscope.models import load_model


def test_the_first_look_gives_findings_and_keeps_nothing(monkeypatch, tmp_path):
    monkeypatch.setattr(demo_study, "FIRST", 8)
    monkeypatch.setattr(demo_study, "LANGUAGES", ("en", "zh", "fr"))
    monkeypatch.chdir(tmp_path)
    said = demo_study.first_findings(load_model("pocket:pocket-bloom-s"))
    assert any("SADS" in line for line in said)
    assert not any("not measured" in line for line in said)
    assert list(tmp_path.iterdir()) == []
