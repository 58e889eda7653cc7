"""Multipliers of a model, measured and never read off its configuration: the same key divides in one family and
multiplies in another.

x_{l+1} = a_l (x_l + Σ_w c_w w), by least squares of a block's output on its input and writes; logits = s · (h · W_U),
before a soft cap. Each is fitted on two inputs; where the two disagree, nothing is claimed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from babelscope.models.aside import set_aside
from babelscope.models.hooks import Kind, Site, capture
from babelscope.models.offload import weight_of

if TYPE_CHECKING:
    from babelscope.models.model import Model

AGREEMENT = 1e-4
LENGTH = 6


@dataclass(frozen=True)
class Scales:
    """What a model multiplies writes, stream and logits by."""

    attention: tuple[float, ...]
    """c of each layer's attention"""
    state: tuple[float, ...]
    """c of each layer's linear mixer"""
    mlp: tuple[float, ...]
    stream: tuple[float, ...]
    """a of each layer"""
    logits: float | None
    """s; None: logits are no multiple of h · W_U, and only the model's own head gives them"""

    @classmethod
    def plain(cls, layers: int, logits: float | None = 1.0) -> Scales:
        ones = (1.0,) * layers
        return cls(ones, ones, ones, ones, logits)

    @property
    def facts(self) -> dict[str, float | list[float] | None]:
        """Those that are not 1, for a run's record."""
        found = {"logits": self.logits} if self.logits != 1 else {}
        parts = (("attention", self.attention), ("state", self.state), ("mlp", self.mlp), ("stream", self.stream))
        return found | {name: list(values) for name, values in parts if any(value != 1 for value in values)}


def measure(model: Model) -> Scales:
    """The multipliers of a model, from one pass over two short sequences of token ids."""
    if model.encoder:
        return Scales.plain(model.layers, None)
    ids = torch.randint(0, model.vocabulary, (2, LENGTH), generator=torch.Generator().manual_seed(1)).to(model.device)
    sites = [Site("residual", layer) for layer in range(model.layers + 1)]
    sites += [site for layer in range(model.layers) for site in writes_of(model, layer)]
    whole = "circuits" in model.family.levels and model.family.residual_sum
    mask = torch.ones_like(ids)
    try:
        return _measured(model, ids, mask, sites if whole else [])
    except Exception:  # what cannot run here cannot run in the checks either, which say why
        return Scales.plain(model.layers, None)


def writes_of(model: Model, layer: int) -> list[Site]:
    """Everything that a layer writes to the stream, in its order."""
    found = [Site("attention_write", layer)] if layer in model.attention_layers else []
    found += [Site("state_write", layer)] if layer in model.mixer_layers else []
    return found + ([Site("mlp_write", layer)] if layer in model.neuron_layers else [])


def _measured(model: Model, ids: Tensor, mask: Tensor, sites: list[Site]) -> Scales:
    with torch.inference_mode(), set_aside():
        with capture(model, sites) as seen:
            hidden = model.trunk(ids, mask)
        output: Any = model.hf(input_ids=ids, attention_mask=mask, use_cache=False, return_dict=True)
        logits = _logit_scale(model, hidden, output.logits)
    found = Scales.plain(model.layers, logits)
    if not sites:
        return found
    layers = [_layer(model, seen, layer) for layer in range(model.layers)]
    attention, state, mlp = (
        tuple(layer.get(kind, 1.0) for layer in layers) for kind in ("attention_write", "state_write", "mlp_write")
    )
    return Scales(attention, state, mlp, tuple(layer.get("residual", 1.0) for layer in layers), logits)


def _tolerance(model: Model) -> float:
    """Multipliers within this of 1 are 1: the type's rounding is no multiplier."""
    return AGREEMENT if model.dtype in (torch.float32, torch.float64) else 0.02


def _layer(model: Model, seen: dict[Site, Tensor], layer: int) -> dict[Kind, float]:
    """a (under `residual`) and c of each write of one block that are not 1; none where they cannot be told."""
    tolerance = _tolerance(model)
    parts = [Site("residual", layer), *writes_of(model, layer)]
    columns = [seen[site].double() for site in parts]
    out = seen[Site("residual", layer + 1)].double()
    if not all(bool(one.isfinite().all()) for one in (*columns, out)):
        return {}
    # number by number: where a few dimensions are a thousand times the others, their rounding hides nothing there
    writes = sum((column.abs() for column in columns[1:]), torch.zeros_like(out))
    rounding = 4 * torch.finfo(model.dtype).eps * (writes + columns[0].abs() + out.abs())
    room = (tolerance * writes + rounding).clamp_min(1e-12)

    if bool(((sum(columns[1:], columns[0]) - out).abs() <= room).all()):
        return {}
    fits = [_fit([column[row] / room[row] for column in columns], out[row] / room[row]) for row in range(2)]
    agree = bool((fits[0] - fits[1]).abs().max() <= tolerance * fits[0].abs().max())
    both = (fits[0] + fits[1]) / 2
    made = sum((value * column for value, column in zip(both, columns)), torch.zeros_like(out))
    near = bool(((made - out).abs() <= room + AGREEMENT * out.abs()).all())
    if not agree or not near or float(both[0]) == 0:
        return {}
    a = float(both[0])
    # the fit gives nothing but zeros a 0, and what is never written has no multiplier
    told: dict[Kind, float] = {
        site.kind: _near(model, float(value) / a)
        for site, value, column in zip(parts[1:], both[1:], columns[1:])
        if bool(column.any())
    }
    return {"residual": _near(model, a), **told}


def _fit(columns: list[Tensor], out: Tensor) -> Tensor:
    table = torch.stack([column.reshape(-1) for column in columns], dim=1).cpu()
    return torch.linalg.lstsq(table, out.reshape(-1, 1).cpu(), driver="gelsd").solution[:, 0]


def _near(model: Model, value: float) -> float:
    """A fitted multiplier, or the number of the configuration that it is to within rounding (or whose inverse)."""
    if abs(value - 1) <= _tolerance(model):
        return 1.0
    stated = [float(one) for one in vars(model.config).values() if isinstance(one, float) and one > 0]
    near = [one for known in stated for one in (known, 1 / known) if abs(value - one) <= _tolerance(model) * one]
    return min(near, key=lambda one: abs(value - one), default=value)


def _logit_scale(model: Model, hidden: Tensor, logits: Tensor) -> float | None:
    """s of logits = cap(s · head(h)); None where no one number does it."""
    head = model.hf.get_output_embeddings()
    if head is None or (weight := weight_of(head)) is None:
        return None
    # by the weights, as losses and answers are computed, not by the head's own forward, which may do something else
    raw = torch.nn.functional.linear(hidden.to(weight.device), weight, weight_of(head, "bias"))
    if raw.shape != logits.shape:
        return None
    raw, wanted = raw.double(), logits.to(raw.device).double()
    if not bool(raw.isfinite().all() and wanted.isfinite().all()):
        return None
    cap, tolerance = model.soft_cap, _tolerance(model)

    def fits(scale: float) -> bool:
        made = raw * scale if cap is None else (raw * scale / cap).tanh() * cap
        return float((made - wanted).abs().max()) <= tolerance * float(wanted.abs().max())

    if fits(1.0):  # nothing to fit, also where all logits are zero and every number would do
        return 1.0
    inside = wanted if cap is None else (wanted / cap).clamp(-1 + 1e-12, 1 - 1e-12).atanh() * cap
    kept = torch.ones_like(wanted, dtype=torch.bool) if cap is None else (wanted.abs() < 0.99 * cap)
    slopes = [_slope(raw[row][kept[row]], inside[row][kept[row]]) for row in (0, 1)]
    if None in slopes:
        return None
    first, second = (float(slope or 0.0) for slope in slopes)
    scale = _near(model, (first + second) / 2)
    return scale if abs(first - second) <= tolerance * abs(scale) and fits(scale) else None


def _slope(found: Tensor, wanted: Tensor) -> float | None:
    """The multiple of one that is nearest to the other; None of nothing but zeros, of which every multiple is zero."""
    size = float(found.square().sum())
    return float((found * wanted).sum()) / size if size > 0 else None
