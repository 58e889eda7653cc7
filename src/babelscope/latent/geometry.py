"""Controls for the geometry of the unembedding: 2, nothing of source and target left; 3, rows of matched spectrum.

Rows are taken around the mean row of the vocabulary: what all words share moves no softmax.

V vocabulary · D width · R row (a prompt) · U token · L layers + 1 · n item
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from babelscope.latent.excess import excess
from babelscope.latent.lens import CHUNK, normed, read_out
from babelscope.latent.tokens import TokenSets
from babelscope.models import Model

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
DRAWS = 200


@torch.inference_mode()
def mean_row(model: Model) -> Float[Tensor, " D"]:
    """The mean row of the unembedding, in float64."""
    weight = model.unembedding
    total = torch.zeros(weight.shape[1], dtype=torch.float64, device=weight.device)
    for part in weight.split(CHUNK):
        total += part.double().sum(0)
    return total / len(weight)


def target_projection(
    model: Model, tokens: TokenSets, items: Sequence[int], source: str, target: str
) -> Callable[[Tensor], Tensor]:
    """Control 2: takes off each prompt's normed state the span of the centred rows of T(i,a) ∪ T(i,b)."""
    centre = mean_row(model)
    sets = [own | aim for own, aim in zip(tokens.of(source), tokens.of(target))]
    bases = [_basis(model, sorted(one), centre) for one in sets]
    width = max(base.shape[1] for base in bases)
    padded = torch.stack([torch.nn.functional.pad(base, (0, width - base.shape[1])) for base in bases])
    spans = padded[list(items)]  # [P, D, r]; columns of zeros take nothing off

    def project(z: Tensor) -> Tensor:
        own = spans.to(z.device)
        values = z.double()
        inside = torch.bmm(own, torch.bmm(own.transpose(1, 2), values[:, :, None]))[:, :, 0]
        return (values - inside).to(z.dtype)

    return project


def _basis(model: Model, rows: Sequence[int], centre: Tensor) -> Float[Tensor, "D r"]:
    if not rows:
        return torch.zeros(len(centre), 1, dtype=torch.float64)
    vectors = (model.unembedding[list(rows)].detach().double() - centre).cpu().T
    left, scale, _ = torch.linalg.svd(vectors, full_matrices=False)
    return left[:, scale > 1e-9 * scale.max()]


class MatchedRows:
    """Control 3: the words of k with rows of the same length and the same cosine to the concept's target rows.

    r′ = α û + β g: û the unit mean of the concept's centred target rows, g drawn from the rows' own covariance,
    orthogonal to û, |r′| = |r|, cos(r′,û) = cos(r,û). One object holds what all languages share.
    """

    def __init__(self, model: Model, hidden: Float[Tensor, "L P D"], average: Float[Array, "n P"]) -> None:
        self.model = model
        self.average = torch.from_numpy(average)
        self.centre = mean_row(model).cpu()
        with torch.inference_mode():
            self.z = [normed(model, layer).double().cpu() for layer in hidden[1:-1]]
            one = torch.zeros(1, dtype=torch.long)
            self.lse = [read_out(model, normed(model, layer), one).normaliser.double().cpu() for layer in hidden[1:-1]]
        self.root = _root(model, self.centre)

    def quantile(
        self,
        own: Sequence[frozenset[int]],
        aim: Sequence[frozenset[int]],
        comparable: Bool[Mask, "n n"],
        chosen: Bool[Mask, " n"],
        draws: int = DRAWS,
        seed: int = 0,
    ) -> float:
        """The 95 % quantile over draws of A with rows of matched spectrum in the place of k's."""
        pairs = [(item, token) for item, tokens in enumerate(own) for token in sorted(tokens) if aim[item]]
        if not pairs or not self.z:
            return float("nan")
        places = torch.tensor([item for item, _ in pairs])
        rows = self.model.unembedding[[token for _, token in pairs]].detach().double().cpu() - self.centre
        unit = self._directions(aim)[places]
        alpha = torch.linalg.vecdot(rows, unit)
        beta = (rows.square().sum(1) - alpha.square()).clamp(min=0).sqrt()
        bias: Tensor | None = getattr(self.model.hf.get_output_embeddings(), "bias", None)
        shift = 0.0 if bias is None else bias[[token for _, token in pairs]].detach().double().cpu()
        member = torch.zeros(len(pairs), len(own), dtype=torch.float64)
        member[range(len(pairs)), places] = 1
        generator = torch.Generator().manual_seed(seed)
        strengths: list[float] = []
        for _ in range(draws):
            g = torch.randn(len(pairs), len(self.root), generator=generator, dtype=torch.float64) @ self.root
            g = g - torch.linalg.vecdot(g, unit)[:, None] * unit
            drawn = alpha[:, None] * unit + beta[:, None] * torch.nn.functional.normalize(g, dim=1)
            strengths.append(self._strength(drawn + self.centre, rows + self.centre, shift, member, comparable, chosen))
        return float(np.quantile(strengths, 0.95))

    def _directions(self, aim: Sequence[frozenset[int]]) -> Float[Tensor, "n D"]:
        found = torch.zeros(len(aim), len(self.centre), dtype=torch.float64)
        for item, tokens in enumerate(aim):
            if tokens:
                found[item] = self.model.unembedding[sorted(tokens)].detach().double().cpu().mean(0) - self.centre
        return torch.nn.functional.normalize(found, dim=1)

    def _strength(
        self,
        drawn: Tensor,
        rows: Tensor,
        shift: Tensor | float,
        member: Tensor,
        comparable: Mask,
        chosen: Mask,
    ) -> float:
        q: list[Array] = []
        for z, lse in zip(self.z, self.lse):
            new = torch.exp(self.model.finish_logits(z @ drawn.T + shift) - lse[:, None]) @ member
            old = torch.exp(self.model.finish_logits(z @ rows.T + shift) - lse[:, None]) @ member
            # the softmax over a vocabulary in which the concept's rows, and no others, are the drawn ones
            q.append((self.average @ (new / (1 - old + new).clamp(min=1e-300))).numpy())
        value = excess(np.stack(q), comparable).value.mean(0)[chosen]
        return float(np.nanmean(value)) if (~np.isnan(value)).any() else float("nan")


@torch.inference_mode()
def _root(model: Model, centre: Tensor) -> Float[Tensor, "D D"]:
    """A matrix R with RᵀR = Σ, the covariance of the vocabulary's rows."""
    weight = model.unembedding
    moment = torch.zeros(weight.shape[1], weight.shape[1], dtype=torch.float64)
    for part in weight.split(CHUNK):
        x = part.double().cpu() - centre
        moment += x.T @ x
    values, vectors = torch.linalg.eigh(moment / len(weight))
    return (vectors * values.clamp(min=0).sqrt()).T
