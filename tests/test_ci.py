"""The scripts of continuous integration judge rightly: what they let through and what they stop."""

from __future__ import annotations

import ast
import io
import sys
import tarfile
import zipfile
from importlib import import_module
from importlib.machinery import SourceFileLoader
from importlib.util import find_spec, module_from_spec, spec_from_loader
from pathlib import Path

import pytest

from babelscope.settings import syntax_tree
from tests.equivalents import ONES
from tests.mutants import MUTANTS, ROOT

CI = Path(__file__).resolve().parents[1] / ".ci"


def script(name: str):
    if not CI.is_dir():
        pytest.skip("the scripts of continuous integration are not in the sdist")
    spec = spec_from_loader(f"ci_{name}", SourceFileLoader(f"ci_{name}", str(CI / name)))
    assert spec
    assert spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def package(name: str, *holes: str, **rest: object) -> dict[str, object]:
    return {"name": name, "version": "1.0", "vulns": [{"id": hole, "fix_versions": ["1.1"]} for hole in holes], **rest}


def test_a_known_vulnerability_fails_and_silence_is_no_acquittal():
    verdict = script("audit").verdict
    code, words = verdict({"dependencies": [package("a"), package("b", "CVE-2026-1")]})
    assert code == 1
    assert "b 1.0: CVE-2026-1, mended in 1.1" in words
    assert verdict({"dependencies": [package("a"), package("b")]}) == (
        0,
        "dependency audit: no known vulnerability (2 packages audited)",
    )
    unknown = {"name": "a", "version": "1.0", "skip_reason": "not found on PyPI"}
    assert verdict({"dependencies": [unknown, package("b")]})[0] == 0
    assert "1 unknown" in verdict({"dependencies": [unknown, package("b")]})[1]
    code, words = verdict({"dependencies": [unknown, unknown]})
    assert code is None
    assert "knows none of the 2" in words


def wheel_of(folder: Path, *names: str, size: int = 0) -> Path:
    contents = script("contents")
    path = folder / "b-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name in (
            *contents.NEEDED[".whl"][:2],
            "b.dist-info/licenses/LICENSE",
            "babelscope/pocket/weights/x",
            *names,
        ):
            archive.writestr(name, b"0" * size)
    return path


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("babelscope/shared/x", "holds"), ("babelscope/model.pt", "holds"), ("runs/demo/run.json", "holds"),
        ("babelscope/__pycache__/x.pyc", "holds"), ("../evil", "holds|outside"), ("other/x.py", "holds"),
    ],
)  # fmt: skip
def test_what_does_not_belong_into_an_archive_is_refused(tmp_path, name, says):
    contents = script("contents")
    assert "6 files" in contents.check(wheel_of(tmp_path, "babelscope/a.py", "babelscope/b.py"))
    with pytest.raises(AssertionError, match=says):
        contents.check(wheel_of(tmp_path, name))


def test_archives_that_are_too_large_or_hold_links_are_refused(tmp_path, monkeypatch):
    contents = script("contents")
    monkeypatch.setattr(contents, "LIMIT", 1000)
    with pytest.raises(AssertionError, match="the limit is"):
        contents.check(wheel_of(tmp_path, size=5000))
    path = tmp_path / "b-1.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        link = tarfile.TarInfo("b-1/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link, io.BytesIO())
    with pytest.raises(AssertionError, match="links in"):
        contents.names(path)


def test_a_name_that_is_nowhere_defined_is_found_and_the_axes_of_a_shape_are_not(tmp_path):
    (tmp_path / "one.py").write_text(
        "from __future__ import annotations\n"
        "from jaxtyping import Float\n"
        "from torch import Tensor\n\n\n"
        'def f(x: Float[Tensor, "L n"]) -> Float[Tensor, " L"]:\n'
        "    return x.mean(nowhere)\n"
    )
    ruff = str(Path(sys.executable).parent / "ruff")
    assert script("names").undefined([str(tmp_path)], ruff) == [f"{tmp_path / 'one.py'}:7: Undefined name `nowhere`"]
    root = CI.parent
    folders = [str(root / name) for name in ("src", "tests", "benchmarks", "docs", "pocket_factory")]
    assert script("names").undefined(folders, ruff) == []


def test_what_scripts_take_from_the_package_is_there():
    root = CI.parent
    missing: list[str] = []
    for path in [one for name in ("docs", "benchmarks", "pocket_factory") for one in (root / name).rglob("*.py")]:
        for node in ast.walk(syntax_tree(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "babelscope":
                known = import_module(node.module)
                absent = [one.name for one in node.names if not hasattr(known, one.name)]
                missing += [f"{path.name}: {node.module}.{one}" for one in absent if not _module(node.module, one)]
    assert missing == []


def _module(package: str, name: str) -> bool:
    return find_spec(f"{package}.{name}") is not None if hasattr(import_module(package), "__path__") else False


def test_the_table_of_families_says_what_a_newer_library_changes(tmp_path):
    docs = CI.parent / "docs" / "make_families.py"
    if not docs.is_file():
        pytest.skip("the scripts of the documentation are not in the sdist")
    spec = spec_from_loader("make_families", SourceFileLoader("make_families", str(docs)))
    assert spec
    assert spec.loader
    families = module_from_spec(spec)
    sys.modules["make_families"] = families
    spec.loader.exec_module(families)
    row = families.Row
    old = [
        row("causal", "a", "circuits"), row("causal", "b", "regions", "no | attention"),
        row("causal", "c", "refused", "x"), row("causal", "d", "circuits"), row("encoder", "e", "regions"),
    ]  # fmt: skip
    page = f"before\n{families.BEGIN}\n{families.counts(old)}\n\n{families.table(old)}\n{families.END}\nafter"
    before = families.rows_of_page(page)
    assert before == {
        ("causal", "a"): ("regions, circuits", ""), ("causal", "b"): ("regions", "no | attention"),
        ("causal", "c"): ("–", "x"), ("causal", "d"): ("regions, circuits", ""), ("encoder", "e"): ("regions", ""),
    }  # fmt: skip
    assert families.changes(before, old) == ([], False)
    new = [row("causal", "a", "regions", "why"), row("causal", "b", "circuits"), row("causal", "c", "refused", "y"),
           row("causal", "f", "circuits")]  # fmt: skip
    lines, worse = families.changes(before, new)
    assert worse
    assert lines == [
        "worse: causal a: regions, circuits → regions why", "better: causal b: regions → regions, circuits",
        "new: causal f: not there → regions, circuits", "gone: causal d",
    ]  # fmt: skip
    assert families.changes(before, new[1:]) == (["better: causal b: regions → regions, circuits",
        "new: causal f: not there → regions, circuits", "gone: causal a", "gone: causal d"], False)  # fmt: skip
    real = families.rows_of_page((docs.parent / "families.md").read_text(encoding="utf-8"))
    assert real["causal", "llama"] == ("regions, circuits", "")
    assert len(real) > 180


def test_the_core_tests_of_other_versions_exist():
    text = (CI / "versions").read_text(encoding="utf-8")
    names = text.partition("core=(")[2].partition(")")[0].split()
    assert len(names) > 10
    assert [name for name in names if not (CI.parent / "tests" / f"test_{name}.py").is_file()] == []


def test_every_named_mutant_changes_one_line_that_is_there():
    for mutant in MUTANTS:
        source = (ROOT / "src" / "babelscope" / mutant.file).read_text(encoding="utf-8")
        assert source.count(mutant.right) == 1, f"{mutant.name} ({mutant.says}): {mutant.right}"
        assert [name for name in mutant.tests.split() if not (ROOT / "tests" / f"test_{name}.py").is_file()] == []


def test_every_equivalent_mutant_changes_a_line_that_is_there():
    for name, right, _, why in ONES:
        lines = (ROOT / "src" / "babelscope" / name).read_text(encoding="utf-8").splitlines()
        assert right in " ".join(line.strip() for line in lines), f"{name}: {right} ({why})"
