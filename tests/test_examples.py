"""The pages of examples/: they run, show pictures, and are all in the gallery."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
import torch

from pyjuice_bridge.data import load_dataset
from pyjuice_bridge.errors import UserError

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "examples").glob("*.py"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_an_example_runs_and_shows_pictures(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = page.read_text(encoding="utf-8")
    if "transformers" in text:
        pytest.importorskip("transformers")
    if '"mnist5k"' in text:
        try:
            load_dataset("mnist5k")
        except UserError as error:
            pytest.skip(str(error))
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("agg")
    drawn: list[int] = []
    monkeypatch.setattr(pyplot, "show", lambda: drawn.extend(pyplot.get_fignums()))
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        runpy.run_path(str(page), run_name="__main__")
    finally:
        torch.set_num_threads(threads)
        pyplot.close("all")
    assert drawn


def test_every_example_is_in_the_gallery() -> None:
    gallery = (ROOT / "docs" / "gallery.md").read_text(encoding="utf-8")
    site = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert len(PAGES) == 8
    for page in PAGES:
        assert page.read_text(encoding="utf-8").startswith("# %% [markdown]\n# # ")
        assert f"(gallery/{page.stem}.md)" in gallery
        assert f"gallery/{page.stem}.md" in site


DOCS = sorted((ROOT / "docs").glob("*.md"))


def test_the_site_has_every_page() -> None:
    site = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in DOCS:
        assert f": {page.name}\n" in site, page.name


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_links_of_pages_lead_to_files(page: Path) -> None:
    """Pages in docs/gallery are made by docs/render.py."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s#]+)", text):
        if not link.startswith(("http://", "https://", "gallery/")):
            assert (page.parent / link).exists(), link
