"""The Dockerfile, the conda recipe and the notebooks agree with the package."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest
import yaml

from babelscope import __version__

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.py"))
OTHER_NAMES = {"torch": "pytorch", "matplotlib": "matplotlib-base", "brotli": "brotli-python"}
"""PyPI's name → conda-forge's, where they differ"""


def _cells(source: str) -> list[str]:
    """Cells of a file in the percent format, Markdown without its comment signs."""
    found: list[str] = []
    for kind, body in re.findall(r"^# %%( \[markdown\])?\n(.*?)(?=^# %%|\Z)", source, re.M | re.S):
        text = re.sub(r"^# ?", "", body, flags=re.M) if kind else body
        found.append(text.strip())
    return found


def test_the_conda_recipe_asks_for_what_the_package_asks_for() -> None:
    recipe = yaml.safe_load((ROOT / "conda" / "recipe.yaml").read_text(encoding="utf-8"))
    assert recipe["context"]["version"] == __version__
    asked = {(name, bounds) for name, _, bounds in (line.partition(" ") for line in recipe["requirements"]["run"])}
    needed = {("python", PROJECT["requires-python"])}
    for line in PROJECT["dependencies"]:
        name, bounds = re.fullmatch(r"([\w-]+)(.*)", line).groups()
        needed.add((OTHER_NAMES.get(name, name), bounds))
    assert asked == needed


def test_the_dockerfile_copies_what_there_is_and_installs_extras_that_exist() -> None:
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    for line in lines:
        if line.startswith("COPY "):
            for source in line.split()[1:-1]:
                assert (ROOT / source).exists(), line
    extras = next(re.search(r"/src\[(.*?)\]", line) for line in lines if "/src[" in line)
    assert set(extras[1].split(",")) <= set(PROJECT["optional-dependencies"])
    assert lines.index("USER scope") < lines.index('ENTRYPOINT ["babelscope"]')


def test_there_are_six_notebooks() -> None:
    assert len(NOTEBOOKS) == 6


@pytest.mark.parametrize("source", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_the_execution_of_the_file_beside_it(source: Path) -> None:
    book = json.loads(source.with_suffix(".ipynb").read_text(encoding="utf-8"))
    assert ["".join(cell["source"]).strip() for cell in book["cells"]] == _cells(source.read_text(encoding="utf-8"))
    ran = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    assert all(cell["execution_count"] for cell in ran), "not executed: python docs/make_notebooks.py"
    outputs = [output for cell in ran for output in cell["outputs"]]
    assert outputs
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert str(ROOT) not in json.dumps(book)
