"""Labelled arrays of a run: xarray datasets in one Zarr v3 store, one group per purpose."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Generator, Hashable
from pathlib import Path

import numpy as np
import xarray as xr
import zarr

from babelscope.errors import RunError
from babelscope.results.manifest import plain

STORE = "arrays.zarr"
_CHUNK_BYTES = 8 << 20


@contextlib.contextmanager
def _quiet_zarr() -> Generator[None]:
    """Strings and consolidated metadata are not in the letter of the v3 specification yet, and zarr warns of both."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*Zarr.*")
        warnings.filterwarnings("ignore", message=".*[Cc]onsolidated.*")
        yield


def write_arrays(root: Path, dataset: xr.Dataset, group: str | None = None) -> None:
    """Adds the variables of `dataset` to a group of the run's store, in chunks of at most 8 MB."""
    dataset = _new_variables(root, _storable(dataset), group)
    encoding: dict[Hashable, dict[str, object]] = {
        name: {"chunks": _chunks(array.shape, array.dtype.itemsize)}
        for name, array in dataset.variables.items()
        if array.ndim
    }
    with _quiet_zarr():
        dataset.to_zarr(
            root / STORE, group=group, mode="a", zarr_format=3, consolidated=False, encoding=encoding, safe_chunks=False
        )


def consolidate(root: Path) -> None:
    """Writes each group's metadata into one place, so that opening a group costs one read."""
    store = root / STORE
    if not store.is_dir():
        return
    with _quiet_zarr():
        zarr.consolidate_metadata(store)
        for group in groups(root):
            zarr.consolidate_metadata(store, path=group)


def groups(root: Path) -> list[str]:
    """Names of the groups below the root group."""
    store = root / STORE
    found = (path.parent.relative_to(store).as_posix() for path in store.rglob("zarr.json"))
    return sorted(
        name for name in found if name != "." and b'"node_type": "group"' in (store / name / "zarr.json").read_bytes()
    )


def read_arrays(root: Path, group: str | None = None) -> xr.Dataset:
    """One group, lazily; raises RunError when the run holds no such group or its store is damaged."""
    store = root / STORE
    if not (store / (group or "") / "zarr.json").is_file():
        raise RunError(f"the run {root} holds no arrays" + (f" in the group {group!r}" if group else ""))
    try:
        with _quiet_zarr():
            dataset = xr.open_zarr(store, group=group, consolidated=True, chunks=None)
            return dataset.assign_coords({name: _text(coord) for name, coord in dataset.coords.items()})
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise RunError(f"the arrays of the run {root} are damaged: {error}") from error


def _new_variables(root: Path, dataset: xr.Dataset, group: str | None) -> xr.Dataset:
    """`dataset` without the coordinates that the group already has, and with its attributes; refuses to overwrite."""
    if not (root / STORE / (group or "") / "zarr.json").is_file():
        return dataset
    with _quiet_zarr():
        stored = xr.open_zarr(root / STORE, group=group, consolidated=False, chunks=None)
    for name in [str(name) for name in dataset.variables if name in stored.variables]:
        if name not in dataset.coords or not np.array_equal(stored[name].values, dataset[name].values):
            raise RunError(f"the arrays of this run already hold another {name!r}")
        dataset = dataset.drop_vars(name)
    return dataset.assign_attrs({**stored.attrs, **dataset.attrs})


def _storable(dataset: xr.Dataset) -> xr.Dataset:
    dataset = dataset.copy()
    dataset.attrs = plain(dataset.attrs, "attributes")
    for variable in dataset.variables.values():
        variable.attrs = plain(variable.attrs, "attributes")
        variable.encoding = {}
    return dataset


def _text(coordinate: xr.DataArray) -> xr.DataArray:
    """Labels as numpy text, whatever string type the store gave them."""
    if coordinate.dtype.kind in "OT":
        return coordinate.astype(str)
    return coordinate


def _chunks(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """The whole array, its leading axes halved until a chunk is small enough."""
    chunk = [max(1, size) for size in shape]
    for axis in range(len(chunk)):
        while np.prod(chunk, dtype=np.int64) * itemsize > _CHUNK_BYTES and chunk[axis] > 1:
            chunk[axis] = -(-chunk[axis] // 2)
    return tuple(chunk)
