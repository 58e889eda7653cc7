"""Families from outside: registered by a program, announced by an installed package, or read from a TOML file.

An outside row passes the same gate as a built-in one, and its origin, version and digest go into every run. An
installed package announces rows under the entry-point group `babelscope.families`: the entry's name is the
`model_type`, its value a `Family` or a function from the configuration to one.
"""

from __future__ import annotations

import hashlib
import json
import os
import tomllib
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from babelscope.errors import InputError
from babelscope.models.families import Family, Layout, complete
from babelscope.models.known import ROWS
from babelscope.outside import blaming, entry_named, loaded, origin
from babelscope.wording import first_line

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

Row = Family | Callable[["PreTrainedConfig"], Family]
_registered: dict[str, Row] = {}
_LAYOUTS = get_args(Layout)
_OURS = ("origin",)
"""fields that a row's author does not set"""


def register_family(row: Row, model_type: str, overwrite: bool = False) -> None:
    """Make the row of an architecture known under its `config.model_type`, until the program ends.

    `row` may be a function from the configuration to a row. Raises InputError when the type is known already, unless
    `overwrite`.

    >>> register_family(Family("mine", blocks="model.layers", neurons="mlp.down_proj"), "my-type")
    >>> unregister_family("my-type")
    """
    if not isinstance(row, Family) and not callable(row):
        raise InputError(f"a family is a Family or a function that gives one, not {type(row).__name__}")
    if not overwrite and (model_type in _registered or model_type in ROWS):
        where = "registered" if model_type in _registered else "built in"
        raise InputError(f"the family {model_type!r} is {where} already; give overwrite=True to take yours instead")
    _registered[model_type] = row


def unregister_family(model_type: str) -> None:
    """Forget a registered row. Raises InputError when there is none."""
    if _registered.pop(model_type, None) is None:
        raise InputError(f"no family {model_type!r} was registered")


def outside_row(model_type: str, config: PreTrainedConfig) -> Family | None:
    """The row that a program or an installed package has for an architecture, if any.

    Raises InputError for a row that is none, and for a package's row of a type that is built in.
    """
    entry = None
    found = _registered.get(model_type)
    if found is None:
        entry = entry_named("families", model_type)
        if entry is None:
            return None
        if model_type in ROWS:
            raise InputError(
                f"the package {origin(entry)} announces the family {model_type!r}, which is built in; "
                "register_family(…, overwrite=True) takes another row instead"
            )
        found = loaded("families", entry)
    with blaming("families", entry):
        row = found if isinstance(found, Family) else found(config)
        if not isinstance(row, Family):
            wrong = TypeError if entry else InputError
            raise wrong(f"the row of {model_type!r} is a {type(row).__name__}, not a Family")
        return replace(complete(row), origin="registered")


def family_from_file(path: str | os.PathLike[str]) -> Family:
    """The row in a TOML file: the fields of `Family` by name, data and no code.

    Raises InputError for a file that cannot be read, an unknown field, or a value of the wrong type.
    """
    file = Path(path)
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"the family file {file} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:  # also what is no UTF-8, too deep, or a number without end
        raise InputError(f"{file} is not TOML: {first_line(error)}") from error
    return row_from_data(content, str(file))


def row_from_data(content: dict[str, object], where: str) -> Family:
    """The row that a table of fields describes; `where` names it in errors.

    >>> row_from_data({"name": "mine", "blocks": "model.layers", "neurons": "mlp.down_proj"}, "here").levels
    ('regions',)
    """
    known = {field.name: str(field.type) for field in fields(Family) if field.name not in _OURS}
    for name in content:
        if name not in known:
            raise InputError(f"{where}: {name!r} is no field of a family; the fields are {', '.join(known)}")
    for name in ("name", "blocks", "neurons"):
        if name not in content:
            raise InputError(f"{where}: a family needs {name!r}")
    values = {name: _value(name, known[name], value, where) for name, value in content.items()}
    return replace(complete(Family(**values)), origin="file")


def _value(name: str, kind: str, value: Any, where: str) -> Any:
    """A TOML value as a field's type; the empty string stands for nothing where nothing is possible."""
    wrong = InputError(f"{where}: {name} is {value!r}, and should be {kind.replace('Layout', ' or '.join(_LAYOUTS))}")
    if kind.startswith("tuple"):
        if not isinstance(value, list) or not all(isinstance(part, str) for part in value):
            raise wrong
        if name in ("qk_norms", "query_latent", "key_latent") and len(value) != 2:
            raise wrong
        return tuple(value)
    if kind == "bool":
        fits = isinstance(value, bool)
    elif kind.startswith("int"):
        fits = isinstance(value, int) and not isinstance(value, bool) and value > 0
    elif kind == "Layout":
        fits = value in _LAYOUTS
    else:
        fits = isinstance(value, str)
    if not fits:
        raise wrong
    return None if value == "" and "None" in kind else value


def digest(row: Family) -> str:
    """sha256 over the fields of a row."""
    return hashlib.sha256(json.dumps(asdict(row), sort_keys=True).encode()).hexdigest()
