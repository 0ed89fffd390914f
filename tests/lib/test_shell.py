"""Commands that are printed for copying work in the shell that they are copied into."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from harness.lib.shell import typed
from harness.report.write import next_lines

VERSION = ("python", "-c", "import sys; print(sys.prefix)")


@pytest.fixture
def environment(tmp_path, monkeypatch):
    """Return a virtual environment in the working folder whose Python runs this process."""
    monkeypatch.chdir(tmp_path)
    programs = tmp_path / ".venv/bin"
    programs.mkdir(parents=True)
    (programs / "python").symlink_to(sys.executable)
    monkeypatch.setattr(sys, "executable", str(programs / "python"))
    return programs


def test_the_python_of_an_environment_that_is_not_active_is_named_by_its_path(environment, monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    line = typed(VERSION)
    assert line.startswith(".venv/bin/python -c ")
    assert subprocess.run(line, shell=True, capture_output=True, text=True, check=True).stdout.strip()


def test_in_an_active_environment_python_is_enough(environment, monkeypatch):
    monkeypatch.setenv("PATH", f"{environment}:/usr/bin:/bin")
    assert typed(VERSION).startswith("python -c ")


def test_from_another_folder_the_full_path_is_named(environment, monkeypatch, tmp_path_factory):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert typed(VERSION).split()[0] == str(environment / "python")


def test_another_environments_python_on_the_path_is_not_taken_for_this_one(environment, monkeypatch, tmp_path):
    other = tmp_path / "other/bin"
    other.mkdir(parents=True)
    (other / "python").write_text("#!/bin/sh\nexit 1\n")
    (other / "python").chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", os.pathsep.join([str(other), "/bin"]))
    assert typed(VERSION).startswith(".venv/bin/python ")


def test_words_are_quoted_and_other_programs_kept(environment, monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert typed(["python", "-m", "harness", "method=[a,b]"]).endswith(" -m harness 'method=[a,b]'")
    assert typed(["harness", "score"]) == "harness score"


def test_a_run_ends_with_commands_for_the_environment_that_it_ran_in(environment, monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    lines = next_lines("my results")
    assert lines[1].startswith("  .venv/bin/python -m harness view 'my results'  ")
    assert all(Path(line.split()[0]).exists() for line in lines[1:])
