"""What is refused of a model before it is built, and what other libraries say about the rest, in our words."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from babelscope.errors import InputError, ModelError, NonFinite, UnsupportedModel
from babelscope.json_text import read_json
from babelscope.models.adapters import adapter_parts
from babelscope.models.offload import offloaded
from babelscope.wording import first_line

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase


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


def refuse_doubles(folder: Path, name: str) -> None:
    """Raises ModelError for a folder whose weights are stored twice, in which case nobody says which are meant: two
    sets of files, a tensor in two of them; or for an adapter's weights without its configuration.
    """
    stray = next(iter(sorted(folder.glob("adapter_model*"))), None)
    if stray is not None and not (folder / "adapter_config.json").is_file():
        raise ModelError(
            f"{name} holds {stray.name}, an adapter without its adapter_config.json: add it, or remove the adapter"
        )
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return
    if (folder / "model.safetensors").is_file():
        raise ModelError(f"{name} holds model.safetensors and {index.name}, two sets of weights: remove one")
    content: object = read_json(index, error=ModelError)
    placed: object = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(placed, dict):
        raise ModelError(f"{index} has no weight_map: it is no index of safetensors files")
    from safetensors import safe_open

    for file in sorted({str(one) for one in placed.values()}):
        if not (folder / file).is_file():
            raise ModelError(f"{name}: {index.name} names {file}, which is not there: fetch it again")
        try:
            with safe_open(folder / file, framework="pt") as stored:
                double = next((key for key in stored.keys() if placed.get(key, file) != file), None)  # noqa: SIM118
        except Exception as error:
            raise ModelError(f"{folder / file} cannot be read: {in_our_words(error, name)}") from error
        if double is not None:
            raise ModelError(f"{name} holds {double} in {placed[double]} and in {file}: which is meant is not said")


def refuse_narrow(folder: Path, name: str) -> None:
    """Raises ModelError for stored weights of eight bits or fewer, whose scales nothing names: as numbers they are not
    what was trained.
    """
    from safetensors import safe_open

    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as stored:
            for key in stored.keys():  # noqa: SIM118
                kind: str = stored.get_slice(key).get_dtype()
                if kind.startswith(("F8_", "F6_", "F4")) or (key.endswith(".weight") and kind not in _FLOATS):
                    raise ModelError(
                        f"{name} holds {key} as {kind}, and its config.json names no quantisation: load an "
                        "unquantised copy"
                    )


_FLOATS = ("F64", "F32", "F16", "BF16")
_BLOCK = re.compile(r"(^|\.)(layers?|h|blocks?)\.\d+\.")
_TRUNK = re.compile(r"norm|ln_|wpe|wte|embed|project_")
"""what a trunk holds beside blocks"""
_IDLE = (
    "inv_freq", "masked_bias", ".attn.bias", "attention.bias", "position_ids", "rotary_emb", "num_batches_tracked",
    "embed_positions.weights", "_float_tensor",
)  # fmt: skip
"""buffers that older versions saved, and that are computed now"""
_BESIDE = ("vision", "image", "visual", "audio", "speech", "mtp", "nextn", "eagle", "medusa", "projector")
"""parts beside the text model: of other senses, and those that draft tokens"""


def refuse_unused(unused: Iterable[str], name: str, trunk: str = "model") -> None:
    """Raises ModelError for stored weights of blocks, norms, embeddings or the head that the configured model has no
    place for; `trunk` is what its names begin with.

    transformers leaves them out with a warning: fewer layers, biases switched off. Heads of other tasks are no matter.
    """
    mine = re.compile(rf"(lm_head|embed_out|{re.escape(trunk)}\..*({_TRUNK.pattern}).*)\.")
    kept = [key for key in sorted(unused) if _BLOCK.search(key) or mine.match(key)]
    kept = [key for key in kept if not any(sign in key for sign in (*_IDLE, *_BESIDE))]
    if kept:
        raise ModelError(
            f"{name}: {len(kept)} stored weights have no place in the model that config.json describes, the first is "
            f"{kept[0]}: its configuration is another model's, or was edited"
        )


def refuse_what_is_no_model(hf: object, tokenizer: object) -> None:
    """Raises ModelError for what is no Hugging Face model or tokenizer, UnsupportedModel for an unmerged adapter."""
    if not isinstance(hf, nn.Module) or not hasattr(hf, "config"):
        inner = getattr(hf, "module", None)
        hint = "give its .module" if inner is not None else "load_model takes a name or a folder"
        raise ModelError(f"Model takes a Hugging Face model, not {type(hf).__name__}: {hint}")
    if isinstance(tokenizer, (str, bytes)) or hasattr(tokenizer, "__fspath__"):
        raise ModelError(
            f"Model takes a tokenizer, not the path {str(tokenizer)!r}: AutoTokenizer.from_pretrained reads it"
        )
    adapters = adapter_parts(hf)
    if adapters:
        raise UnsupportedModel(
            f"this model holds an adapter that is not merged ({adapters[0]}), so its weights are not what it "
            "multiplies with: call merge_and_unload() and give the result"
        )


def refuse_tokenizer(tokenizer: PreTrainedTokenizerBase | None, vocabulary: int, name: str) -> None:
    """Raises ModelError for a tokenizer whose own words are more than a model has embeddings; None is none."""
    if tokenizer is None:
        return
    words = tokenizer.get_vocab().values()
    if not words:
        raise ModelError(f"the tokenizer of {name} has an empty vocabulary")
    # tokens added later are often never used and have no embedding; texts that use them are refused by name
    added = set[int](getattr(tokenizer, "added_tokens_decoder", ()))
    highest = max((word for word in words if word not in added), default=-1)
    if highest >= vocabulary:
        raise ModelError(
            f"the tokenizer does not belong to {name}: its highest token id is {highest}, "
            f"the model has {vocabulary} embeddings"
        )


def refuse_unknown(tokenizer: PreTrainedTokenizerBase, encoded: Sequence[Sequence[int]], names: Sequence[str]) -> None:
    """Raises InputError for texts most of whose tokens stand for what the tokenizer does not know.

    Texts without names are single words and prompts, which are looked at by those who ask for them.
    """
    if not names:
        return
    what = names[0] if len(names) == 1 else f"{names[0]} and its like"
    unknown: int | None = getattr(tokenizer, "unk_token_id", None)
    count, lost = sum(map(len, encoded)), sum(list(ids).count(unknown) for ids in encoded if unknown is not None)
    if 2 * lost > count:
        raise InputError(
            f"the tokenizer does not know the script of {what}: {lost / count:.0%} of its tokens are "
            f"{str(tokenizer.unk_token)!r}, which says nothing of the text; leave this language out"
        )


def refuse_quantised(hf: nn.Module, name: str) -> None:
    """Raises UnsupportedModel for a model in memory whose weights are packed, whoever packed them."""
    for path, module in hf.named_modules():
        tensors = {**dict(module.named_parameters(recurse=False)), **dict(module.named_buffers(recurse=False))}
        found = next((own for own in (*_PACKED, "weight") if own in tensors and _packed(own, tensors[own])), None)
        method = getattr(module, "weight", None)
        if found is None and callable(method) and not isinstance(method, nn.Module):
            found = "weight"  # of torch's own quantised modules it is a method
        if found is not None:
            raise UnsupportedModel(
                f"{name} holds quantised weights ({path or type(module).__name__}.{found}), which are not what was "
                "trained: load it unquantised, or call its dequantize() first"
            )


_PACKED = ("qweight", "W_q", "weight_packed", "q_weight")


def _packed(name: str, tensor: Tensor) -> bool:
    plain = type(tensor) in (Tensor, nn.Parameter) and tensor.is_floating_point() and tensor.element_size() > 1
    return name in _PACKED or not plain


def _begins(path: Path, start: bytes) -> bool:
    try:
        with path.open("rb") as stream:
            return stream.read(len(start)) == start
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from error


def refuse_sizes(config: PreTrainedConfig, name: str, bytes_each: int, room: int | None = None) -> None:
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


def _stated(config: object, names: tuple[str, ...]) -> int:
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
    if "during automatic conversion" in text:
        return f"{name} holds weights that cannot be put together: some are missing, of an expert perhaps"
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


def refuse_placeholders(hf: nn.Module, name: str) -> None:
    """Raises ModelError when weights are placeholders that nothing can fill."""
    if not any(hasattr(module, "_hf_hook") for module in hf.modules()):
        away = offloaded(hf)
        if away:
            raise ModelError(f"{name}: {len(away)} weights were never loaded, the first is {away[0]}")


def check_finite(hf: nn.Module, name: str) -> None:
    """Raises NonFinite naming the first weight that holds NaN or infinity."""
    for weight, parameter in hf.named_parameters():
        if parameter.device.type != "meta" and not bool(torch.isfinite(parameter).all()):
            raise NonFinite(f"the weight {weight} of {name} holds NaN or infinite values")
