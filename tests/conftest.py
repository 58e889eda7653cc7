"""What every test shares: one thread, no network, and the folder of real data beside the checkout when it is there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch

torch.set_num_threads(1)

LONGEST = (
    "test_tutorials", "test_claims", "test_evolution_sweep", "test_report_kinds", "test_circuits_screen",
    "test_faults_full", "test_report", "test_faults_kills", "test_evolution_real", "test_training",
    "test_explorer_browser", "test_report_browser", "test_claims_measured",
)  # fmt: skip
"""files that take longest come first, so that no worker is left alone with one of them at the end"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: place for place, name in enumerate(LONGEST)}
    if items and items[0].config.getoption("jaxtyping_packages", None):
        kept = [item for item in items if item.get_closest_marker("wrong_kind") is None]
        items[0].config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = kept
    items.sort(key=lambda item: places.get(item.path.stem, len(LONGEST)))


SHARED = Path(os.environ.get("BABELSCOPE_SHARED", Path(__file__).resolve().parents[2] / "shared"))


def _shared(name: str) -> Path:
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"the folder {name} of real data is not beside the checkout (set BABELSCOPE_SHARED to where it is)")
    return folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real parallel text, tokenizers and minimal pairs."""
    return _shared("data")


@pytest.fixture(scope="session")
def shared_models() -> Path:
    """Small real checkpoints."""
    return _shared("models")


@pytest.fixture
def memory() -> Iterator[Any]:
    """A store that is no folder, empty before and after."""
    from fsspec.implementations.memory import MemoryFileSystem

    system = MemoryFileSystem()
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]
