"""The sections of an evaluation: right answers by language, and the tables of every task."""

from __future__ import annotations

from babelscope.report.blocks import Section, gather
from babelscope.report.charts import chart, table
from babelscope.results import Run
from babelscope.results.schemas.evaluation import answered


def evaluation_sections(run: Run) -> list[Section]:
    """Right answers, and the tables: those that the run holds."""
    told = "Share of right answers by language and condition; base: the whole model, mean: over languages."
    of_tasks = answered(run)
    tables = [table(name, name.capitalize(), told if name in of_tasks else "") for name in run.tables]
    sections = [Section("Right answers", gather(run, chart("right_answers"))), Section("Tables", gather(run, *tables))]
    return [section for section in sections if section.blocks]
