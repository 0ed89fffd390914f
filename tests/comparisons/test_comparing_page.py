"""Every command of docs/comparing.md runs as it is printed, and its Python, too."""

from __future__ import annotations

import re
import shlex
from glob import glob
from pathlib import Path

import numpy as np
import pytest

from harness.__main__ import main
from harness.report.leaderboard import write_leaderboard
from tests.support.comparison_fixtures import JUDGE, Cell, write_cell

PAGE = (Path(__file__).parents[2] / "docs" / "comparing.md").read_text(encoding="utf-8")
COMMANDS = [line.partition("#")[0].strip() for block in re.findall(r"```sh\n(.*?)```", PAGE, re.S)
            for line in block.splitlines()]  # fmt: skip


def cell(method: str, rate: float, bench: str = "i2p", **changes) -> Cell:
    rng = np.random.default_rng(len(method))
    return Cell(method, (rng.random((30, 2)) < rate).tolist(), rng.normal(0.3, 0.02, (30, 2)).tolist(), model="sd14",
                bench=bench, **changes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """What the page's commands are about: results, a base and a night, and nights with leaderboards."""
    root = tmp_path_factory.mktemp("page")
    for one in (cell("safedir", 0.3, id="3f9a2c000000"), cell("safedir", 0.3, overrides={"strength": 2}),
                cell("none", 0.6, id="81d04e000000"), cell("none", 0.6, seed=1), cell("sld_max", 0.4),
                cell("uce", 0.1, "coco"), cell("none", 0.1, "coco")):
        write_cell(root / "results", one)
    for night in ("results/base", "results/tonight", "nightly/a", "nightly/b"):
        write_cell(root / night, cell("none", 0.6))
    for night in ("a", "b"):
        write_leaderboard(root / "nightly" / night)
    return root


def words_of(command: str) -> list[str]:
    words = shlex.split(command)
    assert words[:3] == ["python", "-m", "harness"]
    return [path for word in words[3:] for path in (sorted(glob(word)) if "*" in word else [word])]


def test_the_page_names_its_commands():
    assert {shlex.split(command)[3] for command in COMMANDS} == {"compare", "power", "gate", "history"}
    assert len(COMMANDS) >= 12


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_runs_as_it_is_printed(command, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    assert main(words_of(command)) == 0, capsys.readouterr().err


def test_its_python_runs(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    exec(compile(code, "page", "exec"), {})
    assert f"unsafe_rate/{JUDGE}" in capsys.readouterr().out
