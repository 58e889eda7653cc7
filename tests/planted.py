"""Transformers built by hand, as real Hugging Face models: circuits that are known because we put them there.

A logical stream of `WIDTH` named directions stands in the model's residual as [u, −u], with one direction so large that
every norm only rescales by a constant (and its gain undoes that). Heads and MLPs are written in terms of the names.
Everything that is not planted is zero. Float64, so that known effects hold to 1e-6.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from babelscope.models import Model
from babelscope.models.families import find
from babelscope.models.places import matrix
from babelscope.tasks import PromptPair

WIDTH, HEADS, HEAD_WIDTH = 48, 4, 24
CONSTANT = 1e5
SHARP = 60.0
"""attention scores are multiples of this, so that what is not attended to is attended to by less than 1e-20"""

_SHAPES: dict[str, dict[str, Any]] = {
    "gpt2": dict(n_embd=2 * WIDTH, n_head=HEADS, n_positions=32, activation_function="relu"),
    "llama": dict(
        hidden_size=2 * WIDTH,
        intermediate_size=16,
        num_attention_heads=HEADS,
        num_key_value_heads=2,
        head_dim=HEAD_WIDTH,
        hidden_act="relu",
        max_position_embeddings=64,
        rope_parameters={"rope_type": "default", "rope_theta": 1e60},
    ),
    "bloom": dict(hidden_size=2 * WIDTH, n_head=HEADS),
}


class Planted:
    """A model of one architecture with nothing in it yet, and the means to put parts into it."""

    def __init__(self, family: str, layers: int, words: list[str], directions: list[str]) -> None:
        assert len(directions) < WIDTH, len(directions)
        self.words = {word: place for place, word in enumerate(words)}
        self.directions = {name: place for place, name in enumerate(["one", *directions])}
        depth = {"gpt2": "n_layer", "bloom": "n_layer"}.get(family, "num_hidden_layers")
        config = AutoConfig.for_model(
            family,
            vocab_size=len(words),
            tie_word_embeddings=False,
            bos_token_id=0,
            eos_token_id=0,
            pad_token_id=0,
            **{depth: layers},
            **_SHAPES[family],
        )
        hf = AutoModelForCausalLM.from_config(config).double().eval()
        gain = CONSTANT / WIDTH**0.5
        with torch.no_grad():
            for name, parameter in hf.named_parameters():
                norm = parameter.dim() == 1 and ("norm" in name or ".ln_" in name) and name.endswith("weight")
                parameter.fill_(gain if norm else 0.0)
        self.model = Model(hf, None, id=f"planted-{family}")

    def vector(self, parts: Mapping[str, float]) -> torch.Tensor:
        value = torch.zeros(WIDTH, dtype=torch.float64)
        for name, size in parts.items():
            value[self.directions[name]] += size
        return value

    def embed(self, word: str, **parts: float) -> None:
        """The word's token embedding: the large constant and these directions."""
        value = self.vector(parts)
        value[0] = CONSTANT
        with torch.no_grad():
            self.model.hf.get_input_embeddings().weight[self.words[word]] = torch.cat([value, -value])

    def place(self, position: int, **parts: float) -> None:
        """GPT-2's learned position embedding."""
        value = self.vector(parts)
        with torch.no_grad():
            self.model.hf.transformer.wpe.weight[position] = torch.cat([value, -value])

    def unembed(self, word: str, **parts: float) -> None:
        """What the word's logit reads."""
        with torch.no_grad():
            self.model.unembedding[self.words[word], :WIDTH] = self.vector(parts)

    def head(
        self,
        layer: int,
        head: int,
        scores: list[tuple[Mapping[str, float], Mapping[str, float]]],
        moves: Mapping[str, Mapping[str, float]],
        before: float = 0.0,
    ) -> None:
        """A head that scores SHARP · Σ (query part)·(key part), and moves directions read to directions written.

        In a part, the direction "one" stands for the number 1. `before`: strength of RoPE's preference for the token
        just before (LLaMA only).
        """
        model, width = self.model, HEAD_WIDTH
        q, k, v, o = (torch.zeros(width, WIDTH, dtype=torch.float64) for _ in range(4))
        # RoPE turns dimension 0 with width / 2 by one radian per token, the others by next to nothing
        free = [place for place in range(width) if place not in (0, width // 2)]
        assert max(len(scores), len(moves)) <= len(free)
        for place, (asked, offered) in zip(free, scores):
            q[place], k[place] = self._reading(asked) * SHARP * width**0.5, self._reading(offered)
        if before:
            turned = torch.tensor(1.0)
            q[0, 0] = before * SHARP * width**0.5 / CONSTANT * torch.cos(turned)
            q[width // 2, 0] = -before * SHARP * width**0.5 / CONSTANT * torch.sin(turned)
            k[0, 0] = 1 / CONSTANT
        for place, (read, written) in zip(free, moves.items()):
            v[place], o[place] = self._reading({read: 1.0}), self.vector(written)
        group = model.heads // model.kv_heads
        with torch.no_grad():
            for kind, weight, which in (("q", q, head), ("k", k, head // group), ("v", v, head // group)):
                location = model._projection(kind, layer)
                matrix(location.module)[location.rows[which], :WIDTH] = weight
            projection = find(model.blocks[layer], model.family.attention_output)
            columns = slice(head * width, (head + 1) * width)
            matrix(projection)[:WIDTH, columns], matrix(projection)[WIDTH:, columns] = o.T, -o.T

    def neuron(
        self, layer: int, index: int, reads: Mapping[str, float], writes: Mapping[str, float], above: float
    ) -> None:
        """A neuron relu(Σ reads − above) · writes. BLOOM's GELU is a ReLU far from zero, so there it is scaled up."""
        model, scale = self.model, 200.0
        block, read = model.blocks[layer], self._reading(reads)
        read[0] -= above / CONSTANT
        out = matrix(find(block, model.family.neurons))
        vector = self.vector(writes) / scale
        with torch.no_grad():
            if model.family.name == "llama":
                block.mlp.gate_proj.weight[index, :WIDTH] = read * scale
                block.mlp.up_proj.weight[index, 0] = 1 / CONSTANT
            else:
                into = block.mlp.c_fc if model.family.name == "gpt2" else block.mlp.dense_h_to_4h
                matrix(into)[index, :WIDTH] = read * scale
            out[:WIDTH, index], out[WIDTH:, index] = vector, -vector

    def _reading(self, parts: Mapping[str, float]) -> torch.Tensor:
        value = self.vector({name: size for name, size in parts.items() if name != "one"})
        value[0] = parts.get("one", 0.0) / CONSTANT
        return value

    def ids(self, text: str) -> tuple[int, ...]:
        return tuple(self.words[word] for word in text.split())

    def pair(
        self, item: int, clean: str, corrupted: str, answer: tuple[str, str], roles: Mapping[str, int], **fields: Any
    ) -> PromptPair:
        end = len(clean.split())
        spans = {role: (place, place + 1) for role, place in roles.items()} | {"END": (end - 1, end)}
        common = dict(language="en", template="t", order="", stratum="", split="strict")
        return PromptPair(
            item=item,
            **(common | fields),
            clean=self.ids(clean),
            corrupted=self.ids(corrupted),
            clean_text=clean,
            corrupted_text=corrupted,
            target=self.ids(answer[0]),
            foil=self.ids(answer[1]),
            roles=spans,
        )


NAMES = [f"n{place}" for place in range(6)]


def ioi(family: str) -> tuple[Model, list[PromptPair]]:
    """IOI: 0.1 previous token → 1.2 duplicate token → 2.0 S-inhibition → 3.3 name mover (+) and 3.2 (−).

    "bos m1 A m2 B m3 S to": a marker before each name tells the slots apart; the corruption is three other names.
    """
    marks = ["m1", "m2", "m3"]
    words = ["bos", *marks, *NAMES, "to"]
    directions = ["bos", *marks, *NAMES, "to", *(f"after-{m}" for m in marks), "slot1", "slot2", "not1", "not2"]
    directions += [f"out-{name}" for name in NAMES] + [f"at{place}" for place in range(9)] * (family == "gpt2")
    build = Planted(family, 4, words, directions)
    for word in words:
        build.embed(word, **{word: 1.0})
    seen = {mark: {f"after-{mark}": 1.0} for mark in marks}
    if family == "gpt2":
        for place in range(9):
            build.place(place, **{f"at{place}": 1.0})
        build.head(0, 1, [({f"at{p + 1}": 1.0}, {f"at{p}": 1.0}) for p in range(8)], seen)
    elif family == "bloom":
        # ALiBi's slopes are too gentle to be sharp, but a name sees no marker that comes after it: the last one wins
        last = {mark: float(place) for place, mark in enumerate(marks, start=1)}
        build.head(0, 1, [(dict.fromkeys(NAMES, 1.0), last), ({"one": 1.0}, {"bos": 0.5})], seen)
    else:
        build.head(0, 1, [], seen, before=100.0)
    same = [({name: 4.0}, {name: 1.0}) for name in NAMES]
    slots = ({"one": 1.0}, {"after-m1": 2.0, "after-m2": 2.0, "bos": 5.0})
    build.head(1, 2, [*same, slots], {"after-m1": {"slot1": 1.0}, "after-m2": {"slot2": 1.0}})
    build.head(2, 0, [({"to": 1.0}, {"after-m3": 1.0})], {"slot1": {"not1": 1.0}, "slot2": {"not2": 1.0}})
    looks = [({"to": 1.0}, {"after-m1": 1.0, "after-m2": 1.0})]
    looks += [({"not1": -0.5}, {"after-m1": 1.0}), ({"not2": -0.5}, {"after-m2": 1.0})]
    build.head(3, 3, looks, {name: {f"out-{name}": 1.0} for name in NAMES})
    # under grouped queries the heads 2 and 3 share keys and values, so both are written with the same ones
    build.head(3, 2, looks, {name: {f"out-{name}": -0.4} for name in NAMES})
    for name in NAMES:
        build.unembed(name, **{f"out-{name}": 10.0})
    return build.model, [_scene(build, item) for item in range(12)]


def _scene(build: Planted, item: int) -> PromptPair:
    generator = torch.Generator().manual_seed(item)
    io, s, *others = (NAMES[place] for place in torch.randperm(len(NAMES), generator=generator))
    order = "ABBA" if item % 2 == 0 else "BABA"
    first, second = (io, s) if order == "ABBA" else (s, io)
    clean = f"bos m1 {first} m2 {second} m3 {s} to"
    corrupted = f"bos m1 {others[0]} m2 {others[1]} m3 {others[2]} to"
    places = (2, 4) if order == "ABBA" else (4, 2)
    roles = {"IO": places[0], "S1": places[1], "S1+1": places[1] + 1, "S2": 6}
    return build.pair(item, clean, corrupted, (io, s), roles, order=order)


def induction(family: str) -> tuple[Model, list[PromptPair]]:
    """Induction: 0.2 previous token, 1.1 induction head. "bos A B C bos A" → B."""
    words = ["bos", *NAMES]
    directions = [*words, *(f"after-{w}" for w in words), *(f"out-{n}" for n in NAMES)]
    directions += [f"at{place}" for place in range(7)] * (family == "gpt2")
    build = Planted(family, 3, words, directions)
    for word in words:
        build.embed(word, **{word: 1.0})
    seen = {word: {f"after-{word}": 1.0} for word in words}
    if family == "gpt2":
        for place in range(7):
            build.place(place, **{f"at{place}": 1.0})
        build.head(0, 2, [({f"at{p + 1}": 1.0}, {f"at{p}": 1.0}) for p in range(6)], seen)
    else:
        build.head(0, 2, [], seen, before=100.0)
    matching = [({name: 1.0}, {f"after-{name}": 1.0}) for name in NAMES]
    build.head(1, 1, [*matching, ({"one": 1.0}, {"bos": 0.5})], {n: {f"out-{n}": 1.0} for n in NAMES})
    for name in NAMES:
        build.unembed(name, **{f"out-{name}": 10.0})
    pairs: list[PromptPair] = []
    for item in range(8):
        generator = torch.Generator().manual_seed(item)
        a, b, c, d, *_ = (NAMES[place] for place in torch.randperm(len(NAMES), generator=generator))
        texts = f"bos {a} {b} {c} bos {a}", f"bos {d} {b} {c} bos {a}"
        pairs.append(build.pair(item, *texts, (b, c), {"S1": 1, "S1+1": 2}))
    return build.model, pairs


VERBS = [f"v{place}" for place in range(6)]
"""as many as a test over prompts needs"""


def two_languages(family: str) -> tuple[Model, dict[str, dict[str, list[PromptPair]]]]:
    """Two vocabularies that share the copy head 0.1; the tense head 0.2 and MLP 1 serve the first language only.

    "time verb end": in `en` the past form after a past time word, in `zh` the verb itself. Returned by language and
    corruption (tense-flip, verb-swap).
    """
    verbs = {code: [f"{code}-{verb}" for verb in VERBS] for code in ("en", "zh")}
    times = [f"{code}-{time}" for code in verbs for time in ("past", "future")]
    every, pasts = [*verbs["en"], *verbs["zh"]], [f"{verb}-ed" for verb in verbs["en"]]
    ends = ["en-end", "zh-end"]
    build = Planted(
        family,
        3,
        [*every, *pasts, *times, *ends],
        [
            *every,
            "verb",
            "time",
            "was",
            *ends,
            *(f"got-{verb}" for verb in every),
            *(f"out-{p}" for p in pasts),
            "past",
        ],
    )
    for verb in every:
        build.embed(verb, **{verb: 1.0, "verb": 1.0})
        build.unembed(verb, **{f"got-{verb}": 10.0})
    for time in times:
        build.embed(time, time=1.0, was=1.0 if time.endswith("past") else 0.0)
    for end in ends:
        build.embed(end, **{end: 1.0})
    build.head(0, 1, [({"en-end": 1.0, "zh-end": 1.0}, {"verb": 1.0})], {v: {f"got-{v}": 1.0} for v in every})
    # its own key/value head under grouped queries: heads 0 and 1 share one, 2 and 3 the other
    build.head(0, 2, [({"en-end": 1.0}, {"time": 1.0})], {"was": {"past": 1.0}})
    for index, (verb, past) in enumerate(zip(verbs["en"], pasts)):
        build.neuron(1, index, {f"got-{verb}": 1.0, "past": 1.0, "en-end": 1.0}, {f"out-{past}": 4.0}, above=2.5)
        build.unembed(past, **{f"out-{past}": 10.0})
    sets: dict[str, dict[str, list[PromptPair]]] = {code: {"tense-flip": [], "verb-swap": []} for code in verbs}
    for code, own in verbs.items():
        for item, verb in enumerate(own):
            other = own[(item + 1) % len(own)]
            answer = (f"{verb}-ed", verb) if code == "en" else (verb, other)
            clean = f"{code}-past {verb} {code}-end"
            roles = {"TIME2": 0, "VERB1": 1}
            for corruption, text in (
                ("tense-flip", f"{code}-future {verb} {code}-end"),
                ("verb-swap", f"{code}-past {other} {code}-end"),
            ):
                sets[code][corruption].append(build.pair(item, clean, text, answer, roles, language=code))
    return build.model, sets
