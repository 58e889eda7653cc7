"""Getting a model from a hub name, a local folder, or the built-in family; never running foreign code unasked."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from babelscope.allocator import keep_freed_memory
from babelscope.errors import MissingExtra, ModelError
from babelscope.json_text import read_json
from babelscope.models.adapters import CONFIG, merged, refuse_adapter, refuse_inner_adapters
from babelscope.models.families import Family
from babelscope.models.gate import require
from babelscope.models.model import Model
from babelscope.models.refusals import (
    check_finite,
    in_our_words,
    refuse_doubles,
    refuse_files,
    refuse_narrow,
    refuse_placeholders,
    refuse_sizes,
    refuse_unused,
)
from babelscope.models.registry import family_from_file
from babelscope.network import hub_answers

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase


POCKET = "pocket:"
_SPELLINGS = {
    "bf16": "bfloat16",
    "fp16": "float16",
    "half": "float16",
    "f16": "float16",
    "fp32": "float32",
    "f32": "float32",
    "float": "float32",
    "fp64": "float64",
    "f64": "float64",
    "double": "float64",
}


@dataclass(frozen=True)
class LoadOptions:
    """What is done to a model on loading, beyond reading it."""

    merge_adapter: bool = False
    """merge the LoRA or DoRA adapter that the folder holds into the weights"""
    dequantise: bool = False
    """bring quantised weights back to floating point, where transformers can (MXFP4, FP8)"""
    allow_longer: bool = False
    """let texts be longer than the positions that the model was made for (never than learned positions)"""
    family: Family | str | os.PathLike[str] | None = None
    """the row of the architecture, or a TOML file that holds it"""


PLAIN = LoadOptions()


@dataclass(frozen=True)
class Origin:
    """What `load_model` was asked, with which another process loads the same model."""

    id_or_path: str
    revision: str | None
    dtype: str
    device: str | None
    device_map: str | dict[str, Any] | None
    trust_remote_code: bool
    attention: str | None
    options: LoadOptions
    folder: str | None
    """the whole path where it was a folder"""

    def load(self) -> Model:
        """The model, as it was loaded before."""
        model = load_model(
            self.folder or self.id_or_path, self.revision, self.dtype, self.device, self.device_map,
            self.trust_remote_code, self.attention, self.options,
        )  # fmt: skip
        model.id = self.id_or_path
        return model


def choose_device() -> torch.device:
    """CUDA, else Apple's MPS, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def device_called(name: str) -> torch.device:
    """The device of a name such as `cpu`, `cuda:1` or `mps`.

    Raises ModelError when there is no such device here.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ModelError(f"{name!r} is no device; write cpu, cuda, cuda:1 or mps") from error
    here = {
        "cpu": 1,
        "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
        "mps": int(torch.backends.mps.is_available()),
    }
    count = here.get(device.type)
    if count is None:
        raise ModelError(f"{name!r} is no device to compute on; write cpu, cuda, cuda:1 or mps")
    if (device.index or 0) >= count:
        raise ModelError(f"there is no device {name!r} here; leave --device out for the best there is")
    return device


def choose_dtype(name: str, device: torch.device) -> torch.dtype | str:
    """`auto`: the checkpoint's own type on an accelerator, float32 on the CPU."""
    if name == "auto":
        return torch.float32 if device.type == "cpu" else "auto"
    dtype = getattr(torch, _SPELLINGS.get(name, name), None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ModelError(
            f"dtype {name!r} is not a floating-point type; use auto, float32, bfloat16, float16 or float64"
        )
    return dtype


def load_model(
    id_or_path: str | os.PathLike[str],
    revision: str | None = None,
    dtype: str = "auto",
    device: str | None = None,
    device_map: str | dict[str, int | str | torch.device] | None = None,
    trust_remote_code: bool = False,
    attention: str | None = None,
    options: LoadOptions = PLAIN,
) -> Model:
    """Load a causal language model and its tokenizer: a hub name, a folder, `pocket:NAME` or `pocket:NAME@REVISION`.

    Weights are read as safetensors, or as weights-only checkpoints. `attention` chooses the kernel (`sdpa`, `eager`);
    `options`: adapters, quantised weights, longer texts, a row of one's own. Raises ModelError with one line when
    anything is missing, UnsupportedModel when the structure is unknown or fails the gate for regions, NonFinite when a
    weight is NaN or infinite, MissingExtra when `device_map` lacks accelerate.

    >>> load_model("pocket:pocket-bloom-s").layers
    4
    """
    id_or_path = os.fspath(id_or_path)
    family = options.family
    row = family if family is None or isinstance(family, Family) else family_from_file(family)
    target = device_called(device) if device else choose_device()
    chosen = choose_dtype(dtype, target)
    place, hub_revision = _place(id_or_path, revision)
    settings: dict[str, object] = {"revision": hub_revision, "trust_remote_code": trust_remote_code}
    if hub_revision is None:
        del settings["revision"]
    if not Path(place).is_dir() and not hub_answers():
        settings["local_files_only"] = True  # without a network: what is in the cache, at once
    kwargs = {**settings, "dtype": chosen}
    if attention:
        kwargs["attn_implementation"] = attention
    if device_map is not None:
        if device is not None:
            raise ModelError("a device map says where every part goes: leave --device out, or --device-map")
        _need_accelerate()
        kwargs["device_map"] = device_map
    kwargs |= _dequantising(_stored(place, "config.json", settings), id_or_path, options.dequantise)
    if not options.merge_adapter:
        refuse_adapter(_stored(place, CONFIG, settings), id_or_path)
    elif not Path(place).is_dir():
        raise ModelError(f"--merge-adapter takes a folder: download {id_or_path} and give its folder")
    tokenizer = _tokenizer(place, id_or_path, settings)
    adapter: dict[str, str] | None = None
    if options.merge_adapter:
        hf, adapter = merged(Path(place), id_or_path, lambda base: _weights(base, id_or_path, kwargs))
    else:
        hf = _weights(place, id_or_path, kwargs)
    if device_map is None:
        hf = hf.to(target)
    if not options.dequantise and (config := _stored(place, "config.json", settings)) is not None:
        refuse_narrow(config.parent, id_or_path)
    refuse_placeholders(hf, id_or_path)
    check_finite(hf, id_or_path)
    model = Model(hf, tokenizer, id_or_path, revision, row, options.allow_longer)
    if model.device.type == "cpu":
        keep_freed_memory()
    model.adapter = adapter
    require(model, "regions")
    folder = os.path.abspath(id_or_path) if Path(id_or_path).is_dir() else None
    asked = (id_or_path, revision, dtype, device, device_map, trust_remote_code, attention)
    model.origin = Origin(*asked, replace(options, family=row), folder)
    return model


def stored_layers(id_or_path: str | os.PathLike[str], revision: str | None = None) -> int | None:
    """How many layers the configuration of a model names, before any weight is read; None where it does not tell.

    Foreign code is never run for it, and what is wrong with the model is left for loading to say.

    >>> stored_layers("pocket:pocket-bloom-s")
    4
    """
    from transformers import AutoConfig

    place, at = _place(os.fspath(id_or_path), revision)
    how: dict[str, object] = {"revision": at} if at else {}
    if not Path(place).is_dir() and not hub_answers():
        how["local_files_only"] = True
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(place, trust_remote_code=False, **how)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError):
        return None
    if getattr(config, "is_encoder_decoder", False):
        return None
    layers = getattr(config.get_text_config(), "num_hidden_layers", None)
    return layers if isinstance(layers, int) else None


def _place(id_or_path: str, revision: str | None) -> tuple[str, str | None]:
    """What Hugging Face is to open, and the revision there."""
    if id_or_path.startswith(POCKET):
        from babelscope.pocket.models import path  # the built-in family is data, not a dependency of this layer

        name, _, at = id_or_path.removeprefix(POCKET).partition("@")
        if at and revision not in (None, at):
            raise ModelError(f"{id_or_path} names revision {at!r} already: leave --revision {revision} out")
        return str(path(name, at or revision)), None
    folder = Path(id_or_path)
    if folder.is_dir():
        return _folder(folder, id_or_path, revision), None
    if folder.is_file():
        kind = "GGUF is not read" if folder.suffix == ".gguf" else "give the folder that it is in"
        raise ModelError(f"{id_or_path} is a file: {kind}")
    if folder.exists() or id_or_path.startswith((".", "/", "~")) or id_or_path.count("/") > 1:
        raise ModelError(
            f"{id_or_path} is not a folder; "
            "give a model folder, a hub name such as bigscience/bloom-560m, or pocket:NAME"
        )
    return id_or_path, revision


def _folder(folder: Path, name: str, revision: str | None) -> str:
    """A folder of checkpoints has one subfolder for each revision; a model's own folder has no history."""
    if revision is not None:
        if not (folder / revision / "config.json").is_file():
            there = sorted(path.parent.name for path in folder.glob("*/config.json"))
            hint = f"; it has {', '.join(there[:8])}" if there else ": leave --revision out"
            raise ModelError(f"{name} is a folder and has no revision {revision!r}{hint}")
        folder = folder / revision
    elif not (folder / "config.json").is_file() and not (folder / CONFIG).is_file():
        inner = sorted(path.parent.name for path in folder.glob("*/config.json"))
        if inner:
            raise ModelError(f"{name} holds models in {', '.join(inner[:8])}: give one of them, or --revision")
        refuse_files(folder, name)
        raise ModelError(f"{name} has no config.json: a model folder is what save_pretrained writes")
    refuse_files(folder, name)
    refuse_doubles(folder, name)
    refuse_inner_adapters(folder, name)
    return str(folder)


def _tokenizer(place: str, name: str, settings: dict[str, object]) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    if Path(place).is_dir() and not any(Path(place).glob("*token*")) and not any(Path(place).glob("*vocab*")):
        raise ModelError(f"{name} has no tokenizer: put tokenizer.json beside config.json (tokenizer.save_pretrained)")
    try:
        return AutoTokenizer.from_pretrained(place, **settings)
    except Exception as error:
        raise _unloadable(error, name, "the tokenizer of ") from error


def _unloadable(error: Exception, name: str, what: str = "") -> ModelError:
    told = in_our_words(error, name)
    return ModelError(told if told.startswith(f"{name} ") else f"{what}{name} cannot be loaded: {told}")


def _weights(place: str, name: str, kwargs: dict[str, object]) -> nn.Module:
    maker = _maker(place, name, kwargs)
    try:
        loaded: tuple[nn.Module, Mapping[str, Sequence[str]]] = maker.from_pretrained(
            place, output_loading_info=True, ignore_mismatched_sizes=True, **kwargs
        )
        hf, report = loaded
    except Exception as error:
        raise _unloadable(error, name) from error
    missing = sorted(report.get("missing_keys", ()))
    if missing:
        raise ModelError(f"{name}: {len(missing)} weights are missing from the checkpoint, the first is {missing[0]}")
    mismatched = sorted(key for key, *_ in report.get("mismatched_keys", ()))
    if mismatched:
        first = f"the shapes of {len(mismatched)} weights do not fit the configuration, the first is {mismatched[0]}"
        raise ModelError(f"{name}: {first}")
    refuse_unused(report.get("unexpected_keys", ()), name, getattr(hf, "base_model_prefix", "") or "model")
    return hf


def _maker(place: str, name: str, kwargs: dict[str, object]) -> Any:
    """The class that makes a model of this type: a causal one, else an image-text one whose text part is measured, or
    one that has an encoder.
    """
    from transformers import (
        AutoConfig,
        AutoModelForCausalLM,
        AutoModelForImageTextToText,
        AutoModelForMaskedLM,
        AutoModelForSeq2SeqLM,
    )
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    settings = {key: kwargs[key] for key in ("revision", "trust_remote_code", "local_files_only") if key in kwargs}
    try:
        config = AutoConfig.from_pretrained(place, **settings)
    except Exception as error:
        raise _unloadable(error, name) from error
    kind = config.model_type
    chosen = kwargs["dtype"]
    spread = "device_map" in kwargs  # over several devices and the disk
    refuse_sizes(config, name, getattr(chosen, "itemsize", 1), 1 << 62 if spread else None)
    if getattr(config, "is_encoder_decoder", False):
        return AutoModelForSeq2SeqLM
    causal = kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    # types that are encoders unless told to be decoders carry the switch; others that are both are causal
    told = getattr(config, "is_decoder", None)
    if kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES and (told is False or not causal):
        return AutoModelForMaskedLM
    images = kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES and not causal
    return AutoModelForImageTextToText if images else AutoModelForCausalLM


def _stored(place: str, file: str, settings: dict[str, object]) -> Path | None:
    """A file of a model folder, or of a repository on the hub or in its cache; None where there is no such file."""
    if Path(place).is_dir():
        return path if (path := Path(place) / file).is_file() else None
    from transformers.utils import cached_file

    try:
        found: str | None = cached_file(
            place,
            file,
            revision=settings.get("revision"),
            local_files_only=settings.get("local_files_only", False),
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
    except Exception:  # a name that is none is told where the weights are loaded
        return None
    return None if found is None else Path(found)


def _dequantising(config: Path | None, name: str, wanted: bool) -> dict[str, object]:
    """Settings under which quantised weights are read as floating-point ones; the configuration is read first.

    Raises ModelError for a quantised model that was not asked to be dequantised, or cannot be.
    """
    quantised = _quantisation(config)
    if quantised is None:
        if wanted and config is not None:
            raise ModelError(f"{name} holds no quantised weights: leave --dequantise out")
        return {}
    method = str(quantised.get("quant_method", "unknown"))
    if not wanted:
        hint = "add --dequantise" if method in ("mxfp4", "fp8") else "load an unquantised copy"
        raise ModelError(f"{name} holds weights quantised by {method}, which are not what was trained: {hint}")
    from transformers import FineGrainedFP8Config
    from transformers.utils.quantization_config import Mxfp4Config

    kinds: dict[str, type[Mxfp4Config | FineGrainedFP8Config]] = {"mxfp4": Mxfp4Config, "fp8": FineGrainedFP8Config}
    if method not in kinds:
        raise ModelError(f"{name}: transformers cannot dequantise {method}; load an unquantised copy")
    return {"quantization_config": kinds[method](dequantize=True)}


def _quantisation(file: Path | None) -> dict[str, object] | None:
    if file is None:
        return None
    config = read_json(file, error=ModelError, non_finite=True)
    found = config.get("quantization_config") if isinstance(config, dict) else None
    return found if isinstance(found, dict) else None


def _need_accelerate() -> None:
    try:
        import accelerate  # noqa: F401  # pyright: ignore[reportUnusedImport]
    except ImportError as error:
        raise MissingExtra("accelerate", "big", "device_map") from error
