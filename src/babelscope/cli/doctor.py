"""`babelscope doctor`: environment, versions, devices, caches, and what is wrong with them."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from babelscope.cli.command import verb, verb_app

EXTRAS = {
    "hub": "datasets",
    "eval": "lm_eval",
    "ray": "ray",
    "big": "accelerate",
    "lid": "py3langid",
    "app": "gradio",
    "zstd": "zstandard",
    "sentencepiece": "sentencepiece",
}
"""extra → the module by which one sees that it is there"""
LOW_DISK, LOW_WORK = 5 * 1024**3, 1024**3
"""bytes: a small model; a run"""


app = verb_app("doctor")


@app.default
@verb
def doctor() -> None:
    """Print environment, versions, devices and caches, and what is wrong; exit 1 if anything is.

    For example:

      babelscope doctor
    """
    problems: list[str] = []
    for title, look in SECTIONS.items():
        print(title)
        try:
            lines = look(problems)
        except Exception as error:  # a broken installation raises anything: that is what is looked for here
            lines = []
            problems.append(f"{title}: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}")
        for line in lines:
            print(f"  {line}")
    print("problems" if problems else "no problems found")
    for problem in problems:
        print(f"  {problem}")
    if problems:
        raise SystemExit(1)


def _system(problems: list[str]) -> list[str]:
    python = f"python {platform.python_version()}, {platform.system()} {platform.machine()}"
    encoding = (sys.stdout.encoding or "unknown").lower()
    if not encoding.startswith("utf"):
        problems.append(f"output is written as {encoding}, which most languages do not fit in: set PYTHONUTF8=1")
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if threads and not threads.split(",")[0].strip().isdigit():
        problems.append(f"OMP_NUM_THREADS is {threads!r}, which is no number: unset it, or say 1")
    return [python, f"encoding {encoding}", _cores(), _allocator()]


def _extras(_problems: list[str]) -> list[str]:
    absent = "not installed: pip install 'babelscope[{}]'"
    return [f"{name}: {'there' if _there(module) else absent.format(name)}" for name, module in EXTRAS.items()]


def _cores() -> str:
    threads = os.environ.get("OMP_NUM_THREADS", "not set")
    return f"{os.cpu_count()} processors; OMP_NUM_THREADS {threads}"


def _allocator() -> str:
    from babelscope.allocator import keep_freed_memory

    return f"memory allocator {keep_freed_memory()}"


def _there(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _packages(problems: list[str]) -> list[str]:
    from packaging.requirements import Requirement

    lines: list[str] = []
    for text in ["babelscope", *(requires("babelscope") or [])]:
        need = Requirement(text)
        if need.marker is not None and not need.marker.evaluate({"extra": ""}):
            continue
        try:
            found = version(need.name)
        except PackageNotFoundError:
            problems.append(f"{need.name} is not installed: pip install '{need.name}{need.specifier}'")
            continue
        if not need.specifier.contains(found.split("+")[0], prereleases=True):
            problems.append(f"{need.name} {found} is not {need.specifier}: pip install '{need.name}{need.specifier}'")
        lines.append(f"{need.name} {found}")
    return lines


def _devices(problems: list[str]) -> list[str]:
    import torch

    from babelscope.models.loading import choose_device

    lines = [f"chosen: {choose_device()}; torch threads {torch.get_num_threads()}"]
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        lines.append(f"cuda:{index} {torch.cuda.get_device_name(index)}, {free >> 30} of {total >> 30} GiB free")
    if shutil.which("nvidia-smi") and not torch.cuda.is_available():
        problems.append("there is an NVIDIA driver, but this torch has no CUDA: install a CUDA build of torch")
    return lines


def _pocket(problems: list[str]) -> list[str]:
    from babelscope.errors import ModelError
    from babelscope.pocket.models import MODELS, path

    lines: list[str] = []
    for name in MODELS:
        try:
            weights = path(name) / "model.safetensors"
            if not weights.is_file():
                raise ModelError(f"the weights of {name} are not in this installation: {weights} is missing")
            lines.append(f"{name}: there")
        except ModelError as error:
            problems.append(f"{error}; install babelscope again")
    return lines


def _caches(problems: list[str]) -> list[str]:
    from huggingface_hub.constants import HF_HUB_CACHE, HF_HUB_OFFLINE

    place = Path(HF_HUB_CACHE)
    offline = "; offline (HF_HUB_OFFLINE)" if HF_HUB_OFFLINE else ""
    models = len(list(place.glob("models--*"))) if place.is_dir() else 0
    unfinished = len(list(place.glob("models--*/blobs/*.incomplete"))) if place.is_dir() else 0
    if unfinished:
        problems.append(
            f"{unfinished} unfinished downloads under {place}: load the model again, or delete *.incomplete"
        )
    work = Path(tempfile.gettempdir())
    return [
        f"models: {place}, {models} there, {_room(place, 'HF_HOME', LOW_DISK, problems)}{offline}",
        f"temporary files: {work}, {_room(work, 'TMPDIR', LOW_WORK, problems)}",
    ]


def _room(place: Path, variable: str, low: int, problems: list[str]) -> str:
    """Free space of a folder (of the nearest that exists); a problem when it is little, or cannot be written."""
    existing = next(folder for folder in [place, *place.parents] if folder.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        problems.append(f"{place} cannot be written; set {variable} to a folder that can")
    free = shutil.disk_usage(existing).free
    if free < low:
        problems.append(f"only {free >> 20} MiB are free for {place}; set {variable} to another disk, or make room")
    return f"{free >> 30} GiB free"


SECTIONS: dict[str, Callable[[list[str]], list[str]]] = {
    "system": _system,
    "packages": _packages,
    "extras": _extras,
    "devices": _devices,
    "built-in models": _pocket,
    "caches": _caches,
}
"""title → what looks at it: gives lines, and adds to the problems"""
