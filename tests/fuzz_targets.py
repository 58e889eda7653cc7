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

from .fuzz_tokens import TOKENS

__all__ = ["TARGETS", "TOKENS"]

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


def _packed(kind: str) -> Read:
    """A corpus file that is packed: the input is what stands in it, and then the packed bytes themselves."""

    def read(data: bytes, folder: Path) -> None:
        import gzip

        import zstandard

        from babelscope.corpora import load_corpus
        from babelscope.errors import BabelscopeError

        pack = gzip.compress if kind == "gz" else zstandard.ZstdCompressor().compress
        for name, content in (("a", pack(data)), ("b", data)):
            place = folder / name
            place.mkdir()
            for code in ("en", "fr"):
                (place / f"{code}.txt.{kind}").write_bytes(content)
            with contextlib.suppress(BabelscopeError):
                load_corpus(f"lines:{place}?normalise=nfc", ["en", "fr"])

    return read


def _shards(data: bytes, folder: Path) -> None:
    """A folder of Parquet shards, one of them good."""
    from babelscope.corpora import load_corpus

    (folder / "part-0.parquet").write_bytes(_parquet_bytes())
    (folder / "part-1.parquet").write_bytes(data)
    load_corpus(f"table:{folder}/part-*.parquet?id=id", ["en", "fr"])


def _parquet_types_bytes() -> bytes:
    """Every kind of column that Arrow has, as a reader may meet it: texts in dictionaries, lists, structs, times, …"""
    import datetime
    from decimal import Decimal

    import pyarrow as pa
    import pyarrow.parquet as pq

    day = datetime.datetime(2026, 1, 1)
    table = pa.table({
        "id": pa.array(["1", "2"]), "en": pa.array(["a", "b"]).dictionary_encode(),
        "fr": pa.array(["c", None], pa.large_string()), "de": pa.array([["x"], []]),
        "es": pa.array([{"t": "x"}, None]), "pt": pa.array([day, None], pa.timestamp("ns", "UTC")),
        "vi": pa.array([b"x", None]), "zh": pa.array([1.5, float("nan")]), "hi": pa.array([Decimal("1.5"), None]),
        "ar": pa.array([True, None]), "ja": pa.array([datetime.timedelta(1), None]), "ko": pa.nulls(2),
        "ru": pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int8())),
    })  # fmt: skip
    stream = io.BytesIO()
    pq.write_table(table, stream)
    return stream.getvalue()


def _edit_bytes() -> bytes:
    import torch

    from babelscope.steering.directions import Direction
    from babelscope.steering.files import SavedEdit, save_edit

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "e.safetensors"
        unit = torch.nn.functional.normalize(torch.arange(1, 5, dtype=torch.float64), dim=0)
        save_edit(SavedEdit((Direction("en", "fr", 1, "diffmean", unit, 1.0, 0.0, 1.0, 2.0),), facts={"m": 1}), path)
        return path.read_bytes()


@lru_cache
def _lens() -> tuple[bytes, object]:
    """A tuned lens as a file, and something with the shape of its model."""
    from types import SimpleNamespace

    import torch

    from babelscope.latent.tuned import TunedLens

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "l.safetensors"
        TunedLens("ridge", torch.zeros(2, 3, 3), torch.zeros(2, 3), "0f", "lines:x", 90, (0.1, 0.1)).save(path)
        return path.read_bytes(), SimpleNamespace(id="m", weight_hash="0f", layers=2, width=3)


def _tuned(data: bytes, folder: Path) -> None:
    from babelscope.latent.tuned import TunedLens

    (folder / "l.safetensors").write_bytes(data)
    TunedLens.load(folder / "l.safetensors", _lens()[1])  # pyright: ignore[reportArgumentType]


def _benchmark(data: bytes, folder: Path) -> None:
    from babelscope.errors import BabelscopeError
    from babelscope.steering.benchmark import read_answers, read_benchmark

    (folder / "monolingual" / "set").mkdir(parents=True)
    (folder / "monolingual" / "set" / "fr.csv").write_bytes(data)
    for read in (lambda: read_benchmark(folder), lambda: read_answers(folder / "monolingual" / "set" / "fr.csv")):
        with contextlib.suppress(BabelscopeError):
            read()


def _claim(data: bytes, folder: Path) -> None:
    from babelscope.claims import load_claim

    (folder / "c.yaml").write_bytes(data)
    claim = load_claim(str(folder / "c.yaml"))
    assert claim.hash
    assert all(claim.effect(part) > 0 and claim.rule(part) for part in claim.least_effect if part != "*")


def _packaged_claim() -> bytes:
    from importlib.resources import files

    return (files("babelscope.claims") / "data" / "zeng-same-meaning.yaml").read_bytes()


def _options(data: bytes, folder: Path) -> None:
    from babelscope.cli.config_file import taken_from

    (folder / "o.yaml").write_bytes(data)
    taken_from(["regions", "--config", str(folder / "o.yaml")])


def _step(data: bytes, folder: Path) -> None:
    """One kept step of a study whose file was changed."""
    from babelscope.results.step_store import StepStore

    store = StepStore(folder / "run")
    with store.room("a", "0f") as room:
        store.keep("a", "0f", room, {"n": 3, "x": (1.5, float("nan"))})
    (store._place("a", "0f") / "step.json").write_bytes(data)
    store.read("a", "0f")


def _step_bytes() -> bytes:
    from babelscope.results.step_store import StepStore

    with tempfile.TemporaryDirectory() as folder:
        store = StepStore(Path(folder) / "run")
        with store.room("a", "0f") as room:
            store.keep("a", "0f", room, {"n": 3, "x": (1.5, float("nan"))})
        return (store._place("a", "0f") / "step.json").read_bytes()


def _adapter(data: bytes, folder: Path) -> None:
    from babelscope.models.adapters import refuse_adapter

    (folder / "adapter_config.json").write_bytes(data)
    refuse_adapter(folder, "m")


def _config(data: bytes, folder: Path) -> None:
    """A model's configuration up to where its weights would be read, which are not there."""
    from babelscope.models.loading import load_model

    (folder / "config.json").write_bytes(data)
    (folder / "tokenizer.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"")
    load_model(folder)


_MODEL = {
    "architectures": ["BloomForCausalLM"], "model_type": "bloom", "n_layer": 2, "n_head": 2, "hidden_size": 16,
    "vocab_size": 64, "quantization_config": None,
}  # fmt: skip
_WORDS = '{"concept": "dog", "en": "dog|hound", "fr": "chien", "kind": "animal", "definition_en": "It barks: ___"}\n'
_OPTIONS = b"regions:\n  samples: 20\n  languages: [en, fr]\n  doses: [0.1, 0.5]\n"
_ANSWERS = b"model,completion,task,source,language,prompt\nm,Bonjour,monolingual,s,fr,Salut\n"
_FAMILY = b'name = "mine"\nblocks = "model.layers"\nneurons = "mlp.down_proj"\nqk_norms = ["a", "b"]\nparallel = true\n'

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
    "json": (
        _corpus("table", ["t.json"]),
        _json([{"id": "1", "en": "a", "fr": "b"}, {"id": "2", "en": "c", "fr": "d"}]),
    ),
    "parquet-types": (_corpus("table", ["t.parquet"], "?id=id"), _parquet_types_bytes),
    "shards": (_shards, _parquet_bytes),
    "gz": (_packed("gz"), lambda: "One.\nU\u0308.\n".encode()),
    "zst": (_packed("zst"), lambda: b"One.\nTwo.\n"),
    # latent language and steering
    "words": (_file("w.jsonl", "latent.words", "load_words"), lambda: _WORDS.encode()),
    "words-csv": (_file("w.csv", "latent.words", "load_words"), lambda: b"id,en,fr,kind\ndog,dog|hound,chien,animal\n"),
    "edit": (_file("e.safetensors", "steering.files", "load_edit"), _edit_bytes),
    "tuned": (_tuned, lambda: _lens()[0]),
    "benchmark": (_benchmark, lambda: _ANSWERS),
    "claim": (_claim, _packaged_claim),
    # models
    "family": (_file("f.toml", "models.registry", "family_from_file"), lambda: _FAMILY),
    "adapter": (_adapter, _json({"peft_type": "LORA", "base_model_name_or_path": "x"})),
    "config": (_config, _json(_MODEL)),
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
    "step": (_step, _step_bytes),
    "options": (_options, lambda: _OPTIONS),
    # the command line and the explorer
    "languages": (_text("languages", "parse_languages"), lambda: b"en, zh-Hans,fr,pt-BR"),
    "door": (_door, lambda: _REQUEST),
}
