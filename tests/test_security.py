"""What SECURITY.md promises, where no other file tests it: nothing that is read can run, lead outside, or reach out."""

from __future__ import annotations

import ast
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import babelscope
from babelscope.cli import main
from babelscope.errors import BabelscopeError, CorpusError, InputError, ModelError, RunError
from babelscope.results import RunWriter, get_run, open_run, put_run
from babelscope.settings import syntax_tree

from .synthetic_runs import write_regions
from .tiny_models import tiny_model, tiny_tokenizer

SOURCES = sorted(Path(babelscope.__file__).parent.rglob("*.py"))
FORBIDDEN = {
    "eval", "exec", "compile", "__import__", "pickle.load", "pickle.loads", "marshal.loads", "shelve.open",
    "os.system", "os.popen", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "joblib.load", "np.loads",
    "shutil.unpack_archive", "tarfile.open", "zipfile.ZipFile", "tempfile.mktemp", "dill.load", "cloudpickle.load",
    "xml.etree.ElementTree.fromstring", "ET.fromstring", "ET.parse", "minidom.parse", "webbrowser.open",
}  # fmt: skip
MARK = "babelscope-was-run"


def calls(path: Path):
    """Every call in a module: dotted name, keyword arguments, line."""
    for node in ast.walk(syntax_tree(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            keywords = {word.arg: word.value for word in node.keywords}
            yield ast.unparse(node.func), keywords, node.lineno


def is_constant(value: ast.expr | None, wanted: object) -> bool:
    return isinstance(value, ast.Constant) and value.value is wanted


def test_nothing_in_the_source_runs_what_it_reads():
    found = []
    for path in SOURCES:
        for name, keywords, line in calls(path):
            bad = name in FORBIDDEN
            bad |= name == "torch.load" and not is_constant(keywords.get("weights_only"), True)
            bad |= name == "np.load" and not is_constant(keywords.get("allow_pickle"), False)
            bad |= "shell" in keywords and not is_constant(keywords["shell"], False)
            bad |= is_constant(keywords.get("trust_remote_code"), True)
            if bad:
                found.append(f"{path.name}:{line} {name}")
    assert len(SOURCES) > 100
    assert not found


def test_only_the_safe_parsers_are_imported():
    unsafe = {
        "pickle",
        "marshal",
        "shelve",
        "dill",
        "xml.sax",
        "lxml",
        "xml.dom",
        "xml.dom.minidom",
        "zipfile",
        "tarfile",
    }
    found = []
    for path in SOURCES:
        for node in ast.walk(syntax_tree(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found += [f"{path.name}: {name}" for name in names if name in unsafe]
    assert not found, "no archive is unpacked, and nothing is unpickled"


class Trap:
    """What runs a command when it is unpickled."""

    def __reduce__(self):
        return (os.system, (f"echo {MARK} > {MARK}",))


def refused(capsys, *arguments: object) -> str:
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    said = capsys.readouterr().err.strip()
    assert end.value.code == 2, said
    assert "Traceback" not in said
    return said.splitlines()[-1]


def test_a_pickle_that_runs_a_command_does_not(capsys, tmp_path, monkeypatch):
    """Wherever the user names a file: a region file, a torch file, a model, a run, a corpus."""
    monkeypatch.chdir(tmp_path)
    trap = pickle.dumps([Trap()])
    for name in ("r.safetensors", "mask.pt", "r.json", "table.tsv", "table.jsonl", "table.parquet", "plan.yaml"):
        (tmp_path / name).write_bytes(trap)
    torch.save([Trap()], tmp_path / "mask2.pt")
    lape = ["--languages", "en", "--layers", 1, "--neurons", 2, "--out", "out.safetensors"]
    for file in ("mask.pt", "mask2.pt"):
        assert "safely" in refused(capsys, "regions", "import", file, *lape)
    for file in ("r.safetensors", "r.json"):
        refused(capsys, "regions", "show", file)
    for file in ("table.tsv", "table.jsonl", "table.parquet"):
        with pytest.raises(SystemExit):
            main(["corpus", "audit", f"table:{file}"])
    refused(capsys, "sweep", "plan.yaml", "--out", "sweep")
    assert not (tmp_path / MARK).exists()


def test_a_model_whose_weights_are_a_pickle_with_code_is_refused(tmp_path, monkeypatch):
    from babelscope.models import load_model

    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "model"
    tiny_model("llama").save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    (folder / "model.safetensors").unlink()
    torch.save({"model.embed_tokens.weight": Trap()}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_model(str(folder))
    assert not (tmp_path / MARK).exists()


@pytest.mark.parametrize("part", ["model", "tokenizer"])
def test_code_in_a_models_folder_is_not_run_unless_asked_for(capsys, tmp_path, monkeypatch, part):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = tmp_path / "model"
    tiny_model("llama").save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    (folder / "foreign.py").write_text(f"open({str(tmp_path / MARK)!r}, 'w').close()\n")
    name = "config.json" if part == "model" else "tokenizer_config.json"
    config = json.loads((folder / name).read_text())
    if part == "model":
        config["model_type"] = "foreign"
        config["auto_map"] = {"AutoConfig": "foreign.Config", "AutoModelForCausalLM": "foreign.Model"}
    else:
        config["tokenizer_class"] = "ForeignTokenizer"
        config["auto_map"] = {"AutoTokenizer": ["foreign.ForeignTokenizer", None]}
    (folder / name).write_text(json.dumps(config))
    with pytest.raises(SystemExit):
        main(["regions", str(folder), "--corpus", "pocket:heldout", "--samples", "4", "--out", str(tmp_path / "out")])
    capsys.readouterr()
    assert not (tmp_path / MARK).exists()


def test_yaml_makes_no_objects(tmp_path):
    from babelscope.errors import PlanError
    from babelscope.evolution.plan import read_plan

    plan = tmp_path / "plan.yaml"
    plan.write_text(f"name: !!python/object/apply:os.system ['echo {MARK} > {tmp_path / MARK}']\n")
    with pytest.raises(PlanError):
        read_plan(plan)
    assert not (tmp_path / MARK).exists()


def test_yaml_that_would_fill_memory_is_refused_soon(tmp_path):
    from babelscope.evolution.plan import read_plan

    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    (tmp_path / "plan.yaml").write_text("\n".join(lines))
    with pytest.raises(BabelscopeError):
        read_plan(tmp_path / "plan.yaml")


# -- names that lead outside ----------


@pytest.mark.parametrize("name", ["../../evil", "/tmp/evil-of-babelscope", "a/../../evil", "..\\evil"])
def test_a_store_cannot_write_outside_the_folder_it_is_fetched_to(tmp_path, name):
    """A run in somebody's bucket names its files; a hostile one names a file elsewhere."""
    run = write_regions(tmp_path / "run")
    url = f"memory://hostile-{os.getpid()}-{abs(hash(name))}"
    put_run(run.path, url)
    from fsspec.implementations.memory import MemoryFileSystem

    system = MemoryFileSystem()
    root = next(path for path in system.store if path.endswith("run.json") and url[9:] in path).removesuffix(
        "/run.json"
    )
    system.store[f"{root}/{name}"] = system.store[f"{root}/run.json"]
    with pytest.raises(RunError, match="leads outside"):
        get_run(url, tmp_path / "in" / "copy")
    assert not (tmp_path / "evil").exists()
    assert not Path("/tmp/evil-of-babelscope").exists()
    assert not (tmp_path / "in" / "copy").exists()


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_links_in_a_run_are_not_followed_out_of_it(tmp_path, kind):
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "s.parquet").write_text("secret")
    run = write_regions(tmp_path / "run")
    place = run.path / ("tables/dose.parquet" if kind == "file" else "tables")
    if kind == "file":
        place.unlink()
        place.symlink_to(tmp_path / "secret" / "s.parquet")
    else:
        place.rename(tmp_path / "moved")
        place.symlink_to(tmp_path / "secret")
    with pytest.raises(RunError, match=r"link that leads outside"):
        run.validate()
    with pytest.raises(RunError, match=r"link that leads outside"):
        put_run(run.path, f"memory://links-{os.getpid()}-{kind}")


def test_a_run_is_never_written_through_a_link(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter").write_text("dear")
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    with pytest.raises(RunError), RunWriter(tmp_path / "link", "regions", overwrite=True):
        pass
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(RunError), RunWriter(tmp_path / "dangling", "regions"):
        pass
    assert (tmp_path / "mine" / "letter").read_text() == "dear"
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("spec", ["lines:{0}?languages=../../etc", "table:{0}/../x.tsv", "bible:/etc/passwd"])
def test_corpus_specs_read_what_they_name_and_say_so(tmp_path, spec):
    from babelscope.corpora import load_corpus

    with pytest.raises((CorpusError, InputError)):
        load_corpus(spec.format(tmp_path))


@pytest.mark.parametrize("name", ["../bloom-s", "bloom-s/../../x", "/etc", "bloom-s@../main", "bloom-s@/etc"])
def test_names_of_built_in_models_are_names(name):
    from babelscope.models import load_model

    with pytest.raises(BabelscopeError):
        load_model(f"pocket:{name}")


# -- nothing is called ----------


def test_nobody_is_called_by_a_whole_study(tmp_path):
    """With every socket closed a study of the built-in models runs to its page."""
    script = """
import socket, sys
def closed(*_, **__):
    raise SystemExit("somebody was called")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = closed
from babelscope.cli import main
for words in sys.argv[1:]:
    try:
        main(words.split())
    except SystemExit as end:
        if end.code: raise
"""
    out = tmp_path / "run"
    environment = {name: value for name, value in os.environ.items() if name not in ("HF_HUB_OFFLINE",)}
    evaluated = f"evaluate pocket:pocket-bloom-s --stories pocket:?n=2 --languages en --out {out}"
    done = subprocess.run(
        [sys.executable, "-c", script, evaluated, f"show {out}"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert open_run(out).kind == "evaluation"
