"""The site of `make docs`: its navigation names every page, its pages name what exists, its notebooks run."""

from __future__ import annotations

import re
import subprocess
import sys
from types import ModuleType
from typing import Any

import nbformat
import pytest

import harness
from harness.lib.classes import locate
from harness.lib.paths import PACKAGE
from harness.lib.reading import parse_yaml

ROOT = PACKAGE.parent
DOCS = ROOT / "docs"
NOTEBOOKS = sorted(DOCS.glob("notebooks/*.ipynb"))


def pages(nav: Any) -> list[str]:
    """Return the files that a navigation names."""
    if isinstance(nav, str):
        return [nav]
    return [page for part in (nav.values() if isinstance(nav, dict) else nav) for page in pages(part)]


def test_the_navigation_names_every_page_once():
    named = pages(parse_yaml((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"])
    there = [path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*") if path.suffix in (".md", ".ipynb")]
    assert sorted(named) == sorted(there)


def test_the_api_pages_hold_every_public_name():
    text = "".join(path.read_text(encoding="utf-8") for path in DOCS.glob("reference/*.md"))
    shown = [locate(path, path) for path in re.findall(r"^::: (\S+)", text, re.M)]
    assert [name for name in harness.__all__ if getattr(harness, name) not in shown] == []
    assert all(one.__doc__ for one in shown)


@pytest.mark.slow  # `make docs` runs them, too
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_is_stored_without_outputs(path, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    module = ModuleType("notebook")
    monkeypatch.setitem(sys.modules, "notebook", module)  # dataclasses look for the module of their class
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None
            exec(compile(cell.source, f"{path.name}, cell {number}", "exec"), vars(module))


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path):
    """As `make docs` does: broken links, unknown anchors and pages outside of the navigation fail, notebooks run."""
    done = subprocess.run([sys.executable, "-m", "mkdocs", "build", "--site-dir", str(tmp_path / "site")], cwd=ROOT,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    site = tmp_path / "site"
    assert "sld_max" in (site / "notebooks" / "apply.html").read_text(encoding="utf-8")
    api = (site / "reference" / "api.html").read_text(encoding="utf-8")
    assert all(f"<code>{name}</code>" in api or name in api for name in ("apply", "judge", "results", "refusals"))
    external = {url for page in site.rglob("*.html")
                for url in re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="(https?://[^"]+)"', page.read_text())}
    assert not external
