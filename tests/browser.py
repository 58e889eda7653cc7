"""A real browser for tests of pages: Debian's Chromium, driven by Playwright; skipped with a message when absent."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest

FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
PATIENCE_MS = 120_000
_NODE_MODULES = Path(__file__).parent / ".node"


def chromium() -> str:
    """Path of an installed Chromium, or a skip that says how to get one."""
    found = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if not found:
        pytest.skip("no Chromium: apt-get install chromium, or set CHROMIUM to its path")
    pytest.importorskip("playwright", reason="no Playwright: pip install 'babelscope[browser]'")
    return found


@contextmanager
def launched() -> Iterator:
    """A browser with an empty profile."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS, timeout=PATIENCE_MS)
        try:
            yield browser
        finally:
            browser.close()


@cache
def axe_source() -> str:
    """The axe-core script, fetched once through npm into a folder that git ignores; a skip when that is impossible."""
    named = os.environ.get("AXE_CORE")
    script = Path(named) if named else _NODE_MODULES / "node_modules/axe-core/axe.min.js"
    if not script.is_file() and not named:
        npm = shutil.which("npm")
        if npm is None:
            pytest.skip("no axe-core: npm is not installed (or set AXE_CORE to axe.min.js)")
        _NODE_MODULES.mkdir(exist_ok=True)
        (_NODE_MODULES / ".gitignore").write_text("*\n")
        install = [npm, "install", "--prefix", str(_NODE_MODULES), "--no-audit", "--no-fund", "--silent", "axe-core@4"]
        subprocess.run(install, check=False, capture_output=True, timeout=120)
    if not script.is_file():
        pytest.skip("no axe-core: npm could not fetch it (or set AXE_CORE to axe.min.js)")
    return script.read_text(encoding="utf-8")


def violations(page, exclude: tuple[str, ...] = ()) -> list[str]:
    """Serious and critical findings of axe-core on a page, one line each."""
    page.evaluate(axe_source())
    found = page.evaluate(
        "exclude => axe.run({exclude}, {resultTypes: ['violations']}).then(result => result.violations)",
        [[selector] for selector in exclude],
    )
    return [
        f"{it['impact']}: {it['id']}: {node['html'][:200]}"
        for it in found
        if it["impact"] in {"serious", "critical"}
        for node in it["nodes"][:3]
    ]
