"""A tokenizer from whatever files there are: a model folder, tokenizer.json, vocabulary and merges, sentencepiece."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from babelscope.errors import BabelscopeError, MissingExtra, TaskError
from babelscope.network import hub_answers
from babelscope.wording import first_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase as Tokenizer


def load_tokenizer(source: str | Path) -> Tokenizer:
    """A fast tokenizer from a model folder or name (pocket:NAME as well), a tokenizer.json, a folder with *vocab.json
    and *merges.txt, or a sentencepiece file (converted, without special tokens around the text).

    Raises TaskError, or MissingExtra when sentencepiece is not installed.
    """
    if str(source).startswith("pocket:"):
        from babelscope.pocket.models import path as pocket_folder

        source = pocket_folder(*str(source).removeprefix("pocket:").split("@", 1))
    path = Path(source)
    try:
        if path.is_file():
            return _from_file(path)
        if path.is_dir() and not (path / "tokenizer_config.json").exists() and not (path / "tokenizer.json").exists():
            return _from_folder(path)
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(str(source), local_files_only=not path.is_dir() and not hub_answers())
    except (BabelscopeError, MemoryError):
        raise
    except BaseException as error:  # whatever a broken file makes the libraries raise, a panic of Rust too
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise TaskError(f"no tokenizer could be loaded from {source}: {first_line(error)}") from error


def _from_folder(folder: Path) -> Tokenizer:
    merges, vocabularies = sorted(folder.glob("*merges.txt")), sorted(folder.glob("*vocab.json"))
    if merges and vocabularies:
        return _byte_level(vocabularies[0], merges[0])
    candidates = [*sorted(folder.glob("*tokenizer.json")), *sorted(folder.glob("*.model*"))]
    if not candidates:
        raise TaskError(f"no tokenizer in {folder}: expected tokenizer.json, *vocab.json with *merges.txt, or *.model")
    return _from_file(candidates[0])


def _from_file(file: Path) -> Tokenizer:
    if ".model" in file.name:
        return _sentencepiece(file)
    if file.suffix != ".json":
        raise TaskError(f"{file} is no tokenizer: expected tokenizer.json or a sentencepiece .model")
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_file=str(file))


def _byte_level(vocabulary: Path, merges: Path) -> Tokenizer:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    lines = [
        line for line in merges.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#version")
    ]
    pairs = [(left, right) for left, right in (line.split(" ") for line in lines)]
    backend = Tokenizer(models.BPE(json.loads(vocabulary.read_text(encoding="utf-8")), pairs))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def _sentencepiece(file: Path) -> Tokenizer:
    try:
        from sentencepiece import sentencepiece_model_pb2
    except ImportError as error:
        raise MissingExtra("sentencepiece", "sentencepiece", "reading a sentencepiece model") from error
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    protobuf: Any = sentencepiece_model_pb2
    model = protobuf.ModelProto()
    model.ParseFromString(file.read_bytes())
    settings = model.normalizer_spec
    backend = Tokenizer(_unigram(model) if model.trainer_spec.model_type == 1 else _bpe(model))
    steps: list[Any] = []
    if settings.precompiled_charsmap:
        steps.append(normalizers.Precompiled(settings.precompiled_charsmap))
    if settings.remove_extra_whitespaces:
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    backend.normalizer = normalizers.Sequence(steps)
    # "▁" goes before the text and stands for every blank; BPE may merge over it, Unigram pieces never hold two.
    backend.pre_tokenizer = pre_tokenizers.Metaspace(
        replacement="▁", prepend_scheme="always" if settings.add_dummy_prefix else "never", split=False
    )
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(replacement="▁")])
    special = [AddedToken(piece.piece, special=True, normalized=False) for piece in model.pieces if piece.type == 3]
    backend.add_special_tokens(special)
    unknown = model.pieces[model.trainer_spec.unk_id].piece
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token=unknown)


def _unigram(model: Any) -> Any:
    from tokenizers.models import Unigram

    pieces = [(piece.piece, piece.score) for piece in model.pieces]
    return Unigram(pieces, model.trainer_spec.unk_id, model.trainer_spec.byte_fallback)


def _bpe(model: Any) -> Any:
    from tokenizers.models import BPE

    ids = {piece.piece: number for number, piece in enumerate(model.pieces)}
    # A sentencepiece BPE keeps no merges: every way to cut a piece into two pieces is one, best score first.
    merges = [
        (piece.piece[:cut], piece.piece[cut:])
        for piece in sorted(model.pieces, key=lambda piece: -piece.score)
        if piece.type == 1
        for cut in range(1, len(piece.piece))
        if piece.piece[:cut] in ids and piece.piece[cut:] in ids
    ]
    unknown = model.pieces[model.trainer_spec.unk_id].piece
    return BPE(ids, merges, unk_token=unknown, fuse_unk=True, byte_fallback=model.trainer_spec.byte_fallback)
