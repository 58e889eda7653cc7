"""Models whose latent language is known because their weights were set by hand: LLaMA modules of four blocks.

Three languages, each with its own word for every concept, one token a word. They translate `A: "w" - B: "`:

    block 1   makes the concept out of the word, where the word stands
    block 2   heads that look back by a fixed distance bring the concept and the languages' names to the last position;
              then it writes what the kind of model plants
    block 3   takes a ninth of a planted mark back, so that the mark is strongest where it was written
    block 4   writes the wanted language's word; a planted mark goes

    pivot       block 2 writes the first language's word: every translation passes through it
    none        the concept lies orthogonal to all words until the last block
    frequency   block 2 adds the same to all words of the first language, whatever the concept
    geometry    rows of the other languages have cosine 0.6 with the first one's; only the answer is written, in part
                already by block 2
    entangled   a word says nothing but in its own language: block 2 reads the words of the named source language alone
    early       as none, but the wanted language comes to the last position in block 1 and the concept in block 3
    lossy       as pivot, but for three concepts of four block 4 writes the third language's word of the next concept:
                what stands in the middle is lost in the last block
    noisy       as none, but what block 1 makes of a word leans towards another concept, in each language towards
                another: only in a mean over languages does its own stand out

Attention sees positions only (constant queries and keys, turned by the rotary embedding); a gate is a product of
one-hot parts of the residual. One large constant in every token's vector keeps the norms from changing anything.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from babelscope.errors import ModelError
from babelscope.languages import own_name
from babelscope.results.scratch import Scratch

Kind = Literal["pivot", "none", "frequency", "geometry", "entangled", "early", "lossy", "noisy"]
KINDS: tuple[Kind, ...] = ("pivot", "none", "frequency", "geometry", "entangled", "early", "lossy", "noisy")
PREFIX = "planted-"
LANGUAGES = ("en", "fr", "zh")
"""the first one is the pivot"""
CONCEPTS, BLOCKS, HEADS, HEAD_WIDTH, NEURONS = 40, 4, 20, 16, 160
WIDTH = HEADS * HEAD_WIDTH
SPECIAL, MARKS = ("<unk>", "</s>"), ('"', ":", "-")
WORDS = len(LANGUAGES) * CONCEPTS
LOSSY = 2
"""number of the language whose words `lossy` confuses"""

# rooms of the residual; the first are the words
CODES, CONCEPT, NAME, WANTED, GIVEN, CONSTANT = 120, 240, 280, 283, 286, 289
WORD_BACK, WANTED_BACK, GIVEN_BACK = 5, 2, 8
"""tokens between the last quote and the word, the wanted language's name, the given language's name"""
SHARP = 20.0
"""length of each pair of the constant queries and keys"""
LARGE, OPEN = 100.0, 20.0
"""the constant of every token; what an open gate lets through, divided out again"""
MARK, ANSWER, COMMON, EARLY = 9.0, 12.0, 2.0, 4.0
"""logits: of a pivot's word, of the answer, of each word of a language, of the answer's part that comes early"""
COSINE = 0.6
LEANING = 0.8
"""of a word's own concept, how much of another one it says in `noisy`"""
NOISE = 0.03
"""logits that marks and concepts add to all words at random, so that no two concepts are quite alike"""


def words() -> dict[str, dict[str, str]]:
    """Concept → language → its word: `en00`, `fr00`, `zh00`, …"""
    return {f"c{number:02}": {code: f"{code}{number:02}" for code in LANGUAGES} for number in range(CONCEPTS)}


_held: list[Scratch] = []
"""folders of this process, until it ends"""


@cache
def folder(name: str) -> Path:
    """`planted-pivot` and the others as a folder in Hugging Face's format, made once a process and removed at its end.

    Raises ModelError when there is no such model.
    """
    kind: Kind | None = next((one for one in KINDS if name == PREFIX + one), None)
    if kind is None:
        raise ModelError(f"there is no planted model {name!r}; there are {', '.join(PREFIX + one for one in KINDS)}")
    place = Scratch("planted")
    _held.append(place)
    for part in planted(kind):
        part.save_pretrained(place.path)
    return place.path


def planted(kind: Kind, seed: int = 0) -> tuple[Any, Any]:
    """The Hugging Face model and tokenizer of one kind; `seed` draws noise and how strong each concept is.

    >>> model, tokenizer = planted("pivot")
    >>> tokenizer.tokenize('English: "en00" - Français: "')
    ['English', ':', '"', 'en00', '"', '-', 'Français', ':', '"']
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    vocabulary = _vocabulary()
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=WIDTH,
        intermediate_size=NEURONS,
        num_hidden_layers=BLOCKS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=512,
        rms_norm_eps=1e-12,
        attention_bias=True,
        mlp_bias=True,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=None,
    )
    model: Any = LlamaForCausalLM(config).eval()
    generator = torch.Generator().manual_seed(seed)
    strength = 0.85 + 0.3 * torch.rand(CONCEPTS, generator=generator)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(LARGE / WIDTH**0.5 if "norm" in name else 0.0)
        rows = _rows(kind)
        _embed(model, generator)
        model.lm_head.weight[len(SPECIAL) : len(SPECIAL) + WORDS, :WORDS] = rows.flatten(0, 1)
        for block in model.model.layers:
            # hardly anything, but not nothing: a projection of zeros cannot be checked
            for projection in (block.self_attn.q_proj, block.self_attn.k_proj):
                projection.weight.normal_(0, 1e-3, generator=generator)
        if kind == "early":
            _look_back(model.model.layers[0].self_attn, [(WANTED_BACK, NAME, WANTED, len(LANGUAGES))])
            _look_back(model.model.layers[2].self_attn, _concept_heads(kind))
        else:
            names = [(WANTED_BACK, NAME, WANTED, len(LANGUAGES)), (GIVEN_BACK, NAME, GIVEN, len(LANGUAGES))]
            _look_back(model.model.layers[1].self_attn, [*names, *_concept_heads(kind)])
        _write(model, kind, rows, strength, NOISE * torch.randn(CONCEPTS, WORDS, generator=generator))
    return model, _tokenizer(vocabulary)


def _vocabulary() -> list[str]:
    words = [f"{code}{number:02}" for code in LANGUAGES for number in range(CONCEPTS)]
    return [*SPECIAL, *words, *(own_name(code) for code in LANGUAGES), *MARKS]


def _tokenizer(vocabulary: list[str]) -> object:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token=SPECIAL[0]))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token=SPECIAL[0], eos_token=SPECIAL[1])


def _rows(kind: Kind) -> Tensor:
    """[languages, concepts, rooms of words]: the row by which each word is read."""
    rows = torch.eye(WORDS).reshape(len(LANGUAGES), CONCEPTS, WORDS).clone()
    if kind == "geometry":
        rows[1:] = COSINE * rows[:1] + (1 - COSINE**2) ** 0.5 * rows[1:]
    return rows


def _embed(model: Any, generator: torch.Generator) -> None:
    weight = model.model.embed_tokens.weight
    weight[:, CONSTANT] = LARGE
    for word in range(WORDS):
        weight[len(SPECIAL) + word, CODES + word] = 1
    names = len(SPECIAL) + WORDS
    for number in range(len(LANGUAGES)):
        weight[names + number, NAME + number] = 1
    weight[names + len(LANGUAGES) :, :WORDS] = NOISE * torch.randn(len(MARKS), WORDS, generator=generator)


def _concept_heads(kind: Kind) -> list[tuple[int, int, int, int]]:
    """Heads that carry the concept (of entangled models: the word) from where it stands to the last position."""
    start, width = (CODES, WORDS) if kind == "entangled" else (CONCEPT, CONCEPTS)
    return [
        (WORD_BACK, start + part, start + part, min(HEAD_WIDTH, width - part)) for part in range(0, width, HEAD_WIDTH)
    ]


def _look_back(attention: Any, jobs: list[tuple[int, int, int, int]]) -> None:
    """Heads of one block: each has a distance, the room it reads, the room it writes, and how many units."""
    half = HEAD_WIDTH // 2
    turns = 10_000.0 ** (-torch.arange(half) / half)
    for head, (distance, source, target, count) in enumerate(jobs):
        rows = slice(head * HEAD_WIDTH, (head + 1) * HEAD_WIDTH)
        # keys stand still, queries are turned back by the distance: their product is largest where it was walked
        attention.k_proj.bias[rows] = torch.cat([torch.full((half,), SHARP), torch.zeros(half)])
        attention.q_proj.bias[rows] = SHARP * torch.cat([torch.cos(-distance * turns), torch.sin(-distance * turns)])
        for unit in range(count):
            attention.v_proj.weight[head * HEAD_WIDTH + unit, source + unit] = 1
            attention.o_proj.weight[target + unit, head * HEAD_WIDTH + unit] = 1


class _Neurons:
    """Fills the neurons of one block from the first on."""

    def __init__(self, block: Any) -> None:
        self.mlp, self.next = block.mlp, 0

    def copy(self, read: int, direction: Tensor, gate: int | None = None) -> None:
        """Adds `direction` times what stands in room `read`; with a gate only where that room holds 1."""
        if gate is None:
            self.mlp.gate_proj.bias[self.next] = OPEN
        else:
            self.mlp.gate_proj.weight[self.next, gate] = 2 * OPEN
            self.mlp.gate_proj.bias[self.next] = -OPEN
        self.mlp.up_proj.weight[self.next, read] = 1
        self.mlp.down_proj.weight[: len(direction), self.next] = direction / OPEN
        self.next += 1


def _room(place: int) -> Tensor:
    return torch.eye(WIDTH)[place]


def _write(model: Any, kind: Kind, rows: Tensor, strength: Tensor, noise: Tensor) -> None:
    first, second, third, last = (_Neurons(block) for block in model.model.layers)
    for word in range(WORDS):
        number, concept = divmod(word, CONCEPTS)
        row = rows[number, concept]
        if kind == "entangled":
            made = _room(CONCEPT + concept)
            made[:WORDS] = noise[concept]
            second.copy(CODES + word, made, gate=GIVEN + number)
        else:
            made = _room(CONCEPT + concept)
            if kind == "noisy":
                made[CONCEPT + (concept + 1 + 7 * number) % CONCEPTS] = LEANING
            first.copy(CODES + word, made)
        early = EARLY if kind == "geometry" else 0.0
        if early:
            second.copy(CONCEPT + concept, early * strength[concept] * row, gate=WANTED + number)
        if kind == "lossy" and number == LOSSY and concept % 4:
            row = rows[number, (concept + 1) % CONCEPTS]
        last.copy(CONCEPT + concept, (ANSWER - early) * row, gate=WANTED + number)
    for concept in range(CONCEPTS if kind != "entangled" else 0):
        second.copy(CONCEPT + concept, noise[concept])
    if kind in ("pivot", "lossy"):
        for concept in range(CONCEPTS):
            mark = MARK * strength[concept] * rows[0, concept]
            second.copy(CONCEPT + concept, mark)
            third.copy(CONCEPT + concept, -mark / 9)
            last.copy(CONCEPT + concept, -8 / 9 * mark)
    if kind == "frequency":
        second.mlp.down_proj.bias[:CONCEPTS] = COMMON
        last.mlp.down_proj.bias[:CONCEPTS] = -COMMON
