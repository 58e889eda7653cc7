"""Published claims as data: what was said, how it is measured here, with the control it lacked, and the verdict."""

from __future__ import annotations

from babelscope.claims.case import Case
from babelscope.claims.claim import Claim, load_claim, packaged_claims
from babelscope.claims.measures import MEASURES
from babelscope.claims.verdict import Part, Verdict, aggregate, judge

__all__ = [
    "MEASURES",
    "Case",
    "Claim",
    "Part",
    "Verdict",
    "aggregate",
    "judge",
    "load_claim",
    "packaged_claims",
]
