"""`python -m pocket_factory train | check | bank | baselines`: train, check a language, write held-out texts, count."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m pocket_factory", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    train = verbs.add_parser("train", help="train a model from nothing, or go on where the training stopped")
    train.add_argument("name", help="model of the family, such as bloom-s")
    train.add_argument("--out", type=Path, default=Path("pocket-training"), help="corpus, state and weights")
    train.add_argument("--device", help="cuda or cpu; default: the best there is")
    train.add_argument("--threads", type=int, help="processor threads; default: PyTorch's choice")
    check = verbs.add_parser("check", help="what is wrong with a language's data, and random sentences")
    check.add_argument("words", nargs="*", help="LANG [N [FRAME…]]")
    verbs.add_parser("bank", help="write the held-out texts that the package carries")
    counts = verbs.add_parser("baselines", help="perplexity of unigram and bigram models on the held-out texts")
    counts.add_argument("name", help="model of the family, for its tokenizer and languages")
    given = parser.parse_args(arguments)
    if given.verb == "check":
        from pocket_factory.check_data import main as check_data

        return check_data(given.words)
    if given.verb == "bank":
        from pocket_factory.bank import write_bank

        return write_bank(print)
    if given.verb == "baselines":
        from pocket_factory.baselines import print_baselines

        print_baselines(given.name)
        return 0
    import torch

    from pocket_factory.train import train as train_model

    if given.threads is not None:
        torch.set_num_threads(given.threads)
    print(train_model(given.name, given.out, report=print, device=given.device))
    return 0


if __name__ == "__main__":
    sys.exit(main())
