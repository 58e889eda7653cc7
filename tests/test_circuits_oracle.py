"""Path patching equals TransformerLens' on a random GPT-2 of several heads (needs the extra `oracle`)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from babelscope.circuits.core.nodes import Head, Receiver
from babelscope.circuits.patching.methods import activation_patching, path_patching
from babelscope.circuits.patching.swept_batches import Sweep
from babelscope.models import Model
from tests.random_pairs import random_pair
from tests.tiny_models import tiny_model, tiny_tokenizer

pytestmark = pytest.mark.oracle


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    bridges = pytest.importorskip("transformer_lens.model_bridge", reason="the extra oracle is not installed")
    folder = tmp_path_factory.mktemp("oracle")
    tiny_model("gpt2").save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    oracle = bridges.TransformerBridge.boot_transformers(str(folder), device="cpu", dtype=torch.float32)
    return Model(tiny_model("gpt2"), tiny_tokenizer(), id="gpt2"), oracle.eval()


def ids(pairs, which):
    return torch.tensor([getattr(pair, which) for pair in pairs])


def difference(logits, pair):
    return logits[0, -1, pair.target[0]] - logits[0, -1, pair.foil[0]]


def test_the_path_from_a_head_into_another_equals_the_oracles(both):
    """Its direct path leaves MLPs out and patches clean values into the corrupted run, at every position."""
    from transformer_lens.patching import get_act_patch_direct_path

    model, oracle = both
    pair, source = random_pair(0), Head(0, 1)
    with torch.no_grad():
        clean, corrupted = (oracle.run_with_cache(ids([pair], which))[1] for which in ("clean", "corrupted"))
        for kind in ("q", "k", "v"):
            theirs = get_act_patch_direct_path(
                oracle, ids([pair], "corrupted"), clean, corrupted, lambda x: difference(x, pair), 0, 1, kind, False
            )
            for layer in (1, 2):
                for head in range(4):
                    receiver = [Receiver(kind, layer, head)]
                    ours = path_patching(
                        model, [pair], receiver, [source], at=None, mlps="frozen", sweep=Sweep(direction="denoising")
                    )
                    assert ours.patched[0, 0] == pytest.approx(float(theirs[layer, head]), abs=1e-4), (
                        kind,
                        layer,
                        head,
                    )


def test_the_path_to_the_logits_equals_the_oracles_hooks(both):
    """Heads frozen, MLPs recomputed: the four passes with TransformerLens' own hooks."""
    model, oracle = both
    pairs = [random_pair(item) for item in range(3)]
    found = path_patching(model, pairs)
    with torch.no_grad():
        base, source = (oracle.run_with_cache(ids(pairs, which))[1] for which in ("clean", "corrupted"))
        for place, node in enumerate(found.senders):

            def patched(_, hook, node=node):
                z = base[hook.name].clone()
                if hook.name.startswith(f"blocks.{node.layer}."):
                    z[:, -1, node.head] = source[hook.name][:, -1, node.head]
                return z

            hooks = [(f"blocks.{layer}.attn.hook_z", patched) for layer in range(3)]
            end = oracle.run_with_hooks(ids(pairs, "clean"), fwd_hooks=hooks)[:, -1]
            expected = [float(end[i, p.target[0]] - end[i, p.foil[0]]) for i, p in enumerate(pairs)]
            assert np.allclose(found.patched[place], expected, atol=1e-4), node


def test_activation_patching_equals_the_oracles(both):
    from transformer_lens.patching import get_act_patch_attn_head_out_all_pos

    model, oracle = both
    pair = random_pair(0)
    found = activation_patching(model, [pair])
    with torch.no_grad():
        source = oracle.run_with_cache(ids([pair], "corrupted"))[1]
        theirs = get_act_patch_attn_head_out_all_pos(
            oracle, ids([pair], "clean"), source, lambda logits: difference(logits, pair)
        )
    assert np.allclose(found.heads(found.patched[:, 0]), theirs, atol=1e-4)
