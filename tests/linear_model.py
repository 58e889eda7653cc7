"""A GPT-2 without norms, with identity activations and uniform attention: a linear network with heads and MLPs."""

from __future__ import annotations

import torch
from torch import nn

from babelscope.models import Model
from tests.tiny_models import tiny_model, tiny_tokenizer


def linear_model(layers: int = 2, softmax: bool = False, seed: int = 0) -> Model:
    """`softmax` True keeps queries and keys, so that patterns move; everything else stays linear."""
    hf = tiny_model("gpt2", dtype=torch.float64, seed=seed, n_layer=layers)
    width = hf.config.n_embd
    for block in hf.transformer.h:
        block.ln_1, block.ln_2, block.mlp.act = nn.Identity(), nn.Identity(), nn.Identity()
        if not softmax:
            with torch.no_grad():
                block.attn.c_attn.weight[:, :width] = 0
                block.attn.c_attn.bias[:width] = 0
    hf.transformer.ln_f = nn.Identity()
    return Model(hf, tiny_tokenizer(), id="linear")
