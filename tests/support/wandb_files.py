"""What a W&B run wrote, read back with W&B's own record definitions, and a results folder that it can mirror."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


def log_records(data: bytes) -> Iterator[bytes]:
    """Yield the records of a W&B transaction log: a LevelDB log of 32 kB blocks after a header of 7 bytes.

    wandb 0.31 reads it in its compiled core only; the record definitions used below are its own.
    """
    assert data[:4] == b":W&B"
    at, parts = 7, b""
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or its last part
            yield parts
            parts = b""


def runs(root: Path) -> dict[str, list[Any]]:
    """Return the records of every offline run below `root`/wandb, by the run's id without its results folder."""
    from wandb.proto import wandb_internal_pb2

    found: dict[str, list[Any]] = {}
    for path in sorted((root / "wandb").glob("offline-run-*/*.wandb")):
        records = []
        for data in log_records(path.read_bytes()):
            records.append(wandb_internal_pb2.Record())
            records[-1].ParseFromString(data)
        run = next(record.run for record in records if record.HasField("run"))
        name = run.run_id.partition("-")[2]
        assert name not in found, f"{name} has two runs"
        found[name] = records
    return found


def run_of(records: list[Any]) -> Any:
    return next(record.run for record in records if record.HasField("run"))


def config(records: list[Any]) -> dict[str, Any]:
    """Return the configuration of a run, as its last word on each key."""
    updates = [record.run.config for record in records if record.HasField("run")]
    updates += [record.config for record in records if record.HasField("config")]
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json)
            for one in updates for item in one.update if "_wandb" not in (item.key, *item.nested_key)}


def summary(records: list[Any]) -> dict[str, Any]:
    """Return the last words of a run by field, without W&B's own; of a table or the like, its type alone."""
    items = [item for record in records if record.HasField("summary") for item in record.summary.update]
    named = [(item.key or "/".join(item.nested_key), json.loads(item.value_json)) for item in items]
    tables = {name.removesuffix("/_type") for name, _ in named if name.endswith("/_type")}
    return {name.removesuffix("/_type"): value for name, value in named
            if not name.startswith("_") and (name.endswith("/_type") or name.rpartition("/")[0] not in tables)}


def history(records: list[Any]) -> list[dict[str, Any]]:
    """Return the rows that a run logged, without W&B's own columns."""
    rows = [{"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
            for record in records if record.HasField("history")]
    return [{key: value for key, value in row.items() if not key.startswith("_")} for row in rows]


def artifacts(records: list[Any]) -> dict[str, Any]:
    """Return the artifact records of a run by type and name."""
    return {f"{record.artifact.type} {record.artifact.name}": record.artifact
            for record in records if record.HasField("artifact")}


def table(root: Path, records: list[Any], name: str) -> tuple[list[str], list[list[Any]]]:
    """Return columns and rows of a table that a run logged."""
    path = next(row[f"{name}/path"] for row in history(records) if f"{name}/path" in row)
    (file,) = (root / "wandb").glob(f"offline-run-*-{run_of(records).run_id}/files/{path}")
    stored = json.loads(file.read_text())
    return stored["columns"], stored["data"]


def pictures(records: list[Any]) -> list[Path]:
    """Return the picture files that a run keeps for its tables."""
    return [Path(entry.local_path) for one in artifacts(records).values() for entry in one.manifest.contents
            if entry.path.endswith(".png")]


def forget_wandb(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """Set no variable of W&B and no key, and keep its files in a folder."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        patch.delenv(name)
    patch.setenv("NETRC", str(folder / "no-netrc"))
    for name in ("CONFIG", "DATA", "CACHE"):
        patch.setenv(f"WANDB_{name}_DIR", str(folder / f"wandb-{name.lower()}"))


@pytest.fixture
def no_wandb(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    forget_wandb(monkeypatch, tmp_path)
