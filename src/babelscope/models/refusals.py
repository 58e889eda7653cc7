"""What is refused of a model before it is built, and what other libraries say about the rest, in our words."""

from __future__ import annotations

import os
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from babelscope.errors import ModelError
from babelscope.wording import first_line

_POINTER = b"version https://git-lfs"
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")
MOST_LAYERS, MOST_WIDTH, MOST_WORDS = 2_000, 1 << 20, 1 << 26
"""beyond any model there is: 126 layers, a width of 53 248, a vocabulary of 262 144 were the most in 2025"""
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_WIDTHS = ("hidden_size", "n_embd", "d_model", "word_embed_proj_dim")


def refuse_files(folder: Path, name: str) -> None:
    """Raises ModelError for a folder of placeholders, or of weights in a format that is not read."""
    files = [path for path in sorted(folder.iterdir()) if path.is_file()]
    for path in files:
        if path.suffix in (*_WEIGHTS, ".json", ".model") and _begins(path, _POINTER):
            raise ModelError(f"{path} is a pointer of Git LFS, not the file itself: run `git lfs pull` in {folder}")
    if not any(path.suffix in _WEIGHTS for path in files):
        gguf = next((path.name for path in files if path.suffix == ".gguf"), None)
        if gguf is not None:
            raise ModelError(f"{name} holds {gguf}, and GGUF is not read: take the model that it was made from")


def _begins(path: Path, start: bytes) -> bool:
    try:
        with path.open("rb") as stream:
            return stream.read(len(start)) == start
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from error


def refuse_sizes(config: Any, name: str, bytes_each: int, room: int | None = None) -> None:
    """Raises ModelError for sizes that no model has, and for weights that cannot fit, before anything is built.

    At least V·D weights in the embedding and 2·D² in each layer are counted, of `bytes_each` bytes, against `room`
    (default: what this machine has in all).
    """
    own = config.get_text_config() if hasattr(config, "get_text_config") else config
    layers, width = _stated(own, _LAYERS), _stated(own, _WIDTHS)
    words = _stated(own, ("vocab_size",))
    for value, most, what in ((layers, MOST_LAYERS, "layers"), (width, MOST_WIDTH, "dimensions"),
                              (words, MOST_WORDS, "words in the vocabulary")):  # fmt: skip
        if not 0 < value <= most:
            raise ModelError(f"{name}: config.json states {value} {what}, which no model has (1 to {most})")
    room = memory() if room is None else room
    needed = (layers * 2 * width**2 + words * width) * bytes_each
    if needed > room:
        raise ModelError(
            f"{name}: {layers} layers of width {width} and {words} words need at least {needed >> 30} GiB; "
            f"there are {room >> 30} GiB here: take a smaller model, --dtype bfloat16, or another machine"
        )


def _stated(config: Any, names: tuple[str, ...]) -> int:
    """A size; 1, which refuses nothing, where none is stated; 0 for what is no number."""
    value = next((found for name in names if (found := getattr(config, name, None)) is not None), 1)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def memory() -> int:
    """Bytes of memory and swap of this machine, or of the address space of this process where that is less."""
    if not hasattr(os, "sysconf"):
        return 1 << 62  # nothing is known of it
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        swap = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("SwapTotal"))
        total += int(swap.split()[1]) << 10
    except (OSError, StopIteration, ValueError, IndexError):
        pass
    try:
        import resource
    except ImportError:  # on Windows
        return total
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return total if limit == resource.RLIM_INFINITY else min(total, limit)


def in_our_words(error: BaseException, name: str) -> str:
    """What transformers and the hub say, with the way out that there is here."""
    text = " ".join(str(error).split())
    if "trust_remote_code" in text:
        return f"{name} brings code of its own, which is not run unasked: read it, then add --trust-remote-code"
    if "is not a valid git identifier" in text or "RevisionNotFound" in type(error).__name__:
        return f"{name}: there is no such revision on the hub; leave --revision out for the newest"
    if any(sign in text for sign in ("couldn't connect", "Cannot reach", "offline mode", "LocalEntryNotFound")):
        return f"{name} is no folder here and not in the cache, and the hub cannot be reached: " + (
            _near(name) or "check the name, give a folder, or pocket:NAME for a built-in model"
        )
    if "is not a local folder and is not a valid model identifier" in text or "RepositoryNotFound" in text:
        way = _near(name) or "or is it a private one: hf auth login"
        return f"{name} is no folder here and no model of the hub; {way}"
    if "gated repo" in text.lower() or "GatedRepo" in type(error).__name__:
        return f"{name} is open to those only who accepted its terms: do so on its page, then hf auth login"
    if "no file named" in text and "model.safetensors" in text:
        return f"{name} holds no weights: a model folder has *.safetensors or *.bin beside config.json"
    if "header too large" in text or "HeaderTooLarge" in text:
        return f"{name}: its weights are no safetensors file (is it a pointer of Git LFS? run `git lfs pull`)"
    first = first_line(error)
    return first if not first.endswith(":") else f"{first} {' '.join(text.split(first, 1)[-1].split())}"[:200].strip()


def _near(name: str) -> str:
    """A question after the model folder, or the built-in model, that was perhaps meant."""
    from babelscope.pocket.models import MODELS

    beside = {str(file.parent): f"{file.parent}" for file in Path(name).parent.glob("*/config.json")}
    known = beside | {one: f"pocket:{one}" for one in MODELS}
    meant = [known[one] for one in get_close_matches(name, known, n=2, cutoff=0.75)]
    return f"did you mean {' or '.join(meant)}?" if meant else ""
