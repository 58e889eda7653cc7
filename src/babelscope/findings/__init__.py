"""What a run found, in sentences: each is computed, says its interval, control and n, and knows when to say nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from babelscope.findings.circuits import circuit_findings
from babelscope.findings.evaluation import evaluation_findings
from babelscope.findings.latent import latent_findings
from babelscope.findings.regions import region_findings
from babelscope.findings.sentence import Finding, Kind, ordered
from babelscope.findings.steering import steering_kinds
from babelscope.findings.sweep import sweep_findings
from babelscope.results import Run
from babelscope.wording import of_dimensions

__all__ = ["Finding", "Kind", "findings_of"]

_ROOMS = {"regions": region_findings, "circuits": circuit_findings, "sweep": sweep_findings,
          "evaluation": evaluation_findings}  # fmt: skip

_SHOWN = {"steering": "steering-success", "confusion": "confusion-rates"}
"""the block of the page that shows what a study's own sentences say"""


def findings_of(run: Run) -> list[Finding]:
    """The findings of a run in the order in which a page shows them: effects, none, undecided, not measured.

    Studies that state their result themselves leave it in the summary as `sentences`.

    >>> findings_of(open_run("runs/bible"))[0].kind                                         # doctest: +SKIP
    'effect'
    """
    texts = [text for text in run.summary.get("sentences") or () if isinstance(text, str)]
    kinds: Sequence[Kind] = ["undecided" if "cannot be said" in text else "effect" for text in texts]
    if run.kind == "steering":
        kinds = steering_kinds(run, len(texts))
    told = [Finding(kind, text, _SHOWN.get(run.kind, "")) for kind, text in zip(kinds, texts)]
    stated = latent_findings(run, texts) if run.kind == "latent" else ordered(told)
    room = _ROOMS.get(run.kind)
    try:
        found = stated + (ordered(room(run)) if room else [])
        return [replace(one, text=of_dimensions(one.text)) for one in found] if run.of_dimensions else found
    except (KeyError, ValueError, AttributeError, TypeError, IndexError) as error:
        # a table of another shape costs the sentences, not the page
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        return [
            *stated,
            Finding("not measured", f"No finding could be read from this run: {reason}.", ""),
        ]
