"""Every command and every Python block of the tutorials and how-tos runs, and prints what the page says it prints."""

from pathlib import Path

import pytest

from tests.pages import Block, blocks, run_page, shell, unmet

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGES = [*sorted(DOCS.glob("tutorials/*.md")), DOCS / "quickstart.md", DOCS / "howto.md"]


@pytest.fixture(scope="module")
def command_line():
    with shell() as started:
        yield started


@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_does_what_it_says(page, tmp_path, command_line):
    assert run_page(page.read_text(encoding="utf-8"), tmp_path, command_line) == []


@pytest.mark.nightly
@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", [page for page in PAGES if "<!-- needs: " in page.read_text(encoding="utf-8")])
def test_what_needs_another_library_too(page, tmp_path, command_line):
    assert run_page(page.read_text(encoding="utf-8"), tmp_path, command_line, by_night=True) == []


def test_every_page_has_blocks_that_are_run():
    for page in PAGES:
        assert list(blocks(page.read_text(encoding="utf-8"))), page


PAGE = """
```bash
echo one 2.00
```

<!-- output -->
```text
one 2.05
```

<!-- not run: needs the hub -->
```bash
exit 3
```

<!-- needs: json -->
```python
a = 1
```
"""


def test_blocks_marks_and_promises():
    first, second = blocks(PAGE)
    assert first == Block("bash", "echo one 2.00\n", 2, "", "one 2.05\n")
    assert (second.kind, second.needs, second.output) == ("python", "json", "")
    with pytest.raises(ValueError, match="is not a mark"):
        list(blocks("<!-- not run: -->\n```bash\nx\n```\n"))


@pytest.mark.parametrize(
    ("promised", "missing"),
    [
        ("one 2.09", ""),
        ("one 2.2", "one 2.2"),
        ("… 2", ""),
        ("two\none 2", "one 2"),
        ("two", ""),
        ("one", "one"),
        ("one …", ""),
        ("two …", ""),
    ],
)
def test_promised_lines(promised, missing):
    assert unmet(promised, "one 2.00\n  two\n") == missing


def test_a_page_that_fails_says_where(tmp_path, command_line):
    (problem,) = run_page("# x\n\n```bash\nbabelscope check no-such\n```\n", tmp_path, command_line)
    assert problem.startswith("line 3: exit code 2")
    assert "error: " in problem
    (problem,) = run_page(PAGE.replace("2.05", "4"), tmp_path, command_line)
    assert "not in the output: 'one 4'" in problem
