"""The tuned lens: an affine map for each layer before the final norm (section 2; Belrose et al. 2303.08112).

    z_l = norm_final(h_l + h_l A_l + b_l)        rows are vectors; none at the last layer

    ridge   y = h_L − h_l, both centred: A = (HᵀH + λI)⁻¹HᵀY, λ = c · tr(HᵀH) / D, b = ȳ − h̄A; one pass, all layers
    kl      minimises KL(p_L ‖ q_l) at the same position, from A = 0, b = 0, by Nesterov SGD

It can turn a pivot into the target: that a language is absent there refutes nothing.

L layers (the last one has no map) · D width · N position · V vocabulary
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import log
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from babelscope.errors import InputError, ModelError
from babelscope.json_text import parse_json
from babelscope.latent.lens import chunk_logits, normed
from babelscope.latent.running import Text
from babelscope.models import Batch, Model, Site, capture, require
from babelscope.models.batches import halving, plan, token_budget
from babelscope.results.schemas.latent import TunedScore
from babelscope.results.sealed import read_sealed, save_sealed
from babelscope.wording import first_line

Kind = Literal["ridge", "kl"]
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)
"""c of the ridge, chosen on the validation part"""
ROWS = 64
"""positions whose whole vocabulary is held at once"""
WANTED_TOKENS = 20
"""times the width: below so many tokens a lens is said to be fitted on too little"""
Done = Callable[[int], None]
KEY = "babelscope.tuned_lens"


@dataclass(frozen=True)
class TunedLens:
    """The maps of one model, with where they came from; called with a layer and rows, it moves them."""

    kind: Kind
    weight: Float[Tensor, "L D D"]
    bias: Float[Tensor, "L D"]
    weight_hash: str
    """of the model it belongs to"""
    texts: str
    """what it was fitted on"""
    tokens: int
    penalties: tuple[float, ...] = ()
    """c chosen for each layer (ridge)"""
    scores: tuple[TunedScore, ...] = ()
    """on the test part, beside the plain lens"""

    def __call__(self, layer: int, hidden: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
        weight, bias = (part[layer].to(hidden.device, hidden.dtype) for part in (self.weight, self.bias))
        return hidden + hidden @ weight + bias

    def moved(self, hidden: Float[Tensor, "L N D"]) -> Float[Tensor, "L N D"]:
        """The residuals of all layers, those below the last one mapped."""
        inner = [self(layer, values) for layer, values in enumerate(hidden[:-1])]
        return torch.stack([*inner, hidden[-1]])

    def save(self, path: str | Path) -> None:
        """Writes the maps as safetensors with everything else as JSON in its header."""
        facts = {key: value for key, value in asdict(self).items() if key not in ("weight", "bias")}
        tensors = {"weight": self.weight.contiguous(), "bias": self.bias.contiguous()}
        save_sealed(tensors, path, KEY, json.dumps(facts))

    @classmethod
    def load(cls, path: str | Path, model: Model) -> TunedLens:
        """Reads what `save` wrote; raises InputError for another file, ModelError for a lens of another model."""
        from safetensors import SafetensorError

        try:
            stored, tensors = read_sealed(path, KEY)
        except (OSError, SafetensorError, RuntimeError, TypeError, ValueError) as error:
            raise InputError(f"the tuned lens {path} cannot be read: {first_line(error)}") from None
        if set(tensors) != {"weight", "bias"}:
            raise InputError(f"{path} is no tuned lens of babelscope")
        facts: Any = parse_json(stored, f"the header of {path}", non_finite=True)
        try:
            belongs = facts["weight_hash"] == model.weight_hash
            facts["scores"] = tuple(TunedScore(**row) for row in facts["scores"])
            facts["penalties"] = tuple(map(float, facts["penalties"]))
            if facts["kind"] not in get_args(Kind) or type(facts["tokens"]) is not int:
                raise ValueError("its kind or its number of tokens")
            found = cls(weight=tensors["weight"], bias=tensors["bias"], **facts)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"{path} is no tuned lens of babelscope: {first_line(error)}") from None
        if not belongs:
            raise ModelError(f"the tuned lens {path} was fitted on another model than {model.id}; fit one for it")
        shape = (model.layers, model.width, model.width)
        for name, part, wanted in (("weight", found.weight, shape), ("bias", found.bias, shape[:2])):
            if tuple(part.shape) != wanted or not part.is_floating_point() or not bool(torch.isfinite(part).all()):
                raise InputError(f"the {name} of the tuned lens {path} is not {wanted} finite numbers")
        return found


def fit_ridge(model: Model, text: Text, done: Done | None = None) -> TunedLens:
    """Ridge regression of what is still to come on what is there, c of each layer chosen by KL on the validation part.

    Raises InputError where a part of the text is empty.
    """
    moments = [_Moments(model.width) for _ in range(model.layers)]

    def add(values: list[Tensor]) -> None:
        last = values[-1].double()
        for own, hidden in zip(moments, values):
            own.add(hidden.double(), last - hidden.double())

    over_positions(model, text.all("fit"), add, done)
    solutions = {c: [own.solve(c) for own in moments] for c in PENALTIES}
    sums = {c: torch.zeros(model.layers, dtype=torch.float64) for c in PENALTIES}

    def judge(values: list[Tensor]) -> None:
        for rows in _blocks(values):
            target = _log_softmax(model, rows[-1])
            for c, maps in solutions.items():
                for layer, (weight, bias) in enumerate(maps):
                    moved = rows[layer] + (rows[layer].double() @ weight + bias).to(rows[layer].dtype)
                    sums[c][layer] += _divergence(target, _log_softmax(model, moved)).sum()

    over_positions(model, text.all("validation"), judge, done)
    best = [min(PENALTIES, key=lambda c, layer=layer: float(sums[c][layer])) for layer in range(model.layers)]
    chosen = [solutions[c][layer] for layer, c in enumerate(best)]
    weight, bias = (torch.stack(part).float() for part in zip(*chosen))
    return TunedLens("ridge", weight, bias, model.weight_hash, text.spec, text.tokens("fit"), tuple(best))


class _Moments:
    """Σh, Σy, Σhᵀh, Σhᵀy of one layer, float64."""

    def __init__(self, width: int) -> None:
        self.count = 0
        self.h, self.y = (torch.zeros(width, dtype=torch.float64) for _ in range(2))
        self.hh, self.hy = (torch.zeros(width, width, dtype=torch.float64) for _ in range(2))

    def add(self, h: Tensor, y: Tensor) -> None:
        self.count += len(h)
        self.h += h.sum(0).cpu()
        self.y += y.sum(0).cpu()
        self.hh += (h.T @ h).cpu()
        self.hy += (h.T @ y).cpu()

    def solve(self, c: float) -> tuple[Float[Tensor, "D D"], Float[Tensor, " D"]]:
        mean_h, mean_y = self.h / self.count, self.y / self.count
        hh = self.hh - self.count * torch.outer(mean_h, mean_h)
        hy = self.hy - self.count * torch.outer(mean_h, mean_y)
        penalty = c * hh.trace() / len(hh)
        weight = torch.linalg.solve(hh + penalty * torch.eye(len(hh), dtype=hh.dtype), hy)
        return weight, mean_y - mean_h @ weight


def fit_kl(
    model: Model, text: Text, steps: int = 250, step_tokens: int = 2**18, seed: int = 0, done: Done | None = None
) -> TunedLens:
    """Gradient descent on KL(p_L ‖ q_l): Nesterov momentum 0.9, step 0.1 decaying linearly to 0, weight decay 1e-3,
    gradient norm at most 1; `steps` of `step_tokens` tokens, drawn again when the text is used up."""
    weight = torch.zeros(model.layers, model.width, model.width, requires_grad=True)
    bias = torch.zeros(model.layers, model.width, requires_grad=True)
    descent = torch.optim.SGD([weight, bias], lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-3)
    decay = torch.optim.lr_scheduler.LinearLR(descent, 1.0, 1e-9, steps)
    windows = text.all("fit")
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        chosen: list[list[int]] = []
        while sum(map(len, chosen)) < step_tokens:
            chosen.append(windows[int(torch.randint(len(windows), (), generator=generator))])
        positions = sum(map(len, chosen))

        def descend(values: list[Tensor], positions: int = positions) -> None:
            for rows in _blocks(values):
                target = _log_softmax(model, rows[-1])
                for layer in range(model.layers):
                    with torch.enable_grad():
                        own = rows[layer].clone()
                        moved = own + own @ weight[layer].to(own.device) + bias[layer].to(own.device)
                        loss = _divergence(target.clone(), _log_softmax(model, moved)).sum() / positions
                        loss.backward()

        over_positions(model, chosen, descend, done)
        torch.nn.utils.clip_grad_norm_([weight, bias], 1.0)
        descent.step()
        decay.step()
        descent.zero_grad()
        for parameter in model.hf.parameters():
            parameter.grad = None
    return TunedLens("kl", weight.detach(), bias.detach(), model.weight_hash, text.spec, steps * step_tokens)


def scored(model: Model, lens: TunedLens | None, text: Text, done: Done | None = None) -> list[TunedScore]:
    """KL, agreement and bias of a lens (None: the plain one) by layer and language, on the test part."""
    found: list[TunedScore] = []
    name = "logit" if lens is None else lens.kind
    for code in text.languages:
        layers = range(model.layers)
        kl, same = torch.zeros(model.layers, dtype=torch.float64), torch.zeros(model.layers, dtype=torch.float64)
        own_sum = torch.zeros(model.unembedding.shape[0], dtype=torch.float64)
        lens_sum = torch.zeros(model.layers, len(own_sum), dtype=torch.float64)
        count = 0

        def judge(
            values: list[Tensor],
            kl: Tensor = kl,
            same: Tensor = same,
            own_sum: Tensor = own_sum,
            lens_sum: Tensor = lens_sum,
            layers: range = layers,
        ) -> None:
            for rows in _blocks(values):
                target = _log_softmax(model, rows[-1])
                own_sum += target.exp().sum(0)
                for layer in layers:
                    q = _log_softmax(model, rows[layer] if lens is None else lens(layer, rows[layer]))
                    kl[layer] += _divergence(target, q).sum()
                    same[layer] += (target.argmax(1) == q.argmax(1)).sum()
                    lens_sum[layer] += q.exp().sum(0)

        windows = text.parts["test"][code]
        over_positions(model, windows, judge, done)
        count = sum(map(len, windows))
        p, q = own_sum / count, lens_sum / count
        bias = torch.where(p > 0, p * (p.clamp(min=1e-300).log() - q.clamp(min=1e-300).log()), 0.0).sum(1) / log(2)
        found += [
            TunedScore(
                name, code, layer, count, float(kl[layer] / count), float(same[layer] / count), float(bias[layer])
            )
            for layer in layers
        ]
    return found


def over_positions(
    model: Model, windows: Sequence[Sequence[int]], work: Callable[[list[Tensor]], None], done: Done | None = None
) -> None:
    """Calls `work` with the residuals of all layers at all real positions of a batch, [N, D] each, no gradients."""
    if not windows:
        raise InputError("a part of the text for the tuned lens is empty: give more text")
    require(model, "regions")
    sites = [Site("residual", layer) for layer in range(model.layers + 1)]
    read: list[list[Tensor]] = []

    def batch_work(batch: Batch) -> None:
        real = batch.mask.bool()
        with torch.inference_mode(), capture(model, sites) as seen:
            model.trunk(batch.ids, batch.mask)
        with torch.no_grad():
            read.append([seen[site][real.to(seen[site].device)].clone() for site in sites])

    # work adds up, so it is not done within what is done again in halves where memory runs out
    for rows in plan([len(window) for window in windows], token_budget(model.device)):
        for part in halving(windows, rows, batch_work, model.device):
            with torch.no_grad():
                work(read.pop())
            if done:
                done(part)


def _blocks(values: Sequence[Tensor]) -> list[list[Tensor]]:
    """Rows of all layers, a few positions at a time."""
    return [list(part) for part in zip(*(value.split(ROWS) for value in values))]


def _log_softmax(model: Model, hidden: Tensor) -> Tensor:
    logits = chunk_logits(model, normed(model, hidden), slice(0, model.unembedding.shape[0]))
    return torch.log_softmax(logits.double() if model.dtype == torch.float64 else logits.float(), -1).to(hidden.device)


def _divergence(target: Tensor, q: Tensor) -> Tensor:
    """KL(p ‖ q) by row, bits."""
    return (target.exp() * (target - q)).sum(-1).double() / log(2)


def warning(model: Model, lens: TunedLens) -> str:
    """What to say of a lens fitted on too little; empty where there was enough."""
    wanted = WANTED_TOKENS * model.width
    short = lens.tokens < wanted
    return f"the tuned lens saw {lens.tokens} tokens; {wanted} (20 for each dimension) are advised" if short else ""


FITS: Mapping[Kind, Callable[[Model, Text], TunedLens]] = {"ridge": fit_ridge, "kl": fit_kl}
