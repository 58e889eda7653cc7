"""A neuron that fires at the first position of every text: what each norm and each choice of tokens makes of regions.

    python -m benchmarks.sink pocket:pocket-llama pocket:heldout 60
    python -m benchmarks.sink --unplanted MODEL=CORPUS … (how many neurons of models as they are would be taken out)

Planted in two ways. By a hook: the activation is added to one neuron of the second layer at the first position, at the
input of the output projection, so that it is part of what is recorded. By weights: the gate and the up projection of
that neuron are fitted (ridge, on other sentences of the corpus) so that it fires where the text begins, as far as a
linear reading of the stream can tell; it then also fires a little elsewhere, and by itself in any text, as a sink of
training does. Its column of the output projection is set to zero, so that the rest of the model stays as it was. Every
row is held against the same model without it, under the paper's norm.
"""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from babelscope.corpora import ParallelCorpus, load_corpus
from babelscope.models import Model, Site, capture, load_model
from babelscope.regions.contrast import contrast
from babelscope.regions.document_means import whole_intervals
from babelscope.regions.headlines import headlines
from babelscope.regions.localisation import key_regions, within_language_scores, within_language_sums
from babelscope.regions.recording import Recording, Span, record
from babelscope.regions.sinks import CERTAIN, SINK_SHARE, _at_first, length_coupling, normalised, pooled_slope
from babelscope.stats import wilson

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


@contextmanager
def planted_by_weights(model: Model, corpus: ParallelCorpus, amplitude: float) -> Generator[str]:
    """The model with a neuron of the third layer fitted to fire at the first position; tells how well it does."""
    layer = model.hf.model.layers[2].mlp
    sentences = [ids for code in corpus.languages for ids in model.tokenize(corpus.texts[code])]
    with torch.no_grad(), capture(model, [Site("mlp_in", 2), Site("neurons", 2)]) as seen:
        inputs = [model.trunk(torch.tensor([ids])) is not None and seen[Site("mlp_in", 2)][0] for ids in sentences]
    x = torch.cat(inputs).double()
    starts = torch.zeros(len(x), dtype=torch.bool)
    starts[torch.tensor([0, *[len(ids) for ids in sentences[:-1]]]).cumsum(0)] = True
    weight = torch.where(starts, 1 / starts.sum(), 1 / (~starts).sum())[:, None]
    gram = x.T @ (weight * x) + 1e-4 * torch.eye(x.shape[1], dtype=torch.float64)
    # gate: 8 at the first position and −8 elsewhere, so that SiLU closes it; up: amplitude / 8, and 0
    rows = {"gate_proj": torch.where(starts, 8.0, -8.0), "up_proj": torch.where(starts, amplitude / 8, 0.0)}
    kept = {name: getattr(layer, name).weight.detach().clone() for name in ("gate_proj", "up_proj", "down_proj")}
    with torch.no_grad():
        for name, target in rows.items():
            solved = torch.linalg.solve(gram, x.T @ (weight[:, 0] * target.double()))
            getattr(layer, name).weight[NEURON] = solved.to(layer.gate_proj.weight.dtype)
        layer.down_proj.weight[:, NEURON] = 0
        fired = torch.nn.functional.silu(x.float() @ layer.gate_proj.weight[NEURON]) * (
            x.float() @ layer.up_proj.weight[NEURON]
        )
    try:
        yield f"{fired[starts].mean():.0f} at the first position, {fired[~starts].abs().mean():.1f} elsewhere"
    finally:
        with torch.no_grad():
            for name, value in kept.items():
                getattr(layer, name).weight.copy_(value)


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
            rows(f"sink of {amplitude:g}", model, corpus, base)
    rest = load_corpus(spec)
    others = rest.select([one for one in rest.ids if one not in set(corpus.ids)][:sentences])
    with planted_by_weights(model, others, AMPLITUDES[-1]) as told:
        rows("sink by weights", model, corpus, base)
    print(f"\nBy weights, on the sentences that it was fitted on: {told}.")


def unplanted(named: list[str], sentences: int = 60) -> None:
    """What either rule takes out of models in which nothing was planted, and how near the next neuron comes."""
    print("| model, corpus | neurons | with a share | by slope | by the first token | largest f of the others |")
    print("|---|" + "---:|" * 5)
    counted = [0, 0, 0, 0]
    for both in named:
        name, _, spec = both.partition("=")
        recording = record(load_model(name), load_corpus(spec).sample(sentences, 0))
        v = recording.stored().double()
        share = (v.square() / v.square().sum(-1, keepdim=True)).mean((0, 1))
        suspects = (share > max(SINK_SHARE, 3 / recording.neurons)).nonzero()[:, 0].tolist()
        slope, error = pooled_slope(v[..., suspects].square().log(), recording.tokens)
        by_slope = int((slope + CERTAIN * error < -1).sum())
        at_first = [_at_first(recording, k) for k in suspects]
        by_first = sum(fires for _, fires in at_first)
        nearest = max((part for part, fires in at_first if not fires), default=float("nan"))
        told = [recording.neurons, len(suspects), by_slope, by_first]
        counted = [a + b for a, b in zip(counted, told)]
        print(
            f"| {Path(name).name}, {spec.split('/')[-1]} | {' | '.join(map(str, told))} | {nearest:.2f} |", flush=True
        )
    ends = wilson(counted[3], counted[1])
    print(f"| all | {' | '.join(map(str, counted))} | |\n\nby the first token: {ends.low:.3f} to {ends.high:.3f}")


def rows(name: str, model: Model, corpus: ParallelCorpus, base: tuple[torch.Tensor, torch.Tensor]) -> None:
    """Every norm and choice of tokens, side by side."""
    kept = record(model, corpus)
    dropped = record(model, corpus, span=Span(first="drop"))
    shortest = record(model, corpus, span=Span(tokens="shortest"))
    for label, recording, norm in (
        ("paper", kept, "paper"),
        ("robust", kept, "robust"),
        ("drop, paper", dropped, "paper"),
        ("drop, robust", dropped, "robust"),
        ("shortest, paper", shortest, "paper"),
        ("shortest, robust", shortest, "robust"),
    ):
        print(row(f"{name}, {label}", recording, norm, base), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "--unplanted":
        unplanted(sys.argv[2:])
    else:
        main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
