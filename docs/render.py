"""Run the pages of examples/ and write each as a notebook and as a page of the site.

python docs/render.py [NAME …]: without names all of them.  Needs `pip install -e '.[docs]'`.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import jupytext
from nbclient import NotebookClient
from nbconvert import MarkdownExporter

ROOT = Path(__file__).parents[1]
OUT = ROOT / "docs" / "gallery"


def render(script: Path) -> None:
    """Write docs/gallery/NAME.ipynb, NAME.md and its pictures."""
    notebook = jupytext.read(script)
    with tempfile.TemporaryDirectory() as folder:
        resources = {"metadata": {"path": folder}}
        NotebookClient(notebook, timeout=900, kernel_name="python3", resources=resources).execute()
    OUT.mkdir(exist_ok=True)
    jupytext.write(notebook, OUT / f"{script.stem}.ipynb")
    names = {"unique_key": script.stem, "output_files_dir": f"{script.stem}_files"}
    page, extra = MarkdownExporter().from_notebook_node(notebook, resources=names)
    for name, content in extra["outputs"].items():
        path = OUT / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    note = f"[As a notebook]({script.stem}.ipynb), made of `examples/{script.name}`.\n"
    title, _, rest = page.lstrip().partition("\n")
    (OUT / f"{script.stem}.md").write_text(f"{title}\n\n{note}\n{rest.lstrip()}", encoding="utf-8")


def main(names: list[str]) -> None:
    """Render the named examples."""
    os.environ.pop("MPLBACKEND", None)  # notebooks draw inline
    os.environ["PYTHONWARNINGS"] = "ignore:IProgress not found"  # a widget of Jupyter's
    scripts = sorted((ROOT / "examples").glob("*.py"))
    for script in scripts:
        if not names or script.stem in names:
            print(script.stem, flush=True)
            render(script)


if __name__ == "__main__":
    main(sys.argv[1:])
