"""The labelled arrays of a circuits study: what every head and MLP does, by language."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from babelscope.circuits.heads.roles import Roles
from babelscope.models import Model
from babelscope.studies.circuit_measures import Measured

Array = NDArray[np.float64]


def head_arrays(model: Model, done: Mapping[str, Measured]) -> xr.Dataset:
    """Effects of heads and MLPs in every language, and attention between roles, labelled."""
    codes = list(done)
    half = ("language", "layer", "head")
    data: dict[str, object] = {
        "activation_patching": (half, np.stack([done[code].activation.heads() for code in codes])),
        "path_logits": (half, np.stack([done[code].path.heads() for code in codes])),
        "mlp_patching": (("language", "layer"), np.stack([done[code].activation.mlps() for code in codes])),
        "mlp_path_logits": (("language", "layer"), np.stack([done[code].path.mlps() for code in codes])),
        "lens_before": (("language", "layer"), np.stack([done[code].lens.before.mean(1) for code in codes])),
        "lens_after": (("language", "layer"), np.stack([done[code].lens.after.mean(1) for code in codes])),
    }
    intervals = [done[code].path.interval() for code in codes]
    for name, place in (("path_logits_low", 0), ("path_logits_high", 1)):
        data[name] = (half, np.stack([done[c].path.heads(ends[place]) for c, ends in zip(codes, intervals)]))
    for role in _common(done[code].at_roles for code in codes):
        name = role.lower().replace("+", "_")
        data[f"step_patching_at_{name}"] = (half, np.stack([done[code].at_roles[role].heads() for code in codes]))
    blank = np.full((model.layers, model.heads), np.nan)
    for step in dict.fromkeys(found.step.name for code in codes for found in done[code].found.steps):
        effects = [done[code].found[step].effects for code in codes]
        if any(effect is not None for effect in effects):
            data[f"step_{step}"] = (half, np.stack([blank if e is None else e.heads() for e in effects]))
    for corruption in dict.fromkeys(name for code in codes for name in done[code].decomposed):
        effects = [done[code].decomposed.get(corruption) for code in codes]
        name = "step_s_inhibition_" + corruption.replace("-", "_")
        data[name] = (half, np.stack([blank if e is None else e.heads() for e in effects]))
    roles = _common({role: role for role in done[code].roles.readers} for code in codes)
    data["attention_role"] = (
        ("language", "role", "role2", "layer", "head"),
        np.stack([_between(done[code].roles, roles) for code in codes]),
    )
    coords = {
        "language": codes,
        "layer": np.arange(model.layers),
        "head": np.arange(model.heads),
        "role": roles,
        "role2": roles,
    }
    return xr.Dataset(data, coords=coords)


def _common(parts: Iterable[Mapping[str, object]]) -> list[str]:
    every = list(parts)
    return [name for name in every[0] if all(name in part for part in every)] if every else []


def _between(roles: Roles, names: Sequence[str]) -> Array:
    places = [roles.readers.index(name) for name in names]
    return roles.attention[np.ix_(places, places)]
