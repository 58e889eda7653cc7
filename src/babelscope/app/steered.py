"""A direction from one language to another, added while the model writes (steering.md, sections 1 and 2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from babelscope.app.facts import runs_beside
from babelscope.app.session import Session
from babelscope.app.switches import Continuation, continued
from babelscope.app.work import NEW_TOKENS_LIMIT, Work, bounded
from babelscope.errors import InputError
from babelscope.steering import Moments, SavedEdit, collect, direction, load_edit
from babelscope.steering.edits import strength

SENTENCES = 60
"""of each language, that the direction is made from"""
STRONGEST = 8.0


@dataclass(frozen=True)
class Steered:
    """The same prompt as it is and steered."""

    before: Continuation
    after: Continuation
    length: float
    """of what is added, as a share of the mean length of a token's state at that layer"""


def steer(
    session: Session, prompt: str, source: str, target: str, layer: int, alpha: float, new_tokens: int, work: Work
) -> Steered:
    """Continue a prompt as it is, and with `alpha` times the difference of two languages' means added at one layer.

    Raises InputError for one language twice, a layer that is not there, a strength out of range, a prompt that is
    empty or too long.
    """
    model, prompt = session.need_model(), bounded(prompt, "the prompt")
    if source == target:
        raise InputError("choose two languages: a direction leads from one to another")
    if not 0 <= layer <= model.layers:
        raise InputError(f"there is no layer {layer}: the residual stream has layers 0 to {model.layers}")
    if not 1 <= int(new_tokens) <= NEW_TOKENS_LIMIT:
        raise InputError(f"between 1 and {NEW_TOKENS_LIMIT} tokens are written here, not {new_tokens}")
    if not -STRONGEST <= alpha <= STRONGEST:
        raise InputError(f"strengths between {-STRONGEST:g} and {STRONGEST:g} are taken here, not {alpha:g}")
    towards = direction(_moments(session, work), source, target, layer)
    before = continued(session, model, prompt, int(new_tokens), "writing as it is", work)
    after = before
    if alpha:
        with SavedEdit((towards,), alpha=alpha).applied(model):
            after = continued(session, model, prompt, int(new_tokens), "writing steered", work)
    return Steered(before, after, abs(alpha) * towards.gap / towards.norm)


def edit_files(session: Session, folders: Sequence[Path]) -> list[str]:
    """Edits that `babelscope steer` wrote: those of the open run, then those of runs beside it."""
    runs = [str(session.run.path)] if session.run is not None else []
    runs += runs_beside(folders)
    found = [str(path) for run in runs for path in sorted((Path(run) / "edits").glob("*.safetensors"))]
    return list(dict.fromkeys(found))


def apply_file(
    session: Session, prompt: str, file: str, factor: float, new_tokens: int, work: Work
) -> tuple[Steered, SavedEdit]:
    """Continue a prompt as it is, and under an edit from a file, at `factor` times its own strength.

    Raises InputError for a file that is no edit, one that was made for other weights, or a strength out of range.
    """
    model, prompt = session.need_model(), bounded(prompt, "the prompt")
    if not 1 <= int(new_tokens) <= NEW_TOKENS_LIMIT:
        raise InputError(f"between 1 and {NEW_TOKENS_LIMIT} tokens are written here, not {new_tokens}")
    saved = load_edit(file)
    made_for = saved.facts.get("weight_hash")
    if made_for is not None and made_for != model.weight_hash:
        raise InputError(f"{file} was made for other weights ({saved.facts.get('model')}) than those of {model.id}")
    if not -STRONGEST <= factor <= STRONGEST:
        raise InputError(f"factors between {-STRONGEST:g} and {STRONGEST:g} are taken here, not {factor:g}")
    saved = saved.stronger(factor * saved.alpha)
    before = continued(session, model, prompt, int(new_tokens), "writing as it is", work)
    with saved.applied(model):
        after = continued(session, model, prompt, int(new_tokens), "writing under the edit", work)
    steps = [strength(one, saved.alpha, saved.unit) for one in saved.directions]
    length = max((abs(step.norm) for step in steps), default=float("nan"))
    return Steered(before, after, length), saved


def _moments(session: Session, work: Work) -> Moments:
    """Means of the residual stream by language, made once."""
    known: Moments | None = session.__dict__.get("_moments")
    if known is None:
        corpus = session.need_corpus()
        few = corpus.sample(min(SENTENCES, len(corpus)), seed=0)
        total = len(few) * len(few.languages)
        with work.stage("reading the parallel text", total, "sentences") as step:
            known = collect(session.need_model(), few, progress=step)
        session.__dict__["_moments"] = known
    return known
