"""Text that only looks like the target language: edits of growing strength, steered and at random, one table.

    python docs/steering_strong.py [--pairs en:fr,en:es] [--draws 10]

Held-out prompts of `pocket-bloom-m`, layer 3, means of 120 other sentences. Success counts lines that the identifier
calls the target; an answer loops where one stretch of half its length or more stands twice.
"""

from __future__ import annotations

import argparse

import numpy as np

from babelscope import load_model
from babelscope.corpora import load_corpus
from babelscope.models.decoding import Decoding, decode, written_text
from babelscope.models.rows import RowEdit
from babelscope.stats import wilson
from babelscope.steering.confusion import OfflineRule
from babelscope.steering.fitted import Fitted, Setting
from babelscope.steering.losses import damage, text_loss
from babelscope.steering.moments import collect
from babelscope.steering.writing import Judged, judged

MODEL, LAYER, STRENGTHS, PROMPTS, TOKENS = "pocket:pocket-bloom-m", 3, (1.5, 3.0, 6.0, 12.0), 16, 24
LANGUAGES = ("en", "zh", "fr", "es", "pt", "ar", "vi", "hi", "id")


def main(pairs: list[tuple[str, str]], draws: int) -> None:
    model = load_model(MODEL)
    corpus = load_corpus("pocket:heldout?n=160", list(LANGUAGES))
    fit, held = corpus.select(corpus.ids[:120]), corpus.select(corpus.ids[120:])
    fitted, judge = Fitted(model, fit, collect(model, fit)), OfflineRule(LANGUAGES)
    print("| pair | edit | α | answers | success | of it loop | another language | distinct bigrams | ΔNLL, nats |")
    print("|---|---|---|---|---|---|---|---|---|")
    for source, target in pairs:
        prompts, texts = model.tokenize(held.texts[source][:PROMPTS]), held.texts[target]
        plain = text_loss(model, texts)
        for alpha in STRENGTHS:
            setting = Setting(source, target, "diffmean", LAYER, alpha)
            ways: dict[str, list[RowEdit | None]] = {"direction": [fitted.edit(setting)]}
            for name in ("random", "random-cov"):
                ways[name] = [fitted.control(setting, name, draw) for draw in range(draws)]
            for name, edits in ways.items():
                rows = decode(model, prompts, Decoding(TOKENS, fixed=True), edits)
                found = [
                    judged(judge, written_text(model, prompt, one.ids), target, source, one.ids)
                    for row in rows for prompt, one in zip(prompts, row)
                ]  # fmt: skip
                harm = np.mean([damage(text_loss(model, texts, edit), plain).value for edit in edits])
                print(f"| {source}→{target} | {name} | {alpha:g} | {_row(found)} | {harm:.2f} |", flush=True)


def _row(found: list[Judged]) -> str:
    hits = [one for one in found if one.all_target]
    share = wilson(len(hits), len(found))
    loops = f"{sum(one.loops for one in hits)} of {len(hits)}" if hits else "–"
    other = sum(one.all_other for one in found) / len(found)
    bigrams = np.mean([one.distinct_2 for one in found])
    ends = f"{share.value:.2f} [{share.low:.2f}, {share.high:.2f}]"
    return f"{len(found)} | {ends} | {loops} | {other:.2f} | {bigrams:.2f}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", default="en:fr,en:es,en:zh")
    parser.add_argument("--draws", type=int, default=10)
    given = parser.parse_args()
    main([(one.split(":")[0], one.split(":")[1]) for one in given.pairs.split(",")], given.draws)
