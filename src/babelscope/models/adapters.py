"""Adapters (LoRA, DoRA and their kind): found where they are not merged, and merged on request.

An unmerged adapter adds to what a module multiplies with, so that the module's weight is not its linear map.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable
from pathlib import Path

from torch import nn

from babelscope.errors import MissingExtra, ModelError
from babelscope.json_text import read_json
from babelscope.results.scratch import Scratch
from babelscope.wording import first_line

CONFIG = "adapter_config.json"


def adapter_parts(hf: nn.Module) -> list[str]:
    """Names of the modules that carry an adapter, as peft builds them (found without importing peft)."""
    kinds = {"BaseTunerLayer", "PeftModel"}
    return [
        name or type(module).__name__
        for name, module in hf.named_modules()
        if any(base.__name__ in kinds for base in type(module).__mro__)
    ]


def refuse_adapter(config: Path | None, name: str) -> None:
    """Raises ModelError when a model comes with an adapter's configuration: the base's weights alone are not it."""
    if config is not None:
        kind = str(_settings(config.parent).get("peft_type", "LoRA"))
        if kind in _PROMPTS:
            raise ModelError(
                f"{name} holds a {kind} adapter, which is no change of weights: remove the adapter's files"
            )
        raise ModelError(f"{name} holds a {kind} adapter: add --merge-adapter, or remove the adapter's files")


def refuse_inner_adapters(folder: Path, name: str) -> None:
    """Raises ModelError for a model's folder with adapters in folders of it: which are meant is not said."""
    inner = sorted(path.parent.name for path in folder.glob(f"*/{CONFIG}"))
    if inner:
        raise ModelError(
            f"{name} holds adapters in {', '.join(inner[:4])}: move them out of the folder (--merge-adapter merges one "
            "whose files lie beside config.json)"
        )


_PROMPTS = ("PROMPT_TUNING", "PREFIX_TUNING", "P_TUNING", "MULTITASK_PROMPT_TUNING", "ADAPTION_PROMPT", "CPT")
"""kinds that put tokens or keys in front of a text"""


def merged(folder: Path, name: str, load: Callable[[str], nn.Module]) -> tuple[nn.Module, dict[str, str]]:
    """The base model with the folder's adapter merged into its weights, and the hashes of base and adapter.

    The base is the folder's own weights, else the model that the adapter names; `load` loads it.
    """
    from babelscope.models.hashing import weight_hash

    try:
        from peft import PeftModel
    except ImportError as error:
        raise MissingExtra("peft", "big", "--merge-adapter") from error
    if not (folder / CONFIG).is_file():
        raise ModelError(f"{name} holds no adapter to merge: it has no {CONFIG}")
    kind = str(_settings(folder).get("peft_type", "LoRA"))
    if kind in _PROMPTS:
        raise ModelError(f"the {kind} adapter of {name} is no change of weights, so it cannot be merged into them")
    if not any(folder.glob("adapter_model*")):
        raise ModelError(
            f"{name} holds the configuration of an adapter without its weights (adapter_model.safetensors)"
        )
    with Scratch("adapter") as bare:
        base = load(_without_adapter(folder, bare, name))
    parts = {
        f"{path}.{own}" if path else own: (module, own)
        for path, module in base.named_modules()
        for own, _ in module.named_parameters(recurse=False)
    }
    facts = {"base_weight_hash": weight_hash(parts), "adapter_hash": _hash(folder)}
    try:
        with warnings.catch_warnings():
            # peft only warns of tensors that do not fit, and leaves random ones in their places: they are counted here
            warnings.simplefilter("ignore")
            adapted = PeftModel.from_pretrained(base, str(folder))
            result = adapted.load_adapter(str(folder), "default")
            odd: list[str] = [*result.missing_keys, *result.unexpected_keys]
            whole: nn.Module = base if odd else adapted.merge_and_unload()
    except Exception as error:
        raise ModelError(f"the adapter of {name} cannot be merged: {first_line(error)}") from error
    if odd:
        raise ModelError(
            f"the adapter of {name} is of another model: {len(odd)} tensors do not fit, the first {odd[0]}"
        )
    if adapter_parts(whole):
        raise ModelError(f"the adapter of {name} is of a kind that cannot be merged into weights")
    return whole, facts


def _settings(folder: Path) -> dict[str, object]:
    found: object = read_json(folder / CONFIG, error=ModelError)
    if not isinstance(found, dict):
        raise ModelError(f"{folder / CONFIG} is no mapping: it is not what PEFT's save_pretrained writes")
    return found


def _without_adapter(folder: Path, bare: Path, name: str) -> str:
    """Where the base model is: a folder of links to all but the adapter, or the place that the adapter names."""
    if (folder / "config.json").is_file():
        for file in folder.iterdir():
            if not file.name.startswith("adapter_"):
                (bare / file.name).symlink_to(file.resolve())
        return str(bare)
    base = _settings(folder).get("base_model_name_or_path")
    if not base:
        raise ModelError(f"the adapter in {name} does not say which model it belongs to")
    return str(base)


def _hash(folder: Path) -> str:
    found = sorted(file for file in folder.iterdir() if file.name.startswith("adapter_"))
    digest = hashlib.sha256()
    for file in found:
        digest.update(file.name.encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()
