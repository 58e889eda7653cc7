"""The tokenizers of the pocket family: byte-level BPE behind BLOOM's pre-tokeniser, trained on the corpus itself."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

SPECIAL = ("<unk>", "<s>", "</s>", "<pad>")
"""BLOOM's special words, with its ids 0 to 3."""

END_OF_TEXT = 2
BLOOM_WORDS = r" ?[^(\s|[.,!?…。，、।۔،])]+"

REPEATS = 400
"""How often a word that should become one token is added to the training text."""


def train_tokenizer(
    texts: Iterable[str], size: int, whole: Iterable[str] = (), joined: Iterable[str] = ()
) -> Tokenizer:
    """A byte-level BPE of `size` words.

    `whole` are words that should come out as one token: they are repeated in the training text, no more; they do not
    become special. Where a script has no spaces, the pre-tokeniser sees a clause as one word and merges could run
    across such a word's edges; those in `joined` are therefore cut out of the training text.

    >>> train_tokenizer(["walk walked"] * 9, 300, whole=[" walk"]).encode("walked walk").tokens[-1]
    'Ġwalk'
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(BLOOM_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_training_text(texts, list(whole), list(joined)), trainer)
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, directory: Path, longest: int | None = None) -> None:
    """Write the two files that `AutoTokenizer` needs; `longest` is the context of models that have one."""
    tokenizer.save(str(directory / "tokenizer.json"), pretty=False)
    config: dict[str, object] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": SPECIAL[0],
        "bos_token": SPECIAL[1],
        "eos_token": SPECIAL[2],
        "pad_token": SPECIAL[3],
        "clean_up_tokenization_spaces": False,
    }
    if longest:
        config["model_max_length"] = longest
    (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def share_of_whole(tokenizer: Tokenizer, words: Sequence[str], contexts: Sequence[str]) -> float:
    """Share of words that are one token in every context, a text with `{}` where the word stands."""
    kept = sum(all(_is_whole(tokenizer, word, context) for context in contexts) for word in words)
    return kept / len(words)


def _is_whole(tokenizer: Tokenizer, word: str, context: str) -> bool:
    start = context.index("{}")
    text = context.replace("{}", word)
    spans = tokenizer.encode(text, add_special_tokens=False).offsets
    return any(text[a:b].strip() == word and b == start + len(word) for a, b in spans)


def _training_text(texts: Iterable[str], whole: list[str], joined: list[str]) -> Iterator[str]:
    names = re.compile("(" + "|".join(map(re.escape, sorted(joined, key=len, reverse=True))) + ")") if joined else None
    for text in texts:
        yield names.sub(r"\n\1\n", text) if names else text
    for word in whole:
        # A line break ends a word of the pre-tokeniser, so that a leading space belongs to the word.
        yield "\n".join([word] * REPEATS)
