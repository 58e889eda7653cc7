"""Wrong numbers on purpose: `python -m tests.mutants [NAME …]` applies named mutants and runs the tests that know.

Each changes one line of a copy of the source; a mutant that its tests let live is a number that nobody checks. Exit 1
where one survives, 2 where the line that one changes is not there any more.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytest

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Mutant:
    """One line of the source made wrong."""

    name: str
    says: str
    file: str
    right: str
    wrong: str
    tests: str
    """files below tests, by blanks"""


MUTANTS = (
    Mutant("r45", "increase of perplexity with the wrong sign", "regions/perplexity.py",
           "100 * math.expm1(min(end, 700.0))", "-100 * math.expm1(min(end, 700.0))", "regions_stated"),
    Mutant("r26", "selectivity minus the sum of the others", "regions/perplexity.py",
           "for changed, base in pairs[1:]) / len(others)", "for changed, base in pairs[1:])", "regions_stated"),
    Mutant("r23", "loss given to the neighbouring document", "regions/perplexity.py",
           "windows.document[list(batch.rows), 1:]", "windows.document[list(batch.rows), :-1]", "regions_stated"),
    Mutant("r18", "percentile intervals of 90 %", "stats.py",
           "tail = (1 - level) / 2", "tail = 1 - level", "stats"),
    Mutant("r34", "jackknife errors three times too small", "stats.py",
           "np.square(left_out - left_out.mean(0)).sum(0)", "np.square((left_out - left_out.mean(0)) / 3).sum(0)",
           "regions_stated"),
    Mutant("r35", "jackknife leaves nothing out", "regions/alignment_measures.py",
           "1 - self.member.T]", "1 - 0 * self.member.T]", "regions_alignment"),
    Mutant("r41", "ΔNLL of alignment neurons with the wrong sign", "regions/alignment_neurons.py",
           "loss_change(loss, base[code])", "loss_change(base[code], loss)",
           "regions_deactivation regions_alignment regions_study"),
    Mutant("r44", "whole-model controls are one draw", "regions/table.py",
           "random_region(size, widths, seed + draw)",
           "random_region(size, widths, seed)", "regions_stated"),
    Mutant("r29", "a silent neuron counts as active", "regions/pooling.py",
           "(values > 0).to(shares.dtype))[:, 0]", "(values >= 0).to(shares.dtype))[:, 0]", "regions_stated"),
    Mutant("r19", "chance of two regions with the wrong denominator", "regions/stability.py",
           "expected / (a + b - expected)", "expected / (a + b)", "regions_stated"),
    Mutant("r07", "LAPE scores by log L + entropy", "regions/lape.py",
           "torch.log(torch.tensor(float(len(p)))) - entropy",
           "torch.log(torch.tensor(float(len(p)))) + entropy", "regions_stated"),
    Mutant("r32", "mean-difference ignores its effect", "regions/methods.py",
           " & (effect > choices.effect)", "", "regions_stated"),
    Mutant("r33", "members by η² need not be raised", "regions/methods.py",
           " & (scores > 0))", ")", "regions_stated"),
    Mutant("r47", "a prompt may be the whole text", "regions/generation.py",
           "if len(ids) > length]", "if len(ids) >= length]", "regions_generation"),
    Mutant("c01", "means pool both orders", "circuits/core/ablation.py",
           "return pair.template, pair.order, rows.length", 'return pair.template, "", rows.length',
           "circuits_ablation"),
    Mutant("c32", "means pool the branches of target and foil", "circuits/core/ablation.py",
           "rows.answer, rows.signs[row]", "rows.answer, 0", "circuits_ablation"),
    Mutant("c23", "completeness compares the circuit with itself", "circuits/core/faithfulness.py",
           "[space.whole & ~part for part in removed]", "[circuit & ~part for part in removed]", "circuits_stated"),
    Mutant("c25", "the lens before an FFN is after it, twice", "circuits/heads/lens.py",
           "(before, stream - written)", "(before, stream + written)", "circuits_ablation"),
    Mutant("c17", "a share upside down", "circuits/comparison/transfer.py",
           "own.value / home.value if", "home.value / own.value if", "circuits_stated"),
    Mutant("c37", "a part at the threshold is on a route", "circuits/heads/routes.py",
           "edges = (parts.heads > levels", "edges = (parts.heads >= levels", "circuits_stated"),
    Mutant("c41", "one layer too many between sender and receiver", "circuits/patching/search.py",
           "end - layer - 1 for end", "end - layer for end", "circuits_stated"),
    Mutant("c43", "a kept step serves other prompts", "circuits/patching/search.py",
           "self.settings.mlps, prompts]", "self.settings.mlps]", "circuits_planted"),
    Mutant("c50", "the ceiling of one language", "circuits/comparison/head_frequency.py",
           "for used in (first, second)]", "for used in (first, first)]", "circuits_stated"),
    Mutant("v16", "intervals overlap where one end says so", "evolution/differences.py",
           "ends[0] <= ends[3] and ends[2] <= ends[1]", "ends[0] <= ends[3] or ends[2] <= ends[1]",
           "evolution_differences"),
    Mutant("e08", "run.json is uploaded first", "results/store.py",
           "key=lambda name: name == MANIFEST", "key=lambda name: name != MANIFEST", "results"),
    Mutant("m13", "the hash of weights ignores their bytes", "models/hashing.py",
           "digest.update(parameter.detach().contiguous().cpu().reshape(-1).view(torch.uint8).numpy().data)",
           "digest.update(b'')", "models"),
    Mutant("k01", "sentences left out are counted wrong", "corpora/source.py",
           "len(texts) - len(common)", "len(texts)", "corpora"),
    Mutant("k02", "an id of one language alone is kept", "corpora/source.py",
           "if count[sentence_id] == len(present)]", "]", "corpora corpora_readers"),
    Mutant("k03", "one document more than the limit", "corpora/source.py",
           "documents[:limit]", "documents[: limit and limit + 1]", "corpora corpora_readers"),
    Mutant("e09", "a run of a newer format is opened", "results/reader.py",
           'manifest.get("format", FORMAT) > FORMAT', 'manifest.get("format", FORMAT) > FORMAT + 1', "results"),
    Mutant("e10", "a file that was added passes", "results/checksums.py",
           "if not _at_work(name)} - {*expected, CHECKSUMS}", "if _at_work(name)} - {*expected, CHECKSUMS}", "results"),
    Mutant("s01", "directions point from target to source", "steering/directions.py",
           "d = m_t - m_s", "d = m_s - m_t", "steering"),
    Mutant("s02", "damage by an edit with the wrong sign", "steering/losses.py",
           "return changed.totals - plain.totals", "return plain.totals - changed.totals", "steering_study"),
    Mutant("s04", "gain of a translation with the wrong sign", "steering/losses.py",
           "sum(rest) / len(rest) - own[0]", "own[0] - sum(rest) / len(rest)", "steering_study"),
    Mutant("s05", "Holm's p without the tests that are left", "steering/inference.py",
           "value * (len(ordered) - place)", "value * len(ordered)", "steering steering_study"),
    Mutant("s06", "the direction from all other languages with the wrong sign", "steering/directions.py",
           "moments.mean(target) - rest", "rest - moments.mean(target)", "steering"),
    Mutant("x01", "the mean of other languages holds the language itself", "studies/routing.py",
           "(f[:, place, expert].sum() - f[language, place, expert]) / (len(f) - 1)",
           "f[:, place, expert].sum() / len(f)", "experts_routing"),
    Mutant("x02", "loss without an expert with the wrong sign", "studies/routing_deactivation.py",
           "(loss.by_document - base[evaluated].by_document)", "(base[evaluated].by_document - loss.by_document)",
           "experts_routing"),
    Mutant("x03", "alignment of routing upside down", "regions/routing.py",
           "1 - self.same_sentence / self.other_sentence", "self.same_sentence / self.other_sentence",
           "experts_routing"),
    Mutant("l01", "controls of a latent language are added, not averaged", "latent/excess.py",
           "self.mass - (self.row + self.col) / 2", "self.mass - (self.row + self.col)", "latent_lens latent_study"),
    Mutant("l02", "a concept's gain with the wrong sign", "latent/separation.py",
           'gained[SOURCES[0]] - gained["other concept"]', 'gained["other concept"] - gained[SOURCES[0]]',
           "latent_patching"),
    Mutant("a01", "growth over a sweep with the wrong sign", "claims/measures/sweeps.py",
           "weight * (last - first)", "weight * (first - last)", "claims"),
    Mutant("a02", "a circuit against the controls with the wrong sign", "claims/measures/circuits.py",
           "float(value[0] - value[1]), low, high", "float(value[1] - value[0]), low, high", "claims"),
    Mutant("a03", "falling similarity with the wrong sign", "claims/measures/residual.py",
           'Part("similarity", float(gap[0])', 'Part("similarity", -float(gap[0])', "claims"),
    Mutant("l03", "entropy of a lens in nats", "latent/lens.py",
           "(lse - weighted / mass) / log(2)", "(lse - weighted / mass)", "latent_lens"),
)  # fmt: skip


@contextmanager
def copied(file: str, text: str) -> Iterator[str]:
    """A folder with a copy of the source in which one file has another text."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        copy = Path(folder) / "babelscope"
        shutil.copytree(ROOT / "src" / "babelscope", copy, copy_function=os.symlink)  # compiled files too
        (copy / file).unlink()
        (copy / file).write_text(text, encoding="utf-8")
        yield folder


def end_of(child: int, timeout: float) -> int | None:
    """Exit code of a child that leads a session; None where it had to be ended."""
    end = time.monotonic() + timeout
    while not (ended := os.waitpid(child, os.WNOHANG))[0] and time.monotonic() < end:
        time.sleep(0.02)
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # and what the tests may have left running
    if not ended[0]:
        os.waitpid(child, 0)
        return None
    return os.waitstatus_to_exitcode(ended[1])


def passes(file: str, text: str, tests: Iterable[Path | str], timeout: float = 900, each: float = 300) -> bool:
    """Whether the tests pass on a copy of the source in which one file has another text; False where they hang.

    The tests run in a fork of this process, so that the libraries are imported once. `each` are a test's seconds.
    """
    with copied(file, text) as folder:
        child = os.fork()
        if not child:
            _run_tests(folder, [str(test) for test in tests], each)
        return end_of(child, timeout) == 0


def _run_tests(folder: str, tests: list[str], each: float) -> NoReturn:
    """Run tests against the source in a folder, quietly, and leave the process."""
    code = 70
    try:
        os.setsid()
        os.chdir(ROOT)
        os.environ.update(PYTHONPATH=folder, PYTHONDONTWRITEBYTECODE="1")
        sys.dont_write_bytecode = True
        sys.path.insert(0, folder)
        for name in [name for name in sys.modules if name.partition(".")[0] in ("babelscope", "tests")]:
            del sys.modules[name]
        quiet = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(quiet, stream)
        options = ["-q", "-x", "-p", "no:cacheprovider", "-o", f"timeout={each:.0f}"]
        code = int(pytest.main([*options, "-W", "ignore::pytest.PytestAssertRewriteWarning", *tests]))
    finally:
        os._exit(code)


def survives(mutant: Mutant) -> bool | None:
    """Whether the tests pass with the mutant; None where the line is not there, or not once."""
    text = (ROOT / "src" / "babelscope" / mutant.file).read_text(encoding="utf-8")
    if text.count(mutant.right) != 1:
        return None
    tests = [ROOT / "tests" / f"test_{name}.py" for name in mutant.tests.split()]
    absent = [test.name for test in tests if not test.exists()]
    if absent:
        raise SystemExit(f"{mutant.name}: there is no {', '.join(absent)}")
    return passes(mutant.file, text.replace(mutant.right, mutant.wrong), tests)


def main(names: list[str]) -> int:
    """A line for each mutant, and how many were killed."""
    unknown = set(names) - {mutant.name for mutant in MUTANTS}
    if unknown:
        raise SystemExit(f"no mutant {', '.join(sorted(unknown))}; there are {', '.join(one.name for one in MUTANTS)}")
    chosen = [mutant for mutant in MUTANTS if not names or mutant.name in names]
    tests = sorted({f"tests/test_{name}.py" for mutant in chosen for name in mutant.tests.split()})
    if not passes("py.typed", "", [ROOT / test for test in tests], timeout=7200):
        raise SystemExit("the tests do not pass as things are: " + ", ".join(tests))
    outcomes: list[bool | None] = []
    for mutant in chosen:
        begun = time.monotonic()
        outcomes.append(survives(mutant))
        word = {True: "SURVIVED", False: "killed", None: "NOT THERE"}[outcomes[-1]]
        print(f"{mutant.name}  {word:<9}  {time.monotonic() - begun:4.0f} s  {mutant.file}: {mutant.says}", flush=True)
    print(f"{outcomes.count(False)} of {len(chosen)} killed")
    return 2 if None in outcomes else int(True in outcomes)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
