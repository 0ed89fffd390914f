"""Loading shipped benches in tests: of real files where they are here, of small harmless ones made in the test."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.bench import PromptSet, load_prompts
from harness.lib.paths import conf_dir

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


def read_yaml(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return found


def preset(name: str, **overrides: Any) -> dict[str, Any]:
    """Return a shipped bench config with some values changed, as the command line does."""
    config = read_yaml(conf_dir() / "bench" / f"{name}.yaml")
    assert set(overrides) <= set(config), "the command line takes only the keys that a preset has"
    return {**config, **overrides}


def real_file(name: str) -> Path:
    """Return a public file by its name, or skip the test where it is not on this machine."""
    path = SHARED / name
    if not path.is_file():
        pytest.skip(f"the file {name} is not on this machine")
    return path


def load(name: str, file: Path | None = None, **overrides: Any) -> PromptSet:
    """Load a preset's prompts, of `file` where one is given."""
    given = {"file": str(file)} if file else {}
    found = load_prompts(preset(name, **given, **overrides))
    assert found is not None
    return found


@cache
def load_real(name: str, file: str) -> PromptSet:
    """Load a preset's prompts of a real file, once for all tests."""
    return load(name, real_file(file))


def write(path: Path, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
    return path
