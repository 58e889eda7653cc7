"""Values as files, without pickle: dataclasses, mappings and numbers in JSON, arrays as .npy, tables as Parquet.

Only dataclasses of babelscope itself are made again from a file, by calling them; nothing else in it names code.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from babelscope.errors import RunError

if TYPE_CHECKING:
    import torch
    import xarray as xr

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]

MAPPED_BYTES = 64 << 20
"""arrays above this size are mapped from their file instead of read into memory"""
_PACKAGE = "babelscope"


@dataclass
class Packer:
    """Turns one value into JSON, and writes what JSON cannot hold into files of `folder`."""

    folder: Path
    files: list[str] = field(default_factory=list[str])

    def pack(self, value: object) -> Json:
        """The JSON of `value`; raises RunError for what cannot be kept, naming its type."""
        import pandas as pd

        if value is None or isinstance(value, bool | str):
            return value
        if isinstance(value, np.generic) and not isinstance(value, float):
            return self.pack(value.item())
        if isinstance(value, int):
            return int(value)
        if isinstance(value, float):
            return float(value) if math.isfinite(value) else {"float": repr(float(value))}
        if isinstance(value, list):
            return [self.pack(item) for item in value]
        if isinstance(value, tuple):
            return {"tuple": [self.pack(item) for item in value]}
        if isinstance(value, Mapping) and not type(value).__module__.startswith("xarray."):
            return {"map": [[self.pack(key), self.pack(item)] for key, item in value.items()]}
        if isinstance(value, np.ndarray):
            return {"array": self._array(value)}
        if isinstance(value, pd.DataFrame):
            name = self._name("parquet")
            value.to_parquet(self.folder / name, index=False)
            return {"table": name}
        if type(value).__module__.startswith("xarray."):
            return self._labelled(value)
        if type(value).__module__.split(".")[0] == "torch" and hasattr(value, "detach"):
            return self._tensor(value)  # pyright: ignore[reportArgumentType]
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return self._dataclass(value)
        raise RunError(f"a step left a {type(value).__name__}, which cannot be kept in a file")

    def _labelled(self, value: object) -> Json:
        import xarray as xr

        if isinstance(value, xr.DataArray):
            held = [self.pack(tuple(value.dims)), self.pack(value.values), self.pack(value.name)]
            return {"labelled": held, "coordinates": self._variables(value.coords)}
        if isinstance(value, xr.Dataset):
            return {"dataset": self._variables(value.data_vars), "coordinates": self._variables(value.coords)}
        raise RunError(f"a step left a {type(value).__name__}, which cannot be kept in a file")

    def _variables(self, variables: Mapping[Hashable, xr.DataArray]) -> Json:
        return {"map": [[str(name), self.pack((tuple(one.dims), one.values))] for name, one in variables.items()]}

    def _dataclass(self, value: Any) -> Json:
        kind = type(value)
        if kind.__module__.split(".")[0] != _PACKAGE:
            raise RunError(f"a step left a {kind.__module__}.{kind.__qualname__}, which is not babelscope's")
        fields = {one.name: self.pack(getattr(value, one.name)) for one in dataclasses.fields(value) if one.init}
        return {"class": f"{kind.__module__}:{kind.__qualname__}", "fields": fields}

    def _array(self, value: NDArray[np.generic]) -> str:
        if value.dtype.hasobject and all(isinstance(item, str) for item in value.flat):
            value = value.astype(str)
        if value.dtype.hasobject:
            raise RunError("a step left an array of Python objects, which cannot be kept in a file")
        file = getattr(value, "filename", None)
        if file is not None and Path(file).parent == self.folder and Path(file).suffix == ".npy":
            self.files.append(Path(file).name)  # the step wrote it there itself
            return Path(file).name
        name = self._name("npy")
        np.save(self.folder / name, value, allow_pickle=False)
        return name

    def _tensor(self, value: torch.Tensor) -> Json:
        import torch

        held = value.detach().cpu()
        if held.dtype == torch.bfloat16:
            return {"tensor": self._array(held.contiguous().view(torch.int16).numpy()), "dtype": "bfloat16"}
        return {"tensor": self._array(held.numpy())}

    def _name(self, suffix: str) -> str:
        name = f"{len(self.files)}.{suffix}"
        self.files.append(name)
        return name


def unpack(packed: object, folder: Path) -> Any:
    """The value that `Packer.pack` turned into JSON and files; raises RunError for what it would not have written."""
    if packed is None or isinstance(packed, bool | int | float | str):
        return packed
    if isinstance(packed, list):
        return [unpack(item, folder) for item in packed]
    match packed:
        case {"float": text}:
            return float(text)
        case {"tuple": items}:
            return tuple(unpack(item, folder) for item in items)
        case {"map": pairs}:
            return {unpack(key, folder): unpack(item, folder) for key, item in pairs}
        case {"array": name}:
            return _read_array(folder / name)
        case {"table": name}:
            import pandas as pd

            return pd.read_parquet(folder / name)
        case {"tensor": name, **rest}:
            import torch

            # a mapped file is read-only, which a tensor cannot be told: copied into memory
            tensor = torch.from_numpy(np.load(folder / name, allow_pickle=False))
            return tensor.view(torch.bfloat16) if rest else tensor
        case {"labelled": [dimensions, values, name], "coordinates": coordinates}:
            import xarray as xr

            held, at = unpack(values, folder), unpack(coordinates, folder)
            return xr.DataArray(held, at, unpack(dimensions, folder), unpack(name, folder))
        case {"dataset": variables, "coordinates": coordinates}:
            import xarray as xr

            return xr.Dataset(unpack(variables, folder), unpack(coordinates, folder))
        case {"class": name, "fields": fields}:
            return _known(name)(**{key: unpack(item, folder) for key, item in fields.items()})
        case _:
            raise RunError("it holds something that no step writes")


def _read_array(path: Path) -> NDArray[np.generic]:
    large = path.stat().st_size > MAPPED_BYTES
    return np.load(path, mmap_mode="r" if large else None, allow_pickle=False)


def _known(name: str) -> type:
    module, _, path = name.partition(":")
    if module.split(".")[0] != _PACKAGE:
        raise RunError(f"it names {name}, which is not babelscope's")
    found: object = importlib.import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    if not (isinstance(found, type) and dataclasses.is_dataclass(found)):
        raise RunError(f"it names {name}, which is not a dataclass")
    return found
