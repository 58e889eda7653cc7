"""Information flow routes straight from the paper, with every part of every sum in memory (circuits.md, section 5)."""

from __future__ import annotations

import torch

from babelscope.circuits.core.cache import projection
from babelscope.models import Site, capture
from babelscope.models.families import find


@torch.no_grad()
def flow_parts(model, ids, layer):
    """f [i, j, h, D], what enters, what joins no head (the bias), what attention writes, what the MLP writes."""
    sites = [Site(kind, layer) for kind in ("residual", "v", "z", "attention_write", "mlp_write")]
    before = model.config._attn_implementation
    model.hf.set_attn_implementation("eager")
    with capture(model, sites) as seen:
        patterns = model.hf.base_model(input_ids=ids, output_attentions=True, use_cache=False).attentions[layer][0]
    model.hf.set_attn_implementation(before)
    values = seen[Site("v", layer)][0].repeat_interleave(model.heads // model.kv_heads, dim=1)
    parts = torch.einsum("hij,jhe,hed->ijhd", patterns.float(), values, model.output_weight(layer))
    bias = getattr(projection(model, layer), "bias", None)
    bias = torch.zeros(model.width) if bias is None else bias
    if model.family.post_norms:
        norm = find(model.blocks[layer], model.family.attention_write)
        whole = parts.sum((1, 2)) + bias
        ratio = norm(whole) / whole  # an RMSNorm multiplies, element by element
        parts, bias = parts * ratio[:, None, None], bias * ratio
    written = [seen[Site(kind, layer)][0] for kind in ("attention_write", "mlp_write")]
    return parts, seen[Site("residual", layer)][0], bias, *written


def naive_shares(model, ids, layer, epsilon):
    """e of heads [i, h, j], of the residual [i] and of the MLP [i], one by one."""
    parts, entering, _, attention, mlp = flow_parts(model, ids, layer)
    length = len(entering)
    heads = torch.zeros(length, model.heads, length)
    residual, feed = torch.zeros(length), torch.zeros(length)
    for i in range(length):
        whole = entering[i] + attention[i] + (mlp[i] if model.family.parallel else 0)
        for head in range(model.heads):
            for j in range(i + 1):
                heads[i, head, j] = proximity(parts[i, j, head], whole, epsilon)
        residual[i] = proximity(entering[i], whole, epsilon)
        total = heads[i].sum() + residual[i]
        if model.family.parallel:
            feed[i] = proximity(mlp[i], whole, epsilon)
            total = total + feed[i]
            feed[i] /= total
        else:
            mid = entering[i] + attention[i]
            both = [proximity(part, mid + mlp[i], epsilon) for part in (mlp[i], mid)]
            feed[i] = both[0] / sum(both)
        heads[i] /= total
        residual[i] /= total
    return heads, residual, feed


def proximity(part, whole, epsilon):
    return max(float(whole.abs().sum() - (whole - part).abs().sum()), epsilon)
