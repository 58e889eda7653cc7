"""Which of several continuations a model finds likelier, and how sure one may be of the share of right answers.

B row · T position · D model width
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from babelscope import stats
from babelscope.errors import InputError, NonFinite
from babelscope.evaluation.items import ClozeItem
from babelscope.models import Batch, Model, over_batches, require
from babelscope.models.batches import token_budget
from babelscope.models.encoders import own_tokens
from babelscope.models.gelu import fused_gelu
from babelscope.models.prefixes import continued, shares_prefixes
from babelscope.proportions import mean_share
from babelscope.regions.perplexity import token_losses
from babelscope.results.schemas.evaluation import Accuracy

Z = 1.959964
"""of a two-sided 95 % interval"""
PROMPTS_AT_ONCE = 256
"""of so many prompts the tokenizer reads all texts in one call"""


def choice_scores(
    model: Model, items: Sequence[ClozeItem], progress: Callable[[int], None] | None = None
) -> NDArray[np.float64]:
    """log p(choice | prompt) in nats, summed over the choice's tokens: an array [item, choice].

    Prompt and choice are tokenised together, with the special tokens that the tokenizer puts in front by itself, as
    lm-evaluation-harness does it; a text longer than the model's context loses its beginning. Full logits are never
    made. Raises NonFinite when a score is not a number, InputError when a choice has no tokens.
    """
    scores = continuation_scores(model, [(item.prompt, item.choices) for item in items], progress)
    return np.stack(scores) if scores else np.zeros((0, 2))


def continuation_scores(
    model: Model, asked: Sequence[tuple[str, Sequence[str]]], progress: Callable[[int], None] | None = None
) -> list[NDArray[np.float64]]:
    """The same for prompts that have any number of choices each: one array [choice] a prompt. An empty prompt is the
    text's beginning, whose first token is not scored. Raises as `choice_scores`."""
    require(model, "regions")
    texts = list(_encoded(model, asked))
    together, budget = shares_prefixes(model), token_budget(model.device)
    alike = [_alike(own, budget) if together else 0 for own in texts]
    scoring = _Scoring(model, texts, progress)
    with torch.inference_mode(), fused_gelu(model):
        scoring.whole([prompt for prompt, begin in enumerate(alike) if not begin])
        for prompts in _near(alike):
            scoring.from_beginnings(prompts, [alike[prompt] for prompt in prompts])
    if not all(np.isfinite(own).all() for own in scoring.scores):
        raise NonFinite(f"{model.id} gives a score that is not a number")
    return scoring.scores


class _Scoring:
    """Scores of the texts of each prompt: token ids, and where the choice begins."""

    def __init__(
        self, model: Model, texts: Sequence[Sequence[tuple[list[int], int]]], progress: Callable[[int], None] | None
    ) -> None:
        self.model, self.texts, self.progress = model, texts, progress
        self.scores = [np.zeros(len(own)) for own in texts]

    def whole(self, prompts: Sequence[int]) -> None:
        """Read every text by itself."""
        choices = self._choices(prompts)

        def work(batch: Batch) -> None:
            self._take([choices[row] for row in batch.rows], self.model.trunk(batch.ids, batch.mask), 0)

        over_batches([self.texts[prompt][choice][0] for prompt, choice in choices], work, self.model.device)

    def from_beginnings(self, prompts: Sequence[int], begins: Sequence[int]) -> None:
        """Read so many tokens of each prompt once, and its texts from there."""

        def work(batch: Batch) -> None:
            begin, own = int(batch.lengths.min()), [prompts[row] for row in batch.rows]
            choices = self._choices(own)
            rests = [self.texts[prompt][choice][0][begin:] for prompt, choice in choices]
            owners = [own.index(prompt) for prompt, _ in choices]
            self._take(choices, continued(self.model, batch.ids[:, :begin], rests, owners), begin)

        beginnings = [self.texts[prompt][0][0][:begin] for prompt, begin in zip(prompts, begins)]
        over_batches(beginnings, work, self.model.device)

    def _choices(self, prompts: Sequence[int]) -> list[tuple[int, int]]:
        return [(prompt, choice) for prompt in prompts for choice in range(len(self.texts[prompt]))]

    def _take(self, choices: Sequence[tuple[int, int]], hidden: Float[Tensor, "B T D"], begin: int) -> None:
        """Keep the scores of (prompt, choice), from the hidden states of their texts after `begin` tokens."""
        texts = [self.texts[prompt][choice] for prompt, choice in choices]
        # the words of the choices alone are held against the vocabulary
        spans = [slice(first - 1 - begin, len(ids) - 1 - begin) for ids, first in texts]
        at = torch.cat([hidden[row, span] for row, span in enumerate(spans)])
        words = torch.tensor([word for ids, first in texts for word in ids[first:]], device=at.device)
        losses = token_losses(self.model, at[None], words[None])[0].double().cpu()
        for (prompt, choice), each in zip(choices, losses.split([len(ids) - first for ids, first in texts])):
            self.scores[prompt][choice] = -float(each.sum())
        if self.progress:
            self.progress(len(choices))


def _alike(own: Sequence[tuple[list[int], int]], budget: int) -> int:
    """Tokens that all texts of a prompt begin with, before the first state that a choice is told from; 0 where there
    is one text, or where all of them are more than four batches hold."""
    if len(own) < 2 or sum(len(ids) for ids, _ in own) > 4 * budget:
        return 0
    most = min(first for _, first in own) - 1
    return next((place for place in range(most) if len({ids[place] for ids, _ in own}) > 1), most)


def _near(alike: Sequence[int]) -> Iterator[list[int]]:
    """Prompts whose beginnings are about as long, as those of a batch are cut to the shortest."""
    waiting = sorted((prompt for prompt, begin in enumerate(alike) if begin), key=lambda prompt: -alike[prompt])
    while waiting:
        near = [prompt for prompt in waiting if 8 * alike[prompt] >= 7 * alike[waiting[0]]]
        yield near
        waiting = waiting[len(near) :]


def _encoded(model: Model, asked: Sequence[tuple[str, Sequence[str]]]) -> Iterator[list[tuple[list[int], int]]]:
    """Token ids of each prompt with each of its choices, and where the choice begins."""
    # some tokenizers end each text by themselves: what is continued has not ended
    after, special = own_tokens(model.tokenizer)[1], set(model.tokenizer.all_special_ids)
    for start in range(0, len(asked), PROMPTS_AT_ONCE):
        some = asked[start : start + PROMPTS_AT_ONCE]
        stripped = [prompt.rstrip() for prompt, _ in some]
        wholes = [prompt + choice for prompt, choices in some for choice in choices]
        found: list[list[int]] = model.tokenizer([*stripped, *wholes], verbose=False)["input_ids"]
        encoded = [ids[: len(ids) - after] if special.issuperset(ids[len(ids) - after :]) else ids for ids in found]
        places = iter(encoded[len(some) :])
        for (prompt, choices), bare, ids in zip(some, stripped, encoded):
            yield [
                _cut(model, next(places), len(ids), f"the choice {(prompt + choice)[len(bare) :]!r}", bare)
                for choice in choices
            ]


def _cut(model: Model, whole: list[int], before: int, choice: str, prompt: str) -> tuple[list[int], int]:
    """What of a text fits the model's context, and where its choice begins, `before` tokens being the prompt's."""
    model.check_ids(whole, choice)
    if len(whole) <= before:
        raise InputError(f"{choice} has no tokens after {prompt[-40:]!r}")
    if before == 0 and len(whole) < 2:
        raise InputError("the prompt has no tokens, so the first token of the choice cannot be scored")
    cut = max(0, len(whole) - model.context.window)
    return whole[cut:], max(1, before - cut)


def wilson(right: int, n: int) -> Accuracy:
    """Share with Wilson's score interval, which stays inside 0 and 1 (Wilson 1927).

    >>> round(wilson(8, 10).low, 3), round(wilson(8, 10).high, 3)
    (0.49, 0.943)
    """
    found = stats.wilson(right, n)
    return Accuracy(n, found.value, found.low, found.high)


def by_item(ids: Iterable[str], hits: Iterable[bool]) -> dict[str, bool]:
    """Whether each item is right, by its id; one that is there again counts again, under a name of its own.

    >>> by_item(["a", "b", "a"], [True, False, False])
    {'a': True, 'b': False, 'a (2)': False}
    """
    seen: Counter[str] = Counter()
    found: dict[str, bool] = {}
    for name, hit in zip(ids, hits, strict=True):
        seen[name] += 1
        found[name if seen[name] == 1 else f"{name} ({seen[name]})"] = bool(hit)
    return found


def mean_accuracy(right: Mapping[str, Mapping[str, bool]]) -> Accuracy:  # language → story → right?
    """Mean over languages, a story told in nine of them being one observation; `n` stories are there in any of them."""
    found = mean_share(right)
    stories = {story for answers in right.values() for story in answers}
    return Accuracy(len(stories), found.value, found.low, found.high)
