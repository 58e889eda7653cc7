"""The page of promises names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE, FAULTS = ROOT / "docs" / "promises.md", ROOT / "docs" / "faults.md"
NAMED = sorted(
    {
        found
        for page in (PAGE, FAULTS)
        for found in re.findall(
            r"`((?:pocket_factory/)?tests/[\w/]+\.py)(?:::(\w+))?`", page.read_text(encoding="utf-8")
        )
    }
)


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_a_named_test_exists(file, name):
    found = re.findall(r"^def (\w+)\(", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)
    assert not name or name in found


def test_every_promise_has_a_test():
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    promises = [row for row in rows if not row.startswith(("| promise", "| target"))]
    unnamed = [
        row
        for row in promises
        if not re.search(r"`(tests/|pocket_factory/tests/|\.ci/|make )", row) and "inputs" not in row
    ]
    assert len(NAMED) > 40
    assert not [row for row in unnamed if not re.match(r"\| `", row)]


def test_the_paths_of_make_and_ci_exist():
    text = PAGE.read_text(encoding="utf-8")
    targets = (ROOT / "Makefile").read_text(encoding="utf-8")
    for name in set(re.findall(r"`make ([\w-]+)`", text)):
        assert f"\n{name}:" in targets, name
    if not (ROOT / ".ci").is_dir():
        pytest.skip("the scripts of continuous integration are not in the sdist")
    for name in set(re.findall(r"`(\.ci/\w+)`", text)):
        assert (ROOT / name).is_file(), name


def test_every_finding_is_mended_or_answered():
    """All numbers of the two lists are there, and each row names a test or gives a reason."""
    text = FAULTS.read_text(encoding="utf-8")
    rows = [row.split(" | ") for row in text.splitlines() if row.startswith("| ") and not row.startswith("| finding")]
    said = " ".join(row[0] for row in rows)
    for number in ("A1a", "A1b", "A1c", "A2", "A3a", "A3b", "A3c", *(f"A{n}" for n in range(4, 10))):
        assert re.search(rf"\b{number}\b", said), number
    for number in (*(f"B{n}" for n in range(1, 11)), *(f"C{n}" for n in range(1, 12))):
        assert re.search(rf"\b{number}\b", said), number
    listed = set()
    for first, last in re.findall(r"\b(\d+)(?:–(\d+))?\b", said):
        listed |= set(range(int(first), int(last or first) + 1))
    assert set(range(1, 45)) - {35, 36} <= listed
    for row in rows:
        answered = ("`tests/" in row[1], "answered: " in row[1], "right as found" in row[1], row[1].startswith("B5"))
        assert any(answered), row


def test_every_named_test_is_run_by_ci_or_by_night():
    """What is skipped by day runs in `make faults` or `make fuzz`; both take whole files by pattern."""
    made = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "tests/test_faults_*.py" in made
    assert "tests.fuzz" in made
    for file, _ in NAMED:
        assert Path(file).name.startswith("test_"), file
        assert file.startswith(("tests/", "pocket_factory/tests/")), file
