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
    from babelscope.claims.case import Case
    from babelscope.claims.claim import Claim

TWIN_HELD, NOT_AS_EXPECTED = 4, 3

app = verb_app("replicate")


@dataclass(frozen=True, kw_only=True)
class ReplicationSettings(Settings):
    """What is run."""

    quick: bool = False
    """built-in models and data, offline, about two minutes a claim"""
    run: Path | None = None
    """a regions run: the claim is tried on its model, text, sentences and seed"""
    model: tuple[str, ...] = ()
    """in the place of the claim's: one model, or the points of a sweep in order, by commas"""
    corpus: str | None = None
    """parallel text in the place of the claim's"""
    texts: str | None = None
    """running text in the place of the claim's"""
    stories: str | None = None
    """stories of the cross-lingual story cloze in the place of the claim's"""
    languages: tuple[str, ...] = ()
    """of the corpus, by commas [the claim's, else all that are there]"""
    n: int | None = None
    """parallel sentences [60 in quick runs]"""
    draws: int | None = None
    """draws of each control [40 in quick runs, else 200]"""
    seed: int = 0
    """of the sample, the controls and the intervals"""
    expect: Literal["holds", "does not hold", "cannot be decided"] | None = None
    """exit with code 3 where the verdict is another"""
    tokens: int | None = None
    """of running text per language [512 in quick runs, else 100000]"""
    window: int | None = None
    """tokens of a window of running text [64 in quick runs, else 1024]"""
    seeds: int = 1
    """seeds that are run, one after the other"""
    check_: bool = False
    """read the claim file, measure its twin on the built-in model, and refuse least effects that n cannot tell"""
    plan: bool = False
    """print command, data and cost on the paper's model, and stop"""
    out: Path | None = None
    """new folder for verdict.json, parts.csv and the page"""

    def check(self) -> None:
        """Raises InputError for counts of which nothing can be measured."""
        least = {"n": 2, "draws": 1, "tokens": 1, "window": 2, "seeds": 1}
        for name, few in least.items():
            value = getattr(self, name)
            if value is not None and value < few:
                raise InputError(f"--{name} {value}: at least {few}")


@app.command(name="list")
def list_claims() -> None:
    """List the claims: what each says, and what it waits for where it cannot be run.

    For example:

      babelscope replicate list
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

    For example:

      babelscope replicate show zeng-same-meaning
    """
    from babelscope.claims import load_claim

    claim = load_claim(name)
    print(f"{claim.claim}\n{claim.title} (arXiv {claim.arxiv})\n")
    print(f"measure       {claim.measure} ({claim.unit})")
    for part, effect in claim.least_effect.items():
        print(f"least effect  {effect:g} ({'every other part' if part == '*' else part}, {claim.rule(part)})")
    print(f"twin          {claim.twin} destroyed; expected: {claim.twin_expected}")
    if note := claim.raw["verdict"].get("note"):
        print(f"note          {note}")
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

    Exit code 0: a verdict was reached, whichever; 3: not the one of --expect (with all: of the claim's file); 4: the
    twin did not come out "does not hold", nor undecided where its file says that n cannot tell. With --out, what is
    there of the same claim and case is not measured again. With all, a table of verdicts, twins and times comes last.

    For example:

      babelscope replicate zeng-same-meaning --quick --out runs/same-meaning

      babelscope replicate zeng-same-meaning --model models/bloom \\
          --corpus bible:bibles --out runs/bloom

      babelscope replicate zeng-same-meaning --model bigscience/bloom-7b1 --plan

      babelscope replicate zeng-same-language --run runs/bloom --out runs/claim

      babelscope replicate all --quick --seeds 3 --out runs/claims

      babelscope replicate my-claim.yaml --check
    """
    from babelscope.claims import load_claim, packaged_claims
    from babelscope.claims.plan import replication_plan
    from babelscope.claims.replicate import write_page
    from babelscope.claims.summary import summary_lines, summary_row, summary_table, write_summary

    if settings.check_:
        _checked(load_claim(name), settings)
        return
    if settings.plan:
        if name == "all":
            raise InputError("--plan: name one claim")
        print("\n".join(replication_plan(load_claim(name), settings.model, settings.out)))
        return
    if name == "all" and not settings.quick:
        raise InputError("all: give --quick; a claim on its paper's own model and data is run by itself")
    claims = [one for one in packaged_claims().values() if not one.needs] if name == "all" else [load_claim(name)]
    code, first, rows = 0, list[dict[str, object]](), list[dict[str, object]]()
    for claim in claims:
        for seed in range(settings.seed, settings.seed + settings.seeds):
            place = None
            if settings.out is not None:
                place = settings.out / claim.id if name == "all" else settings.out
                place = place / f"seed{seed}" if settings.seeds > 1 else place
            facts, ended = _replicated(claim, settings, seed, place, name == "all")
            code = max(code, ended)
            first += [facts] if seed == settings.seed else []
            rows.append(summary_row(claim, facts, ended == 0))
    if name == "all":
        table = summary_table(rows)
        print("\n".join(summary_lines(table)))
        if settings.out is not None:
            write_summary(table, settings.out / "verdicts.csv")
            print(f"page: {write_page(first, settings.out / 'index.html')}")
    if code:
        raise SystemExit(code)


def _checked(claim: Claim, settings: ReplicationSettings) -> None:
    """Prints what a file holds and, where it can be run, what its twin can tell at the planned n."""
    from babelscope.claims.replicate import power, quick_case

    print(f"{claim.id}: a claim file, {len(claim.least_effect)} least effects, hash {claim.hash}")
    if claim.needs:
        print(f"waits for {'; '.join(claim.needs)}: the power of its twin is not known")
        return
    case = quick_case(claim, settings.seed)
    sizes = {name: getattr(settings, name) for name in ("n", "draws", "tokens", "window")}
    for line in power(claim, replace(case, **{name: value for name, value in sizes.items() if value is not None})):
        print(line)


def _replicated(
    claim: Claim, settings: ReplicationSettings, seed: int, place: Path | None, all_: bool
) -> tuple[dict[str, object], int]:
    """Runs one claim with one seed, or reads what is there; prints its line, and gives its facts and exit code."""
    from babelscope.claims.replicate import finished, judged_again, replicate, write_replication

    case, distance = _case(claim, settings, seed)
    facts = finished(claim, case, place) if place is not None else None
    if facts is None:
        found = judged_again(claim, case, place, distance) if place is not None else None
        found = found or replicate(claim, case, distance, print)
        facts = found.facts()
        if place is not None:
            print(f"page: {write_replication(found, place) / 'index.html'}")
    verdict, twin = facts["verdict"], facts["twin"]["verdict"]["answer"]
    wall, processor = (sum(side[kind] for side in facts["cost"].values()) for kind in ("wall_s", "processor_s"))
    reason = f" ({verdict['reason']})" if verdict["reason"] else ""
    said = f"{claim.id}, seed {case.seed}: {verdict['answer']}{reason}; twin: {twin}"
    print(f"{said}; wall {wall:.0f} s, processor {processor:.0f} s")
    allowed = {"does not hold", claim.twin_expected} if distance == "quick" else {"does not hold"}
    if twin not in allowed:
        return facts, TWIN_HELD
    expected = settings.expect or (claim.expected if all_ else None)
    return facts, NOT_AS_EXPECTED if expected is not None and verdict["answer"] != expected else 0


def _case_of_run(claim: Claim, settings: ReplicationSettings) -> tuple[Case, str]:
    """The case that a finished regions run is about."""
    from babelscope.claims.case import Case
    from babelscope.results import open_run

    assert settings.run is not None
    run = open_run(settings.run)
    if run.kind != "regions" or settings.model or settings.corpus:
        raise InputError(f"--run {settings.run}: name a regions run, and neither --model nor --corpus")
    if settings.seed or settings.seeds > 1:
        raise InputError(f"--run {settings.run}: sentences were drawn by its own seed; leave --seed and --seeds out")
    asked, model = run.manifest["asked"], str(run.manifest["model"]["id"])
    case = Case(
        (model,),
        asked["corpus"],
        settings.texts or asked["texts"] or asked["corpus"],
        settings.n or len(run.manifest["corpus"]["sentence_ids"]),
        asked["seed"],
        settings.draws or 200,
        tokens=settings.tokens or asked["text_tokens"] or 100_000,
        window=settings.window or asked["window"] or 1024,
        languages=settings.languages or tuple(run.manifest["corpus"]["languages"]),
        weight_hash=str(run.manifest["model"]["weight_hash"]),
        stories=settings.stories or "pocket:",
    )
    return case, _distance(claim, (model,))


def _distance(claim: Claim, models: tuple[str, ...]) -> str:
    """near: the paper's own models; only that is called a replication."""
    hubs = {str(one.get("hub")) for one in claim.raw["models"] if isinstance(one, dict)}
    return "near" if {model.partition("@")[0] for model in models} <= hubs else "other model"


def _case(claim: Claim, settings: ReplicationSettings, seed: int) -> tuple[Case, str]:
    """The case that the options ask for, and its distance from the paper's own."""
    from babelscope.claims.case import Case
    from babelscope.claims.replicate import quick_case

    if settings.quick:
        if settings.model or settings.corpus or settings.texts or settings.stories or settings.run:
            raise InputError(
                "--quick runs on the built-in models and data; leave out --model, --corpus, --texts, --stories, --run"
            )
        if settings.languages:
            raise InputError("--quick asks in the languages of the claim's own quick run: leave --languages out")
        case = quick_case(claim, seed)
        sizes = {name: getattr(settings, name) for name in ("n", "draws", "tokens", "window")}
        return replace(case, **{name: value for name, value in sizes.items() if value is not None}), "quick"
    if settings.run is not None:
        return _case_of_run(claim, settings)
    corpus = settings.corpus or claim.run.get("corpus")
    if not settings.model or corpus is None:
        hubs = ", ".join(str(one.get("hub")) for one in claim.raw["models"] if isinstance(one, dict))
        raise InputError(f"give --model (the paper's: {hubs}) and --corpus, or --quick for the built-in ones")
    own = claim.run
    case = Case(
        settings.model,
        corpus,
        settings.texts or own.get("texts") or corpus,
        settings.n or own.get("n") or 100,
        seed,
        settings.draws or 200,
        tokens=settings.tokens or own.get("tokens") or 100_000,
        window=settings.window or own.get("window") or 1024,
        languages=settings.languages or tuple(own.get("languages") or ()),
        stories=settings.stories or own.get("stories") or "pocket:",
    )
    return case, _distance(claim, settings.model)
