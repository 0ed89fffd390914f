"""What others import is in `harness` itself, loaded when it is asked for."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import harness

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", harness.__all__)
def test_a_public_name_is_there_and_documented(name):
    assert getattr(harness, name).__doc__ and name in dir(harness)


def test_type_checkers_see_the_names_that_are_loaded():
    """Imports for type checkers and the table of places are two lists of one thing."""
    tree = ast.parse((ROOT / "harness" / "__init__.py").read_text(encoding="utf-8"))
    checked = {alias.asname or alias.name: f"{node.module}.{alias.name}" for block in tree.body
               if isinstance(block, ast.If) for node in block.body if isinstance(node, ast.ImportFrom)
               for alias in node.names}  # fmt: skip
    assert checked == {name: f"harness.{place}" for name, place in harness._PLACES.items()}
    assert sorted(checked) == sorted(harness.__all__) and len(checked) <= 16


def test_a_name_that_is_not_public_is_refused():
    with pytest.raises(AttributeError, match="'harness' has no attribute 'Methd'"):
        harness.Methd  # noqa: B018


@pytest.mark.parametrize(("code", "unloaded"), [
    ("import harness", ("numpy", "torch", "hydra", "omegaconf", "rich", "yaml", "pyarrow")),
    ("from harness import Method, Evaluator, ScoreRow", ("torch", "hydra", "omegaconf", "pyarrow")),
])  # fmt: skip
def test_importing_loads_nothing_heavy(code, unloaded):
    done = subprocess.run([sys.executable, "-c", f"import sys\n{code}\nprint(*sys.modules)"], capture_output=True,
                          text=True, check=True)
    assert not set(unloaded) & set(done.stdout.split())


def test_contributing_uses_the_public_names():
    """No example imports from a module what `harness` itself has."""
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    imported = [(node.module, alias.name) for code in re.findall(r"```python[^\n]*\n(.*?)```", page, re.DOTALL)
                for node in ast.walk(ast.parse(code)) if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert {("harness", "Method"), ("harness", "Evaluator"), ("harness", "run_jobs")} <= set(imported)
    assert [one for one in imported if one[1] in harness.__all__ and one[0] != "harness"] == []


def test_a_script_composes_and_runs_jobs(tmp_path, capsys):
    words = ["method=none", "bench=micro_i2p", "limit=1", "mode=plan", f"results={tmp_path}"]
    assert harness.run_jobs(harness.compose_jobs(words, multirun=False), command=["python", "mine.py"]) == 0
    assert "micro/none/micro_i2p" in capsys.readouterr().out
