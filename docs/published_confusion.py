"""Our published rule against the published code on its stored answers, one identifier and one tokenizer for both.

    python docs/published_confusion.py FOLDER command-r-base llama-2-instruct

FOLDER is a checkout of the Language Confusion Benchmark's repository. Its compute_metrics.py is run as it is; fastText
is replaced by py3langid, jieba and fugashi by single characters.
"""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from py3langid import langid

from babelscope.steering.benchmark import read_answers
from babelscope.steering.confusion import PublishedRule, rates


def tokens(line: str, code: str) -> list[str]:
    return list(line) if code in ("zh", "ja") else line.split()


class Identifier:
    """What fastText's model looks like to the published code."""

    def __init__(self) -> None:
        self.langid: Any = langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True)

    def predict(self, line: str) -> tuple[tuple[str], float]:
        code, score = self.langid.classify(line)
        return (f"__label__{code}",), score


def main(folder: Path, names: list[str]) -> None:
    stub = ModuleType("fasttext")
    stub.load_model = lambda _: Identifier()  # type: ignore[attr-defined]
    sys.modules["fasttext"] = stub
    sys.path.insert(0, str(folder))
    os.chdir(folder)
    Path("lid.176.bin").touch()  # else the published code fetches it
    published = import_module("compute_metrics")
    published.tokenize = tokens
    words = {line.strip() for line in Path("words").read_text().splitlines()}
    rule, count, undefined = PublishedRule(published.langid, words, tokens), 0, 0
    for name in names:
        groups: dict[tuple[str, str, str], list[str]] = defaultdict(list)
        for one in read_answers(Path("outputs") / f"{name}.csv"):
            groups[one.task, one.set, one.language].append(one.text)
        for (_, _, code), texts in groups.items():
            theirs, ours = published.compute_metrics(texts, code), rates([rule(text, code) for text in texts])
            for key, value in theirs.items():
                own = getattr(ours, key)
                undefined += own != own
                assert abs(own - value) < 1e-12 or (own != own and value == 1), (name, code, key, value, own)
            count += len(texts)
    print(f"{count} answers of {len(names)} models: equal; {undefined} rates of nothing are 1 there and – here")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
