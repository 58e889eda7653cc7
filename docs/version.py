"""Builds the site of this release beside those of earlier ones: `make docs-version`, or `python docs/version.py site`.

site/0.1.0/…  site/0.2.0/…     each release's own pages, never touched again
site/versions.json             what the theme's list of versions reads
site/index.html                goes to the newest release
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LATEST = (
    '<!doctype html><meta charset="utf-8"><title>babelscope</title><meta http-equiv="refresh" content="0; url={0}/">'
)


def main(site: Path) -> None:
    """Build this version's pages and list all that are there."""
    text = (ROOT / "src/babelscope/_version.py").read_text(encoding="utf-8")
    version = re.findall(r'__version__ = "([^"]+)"', text)[0]
    built = (site / version).resolve()
    subprocess.run(["mkdocs", "build", "--strict", "--quiet", "--site-dir", built], cwd=ROOT, check=True)
    there = sorted((folder.name for folder in site.iterdir() if (folder / "index.html").is_file()), key=_order)
    newest = there[-1]
    listed = [
        {"version": name, "title": name, "aliases": ["latest"] if name == newest else []} for name in reversed(there)
    ]
    (site / "versions.json").write_text(json.dumps(listed, indent=1) + "\n", encoding="utf-8")
    (site / "index.html").write_text(LATEST.format(newest), encoding="utf-8")
    print(f"{site}: {', '.join(there)}; index.html goes to {newest}")


def _order(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)]


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "site"))
