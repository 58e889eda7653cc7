"""Execute the notebooks: `python docs/make_notebooks.py [NAME …]` writes each .ipynb from the .py file beside it.

The .py files (cells between `# %%`) are what is written and reviewed; the .ipynb files carry the outputs. With --check
everything is executed and compared with what is committed: the sources must be equal, and no cell may fail.
"""

import sys
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent / "notebooks"


def executed(source: Path):
    """The notebook of a .py file, run from top to bottom; an error in a cell ends the program."""
    book = jupytext.read(source)
    for place, cell in enumerate(book.cells):
        cell["id"] = f"cell-{place}"  # random ids would differ each time
    book.metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    NotebookClient(book, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(FOLDER)}}).execute()
    for cell in book.cells:
        cell.metadata.pop("execution", None)  # clock times
        if "outputs" in cell:  # bars of loading are of no use on a page
            cell.outputs = [one for one in cell.outputs if one.get("name") != "stderr"]
    return book


def sources(book) -> list[str]:
    """The text of every cell."""
    return [cell.source for cell in book.cells]


def main() -> None:
    names = [word for word in sys.argv[1:] if not word.startswith("--")]
    stale = []
    for source in sorted(FOLDER.glob("*.py")):
        if names and source.stem not in names:
            continue
        book = executed(source)
        target = source.with_suffix(".ipynb")
        if "--check" not in sys.argv:
            nbformat.write(book, target)
        elif not target.is_file() or sources(nbformat.read(target, as_version=4)) != sources(book):
            stale.append(target.name)
        print(f"{source.stem}: {len(book.cells)} cells, no error", flush=True)
    if stale:
        sys.exit(f"not up to date: {', '.join(stale)}; run python docs/make_notebooks.py")


if __name__ == "__main__":
    main()
