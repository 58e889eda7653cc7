"""A Ray cluster: the one at an address, the one that is connected already, or one on this machine (`[ray]` extra)."""

from __future__ import annotations

import logging
import os
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from babelscope.errors import InputError, MissingExtra
from babelscope.wording import first_line

_PACKAGE_NOISE = {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


@contextmanager
def cluster(address: str | None, cpus: int | None = None) -> Generator[Any]:
    """Ray's module, connected; what was connected here is left again.

    `cpus`: how many processors a cluster that is started on this machine counts [as many as there are]. Raises
    MissingExtra without ray, InputError when there is no cluster at the address.
    """
    try:
        import ray
    except ImportError as error:
        raise MissingExtra("ray", "ray", "--engine ray") from error
    mine = not ray.is_initialized()
    if mine:
        _connect(ray, address, cpus)
    try:
        yield ray
    finally:
        if mine:
            ray.shutdown()


def _connect(ray: Any, address: str | None, cpus: int | None) -> None:
    for name, value in _PACKAGE_NOISE.items():
        os.environ.setdefault(name, value)
    own = {"include_dashboard": False, "num_cpus": cpus} if address is None else {}
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **own)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise InputError(f"no Ray cluster at {address}: {first_line(error)}") from error
