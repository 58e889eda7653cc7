"""How a model is being run: what changes every number of a pass while weights and structure stay as they are.

Training mode lets dropout act, autocast computes in another type than the model's own, and compiled code does not see
the hooks by which we read. Each is refused, wherever a pass is made.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from babelscope.errors import ModelError


def refuse_mode(parts: Iterable[nn.Module], device: torch.device, name: str) -> None:
    """Raises ModelError when a part of a model is in training mode, or when autocast is on where it computes.

    >>> refuse_mode([nn.Linear(2, 2).eval()], torch.device("cpu"), "mine")
    """
    if any(part.training for part in parts):
        raise ModelError(f"{name} is in training mode, where dropout changes every number: call model.hf.eval()")
    if torch.is_autocast_enabled(device.type):
        kind = str(torch.get_autocast_dtype(device.type)).removeprefix("torch.")
        raise ModelError(
            f"{name} would be computed in {kind} under autocast, which no run records: leave that context, or load the "
            f"model with dtype={kind!r}"
        )


def uncompiled(hf: object) -> object:
    """The model that `torch.compile` was given; another one as it is."""
    inner = getattr(hf, "_orig_mod", None)
    return inner if isinstance(inner, nn.Module) else hf


def compiled_parts(root: nn.Module) -> list[str]:
    """Names of the parts that run as compiled code, in which hooks that come later are not seen."""
    return [name or "(the model)" for name, part in root.named_modules() if _compiled(part)]


def _compiled(part: nn.Module) -> bool:
    own = part.__dict__.get("forward")
    return (
        part.__dict__.get("_compiled_call_impl") is not None
        or hasattr(own, "_torchdynamo_orig_callable")
        or (part.__dict__.get("_modules", {}).get("_orig_mod") is not None)
    )
