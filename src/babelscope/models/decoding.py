"""Writing: greedy or sampled continuations with settings that are all our own (steering.md, section 4).

`generate` of transformers fills whatever is left unset from the model's generation_config, so penalties, beams and
top-p of a chat model find their way into a "greedy" text. Here nothing is taken from it but the tokens that end a text.
Several conditions, each an edit of its own, are decoded as rows of one batch; what is written does not depend on the
batch, nor on padding, nor on what else is decoded.

B row · T position · V vocabulary
"""

from __future__ import annotations

import hashlib
import inspect
import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from babelscope.errors import EditNeverFired, InputError, NonFinite
from babelscope.models.aside import set_aside
from babelscope.models.batches import out_of_memory
from babelscope.models.chat import end_of_turn
from babelscope.models.encoders import refuse_next_word
from babelscope.models.gate import require
from babelscope.models.model import Model
from babelscope.models.rows import Flow, RowEdit, conditions_of, edited_rows
from babelscope.models.workers import Tell, over_workers

Reason = Literal["end", "length", "context"]


@dataclass(frozen=True)
class Decoding:
    """How a text is continued."""

    tokens: int = 100
    """new tokens at most"""
    temperature: float | None = None
    """None: the likeliest token each time, the lowest id of equal ones"""
    top_p: float = 1.0
    """sample among the likeliest tokens that together have this probability"""
    seed: int = 0
    fixed: bool = False
    """tokens that end a text are forbidden, so that every continuation has `tokens` tokens"""
    batch: int = 128
    """rows at a time, all conditions counted"""
    cache: bool = True
    """keep keys and values; the same text without, slower"""

    def __post_init__(self) -> None:
        if self.tokens < 1 or self.batch < 1:
            raise InputError(f"tokens and batch shall be at least 1, not {self.tokens} and {self.batch}")
        if self.temperature is not None and not self.temperature > 0:
            raise InputError(f"temperature {self.temperature}: above 0; none at all is greedy")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top-p {self.top_p}: above 0, at most 1")


@dataclass(frozen=True)
class Written:
    """One continuation."""

    ids: tuple[int, ...]
    """without the token that ended it"""
    reason: Reason
    """`end`: an end token; `length`: as many tokens as were asked for; `context`: the model's own length"""


def decode(
    model: Model,
    prompts: Sequence[Sequence[int]],
    settings: Decoding | None = None,
    conditions: Sequence[RowEdit | None] = (None,),
    names: Sequence[str] | None = None,
    draw: int = 0,
    progress: Callable[[int], None] | None = None,
) -> list[list[Written]]:
    """Continuations by condition and prompt, under whatever else the model is inside of.

    A sampled token is found by one uniform number of (seed, name of the prompt, draw, step), the same under every
    condition. `progress` hears the number of rows that went on by a token; whatever it raises ends the decoding.

    Raises InputError for an empty prompt or one that fills the model, NonFinite for logits that are no numbers.

    >>> [[one]] = decode(model, [ids], Decoding(8))                     # doctest: +SKIP
    >>> one.reason                                                     # doctest: +SKIP
    'length'
    """
    chosen = settings or Decoding()
    rows = [list(map(int, prompt)) for prompt in prompts]
    _check_prompts(model, rows)
    require(model, "regions")
    known = list(names) if names is not None else [str(place) for place in range(len(rows))]
    jobs = [(place, condition) for place in range(len(rows)) for condition in range(len(conditions))]
    found: list[list[Written | None]] = [[None] * len(rows) for _ in conditions]
    parts, asked = _parts(model, rows, jobs, chosen.batch, chosen.tokens), _Asked(rows, known, chosen, conditions, draw)
    edited = Counter[int]()
    for part, (written, changed) in zip(parts, over_workers(model, _Writer, asked, parts, progress)):
        edited.update(changed)
        for (place, condition), one in zip(part, written):
            found[condition][place] = one
    _check_fired(conditions, edited)
    return [[one for one in row if one is not None] for row in found]


def _check_fired(conditions: Sequence[RowEdit | None], edited: Counter[int]) -> None:
    for place, one in enumerate(conditions):
        if one is not None and one.changes and not edited[place]:
            raise EditNeverFired(
                f"edit {place} changed no token: its place is {one.where!r}"
                + ("" if one.first else ", the first token of a text left out")
            )


def _check_prompts(model: Model, rows: Sequence[Sequence[int]]) -> None:
    refuse_next_word(model.encoder, model.id)
    most = model.context.limit
    for place, row in enumerate(rows):
        if not row:
            raise InputError(f"prompt {place} has no tokens")
        if len(row) >= most:
            raise InputError(
                f"prompt {place} has {len(row)} tokens; {model.id} takes {most} and must write some itself"
            )


def _parts(
    model: Model, rows: Sequence[Sequence[int]], jobs: Sequence[tuple[int, int]], batch: int, tokens: int
) -> list[list[tuple[int, int]]]:
    """Jobs in batches by length; of one length each where the model does not stand padding on the left, and where the
    longest would end for want of positions before the others do."""
    ordered = sorted(jobs, key=lambda job: (len(rows[job[0]]), job))
    padded = len({len(row) for row in rows}) == 1 or stands_left_padding(model)
    parts: list[list[tuple[int, int]]] = []
    for job in ordered:
        length = len(rows[job[0]])
        mixed = padded and length + tokens <= model.context.limit
        if parts and len(parts[-1]) < batch and (mixed or len(rows[parts[-1][0][0]]) == length):
            parts[-1].append(job)
        else:
            parts.append([job])
    return parts


@dataclass(frozen=True, eq=False)
class _Asked:
    """What is to be continued."""

    rows: Sequence[Sequence[int]]
    names: Sequence[str]
    settings: Decoding
    conditions: Sequence[RowEdit | None]
    draw: int


class _Writer:
    """Work of `over_workers`: a batch of (prompt, condition), and how many tokens each condition edited."""

    def __init__(self, model: Model, asked: _Asked) -> None:
        self.model, self.rows, self.names, self.settings = model, asked.rows, asked.names, asked.settings
        self.conditions, self.draw = asked.conditions, asked.draw
        self.flow = Flow()
        self.ends = torch.tensor(stop_ids(model), dtype=torch.long, device=model.device)

    def __call__(self, part: Sequence[tuple[int, int]], tell: Tell) -> tuple[list[Written], Counter[int]]:
        self.flow = Flow()
        return self.write(part, tell), self.flow.edited

    def write(self, part: Sequence[tuple[int, int]], tell: Tell) -> list[Written]:
        """The part's continuations; a batch that does not fit in memory is halved."""
        try:
            return self._write(part, tell)
        except Exception as error:
            if not out_of_memory(error) or len(part) == 1:
                raise
        if self.model.device.type == "cuda":
            torch.cuda.empty_cache()
        middle = len(part) // 2
        return [*self.write(part[:middle], tell), *self.write(part[middle:], tell)]

    @torch.inference_mode()
    def _write(self, part: Sequence[tuple[int, int]], tell: Tell) -> list[Written]:
        device = self.model.device
        ids, mask = left_padded([self.rows[place] for place, _ in part], device)
        uniforms = self._uniforms(part)
        live = torch.ones(len(part), dtype=torch.bool, device=device)
        room = min(self.settings.tokens, self.model.context.limit - ids.shape[1])
        new = torch.zeros(len(part), 0, dtype=torch.long, device=device)
        counts = torch.zeros(len(part), dtype=torch.long, device=device)
        cache: object = None
        with edited_rows(self.model, self.conditions, self.flow) as flow:
            flow.rows = conditions_of(len(self.conditions), [condition for _, condition in part], device)
            flow.prompt = mask.sum(1)
            for step in range(room):
                fed = ids if cache is None else ids[:, -1:]
                logits, cache = next_logits(self.model, fed, mask, cache, self.settings.cache)
                token = self._choose(logits, None if uniforms is None else uniforms[:, step])
                live &= ~torch.isin(token, self.ends)
                counts += live
                ids, new = torch.cat([ids, token[:, None]], 1), torch.cat([new, token[:, None]], 1)
                mask = torch.cat([mask, torch.ones_like(token[:, None])], 1)
                tell(len(part))
                if not bool(live.any()):
                    break
        full: Reason = "length" if room == self.settings.tokens else "context"
        alive, lengths, tokens = live.tolist(), counts.tolist(), new.tolist()
        return [Written(tuple(tokens[row][: lengths[row]]), full if alive[row] else "end") for row in range(len(part))]

    def _choose(self, logits: Float[Tensor, "B V"], uniform: Float[Tensor, " B"] | None) -> Int[Tensor, " B"]:
        if not bool((logits < torch.inf).all()):  # words that are ruled out may stand at minus infinity
            raise NonFinite(f"{self.model.id} gives logits that are NaN or infinite")
        if self.settings.fixed and len(self.ends):
            logits = logits.index_fill(1, self.ends[self.ends < logits.shape[1]], -torch.inf)
        if uniform is None:
            return logits.argmax(-1)
        assert self.settings.temperature is not None
        return sample(logits, uniform, self.settings.temperature, self.settings.top_p)

    def _uniforms(self, part: Sequence[tuple[int, int]]) -> Float[Tensor, "B T"] | None:
        if self.settings.temperature is None:
            return None
        rows = [uniforms(self.settings.seed, self.names[place], self.draw, self.settings.tokens) for place, _ in part]
        return torch.from_numpy(np.stack(rows))


def next_logits(
    model: Model, ids: Int[Tensor, "B T"], mask: Int[Tensor, "B P"], cache: object, keep: bool
) -> tuple[Float[Tensor, "B V"], object]:
    """Finished float32 logits after the last of `ids`, and the cache; `mask` covers what is cached too."""
    known = _accepted(type(model.hf))
    named: dict[str, object] = {"input_ids": ids, "attention_mask": mask, "use_cache": keep, "return_dict": True}
    if "position_ids" in known:
        places = (mask.cumsum(1) - 1).clamp_min(0)[:, -ids.shape[1] :]
        named["position_ids"] = places + model.context.first
    if "logits_to_keep" in known:
        named["logits_to_keep"] = 1
    if cache is not None:
        named["past_key_values"] = cache
    model.refuse_mode()
    output = model.hf(**named)
    return output.logits[:, -1].float(), getattr(output, "past_key_values", None) if keep else None


def _accepted(kind: type[nn.Module]) -> frozenset[str]:
    return frozenset(inspect.signature(kind.forward).parameters)


def sample(
    logits: Float[Tensor, "B V"], uniform: Float[Tensor, " B"], temperature: float, top_p: float = 1.0
) -> Int[Tensor, " B"]:
    """The token at which the cumulative probability of the likeliest tokens, in float64, passes the uniform number.

    >>> sample(torch.tensor([[0.0, 5.0, 1.0]]), torch.tensor([0.5]), 1.0).tolist()
    [1]
    """
    probability = (logits.double().cpu() / temperature).softmax(-1)
    # stable: equal probabilities stay in the order of their ids
    ordered, tokens = probability.sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(-1) - ordered
    ordered = ordered.masked_fill(before >= top_p, 0.0)
    passed = ordered.cumsum(-1)
    place = torch.searchsorted(passed, (uniform.double() * passed[:, -1])[:, None], right=True)
    place = place.clamp_max_((ordered > 0).sum(-1, keepdim=True) - 1)
    return tokens.gather(1, place)[:, 0].to(logits.device)


def uniforms(seed: int, name: str, draw: int, count: int) -> Float[np.ndarray, " count"]:
    """One uniform number a step, of (seed, name of the prompt, draw) alone."""
    digest = hashlib.sha256(f"{seed}/{draw}/{name}".encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little"))).random(count)


def left_padded(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Int[Tensor, "B T"], Int[Tensor, "B T"]]:
    """Ids and mask with padding on the left."""
    longest = max(map(len, rows))
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for place, row in enumerate(rows):
        ids[place, longest - len(row) :] = torch.tensor(row, dtype=torch.long)
        mask[place, longest - len(row) :] = 1
    return ids.to(device), mask.to(device)


_padding: weakref.WeakKeyDictionary[nn.Module, bool] = weakref.WeakKeyDictionary()
LENGTHS = (2, 3, 5, 7, 10, 14)


def stands_left_padding(model: Model) -> bool:
    """Whether texts of six lengths, padded on the left, go on as each does alone; measured once, never for states.

    A model that carries a state along the text (Mamba, RWKV, hybrids) would carry the padding along with it.
    """
    if model.hf not in _padding:
        recurrent = bool(getattr(model.hf, "_is_stateful", False))
        with set_aside():
            error = float("inf") if recurrent else padding_error(model)
        _padding[model.hf] = error <= (1e-4 if model.dtype.itemsize >= 4 else 0.05)
    return _padding[model.hf]


@torch.inference_mode()
def padding_error(model: Model) -> float:
    """Largest difference of next-token logits, padded against single, relative to the largest; with a cached step."""
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(0, model.vocabulary, (length,), generator=generator).tolist() for length in LENGTHS]
    after = torch.randint(0, model.vocabulary, (len(rows), 1), generator=generator).to(model.device)
    ids, mask = left_padded(rows, model.device)
    first, cache = next_logits(model, ids, mask, None, True)
    longer = torch.cat([mask, torch.ones_like(after)], 1)
    fed = after if cache is not None else torch.cat([ids, after], 1)
    second, _ = next_logits(model, fed, longer, cache, True)
    errors: list[float] = []
    for place, row in enumerate(rows):
        for found, tokens in ((first[place], row), (second[place], [*row, int(after[place])])):
            alone, ones = left_padded([tokens], model.device)
            expected = next_logits(model, alone, ones, None, False)[0][0]
            errors.append(float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-6)))
    return max(errors) if all(error == error for error in errors) else float("inf")


def stop_ids(model: Model) -> tuple[int, ...]:
    """Tokens that end a text: of the tokenizer, of the model, and the end of a turn of its chat template."""
    generation = getattr(model.hf, "generation_config", None)
    given = [
        getattr(model.tokenizer, "eos_token_id", None),
        getattr(model.config, "eos_token_id", None),
        getattr(generation, "eos_token_id", None),
        end_of_turn(model.tokenizer),
    ]
    flat = [one for value in given for one in (value if isinstance(value, (list, tuple)) else [value])]
    return tuple(sorted({int(one) for one in flat if one is not None and 0 <= int(one) < model.vocabulary}))


TAKEN = frozenset({"eos_token_id", "bos_token_id", "pad_token_id", "decoder_start_token_id", "transformers_version"})


def ignored_settings(model: Model) -> dict[str, object]:
    """What the model's generation_config asks for and is not done here."""
    generation = getattr(model.hf, "generation_config", None)
    asked: dict[str, object] = {} if generation is None else generation.to_diff_dict()
    return {
        name: value
        for name, value in sorted(asked.items())
        if name not in TAKEN and not name.startswith("_") and value is not None
    }


def written_text(model: Model, prompt: Sequence[int], new: Sequence[int]) -> str:
    """The text of `new` tokens after `prompt`: decoded together, for a tokenizer may join characters at the seam."""
    whole = str(model.tokenizer.decode([*prompt, *new], skip_special_tokens=True))
    start = str(model.tokenizer.decode(list(prompt), skip_special_tokens=True))
    if whole.startswith(start):
        return whole[len(start) :]
    return str(model.tokenizer.decode(list(new), skip_special_tokens=True))
