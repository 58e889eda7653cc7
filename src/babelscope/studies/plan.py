"""What a study will cost on this machine, step by step, before it is run: nothing is written.

A probe of a few seconds times what studies are made of (trunk passes, scoring of the vocabulary, generated tokens,
arithmetic on arrays); each step says how much of each it needs (`Cost`); time is their product, added up.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch

from babelscope.models import Model, Site, capture
from babelscope.studies.steps import AnyStep, Cost

PROBE_TOKENS = 1024
"""of one pass of the probe: as much as a batch on a processor holds"""
SENTENCE = 32
"""positions of a row of the probe"""
SECONDS = 1.5
"""spent on each of the four measurements, at most"""
WRITING = 0.6
"""seconds in which a run is written, whatever is in it, on the machine of the probe or not"""
ELEMENTS = 4_000_000
"""of the arrays on which arithmetic is timed"""


@dataclass(frozen=True)
class Rate:
    """Seconds of one kind of pass: however short it is, and by token."""

    begun: float
    token: float


@dataclass(frozen=True)
class Probe:
    """Seconds that this machine takes for one unit of each kind of work with this model."""

    token: float
    """one token through the blocks, in batches of sentences"""
    scored: float
    """the whole vocabulary for one token, beyond the blocks"""
    element: float
    """one float64 multiply-add on arrays that lie in memory"""
    begun: float = 0.0
    """what a forward pass costs however short it is, with the hooks that read every block"""
    rates: Mapping[str, Rate] = field(default_factory=dict[str, Rate])
    """of passes that do more, by kind, timed as a study makes them; kinds that are not here cost a plain pass"""

    def seconds(self, cost: Cost) -> float:
        """Time of a cost and of its parts."""
        rate = self.rates.get(cost.kind, Rate(self.begun, self.token))
        work = cost.tokens * rate.token + cost.scored * self.scored + cost.elements * self.element
        return work + cost.passes * rate.begun + cost.seconds + sum(map(self.seconds, cost.parts))


def probe(model: Model, seconds: float = SECONDS, clock: Callable[[], float] = time.perf_counter) -> Probe:
    """Times the kinds of work on random tokens, by the clock on the wall unless another is given; nothing is kept."""
    least = partial(_least, seconds=seconds, clock=clock)
    generator = torch.Generator().manual_seed(0)
    words = int(model.config.vocab_size)
    ids = torch.randint(0, words, (PROBE_TOKENS // SENTENCE, SENTENCE), generator=generator).to(model.device)
    with torch.inference_mode():
        token = least(lambda: model.trunk(ids), model) / ids.numel()
        with capture(model, [Site("residual", layer) for layer in range(model.layers)]):
            begun = max(0.0, least(lambda: model.trunk(ids[:1, :1]), model) - token)
        token = max(token - begun / ids.numel(), token / 2)
        hidden = model.trunk(ids[:2])
        scored = least(lambda: torch.logsumexp(model.logits(hidden).float(), -1), model) / hidden[..., 0].numel()
    array = torch.rand(ELEMENTS, dtype=torch.float64, generator=generator)
    element = least(lambda: (array * 1.5 + 0.5).sum(), None) / ELEMENTS
    return Probe(token, scored, element, begun)


def rate_of(
    work: Callable[[int], int],
    sizes: tuple[int, int],
    model: Model,
    seconds: float = SECONDS,
    clock: Callable[[], float] = time.perf_counter,
) -> Rate:
    """Rate of a kind of pass from two sizes: `work(size)` does one and says how many tokens went through the blocks."""
    (few, many), took = sizes, dict[int, float]()
    tokens = {size: work(size) for size in sizes}
    for size in sizes:
        took[size] = _least(lambda size=size: work(size), model, seconds / 2, clock)
    if few == many:
        return Rate(0.0, took[few] / tokens[few])
    token = max((took[many] - took[few]) / (tokens[many] - tokens[few]), 0.05 * took[many] / tokens[many])
    return Rate(max(0.0, took[many] - token * tokens[many]), token)


def _least(work: Callable[[], object], model: Model | None, seconds: float, clock: Callable[[], float]) -> float:
    """Median time of one call, after one that warms up."""

    def once() -> float:
        started = clock()
        work()
        if model is not None and model.device.type == "cuda":
            torch.cuda.synchronize(model.device)
        return clock() - started

    once()
    times, until = [once()], time.perf_counter() + seconds
    while time.perf_counter() < until and len(times) < 25:
        times.append(once())
    return sorted(times)[len(times) // 2]


@dataclass(frozen=True)
class PlannedStep:
    """One step of a plan."""

    step: str
    passes: int
    tokens: int
    seconds: float
    share: float
    """of the time of all steps"""
    peak_bytes: int
    disk_bytes: int
    cheaper: str


@dataclass(frozen=True)
class StudyPlan:
    """What a study will cost: its steps in order."""

    steps: tuple[PlannedStep, ...]

    @property
    def seconds(self) -> float:
        return sum(one.seconds for one in self.steps)

    @property
    def peak_bytes(self) -> int:
        """Highest memory of any step, beside the model."""
        return max((one.peak_bytes for one in self.steps), default=0)

    @property
    def disk_bytes(self) -> int:
        return sum(one.disk_bytes for one in self.steps)

    def table(self) -> str:
        """The plan as text, one step a line.

        >>> one = PlannedStep("recording", 4, 4000, 90.0, 1.0, 1 << 20, 0, "--samples")
        >>> print(StudyPlan((one,)).table().splitlines()[1].rstrip())
        recording                          4         4 000     1:30    100 %     1 MiB     0 MiB  --samples
        """
        head = f"{'step':<28}{'passes':>8}{'tokens':>14}{'time':>9}{'share':>8}{'memory':>10}{'disk':>10}  cheaper with"
        rows = [_row(one) for one in self.steps]
        tokens, passes = sum(one.tokens for one in self.steps), sum(one.passes for one in self.steps)
        whole = PlannedStep("all", passes, tokens, self.seconds, 1.0, self.peak_bytes, self.disk_bytes, "")
        return "\n".join([head, *rows, _row(whole)])

    def with_workers(self, count: int, shared: Sequence[str]) -> str:
        """What workers make of the time, in a line; `shared`: words by which the steps are told that they share.

        >>> one, two = (PlannedStep(name, 0, 0, 45.0, 0.5, 0, 0, "") for name in ("recording", "regions"))
        >>> StudyPlan((one, two)).with_workers(3, ("recording",))
        '3 workers share 50 % of that (recording); the rest stays in this process: about 1:00 in all'
        """
        taken = [one for one in self.steps if any(word in one.step for word in shared)]
        time = sum(one.seconds for one in taken)
        kinds = ", ".join(word for word in shared if any(word in one.step for one in taken))
        share = f"{time / self.seconds:.0%}".replace("%", " %") if self.seconds else "0 %"
        left = clock(self.seconds - time + time / count)
        return f"{count} workers share {share} of that ({kinds}); the rest stays in this process: about {left} in all"


def _row(one: PlannedStep) -> str:
    tokens = f"{one.tokens:,}".replace(",", " ")
    return (
        f"{one.step:<28}{one.passes:>8}{tokens:>14}{clock(one.seconds):>9}{one.share:>8.0%}".replace("%", " %")
        + f"{_mebibytes(one.peak_bytes):>10}{_mebibytes(one.disk_bytes):>10}  {one.cheaper}"
    )


def clock(seconds: float) -> str:
    """Hours, minutes and seconds.

    >>> clock(3725.2), clock(0.4)
    ('1:02:05', '0:00')
    """
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def _mebibytes(size: int) -> str:
    return f"{-(-size >> 20)} MiB"


def plan_steps(steps: Sequence[AnyStep], measured: Probe) -> StudyPlan:
    """The cost of each step, in time of this machine."""
    return plan_costs([(step.name, step.cost(step.settings)) for step in steps], measured)


def plan_costs(named: Sequence[tuple[str, Cost]], measured: Probe) -> StudyPlan:
    """The cost of each part by name, in time of this machine.

    >>> plan_costs([("a", Cost(tokens=30)), ("b", Cost(tokens=10))], Probe(1.0, 0.0, 0.0)).steps[0].share
    0.75
    """
    times = [measured.seconds(cost) for _, cost in named]
    whole = sum(times) or 1.0
    return StudyPlan(
        tuple(
            PlannedStep(
                name,
                cost.all("passes"),
                cost.all("tokens"),
                took,
                took / whole,
                cost.peak_bytes,
                cost.disk_bytes,
                cost.cheaper,
            )
            for (name, cost), took in zip(named, times)
        )
    )
