"""Plain loops for latent language, straight from the specification: what the fast paths must equal."""

from __future__ import annotations

import math

import numpy as np
import torch


def softmax_of_layer(model, text: str, layer: int) -> torch.Tensor:
    """p_l at the last position by Hugging Face's own hidden states and head."""
    ids = torch.tensor(model.tokenize([text]))
    with torch.inference_mode():
        output = model.hf(input_ids=ids, output_hidden_states=True)
        if layer == model.layers:
            return output.logits[0, -1].double().softmax(-1)
        hidden = output.hidden_states[layer][0, -1]
        norm = model.norm("final")
        logits = model.hf.get_output_embeddings()(hidden if norm is None else norm(hidden))
        return model.finish_logits(logits).double().softmax(-1)


def entropy_bits(p: torch.Tensor) -> float:
    return -sum(x * math.log2(x) for x in p.tolist() if x > 0)


def masses(p: torch.Tensor, sets) -> list[float]:
    return [sum(float(p[token]) for token in tokens) for tokens in sets]


def excess(q, comparable):
    """e, row and column by layer and concept, one at a time."""
    layers, n, _ = q.shape
    row, col = np.full((layers, n), np.nan), np.full((layers, n), np.nan)
    for layer in range(layers):
        for i in range(n):
            others = [j for j in range(n) if comparable[i, j]]
            if others:
                row[layer, i] = sum(q[layer, i, j] for j in others) / len(others)
                col[layer, i] = sum(q[layer, j, i] for j in others) / len(others)
    mass = np.array([[q[layer, i, i] for i in range(n)] for layer in range(layers)])
    return mass - (row + col) / 2, row, col


def permuted_strength(q, row, col, comparable, chosen, permutation) -> float:
    """A under one permutation of the chosen concepts; NaN where nothing can be compared."""
    items = [i for i in range(len(chosen)) if chosen[i]]
    values = []
    for place, i in enumerate(items):
        j = items[permutation[place]]
        if comparable[i, j]:
            inner = range(1, len(q) - 1)
            values.append(sum(q[l, i, j] - (row[l, i] + col[l, j]) / 2 for l in inner) / len(inner))  # noqa: E741
    return sum(values) / len(values) if values else float("nan")


def patched_last(model, source: str, target: str, layer: int) -> torch.Tensor:
    """E1 by a plain hook on a whole pass: the source's residual entering block `layer` in the target's place."""
    source_ids, target_ids = (torch.tensor(model.tokenize([text])) for text in (source, target))
    part = model.blocks[layer] if layer < model.layers else model.norm("final")
    kept = []

    def read(_, args, kwargs):
        kept.append((args[0] if args else kwargs["hidden_states"])[:, -1].clone())

    def write(_, args, kwargs):
        hidden = (args[0] if args else kwargs["hidden_states"]).clone()
        hidden[:, -1] = kept[0]
        return ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": hidden})

    with torch.inference_mode():
        handle = part.register_forward_pre_hook(read, with_kwargs=True)
        model.hf(input_ids=source_ids)
        handle.remove()
        handle = part.register_forward_pre_hook(write, with_kwargs=True)
        logits = model.hf(input_ids=target_ids).logits[0, -1]
        handle.remove()
    return logits.double().softmax(-1)
