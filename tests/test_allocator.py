"""The allocator setting: where it applies it speeds large tensors up, elsewhere it says why it does nothing."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from babelscope import allocator

GLIBC = allocator.reason_not_to({}) is None

FREED = """
import resource, sys
from babelscope.allocator import keep_freed_memory
print(keep_freed_memory())
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        b"x" * (48 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
b"x" * (48 << 20)
print(faults())
"""


def answer(**environment):
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "BABELSCOPE_"))}
    done = subprocess.run(
        [sys.executable, "-c", FREED], env={**clean, **environment}, capture_output=True, text=True, check=True
    )
    said, faults = done.stdout.splitlines()
    return said, int(faults)


@pytest.mark.parametrize(
    ("environment", "why"),
    [
        ({"BABELSCOPE_MALLOC": "0"}, "BABELSCOPE_MALLOC=0"),
        ({"MALLOC_ARENA_MAX": "2"}, "MALLOC_ARENA_MAX is set"),
        ({"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=1"}, "GLIBC_TUNABLES is set"),
        ({"LD_PRELOAD": "/usr/lib/libjemalloc.so.2"}, "another allocator is loaded"),
    ],
)
def test_it_leaves_alone_what_the_user_has_set(environment, why):
    assert allocator.keep_freed_memory(environment) == f"as it was ({why})"


def test_a_platform_without_glibc_is_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert allocator.reason_not_to({}) == "not glibc"


@pytest.mark.skipif(not GLIBC, reason="glibc on Linux only")
def test_freed_blocks_are_used_again_without_asking_the_kernel():
    kept, few = answer()
    plain, many = answer(BABELSCOPE_MALLOC="0")
    assert kept.startswith("keeps freed memory")
    assert plain == "as it was (BABELSCOPE_MALLOC=0)"
    assert few < many / 4


def test_importing_the_library_sets_nothing():
    code = "import sys, babelscope; assert 'babelscope.allocator' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_loading_a_model_onto_the_cpu_sets_it_in_a_script_too(monkeypatch):
    from babelscope.models import load_model, loading

    done = []
    monkeypatch.setattr(loading, "keep_freed_memory", lambda: done.append("asked"))
    load_model("pocket:pocket-bloom-s", device="cpu")
    assert done == ["asked"]
