"""The self-contained page: runs go in, one HTML file comes out that needs no network and no other file."""

from __future__ import annotations

from babelscope.report.page import build_page, is_report, write_report

__all__ = ["build_page", "is_report", "write_report"]
