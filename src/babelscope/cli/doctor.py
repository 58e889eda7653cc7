"""`babelscope doctor`: environment, versions, devices, caches, and what is wrong with them."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import typer

EXTRAS = {
    "hub": "datasets",
    "eval": "lm_eval",
    "ray": "ray",
    "big": "accelerate",
    "lid": "py3langid",
    "app": "gradio",
    "sentencepiece": "sentencepiece",
}
"""extra → the module by which one sees that it is there"""
LOW_DISK = 5 * 1024**3


def doctor() -> None:
    """Print environment, versions, devices and caches, and what is wrong; exit 1 if anything is.

    Example:  babelscope doctor
    """
    problems: list[str] = []
    for title, lines in _sections(problems):
        typer.echo(title)
        for line in lines:
            typer.echo(f"  {line}")
    typer.echo("problems" if problems else "no problems found")
    for problem in problems:
        typer.echo(f"  {problem}")
    if problems:
        raise typer.Exit(1)


def _sections(problems: list[str]) -> Iterator[tuple[str, list[str]]]:
    python = f"python {platform.python_version()}, {platform.system()} {platform.machine()}"
    yield "system", [python, _cores(), _allocator()]
    yield "packages", _packages(problems)
    yield "extras", [f"{name}: {'there' if _there(module) else 'not installed'}" for name, module in EXTRAS.items()]
    yield "devices", _devices(problems)
    yield "built-in models", _pocket(problems)
    yield "caches", _caches(problems)


def _cores() -> str:
    threads = os.environ.get("OMP_NUM_THREADS", "not set")
    return f"{os.cpu_count()} processors; OMP_NUM_THREADS {threads}"


def _allocator() -> str:
    from babelscope.cli.allocator import keep_freed_memory

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
    from babelscope.errors import BabelscopeError
    from babelscope.pocket.models import MODELS, path

    lines: list[str] = []
    for name in MODELS:
        try:
            lines.append(f"{name}: {'there' if (path(name) / 'model.safetensors').is_file() else 'no weights'}")
        except BabelscopeError as error:
            problems.append(str(error))
    return lines


def _caches(problems: list[str]) -> list[str]:
    from huggingface_hub.constants import HF_HUB_CACHE

    place = Path(HF_HUB_CACHE)
    existing = next(folder for folder in [place, *place.parents] if folder.exists())
    free = shutil.disk_usage(existing).free
    if not os.access(existing, os.W_OK):
        problems.append(f"the cache {place} cannot be written; set HF_HOME to a folder that can")
    if free < LOW_DISK:
        problems.append(f"only {free >> 20} MiB are free for the cache {place}; a 7B model takes 15 GiB")
    return [f"models: {place}, {free >> 30} GiB free"]
