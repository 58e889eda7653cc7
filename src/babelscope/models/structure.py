"""Finding the row of a model: given, registered, built in, or borrowed by structure; each path is looked for in each
layer.

Where the text model sits inside another one (an image-text model), rows are read from the text model on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from torch import nn

from babelscope.errors import UnsupportedModel
from babelscope.models.encoders import is_encoder
from babelscope.models.families import Family, find
from babelscope.models.known import ROWS
from babelscope.models.mixtures import mixture_of
from babelscope.models.registry import outside_row

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

NEURONS = (
    "ffn.2",
    "mlp.down_proj",
    "mlp.c_proj",
    "mlp.fc2",
    "mlp.fc_out",
    "mlp.dense_4h_to_h",
    "mlp.w2",
    "mlp.Wo",
    "mlp.output_linear",
    "feed_forward.w2",
    "feed_forward.down_proj",
    "feed_forward.fc2",
    "ffn.down_proj",
    "ffn.w2",
    "ffn.fc2",
    "ffn.proj_down",
    "mlp_block.down_proj",
    "shared_mlp.output_linear",
    "shared_mlp.down_proj",
    "feed_forward.output",
    "mixer.down_proj",
    "fc2",
    "ff.layer_2",
    "output.dense",
    "ffn.lin2",
    "layer.1.DenseReluDense.wo",
    "ffn.output.dense",
)
"""where an MLP's output projection is, when nothing else of a block is known: enough for regions"""


_NO_TEXT = ("vision", "image", "visual", "audio", "speech")
"""parts of a trunk in which no blocks of a text model are looked for"""


@dataclass(frozen=True)
class Trunk:
    """The part of a model that makes the final hidden states out of token ids."""

    path: str
    module: nn.Module
    inside: bool
    """it sits inside another model (an image-text one)"""


def trunk_of(hf: PreTrainedModel) -> Trunk:
    """The text decoder of a model: what its unembedding reads.

    Raises UnsupportedModel when there is none.
    """
    base: nn.Module | None = hf.base_model
    if getattr(hf.config, "is_encoder_decoder", False):
        encoder: object = hf.get_encoder()
        if not isinstance(encoder, nn.Module):
            raise UnsupportedModel(f"{type(hf).__name__} has no encoder that can be read by itself")
        return Trunk(_name(hf, encoder), encoder, False)
    text = hf.config.get_text_config()
    if text is hf.config:
        if base is hf:
            base = getattr(hf, "model", None) or getattr(hf, "transformer", None)
        if not isinstance(base, nn.Module):
            raise UnsupportedModel(f"{type(hf).__name__} is no model with a head on top of a trunk")
        return Trunk(_name(hf, base), base, False)
    found = hf.get_decoder() if hasattr(hf, "get_decoder") else None
    decoder: nn.Module = hf.base_model if found is None or found is hf else found
    # a text model with a head of its own (Llama 4): its trunk
    while getattr(decoder, "lm_head", None) is not None and (inner := getattr(decoder, "model", None)) is not None:
        decoder = inner
    name = _name(hf, decoder)
    around = name.removesuffix(".decoder")
    if around != name and getattr(hf.get_submodule(around), "config", None) is decoder.config:
        # OPT: what it calls its decoder has blocks and norms, but is not what rows start from
        return Trunk(around, hf.get_submodule(around), True)
    return Trunk(name, decoder, True)


def embeds_tokens(hf: PreTrainedModel) -> bool:
    """Whether there is an embedding of tokens that can be read."""
    try:
        return getattr(hf.get_input_embeddings(), "weight", None) is not None
    except NotImplementedError:  # transformers finds none by the names it knows
        return False


def _name(root: nn.Module, module: nn.Module) -> str:
    return next((name for name, part in root.named_modules() if part is module), "")


def family_of(hf: PreTrainedModel, config: PreTrainedConfig, trunk: Trunk, given: Family | None = None) -> Family:
    """The row of a model: the given one, else registered, built in, or the first known one whose paths all exist.

    Raises UnsupportedModel naming the nearest row and the paths that it misses, layer by layer.
    """
    _refuse_bypassed(config)
    row = given or outside_row(config.model_type, config) or (None if is_encoder(hf) else _built_in(config))
    if is_encoder(hf) and row is None:
        return _encoder_row(hf, config, trunk)
    if row is not None:
        row = placed(row, trunk)
        missing = missing_paths(hf, row)
        if missing:
            raise UnsupportedModel(f"{config.model_type}: the row {row.name!r} finds no module at {_told(missing)}")
        refuse_unreadable(hf, row)
        return row
    # a row that leaves paths out, of attention or of some layers, would fit what it says nothing of
    rows = [row for row in ROWS.values() if isinstance(row, Family) and "circuits" in row.levels and not row.mixed]
    candidates = [placed(row, trunk) for row in rows]
    # rows with more norms are more specific: a Gemma-like block also has every path of a LLaMA block
    candidates.sort(key=lambda row: -_norm_count(row))
    for row in candidates:
        if not missing_paths(hf, row, config.model_type) and _norms_fit(hf, row, config):
            found = replace(row, name=config.model_type, origin="structure", gated=_gated(hf, row))
            return _with_wide_norms(hf, found)
    found = _regions_row(hf, config, trunk)
    if found is not None:
        refuse_unreadable(hf, found)
        return found
    return _without_neurons(hf, config, trunk)


def _without_neurons(hf: PreTrainedModel, config: PreTrainedConfig, trunk: Trunk) -> Family:
    """A row of blocks alone: their residual stream can be recorded, and no neurons.

    Raises UnsupportedModel where there are no blocks either, or experts that cannot be read.
    """
    path = _blocks_of(trunk)
    if path is None:
        raise UnsupportedModel(why_no_neurons(hf, config, trunk))
    row = Family(config.model_type, blocks=path, neurons="", origin="structure")
    refuse_unreadable(hf, row)
    return row


def _norm_count(row: Family) -> int:
    """How many norms of a block a row knows."""
    behind = {row.attention_write, row.mlp_write, row.state_write} - {
        row.attention_output,
        row.neurons,
        row.state_output,
    }
    return len({row.attention_norm, row.mlp_norm, *behind} - {None})


def _encoder_row(hf: PreTrainedModel, config: PreTrainedConfig, trunk: Trunk) -> Family:
    found = _regions_row(hf, config, trunk)
    if found is None:
        return _without_neurons(hf, config, trunk)
    refuse_unreadable(hf, found)
    return found


def _built_in(config: PreTrainedConfig) -> Family | None:
    known = ROWS.get(config.model_type)
    return known if known is None or isinstance(known, Family) else known(config)


def placed(row: Family, trunk: Trunk) -> Family:
    """A row with its paths led through to where the text model is.

    Rows are written for a model whose trunk is its first child: that child's name gives way to the trunk's path.
    """
    if not trunk.inside:
        return row

    def led(path: str) -> str:
        rest = path.partition(".")[2]
        return f"{trunk.path}.{rest}" if trunk.path and not path.startswith(trunk.path + ".") else path

    return replace(row, blocks=led(row.blocks), final_norm=led(row.final_norm) if row.final_norm else None)


def paths_in_block(row: Family) -> list[str]:
    """The paths of a row that every block shall have."""
    inside = [row.neurons]
    if "circuits" in row.levels:
        inside += [row.attention_output, *row.qkv, row.attention_write, row.mlp_write, row.mlp_read, row.attention]
        inside += [*row.query_latent, *row.key_latent, row.state_output, row.state_write, row.head_gates]
        inside += [path for path in (row.attention_norm, row.mlp_norm, row.value_norm) if path]
        inside += row.qk_norms or ()
    return [path for path in dict.fromkeys(inside) if path]


def missing_paths(model: nn.Module, row: Family, name: str = "") -> dict[str, list[int]]:
    """Paths of a row that do not exist, each with the layers that lack it (none: at the top).

    Under a `mixed` row a path may be missing in some layers, not in all. `name` is the model's, for errors.
    """
    blocks = find_blocks(model, row)
    if blocks is None:
        return {row.blocks: []}
    missing: dict[str, list[int]] = {}
    mixtures = {layer for layer, block in enumerate(blocks) if mixture_of(block, layer, name or row.name) is not None}
    for path in paths_in_block(row):
        absent = [layer for layer, block in enumerate(blocks) if find(block, path) is None]
        if path in (row.neurons, row.mlp_write, row.mlp_read):
            absent = [layer for layer in absent if layer not in mixtures]
        if absent and not (row.mixed and len(absent) < len(blocks)):
            missing[path] = absent
    if row.final_norm and find(model, row.final_norm) is None:
        missing[row.final_norm] = []
    return missing


def find_blocks(model: nn.Module, row: Family) -> nn.ModuleList | None:
    """The list of blocks of a row, if the model has one there that is not empty."""
    found = find(model, row.blocks)
    return found if isinstance(found, nn.ModuleList) and len(found) > 0 else None


def _told(missing: dict[str, list[int]]) -> str:
    def told(path: str, layers: list[int]) -> str:
        if not layers:
            return path
        shown = ", ".join(map(str, layers[:4])) + (", …" if len(layers) > 4 else "")
        return f"{path} (layer{'s' if len(layers) > 1 else ''} {shown})"

    return ", ".join(told(path, layers) for path, layers in missing.items())


def _norms_fit(model: nn.Module, row: Family, config: PreTrainedConfig) -> bool:
    """Norms of queries and keys over all heads at once are as wide as all heads: a norm per head is another row."""
    if row.qk_norms is None:
        return True
    blocks = find_blocks(model, row)
    assert blocks is not None
    norm, output = find(blocks[0], row.qk_norms[0]), find(blocks[0], row.attention_output)
    weight, projection = getattr(norm, "weight", None), getattr(output, "weight", None)
    return weight is not None and projection is not None and weight.numel() in projection.shape


def refuse_unreadable(model: nn.Module, row: Family) -> None:
    """Raises UnsupportedModel when a block has experts that cannot be read: their neurons would be left out."""
    for layer, block in enumerate(find_blocks(model, row) or ()):
        mixture_of(block, layer, row.name)


def _refuse_bypassed(config: PreTrainedConfig) -> None:
    if getattr(config, "slow_but_exact", False) and getattr(config, "pretraining_tp", 1) > 1:
        raise UnsupportedModel(
            "slow_but_exact with pretraining_tp > 1 bypasses the output projections; "
            "set slow_but_exact=False in config.json"
        )


def _gated(model: nn.Module, row: Family) -> bool:
    """A gate stands beside or within the projection into the neurons."""
    blocks = find_blocks(model, row)
    assert blocks is not None
    return any("gate" in name.rpartition(".")[2] for block in blocks for name, _ in block.named_modules())


def _with_wide_norms(model: nn.Module, row: Family) -> Family:
    """A borrowed row with the norms over all heads' queries and keys at once, where the attention has such."""
    blocks = find_blocks(model, row)
    parent = row.attention_output.rpartition(".")[0]
    if row.qk_norms is not None or blocks is None or row.layout != "separate":
        return row
    norms = (f"{parent}.q_norm", f"{parent}.k_norm")
    for norm, projection in zip(norms, row.qkv):
        weight = getattr(find(blocks[0], norm), "weight", None)
        rows = getattr(find(blocks[0], projection), "weight", None)
        if weight is None or rows is None or weight.numel() != len(rows):
            return row
    return replace(row, qk_norms=norms)


# -- unknown types --------------------------------------------------------------------------------------------------


def _blocks_of(trunk: Trunk) -> str | None:
    """Path of the longest list of equal blocks in a trunk."""
    best, longest = None, 0
    inside: list[str] = []
    for name, module in trunk.module.named_modules():
        if any(word in name for word in _NO_TEXT):
            continue
        # a list within a list is a part of a block
        if not isinstance(module, nn.ModuleList) or any(name.startswith(other) for other in inside):
            continue
        inside.append(f"{name}.")
        if len(module) > longest:
            best, longest = name, len(module)
    if best is None:
        return None
    return f"{trunk.path}.{best}" if trunk.path else best


def _regions_row(hf: nn.Module, config: PreTrainedConfig, trunk: Trunk) -> Family | None:
    """A row that knows the neurons alone: the one known place of an MLP's output projection that most layers have."""
    path = _blocks_of(trunk)
    blocks = find(hf, path) if path else None
    if path is None or not isinstance(blocks, nn.ModuleList):
        return None
    counts = {name: sum(_is_projection(find(block, name), config) for block in blocks) for name in NEURONS}
    best = max(counts, key=lambda name: counts[name])
    mixtures = {layer for layer, block in enumerate(blocks) if mixture_of(block, layer, config.model_type) is not None}
    if counts[best] == 0 and not mixtures:
        return None
    dense = {layer for layer, block in enumerate(blocks) if _is_projection(find(block, best), config)}
    return Family(
        config.model_type,
        blocks=path,
        neurons=best,
        mlp_write=best,
        mlp_read=best.rpartition(".")[0],
        flattens=True,
        mixed=len(dense | mixtures) < len(blocks),
        origin="structure",
    )


def _is_projection(module: nn.Module | None, config: PreTrainedConfig) -> bool:
    """A linear map into the residual stream."""
    weight = getattr(module, "weight", None)
    width = getattr(config, "hidden_size", None) or getattr(config, "n_embd", None) or getattr(config, "d_model", None)
    return weight is not None and weight.dim() == 2 and (width is None or int(width) in weight.shape)


def why_no_neurons(hf: PreTrainedModel, config: PreTrainedConfig, trunk: Trunk) -> str:
    """Why no neurons of a model are known."""
    path = _blocks_of(trunk)
    blocks = find(hf, path) if path else None
    if path is None or not isinstance(blocks, nn.ModuleList):
        return f"unknown architecture {config.model_type!r}: it has no list of blocks; add a row with register_family"
    parts = ", ".join(name for name, _ in blocks[0].named_children())
    return (
        f"unknown architecture {config.model_type!r}: no MLP at a place that is known in its blocks ({path}: "
        f"{type(blocks[0]).__name__} of {parts}); add a row with register_family or --family"
    )
