"""A direction from one language to another, added while the model writes (steering.md, sections 1 and 2)."""

from __future__ import annotations

from dataclasses import dataclass

from babelscope.app.session import Session
from babelscope.app.switches import Continuation, continued
from babelscope.app.work import NEW_TOKENS_LIMIT, Work, bounded
from babelscope.errors import InputError
from babelscope.steering import Moments, SavedEdit, collect, direction

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
