"""What is fuzzed: every function that reads what others wrote, with good input to begin from.

A target reads bytes, in a fresh folder where it needs files; whatever it raises that is not an error class of our own
is a crash.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

Read = Callable[[bytes, Path], object]
Seed = Callable[[], bytes]

_BIBLE = (
    b'<?xml version="1.0" encoding="utf-8"?><cesDoc version="4"><cesHeader><profileDesc><langUsage>'
    b'<language id="en" iso639="eng">English</language></langUsage></profileDesc></cesHeader><text><body>'
    b'<div id="b.MAT" type="book"><div id="b.MAT.1" type="chapter"><seg id="b.MAT.1.1" type="verse">In the beginning.'
    b'</seg><seg id="b.MAT.1.2" type="verse">And &amp; then.</seg></div></div></body></text></cesDoc>'
)
_JSONL = b'{"id": "1", "en": "a cat", "fr": "un chat"}\n{"id": "2", "en": "a dog", "fr": "un chien"}\n'
_XLSUM = b'{"id": "1", "url": "u", "title": "t", "summary": "s", "text": "A text. Its end."}\n'
_PLAN = b"""name: x
models:
  - pocket:pocket-bloom-s
  - {id: pocket:pocket-bloom-m, revisions: "step*"}
corpora: ["pocket:heldout"]
languages: [en, fr]
measures:
  regions: {samples: 20}
  perplexity: {texts: "pocket:heldout"}
"""
_PAIRS = b'{"sentence_good": "the cats sleep", "sentence_bad": "the cats sleeps", "UID": "agreement"}\n' * 2
_CLAMS = b"True\tthe cats sleep\nFalse\tthe cats sleeps\n"
_VERBS = b"walk\twalked\tV;PST\ngo\twent\tV;PST\ncut\tcut\tV;PST\n"
_STORIES = (
    b"InputStoryid,InputSentence1,InputSentence2,InputSentence3,InputSentence4,"
    b"RandomFifthSentenceQuiz1,RandomFifthSentenceQuiz2,AnswerRightEnding\n1,a,b,c,d,e,f,1\n"
)
_COPA = b'{"premise": "It rained.", "choice1": "a", "choice2": "b", "question": "effect", "label": 0, "idx": 1}\n'
_GRAPH = {
    "cfg": {"n_layers": 1, "n_heads": 2, "d_model": 8, "parallel_attn_mlp": False},
    "nodes": {"input": {"in_graph": True}},
    "edges": {"input->a0.h0<q>": {"score": 0.5, "in_graph": True}, "m0->logits": {"score": 0.1, "in_graph": False}},
}
_REQUEST = b"GET /config HTTP/1.1\nhost: 127.0.0.1:7860\norigin: http://127.0.0.1:7860\ncookie: babelscope-7860=x\n"


def _corpus(reader: str, names: list[str], options: str = "") -> Read:
    def read(data: bytes, folder: Path) -> None:
        from babelscope.corpora import load_corpus, load_texts
        from babelscope.errors import BabelscopeError

        for name in names:
            (folder / name).write_bytes(data)
        place = folder if len(names) > 1 else folder / names[0]
        for load in (load_corpus, load_texts):
            with contextlib.suppress(BabelscopeError):
                load(f"{reader}:{place}{options}", ["en", "fr"])

    return read


def _file(name: str, module: str, function: str, *rest: object) -> Read:
    """A function of the package that takes the path of one file."""

    def read(data: bytes, folder: Path) -> object:
        (folder / name).write_bytes(data)
        return _named(module, function)(folder / name, *rest)

    return read


@lru_cache
def _named(module: str, function: str) -> Callable[..., object]:
    from importlib import import_module

    found = import_module(f"babelscope.{module}")
    for part in function.split("."):
        found = getattr(found, part)
    return found


def _within(name: str) -> Read:
    """One file of a good run replaced; then everything in the run is read."""

    def read(data: bytes, folder: Path) -> None:
        from babelscope.errors import BabelscopeError
        from babelscope.results import open_run

        for path, content in _good_run().items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(data if path == name else content)
        run = open_run(folder)
        uses = [run.validate, run._repr_html_, run.arrays, lambda: run.arrays("null"), lambda: run.table("t")]
        for use in [*uses, lambda: (run.summary, run.tables, run.groups, run.languages, run.model_name, run.key)]:
            try:
                use()
            except BabelscopeError:
                continue

    return read


@lru_cache
def _good_run() -> dict[str, bytes]:
    import pandas as pd
    import xarray as xr

    from babelscope.results import RunWriter

    with tempfile.TemporaryDirectory() as folder:
        with RunWriter(Path(folder) / "run", kind="regions") as run:
            run.manifest.update(summary={"lrds": 0.1}, model={"id": "a/b"}, corpus={"languages": ["en"]})
            run.table("t", pd.DataFrame({"language": ["en", "zh"], "x": [1.5, None]}))
            run.arrays(xr.Dataset({"score": (("language", "layer"), [[1.0, 2.0]])}, coords={"language": ["en"]}))
            run.arrays(xr.Dataset({"sklr_null": ("draw", [1.0, 2.0])}), group="null")
        root = Path(folder) / "run"
        return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def _of_run(name: str) -> Seed:
    return lambda: _good_run()[name]


def _sweep(data: bytes, folder: Path) -> None:
    from babelscope.evolution.sweep import status

    (folder / "sweep.json").write_bytes(data)
    status(folder)


def _text(module: str, function: str) -> Read:
    def read(data: bytes, _: Path) -> object:
        return _named(module, function)(data.decode("utf-8", "replace"))

    return read


def _spec(data: bytes, folder: Path) -> None:
    from babelscope.corpora import load_corpus

    (folder / "en.txt").write_text("One.\nTwo.\n")
    (folder / "fr.txt").write_text("Un.\nDeux.\n")
    load_corpus(data.decode("utf-8", "replace").replace("FOLDER", str(folder)))


def _mib(data: bytes, folder: Path) -> None:
    from babelscope.tasks.sources import mib_lexicon

    for part in ("names", "objects", "places"):
        (folder / f"{part}.json").write_text('["Mary", "John"]')
    (folder / "templates.json").write_bytes(data)
    mib_lexicon(folder)


def _door(data: bytes, _: Path) -> None:
    """Any request at the explorer's door: it is answered, and what stands behind is reached by nobody."""
    from babelscope.app.guard import Guard

    lines = data.split(b"\n")
    method, path, *_rest = [*lines[0].split(b" "), b"", b""]
    headers = [(name.strip().lower(), value.strip()) for name, _, value in (line.partition(b":") for line in lines[1:])]
    path, _, query = path.partition(b"?")
    scope = {
        "type": "http", "method": method.decode("latin-1"), "path": path.decode("latin-1"), "query_string": query,
        "headers": headers,
    }  # fmt: skip
    sent: list[dict[str, object]] = []

    async def behind(*_: object) -> None:
        raise AssertionError("a stranger came in")

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": b""}

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    asyncio.run(Guard(behind, "a-token-nobody-guesses", port=7860)(scope, receive, send))
    assert sent
    assert sent[0]["status"] in (400, 401, 403, 404, 405, 413)


def _region_bytes() -> bytes:
    import torch

    from babelscope.regions.masks import RegionSet, save_regions

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "r.safetensors"
        save_regions(RegionSet({"en": torch.ones(2, 3).bool(), "zh": torch.zeros(2, 3).bool()}, "z-score"), path)
        return path.read_bytes()


def _circuit_bytes() -> bytes:
    from babelscope.circuits.edges.mib import from_graph

    with tempfile.TemporaryDirectory() as folder:
        from_graph(_GRAPH).save(Path(folder) / "c")
        return (Path(folder) / "c.safetensors").read_bytes()


def _lape_bytes() -> bytes:
    import torch

    stream = io.BytesIO()
    torch.save([[torch.tensor([0, 2]), torch.tensor([1])]] * 2, stream)
    return stream.getvalue()


def _parquet_bytes() -> bytes:
    import pandas as pd

    stream = io.BytesIO()
    pd.DataFrame({"id": ["1", "2"], "en": ["a cat", "a dog"], "fr": ["un chat", "un chien"]}).to_parquet(stream)
    return stream.getvalue()


def _json(value: object) -> Seed:
    return lambda: json.dumps(value).encode()


def _own_templates(task: str) -> Seed:
    return lambda: str(_named("tasks.templates", "_read")(task, "en")).encode()


_REGIONS_JSON = {
    "method": "m",
    "layers": 1,
    "neurons_per_layer": 3,
    "facts": {},
    "regions": {"en": [[0, 2]], "fr": [[]]},
}
_STATE = {"plan": {}, "name": "x", "points": [{"key": "0123456789abcdef", "label": "m@step1", "corpus": "c"}]}

TARGETS: dict[str, tuple[Read, Seed]] = {
    # corpora
    "bible": (_corpus("bible", ["English-NT.xml", "French-NT.xml"]), lambda: _BIBLE),
    "ntrex": (
        _corpus("ntrex", ["newstest2019-src.eng.txt", "newstest2019-ref.fra.txt"]),
        lambda: "A line.\nAnother – one.\n".encode(),
    ),
    "lines": (_corpus("lines", ["en.txt", "fr.txt"]), lambda: "One.\nTwo.\nÜ\n".encode()),
    "flores": (_corpus("flores", ["eng_Latn.dev", "fra_Latn.dev"]), lambda: b"One.\nTwo.\n"),
    "xlsum": (_corpus("xlsum", ["english_val.jsonl", "french_val.jsonl"]), lambda: _XLSUM),
    "tsv": (_corpus("table", ["t.tsv"]), lambda: b"id\ten\tfr\n1\ta cat\tun chat\n2\ta dog\tun chien\n"),
    "csv": (_corpus("table", ["t.csv"]), lambda: b'id,en,fr\n1,"a, cat",un chat\n2,a dog,un chien\n'),
    "jsonl": (_corpus("table", ["t.jsonl"]), lambda: _JSONL),
    "parquet": (_corpus("table", ["t.parquet"]), _parquet_bytes),
    "spec": (_spec, lambda: b"lines:FOLDER?languages=en&limit=2"),
    # tasks
    "pairs": (_file("p.jsonl", "tasks.minimal_pairs", "read_minimal_pairs"), lambda: _PAIRS),
    "clams": (_file("p.txt", "tasks.minimal_pairs", "read_minimal_pairs"), lambda: _CLAMS),
    "verbs": (_file("v.tsv", "tasks.sources", "unimorph_verbs"), lambda: _VERBS),
    "stories": (_file("s.csv", "tasks.stories", "read_stories"), lambda: _STORIES),
    "copa": (_file("s.jsonl", "tasks.stories", "read_stories"), lambda: _COPA),
    "mib": (_mib, _json(["When {name_A} and {name_B} met, {name_C} gave a {object} to"])),
    "ioi-templates": (_text("tasks.templates", "parse_ioi"), _own_templates("ioi")),
    "tense-templates": (_text("tasks.templates", "parse_tense"), _own_templates("tense")),
    # region files and circuits
    "regions": (_file("r.safetensors", "regions", "load_regions"), _region_bytes),
    "regions-json": (_file("r.json", "regions.exchange", "import_regions"), _json(_REGIONS_JSON)),
    "lape": (_file("m.pt", "regions.exchange", "import_lape", ["en", "zh"], 2, 3), _lape_bytes),
    "circuit": (_file("c.safetensors", "circuits.edges.circuit", "Circuit.load"), _circuit_bytes),
    "graph": (_file("g.json", "circuits.edges.mib", "read_graph"), _json(_GRAPH)),
    # runs, plans, sweeps
    "run": (_within("run.json"), _of_run("run.json")),
    "checksums": (_within("checksums.json"), _of_run("checksums.json")),
    "arrays": (_within("arrays.zarr/score/zarr.json"), _of_run("arrays.zarr/score/zarr.json")),
    "group": (_within("arrays.zarr/zarr.json"), _of_run("arrays.zarr/zarr.json")),
    "chunk": (_within("arrays.zarr/score/c/0/0"), _of_run("arrays.zarr/score/c/0/0")),
    "run-table": (_within("tables/t.parquet"), _of_run("tables/t.parquet")),
    "plan": (_file("plan.yaml", "evolution.plan", "read_plan"), lambda: _PLAN),
    "sweep": (_sweep, _json(_STATE)),
    # the command line and the explorer
    "languages": (_text("languages", "parse_languages"), lambda: b"en, zh-Hans,fr,pt-BR"),
    "door": (_door, lambda: _REQUEST),
}

TOKENS = (
    b"\x00", b"\xff\xfe", b"<!ENTITY a 'b'>", b"&a;", b"{", b"[", b'"', b"\t", b"\n", b"9" * 30, b"null", b"true",
    b"-1", b"1e999", b"NaN", b"\xe2\x80\xae", b"\xed\xa0\x80", b"- &x [*x]", b"!!python/object", b"../", b"/etc/passwd",
    b"\\ud800", b"<![CDATA[", b"<seg", b"&#x0;", b"*x", b"V;PST", b"in_graph",
)  # fmt: skip
