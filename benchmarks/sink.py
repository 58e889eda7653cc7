"""A neuron that fires at the first position of every text: what each norm and each choice of tokens makes of regions.

    python -m benchmarks.sink pocket:pocket-llama pocket:heldout 60

The activation is added to one neuron of the second layer at the first position, at the input of the output projection,
so that it is part of what is recorded. Every row is held against the same model without it, under the paper's norm.
"""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from babelscope.corpora import load_corpus
from babelscope.models import Model, load_model
from babelscope.regions.contrast import contrast
from babelscope.regions.document_means import whole_intervals
from babelscope.regions.headlines import headlines
from babelscope.regions.localisation import key_regions, within_language_scores, within_language_sums
from babelscope.regions.recording import Recording, Span, record
from babelscope.regions.sinks import length_coupling, normalised

NEURON, AMPLITUDES = 5, (20.0, 200.0)


@contextmanager
def planted(model: Model, amplitude: float) -> Generator[None]:
    """The model with the neuron firing at the first position."""

    def fire(_: Any, given: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        h = given[0].clone()
        h[:, 0, NEURON] += amplitude
        return (h, *given[1:])

    hook = model.hf.model.layers[1].mlp.down_proj.register_forward_pre_hook(fire)
    try:
        yield
    finally:
        hook.remove()


def jaccard(one: torch.Tensor, other: torch.Tensor) -> float:
    """Over all languages."""
    return float((one & other).sum()) / max(1, int((one | other).sum()))


def row(name: str, recording: Recording, norm: str, base: tuple[torch.Tensor, torch.Tensor]) -> str:
    """One line of the table."""
    made, sinks = normalised(recording, norm)  # type: ignore[arg-type]
    z = key_regions(within_language_scores(within_language_sums(made)))
    found, scores = contrast(made), whole_intervals(made)
    own = sum(one.scope == "model" for one in sinks)
    share, alike = headlines(made).language_share.value, jaccard(found.raised, base[0])
    return (
        f"| {name} | {own} | {recording.first_share():.2f} | {length_coupling(made):.2f} | "
        f"{share:.1f} | {int(found.raised.sum())} | {alike:.2f} | "
        f"{int(z.sum())} | {jaccard(z, base[1]):.2f} | {scores['lrds'].value:.4f} | {scores['sads'].value:.4f} |"
    )


def main(name: str, spec: str, sentences: int) -> None:
    """Print the table."""
    model = load_model(name)
    corpus = load_corpus(spec).sample(sentences, 0)
    plain = record(model, corpus)
    paper = replace(plain, norm="paper")
    base = (contrast(paper).raised, key_regions(within_language_scores(within_language_sums(paper))))
    means = ", ".join(f"{c} {t:.0f}" for c, t in zip(plain.languages, plain.tokens.double().mean(1).tolist()))
    print(f"{name}, {spec}, n = {sentences}, {plain.neurons} neurons; mean tokens: {means}\n")
    print("| | out | first | β | share, % | contrast | Jaccard | z > 2 | Jaccard | LRDS | SADS |")
    print("|---|" + "---:|" * 10)
    print(row("no sink, paper", plain, "paper", base))
    print(row("no sink, robust", plain, "robust", base))
    for amplitude in AMPLITUDES:
        with planted(model, amplitude):
            kept = record(model, corpus)
            dropped = record(model, corpus, span=Span(first="drop"))
            shortest = record(model, corpus, span=Span(tokens="shortest"))
        for label, recording, norm in (
            ("paper", kept, "paper"),
            ("robust", kept, "robust"),
            ("drop, paper", dropped, "paper"),
            ("shortest, paper", shortest, "paper"),
            ("shortest, robust", shortest, "robust"),
        ):
            print(row(f"sink of {amplitude:g}, {label}", recording, norm, base), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
