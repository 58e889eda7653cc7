"""Relatives of what attackers broke: inert cells, nobody's homes, huge models, strict readers, messages that help."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from babelscope.errors import InputError, ModelError
from babelscope.figures.fonts import LONGEST, drawn
from babelscope.models import load_model
from babelscope.models.refusals import in_our_words, refuse_sizes
from babelscope.results import RunWriter, open_run
from babelscope.results.whole import home, whole_file, whole_folder

from .command import command
from .tiny_models import tiny_model, tiny_tokenizer

SOURCE = Path(__file__).resolve().parents[1] / "src"


# -- formulas ---------------------------------------------------------------------------------------------------------


# -- places -----------------------------------------------------------------------------------------------------------


def test_attack_9_the_home_of_nobody_is_one_line_and_makes_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for use in (
        lambda: home("~nobody9/x"), lambda: RunWriter("~nobody9/x", "regions"), lambda: open_run("~nobody9/x"),
        lambda: whole_file(Path("~nobody9")).__enter__(), lambda: whole_folder(Path("~nobody9/a")).__enter__(),
    ):  # fmt: skip
        with pytest.raises(InputError, match="nobody here is called 'nobody9'"):
            use()
    said = command("pocket", "export", "bloom-s", "~nobody9/x")
    assert (said.exit_code, said.stdout, said.stderr.count("\n")) == (2, "", 1)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "~nobody9").mkdir()
    assert home("~nobody9/x") == Path("~nobody9/x")  # a folder that is really called so
    assert home("~/x") == Path.home() / "x"


# -- models -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("models") / "tiny"
    tiny_model("bloom").save_pretrained(place)
    tiny_tokenizer().save_pretrained(place)
    return place


def copied(folder: Path, to: Path, **changes: object) -> Path:
    to.mkdir()
    for file in folder.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    content = json.loads((to / "config.json").read_text())
    (to / "config.json").write_text(json.dumps({**content, **changes}))
    return to


@pytest.mark.parametrize(
    "changes",
    [
        {"n_layer": 1e6}, {"n_layer": 10**6}, {"n_layer": 0}, {"n_layer": -3}, {"n_layer": "4"}, {"n_layer": 4.5},
        {"hidden_size": 10**9}, {"vocab_size": 10**12}, {"n_layer": 1999, "hidden_size": 2**20},
    ],
)  # fmt: skip
def test_attack_8_a_model_that_cannot_be_is_refused_before_it_is_built(folder, tmp_path, changes):
    started = time.process_time()
    with pytest.raises(ModelError, match=r"which no model has|need at least|n_layer|layers"):
        load_model(copied(folder, tmp_path / "m", **changes))
    assert time.process_time() - started < 10


def test_weights_larger_than_memory_are_refused_with_what_there_is():
    from types import SimpleNamespace

    config = SimpleNamespace(num_hidden_layers=80, hidden_size=8192, vocab_size=128_256)
    with pytest.raises(ModelError, match=r"need at least 43 GiB; there are 16 GiB here"):
        refuse_sizes(config, "m", 4, 16 << 30)
    refuse_sizes(config, "m", 2, 64 << 30)
    refuse_sizes(SimpleNamespace(), "m", 4, 1 << 20)  # states nothing that we know: refuses nothing


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("model.safetensors", b"version https://git-lfs.github.com/spec/v1\noid x\n", "git lfs pull"),
        ("tokenizer.json", b"version https://git-lfs.github.com/spec/v1\noid x\n", "git lfs pull"),
        ("config.json", b"version https://git-lfs.github.com/spec/v1\noid x\n", "git lfs pull"),
        ("config.json", b'{"a":' * 5000, "levels deep"),
        ("config.json", b"\xff\xfe", "not UTF-8"),
        ("adapter_config.json", b"[1]", "no mapping"),
        ("adapter_config.json", b"{}", "--merge-adapter"),
    ],
)
def test_b10_a_folder_that_is_no_model_says_what_it_is(folder, tmp_path, file, content, words):
    place = copied(folder, tmp_path / "m")
    (place / file).write_bytes(content)
    with pytest.raises(ModelError, match=words):
        load_model(place)


def test_b10_gguf_missing_weights_and_folders_of_checkpoints(folder, tmp_path):
    place = copied(folder, tmp_path / "m")
    (place / "model.safetensors").rename(place / "x.gguf")
    with pytest.raises(ModelError, match=r"holds x\.gguf, and GGUF is not read"):
        load_model(place)
    (place / "x.gguf").unlink()
    with pytest.raises(ModelError, match="holds no weights"):
        load_model(place)
    copied(folder, tmp_path / "steps").rename(tmp_path / "step1")
    (tmp_path / "all").mkdir()
    (tmp_path / "step1").rename(tmp_path / "all" / "step1")
    with pytest.raises(ModelError, match="holds models in step1"):
        load_model(tmp_path / "all")
    with pytest.raises(ModelError, match="has no revision 'step2'; it has step1"):
        load_model(tmp_path / "all", revision="step2")
    with pytest.raises(ModelError, match="leave --device out"):
        load_model(tmp_path / "all", revision="step1", device="cpu", device_map="auto")


def test_a_misspelt_model_is_told_at_once_and_what_it_may_be(tmp_path, monkeypatch):
    """Without a network nothing is tried again: the cache alone is asked."""
    monkeypatch.setattr("babelscope.models.loading.hub_answers", lambda: False)
    (tmp_path / "my-model").mkdir()
    (tmp_path / "my-model" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=r"^my-modle is no folder here .* did you mean my-model"):
        load_model("my-modle")
    with pytest.raises(ModelError, match="did you mean pocket:pocket-bloom-s"):
        load_model("pocket-bloom-s")


def test_the_hub_is_asked_once_whether_it_is_there(monkeypatch):
    from babelscope import network

    with socket.create_server(("127.0.0.1", 0)) as there:
        port = there.getsockname()[1]
        monkeypatch.setattr(network, "getproxies", dict)
        monkeypatch.setattr("huggingface_hub.constants.is_offline_mode", lambda: False)
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")
        assert network.hub_answers()
    assert not network.hub_answers()
    monkeypatch.setattr("huggingface_hub.constants.is_offline_mode", lambda: True)
    assert not network.hub_answers()


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("The repository x contains custom code which must be executed.\nPlease pass `trust_remote_code=True`",
         "--trust-remote-code"),
        ("We couldn't connect to 'https://huggingface.co' to load the files", "the hub cannot be reached: check"),
        ("x is not a local folder and is not a valid model identifier listed", "no model of the hub"),
        ("step9 is not a valid git identifier (branch name, tag name or commit id)", "no such revision"),
        ("You are trying to access a gated repo.", "accepted its terms"),
        ("Error while deserializing header: header too large", "git lfs pull"),
        ("Validation error for field 'n_layer':\n  x is no number", "field 'n_layer': x is no number"),
        ("", "OSError"),
    ],
)  # fmt: skip
def test_b10_what_other_libraries_say_is_said_in_our_words(said, words):
    assert words in in_our_words(OSError(said), "m")


# -- readers of files that others write -------------------------------------------------------------------------------


# -- the command line -------------------------------------------------------------------------------------------------


def test_a_file_of_options_that_unfolds_is_refused_soon(tmp_path):
    bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{b}: &{b} [*{a}, *{a}, *{a}, *{a}, *{a}, *{a}, *{a}, *{a}, *{a}]\n" for a, b in zip("abcdefg", "bcdefgh")
    )
    (tmp_path / "o.yaml").write_text(bomb)
    started = time.process_time()
    said = command("regions", "m", "--config", tmp_path / "o.yaml")
    assert (said.exit_code, said.stderr.count("\n")) == (2, 1), said
    assert time.process_time() - started < 10


def test_c3_a_corpus_without_a_reader_is_told_which_one_fits(tmp_path):
    (tmp_path / "li").mkdir()
    (tmp_path / "ta").mkdir()
    for code in ("en", "fr"):
        (tmp_path / "li" / f"{code}.txt").write_text("a\n")
    (tmp_path / "ta" / "x.jsonl").write_text('{"en": "a", "fr": "b"}\n')
    (tmp_path / "q?x").mkdir()
    for name, fits in (("li", "lines"), ("ta", "table")):
        said = command("corpus", "audit", tmp_path / name)
        assert (said.exit_code, f"such as {fits}:{tmp_path / name}" in said.stderr) == (2, True), said
    said = command("corpus", "audit", f"lines:{tmp_path / 'ta'}")
    assert f"its files look like table:{tmp_path / 'ta'}" in said.stderr
    # C11: a place may be written with %3F, and a space after the colon is nobody's name
    (tmp_path / "q?x" / "en.txt").write_text("a\n")
    assert "is written %3F" in command("corpus", "audit", f"lines:{tmp_path / 'q?x'}").stderr
    assert command("corpus", "audit", f"lines:{tmp_path}/q%3Fx").exit_code == 0
    assert command("corpus", "audit", f"lines: {tmp_path / 'li'}").exit_code == 0


def test_c8_revisions_of_a_folder_without_any_are_told_of(folder, tmp_path):
    said = command(
        "sweep", "--model", folder, "--revisions", "step*", "--stories", "pocket:?n=2", "--out", tmp_path / "s"
    )
    assert said.exit_code in (1, 2)
    told = said.output + command("sweep", "status", tmp_path / "s").output
    assert "leave" in told
    assert "subfolder" in " ".join(told.split())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of the address space")
@pytest.mark.parametrize("megabytes", [450, pytest.param(950, marks=pytest.mark.nightly)])
def test_attack_5_out_of_memory_is_one_line(tmp_path, megabytes):
    (tmp_path / "en.txt").write_text("one two\n" * 4)
    (tmp_path / "fr.txt").write_text("un deux\n" * 4)
    code = (
        f"import resource; resource.setrlimit(resource.RLIMIT_AS, ({megabytes} << 20, {megabytes} << 20))\n"
        "from babelscope.cli import main\n"
        f"main(['regions', 'pocket:pocket-bloom-s', '--corpus', 'lines:{tmp_path}', '--samples', '3', '--out',"
        f" '{tmp_path / 'run'}'])"
    )
    where = {**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)}
    for _ in range(4):  # native libraries die or stand still now and then when an allocation of their own fails
        try:
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=where)
        except subprocess.TimeoutExpired:
            continue
        if done.returncode >= 0:
            break
    else:
        pytest.skip("no library here lives long enough under this limit")
    lines = [line for line in done.stderr.splitlines() if not line.startswith(("OpenBLAS", "OMP:"))]
    assert done.returncode == 2, done
    assert lines[-1].startswith("error: not enough memory"), lines
    assert "Traceback" not in done.stderr
    left = sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith("torchinductor_"))
    assert left == ["en.txt", "fr.txt"]  # but for the folder that torch makes for itself


def test_attack_5_a_failed_allocation_in_a_model_is_one_line(tmp_path, monkeypatch, folder):
    """What torch says when the processor's memory is used up, in the middle of a study."""

    def full(*_: object, **__: object) -> None:
        raise RuntimeError(
            "[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory: you tried"
        )

    monkeypatch.setattr("babelscope.studies.regions.run_steps", full)
    for code in ("en", "fr"):
        (tmp_path / f"{code}.txt").write_text("one two\nthree four\nfive six\n")
    said = command("regions", folder, "--corpus", f"lines:{tmp_path}", "--samples", 2, "--out", tmp_path / "run")
    assert said.exit_code == 2
    assert said.stderr.splitlines()[-1].startswith("error: not enough memory")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["en.txt", "fr.txt"]


def test_attack_6_identical_text_in_all_languages_is_said(tmp_path, folder):
    for code in ("en", "fr", "es"):
        (tmp_path / f"{code}.txt").write_text("one two\nthree four\nfive six\n")
    said = command("regions", folder, "--corpus", f"lines:{tmp_path}", "--samples", 2, "--bootstrap", 5, "--out",
                   tmp_path / "run")  # fmt: skip
    assert said.exit_code == 0, said
    assert "same in all languages" in " ".join(open_run(tmp_path / "run").summary["notes"])
    assert open_run(tmp_path / "run").summary["sklr"] is None


def test_b7_a_language_without_stories_is_one_line(folder):
    said = command("evaluate", folder, "--languages", "en,de")
    assert (said.exit_code, said.stderr.count("\n")) == (2, 1)
    assert "'de'" in said.stderr
    assert "languages: ar, en" in said.stderr


def test_c2_one_language_is_told_what_is_missing(tmp_path):
    (tmp_path / "en.txt").write_text("a\nb\n")
    said = command("regions", "m", "--corpus", f"lines:{tmp_path}", "--languages", "en", "--out", tmp_path / "run")
    assert (said.exit_code, said.stderr.count("\n")) == (2, 1)
    assert "name two or more" in said.stderr


def test_c10_a_file_of_another_kind_is_told_what_is_missing(tmp_path):
    with RunWriter(tmp_path / "run", "regions"):
        pass
    said = command("regions", "show", tmp_path / "run" / "run.json")
    assert (said.exit_code, said.stderr.count("\n")) == (2, 1)
    assert "is missing or of another kind" in said.stderr


def test_bug_41_a_data_set_on_disk_is_told_what_to_do_with(tmp_path):
    (tmp_path / "state.json").write_text("{}")
    said = command("corpus", "audit", f"hub:{tmp_path}?split=test")
    assert (said.exit_code, said.stderr.count("\n")) == (2, 1)
    assert "read that by table:" in said.stderr


# -- figures ----------------------------------------------------------------------------------------------------------


def test_hostile_text_in_a_figure_is_text(tmp_path):
    import matplotlib
    from defusedxml import ElementTree
    from matplotlib.figure import Figure

    hostile = ["$x^2$", "$\\frac{", "a$b$c\\$", "</text><script>x</script>", "\x00\x1b[31m\x08", "\u202eb",
               "a\nb\u2028c", "\ufffe", "]]>", "&x;", "x" * 5000, "\ud800"]  # fmt: skip
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        for text in hostile:
            figure = Figure()
            figure.text(0.5, 0.5, drawn(text))
            figure.savefig(tmp_path / "f.svg")
            root = ElementTree.parse(tmp_path / "f.svg").getroot()
            assert not [part for part in root.iter() if "script" in part.tag]
            shown = "".join(root.itertext())
            assert "$x^2$" in shown if text == "$x^2$" else True
            assert len(drawn(text)) <= LONGEST + 20


# -- the explorer -----------------------------------------------------------------------------------------------------


def test_attack_9_half_open_connections_are_closed_and_hold_nobody_up(monkeypatch):
    """Forty connections that say half of a request, or nothing at all, while somebody else is answered."""
    uvicorn = pytest.importorskip("uvicorn")
    from babelscope.app import server

    monkeypatch.setattr(server, "PATIENCE", 0.5)

    async def page(scope, receive, send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    place = listener.getsockname()
    settings = uvicorn.Config(page, http=server._impatient(), log_level="critical", lifespan="off", ws="none")
    serving = uvicorn.Server(settings)
    thread = threading.Thread(target=serving.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        open_ones = [socket.create_connection(place, timeout=20) for _ in range(40)]
        for number, one in enumerate(open_ones):
            one.sendall([b"", b"GET / HTTP/1.1\r\nHost: 127", b"POST / HTTP/1.1\r\n", b"\r"][number % 4])
        with socket.create_connection(place, timeout=20) as somebody:
            somebody.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
            assert somebody.recv(4096).startswith(b"HTTP/1.1 200")
        for one in open_ones:  # closed by the server, some after a word about what was no request
            while one.recv(4096):
                pass
            one.close()
    finally:
        serving.should_exit = True
        thread.join(20)
    assert not thread.is_alive()
