"""`babelscope replicate`: published claims as one command, each with its control and a twin that must fail."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from babelscope.cli.command import verb, verb_app
from babelscope.errors import InputError
from babelscope.settings import Settings

if TYPE_CHECKING:
    from babelscope.claims.claim import Claim
    from babelscope.claims.measures import Case

TWIN_HELD, NOT_AS_EXPECTED = 4, 3

app = verb_app("replicate")


@dataclass(frozen=True, kw_only=True)
class ReplicationSettings(Settings):
    """What is run."""

    quick: bool = False
    """built-in models and data, offline, about two minutes a claim"""
    model: tuple[str, ...] = ()
    """in the place of the claim's: one model, or the points of a sweep in order, by commas"""
    corpus: str | None = None
    """parallel text in the place of the claim's"""
    texts: str | None = None
    """running text in the place of the claim's"""
    n: int | None = None
    """parallel sentences [60 in quick runs]"""
    draws: int | None = None
    """draws of each control [40 in quick runs, else 200]"""
    seed: int = 0
    """of the sample, the controls and the intervals"""
    expect: Literal["holds", "does not hold", "cannot be decided"] | None = None
    """exit with code 3 where the verdict is another"""
    check: bool = False
    """read the claim file and stop"""
    out: Path | None = None
    """new folder for verdict.json, parts.csv and the page"""


@app.command(name="list")
def list_claims() -> None:
    """List the claims: what each says, and what it waits for where it cannot be run.

    Example:  babelscope replicate list
    """
    from babelscope.claims import packaged_claims

    claims = packaged_claims()
    for claim in claims.values():
        print(f"{claim.id:<28} {claim.arxiv}  {'' if not claim.needs else 'waits for ' + '; '.join(claim.needs)}")
        print(f"    {claim.claim}")
    print(f"{sum(not claim.needs for claim in claims.values())} of {len(claims)} can be run")


@app.command(name="show")
def show_claim(name: Annotated[str, Parameter(help="Claim id, or a claim file.")]) -> None:
    """Print a claim in words: measure, rule, least effect, controls, what was printed, and what its twin destroys.

    Example:  babelscope replicate show zeng-same-meaning
    """
    from babelscope.claims import load_claim

    claim = load_claim(name)
    print(f"{claim.claim}\n{claim.title} (arXiv {claim.arxiv})\n")
    print(f"measure       {claim.measure} ({claim.unit})")
    for part, effect in claim.least_effect.items():
        print(f"least effect  {effect:g} ({'every other part' if part == '*' else part}, {claim.rule(part)})")
    print(f"twin          {claim.twin} destroyed; expected: does not hold")
    print(f"quick run     {claim.model}, expected: {claim.expected} ({claim.basis})")
    for control in claim.controls_missing:
        print(f"control       {control}")
    for value in claim.reported:
        print(
            f"printed       {value['what']}: {value['value']} {value.get('unit') or ''} (known from: {value['sure']})"
        )
    if claim.needs:
        print(f"waits for     {'; '.join(claim.needs)}")
    else:
        print(f"command       babelscope replicate {claim.id} --quick --out runs/{claim.id}")


@app.default
@verb
def run_claim(name: Annotated[str, Parameter(help="Claim id, a claim file, or all.")], *,
              settings: ReplicationSettings) -> None:  # fmt: skip
    """Measure a published claim and its twin, and say whether it holds.

    Exit code 0: a verdict was reached, whichever; 3: not the one of --expect; 4: the twin did not come out
    "does not hold".

    For example:

      babelscope replicate zeng-same-meaning --quick --out runs/same-meaning

      babelscope replicate zeng-same-meaning --model bigscience/bloom-560m --corpus bible:bibles --out runs/bloom

      babelscope replicate my-claim.yaml --check
    """
    from babelscope.claims import load_claim, packaged_claims
    from babelscope.claims.replicate import replicate, write_replication

    if settings.check:
        claim = load_claim(name)
        print(f"{name}: a claim file, {len(claim.least_effect)} least effects, hash {claim.hash}")
        return
    if name == "all" and not settings.quick:
        raise InputError("all: give --quick; a claim on its paper's own model and data is run by itself")
    claims = [one for one in packaged_claims().values() if not one.needs] if name == "all" else [load_claim(name)]
    code = 0
    for claim in claims:
        case, distance = _case(claim, settings)
        found = replicate(claim, case, distance, print)
        reason = f" ({found.verdict.reason})" if found.verdict.reason else ""
        print(f"{claim.id}: {found.verdict.answer}{reason}; twin: {found.twin.verdict.answer}")
        if settings.out is not None:
            place = settings.out / claim.id if name == "all" else settings.out
            print(f"page: {write_replication(found, place) / 'index.html'}")
        if found.twin.verdict.answer != "does not hold":
            code = TWIN_HELD
        elif settings.expect is not None and found.verdict.answer != settings.expect:
            code = code or NOT_AS_EXPECTED
    if code:
        raise SystemExit(code)


def _case(claim: Claim, settings: ReplicationSettings) -> tuple[Case, str]:
    """The case that the options ask for, and its distance from the paper's own."""
    from babelscope.claims.measures import Case
    from babelscope.claims.replicate import quick_case

    if settings.quick:
        if settings.model or settings.corpus or settings.texts:
            raise InputError("--quick runs on the built-in models and data; leave out --model, --corpus and --texts")
        case = quick_case(claim, settings.seed)
        return replace(case, n=settings.n or case.n, draws=settings.draws or case.draws), "quick"
    if not settings.model or settings.corpus is None:
        hubs = ", ".join(str(one.get("hub")) for one in claim.raw["models"] if isinstance(one, dict))
        raise InputError(f"give --model (the paper's: {hubs}) and --corpus, or --quick for the built-in ones")
    texts = settings.texts or settings.corpus
    case = Case(settings.model, settings.corpus, texts, settings.n or 100, settings.seed, settings.draws or 200)
    hubs = {str(one.get("hub")) for one in claim.raw["models"] if isinstance(one, dict)}
    return case, "near" if set(settings.model) <= hubs else "other model"
