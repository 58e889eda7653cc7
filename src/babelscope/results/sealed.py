"""Safetensors files with a sum of their own content, so that one flipped bit is noticed wherever the file has got to.

The sum stands in the header beside what is said of the tensors; a file that somebody else wrote has none and is read
as it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from babelscope.errors import BabelscopeError, InputError
from babelscope.results.whole import whole_file

if TYPE_CHECKING:
    from torch import Tensor

SUM = "sha256"
KINDS = {
    "babelscope": "regions of neurons or a steering edit",
    "babelscope.tuned_lens": "a tuned lens",
    "circuit": "a circuit",
}
"""what a file holds, by the key of the text in its header"""


def save_sealed(tensors: Mapping[str, Tensor], path: Path | str, key: str, text: str) -> None:
    """Writes tensors with `text` under `key` of the header, whole or not at all; raises InputError."""
    from safetensors.torch import save_file

    held = {name: part.contiguous() for name, part in tensors.items()}
    with whole_file(Path(path)) as partial:
        save_file(held, partial, metadata={key: text, SUM: _sum(held, text)})


def read_sealed(path: Path | str, key: str, error: type[BabelscopeError] = InputError) -> tuple[str, dict[str, Tensor]]:
    """The text under `key` and the tensors; raises `error` for a file of another kind or with other content.

    Whatever safetensors raises for a file that is none of its own.
    """
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        header: dict[str, str] = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if key not in header:
        other = next((kind for name, kind in KINDS.items() if name in header), "nothing that babelscope wrote")
        raise error(f"{path} holds {other}, not {KINDS[key]}")
    text = header[key]
    if SUM in header and header[SUM] != _sum(tensors, text):
        raise error(f"{path} is damaged: its content is not what was written")
    return text, tensors


def _sum(tensors: Mapping[str, Tensor], text: str) -> str:
    import torch

    digest = hashlib.sha256(text.encode())
    for name, part in sorted(tensors.items()):
        digest.update(f"\n{name} {list(part.shape)} {part.dtype}\n".encode())
        digest.update(part.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
