"""Writes docs/families.md: every type of model that the installed transformers knows, built tiny, and what it passes.

    python docs/make_families.py [--only TYPE …] [--kinds KIND …] [--out docs/families.md | --compare docs/families.md]

Each type is built from a small configuration with random weights (norms, biases and multipliers too, so that nothing is
right by being zero or one) and asked by the gate what it can be used for. What cannot be built says so. `--compare`
says what is otherwise than on the page, and ends with 1 where a type can be used for less.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import resource
import signal
import sys
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
)
from transformers.models.auto import modeling_auto as auto

from babelscope.errors import BabelscopeError
from babelscope.models import Model
from babelscope.models.conformance import Check
from babelscope.models.gate import failures

BEGIN, END = "<!-- written by docs/make_families.py -->", "<!-- end -->"
KINDS: dict[str, tuple[Any, Any]] = {
    "causal": (AutoModelForCausalLM, auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES),
    "image-text": (AutoModelForImageTextToText, auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES),
    "encoder": (AutoModelForMaskedLM, auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES),
    "encoder–decoder": (AutoModelForSeq2SeqLM, auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES),
}
MEMORY = 6 << 30
"""bytes of addresses that a tiny model and the libraries take at most"""
WORDS, WIDTH, LAYERS, HEADS, HEAD, UNITS = 128, 32, 4, 4, 8, 48
SMALL: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "word_embed_proj_dim", "embedding_size"), WIDTH),
    **dict.fromkeys(
        ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "encoder_layers"), LAYERS
    ),
    **dict.fromkeys(
        (
            "num_attention_heads",
            "n_head",
            "n_heads",
            "num_heads",
            "decoder_attention_heads",
            "encoder_attention_heads",
            "attention_heads",
        ),
        HEADS,
    ),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads", "n_head_kv"), 2),
    **dict.fromkeys(("head_dim", "kv_channels"), HEAD),
    **dict.fromkeys(
        ("intermediate_size", "ffn_dim", "decoder_ffn_dim", "encoder_ffn_dim", "d_ff", "ffn_hidden_size", "n_inner"),
        UNITS,
    ),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "expert_ffn_hidden_size"), 16),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "num_experts_per_token", "moe_k", "moe_top_k"), 2),
    **dict.fromkeys(("n_group", "topk_group"), 1),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_sequence_length", "seq_length"), 64),
    "vocab_size": WORDS,
    "sliding_window": 32,
    "attention_window": 8,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    "rotary_dim": 4,
    "vocab_size_per_layer_input": WORDS,
    "hidden_size_per_layer_input": 8,
    "query_pre_attn_scalar": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "mamba_d_state": 8,
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_expand": 2,
    "mamba_d_ssm": 64,
    "mamba_num_heads": 8,
    "mamba_head_dim": 8,
    "ssm_state_size": 8,
    "state_size": 8,
    "lru_width": WIDTH,
    "logits_scaling": 3.0,
    "residual_multiplier": 0.4,
    "embedding_multiplier": 1.7,
    "attention_multiplier": 0.3,
    "logit_scale": 0.3,
    "dim_model_base": 16,
    "scale_depth": 1.4,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "dropout": 0.0,
}
"""sizes and multipliers by the names that configurations have for them"""
LISTS = ("layer_types", "layers_block_type", "mlp_layer_types", "no_rope_layers", "block_types")
"""one entry a layer: cut to the layers that are left"""
OWN: dict[str, dict[str, Any]] = {
    "falcon": {"multi_query": False, "num_kv_heads": HEADS},
    "deepseek_v2": {"num_experts_per_tok": 2, "n_group": 1, "topk_group": 1},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "granitemoehybrid": dict.fromkeys(("layer_types", "layers_block_type"), ["linear_attention", "full_attention"] * 2),
    "zaya": {"num_experts_per_tok": 1},
    "nemotron": {"num_key_value_heads": 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "hunyuan_v1_dense": {"head_dim": HEAD, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
    "hunyuan_v1_moe": {"head_dim": HEAD, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
    "ministral": {"head_dim": HEAD, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
    "xmod": {"default_language": "en_XX"},
    "reformer": {"is_decoder": True},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]], "window_size": 8, "intermediate_size": UNITS},
    "mpt": {"expansion_ratio": 2},
    "phi3": {"original_max_position_embeddings": 64},
    "doge": {"keep_window_size": 64},
    "gptj": {"rotary_dim": 4},
    "codegen": {"rotary_dim": 4, "n_ctx": 64},
    "qwen2_moe": {"decoder_sparse_step": 1},
    "lfm2": {"layer_types": ["conv", "full_attention", "conv", "full_attention"], "block_ff_dim": UNITS},
    "recurrent_gemma": {"block_types": ["recurrent", "recurrent", "attention"], "attention_window_size": 16},
    "mamba": {"intermediate_size": 64},
    "mamba2": {"num_heads": 8, "head_dim": 8, "state_size": 8, "n_groups": 1},
    "zamba2": {"mamba_ngroups": 1},
    "xlm": {"emb_dim": WIDTH},
    "bert": {"is_decoder": True},
    "gemma4_text": {"num_kv_shared_layers": 0, "global_head_dim": HEAD},
    "openai-gpt": {"afn": "gelu"},
    "gpt_bigcode": {"num_key_value_heads": 1},
    "bamba": {"attn_layer_indices": [1, 3]},
    "gemma3n_text": {"num_kv_shared_layers": 0, "intermediate_size": [UNITS] * LAYERS, "altup_num_inputs": 2},
}
_SECTIONS = ("glm4v", "glm_ocr", "paddleocr_vl", "qwen2_5_omni", "qwen2_5_vl", "qwen2_vl")
for _type in _SECTIONS:
    # the frequencies of a head, shared out among time, height and width
    OWN[f"{_type}_text"] = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}}
OWN["glm4v_moe_text"] = {
    "rope_parameters": {
        "rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5, "mrope_section": [1, 1, 0],
    }
}  # fmt: skip
for _type in ("qwen2_5_omni_thinker", "qwen3_omni_moe_thinker"):
    OWN[_type] = {"vision_start_token_id": 3, "image_token_id": 4, "video_token_id": 5, "audio_token_id": 6}
DECODERS = (
    "bert",
    "bert-generation",
    "big_bird",
    "camembert",
    "data2vec-text",
    "electra",
    "ernie",
    "megatron-bert",
    "rembert",
    "roberta",
    "roberta-prelayernorm",
    "roc_bert",
    "roformer",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xmod",
    "qdqbert",
)
"""encoders whose attention is causal only when they are told to be decoders"""


@dataclass(frozen=True)
class Row:
    """What became of one type."""

    kind: str
    type: str
    outcome: str
    """`circuits`, `regions`, `refused`, `not built`, or `fault` for an error that is none of ours"""
    reason: str = ""


def small_config(model_type: str, decoder: bool = False) -> Any:
    """A configuration of a type with everything small that has one of the known names."""
    config = AutoConfig.for_model(model_type)
    kwargs = _shrunk(config, model_type)
    if decoder and model_type in DECODERS:
        kwargs["is_decoder"] = True
    for _ in range(10):
        try:
            return type(config)(**kwargs)
        except AttributeError as error:
            # what a configuration computes from others cannot be set
            name = str(error).partition("property '")[2].partition("'")[0]
            stale = [name] if name in kwargs else [one for one in LISTS if one in kwargs]
            if not name or not stale:
                raise
            for one in stale:
                del kwargs[one]
    raise ValueError("too many settings that cannot be set")


def _shrunk(config: Any, model_type: str) -> dict[str, Any]:
    kwargs: dict[str, Any] = {}
    known = config.to_dict()
    for name, value in SMALL.items():
        if _stated(config, known, name) is not None or (name in known and name.endswith("token_id")):
            kwargs[name] = value
    if "kv_lora_rank" in kwargs and "num_key_value_heads" in kwargs:
        kwargs["num_key_value_heads"] = HEADS
    for name in LISTS:
        found = _stated(config, known, name)
        if isinstance(found, (list, tuple)) and len(found) >= LAYERS:
            kinds = list(dict.fromkeys(found))
            # every kind of layer that there is, as often as fits
            kwargs[name] = [kinds[layer % len(kinds)] for layer in range(LAYERS)]
    parts = ("text_config", "vision_config", "audio_config", "decoder", "encoder")
    for name in dict.fromkeys((*parts, *getattr(type(config), "sub_configs", ()))):
        part = getattr(config, name, None)
        if hasattr(part, "to_dict"):
            kwargs[name] = {**_shrunk(part, part.model_type), "model_type": part.model_type}
    if model_type in ("llama4_text", "mllama_text_model"):
        kwargs["intermediate_size_mlp"] = UNITS
    return kwargs | OWN.get(model_type, {})


def _stated(config: Any, known: dict[str, Any], name: str) -> Any:
    try:
        return known.get(name, getattr(config, name, None))
    except Exception:  # a setting that differs by layer has no value for all of them
        return None


def randomised(model: torch.nn.Module) -> torch.nn.Module:
    """Norms, biases, multipliers made random too."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _, tensor in sorted(model.named_parameters()):
            if tensor.is_floating_point():
                tensor.add_(torch.randn(tensor.shape, generator=generator) * (0.1 if tensor.dim() > 1 else 0.2))
    return model.eval()


def asked(kind: str, model_type: str) -> Row:
    """One type, built and asked."""
    maker = KINDS[kind][0]
    torch.manual_seed(0)
    # of the processor, not of the clock: a busy machine is no reason
    signal.setitimer(signal.ITIMER_PROF, 120)
    try:
        try:
            model = randomised(maker.from_config(small_config(model_type, kind == "causal")))
            if kind == "causal":
                _runs(model)
        except Exception as error:
            return Row(kind, model_type, "not built", _line(error))
        try:
            wrapped = Model(model, None, id=model_type)
            regions = failures(wrapped, "regions")
        except BabelscopeError as error:
            return Row(kind, model_type, "refused", _line(error))
        if not regions and wrapped.no_neurons:
            return Row(kind, model_type, "residual", wrapped.no_neurons)
        if regions:
            return Row(kind, model_type, "refused", _reasons(regions))
        circuits = [check for check in failures(wrapped, "circuits") if check.level == "circuits"]
        if circuits:
            return Row(kind, model_type, "regions", _reasons(circuits))
        return Row(kind, model_type, "circuits")
    except Exception as error:
        return Row(kind, model_type, "fault", f"{type(error).__name__}: {_line(error)}")
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _reasons(failed: Sequence[Check]) -> str:
    return "; ".join(dict.fromkeys(check.problem for check in failed))


def _runs(model: Any) -> None:
    """One pass of the model's own code: sizes that do not fit each other are the configuration's, not ours."""
    ids = torch.randint(3, WORDS, (2, 9), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)


def _line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__


def counts(rows: Iterable[Row]) -> str:
    """How many of each kind pass what."""
    lines = [
        "| kind | types | built | regions | circuits | residual stream alone | refused |",
        "|---|---|---|---|---|---|---|",
    ]
    by_kind: dict[str, Counter[str]] = {}
    for row in rows:
        by_kind.setdefault(row.kind, Counter())[row.outcome] += 1
    for kind, found in by_kind.items():
        built = sum(found.values()) - found["not built"]
        passed = found["regions"] + found["circuits"]
        share = [f"{n} ({n / built:.0%})" if built else "–" for n in (passed, found["circuits"])]
        rest = f"{found['residual']} | {found['refused'] + found['fault']}"
        lines.append(f"| {kind} | {sum(found.values())} | {built} | {share[0]} | {share[1]} | {rest} |")
    return "\n".join(lines)


TOLD = {
    "residual": "residual stream",
    "circuits": "regions, circuits",
    "regions": "regions",
    "refused": "–",
    "not built": "not built",
}
"""outcomes as the page says them"""


def table(rows: Iterable[Row]) -> str:
    """Every type with its outcome."""
    lines = ["| kind | type | usable for | why not more |", "|---|---|---|---|"]
    for row in rows:
        reason = row.reason.replace("|", "\\|")
        lines.append(f"| {row.kind} | {row.type} | {TOLD.get(row.outcome, row.outcome)} | {reason} |")
    return "\n".join(lines)


_LEVELS = ("fault", "not built", "–", "residual stream", "regions", "regions, circuits")
"""from least to most"""


def rows_of_page(page: str) -> dict[tuple[str, str], tuple[str, str]]:
    """Kind and type → what it was usable for and why not more, as a page's table says."""
    found: dict[tuple[str, str], tuple[str, str]] = {}
    for line in page.partition(BEGIN)[2].partition(END)[0].splitlines():
        cells = line.removeprefix("| ").removesuffix(" |").split(" | ", 3)
        if len(cells) == 4 and cells[2] in _LEVELS:
            found[cells[0], cells[1]] = (cells[2], cells[3].replace("\\|", "|"))
    return found


def changes(before: dict[tuple[str, str], tuple[str, str]], rows: Iterable[Row]) -> tuple[list[str], bool]:
    """What is otherwise than before, a line each, and whether a type can be used for less than before."""
    told: list[str] = []
    worse = False
    seen: set[tuple[str, str]] = set()
    kinds: set[str] = set()
    for row in rows:
        key, now = (row.kind, row.type), TOLD.get(row.outcome, row.outcome)
        seen.add(key)
        kinds.add(row.kind)
        was, _ = before.get(key, ("", ""))
        if was == now:
            continue
        less = was != "" and _LEVELS.index(now) < _LEVELS.index(was)
        worse = worse or less
        word = "new" if not was else "worse" if less else "better"
        told.append(f"{word}: {row.kind} {row.type}: {was or 'not there'} → {now} {row.reason}".rstrip())
    gone = [key for key in before if key[0] in kinds and key not in seen]
    return [*told, *(f"gone: {kind} {name}" for kind, name in gone)], worse


def renew(out: Path, rows: Sequence[Row]) -> None:
    """Write the table of a page anew; what was not asked stays as it is there."""
    page = out.read_text(encoding="utf-8")
    asked_now = {(row.kind, row.type) for row in rows}
    outcomes = {told: outcome for outcome, told in TOLD.items()}
    kept = rows_of_page(page).items()
    every = [*rows, *(Row(*key, outcomes.get(told, told), why) for key, (told, why) in kept if key not in asked_now)]
    every.sort(key=lambda row: (list(KINDS).index(row.kind), row.type))
    made = f"With transformers {transformers.__version__}:\n\n{counts(every)}\n\n{table(every)}"
    before, _, rest = page.partition(BEGIN)
    after = rest.partition(END)[2]
    out.write_text(f"{before}{BEGIN}\n{made}\n{END}{after}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", help="types; default: all")
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--out", type=Path, help="page whose table is renewed, in what was asked; default: print")
    parser.add_argument("--compare", type=Path, help="page whose table is compared with")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    signal.signal(signal.SIGPROF, _too_long)
    # a type whose size has a name of its own is not built, and takes no machine down with it
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    rows: list[Row] = []
    for kind in options.kinds:
        for model_type in sorted(KINDS[kind][1]):
            if options.only and model_type not in options.only:
                continue
            with contextlib.redirect_stdout(io.StringIO()):
                rows.append(asked(kind, model_type))
            print(rows[-1].kind, rows[-1].type, rows[-1].outcome, rows[-1].reason, sep=" | ", file=sys.stderr)
            if options.out is not None and options.compare is None:
                renew(options.out, rows)
    if options.compare is not None:
        before = rows_of_page(options.compare.read_text(encoding="utf-8"))
        if options.only:
            before = {key: value for key, value in before.items() if key[1] in options.only}
        lines, worse = changes(before, rows)
        print(f"transformers {transformers.__version__}:", *(lines or ["nothing is otherwise"]), sep="\n")
        sys.exit(int(worse))
    if options.out is None:
        print(counts(rows))


def _too_long(*_: object) -> None:
    raise TimeoutError("took more than 120 seconds of a processor")


if __name__ == "__main__":
    main()
