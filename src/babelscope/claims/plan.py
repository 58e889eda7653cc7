"""What a claim asks for on its paper's model: commands, data and cost, without weights and without the network."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from babelscope.claims.claim import Claim
from babelscope.claims.measures import MEASURES
from babelscope.errors import InputError

SOURCES = {
    "bible": "git clone https://github.com/christos-c/bible-corpus (its folder `bibles`)",
    "xlsum": "hub csebuetnlp/xlsum, a configuration a language; or its JSONL files in a folder `XLSum`",
    "flores": "hub openlanguagedata/flores_plus (accept its conditions, then `hf auth login`)",
    "table": "the files named in docs/data.md",
    "pocket": "built in",
    "hub": "the hub's data set of that name",
    "klar": "the published folder of KLAR, a folder a language with a JSON file a relation",
    "stories": "the published files of XStoryCloze, a TSV a language, in that folder",
    "concepts": "built in: 122 concepts in nine languages",
}
"""where a reader's text comes from"""


def replication_plan(claim: Claim, models: Sequence[str] = (), out: Path | None = None) -> list[str]:
    """Lines: what is measured, the exact command, where the data come from, and what it costs.

    Raises InputError for a claim that waits for something.
    """
    if claim.needs:
        raise InputError(f"{claim.id} cannot be run: it waits for {'; '.join(claim.needs)}")
    chosen = list(models) or _papers_models(claim)
    measure = MEASURES[claim.measure]
    corpus, texts = str(claim.run.get("corpus") or measure.corpus), claim.run.get("texts")
    command = ["babelscope", "replicate", claim.id, "--model", ",".join(chosen), "--corpus", corpus]
    command += ["--texts", str(texts)] if texts else []
    stories = claim.run.get("stories")
    command += ["--stories", str(stories)] if stories else []
    command += ["--languages", ",".join(claim.run["languages"])] if claim.run.get("languages") else []
    for name in ("n", "tokens", "window"):
        command += [f"--{name}", str(claim.run[name])] if name in claim.run else []
    command += ["--draws", "200", "--out", str(out or f"runs/{claim.id}")]
    lines = [
        f"{claim.id}: {claim.claim}",
        f"measure   {claim.measure} ({claim.unit}), twin: {claim.twin}; nothing is loaded now",
        f"command   {shlex.join(command)}",
    ]
    if len(chosen) == 1:
        lines.append(f"first     babelscope check {shlex.quote(chosen[0])} --for regions")
    for name, spec in (("corpus", corpus), ("texts", texts), ("stories", stories)):
        if spec:
            source = SOURCES.get(str(spec).partition(":")[0], "a file of your own")
            lines.append(f"{name:<10}{spec}; from: {source}")
    lines.append(f"weights   {_weights(claim, chosen)}")
    lines.append(f"time      twice (the claim, and its twin): {measure.passes}; hours were not measured")
    lines += [f"paper     {one}" for one in map(str, claim.raw["data"])]
    return lines


def _papers_models(claim: Claim) -> list[str]:
    hubs: list[str] = []
    for one in claim.raw["models"]:
        if isinstance(one, dict) and one.get("hub"):
            found: dict[str, Any] = one
            hubs += [f"{found['hub']}@{revision}" for revision in found.get("revisions") or ()] or [str(found["hub"])]
    several = len(MEASURES[claim.measure].models) > 1
    return hubs if several else hubs[:1]


def _weights(claim: Claim, models: Sequence[str]) -> str:
    cost: dict[str, object] = claim.raw.get("cost") or {}
    size = cost.get("weights_gb_bf16")
    first = _papers_models(claim)[:1]
    if size is None:
        return "not stated in the claim's file"
    if list(models)[:1] != first:
        return f"{size} GB in bfloat16 for {', '.join(first)}; of {', '.join(models)} it is not known here"
    passes = f"; {cost['passes']}" if "passes" in cost else ""
    return f"{size} GB in bfloat16, twice that in float32 ({cost.get('weights_how', 'parameters x 2 bytes')}){passes}"
