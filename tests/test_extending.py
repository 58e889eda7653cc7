"""Every example of docs/extending.md is installed as a package and used; what goes wrong in one is one line."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from babelscope import outside
from babelscope.errors import InputError
from tests.command import command

PAGE = Path(__file__).resolve().parents[1] / "docs" / "extending.md"
EXAMPLES = dict(re.findall(r"^```python\n# (\w+\.py)\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S))
ANNOUNCED = re.search(r"^```toml\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)
assert ANNOUNCED is not None
ENTRIES = re.findall(r'"(babelscope\.\w+)"\]\n([\w-]+) = "(\w+:\w+)"', ANNOUNCED[1])


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Puts a package with its entry points into a folder that is looked in, as an installer leaves it there."""
    places = tmp_path / "packages"
    places.mkdir()
    monkeypatch.syspath_prepend(str(places))
    outside._announced.cache_clear()
    before = set(sys.modules)

    def one(entries: list[tuple[str, str, str]], files: dict[str, str], name: str = "my-additions") -> None:
        info = places / f"{name.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(
            "".join(f"[{group}]\n{key} = {value}\n" for group, key, value in entries)
        )
        for file, text in files.items():
            (places / file).write_text(text, encoding="utf-8")
        importlib.invalidate_caches()
        outside._announced.cache_clear()

    yield one
    outside._announced.cache_clear()
    for module in set(sys.modules) - before:
        if str(places) in str(getattr(sys.modules[module], "__file__", "")):
            del sys.modules[module]


@pytest.fixture
def examples(install):
    """All examples of the page, as one package."""
    install(ENTRIES, EXAMPLES)


def test_there_is_an_example_of_every_kind():
    assert {group.partition(".")[2] for group, _, _ in ENTRIES} == set(outside.KINDS)
    assert {value.partition(":")[0] + ".py" for _, _, value in ENTRIES} == set(EXAMPLES)


def test_an_installer_leaves_it_where_it_is_found(tmp_path):
    """The page's own pyproject.toml, built and installed by pip."""
    pytest.importorskip("hatchling")
    source = tmp_path / "source"
    source.mkdir()
    for file, text in EXAMPLES.items():
        (source / file).write_text(text, encoding="utf-8")
    assert ANNOUNCED is not None
    build = '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
    wheel = "[tool.hatch.build.targets.wheel]\ninclude = ['*.py']\n"
    (source / "pyproject.toml").write_text(build + ANNOUNCED[1] + wheel, encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", str(tmp_path / "there"), str(source)], check=True, timeout=120)
    code = "from babelscope.tasks import TASKS; print(TASKS['induction'].summary)"
    path = {"PYTHONPATH": f"{tmp_path / 'there'}:{Path(outside.__file__).parents[1]}"}
    done = subprocess.run([sys.executable, "-c", code], env=path, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "the word that followed before", done.stderr


def test_a_family(examples, tmp_path):
    from transformers import AutoConfig, AutoModelForCausalLM

    from tests.tiny_models import WORDS, tiny_tokenizer

    shape = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, vocab_size=WORDS)
    config = AutoConfig.for_model("arcee", **shape, num_key_value_heads=2, pad_token_id=0)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    done = command("check", tmp_path / "model")
    assert done.exit_code == 0, done.output
    assert "my-arcee" in done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twelve sentences in two languages."""
    place = tmp_path_factory.mktemp("corpus")
    for code, words in {"en": ("the dog", "a cat", "she"), "fr": ("le chien", "un chat", "elle")}.items():
        lines = [f"{words[i % 3]} {'a' * (i + 1)} {i}" for i in range(12)]
        (place / f"{code}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return place


def test_a_method_and_a_metric(examples, folder, tmp_path):
    from babelscope.results import open_run

    words = ["--samples", 12, "--bootstrap", 2, "--methods", "margin,random", "--alignment"]
    out = tmp_path / "run"
    done = command("regions", "pocket:pocket-bloom-s", "--corpus", f"lines:{folder}", *words, "--out", out)
    assert done.exit_code == 0, done.output
    run = open_run(out)
    assert set(run.table("methods").query("method == 'margin'").language) == {"en", "fr"}
    found = run.table("alignment").query("metric == 'rank-one'")
    assert found.value.between(0, 1).all()
    assert run.manifest["versions"]["my-additions"] == "1.0"


def test_a_methods_and_a_metrics_numbers(examples):
    """By hand: neuron 0 is 3 above the next language in en; its neighbours are nearest in one of two sentences."""
    from babelscope.regions.alignment import METRICS
    from babelscope.regions.methods import localise
    from tests.region_data import recording

    v = torch.zeros(3, 2, 4)
    v[0, :, 0], v[1, :, 0], v[2, :, 1] = 5.0, 2.0, 1.0
    found = localise(recording(v), "margin", share=0.25)
    assert found.masks["l0" if "l0" in found.masks else next(iter(found.masks))].tolist() == [
        [True, False, False, False]
    ]
    assert next(iter(found.scores.values()))[0, 0] == 3
    similarity = torch.zeros(2, 2, 2, 2)
    similarity[0, 0, 1, 0] = similarity[0, 1, 1, 0] = 1.0  # both sentences of the first are nearest to sentence 0
    assert METRICS["rank-one"].reduce(similarity.double())[0, 1] == 0.5


def test_a_figure(examples, tmp_path):
    from babelscope.figures import figure_names, specify
    from babelscope.report import build_page
    from tests.synthetic_runs import LANGUAGES, write_regions

    run = write_regions(tmp_path / "run")
    done = command("figure", run.path, "mean-depth", "--out", tmp_path / "depth.svg")
    assert done.exit_code == 0, done.output
    assert "Mean depth" in (tmp_path / "depth.svg").read_text(encoding="utf-8")
    assert "mean-depth" in figure_names(run)
    (bars,) = specify(run, "mean-depth").panels[0].marks
    assert bars.heights == [0.5] * len(LANGUAGES)
    page = build_page([run], static=False)
    assert "More figures</h3>" in page
    assert 'id="r0-mean-depth"' in page


def test_a_task(examples, tmp_path):
    from babelscope.results import open_run

    listed = command("tasks", "list")
    assert "induction: the word that followed before\n  languages: en, zh, fr\n" in listed.stdout
    words = ["--n", 4, "--draws", 1, "--no-edges", "--languages", "en"]
    done = command("circuits", "pocket:pocket-bloom-s", "--task", "induction", *words, "--out", tmp_path / "run")
    assert done.exit_code == 0, done.output
    assert open_run(tmp_path / "run").manifest["corpus"]["spec"] == "induction"


def test_a_reader(examples, tmp_path):
    from babelscope.corpora import load_corpus

    unit = '<tu><tuv xml:lang="en"><seg>a cat</seg></tuv><tuv xml:lang="fr"><seg>un chat</seg></tuv></tu>'
    (tmp_path / "memory.tmx").write_text(f"<tmx><body>{unit}{unit}</body></tmx>", encoding="utf-8")
    corpus = load_corpus(f"tmx:{tmp_path / 'memory.tmx'}")
    assert (corpus.ids, corpus.texts["fr"]) == (("1", "2"), ("un chat", "un chat"))
    done = command("corpus", "audit", f"tmx:{tmp_path / 'memory.tmx'}")
    assert done.exit_code == 0, done.output
    assert "tmx:memory.tmx" in command("corpus", "list").stdout
    unknown = command("corpus", "audit", f"tmx:{tmp_path / 'memory.tmx'}?odd=1")
    assert (unknown.exit_code, "tmx takes" in unknown.stderr) == (2, True)


# -- what goes wrong ---------------------------------------------------------------------------------------------------

BROKEN = {
    "import": ("import nothing_of_the_kind\n", "broken:ROW", "cannot be loaded: ModuleNotFoundError"),
    "absent": ("", "broken:ROW", "cannot be loaded: AttributeError"),
    "exit": ("raise SystemExit(3)\n", "broken:ROW", "cannot be loaded: SystemExit"),
    "kind": ("ROW = 3\n", "broken:ROW", "cannot be used: TypeError: a int is none"),
    "lines": ("raise ValueError('a\\nb')\n", "broken:ROW", "cannot be loaded: ValueError: a"),
}


@pytest.mark.parametrize("which", BROKEN)
@pytest.mark.parametrize("kind", ["methods", "metrics", "tasks", "readers"])
def test_a_row_that_cannot_be_had_is_one_line(install, folder, kind, which, tmp_path):
    text, value, says = BROKEN[which]
    install([(f"babelscope.{kind}", "mine", value)], {"broken.py": text}, name="half-done")
    regions = ["regions", "pocket:pocket-bloom-s", "--corpus", f"lines:{folder}", "--out", tmp_path / "run"]
    words = {
        "methods": [*regions, "--methods", "mine"],
        "metrics": [*regions, "--alignment"],
        "tasks": ["tasks", "sample", "mine", "pocket:pocket-bloom-s"],
        "readers": ["corpus", "audit", "mine:there"],
    }[kind]
    done = command(*words)
    assert done.exit_code == 2
    assert done.stderr.strip().count("\n") == 0
    assert f"{outside.KINDS[kind]} 'mine' of the package half-done 1.0 {says}" in done.stderr


def test_a_row_that_fails_at_work_is_one_line(install, folder, tmp_path):
    files = {
        "bad.py": """
import torch
from babelscope.corpora import Reader
from babelscope.regions.alignment import Metric, cosine
from babelscope.regions.methods import Found
from babelscope.tasks import Task

def zero(recording, choices, given):
    return 1 / 0

def flat(recording, choices, given):
    return Found(torch.zeros(1, 1), torch.zeros(1, 1, dtype=torch.bool))

METRIC = Metric(cosine, lambda similarity: similarity[0])
TASK = Task("t", "", {"a": ""}, lambda *_: 3, spoken=("en",))
READER = Reader("r", lambda *_: {}, "", "")

def family(config):
    return config.absent
"""
    }
    entries = [
        ("babelscope.methods", "zero", "bad:zero"), ("babelscope.methods", "flat", "bad:flat"),
        ("babelscope.metrics", "m", "bad:METRIC"), ("babelscope.tasks", "t", "bad:TASK"),
        ("babelscope.readers", "r", "bad:READER"), ("babelscope.families", "f", "bad:family"),
    ]  # fmt: skip
    install(entries, files, name="half-done")
    from babelscope.corpora import load_corpus
    from babelscope.models.registry import outside_row
    from babelscope.regions.alignment import alignment
    from babelscope.regions.methods import localise
    from babelscope.tasks import build
    from tests.region_data import noise
    from tests.tiny_models import tiny_tokenizer

    for work, says in (
        (lambda: localise(noise(), "zero"), "method 'zero' of the package half-done 1.0 failed: ZeroDivisionError"),
        (lambda: localise(noise(), "flat"), r"'flat' of the package half-done .* must be \[language, neuron\]"),
        (lambda: alignment(noise(), ["m"]), r"'m' of the package half-done .* must be \[language, language\]"),
        (lambda: build("t", tiny_tokenizer(), "en", n=1), "'t' of the package half-done 1.0 failed: TypeError"),
        (lambda: outside_row("f", None), "family 'f' of the package half-done 1.0 failed: AttributeError"),
        (lambda: load_corpus("r:there"), "'r' of the package half-done 1.0 failed: TypeError: it gives dict"),
    ):
        with pytest.raises(InputError, match=says):
            work()


@pytest.mark.parametrize(
    ("kind", "name"), [("methods", "lape"), ("metrics", "mexa"), ("tasks", "ioi"), ("readers", "lines")]
)
def test_a_built_in_name_is_not_taken(install, kind, name):
    from babelscope.corpora import READERS
    from babelscope.regions.alignment import METRICS
    from babelscope.regions.methods import METHODS
    from babelscope.tasks import TASKS

    install([(f"babelscope.{kind}", name, "thief:ROW")], {"thief.py": "ROW = print\n"}, name="thief")
    rows = {"methods": METHODS, "metrics": METRICS, "tasks": TASKS, "readers": READERS}[kind]
    with pytest.raises(InputError, match=f"the package thief 1.0 announces the .* '{name}', which is built in"):
        _ = rows[name]
    assert [*rows].count(name) == 1
    assert "thief" not in sys.modules


def test_a_built_in_family_is_not_taken(install):
    from babelscope.models.registry import outside_row

    install([("babelscope.families", "llama", "thief:ROW")], {"thief.py": ""}, name="thief")
    with pytest.raises(InputError, match=r"the package thief 1.0 announces the family 'llama', which is built in"):
        outside_row("llama", None)


def test_two_packages_of_one_name_are_refused(install):
    from babelscope.regions.methods import METHODS

    for name in ("first", "second"):
        install([("babelscope.methods", "mine", "other:ROW")], {}, name=name)
    with pytest.raises(InputError, match=r"announced by (first|second) 1.0 and by (first|second) 1.0; uninstall"):
        _ = METHODS["mine"]


def test_a_name_that_leads_out_of_a_run_is_refused(install):
    from babelscope.regions.methods import METHODS

    install([("babelscope.methods", "../mine", "fine:row")], {"fine.py": "def row(*_): ...\n"}, name="outward")
    with pytest.raises(InputError, match="its name may have letters"):
        _ = METHODS["../mine"]
