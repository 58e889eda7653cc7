"""Fuzzed: what a study is given beside its text – models, tasks, words, regions, circuits, edits, lenses, answers."""

from __future__ import annotations

import contextlib
import io
import tempfile
from functools import lru_cache
from pathlib import Path

from .fuzz_reading import Read, Seed, as_json, from_file, from_text, named

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


def _mib(data: bytes, folder: Path) -> None:
    from babelscope.tasks.sources import mib_lexicon

    for part in ("names", "objects", "places"):
        (folder / f"{part}.json").write_text('["Mary", "John"]')
    (folder / "templates.json").write_bytes(data)
    mib_lexicon(folder)


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


def _own_templates(task: str) -> Seed:
    return lambda: str(named("tasks.templates", "_read")(task, "en")).encode()


_REGIONS_JSON = {
    "method": "m",
    "layers": 1,
    "neurons_per_layer": 3,
    "facts": {},
    "regions": {"en": [[0, 2]], "fr": [[]]},
}


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


_ANSWERS = b"model,completion,task,source,language,prompt\nm,Bonjour,monolingual,s,fr,Salut\n"


_FAMILY = b'name = "mine"\nblocks = "model.layers"\nneurons = "mlp.down_proj"\nqk_norms = ["a", "b"]\nparallel = true\n'


def _questions(name: str, file: str, ending: str = "") -> Read:
    """A published set of questions whose English file is the input."""

    def read(data: bytes, folder: Path) -> None:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(data)
        named("evaluation.questions", "load_questions")(f"{name}:{folder}{ending}", ["en"])

    return read


def _merges(data: bytes, folder: Path) -> None:
    """A vocabulary and its merges, each in turn the input."""
    from babelscope.errors import BabelscopeError
    from babelscope.tasks.loading import load_tokenizer

    for vocabulary, merges in ((b'{"a": 0, "b": 1, "ab": 2}', data), (data, b"a b\n")):
        (folder / "vocab.json").write_bytes(vocabulary)
        (folder / "merges.txt").write_bytes(merges)
        with contextlib.suppress(BabelscopeError):
            load_tokenizer(folder)


_BELEBELE = {
    "link": "l", "question_number": 1, "flores_passage": "A passage.", "question": "What?", "mc_answer1": "a",
    "mc_answer2": "b", "mc_answer3": "c", "mc_answer4": "d", "correct_answer_num": "2",
}  # fmt: skip
_KLAR = {
    "prompt_templates": ["<subject> is in <mask>"],
    "samples": [
        {"subject": "Paris", "object": "France", "index": 1},
        {"subject": "Rome", "object": "Italy", "index": 2},
    ],
}
_MKQA = {"example_id": 1, "queries": {"en": "who"}, "answers": {"en": [{"type": "entity", "text": "she"}]}}
_BMLAMA = b"Prompt\tAns\tCandidate Ans\tSubject\nParis is in <mask>.\tFrance\tItaly, France\tParis\n"

STUDIED: dict[str, tuple[Read, Seed]] = {
    "words": (from_file("w.jsonl", "latent.words", "load_words"), lambda: _WORDS.encode()),
    "words-csv": (
        from_file("w.csv", "latent.words", "load_words"),
        lambda: b"id,en,fr,kind\ndog,dog|hound,chien,animal\n",
    ),
    "edit": (from_file("e.safetensors", "steering.files", "load_edit"), _edit_bytes),
    "tuned": (_tuned, lambda: _lens()[0]),
    "counts": (
        from_file("c.tsv", "latent.frequencies", "read_counts"),
        lambda: "language\tword\tcount\nfr\tété\t3\n".encode(),
    ),
    "belebele": (_questions("belebele", "en.jsonl", "/{language}.jsonl"), as_json(_BELEBELE)),
    "klar": (_questions("klar", "en/capital.json"), as_json(_KLAR)),
    "bmlama": (_questions("bmlama", "en.tsv", "/{language}.tsv"), lambda: _BMLAMA),
    "mkqa": (_questions("mkqa", "q.jsonl", "/q.jsonl"), as_json(_MKQA)),
    "merges": (_merges, lambda: b"#version: 0.2\na b\n"),
    "benchmark": (_benchmark, lambda: _ANSWERS),
    "family": (from_file("f.toml", "models.registry", "family_from_file"), lambda: _FAMILY),
    "adapter": (_adapter, as_json({"peft_type": "LORA", "base_model_name_or_path": "x"})),
    "config": (_config, as_json(_MODEL)),
    "pairs": (from_file("p.jsonl", "tasks.minimal_pairs", "read_minimal_pairs"), lambda: _PAIRS),
    "clams": (from_file("p.txt", "tasks.minimal_pairs", "read_minimal_pairs"), lambda: _CLAMS),
    "verbs": (from_file("v.tsv", "tasks.sources", "unimorph_verbs"), lambda: _VERBS),
    "stories": (from_file("s.csv", "tasks.stories", "read_stories"), lambda: _STORIES),
    "copa": (from_file("s.jsonl", "tasks.stories", "read_stories"), lambda: _COPA),
    "mib": (_mib, as_json(["When {name_A} and {name_B} met, {name_C} gave a {object} to"])),
    "ioi-templates": (from_text("tasks.templates", "parse_ioi"), _own_templates("ioi")),
    "tense-templates": (from_text("tasks.templates", "parse_tense"), _own_templates("tense")),
    "regions": (from_file("r.safetensors", "regions", "load_regions"), _region_bytes),
    "regions-json": (from_file("r.json", "regions.exchange", "import_regions"), as_json(_REGIONS_JSON)),
    "lape": (from_file("m.pt", "regions.exchange", "import_lape", ["en", "zh"], 2, 3), _lape_bytes),
    "circuit": (from_file("c.safetensors", "circuits.edges.circuit", "Circuit.load"), _circuit_bytes),
    "graph": (from_file("g.json", "circuits.edges.mib", "read_graph"), as_json(_GRAPH)),
}
