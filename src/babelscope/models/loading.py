"""Getting a model from a hub name, a local folder, or the built-in family; never running foreign code unasked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from babelscope.errors import MissingExtra, ModelError, NonFinite
from babelscope.models.conformance import require_conformance
from babelscope.models.model import Model

POCKET = "pocket:"


def choose_device() -> torch.device:
    """CUDA, else Apple's MPS, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def choose_dtype(name: str, device: torch.device) -> torch.dtype | str:
    """`auto`: the checkpoint's own type on an accelerator, float32 on the CPU."""
    if name == "auto":
        return torch.float32 if device.type == "cpu" else "auto"
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ModelError(
            f"dtype {name!r} is not a floating-point type; use auto, float32, bfloat16, float16 or float64"
        )
    return dtype


def load_model(
    id_or_path: str,
    revision: str | None = None,
    dtype: str = "auto",
    device: str | None = None,
    device_map: str | dict[str, Any] | None = None,
    trust_remote_code: bool = False,
    attention: str | None = None,
) -> Model:
    """Load a causal language model and its tokenizer: a hub name, a folder, `pocket:NAME` or `pocket:NAME@REVISION`.

    Weights are read as safetensors, or as weights-only checkpoints. `attention` chooses the kernel (`sdpa`, `eager`).
    Raises ModelError with one line when anything is missing, UnsupportedModel when the structure is unknown or fails
    the conformance suite, NonFinite when a weight is NaN or infinite, MissingExtra when `device_map` lacks accelerate.

    >>> load_model("pocket:pocket-bloom-s").layers
    4
    """
    place, hub_revision = _place(id_or_path, revision)
    target = torch.device(device) if device else choose_device()
    settings: dict[str, Any] = {"revision": hub_revision, "trust_remote_code": trust_remote_code}
    if hub_revision is None:
        del settings["revision"]
    kwargs = {**settings, "dtype": choose_dtype(dtype, target)}
    if attention:
        kwargs["attn_implementation"] = attention
    if device_map is not None:
        _need_accelerate()
        kwargs["device_map"] = device_map
    tokenizer = _tokenizer(place, id_or_path, settings)
    hf = _weights(place, id_or_path, kwargs)
    if device_map is None:
        hf = hf.to(target)
    model = Model(hf, tokenizer, id=id_or_path, revision=revision)
    check_finite(model)
    require_conformance(model)
    return model


def _place(id_or_path: str, revision: str | None) -> tuple[str, str | None]:
    """What Hugging Face is to open, and the revision there."""
    if id_or_path.startswith(POCKET):
        from babelscope.pocket.models import path  # the built-in family is data, not a dependency of this layer

        name, _, at = id_or_path.removeprefix(POCKET).partition("@")
        return str(path(name, at or revision)), None
    folder = Path(id_or_path)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ModelError(f"{id_or_path} has no config.json: a model folder is what save_pretrained writes")
        return id_or_path, None
    if folder.exists() or id_or_path.startswith((".", "/", "~")) or id_or_path.count("/") > 1:
        raise ModelError(
            f"{id_or_path} is not a folder; "
            "give a model folder, a hub name such as bigscience/bloom-560m, or pocket:NAME"
        )
    return id_or_path, revision


def _tokenizer(place: str, name: str, settings: dict[str, Any]) -> Any:
    from transformers import AutoTokenizer

    if Path(place).is_dir() and not any(Path(place).glob("*token*")) and not any(Path(place).glob("*vocab*")):
        raise ModelError(f"{name} has no tokenizer: put tokenizer.json beside config.json (tokenizer.save_pretrained)")
    try:
        return AutoTokenizer.from_pretrained(place, **settings)
    except Exception as error:
        raise ModelError(f"the tokenizer of {name} cannot be loaded: {_first_line(error)}") from error


def _weights(place: str, name: str, kwargs: dict[str, Any]) -> Any:
    from transformers import AutoModelForCausalLM

    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(place, output_loading_info=True, **kwargs)
        hf, report = loaded
    except Exception as error:
        raise ModelError(f"{name} cannot be loaded: {_first_line(error)}") from error
    missing = sorted(report.get("missing_keys", ()))
    if missing:
        raise ModelError(f"{name}: {len(missing)} weights are missing from the checkpoint, the first is {missing[0]}")
    mismatched = report.get("mismatched_keys", ())
    if mismatched:
        raise ModelError(f"{name}: the shapes of {len(mismatched)} weights do not fit the configuration")
    return hf


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _need_accelerate() -> None:
    try:
        import accelerate  # noqa: F401  # pyright: ignore[reportUnusedImport]
    except ImportError as error:
        raise MissingExtra("accelerate", "big", "device_map") from error


def check_finite(model: Model) -> None:
    """Raises NonFinite naming the first weight that holds NaN or infinity."""
    for name, parameter in model.hf.named_parameters():
        if parameter.device.type != "meta" and not bool(torch.isfinite(parameter).all()):
            raise NonFinite(f"the weight {name} of {model.id} holds NaN or infinite values")
