"""docs/results_format.md against what a run really writes: every field is documented, and every documented one written.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from harness.lib.paths import PACKAGE
from harness.lib.reading import parse_json, read_yaml

PAGE = PACKAGE.parent / "docs" / "results_format.md"
CELL = "runs/*/*/*/*/"
FILES = {
    "cell.yaml": CELL, "summary.json": CELL, "provenance.json": CELL, "rows/*.parquet": CELL,
    "scores/*/*.parquet": CELL, "scores/*/features-*.npz": CELL, "verdicts.parquet": CELL, "set_metrics.json": CELL,
    "hashes.json": CELL,
    "artifacts/*/*/meta.json": "", "calibrations/*/*.yaml": "", "throughput.json": "", "leaderboard.json": "",
    "leaderboard.csv": "",
}  # fmt: skip
OTHERS = ("images/", "artifact.safetensors", "leaderboard.html", "leaderboard.md", "artifacts/references/")
MEASURE = ("_ci_low", "_ci_high", "_ci_method", "_n", "_n_unknown", "_note")
MAPPINGS = ("metrics", "comparisons", "evaluators", "training", "packages", "versions")  # of names that nobody fixes


@cache
def documented() -> dict[str, dict[str, str]]:
    """Return, for each kind of file, when each of its fields is written."""
    fields: dict[str, dict[str, str]] = {}
    section = ""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            section = line.removeprefix("## ")
            fields[section] = {}
        elif match := re.match(r"\| `([^`]+)` \| ([^|]*) \|", line):
            assert match[1] not in fields[section], f"{match[1]} is listed twice"
            fields[section][match[1]] = match[2].strip()
    return fields


def leaves(value: Any, path: str = "") -> Iterator[str]:
    """Yield the place of every value of nested plain data."""
    if isinstance(value, Mapping):
        if not value:
            yield f"{path}.*"
        for key, one in value.items():
            yield from leaves(one, f"{path}.{str(key).replace('.', '·')}" if path else str(key).replace(".", "·"))
    elif isinstance(value, list):
        if not value:
            yield f"{path}[]"
        for one in value:
            yield from leaves(one, f"{path}[]")
    else:
        yield path


def fields_of(file: Path) -> Iterator[str]:
    """Yield the fields of a file."""
    match file.suffix:
        case ".parquet":
            yield from pq.read_schema(file).names
        case ".npz":
            yield from np.load(file).files
        case ".yaml":
            yield from leaves(read_yaml(file))
        case ".csv":
            yield from csv.DictReader(file.open(encoding="utf-8")).fieldnames or ()
        case _:
            yield from leaves(parse_json(file.read_bytes()))


def pattern(field: str, written: str) -> re.Pattern[str]:
    """Return what matches the places that a documented field stands for."""
    text = re.escape(field).replace(re.escape(".*"), r"(\..*|\[\].*)?")
    text = re.sub(r"<[a-z]+>", r"[^.\\[]+", text)
    text = text.replace(re.escape("[]"), r"(\[\])?") if field.endswith("[]") else text
    return re.compile(text + (f"({'|'.join(MEASURE)})?" if written.endswith("a measure") else ""))


def fits(place: str, field: str, written: str) -> bool:
    return pattern(field, written).fullmatch(place) is not None or (
        field.split(".")[0].removesuffix("[]") in MAPPINGS and place == f"{field.split('.')[0].removesuffix('[]')}.*")


@pytest.mark.parametrize("kind", FILES)
def test_every_field_that_is_written_is_documented_and_the_other_way_round(finished, kind):
    told, found = documented()[kind], set()
    files = sorted(finished.glob(FILES[kind] + kind))
    if kind == "scores/*/*.parquet":
        assert all("features" not in file.name for file in files)
    assert files, f"the run wrote no {kind}"
    for file in files:
        places = set(fields_of(file))
        unknown = {place for place in places if not any(fits(place, *one) for one in told.items())}
        assert not unknown, f"{kind}: {sorted(unknown)[:10]} are not in {PAGE.name}"
        here = {field for field, written in told.items() if any(fits(place, field, written) for place in places)}
        missing = {field for field, written in told.items() if written.startswith("always")} - here
        assert not missing, f"{file}: {sorted(missing)} are said to be there always"
        found |= here
    source = "\n".join(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py"))
    for field in told.keys() - found:  # written under conditions that this run does not have
        name = re.sub(r"<[a-z]+>|\[\]|\.\*", "", field).rpartition(".")[2].strip() or field.split(".")[0]
        assert re.search(rf'["\']{re.escape(name)}\b', source), f"{kind}: nothing writes {field}"


def test_every_file_that_is_written_is_documented(finished):
    known = {file for kind, place in FILES.items() for file in finished.glob(place + kind)}
    others = [file for file in finished.rglob("*") if file.is_file() and file not in known]
    unknown = [file for file in others if not any(name in file.as_posix() for name in OTHERS)]
    assert [file.relative_to(finished).as_posix() for file in unknown] == []
    assert set(documented()) - {"cell.yaml"} == set(FILES) - {"cell.yaml"}


def test_a_field_that_nobody_writes_is_found():
    assert not fits("cell.idd", "cell.id", "always") and fits("cell.settings.seed", "cell.settings.*", "always")
    assert fits("metrics.unsafe_rate/nudenet.value", "metrics.<name>.value", "always")
    assert not fits("metrics.a.b", "metrics.<name>.value", "always")
    assert fits("unsafe_rate_ci_low", "unsafe_rate", "always, a measure")
    assert not fits("unsafe_rate_ci_low", "unsafe_rate", "always")
