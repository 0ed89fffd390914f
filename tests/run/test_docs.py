"""What README and CONTRIBUTING tell a reader to type does what they say."""

from __future__ import annotations

import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from harness.__main__ import main
from harness.cli.commands import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
FENCE = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
STARTS_SERVICES = ("ray start", "make ", ". .venv")  # make targets are what runs this suite
NEEDS_CLUSTER = "pool.address=auto"


def fences(page: str):
    return FENCE.findall((ROOT / page).read_text(encoding="utf-8"))


def commands(page: str) -> list[str]:
    lines = [line for kind, _, body in fences(page) if kind == "sh" for line in body.splitlines()]
    stripped = [line.split("#")[0].strip() for line in lines]
    return [line for line in stripped if line]


def write_files(page: str, folder: Path) -> None:
    """Write the files that a page shows."""
    for _, title, body in fences(page):
        if title:
            path = folder / title
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(body, encoding="utf-8")


def run(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)]), "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, *words[1:]], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


README_COMMANDS = [c for c in commands("README.md") if not c.startswith(STARTS_SERVICES) and NEEDS_CLUSTER not in c]


def test_readme_shows_the_commands_that_this_file_runs():
    assert len(README_COMMANDS) >= 7
    assert {"make demo", "make test"} <= set(commands("README.md"))


RUNS = [c for c in README_COMMANDS if c.startswith("python -m harness") and not {*c.split()[3:4]} & set(COMMANDS)]


@pytest.mark.parametrize("command", RUNS)
def test_every_readme_command_plans(command, tmp_path, monkeypatch, capsys):
    (tmp_path / "i2p.csv").write_text("prompt,case_number\na house,1\n")
    (tmp_path / "prompts.csv").write_text("text\na house\n")
    write_files("README.md", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    code = main([*shlex.split(command)[3:], "mode=plan"])
    said = capsys.readouterr()
    assert "images missing" in said.out, said.err
    assert code == ("\ncannot run: " in said.out)


@pytest.mark.parametrize("command", [c for c in README_COMMANDS if {*c.split()[3:4]} & set(COMMANDS)])
def test_every_other_readme_command_has_the_settings_that_it_is_shown_with(command, capsys):
    _, _, _, name, *words = shlex.split(command)
    assert main([name, "--help"]) == 0
    told = capsys.readouterr().out
    settings = [word.partition("=")[0] for word in words if "=" in word or word.startswith("-")]
    runs_cells = "as python -m harness" in told  # prefetch takes a run's settings
    assert all(runs_cells or setting.split(".")[0] in told for setting in settings), told


def test_the_readme_method_acts_as_it_says(tmp_path, monkeypatch):
    write_files("README.md", tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    module = importlib.import_module("my_package.louder")
    assert module.Louder(factor=2.0).guide(None, None, 3.0) == 6.0


def test_contributing_examples_work_as_written(tmp_path, monkeypatch, capfd):
    write_files("CONTRIBUTING.md", tmp_path)
    examples = [c for c in commands("CONTRIBUTING.md") if c.startswith("python -m harness")]
    assert len(examples) == 3
    quick = ["tracker=disabled", "pool=inline", "batch_size=2", "bench.num_inference_steps=4"]
    first, *others = ([*shlex.split(command), *quick] for command in examples)
    done = run(first, tmp_path)
    assert done.returncode == 0, f"{examples[0]}\n{done.stdout}\n{done.stderr}"
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))  # as `python -m` does
    for words in others:  # in this process, which has loaded torch
        assert main(words[3:]) == 0, f"{words}\n{capfd.readouterr()}"
    summaries = {
        path.parts[-4] + "/" + path.parts[-3]: json.loads(path.read_text())
        for path in (tmp_path / "results" / "runs" / "micro").glob("*/*/*/summary.json")
    }
    milder, garden = summaries["milder/micro_i2p"], summaries["none/garden"]
    assert milder["comparisons"]["none"]["metrics"]["unsafe_rate/hazard_judge"]["n_pairs"] == 4
    assert garden["images"]["n_ok"] == 6
    assert {"unsafe_rate/hazard_judge/house", "unsafe_rate/hazard_judge/star"} <= set(garden["metrics"])
    brightness = summaries["none/micro_i2p"]["metrics"]["brightness"]
    assert brightness["n"] == 4
    assert 0 < brightness["value"] < 1


def test_every_link_of_the_pages_leads_somewhere():
    for page in (
        "README.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        *(str(p.relative_to(ROOT)) for p in (ROOT / "docs").glob("*.md")),
    ):
        for target in re.findall(r"\]\(([^)#:]+)\)", (ROOT / page).read_text(encoding="utf-8")):
            assert (ROOT / page).parent.joinpath(target).exists(), f"{page}: {target}"


def test_the_table_of_methods_has_a_row_for_every_method_of_its_experiment():
    experiment = yaml.safe_load((ROOT / "conf" / "experiment" / "micro_methods.yaml").read_text())
    sweeps = [experiment["hydra"]["sweeper"]["params"], *experiment["more_sweeps"]]
    choices = [choice for sweep in sweeps for choice in re.findall(r"\[[^\]]*\]|\w+", sweep["method"])]
    asked = {"+".join(re.findall(r"\w+", choice)) for choice in choices}
    table = (ROOT / "docs" / "methods.md").read_text().split("<!-- overview -->")[1].split("<!-- /overview -->")[0]
    rows = [line.strip("|").split("|")[0].strip() for line in table.strip().splitlines()[2:]]
    assert set(rows) == asked and len(rows) == len(asked)


def test_every_preset_is_in_the_list_of_methods():
    listed = (ROOT / "docs" / "methods.md").read_text().split("## Presets")[1].split("\n\nEvery number")[0]
    named = set(re.findall(r"`([a-z0-9_]+)`", listed))
    assert {path.stem for path in (ROOT / "conf" / "method").glob("*.yaml")} - named == {"none"}


def test_every_bench_of_real_prompts_is_in_the_table_of_benchmarks():
    table = (ROOT / "docs" / "benchmarks.md").read_text().split("| bench |")[1].split("\n\n")[0]
    named = set(re.findall(r"`([a-z0-9_]+)`", table))
    assert {path.stem for path in (ROOT / "conf" / "bench").glob("[!m]*.yaml")} | {"mma", "mma_clean"} <= named


def test_every_evaluator_is_in_the_table_of_what_it_was_held_against():
    table = (ROOT / "docs" / "evaluators.md").read_text().split("<!-- proof -->")[1].split("<!-- /proof -->")[0]
    rows = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    assert sorted(rows) == sorted(path.stem for path in (ROOT / "conf" / "evaluator").glob("*.yaml"))
