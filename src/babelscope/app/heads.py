"""A prompt with a right and a wrong answer: what the model says, which heads say it, and where a head looks.

Direct attribution with the final norm frozen at its scale on this prompt (circuits.md, section 4): the parts add up to
the difference of the two logits.

T position · D width · P layer · H head · E head width
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from babelscope.app.layers import seen
from babelscope.app.session import Session
from babelscope.app.work import ATTENTION_LIMIT, TOKENS_LIMIT, Work, bounded
from babelscope.circuits.core.nodes import check_model
from babelscope.circuits.heads.patterns import patterns_by_layer
from babelscope.circuits.patching.path_passes import attention_output
from babelscope.errors import InputError
from babelscope.languages import script_of
from babelscope.models import Model, Site, capture
from babelscope.models.families import find
from babelscope.models.norms import FrozenNorm, frozen_norm
from babelscope.tasks import TASKS, Encoder, PromptSet, build

NO_BLANKS = {"Hani", "Hira", "Kana", "Thai", "Laoo", "Khmr", "Mymr"}
"""scripts that put no blank before the next word"""


@dataclass(frozen=True)
class Answer:
    """What the model says after a prompt, and how much each part adds to logit(target) − logit(foil)."""

    difference: float
    heads: Float[Tensor, "P H"]
    mlps: Float[Tensor, " P"]
    rest: float
    """embedding and biases"""
    next_words: pd.DataFrame
    target: str
    foil: str


@dataclass(frozen=True)
class Pattern:
    """Where one head looks: row reads from column."""

    words: tuple[str, ...]
    weights: Float[Tensor, "T T"]


@dataclass(frozen=True)
class Example:
    """One prompt of the IOI task."""

    prompt: str
    target: str
    foil: str


def ioi_languages() -> tuple[str, ...]:
    """Languages with IOI prompts."""
    return TASKS["ioi"].languages


def ioi_example(session: Session, language: str, place: int) -> Example:
    """The `place`-th IOI prompt that this tokenizer can pose in a language (round and round).

    Raises NoPromptSurvives with the reasons where there is none.
    """
    encoder = Encoder(session.need_model().tokenizer)
    made: dict[str, PromptSet] = session.__dict__.setdefault("_ioi", {})
    if language not in made:
        made[language] = build("ioi", encoder, language, n=16, split="auto")
    prompts = made[language]
    pair = prompts[place % len(prompts)]
    session.__dict__.setdefault("_pairs", {})[pair.clean_text.strip()] = pair
    return Example(pair.clean_text, encoder.decode(pair.target), encoder.decode(pair.foil))


def answer(session: Session, prompt: str, target: str, foil: str, work: Work, top: int = 10) -> Answer:
    """Next words, logit difference and direct attribution of every head and MLP at the last token.

    Answers of several tokens are compared by the first in which they differ; what they share joins the prompt. Raises
    InputError for a prompt that is too long or answers of which one begins the other, UnsupportedModel where the
    residual stream is not a sum.
    """
    model = session.need_model()
    check_model(model)
    prompt = bounded(prompt, "the prompt").rstrip()
    encoder = Encoder(model.tokenizer)
    right = _tokens(encoder, prompt, bounded(target, "the right answer"))
    wrong = _tokens(encoder, prompt, bounded(foil, "the wrong answer"))
    shared = next((place for place, pair in enumerate(zip(right, wrong)) if pair[0] != pair[1]), None)
    if shared is None:
        raise InputError("one answer is the beginning of the other, so there is nothing to compare")
    words = [right[shared], wrong[shared]]
    ids = _ids(model, encoder, prompt, TOKENS_LIMIT, right[:shared])
    layers = range(model.layers)
    sites = [Site(kind, layer) for layer in layers for kind in ("z", "mlp_write")] + [Site("residual", model.layers)]
    with work.stage("running the prompt", 1, "prompt") as step, torch.inference_mode():
        with capture(model, sites, keep=lambda value: value[0, -1].clone()) as seen:
            final = model.trunk(ids, torch.ones_like(ids))[0, -1]
        scale = model.logit_scale
        direction = (model.unembedding[words[0]] - model.unembedding[words[1]]).float() * scale
        norm = frozen_norm(model.norm("final"), seen[Site("residual", model.layers)])
        heads = torch.stack([_heads(model, layer, seen[Site("z", layer)], norm, direction) for layer in layers])
        mlps = torch.stack([norm.part(seen[Site("mlp_write", layer)].float()) @ direction for layer in layers])
        difference = float(final.float() @ direction) + _bias(model, words) * scale
        next_words = _next_words(model, encoder, final, top)
        step(1)
    rest = difference - float(heads.sum() + mlps.sum())
    names = [encoder.decode((word,)) for word in words]
    return Answer(difference, heads.cpu(), mlps.cpu(), rest, next_words, names[0], names[1])


def attention(session: Session, prompt: str, layer: int, head: int, work: Work) -> Pattern:
    """Attention weights of one head over a prompt; the eager kernel runs for this one pass only."""
    model = session.need_model()
    check_model(model)
    if not (0 <= layer < model.layers and 0 <= head < model.heads):
        raise InputError(f"there is no head {layer}.{head}: layers 0–{model.layers - 1}, heads 0–{model.heads - 1}")
    words, maps = patterns(session, prompt, work)
    if layer not in maps:
        raise InputError(f"layer {layer} of {model.id} has no heads: layers {', '.join(map(str, maps))} have")
    return Pattern(words, maps[layer][0, head].float().cpu())


def patterns(session: Session, prompt: str, work: Work) -> tuple[tuple[str, ...], dict[int, Float[Tensor, "N H T T"]]]:
    """The tokens of a prompt, and the attention of every head of every layer over them."""
    model = session.need_model()
    encoder = Encoder(model.tokenizer)
    prompt = bounded(prompt, "the prompt").rstrip()
    ids = _ids(model, encoder, prompt, ATTENTION_LIMIT)
    kernel = getattr(model.config, "_attn_implementation", None)
    with work.stage("reading attention", 1, "prompt") as step, torch.inference_mode():
        try:
            model.hf.set_attn_implementation("eager")
            output = model.trunk_module(
                ids, attention_mask=torch.ones_like(ids), output_attentions=True, use_cache=False, return_dict=True
            )
        finally:
            if kernel:
                model.hf.set_attn_implementation(kernel)
        step(1)
    maps = {layer: one.float().cpu() for layer, one in patterns_by_layer(model, output.attentions).items()}
    return words_of(encoder, prompt, ids[0].tolist()), maps


def role_places(session: Session, prompt: str) -> dict[str, int]:
    """Role → its last token, of a prompt that was taken from the task; empty for a typed one."""
    pair = session.__dict__.get("_pairs", {}).get(prompt.strip())
    return {} if pair is None else {role: end - 1 for role, (_, end) in pair.roles.items()}


def _heads(
    model: Model, layer: int, z: Float[Tensor, "H E"], norm: FrozenNorm, direction: Float[Tensor, " D"]
) -> Float[Tensor, " H"]:
    writes = torch.einsum("he,hed->hd", z.float(), model.output_weight(layer).float())
    if model.family.post_norms:
        post = find(model.blocks[layer], model.family.attention_write)
        writes = frozen_norm(post, attention_output(model, layer, z[None])[0]).part(writes)
    return norm.part(writes) @ direction * model.scales.attention[layer]


def _bias(model: Model, words: list[int]) -> float:
    bias = model.unembedding_bias
    return 0.0 if bias is None else float(bias[words[0]] - bias[words[1]])


def _ids(model: Model, encoder: Encoder, prompt: str, limit: int, more: Sequence[int] = ()) -> Tensor:
    ids = [*encoder.prefix, *encoder.encode(prompt).ids, *more]
    if not encoder.encode(prompt).ids:
        raise InputError("the prompt has no tokens")
    if len(ids) > limit:
        raise InputError(f"the prompt has {len(ids)} tokens; at most {limit} are taken here")
    return torch.tensor([ids], device=model.device)


def _tokens(encoder: Encoder, prompt: str, text: str) -> tuple[int, ...]:
    """The tokens of an answer where it stands: after a blank, unless its script uses none."""
    word = text.strip()
    scripts = script_of(word)
    joint = "" if scripts and next(iter(scripts)) in NO_BLANKS else " "
    return encoder.continuation(prompt, joint + word) or encoder.encode(joint + word).ids


def _next_words(model: Model, encoder: Encoder, final: Float[Tensor, " D"], top: int) -> pd.DataFrame:
    logits = model.logits(final[None])[0].float()
    best = logits.log_softmax(-1).topk(min(top, len(logits)))
    return pd.DataFrame(
        {
            "next token": [seen(encoder.decode((word,))) for word in best.indices.tolist()],
            "probability": best.values.exp().tolist(),
            "logit": logits[best.indices].tolist(),
        }
    )


def words_of(encoder: Encoder, prompt: str, ids: list[int]) -> tuple[str, ...]:
    """The text under each token: a byte-level token of half a character shows that character."""
    prefix = [encoder.decode((word,)) for word in ids[: len(encoder.prefix)]]
    encoded = encoder.encode(prompt)
    if encoded.offsets is None:
        return (*prefix, *(encoder.decode((word,)) for word in encoded.ids))
    return (*prefix, *(prompt[start:end] for start, end in encoded.offsets))
