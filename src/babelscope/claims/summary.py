"""What a run of many claims came to, as a table: verdict against the one expected, twin, and the time of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from babelscope.claims.claim import Claim
from babelscope.results.csv_cells import write_csv
from babelscope.results.whole import whole_file

COLUMNS = ("claim", "seed", "verdict", "expected", "twin", "as expected", "wall_s", "processor_s")


def summary_row(claim: Claim, facts: Mapping[str, Any], as_expected: bool) -> dict[str, object]:
    """One row of a finished replication (the content of its `verdict.json`): claim and twin together in seconds."""
    cost: list[Mapping[str, float]] = list(facts["cost"].values())
    return {
        "claim": claim.id,
        "seed": facts["case"]["seed"],
        "verdict": facts["verdict"]["answer"],
        "expected": claim.expected,
        "twin": facts["twin"]["verdict"]["answer"],
        "as expected": as_expected,
        "wall_s": round(sum(side["wall_s"] for side in cost), 1),
        "processor_s": round(sum(side["processor_s"] for side in cost), 1),
    }


def summary_table(rows: Sequence[Mapping[str, object]]) -> pd.DataFrame:
    """The rows as a table with fixed columns."""
    return pd.DataFrame(list(rows), columns=list(COLUMNS))


def write_summary(table: pd.DataFrame, path: Path) -> None:
    """The table as CSV, whole or not at all. Raises InputError where it cannot be written."""
    with whole_file(path) as partial:
        write_csv(table, partial)


def summary_lines(table: pd.DataFrame) -> list[str]:
    """The table as lines, and a last one that counts; what is not as expected is marked and says what was.

    >>> row = ["a", 0, "holds", "holds", "does not hold", True, 12.0, 3.5]
    >>> summary_lines(pd.DataFrame([row], columns=list(COLUMNS)))[-1]
    '1 of 1 as expected; twins: 1 does not hold; wall 12 s, processor 4 s, the longest 12 s and 4 s'
    """
    width = max(len(str(name)) for name in ["claim", *table["claim"]])
    lines = [f"{'claim':<{width}}  seed  {'verdict':<17}  {'twin':<17}    wall  processor"]
    for row in table.to_dict("records"):
        wrong = "" if row["as expected"] else f"  NOT AS EXPECTED (verdict {row['expected']})"
        lines.append(
            f"{row['claim']:<{width}}  {row['seed']:>4}  {row['verdict']:<17}  {row['twin']:<17}  "
            f"{row['wall_s']:>4.0f} s  {row['processor_s']:>7.0f} s{wrong}"
        )
    twins = ", ".join(f"{count} {answer}" for answer, count in table["twin"].value_counts().items())
    wall, processor = (table[name].astype(float).tolist() for name in ("wall_s", "processor_s"))
    right = table["as expected"].tolist().count(True)
    lines.append(
        f"{right} of {len(table)} as expected; twins: {twins}; wall {sum(wall):.0f} s, "
        f"processor {sum(processor):.0f} s, the longest {max(wall):.0f} s and {max(processor):.0f} s"
    )
    return lines
